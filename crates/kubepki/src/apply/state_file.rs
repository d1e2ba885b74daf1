//! Changes of RKE's state file.

use zeroize::Zeroizing;

use super::failure::MakeError;
use super::leaves::Workshop;
use super::render::{bytes_of, edit_error, render};
use crate::journal::LeafRecord;
use crate::plan::{Content, StateConfig, StateEdit, StateEntry};
use crate::rke::entry::Origin;
use crate::rke::{Entry, Half, Secret, State, json, kubeconfig};

/// The state file with one change. `base` is what is there; nothing is a state without anything.
pub(super) async fn edited(
    workshop: &Workshop<'_>,
    edit: &StateEdit,
    base: Option<&[u8]>,
) -> Result<(Zeroizing<Vec<u8>>, Vec<LeafRecord>), MakeError> {
    let parsed = base.map_or_else(|| Ok(State::empty()), State::parse);
    let mut state = parsed.map_err(|source| edit_error(WHAT, source))?;
    let mut leaves = Vec::new();
    match edit {
        StateEdit::Desire {
            entries,
            removed,
            config,
        } => {
            let former = state.bundle(Half::Desired);
            state.desire_current();
            for (name, wanted) in entries {
                let present = state
                    .entry(Half::Desired, name)
                    .or_else(|| former.get(name).cloned());
                let entry = entry(workshop, name, wanted, present, &mut leaves).await?;
                state.set_desired([entry]);
            }
            state.remove_desired(removed.iter().map(String::as_str));
            if let Some(config) = config {
                let bytes = content(workshop, config, &mut leaves).await?;
                let config = json::parse(&bytes).map_err(|source| edit_error(WHAT, source))?;
                state.set_rke_config(Half::Desired, config);
            }
        }
        StateEdit::Promote { entries, config } => {
            state.promote(entries.iter().map(String::as_str));
            if *config {
                state.promote_config();
            }
        }
    }
    Ok((state.render(), leaves))
}

async fn entry(
    workshop: &Workshop<'_>,
    name: &str,
    wanted: &StateEntry,
    present: Option<Entry>,
    leaves: &mut Vec<LeafRecord>,
) -> Result<Entry, MakeError> {
    // What this program does not sign itself comes from elsewhere.
    let origin = match &wanted.certificate {
        None | Some(Content::LeafCertificate(_) | Content::BareCertificate(_)) => Origin::Issued,
        Some(_) => Origin::Custom,
    };
    let mut entry = present.unwrap_or_else(|| Entry::new(name, "", Secret::default(), origin));
    // Entries of clusters that RKE 0.1 made have no names.
    name.clone_into(&mut entry.name);
    if let Some(certificate) = &wanted.certificate {
        entry.certificate_pem = text(content(workshop, certificate, leaves).await?)?.to_string();
    }
    if let Some(key) = &wanted.key {
        entry.key_pem = Secret::new(text(content(workshop, key, leaves).await?)?);
    }
    match &wanted.config {
        None => {}
        Some(StateConfig::Text(text)) => entry.config = Secret::from(text.as_str()),
        Some(StateConfig::Admin {
            server,
            cluster,
            authority,
            path,
        }) => {
            let (certificate, key) = (&entry.certificate_pem, &entry.key_pem);
            let config = admin(server, cluster, authority, certificate, key)?;
            entry = entry.with_admin_config(config, path);
        }
    }
    Ok(entry)
}

/// The administrator's kubeconfig for `https://<address>:6443`.
pub(super) fn admin(
    server: &str,
    cluster: &str,
    authority: &str,
    certificate: &str,
    key: &str,
) -> Result<Secret, MakeError> {
    let address = server
        .strip_prefix("https://")
        .and_then(|rest| rest.strip_suffix(":6443"));
    let address = address.ok_or_else(|| MakeError::Missing {
        place: format!("https://<address>:6443 in {server:?}"),
    })?;
    Ok(kubeconfig::admin(
        address,
        cluster,
        authority,
        certificate,
        key,
    ))
}

async fn content(
    workshop: &Workshop<'_>,
    content: &Content,
    leaves: &mut Vec<LeafRecord>,
) -> Result<Zeroizing<Vec<u8>>, MakeError> {
    // A state file within a state file is refused before the first step.
    let rendered = Box::pin(render(workshop, content, None)).await?;
    leaves.extend(rendered.leaves);
    bytes_of(rendered.kind)
}

fn text(bytes: Zeroizing<Vec<u8>>) -> Result<Zeroizing<String>, MakeError> {
    let text = std::str::from_utf8(&bytes).map_err(|source| edit_error(WHAT, source))?;
    Ok(Zeroizing::new(text.to_owned()))
}

const WHAT: &str = "the state file";
