//! Through a running server: one that answers as K3s's supervisor did, over real TLS.

use std::collections::BTreeMap;
use std::path::Path;

use kubepki::bootstrap::{Bundle, Field, Passphrase, open, seal_bundle};
use kubepki::ca::rotate::overlaid;
use kubepki::datastore::Datastore as _;
use kubepki::edge::{Clock as _, SystemClock, SystemEntropy};
use kubepki::listener::Listener;
use kubepki_datastore::{Access, SqliteStore};
use pki::{
    Authority, Certificate, DAY, KeyAlgorithm, LeafRequest, PrivateKey, Purpose, San, Serial,
    Validity,
};
use testkit::Fixture;
use testkit::supervisor::{Cluster, Supervisor};

use crate::lab::Server;

/// A supervisor with a certificate under the server's CA.
pub fn supervisor(server: &Server, accepts: bool) -> Supervisor {
    with_api(server, accepts, BTreeMap::new())
}

/// The same, with a Kubernetes API behind it.
fn with_api(server: &Server, accepts: bool, kubernetes: BTreeMap<String, String>) -> Supervisor {
    Supervisor::start(cluster(server, kubernetes), Box::new(move |_| accepts))
}

/// What a supervisor of this server serves and knows.
pub fn cluster(server: &Server, kubernetes: BTreeMap<String, String>) -> Cluster {
    let bundle = server.read("tls/server-ca.crt");
    let ca = Certificate::all_from_pem(bundle.as_bytes())
        .unwrap()
        .remove(0);
    let ca_key = PrivateKey::from_pem(server.read("tls/server-ca.key").as_bytes()).unwrap();
    let authority = Authority::new(ca, ca_key).unwrap();
    let key = PrivateKey::generate(KeyAlgorithm::P256).unwrap();
    let begin = authority.certificate().validity().not_before;
    let leaf = authority
        .issue(&LeafRequest {
            organizations: &["k3s".to_owned()],
            common_name: "k3s",
            sans: &[San::from_text("127.0.0.1")],
            purposes: &[Purpose::ServerAuth],
            spki_der: key.spki_der(),
            serial: Serial::random(pki::random).unwrap(),
            validity: Validity {
                not_before: begin,
                not_after: begin.plus(3000 * DAY),
            },
        })
        .unwrap();
    Cluster {
        chain: [leaf.to_pem(), bundle.clone()].concat().into_bytes(),
        key: key.to_pem().unwrap().as_bytes().to_vec(),
        cacerts: bundle.into_bytes(),
        password: "fixture-token-0123456789abcdef".to_owned(),
        agent_password: "another".to_owned(),
        kubernetes,
    }
}

/// What was sent: path, and the files.
pub fn sent(standing: &Supervisor) -> Vec<(String, Bundle)> {
    let calls = standing.calls();
    let puts = calls.iter().filter(|call| call.method == "PUT");
    puts.map(|call| (call.path.clone(), Bundle::parse(&call.body).unwrap()))
        .collect()
}

#[test]
fn the_set_is_put_and_taken_back() {
    let server = Server::new("k3s-1.36-custom-ca");
    let set = server.fixture.extra("staged-same-root");
    let standing = supervisor(&server, true);
    let url = format!("--through-server={}", standing.url());
    let before = server.tree();
    let run = server.rotate(&set, &[&url], 0);
    let text = run.text();
    assert!(text.contains("Restart K3s on every server"), "{text}");
    assert!(text.contains("none may save anything"), "{text}");
    let calls = sent(&standing);
    let [(path, body)] = calls.as_slice() else {
        panic!("{} calls", calls.len());
    };
    assert_eq!(path, "/v1-k3s/cert/cacerts?force=false");
    assert_eq!(body.files.len(), 11);
    for (field, file) in &body.files {
        assert!(
            *file.content == std::fs::read(field.under(&set)).unwrap(),
            "{field}"
        );
        // Newer than anything on a disk, or servers would not start.
        assert!(file.stamp.seconds > 1_795_332_720, "{field}");
    }
    // The tree is K3s's, which writes it when it restarts.
    let changed = crate::common::changed(&before, &server.tree());
    assert!(changed.is_empty(), "{changed:?}");
    server.undo(0);
    let calls = sent(&standing);
    assert_eq!(calls.len(), 2);
    assert_eq!(calls[1].0, "/v1-k3s/cert/cacerts?force=true");
    for (field, file) in &calls[1].1.files {
        let there = std::fs::read(field.under(&server.server())).unwrap();
        assert!(*file.content == there, "{field}");
    }
}

