//! `token rotate`.

use kubepki::apply::plan_id;
use kubepki::token::{
    Head, NewPassword, PasswordError, RotateError, Rotation, Token, plan_rotation,
};
use pki::Digest;
use serde_json::json;
use zeroize::Zeroizing;

use super::configs::config_edits;
use super::{RotateArgs, read_flag, server};
use crate::args::PlanFormat;
use crate::command::change::refuse_unfinished;
use crate::command::prepared::{NoFuture, Prepared, RESTART_TIMEOUT, carry_out};
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
        return through(world, &node, &url, present, &new, args).await;
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

/// Has the `kubepki serve` that works in this data directory do it: it keeps the journal.
async fn through(
    world: &World,
    node: &Node,
    url: &str,
    present: Digest,
    new: &NewPassword,
    args: &RotateArgs,
) -> Result<Exit, CliError> {
    output::talk(&format!("The server at {url} replaces the token."));
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
    if args.ask.output == PlanFormat::Text {
        let token = Token::new(present, "server", new.expose().clone());
        let line = Zeroizing::new(format!("{}\n", *token.to_text()));
        output::data(&line)?;
    }
    Ok(Exit::Fine)
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
