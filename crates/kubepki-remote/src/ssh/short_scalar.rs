//! P-256 keys that `ssh-key` does not read: OpenSSH writes the scalar as an `mpint` (RFC 4251,
//! section 5), without its leading zeros, so that one key in 512 is shorter than 32 octets; the
//! library takes the length of the curve alone.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use russh::keys::{Error, PrivateKey};
use zeroize::Zeroizing;

const BEGIN: &str = "-----BEGIN OPENSSH PRIVATE KEY-----";
const END: &str = "-----END OPENSSH PRIVATE KEY-----";
/// What a file begins with, and how its fields follow: OpenSSH's `PROTOCOL.key`.
const MAGIC: &[u8] = b"openssh-key-v1\0";
/// How many keys a file holds.
const ONE: [u8; 4] = 1_u32.to_be_bytes();
const KIND: &[u8] = b"ecdsa-sha2-nistp256";
const SCALAR: usize = 32;
/// What an unencrypted private section is a multiple of.
const BLOCK: usize = 8;

/// Reads a key in any of the formats, as [`russh::keys::decode_secret_key`], and these keys too.
///
/// # Errors
///
/// The library's.
pub(super) fn decode(text: &str, passphrase: Option<&str>) -> Result<PrivateKey, Error> {
    russh::keys::decode_secret_key(text, passphrase).or_else(|error| {
        let whole = whole(text, passphrase).ok_or(error)?;
        Ok(PrivateKey::from_bytes(&whole)?)
    })
}

/// The container, decrypted and with all of the scalar's zeros, if it is one with such a key.
fn whole(text: &str, passphrase: Option<&str>) -> Option<Zeroizing<Vec<u8>>> {
    let (_, body) = text.split_once(BEGIN)?;
    let (body, _) = body.split_once(END)?;
    let mut line = Zeroizing::new(String::with_capacity(body.len()));
    line.extend(body.split_whitespace());
    let container = Zeroizing::new(STANDARD.decode(line.as_str()).ok()?);

    let mut rest = container.strip_prefix(MAGIC)?;
    let cipher = field(&mut rest)?;
    let (_kdf, _options) = (field(&mut rest)?, field(&mut rest)?);
    if rest.split_off(..4)? != ONE {
        return None;
    }
    let public = field(&mut rest)?;
    if field(&mut { public })? != KIND {
        return None;
    }
    let mut section = Zeroizing::new(field(&mut rest)?.to_vec());
    if cipher != b"none" {
        decrypt(&container, passphrase?, &mut section, rest)?;
    }

    let section = padded(&section)?;
    let mut whole = Zeroizing::new(Vec::with_capacity(container.len() + section.len()));
    whole.extend_from_slice(MAGIC);
    for part in [b"none".as_slice(), b"none", b""] {
        put(&mut whole, part);
    }
    whole.extend_from_slice(&ONE);
    put(&mut whole, public);
    put(&mut whole, &section);
    Some(whole)
}

/// Decrypts the private section; `tag` is what follows it where the cipher is an AEAD.
fn decrypt(container: &[u8], passphrase: &str, section: &mut [u8], tag: &[u8]) -> Option<()> {
    let locked = PrivateKey::from_bytes(container).ok()?;
    let cipher = locked.cipher();
    let (key, iv) = locked.kdf().derive_key_and_iv(cipher, passphrase).ok()?;
    let tag = if cipher.has_tag() {
        Some(tag.try_into().ok()?)
    } else {
        None
    };
    cipher.decrypt(&key, &iv, section, tag).ok()
}

/// The private section with a scalar of [`SCALAR`] octets, if it has a shorter one.
fn padded(section: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let mut rest = section;
    let (check, again) = (rest.split_off(..4)?, rest.split_off(..4)?);
    let (kind, curve, point) = (field(&mut rest)?, field(&mut rest)?, field(&mut rest)?);
    let (scalar, comment) = (field(&mut rest)?, field(&mut rest)?);
    if check != again || kind != KIND || scalar.len() >= SCALAR {
        return None;
    }
    let mut all = Zeroizing::new([0; SCALAR]);
    let zeros = SCALAR - scalar.len();
    all.get_mut(zeros..)?.copy_from_slice(scalar);

    let mut padded = Zeroizing::new(Vec::with_capacity(section.len() + SCALAR + 2 * BLOCK));
    padded.extend_from_slice(check);
    padded.extend_from_slice(again);
    for part in [kind, curve, point, all.as_slice(), comment] {
        put(&mut padded, part);
    }
    for octet in 1_u8.. {
        if padded.len().is_multiple_of(BLOCK) {
            break;
        }
        padded.push(octet);
    }
    Some(padded)
}

/// Takes a field off the front: its length in four octets, then itself.
fn field<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = rest.split_off(..4)?.try_into().ok()?;
    rest.split_off(..usize::try_from(u32::from_be_bytes(length)).ok()?)
}

fn put(out: &mut Vec<u8>, field: &[u8]) {
    let length = u32::try_from(field.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(field);
}
