//! What must hold of each leaf after a change.

use std::collections::{BTreeMap, BTreeSet};

use kubepki::catalogue::{K3S, Kind};
use kubepki::cluster::{Leaf, Wishes, k3s_keeps, want};
use kubepki::edge::{Clock, SystemClock};
use kubepki::host::LocalHost;
use kubepki::inventory::{Inventory, Site, collect};
use kubepki::listener::Listener;
use pki::{Certificate, DAY, PrivateKey, San};

use super::{Node, go_accepts};

/// Pairs below `data/` without their extension, the CA's file that they are held to, and what
/// they are for.
pub const LEAVES: &[(&str, &str, &str)] = &[
    ("server/tls/client-admin", "client-ca", "client"),
    ("server/tls/client-supervisor", "client-ca", "client"),
    ("server/tls/client-controller", "client-ca", "client"),
    ("server/tls/client-scheduler", "client-ca", "client"),
    ("server/tls/client-kube-apiserver", "client-ca", "client"),
    (
        "server/tls/client-k3s-cloud-controller",
        "client-ca",
        "client",
    ),
    ("server/tls/client-kube-proxy", "client-ca", "client"),
    ("server/tls/client-k3s-controller", "client-ca", "client"),
    (
        "server/tls/client-auth-proxy",
        "request-header-ca",
        "client",
    ),
    ("server/tls/serving-kube-apiserver", "server-ca", "server"),
    (
        "server/tls/kube-scheduler/kube-scheduler",
        "server-ca",
        "server",
    ),
    (
        "server/tls/kube-controller-manager/kube-controller-manager",
        "server-ca",
        "server",
    ),
    ("server/tls/etcd/client", "etcd/server-ca", "client"),
    ("server/tls/etcd/server-client", "etcd/server-ca", "both"),
    ("server/tls/etcd/peer-server-client", "etcd/peer-ca", "both"),
    ("agent/client-kubelet", "client-ca", "client"),
    ("agent/serving-kubelet", "server-ca", "server"),
    ("agent/client-kube-proxy", "client-ca", "client"),
    ("agent/client-k3s-controller", "client-ca", "client"),
];
/// The dynamic listener's file below `data/`.
pub const LISTENER: &str = "server/tls/dynamic-cert.json";

/// What a node held before a change.
pub struct Before {
    files: BTreeMap<String, Vec<u8>>,
    inventory: Inventory,
}

impl Before {
    /// Looks at the node.
    pub fn of(node: &Node) -> Self {
        Self {
            files: node.contents(),
            inventory: inventory(node),
        }
    }

    /// The bytes of a file.
    pub fn file(&self, path: &str) -> &[u8] {
        &self.files[path]
    }

    /// The first certificate of a file.
    pub fn leaf(&self, path: &str) -> Certificate {
        first(self.file(path))
    }
}

/// Every leaf of `changed` has a fresh certificate that says what the old one said, with a new
/// key or, if `keeps_key`, the old one; K3s would keep it; OpenSSL and Go accept it.
#[track_caller]
pub fn assert_fresh(node: &Node, before: &Before, changed: &BTreeSet<String>, keeps_key: bool) {
    let mut questions = Vec::new();
    for (pair, authority, purpose) in LEAVES {
        let file = format!("data/{pair}.crt");
        if !changed.contains(&file) {
            continue;
        }
        let key = format!("data/{pair}.key");
        let new = assert_same_words(node, before, &file);
        let old = before.leaf(&file);
        assert_eq!(old.spki_der() == new.spki_der(), keeps_key, "{file}");
        let pem = std::fs::read(node.path(&key)).unwrap();
        assert!(
            pem.starts_with(b"-----BEGIN EC PRIVATE KEY-----\n"),
            "{key}"
        );
        let private = PrivateKey::from_pem(&pem).unwrap();
        assert_eq!(private.spki_der(), new.spki_der(), "{key}");
        let authority = node.text_path(&format!("data/server/tls/{authority}.crt"));
        assert_openssl_accepts(&node.text_path(&file), &authority, purpose);
        let (file, key) = (node.text_path(&file), node.text_path(&key));
        questions.push(format!("pair {file} {key} {authority} {purpose}"));
    }
    for kubeconfig in ["extra/k3s.yaml", "extra/kubeconfig.yaml"] {
        if changed.contains(kubeconfig) {
            let authority = node.text_path("data/server/tls/client-ca.crt");
            questions.push(format!(
                "kubeconfig {} {authority}",
                node.text_path(kubeconfig)
            ));
            assert_kubeconfig_follows(node, kubeconfig);
        }
    }
    let listener = format!("data/{LISTENER}");
    if changed.contains(&listener) {
        assert_listener_fresh(node, before, keeps_key);
        let authority = node.text_path("data/server/tls/server-ca.crt");
        questions.push(format!(
            "listener {} {authority}",
            node.text_path(&listener)
        ));
    }
    if !questions.is_empty() {
        go_accepts(&questions);
    }
    assert_k3s_keeps(node, before, changed);
}

