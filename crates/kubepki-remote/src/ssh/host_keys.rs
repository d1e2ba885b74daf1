//! Whether a host is the one that it says it is.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use kubepki::edge::file;
use kubepki::host::Attributes;
use russh::keys::ssh_key::HashAlg;
use russh::keys::{Algorithm, EcdsaCurve, PublicKey};

use super::known_hosts::{self, Line, Verdict};

/// The `known_hosts` files that are believed, and whether unknown hosts are recorded.
///
/// The judgement is that of OpenSSH's `StrictHostKeyChecking=yes` (or `accept-new`), with three
/// differences: `@cert-authority` lines are understood but not followed, for no certificate of a
/// host is asked for; RSA keys sign with SHA-2 only; and a host that is known with one kind of key
/// is not "new" when it shows another kind.
#[derive(Clone, Debug, Default)]
pub struct HostKeys {
    files: Vec<PathBuf>,
    accept_new: Option<PathBuf>,
}

/// A key that was recorded at first use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// The host as `known_hosts` names it.
    pub host: String,
    /// The key's kind: `ssh-ed25519`.
    pub kind: String,
    /// `SHA256:…`, to be compared with `ssh-keygen -l` on the host.
    pub fingerprint: String,
    /// Where it was recorded.
    pub file: PathBuf,
}

impl fmt::Display for Accepted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            host,
            kind,
            fingerprint,
            file,
        } = self;
        let file = file.display();
        write!(
            f,
            "accepted the {kind} key {fingerprint} of {host} at first use, recorded in {file}"
        )
    }
}

