//! The CAs above the five: given by the operator, or made.

use std::net::{IpAddr, Ipv4Addr};

use pki::verify::{Options, verify};
use pki::{
    Authority, Certificate, KeyAlgorithm, KeyUsage, Purpose, San, UnixTime, public_key_algorithm,
};

use super::{CaError, Make};

/// What the five CAs are to stand under.
pub enum Outer {
    /// A new root and a new intermediate.
    New,
    /// This root, whose key is at hand, and a new intermediate.
    Root(Authority),
    /// This intermediate, whose key is at hand. The root's key is not needed.
    Intermediate {
        /// The intermediate.
        signer: Authority,
        /// The CAs above it, its own issuer first, the self-signed root last.
        above: Vec<Certificate>,
    },
}

impl std::fmt::Debug for Outer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::New => f.write_str("New"),
            Self::Root(root) => write!(f, "Root({})", root.certificate().subject()),
            Self::Intermediate { signer, .. } => {
                write!(f, "Intermediate({})", signer.certificate().subject())
            }
        }
    }
}

/// The CAs above the five, ready to sign.
pub(super) struct Ready {
    /// Signs the five.
    pub(super) signer: Authority,
    /// From the signer's issuer up to the root.
    pub(super) above: Vec<Certificate>,
    /// The root, where it was made.
    pub(super) new_root: Option<Authority>,
    /// Whether the signer was made.
    pub(super) new_signer: bool,
}

impl Ready {
    /// Signer first, root last.
    pub(super) fn chain(&self) -> impl Iterator<Item = &Certificate> {
        std::iter::once(self.signer.certificate()).chain(&self.above)
    }
}

impl Outer {
    /// How many keys of the outer algorithm [`Self::ready`] needs.
    pub(super) fn keys_needed(&self) -> usize {
        match self {
            Self::New => 2,
            Self::Root(_) => 1,
            Self::Intermediate { .. } => 0,
        }
    }

    /// Every certificate that was given.
    pub(super) fn given(&self) -> Vec<&Certificate> {
        match self {
            Self::New => Vec::new(),
            Self::Root(root) => vec![root.certificate()],
            Self::Intermediate { signer, above } => {
                std::iter::once(signer.certificate()).chain(above).collect()
            }
        }
    }

    /// Checks what was given and makes what is missing with `keys`.
    pub(super) fn ready(
        self,
        make: &Make<'_>,
        keys: Vec<pki::PrivateKey>,
        taken: &[&Certificate],
    ) -> Result<Ready, CaError> {
        self.check(make.now)?;
        let mut keys = keys.into_iter();
        let mut key = || {
            keys.next().ok_or_else(|| CaError::Make {
                what: "an intermediate".to_owned(),
                source: pki::Error::Crypto {
                    what: "generate a key",
                },
            })
        };
        let (root, is_new) = match self {
            Self::Intermediate { signer, above } => {
                return Ok(Ready {
                    signer,
                    above,
                    new_root: None,
                    new_signer: false,
                });
            }
            Self::Root(root) => (root, false),
            Self::New => {
                let root = make.root(&make.name("k3s-root-ca", taken)?, key()?)?;
                (root, true)
            }
        };
        let name = make.name("k3s-intermediate-ca", taken)?;
        let signer = make.below(&root, &name, key()?)?;
        Ok(Ready {
            signer,
            above: vec![root.certificate().clone()],
            new_root: is_new.then_some(root),
            new_signer: true,
        })
    }

    /// Refuses CAs that could not do what the five have to do below them.
    ///
    /// # Errors
    ///
    /// [`CaError::Faults`] with everything that is wrong.
    pub fn check(&self, now: UnixTime) -> Result<(), CaError> {
        let mut faults = Vec::new();
        match self {
            Self::New => {}
            Self::Root(root) => {
                // The intermediate and one of the five.
                let what = format!("the root {}", root.certificate().subject());
                let found = faults_of(root.certificate(), 2, now);
                faults.extend(found.into_iter().map(|fault| (what.clone(), fault)));
                faults.extend(not_a_root(root.certificate()).map(|fault| (what, fault)));
            }
            Self::Intermediate { signer, above } => {
                let chain: Vec<&Certificate> =
                    std::iter::once(signer.certificate()).chain(above).collect();
                for (index, certificate) in chain.iter().enumerate() {
                    let what = match index {
                        0 => "the intermediate",
                        _ if index + 1 == chain.len() => "the root",
                        _ => "the CA",
                    };
                    let what = format!("{what} {}", certificate.subject());
                    let found = faults_of(certificate, index + 1, now);
                    faults.extend(found.into_iter().map(|fault| (what.clone(), fault)));
                }
                faults.extend(not_a_chain(&chain, now));
            }
        }
        match faults.is_empty() {
            true => Ok(()),
            false => Err(CaError::Faults { faults }),
        }
    }
}

