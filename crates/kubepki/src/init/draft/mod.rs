//! From what is wanted and what is there to a plan.

mod certificates;
mod files;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use pki::{Digest, sha256};
use zeroize::Zeroizing;

use super::authorities::{Authorities, state_of_authorities};
use super::survey::{TEMPORARY, directory_mode};
use super::{InitError, Request, Staged};
use crate::catalogue::{Kind, Row, Side};
use crate::cluster::Policy;
use crate::host::Attributes;
use crate::inventory::{DetectedRelease, Facts, Found, Inventory, Observed, ObservedRow, Present};
use crate::plan::{
    Action, Before, Content, Fingerprint, FingerprintKind, PLAN_FORMAT, Plan, Step, Target,
};

/// Plans a server: see [`super::plan_init`].
pub(super) fn plan(request: &Request<'_>) -> Result<(Plan, Vec<Staged>), InitError> {
    let mut draft = Draft::new(request);
    let authorities = draft.authorities()?;
    draft.make_authorities(&authorities)?;
    draft.first_certificates();
    draft.leaves()?;
    draft.service_keys(&authorities)?;
    draft.listener()?;
    draft.remove_trigger();
    draft.kubeconfigs();
    draft.secrets()?;
    draft.settings();
    draft.agent_copies();
    draft.admin_kubeconfig();
    Ok(draft.finish())
}

/// A plan in the making.
struct Draft<'a> {
    request: &'a Request<'a>,
    /// What is there, with what the plan puts in place of CAs.
    inventory: Inventory,
    release: DetectedRelease,
    policy: Policy,
    plan: Plan,
    staged: Vec<Staged>,
    /// Where keys lie until their step is done, by their place in the tree.
    staged_keys: BTreeMap<PathBuf, String>,
}

impl<'a> Draft<'a> {
    fn new(request: &'a Request<'a>) -> Self {
        let mut inventory = request.survey.inventory.clone();
        let release = release(request, &inventory);
        inventory.release = release;
        let plan = Plan {
            format: PLAN_FORMAT,
            id: request.id.clone(),
            undoes: None,
            title: format!("make the server {}", request.spec.node.name),
            node: request.spec.node.name.clone(),
            root: inventory.site.data_dir.clone(),
            created: request.now,
            datastore: None,
            irreversible: None,
            deferrable: std::collections::BTreeSet::new(),
            hypothetical: false,
            leaves: BTreeMap::new(),
            steps: Vec::new(),
            notes: Vec::new(),
        };
        Self {
            request,
            inventory,
            release,
            policy: Policy::k3s(release).lasting(request.spec.leaf_lifetime),
            plan,
            staged: Vec::new(),
            staged_keys: request
                .survey
                .foreseen
                .iter()
                .filter_map(|(path, name)| Some((path.clone(), name.clone()?)))
                .collect(),
        }
    }

    fn authorities(&mut self) -> Result<Authorities, InitError> {
        let token_ca = self.inventory.site.server().join("tls/token-ca.crt");
        if self
            .inventory
            .strays
            .iter()
            .any(|stray| stray.path == token_ca)
        {
            return Err(InitError::Legacy { path: token_ca });
        }
        let found = state_of_authorities(&self.inventory, self.release, self.request.now)
            .map_err(|faults| InitError::Authorities { faults })?;
        if found.is_partial() && !self.request.spec.complete {
            return Err(InitError::Incomplete {
                missing: found.missing,
            });
        }
        if let (false, Some(path)) = (found.missing.is_empty(), &self.request.survey.datastore) {
            let path = path.clone();
            return Err(InitError::Datastore { path });
        }
        Ok(found)
    }

    /// Rows of a kind, agent's only if they are wanted.
    fn rows(&self, kind: impl Fn(&Kind) -> bool) -> Vec<ObservedRow> {
        self.inventory
            .rows
            .iter()
            .filter(|o| o.row.side != Side::Agent || self.request.spec.with_agent)
            .filter(|o| kind(&o.row.kind))
            .cloned()
            .collect()
    }

    fn row(&self, id: &str) -> Option<ObservedRow> {
        self.inventory.row(id).cloned()
    }

    fn wants(&self, observed: &ObservedRow) -> bool {
        observed.file.is_absent() && self.release_has(observed.row)
    }

    /// Whether an earlier step puts the file in place, so that it is none of this plan's.
    fn is_foreseen(&self, path: &Path) -> bool {
        self.request.survey.foreseen.contains_key(path)
    }

    /// Whether the CAs are those of the bootstrap data, whatever lies on disk.
    fn follows_data(&self) -> bool {
        !self.request.survey.foreseen.is_empty()
    }

    fn release_has(&self, row: &Row) -> bool {
        self.release.expects(row)
    }

    fn put_unless_same(&mut self, file: &Observed, mode: u32, text: String, reason: &str) {
        if !is_file(file, text.as_bytes()) && !is_no_file(file) {
            self.put(file, mode, Content::Text(text), reason);
        }
    }

