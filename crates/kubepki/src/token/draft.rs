//! Plans over files with secrets and datastore keys, step by step.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use pki::UnixTime;
use zeroize::Zeroizing;

use crate::bootstrap::{Save, Stamp};
use crate::host::{Attributes, Entry, EntryKind};
use crate::init::Staged;
use crate::plan::{
    Action, Before, Content, Fingerprint, PLAN_FORMAT, Plan, PlanId, Step, Target, TxnOperation,
};

/// Whose plan it is.
#[derive(Clone, Copy, Debug)]
pub struct Head<'a> {
    /// The plan's name.
    pub id: &'a PlanId,
    /// The node that it is made for.
    pub node: &'a str,
    /// The data directory, links resolved.
    pub root: &'a Path,
    /// The datastore, without credentials, if the plan writes to it.
    pub datastore: Option<&'a str>,
    /// When it is made.
    pub now: UnixTime,
}

/// A plan in the making, and what is to be staged for it.
#[derive(Default)]
pub(crate) struct Draft {
    steps: Vec<Step>,
    staged: Vec<Staged>,
    pub(crate) notes: Vec<String>,
}

/// A file to be put in place.
pub(crate) struct File<'a> {
    pub(crate) path: PathBuf,
    /// What is there now.
    pub(crate) present: Option<&'a Entry>,
    /// The mode of a new file; one that is there keeps its own.
    pub(crate) mode: u32,
    /// Its modification time; `None` for the moment of writing.
    pub(crate) stamp: Option<Stamp>,
    /// What it is called while it is staged: unique within its plan.
    pub(crate) name: &'a str,
    pub(crate) bytes: Zeroizing<Vec<u8>>,
}

impl Draft {
    /// Puts a file in place, unless it is there already.
    pub(crate) fn put(&mut self, file: File<'_>, reason: &str) {
        let File {
            path,
            present,
            mode,
            stamp,
            name,
            bytes,
        } = file;
        let mtime = stamp.map(|stamp| (stamp.seconds, stamp.nanoseconds));
        let attributes = match present {
            Some(entry) if matches!(entry.kind, EntryKind::File(_)) => Attributes {
                mtime,
                ..entry.attributes.clone()
            },
            _ => Attributes {
                mtime,
                ..Attributes::new(mode)
            },
        };
        let same = present.is_some_and(|entry| {
            entry.bytes() == Some(bytes.as_slice())
                && mtime.is_none_or(|mtime| entry.attributes.mtime == Some(mtime))
        });
        if same {
            return;
        }
        let before = match present {
            Some(entry) => Before::Present(Fingerprint::of(entry)),
            None => Before::Absent,
        };
        let target = Target::File {
            host: "local".to_owned(),
            path,
        };
        let content = self.stage(name, bytes);
        let action = Action::Put {
            attributes,
            content,
        };
        self.push(target, before, action, reason);
    }

    /// Creates a datastore key with `value`.
    pub(crate) fn create(&mut self, key: &str, name: &str, value: Vec<u8>, reason: &str) {
        let content = self.stage(name, value.into());
        let operation = TxnOperation::Create(content);
        self.push_key(key, Before::Absent, operation, reason);
    }

    /// Writes bootstrap data.
    pub(crate) fn save(&mut self, save: Save) {
        save.append(&mut self.steps, &mut self.staged);
    }

    /// Deletes a datastore key at `revision`.
    pub(crate) fn delete(&mut self, (key, revision): (&str, i64), reason: &str) {
        let before = Before::Revision(revision);
        self.push_key(key, before, TxnOperation::Delete, reason);
    }

    /// The plan, its steps numbered, and what must be staged before it is applied.
    pub(crate) fn finish(self, head: &Head<'_>, title: String) -> (Plan, Vec<Staged>) {
        let plan = Plan {
            format: PLAN_FORMAT,
            id: head.id.clone(),
            undoes: None,
            title,
            node: head.node.to_owned(),
            root: head.root.to_owned(),
            datastore: head.datastore.map(str::to_owned),
            irreversible: None,
            deferrable: std::collections::BTreeSet::new(),
            created: head.now,
            hypothetical: false,
            leaves: BTreeMap::new(),
            steps: self.steps,
            notes: self.notes,
        };
        (plan, self.staged)
    }

    /// Its steps, numbered from one, and what must be staged for them.
    pub(crate) fn into_parts(self) -> (Vec<Step>, Vec<Staged>) {
        (self.steps, self.staged)
    }

    fn stage(&mut self, name: &str, bytes: Zeroizing<Vec<u8>>) -> Content {
        let sha256 = pki::sha256(&bytes).to_string();
        let name = name.to_owned();
        self.staged.push(Staged {
            name: name.clone(),
            bytes,
        });
        Content::Staged { name, sha256 }
    }

    fn push_key(&mut self, key: &str, before: Before, operation: TxnOperation, reason: &str) {
        let target = Target::DatastoreKey {
            key: key.to_owned(),
        };
        self.push(target, before, Action::Txn { operation }, reason);
    }

    fn push(&mut self, target: Target, before: Before, action: Action, reason: &str) {
        let number = u32::try_from(self.steps.len() + 1).unwrap_or(u32::MAX);
        self.steps.push(Step {
            number,
            target,
            before,
            action,
            reason: reason.to_owned(),
        });
    }
}