fn not_a_root(certificate: &Certificate) -> Option<String> {
    (!certificate.is_self_signed()).then(|| {
        format!(
            "is not self-signed: it was issued by {}; give it as the intermediate, with its \
             issuers up to the root",
            certificate.issuer()
        )
    })
}

fn not_a_chain(chain: &[&Certificate], now: UnixTime) -> Option<(String, String)> {
    let (first, above) = chain.split_first()?;
    let what = format!("the intermediate {}", first.subject());
    let Some((root, between)) = above.split_last() else {
        let problem = match first.is_self_signed() {
            true => "is self-signed: give it as the root".to_owned(),
            false => format!(
                "needs its issuer {} beside it: give the root too",
                first.issuer()
            ),
        };
        return Some((what, problem));
    };
    if !root.is_self_issued() {
        let problem = format!(
            "does not lead to a root: {} was issued by {}, which is not at hand",
            root.subject(),
            root.issuer()
        );
        return Some((what, problem));
    }
    let between: Vec<Certificate> = between.iter().map(|it| (*it).clone()).collect();
    let root = [(*root).clone()];
    let options = Options::at(now).purposes(&[Purpose::Any]);
    let error = verify(first, &between, &root, &options).err()?;
    let problem = format!("does not lead to the root that was given: {error}");
    Some((what, problem))
}

/// What speaks against using `certificate` as a CA that has `below` further CAs between itself
/// and the leaves of K3s: whole phrases that follow its name.
pub fn faults_of(certificate: &Certificate, below: usize, now: UnixTime) -> Vec<String> {
    let mut faults = Vec::new();
    let validity = certificate.validity();
    if now > validity.not_after {
        faults.push(format!("expired at {}", validity.not_after));
    }
    if now < validity.not_before {
        faults.push(format!(
            "is not valid before {}; is this machine's clock right?",
            validity.not_before
        ));
    }
    if !certificate.is_ca() {
        faults.push("is not a CA (basic constraints)".to_owned());
    }
    if certificate
        .key_usage()
        .is_some_and(|usage| !usage.has(KeyUsage::KEY_CERT_SIGN))
    {
        faults.push("may not sign certificates (key usage)".to_owned());
    }
    let allowed = certificate.basic_constraints().and_then(|it| it.path_len);
    if let Some(allowed) = allowed
        && usize::try_from(allowed).is_ok_and(|allowed| allowed < below)
    {
        faults.push(format!(
            "allows {allowed} CAs below it (path length) and would have {below}"
        ));
    }
    faults.extend(excluded_purpose(certificate));
    faults.extend(forbidden_name(certificate));
    let algorithm = certificate.signature_algorithm();
    if algorithm.to_ascii_lowercase().contains("sha1") {
        faults.push(format!("is signed with {algorithm}, which nobody accepts"));
    }
    match public_key_algorithm(certificate.spki_der()) {
        Some(KeyAlgorithm::Rsa(bits)) if bits < 2048 => {
            faults.push(format!("has an RSA key of {bits} bits; 2048 are the least"));
        }
        Some(_) => {}
        None => faults.push("has a key of a kind that is not supported".to_owned()),
    }
    if certificate.subject_key_identifier().is_none() {
        faults.push(
            "has no subject key identifier, by which K3s tells whose leaves are whose".to_owned(),
        );
    }
    if !certificate.unknown_critical().is_empty() {
        faults.push(format!(
            "has critical extensions that Kubernetes does not understand: {}",
            certificate.unknown_critical().join(", ")
        ));
    }
    faults
}

/// Names that stand in server certificates on every node of every cluster.
pub(super) fn names_everywhere() -> [San; 3] {
    [
        San::Dns("localhost".to_owned()),
        San::Ip(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        San::Dns("kubernetes.default.svc".to_owned()),
    ]
}

fn forbidden_name(certificate: &Certificate) -> Option<String> {
    let constraints = certificate.name_constraints()?;
    let name = names_everywhere()
        .into_iter()
        .find(|name| !constraints.allow(name))?;
    Some(format!(
        "forbids {name} (name constraints), which K3s's server certificates carry"
    ))
}

/// K3s's leaves are for servers and clients, so every CA above must allow both.
fn excluded_purpose(certificate: &Certificate) -> Option<String> {
    let allowed = certificate.purposes();
    if allowed.is_empty() || allowed.contains(&Purpose::Any) {
        return None;
    }
    let missing = [Purpose::ServerAuth, Purpose::ClientAuth]
        .into_iter()
        .find(|purpose| !allowed.contains(purpose))?;
    Some(format!(
        "excludes {missing} (extended key usage), which Kubernetes needs"
    ))
}
