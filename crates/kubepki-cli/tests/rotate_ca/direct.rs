//! Straight into the datastore of a stopped server.

use std::path::Path;

use kubepki::bootstrap::Field;
use testkit::{DiffOptions, Fixture, Tree, openssl, openssl_ok};

use crate::lab::{Server, blocks, openssl_trusts, stage};

pub fn assert_in_force(server: &Server, set: &Path) {
    for field in Field::ALL.into_iter().filter(|field| field.is_rotatable()) {
        let staged = std::fs::read(field.under(set)).unwrap();
        let there = std::fs::read(field.under(&server.server())).unwrap();
        assert!(staged == there, "{field}");
    }
}

/// What K3s's next start would still do.
#[track_caller]
pub fn assert_nothing_left(server: &Server) {
    let kubeconfig = server.fixture.admin_kubeconfig().display().to_string();
    let args = ["reconcile", "--dry-run", "--kubeconfig", &kubeconfig];
    let run = server.ends(&args, 0);
    assert!(run.text().contains("Nothing to do."), "{}", run.text());
}

/// Done-when 6, and undo.
#[test]
fn same_root() {
    let server = Server::new("k3s-1.36-custom-ca");
    let rotated = Fixture::without_datastore("k3s-1.36-custom-ca-rotated");
    let set = server.fixture.extra("staged-same-root");
    // Left there by an earlier `k3s certificate rotate`: K3s would make the listener's
    // certificate itself.
    let trigger = server.server().join("tls/dynamic-cert-regenerate");
    std::fs::write(&trigger, "").unwrap();
    let before = server.tree();
    let run = server.rotate(&set, &[], 0);
    let text = run.text();
    assert!(!trigger.exists());
    assert!(text.contains("nothing has to be joined again"), "{text}");
    assert!(text.contains("Start K3s on every server"), "{text}");
    assert!(!text.contains("break once"), "{text}");
    assert_in_force(&server, &set);
    let token = std::fs::read_to_string(rotated.data_dir().join("server/token")).unwrap();
    assert_eq!(server.read("token"), token);
    // As K3s itself left them: which CA is first, what follows each leaf, what kubeconfigs say.
    for file in ["client-ca.nochain.crt", "server-ca.nochain.crt"] {
        let theirs = rotated.data_dir().join("server/tls").join(file);
        let theirs = std::fs::read_to_string(theirs).unwrap();
        assert_eq!(server.read(&format!("tls/{file}")), theirs);
    }
    for leaf in [
        "serving-kube-apiserver",
        "client-admin",
        "etcd/peer-server-client",
    ] {
        let file = format!("tls/{leaf}.crt");
        let theirs = std::fs::read_to_string(rotated.data_dir().join("server").join(&file));
        let (ours, theirs) = (server.read(&file), theirs.unwrap());
        assert_eq!(blocks(&ours)[1..], blocks(&theirs)[1..], "{leaf}");
    }
    for name in ["admin", "controller", "scheduler", "supervisor"] {
        let file = format!("cred/{name}.kubeconfig");
        let theirs = std::fs::read_to_string(rotated.data_dir().join("server").join(&file));
        assert_eq!(server.read(&file), theirs.unwrap());
    }
    let kubeconfig = std::fs::read_to_string(server.fixture.admin_kubeconfig()).unwrap();
    let authority = |text: &str| {
        let line = text
            .lines()
            .find(|line| line.contains("certificate-authority-data"));
        line.unwrap().trim().to_owned()
    };
    assert_eq!(
        authority(&kubeconfig),
        authority(&rotated.extra_text("k3s.yaml"))
    );
    assert_nothing_left(&server);

    let run = server.undo(0);
    assert!(run.text().contains("undo:"), "{}", run.text());
    let options = DiffOptions::exact()
        .without_directory_mtimes()
        .ignoring("data/server/db")
        .ignoring("data/kubepki");
    Tree::assert_equal(&before, &server.tree(), &options);
    assert!(trigger.exists());
    std::fs::remove_file(trigger).unwrap();
    assert_nothing_left(&server);
}

/// Done-when 7.
#[test]
fn service_key_alone() {
    let server = Server::new("k3s-1.36-sqlite");
    let old = server.read("tls/service.key");
    let set = server.fixture.scratch("set");
    let new = openssl_ok(&["genrsa", "-traditional", "2048"], b"").stdout;
    let new = String::from_utf8(new).unwrap();
    stage(&set, Field::ServiceKey, format!("{new}{old}"));
    let before = server.tree();
    let run = server.rotate(&set, &[], 0);
    let text = run.text();
    assert_eq!(
        text.matches("Warning: ").count(),
        10 + 10,
        "told and in the plan: {text}"
    );
    for field in Field::AUTHORITIES {
        let warning = format!("Warning: {} is not staged", field.0);
        assert!(text.contains(&warning), "{text}");
    }
    assert!(text.contains("blast radius: servers only"), "{text}");
    assert!(text.contains("Start K3s on the servers only"), "{text}");
    let changed = crate::common::changed(&before, &server.tree());
    let changed: Vec<_> = changed
        .iter()
        .map(String::as_str)
        .filter(|path| !path.contains("server/db"))
        .collect();
    assert_eq!(
        changed,
        [
            "data/server/tls/service.current.key",
            "data/server/tls/service.key"
        ]
    );
    assert_new_key_signs(&server, &old);
    assert_nothing_left(&server);
}

