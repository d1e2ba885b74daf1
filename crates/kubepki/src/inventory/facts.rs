//! What kubeconfigs and the dynamic listener's Secret say, without their keys.

use std::path::PathBuf;

use pki::{Certificate, San};

use super::{InlineUser, KubeconfigFacts, ListenerFacts, collect::key_facts};
use crate::kubeconfig::{KeyPlacement, Kubeconfig, Placement, User};
use crate::listener::Listener;

/// A kubeconfig's references and what it inlines.
pub(super) fn kubeconfig_facts(bytes: &[u8]) -> Result<KubeconfigFacts, String> {
    let config = Kubeconfig::parse(bytes).map_err(|error| crate::error_chain(&error))?;
    let mut facts = KubeconfigFacts::default();
    for cluster in &config.clusters {
        if let Some(server) = &cluster.server {
            facts.servers.push((cluster.name.clone(), server.clone()));
        }
        match &cluster.authority {
            Some(Placement::File(path)) => facts.references.push(path.clone()),
            Some(Placement::Inline(pem)) => {
                let bundle = Certificate::all_from_pem(pem)
                    .map_err(|error| format!("the CA of cluster {:?}: {error}", cluster.name))?;
                facts.authorities.push((cluster.name.clone(), bundle));
            }
            None => {}
        }
    }
    for user in &config.users {
        facts
            .users
            .extend(inline_user(user, &mut facts.references)?);
    }
    Ok(facts)
}

/// The user, if its certificate is inlined; paths go to `references`.
fn inline_user(user: &User, references: &mut Vec<PathBuf>) -> Result<Option<InlineUser>, String> {
    let inlined = match &user.certificate {
        Some(Placement::File(path)) => {
            references.push(path.clone());
            None
        }
        Some(Placement::Inline(pem)) => Some(
            Certificate::all_from_pem(pem)
                .map_err(|error| format!("the certificate of user {:?}: {error}", user.name))?,
        ),
        None => None,
    };
    let key = match &user.key {
        Some(KeyPlacement::File(path)) => {
            references.push(path.clone());
            None
        }
        Some(KeyPlacement::Inline(pem)) => key_facts(pem)
            .map_err(|error| format!("the key of user {:?}: {error}", user.name))?
            .first()
            .copied(),
        None => None,
    };
    Ok(inlined.map(|certificates| InlineUser {
        name: user.name.clone(),
        certificates,
        key,
    }))
}

/// The listener's chain, key, wanted names and fingerprint.
pub(super) fn listener_facts(bytes: &[u8]) -> Result<ListenerFacts, String> {
    let listener = Listener::parse(bytes).map_err(|error| crate::error_chain(&error))?;
    let certificates = listener
        .certificates()
        .map_err(|error| format!("its certificate: {error}"))?;
    let key = key_facts(&listener.key).map_err(|error| format!("its key: {error}"))?;
    Ok(ListenerFacts {
        certificates,
        key: key.first().copied(),
        sans: listener
            .sans
            .iter()
            .map(|name| San::from_text(name))
            .collect(),
        fingerprint: listener.fingerprint,
        is_static: listener.is_static,
    })
}
