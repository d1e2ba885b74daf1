//! From what should be and what is to a [`Plan`]: pure, and changing nothing.

use std::collections::BTreeMap;
use std::path::Path;

use pki::{Certificate, Purpose, UnixTime};

use super::error::PlanError;
use super::issuer::certificate;
use super::{
    Action, Before, Content, KeyOrigin, Leaf, LeafId, PLAN_FORMAT, Plan, PlanId, Step, Target,
};
use crate::catalogue::{Kind, LeafSpec, Row};
use crate::cluster::{LeafWant, Policy, Wishes, listener_sans, want};
use crate::edge::Entropy;
use crate::host::Attributes;
use crate::inventory::{Facts, Found, Inventory, Observed, ObservedRow, Role};

/// A row to issue or make anew, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    /// The row's id.
    pub row: &'static str,
    /// Why, for the operator.
    pub reason: String,
}

/// What a plan is made from.
#[derive(Debug)]
pub struct Request<'a> {
    /// The plan's name.
    pub id: PlanId,
    /// What it is for.
    pub title: String,
    /// What is.
    pub inventory: &'a Inventory,
    /// What is wanted beyond that.
    pub wishes: &'a Wishes,
    /// Lifetimes and keys.
    pub policy: Policy,
    /// Now.
    pub now: UnixTime,
    /// Whether `now` is made up.
    pub hypothetical: bool,
    /// Where serial numbers come from.
    pub entropy: &'a dyn Entropy,
}

/// Plans the issue of every selected row, with the kubeconfigs that inline them.
///
/// On an agent-only node there is no CA key: the files are removed, and the agent gets new ones
/// at its next start (reference section 1.6).
///
/// # Errors
///
/// [`PlanError`] when one of the rows cannot be issued; then there is no plan at all.
pub fn plan_leaves(request: &Request<'_>, selected: &[Selection]) -> Result<Plan, PlanError> {
    let mut draft = Draft::new(request);
    for selection in selected {
        let Some(observed) = request.inventory.row(selection.row) else {
            continue;
        };
        if request.inventory.site.role == Role::AgentOnly {
            draft.remove_pair(observed, &selection.reason)?;
            continue;
        }
        match &observed.row.kind {
            Kind::Leaf(spec) => draft.issue(observed, spec, &selection.reason)?,
            Kind::Key => draft.make_key(observed, &selection.reason)?,
            Kind::Listener { authority } => {
                draft.issue_listener(observed, authority, &selection.reason)?;
            }
            _ => {}
        }
    }
    draft.refresh_admin_kubeconfig()?;
    Ok(draft.finish())
}

/// A plan in the making.
pub(super) struct Draft<'a> {
    request: &'a Request<'a>,
    plan: Plan,
    /// Seconds that the next leaves live.
    pub(super) lifetime: i64,
}

impl<'a> Draft<'a> {
    pub(super) fn new(request: &'a Request<'a>) -> Self {
        let plan = Plan {
            format: PLAN_FORMAT,
            id: request.id.clone(),
            undoes: None,
            title: request.title.clone(),
            node: request
                .inventory
                .node_name()
                .unwrap_or_else(|| "unknown".to_owned()),
            root: request.inventory.site.data_dir.clone(),
            created: request.now,
            datastore: None,
            irreversible: None,
            deferrable: std::collections::BTreeSet::new(),
            hypothetical: request.hypothetical,
            leaves: BTreeMap::new(),
            steps: Vec::new(),
            notes: Vec::new(),
        };
        Self {
            request,
            plan,
            lifetime: request.policy.lifetime,
        }
    }

    fn issue(
        &mut self,
        observed: &ObservedRow,
        spec: &LeafSpec,
        reason: &str,
    ) -> Result<(), PlanError> {
        let request = self.request;
        let want = want(request.inventory, observed.row, spec, request.wishes)?;
        if !spec.sans.is_empty() && want.sans.is_empty() {
            return Err(PlanError::NoNamesLeft {
                row: observed.row.id,
            });
        }
        let leaf = self.add_leaf(observed.row, want, spec.authority, observed.key.as_ref())?;
        if let Some(key) = &observed.key
            && !self.keeps_key(&leaf)
        {
            self.put(key, 0o600, Content::LeafKey(leaf.clone()), reason)?;
        }
        self.put(
            &observed.file,
            observed.row.mode(),
            Content::LeafCertificate(leaf),
            reason,
        )
    }

