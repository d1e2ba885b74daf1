//! A new server's files, as the first start of K3s makes them.
//!
//! ```text
//! words -> Spec          names, addresses, ports: checked            (spec)
//! host  -> Survey        what is there already, secrets apart        (survey)
//!          Authorities   the eleven files that one may bring         (authorities)
//!          -> Plan + Staged                                          (draft)
//! ```
//!
//! CA keys, passwords and tokens are made before the plan and staged beside it; the plan names
//! them by digest. What is there stays by K3s's own rule for its start (reference section 1.7),
//! and no CA is ever replaced.

mod authorities;
mod draft;
mod make;
mod passwd;
mod settings;
mod spec;
mod survey;

use std::fmt;
use std::path::PathBuf;

use pki::UnixTime;
use zeroize::Zeroizing;

use crate::edge::{Entropy, KeySource};
use crate::host::HostError;
use crate::inventory::SiteError;
use crate::plan::{Plan, PlanError, PlanId};
use crate::state::{Locked, StateError};
use crate::token::{Token, TokenError};

pub(crate) use authorities::outer_authorities;
pub use authorities::{Authorities, Fault, Standing, state_of_authorities};
pub use passwd::{NODE, Passwd, PasswdError, SERVER};
pub use spec::{HTTPS_PORT, NEWEST, Spec, SpecError, Words, service_address};
pub(crate) use survey::TRIGGER;
pub use survey::{Survey, make_data_dir, survey};

/// What a plan for a new server is made from.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    /// The plan's name.
    pub id: &'a PlanId,
    /// What is wanted.
    pub spec: &'a Spec,
    /// What is there.
    pub survey: &'a Survey,
    /// `--token`; without one that which is there, or a new one.
    pub token: Option<&'a Token>,
    /// `--agent-token`; without one agents join with the server's.
    pub agent_token: Option<&'a Token>,
    /// Now.
    pub now: UnixTime,
    /// Serial numbers, passwords.
    pub entropy: &'a dyn Entropy,
    /// CA keys and service-account keys.
    pub keys: &'a dyn KeySource,
}

/// Secret bytes that a plan names by digest, to be staged beside it before it is applied.
pub struct Staged {
    /// Its name in the plan's staging directory.
    pub name: String,
    /// The bytes.
    pub bytes: Zeroizing<Vec<u8>>,
}

impl fmt::Debug for Staged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Staged({}, {} bytes)", self.name, self.bytes.len())
    }
}

/// Plans what is missing of a server. A plan without steps means that nothing is.
///
/// The staged bytes must be kept with [`stage`] before the plan is applied, and forgotten if it
/// is not.
///
/// # Errors
///
/// [`InitError`]; then nothing was made.
pub fn plan_init(request: &Request<'_>) -> Result<(Plan, Vec<Staged>), InitError> {
    draft::plan(request)
}

/// Stages what a plan of [`plan_init`] needs.
///
/// # Errors
///
/// When it cannot be written; what was is forgotten again.
pub fn stage(state: &Locked, plan: &PlanId, staged: &[Staged]) -> Result<(), StateError> {
    let kept = staged
        .iter()
        .try_for_each(|it| state.stage(plan, &it.name, &it.bytes));
    if kept.is_err() {
        // The first error is the one to report.
        let _ = state.drop_staging(plan);
    }
    kept
}

/// Why a server cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// Some of the eleven files are there and some are not.
    #[error(
        "of the CA files that K3s takes from its administrator some are there, and missing {}:{}\n\
         Put them beside the others, or say --complete to have them made \
         (K3s would make them without a word)",
        match missing.len() { 1 => "is", _ => "are" },
        lines(missing.iter().map(|path| path.display().to_string()))
    )]
    Incomplete {
        /// The files that are missing.
        missing: Vec<PathBuf>,
    },
    /// CA files that cannot be used.
    #[error("the CA files cannot be used as they are:{}", lines(faults.iter().map(Fault::to_string)))]
    Authorities {
        /// Every fault.
        faults: Vec<Fault>,
    },
    /// The directory of an agent.
    #[error(
        "{} holds agent/ and no server/: it is an agent's. Name another with --data-dir, or move \
         it away",
        path.display()
    )]
    AgentNode {
        /// The data directory.
        path: PathBuf,
    },
    /// A CA file of a K3s before 1.0.
    #[error(
        "{} is the CA of a K3s before v1.0, which makes it its server CA when it starts: start \
         K3s once instead",
        path.display()
    )]
    Legacy {
        /// The file.
        path: PathBuf,
    },
    /// A token that pins another CA.
    #[error(
        "the token is for a cluster with the CA hash {pinned}, this one's is {own}: give the \
         password alone, or bring that cluster's CA files"
    )]
    OtherAuthority {
        /// The hash in the token.
        pinned: String,
        /// The hash of the CA at hand.
        own: String,
    },
    /// A password that differs from the one in the tree.
    #[error(
        "{} has another password than {flag} says; leave {flag} out to keep it, \
         `kubepki token rotate` changes it",
        path.display()
    )]
    OtherPassword {
        /// The server's directory.
        path: PathBuf,
        /// The flag.
        flag: &'static str,
    },
    /// A datastore without the CA files that it keeps.
    #[error(
        "{} is the datastore of a cluster that has its CAs already; K3s takes them from there at \
         its next start. To begin a new cluster, move it away",
        path.display()
    )]
    Datastore {
        /// Where it is.
        path: PathBuf,
    },
    /// A token that servers cannot use.
    #[error("{flag} cannot be used")]
    Token {
        /// Where it came from.
        flag: &'static str,
        /// Why.
        #[source]
        source: TokenError,
    },
    /// A token file in the tree that is none.
    #[error("{} is no token", path.display())]
    TokenFile {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: TokenError,
    },
    /// A passwd file that cannot be read.
    #[error("{} cannot be read as K3s's list of users", path.display())]
    Passwd {
        /// The file.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: PasswdError,
    },
    /// A file of text that is none.
    #[error("{} is not UTF-8 text", path.display())]
    NotText {
        /// The file.
        path: PathBuf,
    },
    /// A key that lies alone and cannot be used.
    #[error("{} cannot be used", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: pki::Error,
    },
    /// The leaves cannot be planned.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The data directory cannot be looked at.
    #[error(transparent)]
    Site(#[from] SiteError),
    /// The host cannot be looked at.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The cryptographic library failed.
    #[error("cannot make {what}")]
    Make {
        /// What was to be made.
        what: String,
        /// Why.
        #[source]
        source: pki::Error,
    },
}

/// Each on a line of its own, indented.
fn lines(items: impl Iterator<Item = String>) -> String {
    items.map(|item| format!("\n  {item}")).collect()
}
