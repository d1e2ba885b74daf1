//! Certificates that live inside other files.

use pki::{Certificate, San};

use super::collect::key_facts;
use super::{InlineUser, KeyFacts, KubeconfigFacts, ListenerFacts};
use crate::kubeconfig::{Cluster, KeyPlacement, Kubeconfig, Placement, User};
use crate::listener::Listener;

/// What a kubeconfig inlines and points to.
pub(super) fn kubeconfig(bytes: &[u8]) -> Result<KubeconfigFacts, String> {
    let parsed = Kubeconfig::parse(bytes).map_err(|error| crate::error_chain(&error))?;
    let mut facts = KubeconfigFacts::default();
    for cluster in parsed.clusters {
        take_cluster(&mut facts, cluster)?;
    }
    for user in parsed.users {
        take_user(&mut facts, user)?;
    }
    Ok(facts)
}

fn take_cluster(facts: &mut KubeconfigFacts, cluster: Cluster) -> Result<(), String> {
    if let Some(server) = cluster.server {
        facts.servers.push((cluster.name.clone(), server));
    }
    match cluster.authority {
        Some(Placement::File(path)) => facts.references.push(path),
        Some(Placement::Inline(pem)) => {
            let bundle = Certificate::all_from_pem(&pem)
                .map_err(|error| format!("cluster {}: {error}", cluster.name))?;
            facts.authorities.push((cluster.name, bundle));
        }
        None => {}
    }
    Ok(())
}

fn take_user(facts: &mut KubeconfigFacts, user: User) -> Result<(), String> {
    let key = match user.key {
        Some(KeyPlacement::File(path)) => {
            facts.references.push(path);
            None
        }
        Some(KeyPlacement::Inline(pem)) => first_key(&pem),
        None => None,
    };
    match user.certificate {
        Some(Placement::File(path)) => facts.references.push(path),
        Some(Placement::Inline(pem)) => {
            let certificates = Certificate::all_from_pem(&pem)
                .map_err(|error| format!("user {}: {error}", user.name))?;
            facts.users.push(InlineUser {
                name: user.name,
                certificates,
                key,
            });
        }
        None => {}
    }
    Ok(())
}

/// What `dynamic-cert.json` says.
pub(super) fn listener(bytes: &[u8]) -> Result<ListenerFacts, String> {
    let parsed = Listener::parse(bytes).map_err(|error| crate::error_chain(&error))?;
    let certificates = parsed.certificates().map_err(|error| error.to_string())?;
    Ok(ListenerFacts {
        certificates,
        key: first_key(&parsed.key),
        sans: parsed
            .sans
            .iter()
            .map(|name| San::from_text(name))
            .collect(),
        fingerprint: parsed.fingerprint,
        is_static: parsed.is_static,
    })
}

/// The CA hash of a join token, `K10<hash>::<user>:<password>`; the rest of it is not looked at.
pub(super) fn token(bytes: &[u8]) -> Option<String> {
    let hash = bytes.strip_prefix(b"K10")?.get(..64)?;
    let hash = core::str::from_utf8(hash).ok()?;
    let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    hash.bytes().all(hex).then(|| hash.to_owned())
}

fn first_key(pem: &[u8]) -> Option<KeyFacts> {
    key_facts(pem).ok()?.into_iter().next()
}
