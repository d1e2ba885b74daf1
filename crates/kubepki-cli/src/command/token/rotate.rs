//! `token rotate`.

use kubepki::apply::plan_id;
use kubepki::state::StateDir;
use kubepki::token::{
    Edit, Head, NewPassword, PasswordError, RotateError, Rotation, Token, plan_edits, plan_rotation,
};
use serde_json::json;
use zeroize::Zeroizing;

use super::configs::config_edits;
use super::{RotateArgs, Server, read_flag, server};
use crate::args::{AskArgs, PlanFormat};
use crate::command::change::refuse_unfinished;
use crate::command::prepared::{NoFuture, Prepared, RESTART_TIMEOUT, carry_out};
use crate::command::serve::is_of;
use crate::datastore::{find_writable, refuse_living, supervisor};
use crate::error::{CliError, Exit};
use crate::k3s::Settings;
use crate::output;
use crate::serving::serving;
use crate::world::{Node, World};

/// `kubepki token rotate`.
pub(super) async fn rotate(world: &World, args: &RotateArgs) -> Result<Exit, CliError> {
    let node = Node::open(world, &args.site, None, None).await?;
    refuse_unfinished(&node.state)?;
    let found = server(world, &node).await?;
    let present = found.known.present();
    let new = match &args.new_token_file {
        Some(path) => {
            let token = read_flag("--new-token-file", path)?;
            NewPassword::of(&token, present).map_err(unfit)?
        }
        None => NewPassword::random(&world.entropy)?,
    };
    if let Some(url) = serving(node.state.path()) {
        return through(world, &node, &url, &found, &new, args).await;
    }
    let settings = Settings::load(&world.host, &args.site).await?;
    let found_data = find_writable(&world.host, &args.endpoint, &settings).await;
    let data = found_data.map_err(|error| CliError {
        // What only a running K3s can write.
        hint: error.hint.map(|_| {
            "start K3s and run `k3s token rotate`; not between rotate-ca and its restart, which \
             that would undo"
                .to_owned()
        }),
        ..error
    })?;
    let change = [(data.opened.owner.expose(), &new)];
    let edits = config_edits(world, args.configs, &args.site, &settings, &change).await?;
    let id = plan_id(world.now(), "token-rotate", &world.entropy)?;
    let name = node.inventory.node_name();
    let head = Head {
        id: &id,
        node: name.as_deref().unwrap_or("this server"),
        root: &node.inventory.site.data_dir,
        datastore: Some(&data.connected.place),
        now: world.now(),
    };
    let planned = plan_rotation(&Rotation {
        head,
        files: &found.files,
        opened: &data.opened,
        new: &new,
        rule: found.rule,
        edits: &edits,
        live: false,
        entropy: &world.entropy,
    });
    let (mut plan, staged) = planned.map_err(refused)?;
    plan.notes.extend(data.opened.notes.iter().cloned());
    refuse_living(&data.connected, &args.endpoint, &settings).await?;
    let prepared = Prepared {
        plan,
        staged,
        state: node.state.clone(),
        cluster: Some((data.connected, data.candidates)),
        question: "Rotate the token",
        supervisor: None,
        restart_timeout: RESTART_TIMEOUT,
        closing: "Start this server, then give the others the new token and start them.".to_owned(),
    };
    let done = carry_out(world, prepared, &args.ask, None::<NoFuture>).await?;
    // The one moment at which a password that was made here can be learnt.
    if done == Exit::Fine && !args.ask.dry_run && args.ask.output == PlanFormat::Text {
        let token = Token::new(present, "server", new.expose().clone());
        let line = Zeroizing::new(format!("{}\n", *token.to_text()));
        output::data(&line)?;
    }
    Ok(done)
}

