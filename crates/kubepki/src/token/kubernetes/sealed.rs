//! Secrets that kube-apiserver has encrypted in its datastore, and the keys for them.
//!
//! ```text
//! k8s:enc:aescbc:v1:<key>:     IV (16), AES-CBC with PKCS#7 padding, unauthenticated
//! k8s:enc:secretbox:v1:<key>:  nonce (24), tag (16), XSalsa20-Poly1305 (NaCl's secretbox)
//! ```
//!
//! Those two are what K3s's `--secrets-encryption-provider` offers. Others that kube-apiserver
//! knows (`aesgcm`, `kms`) are named and left.

use aws_lc_rs::cipher::{
    AES_128, AES_192, AES_256, DecryptionContext, PaddedBlockDecryptingKey, UnboundCipherKey,
};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use poly1305::Poly1305;
use poly1305::universal_hash::KeyInit as _;
use salsa20::XSalsa20;
use salsa20::cipher::{KeyIvInit as _, StreamCipher as _};
use serde::Deserialize;
use zeroize::Zeroizing;

use super::secret::Unreadable;

/// How every encrypted value begins.
const MARK: &[u8] = b"k8s:enc:";
const AES_CBC: &str = "aescbc";
const SECRETBOX: &str = "secretbox";
/// Octets of an initialization vector.
const IV: usize = 16;
const NONCE: usize = 24;
const TAG: usize = 16;
/// Characters of what is told of an unknown encryption.
const SHOWN: usize = 60;

/// The keys by which a cluster's Secrets are encrypted in its datastore: K3s's
/// `cred/encryption-config.json`.
#[derive(Clone, Default)]
pub struct Encryption {
    keys: Vec<Key>,
    /// What is wrong with the file.
    problem: Option<String>,
}

#[derive(Clone)]
struct Key {
    /// What every value that it encrypted begins with.
    prefix: String,
    provider: Provider,
    bytes: Zeroizing<Vec<u8>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Provider {
    AesCbc,
    Secretbox,
}

impl std::fmt::Debug for Encryption {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Encryption({} keys)", self.keys.len())
    }
}

#[derive(Deserialize)]
struct Configuration {
    resources: Vec<Resources>,
}

#[derive(Deserialize)]
struct Resources {
    #[serde(default)]
    resources: Vec<String>,
    #[serde(default)]
    providers: Vec<Providers>,
}

#[derive(Deserialize)]
struct Providers {
    aescbc: Option<Keys>,
    secretbox: Option<Keys>,
}

#[derive(Deserialize)]
struct Keys {
    #[serde(default)]
    keys: Vec<Named>,
}

#[derive(Deserialize)]
struct Named {
    name: String,
    secret: String,
}

impl Encryption {
    /// The keys for Secrets in that file, whatever else it encrypts. A file that cannot be read
    /// has no keys: what is encrypted then says why it stays closed.
    pub fn of(file: &[u8]) -> Self {
        match serde_json::from_slice::<Configuration>(file) {
            Ok(configuration) => Self::with(configuration),
            // serde's error would quote the file.
            Err(error) => Self {
                keys: Vec::new(),
                problem: Some(format!(
                    "it is no EncryptionConfiguration in JSON (line {}, column {})",
                    error.line(),
                    error.column()
                )),
            },
        }
    }

    /// Where the file cannot be read at all.
    pub fn unreadable(problem: String) -> Self {
        Self {
            keys: Vec::new(),
            problem: Some(problem),
        }
    }

    fn with(configuration: Configuration) -> Self {
        let mut encryption = Self::default();
        let of_secrets = |it: &Resources| {
            let names = it.resources.iter().map(String::as_str);
            names
                .into_iter()
                .any(|it| ["secrets", "*.", "*.*"].contains(&it))
        };
        let resources = configuration.resources.into_iter().filter(of_secrets);
        for provider in resources.flat_map(|it| it.providers) {
            for (keys, name, provider) in [
                (provider.aescbc, AES_CBC, Provider::AesCbc),
                (provider.secretbox, SECRETBOX, Provider::Secretbox),
            ] {
                for key in keys.into_iter().flat_map(|it| it.keys) {
                    encryption.add(key, name, provider);
                }
            }
        }
        encryption
    }

    fn add(&mut self, key: Named, name: &str, provider: Provider) {
        let text = Zeroizing::new(key.secret);
        let bytes = STANDARD.decode(text.as_bytes()).map(Zeroizing::new);
        match bytes {
            Ok(bytes) if provider.takes(bytes.len()) => self.keys.push(Key {
                prefix: format!("k8s:enc:{name}:v1:{}:", key.name),
                provider,
                bytes,
            }),
            _ => {
                let key = shown(key.name.as_bytes());
                self.problem = Some(format!("its {name} key {key:?} is none"));
            }
        }
    }

