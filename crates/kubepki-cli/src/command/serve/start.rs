//! Before it listens: alone on the data directory, files made and renewed, datastore open.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kubepki::datastore::Datastore;
use kubepki::edge::file::make_directory;
use kubepki::host::Attributes;
use kubepki::init::{Spec, make_data_dir};
use kubepki::k3s::{ForAgents, Found, K3sConfig};
use kubepki::log::{Log, Options, stored_head};
use kubepki_serve::config::{Flags, Settings as Served};
use pki::San;

use super::commons::{Commons, Followed};
use super::hooks::Hooks;
use super::impatient::Impatient;
use super::records::Records;
use super::renew::{Renewal, finish_own, renewed};
use super::{ServeArgs, bind, tell};
use crate::args::PlanFormat;
use crate::command::init::{self, InitArgs};
use crate::command::log::folder;
use crate::datastore::{Access, open};
use crate::error::CliError;
use crate::k3s::{Settings, running_in};
use crate::rke::ClusterArgs;
use crate::serving::Alone;
use crate::world::{Node, World, state_dir};

/// What a server needs to listen.
pub(super) struct Started {
    /// `<data-dir>/server`.
    pub server: PathBuf,
    /// Where to listen.
    pub listen: SocketAddr,
    /// What agents are told.
    pub served: Served,
    /// The node's own addresses.
    pub addresses: Vec<IpAddr>,
    /// A leaf's lifetime in seconds.
    pub lifetime: i64,
    /// The cluster's datastore.
    pub store: Arc<dyn Datastore>,
    /// What is run after a renewal.
    pub hooks: Arc<Hooks>,
    /// What was renewed, and the node.
    pub renewal: Renewal,
    /// What servers share.
    pub commons: Commons,
    /// What of that is in force.
    pub followed: Followed,
    /// The issuance log.
    pub log: Log,
    /// Held while it serves: one server for a data directory.
    pub alone: Alone,
}

/// `own` is the world of what servers share.
pub(super) async fn start(
    world: &World,
    own: World,
    args: &ServeArgs,
    records: Arc<Records>,
) -> Result<Started, CliError> {
    let mut settings = Settings::load(&world.host, &args.site).await?;
    settings.data_dir = std::path::absolute(&settings.data_dir)?;
    let server = settings.data_dir.join("server");
    refuse_k3s(&settings)?;
    let wanted = init_args(args);
    refuse_standard_input(args)?;
    // What cannot be made is said before anything is.
    let spec = init::spec(&wanted, &settings)?;
    make_data_dir(&world.host, &settings.data_dir).await?;
    let state = made_state(args, &settings)?;
    let alone = Alone::take(&state)?;
    // A port that somebody has is found out before a cluster is made that nobody wants.
    drop(bind(listen(args, &spec, &settings)).await?);
    let has_tree = server.join("tls/server-ca.crt").exists();
    let found = match has_tree {
        true => Node::open(world, &args.site, None, None).await.ok(),
        false => None,
    };
    let hooks = Arc::new(Hooks::new(&args.reload, &state));
    let shared = (Arc::clone(&records), Arc::clone(&hooks));
    let commons = Commons::open(own, args, settings.clone(), shared).await?;
    let wanted = named(wanted, found.as_ref());
    // Before anything is issued.
    let name = init::spec(&wanted, &settings)?.node.name;
    let log = open_log(&state, &name, commons.connected.store.as_ref()).await?;
    records.keep_in(log.clone());
    // A process that ended too early had used leaves that it could not record yet.
    if let Some(node) = &found {
        records.find(&node.inventory);
    }
    if has_tree {
        finish_own(world, args, &records).await;
    }
    let followed = commons.begin().await?;
    let foretold = |services: &_| hooks.foretold(services);
    let renewal = renewed(world, args, &records, &foretold).await?;
    let spec = init::spec(&wanted, &settings)?;
    Ok(Started {
        listen: listen(args, &spec, &settings),
        served: served(args, &spec, &settings)?,
        addresses: spec.node.addresses.clone(),
        lifetime: spec.leaf_lifetime,
        store: datastore(args, &settings, world).await?,
        hooks,
        renewal,
        commons,
        followed,
        log,
        server,
        alone,
    })
}

/// The same for the node that the tree knows, where nobody names it.
pub(super) fn named(wanted: InitArgs, found: Option<&Node>) -> InitArgs {
    let node_name = wanted.node_name.clone();
    InitArgs {
        node_name: node_name.or_else(|| found.and_then(|it| it.inventory.node_name())),
        ..wanted
    }
}

