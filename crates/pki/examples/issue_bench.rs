//! How much issuing costs above the cryptography: `cargo run --release -p pki --example issue_bench`.
//!
//! Rounds alternate, and time is the CPU time of the thread, so a busy
//! machine blurs the numbers less. The floor is what no certificate comes without: one P-256 key
//! generation and one signature by aws-lc.
#![expect(clippy::unwrap_used, reason = "a measurement, not a program")]

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use pki::{
    Authority, Certificate, DAY, KeyAlgorithm, LeafRequest, Name, PrivateKey, Purpose, San, Serial,
    UnixTime, Validity,
};

const ROUNDS: usize = 40;
const OPERATIONS: usize = 250;

fn main() {
    let bench = Bench::new();
    let one = bench.rounds();
    println!("operations per CPU-second of one thread, {ROUNDS} rounds of {OPERATIONS}");
    println!("{:<46} {:>9} {:>9}", "", "per s", "of floor");
    for (name, seconds) in STEPS.iter().map(|(name, _)| name).zip(&one) {
        let rate = OPERATIONS as f64 / seconds;
        println!(
            "{name:<46} {rate:>9.0} {:>9.2}",
            one.first().unwrap() / seconds
        );
    }
    // Two threads at once: the sum of the rates, over the rate of one.
    let both: Vec<Vec<f64>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..2).map(|_| scope.spawn(|| bench.rounds())).collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    println!("two threads, CPU rate of both over that of one:");
    for (index, (name, _)) in STEPS.iter().enumerate() {
        let alone = one.get(index).unwrap();
        let scale: f64 = both
            .iter()
            .map(|times| alone / times.get(index).unwrap())
            .sum();
        println!("{name:<46} {scale:>9.2}");
    }
}

type Step = fn(&Bench);

const STEPS: [(&str, Step); 8] = [
    (
        "floor: aws-lc key + signature over 300 octets",
        Bench::floor,
    ),
    ("key, leaf with 5 names, both PEMs", Bench::everything),
    ("key, leaf with 5 names", Bench::key_and_leaf),
    ("leaf with 5 names, key given", Bench::leaf_only),
    ("aws-lc key alone", Bench::aws_key),
    ("aws-lc signature alone", Bench::aws_signature),
    ("read a certificate", Bench::read),
    ("key PEM", Bench::key_pem),
];

struct Bench {
    authority: Authority,
    signer: EcdsaKeyPair,
    key: PrivateKey,
    sans: Vec<San>,
    der: Vec<u8>,
}

impl Bench {
    fn new() -> Self {
        let name = Name::new(&[], "k3s-server-ca@1795328351").unwrap();
        let key = PrivateKey::generate(KeyAlgorithm::P256).unwrap();
        let serial = Serial::random(pki::random).unwrap();
        let authority = Authority::self_signed(&name, key, serial, validity(3650)).unwrap();
        let names = [
            "kubernetes.default.svc.cluster.local",
            "localhost",
            "node-1",
            "127.0.0.1",
            "10.43.0.1",
        ];
        let mut bench = Self {
            authority,
            signer: EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap(),
            key: PrivateKey::generate(KeyAlgorithm::P256).unwrap(),
            sans: names.map(San::from_text).to_vec(),
            der: Vec::new(),
        };
        bench.der = bench.issue(&bench.key).der().to_vec();
        bench
    }

    fn issue(&self, key: &PrivateKey) -> Certificate {
        self.authority
            .issue(&LeafRequest {
                organizations: &["system:masters".to_owned()],
                common_name: "system:admin",
                sans: &self.sans,
                purposes: &[Purpose::ServerAuth, Purpose::ClientAuth],
                spki_der: key.spki_der(),
                serial: Serial::random(pki::random).unwrap(),
                validity: validity(365),
            })
            .unwrap()
    }

    fn floor(&self) {
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap();
        let signature = self.signer.sign(&SystemRandom::new(), &[7; 300]).unwrap();
        std::hint::black_box((key, signature));
    }

    fn aws_key(&self) {
        std::hint::black_box(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap());
    }

    fn aws_signature(&self) {
        std::hint::black_box(self.signer.sign(&SystemRandom::new(), &[7; 300]).unwrap());
    }

    fn everything(&self) {
        let key = PrivateKey::generate(KeyAlgorithm::P256).unwrap();
        let certificate = self.issue(&key);
        std::hint::black_box((key.to_pem().unwrap(), certificate.to_pem()));
    }

    fn key_and_leaf(&self) {
        let key = PrivateKey::generate(KeyAlgorithm::P256).unwrap();
        std::hint::black_box(self.issue(&key));
    }

    fn leaf_only(&self) {
        std::hint::black_box(self.issue(&self.key));
    }

    fn read(&self) {
        std::hint::black_box(Certificate::from_der(&self.der).unwrap());
    }

    fn key_pem(&self) {
        std::hint::black_box(self.key.to_pem().unwrap());
    }

    /// The median CPU seconds of a round, step by step.
    fn rounds(&self) -> Vec<f64> {
        let mut times = vec![Vec::new(); STEPS.len()];
        for _ in 0..ROUNDS {
            for ((_, step), times) in STEPS.iter().zip(&mut times) {
                let start = cpu_seconds();
                for _ in 0..OPERATIONS {
                    step(self);
                }
                times.push(cpu_seconds() - start);
            }
        }
        times
            .into_iter()
            .map(|mut times| {
                times.sort_by(f64::total_cmp);
                *times.get(times.len() / 2).unwrap()
            })
            .collect()
    }
}

fn validity(days: i64) -> Validity {
    let start = UnixTime::from_secs(1_795_328_351);
    Validity {
        not_before: start,
        not_after: start.plus(days * DAY),
    }
}

/// CPU time of this thread.
fn cpu_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}
