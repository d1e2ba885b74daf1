//! Who is told of what a plan does while it is carried out.

use std::fmt;

use pki::Certificate;

use crate::plan::{LeafId, Step};

/// Is told of every step, to show it.
pub trait Observer: Send + Sync + fmt::Debug {
    /// A step is about to be taken, or looked at after a crash.
    fn begin(&self, step: &Step);

    /// It is done and verified.
    fn done(&self, step: &Step);

    /// Part of it is done: a host of a wave, a container.
    fn progress(&self, _step: &Step, _host: &str, _what: &str) {}

    /// It cannot be done now and is put off.
    fn deferred(&self, _step: &Step, _reason: &str) {}

    /// Where certificates are entered before they are put in place; nowhere, as a rule.
    fn register(&self) -> Option<&dyn Register> {
        None
    }
}

/// Records what is issued.
pub trait Register: Send + Sync {
    /// These leaves were signed, and nobody has them yet. As far as a plan's CAs are at hand when
    /// it begins, all its leaves are entered before its first step, so that a refusal changes
    /// nothing.
    ///
    /// # Errors
    ///
    /// The reason why they are not recorded: then they are not put in place.
    fn enter(&self, made: &[(LeafId, Certificate)]) -> Result<(), String>;
}

/// Shows nothing.
#[derive(Clone, Copy, Debug)]
pub struct Quiet;

impl Observer for Quiet {
    fn begin(&self, _step: &Step) {}

    fn done(&self, _step: &Step) {}
}