/// Has the `kubepki serve` that works in this data directory do it: it keeps the journal. The files
/// of this node that hold the token follow.
async fn through(
    world: &World,
    node: &Node,
    url: &str,
    found: &Server,
    new: &NewPassword,
    args: &RotateArgs,
) -> Result<Exit, CliError> {
    let settings = Settings::load(&world.host, &args.site).await?;
    let old = found.files.server_password();
    let old = old.map_err(|error| CliError::failed(&error))?;
    let edits = config_edits(world, args.configs, &args.site, &settings, &[(&old, new)]).await?;
    output::talk(&format!("The server at {url} replaces the token."));
    for edit in &edits {
        let path = edit.path.display();
        output::talk(&format!("Then {} changes in {path}.", edit.what));
    }
    if args.ask.dry_run {
        output::talk("Dry run: nothing was changed.");
        return Ok(Exit::Fine);
    }
    output::confirm("Rotate the token?", args.ask.yes)?;
    let directory = node.inventory.site.server();
    let server = supervisor(&world.host, &directory, url, world.now()).await?;
    let body = serde_json::to_vec(&json!({"newToken": new.expose().as_str()}))?;
    server
        .send("PUT", "/v1-k3s/token", &Zeroizing::new(body))
        .await?;
    output::talk(
        "Done. Give the other servers the new token: until then they issue nothing, and take it \
         up from <data-dir>/server/token or their --token-file while they serve.",
    );
    if let Some(way_back) = way_back(node) {
        output::talk(&way_back);
    }
    let rewritten = match edits.is_empty() {
        true => Ok(Exit::Fine),
        false => rewrite(world, node, &edits, args).await,
    };
    if args.ask.output == PlanFormat::Text {
        let token = Token::new(found.known.present(), "server", new.expose().clone());
        let line = Zeroizing::new(format!("{}\n", *token.to_text()));
        output::data(&line)?;
    }
    rewritten.or_else(|error| {
        output::talk(&format!(
            "The token was replaced, but not in these files of this node; change them by hand: {}",
            error.message
        ));
        for edit in &edits {
            output::talk(&format!("  {}: {}", edit.path.display(), edit.what));
        }
        Ok(Exit::Partial)
    })
}

/// Puts the new token into the files of this node: a plan of its own, whose undo is one too.
async fn rewrite(
    world: &World,
    node: &Node,
    edits: &[Edit],
    args: &RotateArgs,
) -> Result<Exit, CliError> {
    let id = plan_id(world.now(), "token-rotate", &world.entropy)?;
    let name = node.inventory.node_name();
    let head = Head {
        id: &id,
        node: name.as_deref().unwrap_or("this server"),
        root: &node.inventory.site.data_dir,
        datastore: None,
        now: world.now(),
    };
    let (plan, staged) = plan_edits(&head, "put the new token into this node's files", edits);
    let prepared = Prepared {
        plan,
        staged,
        state: node.state.clone(),
        cluster: None,
        question: "Rewrite the files",
        supervisor: None,
        restart_timeout: RESTART_TIMEOUT,
        closing: "They are read at the next start.".to_owned(),
    };
    // That was asked for before the token was replaced.
    let ask = AskArgs {
        yes: true,
        ..args.ask.clone()
    };
    carry_out(world, prepared, &ask, None::<NoFuture>).await
}

/// How the server's own plan is taken back.
fn way_back(node: &Node) -> Option<String> {
    let state = StateDir::new(node.state.path().join("serve"));
    let past = kubepki::apply::history(&state).ok()?;
    let rotations = past.iter().filter(|it| is_of(&it.id, "token-"));
    let last = rotations.max_by_key(|it| (it.last, state.journal_modified(&it.id)))?;
    Some(format!(
        "Take it back with: kubepki undo {} --data-dir {} --state-dir {}",
        last.id,
        node.inventory.site.data_dir.display(),
        state.path().display()
    ))
}

fn unfit(error: PasswordError) -> CliError {
    CliError {
        exit: Exit::Usage,
        ..CliError::failed(&error)
    }
}

/// What the operator is told of tokens that cannot be replaced.
pub fn refused(error: RotateError) -> CliError {
    let exit = match &error {
        RotateError::Files(_) | RotateError::Seal(_) => Exit::Failed,
        _ => Exit::Refused,
    };
    CliError {
        exit,
        ..CliError::failed(&error)
    }
}