#[test]
fn a_server_that_says_no_is_heard() {
    let server = Server::new("k3s-1.36-custom-ca");
    let set = server.fixture.extra("staged-same-root");
    let standing = supervisor(&server, false);
    let url = format!("--through-server={}", standing.url());
    let run = server.run(&[
        "rotate-ca",
        "--path",
        &set.display().to_string(),
        "--yes",
        &url,
    ]);
    assert_ne!(run.code, Some(0), "{}", run.text());
    assert!(run.text().contains("error ID"), "{}", run.text());
    // Another cluster's server is not even told the password.
    let other = Server::new("k3s-1.36-sqlite");
    let stranger = supervisor(&other, true);
    let url = format!("--through-server={}", stranger.url());
    let third = Server::new("k3s-1.36-custom-ca");
    let before = third.tree();
    third.rotate(&set, &[&url], 1);
    third.assert_untouched(&before);
    assert_eq!(stranger.calls(), []);
}

#[test]
fn the_drop_in_speaks_as_k3s_does() {
    let server = Server::new("k3s-1.36-custom-ca");
    let good = server
        .fixture
        .extra("staged-same-root")
        .display()
        .to_string();
    let standing = supervisor(&server, true);
    let url = standing.url();
    let rotate = |path: &str, more: &[&str]| {
        let mut args = vec![
            "k3s",
            "certificate",
            "rotate-ca",
            "-s",
            &url,
            "--path",
            path,
        ];
        args.extend(more);
        server.run(&args)
    };
    let run = rotate(&good, &[]);
    assert_eq!(run.code, Some(0), "{}", run.text());
    assert_eq!(
        String::from_utf8(run.stdout).unwrap(),
        "certificates saved to datastore\n"
    );
    assert_eq!(sent(&standing).len(), 1);

    let forced = Fixture::without_datastore("k3s-1.36-new-root-forced");
    let log = forced.extra_text("rotate-ca-server-messages.log");
    let (_, words) = log.split_once("certificate error ID 97496: ").unwrap();
    let words = words.split('"').next().unwrap();
    let set = server
        .set("set", &forced.data_dir().join("server"))
        .display()
        .to_string();
    let before = server.tree();
    let run = rotate(&set, &[]);
    assert_eq!(run.code, Some(1), "{}", run.text());
    assert!(run.stdout.is_empty());
    assert!(run.text().contains(words), "{}\n{words}", run.text());
    server.assert_untouched(&before);
    assert_eq!(sent(&standing).len(), 1);

    let run = rotate(&set, &["--force"]);
    assert_eq!(run.code, Some(0), "{}", run.text());
    assert!(
        run.text()
            .contains("forced, ignoring validation errors: ETCDServerCA: ")
    );
    assert_eq!(sent(&standing)[1].0, "/v1-k3s/cert/cacerts?force=true");

    // Only service.key: a warning for each of the others, in K3s's words.
    std::fs::remove_dir_all(&set).unwrap();
    let alone = server.fixture.scratch("alone");
    let keys = std::fs::read(Field::ServiceKey.under(std::path::Path::new(&good))).unwrap();
    crate::lab::stage(&alone, Field::ServiceKey, keys);
    let run = rotate(&alone.display().to_string(), &[]);
    assert_eq!(run.code, Some(0), "{}", run.text());
    assert_eq!(
        run.text().matches("failed to stat ").count(),
        10,
        "{}",
        run.text()
    );
    assert_eq!(sent(&standing)[2].1.files.len(), 1);
}

