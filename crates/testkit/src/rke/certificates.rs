//! Certificates for a cluster by OpenSSL: for tests of what stands in this folder. A test of
//! kubepki has its own.

use std::path::{Path, PathBuf};

use serde_json::{Map, json};

use super::cluster::{Cluster, write};
use super::layout::Role;
use crate::openssl_ok;

/// Every name that RKE gives kube-apiserver and etcd, addresses apart.
const NAMES: &str = "DNS:localhost,DNS:kubernetes,DNS:kubernetes.default,\
DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local,IP:127.0.0.1,IP:10.43.0.1";

const CLIENT: &str = "extendedKeyUsage=clientAuth";

const BOTH: &str = "extendedKeyUsage=clientAuth,serverAuth";

impl Cluster {
    /// Writes a state file with a first set of certificates into the operator's folder: subjects,
    /// names and usages as RKE's, keys of elliptic curves to save time, a service-account key of
    /// RSA. It holds what [`deploy_state`](Self::deploy_state) reads and no more.
    pub fn make_state(&self, name: &str) -> PathBuf {
        let folder = self.folder().join(format!("{name}-openssl"));
        std::fs::create_dir(&folder)
            .unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let forge = Forge { folder };
        let mut bundle = Map::new();
        let mut add = |name: &str, pair: (String, String), config: bool| {
            let config = if config {
                kubeconfig(name)
            } else {
                String::new()
            };
            let entry = json!({"certificatePEM": pair.0, "keyPEM": pair.1, "config": config});
            bundle.insert(name.to_owned(), entry);
        };
        add("kube-ca", forge.authority("kube-ca"), false);
        let front = "kube-apiserver-requestheader-ca";
        add(front, forge.authority(front), true);
        let mut alt = format!("subjectAltName={NAMES}");
        for node in self.nodes() {
            alt.push_str(&format!(",DNS:{},IP:{}", node.name, node.address));
        }
        let both = [BOTH, alt.as_str()];
        let ca = "kube-ca";
        let server = forge.leaf("kube-apiserver", ca, "/CN=system:kube-apiserver", &both);
        add("kube-apiserver", server, false);
        for (name, subject) in [
            (
                "kube-controller-manager",
                "/CN=system:kube-controller-manager",
            ),
            ("kube-scheduler", "/CN=system:kube-scheduler"),
            ("kube-proxy", "/CN=system:kube-proxy"),
            ("kube-node", "/O=system:nodes/CN=system:node"),
            ("kube-admin", "/O=system:masters/CN=kube-admin"),
        ] {
            add(name, forge.leaf(name, ca, subject, &[CLIENT]), true);
        }
        let name = "kube-apiserver-proxy-client";
        add(
            name,
            forge.leaf(
                name,
                front,
                "/CN=system:kube-apiserver-proxy-client",
                &[CLIENT],
            ),
            true,
        );
        add("kube-service-account-token", forge.service_account(), false);
        for node in self.nodes() {
            if node.has(Role::Etcd) {
                let name = format!("kube-etcd-{}", node.id());
                let subject = format!("/CN=system:{name}");
                add(&name, forge.leaf(&name, ca, &subject, &both), false);
            }
            let name = format!("kube-kubelet-{}", node.id());
            let own = format!("subjectAltName=DNS:{},IP:{}", node.name, node.address);
            let subject = format!("/CN=system:{name}");
            let server = ["extendedKeyUsage=serverAuth", own.as_str()];
            add(&name, forge.leaf(&name, ca, &subject, &server), false);
        }
        let state = json!({"currentState": {"certificatesBundle": bundle}});
        let path = self.folder().join(format!("{name}.rkestate"));
        write(&path, &state.to_string());
        path
    }
}

/// Makes pairs in a folder.
struct Forge {
    folder: PathBuf,
}

impl Forge {
    fn authority(&self, name: &str) -> (String, String) {
        let subject = format!("/CN={name}");
        let usage = "keyUsage=critical,keyCertSign,cRLSign,digitalSignature";
        let extensions = [
            "-addext",
            "basicConstraints=critical,CA:true",
            "-addext",
            usage,
        ];
        self.issue(
            name,
            &subject,
            &["ec", "-pkeyopt", "ec_paramgen_curve:P-256"],
            &extensions,
        )
    }

    fn leaf(&self, name: &str, ca: &str, subject: &str, extensions: &[&str]) -> (String, String) {
        let (cert, key) = (self.path(ca, "pem"), self.path(ca, "key"));
        let mut all = vec!["-CA", text(&cert), "-CAkey", text(&key)];
        all.extend(["-addext", "basicConstraints=critical,CA:false"]);
        all.extend(["-addext", "keyUsage=critical,digitalSignature"]);
        all.extend(extensions.iter().flat_map(|it| ["-addext", it]));
        self.issue(
            name,
            subject,
            &["ec", "-pkeyopt", "ec_paramgen_curve:P-256"],
            &all,
        )
    }

    /// Of RSA, as tokens are; the certificate is of no use.
    fn service_account(&self) -> (String, String) {
        let name = "kube-service-account-token";
        self.issue(name, &format!("/CN={name}"), &["rsa:2048"], &[])
    }

    fn issue(&self, name: &str, subject: &str, kind: &[&str], more: &[&str]) -> (String, String) {
        let (cert, key) = (self.path(name, "pem"), self.path(name, "key"));
        let mut all = vec!["req", "-x509", "-nodes", "-days", "2", "-subj", subject];
        all.extend(["-keyout", text(&key), "-out", text(&cert), "-newkey"]);
        all.extend(kind);
        all.extend(more);
        openssl_ok(&all, b"");
        (read(&cert), read(&key))
    }

    fn path(&self, name: &str, kind: &str) -> PathBuf {
        self.folder.join(format!("{name}.{kind}"))
    }
}

/// As RKE writes it for a component.
fn kubeconfig(name: &str) -> String {
    let ssl = "/etc/kubernetes/ssl";
    format!(
        "apiVersion: v1\nkind: Config\nclusters:\n- cluster:\n    api-version: v1\n    \
certificate-authority: {ssl}/kube-ca.pem\n    server: \"https://127.0.0.1:6443\"\n  name: \"local\"\n\
contexts:\n- context:\n    cluster: \"local\"\n    user: \"{name}-local\"\n  name: \"local\"\n\
current-context: \"local\"\nusers:\n- name: \"{name}-local\"\n  user:\n    \
client-certificate: {ssl}/{name}.pem\n    client-key: {ssl}/{name}-key.pem"
    )
}

fn text(path: &Path) -> &str {
    path.to_str()
        .unwrap_or_else(|| panic!("{} is not UTF-8", path.display()))
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
