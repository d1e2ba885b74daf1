//! Kubeconfigs and listener Secrets that K3s itself wrote.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

use std::fs;
use std::path::{Path, PathBuf};

use kubepki::inspect::inspect;
use kubepki::kubeconfig::{
    Inline, KeyPlacement, Kubeconfig, Placement, Reference, render_inline, render_reference,
    replace_user,
};
use kubepki::listener::{self, Listener};
use pki::{Certificate, DAY, PrivateKey, UnixTime};
use serde_json::Value;
use testkit::{Fixture, assert_golden};

const SERVERS: [&str; 11] = [
    "k3s-1.21-sqlite",
    "k3s-1.36-custom-ca",
    "k3s-1.36-custom-ca-rotated",
    "k3s-1.36-default-rotated",
    "k3s-1.36-encryption-token-rotated",
    "k3s-1.36-etcd-embedded",
    "k3s-1.36-etcd-external",
    "k3s-1.36-mariadb",
    "k3s-1.36-new-root-forced",
    "k3s-1.36-postgres",
    "k3s-1.36-sqlite",
];

/// The day after the fixtures were recorded.
const NOW: UnixTime = UnixTime::from_secs(1_795_328_351 + DAY);

fn text(path: impl AsRef<Path>) -> String {
    let path = path.as_ref();
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn kubeconfigs(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else {
        return Vec::new();
    };
    let paths = entries.map(|entry| entry.unwrap().path());
    paths
        .filter(|path| path.extension().is_some_and(|it| it == "kubeconfig"))
        .collect()
}

fn file(placement: Option<&Placement>) -> String {
    match placement {
        Some(Placement::File(path)) => path.to_str().unwrap().to_owned(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn component_kubeconfigs_are_rendered_byte_for_byte() {
    let mut seen = 0;
    for name in SERVERS.into_iter().chain(["k3s-1.36-agent-only"]) {
        let data = Fixture::without_datastore(name);
        for path in ["server/cred", "agent"]
            .map(|it| kubeconfigs(&data.data_dir().join(it)))
            .concat()
        {
            let recorded = text(&path);
            let config = Kubeconfig::parse(recorded.as_bytes()).unwrap();
            let Some(KeyPlacement::File(key)) = &config.users[0].key else {
                panic!("{}: no key file", path.display())
            };
            let rendered = render_reference(&Reference {
                server: config.clusters[0].server.as_deref().unwrap(),
                authority: &file(config.clusters[0].authority.as_ref()),
                certificate: &file(config.users[0].certificate.as_ref()),
                key: key.to_str().unwrap(),
            });
            assert_eq!(rendered, recorded, "{}", path.display());
            seen += 1;
        }
    }
    assert!(seen >= 90, "{seen}");
}

#[test]
fn the_admin_kubeconfig_is_rendered_and_replaced_byte_for_byte() {
    for name in SERVERS {
        let fixture = Fixture::without_datastore(name);
        let tls = fixture.data_dir().join("server/tls");
        let recorded = text(fixture.admin_kubeconfig());
        let (chain, key) = (
            text(tls.join("client-admin.crt")),
            text(tls.join("client-admin.key")),
        );
        let render = |chain: &str, key: &str, authority: &str| {
            let config = Kubeconfig::parse(recorded.as_bytes()).unwrap();
            render_inline(&Inline {
                name: "default",
                server: config.clusters[0].server.as_deref().unwrap(),
                authority: authority.as_bytes(),
                certificate: chain.as_bytes(),
                key: key.as_bytes(),
                preferences: name.contains("1.21"),
            })
        };
        let authority = text(tls.join("server-ca.crt"));
        assert!(
            *render(&chain, &key, &authority) == recorded.as_bytes(),
            "{name}"
        );
        // Another pair of the same tree is as good as a new one.
        let chain = text(tls.join("client-controller.crt"));
        let key = text(tls.join("client-controller.key"));
        let other = text(tls.join("request-header-ca.crt"));
        let replaced =
            replace_user(recorded.as_bytes(), "default", &chain, &key, Some(&other)).unwrap();
        assert!(*replaced == *render(&chain, &key, &other), "{name}");
        let cred = text(fixture.data_dir().join("server/cred/admin.kubeconfig"));
        let refused = replace_user(cred.as_bytes(), "user", &chain, &key, None).unwrap_err();
        assert!(
            refused
                .to_string()
                .contains("client-admin.crt; renew that file"),
            "{refused}"
        );
    }
}

#[test]
fn listener_secrets_are_read_rendered_and_replaced() {
    let mut fresh = 0;
    for name in SERVERS {
        let fixture = Fixture::without_datastore(name);
        let tls = fixture.data_dir().join("server/tls");
        let recorded = text(tls.join("dynamic-cert.json"));
        let parsed = Listener::parse(recorded.as_bytes()).unwrap();
        let leaf = parsed.certificates().unwrap().swap_remove(0);
        assert_eq!(
            parsed.fingerprint,
            Some(listener::fingerprint(&leaf)),
            "{name}"
        );
        assert!(!parsed.is_static && parsed.invalid_sans.is_empty());
        let mut sans: Vec<String> = leaf.sans().iter().map(ToString::to_string).collect();
        sans.sort();
        assert_eq!(parsed.sans, sans, "{name}");

        let chain = String::from_utf8(parsed.certificate.clone()).unwrap();
        let key = String::from_utf8(parsed.key.to_vec()).unwrap();
        let same = listener::replace(recorded.as_bytes(), &chain, &key).unwrap();
        assert!(*same == recorded.as_bytes(), "{name}");
        let more = ["zz.example", "*.example", "fd00::1"].map(str::to_owned);
        let added = listener::edit_sans(recorded.as_bytes(), &more, &[]).unwrap();
        assert_eq!(
            Listener::parse(&added).unwrap().sans.len(),
            parsed.sans.len() + 3
        );
        let back = listener::edit_sans(&added, &[], &more).unwrap();
        assert!(*back == recorded.as_bytes(), "{name}");
        if recorded.starts_with(r#"{"metadata":{"annotations""#) {
            let rendered = listener::render(&chain, &key, &parsed.sans).unwrap();
            assert!(*rendered == recorded.as_bytes(), "{name}");
            fresh += 1;
        }
        replaced_with_another(&tls, &recorded);
    }
    assert!(fresh >= 5, "{fresh}");
}

/// Certificate, key and fingerprint become another leaf's; the rest stays equal, and in order.
fn replaced_with_another(tls: &Path, recorded: &str) {
    let chain = text(tls.join("serving-kube-apiserver.crt"));
    let key = text(tls.join("serving-kube-apiserver.key"));
    let replaced = listener::replace(recorded.as_bytes(), &chain, &key).unwrap();
    let parsed = Listener::parse(&replaced).unwrap();
    assert!(parsed.certificate == chain.as_bytes());
    let private = PrivateKey::from_pem(&parsed.key).unwrap();
    let leaf = Certificate::all_from_pem(chain.as_bytes())
        .unwrap()
        .swap_remove(0);
    assert_eq!(private.spki_der(), leaf.spki_der());
    let without = |text: &[u8]| {
        let mut value: Value = serde_json::from_slice(text).unwrap();
        value["data"]["tls.crt"] = Value::Null;
        value["data"]["tls.key"] = Value::Null;
        value["metadata"]["annotations"]["listener.cattle.io/fingerprint"] = Value::Null;
        value.to_string()
    };
    assert_eq!(without(&replaced), without(recorded.as_bytes()));
    assert!(replaced.ends_with(b"}\n"));
}

#[test]
fn inspection_of_recorded_files_reads_well() {
    let sqlite = Fixture::without_datastore("k3s-1.36-sqlite");
    let custom = Fixture::without_datastore("k3s-1.36-custom-ca");
    let rotated = Fixture::without_datastore("k3s-1.36-default-rotated");
    let tls = sqlite.data_dir().join("server/tls");
    let cases = [
        ("admin-crt", tls.join("client-admin.crt")),
        ("service-key", tls.join("service.key")),
        ("k3s-yaml", sqlite.admin_kubeconfig()),
        (
            "cred-kubeconfig",
            sqlite.data_dir().join("server/cred/admin.kubeconfig"),
        ),
        ("dynamic-cert", tls.join("dynamic-cert.json")),
        (
            "custom-ca-apiserver",
            custom
                .data_dir()
                .join("server/tls/serving-kube-apiserver.crt"),
        ),
        (
            "rotated-server-ca",
            rotated.data_dir().join("server/tls/server-ca.crt"),
        ),
    ];
    for (name, path) in cases {
        let inspection = inspect(&fs::read(path).unwrap(), NOW).unwrap();
        let words = inspection.to_text();
        let json = serde_json::to_string_pretty(&inspection).unwrap() + "\n";
        assert!(!words.contains("PRIVATE KEY") && !json.contains("PRIVATE KEY"));
        assert_golden(format!("tests/golden/inspect/{name}.txt"), &words);
        if matches!(name, "admin-crt" | "k3s-yaml" | "dynamic-cert") {
            assert_golden(format!("tests/golden/inspect/{name}.json"), &json);
        }
    }
}

#[test]
fn every_recorded_file_can_be_inspected() {
    for name in SERVERS {
        let fixture = Fixture::without_datastore(name);
        let mut folders = vec![fixture.data_dir()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                let extension = path
                    .extension()
                    .and_then(|it| it.to_str())
                    .unwrap_or_default();
                if path.is_symlink() {
                    continue;
                }
                if path.is_dir() {
                    folders.push(path);
                } else if ["crt", "key", "kubeconfig"].contains(&extension) {
                    let bytes = fs::read(&path).unwrap();
                    let inspection = inspect(&bytes, NOW)
                        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
                    assert!(!inspection.items.is_empty(), "{}", path.display());
                }
            }
        }
    }
}
