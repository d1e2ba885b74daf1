//! What is told of the node's certificates: how long they are good, and which CAs end.

use kubepki_serve::ending::ending;
use kubepki_serve::health::{Part, State};
use pki::{Certificate, Purpose};

use super::keep::Keeper;
use super::renew;
use crate::world::Node;

impl Keeper {
    /// Counts what lies on the disk, whether it may be renewed or not.
    pub(super) async fn recount(&mut self) {
        // Why the node cannot be looked at is told with its leaves.
        match renew::look(&self.world, &self.args).await {
            Ok(node) => self.count(&node),
            Err(_) => self.warn(),
        }
    }

    /// K3s's gauge for every certificate of the node, and the CAs among them that end.
    pub(super) fn count(&mut self, node: &Node) {
        let rows = node.inventory.rows.iter();
        let certificates = rows.filter_map(|row| {
            let certificate = row.file.first_certificate()?;
            let end = certificate.validity().not_after;
            Some((certificate.subject().to_string(), usages(certificate), end))
        });
        self.service.metrics.certificates(certificates);
        let rows = node.inventory.rows.iter();
        let authorities = rows.filter(|row| row.row.is_authority());
        let authorities = authorities.flat_map(|row| signing_path(row.file.certificates()));
        self.authorities = authorities.cloned().collect();
        self.warn();
    }

    /// Tells of CAs that end: nobody renews them by himself.
    pub(super) fn warn(&mut self) {
        let now = self.world.now();
        let found = ending(&self.authorities, now);
        self.said
            .retain(|subject, _| found.iter().any(|it| it.subject == *subject));
        for ending in &found {
            let since = self.said.get(&ending.subject).map(|said| now.since(*said));
            if ending.is_to_be_said(since) {
                self.said.insert(ending.subject.clone(), now);
                self.say("a CA ends, and nobody renews it by himself", ending.text());
            }
        }
        // The state stays the same for as long as the same CAs end.
        let names: Vec<String> = found
            .iter()
            .map(|it| format!("the CA {} ends at {}", it.subject, it.not_after))
            .collect();
        let state = match names.is_empty() {
            true => State::Fine,
            false => State::Warning(format!("{}: `kubepki rotate-ca`", names.join(", "))),
        };
        self.service.note(Part::Authorities, state);
    }
}

/// K3s's words for what a certificate is for (reference section 8.2).
fn usages(certificate: &Certificate) -> String {
    if certificate.is_ca() {
        return "CertSign".to_owned();
    }
    let words = certificate.purposes().iter().map(|purpose| match purpose {
        Purpose::ServerAuth => "ServerAuth",
        Purpose::ClientAuth => "ClientAuth",
        _ => "Any",
    });
    words.collect::<Vec<_>>().join(",")
}

/// The CA that signs, and those above it in the same file. What else lies there is only trusted.
fn signing_path(file: &[Certificate]) -> Vec<&Certificate> {
    let mut path: Vec<&Certificate> = file.first().into_iter().collect();
    while let Some(last) = path.last() {
        let above = file.iter().find(|it| {
            it.subject() == last.issuer()
                && !path.contains(it)
                && last.verify_signature(it.spki_der()).is_ok()
        });
        match above {
            Some(above) => path.push(above),
            None => break,
        }
    }
    path
}
