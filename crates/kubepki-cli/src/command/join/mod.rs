//! `join` and `node renew`: a node's certificates from a server, with keys made here.

mod files;
mod forget;
mod login;
mod obtain;
mod turn;

use std::net::{IpAddr, ToSocketAddrs as _, UdpSocket};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use kubepki::agent::Node;
use kubepki::apply::plan_id;
use kubepki::host::is_directory;
use kubepki::state::StateDir;
use kubepki::token::{Head, Token};
use pki::{Certificate, DAY, PrivateKey, San};

use super::change::{lock, refuse_unfinished};
use super::prepared::{NoFuture, Prepared, RESTART_TIMEOUT, carry_out};
use crate::args::{AskArgs, PlanFormat};
use crate::datastore::named;
use crate::error::{CliError, Exit};
use crate::output;
use crate::world::{World, resolved};

pub use forget::ForgetArgs;

use files::{Files, make_directory, node_password, present_password};
use login::Login;
use obtain::{Asking, Obtained};
use turn::in_turn;

/// What `join` and `node renew` have in common.
#[derive(Clone, Debug, Args)]
pub struct NodeArgs {
    /// A server, https://HOST:6443; with commas or several times, they are tried in turn.
    #[arg(
        long = "server",
        value_name = "URL",
        value_delimiter = ',',
        required = true
    )]
    pub servers: Vec<String>,
    /// The node's addresses, for its kubelet's certificate [default: the one that leads to the
    /// server; of a node that has certificates, theirs].
    #[arg(long, value_name = "IP", value_delimiter = ',')]
    pub node_ip: Vec<IpAddr>,
    /// K3s's data directory on this node.
    #[arg(
        long,
        env = "K3S_DATA_DIR",
        value_name = "DIR",
        default_value = DEFAULT_DATA_DIR
    )]
    pub data_dir: PathBuf,
    /// The file with the node's password, made once [default: /etc/rancher/node/password; for a
    /// data directory that is not K3s's on this machine etc/rancher/node/password below its
    /// agent/].
    #[arg(long, value_name = "FILE")]
    pub node_password_file: Option<PathBuf>,
    /// Where the node's kubeconfigs lead [default: where they led; new ones to the load balancer of
    /// K3s's agent, https://127.0.0.1:6444].
    #[arg(long, value_name = "URL", value_parser = crate::world::server_url)]
    pub kubeconfig_server: Option<String>,
    /// Take the private key of a server that takes no certificate requests (K3s before v1.32):
    /// every node gets the same one.
    #[arg(long)]
    pub take_shared_keys: bool,
    /// Days before the end from which a certificate is renewed [default: 120, and a third of its
    /// life at most].
    #[arg(long, value_name = "DAYS")]
    pub window: Option<u32>,
    /// Seconds in which servers that are away, starting or busy are asked again.
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub patience: u64,
    /// Go on without asking.
    #[arg(long)]
    pub yes: bool,
    /// Say what would be asked for and stop; no server is called.
    #[arg(long)]
    pub dry_run: bool,
}

const DEFAULT_DATA_DIR: &str = "/var/lib/rancher/k3s";
const LOAD_BALANCER: &str = "https://127.0.0.1:6444";

/// `join`.
#[derive(Clone, Debug, Args)]
pub struct JoinArgs {
    /// A file with the token; `-` for standard input.
    #[arg(long, value_name = "FILE")]
    pub token_file: PathBuf,
    /// Take a token without a CA hash, and believe the CA that the first server shows; a node
    /// that has a server-ca.crt believes that alone.
    #[arg(long)]
    pub trust_on_first_use: bool,
    /// The node's name [default: the machine's].
    #[arg(long, value_name = "NAME")]
    pub node_name: Option<String>,
    #[command(flatten)]
    pub node: NodeArgs,
}

/// `node`.
#[derive(Debug, Subcommand)]
pub enum NodeCommand {
    /// Renew this node's certificates: it logs in with the one that it has.
    ///
    /// Needs no token. Only what is due is renewed; keys stay.
    Renew(NodeArgs),
    /// Remove nodes from `kubepki serve`: their names are free, their certificates renew nothing.
    ///
    /// For machines that are gone, and for one that was set up anew, comes with another password
    /// and is refused with "hash does not match". Servers know of it within two seconds.
    Forget(ForgetArgs),
}

