//! The files of this node that give K3s its tokens, where a password changes.

use std::path::Path;

use clap::Args;
use kubepki::host::{Entry, EntryKind};
use kubepki::token::{Edit, NewPassword, NodeFile, NodeFiles, password_edits};
use zeroize::Zeroizing;

use crate::args::SiteArgs;
use crate::error::CliError;
use crate::k3s::Settings;
use crate::world::World;

/// What becomes of them.
#[derive(Clone, Copy, Debug, Default, Args)]
pub struct ConfigArgs {
    /// Put the new password into the files of this node that give K3s its token.
    #[arg(long, conflicts_with = "keep_configs")]
    pub rewrite_configs: bool,
    /// Leave those files alone: they are changed by hand before K3s starts.
    #[arg(long)]
    pub keep_configs: bool,
}

/// A password and the one that takes its place.
pub type Change<'a> = (&'a Zeroizing<String>, &'a NewPassword);

/// These files with the new passwords in them; none with `--keep-configs`.
///
/// # Errors
///
/// A refusal where the operator has not said what becomes of them, or they cannot be edited.
pub async fn config_edits(
    world: &World,
    args: ConfigArgs,
    site: &SiteArgs,
    settings: &Settings,
    changes: &[Change<'_>],
) -> Result<Vec<Edit>, CliError> {
    // A copied tree is not configured by the machine that it lies on.
    if args.keep_configs || settings.config.is_none() {
        return Ok(Vec::new());
    }
    let config = site.k3s_config.as_deref().map(std::path::absolute);
    let config = config.transpose()?;
    let files = NodeFiles::collect(&world.host, Path::new("/"), config.as_deref(), &[]).await?;
    let own = settings.data_dir.join("server");
    let edits: Vec<Edit> = files
        .files
        .iter()
        .filter(|file| !file.path.starts_with(&own))
        .filter_map(|file| edited(file, changes))
        .collect();
    let given = settings.config.as_ref().and_then(|it| it.token.as_ref());
    let lines = |edits: &[Edit]| -> String {
        let line = |edit: &Edit| format!("\n  {}: {}", edit.path.display(), edit.what);
        edits.iter().map(line).collect()
    };
    let plain = changes.iter().all(|(_, new)| new.is_plain());
    match (args.rewrite_configs, edits.is_empty(), given) {
        (true, true, Some(given)) => Err(CliError::refused(format!(
            "{} gives K3s its token in a way that cannot be edited here: change it by hand and say \
             --keep-configs",
            given.from
        ))),
        (true, false, _) if !plain => Err(CliError::refused(
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

/// One file with every change made, if it has to do with any.
fn edited(file: &NodeFile, changes: &[Change<'_>]) -> Option<Edit> {
    let mut done: Option<Edit> = None;
    for (old, new) in changes {
        let now = match &done {
            None => file.clone(),
            Some(edit) => NodeFile {
                entry: Entry {
                    kind: EntryKind::File(edit.bytes.clone()),
                    ..file.entry.clone()
                },
                ..file.clone()
            },
        };
        let further = password_edits(&now, old, new.expose());
        done = match (done, further) {
            (Some(first), Some(further)) => Some(Edit {
                what: format!("{}, {}", first.what, further.what),
                bytes: further.bytes,
                ..first
            }),
            (first, further) => first.or(further),
        };
    }
    done
}
