//! How a K3s server reaches its datastore, and with which token: the settings that
//! [`super::K3sConfig`] knows by kind only, whole.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use zeroize::Zeroizing;

use super::Found;
use super::layer::Layer;

/// Endpoint, TLS files and tokens as K3s is given them. They are secret: nothing of them is
/// printed, and there is no Debug.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Connection {
    /// `--datastore-endpoint`, which may hold a password.
    pub endpoint: Option<Found<Zeroizing<String>>>,
    /// `--datastore-cafile`.
    pub ca_file: Option<Found<PathBuf>>,
    /// `--datastore-certfile`.
    pub certificate_file: Option<Found<PathBuf>>,
    /// `--datastore-keyfile`.
    pub key_file: Option<Found<PathBuf>>,
    /// `--token`.
    pub token: Option<Found<Zeroizing<String>>>,
    /// `--token-file`.
    pub token_file: Option<Found<PathBuf>>,
    /// `--server`: this server joins, or joined, others.
    pub server: Option<Found<String>>,
}

/// Values of settings that [`super::Setting`] redacts, the last of each. Not printed.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) struct Secrets(BTreeMap<&'static str, Found<Zeroizing<String>>>);

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// The settings whose values are redacted.
const SECRET: [&str; 2] = ["datastore-endpoint", "token"];

impl Secrets {
    /// Keeps the value if it is one of those that are redacted.
    pub(super) fn keep(&mut self, name: &'static str, value: &str, from: &str) {
        if SECRET.contains(&name) {
            let value = Zeroizing::new(value.to_owned());
            let from = from.to_owned();
            self.0.insert(name, Found { value, from });
        }
    }

    /// Lays others on top.
    pub(super) fn cover(&mut self, over: Self) {
        self.0.extend(over.0);
    }

    fn one(&self, name: &str) -> Option<Found<Zeroizing<String>>> {
        let found = self.0.get(name)?;
        (!found.value.is_empty()).then(|| found.clone())
    }
}

impl Connection {
    /// From the merged layers of a node.
    pub(super) fn of(all: &Layer) -> Self {
        let text = |name: &str| {
            let last = all.settings.get(name)?.values.last()?;
            (!last.value.is_empty()).then(|| last.clone())
        };
        let path = |name: &str| {
            text(name).map(|found| Found {
                value: PathBuf::from(found.value),
                from: found.from,
            })
        };
        Self {
            endpoint: all.secrets.one("datastore-endpoint"),
            ca_file: path("datastore-cafile"),
            certificate_file: path("datastore-certfile"),
            key_file: path("datastore-keyfile"),
            token: all.secrets.one("token"),
            token_file: path("token-file"),
            server: text("server"),
        }
    }
}
