//! From a plan's content to bytes.

use pki::PrivateKey;
use zeroize::Zeroizing;

use super::failure::MakeError;
use super::leaves::Workshop;
use super::state_file::{admin, edited};
use crate::host::{Entry, EntryKind};
use crate::journal::LeafRecord;
use crate::plan::{Content, LeafId};
use crate::{kubeconfig, listener};

/// What a step will put in place, attributes excepted.
pub(super) struct Rendered {
    pub(super) kind: EntryKind,
    pub(super) leaves: Vec<LeafRecord>,
}

impl Rendered {
    fn plain(bytes: impl Into<Zeroizing<Vec<u8>>>) -> Self {
        Self::of(EntryKind::File(bytes.into()))
    }

    fn of(kind: EntryKind) -> Self {
        Self {
            kind,
            leaves: Vec::new(),
        }
    }
}

/// Renders `content`. `base` is what is at the target now.
pub(super) async fn render(
    workshop: &Workshop<'_>,
    content: &Content,
    base: Option<&Entry>,
) -> Result<Rendered, MakeError> {
    match content {
        Content::Directory => Ok(Rendered::of(EntryKind::Directory)),
        Content::Link(target) => Ok(Rendered::of(EntryKind::Link(target.clone()))),
        Content::Text(text) => Ok(Rendered::plain(text.clone().into_bytes())),
        Content::Staged { .. }
        | Content::Backup { .. }
        | Content::Restamped { .. }
        | Content::CopyOf { .. } => Ok(Rendered::plain(copied(workshop, content).await?)),
        Content::LeafKey(leaf) => {
            let key = workshop.key(leaf).await?;
            let record = LeafRecord {
                leaf: leaf.clone(),
                spki: key.spki_sha256().to_string(),
                certificate: None,
            };
            Ok(Rendered {
                leaves: vec![record],
                ..Rendered::plain(pem_of(leaf, &key)?.as_bytes().to_vec())
            })
        }
        Content::LeafCertificate(leaf) => {
            let issued = workshop.certificate(leaf).await?;
            Ok(Rendered {
                leaves: vec![issued.record],
                ..Rendered::plain(issued.chain.into_bytes())
            })
        }
        Content::BareCertificate(leaf) => {
            let issued = workshop.certificate(leaf).await?;
            Ok(Rendered {
                leaves: vec![issued.record],
                ..Rendered::plain(issued.bare.into_bytes())
            })
        }
        Content::RkeState(edit) => {
            let base = base.and_then(Entry::bytes);
            let (bytes, leaves) = edited(workshop, edit, base).await?;
            let kind = EntryKind::File(bytes);
            Ok(Rendered { kind, leaves })
        }
        Content::AdminKubeconfig {
            server,
            cluster,
            authority,
            leaf,
        } => {
            let key = key_pem(workshop, leaf).await?;
            let issued = workshop.certificate(leaf).await?;
            let text = admin(server, cluster, authority, &issued.chain, &key)?;
            Ok(Rendered {
                leaves: vec![issued.record],
                ..Rendered::plain(text.as_bytes().to_vec())
            })
        }
        // What a host has kept is read there.
        Content::OnHost { path, .. } => Err(MakeError::Missing {
            place: format!("{} on its host", path.display()),
        }),
        Content::Kubeconfig { leaf, .. }
        | Content::ListenerSecret { leaf }
        | Content::NewKubeconfig { leaf, .. }
        | Content::NewListenerSecret { leaf } => inlined(workshop, content, leaf, base).await,
    }
}

/// A file that inlines certificate and key: with both replaced, or where there was none.
async fn inlined(
    workshop: &Workshop<'_>,
    content: &Content,
    leaf: &LeafId,
    base: Option<&Entry>,
) -> Result<Rendered, MakeError> {
    let (key, issued) = (
        key_pem(workshop, leaf).await?,
        workshop.certificate(leaf).await?,
    );
    let file = match content {
        Content::Kubeconfig {
            user, authority, ..
        } => {
            let base = base_bytes(base, "kubeconfig")?;
            kubeconfig::replace_user(base, user, &issued.chain, &key, authority.as_deref())
                .map_err(|source| edit_error("kubeconfig", source))?
        }
        Content::NewKubeconfig {
            name,
            server,
            authority,
            preferences,
            ..
        } => kubeconfig::render_inline(&kubeconfig::Inline {
            name,
            server,
            authority: authority.as_bytes(),
            certificate: issued.chain.as_bytes(),
            key: key.as_bytes(),
            preferences: *preferences,
        }),
        Content::NewListenerSecret { .. } => {
            let certificate = workshop.leaf(leaf)?.certificate.as_ref();
            let names = certificate.map_or(&[][..], |it| it.sans.as_slice());
            listener::render(&issued.chain, &key, names)
                .map_err(|source| edit_error("listener Secret", source))?
        }
        _ => {
            let base = base_bytes(base, "listener Secret")?;
            listener::reissue(base, &issued.chain, &key)
                .map_err(|source| edit_error("listener Secret", source))?
        }
    };
    Ok(Rendered {
        kind: EntryKind::File(file),
        leaves: vec![issued.record],
    })
}

