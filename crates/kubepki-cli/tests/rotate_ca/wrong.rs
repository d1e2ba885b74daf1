//! More sets that are wrong in one way each, with CAs that OpenSSL makes.

use std::path::{Path, PathBuf};

use kubepki::bootstrap::Field;
use testkit::openssl_ok;

use crate::lab::{Server, blocks, stage};
use crate::refuse::{Case, assert_refused, read};

const CA: Field = Field::ServerCa;
const KEY: Field = Field::ServerCaKey;
const GOOD: &str = "critical,CA:true";
const SIGNS: &str = "critical,keyCertSign,cRLSign,digitalSignature";
const P256: &str = "ec -pkeyopt ec_paramgen_curve:P-256";

/// A CA by OpenSSL, signed by the set's own intermediate or by itself: certificate and key.
struct Odd<'a> {
    constraints: &'a str,
    usage: &'a str,
    more: &'a str,
    key: &'a str,
    digest: &'a str,
    own: bool,
}

const fn odd(constraints: &'static str, usage: &'static str, more: &'static str) -> Odd<'static> {
    Odd {
        constraints,
        usage,
        more,
        key: P256,
        digest: "-sha256",
        own: false,
    }
}

impl Odd<'_> {
    fn make(&self, server: &Server) -> (String, String) {
        let path = |name: &str| server.fixture.scratch(name);
        let text = |path: PathBuf| path.display().to_string();
        let (config, key, out) = (path("odd.cnf"), path("odd.key"), path("odd.pem"));
        let mut extensions = String::from("subjectKeyIdentifier=hash\n");
        for (name, value) in [
            ("basicConstraints", self.constraints),
            ("keyUsage", self.usage),
        ] {
            if !value.is_empty() {
                extensions += &format!("{name}={value}\n");
            }
        }
        extensions += self.more;
        let settings = "[req]\ndistinguished_name=dn\nx509_extensions=x\n[dn]\n[x]\n";
        std::fs::write(&config, format!("{settings}{extensions}\n")).unwrap();
        let line = format!(
            "req -x509 {} -nodes -days 1000 -subj /CN=odd-server-ca -newkey {}",
            self.digest, self.key
        );
        let mut words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        let files = [
            ("-config", config),
            ("-keyout", key.clone()),
            ("-out", out.clone()),
        ];
        for (flag, file) in files {
            words.extend([flag.to_owned(), text(file)]);
        }
        if !self.own {
            let above = server.fixture.extra("staged-same-root/tls/intermediate-ca");
            for (flag, kind) in [("-CA", "pem"), ("-CAkey", "key")] {
                words.extend([flag.to_owned(), text(above.with_extension(kind))]);
            }
        }
        openssl_ok(&words.iter().map(String::as_str).collect::<Vec<_>>(), b"");
        let read = |path| std::fs::read_to_string(path).unwrap();
        (read(out), read(key))
    }

    /// In place of the set's server CA, above it what is above the set's.
    fn stage(&self, server: &Server, set: &Path) {
        let (certificate, key) = self.make(server);
        let former = read(set, CA);
        stage(set, CA, certificate + &blocks(&former)[1..].concat());
        stage(set, KEY, key);
    }
}

