//! `sa-key`: the keys of service-account tokens.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use kubepki::apply::plan_id;
use kubepki::bootstrap::Stamp;
use kubepki::edge::KeySource as _;
use kubepki::host::{Attributes, Entry, EntryKind, Host as _};
use kubepki::inventory::Role;
use kubepki::service_account::{
    ChangeError, Current, Doubt, Evidence, KeyFile, KeyFileError, KeyId, LegacyToken,
    ServiceKeyChange, Standing, current, demoted, doubts, legacy_tokens, plan_change, staged,
};
use kubepki::token::Head;
use pki::KeyAlgorithm;
use serde_json::json;
use zeroize::Zeroizing;

use super::change::refuse_unfinished;
use super::prepared::{NoFuture, Prepared, RESTART_TIMEOUT, carry_out};
use crate::args::{AskArgs, PlanFormat, SiteArgs};
use crate::datastore::{EndpointArgs, find_writable, refuse_living};
use crate::error::{CliError, Exit};
use crate::k3s::Settings;
use crate::output;
use crate::world::{Node, World};

/// `sa-key`.
#[derive(Debug, Subcommand)]
pub enum SaKeyCommand {
    /// Show the keys of service.key: which one signs, which verify, which K3s does not see.
    List(ListArgs),
    /// Put a new key in front: it signs from the next start on, the others go on verifying.
    ///
    /// CAs, certificates and join tokens stay octet for octet. K3s must be stopped on every
    /// server, unless --stage only prepares the file. Prints the plan and asks.
    Rotate(Box<RotateArgs>),
    /// Remove keys that sign no more. Refused while tokens of them can still be alive.
    Drop(Box<DropArgs>),
}

/// `sa-key list`.
#[derive(Clone, Debug, Args)]
pub struct ListArgs {
    /// Another file than this server's service.key.
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// The list's form.
    #[arg(short, long, value_enum, default_value_t = PlanFormat::Text)]
    pub output: PlanFormat,
    #[command(flatten)]
    pub site: SiteArgs,
}

/// `sa-key rotate`.
#[derive(Clone, Debug, Args)]
pub struct RotateArgs {
    /// The new key's kind: rsa2048, rsa3072, rsa4096, p256, p384, p521.
    #[arg(long, value_name = "KIND", default_value = "rsa2048", value_parser = algorithm)]
    pub key: KeyAlgorithm,
    /// Only write the new service.key to this directory, for `kubepki rotate-ca --path DIR`.
    #[arg(long, value_name = "DIR")]
    pub stage: Option<PathBuf>,
    #[command(flatten)]
    pub endpoint: EndpointArgs,
    #[command(flatten)]
    pub site: SiteArgs,
    #[command(flatten)]
    pub ask: AskArgs,
}

/// `sa-key drop`.
#[derive(Clone, Debug, Args)]
pub struct DropArgs {
    /// Ids of the keys, or their beginnings; behind `--` where one begins with a dash.
    #[arg(required_unless_present = "old", conflicts_with = "old")]
    pub keys: Vec<String>,
    /// All keys but the one that signs.
    #[arg(long)]
    pub old: bool,
    /// They have signed nothing for so long (400d); known without it where kubepki rotated them.
    #[arg(long, value_name = "PERIOD", value_parser = crate::period::period)]
    pub older_than: Option<i64>,
    /// What `kubectl get secrets -A --field-selector type=kubernetes.io/service-account-token -o
    /// json` printed: tokens in Secrets never end.
    #[arg(long, value_name = "FILE")]
    pub secrets: Option<PathBuf>,
    /// Go on although tokens may still be alive: they are refused from then on.
    #[arg(long)]
    pub tokens_may_break: bool,
    #[command(flatten)]
    pub endpoint: EndpointArgs,
    #[command(flatten)]
    pub site: SiteArgs,
    #[command(flatten)]
    pub ask: AskArgs,
}

fn algorithm(text: &str) -> Result<KeyAlgorithm, String> {
    let known = ["rsa2048", "rsa3072", "rsa4096", "p256", "p384", "p521"];
    match (known.contains(&text), text.parse()) {
        (true, Ok(algorithm)) => Ok(algorithm),
        _ => Err(format!("write one of {}", known.join(", "))),
    }
}

