//! `serve`: the server that agents join and renew at.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use clap::{Args, ValueEnum};
use kubepki::cluster::renewal_window;
use kubepki::datastore::Datastore;
use kubepki::edge::{Clock, FreshKeys, SystemClock, SystemEntropy};
use kubepki::log::{Log, keep_published};
use kubepki_serve::accept::{Limits, Server};
use kubepki_serve::config::Settings as Served;
use kubepki_serve::guess::Proven;
use kubepki_serve::health::Health;
use kubepki_serve::issuance::IssuanceLog;
use kubepki_serve::listener::{WINDOW, Wanted, prepare};
use kubepki_serve::metrics::Metrics;
use kubepki_serve::names::Names;
use kubepki_serve::node::Strictness;
use kubepki_serve::password::NodePasswords;
use kubepki_serve::quiet::Quiet;
use kubepki_serve::service::{Loaded, Service};
use kubepki_serve::tls::{Listened, server_config};
use kubepki_serve::tree::Tree;
use pki::{DAY, San, UnixTime};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

pub use self::commons::{is_of, is_own};
use self::file::with_file;
use self::hooks::ReloadArgs;
use self::keep::{Keeper, Steady, monotonic};
use self::loops::on_a_thread;
use self::records::Records;
use self::start::{Started, start};
use self::take_up::TakeUp;
use self::talk::say;
use self::told::{announce, published, stopped, tell, tell_systemd};
use self::wait::{away, wait};
use crate::args::SiteArgs;
use crate::datastore::EndpointArgs;
use crate::error::{CliError, Exit};
use crate::k3s::Settings;
use crate::world::World;

mod changes;
mod commons;
mod counted;
mod file;
mod hooks;
mod impatient;
mod keep;
mod loops;
mod records;
mod renew;
mod start;
mod take_up;
mod talk;
#[cfg(test)]
mod tests;
mod told;
mod unfollowed;
mod wait;

const TOKEN_FILE: &str = "\
    A file with the server token, which is read again while it serves; may be given several times \
    [default: K3s's own, then what the data directory holds]";

/// `serve`.
#[derive(Clone, Debug, Args)]
#[command(
    mut_arg("token_files", |arg| arg.help(TOKEN_FILE)),
    // It lives on the datastore itself.
    mut_arg("still_for", |arg| arg.hide(true))
)]
pub struct ServeArgs {
    /// Read these flags from a file too, in the spelling of K3s's config.yaml (`node-name: s1`);
    /// what the command line says wins, and lists are joined.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Be as careless as K3s where it is: signatures of requests unchecked, any key, kube-proxy
    /// and controller for every holder of the agent token, servers' addresses for every node,
    /// shared keys for agents that send no request, CA files with the whole chain, and CAs that
    /// come by PUT as if with force.
    #[arg(long)]
    pub k3s_compatible: bool,
    /// The node's name [default: from the tree, else from K3s's configuration, else the host's
    /// name].
    #[arg(long, value_name = "NAME")]
    pub node_name: Option<String>,
    /// The node's addresses [default: K3s's configuration, else the one that the default route
    /// leaves from].
    #[arg(long, value_name = "IP", value_delimiter = ',')]
    pub node_ip: Vec<String>,
    /// The address that agents are told [default: K3s's configuration, else the first of
    /// the node's].
    #[arg(long, value_name = "IP")]
    pub advertise_address: Option<IpAddr>,
    /// The address to listen on [default: K3s's configuration, else all].
    #[arg(long, value_name = "IP")]
    pub bind_address: Option<String>,
    /// The port to listen on [default: K3s's configuration, else 6443]; 0 for any that is free.
    #[arg(long, value_name = "PORT")]
    pub https_listen_port: Option<u16>,
    /// A name or address that the servers' certificates must carry; may be given several times.
    #[arg(long, value_name = "NAME", value_delimiter = ',', value_parser = crate::world::san)]
    pub tls_san: Vec<String>,
    /// Whether the listener's certificate learns only addresses of this machine from connections,
    /// besides what is configured; false lets in what clients say too, up to 128 names
    /// [default: K3s's configuration, else true].
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub tls_san_security: Option<bool>,
    /// The cluster's DNS domain [default: K3s's configuration, else cluster.local].
    #[arg(long, value_name = "DOMAIN")]
    pub cluster_domain: Option<String>,
    /// Addresses of services [default: K3s's configuration, else 10.43.0.0/16].
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    pub service_cidr: Vec<String>,
    /// Addresses of pods [default: K3s's configuration, else 10.42.0.0/16].
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    pub cluster_cidr: Vec<String>,
    /// What agents are told of flannel [default: K3s's configuration, else vxlan].
    #[arg(long, value_name = "NAME")]
    pub flannel_backend: Option<String>,
    /// How CAs are taken up that were changed in the datastore: while it serves, or by a restart
    /// as with K3s; until then the server issues nothing and says so.
    #[arg(long, value_enum, value_name = "HOW", default_value_t = TakeUpMode::Live)]
    pub take_up: TakeUpMode,
    /// Days before its end from which a leaf of this node is renewed [default: K3s's, and a third of
    /// its life at most].
    #[arg(long, value_name = "DAYS")]
    pub window: Option<u32>,
    #[command(flatten)]
    pub reload: ReloadArgs,
    #[command(flatten)]
    pub endpoint: EndpointArgs,
    #[command(flatten)]
    pub site: SiteArgs,
}

