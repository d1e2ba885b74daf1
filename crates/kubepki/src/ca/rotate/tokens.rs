//! After a compromise the join tokens go with the CAs: whoever has the old one would decrypt the
//! new CA keys.
//!
//! K3s can be started at every moment in between. While both keys are in the datastore, the old
//! token opens the old one and the new token the new one; then the files that tell K3s its token
//! change, and from then on the new data are in force, whose files K3s would write out itself.

use std::fmt;
use std::path::Path;

use pki::UnixTime;
use zeroize::Zeroizing;

use super::{Request, RotateError, Way};
use crate::bootstrap::{Bundle, Field, Opened, Passphrase, SharedFile, Stamp};
use crate::init::{NODE, Staged};
use crate::plan::{Step, Target};
use crate::token::draft::Draft;
use crate::token::{Edit, NewPassword, ServerFiles, replaced_users};

/// What becomes of the join tokens.
#[derive(Clone, Copy, Debug, Default)]
pub enum Tokens<'a> {
    /// Their password stays; only the CA hash that they pin changes.
    #[default]
    Stay,
    /// They were replaced beforehand, as the operator says.
    Replaced,
    /// They are replaced by the same plan.
    New(NewTokens<'a>),
}

/// Join tokens to come.
#[derive(Clone, Copy)]
pub struct NewTokens<'a> {
    /// This server's token files and list of users.
    pub files: &'a ServerFiles,
    /// The servers' password, and that of agents which have none of their own.
    pub server: &'a NewPassword,
    /// The password of agents which have one of their own.
    pub agents: &'a NewPassword,
    /// Files of this node that give K3s its tokens, with the new ones in them.
    pub edits: &'a [Edit],
}

impl fmt::Debug for NewTokens<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NewTokens({:?})", self.files)
    }
}

/// After a compromise the tokens must not stay.
pub(super) fn refuse(request: &Request<'_>) -> Result<(), RotateError> {
    let compromised = request.intent == crate::ca::verify::Intent::Compromised;
    match (request.way, request.tokens) {
        _ if !compromised => Ok(()),
        (Way::Direct { .. }, Tokens::New(_)) | (Way::Through { .. }, Tokens::Replaced) => Ok(()),
        _ => Err(RotateError::TokensStay),
    }
}

/// The datastore's new owner, and the steps by which K3s learns its token.
pub(super) struct Replacement {
    /// What the data are encrypted with.
    pub(super) owner: Passphrase,
    /// Whether agents join with the servers' password.
    pub(super) agents_too: bool,
    /// Configuration files with the new tokens in them.
    pub(super) edits: Vec<Step>,
    /// What these need.
    pub(super) staged: Vec<Staged>,
}

impl Replacement {
    /// Puts the new list of users into `bundle`.
    pub(super) fn of(
        tokens: NewTokens<'_>,
        opened: &Opened,
        bundle: &mut Bundle,
        now: UnixTime,
    ) -> Result<Self, RotateError> {
        let (mut users, agents_too) = replaced_users(opened, tokens.files, tokens.server)?;
        if !agents_too {
            users.replace(NODE.0, tokens.agents.expose());
            users.ensure(NODE, tokens.agents.expose());
        }
        let file = SharedFile {
            stamp: Stamp::at(now),
            content: Zeroizing::new(users.to_text().as_bytes().to_vec()),
        };
        bundle.files.insert(Field::PasswdFile, file);
        let mut draft = Draft::default();
        draft.edit(tokens.edits, "K3s takes its token from here: ");
        let (edits, staged) = draft.into_parts();
        Ok(Self {
            owner: Passphrase::new(tokens.server.expose().clone()),
            agents_too,
            edits,
            staged,
        })
    }
}

/// Takes the steps that write token files out of `steps`.
pub(super) fn token_files(steps: &mut Vec<Step>, server: &Path) -> Vec<Step> {
    let files = ["token", "agent-token"].map(|name| server.join(name));
    let is_token = |step: &mut Step| match &step.target {
        Target::File { path, .. } => files.contains(path),
        _ => false,
    };
    steps.extract_if(.., is_token).collect()
}

/// What the operator has to know of tokens and of what the old ones still open.
pub(super) fn notes(request: &Request<'_>, agents_too: bool) -> Vec<String> {
    let mut said = vec![
        "the join tokens are replaced, password and CA hash: `kubepki token show` prints the new \
         ones. Every other server needs its new one in its configuration before its next start; \
         with the old one it ends with \"bootstrap data already found and encrypted with different \
         token\""
            .to_owned(),
        match agents_too {
            true => "agents join with the servers' new token: each needs it before its next start",
            false => {
                "the agents' own token is replaced too: each needs it before its next start, and \
                 `agent-token` of every server's configuration must be the new one"
            }
        }
        .to_owned(),
        "tokens that `k3s token create` made lie in the cluster as Secrets and stay valid until \
         they expire: delete them once K3s runs (`k3s token list`, `k3s token delete`)"
            .to_owned(),
    ];
    if let Way::Direct { opened, .. } = request.way {
        if opened.bundle.content(Field::EncryptionConfig).is_some() {
            said.push(
                "the key that encrypts Secrets lay in the same data and stays: once K3s runs, \
                 `k3s secrets-encrypt rotate-keys`"
                    .to_owned(),
            );
        }
        let records = std::iter::once(&opened.record).chain(&opened.superseded);
        said.extend(records.map(|record| {
            format!(
                "the old token still opens {} as it was at revision {}: the datastore keeps it \
                 (kine: that row, and old_value of the row that deletes it, until it is compacted; \
                 etcd: its history until compaction and defragmentation)",
                record.key, record.revision
            )
        }));
    }
    said
}

/// What was to be done beforehand and is left for later, where the server that runs writes.
pub(super) fn notes_of_replaced() -> Vec<String> {
    [
        "the join tokens must be new already: what K3s writes is encrypted with the token that the \
         server which takes the set runs with. Of the former token `k3s token rotate` leaves the \
         agents' own one (`agent-token`) as it is: change that in every server's configuration \
         before the restart",
        "servers that were not restarted since `k3s token rotate` accept the old token until they \
         are",
        "the old token still opens what the datastore keeps of before (etcd: its history until \
         compaction and defragmentation; kine: former rows and their old_value)",
    ]
    .map(str::to_owned)
    .to_vec()
}
