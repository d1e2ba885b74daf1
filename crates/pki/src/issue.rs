//! Issuing: what a CA signs, and how.

use der::Tag;

use crate::certificate::Certificate;
use crate::encode::{ExtensionWriter, context, element, nest, write};
use crate::key::{KeyAlgorithm, PrivateKey};
use crate::public_key::{public_key_algorithm, public_key_bits};
use crate::{
    BasicConstraints, Error, KeyUsage, Name, Purpose, San, Serial, UnixTime, Validity, sha1,
};

/// A CA that can sign: its certificate and the key that belongs to it.
pub struct Authority {
    certificate: Certificate,
    key: PrivateKey,
}

/// A leaf to issue.
#[derive(Clone, Debug)]
pub struct LeafRequest<'a> {
    /// Each `O`, in order: Kubernetes' groups.
    pub organizations: &'a [String],
    /// `CN`: Kubernetes' user, or a server's name.
    pub common_name: &'a str,
    /// Subject alternative names, in order; DNS names are written before addresses, as Go does.
    pub sans: &'a [San],
    /// Extended key usage, in order; at least one.
    pub purposes: &'a [Purpose],
    /// The leaf's public key, a SubjectPublicKeyInfo.
    pub spki_der: &'a [u8],
    /// Its number.
    pub serial: Serial,
    /// Must lie inside the issuer's.
    pub validity: Validity,
}

/// A CA certificate to issue.
#[derive(Clone, Debug)]
pub struct AuthorityRequest<'a> {
    /// Its subject; an existing CA's name for a cross-certificate, octet for octet.
    pub subject: &'a Name,
    /// Its public key, a SubjectPublicKeyInfo.
    pub spki_der: &'a [u8],
    /// Its subject key identifier; `None` computes SHA-1 of the key bits (RFC 5280 section
    /// 4.2.1.2 method 1). An existing CA's must be passed on, never computed again.
    pub subject_key_identifier: Option<&'a [u8]>,
    /// How many CAs may follow below; `None` for no limit.
    pub path_len: Option<u32>,
    /// Its number.
    pub serial: Serial,
    /// Must lie inside the issuer's, unless self-signed.
    pub validity: Validity,
}

impl Authority {
    /// Joins a CA certificate and its key.
    ///
    /// # Errors
    ///
    /// [`Error::KeyMismatch`], or [`Error::NotACertificateAuthority`] when basic constraints or
    /// key usage forbid signing.
    pub fn new(certificate: Certificate, key: PrivateKey) -> Result<Self, Error> {
        if certificate.spki_der() != key.spki_der() {
            return Err(Error::KeyMismatch {
                subject: certificate.subject().to_string(),
                certificate_spki: certificate.spki_sha256().to_string(),
                key_spki: key.spki_sha256().to_string(),
            });
        }
        let refuse = |detail| Error::NotACertificateAuthority {
            subject: certificate.subject().to_string(),
            detail,
        };
        if !certificate.is_ca() {
            return Err(refuse("its basic constraints do not say CA"));
        }
        if certificate
            .key_usage()
            .is_some_and(|usage| !usage.has(KeyUsage::KEY_CERT_SIGN))
        {
            return Err(refuse("its key usage lacks keyCertSign"));
        }
        Ok(Self { certificate, key })
    }

    /// Makes a self-signed CA.
    ///
    /// # Errors
    ///
    /// When the key cannot sign or the period is empty.
    pub fn self_signed(
        subject: &Name,
        key: PrivateKey,
        serial: Serial,
        validity: Validity,
    ) -> Result<Self, Error> {
        let request = AuthorityRequest {
            subject,
            spki_der: key.spki_der(),
            subject_key_identifier: None,
            path_len: None,
            serial,
            validity,
        };
        // A root names no authority key: subject and issuer are the same.
        let certificate = build_authority(&request, subject, None, &key)?;
        Self::new(certificate, key)
    }

    /// The CA's certificate.
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// The CA's key.
    pub fn key(&self) -> &PrivateKey {
        &self.key
    }

