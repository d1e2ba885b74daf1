//! Another `service.key`, in the datastore and on this server's disk; nothing else changes.

use std::path::PathBuf;

use zeroize::Zeroizing;

use super::{KeyFile, KeyFileError};
use crate::bootstrap::{Bundle, Field, Opened, SealError, SharedFile, Stamp, save};
use crate::edge::Entropy;
use crate::host::Entry;
use crate::init::Staged;
use crate::plan::Plan;
use crate::token::Head;
use crate::token::draft::{Draft, File};

/// What a change of the service-account keys is made from.
#[derive(Clone, Copy)]
pub struct ServiceKeyChange<'a> {
    /// Whose plan it is.
    pub head: Head<'a>,
    /// What it is for, in a few words.
    pub title: &'a str,
    /// The server's directory.
    pub server: &'a std::path::Path,
    /// What `tls/service.key` is now.
    pub present: Option<&'a Entry>,
    /// What `tls/service.current.key` is now.
    pub current: Option<&'a Entry>,
    /// The bootstrap data as they are.
    pub opened: &'a Opened,
    /// The file to come.
    pub new: &'a KeyFile,
    /// Salt and nonce.
    pub entropy: &'a dyn Entropy,
}

/// Why the service-account keys cannot be changed.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// Data in the form of K3s 1.21.
    #[error(
        "the bootstrap data are in the form of K3s 1.21 and older, which takes no new service.key \
         from them: upgrade K3s first"
    )]
    Legacy,
    /// Disk and datastore disagree.
    #[error(
        "{} is not what the bootstrap data hold: K3s would replace one by the other at its next \
         start. See `kubepki bootstrap diff`, then start K3s once",
        path.display()
    )]
    Differs {
        /// The file on disk.
        path: PathBuf,
    },
    /// The first old key would be lost, by K3s's own rule.
    #[error("the new service.key does not hold the key that signs now")]
    SignerLost,
    /// They cannot be encrypted.
    #[error("the bootstrap data cannot be encrypted")]
    Seal(#[source] SealError),
    /// The keys themselves.
    #[error("service.key")]
    Keys(#[from] KeyFileError),
}

/// A set of CA files that holds a `service.key` and nothing else, as `rotate-ca` takes it: every
/// other file stays the cluster's own.
pub fn staged(file: &KeyFile, stamp: Stamp) -> Bundle {
    let mut bundle = Bundle::default();
    let shared = SharedFile {
        stamp,
        content: file.bytes().clone(),
    };
    bundle.files.insert(Field::ServiceKey, shared);
    bundle
}

/// Plans another `service.key`: the bootstrap data with that one file replaced, then the file on
/// this server's disk with the same time, so that K3s's start finds them equal, then
/// `service.current.key`, which K3s would write then.
///
/// # Errors
///
/// [`ChangeError`]; then nothing was made.
pub fn plan_change(change: &ServiceKeyChange<'_>) -> Result<(Plan, Vec<Staged>), ChangeError> {
    let ServiceKeyChange {
        head,
        server,
        opened,
        new,
        ..
    } = *change;
    if opened.bundle.legacy {
        return Err(ChangeError::Legacy);
    }
    let mut bundle = opened.bundle.clone();
    let path = Field::ServiceKey.under(server);
    if let (Some(shared), Some(on_disk)) = (bundle.content(Field::ServiceKey), change.present)
        && on_disk.bytes() != Some(shared)
    {
        return Err(ChangeError::Differs { path });
    }
    if let Some(old) = bundle.content(Field::ServiceKey) {
        let old = KeyFile::parse(old)?;
        let signer = old.signer().and_then(|key| key.id.as_ref());
        if !new.keys.iter().any(|key| key.id.as_ref() == signer) {
            return Err(ChangeError::SignerLost);
        }
    }
    let stamp = Stamp::at(head.now);
    bundle.files.extend(staged(new, stamp).files);
    let reason = "the bootstrap data, with this service.key; everything else in them stays";
    let saved = save(opened, &bundle, change.entropy, reason).map_err(ChangeError::Seal)?;
    let mut draft = Draft::default();
    draft.save(saved);
    let file = |path, present, stamp, name, bytes| File {
        path,
        present,
        mode: 0o600,
        stamp,
        name,
        bytes,
    };
    let bytes = new.bytes().clone();
    let reason = "the keys of service-account tokens: the first signs, all verify";
    draft.put(
        file(path, change.present, Some(stamp), "service.key", bytes),
        reason,
    );
    let current: Zeroizing<Vec<u8>> = new.current()?;
    let path = server.join("tls/service.current.key");
    // Older releases do not have it.
    if change.current.is_some() {
        let present = change.current;
        draft.put(
            file(path, present, None, "service.current.key", current),
            "the key that signs, alone",
        );
    }
    draft.notes = notes(new);
    Ok(draft.finish(&head, change.title.to_owned()))
}

fn notes(new: &KeyFile) -> Vec<String> {
    let mut notes = vec![
        "CAs, certificates and join tokens stay as they are: restart servers only, one after the \
         other; agents and pods need nothing"
            .to_owned(),
        "until the last server is restarted, those that are not yet refuse tokens that a \
         restarted one has signed: do not wait between them"
            .to_owned(),
        "whoever verifies tokens outside the cluster (OIDC) needs the new JWKS".to_owned(),
    ];
    for key in &new.keys {
        if let super::Standing::Unseen(why) = key.standing {
            notes.push(format!(
                "key {} of service.key is unused: {why}",
                key.position
            ));
        }
    }
    notes
}