/// `kubepki join`.
///
/// # Errors
///
/// When no server gave what was asked for, or a file cannot be written.
pub async fn join(args: &JoinArgs) -> Result<Exit, CliError> {
    let world = World::real();
    let text = named(&args.token_file)?;
    let token = Token::parse(&text).map_err(|error| {
        CliError::usage(format!(
            "--token-file {}: {error}",
            args.token_file.display()
        ))
    })?;
    if !token.is_pinned() && !args.trust_on_first_use {
        return Err(CliError::refused(
            "the token names no CA hash, so nothing tells whether the server is the right one",
        )
        .hint("give the full token (K10…), or say --trust-on-first-use"));
    }
    let name = match &args.node_name {
        Some(name) => name.clone(),
        None => rustix::system::uname()
            .nodename()
            .to_string_lossy()
            .into_owned(),
    };
    let files = Files::open(&world, &args.node).await?;
    let addresses = addresses(&args.node, &files);
    let node = Node::new(&name, addresses).map_err(|it| CliError::usage(it.to_string()))?;
    let known = known_authority(&files, &token)?;
    let login = match &known {
        Some(bundle) => Login::Known {
            token: &token,
            bundle,
            file: files.directory.join(SERVER_CA),
        },
        None => Login::Token {
            token: &token,
            trust_on_first_use: args.trust_on_first_use,
        },
    };
    run(&world, &args.node, files, &node, &login).await
}

/// The CA that this node knows its cluster by, for a token that does not pin one (reference
/// section 5.4).
fn known_authority(files: &Files, token: &Token) -> Result<Option<Vec<Certificate>>, CliError> {
    let Some(text) = files.read(SERVER_CA).filter(|_| !token.is_pinned()) else {
        return Ok(None);
    };
    match Certificate::all_from_pem(text) {
        Ok(bundle) => Ok(Some(bundle)),
        Err(error) => Err(CliError::refused(format!(
            "{} cannot be read, and the token names no CA hash: {error}",
            files.directory.join(SERVER_CA).display()
        ))
        .hint("give the full token (K10…)")),
    }
}

const SERVER_CA: &str = "server-ca.crt";

/// `kubepki node …`.
///
/// # Errors
///
/// As [`join`], and when this node has no certificate to log in with.
pub async fn node(command: &NodeCommand) -> Result<Exit, CliError> {
    let args = match command {
        NodeCommand::Renew(args) => args,
        NodeCommand::Forget(args) => return forget::forget(args).await,
    };
    let world = World::real();
    let files = Files::open(&world, args).await?;
    let absent = |what: &str| {
        CliError::refused(format!(
            "{} {what}, so this node cannot log in with it",
            files.directory.join("client-kubelet.crt").display()
        ))
        .hint("`kubepki join` with a token makes it anew")
    };
    let chain = files
        .read("client-kubelet.crt")
        .and_then(|it| Certificate::all_from_pem(it).ok())
        .ok_or_else(|| absent("is missing or cannot be read"))?;
    let key = files
        .read("client-kubelet.key")
        .and_then(|it| PrivateKey::from_pem(it).ok())
        .ok_or_else(|| absent("has no readable key beside it"))?;
    let bundle = files
        .read(SERVER_CA)
        .and_then(|it| Certificate::all_from_pem(it).ok())
        .ok_or_else(|| absent("has no readable server-ca.crt beside it"))?;
    let leaf = chain.first();
    if leaf.is_none_or(|it| !it.validity().contains(world.now())) {
        return Err(absent("is not valid now"));
    }
    let name = leaf
        .and_then(|it| it.subject().common_name())
        .and_then(|it| it.strip_prefix("system:node:"))
        .ok_or_else(|| absent("is no node's"))?
        .to_owned();
    let addresses = addresses(args, &files);
    let node = Node::new(&name, addresses).map_err(|it| CliError::refused(it.to_string()))?;
    let login = Login::Certificate {
        bundle: &bundle,
        chain: &chain,
        key: &key,
        file: files.directory.join(SERVER_CA),
    };
    run(&world, args, files, &node, &login).await
}

