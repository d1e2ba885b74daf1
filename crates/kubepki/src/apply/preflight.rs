//! Everything that can be known to go wrong before anything is changed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::compare::{Care, difference, found};
use super::error::{ApplyError, Difference};
use super::failure::StepError;
use super::hosts::wanted;
use super::leaves::Workshop;
use super::render::{copied, leaves_of};
use super::restamp::ready;
use super::{Cluster, Executor, txn};
use crate::edge::file::is_temporary;
use crate::host::{self, Host};
use crate::journal::{Found, Replay};
use crate::plan::{
    Action, Before, Content, Fingerprint, FingerprintKind, KeyOrigin, Plan, SecretRef, Step,
    Target, TxnOperation,
};

/// Whether the datastore and the servers that the steps from `first` on need can be reached, and
/// are the plan's.
///
/// # Errors
///
/// [`ApplyError::NoDatastore`], [`ApplyError::OtherDatastore`], [`ApplyError::NoCaller`],
/// [`ApplyError::NoMachines`], [`ApplyError::NoKubernetes`].
pub(super) fn check_reach(
    plan: &Plan,
    first: u32,
    executor: &Executor<'_>,
) -> Result<(), ApplyError> {
    for step in plan.steps.iter().filter(|step| step.number >= first) {
        match &step.target {
            Target::DatastoreKey { .. } => drop(plans_cluster(plan, executor.cluster)?),
            Target::Http { url, .. } if executor.caller.is_none() => {
                return Err(ApplyError::NoCaller {
                    plan: plan.id.clone(),
                    step: step.number,
                    url: url.clone(),
                });
            }
            Target::Hosts { .. } if executor.machines.is_none() => {
                return Err(ApplyError::NoMachines {
                    plan: plan.id.clone(),
                });
            }
            Target::Kubernetes { cluster }
                if executor.kubernetes.is_none() && !plan.deferrable.contains(&step.number) =>
            {
                return Err(ApplyError::NoKubernetes {
                    plan: plan.id.clone(),
                    step: step.number,
                    cluster: cluster.clone(),
                });
            }
            _ => {}
        }
    }
    Ok(())
}

/// The datastore, if it is the one that the plan was made for.
///
/// # Errors
///
/// [`ApplyError::NoDatastore`], [`ApplyError::OtherDatastore`].
pub(super) fn plans_cluster<'a>(
    plan: &Plan,
    cluster: Option<Cluster<'a>>,
) -> Result<Cluster<'a>, ApplyError> {
    let planned = plan.datastore.as_deref().unwrap_or_default();
    match cluster {
        Some(cluster) if cluster.description == planned => Ok(cluster),
        Some(cluster) => Err(ApplyError::OtherDatastore {
            plan: plan.id.clone(),
            planned: planned.to_owned(),
            given: cluster.description.to_owned(),
        }),
        None => Err(ApplyError::NoDatastore {
            plan: plan.id.clone(),
            datastore: planned.to_owned(),
        }),
    }
}

/// Whether every step finds what it was made for, earlier steps of the plan taken into account.
/// Changes nothing.
///
/// # Errors
///
/// [`ApplyError::Stale`] with everything that differs, [`ApplyError::Host`], or for a plan that
/// writes to a datastore [`ApplyError::NoDatastore`], [`ApplyError::OtherDatastore`] and
/// [`ApplyError::Datastore`].
pub async fn check_before(
    plan: &Plan,
    host: &dyn Host,
    cluster: Option<Cluster<'_>>,
) -> Result<(), ApplyError> {
    check_before_from(plan, 1, host, cluster, None).await
}