    /// What kube-apiserver wrote before it encrypted it.
    ///
    /// # Errors
    ///
    /// [`Unreadable`]: another encryption, no key for it, or a key that does not fit.
    pub(super) fn open(&self, value: &[u8]) -> Result<Zeroizing<Vec<u8>>, Unreadable> {
        if !value.starts_with(MARK) {
            return Ok(Zeroizing::new(value.to_vec()));
        }
        let mut fits = false;
        // Two keys of one name are tried in turn, as kube-apiserver does.
        for key in &self.keys {
            if let Some(sealed) = value.strip_prefix(key.prefix.as_bytes()) {
                fits = true;
                if let Some(plain) = key.open(sealed) {
                    return Ok(plain);
                }
            }
        }
        let by = encryption_of(value);
        Err(match (fits, &self.problem) {
            (true, _) => Unreadable::WrongKey { by },
            (false, Some(problem)) => Unreadable::NoKeys {
                by,
                problem: problem.clone(),
            },
            (false, None) => Unreadable::NoKey { by },
        })
    }
}

/// `aescbc:v1:<key>` of an encrypted value: nothing of what follows.
fn encryption_of(value: &[u8]) -> String {
    let rest = value.strip_prefix(MARK).unwrap_or_default();
    let mut parts = rest.splitn(4, |byte| *byte == b':');
    let named: Vec<&[u8]> = parts.by_ref().take(3).collect();
    match parts.next() {
        Some(_) => shown(&named.join(&b':')),
        None => "something unknown".to_owned(),
    }
}

fn shown(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let plain = |it: char| if it.is_ascii_graphic() { it } else { '?' };
    text.chars().map(plain).take(SHOWN).collect()
}

impl Provider {
    fn takes(self, length: usize) -> bool {
        match self {
            Self::AesCbc => matches!(length, 16 | 24 | 32),
            Self::Secretbox => length == 32,
        }
    }
}

impl Key {
    /// `None` where the value is damaged or another key's.
    fn open(&self, sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        match self.provider {
            Provider::AesCbc => aes_cbc(&self.bytes, sealed),
            Provider::Secretbox => secretbox(&self.bytes, sealed),
        }
    }
}

fn aes_cbc(key: &[u8], sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let (iv, body) = sealed.split_first_chunk::<IV>()?;
    if body.is_empty() {
        return None;
    }
    let algorithm = match key.len() {
        16 => &AES_128,
        24 => &AES_192,
        _ => &AES_256,
    };
    let key = UnboundCipherKey::new(algorithm, key).ok()?;
    let key = PaddedBlockDecryptingKey::cbc_pkcs7(key).ok()?;
    let mut buffer = Zeroizing::new(body.to_vec());
    let context = DecryptionContext::Iv128((*iv).into());
    let length = key.decrypt(&mut buffer, context).ok()?.len();
    buffer.truncate(length);
    Some(buffer)
}

