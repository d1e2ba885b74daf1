//! What the change from the old set to the new one does to those who hold the old one.

use pki::verify::{Options, verify};
use pki::{Certificate, Purpose};

use super::{Severity, finding, staged};
use crate::bootstrap::Field;
use crate::ca::verify::context::Context;
use crate::ca::verify::k3s::{Refusal, Rule};
use crate::ca::verify::service::compare;
use crate::ca::verify::{Continuity, Finding, Intent, outer_authorities, token_hash};
use crate::inventory::DetectedRelease;
use crate::plan::served_chain;

const ANY: [Purpose; 1] = [Purpose::Any];

/// K3s is new enough.
pub(super) fn release(context: &Context<'_>, found: &mut Vec<Finding>) {
    let DetectedRelease::Known(release) = context.question.release else {
        return;
    };
    if outer_authorities(release) {
        return;
    }
    const FIRST: &str = "v1.26.2, v1.25.7, v1.24.11 and v1.23.17 are the first that can";
    if context.question.old.is_some() {
        let message = format!("cannot be rotated: K3s {release} has no rotate-ca; {FIRST}");
        found.push(
            finding(Severity::Broken, "release", Field::ServerCa, message)
                .mend("upgrade K3s first"),
        );
    }
    for (view, certificates) in staged(context) {
        let alone = matches!(certificates, [one] if one.is_self_issued());
        if !alone {
            let message =
                format!("is a CA under another CA, which K3s {release} cannot use; {FIRST}");
            found.push(finding(Severity::Broken, "release", view.field, message));
        }
    }
}

/// A CA does not take another CA's place.
pub(super) fn another_authority(context: &Context<'_>, found: &mut Vec<Finding>) {
    for (view, certificates) in staged(context) {
        let Some(first) = certificates.first() else {
            continue;
        };
        let is = |it: &Certificate| it.spki_der() == first.spki_der();
        if view.old_certificates().first().is_some_and(is) {
            continue;
        }
        let other = context.views.iter().find(|other| {
            other.field != view.field && other.old_certificates().first().is_some_and(is)
        });
        if let Some(other) = other {
            let message = format!(
                "is the CA that is in force as {}: whom that has vouched for would be taken for \
                 something else",
                other.field
            );
            found.push(finding(Severity::Broken, "another-ca", view.field, message));
        }
    }
}

/// Leaves of the old CA verify with the new file: not everything restarts at once.
pub(super) fn old_leaves(context: &Context<'_>, found: &mut Vec<Finding>) {
    if context.question.intent == Intent::Compromised {
        return;
    }
    for (view, certificates) in staged(context) {
        // Where nobody trusts the new root anyhow, that is said.
        if !view.changes() || context.continuity(view) == Continuity::NewRoot {
            continue;
        }
        let Some((first, others)) = view.old_certificates().split_first() else {
            continue;
        };
        let options = Options::at(context.question.now).purposes(&ANY);
        if let Err(error) = verify(first, others, certificates, &options) {
            let message = format!(
                "does not vouch for leaves of {}: whoever restarts first refuses all that have not \
                 restarted yet ({error})",
                first.subject()
            );
            found.push(
                finding(Severity::Broken, "old-leaves", view.field, message)
                    .mend("append the old root to the file"),
            );
        }
    }
}

/// Leaves of the new CA verify with the old file, by what is served behind them.
pub(super) fn new_leaves(context: &Context<'_>, found: &mut Vec<Finding>) {
    if context.question.intent == Intent::Compromised {
        return;
    }
    for (view, certificates) in staged(context) {
        if !view.changes() || context.continuity(view) == Continuity::NewRoot {
            continue;
        }
        let (Some(first), false) = (certificates.first(), view.old_certificates().is_empty())
        else {
            continue;
        };
        let served: Vec<Certificate> = served_chain(certificates).into_iter().cloned().collect();
        let options = Options::at(context.question.now).purposes(&ANY);
        if let Err(error) = verify(first, &served, view.old_certificates(), &options) {
            let message =
                format!("makes leaves that whoever still has the old file refuses ({error})");
            found.push(
                finding(Severity::Broken, "new-leaves", view.field, message)
                    .mend("put the cross-certificate behind the CA"),
            );
        }
    }
}

