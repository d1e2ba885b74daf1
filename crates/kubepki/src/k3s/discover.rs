//! The pieces of a node's configuration, found on a host.

use std::path::{Path, PathBuf};

use super::config::{ConfigError, K3sConfig};
use super::connection::Connection;
use super::layer::Layer;
use super::unit::{Unit, environment_file};
use crate::host::{Entry, EntryKind, Host, HostError};

/// Where to look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    /// The configuration file if it is given (`--k3s-config`); else what the unit says, else
    /// `/etc/rancher/k3s/config.yaml`. Its `.d` directory belongs to it.
    pub config: Option<PathBuf>,
    /// Directories with units, the first that has one wins.
    pub unit_directories: Vec<PathBuf>,
    /// Units to look for, by name without `.service`, in order.
    pub units: Vec<String>,
}

impl Default for Places {
    /// Where K3s's installer puts things.
    fn default() -> Self {
        let directories = [
            "/etc/systemd/system",
            "/usr/lib/systemd/system",
            "/lib/systemd/system",
        ];
        Self {
            config: None,
            unit_directories: directories.map(PathBuf::from).to_vec(),
            units: ["k3s", "k3s-agent"].map(str::to_owned).to_vec(),
        }
    }
}

/// Reads unit, environment files and configuration files, as far as they exist.
///
/// # Errors
///
/// What cannot be read or understood; a configuration file that was asked for and is missing.
pub async fn discover(host: &dyn Host, places: &Places) -> Result<K3sConfig, ConfigError> {
    let (flags, files, environment) = sources(host, places).await?;
    K3sConfig::merge(flags, files, environment)
}

/// Reads the same for what [`K3sConfig`] holds redacted.
///
/// # Errors
///
/// As [`discover`].
pub async fn discover_connection(
    host: &dyn Host,
    places: &Places,
) -> Result<Connection, ConfigError> {
    let (flags, files, environment) = sources(host, places).await?;
    Ok(Connection::of(&Layer::merge(flags, files, environment)))
}

/// Flags, files in their order, environment.
async fn sources(
    host: &dyn Host,
    places: &Places,
) -> Result<(Layer, Vec<Layer>, Layer), ConfigError> {
    let (flags, environment) = unit_layers(host, places).await?;
    let named = places.config.clone();
    // K3s looks at the variable first here, unlike everywhere else.
    let named = named.or_else(|| environment.config_file().map(PathBuf::from));
    let named = named.or_else(|| flags.config_file().map(PathBuf::from));
    let asked_for = places.config.is_some();
    let path = named.unwrap_or_else(|| PathBuf::from("/etc/rancher/k3s/config.yaml"));
    let mut files = Vec::new();
    match text(host, &path).await? {
        Some(entry) => files.push(layer(&path, &entry)?),
        None if asked_for => {
            return Err(ConfigError::Malformed {
                at: path.display().to_string(),
                detail: "there is no such file".to_owned(),
            });
        }
        None => {}
    }
    let mut directory = path.into_os_string();
    directory.push(".d");
    let directory = PathBuf::from(directory);
    for name in host.list(&directory).await?.unwrap_or_default() {
        let lower = name.to_ascii_lowercase();
        if lower.ends_with(".yaml") || lower.ends_with(".yml") {
            let path = directory.join(name);
            if let Some(entry) = text(host, &path).await? {
                files.push(layer(&path, &entry)?);
            }
        }
    }
    Ok((flags, files, environment))
}

/// The layers of the first unit that exists: its flags and its environment.
async fn unit_layers(host: &dyn Host, places: &Places) -> Result<(Layer, Layer), ConfigError> {
    for name in &places.units {
        for directory in &places.unit_directories {
            let path = directory.join(format!("{name}.service"));
            let Some(entry) = text(host, &path).await? else {
                continue;
            };
            let mut texts = vec![lossy(&entry)];
            // Drop-ins of the administrator count wherever the unit itself lies.
            let mut folders: Vec<&PathBuf> = places.unit_directories.iter().rev().collect();
            folders.dedup();
            for folder in folders {
                texts.extend(drop_ins(host, &folder.join(format!("{name}.service.d"))).await?);
            }
            let unit = Unit::parse(name, texts.iter().map(String::as_str));
            return unit_layer(host, &path, &unit).await;
        }
    }
    Ok((Layer::default(), Layer::default()))
}

async fn drop_ins(host: &dyn Host, directory: &Path) -> Result<Vec<String>, ConfigError> {
    let mut texts = Vec::new();
    for name in host.list(directory).await?.unwrap_or_default() {
        if name.ends_with(".conf")
            && let Some(entry) = text(host, &directory.join(name)).await?
        {
            texts.push(lossy(&entry));
        }
    }
    Ok(texts)
}

async fn unit_layer(
    host: &dyn Host,
    path: &Path,
    unit: &Unit,
) -> Result<(Layer, Layer), ConfigError> {
    let from = path.display().to_string();
    let pairs = unit
        .environment
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()));
    let mut environment = Layer::from_environment(&from, pairs);
    for (file, _) in &unit.environment_files {
        if let Some(entry) = text(host, file).await? {
            let pairs = environment_file(&lossy(&entry));
            let pairs = pairs
                .iter()
                .map(|(name, value)| (name.as_str(), value.as_str()));
            let from = file.display().to_string();
            environment.overlay(Layer::from_environment(&from, pairs));
        }
    }
    let arguments = unit.arguments().map_or(&[][..], |(_, arguments)| arguments);
    Ok((Layer::from_arguments(&from, arguments), environment))
}

fn layer(path: &Path, entry: &Entry) -> Result<Layer, ConfigError> {
    Layer::from_yaml(
        &path.display().to_string(),
        entry.bytes().unwrap_or_default(),
    )
}

/// The file at `path`, links followed; `None` if there is none.
async fn text(host: &dyn Host, path: &Path) -> Result<Option<Entry>, HostError> {
    let mut path = path.to_owned();
    for _ in 0..8 {
        let Some(entry) = host.read(&path).await? else {
            return Ok(None);
        };
        match &entry.kind {
            EntryKind::File(_) => return Ok(Some(entry)),
            EntryKind::Directory => return Ok(None),
            EntryKind::Link(to) => {
                path = path
                    .parent()
                    .map_or_else(|| to.clone(), |parent| parent.join(to));
            }
        }
    }
    Ok(None)
}

fn lossy(entry: &Entry) -> String {
    String::from_utf8_lossy(entry.bytes().unwrap_or_default()).into_owned()
}
