//! Private keys of CAs that lie where no component reads them.

use pki::Digest;

use super::context::{Context, quoted};
use super::file::file_mode;
use super::key::authority_keys;
use super::{AuthorityRole, Finding, FindingKind, Severity};
use crate::catalogue::Kind;
use crate::inventory::{Inventory, Observed};

/// K3s signs with five keys. Every other CA key on a server is there for whoever breaks in: a
/// root's or intermediate's, and copies.
pub(super) fn authority_keys_lying_about(context: &Context<'_>, findings: &mut Vec<Finding>) {
    let inventory = context.inventory();
    let known = authority_keys(inventory);
    let signing = signing_keys(inventory);
    for file in &inventory.strays {
        let mode = file_mode(file);
        let open_mode = mode.filter(|mode| mode & 0o077 != 0);
        let found = file
            .keys()
            .iter()
            .find_map(|key| Some((key, known.get(&key.spki)?)));
        if let Some((key, authority)) = found {
            let role = match () {
                () if signing.contains(&key.spki) => AuthorityRole::InForce,
                () if is_staged(inventory, file) => AuthorityRole::Staged,
                () if authority.is_self_issued() => AuthorityRole::Root,
                () => AuthorityRole::Intermediate,
            };
            let severity = match role {
                AuthorityRole::Root | AuthorityRole::Intermediate => Severity::Warning,
                // What it could sign, the files in force can sign too.
                AuthorityRole::InForce | AuthorityRole::Staged if open_mode.is_none() => {
                    Severity::Note
                }
                AuthorityRole::InForce | AuthorityRole::Staged => Severity::Warning,
            };
            let kind = FindingKind::AuthorityKeyHere {
                authority: authority.subject().to_string(),
                role,
                open_mode,
            };
            findings.push(Finding::new(severity, &file.path, kind).mend(mend(role, file)));
        } else if let (Some(mode), false) = (open_mode, file.keys().is_empty()) {
            findings.push(open_key(file, mode));
        }
    }
}

fn mend(role: AuthorityRole, file: &Observed) -> String {
    let path = quoted(&file.path);
    match role {
        AuthorityRole::Root | AuthorityRole::Intermediate => {
            format!("copy {path} to where CA keys are kept offline, then: shred -u {path}")
        }
        AuthorityRole::InForce => format!("shred -u {path}"),
        AuthorityRole::Staged => format!("once rotate-ca is done: shred -u {path}"),
    }
}

/// Any other private key that others can read.
fn open_key(file: &Observed, mode: u32) -> Finding {
    let kind = FindingKind::WrongMode {
        mode,
        wanted: 0o600,
    };
    // kube-apiserver writes its loopback key so, into a directory that K3s keeps at 0700.
    let own = file
        .path
        .parent()
        .is_some_and(|parent| parent.ends_with("temporary-certs"));
    let severity = if own {
        Severity::Note
    } else {
        Severity::Warning
    };
    let finding = Finding::new(severity, &file.path, kind);
    finding.mend(format!("chmod 0600 {}", quoted(&file.path)))
}

/// Keys of the certificates that sign: the first of each CA file.
fn signing_keys(inventory: &Inventory) -> Vec<Digest> {
    inventory
        .rows
        .iter()
        .filter(|observed| observed.row.is_authority())
        .filter_map(|observed| observed.file.first_certificate())
        .map(|certificate| certificate.spki_sha256())
        .collect()
}

/// Whether the file is called and lies as `rotate-ca` wants a CA's key.
fn is_staged(inventory: &Inventory, file: &Observed) -> bool {
    let staging = inventory.site.server().join("rotate-ca");
    inventory
        .flavour
        .rows
        .iter()
        .filter(|row| matches!(row.kind, Kind::Authority { .. }))
        .filter_map(|row| row.key_file())
        .any(|key| file.path == staging.join(key))
}
