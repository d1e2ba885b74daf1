//! Keys and certificates: made once per plan, staged, and the same for every step that needs them.

use std::collections::BTreeSet;
use std::fmt;
use std::num::NonZero;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pki::{
    Authority, Certificate, KeyAlgorithm, LeafRequest, PrivateKey, Purpose, San, Serial, UnixTime,
};
use zeroize::Zeroizing;

use super::Register;
use super::failure::MakeError;
use super::render::edit_error;
use crate::bootstrap::Passphrase;
use crate::edge::{Entropy, KeySource};
use crate::host::Host;
use crate::journal::LeafRecord;
use crate::plan::{IssuerRef, KeyOrigin, Leaf, LeafCertificate, LeafId, Plan, SecretRef};
use crate::rke::{Half, State};
use crate::state::Locked;

/// Makes the leaves of one plan.
pub(super) struct Workshop<'a> {
    pub(super) plan: &'a Plan,
    pub(super) host: &'a dyn Host,
    pub(super) state: &'a Locked,
    pub(super) keys: &'a dyn KeySource,
    pub(super) entropy: &'a dyn Entropy,
    /// What may open bootstrap data.
    pub(super) passphrases: &'a [Passphrase],
    pub(super) now: UnixTime,
    /// CAs that were read already: many leaves have the same one, and a state file is large.
    pub(super) authorities: Authorities,
    /// Where what is signed is entered before it is staged.
    pub(super) register: Option<&'a dyn Register>,
}

impl fmt::Debug for Workshop<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Workshop({})", self.plan.id)
    }
}

/// CAs by where their keys lie and what these are held to.
#[derive(Default)]
pub(super) struct Authorities(Mutex<Vec<(IssuerRef, Arc<Authority>)>>);

impl fmt::Debug for Authorities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Authorities")
    }
}

/// A leaf's certificate with what follows it, and its identity.
pub(super) struct Issued {
    /// PEM of the leaf, then of its chain.
    pub(super) chain: String,
    /// PEM of the leaf alone.
    pub(super) bare: String,
    pub(super) record: LeafRecord,
}