    /// Issues a leaf: `digitalSignature`, and `keyEncipherment` for RSA keys only; the authority
    /// key identifier is the CA's subject key identifier octet for octet, because K3s compares
    /// them (`deps.go`).
    ///
    /// # Errors
    ///
    /// [`Error::Unissuable`] when the leaf would outlive the CA or start before it, has no
    /// purpose, or the CA's extended key usage excludes one.
    pub fn issue(&self, request: &LeafRequest<'_>) -> Result<Certificate, Error> {
        self.check_validity(request.validity)?;
        self.check_purposes(request.purposes)?;
        let subject = Name::new(request.organizations, request.common_name)?;
        let usage = match public_key_algorithm(request.spki_der) {
            Some(KeyAlgorithm::Rsa(_)) => {
                KeyUsage::DIGITAL_SIGNATURE.and(KeyUsage::KEY_ENCIPHERMENT)
            }
            Some(_) => KeyUsage::DIGITAL_SIGNATURE,
            None => {
                return Err(Error::UnsupportedKey {
                    detail: "public key of the leaf".to_owned(),
                });
            }
        };
        let mut extensions = ExtensionWriter::default();
        extensions.key_usage(usage)?;
        extensions.purposes(request.purposes)?;
        if let Some(octets) = self.certificate.subject_key_identifier() {
            extensions.authority_key_identifier(octets)?;
        }
        if !request.sans.is_empty() {
            extensions.sans(request.sans)?;
        }
        sign(
            &Fields {
                serial: &request.serial,
                issuer: self.certificate.subject(),
                validity: request.validity,
                subject: &subject,
                spki: request.spki_der,
            },
            extensions,
            &self.key,
        )
    }

    /// Issues a certificate for another CA: an intermediate, or a cross-certificate when the
    /// request carries an existing CA's name, key and key identifier.
    ///
    /// # Errors
    ///
    /// [`Error::Unissuable`] when it would outlive this CA, or this CA's path length is used up.
    pub fn issue_authority(&self, request: &AuthorityRequest<'_>) -> Result<Certificate, Error> {
        self.check_validity(request.validity)?;
        if self
            .certificate
            .basic_constraints()
            .and_then(|c| c.path_len)
            == Some(0)
        {
            return Err(Error::Unissuable {
                detail: format!(
                    "{} allows no CA below it (path length 0)",
                    self.certificate.subject()
                ),
            });
        }
        let issuer_key = self.certificate.subject_key_identifier();
        build_authority(request, self.certificate.subject(), issuer_key, &self.key)
    }

    fn check_validity(&self, wanted: Validity) -> Result<(), Error> {
        let own = self.certificate.validity();
        if wanted.not_before > wanted.not_after {
            return Err(Error::Unissuable {
                detail: format!(
                    "nothing to issue: the period would end ({}) before it begins ({}); \
                     {} is valid from {} to {}",
                    wanted.not_after,
                    wanted.not_before,
                    self.certificate.subject(),
                    own.not_before,
                    own.not_after
                ),
            });
        }
        if wanted.clamped_to(own) != wanted {
            return Err(Error::Unissuable {
                detail: format!(
                    "a certificate from {} to {} would leave the validity of its issuer {}, \
                     {} to {}",
                    wanted.not_before,
                    wanted.not_after,
                    self.certificate.subject(),
                    own.not_before,
                    own.not_after
                ),
            });
        }
        Ok(())
    }

    fn check_purposes(&self, wanted: &[Purpose]) -> Result<(), Error> {
        if wanted.is_empty() {
            return Err(Error::Unissuable {
                detail: "a leaf without extended key usage may be used for anything".to_owned(),
            });
        }
        let allowed = self.certificate.purposes();
        if allowed.is_empty() || allowed.contains(&Purpose::Any) {
            return Ok(());
        }
        match wanted.iter().find(|purpose| !allowed.contains(purpose)) {
            None => Ok(()),
            Some(excluded) => Err(Error::Unissuable {
                detail: format!(
                    "the extended key usage of {} excludes {excluded}",
                    self.certificate.subject()
                ),
            }),
        }
    }
}

/// What a CA's key is for: certificates, CRLs, and the signatures of TLS and OCSP.
pub(crate) const AUTHORITY_USAGE: KeyUsage = KeyUsage::KEY_CERT_SIGN
    .and(KeyUsage::CRL_SIGN)
    .and(KeyUsage::DIGITAL_SIGNATURE);

