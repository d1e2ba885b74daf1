//! Looks for keys and tokens where they must not be.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// Secrets are told apart, and found, by their first bytes of this number.
const SHORTEST: usize = 16;

/// DER of at most this many bytes is an elliptic-curve key, whose private part comes first.
const EC_KEY: usize = 400;

/// Everything secret below some folders, in the forms in which it could slip out.
///
/// Known are private keys in PEM, alone and inside other files in base64 (kubeconfigs,
/// `dynamic-cert.json`); tokens and passwords of `token`, `passwd` and `ipsec.psk`; and
/// encryption keys. Looked for are the text as it stands, base64, hex and the bare bytes.
#[derive(Clone, Default)]
pub struct Secrets {
    /// By first bytes: the rest of a secret, and where it was read.
    needles: BTreeMap<[u8; SHORTEST], Vec<(Vec<u8>, String)>>,
}

impl Secrets {
    /// The secrets in every regular file below `folder`; links are not followed.
    pub fn below(folder: impl AsRef<Path>) -> Self {
        let mut secrets = Self::default();
        secrets.add_below(folder);
        secrets
    }

    /// Adds the secrets below another folder: staged keys, backups, the tree after a rotation.
    pub fn add_below(&mut self, folder: impl AsRef<Path>) {
        for path in files(folder.as_ref()) {
            let bytes = fs::read(&path)
                .unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()));
            let name = path
                .file_name()
                .map(|name| name.to_string_lossy().into_owned());
            self.add(
                name.as_deref().unwrap_or_default(),
                &bytes,
                &path.display().to_string(),
            );
        }
    }

    /// Adds one secret, such as a token given on the command line.
    pub fn add_secret(&mut self, secret: &[u8], found_in: &str) {
        if let Some(start) = secret.first_chunk::<SHORTEST>() {
            let list = self.needles.entry(*start).or_default();
            if !list.iter().any(|(known, _)| known == secret) {
                list.push((secret.to_vec(), found_in.to_owned()));
            }
        }
    }

    /// How many different texts are looked for.
    pub fn count(&self) -> usize {
        self.needles.values().map(Vec::len).sum()
    }

    /// Where the secrets that `bytes` contains were read; the secrets themselves are not told.
    pub fn leaks(&self, bytes: &[u8]) -> Vec<&str> {
        let mut leaks = Vec::new();
        for (at, window) in bytes.windows(SHORTEST).enumerate() {
            let Some(list) = window
                .first_chunk()
                .and_then(|start| self.needles.get(start))
            else {
                continue;
            };
            let rest = bytes.get(at..).unwrap_or_default();
            leaks.extend(
                list.iter()
                    .filter(|(secret, _)| rest.starts_with(secret))
                    .map(|(_, found_in)| found_in.as_str()),
            );
        }
        leaks.sort_unstable();
        leaks.dedup();
        leaks
    }

    /// Fails the test if `bytes`, which a reader knows as `what`, contains a secret.
    #[track_caller]
    pub fn assert_absent(&self, what: &str, bytes: impl AsRef<[u8]>) {
        assert!(
            self.count() > 0,
            "no secret is known: nothing would be found"
        );
        let leaks = self.leaks(bytes.as_ref());
        assert!(
            leaks.is_empty(),
            "{what} contains secrets of {}",
            leaks.join(", ")
        );
    }

    /// Fails the test if any regular file below `folder` contains a secret, `except` those for
    /// which it says so: staged keys, backups.
    #[track_caller]
    pub fn assert_absent_below(&self, folder: impl AsRef<Path>, except: impl Fn(&Path) -> bool) {
        for path in files(folder.as_ref())
            .into_iter()
            .filter(|path| !except(path))
        {
            let bytes = fs::read(&path)
                .unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()));
            self.assert_absent(&path.display().to_string(), bytes);
        }
    }

    fn add(&mut self, name: &str, bytes: &[u8], found_in: &str) {
        let text = String::from_utf8_lossy(bytes);
        self.add_keys(&text, found_in);
        for run in text.split(|c: char| !(c.is_ascii_alphanumeric() || "+/=".contains(c))) {
            let decoded = (run.len() >= 64)
                .then(|| STANDARD.decode(run).ok())
                .flatten();
            if let Some(decoded) = decoded {
                self.add_keys(&String::from_utf8_lossy(&decoded), found_in);
            }
        }
        for key in text.split("\"secret\":\"").skip(1) {
            self.add_secret(
                key.split('"').next().unwrap_or_default().as_bytes(),
                found_in,
            );
        }
        for line in text.lines() {
            let secret = match name {
                // K10<hash>::user:password, or the bare password
                "token" | "agent-token" | "node-token" => line.rsplit(':').next(),
                "passwd" => line.split(',').next(),
                "ipsec.psk" => Some(line),
                _ => None,
            };
            self.add_secret(secret.unwrap_or_default().as_bytes(), found_in);
        }
    }

    /// Adds the private keys in PEM `text`.
    fn add_keys(&mut self, text: &str, found_in: &str) {
        for block in text.split("-----BEGIN ").skip(1) {
            let Some((label, rest)) = block.split_once("-----") else {
                continue;
            };
            let Some((body, _)) = rest.split_once("-----END ") else {
                continue;
            };
            let body: String = body.split_whitespace().collect();
            let (true, Ok(der)) = (label.ends_with("PRIVATE KEY"), STANDARD.decode(&body)) else {
                continue;
            };
            // Public halves may be shown: those of curves come last, a modulus comes first.
            let private = if der.len() <= EC_KEY {
                0..1
            } else {
                der.len() / 96..der.len() / 48
            };
            let lines = body.as_bytes().chunks(64).zip(der.chunks(48)).enumerate();
            for (_, (line, bytes)) in lines.filter(|(number, _)| private.contains(number)) {
                self.add_line(line, bytes, found_in);
            }
        }
    }

    /// Adds a line of PEM and the bytes that it stands for.
    fn add_line(&mut self, line: &[u8], bytes: &[u8], found_in: &str) {
        self.add_secret(line, found_in);
        self.add_secret(bytes, found_in);
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        self.add_secret(hex.as_bytes(), found_in);
        // As it stands in a kubeconfig: base64 of the PEM text, whatever the alignment.
        for shift in 0..3 {
            let line = line.get(shift..).unwrap_or_default();
            let whole = line.get(..line.len() / 3 * 3).unwrap_or_default();
            self.add_secret(STANDARD.encode(whole).as_bytes(), found_in);
        }
    }
}