/// How changed CAs are taken up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TakeUpMode {
    /// While it serves.
    Live,
    /// When it is restarted.
    Restart,
}

/// How often the head of the issuance log goes into the datastore, where it has moved.
const PUBLISH: Duration = Duration::from_secs(1);

/// `kubepki serve`.
///
/// # Errors
///
/// Before it listens: a refusal where K3s runs, the port or the data directory is taken; a
/// failure where files cannot be used.
pub async fn run(args: &ServeArgs) -> Result<Exit, CliError> {
    let ended = serve(args).await;
    talk::finish();
    ended
}

async fn serve(args: &ServeArgs) -> Result<Exit, CliError> {
    let args = &with_file(args)?;
    hooks::refuse_unusable(&args.reload)?;
    let stopping = stopped()?;
    // From here on it is an order to look again; before, it would end the process.
    let hangup = signal(SignalKind::hangup())?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let records = Records::new(Arc::clone(&clock));
    let opened = loop {
        let Some(args) = wait(&clock, args, &records, &stopping).await? else {
            records.end();
            return Ok(Exit::Fine);
        };
        let opening = open(Arc::clone(&clock), monotonic(), &args, Arc::clone(&records));
        let Some(opening) = unless_stopped(&stopping, opening).await else {
            records.end();
            tell("stopped", Vec::new());
            return Ok(Exit::Fine);
        };
        match opening {
            Ok(opened) => break opened,
            Err(error) => {
                records.let_go().await;
                let settings = Settings::load(&World::real().host, &args.site).await?;
                if away(&args, &settings).await.is_none() {
                    return Err(error);
                }
            }
        }
    };
    announce(&opened);
    let (ended, stop) = watch::channel(false);
    let mut serving = tokio::spawn(opened.server.run(opened.listener, told(stopping)));
    // Who is told that it is ready can read where.
    talk::finish();
    tell_systemd("READY=1");
    // Each by itself: one that waits for a disk holds up no other.
    let mut loops = JoinSet::new();
    loops.spawn(opened.take_up.learning(stop.clone()));
    let (take_up, watching) = (opened.take_up, stop.clone());
    let following = move || take_up.run(watching);
    loops.spawn(on_a_thread("follower", following)?);
    loops.spawn(opened.keeper.on_its_thread(hangup, stop)?);
    hooks::look_for_units(args.reload.clone());
    let served = loop {
        tokio::select! {
            served = &mut serving => break served,
            // They end with the server; one that breaks off leaves nothing that renews or follows.
            Some(ended) = loops.join_next() => ended?,
        }
    };
    let _ = ended.send(true);
    // What is half renewed is finished, if it does not take too long.
    let all = async { while loops.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(LAST_ROUND, all).await;
    records.end();
    served??;
    // The head of what was issued last goes into the datastore, unless that is away.
    let closing = tokio::time::timeout(LAST_HEAD, opened.log.close()).await;
    if closing.is_ok() {
        let _ = tokio::time::timeout(LAST_HEAD, opened.publishing).await;
    }
    let why = "the disk of the issuance log hangs: this process is gone once that goes on";
    let hangs = closing.is_err().then(|| ("reason", why.to_owned()));
    tell("stopped", hangs.into_iter().collect());
    Ok(Exit::Fine)
}

/// What a start came to; `None` where the process was told to end meanwhile. What is half done then
/// has a moment, and is finished by the next start where that is not enough: a start may wait for
/// others for long.
async fn unless_stopped<T>(
    stopping: &watch::Receiver<bool>,
    opening: impl Future<Output = T>,
) -> Option<T> {
    let end = async {
        told(stopping.clone()).await;
        tokio::time::sleep(LAST_MOMENT).await;
    };
    let opened = tokio::select! {
        opened = opening => opened,
        () = end => return None,
    };
    (!*stopping.borrow()).then_some(opened)
}

/// Returns when that is true.
async fn told(mut stopping: watch::Receiver<bool>) {
    let _ = stopping.wait_for(|stop| *stop).await.map(drop);
}

/// For what a start is about, once it is told to end.
const LAST_MOMENT: Duration = Duration::from_secs(2);
/// For the end of a round that has begun.
const LAST_ROUND: Duration = Duration::from_secs(30);
/// For the last head.
const LAST_HEAD: Duration = Duration::from_secs(5);

/// Everything of a server, before the first connection.
struct Opened {
    listener: TcpListener,
    server: Server,
    keeper: Keeper,
    take_up: TakeUp,
    log: Log,
    /// Puts the log's head into the datastore until the log is closed.
    publishing: JoinHandle<()>,
    /// Why the listener's certificate was issued just now.
    issued: Option<&'static str>,
}

/// A clock that several look at.
#[derive(Debug)]
struct Shared(Arc<dyn Clock>);

impl Clock for Shared {
    fn now(&self) -> UnixTime {
        self.0.now()
    }

    fn precise(&self) -> (UnixTime, u32) {
        self.0.precise()
    }

    fn steady(&self) -> Duration {
        self.0.steady()
    }
}

async fn open(
    clock: Arc<dyn Clock>,
    steady: Steady,
    args: &ServeArgs,
    records: Arc<Records>,
) -> Result<Opened, CliError> {
    let world = || World {
        clock: Box::new(Shared(Arc::clone(&clock))),
        ..World::real()
    };
    let mut started = start(&world(), world(), args, Arc::clone(&records)).await?;
    let strictness = args.strictness();
    let tree = Tree::load(&started.server, strictness).map_err(|e| CliError::failed(&e))?;
    let listener = bind(started.listen).await?;
    let listening = listener.local_addr()?;
    started.served.port = listening.port();
    let names = (started.served.sans.as_slice(), args.term(started.lifetime));
    let wanted = wanted(names, clock.now(), &records);
    let port = prepare(&tree, &wanted).map_err(|error| CliError::failed(&error))?;
    let log = started.log.clone();
    let keeping = (world(), Arc::clone(&steady));
    let wired = Wired {
        served: started.served.clone(),
        term: args.term(started.lifetime),
        store: Arc::clone(&started.store),
        log: Arc::new(log.clone()),
        own: Arc::clone(&records),
    };
    let service = Arc::new(service(tree, wired, strictness, Arc::clone(&clock))?);
    service.names.shows(&port.leaf);
    let publishing = tokio::spawn({
        let (log, store) = (log.clone(), Arc::clone(&started.store));
        let service = Arc::clone(&service);
        async move { keep_published(&log, store, PUBLISH, published(&service)).await }
    });
    let addresses = started.addresses.iter().copied();
    addresses.for_each(|it| service.names.arrived(it));
    let listened = Arc::new(Listened::new(port.certified));
    let server = server(Arc::clone(&service), Arc::clone(&listened))?;
    let Started {
        renewal,
        mut alone,
        commons,
        followed,
        hooks,
        ..
    } = started;
    alone.at(listening)?;
    let life = alone.life().to_owned();
    let hands = (Arc::clone(&service), Arc::clone(&listened));
    let mut take_up = TakeUp::new(commons, followed, hands, steady);
    service.cluster.lives_as(&life);
    take_up.life = Some(life);
    take_up.meet().await;
    take_up.learn();
    let mut keeper = Keeper::new(keeping, args.clone(), service, listened, (hooks, records));
    keeper.turn = Arc::clone(&take_up.turn);
    keeper.woken = take_up.wakes.subscribe();
    keeper.commons = Some(Arc::clone(&take_up.commons));
    keeper.begin(&renewal, alone);
    Ok(Opened {
        listener,
        server,
        keeper,
        take_up,
        log,
        publishing,
        issued: port.issued,
    })
}

impl ServeArgs {
    /// How long leaves live that do so for `lifetime` seconds, and when they are due.
    fn term(&self, lifetime: i64) -> Term {
        let days = self.window.map(|days| i64::from(days) * DAY);
        Term {
            lifetime,
            window: days.unwrap_or_else(|| renewal_window(WINDOW, lifetime)),
        }
    }

    fn strictness(&self) -> Strictness {
        match self.k3s_compatible {
            true => Strictness::K3sCompatible,
            false => Strictness::Strict,
        }
    }
}

/// What answers with `service`, and shows what is `listened`.
fn server(service: Arc<Service>, listened: Arc<Listened>) -> Result<Server, CliError> {
    let tls = server_config(listened)
        .map_err(|error| CliError::message(format!("TLS cannot be set up: {error}")))?;
    Ok(Server {
        service,
        tls: Arc::new(tls),
        limits: Limits::default(),
    })
}

async fn bind(address: SocketAddr) -> Result<TcpListener, CliError> {
    let bound = match TcpListener::bind(address).await {
        // A machine without IPv6.
        Err(error)
            if address.ip() == Ipv6Addr::UNSPECIFIED
                && error.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error()) =>
        {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())).await
        }
        bound => bound,
    };
    bound.map_err(|error| {
        let taken = error.kind() == std::io::ErrorKind::AddrInUse;
        let text = format!("cannot listen on {address}: {error}");
        match taken {
            true => CliError::refused(text)
                .hint("K3s or another server has the port: stop it, or give --https-listen-port"),
            false => CliError::message(text),
        }
    })
}

