//! Certificates and keys.

use std::path::{Path, PathBuf};

use pki::{PrivateKey, Purpose, San, sha256};

use super::{Draft, foreseen, is_file};
use crate::catalogue::{Kind, Side};
use crate::cluster::{LeafWant, Wishes};
use crate::init::authorities::{Authorities, Standing};
use crate::init::{InitError, make};
use crate::inventory::{Facts, Inventory, KeyFacts, ObservedRow};
use crate::plan::{
    self, Action, Before, Content, Fingerprint, KeyOrigin, Leaf, LeafId, SecretRef, Selection,
    Step, Target, due, plan_leaves,
};

impl Draft<'_> {
    /// The CAs that are missing; what is there is only looked at.
    pub(super) fn make_authorities(&mut self, authorities: &Authorities) -> Result<(), InitError> {
        for observed in self.rows(|kind| matches!(kind, Kind::Authority { .. })) {
            match authorities.standing(observed.row.id) {
                Standing::Whole => self.note_early_end(&observed),
                Standing::KeyOnly => self.make_authority(&observed, true)?,
                Standing::Absent => self.make_authority(&observed, false)?,
            }
        }
        Ok(())
    }

    /// Makes a CA, with the key that lies there alone if `keeps`, and lets the inventory tell of
    /// it as if its steps were done.
    fn make_authority(&mut self, observed: &ObservedRow, keeps: bool) -> Result<(), InitError> {
        let row = observed.row;
        let (Kind::Authority { common_name, signs }, Some(key)) = (&row.kind, &observed.key) else {
            return Ok(());
        };
        let present = if keeps {
            Some(self.lone_key(&key.path)?)
        } else {
            None
        };
        let made = make::authority(self.request, common_name, present)?;
        let reason = format!("signs {signs}");
        let mut key_found = key.found.clone();
        if !keeps {
            let name = format!("{}.key", row.id);
            let bytes = make::pem(made.key(), &name)?;
            let facts = Facts::Keys(vec![KeyFacts {
                spki: made.key().spki_sha256(),
                algorithm: made.key().algorithm(),
            }]);
            key_found = foreseen(sha256(&bytes), 0o600, facts);
            self.stage_secret(key, &name, bytes, &reason);
            self.staged_keys.insert(key.path.clone(), name);
        }
        let pem = made.certificate().to_pem();
        let facts = Facts::Certificates(vec![made.certificate().clone()]);
        let found = foreseen(sha256(pem.as_bytes()), row.mode(), facts);
        self.put(&observed.file, row.mode(), Content::Text(pem), &reason);
        let mine = self
            .inventory
            .rows
            .iter_mut()
            .find(|other| other.row.id == row.id);
        if let Some(mine) = mine {
            mine.file.found = found;
            if let Some(key) = &mut mine.key {
                key.found = key_found;
            }
        }
        Ok(())
    }

    fn lone_key(&self, path: &Path) -> Result<PrivateKey, InitError> {
        let failed = |source| InitError::Key {
            path: path.to_owned(),
            source,
        };
        let missing = pki::Error::NoPemBlock {
            expected: "PRIVATE KEY",
        };
        let pem = self
            .request
            .survey
            .keys
            .get(path)
            .ok_or_else(|| failed(missing))?;
        PrivateKey::from_pem(pem).map_err(failed)
    }

    fn note_early_end(&mut self, observed: &ObservedRow) {
        let Some(ca) = observed.file.first_certificate() else {
            return;
        };
        let end = make::ends_early(ca, self.request.now, self.policy.lifetime);
        if let Some(end) = end {
            let path = observed.file.path.display();
            self.plan
                .notes
                .push(format!("{path} ends {end}, and its leaves end with it"));
        }
    }

    /// `*.nochain.crt`: K3s writes them at every start.
    pub(super) fn first_certificates(&mut self) {
        for observed in self.rows(|kind| matches!(kind, Kind::FirstOf { .. })) {
            let Kind::FirstOf { authority } = observed.row.kind else {
                continue;
            };
            let Some(first) = self.inventory.authority(authority).first() else {
                continue;
            };
            let stale =
                !observed.file.is_absent() && observed.file.first_certificate() != Some(first);
            if self.wants(&observed) || stale {
                let pem = first.to_pem();
                let reason = format!("{authority} alone");
                self.put_unless_same(&observed.file, observed.row.mode(), pem, &reason);
            }
        }
    }

    /// What is missing, and what K3s's start would make anew.
    pub(super) fn leaves(&mut self) -> Result<(), InitError> {
        let spec = self.request.spec;
        let wishes = self.wishes();
        let now = self.request.now;
        let due =
            due(&self.inventory, &wishes, &self.policy, now).map_err(plan::PlanError::from)?;
        let mut selected = due.selected;
        // Settings decide over this one, and here they are known.
        if let Some(row) = self.inventory.row("etcd-server-client")
            && row.file.is_absent()
            && !spec.disable_etcd
            && self.release_has(row.row)
        {
            selected.push(Selection {
                row: row.row.id,
                reason: "etcd: is missing".to_owned(),
            });
        }
        if self.follows_data() && self.admin_trusts_others() {
            let row = "client-admin";
            if !selected.iter().any(|it| it.row == row) {
                let reason = "admin: the kubeconfig inlines another CA".to_owned();
                selected.push(Selection { row, reason });
            }
        }
        if self.trigger().is_some()
            && let Some(listener) = self.inventory.row("dynamic-listener")
            && !listener.file.is_absent()
            && !selected.iter().any(|it| it.row == listener.row.id)
        {
            let reason = "k3s-server: K3s would make it anew at its start".to_owned();
            selected.push(Selection {
                row: listener.row.id,
                reason,
            });
        }
        let side = |selection: &Selection| self.inventory.row(selection.row).map(|o| o.row.side);
        selected.retain(|it| side(it) == Some(Side::Server) || spec.with_agent);
        let mut inventory = self.inventory.clone();
        // A kubeconfig that is still to be made inlines nothing yet.
        inventory
            .rows
            .retain(|o| o.row.side != Side::Admin || !o.file.is_absent());
        // Its directories are made by this plan's own steps.
        inventory.directories.clear();
        let leaves = plan_leaves(&self.plan_request(&inventory, &wishes), &selected)?;
        for (id, mut leaf) in leaves.leaves {
            self.use_staged_key(&mut leaf);
            self.plan.leaves.insert(id, leaf);
        }
        self.plan.steps.extend(leaves.steps);
        self.plan
            .notes
            .extend(due.notes.into_iter().chain(leaves.notes));
        Ok(())
    }

    /// Whether the kubeconfig for people inlines other CAs than those in force; K3s writes it at
    /// every start.
    fn admin_trusts_others(&self) -> bool {
        let present = self.inventory.authority("server-ca");
        self.inventory.rows.iter().any(|observed| {
            let facts = observed.file.present().map(|present| &present.facts);
            match (&observed.row.kind, facts) {
                (Kind::AdminKubeconfig { .. }, Some(Facts::Kubeconfig(facts))) => !facts
                    .authorities
                    .iter()
                    .any(|(_, bundle)| bundle == present),
                _ => false,
            }
        })
    }

    fn wishes(&self) -> Wishes {
        let node = self.request.spec.node.clone();
        Wishes {
            add_sans: node
                .tls_sans
                .iter()
                .map(|text| San::from_text(text))
                .collect(),
            node: Some(node),
            drop_sans: Vec::new(),
            release: self.release,
        }
    }

    fn plan_request<'b>(
        &'b self,
        inventory: &'b Inventory,
        wishes: &'b Wishes,
    ) -> plan::Request<'b> {
        plan::Request {
            id: self.plan.id.clone(),
            title: self.plan.title.clone(),
            inventory,
            wishes,
            policy: self.policy,
            now: self.request.now,
            hypothetical: false,
            entropy: self.request.entropy,
        }
    }

    /// A CA key that is still to be put in place signs from where it is staged.
    fn use_staged_key(&self, leaf: &mut Leaf) {
        let Some(certificate) = &mut leaf.certificate else {
            return;
        };
        if let SecretRef::File(path) = &certificate.issuer.key
            && let Some(name) = self.staged_keys.get(path)
        {
            certificate.issuer.key = SecretRef::Staged(name.clone());
        }
    }

    /// The service-account keys, and the first of them alone.
    pub(super) fn service_keys(&mut self, authorities: &Authorities) -> Result<(), InitError> {
        let (Some(all), Some(current)) = (self.row("service.key"), self.row("service.current.key"))
        else {
            return Ok(());
        };
        let path = &all.file.path;
        let is_new = authorities.standing(all.row.id) != Standing::Whole;
        let first = match self.request.survey.keys.get(path) {
            _ if is_new => {
                let key = make::service_key(self.request)?;
                let bytes = make::pem(&key, all.row.id)?;
                self.stage_secret(&all.file, all.row.id, bytes, all.row.summary);
                key
            }
            Some(pem) => PrivateKey::from_pem(pem).map_err(|source| InitError::Key {
                path: path.clone(),
                source,
            })?,
            // The other file is there too.
            None => return Ok(()),
        };
        let bytes = make::pem(&first, current.row.id)?;
        let stale = !is_file(&current.file, &bytes) && (is_new || self.follows_data());
        if self.wants(&current) || stale && !current.file.is_absent() {
            self.stage_secret(&current.file, current.row.id, bytes, current.row.summary);
        }
        Ok(())
    }

    /// What makes K3s write the listener's certificate itself, with its whole CA file behind it:
    /// with the CAs in force at hand it is written here, and the trigger goes.
    fn trigger(&self) -> Option<&(PathBuf, Fingerprint)> {
        let trigger = self.request.survey.trigger.as_ref();
        trigger.filter(|_| self.follows_data())
    }

    /// Takes the trigger away once the listener's certificate is new.
    pub(super) fn remove_trigger(&mut self) {
        let Some((path, present)) = self.trigger().cloned() else {
            return;
        };
        self.plan.steps.push(Step {
            number: 0,
            target: Target::File {
                host: "local".to_owned(),
                path,
            },
            before: Before::Present(present),
            action: Action::Remove,
            reason: "K3s would make the listener's certificate anew, with its own chain".to_owned(),
        });
    }

    pub(super) fn listener(&mut self) -> Result<(), InitError> {
        let Some(observed) = self.row("dynamic-listener") else {
            return Ok(());
        };
        let Kind::Listener { authority } = observed.row.kind else {
            return Ok(());
        };
        if !observed.file.is_absent() {
            return Ok(());
        }
        let node = &self.request.spec.node;
        let mut names: Vec<String> = node
            .server_names()
            .iter()
            .chain(&node.service_names())
            .map(San::to_string)
            .collect();
        // K3s keeps them as sorted annotations.
        names.sort();
        let want = LeafWant {
            organizations: vec!["k3s".to_owned()],
            common_name: "k3s".to_owned(),
            sans: names.iter().map(|name| San::from_text(name)).collect(),
            purposes: vec![Purpose::ServerAuth],
        };
        let wishes = self.wishes();
        let inventory = self.inventory.clone();
        let request = self.plan_request(&inventory, &wishes);
        let lifetime = self.policy.lifetime;
        let certificate = plan::certificate(&request, lifetime, want, authority)?;
        let key = KeyOrigin::New {
            algorithm: self.policy.algorithm.to_string(),
        };
        let mut leaf = Leaf {
            key,
            certificate: Some(certificate),
        };
        self.use_staged_key(&mut leaf);
        let id = LeafId(observed.row.id.to_owned());
        self.plan.leaves.insert(id.clone(), leaf);
        self.put(
            &observed.file,
            0o600,
            Content::NewListenerSecret { leaf: id },
            "is missing",
        );
        Ok(())
    }
}
