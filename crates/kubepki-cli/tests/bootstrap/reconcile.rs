//! A server brought together with the datastore, as K3s's next start would.

use std::fs;
use std::path::{Path, PathBuf};

use kubepki::bootstrap::{Bundle, Field, KEY_PREFIX, Stamp, read_directory, seal_bundle};
use kubepki::datastore::Datastore;
use kubepki::edge::SystemEntropy;
use kubepki::host::LocalHost;
use kubepki::listener::Listener;
use kubepki_datastore::{Access, SqliteStore};
use pki::verify::{Options, verify};
use pki::{Certificate, PrivateKey, Purpose, UnixTime};

use crate::lab::{Lab, TOKEN, block_on, files};

const COMPONENTS: [&str; 6] = [
    "admin",
    "supervisor",
    "controller",
    "scheduler",
    "api-server",
    "cloud-controller",
];

fn now() -> UnixTime {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    UnixTime::from_secs(i64::try_from(since.unwrap().as_secs()).unwrap())
}

/// Commits a staged set as `rotate-ca` does: the eleven files are the set's, the others stay.
fn commit(lab: &Lab, set: &Path) -> Bundle {
    let opened = lab.opened(TOKEN);
    let staged = block_on(read_directory(&LocalHost, set)).unwrap();
    let mut bundle = opened.bundle.clone();
    for (field, file) in &staged.files {
        if field.is_rotatable() {
            bundle.files.insert(*field, file.clone());
        }
    }
    let bundle = bundle.restamped(Stamp::at(now()));
    let sealed = seal_bundle(&bundle, &opened.owner, &SystemEntropy).unwrap();
    let path = lab.server().join("db/state.db");
    block_on(async {
        let store = SqliteStore::open(&path, Access::Write).await.unwrap();
        let record = &opened.record;
        let written = store.update(&record.key, record.revision, &sealed).await;
        written.unwrap();
    });
    bundle
}

fn reconcile<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [
        &[
            "reconcile",
            "--yes",
            "--still-for",
            "0",
            "--node-ip",
            "10.0.0.1",
        ],
        more,
    ]
    .concat()
}

fn certificates(path: &Path) -> Vec<Certificate> {
    let bytes = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    Certificate::all_from_pem(&bytes).unwrap()
}

/// Every leaf of the server with its CA's file.
const LEAVES: [(&str, &str); 13] = [
    ("client-admin", "client-ca"),
    ("client-supervisor", "client-ca"),
    ("client-controller", "client-ca"),
    ("client-scheduler", "client-ca"),
    ("client-kube-apiserver", "client-ca"),
    ("client-k3s-cloud-controller", "client-ca"),
    ("client-auth-proxy", "request-header-ca"),
    ("serving-kube-apiserver", "server-ca"),
    ("kube-scheduler/kube-scheduler", "server-ca"),
    (
        "kube-controller-manager/kube-controller-manager",
        "server-ca",
    ),
    ("etcd/client", "etcd/server-ca"),
    ("etcd/server-client", "etcd/server-ca"),
    ("etcd/peer-server-client", "etcd/peer-ca"),
];

/// Every leaf is of the present CA, has its key beside it, and is served with what leads to the
/// CA's root.
fn assert_leaves(lab: &Lab) {
    let tls = lab.server().join("tls");
    for (leaf, authority) in LEAVES {
        let chain = certificates(&tls.join(format!("{leaf}.crt")));
        let file = certificates(&tls.join(format!("{authority}.crt")));
        assert_eq!(
            chain[0].authority_key_identifier(),
            file[0].subject_key_identifier(),
            "{leaf}"
        );
        let key = fs::read(tls.join(format!("{leaf}.key"))).unwrap();
        let key = PrivateKey::from_pem(&key).unwrap();
        assert_eq!(key.spki_sha256(), chain[0].spki_sha256(), "{leaf}");
        let roots: Vec<Certificate> = file
            .iter()
            .filter(|it| it.is_self_issued())
            .cloned()
            .collect();
        let options = Options::at(now()).purposes(&[Purpose::Any]);
        verify(&chain[0], &chain[1..], &roots, &options)
            .unwrap_or_else(|error| panic!("{leaf}: {error}"));
        assert_eq!(chain[1], file[0], "{leaf}: the issuing CA follows the leaf");
        if file.iter().filter(|it| it.is_self_issued()).count() > 1 {
            // ADR 4: leaf, CA, cross-certificate, nothing self-signed.
            assert!(chain.iter().all(|it| !it.is_self_issued()), "{leaf}");
            assert_eq!(chain.len(), 3, "{leaf}");
        }
    }
}

