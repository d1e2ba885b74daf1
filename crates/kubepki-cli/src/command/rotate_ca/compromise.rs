//! `rotate-ca --compromised`: the tokens to come, and where the old keys can still be had.

use kubepki::bootstrap::{self, Candidates, Exposure, KEY_PREFIX, Opened, Passphrase, still_open};
use kubepki::ca::rotate::NewTokens;
use kubepki::datastore::Record;
use kubepki::host::Host as _;
use kubepki::init::NODE;
use kubepki::token::{Edit, NewPassword, ServerFiles};

use super::Rotation;
use crate::command::bootstrap::former;
use crate::command::token::config_edits;
use crate::datastore::{Access, Connected, EndpointArgs, candidates, named, open, reached};
use crate::error::CliError;
use crate::output;

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
    if !args.compromised {
        return Ok(());
    }
    if args.tokens_replaced {
        return refuse_kept_tokens(rotation).await;
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
             which that would undo), then the same again with --tokens-replaced and --token-file \
             OLD, then restart every server and agent with the new token",
        ),
        false => CliError::refused(stays)
            .hint("stop K3s on every server and say --direct: CAs and tokens are replaced at once"),
    })
}

/// That the join tokens were replaced is not believed: this server's own must open the data, and
/// those that are named as old ones must not.
///
/// # Errors
///
/// A refusal when the datastore shows that they were not.
async fn refuse_kept_tokens(rotation: &Rotation<'_>) -> Result<(), CliError> {
    let (host, args) = (&rotation.world.host, &rotation.args.endpoint);
    let own = EndpointArgs {
        token_files: Vec::new(),
        ..args.clone()
    };
    let own = candidates(host, &own, rotation.settings).await?;
    let records = match open(host, args, rotation.settings, Access::Read).await {
        Ok(connected) => connected.store.list(KEY_PREFIX).await.map_err(reached),
        Err(error) => Err(error),
    };
    let records = match records {
        Ok(records) => records,
        Err(error) => {
            output::talk(&format!(
                "Note: that the join tokens were replaced is not checked, for the datastore cannot \
                 be read from here: {}",
                error.message
            ));
            return Ok(());
        }
    };
    let opens = |passphrase: &Passphrase, record: &Record| {
        passphrase.key_name() == record.key && bootstrap::open(&record.value, passphrase).is_ok()
    };
    let any = |passphrase: &Passphrase| records.iter().find(|it| opens(passphrase, it));
    if !own.iter().any(|it| any(&it.passphrase).is_some()) {
        return Err(CliError::refused(
            "no token of this server opens the bootstrap data: its files are from before the \
             tokens were replaced, or another server's",
        )
        .hint("put the new token into K3s's configuration and restart K3s, then rotate the CAs"));
    }
    if args.token_files.is_empty() {
        output::talk(
            "Note: name the old token with --token-file: that it no longer opens the data is not \
             checked",
        );
    }
    for path in &args.token_files {
        let mut old = Candidates::new();
        let shown = path.display().to_string();
        let added = old.add_token(&named(path)?, &shown);
        added.map_err(|error| CliError::usage(format!("--token-file {shown}: {error}")))?;
        if let Some(record) = old.iter().find_map(|it| any(&it.passphrase)) {
            return Err(CliError::refused(format!(
                "the token in {shown} still opens {}: it was not replaced, and whoever has it \
                 would decrypt the new CA keys",
                record.key
            ))
            .hint("run `k3s token rotate` on this server first"));
        }
    }
    Ok(())
}
