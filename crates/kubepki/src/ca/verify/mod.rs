//! Whether a staged set of CA files can take the place of the present ones: K3s's verdict in
//! K3s's words, and what K3s does not look at.
//!
//! ```text
//! Question (present set, staged set, moment) --k3s--> what `k3s certificate rotate-ca` says
//!                                            --rules--> findings, each with what mends it
//! ```
//!
//! Pure: a set is a [`Bundle`], read by [`crate::bootstrap::read_directory`].

mod context;
mod k3s;
mod pair;
mod rules;
mod service;

use std::fmt;
use std::path::PathBuf;

use pki::{Digest, UnixTime};
use serde::Serialize;

use crate::bootstrap::{Bundle, Field};
use crate::catalogue::Release;
use crate::check::Severity;
use crate::inventory::DetectedRelease;

use context::Context;
pub use k3s::{Refusal, Rule};
pub use service::{ServiceKeys, SigningKey};

/// What is asked.
#[derive(Clone, Debug)]
pub struct Question<'a> {
    /// The set in force; `None` for a set that is to be there before the first start.
    pub old: Option<&'a Bundle>,
    /// The staged set; files that it lacks stay as they are.
    pub new: &'a Bundle,
    /// Now: what K3s judges by.
    pub now: UnixTime,
    /// The moment at which CAs and roots must still be valid.
    pub on_date: UnixTime,
    /// K3s's version, as far as it is known.
    pub release: DetectedRelease,
    /// What the rotation is for.
    pub intent: Intent,
    /// Whose times the datastore will get.
    pub stamps: Stamps,
    /// Where the files lie, for messages.
    pub places: Places,
}

/// What a rotation is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intent {
    /// The old CAs stay trusted as long as the new bundles say.
    Ordinary,
    /// The old keys are in wrong hands: nothing of them may stay trusted.
    Compromised,
}

/// Which times go into the datastore.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stamps {
    /// The staged files' own, as K3s's `rotate-ca` does.
    AsStaged,
    /// The moment of writing.
    Now,
}

/// Directories that hold `tls/`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    /// The server's own: `<data-dir>/server`.
    pub old: PathBuf,
    /// The staged one. K3s copies it to a scratch directory and names that in its messages.
    pub new: PathBuf,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// What K3s says, in its order; nothing when it accepts the set. Always nothing for a first
    /// start, for which K3s checks nothing.
    pub k3s: Vec<Refusal>,
    /// Everything that was found, worst first, then in K3s's order of the files.
    pub findings: Vec<Finding>,
    /// What becomes of each CA.
    pub changes: Vec<Change>,
    /// What becomes of the service-account keys.
    pub service_keys: ServiceKeys,
    /// The hash that join tokens pin now ([`crate::token::authority_hash`], or the rule of older
    /// releases); `None` where there is no server CA, or none that can be read.
    pub hash_before: Option<Digest>,
    /// The same once the set is in force.
    pub hash_after: Option<Digest>,
}

/// What was found about a file of the staged set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How much it matters; [`Severity::Broken`] refuses the set.
    #[serde(serialize_with = "as_text")]
    pub severity: Severity,
    /// The rule's name: stable, for machines.
    pub rule: &'static str,
    /// The file.
    #[serde(serialize_with = "as_text")]
    pub field: Field,
    /// What, with its evidence.
    pub message: String,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mend: Option<String>,
}

fn as_text<T: fmt::Display, S: serde::Serializer>(
    value: &T,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

impl fmt::Display for Finding {
    /// One line without what mends it: `broken: ServerCA: …`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.severity, self.field, self.message)
    }
}

/// What becomes of a CA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Its certificates' field.
    pub field: Field,
    /// How the new one relates to the old one.
    pub continuity: Continuity,
    /// The new issuing CA's subject; `None` where nothing can be read.
    pub subject: Option<String>,
    /// The subject of the self-signed root that it leads to inside its own file.
    pub root: Option<String>,
}

/// How a new CA relates to the one in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Continuity {
    /// The same file: nothing happens.
    Unchanged,
    /// Another issuing CA under a root that is trusted already.
    SameRoot,
    /// A new root that the old CA vouches for.
    CrossSigned,
    /// A new root that nobody trusts yet.
    NewRoot,
    /// There was none before.
    First,
}

impl Continuity {
    /// Its name in outputs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unchanged => "unchanged",
            Self::SameRoot => "same root",
            Self::CrossSigned => "cross-signed",
            Self::NewRoot => "new root",
            Self::First => "first",
        }
    }
}

impl fmt::Display for Continuity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl Verdict {
    /// Whether `k3s certificate rotate-ca` would take the set without `--force`.
    pub fn k3s_accepts(&self) -> bool {
        self.k3s.is_empty()
    }

    /// K3s's whole message, as its server logs it after "failed to validate new CA certificates
    /// and keys: " or "ignoring validation errors: ".
    pub fn k3s_message(&self) -> String {
        let lines: Vec<String> = self.k3s.iter().map(Refusal::to_string).collect();
        lines.join("\n")
    }

    /// The findings that refuse the set.
    pub fn refusals(&self) -> impl Iterator<Item = &Finding> {
        self.findings
            .iter()
            .filter(|finding| finding.severity == Severity::Broken)
    }

    /// The worst severity; `None` for a set without a word to say about.
    pub fn worst(&self) -> Option<Severity> {
        self.findings.iter().map(|finding| finding.severity).max()
    }

    /// What becomes of the CA with the certificates `field`.
    pub fn continuity(&self, field: Field) -> Continuity {
        let change = self.changes.iter().find(|change| change.field == field);
        change.map_or(Continuity::Unchanged, |change| change.continuity)
    }

    /// The furthest reaching change of any CA.
    pub fn reach(&self) -> Continuity {
        let all = self.changes.iter().map(|change| change.continuity);
        all.max().unwrap_or(Continuity::Unchanged)
    }

    /// Whether full join tokens have to be replaced.
    pub fn tokens_change(&self) -> bool {
        self.hash_before.is_some() && self.hash_before != self.hash_after
    }
}

/// Looks at a staged set.
pub fn verify(question: &Question<'_>) -> Verdict {
    let context = Context::new(question);
    let k3s = match question.old {
        Some(_) => k3s::refusals(&context),
        None => Vec::new(),
    };
    let findings = rules::findings(&context, &k3s);
    Verdict {
        k3s,
        findings,
        changes: context.changes(),
        service_keys: service::compare(&context),
        hash_before: question
            .old
            .and_then(|old| token_hash(old.content(Field::ServerCa), question)),
        hash_after: token_hash(context.effective(Field::ServerCa), question),
    }
}

fn token_hash(file: Option<&[u8]>, question: &Question<'_>) -> Option<Digest> {
    let file = file?;
    match question.release {
        DetectedRelease::Known(release) if !outer_authorities(release) => Some(pki::sha256(file)),
        _ => crate::token::authority_hash(file, question.now).ok(),
    }
}

/// Whether K3s takes CAs under other CAs, and knows `rotate-ca`: from v1.26.2, v1.25.7, v1.24.11
/// and v1.23.17 on. The same releases keep `*.nochain.crt`.
pub fn outer_authorities(release: Release) -> bool {
    let row = crate::catalogue::K3S.row("server-ca.nochain");
    row.is_some_and(|row| row.since.includes(release))
}
