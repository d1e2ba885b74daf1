//! One thing broken in a good tree, and exactly that found: how files fit together.

use kubepki::check::Severity;
use pki::{Certificate, DAY, Purpose, San};

use crate::issue::{Sample, Short, openssl_leaf};
use crate::tree::{AT, Question, Tree};

const OTHER: &str = "k3s-1.36-custom-ca";
const GOOD: &str = "k3s-1.36-sqlite";

fn good() -> Tree {
    Tree::fixture(GOOD)
}

#[test]
fn a_leaf_of_another_ca() {
    let (tree, other) = (good(), Tree::fixture(OTHER));
    for file in ["client-scheduler.crt", "client-scheduler.key"] {
        let file = format!("server/tls/{file}");
        std::fs::copy(other.path(&file), tree.path(&file)).unwrap();
    }
    tree.finds(
        AT,
        &["broken other-authority server/tls/client-scheduler.crt"],
    );
}

#[test]
fn a_signature_that_does_not_hold() {
    let tree = good();
    let path = "server/tls/client-scheduler.crt";
    let certificates = tree.certificates(path);
    let mut der = certificates[0].der().to_vec();
    *der.last_mut().unwrap() ^= 1;
    let spoilt = Certificate::from_der(&der).unwrap();
    tree.write(
        path,
        (spoilt.to_pem() + &certificates[1].to_pem()).as_bytes(),
    );
    tree.finds(AT, &["broken chain-broken server/tls/client-scheduler.crt"]);
}

#[test]
fn names_and_purposes_and_subjects() {
    let tree = good();
    let ca = Short::existing(&tree, "server/tls/server-ca");
    ca.issue(
        &tree,
        "server/tls/kube-scheduler/kube-scheduler",
        &Sample {
            common_name: "kube-scheduler",
            sans: &["localhost", "127.0.0.1"],
            ..Sample::default()
        },
    );
    ca.issue(
        &tree,
        "server/tls/kube-controller-manager/kube-controller-manager",
        &Sample {
            common_name: "kube-controller-manager",
            sans: &["localhost", "127.0.0.1", "::1"],
            purposes: &[Purpose::ClientAuth],
            ..Sample::default()
        },
    );
    let ca = Short::existing(&tree, "server/tls/client-ca");
    ca.issue(
        &tree,
        "server/tls/client-supervisor",
        &Sample {
            common_name: "system:k3s-supervisor",
            purposes: &[Purpose::ClientAuth],
            ..Sample::default()
        },
    );
    tree.finds(
        AT,
        &[
            "broken wrong-subject server/tls/client-supervisor.crt",
            "broken san-missing server/tls/kube-scheduler/kube-scheduler.crt",
            "broken wrong-purposes server/tls/kube-controller-manager/kube-controller-manager.crt",
        ],
    );
}

#[test]
fn the_nodes_name_must_be_served() {
    let tree = good();
    let ca = Short::existing(&tree, "server/tls/server-ca");
    ca.issue(
        &tree,
        "server/tls/serving-kube-apiserver",
        &Sample {
            common_name: "kube-apiserver",
            sans: &[
                "kubernetes",
                "kubernetes.default",
                "kubernetes.default.svc",
                "kubernetes.default.svc.cluster.local",
                "127.0.0.1",
                "::1",
                "localhost",
                "10.43.0.1",
            ],
            ..Sample::default()
        },
    );
    tree.finds(
        AT,
        &["broken san-missing server/tls/serving-kube-apiserver.crt"],
    );
    let finding = tree.check(AT).remove(0);
    assert!(
        finding
            .mends
            .as_deref()
            .unwrap()
            .ends_with(" --tls-san k3s-fixture"),
        "a plain renewal keeps the names that are there: {finding:?}"
    );
}

