//! Findings in words.

use std::fmt;

use super::{AuthorityRole, FindingKind};

impl fmt::Display for FindingKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("is missing"),
            Self::Unreadable { detail } => write!(f, "cannot be read: {detail}"),
            Self::Malformed { detail } => write!(f, "is not what it should be: {detail}"),
            Self::Directory => f.write_str("is a directory, not a file"),
            Self::Link { target, outside } => {
                let place = if *outside {
                    "outside the data directory"
                } else {
                    "elsewhere"
                };
                write!(
                    f,
                    "is a link that leads {place}, to {}; not followed",
                    target.display()
                )
            }
            Self::ForeignDirectory { target } => write!(
                f,
                "is a link that leads outside the data directory, to {}; followed, as K3s does",
                target.display()
            ),
            Self::WrongMode { mode, wanted } => {
                let what = if mode & 0o022 != 0 { "written" } else { "read" };
                write!(
                    f,
                    "has mode {mode:04o}: others than its owner can have it {what}; \
                     K3s sets {wanted:04o}"
                )
            }
            Self::NewerRows { rows } => {
                write!(
                    f,
                    "newer releases of K3s have more, made at their first start: {}",
                    rows.join(", ")
                )
            }
            Self::NoAgent => f.write_str("there are no agent files: no agent has run here"),
            Self::Expired { not_after } => write!(f, "expired {not_after}"),
            Self::NotYetValid { not_before } => write!(f, "is not valid before {not_before}"),
            Self::Due {
                not_after,
                window_days,
            } => {
                write!(
                    f,
                    "ends {not_after}, inside the window of {window_days} days"
                )
            }
            Self::OutlivesIssuer {
                not_after,
                issuer,
                issuer_not_after,
            } => write!(
                f,
                "says that it ends {not_after}, but its issuer {issuer} ends {issuer_not_after}"
            ),
            other => other.fmt_keys(f),
        }
    }
}

impl FindingKind {
    /// The second part of [`fmt::Display`]: keys and names.
    fn fmt_keys(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::KeyMissing { certificate } => {
                write!(f, "the private key of {} is missing", certificate.display())
            }
            Self::KeyMismatch { key } => {
                write!(
                    f,
                    "the private key in {} belongs to another certificate",
                    key.display()
                )
            }
            Self::SeveralKeys { count, others } => {
                write!(f, "holds {count} private keys; K3s signs with the first")?;
                match others.as_slice() {
                    [] => Ok(()),
                    others => write!(f, ", and another is the key of {}", others.join(", ")),
                }
            }
            Self::CurrentKeyDiffers { keys } => {
                write!(f, "is not the first key of {}", keys.display())
            }
            Self::WeakKey { algorithm } => write!(f, "has a key that is too short: {algorithm}"),
            Self::SerialZero { count } => write!(
                f,
                "{count} CA certificates have serial number 0, as K3s makes them; \
                 newer libraries refuse to load them"
            ),
            Self::AuthorityKeyHere {
                authority,
                role,
                open_mode,
            } => {
                let what = match role {
                    AuthorityRole::Root => "is the private key of the root",
                    AuthorityRole::Intermediate => "is the private key of the intermediate",
                    AuthorityRole::InForce => {
                        "is a second copy of the private key of the CA in force"
                    }
                    AuthorityRole::Staged => "is the private key of a staged CA",
                };
                write!(f, "{what}, {authority}; no server needs it here")?;
                match open_mode {
                    Some(mode) => write!(f, ", and mode {mode:04o} lets others read it"),
                    None => Ok(()),
                }
            }
            Self::WrongSubject { found, wanted } => {
                write!(f, "its subject should be {wanted}, not {found}")
            }
            Self::WrongPurposes { missing } => {
                write!(f, "its extended key usage lacks {}", listed(missing))
            }
            Self::SanMissing { missing } => write!(f, "lacks the name {}", listed(missing)),
            other => other.fmt_chain(f),
        }
    }

    /// The third part of [`fmt::Display`]: how files fit together.
    fn fmt_chain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ChainBroken { trust, detail } => {
                write!(f, "does not verify with {}: {detail}", trust.display())
            }
            Self::WeakSignature { algorithm } => {
                write!(
                    f,
                    "is signed with {algorithm}, which no Kubernetes component accepts"
                )
            }
            Self::OtherAuthority {
                issuer,
                authority,
                verifies,
            } => {
                let rest = if *verifies {
                    "it still verifies"
                } else {
                    "it does not verify"
                };
                write!(
                    f,
                    "was issued by {issuer}, not by the present {authority}; {rest}"
                )
            }
            Self::CopyDiffers { original, breaks } => {
                write!(f, "is another CA file than {}", original.display())?;
                match breaks.as_slice() {
                    [] => f.write_str("; what is in use still verifies with it"),
                    breaks => write!(f, "; with it {} does not verify", breaks.join(", ")),
                }
            }
            Self::NotFirst { authority } => {
                write!(f, "is not the first certificate of {}", authority.display())
            }
            Self::RootBeforeCross { root, old, served } => {
                write!(
                    f,
                    "the self-signed {root} stands before its cross-certificate by {old}"
                )?;
                match served.as_slice() {
                    [] => f.write_str("; K3s appends that order to every leaf that it makes"),
                    _ => write!(
                        f,
                        ": OpenSSL clients that hold only the old CA fail against what {} serve",
                        listed(&served.iter().map(|path| path.display()).collect::<Vec<_>>())
                    ),
                }
            }
            other => other.fmt_embedded(f),
        }
    }

    /// The fourth part of [`fmt::Display`]: kubeconfigs and the listener.
    fn fmt_embedded(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ReferenceOther { expected, found } => write!(
                f,
                "should point to {}; it points to {}",
                expected.display(),
                listed(&found.iter().map(|path| path.display()).collect::<Vec<_>>())
            ),
            Self::InlinedDiffers { user, file } => {
                write!(
                    f,
                    "user {user:?} inlines another certificate than {}",
                    file.display()
                )
            }
            Self::InlinedAuthority {
                cluster,
                file,
                verifies,
            } => {
                let rest = if *verifies {
                    "still verifies"
                } else {
                    "does not verify"
                };
                write!(
                    f,
                    "cluster {cluster:?} inlines another CA than {}; \
                     the API server's certificate {rest} with it",
                    file.display()
                )
            }
            Self::TokenHash { found, wanted } => write!(
                f,
                "pins the CA hash {found}, the server CA's is {wanted}: \
                 a node that joins with it is refused"
            ),
            Self::FingerprintDiffers => f.write_str(
                "its fingerprint annotation is another certificate's: it was changed by hand",
            ),
            // Everything else is said by the parts before.
            other => f.write_str(other.rule()),
        }
    }
}

fn listed<T: fmt::Display>(items: &[T]) -> String {
    let mut text = String::new();
    for item in items {
        if !text.is_empty() {
            text.push_str(", ");
        }
        text.push_str(&item.to_string());
    }
    match text.is_empty() {
        true => "nothing".to_owned(),
        false => text,
    }
}
