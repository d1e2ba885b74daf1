//! The steps: what changes where, what restarts, what is proven, in which order.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use zeroize::Zeroizing;

use super::change::{Changes, Phase, staged_content};
use super::proofs::Prover;
use super::{Request, RotateError, SYSTEM_PODS, Scene, WAVE, notes};
use crate::host::Attributes;
use crate::init::Staged;
use crate::plan::{
    Action, Before, ContainerRestart, Content, FileChange, FileSet, LeafId, PLAN_FORMAT, Plan,
    StateConfig, StateEdit, StateEntry, Step, Target,
};
use crate::rke::catalogue::{Per, row_of};
use crate::rke::entry::Origin;
use crate::rke::placement::{self, HostFile, Part};
use crate::rke::survey::{FileFacts, FileView, text_digest, with_line_end};
use crate::rke::{Bundle, Entry, Node, Secret, Service, kubeconfig, names};

/// Makes the plan that brings `changes` about: the lower half of [`super::plan`], for whatever
/// else changes entries.
///
/// # Errors
///
/// [`RotateError`]; then nothing was made.
pub fn draft(
    request: &Request<'_>,
    scene: &Scene,
    mut changes: Changes,
) -> Result<(Plan, Vec<Staged>), RotateError> {
    let phases = std::mem::take(&mut changes.phases);
    let mut draft = Draft {
        request,
        scene,
        plan: Plan {
            format: PLAN_FORMAT,
            id: request.id.clone(),
            undoes: None,
            title: changes.title,
            node: scene.config.cluster_name.clone(),
            root: request.site.root.clone(),
            datastore: None,
            irreversible: changes.irreversible,
            created: request.now,
            hypothetical: false,
            leaves: changes.leaves,
            steps: Vec::new(),
            deferrable: BTreeSet::new(),
            notes: changes.notes,
        },
        staged: changes.staged,
        left: BTreeMap::new(),
        state_before: request.site.state_before.clone(),
        kubeconfig_before: request.site.kubeconfig_before.clone(),
        late: Vec::new(),
        strayed: Vec::new(),
        repair: changes.repair,
    };
    let last = phases.len().saturating_sub(1);
    for (index, phase) in phases.iter().enumerate() {
        draft.phase(phase, index == 0, index == last);
        if index == 0 && changes.pods {
            draft.pods();
        }
    }
    draft.finish();
    Ok((draft.plan, draft.staged))
}

struct Draft<'a> {
    request: &'a Request<'a>,
    scene: &'a Scene,
    plan: Plan,
    staged: Vec<Staged>,
    /// What earlier steps of this plan have left at files of hosts.
    left: BTreeMap<(String, String), Before>,
    state_before: Before,
    kubeconfig_before: Before,
    /// What is done for hosts that are left out, last of all.
    late: Vec<(FileSet, Vec<ContainerRestart>)>,
    /// Hosts with files of other nodes, and how many are removed.
    strayed: Vec<(String, usize)>,
    repair: bool,
}

/// What one host gets in one phase.
struct Share<'n> {
    node: &'n Node,
    set: FileSet,
    /// The changed files that components read.
    files: Vec<HostFile>,
    components: Vec<Service>,
}

/// Who has to restart before an entry counts as proven: `(host, component)`.
type Waiting = BTreeMap<String, BTreeSet<(String, Service)>>;