/// The new certificate differs from the old one in serial number, dates and key at most.
#[track_caller]
fn assert_same_words(node: &Node, before: &Before, file: &str) -> Certificate {
    let old = before.leaf(file);
    let new = first(&std::fs::read(node.path(file)).unwrap());
    assert_ne!(old.serial().to_string(), new.serial().to_string(), "{file}");
    assert_eq!(old.subject().der(), new.subject().der(), "{file}");
    assert_eq!(old.issuer().der(), new.issuer().der(), "{file}");
    let aki =
        |certificate: &Certificate| certificate.authority_key_identifier().map(<[u8]>::to_vec);
    assert_eq!(aki(&old), aki(&new), "{file}");
    // K3s writes an address twice when the node's own is one of the fixed ones; once is enough.
    let mut names: Vec<San> = Vec::new();
    for san in old.sans() {
        if !names.contains(san) {
            names.push(san.clone());
        }
    }
    assert_eq!(names, new.sans(), "{file}");
    assert_eq!(old.purposes(), new.purposes(), "{file}");
    let now = SystemClock.now();
    assert!(new.validity().not_before <= now, "{file}");
    assert!(new.validity().not_after.since(now) > 364 * DAY, "{file}");
    new
}

fn assert_openssl_accepts(file: &str, authority: &str, purpose: &str) {
    let purposes: &[&str] = match purpose {
        "client" => &["sslclient"],
        "server" => &["sslserver"],
        _ => &["sslclient", "sslserver"],
    };
    for purpose in purposes {
        let args = [
            "verify",
            "-purpose",
            purpose,
            "-CAfile",
            authority,
            "-untrusted",
            file,
            file,
        ];
        testkit::openssl_ok(&args, b"");
    }
}

fn assert_kubeconfig_follows(node: &Node, kubeconfig: &str) {
    let bytes = std::fs::read(node.path(kubeconfig)).unwrap();
    let parsed = kubepki::kubeconfig::Kubeconfig::parse(&bytes).unwrap();
    let user = parsed.users.into_iter().next().unwrap();
    let Some(kubepki::kubeconfig::Placement::Inline(pem)) = user.certificate else {
        panic!("{kubeconfig} inlines no certificate");
    };
    let file = std::fs::read(node.path("data/server/tls/client-admin.crt")).unwrap();
    assert_eq!(first(&pem).der(), first(&file).der(), "{kubeconfig}");
}

#[track_caller]
fn assert_listener_fresh(node: &Node, before: &Before, keeps_key: bool) {
    let file = format!("data/{LISTENER}");
    let old = Listener::parse(before.file(&file)).unwrap();
    let new = listener(node);
    let leaf = |listener: &Listener| listener.certificates().unwrap().swap_remove(0);
    let names = |listener: &Listener| -> BTreeSet<String> {
        leaf(listener).sans().iter().map(San::to_string).collect()
    };
    assert_eq!(names(&old), names(&new));
    assert_eq!(old.sans, new.sans);
    assert_eq!(leaf(&old).subject().der(), leaf(&new).subject().der());
    assert_eq!(leaf(&old).purposes(), leaf(&new).purposes());
    assert_eq!(leaf(&old).spki_der() == leaf(&new).spki_der(), keeps_key);
    assert_ne!(
        leaf(&old).serial().to_string(),
        leaf(&new).serial().to_string()
    );
    // Everything else of the Secret stays: name, uid, managed fields.
    let strip = |bytes: &[u8]| {
        let mut value: serde_json::Value = serde_json::from_slice(bytes).unwrap();
        value["data"] = serde_json::Value::Null;
        value["metadata"]["annotations"]["listener.cattle.io/fingerprint"] = "".into();
        value
    };
    let after = std::fs::read(node.path(&file)).unwrap();
    assert_eq!(strip(before.file(&file)), strip(&after));
}

/// K3s's start-up rule, held against what the leaf should say: that of before the change.
#[track_caller]
fn assert_k3s_keeps(node: &Node, before: &Before, changed: &BTreeSet<String>) {
    let after = inventory(node);
    let now = SystemClock.now();
    let root = node.root();
    for observed in &after.rows {
        let Kind::Leaf(spec) = &observed.row.kind else {
            continue;
        };
        let path = observed.file.path.strip_prefix(&root).unwrap();
        if !changed.contains(path.to_str().unwrap()) {
            continue;
        }
        let wishes = Wishes {
            node: None,
            add_sans: Vec::new(),
            drop_sans: Vec::new(),
            release: before.inventory.release,
        };
        let want = want(&before.inventory, observed.row, spec, &wishes).unwrap();
        let leaf = Leaf {
            certificate: observed.file.first_certificate().unwrap(),
            authority: &after.authority(spec.authority)[0],
        };
        assert_eq!(k3s_keeps(leaf, &want, now, 120 * DAY), Ok(()), "{path:?}");
    }
}

/// The listener's Secret as it is now.
pub fn listener(node: &Node) -> Listener {
    let path = node.path(&format!("data/{LISTENER}"));
    Listener::parse(&std::fs::read(path).unwrap()).unwrap()
}

/// The first certificate of PEM text.
pub fn first(pem: &[u8]) -> Certificate {
    Certificate::all_from_pem(pem).unwrap().swap_remove(0)
}

/// The first certificate of a node's file.
pub fn leaf(node: &Node, below: &str) -> Certificate {
    first(&std::fs::read(node.path(below)).unwrap())
}

/// What the library sees of the node now.
pub fn inventory(node: &Node) -> Inventory {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let kubeconfig = node.kubeconfig().map(|path| node.path(path));
        let site = Site::open(&LocalHost, &node.data_dir(), kubeconfig)
            .await
            .unwrap();
        collect(&LocalHost, &site, &K3S, SystemClock.now()).await
    })
}
