//! `token rotate`.

use std::path::Path;

use kubepki::apply::plan_id;
use kubepki::token::{
    Edit, Head, NewPassword, NodeFiles, PasswordError, RotateError, Rotation, Token,
    password_edits, plan_rotation,
};
use zeroize::Zeroizing;

use super::rewrite::NoFuture;
use super::{RotateArgs, read_flag, server};
use crate::args::PlanFormat;
use crate::command::change::refuse_unfinished;
use crate::command::prepared::{Prepared, RESTART_TIMEOUT, carry_out};
use crate::datastore::{find_writable, refuse_living};
use crate::error::{CliError, Exit};
use crate::k3s::Settings;
use crate::output;
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
    let edits = edits(world, args, &settings, data.opened.owner.expose(), &new).await?;
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

/// The files of this node that give K3s the token, with the new one in them; none with
/// `--keep-configs`.
async fn edits(
    world: &World,
    args: &RotateArgs,
    settings: &Settings,
    old: &Zeroizing<String>,
    new: &NewPassword,
) -> Result<Vec<Edit>, CliError> {
    // A copied tree is not configured by the machine that it lies on.
    if args.keep_configs || settings.config.is_none() {
        return Ok(Vec::new());
    }
    let config = args.site.k3s_config.as_deref().map(std::path::absolute);
    let config = config.transpose()?;
    let files = NodeFiles::collect(&world.host, Path::new("/"), config.as_deref(), &[]).await?;
    let own = settings.data_dir.join("server");
    let edit = |file| password_edits(file, old, new.expose());
    let edits: Vec<Edit> = files
        .files
        .iter()
        .filter(|file| !file.path.starts_with(&own))
        .filter_map(edit)
        .collect();
    let given = settings.config.as_ref().and_then(|it| it.token.as_ref());
    let lines = |edits: &[Edit]| -> String {
        let line = |edit: &Edit| format!("\n  {}: {}", edit.path.display(), edit.what);
        edits.iter().map(line).collect()
    };
    match (args.rewrite_configs, edits.is_empty(), given) {
        (true, true, Some(given)) => Err(CliError::refused(format!(
            "{} gives K3s its token in a way that cannot be edited here: change it by hand and say \
             --keep-configs",
            given.from
        ))),
        (true, false, _) if !new.is_plain() => Err(CliError::refused(
            "the new password would need quotes or escapes in these files; choose one of letters, \
             digits and . _ + / = @ -, or change them by hand and say --keep-configs",
        )),
        (true, ..) => Ok(edits),
        (false, true, None) => Ok(Vec::new()),
        (false, true, Some(given)) => Err(CliError::refused(format!(
            "K3s takes its token from {}: change it before K3s starts, and say --keep-configs",
            given.from
        ))),
        (false, false, _) => Err(CliError::refused(format!(
            "K3s takes its token from files of this node:{}\nSay --rewrite-configs to have them \
             changed too, or --keep-configs to change them by hand before K3s starts",
            lines(&edits)
        ))),
    }
}

fn unfit(error: PasswordError) -> CliError {
    CliError {
        exit: Exit::Usage,
        ..CliError::failed(&error)
    }
}

fn refused(error: RotateError) -> CliError {
    let exit = match &error {
        RotateError::Files(_) | RotateError::Seal(_) => Exit::Failed,
        _ => Exit::Refused,
    };
    CliError {
        exit,
        ..CliError::failed(&error)
    }
}
