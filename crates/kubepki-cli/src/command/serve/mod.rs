//! `serve`: the server that agents join and renew at.

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use clap::Args;
use kubepki::edge::{FreshKeys, SystemClock, SystemEntropy};
use kubepki::log::{Log, Options, keep_published, stored_head};
use kubepki_serve::accept::{Limits, Server};
use kubepki_serve::config::Settings as Served;
use kubepki_serve::listener::{Port, Wanted, prepare};
use kubepki_serve::metrics::Metrics;
use kubepki_serve::node::Strictness;
use kubepki_serve::notify::notify;
use kubepki_serve::password::NodePasswords;
use kubepki_serve::renewal::{AGAIN, EVERY, RELOAD, jittered, look, reload};
use kubepki_serve::service::{Line, Loaded, Service};
use kubepki_serve::tls::{Listened, server_config};
use kubepki_serve::tree::Tree;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use self::start::{Started, renewed, start};
use super::log::folder;
use crate::args::SiteArgs;
use crate::datastore::EndpointArgs;
use crate::error::{CliError, Exit};
use crate::output;
use crate::world::World;

mod shared;
mod start;

/// `serve`.
#[derive(Clone, Debug, Args)]
pub struct ServeArgs {
    /// Be as careless as K3s where it is: signatures of requests unchecked, any key, kube-proxy
    /// and controller for every holder of the agent token, servers' addresses for every node,
    /// shared keys for agents that send no request.
    #[arg(long)]
    pub k3s_compatible: bool,
    /// The node's name [default: from the tree, else the host's name].
    #[arg(long, value_name = "NAME")]
    pub node_name: Option<String>,
    /// The node's addresses [default: the one that the default route leaves from].
    #[arg(long, value_name = "IP", value_delimiter = ',')]
    pub node_ip: Vec<String>,
    /// The address that agents are told [default: the first of the node's].
    #[arg(long, value_name = "IP")]
    pub advertise_address: Option<IpAddr>,
    /// The address to listen on [default: all].
    #[arg(long, value_name = "IP")]
    pub bind_address: Option<String>,
    /// The port to listen on [default: 6443]; 0 for any that is free.
    #[arg(long, value_name = "PORT")]
    pub https_listen_port: Option<u16>,
    /// A name or address that the servers' certificates must carry; may be given several times.
    #[arg(long, value_name = "NAME", value_delimiter = ',', value_parser = crate::world::san)]
    pub tls_san: Vec<String>,
    /// The cluster's DNS domain [default: cluster.local].
    #[arg(long, value_name = "DOMAIN")]
    pub cluster_domain: Option<String>,
    /// Addresses of services [default: 10.43.0.0/16].
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    pub service_cidr: Vec<String>,
    /// Addresses of pods.
    #[arg(
        long,
        value_name = "CIDR",
        value_delimiter = ',',
        default_value = "10.42.0.0/16"
    )]
    pub cluster_cidr: Vec<String>,
    /// What agents are told of flannel.
    #[arg(long, value_name = "NAME", default_value = "vxlan")]
    pub flannel_backend: String,
    #[command(flatten)]
    pub endpoint: EndpointArgs,
    #[command(flatten)]
    pub site: SiteArgs,
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
    let started = start(args).await?;
    let strictness = match args.k3s_compatible {
        true => Strictness::K3sCompatible,
        false => Strictness::Strict,
    };
    let tree = Tree::load(&started.server, strictness).map_err(|e| CliError::failed(&e))?;
    let listener = bind(&started).await?;
    let served = Served {
        port: listener.local_addr()?.port(),
        ..started.served.clone()
    };
    let port = port(&tree, &served, &started)?;
    let (log, trouble) = open_log(&started).await?;
    let keeper = tokio::spawn({
        let (log, store) = (log.clone(), Arc::clone(&started.store));
        async move { keep_published(&log, store, PUBLISH, trouble).await }
    });
    let service = Arc::new(service(tree, served, &started, &log, strictness)?);
    count(&service, &started, &port);
    let listened = Arc::new(Listened::new(port.certified));
    let tls = server_config(Arc::clone(&listened))
        .map_err(|error| CliError::message(format!("TLS cannot be set up: {error}")))?;
    announce(&listener, &service, port.issued);
    let renewing = keep_fresh(args, &service, &listened);
    let server = Server {
        service: Arc::clone(&service),
        tls: Arc::new(tls),
        limits: Limits::default(),
    };
    tell_systemd("READY=1");
    tokio::select! {
        served = server.run(listener, stopped()?) => served?,
        () = renewing => {}
    }
    log.close().await;
    // The head of what was issued last goes into the datastore, unless that is away.
    let _ = tokio::time::timeout(Duration::from_secs(5), keeper).await;
    say(&Line {
        message: "stopped",
        fields: Vec::new(),
    });
    Ok(Exit::Fine)
}

