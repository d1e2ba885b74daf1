//! One thing broken in a good tree, and exactly that found.

use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use kubepki::check::{FindingKind, Severity};
use pki::{
    Authority, Certificate, DAY, KeyAlgorithm, LeafRequest, Name, PrivateKey, Purpose, San, Serial,
    UnixTime, Validity,
};

use crate::tree::{AT, Question, Tree};

const GOOD: &str = "k3s-1.36-sqlite";
const OTHER: &str = "k3s-1.36-custom-ca";

fn good() -> Tree {
    Tree::fixture(GOOD)
}

#[test]
fn a_file_that_is_gone() {
    let tree = good();
    tree.remove("server/tls/client-scheduler.crt");
    tree.finds(AT, &["broken missing server/tls/client-scheduler.crt"]);
    let finding = &tree.check(AT)[0];
    let mends = finding.mends.as_deref().unwrap();
    assert!(mends.starts_with("kubepki renew --data-dir "), "{mends}");
}

#[test]
fn half_a_rotation_by_k3s_itself() {
    let tree = good();
    tree.remove("server/tls/client-admin.crt");
    tree.remove("server/tls/client-admin.key");
    tree.finds(AT, &["broken missing server/tls/client-admin.crt"]);
}

#[test]
fn what_every_start_makes_is_only_due() {
    let tree = good();
    for file in [
        "server/tls/server-ca.nochain.crt",
        "server/tls/service.current.key",
        "server/tls/dynamic-cert.json",
    ] {
        tree.remove(file);
    }
    tree.finds(
        AT,
        &[
            "due missing server/tls/server-ca.nochain.crt",
            "due missing server/tls/service.current.key",
            "due missing server/tls/dynamic-cert.json",
        ],
    );
}

#[test]
fn a_ca_file_that_is_gone() {
    let tree = good();
    tree.remove("server/tls/etcd/peer-ca.crt");
    tree.finds(AT, &["broken missing server/tls/etcd/peer-ca.crt"]);
}

#[test]
fn a_key_that_is_gone() {
    let tree = good();
    tree.remove("server/tls/client-scheduler.key");
    tree.remove("server/tls/client-ca.key");
    tree.finds(
        AT,
        &[
            "broken key-missing server/tls/client-ca.key",
            "broken key-missing server/tls/client-scheduler.key",
        ],
    );
}

#[test]
fn a_key_of_another_certificate() {
    let tree = good();
    tree.copy(
        "server/tls/client-admin.key",
        "server/tls/client-scheduler.key",
    );
    tree.finds(AT, &["broken key-mismatch server/tls/client-scheduler.crt"]);
}

#[test]
fn files_that_are_not_what_they_should_be() {
    let tree = good();
    tree.write("server/tls/client-scheduler.crt", b"");
    tree.write(
        "server/tls/client-controller.key",
        b"-----BEGIN EC PRIVATE KEY-----\nAAAA\n",
    );
    tree.write("server/cred/admin.kubeconfig", b"[");
    tree.write("server/tls/dynamic-cert.json", b"{");
    tree.remove("server/tls/client-supervisor.crt");
    std::fs::create_dir(tree.path("server/tls/client-supervisor.crt")).unwrap();
    tree.finds(
        AT,
        &[
            "broken directory server/tls/client-supervisor.crt",
            "broken malformed server/tls/client-controller.key",
            "broken malformed server/tls/client-scheduler.crt",
            "broken malformed server/tls/dynamic-cert.json",
            "broken malformed server/cred/admin.kubeconfig",
        ],
    );
}

#[test]
fn modes_that_let_others_in() {
    let tree = good();
    tree.chmod("server/tls/client-admin.key", 0o640);
    tree.chmod("server/tls/service.key", 0o604);
    tree.chmod("server/tls/server-ca.crt", 0o664);
    // As K3s extracts it from the datastore.
    tree.chmod("server/tls/client-ca.crt", 0o600);
    tree.finds(
        AT,
        &[
            "warning wrong-mode server/tls/server-ca.crt",
            "warning wrong-mode server/tls/client-admin.key",
            "warning wrong-mode server/tls/service.key",
        ],
    );
}

#[test]
fn a_link_is_named_and_not_followed() {
    let tree = good();
    let outside = tree.path("elsewhere.crt");
    std::fs::rename(tree.path("server/tls/client-scheduler.crt"), &outside).unwrap();
    symlink(
        "/etc/hostname",
        tree.path("server/tls/client-scheduler.crt"),
    )
    .unwrap();
    tree.finds(AT, &["warning link server/tls/client-scheduler.crt"]);
    let FindingKind::Link { outside, .. } = tree.check(AT)[0].kind else {
        panic!("no link");
    };
    assert!(outside);
    tree.remove("server/tls/client-scheduler.crt");
    symlink(
        "../../elsewhere.crt",
        tree.path("server/tls/client-scheduler.crt"),
    )
    .unwrap();
    let FindingKind::Link { outside, .. } = tree.check(AT)[0].kind else {
        panic!("no link");
    };
    assert!(!outside);
}