/// Every regular file below `folder`.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(folder) = open.pop() {
        let entries = fs::read_dir(&folder)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .unwrap_or_else(|error| panic!("cannot list {}: {error}", folder.display()));
        for entry in entries {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => open.push(entry.path()),
                Ok(kind) if kind.is_file() => found.push(entry.path()),
                _ => {}
            }
        }
    }
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Fixture;

    #[test]
    fn finds_each_kind_in_each_form() {
        let fixture = Fixture::without_datastore("k3s-1.36-encryption-token-rotated");
        let secrets = Secrets::below(fixture.data_dir());
        let read = |path: &str| fs::read_to_string(fixture.data_dir().join(path)).unwrap();
        let ec = read("server/tls/client-admin.key");
        let body: String = ec.lines().filter(|line| !line.contains("---")).collect();
        let der = STANDARD.decode(&body).unwrap();
        let hex: String = der.iter().map(|byte| format!("{byte:02x}")).collect();
        for text in [
            ec.as_str(),
            &STANDARD.encode(&ec),
            &hex,
            &read("server/tls/service.key"),
        ] {
            let leak = format!("before {text} after");
            let leaks = secrets.leaks(leak.as_bytes());
            assert!(leaks.iter().any(|path| path.ends_with(".key")), "{leaks:?}");
        }
        assert!(!secrets.leaks(&der).is_empty(), "bare bytes");
        for path in [
            "token",
            "cred/passwd",
            "cred/ipsec.psk",
            "cred/encryption-config.json",
        ] {
            let leaks = secrets
                .leaks(read(&format!("server/{path}")).as_bytes())
                .len();
            assert!(leaks > 0, "{path}");
        }
        let listener = read("server/tls/dynamic-cert.json");
        assert!(!secrets.leaks(listener.as_bytes()).is_empty());
    }

    #[test]
    fn public_things_are_not_secrets() {
        for name in [
            "k3s-1.36-custom-ca",
            "k3s-1.36-new-root-forced",
            "k3s-1.21-sqlite",
        ] {
            let fixture = Fixture::without_datastore(name);
            let secrets = Secrets::below(fixture.data_dir());
            assert!(secrets.count() > 100, "{name}: {}", secrets.count());
            let certificates = files(&fixture.data_dir())
                .into_iter()
                .filter(|p| p.extension() == Some("crt".as_ref()));
            for path in certificates {
                secrets.assert_absent(&path.display().to_string(), fs::read(&path).unwrap());
            }
            for key in files(&fixture.data_dir())
                .iter()
                .filter(|p| p.extension() == Some("key".as_ref()))
            {
                let key = fs::read(key).unwrap();
                let public = crate::openssl_ok(&["pkey", "-pubout"], &key);
                secrets.assert_absent("a public key", public.stdout);
            }
        }
    }

    #[test]
    #[should_panic(expected = "no secret is known")]
    fn an_empty_search_is_a_mistake() {
        Secrets::default().assert_absent("nothing", b"");
    }

    #[test]
    #[should_panic(expected = "the journal contains secrets of --token")]
    fn a_leak_is_named_without_being_told() {
        let mut secrets = Secrets::default();
        secrets.add_secret(b"fixture-token-0123456789abcdef", "--token");
        secrets.assert_absent("the journal", "token=fixture-token-0123456789abcdef\n");
    }
}
