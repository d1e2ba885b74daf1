//! What we issue, read by OpenSSL and GnuTLS; what OpenSSL makes, read by us.

use std::fs;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use pki::verify::{Options, verify};
use pki::{
    Authority, AuthorityRequest, Certificate, CertificateRequest, DAY, Error, KeyAlgorithm,
    LeafRequest, Name, PrivateKey, Purpose, San, Serial, UnixTime, Validity,
};

use super::go::{Case, ask};

/// certtool cannot be told another time, so these certificates are made for today.
fn today() -> UnixTime {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    UnixTime::from_secs(i64::try_from(since.unwrap().as_secs()).unwrap())
}

const ALGORITHMS: [KeyAlgorithm; 5] = [
    KeyAlgorithm::P256,
    KeyAlgorithm::P384,
    KeyAlgorithm::P521,
    KeyAlgorithm::Rsa(2048),
    KeyAlgorithm::Ed25519,
];

/// Runs a command line in `directory`; its standard output, or what it said when it failed.
pub fn tool(directory: &Path, line: &str) -> Result<String, String> {
    let mut words = line.split_whitespace();
    let program = words.next().unwrap();
    let arguments: Vec<&str> = words.collect();
    let output = super::run(directory, program, &arguments, b"");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() {
        Ok(text(&output.stdout))
    } else {
        Err(format!(
            "{line}\n{}{}",
            text(&output.stdout),
            text(&output.stderr)
        ))
    }
}

pub fn put(directory: &Path, name: &str, text: &str) {
    fs::write(directory.join(name), text).unwrap();
}

pub fn get(directory: &Path, name: &str) -> Vec<u8> {
    fs::read(directory.join(name)).unwrap()
}

fn serial() -> Serial {
    Serial::random(pki::random).unwrap()
}

fn years(count: i64) -> Validity {
    Validity {
        not_before: today().plus(-DAY),
        not_after: today().plus(count * 365 * DAY),
    }
}

fn root(name: &str, algorithm: KeyAlgorithm) -> Authority {
    let name = Name::new(&[], name).unwrap();
    let key = PrivateKey::generate(algorithm).unwrap();
    Authority::self_signed(&name, key, serial(), years(10)).unwrap()
}

fn below(issuer: &Authority, subject: &Name, of: &PrivateKey) -> Certificate {
    issuer
        .issue_authority(&AuthorityRequest {
            subject,
            spki_der: of.spki_der(),
            subject_key_identifier: None,
            path_len: None,
            serial: serial(),
            validity: years(9),
        })
        .unwrap()
}

fn leaf(issuer: &Authority, key: &PrivateKey) -> Certificate {
    issuer
        .issue(&LeafRequest {
            organizations: &["system:masters".to_owned(), "second".to_owned()],
            common_name: "system:admin",
            sans: &[San::from_text("10.0.0.1"), San::from_text("a.example")],
            purposes: &[Purpose::ServerAuth, Purpose::ClientAuth],
            spki_der: key.spki_der(),
            serial: serial(),
            validity: years(1),
        })
        .unwrap()
}

