//! A refusal in the words of Go's `crypto/x509`, for logs that are compared with Kubernetes' own.

use super::path::check_alone;
use super::path::{Role, Search, stands_in};
use super::{Identity, Options, Path, Reason, check_whole};
use crate::{Certificate, Error, KeyAlgorithm, UnixTime, public_key_algorithm};

/// What Go 1.26's `Certificate.Verify` says where [`super::verify`] finds no path; `None` where
/// there is one. Moments are in UTC; Go writes the present one in the local time zone.
///
/// Go's answer is that of the last candidate that was out of its time, or else "unknown
/// authority" with the first thing that was wrong, so it depends on the order of the bundles.
/// The two details that are not Go's own: which name a name constraint refuses, and policies.
pub fn go_words(
    leaf: &Certificate,
    intermediates: &[Certificate],
    roots: &[Certificate],
    options: &Options<'_>,
) -> Option<String> {
    if let Err(reason) = check_alone(leaf, options.at) {
        return Some(standing(&reason));
    }
    let candidates = match roots.contains(leaf) {
        true => vec![Path::of(vec![leaf])],
        false => {
            let mut walk = Walk {
                search: Search::new(intermediates, roots, options),
            };
            match walk.extend(&mut vec![leaf], leaf) {
                Some(words) if walk.search.found.is_empty() => return Some(words),
                _ => walk.search.found,
            }
        }
    };
    unusable(&candidates, options)
}

/// Nothing about certificates may be asked of whole paths; this is what Go then says.
fn unusable(candidates: &[Path<'_>], options: &Options<'_>) -> Option<String> {
    let mut incompatible = false;
    let mut constrained = None;
    for path in candidates {
        match check_whole(path, options).map_err(|error| error.reason) {
            Ok(()) => return None,
            Err(Reason::PurposeExcluded { .. }) => incompatible = true,
            Err(reason) => constrained = constrained.or(Some(reason)),
        }
    }
    Some(match constrained {
        Some(reason) => format!(
            "x509: a root or intermediate certificate is not authorized to sign for this name: \
             {reason}"
        ),
        None if incompatible => "x509: certificate specifies an incompatible key usage".to_owned(),
        None => "x509: no valid chains built".to_owned(),
    })
}

/// Go's `buildChains`, for its errors.
struct Walk<'a> {
    search: Search<'a>,
}

impl<'a> Walk<'a> {
    /// `None` when a path was found below `child`.
    fn extend(
        &mut self,
        path: &mut Vec<&'a Certificate>,
        child: &'a Certificate,
    ) -> Option<String> {
        let found_before = self.search.found.len();
        let mut hint = None;
        let mut words = None;
        'candidates: for role in [Role::Root, Role::Intermediate] {
            for candidate in self.search.candidates(role, child) {
                if self.search.checks_left == 0 {
                    self.search.gave_up = true;
                    words = Some(
                        "x509: signature check attempts limit reached while verifying \
                         certificate chain"
                            .to_owned(),
                    );
                    break 'candidates;
                }
                self.search.checks_left -= 1;
                if stands_in(candidate, path) {
                    continue;
                }
                match self.search.check(role, candidate, child, path.len() - 1) {
                    Err(reason) if is_of_signature(&reason, candidate) => {
                        let words = signed(&reason, candidate);
                        hint.get_or_insert((words, candidate));
                        continue;
                    }
                    Err(reason) => {
                        let own = standing(&reason);
                        hint.get_or_insert((own.clone(), candidate));
                        words = Some(own);
                        continue;
                    }
                    Ok(()) => words = None,
                }
                path.push(candidate);
                match role {
                    Role::Root => self.search.found.push(Path::of(path.clone())),
                    Role::Intermediate => words = self.extend(path, candidate),
                }
                path.pop();
                if self.search.gave_up {
                    break 'candidates;
                }
            }
        }
        if self.search.found.len() > found_before {
            return None;
        }
        Some(words.unwrap_or_else(|| unknown_authority(hint)))
    }
}

fn unknown_authority(hint: Option<(String, &Certificate)>) -> String {
    let words = "x509: certificate signed by unknown authority";
    let Some((why, certificate)) = hint else {
        return words.to_owned();
    };
    let subject = certificate.subject();
    let name = match (subject.common_name(), subject.organizations().first()) {
        (Some(name), _) if !name.is_empty() => name.to_owned(),
        (_, Some(organization)) => (*organization).to_owned(),
        _ => format!(
            "serial:{}",
            decimal(&Identity::of(certificate).serial.to_string())
        ),
    };
    format!(
        "{words} (possibly because of {why:?} while trying to verify candidate authority \
         certificate {name:?})"
    )
}

