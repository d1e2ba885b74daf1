//! `token`: show, check, make, list, revoke, rotate and rewrite join tokens.

mod configs;
mod list;
mod look;
mod made;
mod rewrite;
mod rotate;

use std::io::Read as _;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use kubepki::bootstrap::{Field, read_directory};
use kubepki::host::Host;
use kubepki::inventory::Role;
use kubepki::token::{Known, Rule, ServerFiles, Token, read_token};
use pki::{Digest, UnixTime};
use zeroize::Zeroizing;

use crate::args::{AskArgs, PlanFormat, SiteArgs};
use crate::datastore::{DatastoreArgs, EndpointArgs};
use crate::error::{CliError, Exit};
use crate::period::period;
use crate::world::{Node, World};

pub use configs::{ConfigArgs, config_edits};
pub(super) use made::datastore as cluster_datastore;
pub use rotate::refused as token_refused;

/// `token`.
#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Print the tokens that servers and agents join with, secrets and all.
    Show(ShowArgs),
    /// Say what a token is: whose CA it pins, whose password it holds, whether a node can join
    /// with it now and after a staged set of CAs. It is read from standard input, or from the file
    /// that --token-file names.
    ///
    /// Ends with 0 when it can be used, 3 when the staged set makes it useless, 4 when no server
    /// accepts it.
    Check(CheckArgs),
    /// Make a token, and print it: with --role one that `kubepki serve` takes from then on, with
    /// an end, and a number of nodes where one is wanted.
    ///
    /// Its record goes into the cluster's datastore, without the secret, while servers serve.
    /// Without --role a new password for a cluster that is to be, and the tokens in full where CA
    /// files are given; that touches nothing.
    Create(Box<CreateArgs>),
    /// List the tokens that were made with --role, whose, until when, which nodes came; and
    /// Kubernetes' own bootstrap tokens (`k3s token create`). Never secrets.
    List(ListArgs),
    /// Take tokens back, by id. Servers refuse them from the next request on. Kubernetes' own
    /// bootstrap tokens are for `k3s token delete`.
    Revoke(RevokeArgs),
    /// Give servers, and agents without a token of their own, another password.
    ///
    /// The bootstrap data are encrypted anew in the datastore; K3s must be stopped on every
    /// server. Prints the plan and asks. Where `kubepki serve` works in this data directory, it
    /// goes through that server, and all may serve on.
    Rotate(Box<RotateArgs>),
    /// Put the right CA hash into full tokens in the files of a node: configuration, units,
    /// drop-ins, environment files, token files. Prints the changes and asks.
    ///
    /// Nothing but the 64 digits of the hash changes. A pin set that has a key which leads to the CA
    /// is good as it is; one that has other keys of this cluster only gets the CA's behind them. Ends
    /// with 7 when tokens that pin an unknown CA were left as they are.
    Rewrite(RewriteArgs),
}

/// `token show`.
#[derive(Clone, Debug, Args)]
pub struct ShowArgs {
    /// Show the tokens as they will be after this set of CA files: a directory that holds tls/.
    #[arg(long, value_name = "DIR")]
    pub path: Option<PathBuf>,
    /// The answer's form.
    #[arg(short, long, value_enum, default_value_t = PlanFormat::Text)]
    pub output: PlanFormat,
    #[command(flatten)]
    pub site: SiteArgs,
}

/// `token check`.
#[derive(Clone, Debug, Args)]
pub struct CheckArgs {
    /// Hold the token to this set of CA files too: a directory that holds tls/.
    #[arg(long, value_name = "DIR")]
    pub path: Option<PathBuf>,
    /// See whether it opens the bootstrap data in the datastore.
    #[arg(long)]
    pub datastore: bool,
    /// The answer's form.
    #[arg(short, long, value_enum, default_value_t = PlanFormat::Text)]
    pub output: PlanFormat,
    #[command(flatten)]
    pub endpoint: DatastoreArgs,
    #[command(flatten)]
    pub site: SiteArgs,
}