/// For as long as it is asked to: takes up what changes on the disk (every half minute, or at
/// once with SIGHUP), renews the node's leaves and the listener's certificate when they are due.
/// CAs are never touched.
async fn keep_fresh(args: &ServeArgs, service: &Arc<Service>, listened: &Arc<Listened>) {
    let world = World::real();
    let mut hangup = signal(SignalKind::hangup()).ok();
    let mut left = jittered(EVERY, &SystemEntropy);
    loop {
        let pause = RELOAD.min(left);
        tokio::select! {
            () = tokio::time::sleep(pause) => left = left.saturating_sub(pause),
            Some(()) = async { hangup.as_mut()?.recv().await } => {}
        }
        let mut failures: Vec<String> = Vec::new();
        match reload(service) {
            Ok(false) if !left.is_zero() => continue,
            Ok(_) => {}
            Err(error) => failures.push(kubepki::error_chain(&error)),
        }
        if left.is_zero()
            && let Err(error) = renewed(&world, args).await
        {
            failures.push(error.message);
        }
        if let Err(error) = look(service, listened, &FreshKeys) {
            failures.push(kubepki::error_chain(&error));
        }
        if left.is_zero() {
            let next = if failures.is_empty() { EVERY } else { AGAIN };
            left = jittered(next, &SystemEntropy);
        }
        for reason in failures {
            say(&Line {
                message: "renewal failed and is tried again",
                fields: vec![("reason", reason)],
            });
        }
    }
}

async fn bind(started: &Started) -> Result<TcpListener, CliError> {
    let address = started.listen;
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

fn port(tree: &Tree, served: &Served, started: &Started) -> Result<Port, CliError> {
    let wanted = Wanted {
        sans: &served.sans,
        lifetime: started.lifetime,
        now: kubepki::edge::Clock::now(&SystemClock),
        entropy: &SystemEntropy,
        keys: &FreshKeys,
    };
    prepare(tree, &wanted).map_err(|error| CliError::failed(&error))
}

type Trouble = fn(&kubepki::log::HeadError);

async fn open_log(started: &Started) -> Result<(Log, Trouble), CliError> {
    let name = &started.served.node_name;
    let known = stored_head(started.store.as_ref(), name).await;
    let known = known.map_err(|error| CliError::failed(&error))?;
    let options = Options::new(folder(&started.state), name.clone());
    let (log, mended) = Log::open(&options, known.as_ref().map(|(head, _)| head))
        .map_err(|error| CliError::failed(&error))?;
    if let Some(mended) = mended {
        say(&Line {
            message: "the issuance log was mended after a crash",
            fields: vec![("what", format!("{mended:?}"))],
        });
    }
    let trouble: Trouble = |error| {
        say(&Line {
            message: "the head of the issuance log is not in the datastore",
            fields: vec![("reason", kubepki::error_chain(error))],
        });
    };
    Ok((log, trouble))
}

fn service(
    tree: Tree,
    served: Served,
    started: &Started,
    log: &Log,
    strictness: Strictness,
) -> Result<Service, CliError> {
    let key = || {
        let mut key = [0; 32];
        pki::random(&mut key).map(|()| key)
    };
    let failed = |error: pki::Error| CliError::failed(&error);
    let loaded = Loaded::new(tree, &served, &key().map_err(failed)?);
    Ok(Service {
        settings: served,
        strictness,
        leaf_lifetime: started.lifetime,
        tree: RwLock::new(Arc::new(loaded)),
        throttle: Mutex::default(),
        passwords: NodePasswords::new(&key().map_err(failed)?),
        datastore: Arc::clone(&started.store),
        log: Arc::new(log.clone()),
        clock: Arc::new(SystemClock),
        entropy: Arc::new(SystemEntropy),
        journal: Arc::new(say),
        metrics: Metrics::default(),
    })
}

/// K3s's gauge for every certificate of the node.
fn count(service: &Service, started: &Started, port: &Port) {
    let now = service.clock.now();
    let named = |certificate: &pki::Certificate| {
        let usages = certificate.purposes().iter().map(|purpose| match purpose {
            pki::Purpose::ServerAuth => "ServerAuth",
            pki::Purpose::ClientAuth => "ClientAuth",
            _ => "Any",
        });
        let usages = match certificate.is_ca() {
            true => "CertSign".to_owned(),
            false => usages.collect::<Vec<_>>().join(","),
        };
        let left = certificate.validity().remaining(now);
        let subject = certificate.subject().to_string();
        service.metrics.expires(subject, usages, left);
    };
    started.certificates.iter().for_each(named);
    named(&port.leaf);
}

fn announce(listener: &TcpListener, service: &Service, issued: Option<&str>) {
    if let Some(why) = issued {
        say(&Line {
            message: "the listener's certificate was issued",
            fields: vec![("because", why.to_owned())],
        });
    }
    let address = listener.local_addr().map(|it: SocketAddr| it.to_string());
    say(&Line {
        message: "serving",
        fields: vec![
            ("address", address.unwrap_or_default()),
            ("node", service.settings.node_name.clone()),
            ("rules", format!("{:?}", service.strictness)),
        ],
    });
}

/// Done when the process is told to end.
fn stopped() -> Result<impl Future<Output = ()>, CliError> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tell_systemd("STOPPING=1");
        say(&Line {
            message: "stopping",
            fields: Vec::new(),
        });
    })
}

fn tell_systemd(state: &str) {
    let socket: Option<OsString> = std::env::var_os("NOTIFY_SOCKET");
    if let Err(error) = notify(socket.as_deref(), state) {
        output::talk(&format!("Note: systemd was not told {state}: {error}"));
    }
}

/// The same in parts.
fn tell(message: &str, fields: Vec<(&str, String)>) {
    say(&Line { message, fields });
}

/// One line of JSON on standard error.
fn say(line: &Line<'_>) {
    let now = kubepki::edge::Clock::now(&SystemClock);
    let mut members = serde_json::Map::new();
    members.insert("time".to_owned(), now.to_string().into());
    members.insert("message".to_owned(), line.message.into());
    for (name, value) in &line.fields {
        members.insert((*name).to_owned(), value.as_str().into());
    }
    output::talk(&serde_json::Value::Object(members).to_string());
}