    fn issue_listener(
        &mut self,
        observed: &ObservedRow,
        authority: &'static str,
        reason: &str,
    ) -> Result<(), PlanError> {
        let inventory = self.request.inventory;
        if let Some(Facts::Malformed(_)) = observed.file.present().map(|present| &present.facts) {
            self.plan.notes.push(format!(
                "{} cannot be read and is removed: K3s makes it anew at its next start",
                observed.file.path.display()
            ));
            let before = before(&observed.file)?;
            self.step(&observed.file, before, Action::Remove, reason);
            return Ok(());
        }
        let Some(sans) = listener_sans(inventory, self.request.wishes) else {
            self.plan.notes.push(format!(
                "{} is not there: K3s makes the listener's certificate at its next start",
                observed.file.path.display()
            ));
            return Ok(());
        };
        if inventory
            .listener()
            .is_some_and(|listener| listener.is_static)
        {
            self.plan.notes.push(format!(
                "{} is marked static (listener.cattle.io/static): it is never changed",
                observed.file.path.display()
            ));
            return Ok(());
        }
        if sans.is_empty() {
            return Err(PlanError::NoNamesLeft {
                row: observed.row.id,
            });
        }
        let want = LeafWant {
            organizations: vec!["k3s".to_owned()],
            common_name: "k3s".to_owned(),
            sans,
            purposes: vec![Purpose::ServerAuth],
        };
        let leaf = self.add_leaf(observed.row, want, authority, Some(&observed.file))?;
        self.put(
            &observed.file,
            0o600,
            Content::ListenerSecret { leaf },
            reason,
        )
    }

    fn make_key(&mut self, observed: &ObservedRow, reason: &str) -> Result<(), PlanError> {
        if self.request.policy.keep_key && observed.file.present().is_some() {
            return Ok(());
        }
        let leaf = LeafId(observed.row.id.to_owned());
        let algorithm = self.request.policy.algorithm.to_string();
        self.plan.leaves.insert(
            leaf.clone(),
            Leaf {
                key: KeyOrigin::New { algorithm },
                certificate: None,
            },
        );
        self.put(&observed.file, 0o600, Content::LeafKey(leaf), reason)
    }

    /// The plan as it stands.
    pub(super) fn finish(self) -> Plan {
        self.plan
    }

    /// Registers the leaf of `row` and says under which id.
    fn add_leaf(
        &mut self,
        row: &'static Row,
        want: LeafWant,
        authority: &'static str,
        key: Option<&Observed>,
    ) -> Result<LeafId, PlanError> {
        let id = LeafId(row.id.to_owned());
        self.add_leaf_as(id.clone(), want, authority, key)?;
        Ok(id)
    }

    /// Registers a leaf under `id`.
    pub(super) fn add_leaf_as(
        &mut self,
        id: LeafId,
        want: LeafWant,
        authority: &'static str,
        key: Option<&Observed>,
    ) -> Result<(), PlanError> {
        let certificate = certificate(self.request, self.lifetime, want, authority)?;
        self.tell_expired(authority);
        let key = self.key_origin(key);
        self.plan.leaves.insert(
            id.clone(),
            Leaf {
                key,
                certificate: Some(certificate),
            },
        );
        Ok(())
    }

    /// The present key if it is to be kept and can be read, else a new one.
    fn key_origin(&self, key: Option<&Observed>) -> KeyOrigin {
        let policy = &self.request.policy;
        match key.and_then(|key| key.keys().first().map(|facts| (key, facts))) {
            Some((key, facts)) if policy.keep_key => KeyOrigin::Keep {
                path: key.path.clone(),
                spki: facts.spki.to_string(),
            },
            _ => KeyOrigin::New {
                algorithm: policy.algorithm.to_string(),
            },
        }
    }

    fn keeps_key(&self, leaf: &LeafId) -> bool {
        self.plan
            .leaves
            .get(leaf)
            .is_some_and(|leaf| matches!(leaf.key, KeyOrigin::Keep { .. }))
    }

    /// The admin kubeconfig inlines a leaf: a new one has to be inlined too.
    fn refresh_admin_kubeconfig(&mut self) -> Result<(), PlanError> {
        let inventory = self.request.inventory;
        for observed in &inventory.rows {
            let Kind::AdminKubeconfig { leaf, authority } = observed.row.kind else {
                continue;
            };
            let id = LeafId(leaf.to_owned());
            let Some(common_name) = self
                .plan
                .leaves
                .get(&id)
                .and_then(|leaf| leaf.certificate.as_ref())
                .map(|certificate| certificate.common_name.clone())
            else {
                continue;
            };
            let path = observed.file.path.display();
            let Some(Facts::Kubeconfig(facts)) = observed.file.present().map(|p| &p.facts) else {
                self.plan.notes.push(format!(
                    "{path} cannot be read as a kubeconfig; K3s writes it at its next start"
                ));
                continue;
            };
            let user = facts.users.iter().find(|user| {
                user.certificates
                    .first()
                    .and_then(|c| c.subject().common_name())
                    == Some(common_name.as_str())
            });
            let Some(user) = user else {
                self.plan
                    .notes
                    .push(format!("{path} inlines no certificate of {common_name}"));
                continue;
            };
            let present = inventory.authority(authority);
            let trusted = facts
                .authorities
                .iter()
                .any(|(_, bundle)| bundle == present);
            let bundle = (!trusted && !present.is_empty())
                .then(|| present.iter().map(Certificate::to_pem).collect());
            let content = Content::Kubeconfig {
                user: user.name.clone(),
                leaf: id,
                authority: bundle,
            };
            let reason = format!("inlines {leaf}");
            self.put(&observed.file, 0o600, content, &reason)?;
        }
        Ok(())
    }

