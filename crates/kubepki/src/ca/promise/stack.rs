//! How each library builds a path from what is presented to what is trusted.

use pki::verify::{Options, verify};
use pki::{Certificate, KeyUsage, UnixTime};

use super::{Refused, Stack};

/// Whether `stack` accepts `presented` (leaf first) when it trusts `trusted`.
///
/// # Errors
///
/// [`Refused`]: no path at all, or none that this library finds.
pub fn accepts(
    stack: Stack,
    presented: &[Certificate],
    trusted: &[Certificate],
    options: &Options<'_>,
) -> Result<(), Refused> {
    let Some((leaf, rest)) = presented.split_first() else {
        return Err(Refused::Nothing);
    };
    verify(leaf, rest, trusted, options).map_err(Refused::NoPath)?;
    // There is a path. Who does not look for all of them may still miss it.
    let way = match stack {
        Stack::Go | Stack::Rustls | Stack::Java => return Ok(()),
        Stack::OpenSsl => openssl(leaf, rest, trusted, options.at)?,
        Stack::GnuTls => gnutls(presented, trusted)?,
    };
    verify(leaf, &way.between, &way.anchors, options)
        .map(drop)
        .map_err(Refused::NoPath)
}

/// The only path that a library looks at.
struct Way {
    between: Vec<Certificate>,
    anchors: Vec<Certificate>,
}

/// `build_chain` of OpenSSL 3 (`crypto/x509/x509_vfy.c`) with trusted-first, its default: step by
/// step an issuer by name, from the trust bundle if it has one, else from what was presented. Once
/// it is in the trust bundle it stays there. The end has to be self-signed.
fn openssl(
    leaf: &Certificate,
    rest: &[Certificate],
    trusted: &[Certificate],
    at: UnixTime,
) -> Result<Way, Refused> {
    let astray = |end: &Certificate, problem| Refused::Astray {
        stack: Stack::OpenSsl,
        end: end.subject().to_string(),
        problem,
    };
    let mut chain = vec![leaf];
    let mut presented: Vec<&Certificate> = rest.iter().collect();
    let store: Vec<&Certificate> = trusted.iter().collect();
    let mut on_the_wire = true;
    let mut current = leaf;
    loop {
        let in_store = first_issuer(&store, current, at);
        match in_store {
            Some(issuer) if is_root(current) => {
                // A served root counts only if it is the trusted one, octet for octet.
                if issuer != current {
                    return Err(astray(current, "self-signed and not trusted"));
                }
                break;
            }
            Some(issuer) => {
                on_the_wire = false;
                if chain.contains(&issuer) {
                    return Err(astray(current, "part of a circle"));
                }
                chain.push(issuer);
                current = issuer;
                if is_root(issuer) {
                    break;
                }
                continue;
            }
            None if is_root(current) => {
                return Err(astray(current, "self-signed and not trusted"));
            }
            None if !on_the_wire => {
                return Err(astray(current, "trusted without the root above it"));
            }
            None => {}
        }
        let Some(issuer) = first_issuer(&presented, current, at) else {
            return Err(astray(current, "without an issuer"));
        };
        presented.retain(|other| *other != issuer);
        chain.push(issuer);
        current = issuer;
    }
    let between = chain.iter().skip(1).map(|&it| it.clone()).collect();
    Ok(Way {
        between,
        anchors: vec![current.clone()],
    })
}

/// `find_issuer` of OpenSSL: the first that may have signed `child` and is in its time; else the
/// one that ended last.
fn first_issuer<'a>(
    among: &[&'a Certificate],
    child: &Certificate,
    at: UnixTime,
) -> Option<&'a Certificate> {
    let signs = |issuer: &&&Certificate| {
        may_have_signed(child, issuer)
            && issuer
                .key_usage()
                .is_none_or(|usage| usage.has(KeyUsage::KEY_CERT_SIGN))
    };
    let all = || among.iter().filter(signs).copied();
    let in_time = |issuer: &&Certificate| {
        let validity = issuer.validity();
        validity.not_before <= at && at <= validity.not_after
    };
    all()
        .find(in_time)
        .or_else(|| all().max_by_key(|issuer| issuer.validity().not_after))
}