async fn run(
    world: &World,
    args: &NodeArgs,
    files: Files,
    node: &Node,
    login: &Login<'_>,
) -> Result<Exit, CliError> {
    let data_dir = std::path::absolute(resolved(&args.data_dir))?;
    let server_dir = data_dir.join("server");
    if is_directory(&world.host, &server_dir).await? {
        return Err(CliError::refused(format!(
            "{} is there: this is a server, and K3s itself keeps a server's agent files",
            server_dir.display()
        ))
        .hint("`kubepki renew` renews a server's certificates"));
    }
    let state = StateDir::of_data_dir(&data_dir);
    refuse_unfinished(&state)?;
    let shown: Vec<String> = node.addresses().iter().map(IpAddr::to_string).collect();
    output::talk(&format!(
        "Node {} ({}) asks {} for its certificates; they go into {}. Its password is in {}.",
        node.name(),
        match shown.is_empty() {
            true => "no address".to_owned(),
            false => shown.join(", "),
        },
        args.servers.join(", then "),
        files.directory.display(),
        files.password_file.display()
    ));
    if args.dry_run {
        return Ok(Exit::Fine);
    }
    output::confirm("Go on?", args.yes)?;
    make_directory(world, &data_dir, 0o755).await?;
    // Held until everything is here: two that join at once would make two passwords.
    let locked = lock(&state)?;
    make_directory(world, &files.directory, 0o700).await?;
    // Looked at again, now that nobody else writes.
    let files = Files::open(world, args).await?;
    let password = match login.is_renewal() {
        false => Some(node_password(world, &files.password_file).await?),
        // The servers know the node by the one that it had: another would be refused.
        true => present_password(world, &files.password_file).await?,
    };
    let asking = Asking {
        world,
        args,
        files: &files,
        node,
        password: password.as_ref().map(|it| it.as_str()),
        login,
    };
    let obtained = in_turn(&asking).await?;
    drop(locked);
    put(world, &files, node, &obtained, (&data_dir, state), login).await
}

/// Puts what was obtained in place, by a plan.
async fn put(
    world: &World,
    files: &Files,
    node: &Node,
    obtained: &Obtained,
    (data_dir, state): (&Path, StateDir),
    login: &Login<'_>,
) -> Result<Exit, CliError> {
    for line in &obtained.said {
        output::talk(line);
    }
    let id = plan_id(world.now(), login.word(), &world.entropy)?;
    let head = Head {
        id: &id,
        node: node.name(),
        root: data_dir,
        datastore: None,
        now: world.now(),
    };
    let title = format!("{} {}", login.word(), node.name());
    let (mut plan, staged) = files.plan(&head, title, obtained);
    if plan.steps.is_empty() {
        output::talk("Nothing was due, nothing was written.");
        return Ok(Exit::Fine);
    }
    if !login.is_renewal() {
        plan.notes.push(format!(
            "{} stays when this is taken back: the servers know the node by it.",
            files.password_file.display()
        ));
    }
    let written = plan.steps.len();
    let prepared = Prepared {
        plan,
        staged,
        state,
        cluster: None,
        question: "Put them in place",
        supervisor: None,
        restart_timeout: RESTART_TIMEOUT,
        closing: format!("{written} files written; K3s's agent reads them when it starts."),
    };
    // It was agreed to before the server was asked: what is obtained is issued and recorded there.
    let agreed = AskArgs {
        yes: true,
        dry_run: false,
        output: PlanFormat::Text,
    };
    carry_out(world, prepared, &agreed, None::<NoFuture>).await
}

/// The node's addresses: named, those of its present certificate, or the way to the server.
fn addresses(args: &NodeArgs, files: &Files) -> Vec<IpAddr> {
    if !args.node_ip.is_empty() {
        return args.node_ip.clone();
    }
    let present = files
        .read("serving-kubelet.crt")
        .and_then(|it| Certificate::all_from_pem(it).ok())
        .and_then(|chain| chain.into_iter().next());
    let of_certificate: Vec<IpAddr> = present
        .iter()
        .flat_map(|it| it.sans())
        .filter_map(|san| match san {
            San::Ip(address) if !address.is_loopback() => Some(*address),
            _ => None,
        })
        .collect();
    match of_certificate.is_empty() {
        true => args
            .servers
            .iter()
            .find_map(|it| way_to(it))
            .into_iter()
            .collect(),
        false => of_certificate,
    }
}

/// The address from which this machine would speak to `server`; nothing is sent.
fn way_to(server: &str) -> Option<IpAddr> {
    let place = server.strip_prefix("https://")?.trim_end_matches('/');
    let place = match place.rsplit_once(':') {
        Some((_, port)) if port.parse::<u16>().is_ok() => place.to_owned(),
        _ => format!("{place}:443"),
    };
    let to = place.to_socket_addrs().ok()?.next()?;
    let any: IpAddr = match to.is_ipv4() {
        true => [0, 0, 0, 0].into(),
        false => [0; 16].into(),
    };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect(to).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

/// `<data-dir>/agent`.
fn agent_directory(data_dir: &Path) -> PathBuf {
    resolved(data_dir).join("agent")
}

/// Seconds before the end from which a certificate is due, where that was said.
fn window(args: &NodeArgs) -> Option<i64> {
    args.window.map(|days| i64::from(days) * DAY)
}
