//! OpenSSH's `known_hosts` (sshd(8), SSH_KNOWN_HOSTS FILE FORMAT), judged as OpenSSH 9 judges it.

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use russh::keys::{Algorithm, PublicKey};

/// What stands before the host names of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Marker {
    /// Nothing: the key is the host's.
    None,
    /// `@cert-authority`: the key signs hosts' certificates.
    Authority,
    /// `@revoked`: the key must never be accepted.
    Revoked,
}

/// A line about the host in question.
#[derive(Clone, Debug)]
pub(super) struct Line {
    pub(super) marker: Marker,
    pub(super) key: PublicKey,
    /// Index of the file, as given.
    pub(super) file: usize,
    /// From 1.
    pub(super) number: usize,
}

/// What the lines say about a key that a host showed.
#[derive(Clone, Debug)]
pub(super) enum Verdict {
    /// It is the host's.
    Known,
    /// It is revoked, in this line.
    Revoked(Line),
    /// The host has another key, in this line.
    Changed(Line),
    /// The host has no key of its own; certificates of this authority would do.
    AuthorityOnly(Line),
    /// Nothing is known of the host.
    Unknown,
}

/// The name under which a host is looked up: `[host]:port` unless the port is 22.
pub(super) fn name_of(host: &str, port: u16) -> String {
    let host = host.to_lowercase();
    if port == 22 {
        host
    } else {
        format!("[{host}]:{port}")
    }
}

/// The lines of `text` that name `host`. Lines that OpenSSH does not understand are passed over
/// here as there.
pub(super) fn lines_for(text: &str, file: usize, host: &str) -> Vec<Line> {
    let parsed = text.lines().enumerate();
    parsed
        .filter_map(|(index, line)| parse(line, host, file, index + 1))
        .collect()
}

fn parse(line: &str, host: &str, file: usize, number: usize) -> Option<Line> {
    let line = line.trim_matches([' ', '\t', '\r', '\n']);
    if line.is_empty() || line.starts_with('#') {
        return None;
    }
    let mut words = line.split([' ', '\t']).filter(|word| !word.is_empty());
    let mut names = words.next()?;
    let marker = match names {
        "@cert-authority" => Marker::Authority,
        "@revoked" => Marker::Revoked,
        other if other.starts_with('@') => return None,
        _ => Marker::None,
    };
    if marker != Marker::None {
        names = words.next()?;
    }
    if !is_named(host, names) {
        return None;
    }
    let (kind, key) = (words.next()?, words.next()?);
    let key = PublicKey::from_openssh(&format!("{kind} {key}")).ok()?;
    Some(Line {
        marker,
        key,
        file,
        number,
    })
}

/// Whether the first field of a line names `host`, which is in lower case.
fn is_named(host: &str, names: &str) -> bool {
    if let Some(hashed) = names.strip_prefix("|1|") {
        return is_hash_of(host, hashed).unwrap_or(false);
    }
    let mut named = false;
    for pattern in names.split(',') {
        let (negated, pattern) = match pattern.strip_prefix('!') {
            Some(rest) => (true, rest),
            None => (false, pattern),
        };
        if matches(host.as_bytes(), pattern.to_lowercase().as_bytes()) {
            if negated {
                return false;
            }
            named = true;
        }
    }
    named
}

/// `SALT|HASH`, both base64: HMAC-SHA-1 of the name under the salt.
fn is_hash_of(host: &str, hashed: &str) -> Option<bool> {
    let (salt, hash) = hashed.split_once('|')?;
    let salt = STANDARD.decode(salt).ok()?;
    let hash = STANDARD.decode(hash).ok()?;
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &salt);
    Some(hmac::verify(&key, host.as_bytes(), &hash).is_ok())
}

/// `*` is any run of letters, `?` any one. Linear in the pattern for each letter.
fn matches(mut text: &[u8], mut pattern: &[u8]) -> bool {
    // Where to go on when the run that the last star stands for must be longer.
    let mut again: Option<(&[u8], &[u8])> = None;
    loop {
        match (pattern.split_first(), text.split_first()) {
            (Some((b'*', rest)), _) => {
                again = Some((text, rest));
                pattern = rest;
            }
            (Some((letter, rest)), Some((found, left))) if *letter == b'?' || letter == found => {
                (pattern, text) = (rest, left);
            }
            (None, None) => return true,
            _ => {
                let Some((from, rest)) = again else {
                    return false;
                };
                let Some((_, left)) = from.split_first() else {
                    return false;
                };
                again = Some((left, rest));
                (pattern, text) = (rest, left);
            }
        }
    }
}

/// Judges `key`. `lines` are those for the host's name with its port, `plain` those for the name
/// alone where the port is not 22: a matching key there will do, as in OpenSSH.
pub(super) fn judge(key: &PublicKey, lines: &[Line], plain: &[Line]) -> Verdict {
    match judge_one(key, lines) {
        Verdict::Unknown | Verdict::AuthorityOnly(_)
            if matches!(judge_one(key, plain), Verdict::Known) =>
        {
            Verdict::Known
        }
        verdict => verdict,
    }
}

fn judge_one(key: &PublicKey, lines: &[Line]) -> Verdict {
    let same = |line: &&Line| line.key.key_data() == key.key_data();
    let of = |marker| lines.iter().filter(move |line| line.marker == marker);
    if let Some(line) = of(Marker::Revoked).find(same) {
        return Verdict::Revoked(line.clone());
    }
    if of(Marker::None).any(|line| same(&line)) {
        return Verdict::Known;
    }
    // The line with a key of the same kind is the one that the operator has to look at.
    let kind = key.algorithm();
    let other = of(Marker::None).find(|line| line.key.algorithm() == kind);
    if let Some(line) = other.or_else(|| of(Marker::None).next()) {
        return Verdict::Changed(line.clone());
    }
    match of(Marker::Authority).next() {
        Some(line) => Verdict::AuthorityOnly(line.clone()),
        None => Verdict::Unknown,
    }
}

/// `all` with the kinds of the host's known keys first: the host has one of them, or is not the
/// one we know.
pub(super) fn known_first(all: &[Algorithm], lines: &[Line]) -> Vec<Algorithm> {
    let known = |algorithm: &&Algorithm| {
        lines.iter().any(|line| {
            let kind = line.key.algorithm();
            let rsa = |kind: &Algorithm| matches!(kind, Algorithm::Rsa { .. });
            let same = kind == **algorithm || (rsa(&kind) && rsa(algorithm));
            line.marker == Marker::None && same
        })
    };
    let (mut first, rest): (Vec<_>, Vec<_>) = all.iter().partition(known);
    first.extend(rest);
    first.into_iter().cloned().collect()
}