/// What K3s wrote at its start with the same data, where that does not depend on new keys.
fn assert_as_recorded(lab: &Lab, recorded: &Lab) {
    let mut same: Vec<PathBuf> = Field::ALL
        .into_iter()
        .map(|field| field.path().to_owned())
        .collect();
    same.retain(|path| recorded.server().join(path).exists());
    for file in ["tls/client-ca.nochain.crt", "tls/server-ca.nochain.crt"] {
        same.push(PathBuf::from(file));
    }
    same.push(PathBuf::from("tls/service.current.key"));
    same.push(PathBuf::from("token"));
    for name in COMPONENTS {
        same.push(PathBuf::from(format!("cred/{name}.kubeconfig")));
    }
    for path in same {
        let ours = fs::read(lab.server().join(&path)).unwrap();
        let theirs = fs::read(recorded.server().join(&path)).unwrap();
        assert_eq!(ours, theirs, "{}", path.display());
    }
    for (copy, authority) in [
        ("client-ca.crt", "client-ca.crt"),
        ("server-ca.crt", "server-ca.crt"),
    ] {
        let copy = fs::read(lab.data_dir().join("agent").join(copy)).unwrap();
        let authority = fs::read(lab.server().join("tls").join(authority)).unwrap();
        assert_eq!(copy, authority);
    }
    for (leaf, _) in LEAVES {
        let first = |lab: &Lab| {
            let path = lab.server().join(format!("tls/{leaf}.crt"));
            certificates(&path).remove(0)
        };
        let (ours, theirs) = (first(lab), first(recorded));
        assert_eq!(ours.subject(), theirs.subject(), "{leaf}");
        let names = |it: &Certificate| {
            let mut names: Vec<String> = it.sans().iter().map(ToString::to_string).collect();
            names.sort();
            names.dedup();
            names
        };
        assert_eq!(names(&ours), names(&theirs), "{leaf}");
        assert_eq!(ours.purposes(), theirs.purposes(), "{leaf}");
    }
}

/// `check` finds nothing but the root keys that the recording left there.
fn assert_sound(lab: &Lab, check: &[&str]) {
    let run = lab.run(check);
    let text = run.text();
    let findings = text.lines().filter(|line| {
        ["error:", "warning:", "broken:"]
            .iter()
            .any(|it| line.starts_with(it))
    });
    for finding in findings {
        assert!(finding.contains("is the private key of the"), "{text}");
    }
    assert!(matches!(run.code, Some(0 | 3)), "{text}");
}

fn assert_listener(lab: &Lab) {
    let bytes = fs::read(lab.server().join("tls/dynamic-cert.json")).unwrap();
    let listener = Listener::parse(&bytes).unwrap();
    let chain = listener.certificates().unwrap();
    let file = certificates(&lab.server().join("tls/server-ca.crt"));
    assert_eq!(
        chain[0].authority_key_identifier(),
        file[0].subject_key_identifier()
    );
}

