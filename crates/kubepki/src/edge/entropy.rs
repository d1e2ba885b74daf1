//! Random bytes and new keys.

use std::fmt;

use pki::{KeyAlgorithm, PrivateKey};

/// A source of unpredictable bytes, for serial numbers, ids and tokens.
pub trait Entropy: Send + Sync + fmt::Debug {
    /// Fills `bytes`.
    ///
    /// # Errors
    ///
    /// When the system's generator fails; nothing may go on without it.
    fn fill(&self, bytes: &mut [u8]) -> Result<(), pki::Error>;
}

/// The system's generator, through aws-lc.
#[derive(Clone, Copy, Debug)]
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    fn fill(&self, bytes: &mut [u8]) -> Result<(), pki::Error> {
        pki::random(bytes)
    }
}

/// A source of private keys. aws-lc cannot be seeded, so tests draw from a recorded pool.
pub trait KeySource: Send + Sync + fmt::Debug {
    /// A key that nobody else has.
    ///
    /// # Errors
    ///
    /// When the generator fails or the algorithm cannot be generated.
    fn generate(&self, algorithm: KeyAlgorithm) -> Result<PrivateKey, pki::Error>;
}

/// Keys made on the spot.
#[derive(Clone, Copy, Debug)]
pub struct FreshKeys;

impl KeySource for FreshKeys {
    fn generate(&self, algorithm: KeyAlgorithm) -> Result<PrivateKey, pki::Error> {
        PrivateKey::generate(algorithm)
    }
}
