//! What can be said of each file of a server, without what differs between any two servers.

use std::collections::BTreeMap;
use std::path::Path;

use kubepki::inventory::{Facts, Inventory, Observed, ObservedRow};
use kubepki::plan::FingerprintKind;
use pki::{Certificate, DAY, San};

/// Facts by name.
pub type Told = BTreeMap<&'static str, String>;

/// Everything told of a server's files, by row.
pub fn of(inventory: &Inventory) -> BTreeMap<&'static str, Told> {
    inventory
        .rows
        .iter()
        .map(|row| (row.row.id, row_facts(inventory, row)))
        .collect()
}

fn row_facts(inventory: &Inventory, row: &ObservedRow) -> Told {
    let mut told = file(inventory, &row.file);
    if let Some(key) = &row.key {
        told.extend(
            file(inventory, key)
                .into_iter()
                .map(|(name, value)| match name {
                    "mode" => ("mode of its key", value),
                    "file" => ("its key's file", value),
                    _ => (name, value),
                }),
        );
        let keys = key.keys().first().zip(row.file.first_certificate());
        let fits = keys.is_some_and(|(key, certificate)| key.spki == certificate.spki_sha256());
        told.insert("key matches", fits.to_string());
    }
    told
}

fn file(inventory: &Inventory, observed: &Observed) -> Told {
    let mut told = Told::new();
    let Some(present) = observed.present() else {
        return Told::from([("file", "absent".to_owned())]);
    };
    told.insert("file", "there".to_owned());
    told.insert(
        "mode",
        format!("{:04o}", present.fingerprint.attributes.mode),
    );
    match &present.facts {
        Facts::Certificates(certificates) => told.extend(chain(certificates)),
        Facts::Listener(listener) => {
            told.extend(chain(&listener.certificates));
            told.insert("wanted names", names(&listener.sans));
            told.insert("members", members(&observed.path));
        }
        Facts::Keys(keys) => {
            let kinds: Vec<String> = keys.iter().map(|key| key.algorithm.to_string()).collect();
            told.insert("keys", kinds.join(", "));
        }
        Facts::Link(to) => {
            told.insert("link to", by_k3s_name(inventory, &to.display().to_string()));
        }
        _ => {}
    }
    if let FingerprintKind::File(_) = present.fingerprint.kind {
        told.extend(text(inventory, &observed.path));
    }
    told
}

/// The names of a JSON object's members, and of those in its metadata.
fn members(path: &Path) -> String {
    let value: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let keys = |value: &serde_json::Value| -> Vec<String> {
        value.as_object().unwrap().keys().cloned().collect()
    };
    let metadata = keys(value.get("metadata").unwrap());
    format!(
        "{} (metadata: {})",
        keys(&value).join(", "),
        metadata.join(", ")
    )
}

/// What a file says that is text, with the data directory by K3s's own name.
fn text(inventory: &Inventory, path: &Path) -> Option<(&'static str, String)> {
    let text = std::fs::read_to_string(path).unwrap();
    if text.contains("-----BEGIN") || path.ends_with("dynamic-cert.json") {
        return None;
    }
    Some(("text", masked(&by_k3s_name(inventory, &text))))
}

fn by_k3s_name(inventory: &Inventory, text: &str) -> String {
    let own = inventory.site.data_dir.display().to_string();
    text.replace(&own, "/var/lib/rancher/k3s")
}

/// Without what is random or made from it: hex of 32 bytes and more, inlined PEM.
fn masked(text: &str) -> String {
    let mut masked = String::new();
    let mut word = String::new();
    for letter in text.chars().chain(['\0']) {
        if letter.is_ascii_alphanumeric() || "+/=".contains(letter) {
            word.push(letter);
            continue;
        }
        let hex = word.strip_prefix("K10").unwrap_or(&word);
        let is_hex = hex.len() >= 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit());
        match word.len() {
            _ if is_hex => masked.push_str(&format!("<hex of {} bytes>", hex.len() / 2)),
            201.. => masked.push_str("<base64>"),
            _ => masked.push_str(&word),
        }
        word.clear();
        masked.push(letter);
    }
    masked.trim_end_matches('\0').to_owned()
}

fn chain(certificates: &[Certificate]) -> Told {
    let Some(first) = certificates.first() else {
        return Told::new();
    };
    let mut told = Told::new();
    let (subject, stamp) = stamped(&first.subject().to_string());
    told.insert("subject", subject);
    told.insert("issuer", stamped(&first.issuer().to_string()).0);
    if let Some(stamp) = stamp {
        let offset = first.validity().not_before.as_secs() - stamp;
        told.insert("its name's moment", format!("notBefore {offset} s"));
    }
    told.insert("names", names(first.sans()));
    let purposes: Vec<String> = first.purposes().iter().map(ToString::to_string).collect();
    told.insert("purposes", purposes.join(", "));
    told.insert(
        "key usage",
        first
            .key_usage()
            .map_or("none".to_owned(), |it| it.to_string()),
    );
    told.insert("CA", format!("{:?}", first.basic_constraints()));
    let validity = first.validity();
    let span = validity.not_after.since(validity.not_before);
    told.insert(
        "validity",
        format!("{} days and {} s", span / DAY, span % DAY),
    );
    told.insert("serial number", serial(first));
    told.insert("subject key identifier", identifier(first));
    let next = certificates
        .get(1)
        .and_then(Certificate::subject_key_identifier);
    let authority = match first.authority_key_identifier() {
        None => "none",
        Some(found) if Some(found) == next => "the issuer's, octet for octet",
        Some(_) => "another's",
    };
    told.insert("authority key identifier", authority.to_owned());
    let kind = pki::public_key_algorithm(first.spki_der()).map(|kind| kind.to_string());
    told.insert("public key", kind.unwrap_or_default());
    let after = certificates.iter().skip(1);
    let after: Vec<String> = after
        .map(|it| stamped(&it.subject().to_string()).0)
        .collect();
    told.insert("certificates after it", after.join("; "));
    told
}

/// A CA's name without the seconds at its end, and those.
fn stamped(name: &str) -> (String, Option<i64>) {
    match name.rsplit_once('@') {
        Some((name, stamp)) => (format!("{name}@<seconds>"), stamp.parse().ok()),
        None => (name.to_owned(), None),
    }
}

fn names(sans: &[San]) -> String {
    // K3s repeats the loopback address where a node has it; order counts, repetition does not.
    let mut seen: Vec<String> = Vec::new();
    for san in sans.iter().map(ToString::to_string) {
        if !seen.contains(&san) {
            seen.push(san);
        }
    }
    seen.join(", ")
}

fn serial(certificate: &Certificate) -> String {
    let serial = certificate.serial();
    match (serial.is_conformant(), serial.octets().len()) {
        (false, _) => "0".to_owned(),
        (true, 16) => "positive, 127 bits".to_owned(),
        (true, _) => "positive, at most 63 bits".to_owned(),
    }
}

fn identifier(certificate: &Certificate) -> String {
    let Some(found) = certificate.subject_key_identifier() else {
        return "none".to_owned();
    };
    let text = certificate.spki_der();
    // The key bits are what follows the 26 bytes that P-256 keys begin with.
    let bits = text.get(26..).unwrap_or_default();
    let (one, two) = (pki::sha1(bits), pki::sha256(bits).0);
    match () {
        () if found == one => "SHA-1 of the key".to_owned(),
        () if found == two.get(..20).unwrap_or_default() => "SHA-256 of the key, cut".to_owned(),
        () => "20 octets".to_owned(),
    }
}