impl Workshop<'_> {
    pub(super) fn leaf(&self, id: &LeafId) -> Result<&Leaf, MakeError> {
        self.plan
            .leaves
            .get(id)
            .ok_or_else(|| problem(id, "the plan does not say what it is".to_owned()))
    }

    /// The leaf's key: the staged one if there is one, else made or read, and staged.
    pub(super) async fn key(&self, id: &LeafId) -> Result<PrivateKey, MakeError> {
        let leaf = self.leaf(id)?;
        let name = staged_name(id, "key");
        if let Some(staged) = self.state.read_staged(&self.plan.id, &name)? {
            let key = PrivateKey::from_pem(&staged).map_err(|source| MakeError::NoKey {
                place: format!("staged {name}"),
                source,
            })?;
            return match &leaf.key {
                KeyOrigin::Keep { spki, .. } if *spki != key.spki_sha256().to_string() => {
                    Err(MakeError::Staging { leaf: id.clone() })
                }
                KeyOrigin::Keep { .. } | KeyOrigin::New { .. } => Ok(key),
            };
        }
        let failed = |source| MakeError::Leaf {
            leaf: id.clone(),
            source,
        };
        let key = match &leaf.key {
            KeyOrigin::New { algorithm } => {
                let algorithm: KeyAlgorithm = algorithm.parse().map_err(failed)?;
                self.keys.generate(algorithm).map_err(failed)?
            }
            KeyOrigin::Keep { path, spki } => self.kept_key(path, spki).await?,
        };
        let pem = key.to_pem().map_err(failed)?;
        self.state.stage(&self.plan.id, &name, pem.as_bytes())?;
        Ok(key)
    }

    /// The leaf's certificate: the staged one if there is one, else signed now, and staged.
    /// Signing twice would give two certificates with one serial number.
    pub(super) async fn certificate(&self, id: &LeafId) -> Result<Issued, MakeError> {
        let leaf = self.leaf(id)?;
        let wanted = leaf.certificate.as_ref().ok_or_else(|| {
            problem(
                id,
                "the plan wants its certificate, but not what is in it".to_owned(),
            )
        })?;
        let key = self.key(id).await?;
        let name = staged_name(id, "crt");
        let failed = |source| MakeError::Leaf {
            leaf: id.clone(),
            source,
        };
        let staged = self.state.read_staged(&self.plan.id, &name)?;
        let certificate = match staged {
            Some(pem) => {
                let staged = Certificate::all_from_pem(&pem).map_err(failed)?;
                staged
                    .into_iter()
                    .next()
                    .ok_or(MakeError::Staging { leaf: id.clone() })?
            }
            None => {
                let authority = self.authority(&wanted.issuer).await?;
                let certificate = issue(id, wanted, &authority, &key)?;
                let made = [(id.clone(), certificate)];
                self.enter(&made)?;
                let [(_, certificate)] = made;
                let pem = certificate.to_pem();
                self.state.stage(&self.plan.id, &name, pem.as_bytes())?;
                certificate
            }
        };
        if certificate.spki_der() != key.spki_der() {
            return Err(MakeError::Staging { leaf: id.clone() });
        }
        let record = LeafRecord {
            leaf: id.clone(),
            spki: key.spki_sha256().to_string(),
            certificate: Some(certificate.fingerprint().to_string()),
        };
        let bare = certificate.to_pem();
        Ok(Issued {
            chain: format!("{bare}{}", wanted.chain),
            bare,
            record,
        })
    }

    /// The key that lies in a file, whatever the file is: PEM, or something that inlines PEM in
    /// base64. The SPKI says which one is meant.
    pub(super) async fn kept_key(&self, path: &Path, spki: &str) -> Result<PrivateKey, MakeError> {
        let place = path.display().to_string();
        let bytes = self.file(path).await?;
        let mut other = None;
        let mut error = pki::Error::NoPemBlock {
            expected: "PRIVATE KEY",
        };
        for pem in std::iter::once(bytes.clone()).chain(inlined_pem(&bytes)) {
            match PrivateKey::all_from_pem(&pem) {
                Ok(keys) => {
                    for key in keys {
                        let found = key.spki_sha256().to_string();
                        if found == spki {
                            return Ok(key);
                        }
                        other = Some(found);
                    }
                }
                Err(pki::Error::NoPemBlock { .. }) => {}
                Err(worse) => error = worse,
            }
        }
        match other {
            Some(found) => Err(MakeError::OtherKey {
                place,
                expected: spki.to_owned(),
                found,
            }),
            None => Err(MakeError::NoKey {
                place,
                source: error,
            }),
        }
    }

    /// The CA that signs, its key held to the SPKI that the plan names.
    pub(super) async fn authority(&self, issuer: &IssuerRef) -> Result<Arc<Authority>, MakeError> {
        let known = || {
            self.authorities
                .0
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
        };
        if let Some((_, authority)) = known().iter().find(|(known, _)| known == issuer) {
            return Ok(Arc::clone(authority));
        }
        let authority = Arc::new(self.read_authority(issuer).await?);
        known().push((issuer.clone(), Arc::clone(&authority)));
        Ok(authority)
    }

    async fn read_authority(&self, issuer: &IssuerRef) -> Result<Authority, MakeError> {
        let (place, bytes) = match &issuer.key {
            SecretRef::File(path) => (path.display().to_string(), self.file(path).await?),
            SecretRef::Staged(name) => {
                let place = format!("staged {name}");
                let bytes = self.state.read_staged(&self.plan.id, name)?;
                (place.clone(), bytes.ok_or(MakeError::Missing { place })?)
            }
            SecretRef::RkeState { path, entry } => {
                let place = format!("the key of {entry} in {}", path.display());
                let state = State::parse(&self.file(path).await?)
                    .map_err(|source| edit_error("the state file", source))?;
                let found = state.entry(Half::Current, entry);
                let key = found.map(|it| it.key_pem).filter(|key| !key.is_empty());
                let key = key.ok_or_else(|| MakeError::Missing {
                    place: place.clone(),
                })?;
                (place, Zeroizing::new(key.as_bytes().to_vec()))
            }
        };
        let failed = |source| MakeError::NoKey {
            place: place.clone(),
            source,
        };
        let mut keys = PrivateKey::all_from_pem(&bytes).map_err(failed)?;
        let position = keys
            .iter()
            .position(|key| key.spki_sha256().to_string() == issuer.spki);
        let Some(position) = position else {
            let found = keys
                .first()
                .map(|key| key.spki_sha256().to_string())
                .unwrap_or_default();
            return Err(MakeError::OtherKey {
                place,
                expected: issuer.spki.clone(),
                found,
            });
        };
        let key = keys.swap_remove(position);
        let mut certificates =
            Certificate::all_from_pem(issuer.certificate.as_bytes()).map_err(failed)?;
        if certificates.is_empty() {
            return Err(failed(pki::Error::NoPemBlock {
                expected: "CERTIFICATE",
            }));
        }
        Authority::new(certificates.swap_remove(0), key).map_err(failed)
    }

    /// Makes the new keys of these leaves that are not made yet, on all processors, and stages
    /// them: an RSA key takes long, and a cluster has many.
    pub(super) fn make_keys<'i>(
        &self,
        ids: impl IntoIterator<Item = &'i LeafId>,
    ) -> Result<(), MakeError> {
        let mut missing: Vec<(&LeafId, KeyAlgorithm)> = Vec::new();
        for id in ids.into_iter().collect::<BTreeSet<_>>() {
            let KeyOrigin::New { algorithm } = &self.leaf(id)?.key else {
                continue;
            };
            let staged = self
                .state
                .read_staged(&self.plan.id, &staged_name(id, "key"))?;
            if staged.is_none() {
                let failed = |source| MakeError::Leaf {
                    leaf: id.clone(),
                    source,
                };
                missing.push((id, algorithm.parse().map_err(failed)?));
            }
        }
        let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
        let (next, made) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
        std::thread::scope(|scope| {
            for _ in 0..processors.min(missing.len()) {
                scope.spawn(|| {
                    while let Some((id, algorithm)) =
                        missing.get(next.fetch_add(1, Ordering::Relaxed))
                    {
                        let key = self.keys.generate(*algorithm);
                        if let Ok(mut made) = made.lock() {
                            made.push((*id, key));
                        }
                    }
                });
            }
        });
        let mut made = made.into_inner().unwrap_or_default();
        made.sort_by_key(|(id, _)| *id);
        let mut files = Vec::new();
        for (id, key) in made {
            let failed = |source| MakeError::Leaf {
                leaf: id.clone(),
                source,
            };
            let pem = key.and_then(|key| key.to_pem()).map_err(failed)?;
            files.push((staged_name(id, "key"), pem));
        }
        Ok(self.state.stage_all(&self.plan.id, &files)?)
    }

    /// Signs the certificates of these leaves that are not signed yet, and stages them together:
    /// the disk takes longer than the signatures.
    pub(super) async fn make_certificates<'i>(
        &self,
        ids: impl IntoIterator<Item = &'i LeafId>,
    ) -> Result<(), MakeError> {
        let mut made = Vec::new();
        for id in ids.into_iter().collect::<BTreeSet<_>>() {
            let Some(wanted) = &self.leaf(id)?.certificate else {
                continue;
            };
            let name = staged_name(id, "crt");
            if self.state.read_staged(&self.plan.id, &name)?.is_none() {
                let key = self.key(id).await?;
                let authority = self.authority(&wanted.issuer).await?;
                made.push((id.clone(), issue(id, wanted, &authority, &key)?));
            }
        }
        self.enter(&made)?;
        let pem = |(id, leaf): &(LeafId, Certificate)| {
            let pem = Zeroizing::new(leaf.to_pem());
            (staged_name(id, "crt"), pem)
        };
        let files: Vec<_> = made.iter().map(pem).collect();
        Ok(self.state.stage_all(&self.plan.id, &files)?)
    }

    /// The leaves whose keys and CAs are at hand already, signed and staged.
    pub(super) async fn sign_ahead(&self) -> Result<(), MakeError> {
        let mut ready = Vec::new();
        for (id, leaf) in &self.plan.leaves {
            let Some(wanted) = &leaf.certificate else {
                continue;
            };
            let has_key = match &leaf.key {
                KeyOrigin::New { .. } => true,
                KeyOrigin::Keep { path, spki } => self.kept_key(path, spki).await.is_ok(),
            };
            if has_key && self.authority(&wanted.issuer).await.is_ok() {
                ready.push(id);
            }
        }
        self.make_keys(ready.iter().copied())?;
        self.make_certificates(ready).await
    }

    /// Signed twice after a crash, a leaf stands in the register twice, with one serial number.
    fn enter(&self, made: &[(LeafId, Certificate)]) -> Result<(), MakeError> {
        match self.register {
            Some(register) if !made.is_empty() => register
                .enter(made)
                .map_err(|problem| MakeError::Unrecorded { problem }),
            _ => Ok(()),
        }
    }

    pub(super) async fn file(&self, path: &Path) -> Result<Zeroizing<Vec<u8>>, MakeError> {
        let entry = self.host.read(path).await?;
        match entry.map(|entry| entry.kind) {
            Some(crate::host::EntryKind::File(bytes)) => Ok(bytes),
            _ => Err(MakeError::Missing {
                place: path.display().to_string(),
            }),
        }
    }
}