fn wanted<'a>((sans, term): (&'a [San], Term), now: UnixTime, records: &'a Records) -> Wanted<'a> {
    Wanted {
        sans,
        lifetime: term.lifetime,
        window: term.window,
        now,
        entropy: &SystemEntropy,
        keys: &FreshKeys,
        records,
        is_sure: true,
        // One that is being carried out may wait for this start.
        plans: &[],
    }
}

/// A leaf's term, in seconds.
#[derive(Clone, Copy)]
struct Term {
    /// Of a new one.
    lifetime: i64,
    /// Before the end, from which one is due.
    window: i64,
}

/// What a service is made of.
struct Wired {
    served: Served,
    term: Term,
    store: Arc<dyn Datastore>,
    log: Arc<dyn IssuanceLog>,
    own: Arc<Records>,
}

fn service(
    tree: Tree,
    wired: Wired,
    strictness: Strictness,
    clock: Arc<dyn Clock>,
) -> Result<Service, CliError> {
    let key = || {
        let mut key = [0; 32];
        pki::random(&mut key).map(|()| key)
    };
    let failed = |error: pki::Error| CliError::failed(&error);
    let loaded = Loaded::new(tree, &wired.served, &key().map_err(failed)?);
    Ok(Service {
        settings: wired.served,
        strictness,
        leaf_lifetime: wired.term.lifetime,
        leaf_window: wired.term.window,
        tree: RwLock::new(Arc::new(loaded)),
        throttle: Mutex::default(),
        passwords: NodePasswords::new(&key().map_err(failed)?),
        datastore: wired.store,
        log: wired.log,
        own: wired.own,
        clock,
        entropy: Arc::new(SystemEntropy),
        journal: Arc::new(say),
        metrics: Metrics::default(),
        health: Health::default(),
        cluster: Arc::default(),
        names: Names::default(),
        proven: Proven::default(),
        quiet: Quiet::default(),
    })
}
