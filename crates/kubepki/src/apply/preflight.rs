//! Everything that can be known to go wrong before anything is changed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::compare::{Care, difference, found, required};
use super::error::{ApplyError, Difference, StepError};
use super::leaves::Workshop;
use super::render::{copied, leaf_of};
use crate::edge::file::is_temporary;
use crate::host::Host;
use crate::journal::Found;
use crate::plan::{
    Action, Before, Content, Fingerprint, FingerprintKind, KeyOrigin, PLAN_FORMAT, Plan, Proof,
    SecretRef, Step, Target,
};

/// Whether this build can carry out the plan at all, before anything is looked at.
///
/// # Errors
///
/// [`ApplyError::Hypothetical`], [`ApplyError::Unfit`], [`ApplyError::Unsupported`].
pub fn check_fit(plan: &Plan) -> Result<(), ApplyError> {
    let unfit = |problem| ApplyError::Unfit {
        plan: plan.id.clone(),
        problem,
    };
    if plan.hypothetical {
        return Err(ApplyError::Hypothetical {
            plan: plan.id.clone(),
        });
    }
    if plan.format != PLAN_FORMAT {
        return Err(unfit(format!("format {} is not known", plan.format)));
    }
    for (step, number) in plan.steps.iter().zip(1_u32..) {
        if step.number != number {
            return Err(unfit(format!(
                "step {} stands where step {number} should",
                step.number
            )));
        }
        check_step(plan, step).map_err(|problem| unfit(format!("step {number}: {problem}")))?;
    }
    // A plan that contradicts itself is a worse fault than one that needs a later build.
    plan.steps.iter().try_for_each(check_supported)
}

fn check_step(plan: &Plan, step: &Step) -> Result<(), String> {
    match (&step.target, &step.action) {
        (Target::File { path, .. }, Action::Put { .. } | Action::Remove) => {
            let plain = path.is_absolute() && path.file_name().is_some();
            if !plain {
                return Err(format!("{} is no absolute path of a file", path.display()));
            }
            if !matches!(step.before, Before::Absent | Before::Present(_)) {
                return Err("it does not say what must be there before".to_owned());
            }
        }
        (Target::DatastoreKey { .. }, Action::Txn { .. })
        | (Target::Unit { .. } | Target::Container { .. }, Action::Restart { .. })
        | (Target::Http { .. } | Target::Container { .. }, _)
        | (_, Action::DeletePods { .. }) => {}
        (Target::Manual { .. }, Action::Manual { probe, .. }) => {
            if probe.is_empty() {
                return Err("a manual step needs a probe, else it is a note".to_owned());
            }
        }
        (target, _) => return Err(format!("its action does not fit its target {target:?}")),
    }
    if let Action::Put { content, .. } = &step.action {
        if let Some(leaf) = leaf_of(content)
            && !plan.leaves.contains_key(leaf)
        {
            return Err(format!("the plan does not say what leaf {leaf} is"));
        }
        let edits = matches!(
            content,
            Content::Kubeconfig { .. } | Content::ListenerSecret { .. }
        );
        if edits && step.before == Before::Absent {
            return Err("it edits a file that should be absent".to_owned());
        }
    }
    for proof in proofs(step) {
        if let Proof::Serves { leaf, .. } = proof
            && plan
                .leaves
                .get(leaf)
                .is_none_or(|leaf| leaf.certificate.is_none())
        {
            return Err(format!(
                "leaf {leaf} that is to be served has no certificate"
            ));
        }
    }
    Ok(())
}

fn check_supported(step: &Step) -> Result<(), ApplyError> {
    let cannot = |what: String| {
        Err(ApplyError::Unsupported {
            step: step.number,
            what,
        })
    };
    if matches!(step.action, Action::DeletePods { .. }) {
        return cannot("delete pods".to_owned());
    }
    match &step.target {
        Target::File { host, .. } | Target::Unit { host, .. } | Target::Manual { host } => {
            if host != LOCAL {
                cannot(format!("reach the host {host}"))
            } else {
                Ok(())
            }
        }
        Target::DatastoreKey { key } => cannot(format!("write the datastore key {key}")),
        Target::Container { name, .. } => cannot(format!("restart the container {name}")),
        Target::Http { method, url } => cannot(format!("call {method} {url}")),
    }
}

