//! `token rewrite`.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use kubepki::apply::plan_id;
use kubepki::inventory::{Role, Site};
use kubepki::token::{
    Edit, Head, Known, NodeFiles, PinnedKeys, Pinning, Rule, hashes, masked, occurrences,
    pin_edits, plan_edits,
};

use super::{RewriteArgs, staged_authority, unreadable};
use crate::args::SiteArgs;
use crate::command::change::refuse_unfinished;
use crate::command::prepared::{NoFuture, Prepared, RESTART_TIMEOUT, carry_out};
use crate::error::{CliError, Exit};
use crate::output;
use crate::world::{Node, World, resolved, state_dir};

/// `kubepki token rewrite`.
pub(super) async fn rewrite(world: &World, args: &RewriteArgs) -> Result<Exit, CliError> {
    let root = std::path::absolute(resolved(&args.root))?;
    let config = args.site.k3s_config.as_deref().map(std::path::absolute);
    let config = config.transpose()?;
    let files = NodeFiles::collect(&world.host, &root, config.as_deref(), &args.files).await?;
    refuse_problems(&files)?;
    let node = node(world, args, &root).await?;
    let (known, wanted) = hashes_of(world, args, &node).await?;
    let Changes {
        edits,
        diff,
        pin_sets,
        strangers,
    } = changes(&files, &known, &wanted);
    if diff.is_empty() {
        output::talk(&format!(
            "No token that pins a CA stands in the {} files of this node that K3s reads.",
            files.files.len()
        ));
    }
    // A plan in JSON is the only data then.
    match args.ask.output {
        crate::args::PlanFormat::Text => output::data(&output::harmless(&diff))?,
        crate::args::PlanFormat::Json => output::talk(&diff),
    }
    if edits.is_empty() && args.ask.output == crate::args::PlanFormat::Text {
        output::talk("Nothing to rewrite.");
        return Ok(if strangers { Exit::Partial } else { Exit::Fine });
    }
    let state = state_dir(&args.site, &node.inventory.site.data_dir);
    refuse_unfinished(&state)?;
    let id = plan_id(world.now(), "token-rewrite", &world.entropy)?;
    let name = node.inventory.node_name();
    let head = Head {
        id: &id,
        node: name.as_deref().unwrap_or("this node"),
        root: &node.inventory.site.data_dir,
        datastore: None,
        now: world.now(),
    };
    let title = format!(
        "rewrite the CA hash of tokens to {}…",
        wanted.hash.get(..12).unwrap_or("")
    );
    let (mut plan, staged) = plan_edits(&head, &title, &edits);
    plan.notes.extend(pin_sets);
    let prepared = Prepared {
        plan,
        staged,
        state,
        cluster: None,
        question: "Rewrite the tokens",
        supervisor: None,
        restart_timeout: RESTART_TIMEOUT,
        closing: "K3s reads these files when it starts.".to_owned(),
    };
    let done = carry_out(world, prepared, &args.ask, None::<NoFuture>).await?;
    match (done, strangers) {
        (Exit::Fine, true) => Ok(Exit::Partial),
        (done, _) => Ok(done),
    }
}

/// A token may stand in what cannot be looked at.
fn refuse_problems(files: &NodeFiles) -> Result<(), CliError> {
    if files.problems.is_empty() {
        return Ok(());
    }
    let lines = files.problems.iter().map(|it| format!("\n  {it}"));
    let lines: String = lines.collect();
    Err(CliError::message(format!(
        "some of the node's files cannot be looked at, so nothing was changed:{lines}"
    )))
}

/// What would change, and what is left.
struct Changes {
    edits: Vec<Edit>,
    /// A line for each token and what becomes of it, without secrets.
    diff: String,
    /// The same of pin sets, for the plan: whoever reads only that must not take them for unseen.
    pin_sets: Vec<String>,
    /// Whether a token pins a CA that nobody knows.
    strangers: bool,
}

