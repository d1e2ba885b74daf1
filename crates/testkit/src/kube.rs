//! Secrets of bootstrap tokens and nodes as kube-apiserver keeps them, built field by field (Kubernetes'
//! `generated.proto` files), and encrypted by OpenSSL.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use crate::opinion::openssl_ok;

/// A `v1.Secret`.
#[derive(Clone, Debug)]
pub struct KubeSecret {
    /// Its name.
    pub name: String,
    /// Its type.
    pub kind: String,
    /// Its data.
    pub data: Vec<(String, Vec<u8>)>,
    /// Whether it awaits its removal.
    pub is_deleted: bool,
}

impl KubeSecret {
    /// What `k3s token create` makes, with that expiration or none.
    pub fn bootstrap_token(id: &str, secret: &str, expiration: Option<&str>) -> Self {
        let made = Self {
            name: format!("bootstrap-token-{id}"),
            kind: "bootstrap.kubernetes.io/token".to_owned(),
            data: Vec::new(),
            is_deleted: false,
        };
        made.with(
            "auth-extra-groups",
            Some("system:bootstrappers:k3s:default-node-token"),
        )
        .with("description", Some("rack 7"))
        .with("expiration", expiration)
        .with("token-id", Some(id))
        .with("token-secret", Some(secret))
        .with("usage-bootstrap-authentication", Some("true"))
        .with("usage-bootstrap-signing", Some("true"))
    }

    /// What K3s's servers make when a node comes first (reference section 5.8).
    pub fn node_password(node: &str, hash: &str) -> Self {
        let made = Self {
            name: format!("{node}.node-password.k3s"),
            kind: "k3s.cattle.io/node-password".to_owned(),
            data: Vec::new(),
            is_deleted: false,
        };
        made.with("hash", Some(hash))
    }

    /// The same with another value, or without it.
    #[must_use]
    pub fn with(mut self, key: &str, value: Option<&str>) -> Self {
        self.data.retain(|(own, _)| own != key);
        let value = value.map(|value| (key.to_owned(), value.as_bytes().to_vec()));
        self.data.extend(value);
        self.data.sort();
        self
    }

    /// Its key in the datastore.
    pub fn key(&self) -> String {
        format!("/registry/secrets/kube-system/{}", self.name)
    }

    /// As kube-apiserver writes it.
    pub fn protobuf(&self) -> Vec<u8> {
        let deleted = match self.is_deleted {
            true => field(9, &[8, 1]),
            false => Vec::new(),
        };
        let metadata = [
            field(1, self.name.as_bytes()),
            field(2, b""),
            field(3, b"kube-system"),
            // A generation, a creation time, managed fields: nobody looks at them.
            vec![0x38, 0],
            field(8, &[8, 1, 16, 0]),
            deleted,
            field(17, b"\x0a\x03k3s"),
        ];
        let entries = self.data.iter().flat_map(|(key, value)| {
            let entry = [field(1, key.as_bytes()), field(2, value)].concat();
            field(2, &entry)
        });
        let raw = [
            field(1, &metadata.concat()),
            entries.collect(),
            field(3, self.kind.as_bytes()),
        ];
        let types = [field(1, b"v1"), field(2, b"Secret")].concat();
        let unknown = [
            field(1, &types),
            field(2, &raw.concat()),
            field(3, b""),
            field(4, b""),
        ];
        [b"k8s\0", &unknown.concat()[..]].concat()
    }

    /// As kube-apiserver writes it with `--storage-media-type=application/json`.
    pub fn json(&self) -> Vec<u8> {
        let data = self.data.iter();
        let data: Map<String, Value> = data
            .map(|(key, value)| (key.clone(), STANDARD.encode(value).into()))
            .collect();
        let mut metadata = json!({"name": self.name, "namespace": "kube-system", "uid": "1"});
        if let (true, Value::Object(members)) = (self.is_deleted, &mut metadata) {
            let at = "2026-01-01T00:00:00Z";
            members.insert("deletionTimestamp".to_owned(), at.into());
        }
        let whole = json!({"kind": "Secret", "apiVersion": "v1", "metadata": metadata,
            "data": data, "type": self.kind});
        whole.to_string().into_bytes()
    }
}

/// `plain` as kube-apiserver's provider `aescbc` encrypts it with the key `name`.
pub fn aes_cbc(plain: &[u8], name: &str, key: &[u8; 32]) -> Vec<u8> {
    let iv = [3; 16];
    let hex = |bytes: &[u8]| -> String { bytes.iter().map(|it| format!("{it:02x}")).collect() };
    let (key, iv_hex) = (hex(key), hex(&iv));
    let words = ["enc", "-aes-256-cbc", "-K", &key, "-iv", &iv_hex];
    let sealed = openssl_ok(&words, plain).stdout;
    [
        format!("k8s:enc:aescbc:v1:{name}:").as_bytes(),
        &iv,
        &sealed,
    ]
    .concat()
}

/// K3s's `cred/encryption-config.json` with that one key.
pub fn encryption_config(name: &str, key: &[u8; 32]) -> String {
    let providers = json!([
        {"aescbc": {"keys": [{"name": name, "secret": STANDARD.encode(key)}]}},
        {"identity": {}},
    ]);
    json!({"kind": "EncryptionConfiguration", "apiVersion": "apiserver.config.k8s.io/v1",
        "resources": [{"resources": ["secrets"], "providers": providers}]})
    .to_string()
}

/// A length-delimited field.
fn field(number: usize, bytes: &[u8]) -> Vec<u8> {
    [varint(number << 3 | 2), varint(bytes.len()), bytes.to_vec()].concat()
}

fn varint(mut number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let seven = u8::try_from(number & 0x7f).unwrap_or_default();
        number >>= 7;
        if number == 0 {
            bytes.push(seven);
            return bytes;
        }
        bytes.push(seven | 0x80);
    }
}
