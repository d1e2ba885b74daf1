//! Keys for tokens of service accounts.

use pki::{KeyAlgorithm, pem};

use super::key::is_encrypted;
use super::{Severity, finding};
use crate::bootstrap::Field;
use crate::ca::verify::context::Context;
use crate::ca::verify::service::{compare, keys as read};
use crate::ca::verify::{Finding, Intent};

const FIELD: Field = Field::ServiceKey;

/// The keys can be read by everyone who needs them, and the first one can sign.
pub(super) fn keys(context: &Context<'_>, found: &mut Vec<Finding>) {
    let Some(content) = context.staged(FIELD) else {
        return;
    };
    let mut add = |severity, rule, message: String| {
        found.push(finding(severity, rule, FIELD, message));
    };
    if pem::blocks(content).iter().any(is_encrypted) {
        let message = "holds an encrypted key, and K3s has no passphrase".to_owned();
        add(Severity::Broken, "encrypted-key", message);
    }
    let keys = read(content);
    let Some(first) = keys.iter().find(|key| key.signs) else {
        let message = "holds no private key that signs tokens".to_owned();
        add(Severity::Broken, "no-service-key", message);
        return;
    };
    if first.algorithm == Some(KeyAlgorithm::Ed25519) {
        let message =
            "begins with an Ed25519 key, with which K3s does not start: use RSA".to_owned();
        add(Severity::Broken, "service-key-kind", message);
    } else if !first.seen {
        let message =
            "begins with an EC key in PKCS#8 form: Kubernetes signs with it and does not \
                       find it among the keys that verify, so every new token is refused"
                .to_owned();
        add(Severity::Broken, "service-key-unseen", message);
    }
    let unseen = keys
        .iter()
        .filter(|key| !key.seen && key.spki != first.spki);
    let unseen = unseen.count();
    if unseen > 0 {
        let message = format!(
            "holds {unseen} more keys in a form that Kubernetes does not see (EC in PKCS#8, \
             Ed25519): their tokens are refused"
        );
        add(Severity::Warning, "service-key-unseen", message);
    }
    let weak = |key: &KeyAlgorithm| matches!(key, KeyAlgorithm::Rsa(bits) if *bits < 2048);
    if keys
        .iter()
        .any(|key| key.algorithm.as_ref().is_none_or(weak))
    {
        let message = "holds an RSA key under 2048 bits".to_owned();
        add(Severity::Warning, "weak-key", message);
    }
}

/// Tokens that are alive stay good, and a rotation rotates.
pub(super) fn kept(context: &Context<'_>, found: &mut Vec<Finding>) {
    let keys = compare(context);
    if !keys.staged || keys.before.is_empty() || context.question.intent == Intent::Compromised {
        return;
    }
    let signer = keys.before.iter().find(|key| key.seen).map(|key| key.spki);
    let dropped: Vec<_> = keys.dropped().map(|key| key.spki).collect();
    if signer.is_some_and(|signer| dropped.contains(&signer)) {
        let message = "lacks the key that signs tokens now: every token of every pod is refused at \
                       once";
        found.push(
            finding(Severity::Broken, "service-key-lost", FIELD, message)
                .mend("append the present service.key to the new key"),
        );
    }
    let older = dropped.iter().filter(|key| signer != Some(**key)).count();
    if older > 0 {
        let message = format!(
            "drops {older} former keys that still verify; tokens that they signed end (K3s looks \
             at the present one only)"
        );
        found.push(finding(
            Severity::Warning,
            "service-key-dropped",
            FIELD,
            message,
        ));
    }
    let old = context.question.old.and_then(|old| old.content(FIELD));
    if !keys.signer_changes() && context.staged(FIELD) != old {
        let message = "has the old key first: it goes on signing, and nothing is rotated";
        found.push(
            finding(Severity::Warning, "service-key-not-first", FIELD, message)
                .mend("put the new key first"),
        );
    }
}
