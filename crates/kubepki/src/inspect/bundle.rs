//! How the certificates of one file hang together.

use pki::Certificate;
use serde::Serialize;

/// Signatures are costly to check, so not more than this many certificates are compared.
const MOST: usize = 100;

/// Who signs whom among several certificates; numbers count certificates from 1, in file order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Bundle {
    /// How many certificates.
    pub certificates: usize,
    /// The first one is an end entity and no other is.
    pub leaf_first: bool,
    /// Each is signed by the next or by itself, and no self-signed CA stands before its own
    /// cross-certificate: an order that every TLS client accepts.
    pub in_order: bool,
    /// For each certificate the others (or itself) whose key signed it.
    pub signed_by: Vec<Vec<usize>>,
    /// The same and more in sentences.
    pub remarks: Vec<String>,
}

/// `None` for fewer than two.
pub(super) fn bundle(certificates: &[&Certificate]) -> Option<Bundle> {
    if certificates.len() < 2 {
        return None;
    }
    let considered = certificates
        .get(..MOST.min(certificates.len()))
        .unwrap_or_default();
    let signed_by: Vec<Vec<usize>> = considered
        .iter()
        .map(|certificate| signers(certificate, considered))
        .collect();
    let leaves = considered.iter().filter(|it| !it.is_ca()).count();
    let leaf_first = leaves == 1 && considered.first().is_some_and(|first| !first.is_ca());
    let follows = |(at, signers): (usize, &Vec<usize>)| {
        signers.contains(&(at + 2)) || signers.contains(&(at + 1)) || at + 1 == considered.len()
    };
    let before_cross = self_signed_before_cross(considered);
    let in_order = before_cross.is_empty() && signed_by.iter().enumerate().all(follows);
    let mut remarks = Vec::new();
    for (at, signers) in signed_by.iter().enumerate() {
        remarks.push(remark(at + 1, signers));
    }
    duplicates(considered, &mut remarks);
    same_names(considered, &mut remarks);
    for (root, cross) in before_cross {
        remarks.push(format!(
            "{root} stands before its cross-certificate {cross}: OpenSSL clients that trust only the \
             older CA stop at {root} and fail; put {cross} before {root}"
        ));
    }
    if leaves > 1 {
        remarks.push(format!("{leaves} of them are end entities: not a chain"));
    } else if leaves == 1 && !leaf_first {
        remarks.push("the end entity is not first, where servers and clients look for it".into());
    }
    if certificates.len() > MOST {
        remarks.push(format!("only the first {MOST} certificates were compared"));
    }
    Some(Bundle {
        certificates: certificates.len(),
        leaf_first,
        in_order,
        signed_by,
        remarks,
    })
}

fn signers(certificate: &Certificate, all: &[&Certificate]) -> Vec<usize> {
    let mut keys: Vec<&[u8]> = Vec::new();
    let mut found = Vec::new();
    for (at, other) in all.iter().enumerate() {
        // The name first: it is cheap.
        if other.subject().der() != certificate.issuer().der() {
            continue;
        }
        if keys.contains(&other.spki_der())
            || certificate.verify_signature(other.spki_der()).is_ok()
        {
            keys.push(other.spki_der());
            found.push(at + 1);
        }
    }
    found
}

fn remark(number: usize, signers: &[usize]) -> String {
    if signers.contains(&number) {
        return format!("{number} is self-signed");
    }
    match signers {
        [] => format!("{number} is signed by none of these"),
        [one] => format!("{number} is signed by {one}"),
        several => {
            let several: Vec<String> = several.iter().map(ToString::to_string).collect();
            format!("{number} is signed by the key of {}", several.join(" and "))
        }
    }
}

fn duplicates(all: &[&Certificate], remarks: &mut Vec<String>) {
    for (at, one) in all.iter().enumerate() {
        if let Some(first) = all
            .iter()
            .take(at)
            .position(|other| other.der() == one.der())
        {
            remarks.push(format!("{} is the same as {}", at + 1, first + 1));
        }
    }
}

/// Certificates of one CA key under several issuers: cross-certificates.
fn same_names(all: &[&Certificate], remarks: &mut Vec<String>) {
    for (at, one) in all.iter().enumerate().filter(|(_, it)| it.is_ca()) {
        let twin = all.iter().take(at).position(|other| {
            other.der() != one.der()
                && other.spki_der() == one.spki_der()
                && other.subject().der() == one.subject().der()
        });
        if let Some(twin) = twin {
            let (twin, number) = (twin + 1, at + 1);
            remarks.push(format!(
                "{twin} and {number} are the same CA under different issuers"
            ));
        }
    }
}

/// Pairs of a self-signed CA and a later cross-certificate of the same name and key. OpenSSL takes
/// the first issuer by name and does not come back to the second.
fn self_signed_before_cross(all: &[&Certificate]) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    for (at, root) in all
        .iter()
        .enumerate()
        .filter(|(_, it)| it.is_ca() && it.is_self_signed())
    {
        let cross = all.iter().skip(at + 1).position(|other| {
            !other.is_self_issued()
                && other.spki_der() == root.spki_der()
                && other.subject().der() == root.subject().der()
        });
        found.extend(cross.map(|further| (at + 1, at + further + 2)));
    }
    found
}
