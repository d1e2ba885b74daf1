//! What a CA's file must be beyond RKE's rules.

use pki::{Certificate, DAY, KeyAlgorithm, KeyUsage, public_key_algorithm};

use super::found::{Found, Pair};
use super::{Judge, Rule};
use crate::rke::names;

/// Days before the end from which a certificate is said to end soon.
const SOON: i64 = 90;

impl Judge<'_> {
    /// Both CAs; the one of the aggregation layer where there is one.
    pub(super) fn authorities(&mut self, found: &Found) {
        for entry in [names::KUBE_CA, names::REQUEST_HEADER_CA] {
            if let Some(pair) = found.pair(entry) {
                self.authority(entry, pair);
            }
        }
        if found.certificate(names::KUBE_CA).is_some() {
            self.keyless(found);
        }
    }

    fn authority(&mut self, entry: &str, pair: &Pair) {
        let file = names::certificate_file(entry);
        let Some(ca) = pair.certificate() else {
            return;
        };
        if !ca.is_ca() {
            let message = "is no CA's certificate (basic constraints)";
            self.error(Rule::NotAuthority, &file, message);
        } else if ca
            .key_usage()
            .is_some_and(|usage| !usage.has(KeyUsage::KEY_CERT_SIGN))
        {
            let message = "may not sign certificates (key usage lacks keyCertSign)";
            self.error(Rule::NoCertSign, &file, message);
        }
        self.dates(&file, ca);
        self.public_key(&file, ca);
        self.pair_matches(entry, pair);
        match pair.certificates.as_slice() {
            [_, _, ..] => self.warn(
                Rule::Authorities,
                &file,
                format!(
                    "holds {} certificates: RKE reads only the first, {}; we put all of them on \
                     the hosts",
                    pair.certificates.len(),
                    ca.subject()
                ),
            ),
            _ if !ca.is_self_issued() => self.note(
                Rule::Intermediate,
                &file,
                format!(
                    "is a CA below {}: Kubernetes trusts it as it is, OpenSSL's clients ask for \
                     the CA above, too",
                    ca.issuer()
                ),
            ),
            _ => {}
        }
    }

    /// A CA whose key stays with the company is allowed, and has consequences.
    fn keyless(&mut self, found: &Found) {
        let has_key = |entry| found.pair(entry).is_some_and(|pair| pair.key.is_some());
        if !has_key(names::KUBE_CA) {
            self.warn(
                Rule::KeylessAuthority,
                &names::key_file(names::KUBE_CA),
                "is not here, which is allowed: from then on every renewal takes this way again. \
                 `rke cert rotate` and any `rke up` without --custom-certs stop with \"CA \
                 Certificate or Key is empty\"; --rotate-ca would replace the company's CA",
            );
        }
        if !has_key(names::REQUEST_HEADER_CA) {
            self.note(
                Rule::KeylessRequestHeaderAuthority,
                &names::key_file(names::REQUEST_HEADER_CA),
                "is not here: a rotation of everything stops with \"Request Header CA Certificate \
                 or Key is empty\"",
            );
        }
    }

    /// Whether it is valid now, and for how long.
    pub(super) fn dates(&mut self, file: &str, certificate: &Certificate) {
        let now = self.against.now;
        let validity = certificate.validity();
        if now < validity.not_before {
            let message = format!(
                "is not valid before {}; it is {now} now",
                validity.not_before
            );
            self.error(Rule::NotYetValid, file, message);
        } else if now > validity.not_after {
            let message = format!("expired at {}", validity.not_after);
            self.error(Rule::Expired, file, message);
        } else if validity.not_after.since(now) < SOON * DAY {
            let days = validity.not_after.since(now) / DAY;
            let message = format!("ends in {days} days, at {}", validity.not_after);
            self.warn(Rule::EndsSoon, file, message);
        }
    }

    /// Whether its key is long enough; OpenSSL's default level wants 2048 bits, too.
    pub(super) fn public_key(&mut self, file: &str, certificate: &Certificate) {
        if let Some(KeyAlgorithm::Rsa(bits)) = public_key_algorithm(certificate.spki_der())
            && bits < 2048
        {
            let message = format!("has an RSA key of {bits} bits; 2048 are the least");
            self.error(Rule::WeakKey, file, message);
        }
    }

    /// Whether key and certificate belong together.
    pub(super) fn pair_matches(&mut self, entry: &str, pair: &Pair) {
        let (Some(certificate), Some(key)) = (pair.certificate(), &pair.key) else {
            return;
        };
        if certificate.spki_der() != key.spki_der() {
            let message = format!(
                "does not belong to {}: the certificate was made for another key",
                names::certificate_file(entry)
            );
            self.error(Rule::KeyMismatch, &names::key_file(entry), message);
        }
    }
}