#[test]
fn the_windows_edge_and_the_last_second() {
    let tree = good();
    let file = tree.inventory();
    let end = file.row("client-admin").unwrap().file.certificates()[0]
        .validity()
        .not_after;
    let inventory = tree.inventory();
    let rules = |now| {
        let mut rules: Vec<_> = Question::of(&inventory)
            .ask(now)
            .iter()
            .filter(|found| {
                found.severity > Severity::Note && found.path.ends_with("client-admin.crt")
            })
            .map(|found| (found.severity, found.kind.rule()))
            .collect();
        rules.dedup();
        rules
    };
    assert_eq!(rules(end.plus(-120 * DAY - 1)), []);
    assert_eq!(rules(end.plus(-120 * DAY)), [(Severity::Due, "due")]);
    assert_eq!(rules(end), [(Severity::Due, "due")]);
    assert_eq!(rules(end.plus(1)), [(Severity::Broken, "expired")]);
}

#[test]
fn everything_that_ends_is_found_with_the_copies_inlined() {
    let tree = good();
    let late = AT.plus(400 * DAY);
    let found = tree.check(late);
    let expired: Vec<_> = found
        .iter()
        .filter(|finding| finding.severity > Severity::Note)
        .collect();
    assert!(
        expired
            .iter()
            .all(|finding| finding.kind.rule() == "expired"),
        "{expired:#?}"
    );
    // 13 leaves of the server, 4 of the agent, the listener, the admin kubeconfig.
    assert_eq!(expired.len(), 19);
    assert!(
        expired
            .iter()
            .any(|finding| finding.path.ends_with("dynamic-cert.json"))
    );
    assert!(
        expired
            .iter()
            .any(|finding| finding.path.ends_with("k3s.yaml"))
    );
}

#[test]
fn a_clock_before_the_first_second() {
    let tree = good();
    let found = tree.check(AT.plus(-10 * DAY));
    assert!(
        found
            .iter()
            .filter(|finding| finding.severity > Severity::Note)
            .all(|finding| finding.kind.rule() == "not-yet-valid")
    );
    assert!(
        found
            .iter()
            .any(|finding| finding.path.ends_with("server-ca.crt"))
    );
}

#[test]
fn cas_are_due_a_year_ahead_or_as_asked() {
    let tree = good();
    let inventory = tree.inventory();
    let mut question = Question::of(&inventory);
    question.authority_window = 11 * 365 * DAY;
    let due: Vec<_> = question
        .ask(AT)
        .into_iter()
        .filter(|finding| finding.severity > Severity::Note)
        .collect();
    assert_eq!(due.len(), 5, "{due:#?}");
    for finding in due {
        assert_eq!(finding.severity, Severity::Due);
        assert!(matches!(
            finding.kind,
            FindingKind::Due {
                window_days: 4015,
                ..
            }
        ));
        assert!(finding.mends.unwrap().contains("rotate-ca"));
    }
}

#[test]
fn an_expired_ca_is_said_once_and_not_for_every_leaf() {
    let tree = good();
    let ca = Short::authority(&tree, "server/tls/etcd/peer-ca", "etcd-peer-ca", 1);
    ca.issue(
        &tree,
        "server/tls/etcd/peer-server-client",
        &Sample {
            common_name: "etcd-peer",
            purposes: &[Purpose::ServerAuth, Purpose::ClientAuth],
            sans_of: Some("server/tls/etcd/server-client.crt"),
            ..Sample::default()
        },
    );
    let two_days_on = AT.plus(2 * DAY);
    let found: Vec<_> = tree.found(two_days_on);
    assert_eq!(
        found,
        [
            "broken expired server/tls/etcd/peer-ca.crt",
            "broken expired server/tls/etcd/peer-server-client.crt",
        ]
    );
    let leaf = tree
        .check(two_days_on)
        .into_iter()
        .find(|finding| finding.row == Some("etcd-peer-server-client"))
        .unwrap();
    assert!(
        leaf.mends.unwrap().contains("rotate-ca"),
        "a renewal cannot help"
    );
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

/// A leaf to issue; what is not said is as K3s does.
struct Sample<'a> {
    common_name: &'a str,
    organizations: &'a [&'a str],
    sans: &'a [&'a str],
    sans_of: Option<&'a str>,
    purposes: &'a [Purpose],
}

impl Default for Sample<'_> {
    fn default() -> Self {
        Self {
            common_name: "",
            organizations: &[],
            sans: &[],
            sans_of: None,
            purposes: &[Purpose::ServerAuth],
        }
    }
}

