//! The settings of a node, each with its source.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use super::agents::ForAgents;
use super::layer::{Layer, Setting};
use crate::host::HostError;

/// A value and where it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found<T> {
    /// The value.
    pub value: T,
    /// `/etc/rancher/k3s/config.yaml:12`, `/etc/systemd/system/k3s.service (--tls-san)`, `default`.
    pub from: String,
}

/// What a node's certificates depend on. Secrets are known to be there or not, never by value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct K3sConfig {
    /// `--data-dir`.
    pub data_dir: Found<PathBuf>,
    /// `--tls-san`, comma lists split, in order.
    pub tls_san: Vec<Found<String>>,
    /// `--node-name`; K3s falls back to the host name.
    pub node_name: Option<Found<String>>,
    /// `--node-ip`; K3s falls back to the default route's address.
    pub node_ip: Vec<Found<IpAddr>>,
    /// `--node-external-ip`.
    pub node_external_ip: Vec<Found<IpAddr>>,
    /// `--service-cidr`, as text; the first usable address of the first one is a SAN.
    pub service_cidr: Vec<Found<String>>,
    /// `--cluster-cidr`, as text; empty where it is not given.
    pub cluster_cidr: Vec<Found<String>>,
    /// `--advertise-address`.
    pub advertise_address: Option<Found<IpAddr>>,
    /// `--flannel-backend`.
    pub flannel_backend: Option<Found<String>>,
    /// `--cluster-domain`.
    pub cluster_domain: Found<String>,
    /// `--https-listen-port`.
    pub https_listen_port: Found<u16>,
    /// `--bind-address`.
    pub bind_address: Option<Found<IpAddr>>,
    /// `--write-kubeconfig`.
    pub write_kubeconfig: Found<PathBuf>,
    /// `--write-kubeconfig-mode`: permission bits.
    pub write_kubeconfig_mode: Found<u32>,
    /// `--disable-etcd`.
    pub disable_etcd: Found<bool>,
    /// `--cluster-init`.
    pub cluster_init: Found<bool>,
    /// The kind of `--datastore-endpoint`; `None` if it is not given.
    pub datastore: Option<Found<DatastoreKind>>,
    /// A token or token file is given.
    pub token: Option<Found<()>>,
    /// A separate token or token file for agents is given.
    pub agent_token: Option<Found<()>>,
    /// `--secrets-encryption`.
    pub secrets_encryption: Found<bool>,
    /// `--disable-agent`.
    pub disable_agent: Found<bool>,
    /// `--tls-san-security`: foreign names are kept out of the listener's certificate.
    pub tls_san_security: Found<bool>,
    /// What servers tell agents.
    pub for_agents: ForAgents,
}

/// What `--datastore-endpoint` leads to, by its scheme; the rest of it may hold a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DatastoreKind {
    /// `sqlite://`, or nothing.
    Sqlite,
    /// `http://`, `https://`.
    Etcd,
    /// `postgres://`, `postgresql://`.
    Postgres,
    /// `mysql://`.
    Mysql,
    /// `nats://`.
    Nats,
    /// Something else.
    Other,
}

impl DatastoreKind {
    pub(super) fn of(endpoint: &str) -> Self {
        match endpoint.split_once("://").map(|(scheme, _)| scheme) {
            Some("sqlite") => Self::Sqlite,
            None if endpoint.is_empty() => Self::Sqlite,
            Some("http" | "https") => Self::Etcd,
            Some("postgres" | "postgresql") => Self::Postgres,
            Some("mysql") => Self::Mysql,
            Some("nats") => Self::Nats,
            _ => Self::Other,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Sqlite => "sqlite",
            Self::Etcd => "etcd",
            Self::Postgres => "postgres",
            Self::Mysql => "mysql",
            Self::Nats => "nats",
            Self::Other => "other",
        }
    }

    fn named(name: &str) -> Self {
        let all = [
            Self::Sqlite,
            Self::Etcd,
            Self::Postgres,
            Self::Mysql,
            Self::Nats,
        ];
        all.into_iter()
            .find(|kind| kind.name() == name)
            .unwrap_or(Self::Other)
    }
}

impl K3sConfig {
    /// Lays the sources over each other: `flags` win over `files`, of which the last wins
    /// (`config.yaml` first, then `config.yaml.d` in order of names), those over `environment`,
    /// and what nobody sets has K3s's default.
    ///
    /// Flags that repeat (`--tls-san`) add to what the files say: K3s puts the files' values in
    /// front of its own arguments (`configfilearg/parser.go`), whatever its documentation says.
    ///
    /// # Errors
    ///
    /// A value that K3s could not use either, with its source.
    pub fn merge(
        flags: Layer,
        files: impl IntoIterator<Item = Layer>,
        environment: Layer,
    ) -> Result<Self, ConfigError> {
        Values(Layer::merge(flags, files, environment)).config()
    }
}

/// The merged settings while they are read.
pub(super) struct Values(Layer);