#[test]
fn what_we_issue_satisfies_openssl_and_gnutls() {
    if super::without("openssl") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    for algorithm in ALGORITHMS {
        let (old, new) = (root("ca@1", algorithm), root("ca@2", KeyAlgorithm::P256));
        let middle_key = PrivateKey::generate(algorithm).unwrap();
        let name = Name::new(&["k3s".to_owned()], "middle").unwrap();
        let middle = below(&new, &name, &middle_key);
        let cross = old
            .issue_authority(&AuthorityRequest {
                subject: new.certificate().subject(),
                spki_der: new.certificate().spki_der(),
                subject_key_identifier: new.certificate().subject_key_identifier(),
                path_len: None,
                serial: serial(),
                validity: years(5),
            })
            .unwrap();
        let key = PrivateKey::generate(algorithm).unwrap();
        let issued = leaf(&Authority::new(middle.clone(), middle_key).unwrap(), &key);

        put(at, "old.pem", &old.certificate().to_pem());
        put(at, "new.pem", &new.certificate().to_pem());
        put(at, "middle.pem", &(middle.to_pem() + &cross.to_pem()));
        put(at, "leaf.pem", &issued.to_pem());
        let chain = issued.to_pem() + &middle.to_pem() + &cross.to_pem();
        put(at, "chain.pem", &chain);
        put(at, "key.pem", &key.to_pem().unwrap());

        let checks = format!(
            "-x509_strict -check_ss_sig -attime {} -purpose sslserver -untrusted middle.pem",
            today().as_secs()
        );
        for trusted in ["old.pem", "new.pem"] {
            for host in ["-verify_hostname a.example", "-verify_ip 10.0.0.1"] {
                tool(
                    at,
                    &format!("openssl verify {checks} {host} -CAfile {trusted} leaf.pem"),
                )
                .unwrap();
            }
            if !super::without("certtool") {
                let line =
                    format!("certtool --verify --load-ca-certificate {trusted} --infile chain.pem");
                tool(at, &line).unwrap();
            }
        }
        tool(
            at,
            &format!("openssl verify {checks} -verify_hostname b -CAfile new.pem leaf.pem"),
        )
        .unwrap_err();
        let text = tool(at, "openssl pkey -in key.pem -check -noout").unwrap();
        assert!(text.contains("Key is valid"), "{algorithm}: {text}");
        // The public halves agree.
        let public = tool(at, "openssl pkey -in key.pem -pubout").unwrap();
        let certified = tool(at, "openssl x509 -in leaf.pem -noout -pubkey").unwrap();
        assert_eq!(public, certified, "{algorithm}");

        let request = CertificateRequest::new(&name, &[San::from_text("a.example")], &key).unwrap();
        put(at, "request.pem", &request.to_pem());
        let text = tool(at, "openssl req -in request.pem -verify -noout -text").unwrap();
        assert!(text.contains("DNS:a.example"), "{text}");
    }
}

#[test]
fn ec_keys_of_every_form_that_openssl_writes() {
    if super::without("openssl") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    for (curve, algorithm) in [
        ("prime256v1", KeyAlgorithm::P256),
        ("secp384r1", KeyAlgorithm::P384),
        ("secp521r1", KeyAlgorithm::P521),
    ] {
        // An EC PARAMETERS block stands in front.
        let text = made(
            at,
            &format!("openssl ecparam -name {curve} -genkey -out out.pem"),
        );
        assert!(text.starts_with(b"-----BEGIN EC PARAMETERS-----"));
        let key = PrivateKey::from_pem(&text).unwrap();
        assert_eq!(key.algorithm(), algorithm);
        put(at, "in.pem", &key.to_pem().unwrap());
        let bare = made(at, "openssl ec -in in.pem -no_public -out out.pem");
        let wrapped = made(at, "openssl pkcs8 -topk8 -nocrypt -in in.pem -out out.pem");
        for text in [bare, wrapped] {
            let read = PrivateKey::from_pem(&text).unwrap();
            assert_eq!(read.spki_sha256(), key.spki_sha256());
        }
        encrypted_forms(at, &key);

        // The curve spelled out instead of named, which Go refuses: read, and written by name.
        let line = format!(
            "openssl ecparam -name {curve} -genkey -noout -param_enc explicit -out out.pem"
        );
        let key = PrivateKey::from_pem(&made(at, &line)).unwrap();
        assert_eq!(key.algorithm(), algorithm);
        put(at, "named.pem", &key.to_pem().unwrap());
        let text = tool(at, "openssl ec -in named.pem -noout -text").unwrap();
        assert!(text.contains(&format!("ASN1 OID: {curve}")), "{text}");
    }
}

/// What OpenSSL makes of `in.pem`, which is `key`, with a passphrase.
fn encrypted_forms(at: &Path, key: &PrivateKey) {
    put(at, "pass", "pa ss\n");
    for scheme in [
        "-v2 aes-256-cbc",
        "-v2 aes-128-cbc -v2prf hmacWithSHA512",
        "-scrypt",
    ] {
        let line =
            format!("openssl pkcs8 -topk8 {scheme} -passout file:pass -in in.pem -out out.pem");
        let text = made(at, &line);
        let read = PrivateKey::from_encrypted_pem(&text, b"pa ss").unwrap();
        assert_eq!(read.spki_sha256(), key.spki_sha256());
        assert_eq!(
            PrivateKey::from_pem(&text).err(),
            Some(Error::PassphraseNeeded)
        );
        let wrong = PrivateKey::from_encrypted_pem(&text, b"pass");
        assert_eq!(wrong.err(), Some(Error::WrongPassphrase), "{scheme}");
    }
    let text = made(
        at,
        "openssl ec -aes256 -passout file:pass -in in.pem -out out.pem",
    );
    for read in [
        PrivateKey::from_pem(&text),
        PrivateKey::from_encrypted_pem(&text, b"pa ss"),
    ] {
        assert_eq!(read.err(), Some(Error::LegacyEncryptedKey));
    }
}

