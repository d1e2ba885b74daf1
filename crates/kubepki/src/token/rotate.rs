//! Another password for servers: datastore, list of users and token files as one change.
//!
//! The order of steps is such that K3s can be started at every moment in between. While both keys
//! are in the datastore, the old token opens the old one and the new token the new one; the files
//! that tell K3s its token change before the list of users, which K3s then takes from the
//! datastore; the old key goes last.

use pki::{Digest, UnixTime};
use zeroize::Zeroizing;

use super::draft::{Draft, File, Head};
use super::server::{PASSWD, TOKEN};
use super::{NewPassword, Rule, ServerFiles, ServerFilesError, Token, hashes};
use crate::bootstrap::{
    Bundle, Field, Opened, Passphrase, SealError, SharedFile, Stamp, seal_bundle,
};
use crate::edge::Entropy;
use crate::host::Entry;
use crate::init::{NODE, Passwd, PasswdError, SERVER, Staged};
use crate::plan::Plan;

/// What a rotation of the servers' password is made from.
#[derive(Clone, Copy)]
pub struct Rotation<'a> {
    /// Whose plan it is.
    pub head: Head<'a>,
    /// This server's token files and list of users.
    pub files: &'a ServerFiles,
    /// The bootstrap data, opened with the password in force.
    pub opened: &'a Opened,
    /// The password to come.
    pub new: &'a NewPassword,
    /// How this K3s hashes its server CA.
    pub rule: Rule,
    /// Files of this node that give K3s its token, with the new one in them.
    pub edits: &'a [Edit],
    /// Whether servers take the password up while they serve, as `kubepki serve` does.
    pub live: bool,
    /// Salt and nonce.
    pub entropy: &'a dyn Entropy,
}

/// A file outside the server's directory as it will be.
pub struct Edit {
    /// Where.
    pub path: std::path::PathBuf,
    /// What is there.
    pub present: Entry,
    /// What will be there.
    pub bytes: Zeroizing<Vec<u8>>,
    /// Which settings in it change, for people.
    pub what: String,
}

impl std::fmt::Debug for Edit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Edit({}: {})", self.path.display(), self.what)
    }
}