/// The directory of this server's state, made where it is missing.
pub(super) fn made_state(args: &ServeArgs, settings: &Settings) -> Result<PathBuf, CliError> {
    let state = state_dir(&args.site, &settings.data_dir).path().to_owned();
    if !state.is_dir() {
        make_directory(&state, &Attributes::new(0o700))?;
    }
    Ok(state)
}

fn refuse_standard_input(args: &ServeArgs) -> Result<(), CliError> {
    let mut files = args.endpoint.token_files.iter();
    match files.any(|it| it.as_os_str() == "-") {
        true => Err(CliError::usage(
            "serve reads its token again while it serves: name a file with --token-file",
        )),
        false => Ok(()),
    }
}

/// Where to listen.
pub(super) fn listen(args: &ServeArgs, spec: &Spec, settings: &Settings) -> SocketAddr {
    let port = args.https_listen_port.unwrap_or(settings.https_port());
    let all = Ipv6Addr::UNSPECIFIED.into();
    SocketAddr::new(spec.bind_address.unwrap_or(all), port)
}

pub(super) fn refuse_k3s(settings: &Settings) -> Result<(), CliError> {
    match running_in(&settings.data_dir, &settings.configured) {
        Some(process) => Err(CliError::refused(format!(
            "{} runs as {} in {}: two servers on one data directory would tear it apart",
            process.name,
            process.pid,
            settings.data_dir.display()
        ))
        .hint("stop it, or serve another data directory")),
        None => Ok(()),
    }
}

/// What a first start makes: no agent runs here.
pub(super) fn init_args(args: &ServeArgs) -> InitArgs {
    InitArgs {
        node_name: args.node_name.clone(),
        node_ip: args.node_ip.clone(),
        node_external_ip: Vec::new(),
        tls_san: args.tls_san.clone(),
        cluster_domain: args.cluster_domain.clone(),
        service_cidr: args.service_cidr.clone(),
        bind_address: args.bind_address.clone(),
        https_listen_port: args.https_listen_port.filter(|port| *port != 0),
        token_file: args.endpoint.token_files.first().cloned(),
        agent_token_file: None,
        write_kubeconfig: None,
        write_kubeconfig_mode: None,
        with_agent: false,
        disable_agent: true,
        disable_etcd: false,
        complete: false,
        cluster: ClusterArgs::default(),
        site: args.site.clone(),
        yes: true,
        dry_run: false,
        output: PlanFormat::Text,
    }
}

pub(super) fn served(
    args: &ServeArgs,
    spec: &Spec,
    settings: &Settings,
) -> Result<Served, CliError> {
    let node = &spec.node;
    let configured = settings.config.as_ref();
    let configured = configured.and_then(|it| it.advertise_address.as_ref());
    let configured = configured.map(|it| it.value);
    let own = args
        .advertise_address
        .or(configured)
        .or(node.addresses.first().copied());
    let advertise_ip =
        own.ok_or_else(|| CliError::usage("the node has no address: give --node-ip"))?;
    let mut sans = node.server_names();
    sans.extend(node.service_names());
    if !sans.contains(&San::Ip(advertise_ip)) {
        sans.push(San::Ip(advertise_ip));
    }
    let config = settings.config.as_ref();
    let cidrs = |given: &[String], found: Option<&Vec<Found<String>>>, default: &str| {
        let found = found.into_iter().flatten().map(|it| it.value.clone());
        let found: Vec<String> = found.collect();
        match (given.is_empty(), found.is_empty()) {
            (false, _) => given.to_vec(),
            (true, false) => found,
            (true, true) => vec![default.to_owned()],
        }
    };
    let pods = config.map(|it| &it.cluster_cidr);
    let pods = cidrs(&args.cluster_cidr, pods, "10.42.0.0/16");
    let services = config.map(|it| &it.service_cidr);
    let services = cidrs(&args.service_cidr, services, "10.43.0.0/16");
    let secure = config.is_none_or(|it| it.tls_san_security.value);
    let flannel = config.and_then(|it| it.flannel_backend.as_ref());
    let flannel = flannel.map(|it| it.value.clone());
    let service_cidrs = networks("--service-cidr", &services)?;
    Ok(Served {
        node_name: node.name.clone(),
        advertise_ip,
        port: spec.https_port,
        sans,
        san_security: args.tls_san_security.unwrap_or(secure),
        cluster_cidrs: networks("--cluster-cidr", &pods)?,
        flags: config.map_or_else(Flags::default, |it| flags(&it.for_agents)),
        cluster_dns: cluster_dns(config, node.service_address, &service_cidrs),
        service_cidrs,
        cluster_domain: node.cluster_domain.clone(),
        flannel_backend: (args.flannel_backend.clone().or(flannel))
            .unwrap_or_else(|| "vxlan".to_owned()),
        data_dir: settings.data_dir.join("server").display().to_string(),
    })
}