/// After a compromise nothing of the old keys is left.
pub(super) fn compromised(context: &Context<'_>, found: &mut Vec<Finding>) {
    let (Intent::Compromised, Some(_)) = (context.question.intent, context.question.old) else {
        return;
    };
    for view in &context.views {
        let old = view.old_certificates();
        if old.is_empty() {
            continue;
        }
        if !view.changes() {
            let message = "stays as it is: after a compromise every CA is replaced";
            found.push(finding(
                Severity::Broken,
                "compromised-kept",
                view.field,
                message,
            ));
            continue;
        }
        for certificate in view.new_certificates() {
            let subject = certificate.subject();
            if old.iter().any(|it| it.spki_der() == certificate.spki_der()) {
                let message = format!("still holds {subject}, whose key is the old one");
                found.push(finding(
                    Severity::Broken,
                    "compromised-trusted",
                    view.field,
                    message,
                ));
            } else if old.iter().any(|it| {
                it.subject().der() == certificate.issuer().der()
                    && certificate.verify_signature(it.spki_der()).is_ok()
            }) {
                let message = format!(
                    "holds {subject}, signed by the old CA {}: after a compromise that is worth \
                     nothing",
                    certificate.issuer()
                );
                found.push(finding(
                    Severity::Broken,
                    "compromised-cross",
                    view.field,
                    message,
                ));
            }
        }
    }
    let keys = compare(context);
    let kept = keys
        .after
        .iter()
        .filter(|key| keys.before.iter().any(|old| old.spki == key.spki))
        .count();
    if kept > 0 {
        let message = format!("keeps {kept} of the old keys: whoever has them makes tokens");
        found.push(finding(
            Severity::Broken,
            "compromised-service-key",
            Field::ServiceKey,
            message,
        ));
    }
}

/// Join tokens with a hash go on working.
pub(super) fn token_hashes(context: &Context<'_>, found: &mut Vec<Finding>) {
    let question = context.question;
    let hash = |file: Option<&[u8]>| token_hash(file, question);
    let Some(after) = hash(context.effective(Field::ServerCa)) else {
        return;
    };
    let before = hash(question.old.and_then(|old| old.content(Field::ServerCa)));
    if let Some(before) = before
        && before != after
    {
        let message = format!(
            "changes the hash in join tokens from {before} to {after}: every full token (K10…) in \
             a configuration has to be replaced"
        );
        found.push(
            finding(Severity::Warning, "token-hash", Field::ServerCa, message)
                .mend("kubepki token rewrite, on each node"),
        );
    }
    let later = super::super::Question {
        now: question.on_date,
        ..question.clone()
    };
    if let Some(on_date) = token_hash(context.effective(Field::ServerCa), &later)
        && on_date != after
    {
        let message = format!(
            "has another hash in join tokens on {}: a certificate that the hash is taken from has \
             ended by then",
            question.on_date
        );
        found.push(finding(
            Severity::Warning,
            "token-hash-later",
            Field::ServerCa,
            message,
        ));
    }
}

/// Each of K3s's complaints is a finding, unless one says it better already.
pub(super) fn of_k3s(context: &Context<'_>, k3s: &[Refusal], found: &mut Vec<Finding>) {
    let compromised = context.question.intent == Intent::Compromised;
    for refusal in k3s {
        let broken =
            |rule, message: String| finding(Severity::Broken, rule, refusal.field, message);
        let said = found
            .iter()
            .any(|it| it.severity == Severity::Broken && it.field == refusal.field);
        match refusal.rule {
            Rule::UnderOldRoot | Rule::NotAlone | Rule::ServiceKeyKept if compromised => {
                let message = format!(
                    "is refused by K3s without --force, as it must: {}",
                    refusal.words
                );
                found.push(finding(Severity::Note, "k3s", refusal.field, message));
            }
            Rule::NotAlone => found.push(
                broken("single-certificate", refusal.words.clone())
                    .mend("append the issuers of the CA up to the root"),
            ),
            Rule::UnderOldRoot => {
                let message = format!(
                    "has no path to a root that is trusted now: every client, agent, kubeconfig \
                     and pod that has the old file refuses it ({})",
                    refusal.words
                );
                found.push(
                    broken("new-root", message)
                        .mend("cross-sign the new root (kubepki ca stage), or say --force"),
                );
            }
            Rule::Pair | Rule::Readable | Rule::ServiceKeyKept if said => {}
            Rule::Pair | Rule::Readable | Rule::ServiceKeyKept => {
                found.push(broken("k3s", refusal.words.clone()));
            }
        }
    }
}