/// `token create`.
#[derive(Clone, Debug, Args)]
pub struct CreateArgs {
    /// CA files made beforehand: a directory that holds tls/. A pin set gets their keys beside the
    /// present ones, other forms their hash.
    #[arg(long, value_name = "DIR")]
    pub path: Option<PathBuf>,
    /// Who shall use it at `kubepki serve`.
    #[arg(long, value_enum, value_name = "ROLE")]
    pub role: Option<RoleArg>,
    /// How it is written [default: pins].
    #[arg(long, value_enum, value_name = "FORM", requires = "role")]
    pub form: Option<ShapeArg>,
    /// How long it is good: 1h, 7d; 0 for ever [default: 24h].
    #[arg(long, value_name = "DURATION", value_parser = ttl, requires = "role")]
    pub ttl: Option<i64>,
    /// How many nodes it lets in; a node that asks again costs nothing [default: any number]. For
    /// agents only: whoever may replace the servers' password once needs a server's token no second
    /// time, so that a count would limit nothing.
    #[arg(long, value_name = "NUMBER", requires = "role")]
    pub uses: Option<u32>,
    /// The one node that it lets in.
    #[arg(long, value_name = "NAME", requires = "role")]
    pub node: Option<String>,
    /// Pin this key of a CA too: SHA-256 of its SubjectPublicKeyInfo (DER), hex; may be given
    /// several times. For a CA that is to come.
    #[arg(long, value_name = "SHA256", value_parser = pin, requires = "role")]
    pub pin: Vec<Digest>,
    /// What it is for, for `token list`.
    #[arg(long, value_name = "TEXT", requires = "role")]
    pub description: Option<String>,
    /// The answer's form.
    #[arg(short, long, value_enum, default_value_t = PlanFormat::Text)]
    pub output: PlanFormat,
    #[command(flatten)]
    pub endpoint: EndpointArgs,
    #[command(flatten)]
    pub site: SiteArgs,
}

/// Whose a made token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum RoleArg {
    /// A node that joins.
    Agent,
    /// A server: bootstrap data, new CAs, new tokens.
    Server,
}

/// How a made token is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ShapeArg {
    /// With the keys of CAs, which a rotation leaves good; for `kubepki join`.
    Pins,
    /// As K3s's bootstrap tokens, with the CA's hash.
    Bootstrap,
    /// As K3s's agent token, with the CA's hash.
    K10,
}

/// `token list`.
#[derive(Clone, Debug, Args)]
pub struct ListArgs {
    /// The answer's form.
    #[arg(short, long, value_enum, default_value_t = PlanFormat::Text)]
    pub output: PlanFormat,
    #[command(flatten)]
    pub endpoint: EndpointArgs,
    #[command(flatten)]
    pub site: SiteArgs,
}

/// `token revoke`.
#[derive(Clone, Debug, Args)]
pub struct RevokeArgs {
    /// Ids of tokens: the six characters before the dot.
    #[arg(required = true, value_name = "ID")]
    pub ids: Vec<String>,
    #[command(flatten)]
    pub endpoint: EndpointArgs,
    #[command(flatten)]
    pub site: SiteArgs,
}

/// `token rotate`.
#[derive(Clone, Debug, Args)]
pub struct RotateArgs {
    /// A file with the new token; `-` for standard input [default: made].
    #[arg(long, value_name = "FILE")]
    pub new_token_file: Option<PathBuf>,
    #[command(flatten)]
    pub configs: ConfigArgs,
    #[command(flatten)]
    pub endpoint: EndpointArgs,
    #[command(flatten)]
    pub site: SiteArgs,
    #[command(flatten)]
    pub ask: AskArgs,
}

/// `token rewrite`.
#[derive(Clone, Debug, Args)]
pub struct RewriteArgs {
    /// Where the node's file system begins: another one than / for a mounted or copied node.
    #[arg(long, value_name = "DIR", default_value = "/")]
    pub root: PathBuf,
    /// The hash that tokens shall pin [default: that of the server CA which this node knows].
    #[arg(long, value_name = "HASH", value_parser = hash, conflicts_with = "path")]
    pub to_hash: Option<String>,
    /// The set of CA files whose hash tokens shall pin: a directory that holds tls/.
    #[arg(long, value_name = "DIR")]
    pub path: Option<PathBuf>,
    /// A hash that this cluster had before; may be given several times. Those of CAs in the trust
    /// bundle are known.
    #[arg(long, value_name = "HASH", value_parser = hash)]
    pub from_hash: Vec<String>,
    /// A directory that holds the tls/ of before, or a server CA's file; may be given several
    /// times.
    #[arg(long, value_name = "PATH")]
    pub from: Vec<PathBuf>,
    /// A further file to look at, as the node names it; may be given several times.
    #[arg(long = "file", value_name = "FILE")]
    pub files: Vec<PathBuf>,
    #[command(flatten)]
    pub site: SiteArgs,
    #[command(flatten)]
    pub ask: AskArgs,
}

/// Runs one of them.
///
/// # Errors
///
/// What the operator is told.
pub async fn run(command: &TokenCommand) -> Result<Exit, CliError> {
    let world = World::real();
    match command {
        TokenCommand::Show(args) => look::show(&world, args).await,
        TokenCommand::Check(args) => look::check(&world, args).await,
        TokenCommand::Create(args) => match args.role {
            Some(role) => made::create(&world, args, role).await,
            None => look::create(&world, args).await,
        },
        TokenCommand::List(args) => list::list(&world, args).await,
        TokenCommand::Revoke(args) => made::revoke(&world, args).await,
        TokenCommand::Rotate(args) => rotate::rotate(&world, args).await,
        TokenCommand::Rewrite(args) => rewrite::rewrite(&world, args).await,
    }
}

