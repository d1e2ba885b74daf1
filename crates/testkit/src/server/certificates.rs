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
    /// name), `client`, `stranger` (another CA) and `stranger-client`.
    pub fn new() -> Self {
        let folder = TempDir::new().unwrap_or_else(|error| panic!("no temporary folder: {error}"));
        let these = Self { folder };
        these.authority("ca");
        these.authority("stranger");
        these.leaf("server", "ca", "subjectAltName=DNS:localhost,IP:127.0.0.1");
        these.leaf("misnamed", "ca", "subjectAltName=DNS:elsewhere.example");
        these.leaf("client", "ca", "extendedKeyUsage=clientAuth");
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

    fn authority(&self, name: &str) {
        openssl_ok(
            &[
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:prime256v1",
                "-nodes",
                "-days",
                "2",
                "-subj",
                &format!("/CN={name}"),
                "-addext",
                "keyUsage=critical,keyCertSign,cRLSign",
                "-keyout",
                text(&self.key(name)),
                "-out",
                text(&self.certificate(name)),
            ],
            b"",
        );
    }

    fn leaf(&self, name: &str, issuer: &str, extension: &str) {
        openssl_ok(
            &[
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:prime256v1",
                "-nodes",
                "-days",
                "2",
                "-subj",
                &format!("/CN={name}"),
                "-CA",
                text(&self.certificate(issuer)),
                "-CAkey",
                text(&self.key(issuer)),
                "-addext",
                "basicConstraints=critical,CA:FALSE",
                "-addext",
                extension,
                "-keyout",
                text(&self.key(name)),
                "-out",
                text(&self.certificate(name)),
            ],
            b"",
        );
    }
}

impl Default for Certificates {
    fn default() -> Self {
        Self::new()
    }
}

fn text(path: &Path) -> &str {
    super::text(path)
}
