//! Putting a disk's or snapshot's files back into the datastore, as a new value with new times.

use std::collections::BTreeMap;
use std::path::Path;

use pki::UnixTime;

use super::{
    Audit, Bundle, Candidates, Field, Flaw, LocateError, Opened, Passphrase, SealError, Stamp,
    audit, create, save,
};
use crate::datastore::Record;
use crate::edge::Entropy;
use crate::init::{Passwd, SERVER, Staged};
use crate::plan::{PLAN_FORMAT, Plan, PlanId};

/// What is restored, and over what.
#[derive(Clone, Copy, Debug)]
pub struct Restoration<'a> {
    /// The plan's name.
    pub id: &'a PlanId,
    /// The data that are replaced; `None` where the datastore has none.
    pub opened: Option<&'a Opened>,
    /// Where the files come from.
    pub source: Source<'a>,
    /// The files.
    pub bundle: &'a Bundle,
    /// The token that new data are encrypted with; data that are replaced keep theirs.
    pub owner: &'a Passphrase,
    /// The datastore that is written, in words without credentials.
    pub datastore: &'a str,
    /// The directory that the plan belongs to.
    pub root: &'a Path,
    /// The node's name, for people.
    pub node: &'a str,
    /// Now.
    pub now: UnixTime,
    /// Salt and nonce.
    pub entropy: &'a dyn Entropy,
}

/// Where restored files come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source<'a> {
    /// A server's directory: all of its files.
    Disk(&'a Path),
    /// A snapshot: the eleven files that a rotation may replace. What else the present data hold
    /// stays, because the passwords of a snapshot may be from before the token was rotated.
    Snapshot(&'a Path),
}

/// Why nothing can be restored; nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The files are not whole.
    #[error("what is to be restored is not whole:{}", flaws(found))]
    NotWhole {
        /// What is wrong.
        found: Vec<Audit>,
    },
    /// The disk's passwords are those of another token.
    #[error(
        "{} holds another server password than the token that opens {key}: this disk is from \
         before the token was rotated. Write the cluster's passwd there first (`kubepki bootstrap \
         extract --keep datastore`)",
        passwd
    )]
    OtherPassword {
        /// The file.
        passwd: String,
        /// The key of the present data.
        key: String,
    },
    /// They cannot be encrypted.
    #[error("the bootstrap data cannot be encrypted")]
    Seal(#[from] SealError),
}

fn flaws(found: &[Audit]) -> String {
    found
        .iter()
        .map(|it| format!("\n  {} {}", it.name, it.problem))
        .collect()
}

/// Plans the write. A plan without steps means that the datastore holds the same already.
///
/// # Errors
///
/// [`RestoreError`].
pub fn plan_restore(request: &Restoration<'_>) -> Result<(Plan, Vec<Staged>), RestoreError> {
    let restored = restored(request);
    let broken: Vec<Audit> = audit(&restored, request.now)
        .into_iter()
        .filter(|it| it.flaw == Flaw::Broken)
        .collect();
    if !broken.is_empty() {
        return Err(RestoreError::NotWhole { found: broken });
    }
    if let (Source::Disk(server), Some(opened)) = (request.source, request.opened) {
        same_password(&restored, opened, server)?;
    }
    let (from, place) = match request.source {
        Source::Disk(path) => ("the disk", path),
        Source::Snapshot(path) => ("a snapshot", path),
    };
    let mut plan = Plan {
        format: PLAN_FORMAT,
        id: request.id.clone(),
        undoes: None,
        title: format!("restore the bootstrap data from {}", place.display()),
        node: request.node.to_owned(),
        root: request.root.to_owned(),
        datastore: Some(request.datastore.to_owned()),
        irreversible: None,
        deferrable: std::collections::BTreeSet::new(),
        created: request.now,
        hypothetical: false,
        leaves: BTreeMap::new(),
        steps: Vec::new(),
        notes: Vec::new(),
    };
    let mut staged = Vec::new();
    let reason = format!("as {from} has it");
    let bundle = restored.restamped(Stamp::at(request.now));
    let save = match request.opened {
        Some(opened) if same_files(&opened.bundle, &bundle) && !opened.moves() => {
            plan.title = "nothing to restore: the datastore holds the same".to_owned();
            return Ok((plan, staged));
        }
        Some(opened) => {
            plan.notes.clone_from(&opened.notes);
            save(opened, &bundle, request.entropy, &reason)?
        }
        None => create(request.owner, &bundle, request.entropy, &reason)?,
    };
    save.append(&mut plan.steps, &mut staged);
    plan.notes.push(
        "servers whose files differ take these up at their next start: `kubepki bootstrap diff` \
         on each says how"
            .to_owned(),
    );
    Ok((plan, staged))
}

fn restored(request: &Restoration<'_>) -> Bundle {
    let Some(opened) = request.opened else {
        return request.bundle.clone();
    };
    let mut restored = opened.bundle.clone();
    let wanted = request.bundle.files.iter().filter(|(field, _)| {
        let own = !restored.files.contains_key(field);
        matches!(request.source, Source::Disk(_)) || field.is_rotatable() || own
    });
    let wanted: Vec<_> = wanted.map(|(field, file)| (*field, file.clone())).collect();
    restored.files.extend(wanted);
    restored
}

fn same_files(one: &Bundle, other: &Bundle) -> bool {
    let contents = |bundle: &Bundle| -> Vec<_> {
        let all = bundle.files.iter();
        all.map(|(field, file)| (*field, file.content.clone()))
            .collect()
    };
    contents(one) == contents(other) && !one.legacy
}

/// The passwords that go into the datastore must be those of the token that encrypts them.
fn same_password(bundle: &Bundle, opened: &Opened, server: &Path) -> Result<(), RestoreError> {
    let text = bundle
        .content(Field::PasswdFile)
        .and_then(|content| str::from_utf8(content).ok());
    let passwd = text.and_then(|text| Passwd::parse(text).ok());
    let held = passwd.as_ref().and_then(|it| it.password(SERVER.0));
    match held {
        Some(held) if held != opened.owner.expose() => Err(RestoreError::OtherPassword {
            passwd: Field::PasswdFile.under(server).display().to_string(),
            key: opened.record.key.clone(),
        }),
        _ => Ok(()),
    }
}

/// The one bootstrap key, if a token at hand names it and its value is damaged: it can be
/// replaced, because its name proves whose it is.
pub fn damaged(records: &[Record], candidates: &Candidates, error: &LocateError) -> Option<Opened> {
    let (LocateError::Sealed { key, .. } | LocateError::Bundle { key, .. }) = error else {
        return None;
    };
    let [record] = records else {
        return None;
    };
    let candidate = candidates.of_key(key)?;
    Some(Opened {
        record: record.clone(),
        passphrase: candidate.passphrase.clone(),
        owner: candidate.owner.clone(),
        origin: candidate.origin.clone(),
        bundle: Bundle::default(),
        superseded: Vec::new(),
        notes: vec![format!(
            "the value of {key} is damaged and is replaced whole"
        )],
    })
}
