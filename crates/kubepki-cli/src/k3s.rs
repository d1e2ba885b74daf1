//! K3s's own configuration, as far as it decides what a command touches.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use kubepki::catalogue::Release;
use kubepki::cluster::NodeSpec;
use kubepki::host::Host;
use kubepki::inventory::Site;
use kubepki::k3s::{Connection, K3sConfig, Places, discover, discover_connection};
use kubepki::plan::{PlanError, can_be_carried};
use pki::San;

use crate::args::SiteArgs;
use crate::error::CliError;
use crate::output;
use crate::world::resolved;

/// What the configuration says about the node that is looked at.
#[derive(Clone)]
pub struct Settings {
    /// The data directory, links resolved.
    pub data_dir: PathBuf,
    /// The data directory that K3s's configuration names, links resolved.
    pub configured: PathBuf,
    /// The administrator's kubeconfig, if it belongs to that directory.
    pub admin_kubeconfig: Option<PathBuf>,
    /// Names that the configuration asks for.
    pub tls_sans: Vec<San>,
    /// The node, if the configuration names it.
    pub node: Option<NodeSpec>,
    /// `--cluster-domain`.
    pub cluster_domain: String,
    /// The first usable address of the first service CIDR.
    pub service_address: IpAddr,
    /// The configuration whole, if it belongs to that directory.
    pub config: Option<K3sConfig>,
    /// How K3s reaches its datastore, likewise; nothing otherwise.
    pub connection: Connection,
}

impl Settings {
    /// Reads K3s's configuration and decides which node is meant.
    ///
    /// The configuration counts only for the data directory that it names, or when it was named
    /// itself: a copied tree must not be given the names of the machine that it lies on.
    ///
    /// # Errors
    ///
    /// When the configuration cannot be understood.
    pub async fn load(host: &dyn Host, site: &SiteArgs) -> Result<Self, CliError> {
        let places = Places {
            config: site.k3s_config.clone(),
            ..Places::default()
        };
        let config = discover(host, &places).await?;
        let configured = resolved(&config.data_dir.value);
        let data_dir = match &site.data_dir {
            Some(named) => resolved(named),
            None => configured.clone(),
        };
        let ours = data_dir == configured || site.k3s_config.is_some();
        let admin_kubeconfig = match &site.kubeconfig {
            Some(named) => Some(resolved(named)),
            None if data_dir == configured => Some(config.write_kubeconfig.value.clone()),
            None => None,
        };
        let mut settings = Self {
            data_dir,
            admin_kubeconfig,
            tls_sans: Vec::new(),
            node: None,
            cluster_domain: config.cluster_domain.value.clone(),
            service_address: service_address(&config)?,
            configured,
            config: None,
            connection: Connection::default(),
        };
        if ours {
            let names = config
                .tls_san
                .iter()
                .map(|found| San::from_text(&found.value));
            let (good, bad): (Vec<_>, Vec<_>) = names.partition(can_be_carried);
            settings.tls_sans = good;
            for name in bad.iter().map(ToString::to_string) {
                let bad = PlanError::BadName { name };
                output::talk(&format!(
                    "Note: tls-san of K3s's configuration is left out: {bad}"
                ));
            }
            settings.node = config.node_name.as_ref().map(|name| NodeSpec {
                name: name.value.to_lowercase(),
                addresses: config.node_ip.iter().map(|found| found.value).collect(),
                external_addresses: config
                    .node_external_ip
                    .iter()
                    .map(|found| found.value)
                    .collect(),
                tls_sans: config
                    .tls_san
                    .iter()
                    .map(|found| found.value.clone())
                    .collect(),
                ..settings.unnamed_node()
            });
            settings.config = Some(config);
            settings.connection = discover_connection(host, &places).await?;
        }
        Ok(settings)
    }

    /// The port of supervisor and API server.
    pub fn https_port(&self) -> u16 {
        let configured = self.config.as_ref().map(|it| it.https_listen_port.value);
        configured.unwrap_or(kubepki::init::HTTPS_PORT)
    }

