//! New CAs: root, intermediate, and the five below it, in the topology of K3s's first script.

use std::collections::BTreeMap;

use pki::{Certificate, PrivateKey};
use zeroize::Zeroizing;

use super::outer::{Outer, Ready};
use super::profile::{Algorithms, CA_DAYS, cannot_make};
use super::service_key::{SERVICE_KEY, service_key_file};
use super::{CaError, CaName, Kind, Make, OfflineFile, StagedSet, TokenHash};
use crate::bootstrap::{Bundle, Field, SharedFile, Stamp};
use crate::plan::served_chain;
use crate::token::authority_hash;

/// What new CAs are made from.
#[derive(Debug)]
pub struct CreateRequest<'a> {
    /// What they stand under.
    pub outer: Outer,
    /// Kinds of keys.
    pub algorithms: Algorithms,
    /// A `service.key` that is there already; its keys stay, after the new one.
    pub service_keys: Option<&'a [u8]>,
    /// Time, serial numbers, keys.
    pub make: Make<'a>,
}

/// Makes the CAs of a new cluster. The keys of a root or intermediate that were made are among
/// [`StagedSet::offline`] and nowhere else.
///
/// # Errors
///
/// [`CaError`] with everything that is wrong with what was given.
pub fn create(request: CreateRequest<'_>) -> Result<StagedSet, CaError> {
    let CreateRequest {
        outer,
        algorithms,
        service_keys,
        make,
    } = request;
    let algorithms = algorithms.check()?;
    outer.check(make.now)?;
    let mut keys = KeysMade::new(&make, algorithms, outer.keys_needed())?;
    let ready = outer.ready(&make, keys.take_outer(), &[])?;
    let five = below_one(&make, &ready, keys.take_five(), &[])?;
    let (service, notes) = service_key_file(&keys.service, service_keys)?;
    let mut set = Draft {
        kind: Kind::First,
        five,
        service: Some(service),
        cross: Vec::new(),
        notes,
    }
    .finish(&make, None)?;
    set.offline = safe(&ready)?;
    set.notes.extend(constrained(&ready));
    Ok(set)
}

/// Every key of a set, made side by side.
pub(super) struct KeysMade {
    outer: Vec<PrivateKey>,
    five: Vec<PrivateKey>,
    pub(super) service: PrivateKey,
}

impl KeysMade {
    pub(super) fn new(
        make: &Make<'_>,
        algorithms: Algorithms,
        outer: usize,
    ) -> Result<Self, CaError> {
        let mut wanted = vec![SERVICE_KEY];
        wanted.extend(std::iter::repeat_n(algorithms.outer, outer));
        wanted.extend(std::iter::repeat_n(
            algorithms.authorities,
            CaName::ALL.len(),
        ));
        let mut keys = make.generate(&wanted)?.into_iter();
        let missing = || CaError::Make {
            what: "a private key".to_owned(),
            source: pki::Error::Crypto {
                what: "generate a key",
            },
        };
        Ok(Self {
            service: keys.next().ok_or_else(missing)?,
            outer: keys.by_ref().take(outer).collect(),
            five: keys.collect(),
        })
    }

    pub(super) fn take_outer(&mut self) -> Vec<PrivateKey> {
        std::mem::take(&mut self.outer)
    }

    pub(super) fn take_five(&mut self) -> Vec<PrivateKey> {
        std::mem::take(&mut self.five)
    }
}

/// One of the five: its file's certificates, the CA first, and its key.
pub(super) struct Made {
    pub(super) certificates: Vec<Certificate>,
    pub(super) key: PrivateKey,
}

/// The five CAs under one signer.
pub(super) fn below_one(
    make: &Make<'_>,
    ready: &Ready,
    keys: Vec<PrivateKey>,
    taken: &[&Certificate],
) -> Result<BTreeMap<CaName, Made>, CaError> {
    CaName::ALL
        .into_iter()
        .zip(keys)
        .map(|(ca, key)| {
            let name = make.name(&format!("k3s-{}-ca", ca.flat()), taken)?;
            let own = make.sign(&ready.signer, &name, key.spki_der(), None, CA_DAYS)?;
            let certificates = std::iter::once(own).chain(ready.chain().cloned()).collect();
            Ok((ca, Made { certificates, key }))
        })
        .collect()
}