const AUTHORITIES: [Case; 10] = [
    (
        "no CA flag",
        |server, set| odd("critical,CA:false", SIGNS, "").stage(server, set),
        "which is not a CA",
        true,
    ),
    (
        "no basic constraints",
        |server, set| odd("", SIGNS, "").stage(server, set),
        "which is not a CA",
        true,
    ),
    (
        "signs no certificates",
        |server, set| odd(GOOD, "critical,cRLSign,digitalSignature", "").stage(server, set),
        "lacks keyCertSign",
        true,
    ),
    (
        "for mail only",
        |server, set| odd(GOOD, SIGNS, "extendedKeyUsage=emailProtection").stage(server, set),
        "extended key usage excludes",
        false,
    ),
    (
        "for clients only",
        |server, set| odd(GOOD, SIGNS, "extendedKeyUsage=clientAuth").stage(server, set),
        "excludes serverAuth",
        false,
    ),
    (
        "a critical extension that nobody knows",
        |server, set| {
            odd(GOOD, SIGNS, "1.2.3.4=critical,ASN1:UTF8String:x").stage(server, set);
        },
        "critical extensions",
        false,
    ),
    (
        "SHA-1",
        |server, set| {
            let sha1 = Odd {
                digest: "-sha1",
                ..odd(GOOD, SIGNS, "")
            };
            sha1.stage(server, set);
        },
        "signed with sha1WithRSAEncryption",
        false,
    ),
    (
        "a short RSA key",
        |server, set| {
            let short = Odd {
                key: "rsa:1024",
                ..odd(GOOD, SIGNS, "")
            };
            short.stage(server, set);
        },
        "has 1024 bits",
        true,
    ),
    (
        "another root alone",
        |server, set| {
            let own = Odd {
                own: true,
                ..odd(GOOD, SIGNS, "")
            };
            let (certificate, key) = own.make(server);
            stage(set, CA, certificate);
            stage(set, KEY, key);
        },
        "only a single certificate",
        false,
    ),
    (
        "another root before the old chain",
        |server, set| {
            let own = Odd {
                own: true,
                ..odd(GOOD, SIGNS, "")
            };
            own.stage(server, set);
        },
        "has no path to a root that is trusted now",
        false,
    ),
];

const FILES: [Case; 13] = [
    (
        "the root alone",
        |_, set| stage(set, CA, blocks(&read(set, CA))[2]),
        "only a single certificate",
        false,
    ),
    (
        "the root missing",
        |_, set| stage(set, CA, blocks(&read(set, CA))[..2].concat()),
        "does not lead from",
        true,
    ),
    (
        "cut off",
        |_, set| stage(set, CA, &read(set, CA)[..300]),
        "cut off",
        false,
    ),
    (
        "zeros",
        |_, set| stage(set, CA, [0; 5000]),
        "cannot be read",
        false,
    ),
    (
        "a leaf",
        |server, set| {
            stage(set, CA, server.read("tls/client-admin.crt"));
            stage(set, KEY, server.read("tls/client-admin.key"));
        },
        "which is not a CA",
        false,
    ),
    (
        "an empty key",
        |_, set| stage(set, KEY, ""),
        "is not the key of",
        false,
    ),
    (
        "words for a key",
        |_, set| stage(set, KEY, "key\n"),
        "is not the key of",
        false,
    ),
    (
        "no key",
        |_, set| std::fs::remove_file(Field::EtcdPeerCaKey.under(set)).unwrap(),
        "is not the key of",
        false,
    ),
    (
        "the key second",
        |_, set| stage(set, KEY, read(set, Field::ClientCaKey) + &read(set, KEY)),
        "behind another one",
        false,
    ),
    (
        "a key as OpenSSL used to encrypt it",
        |_, set| {
            let path = KEY.under(set).display().to_string();
            let args = ["ec", "-in", &path, "-aes256", "-passout", "pass:x"];
            stage(set, KEY, openssl_ok(&args, b"").stdout);
        },
        "is encrypted",
        false,
    ),
    (
        "a public service key",
        |_, set| {
            let path = Field::ServiceKey.under(set).display().to_string();
            let public = openssl_ok(&["rsa", "-in", &path, "-pubout"], b"").stdout;
            stage(set, Field::ServiceKey, public);
        },
        "holds no private key",
        false,
    ),
    (
        "no service key in its file",
        |_, set| stage(set, Field::ServiceKey, "\n\n"),
        "holds no private key",
        false,
    ),
    (
        "an encrypted service key",
        |_, set| {
            let path = Field::ServiceKey.under(set).display().to_string();
            let args = [
                "rsa",
                "-in",
                &path,
                "-aes256",
                "-traditional",
                "-passout",
                "pass:x",
            ];
            stage(set, Field::ServiceKey, openssl_ok(&args, b"").stdout);
        },
        "holds an encrypted key",
        false,
    ),
];

#[test]
fn authorities_that_cannot_serve() {
    assert_refused(&AUTHORITIES);
}

#[test]
fn files_that_cannot_be_used() {
    assert_refused(&FILES);
}
