//! One source of settings: a YAML file, a command line, an environment.

use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;

use super::config::{ConfigError, DatastoreKind, Found};
use super::connection::Secrets;
use crate::yaml::{Content, Document, Node};

/// The settings of one source, by the long name of K3s's flag.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layer {
    pub(super) settings: BTreeMap<String, Setting>,
    /// What the settings hold redacted, for [`super::Connection`] alone.
    pub(super) secrets: Secrets,
}

/// A setting's values, each with its place. Tokens are kept as `***` and connection strings as the
/// kind of datastore, so nothing secret gets this far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// One, or several where the flag can be repeated; comma lists are not yet split.
    pub values: Vec<Found<String>>,
    /// Adds to the values of the files before (`tls-san+:`) instead of replacing them.
    pub append: bool,
}

impl Layer {
    /// Reads a `config.yaml` or a file of `config.yaml.d`: a mapping of flag names, lists for
    /// flags that repeat, a `+` after the name to append. Settings that have nothing to do with
    /// certificates are passed over.
    ///
    /// # Errors
    ///
    /// Text that is not a YAML mapping, values that are neither text nor lists of text: each with
    /// `path` and line.
    pub fn from_yaml(path: &str, bytes: &[u8]) -> Result<Self, ConfigError> {
        if bytes.trim_ascii().is_empty() {
            return Ok(Self::default());
        }
        let malformed = |line: usize, detail: String| ConfigError::Malformed {
            at: if line == 0 {
                path.to_owned()
            } else {
                format!("{path}:{line}")
            },
            detail,
        };
        let document = match Document::parse(bytes) {
            Ok(document) => document,
            // Nothing but comments.
            Err(error) if error.line == 0 && error.detail == "empty" => return Ok(Self::default()),
            Err(error) => return Err(malformed(error.line, error.detail)),
        };
        let root = &document.root;
        let Content::Map(pairs) = &root.content else {
            if root.is_null() {
                return Ok(Self::default());
            }
            return Err(malformed(
                root.line,
                format!("{}, not a mapping", root.kind()),
            ));
        };
        let mut layer = Self::default();
        for (key, value) in pairs {
            let Some(written) = key.text() else { continue };
            let name = written.strip_suffix('+').unwrap_or(written);
            let Some(name) = long_name(name) else {
                continue;
            };
            let value = document.resolve(value);
            let mut values = Vec::new();
            let items = match &value.content {
                Content::List(items) => items.as_slice(),
                _ => std::slice::from_ref(value),
            };
            for item in items {
                let item: &Rc<Node<'_>> = document.resolve(item);
                match as_k3s_reads(item) {
                    Some(text) => {
                        let from = format!("{path}:{}", item.line);
                        layer.secrets.keep(name, &text, &from);
                        let value = redacted(name, &text);
                        values.push(Found { value, from });
                    }
                    None => {
                        let detail = format!("{written} is {}, not text", item.kind());
                        return Err(malformed(item.line, detail));
                    }
                }
            }
            let append = written.ends_with('+');
            layer.put(name, Setting { values, append });
        }
        Ok(layer)
    }

    /// Reads the arguments behind `k3s server`: `--name=value`, `--name value`, `--switch`, `-d
    /// value`. Flags that have nothing to do with certificates are passed over.
    pub fn from_arguments(from: &str, arguments: &[String]) -> Self {
        let mut layer = Self::default();
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            let Some(flag) = argument
                .strip_prefix("--")
                .or_else(|| argument.strip_prefix('-'))
            else {
                continue;
            };
            let (flag, value) = match flag.split_once('=') {
                Some((flag, value)) => (flag, Some(value)),
                None => (flag, None),
            };
            let Some(name) = long_name(flag) else {
                continue;
            };
            let value = match value {
                Some(value) => value,
                None if SWITCHES.contains(&name) => "true",
                None => match rest.next() {
                    Some(value) => value,
                    None => break,
                },
            };
            let setting = layer
                .settings
                .entry(name.to_owned())
                .or_insert_with(|| Setting {
                    values: Vec::new(),
                    append: LISTS.contains(&name),
                });
            if !LISTS.contains(&name) {
                setting.values.clear();
            }
            let from = format!("{from} (--{name})");
            layer.secrets.keep(name, value, &from);
            let value = redacted(name, value);
            setting.values.push(Found { value, from });
        }
        layer
    }

    /// Reads K3s's environment variables (`K3S_NODE_NAME`, …) from name and value.
    pub fn from_environment<'v>(
        from: &str,
        variables: impl IntoIterator<Item = (&'v str, &'v str)>,
    ) -> Self {
        let mut layer = Self::default();
        for (variable, value) in variables {
            let Some((_, name)) = VARIABLES.iter().find(|(known, _)| *known == variable) else {
                continue;
            };
            if value.is_empty() {
                continue;
            }
            let from = format!("{from} ({variable})");
            layer.secrets.keep(name, value, &from);
            let value = redacted(name, value);
            let value = Found { value, from };
            let setting = Setting {
                values: vec![value],
                append: false,
            };
            layer.put(name, setting);
        }
        layer
    }

    /// All sources laid over each other: see [`super::K3sConfig::merge`].
    pub(super) fn merge(
        flags: Self,
        files: impl IntoIterator<Item = Self>,
        environment: Self,
    ) -> Self {
        let mut from_files = Self::default();
        for file in files {
            from_files.overlay(file);
        }
        let mut all = environment;
        all.cover(from_files);
        all.overlay(flags);
        all
    }

    /// Lays a later file on top: its settings replace, or add where they say so.
    pub(super) fn overlay(&mut self, over: Self) {
        for (name, setting) in over.settings {
            self.put(&name, setting);
        }
        self.secrets.cover(over.secrets);
    }

    /// Puts all of `over` in place of what is here: sources of different kinds are never joined.
    pub(super) fn cover(&mut self, over: Self) {
        self.settings.extend(over.settings);
        self.secrets.cover(over.secrets);
    }

    fn put(&mut self, name: &str, setting: Setting) {
        match self.settings.get_mut(name) {
            Some(old) if setting.append => old.values.extend(setting.values),
            _ => {
                self.settings.insert(name.to_owned(), setting);
            }
        }
    }

    /// The value of `config`, which says where the other files are.
    pub(super) fn config_file(&self) -> Option<&str> {
        self.settings
            .get("config")
            .and_then(|it| it.values.last())
            .map(|found| found.value.as_str())
    }
}