impl Values {
    fn config(&self) -> Result<K3sConfig, ConfigError> {
        let or = |found: Option<Found<String>>, default: &str| {
            found.unwrap_or_else(|| Found::by_default(default.to_owned()))
        };
        let path = |found: Found<String>| Found {
            value: PathBuf::from(found.value),
            from: found.from,
        };
        let cidrs = self.list("service-cidr");
        Ok(K3sConfig {
            data_dir: path(or(self.one("data-dir"), "/var/lib/rancher/k3s")),
            tls_san: self.list("tls-san"),
            node_name: self.one("node-name"),
            node_ip: self.addresses("node-ip")?,
            node_external_ip: self.addresses("node-external-ip")?,
            service_cidr: match cidrs.is_empty() {
                true => vec![Found::by_default("10.43.0.0/16".to_owned())],
                false => cidrs,
            },
            cluster_cidr: self.list("cluster-cidr"),
            advertise_address: self.parsed("advertise-address", "an IP address", |text| {
                text.parse().ok()
            })?,
            flannel_backend: self.one("flannel-backend"),
            cluster_domain: or(self.one("cluster-domain"), "cluster.local"),
            https_listen_port: self
                .parsed("https-listen-port", "a port", |text| {
                    text.parse().ok().filter(|port| *port != 0)
                })?
                .unwrap_or_else(|| Found::by_default(6443)),
            bind_address: self.parsed("bind-address", "an IP address", |text| text.parse().ok())?,
            write_kubeconfig: path(or(
                self.one("write-kubeconfig"),
                "/etc/rancher/k3s/k3s.yaml",
            )),
            write_kubeconfig_mode: self
                .parsed("write-kubeconfig-mode", "a mode in octal", |text| {
                    u32::from_str_radix(text, 8)
                        .ok()
                        .filter(|mode| *mode <= 0o7777)
                })?
                .unwrap_or_else(|| Found::by_default(0o600)),
            disable_etcd: self.switch("disable-etcd", false)?,
            cluster_init: self.switch("cluster-init", false)?,
            datastore: self.one("datastore-endpoint").map(|found| Found {
                value: DatastoreKind::named(&found.value),
                from: found.from,
            }),
            token: self.presence(["token", "token-file"]),
            agent_token: self.presence(["agent-token", "agent-token-file"]),
            secrets_encryption: self.switch("secrets-encryption", false)?,
            disable_agent: self.switch("disable-agent", false)?,
            tls_san_security: self.switch("tls-san-security", true)?,
            for_agents: ForAgents::of(self)?,
        })
    }

    fn setting(&self, name: &str) -> Option<&Setting> {
        self.0.settings.get(name)
    }

    /// The last value; an empty one is none.
    pub(super) fn one(&self, name: &str) -> Option<Found<String>> {
        let last = self.setting(name)?.values.last();
        last.filter(|found| !found.value.is_empty()).cloned()
    }

    /// All values, comma lists split.
    fn list(&self, name: &str) -> Vec<Found<String>> {
        let mut all = Vec::new();
        for found in self
            .setting(name)
            .iter()
            .flat_map(|setting| &setting.values)
        {
            let split = found.value.split(',').map(str::trim);
            all.extend(split.filter(|value| !value.is_empty()).map(|value| Found {
                value: value.to_owned(),
                from: found.from.clone(),
            }));
        }
        all
    }

    pub(super) fn addresses(&self, name: &'static str) -> Result<Vec<Found<IpAddr>>, ConfigError> {
        let parse = |found: Found<String>| match found.value.parse() {
            Ok(value) => Ok(Found {
                value,
                from: found.from,
            }),
            Err(_) => Err(unusable(name, "an IP address", found)),
        };
        self.list(name).into_iter().map(parse).collect()
    }

    pub(super) fn parsed<T>(
        &self,
        name: &'static str,
        wanted: &'static str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<Found<T>>, ConfigError> {
        let Some(found) = self.one(name) else {
            return Ok(None);
        };
        match parse(&found.value) {
            Some(value) => Ok(Some(Found {
                value,
                from: found.from,
            })),
            None => Err(unusable(name, wanted, found)),
        }
    }

    /// A boolean as Go's strconv.ParseBool reads it.
    pub(super) fn switch(
        &self,
        name: &'static str,
        default: bool,
    ) -> Result<Found<bool>, ConfigError> {
        let found = self.parsed(name, "true or false", |text| match text {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
            // YAML 1.1's words, which K3s's reader turns into the above.
            "yes" | "Yes" | "YES" | "on" | "On" | "ON" | "y" | "Y" => Some(true),
            "no" | "No" | "NO" | "off" | "Off" | "OFF" | "n" | "N" => Some(false),
            _ => None,
        })?;
        Ok(found.unwrap_or_else(|| Found::by_default(default)))
    }

    fn presence(&self, names: [&str; 2]) -> Option<Found<()>> {
        let found = names.iter().find_map(|name| self.one(name))?;
        Some(Found {
            value: (),
            from: found.from,
        })
    }
}

impl<T> Found<T> {
    /// What K3s takes where nobody says anything.
    pub(super) fn by_default(value: T) -> Self {
        Self {
            value,
            from: "default".to_owned(),
        }
    }
}

fn unusable(name: &'static str, wanted: &'static str, found: Found<String>) -> ConfigError {
    ConfigError::Unusable {
        at: found.from,
        name,
        value: found.value,
        wanted,
    }
}

impl<T: fmt::Display> fmt::Display for Found<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.value, self.from)
    }
}

/// The configuration could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Not what it should be.
    #[error("{at}: {detail}")]
    Malformed {
        /// Path and line.
        at: String,
        /// What is wrong.
        detail: String,
    },
    /// A value that K3s could not use either.
    #[error("{at}: {name} is {value:?}, which is not {wanted}")]
    Unusable {
        /// Where it is written.
        at: String,
        /// The setting.
        name: &'static str,
        /// Its value.
        value: String,
        /// What it should be.
        wanted: &'static str,
    },
    /// A file or directory could not be read.
    #[error("the configuration of K3s cannot be read")]
    Host(#[from] HostError),
}