pub(super) fn clone_key(key: &PrivateKey) -> Result<PrivateKey, CaError> {
    key.to_pem()
        .and_then(|pem| PrivateKey::from_pem(pem.as_bytes()))
        .map_err(cannot_make("a private key"))
}

/// A set about to be put together.
pub(super) struct Draft {
    pub(super) kind: Kind,
    pub(super) five: BTreeMap<CaName, Made>,
    pub(super) service: Option<Zeroizing<Vec<u8>>>,
    pub(super) cross: Vec<super::Cross>,
    pub(super) notes: Vec<String>,
}

impl Draft {
    /// The files, the chains to serve, and the token's hash. `live` is the set in force.
    pub(super) fn finish(
        self,
        make: &Make<'_>,
        live: Option<&Bundle>,
    ) -> Result<StagedSet, CaError> {
        let stamp = Stamp::at(make.now);
        let mut bundle = Bundle::default();
        let mut served = BTreeMap::new();
        let mut put = |field: Field, content| {
            bundle.files.insert(field, SharedFile { stamp, content });
        };
        for (ca, made) in &self.five {
            put(ca.field(), pem_of(&made.certificates));
            let key = made.key.to_pem().map_err(cannot_make(ca.label()))?;
            put(ca.key_field(), Zeroizing::new(key.as_bytes().to_vec()));
            let chain = served_chain(&made.certificates);
            served.insert(*ca, chain.into_iter().cloned().collect());
        }
        if let Some(service) = self.service {
            put(Field::ServiceKey, service);
        }
        let before = live
            .and_then(|live| live.content(Field::ServerCa))
            .and_then(|file| authority_hash(file, make.now).ok());
        let after = match bundle.content(Field::ServerCa) {
            Some(file) => {
                authority_hash(file, make.now).map_err(cannot_make("the token's hash"))?
            }
            // The CAs stay; without them nobody asks.
            None => before.unwrap_or(pki::sha256(&[])),
        };
        Ok(StagedSet {
            kind: self.kind,
            bundle,
            served,
            cross: self.cross,
            offline: Vec::new(),
            hash: TokenHash { before, after },
            notes: self.notes,
        })
    }
}

/// A file of certificates.
pub(super) fn pem_of(certificates: &[Certificate]) -> Zeroizing<Vec<u8>> {
    let text: String = certificates.iter().map(Certificate::to_pem).collect();
    Zeroizing::new(text.into_bytes())
}

/// What goes into the safe: roots and intermediates that were made, with their keys. The
/// intermediate's file holds its issuers too.
pub(super) fn safe(ready: &Ready) -> Result<Vec<OfflineFile>, CaError> {
    let mut files = Vec::new();
    if let Some(root) = &ready.new_root {
        let certificate = std::slice::from_ref(root.certificate());
        files.extend(in_safe("root-ca", root, certificate)?);
    }
    if ready.new_signer {
        let chain: Vec<Certificate> = ready.chain().cloned().collect();
        files.extend(in_safe("intermediate-ca", &ready.signer, &chain)?);
    }
    Ok(files)
}

/// `NAME.crt` and `NAME.key`.
pub(super) fn in_safe(
    name: &str,
    authority: &pki::Authority,
    certificates: &[Certificate],
) -> Result<[OfflineFile; 2], CaError> {
    let key = authority.key().to_pem().map_err(cannot_make(name))?;
    Ok([
        OfflineFile {
            name: format!("{name}.crt"),
            content: pem_of(certificates),
            secret: false,
        },
        OfflineFile {
            name: format!("{name}.key"),
            content: Zeroizing::new(key.as_bytes().to_vec()),
            secret: true,
        },
    ])
}

/// Name constraints bind what K3s issues, and only the operator knows whether they fit.
pub(super) fn constrained(ready: &Ready) -> Vec<String> {
    let bound = ready
        .chain()
        .filter(|certificate| certificate.name_constraints().is_some());
    bound
        .map(|certificate| {
            format!(
                "{} has name constraints: every name and address of the servers, \
                 kubernetes.default.svc and 127.0.0.1 among them, has to lie inside.",
                certificate.subject()
            )
        })
        .collect()
}