    fn remove_pair(&mut self, observed: &ObservedRow, reason: &str) -> Result<(), PlanError> {
        let key = observed
            .key
            .as_ref()
            .filter(|_| !self.request.policy.keep_key);
        for file in [Some(&observed.file), key].into_iter().flatten() {
            if file.is_absent() {
                continue;
            }
            let before = before(file)?;
            self.step(file, before, Action::Remove, reason);
        }
        Ok(())
    }

    pub(super) fn put(
        &mut self,
        observed: &Observed,
        mode: u32,
        content: Content,
        reason: &str,
    ) -> Result<(), PlanError> {
        // A replacement keeps owner, mode and labels; only its time is new.
        let attributes = match observed.present() {
            Some(present) => Attributes {
                mtime: None,
                ..present.fingerprint.attributes.clone()
            },
            None => Attributes::new(mode),
        };
        if content.is_secret() && attributes.mode & 0o007 != 0 {
            let path = observed.path.display();
            self.plan.notes.push(format!(
                "{path} holds a private key and is open to everybody, which a replacement keeps: \
                 chmod 600 {path}"
            ));
        }
        let before = before(observed)?;
        self.make_directories(observed)?;
        self.step(
            observed,
            before,
            Action::Put {
                attributes,
                content,
            },
            reason,
        );
        Ok(())
    }

    /// Plans the directories that a missing file needs and that are missing too.
    fn make_directories(&mut self, file: &Observed) -> Result<(), PlanError> {
        let inventory = self.request.inventory;
        for directory in &inventory.directories {
            let planned = self.plan.steps.iter().any(
                |step| matches!(&step.target, Target::File { path, .. } if *path == directory.path),
            );
            if !directory.is_absent() || planned || !file.path.starts_with(&directory.path) {
                continue;
            }
            let action = Action::Put {
                attributes: Attributes::new(DIRECTORY_MODE),
                content: Content::Directory,
            };
            self.step(directory, before(directory)?, action, "is missing");
        }
        Ok(())
    }

    /// Says once of each certificate behind a CA that has ended: clients differ about it.
    fn tell_expired(&mut self, authority: &str) {
        let behind = self.request.inventory.authority(authority).iter().skip(1);
        for ended in behind.filter(|ca| ca.validity().not_after < self.request.now) {
            let note = format!(
                "{} behind {authority} expired {}: Kubernetes' clients hold the whole CA file and \
                 accept what it signs, OpenSSL's do not",
                ended.subject(),
                ended.validity().not_after
            );
            if !self.plan.notes.contains(&note) {
                self.plan.notes.push(note);
            }
        }
    }

    /// Says once of each directory that leads out of the tree that it does.
    fn tell_foreign(&mut self, path: &Path) {
        let Some((link, target)) = self.request.inventory.foreign_directory(path) else {
            return;
        };
        let note = format!(
            "{} is a link out of the data directory: files below it are written to {}",
            link.display(),
            target.display()
        );
        if !self.plan.notes.contains(&note) {
            self.plan.notes.push(note);
        }
    }

    fn step(&mut self, observed: &Observed, before: Before, action: Action, reason: &str) {
        self.tell_foreign(&observed.path);
        let number = u32::try_from(self.plan.steps.len())
            .unwrap_or(u32::MAX)
            .saturating_add(1);
        self.plan.steps.push(Step {
            number,
            target: Target::File {
                host: "local".to_owned(),
                path: observed.path.clone(),
            },
            before,
            action,
            reason: reason.to_owned(),
        });
    }
}

/// What K3s's writer of certificates gives the directories that it makes (reference section 1.2).
const DIRECTORY_MODE: u32 = 0o755;

/// The condition that what was seen is still there.
fn before(observed: &Observed) -> Result<Before, PlanError> {
    let unreadable = |detail: String| PlanError::Unreadable {
        path: observed.path.display().to_string(),
        detail,
    };
    match &observed.found {
        Found::Absent => Ok(Before::Absent),
        Found::Unreadable(why) => Err(unreadable(format!(
            "cannot be read: {why}; mend or remove it and run this again"
        ))),
        Found::Present(present) => match &present.facts {
            Facts::Link(to) => Err(unreadable(format!(
                "is a link to {}; replace it with a file, or name the real data directory",
                to.display()
            ))),
            Facts::Directory => Err(unreadable(
                "is a directory, not a file; remove it and run this again".to_owned(),
            )),
            _ => Ok(Before::Present(present.fingerprint.clone())),
        },
    }
}