fn build_authority(
    request: &AuthorityRequest<'_>,
    issuer: &Name,
    issuer_key_identifier: Option<&[u8]>,
    key: &PrivateKey,
) -> Result<Certificate, Error> {
    if request.validity.not_before > request.validity.not_after {
        return Err(Error::Unissuable {
            detail: "the CA's period is empty".to_owned(),
        });
    }
    let own_identifier = match request.subject_key_identifier {
        Some(octets) => octets.to_vec(),
        None => sha1(&public_key_bits(request.spki_der)?).to_vec(),
    };
    let constraints = BasicConstraints {
        ca: true,
        path_len: request.path_len,
    };
    let mut extensions = ExtensionWriter::default();
    extensions.key_usage(AUTHORITY_USAGE)?;
    extensions.basic_constraints(constraints)?;
    extensions.subject_key_identifier(&own_identifier)?;
    if let Some(octets) = issuer_key_identifier {
        extensions.authority_key_identifier(octets)?;
    }
    sign(
        &Fields {
            serial: &request.serial,
            issuer,
            validity: request.validity,
            subject: request.subject,
            spki: request.spki_der,
        },
        extensions,
        key,
    )
}

struct Fields<'a> {
    serial: &'a Serial,
    issuer: &'a Name,
    validity: Validity,
    subject: &'a Name,
    spki: &'a [u8],
}

/// `[0] EXPLICIT INTEGER 2`: version 3.
const VERSION_3: &[u8] = &[0xa0, 3, 2, 1, 2];

/// Writes and signs a TBSCertificate (RFC 5280 section 4.1). The result is put together from
/// what was written instead of read back; `tests/robust.rs` proves that reading finds the same.
fn sign(
    fields: &Fields<'_>,
    extensions: ExtensionWriter,
    key: &PrivateKey,
) -> Result<Certificate, Error> {
    let algorithm = key.signature_algorithm();
    let mut tbs = Vec::with_capacity(512);
    nest(&mut tbs, Tag::Sequence, |tbs| {
        tbs.extend_from_slice(VERSION_3);
        write(tbs, Tag::Integer, &[fields.serial.octets()])?;
        tbs.extend_from_slice(algorithm);
        tbs.extend_from_slice(fields.issuer.der());
        nest(tbs, Tag::Sequence, |validity| {
            time(validity, fields.validity.not_before)?;
            time(validity, fields.validity.not_after)
        })?;
        tbs.extend_from_slice(fields.subject.der());
        tbs.extend_from_slice(fields.spki);
        nest(tbs, context(3, true), |list| {
            write(list, Tag::Sequence, &[&extensions.der])
        })
    })?;
    let signature = key.sign(&tbs)?;
    let bits = element(Tag::BitString, &[&[0], &signature])?;
    let der = element(Tag::Sequence, &[&tbs, algorithm, &bits])?;
    let start = der.len() - tbs.len() - algorithm.len() - bits.len();
    Ok(Certificate {
        tbs: start..start + tbs.len(),
        der,
        version: 3,
        serial: fields.serial.clone(),
        signature_algorithm: algorithm.to_vec(),
        signature,
        issuer: fields.issuer.clone(),
        subject: fields.subject.clone(),
        validity: fields.validity,
        spki: fields.spki.to_vec(),
        extensions: extensions.facts,
    })
}

/// Appends UTCTime through 2049, GeneralizedTime after (section 4.1.2.5).
fn time(into: &mut Vec<u8>, time: UnixTime) -> Result<(), Error> {
    let (year, month, day, hour, minute, second) = time.civil();
    let (Ok(century), true) = (u8::try_from(year / 100), (0..=9999).contains(&year)) else {
        return Err(Error::Unissuable {
            detail: format!("{time} lies outside the years 0000 to 9999 that X.509 can write"),
        });
    };
    let short = (1950..2050).contains(&year);
    let fields = [
        century,
        (year % 100) as u8,
        month,
        day,
        hour,
        minute,
        second,
    ];
    let tag = if short {
        Tag::UtcTime
    } else {
        Tag::GeneralizedTime
    };
    nest(into, tag, |text| {
        for field in fields.iter().skip(usize::from(short)) {
            text.extend([b'0' + field / 10, b'0' + field % 10]);
        }
        text.push(b'Z');
        Ok(())
    })
}