/// What K3s's configuration says, with K3s's own defaults. Tunnels are the one thing that this
/// server has not, whatever K3s's default for them is.
fn flags(given: &ForAgents) -> Flags {
    let text = |found: &Option<Found<String>>| found.as_ref().map(|it| it.value.clone());
    Flags {
        disable_cloud_controller: given.disable_cloud_controller.value,
        disable_network_policy: given.disable_network_policy.value,
        disable_kube_proxy: given.disable_kube_proxy.value,
        disable_helm_controller: given.disable_helm_controller.value,
        embedded_registry: given.embedded_registry.value,
        flannel_ipv6_masq: given.flannel_ipv6_masq.value,
        flannel_external_ip: given.flannel_external_ip.value,
        supervisor_metrics: given.supervisor_metrics.value,
        egress_selector_mode: text(&given.egress_selector_mode)
            .unwrap_or_else(|| Flags::default().egress_selector_mode),
        system_default_registry: text(&given.system_default_registry).unwrap_or_default(),
        node_ports: given.service_node_ports.value,
    }
}

/// `--cluster-dns`, or the tenth address of every network of services; `first` is the first of the
/// first one.
fn cluster_dns(
    config: Option<&K3sConfig>,
    first: IpAddr,
    services: &[(IpAddr, u8)],
) -> Vec<IpAddr> {
    let given = config.map(|it| &it.for_agents.cluster_dns);
    let given = given.into_iter().flatten().map(|it| it.value);
    let given: Vec<IpAddr> = given.collect();
    if !given.is_empty() {
        return given;
    }
    let others = services.iter().skip(1).map(|it| tenth(next(it.0)));
    std::iter::once(tenth(first)).chain(others).collect()
}

/// The network that an address lies in, as Go reads `10.42.7.1/16`.
fn network_of(address: IpAddr, length: u8) -> IpAddr {
    let length = u32::from(length);
    match address {
        IpAddr::V4(it) => {
            let mask = u32::MAX.checked_shl(32 - length).unwrap_or(0);
            IpAddr::V4((it.to_bits() & mask).into())
        }
        IpAddr::V6(it) => {
            let mask = u128::MAX.checked_shl(128 - length).unwrap_or(0);
            IpAddr::V6((it.to_bits() & mask).into())
        }
    }
}

/// The address behind a network's own: its first one.
fn next(network: IpAddr) -> IpAddr {
    match network {
        IpAddr::V4(it) => IpAddr::V4((it.to_bits().saturating_add(1)).into()),
        IpAddr::V6(it) => IpAddr::V6((it.to_bits().saturating_add(1)).into()),
    }
}

/// K3s's DNS service has the tenth address of the services; the first one is `first`.
fn tenth(first: IpAddr) -> IpAddr {
    match first {
        IpAddr::V4(it) => IpAddr::V4((it.to_bits().saturating_add(9)).into()),
        IpAddr::V6(it) => IpAddr::V6((it.to_bits().saturating_add(9)).into()),
    }
}

fn networks(flag: &str, texts: &[String]) -> Result<Vec<(IpAddr, u8)>, CliError> {
    let network = |text: &String| {
        let (address, length) = text.split_once('/')?;
        let address: IpAddr = address.parse().ok()?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let length: u8 = length.parse().ok().filter(|it| *it <= most)?;
        Some((network_of(address, length), length))
    };
    let read = |text| {
        network(text).ok_or_else(|| {
            CliError::usage(format!(
                "{flag} {text:?} is no network; write it as 10.42.0.0/16"
            ))
        })
    };
    texts.iter().map(read).collect()
}

/// A connection of its own for what nodes ask, who do not wait as long as plans do.
async fn datastore(
    args: &ServeArgs,
    settings: &Settings,
    world: &World,
) -> Result<Arc<dyn Datastore>, CliError> {
    let connected = open(&world.host, &args.endpoint, settings, Access::Write).await?;
    Ok(Arc::new(Impatient::new(connected.store)))
}

/// Opens the log of the server `name`, which `store` knows the head of.
async fn open_log(state: &Path, name: &str, store: &dyn Datastore) -> Result<Log, CliError> {
    let known = stored_head(store, name).await;
    let known = known.map_err(|error| CliError::failed(&error))?;
    let options = Options::new(folder(state), name);
    let (log, mended) = Log::open(&options, known.as_ref().map(|(head, _)| head))
        .map_err(|error| CliError::failed(&error))?;
    if let Some(mended) = mended {
        tell(
            "the issuance log was mended after a crash",
            vec![("what", format!("{mended:?}"))],
        );
    }
    Ok(log)
}
