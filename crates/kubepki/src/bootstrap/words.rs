//! A file of the bootstrap data in words, without its secrets.

use pki::{Certificate, PrivateKey};
use serde::Serialize;

use super::{Field, SharedFile};
use crate::init::Passwd;

/// A file as reports show it. Nothing in it is secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Seen {
    /// Its modification time, RFC 3339.
    pub time: String,
    /// Its size in bytes.
    pub size: usize,
    /// SHA-256 of its bytes, hex; `None` for files whose content could be guessed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// What it is: subjects, keys, users.
    pub words: String,
}

/// What there is to say of a file.
pub fn describe(field: Field, file: &SharedFile) -> Seen {
    // A hash of passwords would let anybody try passwords against it.
    let guessable = matches!(field, Field::PasswdFile);
    let sha256 = (!guessable).then(|| pki::sha256(&file.content).to_string());
    Seen {
        time: file.stamp.to_string(),
        size: file.content.len(),
        sha256,
        words: words(field, &file.content),
    }
}

fn words(field: Field, content: &[u8]) -> String {
    if content.is_empty() {
        return "empty".to_owned();
    }
    match field {
        Field::ClientCa
        | Field::EtcdPeerCa
        | Field::EtcdServerCa
        | Field::RequestHeaderCa
        | Field::ServerCa => certificates(content),
        Field::ClientCaKey
        | Field::EtcdPeerCaKey
        | Field::EtcdServerCaKey
        | Field::RequestHeaderCaKey
        | Field::ServerCaKey
        | Field::ServiceKey => keys(content),
        Field::PasswdFile => users(content),
        Field::IpsecKey => "pre-shared key".to_owned(),
        Field::EncryptionConfig => "encryption configuration".to_owned(),
        Field::EncryptionHash => "state of secrets encryption".to_owned(),
    }
}

fn certificates(content: &[u8]) -> String {
    let all = match Certificate::all_from_pem(content) {
        Ok(all) => all,
        Err(error) => return format!("not certificates: {error}"),
    };
    let Some((first, behind)) = all.split_first() else {
        return "no certificate".to_owned();
    };
    let fingerprint = first.fingerprint().to_string();
    let validity = first.validity();
    let mut text = format!(
        "{} ({}…), {} to {}",
        first.subject(),
        fingerprint.get(..12).unwrap_or_default(),
        validity.not_before,
        validity.not_after
    );
    if !behind.is_empty() {
        let names: Vec<String> = behind.iter().map(|it| it.subject().to_string()).collect();
        text.push_str(&format!(", then {}", names.join(", ")));
    }
    text
}

fn keys(content: &[u8]) -> String {
    let all = match PrivateKey::all_from_pem(content) {
        Ok(all) => all,
        Err(error) => return format!("not a private key: {error}"),
    };
    let one = |key: &PrivateKey| {
        let spki = key.spki_sha256().to_string();
        let spki = spki.get(..12).unwrap_or_default();
        format!("{} (SPKI {spki}…)", key.algorithm())
    };
    let texts: Vec<String> = all.iter().map(one).collect();
    texts.join(", ")
}

fn users(content: &[u8]) -> String {
    let passwd = str::from_utf8(content).ok().map(Passwd::parse);
    match passwd {
        Some(Ok(passwd)) => format!("passwords of {}", passwd.users().join(", ")),
        Some(Err(error)) => format!("not K3s's list of users: {error}"),
        None => "not UTF-8 text".to_owned(),
    }
}
