//! Two directories of CA files, one in force and one staged, that a test spoils.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use kubepki::bootstrap::{Bundle, Field, read_directory};
use kubepki::ca::verify::{Intent, Places, Question, Stamps, Verdict, verify};
use kubepki::edge::{Clock, SystemClock};
use kubepki::host::LocalHost;
use kubepki::inventory::DetectedRelease;
use pki::{
    Authority, AuthorityRequest, Certificate, DAY, KeyAlgorithm, Name, PrivateKey, Serial,
    UnixTime, Validity,
};
use tempfile::TempDir;
use testkit::openssl_ok;

/// A CA with its key, and what stands above it.
pub struct Ca {
    pub authority: Authority,
    /// Nearest first.
    pub above: Vec<Certificate>,
}

pub struct Lab {
    pub scratch: TempDir,
    pub now: UnixTime,
    /// The old root.
    pub root: Ca,
    pub intermediate: Ca,
}

pub fn now() -> UnixTime {
    SystemClock.now()
}

pub fn span(from: i64, to: i64) -> Validity {
    Validity {
        not_before: now().plus(from * DAY),
        not_after: now().plus(to * DAY),
    }
}

pub fn key() -> PrivateKey {
    PrivateKey::generate(KeyAlgorithm::P256).unwrap()
}

fn serial() -> Serial {
    Serial::random(pki::random).unwrap()
}

pub fn root(name: &str, validity: Validity) -> Ca {
    let name = Name::new(&[], name).unwrap();
    Ca {
        authority: Authority::self_signed(&name, key(), serial(), validity).unwrap(),
        above: Vec::new(),
    }
}

impl Ca {
    pub fn below(&self, name: &str, validity: Validity, path_len: Option<u32>) -> Self {
        let key = key();
        let certificate = self.sign(name, &key, None, validity, path_len);
        let mut above = vec![self.authority.certificate().clone()];
        above.extend(self.above.iter().cloned());
        Self {
            authority: Authority::new(certificate, key).unwrap(),
            above,
        }
    }

    pub fn sign(
        &self,
        name: &str,
        key: &PrivateKey,
        identifier: Option<&[u8]>,
        validity: Validity,
        path_len: Option<u32>,
    ) -> Certificate {
        let request = AuthorityRequest {
            subject: &Name::new(&[], name).unwrap(),
            spki_der: key.spki_der(),
            subject_key_identifier: identifier,
            path_len,
            serial: serial(),
            validity,
        };
        self.authority.issue_authority(&request).unwrap()
    }

    /// This CA's word for `other`'s root.
    pub fn cross(&self, other: &Self, validity: Validity) -> Certificate {
        let certificate = other.authority.certificate();
        let name = certificate.subject().common_name().unwrap();
        let identifier = certificate.subject_key_identifier();
        self.sign(name, other.authority.key(), identifier, validity, None)
    }

    pub fn pem(&self) -> String {
        self.authority.certificate().to_pem()
    }

    pub fn key_pem(&self) -> String {
        self.authority.key().to_pem().unwrap().to_string()
    }

    /// The CA and everything above it.
    pub fn bundle(&self) -> String {
        self.pem() + &pem(&self.above)
    }
}

pub fn pem(certificates: &[Certificate]) -> String {
    certificates.iter().map(Certificate::to_pem).collect()
}

impl Lab {
    /// A set under root and intermediate in force, and one under the same two staged.
    pub fn new() -> Self {
        let root = root("old-root", span(-30, 3650));
        let intermediate = root.below("old-intermediate", span(-30, 3000), None);
        let lab = Self {
            scratch: tempfile::tempdir().unwrap(),
            now: now(),
            root,
            intermediate,
        };
        let service = rsa_key(0);
        for (field, key) in Field::AUTHORITIES {
            for (set, generation) in [(lab.old(), 1), (lab.new_set(), 2)] {
                let name = format!("{field}@{generation}");
                let ca = lab.intermediate.below(&name, span(-20, 2000), None);
                lab.write(&set, field, ca.bundle());
                lab.write(&set, key, ca.key_pem());
            }
        }
        lab.write(&lab.old(), Field::ServiceKey, &service);
        lab.stage(Field::ServiceKey, rsa_key(1) + &service);
        lab
    }

    pub fn old(&self) -> PathBuf {
        self.scratch.path().join("server")
    }

    pub fn new_set(&self) -> PathBuf {
        self.scratch.path().join("staged")
    }