fn proofs(step: &Step) -> &[Proof] {
    match &step.action {
        Action::Restart { proof, .. } => proof,
        Action::Manual { probe, .. } => probe,
        _ => &[],
    }
}

/// Whether every step finds what it was made for, earlier steps of the plan taken into account.
/// Changes nothing.
///
/// # Errors
///
/// [`ApplyError::Stale`] with everything that differs, or [`ApplyError::Host`].
pub async fn check_before(plan: &Plan, host: &dyn Host) -> Result<(), ApplyError> {
    check_before_from(plan, 1, host).await
}

/// The same for the steps from `first` on, those before being done.
pub(super) async fn check_before_from(
    plan: &Plan,
    first: u32,
    host: &dyn Host,
) -> Result<(), ApplyError> {
    let mut foresight = Foresight {
        host,
        expected: BTreeMap::new(),
    };
    let mut differences = Vec::new();
    for step in plan.steps.iter().filter(|step| step.number >= first) {
        let Target::File { path, .. } = &step.target else {
            continue;
        };
        if let Some(detail) = foresight.take(step, path).await? {
            differences.push(Difference {
                step: step.number,
                path: path.clone(),
                detail,
            });
        }
    }
    if differences.is_empty() {
        return Ok(());
    }
    Err(ApplyError::Stale {
        plan: plan.id.clone(),
        differences,
        begun: false,
    })
}

/// What paths will hold when a step comes to them.
struct Foresight<'a> {
    host: &'a dyn Host,
    /// What earlier steps leave; content that is not known yet has the digest [`UNKNOWN`].
    expected: BTreeMap<PathBuf, Found>,
}

impl Foresight<'_> {
    /// Takes a step in thought, and says what would be in its way.
    async fn take(&mut self, step: &Step, path: &Path) -> Result<Option<String>, ApplyError> {
        let now = match self.expected.get(path) {
            Some(expected) => expected.clone(),
            None => found(self.host.read(path).await?.as_ref()),
        };
        let mut problem = required(&step.before)
            .and_then(|required| difference(&fill_unknown(required, &now), &now, Care::Before));
        let after = match &step.action {
            Action::Put {
                attributes,
                content,
            } => {
                if problem.is_none() {
                    problem = self.parent_problem(path).await?;
                }
                let kind = foreseen_kind(content);
                Found::Present(Fingerprint {
                    kind,
                    attributes: attributes.clone(),
                })
            }
            _ => {
                if problem.is_none() && is_directory(&now) {
                    problem = self.full_directory(path).await?;
                }
                Found::Absent
            }
        };
        self.expected.insert(path.to_owned(), after);
        Ok(problem)
    }

    async fn parent_problem(&self, path: &Path) -> Result<Option<String>, ApplyError> {
        let Some(parent) = path.parent() else {
            return Ok(None);
        };
        let there = match self.expected.get(parent) {
            Some(expected) => is_directory(expected),
            None => self.host.list(parent).await?.is_some(),
        };
        Ok((!there).then(|| format!("the directory {} is missing", parent.display())))
    }

    /// Whether a directory that is to be removed will still hold something.
    async fn full_directory(&self, path: &Path) -> Result<Option<String>, ApplyError> {
        let mut left: BTreeSet<PathBuf> = BTreeSet::new();
        for name in self.host.list(path).await?.unwrap_or_default() {
            left.insert(path.join(name));
        }
        // What a crash left beside a file is taken away when its plan is continued or undone.
        left.retain(|path| !is_temporary(path));
        for (changed, expected) in &self.expected {
            if changed.parent() == Some(path) {
                match expected {
                    Found::Absent => left.remove(changed),
                    _ => left.insert(changed.clone()),
                };
            }
        }
        Ok(left
            .first()
            .map(|first| format!("the directory still holds {}", first.display())))
    }
}

