//! What issuing costs above the cryptography.
//!
//! The floor is what no certificate comes without: one P-256 key generation and one signature
//! over as many octets as a leaf has, by the same library.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use pki::{
    Authority, Certificate, DAY, KeyAlgorithm, LeafRequest, Name, PrivateKey, Purpose, San, Serial,
    UnixTime, Validity,
};

use crate::measure::{Failure, Sample, table, thread_cpu};

/// Operations of a round: some 15 ms.
const OPERATIONS: usize = 250;

/// Prints rates and ratios, alone and with two threads at once.
pub fn run(rounds: usize) -> Result<(), Failure> {
    let bench = Bench::new()?;
    let alone = bench.rounds(rounds)?;
    println!("issue: {rounds} rounds of {OPERATIONS}, CPU time of one thread");
    let floor = alone.first().map(Vec::as_slice).unwrap_or_default();
    let mut rows = Vec::new();
    for ((name, _), times) in STEPS.iter().zip(&alone) {
        let micros: Sample = times.iter().copied().collect();
        let pairs = floor.iter().zip(times);
        let ratio: Sample = pairs.map(|(floor, own)| floor / own).collect();
        rows.push(vec![
            (*name).to_owned(),
            micros.range(1e6 / OPERATIONS as f64, 1),
            ratio.range(1.0, 2),
        ]);
    }
    table(&["", "microseconds each", "of the floor"], &rows);

    // Locks or shared memory would show as more CPU time of each than when alone.
    let both = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..2)
            .map(|_| scope.spawn(|| bench.rounds(rounds)))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().map_err(|_| "a thread panicked")?)
            .collect::<Result<Vec<_>, Failure>>()
    })?;
    println!("\ntwo threads at once, work per CPU second of both over that of one alone");
    let mut rows = Vec::new();
    for (index, (name, _)) in STEPS.iter().enumerate() {
        let median = |times: &[Vec<f64>]| {
            let times = times.get(index).into_iter().flatten().copied();
            times.collect::<Sample>().median()
        };
        let scale: f64 = both.iter().map(|own| median(&alone) / median(own)).sum();
        rows.push(vec![(*name).to_owned(), format!("{scale:.2}")]);
    }
    table(&["", "of one"], &rows);
    Ok(())
}

type Step = fn(&Bench) -> Result<(), Failure>;

/// The floor comes first.
const STEPS: [(&str, Step); 8] = [
    (
        "floor: aws-lc, new key and signature over 300 octets",
        Bench::floor,
    ),
    ("new key, leaf with 5 names, both as PEM", Bench::everything),
    ("new key, leaf with 5 names, as DER", Bench::key_and_leaf),
    ("leaf with 5 names, key given", Bench::leaf_only),
    ("aws-lc: new key", Bench::bare_key),
    ("aws-lc: signature", Bench::bare_signature),
    ("certificate read", Bench::read),
    ("key written as PEM", Bench::key_pem),
];

struct Bench {
    authority: Authority,
    signer: EcdsaKeyPair,
    key: PrivateKey,
    sans: Vec<San>,
    der: Vec<u8>,
}

impl Bench {
    fn new() -> Result<Self, Failure> {
        let name = Name::new(&[], "k3s-server-ca@1795328351")?;
        let key = PrivateKey::generate(KeyAlgorithm::P256)?;
        let serial = Serial::random(pki::random)?;
        let authority = Authority::self_signed(&name, key, serial, validity(3650))?;
        let mut bench = Self {
            authority,
            signer: bare_key()?,
            key: PrivateKey::generate(KeyAlgorithm::P256)?,
            sans: crate::twelve::SANS.map(San::from_text).to_vec(),
            der: Vec::new(),
        };
        bench.der = bench.issue(&bench.key)?.der().to_vec();
        Ok(bench)
    }

    fn issue(&self, key: &PrivateKey) -> Result<Certificate, Failure> {
        Ok(self.authority.issue(&LeafRequest {
            organizations: &["system:masters".to_owned()],
            common_name: "system:admin",
            sans: &self.sans,
            purposes: &[Purpose::ServerAuth, Purpose::ClientAuth],
            spki_der: key.spki_der(),
            serial: Serial::random(pki::random)?,
            validity: validity(365),
        })?)
    }

    fn floor(&self) -> Result<(), Failure> {
        self.bare_key()?;
        self.bare_signature()
    }

    fn bare_key(&self) -> Result<(), Failure> {
        std::hint::black_box(bare_key()?);
        Ok(())
    }

    fn bare_signature(&self) -> Result<(), Failure> {
        let signature = self.signer.sign(&SystemRandom::new(), &[7; 300]);
        std::hint::black_box(signature.map_err(|_| "aws-lc does not sign")?);
        Ok(())
    }

    fn everything(&self) -> Result<(), Failure> {
        let key = PrivateKey::generate(KeyAlgorithm::P256)?;
        let certificate = self.issue(&key)?;
        std::hint::black_box((key.to_pem()?, certificate.to_pem()));
        Ok(())
    }

    fn key_and_leaf(&self) -> Result<(), Failure> {
        let key = PrivateKey::generate(KeyAlgorithm::P256)?;
        std::hint::black_box(self.issue(&key)?);
        Ok(())
    }

    fn leaf_only(&self) -> Result<(), Failure> {
        std::hint::black_box(self.issue(&self.key)?);
        Ok(())
    }

    fn read(&self) -> Result<(), Failure> {
        std::hint::black_box(Certificate::from_der(&self.der)?);
        Ok(())
    }

    fn key_pem(&self) -> Result<(), Failure> {
        std::hint::black_box(self.key.to_pem()?);
        Ok(())
    }

    /// The CPU seconds of every round, step by step.
    fn rounds(&self, rounds: usize) -> Result<Vec<Vec<f64>>, Failure> {
        let mut times = vec![Vec::new(); STEPS.len()];
        for _ in 0..rounds {
            for ((_, step), times) in STEPS.iter().zip(&mut times) {
                let start = thread_cpu();
                for _ in 0..OPERATIONS {
                    step(self)?;
                }
                times.push(thread_cpu() - start);
            }
        }
        Ok(times)
    }
}

fn bare_key() -> Result<EcdsaKeyPair, Failure> {
    EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING)
        .map_err(|_| "aws-lc makes no key".into())
}

fn validity(days: i64) -> Validity {
    let start = UnixTime::from_secs(1_795_328_351);
    Validity {
        not_before: start,
        not_after: start.plus(days * DAY),
    }
}
