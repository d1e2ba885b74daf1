//! What a leaf must be beyond RKE's rules.

use pki::verify::{Options, check_host, verify};
use pki::{Certificate, KeyAlgorithm, KeyUsage, Purpose, San};

use super::found::{Found, Pair};
use super::{Judge, Rule, Severity};
use crate::rke::generate::LeafSpec;
use crate::rke::names;

impl Judge<'_> {
    pub(super) fn leaf(&mut self, found: &Found, wanted: &LeafSpec) {
        let Some(pair) = found.pair(&wanted.entry) else {
            return;
        };
        let is_serving = wanted.entry.starts_with("kube-kubelet-");
        if is_serving && !pair.broken && (pair.certificate().is_none() || pair.key.is_none()) {
            let missing = match pair.certificate() {
                None => names::certificate_file(&wanted.entry),
                Some(_) => names::key_file(&wanted.entry),
            };
            self.error(
                Rule::MissingServing,
                &missing,
                "is missing: services.kubelet.generate_serving_certificate is on, so the kubelet \
                 does not start without it; RKE does not look",
            );
        }
        let Some(leaf) = pair.certificate() else {
            return;
        };
        let file = names::certificate_file(&wanted.entry);
        let errors = self.errors();
        self.pair_matches(&wanted.entry, pair);
        self.public_key(&file, leaf);
        self.dates(&file, leaf);
        self.names(&file, leaf, wanted);
        self.purposes(&file, leaf, wanted);
        self.subject(&file, leaf, wanted);
        if leaf.is_ca() {
            let message = "is a CA's certificate (basic constraints): its holder could issue";
            self.error(Rule::LeafIsAuthority, &file, message);
        }
        if pair.certificates.len() > 1 {
            let message = format!(
                "holds {} certificates: RKE reads only the first; we put all of them on the hosts",
                pair.certificates.len()
            );
            self.warn(Rule::Chain, &file, message);
        }
        let Some(authority) = found.authority(wanted.issuer) else {
            return;
        };
        let is_its_own = self.signature(&file, leaf, authority);
        if is_its_own && self.errors() == errors {
            self.path(&file, pair, authority, wanted);
        }
    }

    fn errors(&self) -> usize {
        let serious = |finding: &&super::Finding| finding.severity <= Severity::Error;
        self.findings.iter().filter(serious).count()
    }

    /// Whether the first certificate of the CA's file signed it, and how long both are valid.
    /// Answers whether it is said to be the issuer.
    fn signature(&mut self, file: &str, leaf: &Certificate, authority: &Pair) -> bool {
        let Some(ca) = authority.certificate() else {
            return false;
        };
        if leaf.issuer().der() != ca.subject().der() {
            let same_cn = leaf.issuer().common_name() == ca.subject().common_name();
            let is_rke_rule = !file.starts_with("kube-kubelet-");
            if same_cn || !is_rke_rule {
                let message = format!("was issued by {}, not by {}", leaf.issuer(), ca.subject());
                self.error(Rule::IssuerName, file, message);
            }
            return false;
        }
        match leaf.verify_signature(ca.spki_der()) {
            Ok(()) => {}
            Err(pki::Error::UnsupportedSignature { algorithm }) => match other_kind(leaf, ca) {
                Some(key) => {
                    let message = format!(
                        "was not signed by the key of {}, though it says so: that is a key of \
                         another kind ({key}), and this is signed with {algorithm}",
                        ca.subject()
                    );
                    self.error(Rule::Signature, file, message);
                }
                None => {
                    let message = format!("is signed with {algorithm}, which Kubernetes refuses");
                    self.error(Rule::WeakSignature, file, message);
                }
            },
            Err(error) => {
                let message = format!(
                    "was not signed by the key of {}, though it says so: {error}",
                    ca.subject()
                );
                self.error(Rule::Signature, file, message);
            }
        }
        let (end, ca_end) = (leaf.validity().not_after, ca.validity().not_after);
        if end > ca_end {
            let message = format!("says {end}, but ends with its CA at {ca_end}");
            self.warn(Rule::OutlivesAuthority, file, message);
        }
        true
    }

    /// Names that clients use. The common name never counts.
    fn names(&mut self, file: &str, leaf: &Certificate, wanted: &LeafSpec) {
        let mut missing: Vec<String> = Vec::new();
        for name in &wanted.sans {
            let text = name.to_string();
            let host = match name {
                San::Ip(address) => address.to_string(),
                San::Dns(name) => name.clone(),
                _ => text.clone(),
            };
            let is_there = leaf.sans().contains(name) || check_host(leaf, &host).is_ok();
            if !is_there && !missing.contains(&text) {
                missing.push(text);
            }
        }
        if !missing.is_empty() {
            let message = format!(
                "lacks {}: servers are not believed under names that their certificate does not \
                 have",
                missing.join(", ")
            );
            self.error(Rule::MissingName, file, message);
        }
        let extra: Vec<String> = leaf
            .sans()
            .iter()
            .filter(|name| !wanted.sans.contains(name))
            .map(San::to_string)
            .collect();
        if !extra.is_empty() {
            let message = format!("also has {}, which nobody asked for", extra.join(", "));
            self.note(Rule::ExtraName, file, message);
        }
    }

    /// Extended key usage and key usage.
    fn purposes(&mut self, file: &str, leaf: &Certificate, wanted: &LeafSpec) {
        let has = leaf.purposes();
        if has.is_empty() || has.contains(&Purpose::Any) {
            let message = "may be used for anything (extended key usage)";
            self.note(Rule::AnyPurpose, file, message);
        } else {
            let needed = needed(wanted);
            for purpose in wanted.purposes.iter().filter(|it| !has.contains(it)) {
                if needed.contains(purpose) {
                    let message = format!("is not for {purpose} (extended key usage)");
                    self.error(Rule::Purpose, file, message);
                } else {
                    let message = format!(
                        "is not for {purpose} (extended key usage), which RKE asks for and nobody \
                         needs"
                    );
                    self.note(Rule::UnusedPurpose, file, message);
                }
            }
        }
        if leaf
            .key_usage()
            .is_some_and(|usage| !usage.has(KeyUsage::DIGITAL_SIGNATURE))
        {
            let message = "may not sign (key usage lacks digitalSignature), which TLS asks for";
            self.error(Rule::KeyUsage, file, message);
        }
    }

    /// Kubernetes takes the CN for the user and each O for a group.
    fn subject(&mut self, file: &str, leaf: &Certificate, wanted: &LeafSpec) {
        let common_name = leaf.subject().common_name().unwrap_or_default();
        let groups = leaf.subject().organizations();
        // etcd and the kubelet as servers are known by their names.
        let is_user = needed(wanted).contains(&Purpose::ClientAuth)
            && !wanted.entry.starts_with("kube-etcd-");
        if common_name != wanted.common_name {
            let message = format!(
                "has the CN {common_name:?} instead of {}",
                wanted.common_name
            );
            match is_user {
                true => self.error(
                    Rule::User,
                    file,
                    format!("{message}: Kubernetes takes it for the user"),
                ),
                false => self.note(Rule::OtherSubject, file, message),
            }
        }
        let lacks = |group: &&String| !groups.contains(&group.as_str());
        let missing: Vec<&String> = wanted.organizations.iter().filter(lacks).collect();
        for group in missing {
            let message = format!("lacks the O {group}: Kubernetes takes it for the group");
            self.error(Rule::User, file, message);
        }
        let asked = |group: &&&str| wanted.organizations.iter().any(|it| it == *group);
        let extra: Vec<&&str> = groups.iter().filter(|group| !asked(group)).collect();
        for group in extra {
            match group.starts_with("system:") {
                true => {
                    let message = format!("has the O {group}, which is a group with rights");
                    self.warn(Rule::ExtraGroup, file, message);
                }
                false => {
                    let message = format!("also belongs to the group {group:?} (O)");
                    self.note(Rule::ExtraGroup, file, message);
                }
            }
        }
    }

    /// The whole path, as Go's components build it: the CA's file is what they trust.
    fn path(&mut self, file: &str, pair: &Pair, authority: &Pair, wanted: &LeafSpec) {
        let Some((leaf, rest)) = pair.certificates.split_first() else {
            return;
        };
        let ca = authority.certificate();
        if ca.is_some_and(|ca| !ca.is_ca() || !ca.validity().contains(self.against.now)) {
            return;
        }
        for purpose in needed(wanted) {
            let purposes = [purpose.clone()];
            let options = Options::at(self.against.now).purposes(&purposes);
            if let Err(error) = verify(leaf, rest, &authority.certificates, &options) {
                let message = format!("cannot be used for {purpose}: {error}");
                self.error(Rule::Path, file, message);
                return;
            }
        }
    }
}

