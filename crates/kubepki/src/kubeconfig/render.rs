//! Kubeconfigs as K3s writes them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

/// A kubeconfig of K3s's own components, which names files: `server/cred/*.kubeconfig` and
/// `agent/*.kubeconfig`. The form has not changed between v1.21 and v1.36.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reference<'a> {
    /// URL of the API server or of the agent's load balancer: `https://127.0.0.1:6444`.
    pub server: &'a str,
    /// Path of the trust bundle.
    pub authority: &'a str,
    /// Path of the client certificate.
    pub certificate: &'a str,
    /// Path of its key.
    pub key: &'a str,
}

/// The text of a component's kubeconfig, byte for byte as K3s's template gives it. K3s quotes
/// nothing; a path that YAML would read as something else is quoted here.
pub fn render_reference(reference: &Reference<'_>) -> String {
    let Reference {
        server,
        authority,
        certificate,
        key,
    } = reference;
    format!(
        "apiVersion: v1\nclusters:\n- cluster:\n    server: {}\n    certificate-authority: {}\n  \
         name: local\ncontexts:\n- context:\n    cluster: local\n    namespace: default\n    \
         user: user\n  name: Default\ncurrent-context: Default\nkind: Config\npreferences: {{}}\n\
         users:\n- name: user\n  user:\n    client-certificate: {}\n    client-key: {}\n",
        scalar(server),
        scalar(authority),
        scalar(certificate),
        scalar(key),
    )
}

/// A kubeconfig that carries its certificates: K3s's `k3s.yaml`, or one for a person.
#[derive(Clone, Copy)]
pub struct Inline<'a> {
    /// Name of cluster, user and context; K3s's is `default`.
    pub name: &'a str,
    /// URL of the API server.
    pub server: &'a str,
    /// PEM of the trust bundle.
    pub authority: &'a [u8],
    /// PEM of the client certificate and its chain.
    pub certificate: &'a [u8],
    /// PEM of its key.
    pub key: &'a [u8],
    /// Whether there is a line `preferences: {}`: v1.21 writes it, v1.36 (whose client-go leaves
    /// out empty preferences) does not.
    pub preferences: bool,
}

/// The text of a kubeconfig that carries its certificates, as client-go writes it.
pub fn render_inline(inline: &Inline<'_>) -> Zeroizing<Vec<u8>> {
    let key = Zeroizing::new(STANDARD.encode(inline.key));
    let name = scalar(inline.name);
    let head = format!(
        "apiVersion: v1\nclusters:\n- cluster:\n    certificate-authority-data: {}\n    \
         server: {}\n  name: {name}\ncontexts:\n- context:\n    cluster: {name}\n    user: {name}\n  \
         name: {name}\ncurrent-context: {name}\nkind: Config\n{}users:\n- name: {name}\n  user:\n    \
         client-certificate-data: {}\n    client-key-data: ",
        STANDARD.encode(inline.authority),
        scalar(inline.server),
        if inline.preferences {
            "preferences: {}\n"
        } else {
            ""
        },
        STANDARD.encode(inline.certificate),
    );
    let mut text = Zeroizing::new(Vec::with_capacity(head.len() + key.len() + 1));
    text.extend_from_slice(head.as_bytes());
    text.extend_from_slice(key.as_bytes());
    text.push(b'\n');
    text
}

/// A string as a YAML scalar: plain where every reader takes it for this string, else quoted.
fn scalar(text: &str) -> String {
    let word = text
        .chars()
        .next()
        .is_some_and(|first| first.is_ascii_alphabetic() || first == '/')
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "/.-_:@[]+,=%~ ".contains(c))
        && !text.contains(": ")
        && !text.ends_with([':', ' '])
        && !RESERVED
            .iter()
            .any(|reserved| text.eq_ignore_ascii_case(reserved));
    if word {
        return text.to_owned();
    }
    // JSON's quoted form is YAML's double-quoted one.
    serde_json::Value::from(text).to_string()
}

/// Words that YAML 1.1 readers take for booleans or null.
const RESERVED: [&str; 9] = ["true", "false", "yes", "no", "on", "off", "y", "n", "null"];