fn issue(
    id: &LeafId,
    wanted: &LeafCertificate,
    authority: &Authority,
    key: &PrivateKey,
) -> Result<Certificate, MakeError> {
    let failed = |source| MakeError::Leaf {
        leaf: id.clone(),
        source,
    };
    let sans: Vec<San> = wanted.sans.iter().map(|san| San::from_text(san)).collect();
    let mut purposes = Vec::new();
    for purpose in &wanted.purposes {
        purposes.push(match purpose.as_str() {
            "server-auth" => Purpose::ServerAuth,
            "client-auth" => Purpose::ClientAuth,
            other => return Err(problem(id, format!("{other:?} is no purpose of a leaf"))),
        });
    }
    let request = LeafRequest {
        organizations: &wanted.organizations,
        common_name: &wanted.common_name,
        sans: &sans,
        purposes: &purposes,
        spki_der: key.spki_der(),
        serial: Serial::from_hex(&wanted.serial).map_err(failed)?,
        validity: pki::Validity {
            not_before: wanted.not_before,
            not_after: wanted.not_after,
        },
    };
    authority.issue(&request).map_err(failed)
}

/// PEM that stands in base64 somewhere in a text: `client-key-data` of a kubeconfig, `tls.key` of
/// a Secret.
fn inlined_pem(text: &[u8]) -> Vec<Zeroizing<Vec<u8>>> {
    let is_base64 = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/=".contains(byte);
    text.split(|byte| !is_base64(byte))
        .filter(|word| word.len() > SHORTEST_KEY)
        .filter_map(|word| STANDARD.decode(word).ok().map(Zeroizing::new))
        .collect()
}

