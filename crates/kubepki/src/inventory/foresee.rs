//! What will be at a path once a plan's earlier steps are done.

use std::path::Path;

use super::collect::{facts, key_file_facts};
use super::{Found, Inventory, Observed, Present};
use crate::host::Attributes;
use crate::plan::{Fingerprint, FingerprintKind};

impl Inventory {
    /// Lets the row whose file or key lies at `path` tell of `bytes` as if they were there with
    /// `attributes`.
    pub(crate) fn foresee(&mut self, path: &Path, bytes: &[u8], attributes: Attributes) {
        let kind = FingerprintKind::File(pki::sha256(bytes).to_string());
        let fingerprint = Fingerprint { kind, attributes };
        for observed in &mut self.rows {
            let row = observed.row;
            let tell = |file: &mut Observed, facts| {
                let fingerprint = fingerprint.clone();
                file.found = Found::Present(Box::new(Present { fingerprint, facts }));
            };
            if observed.file.path == path {
                tell(&mut observed.file, facts(row, bytes));
            }
            if let Some(key) = &mut observed.key
                && key.path == path
            {
                tell(key, key_file_facts(bytes));
            }
        }
    }
}