/// A CA hash as flags take it.
fn hash(text: &str) -> Result<String, String> {
    match text.len() == 64 && text.bytes().all(|it| it.is_ascii_hexdigit()) {
        true => Ok(text.to_ascii_lowercase()),
        false => Err("write the 64 hex digits between K10 and ::".to_owned()),
    }
}

/// The SHA-256 of a CA's key as flags take it.
fn pin(text: &str) -> Result<Digest, String> {
    let bytes = pki::unhex(text).and_then(|it| it.try_into().ok());
    bytes.map(Digest).ok_or_else(|| {
        "write 64 hex digits, as `openssl x509 -noout -pubkey -in CA | openssl pkey -pubin \
         -outform DER | sha256sum` prints them"
            .to_owned()
    })
}

/// A token's time as flags take it.
fn ttl(text: &str) -> Result<i64, String> {
    match text {
        "0" => Ok(0),
        text => period(text),
    }
}

/// A server's token files and the hashes that belong to its cluster.
struct Server {
    files: ServerFiles,
    known: Known,
    rule: Rule,
}

/// Reads them.
async fn server(world: &World, node: &Node) -> Result<Server, CliError> {
    let site = &node.inventory.site;
    if site.role == Role::AgentOnly {
        return Err(CliError::message(format!(
            "{} is an agent's: the cluster's tokens are on its servers",
            site.data_dir.display()
        )));
    }
    let files = ServerFiles::read(&world.host, &site.server()).await?;
    let rule = Rule::of_tree(&node.inventory);
    let known = Known::of(files.authority()?, rule, world.now());
    let known = known.map_err(|error| unreadable(&site.server().join("tls"), &error))?;
    Ok(Server { files, known, rule })
}

fn unreadable(directory: &Path, error: &pki::Error) -> CliError {
    CliError::message(format!(
        "{}: {error}",
        directory.join("server-ca.crt").display()
    ))
}

/// The server CA's file of a staged set.
async fn staged_authority(host: &dyn Host, path: &Path) -> Result<Vec<u8>, CliError> {
    let bundle = read_directory(host, path).await?;
    let file = bundle.content(Field::ServerCa).map(<[u8]>::to_vec);
    file.ok_or_else(|| {
        CliError::usage(format!(
            "{} holds no tls/server-ca.crt: tokens stay as they are with it",
            path.display()
        ))
    })
}

/// What a file that is named, or standard input, holds: a token's text.
fn read_text(flag: &str, path: &Path) -> Result<Zeroizing<Vec<u8>>, CliError> {
    // Enough to see that it is none.
    const LIMIT: u64 = 128 << 10;
    let mut bytes = Zeroizing::new(Vec::new());
    let read = match path == Path::new("-") {
        true => std::io::stdin().lock().take(LIMIT).read_to_end(&mut bytes),
        false => {
            std::fs::File::open(path).and_then(|file| file.take(LIMIT).read_to_end(&mut bytes))
        }
    };
    let place = path.display();
    read.map_err(|error| CliError::usage(format!("{flag}: cannot read {place}: {error}")))?;
    Ok(bytes)
}

/// The token in it.
fn read_flag(flag: &str, path: &Path) -> Result<Token, CliError> {
    let bytes = read_text(flag, path)?;
    let place = path.display();
    read_token(&bytes).map_err(|error| {
        let error = kubepki::error_chain(&error);
        CliError::usage(format!("{flag} {place}: {error}"))
    })
}

/// What an operator should know of the hash in force.
fn remarks(authority: &[u8], rule: Rule, now: UnixTime) -> Result<Vec<String>, pki::Error> {
    use kubepki::token::{How, hashes};

    let found = hashes(authority, now)?;
    let mut remarks = Vec::new();
    if rule == Rule::Root && found.how == How::Fallback {
        remarks.push(
            "the server CA's chain does not verify now (a certificate in it has ended, or its \
             root is missing), so K3s hashes the file as it is: tokens made before differ"
                .to_owned(),
        );
    }
    if let (Rule::Root, Some(change)) = (rule, found.change) {
        remarks.push(format!(
            "from {} on the CA hash is {} by itself, because a certificate of the chain begins or \
             ends: nodes with full tokens cannot join then",
            change.at, change.hash
        ));
    }
    Ok(remarks)
}
