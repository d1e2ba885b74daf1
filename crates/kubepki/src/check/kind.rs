//! What can be wrong, one variant for each rule.

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
    /// A token pins another CA than the one in force.
    TokenHash {
        /// The hash in the token.
        found: String,
        /// The hash of the CA.
        wanted: String,
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
            Self::TokenHash { .. } => "token-hash",
            Self::FingerprintDiffers => "fingerprint-differs",
        }
    }
}
