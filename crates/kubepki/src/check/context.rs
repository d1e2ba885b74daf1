//! What rules share: who trusts what, and what mends it.

use std::path::Path;

use pki::verify::{Options, VerifyError, verify};
use pki::{Certificate, Purpose, UnixTime};

use super::{Finding, Question};
use crate::catalogue::{Kind, LeafSpec, Service};
use crate::inventory::{DEFAULT_DATA_DIR, Inventory, Observed, ObservedRow, Role};

/// A question with what every rule asks of it.
pub(super) struct Context<'a> {
    question: &'a Question<'a>,
}

/// A trust bundle as its consumer reads it.
#[derive(Clone, Copy)]
pub(super) struct Trust<'a> {
    /// Its file.
    pub(super) path: &'a Path,
    /// Its certificates; the one that signs first.
    pub(super) certificates: &'a [Certificate],
}

impl<'a> Trust<'a> {
    /// The file's certificates; `None` when there are none.
    pub(super) fn of(observed: &'a Observed) -> Option<Self> {
        let certificates = observed.certificates();
        (!certificates.is_empty()).then_some(Self {
            path: &observed.path,
            certificates,
        })
    }

    /// The certificate that signs.
    pub(super) fn signer(self) -> Option<&'a Certificate> {
        self.certificates.first()
    }
}

impl<'a> Context<'a> {
    pub(super) fn new(question: &'a Question<'a>) -> Self {
        Self { question }
    }

    pub(super) fn question(&self) -> &'a Question<'a> {
        self.question
    }