#[test]
fn a_same_root_rotation_is_taken_up_as_k3s_takes_it_up() {
    let lab = Lab::new("k3s-1.36-custom-ca");
    let recorded = Lab::bare("k3s-1.36-custom-ca-rotated");
    let bundle = commit(&lab, &lab.fixture.extra("staged-same-root"));
    lab.ends(&["bootstrap", "diff"], 3);
    let kubeconfig = lab.fixture.admin_kubeconfig();
    let kubeconfig = kubeconfig.to_str().unwrap();
    let dry = reconcile(&["--dry-run", "--kubeconfig", kubeconfig]);
    let before = lab.tree();
    lab.ends(&dry, 0);
    lab.assert_untouched(&before);
    lab.ends(&reconcile(&["--kubeconfig", kubeconfig]), 0);
    for (field, file) in &bundle.files {
        let ours = fs::read(lab.server().join(field.path())).unwrap();
        assert_eq!(ours, *file.content, "{field}");
    }
    assert_leaves(&lab);
    assert_as_recorded(&lab, &recorded);
    assert_listener(&lab);
    assert_sound(&lab, &["check", "--kubeconfig", kubeconfig]);
    lab.ends(&["bootstrap", "diff"], 0);
    let again = lab.ends(&reconcile(&["--kubeconfig", kubeconfig]), 0);
    assert!(again.text().contains("Nothing to do"), "{}", again.text());

    lab.ends(&["undo", "--yes", "--kubeconfig", kubeconfig], 0);
    let ours = files(&lab.server().join("tls"));
    let was = files(&Lab::bare("k3s-1.36-custom-ca").server().join("tls"));
    assert_eq!(ours, was);
}

#[test]
fn a_cross_signed_rotation_is_served_so_that_everybody_follows() {
    let lab = Lab::new("k3s-1.36-sqlite");
    let recorded = Lab::bare("k3s-1.36-default-rotated");
    commit(&lab, &recorded.server().join("rotate-ca"));
    lab.ends(&reconcile(&[]), 0);
    assert_leaves(&lab);
    assert_as_recorded(&lab, &recorded);
    assert_listener(&lab);
    lab.ends(&["bootstrap", "diff"], 0);
}

#[test]
fn a_wiped_server_is_made_whole() {
    for wiped in ["tls", "tls/etcd", "cred", ""] {
        let lab = Lab::new("k3s-1.36-custom-ca");
        let server = lab.server();
        let db = lab.scratch("db");
        fs::rename(server.join("db"), &db).unwrap();
        let keep = fs::read(server.join("token")).unwrap();
        fs::remove_dir_all(server.join(wiped)).unwrap();
        if wiped != "cred" && !wiped.is_empty() {
            fs::create_dir(server.join(wiped)).unwrap();
        }
        fs::create_dir_all(&server).unwrap();
        fs::rename(db, server.join("db")).unwrap();
        let token = lab.token(TOKEN);
        let more = ["--node-name", "k3s-fixture", "--token-file", &token];
        lab.ends(&reconcile(&more), 0);
        assert_leaves(&lab);
        assert_listener(&lab);
        assert_eq!(fs::read(server.join("token")).unwrap(), keep);
        for name in COMPONENTS {
            assert!(
                server.join(format!("cred/{name}.kubeconfig")).exists(),
                "{wiped}: {name}"
            );
        }
        lab.ends(&["bootstrap", "diff"], 0);
        assert_sound(&lab, &["check"]);
        let again = lab.ends(&reconcile(&more), 0);
        assert!(
            again.text().contains("Nothing to do"),
            "{wiped}: {}",
            again.text()
        );
    }
}

#[test]
fn newer_files_need_a_word() {
    let spoil = |lab: &Lab| {
        let path = lab.server().join("tls/service.key");
        let mut bytes = fs::read(&path).unwrap();
        bytes.push(b'\n');
        fs::write(&path, &bytes).unwrap();
        bytes
    };
    let lab = Lab::new("k3s-1.36-sqlite");
    let original = fs::read(lab.server().join("tls/service.key")).unwrap();
    spoil(&lab);
    lab.ends(&reconcile(&[]), 5);
    lab.ends(&reconcile(&["--keep", "datastore"]), 0);
    assert_eq!(
        fs::read(lab.server().join("tls/service.key")).unwrap(),
        original
    );

    let ours = spoil(&lab);
    lab.ends(&reconcile(&["--keep", "disk"]), 0);
    let opened = lab.opened(TOKEN);
    assert_eq!(opened.bundle.content(Field::ServiceKey), Some(&ours[..]));
    assert_eq!(
        fs::read(lab.server().join("tls/service.key")).unwrap(),
        ours
    );
    lab.ends(&["bootstrap", "diff"], 0);
}