fn changes(files: &NodeFiles, known: &Known, wanted: &Pinning) -> Changes {
    let mut changes = Changes {
        edits: Vec::new(),
        diff: String::new(),
        pin_sets: Vec::new(),
        strangers: false,
    };
    for file in &files.files {
        let found = occurrences(file, known, wanted);
        for occurrence in &found {
            let fate = &occurrence.fate;
            changes.strangers |= fate.is_doubtful();
            let place = format!("{}:{}", file.shown.display(), occurrence.line);
            let setting = match occurrence.setting.as_str() {
                "" => String::new(),
                setting => format!("{setting} "),
            };
            let old = masked(occurrence, &occurrence.pinned);
            let diff = &mut changes.diff;
            let _ = match fate.is_edit() {
                true => {
                    let new = masked(occurrence, &occurrence.becomes);
                    writeln!(diff, "{place} {fate}\n- {setting}{old}\n+ {setting}{new}")
                }
                false => writeln!(diff, "{place} {fate}\n  {setting}{old}"),
            };
            if occurrence.pinned.starts_with('P') {
                changes.pin_sets.push(format!("{place}: {old} {fate}"));
            }
        }
        changes.edits.extend(pin_edits(file, &found));
    }
    changes
}

/// The node whose file system begins at `root`: its data directory lies there too.
async fn node(world: &World, args: &RewriteArgs, root: &Path) -> Result<Node, CliError> {
    let site = match (&args.site.data_dir, root == Path::new("/")) {
        (None, false) => SiteArgs {
            data_dir: Some(root.join("var/lib/rancher/k3s")),
            ..args.site.clone()
        },
        _ => args.site.clone(),
    };
    Node::open(world, &site, None, None).await
}

/// The hashes and keys that are this cluster's, and those that tokens shall pin.
async fn hashes_of(
    world: &World,
    args: &RewriteArgs,
    node: &Node,
) -> Result<(Known, Pinning), CliError> {
    let now = world.now();
    let rule = Rule::of_tree(&node.inventory);
    let (place, authority) = own_authority(world, &node.inventory.site).await?;
    let mut known = Known::of(&authority, rule, now).map_err(|error| unreadable(&place, &error))?;
    for hash in &args.from_hash {
        known.add_former_hash(hash, "--from-hash");
    }
    for path in &args.from {
        let file = match path.is_dir() {
            true => staged_authority(&world.host, path).await?,
            false => std::fs::read(path)
                .map_err(|error| CliError::usage(format!("{}: {error}", path.display())))?,
        };
        let added = known.add_former(&file, &path.display().to_string(), now);
        added.map_err(|error| CliError::usage(format!("{}: {error}", path.display())))?;
    }
    let wanted = match &args.path {
        Some(path) => {
            let file = staged_authority(&world.host, path).await?;
            Pinning {
                hash: hashes(&file, now)?.by(rule).to_string(),
                keys: Some(PinnedKeys::to_come(&file, now)?),
            }
        }
        None => {
            let present = known.present().to_string();
            let hash = args.to_hash.clone().unwrap_or_else(|| present.clone());
            let keys = PinnedKeys::in_force(&authority, now)?;
            Pinning {
                keys: (hash == present).then_some(keys),
                hash,
            }
        }
    };
    Ok((known, wanted))
}

/// The server CA's file that a node has: a server its own, an agent its copy.
async fn own_authority(world: &World, site: &Site) -> Result<(PathBuf, Vec<u8>), CliError> {
    use kubepki::host::Host as _;

    let directory = match site.role {
        Role::Server => site.server().join("tls"),
        Role::AgentOnly => site.agent(),
    };
    let path = directory.join("server-ca.crt");
    let entry = world.host.read(&path).await?;
    let bytes = entry.as_ref().and_then(|entry| entry.bytes());
    let bytes = bytes
        .ok_or_else(|| CliError::message(format!("{} is missing, or no file", path.display())))?;
    Ok((directory, bytes.to_vec()))
}