impl Draft<'_> {
    fn phase(&mut self, phase: &Phase, first: bool, last: bool) {
        self.desire(phase, first);
        let scene = self.scene;
        let mut shares = Vec::new();
        for node in scene.nodes() {
            let Some(share) = self.share(node, phase, first) else {
                continue;
            };
            if scene.is_skipped(node) {
                let restarts = self.restarts(phase, &share, &share.components);
                self.late.push((share.set, restarts));
            } else {
                shares.push(share);
            }
        }
        for wave in shares.chunks(WAVE) {
            self.deploy(wave, phase);
        }
        let mut waiting = self.waiting(phase, &shares);
        self.etcd(phase, &shares);
        let done = |service: &Service| *service == Service::Etcd;
        self.promote(phase, &mut waiting, done);
        self.control_plane(phase, &shares);
        let done = |service: &Service| !matches!(service, Service::Kubelet | Service::KubeProxy);
        self.promote(phase, &mut waiting, done);
        self.nodes(phase, &shares);
        self.promote(phase, &mut waiting, |_| true);
        self.admin(phase, last);
    }

    fn push(&mut self, target: Target, before: Before, action: Action, reason: String) -> u32 {
        let number = u32::try_from(self.plan.steps.len()).unwrap_or(u32::MAX);
        let number = number.saturating_add(1);
        self.plan.steps.push(Step {
            number,
            target,
            before,
            action,
            reason,
        });
        number
    }

    fn put_off(&mut self, number: u32) {
        self.plan.deferrable.insert(number);
    }

    fn local(path: &std::path::Path) -> Target {
        Target::File {
            host: "local".to_owned(),
            path: path.to_owned(),
        }
    }

    /// Changes the state file.
    fn edit(&mut self, edit: StateEdit, reason: &str) {
        let before = self.state_before.clone();
        let number = self.push(
            Self::local(&self.request.site.state),
            before,
            Action::Put {
                attributes: private(&self.request.site.state_before),
                content: Content::RkeState(Box::new(edit)),
            },
            reason.to_owned(),
        );
        self.state_before = Before::LeftBy(number);
    }

    fn desire(&mut self, phase: &Phase, first: bool) {
        let entries = phase.entries.iter().map(|(name, change)| {
            let entry = StateEntry {
                certificate: change.certificate.clone(),
                key: change.key.clone(),
                config: change.config.clone(),
            };
            (name.clone(), entry)
        });
        let entries = entries.collect();
        let config = self
            .scene
            .new_config
            .as_ref()
            .filter(|_| first)
            .map(|json| {
                let staged = Staged {
                    name: "rke-config.json".to_owned(),
                    bytes: Zeroizing::new(json.clone()),
                };
                let content = staged_content(&staged);
                self.staged.push(staged);
                content
            });
        let edit = StateEdit::Desire {
            entries,
            removed: phase.removed.clone(),
            config,
        };
        self.edit(edit, &phase.reason);
    }

    /// What one host gets; `None` if nothing changes there.
    fn share<'n>(&mut self, node: &'n Node, phase: &Phase, first: bool) -> Option<Share<'n>> {
        let shape = shape(&self.scene.bundle, phase);
        let mut files = BTreeMap::new();
        let mut read = Vec::new();
        for file in placement::files_of(node, &shape, &self.scene.config) {
            let content = match phase.entries.contains_key(&file.entry) {
                true => self.changed(node, phase, &file),
                false => self.repaired(node, &file).filter(|_| self.repair && first),
            };
            if let Some(content) = content {
                // A CA's key that stays elsewhere from now on.
                let gone = content == Content::Text(String::new());
                let before = self.before(node, &file.name);
                if gone && before == Before::Absent {
                    continue;
                }
                let change = FileChange {
                    before,
                    attributes: attributes(&file),
                    content: (!gone).then_some(content),
                };
                files.insert(file.name.clone(), change);
                read.push(file);
            }
        }
        if first {
            files.extend(self.strays(node, phase, &shape));
        }
        if files.is_empty() {
            return None;
        }
        let components = self.components(node, &read);
        Some(Share {
            node,
            set: FileSet {
                host: node.address.clone(),
                directory: PathBuf::from(names::SSL_DIRECTORY),
                files,
            },
            files: read,
            components,
        })
    }

    /// What becomes of a file whose entry changes; `None` where it stays.
    fn changed(&self, node: &Node, phase: &Phase, file: &HostFile) -> Option<Content> {
        let change = phase.entries.get(&file.entry)?;
        match file.part {
            Part::Certificate => change.certificate.clone(),
            Part::Key => change.key.clone(),
            Part::Kubeconfig => {
                let text = kubeconfig::host(&file.entry);
                let known = self.view(node, &file.name);
                let right = known.is_some_and(|view| view.text == text_digest(text.as_bytes()));
                let written = self
                    .left
                    .contains_key(&(node.address.clone(), file.name.clone()));
                if right || written {
                    return None;
                }
                let text = with_line_end(text.as_bytes());
                Some(Content::Text(String::from_utf8_lossy(&text).into_owned()))
            }
        }
    }

    /// A file of an entry that stays, where the host has it not or otherwise. Hosts that were
    /// not looked at are left alone.
    fn repaired(&mut self, node: &Node, file: &HostFile) -> Option<Content> {
        self.request.survey.host(&node.address)?;
        let bytes = file.content(&self.scene.bundle)?;
        let right = self
            .view(node, &file.name)
            .is_some_and(|view| view.text == text_digest(&bytes));
        if right {
            return None;
        }
        self.plan.notes.push(format!(
            "Host {}: {} is not what the state holds, and is put right.",
            node.address, file.name
        ));
        let bytes = with_line_end(&bytes);
        if !file.is_secret() {
            return Some(Content::Text(String::from_utf8_lossy(&bytes).into_owned()));
        }
        let staged = Staged {
            name: format!("kept-{}", file.name),
            bytes,
        };
        let content = staged_content(&staged);
        if !self.staged.iter().any(|known| known.name == staged.name) {
            self.staged.push(staged);
        }
        Some(content)
    }

    /// Certificates and keys of other nodes, which RKE spreads over all: they are removed with
    /// the rotation that replaces them, if they are exactly what the state holds for the other.
    fn strays(
        &mut self,
        node: &Node,
        phase: &Phase,
        shape: &Bundle,
    ) -> BTreeMap<String, FileChange> {
        let mut removed = BTreeMap::new();
        let mut kept = Vec::new();
        for file in placement::surplus_of(node, shape, &self.scene.config) {
            let others = row_of(&file.entry).is_some_and(|row| row.per != Per::Cluster);
            if !others || !phase.entries.contains_key(&file.entry) {
                continue;
            }
            let Some(view) = self.view(node, &file.name) else {
                continue;
            };
            if !is_of(view, self.scene.bundle.get(&file.entry), file.part) {
                kept.push(file.name);
                continue;
            }
            let change = FileChange {
                before: Before::Present(view.fingerprint.clone()),
                attributes: attributes(&file),
                content: None,
            };
            removed.insert(file.name, change);
        }
        if !removed.is_empty() {
            self.strayed.push((node.address.clone(), removed.len()));
        }
        if !kept.is_empty() {
            self.plan.notes.push(format!(
                "Host {} has files named after other nodes that are not what the state holds; \
                 they stay, look at them: {}.",
                node.address,
                kept.join(", ")
            ));
        }
        removed
    }

    fn view(&self, node: &Node, file: &str) -> Option<&FileView> {
        self.request.survey.host(&node.address)?.file(file)
    }

    fn before(&self, node: &Node, file: &str) -> Before {
        if let Some(left) = self.left.get(&(node.address.clone(), file.to_owned())) {
            return left.clone();
        }
        match self.request.survey.host(&node.address) {
            None => Before::Any,
            Some(view) => match view.file(file) {
                Some(view) => Before::Present(view.fingerprint.clone()),
                None => Before::Absent,
            },
        }
    }

    /// The containers on a node's host that read a changed file and exist, as far as is known.
    fn components(&self, node: &Node, files: &[HostFile]) -> Vec<Service> {
        let mut components = placement::affected(node, files, &self.scene.config);
        if self.scene.config.has_external_etcd() {
            components.retain(|component| *component != Service::Etcd);
        }
        if let Some(view) = self.request.survey.host(&node.address) {
            components.retain(|component| view.containers.contains_key(component.name()));
        }
        components
    }

    fn deploy(&mut self, wave: &[Share<'_>], phase: &Phase) {
        let hosts: Vec<String> = wave.iter().map(|it| it.node.address.clone()).collect();
        let sets: Vec<FileSet> = wave.iter().map(|it| it.set.clone()).collect();
        let number = self.push(
            Target::Hosts { hosts },
            Before::Any,
            Action::Deploy { sets },
            phase.reason.clone(),
        );
        for share in wave {
            for file in share.set.files.keys() {
                let key = (share.node.address.clone(), file.clone());
                self.left.insert(key, Before::LeftBy(number));
            }
        }
    }

    fn waiting(&self, phase: &Phase, shares: &[Share<'_>]) -> Waiting {
        let mut waiting = Waiting::new();
        for (entry, _) in phase.entries.iter() {
            if entry != names::KUBE_ADMIN {
                waiting.insert(entry.clone(), BTreeSet::new());
            }
        }
        for entry in &phase.removed {
            waiting.insert(entry.clone(), BTreeSet::new());
        }
        for share in shares {
            for file in &share.files {
                let Some(pending) = waiting.get_mut(&file.entry) else {
                    continue;
                };
                let readers = placement::readers(&file.name, &self.scene.config);
                let here = readers
                    .into_iter()
                    .filter(|it| share.components.contains(it));
                pending.extend(here.map(|it| (share.node.address.clone(), it)));
            }
        }
        waiting
    }

    /// Moves what is proven to `currentState`, once all components that `done` names have
    /// restarted.
    fn promote(&mut self, phase: &Phase, waiting: &mut Waiting, done: impl Fn(&Service) -> bool) {
        for pending in waiting.values_mut() {
            pending.retain(|(_, component)| !done(component));
        }
        let issuer_waits = |entry: &str| {
            let change = phase.entries.get(entry);
            let issuer = change.and_then(|change| change.issuer);
            issuer.is_some_and(|issuer| waiting.get(issuer).is_some_and(|it| !it.is_empty()))
        };
        let proven: Vec<String> = waiting
            .iter()
            .filter(|(entry, pending)| pending.is_empty() && !issuer_waits(entry))
            .map(|(entry, _)| entry.clone())
            .collect();
        if proven.is_empty() {
            return;
        }
        waiting.retain(|entry, _| !proven.contains(entry));
        let edit = StateEdit::Promote {
            entries: proven,
            config: false,
        };
        self.edit(edit, "every component that reads them is proven");
    }

    fn restarts(
        &self,
        phase: &Phase,
        share: &Share<'_>,
        wanted: &[Service],
    ) -> Vec<ContainerRestart> {
        let prover = Prover {
            request: self.request,
            scene: self.scene,
            plan: &self.plan,
            phase,
        };
        let components = share.components.iter().filter(|it| wanted.contains(it));
        components
            .map(|component| prover.restart(share.node, *component))
            .collect()
    }

    fn restart(&mut self, restarts: Vec<ContainerRestart>, reason: &str) -> Option<u32> {
        if restarts.is_empty() {
            return None;
        }
        let mut hosts: Vec<String> = Vec::new();
        for restart in &restarts {
            if !hosts.contains(&restart.host) {
                hosts.push(restart.host.clone());
            }
        }
        let target = Target::Hosts { hosts };
        let action = Action::RestartContainers { restarts };
        Some(self.push(target, Before::Any, action, reason.to_owned()))
    }

    fn etcd(&mut self, phase: &Phase, shares: &[Share<'_>]) {
        let one_by_one = "one member of etcd at a time";
        let mut all = Vec::new();
        for share in shares {
            let restarts = self.restarts(phase, share, &[Service::Etcd]);
            match self.scene.etcd_at_once {
                true => all.extend(restarts),
                false => {
                    self.restart(restarts, one_by_one);
                }
            }
        }
        self.restart(all, "all members of etcd at once");
    }

    fn control_plane(&mut self, phase: &Phase, shares: &[Share<'_>]) {
        const PLANE: [Service; 3] = [
            Service::KubeApiserver,
            Service::KubeControllerManager,
            Service::KubeScheduler,
        ];
        let mut all = Vec::new();
        for share in shares {
            let restarts = self.restarts(phase, share, &PLANE);
            match self.at_once() {
                true => all.extend(restarts),
                false => {
                    self.restart(restarts, "one host of the control plane at a time");
                }
            }
        }
        self.restart(all, "the whole control plane at once");
    }

    fn nodes(&mut self, phase: &Phase, shares: &[Share<'_>]) {
        const NODE: [Service; 2] = [Service::Kubelet, Service::KubeProxy];
        let wave = match (self.at_once(), self.request.options.max_unavailable) {
            (true, _) => shares.len(),
            (false, Some(given)) => given,
            (false, None) => shares.len() / 10,
        };
        for wave in shares.chunks(wave.max(1)) {
            let restarts = wave.iter();
            let restarts = restarts.flat_map(|share| self.restarts(phase, share, &NODE));
            let restarts: Vec<_> = restarts.collect();
            self.restart(restarts, "what runs on every node, in waves");
        }
    }

    fn at_once(&self) -> bool {
        use super::Switch::{Compromised, Hard};
        let hard = matches!(self.scene.switch, Some(Hard | Compromised));
        hard || self.request.options.parallel_restarts
    }

    /// The administrator's kubeconfig, and the entry that nobody else reads.
    fn admin(&mut self, phase: &Phase, last: bool) {
        let admin = phase.entries.get(names::KUBE_ADMIN);
        let content = admin.and_then(|change| match (&change.local, change.config.clone()) {
            (Some(local), _) => Some(local.clone()),
            (
                None,
                Some(StateConfig::Admin {
                    server,
                    cluster,
                    authority,
                    ..
                }),
            ) if change.leaf.is_some() => Some(Content::AdminKubeconfig {
                server,
                cluster,
                authority,
                leaf: LeafId(names::KUBE_ADMIN.to_owned()),
            }),
            _ => None,
        });
        if let Some(content) = content {
            let before = self.kubeconfig_before.clone();
            let number = self.push(
                Self::local(&self.request.site.kubeconfig),
                before,
                Action::Put {
                    attributes: private(&self.request.site.kubeconfig_before),
                    content,
                },
                "the administrator's new certificate".to_owned(),
            );
            self.kubeconfig_before = Before::LeftBy(number);
        }
        let config = last && self.scene.new_config.is_some();
        let entries: Vec<String> = admin
            .map(|_| names::KUBE_ADMIN.to_owned())
            .into_iter()
            .collect();
        if config || !entries.is_empty() {
            let edit = StateEdit::Promote { entries, config };
            self.edit(edit, "the cluster runs with it");
        }
    }

    fn cluster(&self) -> Target {
        Target::Kubernetes {
            cluster: self.scene.config.cluster_name.clone(),
        }
    }

    fn pods(&mut self) {
        let selectors = SYSTEM_PODS.iter().map(|&label| label.to_owned()).collect();
        let number = self.push(
            self.cluster(),
            Before::Any,
            Action::DeletePods { selectors },
            "system pods that have read ca.crt when they started, as RKE does".to_owned(),
        );
        self.put_off(number);
    }

    /// What can wait: the copy in the cluster, then each host that is away.
    fn finish(&mut self) {
        let path = self.request.site.state.clone();
        let number = self.push(
            self.cluster(),
            Before::Any,
            Action::SaveState { path },
            "the copy of the state in the cluster".to_owned(),
        );
        self.put_off(number);
        self.plan.notes.extend(notes::strayed(&self.strayed));
        for (set, restarts) in std::mem::take(&mut self.late) {
            let hosts = vec![set.host.clone()];
            let number = self.push(
                Target::Hosts { hosts },
                Before::Any,
                Action::Deploy { sets: vec![set] },
                "a host that could not be reached when the plan was made".to_owned(),
            );
            self.put_off(number);
            if let Some(number) = self.restart(restarts, "so that it takes up its new files") {
                self.put_off(number);
            }
        }
    }
}

/// Mode 0600, owned by whoever owns what is there.
fn private(before: &Before) -> Attributes {
    let owner = match before {
        Before::Present(found) => (found.attributes.uid, found.attributes.gid),
        _ => (None, None),
    };
    Attributes {
        uid: owner.0,
        gid: owner.1,
        ..Attributes::new(0o600)
    }
}

fn attributes(file: &HostFile) -> Attributes {
    Attributes {
        uid: Some(file.owner.0),
        gid: Some(file.owner.1),
        ..Attributes::new(file.mode)
    }
}

/// The bundle as the phase will leave it, as far as which files there are goes.
fn shape(bundle: &Bundle, phase: &Phase) -> Bundle {
    let mut shape = bundle.clone();
    for name in &phase.removed {
        shape.remove(name);
    }
    for (name, change) in &phase.entries {
        let there = "-";
        let known = shape.remove(name).unwrap_or_default();
        let has_key = change.key.is_some() || !known.key_pem.is_empty();
        let key = Secret::from(if has_key { there } else { "" });
        let entry = Entry::new(name, there, key, Origin::Issued);
        shape.insert(name.clone(), entry);
    }
    shape
}

/// Whether a file is what the state holds for an entry.
fn is_of(view: &FileView, entry: Option<&Entry>, part: Part) -> bool {
    let Some(entry) = entry else { return false };
    let text = part.text_of(entry);
    if !text.is_empty() && view.text == text_digest(text.as_bytes()) {
        return true;
    }
    match &view.facts {
        FileFacts::Key { spki, .. } => {
            let key = entry.key().ok().flatten();
            key.is_some_and(|key| key.spki_sha256() == *spki)
        }
        _ => false,
    }
}
