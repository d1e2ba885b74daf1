//! What a set holds twice, what it holds too much of, and the key for service-account tokens.

use std::collections::BTreeMap;

use super::found::{Found, certificate_entry, is_expected};
use super::{Judge, Rule};
use crate::rke::generate::LeafSpec;
use crate::rke::names;

impl Judge<'_> {
    /// The key that signs service-account tokens. Its certificate is read by nobody, but RKE
    /// loads no key without one.
    pub(super) fn service_account(&mut self, found: &Found) {
        let entry = names::SERVICE_ACCOUNT_TOKEN;
        let file = names::key_file(entry);
        let Some(pair) = found.pair(entry).filter(|pair| !pair.broken) else {
            return;
        };
        let present = self.against.current.and_then(|bundle| bundle.get(entry));
        let present = present.filter(|entry| !entry.key_pem.is_empty());
        let Some(key) = &pair.key else {
            match present {
                Some(_) => self.note(
                    Rule::NoServiceAccountKey,
                    &file,
                    "is not here: the cluster's present one stays. RKE would leave the cluster \
                     without",
                ),
                None => self.error(
                    Rule::NoServiceAccountKey,
                    &file,
                    "is missing: the API server does not start without it, and RKE does not look. \
                     openssl req -x509 -newkey rsa:2048 -nodes -days 3650 -subj \
                     /CN=kube-service-account-token -keyout kube-service-account-token-key.pem \
                     -out kube-service-account-token.pem",
                ),
            }
            return;
        };
        match pair.certificate() {
            None => self.note(
                Rule::LoneServiceAccountKey,
                &file,
                "has no kube-service-account-token.pem beside it: we take it, RKE would not, and \
                 the API server would not start",
            ),
            Some(certificate) if certificate.spki_der() != key.spki_der() => self.warn(
                Rule::KeyMismatch,
                &file,
                "does not belong to kube-service-account-token.pem; only the key is used",
            ),
            Some(_) => {}
        }
        let other = present.and_then(|entry| entry.key().ok().flatten());
        if other.is_some_and(|other| other.spki_der() != key.spki_der()) {
            self.warn(
                Rule::NewServiceAccountKey,
                &file,
                "is another key than the cluster's: every token of a service account becomes \
                 invalid. Remove it and its certificate to keep the present one",
            );
        }
    }

    /// Keys, names and serial numbers that stand twice.
    pub(super) fn twice(&mut self, found: &Found, leaves: &[LeafSpec]) {
        let mut by_key: BTreeMap<&[u8], Vec<&str>> = BTreeMap::new();
        let mut by_number: BTreeMap<(&[u8], String), Vec<&str>> = BTreeMap::new();
        for (entry, pair) in found.pairs() {
            let Some(certificate) = pair.certificate() else {
                continue;
            };
            by_key
                .entry(certificate.spki_der())
                .or_default()
                .push(entry);
            if leaves.iter().any(|leaf| leaf.entry == entry) {
                let number = (certificate.issuer().der(), certificate.serial().to_string());
                by_number.entry(number).or_default().push(entry);
            }
        }
        let authorities = [names::KUBE_CA, names::REQUEST_HEADER_CA];
        for entries in by_key.values().filter(|entries| entries.len() > 1) {
            let is_ca = |entry: &&&str| authorities.contains(entry);
            let list = entries.join(", ");
            let first = names::certificate_file(entries.first().unwrap_or(&""));
            match entries.iter().filter(is_ca).count() {
                0 => {
                    let message = format!("{list} have one key: who takes one has all of them");
                    self.warn(Rule::SharedKey, &first, message);
                }
                count if count == entries.len() => {
                    let message = "both are one CA: whoever holds a certificate of it with the CN \
                         kube-apiserver-proxy-client then speaks for anybody; a CA of its own for \
                         the aggregation layer is better";
                    self.warn(Rule::SharedAuthority, &first, message);
                }
                _ => {
                    let message = format!("{list} have one key: the CA's key would be on hosts");
                    self.error(Rule::SharedKey, &first, message);
                }
            }
        }
        for entries in by_number.values().filter(|entries| entries.len() > 1) {
            let first = names::certificate_file(entries.first().unwrap_or(&""));
            let message = format!(
                "{} have one serial number from one CA, which RFC 5280 forbids",
                entries.join(", ")
            );
            self.warn(Rule::SameSerial, &first, message);
        }
        if let [Some(one), Some(other)] = authorities.map(|entry| found.certificate(entry))
            && one.subject().der() == other.subject().der()
            && one.spki_der() != other.spki_der()
        {
            self.warn(
                Rule::SameName,
                &names::certificate_file(names::REQUEST_HEADER_CA),
                format!(
                    "has the name of the cluster CA, {}, and another key: they are easily mistaken",
                    one.subject()
                ),
            );
        }
    }

    /// Files that do not belong here, and keys that others can read.
    pub(super) fn files(&mut self, leaves: &[LeafSpec]) {
        let directory = self.directory;
        for name in directory.names() {
            if let Some(entry) = certificate_entry(name) {
                if !is_expected(entry, leaves) {
                    self.note(
                        Rule::Foreign,
                        name,
                        "belongs to no certificate of this cluster, and is left alone; RKE would \
                         take it into its state",
                    );
                }
                continue;
            }
            let entry = name.strip_suffix("-key.pem").unwrap_or_default();
            if is_expected(entry, leaves)
                && let Some(mode) = directory.key_is_open(entry)
            {
                let message = format!("can be read by others (mode {mode:04o}): chmod 600");
                self.note(Rule::OpenKey, name, message);
            }
        }
    }
}