fn problem(leaf: &LeafId, problem: String) -> MakeError {
    MakeError::Plan {
        leaf: leaf.clone(),
        problem,
    }
}

/// A leaf's file in the staging directory. Ids may hold characters that file names may not; each
/// of those becomes its number, so that two ids never meet.
pub(super) fn staged_name(id: &LeafId, extension: &str) -> String {
    let mut name = String::from("leaf-");
    for letter in id.0.chars() {
        if letter.is_ascii_alphanumeric() || letter == '-' {
            name.push(letter);
        } else {
            name.push_str(&format!("_{:x}.", u32::from(letter)));
        }
    }
    format!("{name}.{extension}")
}

/// No private key in PEM is shorter than this in base64, in characters.
const SHORTEST_KEY: usize = 100;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_staged_leaves_never_meet() {
        let name = |id: &str| staged_name(&LeafId(id.to_owned()), "key");
        assert_eq!(name("client-admin"), "leaf-client-admin.key");
        let names: std::collections::BTreeSet<String> =
            ["a/b", "a.b", "a_b", "a_2f.b", "a-b", "ab"]
                .into_iter()
                .map(name)
                .collect();
        assert_eq!(names.len(), 6);
        assert!(names.iter().all(|name| !name.contains('/')));
    }

    #[test]
    fn finds_pem_in_yaml_and_json() {
        let pem = format!(
            "-----BEGIN X-----\n{}\n-----END X-----\n",
            "QUJD".repeat(30)
        );
        let base64 = STANDARD.encode(&pem);
        for text in [
            format!("client-key-data: {base64}\n"),
            format!("{{\"tls.key\":\"{base64}\"}}"),
        ] {
            let found = inlined_pem(text.as_bytes());
            assert_eq!(found.len(), 1);
            assert_eq!(**found[0], *pem.as_bytes());
        }
    }
}