/// The new key signs, and both verify.
#[track_caller]
fn assert_new_key_signs(server: &Server, old: &str) {
    let write = |name: &str, text: &str| {
        let path = server.fixture.scratch(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let keys = server.read("tls/service.key");
    let keys: Vec<&str> = keys
        .split_inclusive("-----END RSA PRIVATE KEY-----\n")
        .collect();
    let public: Vec<String> = keys
        .iter()
        .filter(|key| key.contains("BEGIN"))
        .zip(0..)
        .map(|(key, number)| {
            let key = write(&format!("key{number}"), key);
            let public = openssl_ok(&["pkey", "-in", &key, "-pubout"], b"").stdout;
            write(
                &format!("public{number}"),
                &String::from_utf8(public).unwrap(),
            )
        })
        .collect();
    assert_eq!(public.len(), 2);
    let signer = server
        .server()
        .join("tls/service.current.key")
        .display()
        .to_string();
    let former = write("former", old);
    let token = write("token", "eyJhbGciOiJSUzI1NiJ9.e30");
    let verified_by = |key: &str| {
        let signature = server.fixture.scratch("signature").display().to_string();
        openssl_ok(
            &["dgst", "-sha256", "-sign", key, "-out", &signature, &token],
            b"",
        );
        let verifies = |public: &&String| {
            let args = [
                "dgst",
                "-sha256",
                "-verify",
                public,
                "-signature",
                &signature,
                &token,
            ];
            openssl(&args, b"").success()
        };
        public.iter().position(|public| verifies(&public))
    };
    assert_eq!(
        (verified_by(&signer), verified_by(&former)),
        (Some(0), Some(1))
    );
}

/// Default CAs, cross-signed by our own staging: the right token, and OpenSSL clients of both
/// kinds go on.
#[test]
fn cross_signed() {
    let server = Server::new("k3s-1.36-sqlite");
    let old_root = server.read("tls/server-ca.crt");
    let old_token = server.read("token");
    let set = server.fixture.scratch("set");
    let offline = server.fixture.scratch("offline");
    let (out, away) = (set.display().to_string(), offline.display().to_string());
    server.ends(
        &[
            "ca",
            "stage",
            "--cross-signed",
            "--out",
            &out,
            "--offline",
            &away,
        ],
        0,
    );
    let run = server.ends(&["ca", "verify", "--path", &out, "-o", "json"], 3);
    let verdict: serde_json::Value = serde_json::from_slice(&run.stdout).unwrap();
    assert_eq!(verdict["k3s"]["accepts"], true);
    let hash = verdict["token_hash"]["after"].as_str().unwrap().to_owned();
    let run = server.rotate(&set, &[], 0);
    let text = run.text();
    assert!(text.contains(&format!("to K10{hash}::")), "{text}");
    assert_in_force(&server, &set);
    let token = server.read("token");
    assert!(token.starts_with(&format!("K10{hash}::server:")));
    assert_ne!(token, old_token);
    let bundle = server.read("tls/server-ca.crt");
    let mut roots = pki::Certificate::all_from_pem(bundle.as_bytes()).unwrap();
    roots.retain(pki::Certificate::is_self_signed);
    let new_root = roots.iter().map(pki::Certificate::to_pem);
    let new_root = new_root.into_iter().find(|root| *root != old_root).unwrap();
    let served = server.read("tls/serving-kube-apiserver.crt");
    assert_eq!(blocks(&served).len(), 3, "leaf, CA, cross-certificate");
    assert!(openssl_trusts(&server, &served, &old_root));
    assert!(openssl_trusts(&server, &served, &new_root));
    assert_nothing_left(&server);
    let newer = server.read("tls/client-admin.crt");
    assert_way_back(&server, &text, &old_token, &old_root);
    // The token stays what it was, so this file does too; the others go on trusting the new root,
    // even where a client sends nothing but its leaf and CA.
    let trusted = server.read("tls/client-ca.crt");
    assert_eq!(blocks(&trusted).len(), 2);
    let sent = blocks(&newer)[..2].concat();
    let root = blocks(&trusted)[1];
    assert!(openssl_trusts(&server, &sent, root));
    assert!(!openssl_trusts(&server, &sent, blocks(&trusted)[0]));
    assert!(openssl_trusts(&server, &sent, &trusted));
}

/// Custom CAs: both roots stand in every file, and the token is the former one all the same.
#[test]
fn back_to_custom_cas_with_both_roots() {
    let server = Server::new("k3s-1.36-custom-ca");
    let (old_token, old) = (server.read("token"), server.read("tls/server-ca.crt"));
    let set = server.fixture.scratch("set");
    let offline = server.fixture.scratch("offline").display().to_string();
    let out = set.display().to_string();
    let stage = ["ca", "stage", "--cross-signed", "--out", &out];
    server.ends(&[&stage[..], &["--offline", &offline]].concat(), 0);
    let run = server.rotate(&set, &[], 0);
    assert_ne!(server.read("token"), old_token);
    let newer = server.read("tls/serving-kube-apiserver.crt");
    let id = plan_of(&run.text());
    let run = back(&server, &id, 0);
    let text = run.text();
    assert!(text.contains("put back the CAs of before "), "{text}");
    assert!(
        text.contains("roots that came since stay trusted in tls/"),
        "{text}"
    );
    assert!(text.contains("who breaks: "), "{text}");
    assert_eq!(server.read("token"), old_token);
    let trusted = server.read("tls/server-ca.crt");
    assert!(trusted.starts_with(&old));
    let roots = blocks(&trusted);
    let root = roots.last().unwrap();
    assert_eq!(roots.len(), blocks(&old).len() + 1);
    // Servers that were not restarted yet are still followed, with the new root alone too.
    assert!(openssl_trusts(&server, &newer, root));
    assert!(openssl_trusts(&server, &newer, &trusted));
    let served = server.read("tls/serving-kube-apiserver.crt");
    assert!(openssl_trusts(&server, &served, &old));
    assert_nothing_left(&server);
}

/// The id of the plan that can be taken back.
fn plan_of(text: &str) -> String {
    let (_, id) = text.split_once("kubepki undo ").unwrap();
    id.split_whitespace().next().unwrap().to_owned()
}

pub fn back(server: &Server, id: &str, code: i32) -> testkit::Run {
    let kubeconfig = server.fixture.admin_kubeconfig().display().to_string();
    let mut args = vec!["rotate-ca", "--back", id, "--yes", "--still-for", "0"];
    args.extend(["--kubeconfig", &kubeconfig]);
    server.ends(&args, code)
}

/// K3s has restarted and written certificates of its own: undo finds them changed, and a rotation back
/// does what it would have done.
#[track_caller]
fn assert_way_back(server: &Server, rotation: &str, old_token: &str, old_root: &str) {
    let id = plan_of(rotation);
    let renewed = server.server().join("tls/client-admin.crt");
    let text = std::fs::read_to_string(&renewed).unwrap();
    std::fs::write(&renewed, format!("{text}\n")).unwrap();
    let run = server.undo(5);
    assert!(run.text().contains("client-admin.crt"), "{}", run.text());
    let advice = format!("kubepki rotate-ca --back {id}");
    assert!(run.text().contains(&advice), "{}", run.text());
    let run = back(server, &id, 0);
    assert!(run.text().contains("join tokens change"), "{}", run.text());
    assert_eq!(server.read("token"), old_token);
    assert_eq!(server.read("tls/server-ca.crt"), old_root);
    let served = server.read("tls/serving-kube-apiserver.crt");
    assert!(openssl_trusts(server, &served, old_root));
    assert_nothing_left(server);
}

/// A new root, which K3s took with --force: every overridden finding is named, and the token is
/// the one that K3s wrote.
#[test]
fn new_root_by_force() {
    let server = Server::new("k3s-1.36-custom-ca");
    let forced = Fixture::without_datastore("k3s-1.36-new-root-forced");
    let set = server.set("set", &forced.data_dir().join("server"));
    let run = server.rotate(&set, &["--force"], 0);
    let text = run.text();
    assert_eq!(text.matches("forced, although").count(), 6, "{text}");
    for word in [
        "(new-root)",
        "(service-key-lost)",
        "nobody trusts the new root",
        "all pods",
    ] {
        assert!(text.contains(word), "{word}: {text}");
    }
    let token = std::fs::read_to_string(forced.data_dir().join("server/token")).unwrap();
    assert_eq!(server.read("token"), token);
    assert_in_force(&server, &set);
    assert_nothing_left(&server);
    // The journal's plan names them too.
    let history = server.ends(&["history"], 0).text();
    let id = history
        .split_whitespace()
        .find(|word| word.contains("rotate-ca"))
        .unwrap();
    let plan = server.ends(&["history", id], 0).text();
    assert_eq!(plan.matches("forced, although").count(), 6, "{plan}");
}

#[test]
fn a_set_in_force_leaves_its_place_to_the_next() {
    let server = Server::new("k3s-1.36-sqlite");
    let staged = server.fixture.data_dir().join("kubepki/staged");
    for round in ["one", "two"] {
        let offline = server.fixture.scratch(round).display().to_string();
        server.ends(&["ca", "stage", "--cross-signed", "--offline", &offline], 0);
        let set = std::fs::read(staged.join("tls/server-ca.crt")).unwrap();
        let rotate = ["rotate-ca", "--staged", "--direct", "--still-for", "0"];
        server.ends(&[&rotate[..], &["--dry-run"]].concat(), 0);
        assert!(staged.join("tls/server-ca.key").exists(), "{round}");
        server.ends(&[&rotate[..], &["--yes"]].concat(), 0);
        assert_eq!(
            set,
            server.read("tls/server-ca.crt").into_bytes(),
            "{round}"
        );
        // Else a second copy of the CA keys in force would lie there, and the next set refused.
        assert!(!staged.exists(), "{round}");
    }
}
