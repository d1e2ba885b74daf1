//! What signs for nodes by K3s's contract (reference section 6.2).

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;

use kubepki::edge::{Clock as _, SystemClock};
use pki::{
    Authority, Certificate, CertificateRequest, DAY, KeyAlgorithm, LeafRequest, PrivateKey,
    Purpose, San, Serial, Validity,
};
use testkit::supervisor::AgentCall;

/// What a server signs with, and what it was asked.
pub struct Signer {
    pub client: Authority,
    pub client_text: Vec<u8>,
    pub server: Authority,
    pub server_text: Vec<u8>,
    pub passwords: Mutex<BTreeMap<String, String>>,
    pub calls: Mutex<Vec<AgentCall>>,
    /// Serves what an old K3s, or a server that lies, would.
    pub wrong: Option<Wrong>,
}

#[derive(Clone, Copy)]
pub enum Wrong {
    SendsKey,
    OtherKey,
    OtherName,
    /// No `::1` in what the kubelet serves: K3s until some release after v1.32.
    OldNames,
    /// The node's name is not among the names.
    NoName,
    /// The third request for a certificate meets a server that is busy.
    BusyOnce,
    /// Every one does.
    Busy,
}

pub fn authority(tls: &Path, name: &str) -> (Authority, Vec<u8>) {
    let text = std::fs::read(tls.join(format!("{name}.crt"))).unwrap();
    let key = std::fs::read(tls.join(format!("{name}.key"))).unwrap();
    let ca = Certificate::all_from_pem(&text).unwrap().remove(0);
    let key = PrivateKey::from_pem(&key).unwrap();
    (Authority::new(ca, key).unwrap(), text)
}

pub fn leaf(
    authority: &Authority,
    subject: (&[&str], &str),
    sans: &[San],
    purpose: Purpose,
    spki_der: &[u8],
) -> Certificate {
    let organizations: Vec<String> = subject.0.iter().map(|&o| o.to_owned()).collect();
    let request = LeafRequest {
        organizations: &organizations,
        common_name: subject.1,
        sans,
        purposes: &[purpose],
        spki_der,
        serial: Serial::random(pki::random).unwrap(),
        validity: Validity {
            not_before: authority.certificate().validity().not_before,
            not_after: SystemClock.now().plus(365 * DAY),
        },
    };
    authority.issue(&request).unwrap()
}

impl Signer {
    /// What K3s says of a password that a node did not give, or that another gave.
    fn refusal(&self, node: &str, password: String) -> Option<(u16, Vec<u8>)> {
        let status = |code, message: &str| {
            let text = format!("{{\"kind\":\"Status\",\"message\":\"{message}\"}}");
            Some((code, text.into_bytes()))
        };
        if password.is_empty() {
            return status(400, "node password not set");
        }
        let mut passwords = self.passwords.lock().unwrap();
        let known = passwords.entry(node.to_owned()).or_insert(password.clone());
        if *known != password || known.len() != 32 {
            let message = format!("unable to verify password for node {node}: hash does not match");
            return status(403, &message);
        }
        None
    }

    pub fn answer(&self, call: &AgentCall) -> (u16, Vec<u8>) {
        self.calls.lock().unwrap().push(call.clone());
        let header = |name: &str| call.headers.get(name).cloned().unwrap_or_default();
        let stem = call.path.trim_start_matches("/v1-k3s/");
        match stem {
            "client-ca.crt" => return (200, self.client_text.clone()),
            "server-ca.crt" => return (200, self.server_text.clone()),
            _ => {}
        }
        let csr = CertificateRequest::from_der(&call.body).unwrap();
        assert!(csr.subject().is_empty() && csr.sans().is_empty());
        assert_eq!(call.method, "POST");
        assert_eq!(call.headers.get("content-type"), None);
        let node = header("k3s-node-name");
        if let Some(refused) = self.refusal(&node, header("k3s-node-password")) {
            return refused;
        }
        let asked = self.calls.lock().unwrap();
        let asked = asked.iter().filter(|it| it.method == "POST").count();
        let is_third = asked == 3;
        if let (Some(Wrong::BusyOnce), true) | (Some(Wrong::Busy), _) = (&self.wrong, is_third) {
            return (429, b"Too many requests, please try again later.".to_vec());
        }
        let own = format!("system:node:{node}");
        let groups = ["system:nodes"];
        let (authority, text, subject): (_, _, (&[&str], &str)) = match stem {
            "serving-kubelet.crt" => (&self.server, &self.server_text, (&[], &node)),
            "client-kubelet.crt" => (&self.client, &self.client_text, (&groups, &own)),
            "client-kube-proxy.crt" => {
                (&self.client, &self.client_text, (&[], "system:kube-proxy"))
            }
            "client-k3s-controller.crt" => (
                &self.client,
                &self.client_text,
                (&[], "system:k3s-controller"),
            ),
            other => panic!("{other}"),
        };
        let subject = match self.wrong {
            Some(Wrong::OtherName) => (subject.0, "somebody"),
            _ => subject,
        };
        let (sans, purpose) = match stem.starts_with("serving") {
            false => (Vec::new(), Purpose::ClientAuth),
            true => {
                let addresses = header("k3s-node-ip");
                let names: &[&str] = match self.wrong {
                    Some(Wrong::OldNames) => &[&node, "localhost", "127.0.0.1"],
                    Some(Wrong::NoName) => &["localhost", "127.0.0.1", "::1"],
                    _ => &[&node, "localhost", "127.0.0.1", "::1"],
                };
                let names = names.iter().copied().chain(addresses.split(','));
                (names.map(San::from_text).collect(), Purpose::ServerAuth)
            }
        };
        let other = PrivateKey::generate(KeyAlgorithm::P256).unwrap();
        let spki = match self.wrong {
            Some(Wrong::OtherKey | Wrong::SendsKey) => other.spki_der(),
            _ => csr.spki_der(),
        };
        let issued = leaf(authority, subject, &sans, purpose, spki);
        let mut body = [issued.to_pem().as_bytes(), text].concat();
        if let Some(Wrong::SendsKey) = self.wrong {
            body.extend_from_slice(other.to_pem().unwrap().as_bytes());
        }
        (200, body)
    }
}
