//! Join tokens: the CA hash that they pin.

use pki::Digest;

use super::context::Context;
use super::{Finding, FindingKind, Severity};
use crate::catalogue::Release;
use crate::inventory::{DetectedRelease, Facts};
use crate::plan::FingerprintKind;
use crate::token::hash_of;

/// The tokens on disk pin the server CA in force. The hash changes with the CA, and by itself
/// when an outer CA ends (reference section 5.2); whoever joins with the old one is refused.
pub(super) fn authority_hash(context: &Context<'_>, findings: &mut Vec<Finding>) {
    let inventory = context.inventory();
    let mut wanted = None;
    for observed in &inventory.rows {
        let Some(Facts::Token(Some(found))) = observed.file.present().map(|p| &p.facts) else {
            continue;
        };
        let Some(wanted) = wanted.get_or_insert_with(|| in_force(context)) else {
            return;
        };
        if *found != *wanted {
            let kind = FindingKind::TokenHash {
                found: found.clone(),
                wanted: wanted.clone(),
            };
            let finding = Finding::new(Severity::Warning, &observed.file.path, kind);
            let finding = finding.row(observed.row.id);
            findings.push(finding.mend(format!(
                "{}: K3s writes the token anew; nodes join with that one",
                context.restart()
            )));
        }
    }
}

/// The hash of the server CA's file; `None` where its rule is not known.
fn in_force(context: &Context<'_>) -> Option<String> {
    /// Hashes of bundles are a root's since rotate-ca came.
    const ROOTS: Release = Release {
        minor: 23,
        patch: 17,
    };
    let inventory = context.inventory();
    let file = &inventory.row("server-ca")?.file;
    let certificates = file.certificates();
    let older = match inventory.release {
        DetectedRelease::Known(release) | DetectedRelease::AtLeast(release) => release < ROOTS,
        DetectedRelease::Unknown => true,
    };
    if certificates.is_empty() || (older && certificates.len() > 1) {
        return None;
    }
    let FingerprintKind::File(digest) = &file.present()?.fingerprint.kind else {
        return None;
    };
    let digest: [u8; 32] = pki::unhex(digest)?.try_into().ok()?;
    Some(hash_of(Digest(digest), certificates, context.now()).to_string())
}
