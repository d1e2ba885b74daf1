//! Issuing: what a CA signs, and how.

use const_oid::ObjectIdentifier;
use der::asn1::{AnyRef, BitStringRef, OctetStringRef, UintRef};
use der::{Decode, Encode, Sequence, Tag};

use crate::certificate::Certificate;
use crate::key::{KeyAlgorithm, PrivateKey};
use crate::public_key::{public_key_algorithm, public_key_bits};
use crate::{
    BasicConstraints, Error, KeyUsage, Name, Purpose, San, Serial, UnixTime, Validity, oid, sha1,
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
        let mut extensions = vec![
            key_usage_extension(usage)?,
            purposes_extension(request.purposes)?,
        ];
        extensions.extend(self.key_identifier()?);
        if !request.sans.is_empty() {
            extensions.push(sans_extension(request.sans)?);
        }
        sign(
            &Fields {
                serial: &request.serial,
                issuer: self.certificate.subject(),
                validity: request.validity,
                subject: &subject,
                spki: request.spki_der,
            },
            &extensions,
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

    fn key_identifier(&self) -> Result<Option<Vec<u8>>, Error> {
        self.certificate
            .subject_key_identifier()
            .map(key_identifier_extension)
            .transpose()
    }
}

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
    let usage = KeyUsage::KEY_CERT_SIGN
        .and(KeyUsage::CRL_SIGN)
        .and(KeyUsage::DIGITAL_SIGNATURE);
    let own_identifier = match request.subject_key_identifier {
        Some(octets) => octets.to_vec(),
        None => sha1(&public_key_bits(request.spki_der)?).to_vec(),
    };
    let constraints = BasicConstraints {
        ca: true,
        path_len: request.path_len,
    };
    let mut extensions = vec![
        key_usage_extension(usage)?,
        basic_constraints_extension(constraints)?,
        subject_key_extension(&own_identifier)?,
    ];
    if let Some(octets) = issuer_key_identifier {
        extensions.push(key_identifier_extension(octets)?);
    }
    sign(
        &Fields {
            serial: &request.serial,
            issuer,
            validity: request.validity,
            subject: request.subject,
            spki: request.spki_der,
        },
        &extensions,
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

/// TBSCertificate of version 3 (RFC 5280 section 4.1), parts that are already DER passed through.
#[derive(Sequence)]
struct Tbs<'a> {
    #[asn1(context_specific = "0", tag_mode = "EXPLICIT")]
    version: u8,
    serial: UintRef<'a>,
    algorithm: AnyRef<'a>,
    issuer: AnyRef<'a>,
    validity: Period<'a>,
    subject: AnyRef<'a>,
    spki: AnyRef<'a>,
    #[asn1(context_specific = "3", tag_mode = "EXPLICIT")]
    extensions: Vec<AnyRef<'a>>,
}

#[derive(Sequence)]
struct Period<'a> {
    not_before: AnyRef<'a>,
    not_after: AnyRef<'a>,
}

#[derive(Sequence)]
struct Signed<'a> {
    tbs: AnyRef<'a>,
    algorithm: AnyRef<'a>,
    signature: BitStringRef<'a>,
}

fn sign(
    fields: &Fields<'_>,
    extensions: &[Vec<u8>],
    key: &PrivateKey,
) -> Result<Certificate, Error> {
    let bad = |error: der::Error| Error::malformed("certificate to issue", error);
    let (before_tag, before) = time_text(fields.validity.not_before);
    let (after_tag, after) = time_text(fields.validity.not_after);
    let algorithm = AnyRef::from_der(key.signature_algorithm()).map_err(bad)?;
    let tbs = Tbs {
        version: 2,
        serial: UintRef::new(fields.serial.octets()).map_err(bad)?,
        algorithm,
        issuer: AnyRef::from_der(fields.issuer.der()).map_err(bad)?,
        validity: Period {
            not_before: AnyRef::new(before_tag, before.as_bytes()).map_err(bad)?,
            not_after: AnyRef::new(after_tag, after.as_bytes()).map_err(bad)?,
        },
        subject: AnyRef::from_der(fields.subject.der()).map_err(bad)?,
        spki: AnyRef::from_der(fields.spki).map_err(bad)?,
        extensions: extensions
            .iter()
            .map(|extension| AnyRef::from_der(extension))
            .collect::<Result<_, _>>()
            .map_err(bad)?,
    };
    let tbs = tbs.to_der().map_err(bad)?;
    let signature = key.sign(&tbs)?;
    let signed = Signed {
        tbs: AnyRef::from_der(&tbs).map_err(bad)?,
        algorithm,
        signature: BitStringRef::from_bytes(&signature).map_err(bad)?,
    };
    Certificate::from_der(&signed.to_der().map_err(bad)?)
}

