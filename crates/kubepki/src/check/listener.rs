//! The dynamic listener's Secret: certificate and annotations agree.

use pki::San;

use super::context::Context;
use super::{Finding, FindingKind, Severity};
use crate::cluster::listener_sans;
use crate::inventory::Facts;

/// The certificate carries every name that the annotations ask for and every wanted one, and
/// the fingerprint is its own. Expiry, key and chain are the general rules'.
pub(super) fn annotations(context: &Context<'_>, findings: &mut Vec<Finding>) {
    let inventory = context.inventory();
    for observed in &inventory.rows {
        let Some(Facts::Listener(listener)) = observed.file.present().map(|p| &p.facts) else {
            continue;
        };
        let Some(leaf) = listener.certificates.first() else {
            continue;
        };
        let mut add = |severity, kind, mend: String| {
            findings.push(
                Finding::new(severity, &observed.file.path, kind)
                    .row(observed.row.id)
                    .certificate(leaf)
                    .mend(mend),
            );
        };
        let wanted = listener_sans(inventory, context.question().wishes).unwrap_or_default();
        let missing: Vec<San> = wanted
            .into_iter()
            .filter(|san| !leaf.sans().contains(san))
            .collect();
        if !missing.is_empty() {
            // K3s signs it anew with them when somebody asks for one.
            let kind = FindingKind::SanMissing { missing };
            add(Severity::Due, kind, context.rotate(observed.row.id));
        }
        let own = crate::listener::fingerprint(leaf);
        if listener
            .fingerprint
            .as_ref()
            .is_some_and(|found| *found != own)
        {
            let mend = context.rotate(observed.row.id);
            add(Severity::Warning, FindingKind::FingerprintDiffers, mend);
        }
    }
}