/// A restart that is a step stays open until the new CA can be seen.
#[test]
fn a_watched_restart_waits_for_its_probe() {
    let server = Server::new("k3s-1.36-custom-ca");
    let set = server.fixture.extra("staged-same-root");
    let standing = supervisor(&server, true);
    let put = format!("--through-server={}", standing.url());
    // What answers on the port of the configuration goes on with the old CA.
    let port = standing.url().rsplit_once(':').unwrap().1.to_owned();
    let config = server.fixture.scratch("config.yaml");
    let data = server.fixture.data_dir();
    let text = format!("data-dir: {}\nhttps-listen-port: {port}\n", data.display());
    std::fs::write(&config, text).unwrap();
    let config = config.display().to_string();
    let more = [put.as_str(), "--watch", "--k3s-config", &config];
    let run = server.rotate(&set, &more, 7);
    assert!(
        run.text().contains("restart K3s on this server"),
        "{}",
        run.text()
    );
    assert!(run.text().contains("kubepki resume"), "{}", run.text());
    assert_eq!(sent(&standing).len(), 1);
    let resume = ["resume", "--k3s-config", &config, "--still-for", "0"];
    let run = server.ends(&resume, 7);
    assert!(run.text().contains("not yet"), "{}", run.text());
    // The call is not made again.
    assert_eq!(sent(&standing).len(), 1);
}

/// Writes `set` into the datastore of a stopped server, as the K3s that took the PUT has done.
fn put_into_datastore(server: &Server, set: &Path) {
    let mut staged = Bundle::default();
    for field in Field::ALL.into_iter().filter(|field| field.is_rotatable()) {
        let content = std::fs::read(field.under(set)).unwrap().into();
        let stamp = kubepki::bootstrap::Stamp::ZERO;
        let file = kubepki::bootstrap::SharedFile { stamp, content };
        staged.files.insert(field, file);
    }
    put_bundle(&server.server(), &staged);
}

/// The same for what was sent.
pub fn put_bundle(server: &Path, staged: &Bundle) {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_all().build().unwrap();
    runtime.block_on(async {
        let path = server.join("db/state.db");
        let store = SqliteStore::open(&path, Access::Write).await.unwrap();
        let record = store.list("/bootstrap").await.unwrap().remove(0);
        let token = Passphrase::new("fixture-token-0123456789abcdef".to_owned());
        let present = Bundle::parse(&open(&record.value, &token).unwrap()).unwrap();
        let bundle = overlaid(&present, staged, SystemClock.now());
        let value = seal_bundle(&bundle, &token, &SystemEntropy).unwrap();
        let update = store.update(&record.key, record.revision, &value);
        update.await.unwrap();
    });
}

/// After the PUT of a cross-signed set: a server whose K3s is stopped, reconciled and started has
/// chains that old and new OpenSSL clients follow, on both of its ports.
#[test]
fn reconcile_makes_the_chains_after_the_put() {
    let server = Server::new("k3s-1.36-sqlite");
    let old_root = server.read("tls/server-ca.crt");
    let set = server.fixture.scratch("set");
    let out = set.display().to_string();
    let offline = server.fixture.scratch("offline").display().to_string();
    let stage = ["ca", "stage", "--cross-signed", "--out", &out];
    server.ends(&[&stage[..], &["--offline", &offline]].concat(), 0);
    let standing = supervisor(&server, true);
    let url = format!("--through-server={}", standing.url());
    let text = server.rotate(&set, &[&url], 0).text();
    let way = "`systemctl stop k3s`, `kubepki reconcile`, `systemctl start k3s`";
    assert_eq!(text.matches(way).count(), 2, "note and closing: {text}");
    drop(standing);
    put_into_datastore(&server, &set);
    // The handler leaves this where the PUT came in.
    let trigger = server.server().join("tls/dynamic-cert-regenerate");
    std::fs::write(&trigger, "").unwrap();

    let kubeconfig = server.fixture.admin_kubeconfig().display().to_string();
    let reconcile = ["reconcile", "--yes", "--kubeconfig", &kubeconfig];
    let run = server.ends(&reconcile, 0);
    assert!(
        run.text()
            .contains("remove server/tls/dynamic-cert-regenerate"),
        "{}",
        run.text()
    );
    assert!(!trigger.exists());
    crate::direct::assert_in_force(&server, &set);
    let bundle = server.read("tls/server-ca.crt");
    let roots = Certificate::all_from_pem(bundle.as_bytes()).unwrap();
    let roots = roots.iter().filter(|it| it.is_self_signed());
    let new_root = roots.map(Certificate::to_pem).find(|it| *it != old_root);
    let new_root = new_root.unwrap();
    for chain in [
        server.read("tls/serving-kube-apiserver.crt"),
        listener(&server),
    ] {
        assert_eq!(
            crate::lab::blocks(&chain).len(),
            3,
            "leaf, CA, cross-certificate"
        );
        assert!(crate::lab::openssl_trusts(&server, &chain, &old_root));
        assert!(crate::lab::openssl_trusts(&server, &chain, &new_root));
    }
    crate::direct::assert_nothing_left(&server);
    server.undo(0);
    assert!(trigger.exists());
}