    /// A node of which only the cluster is known.
    pub fn unnamed_node(&self) -> NodeSpec {
        NodeSpec {
            name: "localhost".to_owned(),
            addresses: Vec::new(),
            external_addresses: Vec::new(),
            tls_sans: self.tls_sans.iter().map(ToString::to_string).collect(),
            cluster_domain: self.cluster_domain.clone(),
            service_address: self.service_address,
        }
    }
}

fn service_address(config: &K3sConfig) -> Result<IpAddr, CliError> {
    let Some(cidr) = config.service_cidr.first() else {
        return Ok(IpAddr::V4(Ipv4Addr::new(10, 43, 0, 1)));
    };
    kubepki::init::service_address(&cidr.value)
        .map_err(|error| CliError::message(format!("{}: {error}", cidr.from)))
}

/// A running K3s.
#[derive(Debug)]
pub struct Running {
    /// `k3s server` or `k3s agent`.
    pub name: String,
    /// Its process.
    pub pid: u32,
}

/// The K3s that runs on this data directory, as far as `/proc` tells.
///
/// K3s changes its title to `k3s server` without its flags, so a process without `--data-dir` in
/// its arguments is taken to work on the `configured` one.
pub fn running(site: &Site, configured: &Path) -> Option<Running> {
    running_in(&site.data_dir, configured)
}

/// The same for a data directory that may hold nothing.
pub fn running_in(data_dir: &Path, configured: &Path) -> Option<Running> {
    std::fs::read_dir("/proc")
        .ok()?
        .flatten()
        .find_map(|entry| {
            let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
            let arguments = std::fs::read(entry.path().join("cmdline")).ok()?;
            let arguments = String::from_utf8_lossy(&arguments).into_owned();
            let words: Vec<&str> = arguments
                .split(['\0', ' '])
                .filter(|word| !word.is_empty())
                .collect();
            let program = Path::new(words.first()?).file_name()?.to_str()?;
            let role = words.get(1).copied().unwrap_or_default();
            if program != "k3s" || !matches!(role, "server" | "agent") {
                return None;
            }
            let named = words.iter().enumerate().find_map(|(index, word)| {
                word.strip_prefix("--data-dir=").or_else(|| {
                    matches!(*word, "--data-dir" | "-d").then(|| words.get(index + 1).copied())?
                })
            });
            let works_in =
                named.map_or_else(|| configured.to_owned(), |it| resolved(Path::new(it)));
            (works_in == data_dir).then(|| Running {
                name: format!("k3s {role}"),
                pid,
            })
        })
}

/// Whether K3s starts on this data directory: its unit or OpenRC's script is on this machine and
/// means it, or it runs.
pub fn starts_in(data_dir: &Path, configured: &Path) -> bool {
    let places = Places::default();
    let units = places.unit_directories.iter().flat_map(|folder| {
        let units = places.units.iter();
        units.map(|unit| folder.join(format!("{unit}.service")))
    });
    let scripts = places
        .units
        .iter()
        .map(|unit| Path::new("/etc/init.d").join(unit));
    let is_installed = data_dir == configured && units.chain(scripts).any(|it| it.is_file());
    is_installed || running_in(data_dir, configured).is_some()
}

/// The release of the K3s that is installed here, as its program tells.
pub async fn installed(host: &dyn Host) -> Option<Release> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/local/bin", "/usr/bin", "/opt/bin"].map(PathBuf::from);
    let program = std::env::split_paths(&path)
        .chain(usual)
        .filter(|folder| folder.is_absolute())
        .map(|folder| folder.join("k3s"))
        .find(|program| program.is_file())?;
    let asked = [program.to_str()?.to_owned(), "--version".to_owned()];
    let output = host.run(&asked, PATIENCE).await.ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    // k3s version v1.36.3+k3s1 (0123abcd)
    let (_, told) = text.split_once("k3s version ")?;
    told.split_whitespace().next()?.parse().ok()
}

/// How long a program may take to tell its version.
const PATIENCE: Duration = Duration::from_secs(10);
