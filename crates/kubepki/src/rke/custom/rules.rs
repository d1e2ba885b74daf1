//! RKE's own rules (`ValidateBundleContent`, `validateCAIssuer`), in its order and words.

use super::found::Found;
use super::{Judge, RkeSays, Rule};
use crate::rke::generate::LeafSpec;
use crate::rke::names;

/// What RKE demands, in its order; kube-admin's kubeconfig (rule 5) cannot fail.
const COMPONENTS: [&str; 7] = [
    names::KUBE_APISERVER,
    names::KUBE_CONTROLLER_MANAGER,
    names::KUBE_SCHEDULER,
    names::KUBE_PROXY,
    names::KUBE_NODE,
    names::KUBE_ADMIN,
    names::PROXY_CLIENT,
];

impl Judge<'_> {
    pub(super) fn rules(&mut self, found: &Found, leaves: &[LeafSpec]) {
        let etcd: Vec<&str> = leaves
            .iter()
            .map(|leaf| leaf.entry.as_str())
            .filter(|entry| entry.starts_with("kube-etcd-"))
            .collect();
        self.presence(found, &etcd);
        let signed_by_kube_ca = COMPONENTS
            .into_iter()
            .filter(|entry| *entry != names::PROXY_CLIENT)
            .chain(etcd);
        for entry in signed_by_kube_ca {
            self.issuer(found, entry, names::KUBE_CA, Rule::NotSignedByAuthority);
        }
        self.issuer(
            found,
            names::PROXY_CLIENT,
            names::REQUEST_HEADER_CA,
            Rule::NotSignedByRequestHeaderAuthority,
        );
    }

    /// Rules 1 to 4.
    fn presence(&mut self, found: &Found, etcd: &[&str]) {
        let is_there = |entry: &str| {
            let pair = found.pair(entry);
            // What is broken has been said.
            pair.is_some_and(|pair| pair.broken || pair.certificate().is_some())
        };
        if !is_there(names::KUBE_CA) {
            self.refuse(
                Rule::NoAuthority,
                &names::certificate_file(names::KUBE_CA),
                "is missing: put the certificate of the CA that signed the others there",
                "Failed to find master CA certificate".to_owned(),
            );
        }
        if !is_there(names::REQUEST_HEADER_CA) {
            self.warn(
                Rule::NoRequestHeaderAuthority,
                &names::certificate_file(names::REQUEST_HEADER_CA),
                "is missing: the cluster CA stands in for it, without its key. Whoever holds a \
                 certificate of that CA with the CN kube-apiserver-proxy-client then speaks for \
                 anybody; a CA of its own is better",
            );
            if let Some(last) = self.findings.last_mut() {
                last.rke = Some(RkeSays::Warns(
                    "Failed to find RequestHeader CA certificate, using master CA certificate"
                        .to_owned(),
                ));
            }
        }
        for entry in COMPONENTS {
            self.pair(found, entry, Rule::MissingComponent, |entry| {
                format!("Failed to find [{entry}] Certificate or Key")
            });
        }
        for entry in etcd {
            self.pair(found, entry, Rule::MissingEtcd, |entry| {
                format!("Failed to find etcd [{entry}] Certificate or Key")
            });
        }
    }

    fn pair(&mut self, found: &Found, entry: &str, rule: Rule, rke: fn(&str) -> String) {
        let Some(pair) = found.pair(entry).filter(|pair| !pair.broken) else {
            return;
        };
        let missing = match (pair.certificate().is_some(), pair.key.is_some()) {
            (true, true) => return,
            (false, _) => names::certificate_file(entry),
            (true, false) => names::key_file(entry),
        };
        let what = match missing.ends_with("-key.pem") {
            true => "is missing or empty: the key was made together with the request",
            false => "is missing or empty: have the request signed by the CA",
        };
        self.refuse(rule, &missing, what, rke(entry));
    }

    /// Rules 6 and 7: the issuer's common name and nothing else.
    fn issuer(&mut self, found: &Found, entry: &str, authority: &'static str, rule: Rule) {
        let issued_by = found
            .authority(authority)
            .and_then(|pair| pair.certificate());
        let (Some(leaf), Some(ca)) = (found.certificate(entry), issued_by) else {
            return;
        };
        let name = |name: &pki::Name| name.common_name().unwrap_or_default().to_owned();
        if name(leaf.issuer()) == name(ca.subject()) {
            return;
        }
        let which = match authority {
            names::KUBE_CA => "CA",
            _ => "Request Header CA",
        };
        let mut message = format!(
            "was issued by {}, and {} begins with {}",
            leaf.issuer(),
            match found.certificate(authority) {
                Some(_) => names::certificate_file(authority),
                None => names::certificate_file(names::KUBE_CA),
            },
            ca.subject()
        );
        let others = found.authority(authority).map(|pair| &pair.certificates);
        if others.is_some_and(|all| {
            all.iter()
                .any(|ca| ca.subject().der() == leaf.issuer().der())
        }) {
            message.push_str(
                "; the issuer comes later in that file, and RKE reads only the first: put it first",
            );
        }
        self.refuse(
            rule,
            &names::certificate_file(entry),
            message,
            format!("Component [{entry}] is not signed by the custom {which} certificate"),
        );
    }
}
