//! The floor: one signature verified, one made, and nothing else.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _,
    UnparsedPublicKey,
};

use crate::measure::{Failure, thread_cpu};

/// Operations of a round: some 50 ms.
const OPERATIONS: usize = 1000;
/// Octets that a request's signature is over, and a leaf's.
const REQUEST: [u8; 130] = [0x30; 130];
const LEAF: [u8; 300] = [0x30; 300];

/// What one thread needs for a request's signature and a leaf's, by the library that kubepki
/// uses.
pub struct Bare {
    key: EcdsaKeyPair,
    signature: Vec<u8>,
    random: SystemRandom,
}

impl Bare {
    pub fn new() -> Result<Self, Failure> {
        let random = SystemRandom::new();
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING)?;
        let signature = key.sign(&random, &REQUEST)?.as_ref().to_vec();
        Ok(Self {
            key,
            signature,
            random,
        })
    }

    /// CPU seconds of this thread for one of each, the mean of a round.
    pub fn each(&self) -> Result<f64, Failure> {
        let begin = thread_cpu();
        for _ in 0..OPERATIONS {
            let public = self.key.public_key().as_ref();
            UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, public)
                .verify(&REQUEST, &self.signature)?;
            std::hint::black_box(self.key.sign(&self.random, &LEAF)?);
        }
        Ok((thread_cpu() - begin) / OPERATIONS as f64)
    }
}