/// What the server's listener serves.
pub fn listener(server: &Server) -> String {
    let text = server.read("tls/dynamic-cert.json");
    let listener = Listener::parse(text.as_bytes()).unwrap();
    let chain = listener.certificates().unwrap();
    chain.iter().map(Certificate::to_pem).collect()
}

#[test]
fn the_api_tells_whom_a_new_root_concerns() {
    let server = Server::new("k3s-1.36-sqlite");
    let node = |name: &str, role: &str, address: &str| {
        format!(
            r#"{{"metadata":{{"name":"{name}","labels":{{{role}}}}},"status":{{"addresses":[{address}],
                "conditions":[],"nodeInfo":{{"kubeletVersion":"v1.36.3+k3s1"}}}}}}"#
        )
    };
    let control_plane = r#""node-role.kubernetes.io/control-plane":"true""#;
    let at = |address: &str| format!(r#"{{"type":"InternalIP","address":"{address}"}}"#);
    let nodes = [
        node("k3s-fixture", control_plane, &at("127.0.0.1")),
        node("second", control_plane, &at("127.0.0.2")),
        node("worker", "", &at("127.0.0.3")),
        node("nowhere", "", ""),
    ];
    let pod = |name| format!(r#"{{"metadata":{{"name":"{name}","namespace":"default"}}}}"#);
    let list = |items: &[String]| format!(r#"{{"items":[{}]}}"#, items.join(","));
    let api = [
        ("/api/v1/nodes", list(&nodes)),
        ("/api/v1/pods", list(&[pod("a"), pod("b")])),
        ("/api/v1/secrets", list(&[])),
    ];
    let api = api.map(|(path, body)| (path.to_owned(), body));
    let standing = with_api(&server, true, api.into());
    let path = server.fixture.admin_kubeconfig();
    let kubeconfig = std::fs::read_to_string(&path).unwrap();
    let url = standing.url();
    std::fs::write(&path, kubeconfig.replace("https://127.0.0.1:6443", &url)).unwrap();

    let offline = server.fixture.scratch("offline").display().to_string();
    server.ends(&["ca", "stage", "--new-root", "--offline", &offline], 0);
    let set = server.fixture.data_dir().join("kubepki/staged");
    let through = format!("--through-server={url}");
    let run = server.rotate(&set, &[&through, "--force", "--watch", "--dry-run"], 0);
    let text = run.text();
    for words in [
        "to be restarted: servers k3s-fixture, second; then agents nowhere, worker",
        "2 pods in 1 namespaces hold the old CA",
        "on the server second",
        "127.0.0.2:6443",
        "restart K3s on the agent worker",
        "127.0.0.3:10250",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
    // Nothing could show that it was done, so it is no step.
    assert!(!text.contains("on the agent nowhere"), "{text}");
    assert_eq!(sent(&standing), []);
}
