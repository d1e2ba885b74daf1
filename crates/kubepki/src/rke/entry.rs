//! An entry of the state file's `certificatesBundle`.

use std::collections::BTreeMap;
use std::fmt;

use pki::{Certificate, PrivateKey};

use super::{Json, Secret, kubeconfig, names};

/// Entries by name, sorted as Go sorts a map.
pub type Bundle = BTreeMap<String, Entry>;

/// The keys of an entry, in RKE's order (`pki/pki.go`).
pub(super) const KEYS: [&str; 12] = [
    "certificatePEM",
    "keyPEM",
    "config",
    "name",
    "commonName",
    "ouName",
    "envName",
    "path",
    "keyEnvName",
    "keyPath",
    "configEnvName",
    "configPath",
];

/// A certificate, its key and what RKE derives from its name. All are strings; what is not there
/// is empty.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Entry {
    /// PEM of the certificate, what follows it included; ends with LF.
    pub certificate_pem: String,
    /// PEM of the key.
    pub key_pem: Secret,
    /// The kubeconfig; the administrator's holds the key.
    pub config: Secret,
    /// The entry's name; empty in entries that came from a cluster of RKE 0.1.
    pub name: String,
    /// Not the certificate's CN: [`state_common_name`].
    pub common_name: String,
    /// The organization, in spite of its name.
    pub ou_name: String,
    /// [`names::env_name`].
    pub env_name: String,
    /// [`names::certificate_path`].
    pub path: String,
    /// [`names::key_env_name`].
    pub key_env_name: String,
    /// [`names::key_path`].
    pub key_path: String,
    /// [`names::config_env_name`], or empty.
    pub config_env_name: String,
    /// [`names::config_path`], or empty; the administrator's is the local file.
    pub config_path: String,
}

/// Where an entry's certificate comes from: RKE fills `commonName` by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Issued by the cluster's own CA.
    Issued,
    /// Read from a directory of custom certificates.
    Custom,
}

impl Entry {
    /// The entry called `name`, complete but for an administrator's kubeconfig
    /// ([`Self::with_admin_config`]).
    pub fn new(name: &str, certificate_pem: &str, key_pem: Secret, origin: Origin) -> Self {
        let mut entry = Self {
            certificate_pem: certificate_pem.to_owned(),
            key_pem,
            name: name.to_owned(),
            common_name: state_common_name(name, origin),
            ou_name: organization(name).to_owned(),
            env_name: names::env_name(name),
            path: names::certificate_path(name),
            key_env_name: names::key_env_name(name),
            key_path: names::key_path(name),
            ..Self::default()
        };
        if names::has_host_config(name) {
            entry.config = Secret::from(kubeconfig::host(name).as_str());
            entry.config_env_name = names::config_env_name(name);
            entry.config_path = names::config_path(name);
        }
        if name == names::KUBE_ADMIN {
            entry.config_env_name = names::config_env_name(name);
        }
        entry
    }

    /// The administrator's entry with its kubeconfig and the local path of that, as the log shows
    /// it: `./kube_config_cluster.yml`.
    #[must_use]
    pub fn with_admin_config(mut self, config: Secret, path: &str) -> Self {
        self.config = config;
        path.clone_into(&mut self.config_path);
        self
    }

    /// The first certificate; RKE takes the first as issuer. `None` when there is no text.
    ///
    /// # Errors
    ///
    /// When the text is not a certificate.
    pub fn certificate(&self) -> Result<Option<Certificate>, pki::Error> {
        let all = self.certificates()?;
        Ok(all.into_iter().next())
    }

    /// Every certificate, in order; none when there is no text.
    ///
    /// # Errors
    ///
    /// When the text is not certificates.
    pub fn certificates(&self) -> Result<Vec<Certificate>, pki::Error> {
        if self.certificate_pem.is_empty() {
            return Ok(Vec::new());
        }
        Certificate::all_from_pem(self.certificate_pem.as_bytes())
    }

    /// The key; `None` when there is no text.
    ///
    /// # Errors
    ///
    /// When the text is not a private key that can be read.
    pub fn key(&self) -> Result<Option<PrivateKey>, pki::Error> {
        if self.key_pem.is_empty() {
            return Ok(None);
        }
        PrivateKey::from_pem(self.key_pem.as_bytes()).map(Some)
    }

    pub(super) fn from_json(value: &Json) -> Self {
        let text = |key| {
            let found = value.get(key).and_then(Json::as_text);
            found.unwrap_or_default().to_owned()
        };
        let secret = |key| {
            let found = value.get(key).and_then(Json::as_text);
            Secret::from(found.unwrap_or_default())
        };
        Self {
            certificate_pem: text("certificatePEM"),
            key_pem: secret("keyPEM"),
            config: secret("config"),
            name: text("name"),
            common_name: text("commonName"),
            ou_name: text("ouName"),
            env_name: text("envName"),
            path: text("path"),
            key_env_name: text("keyEnvName"),
            key_path: text("keyPath"),
            config_env_name: text("configEnvName"),
            config_path: text("configPath"),
        }
    }

    /// Writes the twelve keys into `value`; others that it has stay.
    pub(super) fn write_into(&self, value: &mut Json) {
        let fields: [&str; 12] = [
            &self.certificate_pem,
            &self.key_pem,
            &self.config,
            &self.name,
            &self.common_name,
            &self.ou_name,
            &self.env_name,
            &self.path,
            &self.key_env_name,
            &self.key_path,
            &self.config_env_name,
            &self.config_path,
        ];
        for (key, text) in KEYS.into_iter().zip(fields) {
            value.set(key, Json::text(text), &KEYS);
        }
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Entry({})", self.path)
    }
}

/// What `commonName` holds: `system:` and the entry's name, unless RKE's generator names it.
pub fn state_common_name(entry: &str, origin: Origin) -> String {
    match (entry, origin) {
        (names::KUBE_NODE, _) => "system:node".to_owned(),
        (names::KUBE_ADMIN | names::SERVICE_ACCOUNT_TOKEN, _) | (_, Origin::Custom) => {
            entry.to_owned()
        }
        (_, Origin::Issued) => format!("system:{entry}"),
    }
}

/// What `ouName` holds, and the certificate's O: empty for most.
pub fn organization(entry: &str) -> &'static str {
    match entry {
        names::KUBE_NODE => "system:nodes",
        names::KUBE_ADMIN => "system:masters",
        _ => "",
    }
}