#[test]
fn configured_names_are_wanted() {
    let tree = good();
    let inventory = tree.inventory();
    let mut question = Question::of(&inventory);
    question.wishes.add_sans = vec![San::from_text("api.example.com")];
    let rows: Vec<_> = question
        .ask(AT)
        .into_iter()
        .filter(|finding| finding.kind.rule() == "san-missing")
        .map(|finding| finding.row.unwrap())
        .collect();
    let mut sorted = rows.clone();
    sorted.sort_unstable();
    assert_eq!(
        sorted,
        [
            "dynamic-listener",
            "etcd-peer-server-client",
            "etcd-server-client",
            "serving-kube-apiserver"
        ]
    );
}

#[test]
fn an_agents_copy_of_another_ca() {
    let (tree, other) = (good(), Tree::fixture(OTHER));
    std::fs::copy(
        other.path("agent/server-ca.crt"),
        tree.path("agent/server-ca.crt"),
    )
    .unwrap();
    tree.finds(AT, &["broken copy-differs agent/server-ca.crt"]);
    // More than the server's file is another file too, but nothing fails.
    let both = [
        tree.read("server/tls/server-ca.crt"),
        other.read("agent/server-ca.crt"),
    ]
    .concat();
    tree.write("agent/server-ca.crt", &both);
    tree.finds(AT, &["due copy-differs agent/server-ca.crt"]);
}

#[test]
fn what_starts_rewrite_is_stale() {
    let tree = good();
    tree.copy(
        "server/tls/client-ca.crt",
        "server/tls/server-ca.nochain.crt",
    );
    tree.copy("server/tls/client-ca.key", "server/tls/service.current.key");
    tree.finds(
        AT,
        &[
            "broken current-key-differs server/tls/service.current.key",
            "due not-first server/tls/server-ca.nochain.crt",
        ],
    );
}

#[test]
fn kubeconfigs_that_point_elsewhere() {
    let tree = good();
    let path = "server/cred/scheduler.kubeconfig";
    let text = String::from_utf8(tree.read(path)).unwrap();
    tree.write(
        path,
        text.replace("client-scheduler.crt", "client-admin.crt")
            .as_bytes(),
    );
    tree.finds(
        AT,
        &["broken reference-other server/cred/scheduler.kubeconfig"],
    );
}

#[test]
fn an_administrators_kubeconfig_of_another_cluster() {
    let (tree, other) = (good(), Tree::fixture(OTHER));
    let own = tree.admin_kubeconfig().unwrap();
    std::fs::copy(other.admin_kubeconfig().unwrap(), own).unwrap();
    tree.finds(
        AT,
        &[
            "broken other-authority extra/k3s.yaml",
            "broken inlined-authority extra/k3s.yaml",
        ],
    );
}

#[test]
fn an_administrators_kubeconfig_that_a_renewal_forgot() {
    let tree = good();
    let ca = Short::existing(&tree, "server/tls/client-ca");
    ca.issue(
        &tree,
        "server/tls/client-admin",
        &Sample {
            common_name: "system:admin",
            organizations: &["system:masters"],
            purposes: &[Purpose::ClientAuth],
            ..Sample::default()
        },
    );
    tree.finds(AT, &["warning inlined-differs extra/k3s.yaml"]);
}

