//! Why a set is not put in force.

use crate::bootstrap::{Field, SealError};
use crate::ca::verify::Finding;
use crate::init::InitError;

/// Why a set is not put in force; nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum RotateError {
    /// Checks that failed.
    #[error(
        "the set is refused:{}{}",
        lines(findings),
        match forced { true => "\nThese cannot be overridden", false => "" }
    )]
    Refused {
        /// Each.
        findings: Vec<Finding>,
        /// Whether `--force` was said, which does not override these.
        forced: bool,
    },
    /// The set is in force already.
    #[error("the staged files are those in force: there is nothing to rotate")]
    Same,
    /// The datastore and the disk differ.
    #[error(
        "the datastore's CAs are not this server's: {} differ. A rotation was begun and no server \
         restarted since: start K3s, or run `kubepki reconcile`, then rotate",
        names(fields)
    )]
    Pending {
        /// Which files.
        fields: Vec<Field>,
    },
    /// Data of K3s 1.21.
    #[error(
        "the bootstrap data are in the form of K3s 1.21 and older, which has no rotate-ca: upgrade \
         K3s first"
    )]
    Legacy,
    /// After a compromise the tokens would stay.
    #[error(
        "after a compromise the join tokens must go with the CAs: whoever has the old token would \
         decrypt the new CA keys"
    )]
    TokensStay,
    /// The tokens cannot be replaced.
    #[error("the join tokens cannot be replaced")]
    Tokens(#[from] crate::token::RotateError),
    /// The server's files cannot be planned.
    #[error(transparent)]
    Init(#[from] InitError),
    /// The data cannot be encrypted.
    #[error("the bootstrap data cannot be encrypted")]
    Seal(#[from] SealError),
}

fn lines(findings: &[Finding]) -> String {
    let line = |finding: &Finding| {
        let mend = finding.mend.as_ref();
        let mend = mend.map_or_else(String::new, |mend| format!("\n    {mend}"));
        format!("\n  {}: {}{mend}", finding.field, finding.message)
    };
    findings.iter().map(line).collect()
}

fn names(fields: &[Field]) -> String {
    let names: Vec<&str> = fields.iter().map(|field| field.name()).collect();
    names.join(", ")
}
