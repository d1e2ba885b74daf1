//! Files made from certificates, passwords and settings.

use std::path::PathBuf;

use pki::{Certificate, Digest};
use zeroize::Zeroizing;

use super::{Draft, digest, is_file, is_no_file, writes_preferences};
use crate::catalogue::{Kind, Side};
use crate::init::authorities::outer_authorities;
use crate::init::{InitError, NODE, Passwd, SERVER, make, settings};
use crate::inventory::{DetectedRelease, Observed};
use crate::kubeconfig::{Reference, render_reference};
use crate::plan::{Content, FingerprintKind, LeafId};
use crate::token::{Token, hash_of};

impl Draft<'_> {
    /// Kubeconfigs that point to files, for components.
    pub(super) fn kubeconfigs(&mut self) {
        let spec = self.request.spec;
        let recorded = self.inventory.site.recorded_data_dir.clone();
        for observed in self.rows(|kind| matches!(kind, Kind::Kubeconfig { .. })) {
            let Kind::Kubeconfig { leaf, authority } = observed.row.kind else {
                continue;
            };
            let Some(leaf_row) = self.inventory.flavour.row(leaf) else {
                continue;
            };
            if !self.wants(&observed) {
                continue;
            }
            let (side, port) = match observed.row.side {
                Side::Agent => (recorded.join("agent"), spec.https_port),
                Side::Server | Side::Admin => (recorded.join("server"), spec.apiserver_port),
            };
            let path = |file: PathBuf| side.join(file).display().to_string();
            let text = render_reference(&Reference {
                server: &spec.loopback_url(port),
                authority: &path(authority.into()),
                certificate: &path(leaf_row.file()),
                key: &path(leaf_row.key_file().unwrap_or_default()),
            });
            let reason = format!("points to {leaf}");
            self.put(
                &observed.file,
                observed.row.mode(),
                Content::Text(text),
                &reason,
            );
        }
    }

    /// `passwd`, `token` and its other names, `ipsec.psk`.
    pub(super) fn secrets(&mut self) -> Result<(), InitError> {
        let own = self.authority_hash();
        let passwd = make::passwords(self.request, own)?;
        if let Some(row) = self.row("passwd")
            && (row.file.is_absent() || passwd != self.request.survey.passwd)
            && !self.is_foreseen(&row.file.path)
        {
            let bytes = Zeroizing::new(passwd.to_text().as_bytes().to_vec());
            let reason = "passwords of servers and agents";
            self.stage_secret(&row.file, "passwd", bytes, reason);
        }
        if let Some(row) = self.row("ipsec.psk")
            && row.file.is_absent()
        {
            let bytes = make::pre_shared_key(self.request)?;
            self.stage_secret(&row.file, "ipsec.psk", bytes, row.row.summary);
        }
        self.token("token", "servers", SERVER.0, own, &passwd);
        let link = Content::Link(self.inventory.site.recorded_data_dir.join("server/token"));
        if let Some(row) = self.row("node-token")
            && self.wants(&row)
        {
            self.put(&row.file, 0o777, link.clone(), row.row.summary);
        }
        if passwd.password(NODE.0) != passwd.password(SERVER.0) {
            self.token("agent-token", "agents", NODE.0, own, &passwd);
        } else if let Some(row) = self.row("agent-token")
            && self.wants(&row)
        {
            self.put(&row.file, 0o777, link, row.row.summary);
        }
        Ok(())
    }

    /// A file with a token, unless it says the same already. A link stays: it leads to another
    /// such file.
    fn token(&mut self, id: &str, who: &str, user: &str, own: Digest, passwd: &Passwd) {
        let (Some(row), Some(password)) = (self.row(id), passwd.password(user)) else {
            return;
        };
        let token = Token::new(own, user, password.clone());
        let text = Zeroizing::new(format!("{}\n", *token.to_text()).into_bytes());
        let missing = self.wants(&row);
        let stale = row.file.present().is_some() && !is_no_file(&row.file);
        if missing || stale && !is_file(&row.file, &text) {
            self.stage_secret(&row.file, id, text, &format!("{who} join with it"));
            let path = row.file.path.display();
            let note = format!("{who} join with the token in {path}: {token}");
            self.plan.notes.push(note);
        }
    }

    /// The hash that this cluster's tokens pin.
    fn authority_hash(&self) -> Digest {
        let Some(observed) = self.inventory.row("server-ca") else {
            return Digest([0; 32]);
        };
        let file = match observed
            .file
            .present()
            .map(|present| &present.fingerprint.kind)
        {
            Some(FingerprintKind::File(hex)) => digest(hex),
            _ => None,
        };
        let file = file.unwrap_or(Digest([0; 32]));
        let certificates = observed.file.certificates();
        match self.release {
            // The same releases that take CAs under other CAs hash their root.
            DetectedRelease::Known(release) if !outer_authorities(release) => file,
            _ => hash_of(file, certificates, self.request.now),
        }
    }

    pub(super) fn settings(&mut self) {
        let spec = self.request.spec;
        let tls = self
            .inventory
            .site
            .recorded_data_dir
            .join("server/tls")
            .display()
            .to_string();
        let texts = [
            (
                "egress-selector-config",
                settings::egress_selector(spec, &tls),
            ),
            ("cloud-config", settings::cloud_config(spec)),
        ];
        for (id, text) in texts {
            if let Some(row) = self.row(id)
                && self.wants(&row)
            {
                self.put(
                    &row.file,
                    row.row.mode(),
                    Content::Text(text),
                    row.row.summary,
                );
            }
        }
    }

    /// The agent's copies of what it trusts.
    pub(super) fn agent_copies(&mut self) {
        for observed in self.rows(|kind| matches!(kind, Kind::CopyOf { .. })) {
            let Kind::CopyOf { authority } = observed.row.kind else {
                continue;
            };
            let Some(source) = self.inventory.row(authority) else {
                continue;
            };
            let kind = |file: &Observed| file.present().map(|it| it.fingerprint.kind.clone());
            let stale = self.follows_data()
                && !observed.file.is_absent()
                && !is_no_file(&observed.file)
                && kind(&observed.file) != kind(&source.file);
            if !self.wants(&observed) && !stale {
                continue;
            }
            if let Some(FingerprintKind::File(sha256)) = kind(&source.file) {
                let content = Content::CopyOf {
                    path: source.file.path.clone(),
                    sha256,
                };
                self.put(
                    &observed.file,
                    observed.row.mode(),
                    content,
                    observed.row.summary,
                );
            }
        }
    }

    /// The kubeconfig for people, where it is in scope and missing.
    pub(super) fn admin_kubeconfig(&mut self) {
        let spec = self.request.spec;
        for observed in self.rows(|kind| matches!(kind, Kind::AdminKubeconfig { .. })) {
            let Kind::AdminKubeconfig { leaf, authority } = observed.row.kind else {
                continue;
            };
            let id = LeafId(leaf.to_owned());
            if !observed.file.is_absent() {
                continue;
            }
            if !self.plan.leaves.contains_key(&id) {
                // Its key is in the tree and in no plan: K3s writes this file at every start.
                let path = observed.file.path.display();
                self.plan.notes.push(format!(
                    "{path} is missing; K3s writes it at its next start"
                ));
                continue;
            }
            let bundle = self.inventory.authority(authority);
            let content = Content::NewKubeconfig {
                name: "default".to_owned(),
                server: spec.people_url(),
                authority: bundle.iter().map(Certificate::to_pem).collect(),
                preferences: writes_preferences(self.release),
                leaf: id,
            };
            self.put(
                &observed.file,
                spec.kubeconfig_mode,
                content,
                observed.row.summary,
            );
        }
    }
}