/// `out.pem` as the command line wrote it.
fn made(at: &Path, line: &str) -> Vec<u8> {
    tool(at, line).unwrap();
    get(at, "out.pem")
}

#[test]
fn other_keys_that_openssl_writes() {
    if super::without("openssl") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    for (line, error) in [
        ("openssl genrsa -traditional -out out.pem 1024", 1024),
        ("openssl genrsa -out out.pem 1024", 1024),
        ("openssl genrsa -traditional -out out.pem 1536", 1536),
    ] {
        let read = PrivateKey::from_pem(&made(at, line));
        assert_eq!(read.err(), Some(Error::KeyTooSmall { bits: error }));
    }
    for line in [
        "openssl genrsa -traditional -out out.pem 2048",
        "openssl genrsa -out out.pem 2048",
    ] {
        let key = PrivateKey::from_pem(&made(at, line)).unwrap();
        assert_eq!(key.algorithm(), KeyAlgorithm::Rsa(2048));
    }
    let key =
        PrivateKey::from_pem(&made(at, "openssl genpkey -algorithm ed25519 -out out.pem")).unwrap();
    assert_eq!(key.algorithm(), KeyAlgorithm::Ed25519);
    for kind in ["ed448", "x25519", "RSA-PSS"] {
        let read = PrivateKey::from_pem(&made(
            at,
            &format!("openssl genpkey -algorithm {kind} -out out.pem"),
        ));
        assert!(
            matches!(read.err(), Some(Error::UnsupportedKey { .. })),
            "{kind}"
        );
    }
}

/// A self-signed CA made by OpenSSL; `subject` has no blanks.
pub fn stranger(at: &Path, subject: &str, more: &str) -> Authority {
    tool(
        at,
        &format!(
            "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 \
             -keyout ca.key -out ca.pem -subj {subject} {more}"
        ),
    )
    .unwrap();
    let certificate = Certificate::all_from_pem(&get(at, "ca.pem"))
        .unwrap()
        .remove(0);
    let key = PrivateKey::from_pem(&get(at, "ca.key")).unwrap();
    Authority::new(certificate, key).unwrap()
}

#[test]
fn leaves_carry_a_strangers_name_octet_for_octet() {
    if super::without("openssl") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    for (subject, more) in [
        ("/O=one/O=two/CN=ca", ""),
        ("/O=one+O=two/CN=ca+OU=x", "-multivalue-rdn"),
        ("/DC=org/DC=example/OU=a/OU=b/CN=ca", ""),
        (
            "/C=DE/ST=Bayern/L=M\u{fc}nchen/CN=\u{4e2d}\u{6587}",
            "-utf8",
        ),
        ("/CN=T61\u{fc}", ""),
        ("/emailAddress=a@b.example/serialNumber=1/CN=ca", ""),
    ] {
        let ca = stranger(at, subject, more);
        let own = ca.certificate().validity();
        let key = PrivateKey::generate(KeyAlgorithm::P256).unwrap();
        let issued = ca
            .issue(&LeafRequest {
                organizations: &[],
                common_name: "leaf",
                sans: &[San::from_text("a.example")],
                purposes: &[Purpose::ServerAuth],
                spki_der: key.spki_der(),
                serial: serial(),
                validity: own,
            })
            .unwrap();
        assert_eq!(issued.issuer().der(), ca.certificate().subject().der());
        put(at, "leaf.pem", &issued.to_pem());
        let when = own.not_before.plus(60);
        tool(
            at,
            &format!(
                "openssl verify -check_ss_sig -attime {} -CAfile ca.pem leaf.pem",
                when.as_secs()
            ),
        )
        .unwrap();
        let roots = [ca.certificate().clone()];
        verify(&issued, &[], &roots, &Options::at(when).host("a.example")).unwrap();
        // Go prints the names as we do.
        if !super::without("go") {
            let question = Case {
                op: "parse".to_owned(),
                data: STANDARD.encode(issued.der()),
                ..Case::default()
            };
            let answer = ask(&[question]).remove(0);
            assert!(answer.facts.unwrap().is_about(&issued), "{subject}");
        }
    }
}
