//! The files of a node that give K3s its tokens, and edits that change nothing else in them.

mod collect;
mod edit;
mod pinned;
mod rooted;
mod scan;

pub use collect::{FileKind, NodeFile, NodeFiles, NodeProblem};
pub use edit::{masked, password_edits, pin_edits, plan_edits};
pub use scan::{Fate, Occurrence, PinnedKeys, Pinning, occurrences};
