//! Reading, held to Go: what is accepted, and what is read from it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use pki::{Certificate, San, hex, sha256};
use serde::{Deserialize, Serialize};

use super::go::{Case, ask, oracle};

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Facts {
    version: u8,
    serial: String,
    issuer: String,
    subject: String,
    not_before: i64,
    not_after: i64,
    dns: Option<Vec<String>>,
    emails: Option<Vec<String>>,
    ips: Option<Vec<String>>,
    uris: usize,
    key_usage: u16,
    has_basic: bool,
    is_ca: bool,
    path_len: i64,
    purposes: usize,
    ski: String,
    aki: String,
    unhandled: Option<Vec<String>>,
    spki: String,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct Block {
    label: String,
    headers: bool,
    sum: String,
}

impl Facts {
    /// Whether we read the same from `certificate`.
    pub fn is_about(&self, certificate: &Certificate) -> bool {
        self.agrees_with(&facts(certificate))
    }

    /// Equal but for two things: control characters, which Go prints as they are, and policies.
    fn agrees_with(&self, ours: &Self) -> bool {
        let policies = ["2.5.29.33", "2.5.29.36"];
        let others = |unhandled: &Option<Vec<String>>| -> Vec<String> {
            let list = unhandled.iter().flatten();
            list.filter(|oid| !policies.contains(&oid.as_str()))
                .cloned()
                .collect()
        };
        let names_are_plain = [&self.subject, &self.issuer]
            .iter()
            .all(|name| !name.contains(|c: char| c.is_control()));
        let same_names =
            !names_are_plain || (&self.subject, &self.issuer) == (&ours.subject, &ours.issuer);
        let aligned = Self {
            subject: ours.subject.clone(),
            issuer: ours.issuer.clone(),
            unhandled: ours.unhandled.clone(),
            ..self.clone()
        };
        same_names && others(&self.unhandled) == others(&ours.unhandled) && aligned == *ours
    }
}

fn facts(certificate: &Certificate) -> Facts {
    let some = |list: Vec<String>| (!list.is_empty()).then_some(list);
    let sans = |pick: fn(&San) -> Option<String>| {
        some(certificate.sans().iter().filter_map(pick).collect())
    };
    let basic = certificate.basic_constraints();
    let serial = hex(certificate.serial().octets());
    let serial = serial.trim_start_matches('0');
    Facts {
        version: certificate.version(),
        serial: if serial.is_empty() { "0" } else { serial }.to_owned(),
        issuer: certificate.issuer().to_string(),
        subject: certificate.subject().to_string(),
        not_before: certificate.validity().not_before.as_secs(),
        not_after: certificate.validity().not_after.as_secs(),
        dns: sans(|san| match san {
            San::Dns(text) => Some(text.clone()),
            _ => None,
        }),
        emails: sans(|san| match san {
            San::Email(text) => Some(text.clone()),
            _ => None,
        }),
        ips: sans(|san| match san {
            San::Ip(std::net::IpAddr::V4(address)) => Some(hex(&address.octets())),
            San::Ip(std::net::IpAddr::V6(address)) => Some(hex(&address.octets())),
            _ => None,
        }),
        uris: certificate
            .sans()
            .iter()
            .filter(|san| matches!(san, San::Uri(_)))
            .count(),
        // Go counts the bits from the other end.
        key_usage: certificate
            .key_usage()
            .map_or(0, |usage| usage.0.reverse_bits()),
        has_basic: basic.is_some(),
        is_ca: certificate.is_ca(),
        path_len: basic.map_or(0, |basic| basic.path_len.map_or(-1, i64::from)),
        purposes: certificate.purposes().len(),
        ski: hex(certificate.subject_key_identifier().unwrap_or_default()),
        aki: hex(certificate.authority_key_identifier().unwrap_or_default()),
        unhandled: some(certificate.unknown_critical().to_vec()),
        spki: certificate.spki_sha256().to_string(),
    }
}

/// Deterministic noise (xorshift), so that a failure can be repeated.
struct Noise(u64);

impl Noise {
    fn next(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % below as u64).unwrap()
    }

    fn damage(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..=self.next(6) / 4 {
            let at = self.next(bytes.len());
            match self.next(6) {
                0 => bytes[at] ^= 1 << self.next(8),
                1 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff, 0x30, 0x05][self.next(7)],
                2 => drop(bytes.remove(at)),
                3 => bytes.insert(at, bytes[at]),
                4 => bytes[at] = bytes[at].wrapping_add(1),
                _ => bytes[at] = bytes[at].wrapping_sub(1),
            }
        }
    }
}