/// Runs one of them.
///
/// # Errors
///
/// What the operator is told.
pub async fn run(command: &SaKeyCommand) -> Result<Exit, CliError> {
    let world = World::real();
    match command {
        SaKeyCommand::List(args) => list(&world, args).await,
        SaKeyCommand::Rotate(args) => rotate(&world, args).await,
        SaKeyCommand::Drop(args) => drop_keys(&world, args).await,
    }
}

/// A server's `service.key`, as it is.
struct Keys {
    path: PathBuf,
    entry: Entry,
    file: KeyFile,
    /// `service.current.key`.
    current: Option<Entry>,
}

async fn read(world: &World, path: PathBuf) -> Result<Keys, CliError> {
    let entry = world.host.read(&path).await?;
    let bytes = entry.as_ref().and_then(Entry::bytes);
    let bytes = bytes.ok_or_else(|| {
        let path = path.display();
        CliError::message(format!(
            "{path} is missing, or no file (a link is not followed)"
        ))
    })?;
    let file = KeyFile::parse(bytes).map_err(|error| broken(&path, &error))?;
    let current = path.with_file_name("service.current.key");
    let current = world.host.read(&current).await?;
    let entry = entry.ok_or_else(|| CliError::message("the file has gone"))?;
    Ok(Keys {
        path,
        entry,
        file,
        current,
    })
}

fn broken(path: &Path, error: &KeyFileError) -> CliError {
    CliError {
        exit: Exit::Broken,
        ..CliError::message(format!("{}: {error}", path.display()))
    }
}

async fn keys_of(world: &World, node: &Node) -> Result<Keys, CliError> {
    let site = &node.inventory.site;
    if site.role == Role::AgentOnly {
        return Err(CliError::message(format!(
            "{} is an agent's: service-account keys are on servers",
            site.data_dir.display()
        )));
    }
    read(world, site.server().join("tls/service.key")).await
}

async fn list(world: &World, args: &ListArgs) -> Result<Exit, CliError> {
    let keys = match &args.file {
        Some(path) => read(world, std::path::absolute(path)?).await?,
        None => {
            let node = Node::open(world, &args.site, None, None).await?;
            keys_of(world, &node).await?
        }
    };
    let standing = current(&keys.file, keys.current.as_ref().and_then(Entry::bytes));
    match args.output {
        PlanFormat::Text => output::data(&table(&keys.file))?,
        PlanFormat::Json => output::data(&as_json(&keys.file, &standing)?)?,
    }
    match &standing {
        Current::InStep | Current::Missing => {}
        Current::Other(id) => output::talk(&format!(
            "Note: service.current.key is {id}: that key signs until this server's next start."
        )),
        Current::Unreadable => {
            output::talk("Note: service.current.key holds no key; K3s writes it when it starts.");
        }
    }
    let unseen = |it: &kubepki::service_account::ServiceKey| it.standing == Standing::SignsUnseen;
    match keys.file.keys.iter().any(unseen) {
        true => Ok(Exit::Broken),
        false => Ok(Exit::Fine),
    }
}

fn table(file: &KeyFile) -> String {
    let mut text = String::new();
    for key in &file.keys {
        let id = key.id.as_ref().map_or("-", |id| id.0.as_str());
        let kind = key.algorithm.map_or("?".to_owned(), |it| it.to_string());
        let _ = writeln!(
            text,
            "{:>2}. {id:<43} {kind:<8} {}",
            key.position, key.standing
        );
    }
    text
}

fn as_json(file: &KeyFile, standing: &Current) -> Result<String, CliError> {
    let keys: Vec<serde_json::Value> = file
        .keys
        .iter()
        .map(|key| {
            let public = (!key.spki.is_empty()).then(|| pki::pem::encode("PUBLIC KEY", &key.spki));
            json!({
                "position": key.position,
                "kid": key.id.as_ref().map(|id| &id.0),
                "algorithm": key.algorithm.map(|it| it.to_string()),
                "label": key.label,
                "signs": matches!(key.standing, Standing::Signs | Standing::SignsUnseen),
                "verifies": matches!(key.standing, Standing::Signs | Standing::Verifies),
                "standing": key.standing.to_string(),
                "publicKey": public.as_deref(),
            })
        })
        .collect();
    let in_step = match standing {
        Current::InStep => json!(true),
        Current::Missing => json!(null),
        Current::Other(_) | Current::Unreadable => json!(false),
    };
    let value = json!({"keys": keys, "currentInStep": in_step});
    Ok(serde_json::to_string_pretty(&value)? + "\n")
}