/// Hex digits as a decimal number.
fn decimal(hex: &str) -> String {
    let mut digits = vec![0_u8];
    for nibble in hex.chars().filter_map(|letter| letter.to_digit(16)) {
        let mut carry = nibble;
        for digit in &mut digits {
            carry += u32::from(*digit) * 16;
            *digit = u8::try_from(carry % 10).unwrap_or(0);
            carry /= 10;
        }
        while carry > 0 {
            digits.push(u8::try_from(carry % 10).unwrap_or(0));
            carry /= 10;
        }
    }
    let letters = digits.iter().rev().map(|digit| char::from(b'0' + digit));
    letters.collect()
}

/// Go looks at the signature before anything else of a candidate, and remembers only the first
/// such error.
fn is_of_signature(reason: &Reason, issuer: &Certificate) -> bool {
    match reason {
        Reason::Signature { .. } | Reason::NoCertSign => true,
        Reason::NotACa => issuer.version() == 3 || issuer.basic_constraints().is_some(),
        _ => false,
    }
}

/// The words of `CheckSignatureFrom`.
fn signed(reason: &Reason, issuer: &Certificate) -> String {
    let Reason::Signature { error, .. } = reason else {
        return "x509: invalid signature: parent certificate cannot sign this kind of certificate"
            .to_owned();
    };
    let key = public_key_algorithm(issuer.spki_der());
    let unimplemented = "x509: cannot verify signature: algorithm unimplemented";
    let Error::UnsupportedSignature { algorithm } = error else {
        return match key {
            Some(KeyAlgorithm::Rsa(_)) => "crypto/rsa: verification error",
            Some(KeyAlgorithm::Ed25519) => "x509: Ed25519 verification failure",
            Some(_) => "x509: ECDSA verification failure",
            None => unimplemented,
        }
        .to_owned();
    };
    let insecure = match algorithm.as_str() {
        "sha1WithRSAEncryption" | "1.3.14.3.2.29" => "SHA1-RSA",
        "ecdsa-with-SHA1" => "ECDSA-SHA1",
        "1.2.840.113549.1.1.4" => "MD5-RSA",
        "1.2.840.10040.4.3" => "DSA-SHA1",
        _ => "",
    };
    if !insecure.is_empty() {
        return format!("x509: cannot verify signature: insecure algorithm {insecure}");
    }
    let signer = match algorithm.as_str() {
        name if name.starts_with("ecdsa-with-") => "ECDSA",
        name if name.starts_with("sha") && name.contains("RSA") => "RSA",
        name if name.starts_with("rsassaPss") => "RSA",
        "Ed25519" => "Ed25519",
        _ => return unimplemented.to_owned(),
    };
    let holder = match key {
        Some(KeyAlgorithm::Rsa(_)) => "*rsa.PublicKey",
        Some(KeyAlgorithm::Ed25519) => "ed25519.PublicKey",
        Some(_) => "*ecdsa.PublicKey",
        None => return unimplemented.to_owned(),
    };
    format!(
        "x509: signature algorithm specifies an {signer} public key, but have public key of \
         type {holder}"
    )
}

/// The words of `isValid`.
fn standing(reason: &Reason) -> String {
    let out_of_time = |at: &UnixTime, side: &str, limit: &UnixTime| {
        format!(
            "x509: certificate has expired or is not yet valid: current time {at} is {side} \
             {limit}"
        )
    };
    match reason {
        Reason::UnknownCritical(_) => "x509: unhandled critical extension".to_owned(),
        Reason::NotYetValid { at, not_before } => out_of_time(at, "before", not_before),
        Reason::Expired { at, not_after } => out_of_time(at, "after", not_after),
        Reason::NotACa => {
            "x509: certificate is not authorized to sign other certificates".to_owned()
        }
        Reason::PathTooLong { .. } => {
            "x509: too many intermediates for path length constraint".to_owned()
        }
        other => format!("x509: {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::decimal;

    #[test]
    fn serials_are_written_in_tens() {
        for (hex, tens) in [("00", "0"), ("ff", "255"), ("0100", "256")] {
            assert_eq!(decimal(hex), tens);
        }
        assert_eq!(decimal("ffffffffffffffffff"), "4722366482869645213695");
    }
}
