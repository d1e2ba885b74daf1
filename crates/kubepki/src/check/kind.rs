//! What can be wrong, one variant for each rule.

use std::fmt;
use std::path::PathBuf;

use pki::{KeyAlgorithm, Purpose, San, UnixTime};

/// A rule that is not kept, with its evidence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FindingKind {
    /// The release has this file, and it is not there.
    Missing,
    /// The file is there and cannot be read.
    Unreadable {
        /// The system's words.
        detail: String,
    },
    /// The file does not hold what it should.
    Malformed {
        /// What is wrong.
        detail: String,
    },
    /// A directory stands where a file should be.
    Directory,
    /// A link stands where a file should be; it was not followed.
    Link {
        /// Where it points.
        target: PathBuf,
        /// Whether that is outside the data directory.
        outside: bool,
    },
    /// A directory of the tree is a link that leads out of it; it is followed.
    ForeignDirectory {
        /// Where it points.
        target: PathBuf,
    },
    /// Others can read a secret, or write what is trusted.
    WrongMode {
        /// Permission bits as found.
        mode: u32,
        /// Permission bits as K3s sets them.
        wanted: u32,
    },
    /// Newer releases have rows that this tree lacks.
    NewerRows {
        /// Their ids.
        rows: Vec<&'static str>,
    },
    /// The node has no agent's files at all.
    NoAgent,
    /// Its time is over.
    Expired {
        /// Its last second.
        not_after: UnixTime,
    },
    /// Its time has not come.
    NotYetValid {
        /// Its first second.
        not_before: UnixTime,
    },
    /// It ends inside the window.
    Due {
        /// Its last second.
        not_after: UnixTime,
        /// The window in days.
        window_days: i64,
    },
    /// It promises more than its issuer can keep.
    OutlivesIssuer {
        /// Its last second.
        not_after: UnixTime,
        /// The issuer's subject.
        issuer: String,
        /// The issuer's last second.
        issuer_not_after: UnixTime,
    },
    /// A certificate without its private key.
    KeyMissing {
        /// The certificate's file.
        certificate: PathBuf,
    },
    /// The private key belongs to another certificate.
    KeyMismatch {
        /// The key's file.
        key: PathBuf,
    },
    /// A CA's key file holds more keys than one; K3s signs with the first.
    SeveralKeys {
        /// How many.
        count: usize,
        /// Subjects of the CAs that the others belong to, where known.
        others: Vec<String>,
    },
    /// K3s signs tokens with another key than the first of `service.key`.
    CurrentKeyDiffers {
        /// The file with all keys.
        keys: PathBuf,
    },
    /// A key that is too short to rely on.
    WeakKey {
        /// What it is.
        algorithm: KeyAlgorithm,
    },
    /// CAs with serial number zero.
    SerialZero {
        /// How many of the tree.
        count: usize,
    },
    /// A private key of a CA lies where no component needs it.
    AuthorityKeyHere {
        /// The CA's subject.
        authority: String,
        /// What the CA is to this tree.
        role: AuthorityRole,
        /// The file's permission bits, if others can read it.
        open_mode: Option<u32>,
    },
    /// Subject other than the one that authorizes.
    WrongSubject {
        /// What it says.
        found: String,
        /// What it should say.
        wanted: String,
    },
    /// Extended key usage leaves out what it is used for.
    WrongPurposes {
        /// What is left out.
        missing: Vec<Purpose>,
    },
    /// Names that clients check are not in it.
    SanMissing {
        /// Which.
        missing: Vec<San>,
    },
    /// It does not verify in the trust bundle that its consumer reads.
    ChainBroken {
        /// The trust bundle.
        trust: PathBuf,
        /// The verifier's words.
        detail: String,
    },
    /// It is signed with an algorithm that Go refuses.
    WeakSignature {
        /// The algorithm.
        algorithm: String,
    },
    /// Another CA than the one in force issued it.
    OtherAuthority {
        /// Who issued it.
        issuer: String,
        /// Who should have.
        authority: String,
        /// Whether it still verifies.
        verifies: bool,
    },
    /// The agent's copy of a CA file is another than the server's.
    CopyDiffers {
        /// The server's.
        original: PathBuf,
        /// What does not verify with the copy.
        breaks: Vec<String>,
    },
    /// Not the first certificate of the CA's file.
    NotFirst {
        /// The CA's file.
        authority: PathBuf,
    },
    /// A self-signed root stands before the cross-certificate for the same key.
    RootBeforeCross {
        /// The root's subject.
        root: String,
        /// The old CA's subject: who signed the cross-certificate.
        old: String,
        /// Files from which that order is served.
        served: Vec<PathBuf>,
    },
    /// A kubeconfig does not point to the file that it should.
    ReferenceOther {
        /// The file that it should point to.
        expected: PathBuf,
        /// Where it points.
        found: Vec<PathBuf>,
    },
    /// A kubeconfig inlines another certificate than the file's.
    InlinedDiffers {
        /// The user's name in the kubeconfig.
        user: String,
        /// The file.
        file: PathBuf,
    },
    /// A kubeconfig inlines another CA bundle than the file's.
    InlinedAuthority {
        /// The cluster's name in the kubeconfig.
        cluster: String,
        /// The file.
        file: PathBuf,
        /// Whether the API server's certificate verifies with it all the same.
        verifies: bool,
    },
    /// The listener's fingerprint annotation is another certificate's.
    FingerprintDiffers,
}

