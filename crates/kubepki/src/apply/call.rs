//! One HTTP call: keep what takes it back, intend, call.
//!
//! What the server holds cannot be read beforehand, so after a crash the call is made again: a
//! `PUT` of the same CAs leaves what one alone would have left.

use super::Executor;
use super::failure::StepError;
use super::restamp::ready;
use super::step::Taken;
use crate::journal::{Found, Intend, Journal};
use crate::plan::{Content, Plan, Step};

impl Executor<'_> {
    pub(super) async fn take_call(
        &self,
        plan: &Plan,
        journal: &mut Journal,
        step: &Step,
        (method, url): (&str, &str),
        (body, former): (&Content, &Content),
    ) -> Result<Taken, StepError> {
        // Refused before the first step.
        let caller = self.caller.ok_or_else(|| StepError::Changed {
            path: url.into(),
            detail: "nothing is given that could call it".to_owned(),
        })?;
        let workshop = self.workshop(plan);
        let body = ready(&workshop, body, &step.target, None).await?;
        let former = ready(&workshop, former, &step.target, None).await?;
        self.state.backup(&plan.id, step.number, &former)?;
        self.state.keep_sent(&plan.id, step.number, &body)?;
        let value = |bytes: &[u8]| Found::Value {
            revision: None,
            sha256: pki::sha256(bytes).to_string(),
        };
        let intend = Intend {
            step: step.number,
            before: value(&former),
            after: value(&body),
            leaves: Vec::new(),
            holds_ca_key: true,
        };
        self.intend(journal, intend)?;
        match caller.call(method, url, &body).await {
            Ok(()) => self.done(journal, step, value(&body)),
            Err(source) if source.not_done => Err(StepError::Refused { source }),
            Err(source) => Err(source.into()),
        }
    }
}
