//! The files of a node that give K3s its tokens, and edits that change nothing else in them.

mod collect;
mod edit;
mod rooted;
mod scan;

pub use collect::{FileKind, NodeFile, NodeFiles, NodeProblem};
pub use edit::{hash_edits, masked, password_edits, plan_edits};
pub use scan::{Fate, Occurrence, occurrences};