async fn rotate(world: &World, args: &RotateArgs) -> Result<Exit, CliError> {
    let node = Node::open(world, &args.site, None, None).await?;
    refuse_unfinished(&node.state)?;
    let keys = keys_of(world, &node).await?;
    let key = world.keys.generate(args.key)?;
    let bytes = keys.file.with_new(&key)?;
    let new = KeyFile::parse(&bytes)?;
    let id = KeyId::of(key.spki_der());
    if let Some(directory) = &args.stage {
        return stage(world, &node, args, directory, &new, &id).await;
    }
    let change = Change {
        title: format!("rotate the service-account key: {id} signs"),
        purpose: "sa-key-rotate",
        question: "Rotate the service-account key",
        notes: Vec::new(),
    };
    commit(
        world,
        &node,
        &keys,
        &new,
        change,
        (&args.endpoint, &args.site, &args.ask),
    )
    .await
}

/// Writes a staged set that holds the new `service.key` and nothing else.
async fn stage(
    world: &World,
    node: &Node,
    args: &RotateArgs,
    directory: &Path,
    new: &KeyFile,
    id: &KeyId,
) -> Result<Exit, CliError> {
    kubepki::ca::refuse_live(directory, &node.inventory.site.data_dir)
        .map_err(|error| CliError::refused(kubepki::error_chain(&error)))?;
    let directory = std::path::absolute(directory)?;
    let path = directory.join("tls/service.key");
    if world.host.read(&path).await?.is_some() {
        return Err(CliError::refused(format!(
            "{} is there already: name another directory",
            path.display()
        )));
    }
    if args.ask.dry_run {
        output::talk(&format!("Dry run: {} was not written.", path.display()));
        return Ok(Exit::Fine);
    }
    let bundle = staged(new, Stamp::at(world.now()));
    for folder in [directory.clone(), directory.join("tls")] {
        if world.host.list(&folder).await?.is_none() {
            let attributes = Attributes::new(0o700);
            let kind = EntryKind::Directory;
            world.host.put(&folder, &Entry { kind, attributes }).await?;
        }
    }
    for file in bundle.files.into_values() {
        let attributes = Attributes::new(0o600);
        let kind = EntryKind::File(file.content);
        world.host.put(&path, &Entry { kind, attributes }).await?;
    }
    output::data(&format!("{}\n", path.display()))?;
    output::talk(&format!(
        "{id} signs once `kubepki rotate-ca --path {}` has taken it up and every server is \
         restarted; only servers need that.",
        directory.display()
    ));
    Ok(Exit::Fine)
}

/// What a change of the keys is called.
struct Change {
    title: String,
    purpose: &'static str,
    question: &'static str,
    notes: Vec<String>,
}

async fn commit(
    world: &World,
    node: &Node,
    keys: &Keys,
    new: &KeyFile,
    change: Change,
    (endpoint, site, ask): (&EndpointArgs, &SiteArgs, &AskArgs),
) -> Result<Exit, CliError> {
    let settings = Settings::load(&world.host, site).await?;
    let data = find_writable(&world.host, endpoint, &settings).await;
    let data = data.map_err(|error| CliError {
        // What only a running K3s can write.
        hint: error.hint.map(|_| {
            "`kubepki sa-key rotate --stage DIR` writes the new file, and `kubepki rotate-ca \
             --path DIR` takes it to the running server"
                .to_owned()
        }),
        ..error
    })?;
    let id = plan_id(world.now(), change.purpose, &world.entropy)?;
    let name = node.inventory.node_name();
    let planned = plan_change(&ServiceKeyChange {
        head: Head {
            id: &id,
            node: name.as_deref().unwrap_or("this server"),
            root: &node.inventory.site.data_dir,
            datastore: Some(&data.connected.place),
            now: world.now(),
        },
        title: &change.title,
        server: &node.inventory.site.server(),
        present: Some(&keys.entry),
        current: keys.current.as_ref(),
        opened: &data.opened,
        new,
        entropy: &world.entropy,
    });
    let (mut plan, staged) = planned.map_err(refused)?;
    plan.notes.extend(change.notes);
    plan.notes.extend(data.opened.notes.iter().cloned());
    refuse_living(&data.connected, endpoint, &settings).await?;
    let prepared = Prepared {
        plan,
        staged,
        state: node.state.clone(),
        cluster: Some((data.connected, data.candidates)),
        question: change.question,
        supervisor: None,
        restart_timeout: RESTART_TIMEOUT,
        closing: "Restart the servers only, one after the other; agents and pods need nothing."
            .to_owned(),
    };
    carry_out(world, prepared, ask, None::<NoFuture>).await
}

