//! An inspection for a person.

use super::container::{AuthorityReport, ClusterReport, UserReport};
use super::{
    Bundle, CertificateReport, Inspection, Item, KeyReport, KubeconfigReport, ListenerReport,
};

pub(super) fn render(inspection: &Inspection) -> String {
    let mut page = Page::default();
    let several = inspection.items.len() > 1;
    let mut certificates = 0;
    for (at, item) in inspection.items.iter().enumerate() {
        if at > 0 {
            page.text.push('\n');
        }
        // Certificates are numbered by themselves: the bundle's remarks count them.
        let title = match item {
            Item::Certificate(_) if several => {
                certificates += 1;
                format!("certificate {certificates}: ")
            }
            Item::Certificate(_) => "certificate: ".to_owned(),
            _ => String::new(),
        };
        page.item(&title, item);
    }
    if let Some(bundle) = &inspection.bundle {
        page.text.push('\n');
        page.bundle(bundle);
    }
    for note in &inspection.notes {
        page.line(&format!("note: {note}"));
    }
    page.text
}

#[derive(Default)]
struct Page {
    text: String,
    indent: usize,
}

impl Page {
    fn line(&mut self, line: &str) {
        self.text.extend(std::iter::repeat_n(' ', self.indent));
        self.text.push_str(line);
        self.text.push('\n');
    }

    /// A fact under a heading; nothing for an empty one.
    fn fact(&mut self, name: &str, value: &str) {
        if !value.is_empty() {
            self.line(&format!("  {name:<12} {value}"));
        }
    }

    fn item(&mut self, title: &str, item: &Item) {
        match item {
            Item::Certificate(certificate) => self.certificate(title, certificate),
            Item::PrivateKey(key) => {
                self.line("private key (not shown)");
                self.key(key);
            }
            Item::PublicKey(key) => {
                self.line("public key");
                self.key(key);
            }
            Item::EncryptedKey { form } => {
                self.line("private key, encrypted");
                self.fact("form", form);
            }
            Item::Request { subject, sans, key } => {
                self.line(&format!("certificate request: {subject}"));
                self.fact("SANs", &sans.join(", "));
                self.key(key);
            }
            Item::Kubeconfig(config) => self.kubeconfig(config),
            Item::ListenerSecret(listener) => self.listener(listener),
            Item::Other { label, detail } => {
                self.line(&format!("PEM block {label:?}"));
                self.fact("not read", detail);
            }
        }
    }

    fn certificate(&mut self, title: &str, it: &CertificateReport) {
        self.line(&format!("{title}{}", it.subject));
        self.fact("role", &it.role);
        self.fact("issuer", &it.issuer);
        self.fact(
            "valid",
            &format!("{} to {}: {}", it.not_before, it.not_after, it.left),
        );
        self.fact("purposes", &it.purposes.join(", "));
        self.fact("key usage", &it.key_usage.join(", "));
        self.fact("SANs", &it.sans.join(", "));
        self.key(&it.key);
        self.fact("signed with", &it.signature_algorithm);
        self.fact("serial", &it.serial);
        self.fact(
            "SKI",
            it.subject_key_identifier.as_deref().unwrap_or_default(),
        );
        self.fact(
            "AKI",
            it.authority_key_identifier.as_deref().unwrap_or_default(),
        );
        self.fact("fingerprint", &format!("SHA-256 {}", it.fingerprint));
        for oddity in &it.oddities {
            self.fact("note", oddity);
        }
    }

    fn key(&mut self, key: &KeyReport) {
        self.fact(
            "key",
            &format!("{}, SPKI SHA-256 {}", key.algorithm, key.spki_sha256),
        );
        if let Some(number) = key.belongs_to {
            self.fact("belongs to", &format!("certificate {number}"));
        }
    }

    fn bundle(&mut self, bundle: &Bundle) {
        self.line(&format!("{} certificates together", bundle.certificates));
        let order = match (bundle.leaf_first, bundle.in_order) {
            (true, true) => "end entity first, each signed by the next",
            (true, false) => "end entity first, but not in an order that every client accepts",
            (false, true) => "each signed by the next or by itself",
            (false, false) => "not in an order that every client accepts",
        };
        self.fact("order", order);
        for remark in &bundle.remarks {
            self.fact("-", remark);
        }
    }

    fn kubeconfig(&mut self, config: &KubeconfigReport) {
        self.line("kubeconfig");
        self.fact(
            "context",
            config
                .current_context
                .as_deref()
                .unwrap_or("none is current"),
        );
        for cluster in &config.clusters {
            self.cluster(cluster);
        }
        for user in &config.users {
            self.user(user);
        }
    }

    fn cluster(&mut self, cluster: &ClusterReport) {
        self.line(&format!("  cluster {:?}", cluster.name));
        self.indent += 2;
        self.fact("server", cluster.server.as_deref().unwrap_or_default());
        match &cluster.authority {
            AuthorityReport::Inline(bundle) => {
                self.fact("verified by", "the trust bundle that it inlines:");
                self.nested(bundle);
            }
            AuthorityReport::File(path) => self.fact("verified by", &format!("the file {path}")),
            AuthorityReport::System => self.fact("verified by", "the system's trust store"),
            AuthorityReport::NotVerified => {
                self.fact("verified by", "nothing: any server is taken for this one");
            }
            AuthorityReport::Unreadable(error) => {
                self.fact(
                    "verified by",
                    &format!("an inlined bundle that cannot be read: {error}"),
                );
            }
        }
        self.indent -= 2;
    }

    fn user(&mut self, user: &UserReport) {
        self.line(&format!("  user {:?}", user.name));
        self.indent += 2;
        if let Some(path) = &user.certificate_file {
            self.fact("certificate", &format!("in the file {path}"));
        }
        if !user.certificates.is_empty() {
            self.fact("certificate", "inlined:");
            self.nested(&user.certificates);
        }
        if let Some(path) = &user.key_file {
            self.fact("private key", &format!("in the file {path}"));
        }
        if let Some(key) = &user.key {
            self.fact("private key", "inlined, not shown");
            self.key(key);
        }
        self.fact("also by", &user.other_credentials.join(", "));
        for problem in &user.problems {
            self.fact("problem", problem);
        }
        self.indent -= 2;
    }

    fn listener(&mut self, listener: &ListenerReport) {
        self.line("Secret of a TLS listener");
        self.fact("SANs wanted", &listener.sans.join(", "));
        if listener.is_static {
            self.fact("static", "K3s never changes it");
        }
        self.nested(&listener.certificates);
        if let Some(key) = &listener.key {
            self.fact("private key", "inlined, not shown");
            self.key(key);
        }
        for problem in &listener.problems {
            self.fact("problem", problem);
        }
    }

    fn nested(&mut self, certificates: &[CertificateReport]) {
        self.indent += 4;
        for (at, certificate) in certificates.iter().enumerate() {
            let title = match certificates.len() {
                1 => "certificate: ".to_owned(),
                _ => format!("certificate {}: ", at + 1),
            };
            self.certificate(&title, certificate);
        }
        self.indent -= 4;
    }
}
