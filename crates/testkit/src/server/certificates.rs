//! Certificates for servers and clients, by OpenSSL.

use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::openssl_ok;

/// A CA, what it issued, and a stranger: EC P-256, for two days.
#[derive(Debug)]
pub struct Certificates {
    folder: TempDir,
}

impl Certificates {
    /// Makes them: `ca`, `server` (for `localhost` and 127.0.0.1), `misnamed` (a server of another
    /// name), `client`, `client-rsa`, `stranger` (another CA) and `stranger-client`.
    pub fn new() -> Self {
        let folder = TempDir::new().unwrap_or_else(|error| panic!("no temporary folder: {error}"));
        let these = Self { folder };
        these.authority("ca");
        these.authority("stranger");
        these.leaf("server", "ca", "subjectAltName=DNS:localhost,IP:127.0.0.1");
        these.leaf("misnamed", "ca", "subjectAltName=DNS:elsewhere.example");
        these.leaf("client", "ca", "extendedKeyUsage=clientAuth");
        these.issue(
            "client-rsa",
            "ca",
            "extendedKeyUsage=clientAuth",
            &["rsa:2048"],
        );
        these.leaf("stranger-client", "stranger", "extendedKeyUsage=clientAuth");
        these
    }

    /// The certificate `name`.
    pub fn certificate(&self, name: &str) -> PathBuf {
        self.folder.path().join(format!("{name}.crt"))
    }

    /// Its key, PKCS#8.
    pub fn key(&self, name: &str) -> PathBuf {
        self.folder.path().join(format!("{name}.key"))
    }

    /// Its key as OpenSSL and K3s write those of elliptic curves: SEC1.
    pub fn sec1_key(&self, name: &str) -> PathBuf {
        let path = self.folder.path().join(format!("{name}.sec1.key"));
        openssl_ok(
            &["ec", "-in", text(&self.key(name)), "-out", text(&path)],
            b"",
        );
        path
    }

    /// The RSA key `name` in its old form: PKCS#1.
    pub fn pkcs1_key(&self, name: &str) -> PathBuf {
        let path = self.folder.path().join(format!("{name}.pkcs1.key"));
        let (from, to) = (self.key(name), text(&path));
        openssl_ok(
            &["rsa", "-traditional", "-in", text(&from), "-out", to],
            b"",
        );
        path
    }

    fn authority(&self, name: &str) {
        self.request(name, "keyUsage=critical,keyCertSign,cRLSign", &EC, &[]);
    }

    fn leaf(&self, name: &str, issuer: &str, extension: &str) {
        self.issue(name, issuer, extension, &EC);
    }

    fn issue(&self, name: &str, issuer: &str, extension: &str, key: &[&str]) {
        let (certificate, issuing) = (self.certificate(issuer), self.key(issuer));
        let options = [
            "-CA",
            text(&certificate),
            "-CAkey",
            text(&issuing),
            "-addext",
            "basicConstraints=critical,CA:FALSE",
        ];
        self.request(name, extension, key, &options);
    }

    fn request(&self, name: &str, extension: &str, key: &[&str], options: &[&str]) {
        let subject = format!("/CN={name}");
        let (key_file, certificate) = (self.key(name), self.certificate(name));
        let mut arguments = vec!["req", "-x509", "-newkey"];
        arguments.extend(key);
        arguments.extend([
            "-nodes", "-days", "2", "-subj", &subject, "-addext", extension,
        ]);
        arguments.extend(options);
        arguments.extend(["-keyout", text(&key_file), "-out", text(&certificate)]);
        openssl_ok(&arguments, b"");
    }
}

/// `-newkey` of an elliptic curve.
const EC: [&str; 3] = ["ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"];

impl Default for Certificates {
    fn default() -> Self {
        Self::new()
    }
}

fn text(path: &Path) -> &str {
    super::text(path)
}