fn refused(error: ChangeError) -> CliError {
    let exit = match &error {
        ChangeError::Seal(_) => Exit::Failed,
        ChangeError::Keys(_) => Exit::Broken,
        _ => Exit::Refused,
    };
    CliError {
        exit,
        ..CliError::failed(&error)
    }
}

async fn drop_keys(world: &World, args: &DropArgs) -> Result<Exit, CliError> {
    let node = Node::open(world, &args.site, None, None).await?;
    refuse_unfinished(&node.state)?;
    let keys = keys_of(world, &node).await?;
    let ids = chosen(&keys.file, args)?;
    if ids.is_empty() {
        output::talk("Nothing to drop: service.key holds the signing key alone.");
        return Ok(Exit::Fine);
    }
    let bytes = keys
        .file
        .without(&ids)
        .map_err(|error| CliError::refused(error.to_string()))?;
    let in_doubt = in_doubt(world, &node, &keys, &ids, args)?;
    if !in_doubt.is_empty() && !args.tokens_may_break {
        let lines: String = in_doubt
            .iter()
            .map(|(id, doubt)| format!("\n  {id}: {doubt}"))
            .collect();
        return Err(
            CliError::refused(format!("tokens of these keys may still be alive:{lines}")).hint(
                "--tokens-may-break drops them all the same: such tokens are refused from then on",
            ),
        );
    }
    let new = KeyFile::parse(&bytes)?;
    let overridden = in_doubt
        .iter()
        .map(|(id, doubt)| format!("overridden by --tokens-may-break: {id}: {doubt}"));
    let names: Vec<&str> = ids.iter().map(|id| id.0.as_str()).collect();
    let change = Change {
        title: format!("drop service-account keys {}", names.join(", ")),
        purpose: "sa-key-drop",
        question: "Drop the keys",
        notes: overridden.collect(),
    };
    commit(
        world,
        &node,
        &keys,
        &new,
        change,
        (&args.endpoint, &args.site, &args.ask),
    )
    .await
}

/// The keys that are to go.
fn chosen<'a>(file: &'a KeyFile, args: &DropArgs) -> Result<Vec<&'a KeyId>, CliError> {
    let signer = file.signer().and_then(|key| key.id.as_ref());
    let mut ids: Vec<&KeyId> = match args.old {
        true => {
            let all = file.keys.iter().filter_map(|key| key.id.as_ref());
            all.filter(|id| Some(*id) != signer).collect()
        }
        false => {
            let found = args.keys.iter().map(|text| file.find(text));
            found
                .collect::<Result<_, _>>()
                .map_err(|error| CliError::usage(error.to_string()))?
        }
    };
    ids.sort_unstable();
    ids.dedup();
    Ok(ids)
}

/// Every reason why a token of one of the keys may be alive.
fn in_doubt(
    world: &World,
    node: &Node,
    keys: &Keys,
    ids: &[&KeyId],
    args: &DropArgs,
) -> Result<Vec<(KeyId, Doubt)>, CliError> {
    let now = world.now();
    let legacy: Option<Vec<LegacyToken>> = match &args.secrets {
        None => None,
        Some(path) => {
            let shown = path.display();
            let bytes = std::fs::read(path).map(Zeroizing::new);
            let bytes = bytes.map_err(|error| {
                CliError::usage(format!("--secrets: cannot read {shown}: {error}"))
            })?;
            let found = legacy_tokens(&bytes).map_err(|error| {
                let error = kubepki::error_chain(&error);
                CliError::usage(format!("--secrets {shown}: {error}"))
            })?;
            Some(found)
        }
    };
    let mut all = Vec::new();
    for id in ids {
        let known = demoted(&node.state, &keys.path, id)?;
        let said = args.older_than.map(|period| now.plus(-period));
        let evidence = Evidence {
            now,
            // What the journal says is a fact; the operator's word fills in where it is silent.
            demoted: known.or(said),
            legacy: legacy.as_deref(),
        };
        let found = doubts(id, &evidence).into_iter();
        all.extend(found.map(|doubt| ((*id).clone(), doubt)));
    }
    Ok(all)
}