/// The same for the steps from `first` on, those before being done as `replay` says.
pub(super) async fn check_before_from(
    plan: &Plan,
    first: u32,
    host: &dyn Host,
    cluster: Option<Cluster<'_>>,
    replay: Option<&Replay>,
) -> Result<(), ApplyError> {
    let mut foresight = Foresight {
        host,
        replay,
        first,
        expected: BTreeMap::new(),
    };
    let mut rows = Rows {
        cluster,
        replay,
        expected: BTreeMap::new(),
    };
    let mut differences = Vec::new();
    for step in plan.steps.iter().filter(|step| step.number >= first) {
        let (place, detail) = match (&step.target, &step.action) {
            (Target::File { path, .. }, _) => (path.clone(), foresight.take(step, path).await?),
            (Target::DatastoreKey { key }, Action::Txn { operation }) => {
                let place = PathBuf::from(format!("datastore key {key}"));
                (place, rows.take(plan, step, key, operation).await?)
            }
            _ => continue,
        };
        if let Some(detail) = detail {
            differences.push(Difference {
                step: step.number,
                path: place,
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

/// What datastore keys will hold when a step comes to them.
struct Rows<'a> {
    cluster: Option<Cluster<'a>>,
    /// What was done already.
    replay: Option<&'a Replay>,
    /// What earlier steps leave.
    expected: BTreeMap<String, Foreseen>,
}

/// A datastore key in thought.
#[derive(Clone, Copy)]
enum Foreseen {
    /// At this revision, or absent.
    Now(Option<i64>),
    /// At the revision that this step will give it.
    OfStep(u32),
}

impl Rows<'_> {
    async fn take(
        &mut self,
        plan: &Plan,
        step: &Step,
        key: &str,
        operation: &TxnOperation,
    ) -> Result<Option<String>, ApplyError> {
        let now = match self.expected.get(key) {
            Some(expected) => *expected,
            None => {
                let store = plans_cluster(plan, self.cluster)?.store;
                let record = store.get(key).await?;
                Foreseen::Now(record.map(|record| record.revision))
            }
        };
        let problem = match (&step.before, now) {
            (Before::RevisionOfStep(number), Foreseen::OfStep(left)) if *number == left => None,
            (_, Foreseen::OfStep(left)) => Some(format!("step {left} writes it before")),
            (before, Foreseen::Now(found)) => match txn::wanted(before, self.replay) {
                Ok(wanted) => txn::revision_difference(wanted, found),
                Err(problem) => Some(problem),
            },
        };
        let after = match operation {
            TxnOperation::Create(_) | TxnOperation::Update(_) => Foreseen::OfStep(step.number),
            TxnOperation::Delete => Foreseen::Now(None),
        };
        self.expected.insert(key.to_owned(), after);
        Ok(problem)
    }
}

/// What paths will hold when a step comes to them.
struct Foresight<'a> {
    host: &'a dyn Host,
    /// What was done already: the steps before `first`.
    replay: Option<&'a Replay>,
    first: u32,
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
        let wanted = match &step.before {
            // What a step of this run will leave there cannot be known yet.
            Before::LeftBy(number) if *number >= self.first => Ok(None),
            before => wanted(before, self.replay, None),
        };
        let mut problem = match wanted {
            Ok(wanted) => wanted
                .and_then(|wanted| difference(&fill_unknown(wanted, &now), &now, Care::Before)),
            Err(problem) => Some(problem),
        };
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
            None => host::is_directory(self.host, parent).await?,
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

pub(super) fn foreseen_kind(content: &Content) -> FingerprintKind {
    match content {
        Content::Directory => FingerprintKind::Directory,
        Content::Link(target) => FingerprintKind::Link(target.clone()),
        Content::Text(text) => FingerprintKind::File(pki::sha256(text.as_bytes()).to_string()),
        Content::Staged { sha256, .. }
        | Content::Backup { sha256, .. }
        | Content::OnHost { sha256, .. }
        | Content::CopyOf { sha256, .. } => FingerprintKind::File(sha256.clone()),
        _ => FingerprintKind::File(UNKNOWN.to_owned()),
    }
}

/// What an earlier step leaves open, a later one cannot miss: content that is still to be made,
/// an owner and label that are this process's.
pub(super) fn fill_unknown(mut required: Found, now: &Found) -> Found {
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
/// keys, the keys of issuers, passphrases for what is to be sealed again. What an earlier step of the plan provides is left to its moment.
pub(super) async fn check_sources(workshop: &Workshop<'_>, first: u32) -> Result<(), ApplyError> {
    let mut provided: BTreeSet<&Path> = BTreeSet::new();
    for step in &workshop.plan.steps {
        if step.number >= first {
            for content in step.action.contents() {
                check_source(workshop, step, content, &provided)
                    .await
                    .map_err(|source| ApplyError::Unprepared {
                        plan: workshop.plan.id.clone(),
                        step: step.number,
                        source: Box::new(source),
                    })?;
            }
        }
        if let Target::File { path, .. } = &step.target {
            provided.insert(path);
        }
    }
    Ok(())
}

/// Has leaves signed and entered in the register before the first step, where that can be.
pub(super) async fn sign_ahead(workshop: &Workshop<'_>) -> Result<(), ApplyError> {
    let signed = workshop.sign_ahead().await;
    signed.map_err(|source| ApplyError::Unprepared {
        plan: workshop.plan.id.clone(),
        step: 1,
        source: Box::new(source.into()),
    })
}

async fn check_source(
    workshop: &Workshop<'_>,
    step: &Step,
    content: &Content,
    provided: &BTreeSet<&Path>,
) -> Result<(), StepError> {
    let comes = |path: &Path| provided.contains(path);
    match content {
        Content::CopyOf { path, .. } if comes(path) => {}
        Content::Staged { .. } | Content::Backup { .. } | Content::CopyOf { .. } => {
            copied(workshop, content).await?;
        }
        Content::Restamped { .. } => drop(ready(workshop, content, &step.target, None).await?),
        Content::RkeState(edit) => {
            for content in edit.contents() {
                Box::pin(check_source(workshop, step, content, provided)).await?;
            }
            return Ok(());
        }
        _ => {}
    }
    let leaves = leaves_of(content);
    let Some(id) = leaves.first() else {
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
    let Some(certificate) = &leaf.certificate else {
        return Ok(());
    };
    match &certificate.issuer.key {
        SecretRef::File(path) | SecretRef::RkeState { path, .. } if comes(path) => {}
        _ => drop(workshop.authority(&certificate.issuer).await?),
    }
    Ok(())
}

const UNKNOWN: &str = "not made yet";
