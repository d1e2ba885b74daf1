//! Is it right: named rules over an inventory, each a pure function that returns findings.
//!
//! A finding is a fact with its evidence and the command that mends it. Nothing here reads a
//! file or a clock; the same inventory can be asked about any moment.

mod chain;
mod context;
mod expiry;
mod file;
mod key;
mod kind;
mod kubeconfig;
mod listener;
mod name;
mod stray;
mod token;
mod words;

use std::fmt;
use std::path::{Path, PathBuf};

use pki::{Certificate, DAY, UnixTime};

use crate::cluster::{Policy, Wishes};
use crate::inventory::Inventory;

use context::Context;
pub use kind::{AuthorityRole, FindingKind};

/// How many seconds before the end of a CA its rotation should be under way: K3s warns from a
/// year on (reference section 8.2), and a rotation touches every node.
pub const AUTHORITY_WINDOW: i64 = 365 * DAY;

/// What is asked of an inventory.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// What is.
    pub inventory: &'a Inventory,
    /// What is wanted beyond that.
    pub wishes: &'a Wishes,
    /// Lifetimes; its window is the one for leaves.
    pub policy: &'a Policy,
    /// The moment that is asked about.
    pub now: UnixTime,
    /// Seconds before the end from which a CA is due: [`AUTHORITY_WINDOW`].
    pub authority_window: i64,
}

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// Worth knowing; nothing has to be done.
    Note,
    /// It works, and is unsafe or will surprise.
    Warning,
    /// It works today and has to be renewed, or the next start of K3s changes it.
    Due,
    /// Something does not work, or will not survive the next start of K3s.
    Broken,
}

impl Severity {
    /// From the least to the worst.
    pub const ALL: [Self; 4] = [Self::Note, Self::Warning, Self::Due, Self::Broken];

    /// Its name in every output.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Due => "due",
            Self::Broken => "broken",
        }
    }

    /// What a command exits with when this is the worst finding: 0 for notes, 3 when something
    /// is to be done, 4 when something is expired or broken.
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Note => 0,
            Self::Warning | Self::Due => 3,
            Self::Broken => 4,
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What a rule found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How much it matters.
    pub severity: Severity,
    /// The file.
    pub path: PathBuf,
    /// The catalogue's row, if the file belongs to one.
    pub row: Option<&'static str>,
    /// Subject of the certificate, if the finding is about one.
    pub subject: Option<String>,
    /// What, with its evidence.
    pub kind: FindingKind,
    /// What to type, or to do.
    pub mends: Option<String>,
}

impl Finding {
    /// A finding about a file.
    pub(crate) fn new(severity: Severity, path: &Path, kind: FindingKind) -> Self {
        Self {
            severity,
            path: path.to_owned(),
            row: None,
            subject: None,
            kind,
            mends: None,
        }
    }

    /// The same about a row.
    pub(crate) fn row(self, row: &'static str) -> Self {
        Self {
            row: Some(row),
            ..self
        }
    }

    /// The same about a certificate of the file.
    pub(crate) fn certificate(self, certificate: &Certificate) -> Self {
        Self {
            subject: Some(certificate.subject().to_string()),
            ..self
        }
    }

    /// The same with what mends it.
    pub(crate) fn mend(self, command: impl Into<String>) -> Self {
        Self {
            mends: Some(command.into()),
            ..self
        }
    }
}

impl fmt::Display for Finding {
    /// One line without the mending command.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: ", self.severity, self.path.display())?;
        if let Some(subject) = &self.subject {
            write!(f, "{subject}: ")?;
        }
        write!(f, "{}", self.kind)
    }
}

/// A rule: looks at one thing, adds what it finds.
type Check = fn(&Context<'_>, &mut Vec<Finding>);

/// Every rule, in the order of a report: first whether the files are there and readable, then
/// what they say, then how they fit together.
const CHECKS: &[Check] = &[
    file::readable,
    file::foreign_directories,
    file::missing,
    file::modes,
    file::newer_rows,
    expiry::leaves,
    expiry::authorities,
    expiry::outlives_issuer,
    key::pairs,
    key::several_in_authority_file,
    key::current_service_account_key,
    key::weak,
    key::serial_zero,
    stray::authority_keys_lying_about,
    name::leaves,
    chain::leaves,
    chain::copies,
    chain::first_of,
    chain::root_before_cross,
    kubeconfig::references,
    kubeconfig::inlined,
    listener::annotations,
    token::authority_hash,
];

/// Runs every rule. The result is ordered: worst first, then by the catalogue's order.
pub fn check(question: &Question<'_>) -> Vec<Finding> {
    let context = Context::new(question);
    let mut findings = Vec::new();
    for check in CHECKS {
        check(&context, &mut findings);
    }
    findings.sort_by_cached_key(|finding| {
        let place = context.place(finding);
        (std::cmp::Reverse(finding.severity), place)
    });
    findings
}

/// The worst severity among `findings`; `None` for a clean tree.
pub fn worst(findings: &[Finding]) -> Option<Severity> {
    findings.iter().map(|finding| finding.severity).max()
}
