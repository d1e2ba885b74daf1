//! The hash of the server CA that tokens pin (reference sections 5.2 and 10.1).

use pki::verify::{Options, verify};
use pki::{Certificate, Digest, UnixTime};

/// The hash that tokens pin, from the bytes of the server CA's file (reference section 5.2).
///
/// One certificate: the SHA-256 of the file as it is, so that re-wrapping it changes every token.
/// Several: the SHA-256 of the last certificate of the first path that Go finds from the first
/// one; where there is none, again of the file, without a word.
///
/// # Errors
///
/// When the file holds no certificates.
pub fn authority_hash(file: &[u8], now: UnixTime) -> Result<Digest, pki::Error> {
    Ok(hash_of(
        pki::sha256(file),
        &Certificate::all_from_pem(file)?,
        now,
    ))
}

/// The same for a file whose SHA-256 and certificates are known.
pub fn hash_of(file: Digest, certificates: &[Certificate], now: UnixTime) -> Digest {
    if certificates.len() < 2 {
        return file;
    }
    leads_to(certificates, now).map_or(file, Certificate::fingerprint)
}

/// The last certificate of the first path that Go finds from the first certificate of a CA's file
/// through the others.
pub(super) fn leads_to(certificates: &[Certificate], now: UnixTime) -> Option<&Certificate> {
    let (first, others) = certificates.split_first()?;
    // K3s's word for a root: it names no other key as its issuer's.
    let (roots, intermediates): (Vec<_>, Vec<_>) =
        others.iter().cloned().partition(|certificate| {
            let authority = certificate.authority_key_identifier().unwrap_or_default();
            authority.is_empty() || Some(authority) == certificate.subject_key_identifier()
        });
    let paths = verify(first, &intermediates, &roots, &Options::at(now)).ok()?;
    let root = paths.first()?.root()?;
    certificates.iter().find(|it| *it == root)
}

/// How a hash came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// The file holds one certificate: its SHA-256, whatever is written around the certificate.
    OneCertificate,
    /// The SHA-256 of the root that the first certificate leads to.
    Root,
    /// The first certificate leads to no root of the file, for instance because one has ended:
    /// the SHA-256 of the file, without a word from K3s.
    Fallback,
}

/// A hash that will take the place of the present one without anybody's doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// From when on.
    pub at: UnixTime,
    /// The hash from then on.
    pub hash: Digest,
}

/// What tokens of a cluster may pin, from its server CA's file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hashes {
    /// The hash that K3s computes now.
    pub current: Digest,
    /// How it came about.
    pub how: How,
    /// The SHA-256 of the file: the rule of K3s before v1.26.2, v1.25.7, v1.24.11 and v1.23.17,
    /// and what later ones fall back to.
    pub whole_file: Digest,
    /// When the hash changes by itself: a certificate of the chain ends, or begins.
    pub change: Option<Change>,
    /// The SHA-256 of the first certificate alone. No K3s computes it; the script
    /// `rotate-default-ca-certs.sh` prints it as the new token's (reference section 13.1).
    pub first_certificate: Digest,
}

/// Every hash that has to do with a server CA's file.
///
/// # Errors
///
/// When the file holds no certificates.
pub fn hashes(file: &[u8], now: UnixTime) -> Result<Hashes, pki::Error> {
    let certificates = Certificate::all_from_pem(file)?;
    let whole_file = pki::sha256(file);
    let at = |moment| hash_of(whole_file, &certificates, moment);
    let current = at(now);
    let how = match certificates.len() {
        ..=1 => How::OneCertificate,
        _ if current == whole_file => How::Fallback,
        _ => How::Root,
    };
    let first_certificate = certificates
        .first()
        .map_or(whole_file, Certificate::fingerprint);
    Ok(Hashes {
        current,
        how,
        whole_file,
        change: change(&certificates, now, current, at),
        first_certificate,
    })
}

/// The first moment after `now` at which the hash is another one. It can only change where a
/// certificate begins or has just ended.
fn change(
    certificates: &[Certificate],
    now: UnixTime,
    current: Digest,
    at: impl Fn(UnixTime) -> Digest,
) -> Option<Change> {
    let mut moments: Vec<UnixTime> = certificates
        .iter()
        .map(Certificate::validity)
        .flat_map(|it| [it.not_before, it.not_after.plus(1)])
        .filter(|moment| *moment > now)
        .collect();
    moments.sort_unstable();
    moments.dedup();
    moments.into_iter().find_map(|moment| {
        let hash = at(moment);
        (hash != current).then_some(Change { at: moment, hash })
    })
}

#[cfg(test)]
mod tests {
    use pki::{Authority, KeyAlgorithm, Name, PrivateKey, Serial};

    use super::*;
    use crate::test_pki::{START, authority, days};

    #[test]
    fn one_certificate_is_hashed_as_the_file_is() {
        let pem = authority("k3s-server-ca@1").certificate().to_pem();
        let hash = |text: &str| authority_hash(text.as_bytes(), START).unwrap();
        assert_eq!(hash(&pem), pki::sha256(pem.as_bytes()));
        let longer = format!("{pem}\n");
        assert_eq!(hash(&longer), pki::sha256(longer.as_bytes()));
        assert!(authority_hash(b"nothing", START).is_err());
    }

    #[test]
    fn strangers_in_one_file_are_hashed_as_the_file_is() {
        let file =
            authority("one").certificate().to_pem() + &authority("two").certificate().to_pem();
        let hash = authority_hash(file.as_bytes(), START).unwrap();
        assert_eq!(hash, pki::sha256(file.as_bytes()));
    }

    /// A CA called `name` below `parent` that ends after so many days.
    fn below(parent: &Authority, name: &str, ends: i64) -> Certificate {
        let key = PrivateKey::generate(KeyAlgorithm::P256).unwrap();
        let request = pki::AuthorityRequest {
            subject: &Name::new(&[], name).unwrap(),
            spki_der: key.spki_der(),
            serial: Serial::random(pki::random).unwrap(),
            subject_key_identifier: None,
            path_len: None,
            validity: days(ends),
        };
        parent.issue_authority(&request).unwrap()
    }

    #[test]
    fn the_hash_changes_when_a_certificate_of_the_chain_ends() {
        let root = authority("root");
        let issuing = below(&root, "k3s-server-ca@1", 30);
        let file = issuing.to_pem() + &root.certificate().to_pem();
        let found = hashes(file.as_bytes(), START).unwrap();
        assert_eq!(found.how, How::Root);
        assert_eq!(found.current, root.certificate().fingerprint());
        assert_eq!(found.first_certificate, issuing.fingerprint());
        let expected = Change {
            at: START.plus(30 * pki::DAY + 1),
            hash: pki::sha256(file.as_bytes()),
        };
        assert_eq!(found.change, Some(expected));

        let later = hashes(file.as_bytes(), expected.at).unwrap();
        assert_eq!((later.how, later.current), (How::Fallback, expected.hash));
        assert_eq!(later.change, None);
        let on_the_last_second = hashes(file.as_bytes(), expected.at.plus(-1)).unwrap();
        assert_eq!(on_the_last_second.current, found.current);
    }

    #[test]
    fn the_hash_of_one_certificate_never_changes() {
        let pem = authority("k3s-server-ca@1").certificate().to_pem();
        let found = hashes(pem.as_bytes(), START).unwrap();
        assert_eq!((found.how, found.change), (How::OneCertificate, None));
        assert_eq!(found.whole_file, found.current);
    }
}
