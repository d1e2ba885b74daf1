//! What every CA that we make has in common.

use pki::{
    Authority, AuthorityRequest, BACKDATE, Certificate, DAY, KeyAlgorithm, Name, PrivateKey,
    Serial, UnixTime, Validity,
};

use super::{CaError, Make};

/// A root's lifetime in days: the scripts' twenty years.
pub(super) const ROOT_DAYS: i64 = 7300;
/// The lifetime of the CAs below it, in days.
pub(super) const CA_DAYS: i64 = 3700;

/// What kinds of keys are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Algorithms {
    /// For roots and intermediates.
    pub outer: KeyAlgorithm,
    /// For the five CAs.
    pub authorities: KeyAlgorithm,
}

impl Default for Algorithms {
    /// P-256 everywhere.
    fn default() -> Self {
        Self {
            outer: KeyAlgorithm::P256,
            authorities: KeyAlgorithm::P256,
        }
    }
}

impl Algorithms {
    /// What K3s's script makes: RSA-4096 above, P-256 below.
    pub const SCRIPT: Self = Self {
        outer: KeyAlgorithm::Rsa(4096),
        authorities: KeyAlgorithm::P256,
    };

    /// Refuses what Kubernetes components cannot use as a CA's key, or nobody should.
    ///
    /// # Errors
    ///
    /// [`CaError::Given`].
    pub fn check(self) -> Result<Self, CaError> {
        for algorithm in [self.outer, self.authorities] {
            let fits = match algorithm {
                KeyAlgorithm::P256 | KeyAlgorithm::P384 | KeyAlgorithm::P521 => true,
                KeyAlgorithm::Rsa(bits) => matches!(bits, 2048 | 3072 | 4096),
                KeyAlgorithm::Ed25519 => false,
            };
            if !fits {
                return Err(CaError::Given {
                    what: format!("the key algorithm {algorithm}"),
                    problem: "is none for CAs; say p256, p384, p521, rsa2048, rsa3072 or rsa4096"
                        .to_owned(),
                });
            }
        }
        Ok(self)
    }
}

/// A failure to make `what`.
pub(super) fn cannot_make(what: &str) -> impl FnOnce(pki::Error) -> CaError {
    move |source| CaError::Make {
        what: what.to_owned(),
        source,
    }
}

impl Make<'_> {
    /// New keys, in the order asked for. RSA keys cost a good part of a second each, so each has
    /// a thread of its own.
    pub(super) fn generate(&self, wanted: &[KeyAlgorithm]) -> Result<Vec<PrivateKey>, CaError> {
        std::thread::scope(|scope| {
            let started: Vec<_> = wanted
                .iter()
                .map(|algorithm| match algorithm {
                    KeyAlgorithm::Rsa(_) => {
                        let keys = self.keys;
                        Err(scope.spawn(move || keys.generate(*algorithm)))
                    }
                    quick => Ok(self.keys.generate(*quick)),
                })
                .collect();
            let finished = started.into_iter().map(|key| match key {
                Ok(key) => key,
                Err(thread) => thread.join().unwrap_or(Err(pki::Error::Crypto {
                    what: "generate a key",
                })),
            });
            finished.collect::<Result<_, _>>()
        })
        .map_err(cannot_make("a private key"))
    }

    pub(super) fn serial(&self) -> Result<Serial, CaError> {
        Serial::random(|bytes| self.entropy.fill(bytes)).map_err(cannot_make("a serial number"))
    }

    fn validity(&self, days: i64) -> Validity {
        let not_before = self.now.plus(-BACKDATE);
        Validity {
            not_before,
            not_after: not_before.plus(days * DAY),
        }
    }

    /// `stem@<unix seconds>`, the seconds moved on while a certificate of `taken` has that name:
    /// two CAs of one name would be mistaken for each other.
    pub(super) fn name(&self, stem: &str, taken: &[&Certificate]) -> Result<Name, CaError> {
        let mut moment: UnixTime = self.now;
        loop {
            let name = Name::new(&[], &format!("{stem}@{}", moment.as_secs()))
                .map_err(cannot_make(stem))?;
            let clash = |it: &&Certificate| {
                it.subject().der() == name.der() || it.issuer().der() == name.der()
            };
            if !taken.iter().any(clash) {
                return Ok(name);
            }
            moment = moment.plus(1);
        }
    }

    /// A self-signed root.
    pub(super) fn root(&self, name: &Name, key: PrivateKey) -> Result<Authority, CaError> {
        self.root_for(name, key, ROOT_DAYS)
    }

    fn root_for(&self, name: &Name, key: PrivateKey, days: i64) -> Result<Authority, CaError> {
        Authority::self_signed(name, key, self.serial()?, self.validity(days))
            .map_err(cannot_make(&name.to_string()))
    }

    /// A CA of a new key below `issuer`, clamped to its validity.
    pub(super) fn below(
        &self,
        issuer: &Authority,
        name: &Name,
        key: PrivateKey,
    ) -> Result<Authority, CaError> {
        let certificate = self.sign(issuer, name, key.spki_der(), None, CA_DAYS)?;
        Authority::new(certificate, key).map_err(cannot_make(&name.to_string()))
    }

    /// A CA certificate signed by `issuer`, for `days` but not beyond `issuer`'s validity.
    pub(super) fn sign(
        &self,
        issuer: &Authority,
        subject: &Name,
        spki_der: &[u8],
        subject_key_identifier: Option<&[u8]>,
        days: i64,
    ) -> Result<Certificate, CaError> {
        let validity = self
            .validity(days)
            .clamped_to(issuer.certificate().validity());
        issuer
            .issue_authority(&AuthorityRequest {
                subject,
                spki_der,
                subject_key_identifier,
                path_len: None,
                serial: self.serial()?,
                validity,
            })
            .map_err(cannot_make(&subject.to_string()))
    }
}
