//! The plan that puts a node's files in place.

use std::path::Path;

use zeroize::Zeroizing;

use crate::host::Entry;
use crate::init::Staged;
use crate::plan::Plan;
use crate::token::Head;
use crate::token::draft::{Draft, File};

/// A file of a node as it shall be.
pub struct NodeFile<'a> {
    /// Its name below `<data-dir>/agent`.
    pub name: &'a str,
    /// What is there now.
    pub present: Option<&'a Entry>,
    /// All of it.
    pub bytes: Zeroizing<Vec<u8>>,
    /// Why it is written, for the operator.
    pub reason: &'a str,
}

/// New files are for root alone, as K3s has them (reference section 1.6).
const MODE: u32 = 0o600;

/// Plans what of `files` differs from what is in `directory`, in that order; a plan without steps
/// means that nothing does. Files that are there keep owner and mode.
///
/// What a server answered exists before the plan does: its bytes are staged.
pub fn plan_files(
    head: &Head<'_>,
    title: String,
    directory: &Path,
    files: Vec<NodeFile<'_>>,
) -> (Plan, Vec<Staged>) {
    let mut draft = Draft::default();
    for file in files {
        let put = File {
            path: directory.join(file.name),
            present: file.present,
            mode: MODE,
            stamp: None,
            name: file.name,
            bytes: file.bytes,
        };
        draft.put(put, file.reason);
    }
    draft.finish(head, title)
}
