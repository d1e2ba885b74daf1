//! Saying it: one serialisable value from inventory and findings, and its renderings.
//!
//! Field names and meanings are the schema: [`SCHEMA`] goes up when one changes or goes away,
//! not when one is added. Moments are RFC 3339 in UTC, periods are seconds.

mod certificates;
pub mod metrics;
pub mod parallel;
pub mod table;
pub mod text;
pub mod timeline;
pub mod yaml;

use pki::UnixTime;
use serde::Serialize;

use crate::check::{Finding, Question, Severity};
use crate::inventory::{DetectedRelease, Role};

pub use certificates::{CertificateEntry, Part, Status};

/// The version of [`Report`]'s shape.
pub const SCHEMA: u32 = 1;

/// What is to be said about one tree.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The data directory.
    pub data_dir: String,
    /// The node's name, where a certificate tells it.
    pub node: Option<String>,
    /// `server` or `agent`.
    pub role: &'static str,
    /// The K3s release: `v1.33.1`, `at least v1.33.1`, or `unknown`.
    pub release: String,
    /// The moment that is reported on.
    pub at: String,
    /// The same in seconds since 1970.
    pub at_seconds: i64,
    /// What it amounts to.
    pub summary: Summary,
    /// Every certificate, in the catalogue's order, then in the order of its file.
    pub certificates: Vec<CertificateEntry>,
    /// What is wrong, worst first.
    pub findings: Vec<FindingEntry>,
}

/// A report in numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// How many certificates were looked at.
    pub certificates: usize,
    /// How many findings of each severity.
    pub notes: usize,
    /// See [`Severity::Warning`].
    pub warnings: usize,
    /// See [`Severity::Due`].
    pub due: usize,
    /// See [`Severity::Broken`].
    pub broken: usize,
    /// When the first certificate that is still valid ends.
    pub first_end: Option<String>,
}

impl Summary {
    /// How many findings have that severity.
    pub fn of(&self, severity: Severity) -> usize {
        match severity {
            Severity::Note => self.notes,
            Severity::Warning => self.warnings,
            Severity::Due => self.due,
            Severity::Broken => self.broken,
        }
    }

    /// The worst severity that occurs.
    pub fn worst(&self) -> Option<Severity> {
        let mut worst_first = Severity::ALL.into_iter().rev();
        worst_first.find(|severity| self.of(*severity) > 0)
    }

    /// Adds another tree's numbers.
    pub fn add(&mut self, other: &Self) {
        self.certificates = self.certificates.saturating_add(other.certificates);
        self.notes = self.notes.saturating_add(other.notes);
        self.warnings = self.warnings.saturating_add(other.warnings);
        self.due = self.due.saturating_add(other.due);
        self.broken = self.broken.saturating_add(other.broken);
        // RFC 3339 in UTC sorts as text.
        self.first_end = match (self.first_end.take(), &other.first_end) {
            (Some(one), Some(two)) => Some(one.min(two.clone())),
            (one, two) => one.or_else(|| two.clone()),
        };
    }
}

/// A finding in words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FindingEntry {
    /// `note`, `warning`, `due` or `broken`.
    pub severity: &'static str,
    /// The rule's name.
    pub rule: &'static str,
    /// The file.
    pub path: String,
    /// The catalogue's row.
    pub row: Option<&'static str>,
    /// The certificate's subject.
    pub subject: Option<String>,
    /// What is wrong.
    pub message: String,
    /// The command that mends it, or what to do.
    pub mends: Option<String>,
}

impl From<&Finding> for FindingEntry {
    fn from(finding: &Finding) -> Self {
        Self {
            severity: finding.severity.name(),
            rule: finding.kind.rule(),
            path: finding.path.display().to_string(),
            row: finding.row,
            subject: finding.subject.clone(),
            message: finding.kind.to_string(),
            mends: finding.mends.clone(),
        }
    }
}

impl Report {
    /// The report on a question's inventory and what was found in it.
    pub fn new(question: &Question<'_>, findings: &[Finding]) -> Self {
        let inventory = question.inventory;
        let certificates = certificates::all(question, findings);
        let count = |severity| findings.iter().filter(|f| f.severity == severity).count();
        let summary = Summary {
            certificates: certificates.len(),
            notes: count(Severity::Note),
            warnings: count(Severity::Warning),
            due: count(Severity::Due),
            broken: count(Severity::Broken),
            first_end: first_end(&certificates).map(|end| end.to_string()),
        };
        Self {
            schema: SCHEMA,
            data_dir: inventory.site.data_dir.display().to_string(),
            node: inventory.node_name(),
            role: match inventory.site.role {
                Role::Server => "server",
                Role::AgentOnly => "agent",
            },
            release: match inventory.release {
                DetectedRelease::Known(release) => release.to_string(),
                DetectedRelease::AtLeast(release) => format!("at least {release}"),
                DetectedRelease::Unknown => "unknown".to_owned(),
            },
            at: question.now.to_string(),
            at_seconds: question.now.as_secs(),
            summary,
            certificates,
            findings: findings.iter().map(FindingEntry::from).collect(),
        }
    }

    /// The report as a line of JSON.
    ///
    /// # Errors
    ///
    /// None that is known: there are no maps with odd keys in it.
    pub fn to_json(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string(self)
    }
}

fn first_end(certificates: &[CertificateEntry]) -> Option<UnixTime> {
    certificates
        .iter()
        .filter(|entry| entry.part != Part::Stray && entry.remaining_seconds >= 0)
        .map(|entry| entry.validity.not_after)
        .min()
}
