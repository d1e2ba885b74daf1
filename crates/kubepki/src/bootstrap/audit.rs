//! Whether the data are whole: each file that K3s's start reads is there, can be read, and fits
//! the others.

use pki::verify::{Options, verify};
use pki::{Certificate, PrivateKey, Purpose, UnixTime};
use serde::Serialize;

use super::{Bundle, Field};
use crate::init::{NODE, Passwd, SERVER};

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Flaw {
    /// Worth knowing.
    Note,
    /// Servers that start with it fail, or make what no other server has.
    Broken,
}

/// Something about one file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Audit {
    /// The file's name in the data.
    pub name: &'static str,
    /// How bad it is.
    pub flaw: Flaw,
    /// What is the matter.
    pub problem: String,
}

/// Looks at every file of the data; nothing to say means that they are whole.
pub fn audit(bundle: &Bundle, now: UnixTime) -> Vec<Audit> {
    let mut found = Vec::new();
    let mut say = |field: Field, flaw: Flaw, problem: String| {
        found.push(Audit {
            name: field.name(),
            flaw,
            problem,
        });
    };
    for field in Field::ALL {
        match bundle.content(field) {
            Some([]) => say(field, Flaw::Broken, "is empty".to_owned()),
            None if !field.is_optional() => say(field, Flaw::Broken, missing(field)),
            Some(_) | None => {}
        }
    }
    for (certificate, key) in Field::AUTHORITIES {
        authority(bundle, certificate, key, now, &mut say);
    }
    if let Some(content) = filled(bundle, Field::ServiceKey)
        && let Err(error) = PrivateKey::all_from_pem(content)
    {
        let problem = format!("cannot be read: {error}");
        say(Field::ServiceKey, Flaw::Broken, problem);
    }
    if let Some(content) = filled(bundle, Field::PasswdFile)
        && let Err(problem) = users(content)
    {
        say(Field::PasswdFile, Flaw::Broken, problem);
    }
    if let Some(content) = filled(bundle, Field::EncryptionConfig)
        && serde_json::from_slice::<serde::de::IgnoredAny>(content).is_err()
    {
        let problem = "is no JSON".to_owned();
        say(Field::EncryptionConfig, Flaw::Broken, problem);
    }
    let halves = [Field::EncryptionConfig, Field::EncryptionHash].map(|it| bundle.content(it));
    if let [Some(_), None] | [None, Some(_)] = halves {
        let problem = "of secrets encryption one file is there and the other is not".to_owned();
        say(Field::EncryptionConfig, Flaw::Note, problem);
    }
    found
}

fn missing(field: Field) -> String {
    format!(
        "is missing: a server without {} makes its own",
        field.path().display()
    )
}

fn filled(bundle: &Bundle, field: Field) -> Option<&[u8]> {
    bundle.content(field).filter(|content| !content.is_empty())
}

fn users(content: &[u8]) -> Result<(), String> {
    let text = str::from_utf8(content).map_err(|_| "is not UTF-8 text".to_owned())?;
    let passwd = Passwd::parse(text).map_err(|error| format!("cannot be read: {error}"))?;
    for (user, _) in [SERVER, NODE] {
        if passwd.password(user).is_none() {
            return Err(format!("has no user {user}"));
        }
    }
    Ok(())
}

/// One CA: its file can be read, its key is the first certificate's, and it leads to a root.
fn authority(
    bundle: &Bundle,
    field: Field,
    key: Field,
    now: UnixTime,
    say: &mut impl FnMut(Field, Flaw, String),
) {
    let Some(content) = filled(bundle, field) else {
        return;
    };
    let certificates = match Certificate::all_from_pem(content) {
        Ok(certificates) => certificates,
        Err(error) => return say(field, Flaw::Broken, format!("cannot be read: {error}")),
    };
    let Some(first) = certificates.first() else {
        return say(field, Flaw::Broken, "holds no certificate".to_owned());
    };
    if !first.is_ca() {
        let problem = format!("begins with {}, which is no CA", first.subject());
        say(field, Flaw::Broken, problem);
    }
    if let Some(content) = filled(bundle, key) {
        match PrivateKey::from_pem(content) {
            Err(error) => say(key, Flaw::Broken, format!("cannot be read: {error}")),
            Ok(held) if held.spki_sha256() != first.spki_sha256() => {
                let problem = format!("is not the key of {}", first.subject());
                say(key, Flaw::Broken, problem);
            }
            Ok(_) => {}
        }
    }
    let (roots, intermediates): (Vec<_>, Vec<_>) = certificates
        .iter()
        .cloned()
        .partition(Certificate::is_self_issued);
    let options = Options::at(now).purposes(&[Purpose::Any]);
    // Mostly the first certificate's own issuer is a root, and the other paths need no look.
    let leads = verify(first, &[], &roots, &options)
        .or_else(|_| verify(first, &intermediates, &roots, &options));
    if let Err(error) = leads {
        let problem = format!("does not lead to a root in the same file: {error}");
        say(field, Flaw::Broken, problem);
    }
}