/// A scalar as K3s turns it into a flag's value: its YAML reader (1.1) takes a plain `0644` for an
/// octal number and prints it as 420.
pub(super) fn as_k3s_reads(node: &Node<'_>) -> Option<String> {
    if node.is_null() {
        return Some(String::new());
    }
    let text = node.text()?;
    let plain = matches!(
        &node.content,
        Content::Scalar(_, granit_parser::ScalarStyle::Plain)
    );
    let digits = text
        .strip_prefix('0')
        .filter(|digits| plain && !digits.is_empty());
    let number = digits.and_then(|digits| u64::from_str_radix(digits, 8).ok());
    Some(number.map_or_else(|| text.to_owned(), |number| number.to_string()))
}

fn redacted(name: &str, value: &str) -> String {
    match name {
        "token" | "agent-token" => "***".to_owned(),
        "datastore-endpoint" => DatastoreKind::of(value).to_string(),
        _ => value.to_owned(),
    }
}

/// The long name of a flag that matters here.
fn long_name(flag: &str) -> Option<&'static str> {
    let flag = match flag {
        "c" => "config",
        "d" => "data-dir",
        "i" => "node-ip",
        "o" => "write-kubeconfig",
        "s" => "server",
        "t" => "token",
        other => other,
    };
    LISTS
        .iter()
        .chain(&SWITCHES)
        .chain(&SINGLE)
        .find(|name| **name == flag)
        .copied()
}

/// Flags that can be repeated or hold a comma list.
const LISTS: [&str; 6] = [
    "cluster-dns",
    "tls-san",
    "node-ip",
    "node-external-ip",
    "service-cidr",
    "cluster-cidr",
];

/// Flags that need no value.
const SWITCHES: [&str; 13] = [
    "disable-cloud-controller",
    "disable-network-policy",
    "disable-kube-proxy",
    "disable-helm-controller",
    "embedded-registry",
    "flannel-ipv6-masq",
    "flannel-external-ip",
    "supervisor-metrics",
    "disable-etcd",
    "secrets-encryption",
    "disable-agent",
    "tls-san-security",
    "cluster-init",
];

/// Flags with one value; the last one counts.
const SINGLE: [&str; 22] = [
    "egress-selector-mode",
    "service-node-port-range",
    "system-default-registry",
    "advertise-address",
    "flannel-backend",
    "config",
    "data-dir",
    "node-name",
    "cluster-domain",
    "https-listen-port",
    "bind-address",
    "write-kubeconfig",
    "write-kubeconfig-mode",
    "datastore-endpoint",
    "datastore-cafile",
    "datastore-certfile",
    "datastore-keyfile",
    "server",
    "token",
    "token-file",
    "agent-token",
    "agent-token-file",
];

/// K3s's environment variables and the flags that they stand for.
const VARIABLES: [(&str, &str); 15] = [
    ("K3S_SYSTEM_DEFAULT_REGISTRY", "system-default-registry"),
    ("K3S_CONFIG_FILE", "config"),
    ("K3S_DATA_DIR", "data-dir"),
    ("K3S_NODE_NAME", "node-name"),
    ("K3S_KUBECONFIG_OUTPUT", "write-kubeconfig"),
    ("K3S_KUBECONFIG_MODE", "write-kubeconfig-mode"),
    ("K3S_DATASTORE_ENDPOINT", "datastore-endpoint"),
    ("K3S_DATASTORE_CAFILE", "datastore-cafile"),
    ("K3S_DATASTORE_CERTFILE", "datastore-certfile"),
    ("K3S_DATASTORE_KEYFILE", "datastore-keyfile"),
    ("K3S_URL", "server"),
    ("K3S_TOKEN", "token"),
    ("K3S_TOKEN_FILE", "token-file"),
    ("K3S_AGENT_TOKEN", "agent-token"),
    ("K3S_AGENT_TOKEN_FILE", "agent-token-file"),
];

impl fmt::Display for DatastoreKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