#[test]
fn a_cluster_reset_keeps_a_copy_and_writes_everything() {
    let lab = Lab::new("k3s-1.36-sqlite");
    let tls = lab.server().join("tls");
    let original = fs::read(tls.join("service.key")).unwrap();
    fs::write(tls.join("service.key"), "other").unwrap();
    let was = files(&tls);
    lab.ends(&reconcile(&["--cluster-reset"]), 0);
    assert_eq!(fs::read(tls.join("service.key")).unwrap(), original);
    let kept: Vec<PathBuf> = fs::read_dir(lab.server())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.file_name()
                .unwrap()
                .to_str()
                .unwrap()
                .starts_with("tls-")
        })
        .collect();
    assert_eq!(kept.len(), 1);
    assert_eq!(files(&kept[0]), was);
    lab.ends(&["bootstrap", "diff"], 0);
    lab.ends(&reconcile(&["--cluster-reset", "--keep", "disk"]), 2);
}

#[test]
fn an_empty_datastore_gets_the_disks_data() {
    let lab = Lab::new("k3s-1.36-sqlite");
    let was = lab.opened(TOKEN);
    crate::write::sqlite(&lab, "DELETE FROM kine WHERE name LIKE '/bootstrap/%'");
    let run = lab.ends(&["bootstrap", "diff"], 5);
    assert!(run.text().contains("no bootstrap data found"));
    lab.ends(&reconcile(&[]), 0);
    let now = lab.opened(TOKEN);
    assert_eq!(now.record.key, was.record.key);
    for field in Field::ALL {
        assert_eq!(
            now.bundle.content(field),
            was.bundle.content(field),
            "{field}"
        );
    }
    lab.ends(&["bootstrap", "diff"], 0);
    let records = block_on(async {
        let path = lab.server().join("db/state.db");
        let store = SqliteStore::open(&path, Access::Read).await.unwrap();
        store.list(KEY_PREFIX).await.unwrap()
    });
    assert_eq!(records.len(), 1);
}

#[test]
fn a_new_cluster_is_begun_in_an_empty_datastore() {
    let lab = Lab::new("k3s-1.36-sqlite");
    crate::write::sqlite(&lab, "DELETE FROM kine WHERE name LIKE '/bootstrap/%'");
    for gone in ["tls", "cred", "etc"] {
        fs::remove_dir_all(lab.server().join(gone)).unwrap();
    }
    for gone in ["token", "node-token", "agent-token"] {
        fs::remove_file(lab.server().join(gone)).unwrap();
    }
    fs::remove_dir_all(lab.data_dir().join("agent")).unwrap();
    let token = lab.token("a-password-of-our-own");
    let args = ["--node-name", "new", "--token-file", &token];
    let run = lab.ends(&reconcile(&args), 0);
    assert!(!run.text().contains("a-password-of-our-own"));
    assert_leaves(&lab);
    let opened = lab.opened("a-password-of-our-own");
    for field in Field::ALL.into_iter().filter(|field| !field.is_optional()) {
        let disk = fs::read(lab.server().join(field.path())).unwrap();
        assert_eq!(opened.bundle.content(field), Some(&disk[..]), "{field}");
    }
    lab.ends(&["bootstrap", "diff"], 0);
    lab.ends(&["bootstrap", "verify"], 0);
}

#[test]
fn a_snapshot_makes_a_lost_server() {
    let lab = Lab::new("k3s-1.36-etcd-external");
    let snapshot = lab.fixture.extra("etcd-snapshot.db");
    let snapshot = snapshot.to_str().unwrap();
    for gone in ["server", "agent"] {
        fs::remove_dir_all(lab.data_dir().join(gone)).unwrap();
    }
    let token = lab.token(TOKEN);
    let more = [
        "--node-name",
        "k3s-fixture",
        "--token-file",
        &token,
        "--snapshot",
        snapshot,
    ];
    lab.ends(&reconcile(&more), 0);
    assert_leaves(&lab);
    let diff = ["bootstrap", "diff", "--snapshot", snapshot];
    lab.ends(&diff, 0);
    let disk = [&more[..], &["--keep", "disk"]].concat();
    lab.ends(&reconcile(&disk), 2);
}