/// What Go refuses and we read: the content of extensions that we do not evaluate, the syntax
/// of URIs, and numbers larger than Go's integers.
const NOT_READ_BY_US: [&str; 5] = [
    "x509: invalid policy",
    "x509: invalid certificate policies",
    "x509: invalid CRL distribution point",
    "x509: cannot parse URI",
    "x509: invalid inhibit any policy",
];

#[test]
fn damaged_certificates_are_read_as_go_reads_them() {
    if super::without("go") {
        return;
    }
    let mut seeds: Vec<Vec<u8>> = Vec::new();
    for case in oracle(&["generate", "7", "60"], b"") {
        for text in [&case.leaf].into_iter().chain(&case.intermediates) {
            let der = STANDARD.decode(text).unwrap();
            if !seeds.contains(&der) && seeds.len() < 400 {
                seeds.push(der);
            }
        }
    }
    let mut noise = Noise(0x9e37_79b9_7f4a_7c15);
    let mut cases: Vec<Case> = Vec::new();
    for round in 0..20_000 {
        let mut der = seeds[round % seeds.len()].clone();
        if round >= seeds.len() {
            // Two fields are random by nature; the others are where the forms are.
            noise.damage(&mut der);
        }
        cases.push(Case {
            id: round.to_string(),
            op: "parse".to_owned(),
            data: STANDARD.encode(der),
            ..Case::default()
        });
    }
    let mut deviations = Vec::new();
    let (mut read, mut stricter) = (0, 0);
    for case in ask(&cases) {
        let der = STANDARD.decode(&case.data).unwrap();
        let ours = Certificate::from_der(&der);
        let same = match (&case.facts, &ours) {
            (None, Err(_)) => true,
            (None, Ok(_)) => NOT_READ_BY_US
                .iter()
                .any(|start| case.detail.starts_with(start)),
            // Bytes that Go skips after what it looks for; DER has no place for them.
            (Some(_), Err(_)) => {
                stricter += 1;
                true
            }
            (Some(theirs), Ok(ours)) => {
                read += 1;
                theirs.agrees_with(&facts(ours))
            }
        };
        if !same {
            deviations.push(format!(
                "{}: Go {:?} {:?}\n we {:?}\n {}",
                case.id,
                case.detail,
                case.facts,
                ours.map(|ours| facts(&ours)),
                case.data
            ));
        }
    }
    assert!(
        deviations.is_empty(),
        "{} deviations:\n{}",
        deviations.len(),
        deviations.join("\n")
    );
    assert!(read > 3_000, "only {read} were readable");
    assert!(stricter * 25 < read, "{stricter} refused that Go reads");
}

#[test]
fn pem_blocks_are_those_of_go() {
    if super::without("go") {
        return;
    }
    let block = |label: &str, body: &[u8]| pki::pem::encode(label, body).to_string();
    let seeds = [
        block("CERTIFICATE", &[7; 100]) + &block("EC PRIVATE KEY", &[1; 48]),
        "-----BEGIN A-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: x\n\nYWJj\n-----END A-----\n".into(),
        format!(
            "text\n{}-----BEGIN CUT-----\nYW\n{}",
            block("A", b"abc"),
            block("B", b"")
        ),
        block("A", b"abc").replace('\n', "\r\n"),
        format!(" {}", block("A", b"abc")),
        format!("x{}{}", block("A", b"abc"), block("A", b"abcd").trim_end()),
    ];
    let pieces = [
        "-----BEGIN A-----",
        "-----END A-----",
        "\n",
        "\r\n",
        " ",
        "\t",
        "-----",
        "a: b\n",
        "YWJj",
        "=",
        "\u{e9}",
        ":",
        "-----BEGIN ",
        "-----END ",
        "\n\n",
        "-",
    ];
    let mut noise = Noise(42);
    let mut cases: Vec<Case> = Vec::new();
    for round in 0..10_000 {
        let mut text = seeds[round % seeds.len()].clone();
        for _ in 0..round / 2_000 {
            let at = noise.next(text.len() + 1);
            let piece = pieces[noise.next(pieces.len())];
            match noise.next(3) {
                _ if !text.is_char_boundary(at) => {}
                0 if at < text.len() => drop(text.remove(at)),
                _ => text.insert_str(at, piece),
            }
        }
        cases.push(Case {
            id: round.to_string(),
            op: "pem".to_owned(),
            data: STANDARD.encode(text),
            ..Case::default()
        });
    }
    for case in ask(&cases) {
        let text = STANDARD.decode(&case.data).unwrap();
        let ours: Vec<Block> = pki::pem::blocks(&text)
            .into_iter()
            .map(|block| Block {
                label: block.label,
                headers: !block.headers.is_empty(),
                sum: sha256(&block.der).to_string(),
            })
            .collect();
        assert_eq!(ours, case.blocks, "{:?}", String::from_utf8_lossy(&text));
    }
}