/// UTCTime through 2049, GeneralizedTime after (section 4.1.2.5).
fn time_text(time: UnixTime) -> (Tag, String) {
    let (year, month, day, hour, minute, second) = time.civil();
    let rest = format!("{month:02}{day:02}{hour:02}{minute:02}{second:02}Z");
    if (1950..2050).contains(&year) {
        (Tag::UtcTime, format!("{:02}{rest}", year % 100))
    } else {
        (Tag::GeneralizedTime, format!("{year:04}{rest}"))
    }
}

#[derive(Sequence)]
struct ExtensionFields<'a> {
    id: ObjectIdentifier,
    #[asn1(default = "Default::default")]
    critical: bool,
    value: &'a OctetStringRef,
}

fn extension(id: ObjectIdentifier, critical: bool, value: &[u8]) -> Result<Vec<u8>, Error> {
    OctetStringRef::new(value)
        .and_then(|value| {
            ExtensionFields {
                id,
                critical,
                value,
            }
            .to_der()
        })
        .map_err(|error| Error::malformed("extension to issue", error))
}

pub(crate) fn sans_extension(sans: &[San]) -> Result<Vec<u8>, Error> {
    let (addresses, names): (Vec<_>, Vec<_>) = sans
        .iter()
        .cloned()
        .partition(|san| matches!(san, San::Ip(_)));
    let ordered: Vec<San> = names.into_iter().chain(addresses).collect();
    extension(oid::SUBJECT_ALT_NAME, false, &San::all_to_der(&ordered)?)
}

fn key_usage_extension(usage: KeyUsage) -> Result<Vec<u8>, Error> {
    let bad = |error: der::Error| Error::malformed("key usage", error);
    let [first, second] = usage.0.to_be_bytes();
    let octets: &[u8] = if second == 0 {
        &[first]
    } else {
        &[first, second]
    };
    // Named bit lists drop trailing zero bits (X.690 section 11.2.2).
    let unused = octets
        .last()
        .map_or(0, |last| last.trailing_zeros().min(7) as u8);
    let bits = BitStringRef::new(unused, octets).map_err(bad)?;
    extension(oid::KEY_USAGE, true, &bits.to_der().map_err(bad)?)
}

fn purposes_extension(purposes: &[Purpose]) -> Result<Vec<u8>, Error> {
    let oids = purposes
        .iter()
        .map(Purpose::to_oid)
        .collect::<Result<Vec<_>, _>>()?;
    let value = oids
        .to_der()
        .map_err(|error| Error::malformed("extended key usage", error))?;
    extension(oid::EXTENDED_KEY_USAGE, false, &value)
}

#[derive(Sequence)]
struct ConstraintFields {
    #[asn1(default = "Default::default")]
    ca: bool,
    #[asn1(optional = "true")]
    path_len: Option<u32>,
}

fn basic_constraints_extension(constraints: BasicConstraints) -> Result<Vec<u8>, Error> {
    let value = ConstraintFields {
        ca: constraints.ca,
        path_len: constraints.path_len,
    }
    .to_der()
    .map_err(|error| Error::malformed("basic constraints", error))?;
    extension(oid::BASIC_CONSTRAINTS, true, &value)
}

fn subject_key_extension(octets: &[u8]) -> Result<Vec<u8>, Error> {
    let value = OctetStringRef::new(octets)
        .and_then(|octets| octets.to_der())
        .map_err(|error| Error::malformed("subject key identifier", error))?;
    extension(oid::SUBJECT_KEY_IDENTIFIER, false, &value)
}

#[derive(Sequence)]
struct KeyIdentifierFields<'a> {
    #[asn1(context_specific = "0", tag_mode = "IMPLICIT")]
    key_identifier: &'a OctetStringRef,
}

fn key_identifier_extension(octets: &[u8]) -> Result<Vec<u8>, Error> {
    let value = OctetStringRef::new(octets)
        .and_then(|key_identifier| KeyIdentifierFields { key_identifier }.to_der())
        .map_err(|error| Error::malformed("authority key identifier", error))?;
    extension(oid::AUTHORITY_KEY_IDENTIFIER, false, &value)
}
