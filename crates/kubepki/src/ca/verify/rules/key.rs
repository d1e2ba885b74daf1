//! Private keys of CAs.

use pki::pem::{self, Block};

use super::{Severity, finding};
use crate::bootstrap::Field;
use crate::ca::verify::Finding;
use crate::ca::verify::context::{Context, View};
use crate::ca::verify::pair::{Public, load_words, public_half};

/// Each CA's certificate and key belong together.
pub(super) fn pairs(context: &Context<'_>, found: &mut Vec<Finding>) {
    for view in &context.views {
        if !view.staged && !view.key_staged {
            continue;
        }
        // A missing file is another rule's.
        let (Some(certificates), Some(keys)) = (
            context.effective(view.field),
            context.effective(view.key_field),
        ) else {
            continue;
        };
        if let Some(words) = load_words(certificates, keys) {
            found.push(unusable(view, certificates, keys, &words));
        }
    }
}

/// Why a pair is none, as exactly as can be told.
fn unusable(view: &View, certificates: &[u8], keys: &[u8], words: &str) -> Finding {
    let broken = |rule, message: String| finding(Severity::Broken, rule, view.key_field, message);
    let blocks = pem::blocks(keys);
    let private: Vec<&Block> = blocks
        .iter()
        .filter(|block| block.label.ends_with("PRIVATE KEY"))
        .collect();
    let certificate = view.field.path().display();
    if private.first().is_some_and(|block| is_encrypted(block)) {
        return broken(
            "encrypted-key",
            "is encrypted, and K3s has no passphrase".to_owned(),
        )
        .mend("openssl pkey -in FILE -out FILE.plain, mode 0600, then put that in its place");
    }
    let holds_key = pem::blocks(certificates)
        .iter()
        .any(|block| block.label.ends_with("PRIVATE KEY"));
    if private.is_empty() && holds_key {
        let message = format!("has no key, and {certificate} has one: the two are swapped");
        return broken("swapped", message).mend("exchange the two files");
    }
    let Some(first) = view.new_certificates().first() else {
        return broken(
            "key-mismatch",
            format!("cannot be used with {certificate}: {words}"),
        );
    };
    let belongs = |block: &&Block| match public_half(&block.der) {
        Some(Public::Spki(spki)) => spki == first.spki_der(),
        Some(Public::ShortRsa(numbers)) => first.spki_der().ends_with(&numbers),
        None => false,
    };
    if private.iter().skip(1).any(belongs) {
        let message = format!(
            "has the key of {} behind another one; K3s takes the first",
            first.subject()
        );
        return broken("first-key", message).mend("put that key first, or leave the others out");
    }
    let own = private.first().and_then(|block| public_half(&block.der));
    let other = view
        .new_certificates()
        .iter()
        .skip(1)
        .find(|it| own == Some(Public::Spki(it.spki_der().to_vec())));
    if let Some(other) = other {
        let message = format!(
            "is the key of {}, which is not the first certificate of {certificate}; the CA that \
             signs stands first",
            other.subject()
        );
        return broken("order", message).mend("put the CA first, then its issuers up to the root");
    }
    let message = format!(
        "is not the key of {}, the first certificate of {certificate} ({words})",
        first.subject()
    );
    broken("key-mismatch", message)
}

/// PBES2, or OpenSSL's legacy form.
pub(super) fn is_encrypted(block: &Block) -> bool {
    block.label == "ENCRYPTED PRIVATE KEY"
        || block
            .headers
            .iter()
            .any(|header| header.starts_with("DEK-Info") || header.contains("ENCRYPTED"))
}

/// A key file holds that CA's key and no other: all of them lie on every server and in the
/// datastore.
pub(super) fn several(context: &Context<'_>, found: &mut Vec<Finding>) {
    for view in context.views.iter().filter(|view| view.key_staged) {
        let Some(content) = context.staged(view.key_field) else {
            continue;
        };
        let keys: Vec<Public> = pem::blocks(content)
            .iter()
            .filter_map(|block| public_half(&block.der))
            .collect();
        let [_, others @ ..] = keys.as_slice() else {
            continue;
        };
        if others.is_empty() {
            continue;
        }
        let mut owners: Vec<String> = view
            .new_certificates()
            .iter()
            .skip(1)
            .filter(|it| others.contains(&Public::Spki(it.spki_der().to_vec())))
            .map(|it| it.subject().to_string())
            .collect();
        // A root and its cross-certificate are of one key.
        owners.dedup();
        let whose = match owners.is_empty() {
            true => String::new(),
            false => format!(" (of {})", owners.join(", ")),
        };
        let message = format!(
            "holds {} keys; K3s signs with the first, and the others{whose} would lie on every \
             server and in the datastore",
            keys.len()
        );
        found.push(
            finding(Severity::Warning, "several-keys", view.key_field, message)
                .mend("store the others offline, and leave one key in the file"),
        );
    }
}

/// Two CAs with one key are one CA: who is signed by the one is trusted by the other.
pub(super) fn shared(context: &Context<'_>, found: &mut Vec<Finding>) {
    let mut known: Vec<(&[u8], Field)> = Vec::new();
    for view in &context.views {
        let Some(first) = view.new_certificates().first() else {
            continue;
        };
        let other = known.iter().find(|(spki, _)| *spki == first.spki_der());
        if let Some((_, other)) = other
            && context
                .views
                .iter()
                .any(|it| it.staged && (it.field == view.field || it.field == *other))
        {
            let message =
                format!("has the key of {other}: what the one signs, the other's consumers accept");
            found.push(finding(
                Severity::Warning,
                "shared-key",
                view.field,
                message,
            ));
        }
        known.push((first.spki_der(), view.field));
    }
}
