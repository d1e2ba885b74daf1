//! The world as a command finds it: clock, host, node, state directory.

use std::path::{Path, PathBuf};
use std::time::Duration;

use kubepki::apply::{Executor, Observer, Patience};
use kubepki::ca::outer_authorities;
use kubepki::catalogue::{K3S, Release, ReleaseError};
use kubepki::cluster::{NodeSpec, Policy, Wishes};
use kubepki::edge::{Clock, FreshKeys, SystemClock, SystemEntropy};
use kubepki::host::LocalHost;
use kubepki::inventory::{DetectedRelease, Inventory, Site, collect};
use kubepki::plan::Step;
use kubepki::state::{Locked, StateDir};
use pki::{DAY, San, UnixTime};

use crate::args::{LeafArgs, NameArgs, SiteArgs};
use crate::error::CliError;
use crate::k3s::{Settings, installed, starts_in};
use crate::output;

/// Clock, host, randomness: built once.
#[derive(Debug)]
pub struct World {
    /// This machine.
    pub host: LocalHost,
    /// The time; fixed by `--at`.
    pub clock: Box<dyn Clock>,
    /// Whether the time is made up.
    pub hypothetical: bool,
    /// Random bytes.
    pub entropy: SystemEntropy,
    /// New keys.
    pub keys: FreshKeys,
}

impl World {
    /// The real one.
    pub fn real() -> Self {
        Self {
            host: LocalHost,
            clock: Box::new(SystemClock),
            hypothetical: false,
            entropy: SystemEntropy,
            keys: FreshKeys,
        }
    }

    /// The real one at another moment.
    pub fn at(moment: UnixTime) -> Self {
        let clock = Box::new(kubepki::edge::FixedClock(moment));
        Self {
            clock,
            hypothetical: true,
            ..Self::real()
        }
    }

    /// Now.
    pub fn now(&self) -> UnixTime {
        self.clock.now()
    }

    /// An executor on `state` that waits `restart_timeout` seconds for a restart's proofs.
    pub fn patient_executor<'a>(&'a self, state: &'a Locked, restart_timeout: u64) -> Executor<'a> {
        Executor {
            patience: Patience {
                proof: Duration::from_secs(restart_timeout),
                ..Patience::default()
            },
            ..self.executor(state)
        }
    }

    /// Says each step on standard error.
    pub fn teller(&self) -> &'static dyn Observer {
        &Teller
    }

    /// An executor on `state`.
    pub fn executor<'a>(&'a self, state: &'a Locked) -> Executor<'a> {
        Executor {
            host: &self.host,
            state,
            clock: self.clock.as_ref(),
            entropy: &self.entropy,
            keys: &self.keys,
            observer: &Teller,
            patience: Patience::default(),
            cluster: None,
            caller: None,
            machines: None,
            kubernetes: None,
        }
    }
}

/// A moment as `--at` takes it: RFC 3339.
///
/// # Errors
///
/// With an example when it is not one.
pub fn moment(text: &str) -> Result<UnixTime, CliError> {
    text.parse::<jiff::Timestamp>()
        .map(|at| UnixTime::from_secs(at.as_second()))
        .map_err(|_| {
            CliError::usage(format!(
                "{text:?} is not a moment; write it as 2027-01-31T12:00:00Z"
            ))
        })
}

/// A name or address for a certificate, as flags take it.
///
/// # Errors
///
/// When no certificate could carry it.
pub fn san(text: &str) -> Result<String, String> {
    match kubepki::plan::can_be_carried(&San::from_text(text)) {
        true => Ok(text.to_owned()),
        false => Err(kubepki::plan::PlanError::BadName {
            name: text.to_owned(),
        }
        .to_string()),
    }
}

/// The URL of an API server, as flags take it.
///
/// # Errors
///
/// When it is none.
pub fn server_url(text: &str) -> Result<String, String> {
    let host = text.strip_prefix("https://").unwrap_or_default();
    let plain = host.bytes().all(|byte| byte.is_ascii_graphic());
    match plain && !host.is_empty() && !host.starts_with(['/', ':']) {
        true => Ok(text.to_owned()),
        false => Err("write it as https://HOST:6443".to_owned()),
    }
}

/// A node, looked at.
#[derive(Debug)]
pub struct Node {
    /// What is.
    pub inventory: Inventory,
    /// What is wanted.
    pub wishes: Wishes,
    /// Names that K3s's configuration asks for.
    pub configured_sans: Vec<San>,
    /// The data directory that K3s's configuration names.
    pub configured: PathBuf,
    /// Lifetimes and keys.
    pub policy: Policy,
    /// Where plans are kept.
    pub state: StateDir,
}