/// Bytes that exist already, held to the digest that the plan names.
pub(super) async fn copied(
    workshop: &Workshop<'_>,
    content: &Content,
) -> Result<Zeroizing<Vec<u8>>, MakeError> {
    let (place, bytes, expected) = match content {
        Content::Staged { name, sha256 } => {
            let bytes = workshop.state.read_staged(&workshop.plan.id, name)?;
            (format!("staged {name}"), bytes, sha256)
        }
        Content::Backup { plan, step, sha256 } => {
            let bytes = workshop.state.read_backup(plan, *step)?;
            (
                format!("the backup of step {step} of plan {plan}"),
                bytes,
                sha256,
            )
        }
        Content::Restamped {
            plan,
            step,
            sha256,
            sent,
        } => {
            let (what, bytes) = match sent {
                true => ("what was sent by", workshop.state.read_sent(plan, *step)?),
                false => ("the backup of", workshop.state.read_backup(plan, *step)?),
            };
            (format!("{what} step {step} of plan {plan}"), bytes, sha256)
        }
        Content::CopyOf { path, sha256 } => {
            let bytes = workshop
                .host
                .read(path)
                .await?
                .and_then(|entry| match entry.kind {
                    EntryKind::File(bytes) => Some(bytes),
                    EntryKind::Directory | EntryKind::Link(_) => None,
                });
            (path.display().to_string(), bytes, sha256)
        }
        _ => {
            return Err(MakeError::Missing {
                place: "content by value".to_owned(),
            });
        }
    };
    let Some(bytes) = bytes else {
        return Err(MakeError::Missing { place });
    };
    let found = pki::sha256(&bytes).to_string();
    if found != *expected {
        return Err(MakeError::OtherBytes {
            place,
            expected: expected.clone(),
            found,
        });
    }
    Ok(bytes)
}

/// The leaves that a content puts in place.
pub(super) fn leaves_of(content: &Content) -> Vec<&LeafId> {
    match content {
        Content::LeafKey(leaf)
        | Content::LeafCertificate(leaf)
        | Content::BareCertificate(leaf)
        | Content::Kubeconfig { leaf, .. }
        | Content::AdminKubeconfig { leaf, .. }
        | Content::ListenerSecret { leaf }
        | Content::NewKubeconfig { leaf, .. }
        | Content::NewListenerSecret { leaf } => vec![leaf],
        Content::RkeState(edit) => edit.contents().into_iter().flat_map(leaves_of).collect(),
        _ => Vec::new(),
    }
}

/// A file's bytes.
pub(super) fn bytes_of(kind: EntryKind) -> Result<Zeroizing<Vec<u8>>, MakeError> {
    match kind {
        EntryKind::File(bytes) => Ok(bytes),
        EntryKind::Directory | EntryKind::Link(_) => Err(MakeError::Missing {
            place: "the content of a file".to_owned(),
        }),
    }
}

async fn key_pem(workshop: &Workshop<'_>, leaf: &LeafId) -> Result<Zeroizing<String>, MakeError> {
    pem_of(leaf, &workshop.key(leaf).await?)
}

fn pem_of(leaf: &LeafId, key: &PrivateKey) -> Result<Zeroizing<String>, MakeError> {
    key.to_pem().map_err(|source| MakeError::Leaf {
        leaf: leaf.clone(),
        source,
    })
}

pub(super) fn edit_error(
    what: &'static str,
    source: impl std::error::Error + Send + Sync + 'static,
) -> MakeError {
    MakeError::Edit {
        what,
        source: Box::new(source),
    }
}

fn base_bytes<'a>(base: Option<&'a Entry>, what: &'static str) -> Result<&'a [u8], MakeError> {
    base.and_then(Entry::bytes)
        .ok_or_else(|| MakeError::Missing {
            place: format!("the {what} to edit"),
        })
}
