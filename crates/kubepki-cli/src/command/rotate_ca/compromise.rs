//! `rotate-ca --compromised`: the tokens to come, and where the old keys can still be had.

use kubepki::bootstrap::{Candidates, Exposure, Opened, still_open};
use kubepki::ca::rotate::NewTokens;
use kubepki::host::Host as _;
use kubepki::init::NODE;
use kubepki::token::{Edit, NewPassword, ServerFiles};

use super::Rotation;
use crate::command::bootstrap::former;
use crate::command::token::config_edits;
use crate::datastore::Connected;
use crate::error::CliError;

/// Said when it is done.
pub(super) const CLOSING: &str = " The join tokens are new too: `kubepki token show` on this \
                                  server prints them, and every other node needs its own in its \
                                  configuration before it starts.";

/// What a direct rotation after a compromise needs besides the CAs.
pub(super) struct Leak {
    files: ServerFiles,
    server: NewPassword,
    agents: NewPassword,
    edits: Vec<Edit>,
    /// Former values that a token at hand opens.
    pub(super) exposures: Vec<Exposure>,
    /// Further places, in words.
    pub(super) copies: Vec<String>,
}

impl Leak {
    /// Makes passwords, and looks for what old ones open.
    ///
    /// # Errors
    ///
    /// When the server's token files cannot be read, or its configuration gives K3s the token and
    /// nobody has said what becomes of it.
    pub(super) async fn look(
        rotation: &Rotation<'_>,
        connected: &Connected,
        candidates: &Candidates,
        opened: &Opened,
    ) -> Result<Self, CliError> {
        let Rotation {
            world,
            args,
            settings,
            ..
        } = rotation;
        let files = ServerFiles::read(&world.host, &rotation.disk.server).await?;
        let server = NewPassword::random(&world.entropy)?;
        let agents = NewPassword::random(&world.entropy)?;
        let old = opened.owner.expose();
        let mut changes = vec![(old, &server)];
        let of_agents = files.passwd().password(NODE.0).cloned();
        let of_agents = match files.has_agent_token() {
            true => Some(files.agent_password()?),
            false => of_agents,
        };
        if let Some(password) = &of_agents
            && password != old
        {
            changes.push((password, &agents));
        }
        let edits = config_edits(world, args.configs, &args.site, settings, &changes).await?;
        let mut unread = Vec::new();
        let former = former(world, settings, connected, &mut unread).await?;
        let exposures = still_open(&former, candidates, &opened.bundle);
        let mut copies = rotation.copies().await?;
        let unread = unread.into_iter();
        copies.extend(unread.map(|why| format!("what could not be read, perhaps: {why}")));
        Ok(Self {
            files,
            server,
            agents,
            edits,
            exposures,
            copies,
        })
    }

    pub(super) fn tokens(&self) -> NewTokens<'_> {
        NewTokens {
            files: &self.files,
            server: &self.server,
            agents: &self.agents,
            edits: &self.edits,
        }
    }
}

impl Rotation<'_> {
    /// Directories in which keys of before lie as they are, or encrypted with an old token.
    async fn copies(&self) -> Result<Vec<String>, CliError> {
        let state = self.node.state.path();
        let mut found = vec![format!(
            "{}, the backups of this plan and of earlier ones: `kubepki history forget PLAN` \
             destroys them",
            state.join("backups").display()
        )];
        let data_dir = &self.settings.data_dir;
        let snapshots = data_dir.join("server/db/snapshots");
        let names = self.world.host.list(&snapshots).await?.unwrap_or_default();
        if !names.is_empty() {
            found.push(format!(
                "{} ({} snapshots), encrypted with the token of their day",
                snapshots.display(),
                names.len()
            ));
        }
        let server = data_dir.join("server");
        for name in self.world.host.list(&server).await?.unwrap_or_default() {
            if name.starts_with("tls-") {
                let place = server.join(&name);
                found.push(format!("{}, a backup that K3s made", place.display()));
            }
        }
        Ok(found)
    }
}

/// A running server writes CAs and leaves the tokens.
///
/// # Errors
///
/// A refusal with the way out, unless the tokens are new already and nobody else can write.
pub(super) async fn refuse_through(rotation: &Rotation<'_>) -> Result<(), CliError> {
    let args = rotation.args;
    if !args.compromised || args.tokens_replaced {
        return Ok(());
    }
    let stays = "a running server takes new CAs and keeps the join tokens, with which whoever has \
                 them decrypts the new CA keys";
    let member = rotation.disk.server.join("db/etcd/member");
    let embedded = rotation.world.host.list(&member).await?.is_some();
    let elsewhere = args.endpoint.datastore_endpoint.is_some()
        || rotation.settings.connection.endpoint.is_some();
    Err(match embedded && !elsewhere {
        true => CliError::refused(format!(
            "{stays}; and to the etcd inside K3s only K3s writes"
        ))
        .hint(
            "run `k3s token rotate` on this server first (not between rotate-ca and the restart, \
             which that would undo), then the same again with --tokens-replaced, then restart \
             every server and agent with the new token",
        ),
        false => CliError::refused(stays)
            .hint("stop K3s on every server and say --direct: CAs and tokens are replaced at once"),
    })
}
