//! New certificates for kubeconfigs that people carry about.

use pki::{Certificate, Purpose};

use super::error::PlanError;
use super::planner::{Draft, Request};
use super::{Content, LeafId, Plan};
use crate::cluster::LeafWant;
use crate::inventory::Observed;
use crate::kubeconfig::Copy;

/// A copy that is to get a new certificate, and its file as it was read.
#[derive(Debug)]
pub struct StaleCopy<'a> {
    /// Which user of which file.
    pub copy: &'a Copy,
    /// The file.
    pub file: &'a Observed,
    /// Whether the file trusts the present server CA; if not, that is replaced too.
    pub trusts_server: bool,
}

/// Plans a new leaf for each copy: same user, same groups, a new key, and the present server CA
/// where the copy trusts another.
///
/// # Errors
///
/// As [`super::plan_leaves`].
pub fn plan_copies(request: &Request<'_>, copies: &[StaleCopy<'_>]) -> Result<Plan, PlanError> {
    const AUTHORITY: &str = "client-ca";
    let mut draft = Draft::new(request);
    let server: Vec<&Certificate> = request.inventory.authority("server-ca").iter().collect();
    let bundle: String = server
        .iter()
        .map(|certificate| certificate.to_pem())
        .collect();
    for (index, stale) in copies.iter().enumerate() {
        let Some(identity) = &stale.copy.identity else {
            continue;
        };
        let want = LeafWant {
            organizations: identity.groups.clone(),
            common_name: identity.user.clone(),
            sans: Vec::new(),
            purposes: vec![Purpose::ClientAuth],
        };
        // A short-lived certificate stays one.
        draft.lifetime = identity.lifetime.min(request.policy.lifetime);
        let leaf = LeafId(format!("kubeconfig-{}", index + 1));
        draft.add_leaf_as(leaf.clone(), want, AUTHORITY, None)?;
        let authority = (!stale.trusts_server && !bundle.is_empty()).then(|| bundle.clone());
        let content = Content::Kubeconfig {
            user: stale.copy.entry.clone(),
            leaf,
            authority,
        };
        let reason = format!(
            "the certificate of {} in user entry {:?} ends {}",
            identity.user, stale.copy.entry, identity.not_after
        );
        draft.put(stale.file, 0o600, content, &reason)?;
    }
    Ok(draft.finish())
}
