//! The steps: what changes where, what restarts, what is proven, in which order.

use std::collections::{BTreeMap, BTreeSet};

use super::change::{Changes, EntryChange, Phase, staged_content};
use super::proofs::Prover;
use super::share::Share;
use super::{Request, RotateError, SYSTEM_PODS, Scene, WAVE, notes};

use crate::init::Staged;
use crate::plan::{
    Action, Before, ContainerRestart, Content, FileSet, LeafId, PLAN_FORMAT, Plan, StateConfig,
    StateEdit, StateEntry, Step, Target,
};
use crate::rke::local::private;
use crate::rke::placement;
use crate::rke::{Service, names};

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
    // Pods learn of the new root before anything else changes. Where the API was away already,
    // they come last: it may answer by then.
    let pods_after = if request.options.api_away { last } else { 0 };
    for (index, phase) in phases.iter().enumerate() {
        draft.phase(phase, index == 0, index == last);
        if index == pods_after && changes.pods {
            draft.pods();
        }
    }
    draft.finish();
    Ok((draft.plan, draft.staged))
}

pub(super) struct Draft<'a> {
    pub(super) request: &'a Request<'a>,
    pub(super) scene: &'a Scene,
    pub(super) plan: Plan,
    pub(super) staged: Vec<Staged>,
    /// What earlier steps of this plan have left at files of hosts.
    pub(super) left: BTreeMap<(String, String), Before>,
    state_before: Before,
    kubeconfig_before: Before,
    /// What is done for hosts that are left out, last of all.
    late: Vec<(FileSet, Vec<ContainerRestart>)>,
    /// Hosts with files of other nodes, and how many are removed.
    pub(super) strayed: Vec<(String, usize)>,
    pub(super) repair: bool,
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
                    bytes: json.clone(),
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
        // Sick members first: they must be well before a healthy one goes.
        let is_sick = |share: &&Share<'_>| self.scene.etcd_sick.contains(&share.node.address);
        let (sick, well): (Vec<&Share<'_>>, Vec<&Share<'_>>) = shares.iter().partition(is_sick);
        for share in sick.into_iter().chain(well) {
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
            self.tell_server(admin);
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

    /// Says once that the kubeconfig will name another server than it does.
    fn tell_server(&mut self, admin: Option<&EntryChange>) {
        let config = admin.and_then(|change| change.config.as_ref());
        let (Some(StateConfig::Admin { server, .. }), Some(present)) =
            (config, &self.request.site.kubeconfig_server)
        else {
            return;
        };
        let note = notes::other_server(self.request.site, present, server);
        if let Some(note) = note.filter(|note| !self.plan.notes.contains(note)) {
            self.plan.notes.push(note);
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
