//! Sets under the right root that are wrong in ways that K3s does not see.

use std::path::{Path, PathBuf};

use kubepki::bootstrap::Field;
use testkit::openssl_ok;

use crate::{Lab, stage};

const P256: &str = "EC -pkeyopt ec_paramgen_curve:P-256";
const CA: &str = "basicConstraints=critical,CA:true\nkeyUsage=critical,keyCertSign,cRLSign\n\
                  authorityKeyIdentifier=keyid\n";
const ID: &str = "subjectKeyIdentifier=hash\n";

struct Case {
    name: &'static str,
    algorithm: &'static str,
    extension: &'static str,
    /// How `ca verify` ends.
    code: i32,
    word: &'static str,
}

const CASES: [Case; 6] = [
    Case {
        name: "a company's own domain only",
        algorithm: P256,
        extension: "nameConstraints=critical,permitted;DNS:example.com",
        code: 4,
        word: "name constraints forbid localhost",
    },
    Case {
        name: "addresses excluded",
        algorithm: P256,
        extension: "nameConstraints=critical,excluded;IP:0.0.0.0/0.0.0.0",
        code: 4,
        word: "name constraints forbid 127.0.0.1",
    },
    Case {
        name: "cluster names excluded",
        algorithm: P256,
        extension: "nameConstraints=critical,excluded;DNS:svc",
        code: 4,
        word: "name constraints forbid kubernetes.default.svc",
    },
    Case {
        name: "constraints that everything fits",
        algorithm: P256,
        extension: "nameConstraints=critical,excluded;DNS:example.com",
        code: 3,
        word: "K3s accepts this set",
    },
    Case {
        name: "Ed25519",
        algorithm: "ED25519",
        extension: "",
        code: 3,
        word: "whose key is Ed25519",
    },
    Case {
        name: "no key identifier",
        algorithm: P256,
        extension: "subjectKeyIdentifier=none",
        code: 3,
        word: "has no subject key identifier",
    },
];

/// Five CAs straight under the root of the fixture, made with OpenSSL.
fn set(lab: &Lab, case: &Case) -> PathBuf {
    let set = lab.fixture.scratch("set");
    let extensions = lab.beside("extensions");
    let id = match case.extension.contains("subjectKeyIdentifier") {
        true => "",
        false => ID,
    };
    std::fs::write(&extensions, format!("{CA}{id}{}\n", case.extension)).unwrap();
    let live = lab.server();
    let root = read(&live.join("tls/root-ca.pem"));
    for (index, (certificate, key)) in Field::AUTHORITIES.into_iter().enumerate() {
        let (pair, request) = (lab.beside("pair"), lab.beside("request"));
        let mut args = vec!["genpkey", "-out", &pair, "-algorithm"];
        args.extend(case.algorithm.split(' '));
        openssl_ok(&args, b"");
        let subject = format!("/CN=hostile-{index}");
        let args = [
            "req", "-new", "-key", &pair, "-subj", &subject, "-out", &request,
        ];
        openssl_ok(&args, b"");
        let (ca, ca_key) = (
            live.join("tls/root-ca.pem").display().to_string(),
            live.join("tls/root-ca.key").display().to_string(),
        );
        let serial = format!("{}", index + 71);
        let args = [
            "x509",
            "-req",
            "-in",
            &request,
            "-CA",
            &ca,
            "-CAkey",
            &ca_key,
            "-set_serial",
            &serial,
            "-days",
            "3000",
            "-extfile",
            &extensions,
        ];
        let made = String::from_utf8(openssl_ok(&args, b"").stdout).unwrap();
        stage(&set, certificate, made + &root);
        stage(&set, key, read(Path::new(&pair)));
    }
    for name in ["extensions", "pair", "request"] {
        std::fs::remove_file(lab.beside(name)).unwrap();
    }
    set
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn what_k3s_takes_and_clients_refuse() {
    let lab = Lab::new("k3s-1.36-custom-ca");
    for case in &CASES {
        let set = set(&lab, case);
        let path = set.display().to_string();
        let before = lab.tree();
        lab.ends(&["ca", "verify", "--path", &path], case.code, case.word);
        let rotate = ["rotate-ca", "--path", &path, "--yes", "--still-for", "0"];
        if case.code == 4 {
            lab.ends(&rotate, 5, case.word);
        } else {
            lab.ends(&[&rotate[..], &["--dry-run"]].concat(), 0, "Dry run");
        }
        println!("{}", case.name);
        lab.assert_untouched(&before);
        std::fs::remove_dir_all(set).unwrap();
    }
}

#[test]
fn a_constrained_root_is_refused_before_anything_is_made() {
    let lab = Lab::new("k3s-1.36-custom-ca");
    let (key, root) = (lab.beside("company.key"), lab.beside("company.pem"));
    let args = ["genpkey", "-algorithm", "ED25519", "-out", &key];
    openssl_ok(&args, b"");
    openssl_ok(
        &[
            "genpkey",
            "-algorithm",
            "EC",
            "-pkeyopt",
            "ec_paramgen_curve:P-384",
            "-out",
            &key,
        ],
        b"",
    );
    let args = [
        "req",
        "-x509",
        "-new",
        "-key",
        &key,
        "-subj",
        "/CN=company",
        "-days",
        "3000",
        "-out",
        &root,
        "-addext",
        "keyUsage=critical,keyCertSign,cRLSign",
        "-addext",
        "nameConstraints=critical,permitted;DNS:example.com",
    ];
    openssl_ok(&args, b"");
    let before = lab.tree();
    let (out, offline) = (lab.beside("made"), lab.beside("offline"));
    let given = [
        "--root-cert",
        &root,
        "--root-key",
        &key,
        "--out",
        &out,
        "--offline",
        &offline,
    ];
    let word = "forbids localhost (name constraints)";
    lab.ends(&[&["ca", "create"][..], &given].concat(), 5, word);
    lab.ends(
        &[&["ca", "stage", "--new-root"][..], &given].concat(),
        5,
        word,
    );
    lab.assert_untouched(&before);
}
