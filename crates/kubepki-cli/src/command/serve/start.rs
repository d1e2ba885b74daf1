//! Before it listens: alone on the data directory, files made and renewed, datastore open.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use kubepki::datastore::Datastore;
use kubepki::edge::file::make_directory;
use kubepki::host::Attributes;
use kubepki::init::{Spec, make_data_dir};
use kubepki::k3s::Found;
use kubepki_serve::config::Settings as Served;
use pki::San;

use super::commons::{Commons, Followed};
use super::hooks::Hooks;
use super::impatient::Impatient;
use super::renew::{Renewal, finish_own, renewed};
use super::{ServeArgs, bind};
use crate::args::PlanFormat;
use crate::command::init::{self, InitArgs};
use crate::datastore::{Access, open};
use crate::error::CliError;
use crate::k3s::{Settings, running_in};
use crate::rke::ClusterArgs;
use crate::serving::Alone;
use crate::world::{World, state_dir};

/// What a server needs to listen.
pub(super) struct Started {
    /// `<data-dir>/server`.
    pub server: PathBuf,
    /// The state directory.
    pub state: PathBuf,
    /// Where to listen.
    pub listen: SocketAddr,
    /// What agents are told.
    pub served: Served,
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
    /// Held while it serves: one server for a data directory.
    pub alone: Alone,
}

/// `own` is the world of what servers share.
pub(super) async fn start(
    world: &World,
    own: World,
    args: &ServeArgs,
) -> Result<Started, CliError> {
    let mut settings = Settings::load(&world.host, &args.site).await?;
    settings.data_dir = std::path::absolute(&settings.data_dir)?;
    let server = settings.data_dir.join("server");
    refuse_k3s(&settings)?;
    let wanted = init_args(args);
    if args
        .endpoint
        .token_files
        .iter()
        .any(|it| it.as_os_str() == "-")
    {
        return Err(CliError::usage(
            "serve reads its token again while it serves: name a file with --token-file",
        ));
    }
    // What cannot be made is said before anything is.
    let spec = init::spec(&wanted, &settings)?;
    make_data_dir(&world.host, &settings.data_dir).await?;
    let state = state_dir(&args.site, &settings.data_dir).path().to_owned();
    if !state.is_dir() {
        make_directory(&state, &Attributes::new(0o700))?;
    }
    let alone = Alone::take(&state)?;
    // A port that somebody has is found out before a cluster is made that nobody wants.
    drop(bind(listen(args, &spec, &settings)).await?);
    if server.join("tls/server-ca.crt").exists() {
        finish_own(world, args).await;
    }
    let commons = Commons::open(own, args, settings.clone()).await?;
    let followed = commons.begin().await?;
    let hooks = Arc::new(Hooks::new(&args.reload, &state));
    let renewal = renewed(world, args, &|services| hooks.foretold(services)).await?;
    let wanted = InitArgs {
        node_name: args
            .node_name
            .clone()
            .or(renewal.node.inventory.node_name()),
        ..wanted
    };
    let spec = init::spec(&wanted, &settings)?;
    Ok(Started {
        listen: listen(args, &spec, &settings),
        served: served(args, &spec, &settings)?,
        lifetime: spec.leaf_lifetime,
        store: datastore(args, &settings, world).await?,
        hooks,
        renewal,
        commons,
        followed,
        server,
        state,
        alone,
    })
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
    let flannel = config.and_then(|it| it.flannel_backend.as_ref());
    let flannel = flannel.map(|it| it.value.clone());
    Ok(Served {
        node_name: node.name.clone(),
        advertise_ip,
        port: spec.https_port,
        sans,
        cluster_cidrs: networks("--cluster-cidr", &pods)?,
        service_cidrs: networks("--service-cidr", &services)?,
        cluster_dns: vec![tenth(node.service_address)],
        cluster_domain: node.cluster_domain.clone(),
        flannel_backend: (args.flannel_backend.clone().or(flannel))
            .unwrap_or_else(|| "vxlan".to_owned()),
        data_dir: settings.data_dir.join("server").display().to_string(),
    })
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
        Some((address, length))
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
    Ok(Arc::new(Impatient(connected.store)))
}