    pub(super) fn inventory(&self) -> &'a Inventory {
        self.question.inventory
    }

    pub(super) fn now(&self) -> UnixTime {
        self.question.now
    }

    pub(super) fn is_server(&self) -> bool {
        self.inventory().site.role == Role::Server
    }

    /// Rows with a leaf's profile.
    pub(super) fn leaves(&self) -> impl Iterator<Item = (&'a ObservedRow, &'static LeafSpec)> {
        let rows = self.inventory().rows.iter();
        rows.filter_map(|observed| Some((observed, observed.row.leaf()?)))
    }

    /// Rows whose certificates are the CAs in force here: the server's files; on an agent-only
    /// node its copies.
    pub(super) fn authorities(&self) -> impl Iterator<Item = &'a ObservedRow> {
        let server = self.is_server();
        let rows = self.inventory().rows.iter();
        rows.filter(move |observed| match observed.row.kind {
            Kind::Authority { .. } => server,
            Kind::CopyOf { .. } => !server,
            _ => false,
        })
    }

    /// The bundle in which certificates of the CA `authority` are looked up on this node.
    pub(super) fn trust(&self, authority: &str) -> Option<Trust<'a>> {
        let found = self.authorities().find(|observed| {
            observed.row.id == authority
                || matches!(observed.row.kind, Kind::CopyOf { authority: of } if of == authority)
        })?;
        Trust::of(&found.file)
    }

    /// Whether `leaf` verifies now, as Go would say, for each of `purposes`.
    pub(super) fn verifies(
        &self,
        leaf: &Certificate,
        chain: &[Certificate],
        trust: &[Certificate],
        purposes: &[Purpose],
    ) -> Result<(), VerifyError> {
        // Go takes every certificate of a bundle for an anchor. What is an anchor need not be
        // tried as an intermediate too: the verdict is the same, and each try is a signature.
        let between: Vec<Certificate> = chain
            .iter()
            .filter(|certificate| !trust.contains(certificate))
            .cloned()
            .collect();
        for purpose in purposes {
            let wanted = std::slice::from_ref(purpose);
            let options = Options::at(self.now()).purposes(wanted);
            verify(leaf, &between, trust, &options)?;
        }
        Ok(())
    }

    /// ` --data-dir DIR` where commands need it.
    fn data_dir_flag(&self) -> String {
        let data_dir = &self.inventory().site.data_dir;
        match data_dir == Path::new(DEFAULT_DATA_DIR) {
            true => String::new(),
            false => format!(" --data-dir {}", quoted(data_dir)),
        }
    }

    /// The command that issues leaf `row` anew.
    pub(super) fn renew(&self, row: &'static str) -> String {
        if !self.is_server() {
            return self.restart();
        }
        if self.authority_ends_first(row) {
            return ROTATE_AUTHORITY.to_owned();
        }
        format!("kubepki renew{}", self.data_dir_flag())
    }

    /// The service that rotates the row called `row`.
    fn service_of(&self, row: &str) -> Option<&'static Service> {
        let flavour = self.inventory().flavour;
        flavour.row(row).and_then(|row| flavour.service_of(row))
    }

    /// The command that issues everything of the row's service anew.
    pub(super) fn rotate(&self, row: &'static str) -> String {
        match self.service_of(row) {
            Some(service) if self.is_server() => format!(
                "kubepki rotate --service {}{}",
                service.name,
                self.data_dir_flag()
            ),
            _ => self.restart(),
        }
    }

    /// The command after whose run the next start of K3s makes the row's service anew, with its
    /// kubeconfigs.
    pub(super) fn drop_in_rotate(&self, row: &'static str) -> String {
        match self.service_of(row) {
            Some(service) if self.is_server() => format!(
                "kubepki k3s certificate rotate --service {}{}, then {}",
                service.name,
                self.data_dir_flag(),
                self.restart()
            ),
            _ => self.restart(),
        }
    }

    /// The command that starts K3s anew; where there is none, the one that fetches what a start of
    /// K3s would.
    pub(super) fn restart(&self) -> String {
        match (self.is_server(), self.inventory().site.has_k3s) {
            (true, _) => "systemctl restart k3s".to_owned(),
            (false, true) => "systemctl restart k3s-agent".to_owned(),
            (false, false) => format!(
                "kubepki node renew --server https://SERVER:6443{}",
                self.data_dir_flag()
            ),
        }
    }

    /// Whether the CA of leaf `row` ends no later than the leaf and inside the leaf's window: a
    /// new leaf could not live longer.
    fn authority_ends_first(&self, row: &'static str) -> bool {
        let Some(observed) = self.inventory().row(row) else {
            return false;
        };
        let authority = match &observed.row.kind {
            Kind::Leaf(spec) => spec.authority,
            Kind::Listener { authority } => authority,
            _ => return false,
        };
        let ca = self
            .trust(authority)
            .and_then(Trust::signer)
            .map(|ca| ca.validity().not_after);
        let leaf = observed.file.first_certificate();
        match (ca, leaf) {
            (Some(ca), Some(leaf)) => {
                ca <= leaf.validity().not_after
                    && ca.since(self.now()) <= self.question.policy.window
            }
            (Some(ca), None) => ca < self.now(),
            (None, _) => false,
        }
    }

    /// Where a finding stands in a report: its row's place in the catalogue, then its path.
    pub(super) fn place(&self, finding: &Finding) -> (usize, std::path::PathBuf) {
        let rows = &self.inventory().rows;
        let row = finding
            .row
            .and_then(|row| rows.iter().position(|observed| observed.row.id == row))
            .unwrap_or(rows.len());
        (row, finding.path.clone())
    }
}

/// What mends an ending CA: nothing that this command does by itself.
pub(super) const ROTATE_AUTHORITY: &str = "rotate the CA: kubepki ca stage, then kubepki rotate-ca";

/// What brings back a CA's file. K3s writes what the datastore has when a file is gone, and makes
/// a new CA when the datastore has nothing (reference sections 1.7 and 4.6).
pub(super) const RESTORE_AUTHORITY: &str = "put back a backup, or restart K3s: it takes the file \
     from the datastore, and makes a new CA if the datastore has none";

/// A path as a shell needs it.
pub(super) fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:@,".contains(c);
    match text.chars().all(plain) && !text.is_empty() {
        true => text,
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}
