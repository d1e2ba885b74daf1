//! CAs under a company's root, which OpenSSL plays.

use std::fs;
use std::path::{Path, PathBuf};

use testkit::{Run, openssl_ok};

use crate::{openssl_accepts, program, put};

/// A folder in which OpenSSL and the program under test meet.
struct Desk(tempfile::TempDir);

impl Desk {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Words of a command line; `@name` is a file of the folder.
    fn words(&self, line: &str) -> Vec<String> {
        let word = |word: &str| match word.strip_prefix('@') {
            Some(name) => self.path(name).to_str().unwrap().to_owned(),
            None => word.to_owned(),
        };
        line.split_whitespace().map(word).collect()
    }

    #[track_caller]
    fn openssl(&self, line: &str) -> Run {
        let words = self.words(line);
        openssl_ok(&words.iter().map(String::as_str).collect::<Vec<_>>(), b"")
    }

    #[track_caller]
    fn kubepki(&self, line: &str, code: i32) -> String {
        let words = self.words(&format!("{line} --data-dir @data"));
        program(&words.iter().map(String::as_str).collect::<Vec<_>>(), code).text()
    }
}

#[test]
fn create_under_an_encrypted_company_root() {
    let desk = Desk::new();
    put(&desk.path("pass"), b"correct-horse\n");
    put(&desk.path("wrong"), b"wrong\n");
    put(&desk.path("empty"), b"\n");
    desk.openssl(
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-384 -passout pass:correct-horse \
         -keyout @des.key -out @root.pem -subj /CN=Example-Root -days 3000",
    );
    let root = "ca create --out @out --offline @off --root-cert @root.pem";
    // With triple DES, OpenSSL's choice here, and then as the message says.
    let said = desk.kubepki(
        &format!("{root} --root-key @des.key --key-passphrase-file @pass"),
        5,
    );
    assert!(said.contains("openssl pkcs8 -topk8"), "{said}");
    desk.openssl(
        "pkcs8 -topk8 -in @des.key -passin pass:correct-horse -passout pass:correct-horse \
         -out @root.key",
    );
    let root = format!("{root} --root-key @root.key");
    for (more, code, words) in [
        ("", 5, "needs a passphrase"),
        ("--key-passphrase-file @wrong", 5, "does not decrypt"),
        ("--key-passphrase-file @none", 1, "cannot read"),
        ("--key-passphrase-file @empty", 2, "holds no passphrase"),
    ] {
        let said = desk.kubepki(&format!("{root} {more}"), code);
        assert!(said.contains(words), "{said}");
    }
    let said = desk.kubepki(
        "ca create --out @out --offline @off --root-cert @root.pem",
        2,
    );
    assert!(said.contains("ca request"), "{said}");
    assert!(!desk.path("out").exists() && !desk.path("off").exists());

    let said = desk.kubepki(
        &format!("{root} --key-passphrase-file @pass --passphrase-file @pass --algorithm rsa2048"),
        0,
    );
    assert!(
        said.contains("intermediate-ca.key") && !said.contains("root-ca.key"),
        "{said}"
    );
    let key = fs::read_to_string(desk.path("off/intermediate-ca.key")).unwrap();
    assert!(key.starts_with("-----BEGIN ENCRYPTED PRIVATE KEY-----"));
    desk.openssl("pkey -passin pass:correct-horse -noout -in @off/intermediate-ca.key");
    let made = desk.path("out/tls/client-ca.crt");
    assert!(openssl_accepts(&made, 2, &desk.path("root.pem")));

    // Another CA's key, and what was just made as what is given.
    desk.openssl("genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out @other.key");
    let other = "ca create --out @o2 --offline @f2 --root-cert @root.pem --root-key @other.key";
    let said = desk.kubepki(other, 5);
    assert!(said.contains("belongs to no certificate"), "{said}");
    desk.kubepki(
        "ca create --out @o2 --root-cert @root.pem --intermediate-cert @off/intermediate-ca.crt \
         --intermediate-key @off/intermediate-ca.key --key-passphrase-file @pass",
        0,
    );
    let made = desk.path("o2/tls/server-ca.crt");
    assert!(openssl_accepts(&made, 2, &desk.path("root.pem")));
}

#[test]
fn request_and_import() {
    let desk = Desk::new();
    desk.kubepki("ca request --out @req", 0);
    desk.openssl(
        "req -x509 -newkey rsa:2048 -nodes -keyout @root.key -out @root.pem \
         -subj /O=Example/CN=Example-Root -days 3000",
    );
    let mut answers = fs::read(desk.path("root.pem")).unwrap();
    for name in [
        "client",
        "server",
        "request-header",
        "etcd-peer",
        "etcd-server",
    ] {
        let run = desk.openssl(&format!(
            "x509 -req -in @req/{name}-ca.csr -CA @root.pem -CAkey @root.key -CAcreateserial \
             -days 900 -copy_extensions copyall"
        ));
        answers.extend(run.stdout);
    }
    put(&desk.path("answers.pem"), &answers);
    desk.openssl("crl2pkcs7 -nocrl -certfile @answers.pem -outform DER -out @answers.p7b");
    let said = desk.kubepki("ca import @root.pem --request @req --out @out", 5);
    assert!(
        said.contains("has no certificate among those given"),
        "{said}"
    );
    desk.kubepki("ca import @nothing --request @req --out @out", 2);
    assert!(!desk.path("out").exists());
    let said = desk.kubepki("ca import @answers.p7b --request @req --out @out", 0);
    assert!(
        said.contains("first CAs") && said.contains("no other is accepted"),
        "{said}"
    );
    let made: &Path = &desk.path("out/tls/etcd/peer-ca.crt");
    assert!(openssl_accepts(made, 2, &desk.path("root.pem")));
}

#[test]
fn huge_files_are_not_read() {
    let desk = Desk::new();
    let huge = desk.path("huge.pem");
    let file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&huge)
        .unwrap();
    file.set_len(1 << 40).unwrap();
    let line = "ca create --out @out --offline @off --root-cert @huge.pem --root-key @huge.pem";
    let said = desk.kubepki(line, 1);
    assert!(said.contains("are not read"), "{said}");
    assert!(!desk.path("out").exists());
}