impl Node {
    /// Finds and reads the node that the arguments name.
    ///
    /// # Errors
    ///
    /// When there is none, or a value cannot be understood.
    pub async fn open(
        world: &World,
        site: &SiteArgs,
        names: Option<&NameArgs>,
        leaves: Option<&LeafArgs>,
    ) -> Result<Self, CliError> {
        let settings = Settings::load(&world.host, site).await?;
        let mut opened = Site::open(
            &world.host,
            &settings.data_dir,
            settings.admin_kubeconfig.clone(),
        )
        .await?;
        opened.has_k3s |= starts_in(&opened.data_dir, &settings.configured);
        let mut inventory = collect(&world.host, &opened, &K3S, world.now()).await;
        if let Some(text) = &site.k3s_version {
            let release: Release = text
                .parse()
                .map_err(|error: ReleaseError| CliError::usage(error.to_string()))?;
            inventory.release = DetectedRelease::Known(release);
        } else if settings.config.is_some()
            && !takes_outer_authorities(inventory.release)
            && let Some(release) = installed(&world.host).await
            && !outer_authorities(release)
        {
            // Files tell the oldest that it can be; what it cannot do depends on what it is.
            inventory.release = DetectedRelease::Known(release);
        }
        let wishes = wishes(&settings, names, &inventory)?;
        let policy = policy(leaves, inventory.release)?;
        let state = state_dir(site, &opened.data_dir);
        Ok(Self {
            inventory,
            wishes,
            configured: settings.configured,
            configured_sans: settings.tls_sans,
            policy,
            state,
        })
    }
}

/// Whether files prove a K3s that takes CAs under other CAs.
fn takes_outer_authorities(release: DetectedRelease) -> bool {
    match release {
        DetectedRelease::Known(release) | DetectedRelease::AtLeast(release) => {
            outer_authorities(release)
        }
        DetectedRelease::Unknown => false,
    }
}

/// The state directory, without looking at the node.
pub fn state_dir(site: &SiteArgs, data_dir: &Path) -> StateDir {
    match &site.state_dir {
        Some(path) => StateDir::new(path.clone()),
        None => StateDir::of_data_dir(data_dir),
    }
}

fn wishes(
    settings: &Settings,
    names: Option<&NameArgs>,
    inventory: &Inventory,
) -> Result<Wishes, CliError> {
    let mut add_sans = settings.tls_sans.clone();
    let mut drop_sans = Vec::new();
    let mut node = settings.node.clone();
    if let Some(names) = names {
        add_sans.extend(names.tls_san.iter().map(|name| San::from_text(name)));
        drop_sans.extend(names.tls_san_drop.iter().map(|name| San::from_text(name)));
        let addressed = !names.node_ip.is_empty() || !names.node_external_ip.is_empty();
        if names.node_name.is_some() || addressed {
            let known = inventory.node_name();
            node = Some(named(settings, names, node, known)?);
        }
    }
    // What the configuration still asks for cannot be dropped on the command line alone: K3s
    // would add it again. The plan's notes say so; here the command line wins.
    add_sans.retain(|san| !drop_sans.contains(san));
    Ok(Wishes {
        node,
        add_sans,
        drop_sans,
        release: inventory.release,
    })
}

/// The node as flags describe it: its name from them, the configuration or its certificates.
fn named(
    settings: &Settings,
    names: &NameArgs,
    node: Option<NodeSpec>,
    known: Option<String>,
) -> Result<NodeSpec, CliError> {
    let flag = names.node_name.as_ref().map(|name| name.to_lowercase());
    let mut spec = match (flag, node) {
        (Some(name), node) => NodeSpec {
            name,
            ..node.unwrap_or_else(|| settings.unnamed_node())
        },
        (None, Some(node)) => node,
        (None, None) => NodeSpec {
            name: known.ok_or_else(|| {
                CliError::usage("no certificate tells the node's name; give --node-name too")
            })?,
            ..settings.unnamed_node()
        },
    };
    if !names.node_ip.is_empty() {
        spec.addresses = names.node_ip.clone();
    }
    if !names.node_external_ip.is_empty() {
        spec.external_addresses = names.node_external_ip.clone();
    }
    Ok(spec)
}

fn policy(leaves: Option<&LeafArgs>, release: DetectedRelease) -> Result<Policy, CliError> {
    let mut policy = Policy::k3s(release);
    if let Some(days) = lifetime_from_environment()? {
        policy = policy.lasting(days * DAY);
    }
    if let Some(leaves) = leaves {
        policy.keep_key = leaves.keep_key;
        if let Some(days) = leaves.window {
            policy.window = i64::from(days) * DAY;
        }
    }
    Ok(policy)
}

/// K3s's `CATTLE_NEW_SIGNED_CERT_EXPIRATION_DAYS`, within reason: 1 to 3650 days.
pub fn lifetime_from_environment() -> Result<Option<i64>, CliError> {
    const NAME: &str = "CATTLE_NEW_SIGNED_CERT_EXPIRATION_DAYS";
    let Some(value) = std::env::var_os(NAME) else {
        return Ok(None);
    };
    value
        .to_str()
        .and_then(|text| text.parse().ok())
        .filter(|days| (1..=3650).contains(days))
        .map(Some)
        .ok_or_else(|| CliError::usage(format!("{NAME} must be a number of days from 1 to 3650")))
}

/// Links in the path of a directory, resolved once.
pub fn resolved(path: &Path) -> PathBuf {
    std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

/// Says each step as it is done.
#[derive(Clone, Copy, Debug)]
struct Teller;

impl Observer for Teller {
    fn begin(&self, _step: &Step) {}

    fn done(&self, step: &Step) {
        output::talk(&format!(
            "done {}: {}",
            step.number,
            kubepki::plan::headline(step)
        ));
    }
}