/// A CA that issues into a tree.
struct Short(Authority);

impl Short {
    fn existing(tree: &Tree, stem: &str) -> Self {
        let certificate = tree.certificates(&format!("{stem}.crt")).remove(0);
        let key = PrivateKey::from_pem(&tree.read(&format!("{stem}.key"))).unwrap();
        Self(Authority::new(certificate, key).unwrap())
    }

    /// A CA of `days` days, in place of the one that is there.
    fn authority(tree: &Tree, stem: &str, name: &str, days: i64) -> Self {
        let key = PrivateKey::generate(KeyAlgorithm::P256).unwrap();
        tree.write(&format!("{stem}.key"), key.to_pem().unwrap().as_bytes());
        let name = Name::new(&[], name).unwrap();
        let serial = Serial::random(pki::random).unwrap();
        let ca = Authority::self_signed(&name, key, serial, validity(days)).unwrap();
        tree.write(&format!("{stem}.crt"), ca.certificate().to_pem().as_bytes());
        Self(ca)
    }

    fn issue(&self, tree: &Tree, stem: &str, sample: &Sample<'_>) {
        let key = PrivateKey::generate(KeyAlgorithm::P256).unwrap();
        let sans = match sample.sans_of {
            Some(path) => tree.certificates(path)[0].sans().to_vec(),
            None => sample
                .sans
                .iter()
                .map(|name| San::from_text(name))
                .collect(),
        };
        let organizations: Vec<String> = sample
            .organizations
            .iter()
            .map(|o| (*o).to_owned())
            .collect();
        let end = self.0.certificate().validity().not_after;
        let leaf = self
            .0
            .issue(&LeafRequest {
                organizations: &organizations,
                common_name: sample.common_name,
                sans: &sans,
                purposes: sample.purposes,
                spki_der: key.spki_der(),
                serial: Serial::random(pki::random).unwrap(),
                validity: Validity {
                    not_after: validity(365).not_after.min(end),
                    ..validity(365)
                },
            })
            .unwrap();
        let chain = leaf.to_pem() + &self.0.certificate().to_pem();
        tree.write(&format!("{stem}.crt"), chain.as_bytes());
        tree.write(&format!("{stem}.key"), key.to_pem().unwrap().as_bytes());
    }
}

fn validity(days: i64) -> Validity {
    let not_before = UnixTime::from_secs(AT.as_secs() - 3_600);
    Validity {
        not_before,
        not_after: not_before.plus(days * DAY),
    }
}

/// What our own library refuses to issue, OpenSSL issues: a client leaf of the client CA. Its
/// `ca` command is the one that takes dates.
fn openssl_leaf(tree: &Tree, stem: &str, name: &str, key: &str, digest: &str, end: &str) {
    let scratch = tree.path("openssl");
    std::fs::create_dir_all(&scratch).unwrap();
    let own = |name: &str| scratch.join(name).display().to_string();
    let tls = |name: String| {
        tree.path(&format!("server/tls/{name}"))
            .display()
            .to_string()
    };
    std::fs::write(own("index"), "").unwrap();
    let settings = format!(
        "[ca]\ndefault_ca=d\n[d]\ndatabase={}\nnew_certs_dir={}\nrand_serial=yes\npolicy=p\n\
         x509_extensions=x\nunique_subject=no\n[p]\ncommonName=supplied\n\
         [x]\nkeyUsage=critical,digitalSignature,keyEncipherment\nextendedKeyUsage=clientAuth\n\
         authorityKeyIdentifier=keyid\n",
        own("index"),
        scratch.display()
    );
    std::fs::write(own("settings"), settings).unwrap();
    let (key_file, subject) = (tls(format!("{stem}.key")), format!("/CN={name}"));
    let mut make = vec!["req", "-new", "-nodes", "-subj", &subject, "-newkey", key];
    if key == "ec" {
        make.extend(["-pkeyopt", "ec_paramgen_curve:prime256v1"]);
    }
    let request = own("request");
    make.extend(["-keyout", &key_file, "-out", &request]);
    testkit::openssl_ok(&make, b"");
    let (ca, ca_key) = (
        tls("client-ca.crt".to_owned()),
        tls("client-ca.key".to_owned()),
    );
    let (out, config) = (tls(format!("{stem}.crt")), own("settings"));
    let mut sign = vec![
        "ca", "-batch", "-notext", "-config", &config, "-in", &request,
    ];
    sign.extend([
        "-cert", &ca, "-keyfile", &ca_key, "-md", digest, "-out", &out,
    ]);
    sign.extend(["-startdate", "20261122070000Z", "-enddate", end]);
    testkit::openssl_ok(&sign, b"");
    std::fs::set_permissions(Path::new(&key_file), Permissions::from_mode(0o600)).unwrap();
}