    pub fn write(&self, set: &Path, field: Field, content: impl AsRef<[u8]>) {
        let path = field.under(set);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    pub fn stage(&self, field: Field, content: impl AsRef<[u8]>) {
        self.write(&self.new_set(), field, content);
    }

    pub fn staged(&self, field: Field) -> String {
        std::fs::read_to_string(field.under(&self.new_set())).unwrap()
    }

    pub fn in_force(&self, field: Field) -> String {
        std::fs::read_to_string(field.under(&self.old())).unwrap()
    }

    pub fn remove(&self, field: Field) {
        std::fs::remove_file(field.under(&self.new_set())).unwrap();
    }

    /// Stages a CA for `field`, its file made of what `bundle` makes of it.
    pub fn stage_ca(&self, field: Field, ca: &Ca, bundle: &str) {
        let (_, key) = Field::AUTHORITIES
            .into_iter()
            .find(|(it, _)| *it == field)
            .unwrap();
        self.stage(field, bundle);
        self.stage(key, ca.key_pem());
    }

    /// A CA that openssl signs with `issuer`, with these extensions; certificate and key.
    pub fn odd(
        &self,
        issuer: &Ca,
        key_args: &[&str],
        extensions: &str,
        digest: &str,
    ) -> (String, String) {
        let path = |name: &str| self.scratch.path().join(name).display().to_string();
        std::fs::write(path("issuer.pem"), issuer.pem()).unwrap();
        std::fs::write(path("issuer.key"), issuer.key_pem()).unwrap();
        std::fs::write(path("ext"), extensions).unwrap();
        let (key, csr, out) = (path("odd.key"), path("odd.csr"), path("odd.pem"));
        let mut request = vec![
            "req",
            "-new",
            "-nodes",
            "-subj",
            "/CN=odd-ca",
            "-keyout",
            &key,
            "-out",
            &csr,
        ];
        request.extend(key_args);
        openssl_ok(&request, b"");
        let (certificate, secret, extensions) =
            (path("issuer.pem"), path("issuer.key"), path("ext"));
        let sign = [
            "x509",
            "-req",
            "-in",
            &csr,
            "-CA",
            &certificate,
            "-CAkey",
            &secret,
            "-days",
            "900",
            "-set_serial",
            "77",
            "-extfile",
            &extensions,
            digest,
            "-out",
            &out,
        ];
        openssl_ok(&sign, b"");
        let read = |path: &str| std::fs::read_to_string(path).unwrap();
        (read(&out), read(&key))
    }

    pub fn bundles(&self) -> (Bundle, Bundle) {
        (read(&self.old()), read(&self.new_set()))
    }

    pub fn verdict(&self) -> Verdict {
        self.verdict_of(|question| question)
    }

    pub fn verdict_of(&self, change: impl Fn(Question<'_>) -> Question<'_>) -> Verdict {
        let (old, new) = self.bundles();
        verify(&change(Question {
            old: Some(&old),
            new: &new,
            now: self.now,
            on_date: self.now,
            release: DetectedRelease::Unknown,
            intent: Intent::Ordinary,
            stamps: Stamps::AsStaged,
            places: Places {
                old: self.old(),
                new: self.new_set(),
            },
        }))
    }

    /// What Go says by K3s's rules.
    pub fn oracle(&self) -> String {
        oracle(&self.old(), &self.new_set(), self.now)
    }
}

pub const EC: [&str; 4] = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"];

/// RSA keys of 2048 bits in PKCS#1 form, made once: they take long.
pub fn rsa_key(number: usize) -> String {
    static MADE: OnceLock<Vec<String>> = OnceLock::new();
    let keys = MADE.get_or_init(|| {
        let make = |_| openssl_ok(&["genrsa", "-traditional", "2048"], b"").stdout;
        (0..4)
            .map(make)
            .map(|pem| String::from_utf8(pem).unwrap())
            .collect()
    });
    keys[number].clone()
}

pub fn read(directory: &Path) -> Bundle {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime
        .block_on(read_directory(&LocalHost, directory))
        .unwrap()
}

pub fn oracle(old: &Path, new: &Path, now: UnixTime) -> String {
    let program = testkit::go_program(include_str!("oracle.go"));
    let arguments = [
        old.display().to_string(),
        new.display().to_string(),
        now.as_secs().to_string(),
    ];
    let run = testkit::run(program, &arguments, b"");
    assert!(run.success(), "{}", run.text());
    run.text().trim_end().to_owned()
}