/// What the component does with it; RKE asks for more.
fn needed(wanted: &LeafSpec) -> Vec<Purpose> {
    if wanted.entry == names::PROXY_CLIENT {
        return vec![Purpose::ClientAuth];
    }
    if wanted.entry.starts_with("kube-kubelet-") {
        return vec![Purpose::ServerAuth];
    }
    wanted.purposes.clone()
}

/// What signs like `name`, a signature algorithm that Kubernetes takes.
fn signs(name: &str) -> Option<fn(KeyAlgorithm) -> bool> {
    match name {
        "ecdsa-with-SHA256" | "ecdsa-with-SHA384" | "ecdsa-with-SHA512" => Some(|key| {
            use KeyAlgorithm::{P256, P384, P521};
            matches!(key, P256 | P384 | P521)
        }),
        "sha256WithRSAEncryption" | "sha384WithRSAEncryption" | "sha512WithRSAEncryption" => {
            Some(|key| matches!(key, KeyAlgorithm::Rsa(_)))
        }
        "Ed25519" => Some(|key| matches!(key, KeyAlgorithm::Ed25519)),
        _ => None,
    }
}

/// The kind of the CA's key, where a good signature is none that such a key makes.
fn other_kind(leaf: &Certificate, ca: &Certificate) -> Option<KeyAlgorithm> {
    let key = pki::public_key_algorithm(ca.spki_der())?;
    let signs = signs(&leaf.signature_algorithm())?;
    (!signs(key)).then_some(key)
}