/// Why the servers' password cannot be changed.
#[derive(Debug, thiserror::Error)]
pub enum RotateError {
    /// The same password again.
    #[error("the new password is the present one: nothing to rotate")]
    Same,
    /// The password that agents have for themselves.
    #[error(
        "the new password is the agents' own: every agent could then join as a server; choose \
         another"
    )]
    AgentsPassword,
    /// Data in the form of K3s 1.21.
    #[error(
        "the bootstrap data are in the form of K3s 1.21 and older, which cannot rotate its token: \
         upgrade K3s first"
    )]
    Legacy,
    /// The datastore's list of users cannot be used.
    #[error("the list of users in the bootstrap data cannot be read: {problem}")]
    Users {
        /// Why.
        problem: String,
    },
    /// The two lists of users differ.
    #[error(
        "{} is not what the bootstrap data hold: start K3s once, or see `kubepki bootstrap diff`",
        path.display()
    )]
    UsersDiffer {
        /// The list on disk.
        path: std::path::PathBuf,
    },
    /// The list of users says another password than the one that opens the datastore.
    #[error(
        "the list of users has another password for servers than the token in force: start K3s \
         once with that token"
    )]
    UsersAndToken,
    /// The server CA cannot be hashed.
    #[error("the server CA in the bootstrap data cannot be read")]
    Authority(#[source] pki::Error),
    /// It cannot be encrypted.
    #[error("the bootstrap data cannot be encrypted")]
    Seal(#[source] SealError),
    /// The server's files.
    #[error(transparent)]
    Files(#[from] ServerFilesError),
}

/// Plans another password for servers, and for agents where they have none of their own.
///
/// The bootstrap data keep every file that the datastore has, CAs that other servers have not
/// taken up yet among them; only the list of users in them is new. (K3s's own `token rotate`
/// saves the files of the disk that it runs on, which undoes a CA rotation before its restart:
/// reference section 10.2.)
///
/// # Errors
///
/// [`RotateError`]; then nothing was made.
pub fn plan_rotation(rotation: &Rotation<'_>) -> Result<(Plan, Vec<Staged>), RotateError> {
    let opened = rotation.opened;
    if opened.bundle.legacy {
        return Err(RotateError::Legacy);
    }
    if rotation.new.expose() == opened.owner.expose() {
        return Err(RotateError::Same);
    }
    let (new_users, agents_too) = replaced_users(opened, rotation.files, rotation.new)?;
    let now = rotation.head.now;
    let stamp = Stamp::at(now);
    let text = Zeroizing::new(new_users.to_text().as_bytes().to_vec());
    let mut bundle = opened.bundle.clone();
    let shared = SharedFile {
        stamp,
        content: text.clone(),
    };
    bundle.files.insert(Field::PasswdFile, shared);
    let passphrase = Passphrase::new(rotation.new.expose().clone());
    let sealed = seal_bundle(&bundle, &passphrase, rotation.entropy);
    let sealed = sealed.map_err(RotateError::Seal)?;

    let mut draft = Draft::default();
    let key = passphrase.key_name();
    let reason = "the bootstrap data, encrypted with the new token";
    draft.create(&key, "bootstrap", sealed, reason);
    draft.edit(rotation.edits, "K3s takes its token from here: ");
    let own = authority(&bundle, rotation, now)?;
    let token = Token::new(own, SERVER.0, rotation.new.expose().clone());
    let line = Zeroizing::new(format!("{}\n", *token.to_text()).into_bytes());
    let files = rotation.files;
    let put = |name, staged, mode, stamp, bytes| File {
        path: files.path(name),
        present: files.entry(name),
        mode,
        stamp,
        name: staged,
        bytes,
    };
    let reason = "servers join with it; K3s starts with it";
    draft.put(put(TOKEN, "token", 0o600, None, line), reason);
    let reason = "who joins with which password";
    draft.put(put(PASSWD, "passwd", 0o600, Some(stamp), text), reason);
    let reason = "the bootstrap data, encrypted with the former token";
    for record in std::iter::once(&opened.record).chain(&opened.superseded) {
        draft.delete((&record.key, record.revision), reason);
    }
    draft.notes = notes(rotation, &opened.record.key, agents_too, &token);
    let title = match agents_too {
        true => "rotate the token of servers and agents",
        false => "rotate the servers' token",
    };
    Ok(draft.finish(&rotation.head, title.to_owned()))
}

/// The list of users with the servers' password `new`, and whether it is the agents' too.
///
/// # Errors
///
/// When the list cannot be read, contradicts the one on disk or the token in force, or `new` is
/// the agents' own.
pub(crate) fn replaced_users(
    opened: &Opened,
    files: &ServerFiles,
    new: &NewPassword,
) -> Result<(Passwd, bool), RotateError> {
    let old = users(&opened.bundle, files)?;
    with_new_password(&old, opened, files, new)
}

/// The list of users in force: the datastore's, which the one on disk must not contradict.
fn users(bundle: &Bundle, files: &ServerFiles) -> Result<Passwd, RotateError> {
    let on_disk = files.passwd();
    let Some(content) = bundle
        .content(Field::PasswdFile)
        .filter(|it| !it.is_empty())
    else {
        return Ok(on_disk.clone());
    };
    let problem = |problem: String| RotateError::Users { problem };
    let text = std::str::from_utf8(content).map_err(|_| problem("not UTF-8".to_owned()))?;
    let shared = Passwd::parse(text).map_err(|error: PasswdError| problem(error.to_string()))?;
    let missing = files.entry(PASSWD).is_none();
    if !missing && !shared.is_same_as(on_disk) {
        let path = files.path(PASSWD);
        return Err(RotateError::UsersDiffer { path });
    }
    Ok(shared)
}

fn with_new_password(
    old: &Passwd,
    opened: &Opened,
    files: &ServerFiles,
    new: &NewPassword,
) -> Result<(Passwd, bool), RotateError> {
    let (present, new) = (opened.owner.expose(), new.expose());
    if old.password(SERVER.0).is_some_and(|it| it != present) {
        return Err(RotateError::UsersAndToken);
    }
    let agents = old.password(NODE.0);
    let agents_too = !files.has_agent_token() && agents.is_none_or(|agents| agents == present);
    if !agents_too && agents == Some(new) {
        return Err(RotateError::AgentsPassword);
    }
    let mut users = old.clone();
    users.replace(SERVER.0, new);
    users.ensure(SERVER, new);
    if agents_too {
        users.replace(NODE.0, new);
        users.ensure(NODE, new);
    }
    Ok((users, agents_too))
}

/// The hash of the server CA that is in force from the next start on: the datastore's.
fn authority(
    bundle: &Bundle,
    rotation: &Rotation<'_>,
    now: UnixTime,
) -> Result<Digest, RotateError> {
    let file = match bundle.content(Field::ServerCa) {
        Some(file) => file,
        None => rotation.files.authority()?,
    };
    let found = hashes(file, now).map_err(RotateError::Authority)?;
    Ok(found.by(rotation.rule))
}

fn notes(
    rotation: &Rotation<'_>,
    former_key: &str,
    agents_too: bool,
    token: &Token,
) -> Vec<String> {
    let mut notes = match rotation.live {
        true => vec![
            format!(
                "every other server needs the new token ({token}) in its configuration or its \
                 server/token: a `kubepki serve` issues nothing until it has it, and takes it up \
                 while it serves; K3s takes the old password until it is restarted, and does not \
                 start with the old token"
            ),
            match agents_too {
                true => {
                    "every agent needs the new token to join anew; agents that run go on".to_owned()
                }
                false => "agents have a token of their own, which stays".to_owned(),
            },
        ],
        false => vec![
            format!(
                "every other server needs the new token ({token}) in its configuration before its \
                 next start; one that starts with the old one ends with \"bootstrap data already \
                 found and encrypted with different token\""
            ),
            match agents_too {
                true => "every agent needs the new token at its next start; agents that run go on \
                         until then"
                    .to_owned(),
                false => "agents have a token of their own, which stays".to_owned(),
            },
            "servers that run take the old password until they are restarted: restart them all"
                .to_owned(),
        ],
    };
    notes.extend([
        "snapshots made before now open with the old token only: keep it as long as you keep them"
            .to_owned(),
        format!(
            "the old token still opens former values of {former_key} in the datastore's history \
             (kine's old_value, etcd's revisions until compaction) and in snapshots; if it has \
             leaked, rotate the CAs too"
        ),
        match rotation.live {
            true => {
                "`kubepki undo` brings the old token back while the server serves; other \
                     servers need it again then"
            }
            false => {
                "take it back with `kubepki undo` before another server has started with the new \
                 token, and by rotating to the old one afterwards"
            }
        }
        .to_owned(),
    ]);
    if rotation.new.is_weak() {
        notes.push(
            "the new password is short, and it encrypts the CA keys in the datastore: 16 \
             characters of chance are the least"
                .to_owned(),
        );
    }
    notes
}