/// By name, and by key identifier where both tell one.
fn may_have_signed(child: &Certificate, issuer: &Certificate) -> bool {
    let identifiers = (
        child.authority_key_identifier(),
        issuer.subject_key_identifier(),
    );
    let identifiers_fit = match identifiers {
        (Some(wanted), Some(own)) => wanted == own,
        _ => true,
    };
    child.issuer().der() == issuer.subject().der() && identifiers_fit
}

fn is_root(certificate: &Certificate) -> bool {
    may_have_signed(certificate, certificate)
}

/// `gnutls_x509_trust_list_verify_crt2` of GnuTLS 3.7 (`lib/x509/verify-high.c`): what is
/// presented is put in order, freed of a root at its end, cut at the first root that is trusted,
/// and the last one left has to be signed by something trusted, or be trusted in another
/// certificate of the same name and key.
fn gnutls(presented: &[Certificate], trusted: &[Certificate]) -> Result<Way, Refused> {
    let mut list = gnutls_order(presented, trusted);
    drop_root(&mut list);
    // It looks for the certificate under its issuer's name, so it finds roots only.
    let known = |it: &&Certificate| is_root(it) && trusted.contains(it);
    if let Some(first) = list.iter().skip(1).position(known) {
        list.truncate(first + 2);
    }
    let Some(&last) = list.last() else {
        return Err(Refused::Nothing);
    };
    let named = |name: &pki::Name| -> Vec<Certificate> {
        let all = trusted.iter();
        all.filter(|ca| ca.subject().der() == name.der())
            .cloned()
            .collect()
    };
    // First among the issuers of the last one; then, unless it is self-issued, among its names.
    let mut ways = vec![named(last.issuer())];
    if last.issuer().der() != last.subject().der() {
        ways.push(named(last.subject()));
    }
    for anchors in ways {
        let mut list = list.clone();
        drop_root(&mut list);
        let replaced = list.iter().position(|it| {
            let same = |ca: &Certificate| {
                ca.subject().der() == it.subject().der() && ca.spki_der() == it.spki_der()
            };
            anchors.iter().any(same)
        });
        if let Some(replaced) = replaced {
            list.truncate(replaced.max(1));
        }
        let top = list.last().copied().unwrap_or(last);
        if anchors.iter().any(|ca| may_have_signed(top, ca)) {
            let between = list.iter().skip(1).map(|&it| it.clone()).collect();
            return Ok(Way { between, anchors });
        }
    }
    Err(Refused::Astray {
        stack: Stack::GnuTls,
        end: last.subject().to_string(),
        problem: "issued by nobody who is trusted",
    })
}

/// Segment after segment, each from one certificate to its issuers as far as they go, until an
/// issuer of a segment's end is trusted.
fn gnutls_order<'a>(presented: &'a [Certificate], trusted: &[Certificate]) -> Vec<&'a Certificate> {
    let mut open: Vec<&Certificate> = Vec::new();
    for certificate in presented {
        if !open.contains(&certificate) {
            open.push(certificate);
        }
    }
    let mut list = Vec::new();
    while !open.is_empty() {
        let mut end = open.remove(0);
        list.push(end);
        // A root is its own issuer, which ends the segment.
        while !is_root(end)
            && let Some(next) = open.iter().position(|ca| may_have_signed(end, ca))
        {
            end = open.remove(next);
            list.push(end);
        }
        if trusted.iter().any(|ca| may_have_signed(end, ca)) {
            break;
        }
    }
    list
}

fn drop_root(list: &mut Vec<&Certificate>) {
    if list.len() > 1 && list.last().is_some_and(|last| is_root(last)) {
        list.pop();
    }
}