    /// Stages secret bytes and plans to put them at `file`.
    fn stage_secret(
        &mut self,
        file: &Observed,
        name: &str,
        bytes: Zeroizing<Vec<u8>>,
        reason: &str,
    ) {
        let sha256 = sha256(&bytes).to_string();
        self.put(
            file,
            0o600,
            Content::Staged {
                name: name.to_owned(),
                sha256,
            },
            reason,
        );
        self.staged.push(Staged {
            name: name.to_owned(),
            bytes,
        });
    }

    fn put(&mut self, file: &Observed, mode: u32, content: Content, reason: &str) {
        // A replacement keeps owner, mode and labels; only its time is new.
        let (before, attributes) = match file.present() {
            Some(present) => {
                let kept = present.fingerprint.attributes.clone();
                let attributes = Attributes {
                    mtime: None,
                    ..kept
                };
                (Before::Present(present.fingerprint.clone()), attributes)
            }
            None => (Before::Absent, Attributes::new(mode)),
        };
        self.plan
            .steps
            .push(step(&file.path, before, attributes, content, reason));
    }

    /// The plan with the directories that its files need, numbered.
    fn finish(mut self) -> (Plan, Vec<Staged>) {
        let mut steps = self.directories();
        steps.append(&mut self.plan.steps);
        for (step, number) in steps.iter_mut().zip(1_u32..) {
            step.number = number;
        }
        self.plan.steps = steps;
        if self.plan.steps.is_empty() {
            self.plan.title = format!("nothing to make: {} is whole", self.plan.root.display());
        }
        (self.plan, self.staged)
    }

    fn directories(&self) -> Vec<Step> {
        let data_dir = &self.inventory.site.data_dir;
        let known = |path: &Path| self.request.survey.directories.get(path).copied();
        let mut wanted: Vec<&Path> = Vec::new();
        for step in &self.plan.steps {
            let Target::File { path, .. } = &step.target else {
                continue;
            };
            let above = path
                .ancestors()
                .skip(1)
                .filter(|path| known(path) == Some(false));
            wanted.extend(above);
        }
        let scratch = data_dir.join(TEMPORARY);
        if wanted.iter().any(|path| path.ends_with("server/tls")) {
            wanted.push(&scratch);
        }
        // A directory sorts before what lies in it.
        wanted.sort_unstable();
        wanted.dedup();
        let mode = |path: &Path| path.strip_prefix(data_dir).map_or(0o755, directory_mode);
        let directory = |path: &Path| {
            let attributes = Attributes::new(mode(path));
            step(
                path,
                Before::Absent,
                attributes,
                Content::Directory,
                "is missing",
            )
        };
        wanted.into_iter().map(directory).collect()
    }
}

fn step(
    path: &Path,
    before: Before,
    attributes: Attributes,
    content: Content,
    reason: &str,
) -> Step {
    Step {
        number: 0,
        target: Target::File {
            host: "local".to_owned(),
            path: path.to_owned(),
        },
        before,
        action: Action::Put {
            attributes,
            content,
        },
        reason: reason.to_owned(),
    }
}

/// Which K3s: as the operator says, else as the files tell, else the newest.
fn release(request: &Request<'_>, inventory: &Inventory) -> DetectedRelease {
    let has_leaves = inventory
        .rows
        .iter()
        .any(|o| o.row.leaf().is_some() && o.row.side == Side::Server && !o.file.is_absent());
    match request.spec.release {
        Some(release) => DetectedRelease::Known(release),
        None if has_leaves => inventory.release,
        None => DetectedRelease::Known(super::NEWEST),
    }
}

/// Whether client-go of that release still writes `preferences: {}` into kubeconfigs.
fn writes_preferences(release: DetectedRelease) -> bool {
    matches!(release, DetectedRelease::Known(release) if release.minor < 34)
}

/// What a file will be once its step is done.
fn foreseen(content: Digest, mode: u32, facts: Facts) -> Found {
    let kind = FingerprintKind::File(content.to_string());
    let fingerprint = Fingerprint {
        kind,
        attributes: Attributes::new(mode),
    };
    Found::Present(Box::new(Present { fingerprint, facts }))
}

fn is_file(file: &Observed, bytes: &[u8]) -> bool {
    let kind = file.present().map(|present| &present.fingerprint.kind);
    matches!(kind, Some(FingerprintKind::File(found)) if *found == sha256(bytes).to_string())
}

/// A link or directory where a file is expected; neither is replaced.
fn is_no_file(file: &Observed) -> bool {
    matches!(
        file.present().map(|present| &present.facts),
        Some(Facts::Link(_) | Facts::Directory)
    )
}

fn digest(hex: &str) -> Option<Digest> {
    Some(Digest(pki::unhex(hex)?.try_into().ok()?))
}
