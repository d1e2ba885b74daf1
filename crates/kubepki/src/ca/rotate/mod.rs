//! Putting a staged set in force, as a plan: the datastore first, then this server's files, then
//! the restarts.
//!
//! ```text
//! staged set + set in force --verify--> Verdict
//! Verdict + Opened + Disk + Survey --plan_rotate_ca--> Plan + Staged
//! Way::Direct   K3s is stopped: the row at its revision, CA files, leaves under the new CAs,
//!               kubeconfigs, tokens: what K3s's next start would do, with the chains of section
//!               13.2 behind the leaves
//! Way::Through  K3s runs: one PUT to its supervisor; its restart does the rest, or, where the
//!               restart is driven, K3s is stopped, gets the same files as above, and is started
//! ```

mod back;
mod body;
mod draft;
mod error;
mod follow;
mod tokens;
mod words;

use std::collections::BTreeMap;

use pki::{UnixTime, pem};
use zeroize::Zeroizing;

use super::verify::{Finding, Intent, Verdict};
use crate::bootstrap::{Bundle, Disk, Exposure, Field, Opened, SharedFile, Stamp};
use crate::edge::{Entropy, KeySource};
use crate::fleet::Fleet;
use crate::init::{Spec, Survey};
use crate::plan::PlanId;

pub use back::{Back, way_back};
pub use body::{BODY, FORMER, calls_supervisor, supervisor_url};
pub use draft::plan_rotate_ca;
pub use error::RotateError;
pub use tokens::{NewTokens, Tokens};
pub use words::closing;

/// What a rotation of CAs is planned from.
pub struct Request<'a> {
    /// The plan's name.
    pub id: &'a PlanId,
    /// What [`super::verify::verify`] says of the set.
    pub verdict: &'a Verdict,
    /// The staged set.
    pub staged: &'a Bundle,
    /// How it gets into the datastore.
    pub way: Way<'a>,
    /// This server's files.
    pub disk: &'a Disk,
    /// The server.
    pub spec: &'a Spec,
    /// What is there.
    pub survey: Survey,
    /// What the rotation is for.
    pub intent: Intent,
    /// Whether findings are overridden.
    pub force: bool,
    /// The cluster's nodes, where the Kubernetes API answers.
    pub fleet: Option<&'a Fleet>,
    /// What becomes of the join tokens.
    pub tokens: Tokens<'a>,
    /// Where the keys that are replaced can still be decrypted.
    pub exposures: &'a [Exposure],
    /// Further places where they lie, for people: directories, snapshots.
    pub copies: &'a [String],
    /// What becomes of the restarts.
    pub restarts: Restarts,
    /// Now.
    pub now: UnixTime,
    /// Serial numbers, salts.
    pub entropy: &'a dyn Entropy,
    /// Keys.
    pub keys: &'a dyn KeySource,
}

/// How the set gets into the datastore.
#[derive(Clone, Copy, Debug)]
pub enum Way<'a> {
    /// By a write of our own, while every K3s server is stopped.
    Direct {
        /// The bootstrap data.
        opened: &'a Opened,
        /// The datastore in words, without credentials.
        datastore: &'a str,
    },
    /// By the running server, `https://host:port`.
    Through {
        /// Its supervisor.
        url: &'a str,
    },
}

/// What becomes of the restarts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Restarts {
    /// Of this server.
    pub here: Here,
    /// Whether those of other servers and of agents are steps that stay open until their probe
    /// passes; else they are told.
    pub others: bool,
}

/// What becomes of this server's restart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Here {
    /// It is told.
    #[default]
    Told,
    /// There is none: the servers take new CAs up while they serve, as `kubepki serve` does.
    Live,
    /// It is a step that a person does.
    Watched,
    /// It is done, with these commands or by systemd.
    Driven {
        /// The command that restarts or starts it, without a shell.
        command: Option<Vec<String>>,
        /// The command that stops it, without a shell.
        stop: Option<Vec<String>>,
    },
}

impl Here {
    /// Whether a running server can be stopped before it is started, so that its files are made
    /// ready in between: by systemd, or where there is a command for it.
    pub fn can_stop(&self) -> bool {
        match self {
            Self::Told | Self::Live | Self::Watched => false,
            Self::Driven { command, stop } => stop.is_some() || command.is_none(),
        }
    }
}

/// Findings that `--force` cannot override: K3s could not start, or could not sign anything.
const FATAL: [&str; 18] = [
    "another-ca",
    "empty",
    "encrypted-key",
    "first-key",
    "key-in-certificate-file",
    "key-mismatch",
    "malformed",
    "missing",
    "no-cert-sign",
    "no-service-key",
    "not-a-ca",
    "order",
    "release",
    "reversed",
    "service-key-kind",
    "service-key-unseen",
    "swapped",
    "too-large",
];

/// Whether `--force` overrides `finding`.
pub fn can_be_forced(finding: &Finding) -> bool {
    !FATAL.contains(&finding.rule)
}

/// The staged files that rotate-ca takes: rotatable ones that are not empty.
pub fn taken(staged: &Bundle) -> BTreeMap<Field, &SharedFile> {
    staged
        .files
        .iter()
        .filter(|(field, file)| field.is_rotatable() && !file.content.is_empty())
        .map(|(field, file)| (*field, file))
        .collect()
}

/// `present` with the staged files in place, all of them with the time `now`.
pub fn overlaid(present: &Bundle, staged: &Bundle, now: UnixTime) -> Bundle {
    let mut bundle = present.clone();
    for (field, file) in taken(staged) {
        bundle.files.insert(field, file.clone());
    }
    bundle.restamped(Stamp::at(now))
}

/// The keys of `first`, then those of `others` that are not among them.
pub fn all_keys(first: &[u8], others: &[u8]) -> Zeroizing<Vec<u8>> {
    let known = pem::blocks(first);
    let mut all = Zeroizing::new(first.to_vec());
    for block in pem::blocks(others) {
        if !known.iter().any(|it| it.der == block.der) {
            all.extend_from_slice(pem::encode(&block.label, &block.der).as_bytes());
        }
    }
    all
}
