//! What `k3s certificate rotate-ca` says about a set (K3s `pkg/server/handlers/cert.go`).

use std::fmt;
use std::path::Path;

use pki::Certificate;
use pki::verify::{Options, go_words, verify};

use super::context::{Context, Fault, View};
use super::pair::{load_words, malformed};
use super::service;
use crate::bootstrap::Field;

/// One of K3s's complaints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Which file it is about.
    pub field: Field,
    /// Which rule.
    pub rule: Rule,
    /// K3s's words, and Go's, without the field's name.
    pub words: String,
}

impl fmt::Display for Refusal {
    /// As K3s writes it: `ServerCA: new CA bundle contains …`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.words)
    }
}

/// K3s's rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// A file is missing or cannot be read.
    Readable,
    /// A new bundle holds more than the CA itself.
    NotAlone,
    /// The new CA verifies with the old bundle.
    UnderOldRoot,
    /// Certificate and key belong together.
    Pair,
    /// The key that signs tokens now is among the new ones.
    ServiceKeyKept,
}

/// The order of K3s's structure, which its messages follow.
const ORDER: [Field; 6] = [
    Field::EtcdServerCa,
    Field::EtcdPeerCa,
    Field::ServerCa,
    Field::ClientCa,
    Field::ServiceKey,
    Field::RequestHeaderCa,
];

/// Everything that K3s finds, in its order.
pub(super) fn refusals(context: &Context<'_>) -> Vec<Refusal> {
    let mut found = Vec::new();
    for field in ORDER {
        match context.views.iter().find(|view| view.field == field) {
            Some(view) => {
                found.extend(authority(context, view));
                found.extend(pair(context, view));
            }
            None => found.extend(service_key(context, field)),
        }
    }
    found
}

fn authority(context: &Context<'_>, view: &View) -> Option<Refusal> {
    if !view.staged {
        return None;
    }
    let refusal = |rule, words| Refusal {
        field: view.field,
        rule,
        words,
    };
    let places = &context.question.places;
    let (old, new) = match (&view.old, &view.new) {
        (Ok(old), Ok(new)) => (old, new),
        (Err(fault), _) => {
            let path = view.field.under(&places.old);
            return Some(refusal(Rule::Readable, unreadable(fault, &path)));
        }
        (_, Err(fault)) => {
            let path = view.field.under(&places.new);
            return Some(refusal(Rule::Readable, unreadable(fault, &path)));
        }
    };
    let (first, others) = match new.as_slice() {
        [_] => {
            let words = "new CA bundle contains only a single certificate but should include root \
                         or intermediate CA certificates";
            return Some(refusal(Rule::NotAlone, words.to_owned()));
        }
        certificates => certificates.split_first()?,
    };
    let (roots, mut intermediates): (Vec<_>, Vec<_>) = old.iter().cloned().partition(is_root);
    let named = |it: &&Certificate| {
        it.authority_key_identifier()
            .is_some_and(|it| !it.is_empty())
    };
    intermediates.extend(others.iter().filter(named).cloned());
    let options = Options::at(context.question.now);
    if verify(first, &intermediates, &roots, &options).is_ok() {
        return None;
    }
    let words = go_words(first, &intermediates, &roots, &options)
        .unwrap_or_else(|| "x509: certificate signed by unknown authority".to_owned());
    Some(refusal(
        Rule::UnderOldRoot,
        format!("new CA cert cannot be verified using old CA chain: {words}"),
    ))
}

/// K3s's word for a root: it names no other key as its issuer's.
fn is_root(certificate: &Certificate) -> bool {
    let authority = certificate.authority_key_identifier().unwrap_or_default();
    authority.is_empty() || Some(authority) == certificate.subject_key_identifier()
}

fn unreadable(fault: &Fault, path: &Path) -> String {
    match fault {
        Fault::Missing => missing(path),
        Fault::Unreadable(pki::Error::NoPemBlock { .. }) => format!(
            "error reading {}: data does not contain any valid RSA or ECDSA certificates",
            path.display()
        ),
        Fault::Unreadable(error) => {
            format!("error reading {}: {}", path.display(), malformed(error))
        }
    }
}

fn missing(path: &Path) -> String {
    format!("open {}: no such file or directory", path.display())
}

fn pair(context: &Context<'_>, view: &View) -> Option<Refusal> {
    if !view.staged && !view.key_staged {
        return None;
    }
    let certificates = context.effective(view.field);
    let keys = context.effective(view.key_field);
    let words = match (certificates, keys) {
        (None, _) => missing(&context.path(view.field)),
        (_, None) => missing(&context.path(view.key_field)),
        (Some(certificates), Some(keys)) => load_words(certificates, keys)?,
    };
    Some(Refusal {
        field: view.key_field,
        rule: Rule::Pair,
        // Sic.
        words: format!("new CA cert and key cannot be loaded as X590KeyPair: {words}"),
    })
}

fn service_key(context: &Context<'_>, field: Field) -> Option<Refusal> {
    let refusal = |rule, words| Refusal { field, rule, words };
    let keys = |content: Option<&[u8]>, path: &Path| {
        let content = content.ok_or_else(|| missing(path))?;
        let keys = service::seen_by_k3s(content);
        if keys.is_empty() {
            return Err(format!(
                "error reading public key file {}: data does not contain any valid RSA or ECDSA \
                 public keys",
                path.display()
            ));
        }
        Ok(keys)
    };
    let old = context.question.old.and_then(|old| old.content(field));
    let old = match keys(old, &field.under(&context.question.places.old)) {
        Ok(keys) => keys,
        Err(words) => return Some(refusal(Rule::Readable, words)),
    };
    let new = match keys(context.effective(field), &context.path(field)) {
        Ok(keys) => keys,
        Err(words) => return Some(refusal(Rule::Readable, words)),
    };
    let kept = old.first().is_some_and(|first| new.contains(first));
    (!kept).then(|| {
        let words = "old ServiceAccount signing key not in new ServiceAccount key list";
        refusal(Rule::ServiceKeyKept, words.to_owned())
    })
}
