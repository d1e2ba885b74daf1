//! The forms in which a company's CA answers.

use std::fs;
use std::path::Path;

use kubepki::ca::{CaName, certificates_in};

use crate::import::{Company, write};

#[tokio::test]
async fn pkcs7_der_and_crlf() {
    let company = Company::new();
    company.sign_all();
    let set = company.import(company.everything()).await.unwrap();
    // PKCS#7, as PEM and DER, whole and one by one; a certificate as DER; CRLF; a bundle with text.
    let mut all = Vec::new();
    for name in CaName::ALL.map(|ca| format!("{}.pem", ca.flat())) {
        all.extend(fs::read(company.path(&name)).unwrap());
    }
    for name in ["issuing.pem", "root.pem"] {
        all.extend(fs::read(company.path(name)).unwrap());
    }
    write(&company.path("all.pem"), &all);
    company.ssl(&[
        "crl2pkcs7",
        "-nocrl",
        "-certfile",
        "all.pem",
        "-out",
        "all.p7b",
    ]);
    company.ssl(&[
        "crl2pkcs7",
        "-nocrl",
        "-certfile",
        "all.pem",
        "-outform",
        "DER",
        "-out",
        "all-der.p7b",
    ]);
    company.ssl(&[
        "x509", "-in", "root.pem", "-outform", "DER", "-out", "root.der",
    ]);
    let text = String::from_utf8(all.clone()).unwrap();
    write(
        &company.path("crlf.pem"),
        format!("our CA\r\n{}", text.replace('\n', "\r\n")).as_bytes(),
    );
    for name in ["all.p7b", "all-der.p7b", "all.pem", "crlf.pem"] {
        let found = company.read(name);
        assert_eq!(found.len(), 7, "{name}");
        let again = company.import(found).await.unwrap();
        assert_eq!(again.served, set.served);
    }
    assert_eq!(company.read("root.der"), company.read("root.pem"));
}

/// A damaged bundle is told or read otherwise, and never brings the program down.
#[test]
fn damaged_pkcs7() {
    let company = Company::new();
    company.ssl(&[
        "crl2pkcs7",
        "-nocrl",
        "-certfile",
        "issuing.pem",
        "-outform",
        "DER",
        "-out",
        "one.p7b",
    ]);
    let good = fs::read(company.path("one.p7b")).unwrap();
    let path = Path::new("one.p7b");
    let whole = certificates_in(path, &good).unwrap();
    for at in 0..good.len() {
        assert!(certificates_in(path, &good[..at]).is_err(), "cut at {at}");
        for bit in [1_u8, 0x20, 0x80] {
            let mut bad = good.clone();
            bad[at] ^= bit;
            if let Ok(found) = certificates_in(path, &bad) {
                assert_eq!(found.len(), 1);
            }
        }
    }
    assert_eq!(whole, company.read("issuing.pem"));
    // Indefinite lengths.
    let ber = [&[0x30, 0x80][..], &good[4..], &[0, 0]].concat();
    let error = kubepki::error_chain(&certificates_in(path, &ber).unwrap_err());
    assert!(error.contains("openssl pkcs7 -print_certs"), "{error}");
}

/// Some CAs answer with their revocation list beside the certificates.
#[tokio::test]
async fn pkcs7_with_a_revocation_list() {
    let company = Company::new();
    company.sign_all();
    let all: Vec<u8> = ["client.pem", "issuing.pem", "root.pem"]
        .iter()
        .flat_map(|name| fs::read(company.path(name)).unwrap())
        .collect();
    write(&company.path("all.pem"), &all);
    write(
        &company.path("index.cnf"),
        format!(
            "[ca]\ndefault_ca=a\n[a]\ndatabase={}\ndefault_md=sha256\ndefault_crl_days=30\n",
            company.path("index").display()
        )
        .as_bytes(),
    );
    write(&company.path("index"), b"");
    company.ssl(&[
        "ca",
        "-config",
        "index.cnf",
        "-gencrl",
        "-cert",
        "root.pem",
        "-keyfile",
        "root.key",
        "-out",
        "crl.pem",
    ]);
    company.ssl(&[
        "crl2pkcs7",
        "-in",
        "crl.pem",
        "-certfile",
        "all.pem",
        "-out",
        "crl.p7b",
    ]);
    assert_eq!(company.read("crl.p7b").len(), 3);
}
