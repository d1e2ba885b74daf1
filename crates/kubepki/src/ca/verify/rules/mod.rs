//! What is wrong with a set, a rule at a time.

mod chain;
mod change;
mod file;
mod key;
mod service;

use pki::Certificate;

use super::Finding;
use super::context::{Context, View};
use super::k3s::Refusal;
use crate::bootstrap::Field;
use crate::check::Severity;

/// A rule: looks at one thing, adds what it finds.
type Check = fn(&Context<'_>, &mut Vec<Finding>);

const CHECKS: &[Check] = &[
    change::release,
    file::missing,
    file::not_taken,
    file::size,
    file::pem,
    file::stamps,
    key::pairs,
    key::several,
    key::shared,
    chain::readable,
    chain::signer,
    chain::complete,
    chain::dates,
    chain::outlives,
    chain::signatures,
    chain::weak,
    chain::duplicates,
    chain::clashes,
    chain::served_order,
    change::another_authority,
    change::old_leaves,
    change::new_leaves,
    change::compromised,
    change::token_hashes,
    service::keys,
    service::kept,
];

/// Everything that is found, worst first.
pub(super) fn findings(context: &Context<'_>, k3s: &[Refusal]) -> Vec<Finding> {
    let mut found = Vec::new();
    for check in CHECKS {
        check(context, &mut found);
    }
    change::of_k3s(context, k3s, &mut found);
    let place = |field: Field| {
        let order = Field::AUTHORITIES
            .iter()
            .flat_map(|(field, key)| [*field, *key]);
        order.into_iter().position(|it| it == field)
    };
    found.sort_by_key(|finding| {
        let place = place(finding.field).unwrap_or(usize::MAX);
        (std::cmp::Reverse(finding.severity), place)
    });
    found
}

fn finding(
    severity: Severity,
    rule: &'static str,
    field: Field,
    message: impl Into<String>,
) -> Finding {
    Finding {
        severity,
        rule,
        field,
        message: message.into(),
        mend: None,
    }
}

impl Finding {
    fn mend(self, what: impl Into<String>) -> Self {
        Self {
            mend: Some(what.into()),
            ..self
        }
    }
}

/// The CAs whose certificates are staged and can be read; for a first start, all of them.
fn staged<'c>(context: &'c Context<'_>) -> impl Iterator<Item = (&'c View, &'c [Certificate])> {
    let views = context.views.iter().filter(|view| view.staged);
    views
        .map(|view| (view, view.new_certificates()))
        .filter(|(_, certificates)| !certificates.is_empty())
}