/// What a CA whose key was found is to the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthorityRole {
    /// A self-signed CA that does not sign here.
    Root,
    /// A CA below a root that does not sign here.
    Intermediate,
    /// The CA in force: a second copy of its key.
    InForce,
    /// A CA that `rotate-ca` was given, or is to be given.
    Staged,
}

impl FindingKind {
    /// The rule's name: stable, for machines.
    pub const fn rule(&self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Unreadable { .. } => "unreadable",
            Self::Malformed { .. } => "malformed",
            Self::Directory => "directory",
            Self::Link { .. } => "link",
            Self::ForeignDirectory { .. } => "foreign-directory",
            Self::WrongMode { .. } => "wrong-mode",
            Self::NewerRows { .. } => "newer-rows",
            Self::NoAgent => "no-agent",
            Self::Expired { .. } => "expired",
            Self::NotYetValid { .. } => "not-yet-valid",
            Self::Due { .. } => "due",
            Self::OutlivesIssuer { .. } => "outlives-issuer",
            Self::KeyMissing { .. } => "key-missing",
            Self::KeyMismatch { .. } => "key-mismatch",
            Self::SeveralKeys { .. } => "several-keys",
            Self::CurrentKeyDiffers { .. } => "current-key-differs",
            Self::WeakKey { .. } => "weak-key",
            Self::SerialZero { .. } => "serial-zero",
            Self::AuthorityKeyHere { .. } => "authority-key-here",
            Self::WrongSubject { .. } => "wrong-subject",
            Self::WrongPurposes { .. } => "wrong-purposes",
            Self::SanMissing { .. } => "san-missing",
            Self::ChainBroken { .. } => "chain-broken",
            Self::WeakSignature { .. } => "weak-signature",
            Self::OtherAuthority { .. } => "other-authority",
            Self::CopyDiffers { .. } => "copy-differs",
            Self::NotFirst { .. } => "not-first",
            Self::RootBeforeCross { .. } => "root-before-cross",
            Self::ReferenceOther { .. } => "reference-other",
            Self::InlinedDiffers { .. } => "inlined-differs",
            Self::InlinedAuthority { .. } => "inlined-authority",
            Self::FingerprintDiffers => "fingerprint-differs",
        }
    }
}

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
                    "has mode {mode:04o}: others than its owner can have it {what}; K3s sets {wanted:04o}"
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
                    "cluster {cluster:?} inlines another CA than {}; the API server's certificate {rest} with it",
                    file.display()
                )
            }
            Self::FingerprintDiffers => f.write_str(
                "its fingerprint annotation is another certificate's: it was changed by hand",
            ),
            // Everything else is said by the first two parts.
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