fn is_directory(found: &Found) -> bool {
    matches!(found, Found::Present(fingerprint) if fingerprint.kind == FingerprintKind::Directory)
}

fn foreseen_kind(content: &Content) -> FingerprintKind {
    match content {
        Content::Directory => FingerprintKind::Directory,
        Content::Link(target) => FingerprintKind::Link(target.clone()),
        Content::Text(text) => FingerprintKind::File(pki::sha256(text.as_bytes()).to_string()),
        Content::Staged { sha256, .. }
        | Content::Backup { sha256, .. }
        | Content::CopyOf { sha256, .. } => FingerprintKind::File(sha256.clone()),
        _ => FingerprintKind::File(UNKNOWN.to_owned()),
    }
}

/// What an earlier step leaves open, a later one cannot miss: content that is still to be made,
/// an owner and label that are this process's.
fn fill_unknown(mut required: Found, now: &Found) -> Found {
    let (Found::Present(wanted), Found::Present(now)) = (&mut required, now) else {
        return required;
    };
    if let (FingerprintKind::File(digest), FingerprintKind::File(unknown)) =
        (&mut wanted.kind, &now.kind)
        && unknown == UNKNOWN
    {
        UNKNOWN.clone_into(digest);
    }
    let (wanted, now) = (&mut wanted.attributes, &now.attributes);
    wanted.uid = wanted.uid.and(now.uid);
    wanted.gid = wanted.gid.and(now.gid);
    if now.label.is_none() {
        wanted.label = None;
    }
    required
}

/// Whether everything that the steps from `first` on take from elsewhere is there: copies, kept
/// keys, the keys of issuers. What an earlier step of the plan provides is left to its moment.
pub(super) async fn check_sources(workshop: &Workshop<'_>, first: u32) -> Result<(), ApplyError> {
    let mut provided: BTreeSet<&Path> = BTreeSet::new();
    for step in &workshop.plan.steps {
        if step.number >= first
            && let Action::Put { content, .. } = &step.action
        {
            check_source(workshop, content, &provided)
                .await
                .map_err(|source| ApplyError::Unprepared {
                    plan: workshop.plan.id.clone(),
                    step: step.number,
                    source: Box::new(source),
                })?;
        }
        if let Target::File { path, .. } = &step.target {
            provided.insert(path);
        }
    }
    Ok(())
}

async fn check_source(
    workshop: &Workshop<'_>,
    content: &Content,
    provided: &BTreeSet<&Path>,
) -> Result<(), StepError> {
    let comes = |path: &Path| provided.contains(path);
    match content {
        Content::CopyOf { path, .. } if comes(path) => {}
        Content::Staged { .. } | Content::Backup { .. } | Content::CopyOf { .. } => {
            copied(workshop, content).await?;
        }
        _ => {}
    }
    let Some(id) = leaf_of(content) else {
        return Ok(());
    };
    let leaf = workshop.leaf(id)?;
    match &leaf.key {
        KeyOrigin::Keep { path, spki } if !comes(path) => {
            workshop.kept_key(path, spki).await?;
        }
        KeyOrigin::Keep { .. } | KeyOrigin::New { .. } => {}
    }
    if matches!(content, Content::LeafKey(_)) {
        return Ok(());
    }
    match leaf
        .certificate
        .as_ref()
        .map(|certificate| &certificate.issuer)
    {
        Some(issuer) if !matches!(&issuer.key, SecretRef::File(path) if comes(path)) => {
            workshop.authority(issuer).await?;
        }
        _ => {}
    }
    Ok(())
}

/// This machine's name in plans.
pub(super) const LOCAL: &str = "local";
const UNKNOWN: &str = "not made yet";