/// A host did not prove to be the one that is meant. Nothing was sent to it, no user name either.
#[derive(Debug, thiserror::Error)]
pub enum HostKeyError {
    /// It has never been seen.
    #[error(
        "the host {host} is not known: it showed the {kind} key {fingerprint}. Compare that with \
         `ssh-keygen -l -f /etc/ssh/ssh_host_{short}_key.pub` on the host, then record it in \
         {files}, or accept unknown hosts once with --ssh-accept-new"
    )]
    Unknown {
        /// The host as `known_hosts` names it.
        host: String,
        /// The key's kind.
        kind: String,
        /// The kind in the file names of `/etc/ssh`.
        short: &'static str,
        /// `SHA256:…`.
        fingerprint: String,
        /// The files that were searched.
        files: String,
    },
    /// Its key is not the one that is recorded.
    #[error(
        "the key of host {host} has CHANGED: {}:{line} has {expected}, the host showed {shown}. \
         Either somebody stands between, or the host was installed anew. If \
         you know it was, remove the line (`ssh-keygen -R '{host}' -f {}`) and connect again",
        file.display(), file.display()
    )]
    Changed {
        /// The host as `known_hosts` names it.
        host: String,
        /// The file with the key that was expected.
        file: PathBuf,
        /// Its line, from 1.
        line: usize,
        /// Kind and fingerprint of that key.
        expected: String,
        /// Kind and fingerprint of the key that the host showed.
        shown: String,
    },
    /// Its key is marked as revoked.
    #[error(
        "the key {fingerprint} of host {host} is revoked ({}:{line}): it may be in other hands. \
         Give the host a new key",
        file.display()
    )]
    Revoked {
        /// The host as `known_hosts` names it.
        host: String,
        /// The file that says so.
        file: PathBuf,
        /// Its line, from 1.
        line: usize,
        /// The key's `SHA256:…`.
        fingerprint: String,
    },
    /// It is known by an authority only.
    #[error(
        "the host {host} is known by a certificate authority only ({}:{line}), and certificates \
         of hosts are not supported: record its own {kind} key {fingerprint} too",
        file.display()
    )]
    AuthorityOnly {
        /// The host as `known_hosts` names it.
        host: String,
        /// The file with the `@cert-authority` line.
        file: PathBuf,
        /// Its line, from 1.
        line: usize,
        /// The shown key's kind.
        kind: String,
        /// The shown key's `SHA256:…`.
        fingerprint: String,
    },
    /// A file cannot be read.
    #[error("cannot read the known hosts in {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A new key cannot be recorded, so it was not accepted.
    #[error("cannot record the key of {host} in {}", path.display())]
    Record {
        /// The host as `known_hosts` names it.
        host: String,
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// One writer at a time: hosts of a wave are met at once.
static RECORDING: Mutex<()> = Mutex::new(());

impl HostKeys {
    /// Believes these files, in this order; one that does not exist is empty.
    pub fn strict(files: impl IntoIterator<Item = PathBuf>) -> Self {
        Self {
            files: files.into_iter().collect(),
            accept_new: None,
        }
    }

    /// The same, and records hosts that no file knows in `file`, which is believed too.
    #[must_use]
    pub fn accepting_new(mut self, file: PathBuf) -> Self {
        if !self.files.contains(&file) {
            self.files.push(file.clone());
        }
        self.accept_new = Some(file);
        self
    }

    /// What the files say of a host now.
    pub(super) fn look_up(&self, host: &str, port: u16) -> Result<Known, HostKeyError> {
        let name = known_hosts::name_of(host, port);
        let plain_name = known_hosts::name_of(host, 22);
        let (mut lines, mut plain) = (Vec::new(), Vec::new());
        for (index, path) in self.files.iter().enumerate() {
            let text = read(path).map_err(|source| HostKeyError::Read {
                path: path.clone(),
                source,
            })?;
            lines.extend(known_hosts::lines_for(&text, index, &name));
            if port != 22 {
                plain.extend(known_hosts::lines_for(&text, index, &plain_name));
            }
        }
        Ok(Known {
            keys: self.clone(),
            name,
            lines,
            plain,
        })
    }

    fn file(&self, line: &Line) -> PathBuf {
        self.files.get(line.file).cloned().unwrap_or_default()
    }
}

/// What is known of one host.
#[derive(Debug)]
pub(super) struct Known {
    keys: HostKeys,
    name: String,
    lines: Vec<Line>,
    plain: Vec<Line>,
}

impl Known {
    /// The kinds of key to ask the host for, the known ones first. SHA-1 signatures are not among
    /// them.
    pub(super) fn algorithms(&self) -> Vec<Algorithm> {
        let curve = |curve| Algorithm::Ecdsa { curve };
        let rsa = |hash| Algorithm::Rsa { hash: Some(hash) };
        let all = [
            Algorithm::Ed25519,
            curve(EcdsaCurve::NistP256),
            curve(EcdsaCurve::NistP384),
            curve(EcdsaCurve::NistP521),
            rsa(HashAlg::Sha512),
            rsa(HashAlg::Sha256),
        ];
        known_hosts::known_first(&all, &self.lines)
    }

    /// Judges the key that the host showed and proved to have; records a new one where that is
    /// wanted, and says so.
    pub(super) fn check(&self, key: &PublicKey) -> Result<Option<Accepted>, HostKeyError> {
        let host = self.name.clone();
        let kind = key.algorithm().as_str().to_owned();
        let fingerprint = key.fingerprint(HashAlg::Sha256).to_string();
        Err(match known_hosts::judge(key, &self.lines, &self.plain) {
            Verdict::Known => return Ok(None),
            Verdict::Revoked(line) => HostKeyError::Revoked {
                host,
                file: self.keys.file(&line),
                line: line.number,
                fingerprint,
            },
            Verdict::Changed(line) => HostKeyError::Changed {
                host,
                file: self.keys.file(&line),
                line: line.number,
                expected: named(&line.key),
                shown: named(key),
            },
            Verdict::AuthorityOnly(line) => HostKeyError::AuthorityOnly {
                host,
                file: self.keys.file(&line),
                line: line.number,
                kind,
                fingerprint,
            },
            Verdict::Unknown => match &self.keys.accept_new {
                Some(path) => return self.record(path, key).map(Some),
                None => HostKeyError::Unknown {
                    host,
                    kind,
                    short: short(key),
                    fingerprint,
                    files: self.files(),
                },
            },
        })
    }

    fn files(&self) -> String {
        let files = self.keys.files.iter().map(|it| it.display().to_string());
        let files: Vec<_> = files.collect();
        if files.is_empty() {
            "a known_hosts file".to_owned()
        } else {
            files.join(" or ")
        }
    }

    fn record(&self, path: &Path, key: &PublicKey) -> Result<Accepted, HostKeyError> {
        let host = self.name.clone();
        let failed = |source| HostKeyError::Record {
            host: host.clone(),
            path: path.to_owned(),
            source,
        };
        let _one_at_a_time = RECORDING.lock();
        // Somebody else may have met the host since it was looked up, and another key.
        let text = read(path).map_err(failed)?;
        let lines = known_hosts::lines_for(&text, 0, &host);
        match known_hosts::judge(key, &lines, &[]) {
            Verdict::Unknown => {
                append(path, &format!("{host} {}", encoded(key))).map_err(failed)?
            }
            Verdict::Known => {}
            _ => {
                let text = "another key of the host was recorded meanwhile; connect again";
                return Err(failed(io::Error::other(text)));
            }
        }
        Ok(Accepted {
            host,
            kind: key.algorithm().as_str().to_owned(),
            fingerprint: key.fingerprint(HashAlg::Sha256).to_string(),
            file: path.to_owned(),
        })
    }
}

fn named(key: &PublicKey) -> String {
    let fingerprint = key.fingerprint(HashAlg::Sha256);
    format!("the {} key {fingerprint}", key.algorithm().as_str())
}

/// Kind and base64, without a comment.
fn encoded(key: &PublicKey) -> String {
    let bare = PublicKey::new(key.key_data().clone(), "");
    // A key that came over the wire can go back into it.
    bare.to_openssh().unwrap_or_default()
}

fn short(key: &PublicKey) -> &'static str {
    match key.algorithm() {
        Algorithm::Ecdsa { .. } => "ecdsa",
        Algorithm::Rsa { .. } => "rsa",
        _ => "ed25519",
    }
}

/// A file's text; bytes that are not UTF-8 can only stand in comments, or the line is passed over.
fn read(path: &Path) -> io::Result<String> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(error),
    }
}

/// Puts `line` at the end of the file at `path`: the whole file is replaced, a link followed, so
/// that a crash leaves the old or the new one. A new file is 0600, and so is a new folder 0700.
fn append(path: &Path, line: &str) -> io::Result<()> {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

    let target = match std::fs::canonicalize(path) {
        Ok(target) => target,
        Err(error) if error.kind() == io::ErrorKind::NotFound => path.to_owned(),
        Err(error) => return Err(error),
    };
    let mut attributes = Attributes::new(0o600);
    let mut bytes = match std::fs::read(&target) {
        Ok(bytes) => {
            let metadata = std::fs::metadata(&target)?;
            attributes.mode = metadata.permissions().mode() & 0o7777;
            attributes.uid = Some(metadata.uid());
            attributes.gid = Some(metadata.gid());
            bytes
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if let Some(folder) = target.parent().filter(|it| !it.exists()) {
                file::make_directory(folder, &Attributes::new(0o700))?;
            }
            Vec::new()
        }
        Err(error) => return Err(error),
    };
    if bytes.last().is_some_and(|last| *last != b'\n') {
        bytes.push(b'\n');
    }
    bytes.extend_from_slice(line.as_bytes());
    bytes.push(b'\n');
    file::replace(&target, &bytes, &attributes)
}
