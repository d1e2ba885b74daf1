//! The CAs in force, read.

use std::collections::BTreeMap;

use pki::verify::{Options, verify};
use pki::{Certificate, PrivateKey, Purpose, UnixTime};

use crate::bootstrap::Bundle;
use crate::ca::{CaError, CaName, Pool};

/// One of the five as it is in force.
pub(super) struct LiveCa {
    /// The file's certificates; the first one signs.
    pub(super) certificates: Vec<Certificate>,
    /// Every key of the key file; the first one signs. K3s's second script leaves its root's key
    /// behind it.
    keys: Vec<PrivateKey>,
}

/// The five CAs in force.
pub(super) struct Live {
    pub(super) five: BTreeMap<CaName, LiveCa>,
}

impl Live {
    pub(super) fn read(files: &Bundle) -> Result<Self, CaError> {
        let fields = CaName::ALL
            .into_iter()
            .flat_map(|ca| [ca.field(), ca.key_field()]);
        let missing: Vec<String> = fields
            .filter(|field| files.content(*field).is_none_or(<[u8]>::is_empty))
            .map(|field| field.path().display().to_string())
            .collect();
        if !missing.is_empty() {
            return Err(CaError::Incomplete { missing });
        }
        let five = CaName::ALL.into_iter().map(|ca| {
            let content = |field| files.content(field).unwrap_or_default();
            let unusable = |file: &str, error: pki::Error| CaError::Live {
                ca,
                problem: format!("its {file} in force cannot be used: {error}"),
            };
            let certificates = Certificate::all_from_pem(content(ca.field()))
                .map_err(|error| unusable("certificate file", error))?;
            let keys = PrivateKey::all_from_pem(content(ca.key_field()))
                .map_err(|error| unusable("key file", error))?;
            let belongs = match (certificates.first(), keys.first()) {
                (Some(first), Some(key)) => first.spki_der() == key.spki_der(),
                _ => false,
            };
            if !belongs {
                let problem = "the first key of its key file is not the key of the first \
                               certificate: put the files in force right first"
                    .to_owned();
                return Err(CaError::Live { ca, problem });
            }
            Ok((ca, LiveCa { certificates, keys }))
        });
        Ok(Self {
            five: five.collect::<Result<_, _>>()?,
        })
    }

    /// Adds what is in force to what is at hand.
    pub(super) fn add_to(&self, pool: &mut Pool) -> Result<(), CaError> {
        for ca in self.five.values() {
            pool.certificates.extend(ca.certificates.iter().cloned());
            for key in &ca.keys {
                pool.keys.push(crate::ca::create::clone_key(key)?);
            }
        }
        pool.deduplicate();
        Ok(())
    }
}

impl LiveCa {
    /// The path from the CA in force to its root, the nearest root where there are several: after
    /// a cross-signed rotation that of the rotation, not the one before.
    pub(super) fn path(
        &self,
        ca: CaName,
        pool: &Pool,
        now: UnixTime,
    ) -> Result<Vec<Certificate>, CaError> {
        let live = |problem| CaError::Live { ca, problem };
        let Some(first) = self.certificates.first() else {
            return Err(live("its file is empty".to_owned()));
        };
        let end = first.validity().not_after;
        if end < now {
            return Err(live(format!(
                "the CA in force, {}, expired at {end}: nothing that it signs or vouches for is \
                 accepted any more. Use --new-root",
                first.subject()
            )));
        }
        // Its own file first: what is at hand beside it only completes it.
        let (roots, intermediates): (Vec<_>, Vec<_>) = self
            .certificates
            .iter()
            .chain(&pool.certificates)
            .cloned()
            .partition(Certificate::is_self_issued);
        let options = Options::at(now).purposes(&[Purpose::Any]);
        let paths = verify(first, &intermediates, &roots, &options).map_err(|error| {
            live(format!(
                "the CA in force does not lead to a root: {error}. If a root or intermediate is \
                 missing, name the directory that holds it with --keys"
            ))
        })?;
        let path = paths
            .first()
            .ok_or_else(|| live("the CA in force leads to no root".to_owned()))?;
        let path = path.certificates().iter();
        Ok(path.map(|it| (*it).clone()).collect())
    }
}