#[test]
fn a_listener_whose_annotations_ask_for_more() {
    let tree = good();
    let path = "server/tls/dynamic-cert.json";
    let text = String::from_utf8(tree.read(path)).unwrap();
    let more = r#""annotations":{"listener.cattle.io/cn-api.example.com":"api.example.com","#;
    tree.write(
        path,
        text.replacen(r#""annotations":{"#, more, 1).as_bytes(),
    );
    tree.finds(AT, &["due san-missing server/tls/dynamic-cert.json"]);
    tree.write(path, text.replace("SHA1=", "SHA1=0").as_bytes());
    tree.finds(
        AT,
        &["warning fingerprint-differs server/tls/dynamic-cert.json"],
    );
}

#[test]
fn ca_keys_that_lie_about() {
    let tree = good();
    tree.copy("server/tls/client-ca.key", "server/tls/backup.key");
    let found = tree.check(AT);
    let note = found
        .iter()
        .find(|finding| finding.kind.rule() == "authority-key-here")
        .unwrap();
    assert_eq!(note.severity, Severity::Note, "a copy opens nothing new");
    tree.chmod("server/tls/backup.key", 0o644);
    tree.finds(AT, &["warning authority-key-here server/tls/backup.key"]);
    tree.remove("server/tls/backup.key");
    // A second key block: the API aggregation's CA.
    let both = [
        tree.read("server/tls/client-ca.key"),
        tree.read("server/tls/request-header-ca.key"),
    ];
    tree.write("server/tls/client-ca.key", &both.concat());
    tree.finds(AT, &["warning several-keys server/tls/client-ca.key"]);
}

#[test]
fn a_leaf_that_outlives_its_ca() {
    let tree = good();
    let name = "system:kube-scheduler";
    openssl_leaf(
        &tree,
        "client-scheduler",
        name,
        "ec",
        "sha256",
        "20400101000000Z",
    );
    tree.finds(AT, &[]);
    let finding = tree
        .check(AT)
        .into_iter()
        .find(|f| f.kind.rule() == "outlives-issuer");
    assert_eq!(
        finding.unwrap().severity,
        Severity::Note,
        "K3s makes such leaves itself"
    );
    let inventory = tree.inventory();
    let mut question = Question::of(&inventory);
    question.authority_window = 11 * 365 * DAY;
    let near = question
        .ask(AT)
        .into_iter()
        .find(|f| f.kind.rule() == "outlives-issuer");
    assert_eq!(near.unwrap().severity, Severity::Due);
}

#[test]
fn weak_keys_and_signatures() {
    let tree = good();
    let year = "20271101000000Z";
    let name = "system:kube-scheduler";
    openssl_leaf(&tree, "client-scheduler", name, "rsa:1024", "sha256", year);
    let name = "system:kube-controller-manager";
    openssl_leaf(&tree, "client-controller", name, "ec", "sha1", year);
    tree.finds(
        AT,
        &[
            "broken weak-signature server/tls/client-controller.crt",
            "broken malformed server/tls/client-scheduler.key",
            "warning weak-key server/tls/client-scheduler.crt",
        ],
    );
}

#[test]
fn the_order_of_a_rotated_bundle() {
    let tree = Tree::fixture("k3s-1.36-default-rotated");
    let rule = "root-before-cross";
    let found = |tree: &Tree| -> Vec<Severity> {
        let found = tree.check(AT);
        let of_rule = found
            .iter()
            .filter(|f| f.kind.rule() == rule && f.row == Some("server-ca"));
        of_rule.map(|finding| finding.severity).collect()
    };
    assert_eq!(found(&tree), [Severity::Warning]);
    // Intermediate, cross-certificate, root, old CA.
    let reorder = |path: &str| {
        let pem: String = tree
            .certificates(path)
            .iter()
            .map(Certificate::to_pem)
            .collect();
        let mut blocks: Vec<&str> = pem.split_inclusive("-----END CERTIFICATE-----\n").collect();
        let root = blocks.len() - 3;
        blocks.swap(root, root + 1);
        tree.write(path, blocks.concat().as_bytes());
    };
    reorder("server/tls/server-ca.crt");
    assert_eq!(
        found(&tree),
        [Severity::Warning],
        "the old order is still served"
    );
    reorder("server/tls/serving-kube-apiserver.crt");
    tree.remove("server/tls/dynamic-cert.json");
    assert_eq!(found(&tree), []);
}

#[test]
fn an_agent_is_judged_by_what_it_has() {
    let tree = Tree::fixture("k3s-1.36-agent-only");
    tree.finds(AT, &[]);
    tree.remove("agent/client-kubelet.key");
    tree.finds(AT, &["broken key-missing agent/client-kubelet.key"]);
    assert_eq!(
        tree.check(AT)[0].mends.as_deref(),
        Some("systemctl restart k3s-agent")
    );
}