/// The first 32 octets of the key stream are the key of the tag, what follows hides the text.
fn secretbox(key: &[u8], sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let key: &[u8; 32] = key.try_into().ok()?;
    let (nonce, rest) = sealed.split_first_chunk::<NONCE>()?;
    let (tag, body) = rest.split_first_chunk::<TAG>()?;
    let mut stream = XSalsa20::new(key.into(), nonce.into());
    let mut tag_key = Zeroizing::new([0; 32]);
    stream.apply_keystream(tag_key.as_mut());
    let computed = Poly1305::new((&*tag_key).into()).compute_unpadded(body);
    verify_slices_are_equal(&computed, tag).ok()?;
    let mut buffer = Zeroizing::new(body.to_vec());
    stream.apply_keystream(&mut buffer);
    Some(buffer)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn unhex(text: &str) -> Vec<u8> {
        pki::unhex(text).unwrap()
    }

    /// Of NaCl's own tests (`tests/secretbox.c`): key, nonce, box and message.
    const NACL: [&str; 4] = [
        "1b27556473e985d462cd51197a9a46c76009549eac6474f206c4ee0844f68389",
        "69696ee955b62b73cd62bda875fc73d68219e0036b7a0b37",
        "f3ffc7703f9400e52a7dfb4b3d3305d98e993b9f48681273c29650ba32fc76ce48332ea7164d96a4476fb8c531a1\
         186ac0dfc17c98dce87b4da7f011ec48c97271d2c20f9b928fe2270d6fb863d51738b48eeee314a7cc8ab932164548\
         e526ae90224368517acfeabd6bb3732bc0e9da99832b61ca01b6de56244a9e88d5f9b37973f622a43d14a6599b1f65\
         4cb45a74e355a5",
        "be075fc53c81f2d5cf141316ebeb0c7b5228c52a4c62cbd44b66849b64244ffce5ecbaaf33bd751a1ac728d45e6c\
         61296cdc3c01233561f41db66cce314adb310e3be8250c46f06dceea3a7fa1348057e2f6556ad6b1318a024a838f21\
         af1fde048977eb48f59ffd4924ca1c60902e52f0a089bc76897040e082f937763848645e0705",
    ];

    #[test]
    fn secretboxes_open_as_nacl_closes_them() {
        let [key, nonce, sealed, message] = NACL.map(unhex);
        let whole = [nonce, sealed].concat();
        assert_eq!(secretbox(&key, &whole).unwrap().as_slice(), message);
        for at in [0, 23, 24, 39, 40, whole.len() - 1] {
            let mut changed = whole.clone();
            changed[at] ^= 1;
            assert!(secretbox(&key, &changed).is_none(), "octet {at}");
        }
        for length in [0, 24, 39] {
            assert!(secretbox(&key, &whole[..length]).is_none());
        }
    }

    const FILE: &str = r#"{"kind":"EncryptionConfiguration","apiVersion":"apiserver.config.k8s.io/v1",
        "resources":[{"resources":["secrets"],"providers":[
        {"secretbox":{"keys":[{"name":"box","secret":"BOX"}]}},
        {"aescbc":{"keys":[{"name":"one","secret":"CBC"},{"name":"short","secret":"AAAA"}]}},
        {"identity":{}}]},
        {"resources":["configmaps"],"providers":[{"aescbc":{"keys":[{"name":"else","secret":"CBC"}]}}]}]}"#;

    fn file() -> String {
        let secret = |byte| STANDARD.encode([byte; 32]);
        FILE.replace("BOX", &secret(7)).replace("CBC", &secret(9))
    }

    #[test]
    fn what_stays_closed_says_why() {
        let encryption = Encryption::of(file().as_bytes());
        assert!(!format!("{encryption:?}").contains("BwcH"));
        let why = |value: &[u8]| encryption.open(value).unwrap_err().to_string();
        for (value, word) in [
            (
                &b"k8s:enc:aescbc:v1:one:0123456789abcdef0123456789abcdef"[..],
                "aescbc:v1:one",
            ),
            (b"k8s:enc:aescbc:v1:one:0123456789abcdef", "does not open"),
            (b"k8s:enc:aescbc:v1:one:", "does not open"),
            (b"k8s:enc:secretbox:v1:box:short", "does not open"),
            (b"k8s:enc:secretbox:v1:other:x", "is none"),
            (b"k8s:enc:kms:v2:plugin:secret-text", "kms:v2:plugin"),
            (b"k8s:enc:aescbc:v1:else:x", "is none"),
            (b"k8s:enc:\xff\x1b:v1:\xff:x", "?"),
            (b"k8s:enc:secret-text", "something unknown"),
        ] {
            let said = why(value);
            assert!(
                said.contains(word) && !said.contains("secret-text"),
                "{said}"
            );
        }
        assert_eq!(encryption.open(b"plain").unwrap().as_slice(), b"plain");
    }

    #[test]
    fn a_file_that_is_none_has_no_keys_and_says_so_without_quoting_it() {
        for text in ["", "hunter2", "[]", r#"{"resources":"hunter2"}"#] {
            let encryption = Encryption::of(text.as_bytes());
            let error = encryption.open(b"k8s:enc:aescbc:v1:k:x").unwrap_err();
            let said = error.to_string();
            assert!(said.contains("no EncryptionConfiguration"), "{said}");
            assert!(!said.contains("hunter2"), "{said}");
        }
        let none = Encryption::default().open(b"k8s:enc:aescbc:v1:k:x");
        assert!(matches!(none, Err(Unreadable::NoKey { .. })));
    }

    proptest! {
        #[test]
        fn any_sealed_value_is_answered(
            provider in prop_oneof![Just("aescbc:v1:one:"), Just("secretbox:v1:box:"), Just("")],
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let encryption = Encryption::of(file().as_bytes());
            let value = [MARK, provider.as_bytes(), &bytes].concat();
            let _ = encryption.open(&value);
        }

        #[test]
        fn any_file_is_answered(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Encryption::of(&bytes);
        }
    }
}
