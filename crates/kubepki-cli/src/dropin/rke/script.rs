//! What RKE says at which step of a plan: `cmd/cert.go`, `cluster/certificates.go`,
//! `services/*.go`, `pki/services.go`.
//!
//! Lines follow the steps of ours that do the same. Two of them stand elsewhere than RKE's,
//! because the step does: the administrator's kubeconfig and the copy in the cluster come when
//! everything is proven, not before anything was restarted.

use std::collections::{BTreeMap, BTreeSet};

use kubepki::plan::{Action, Content, Plan, StateEdit, Step};
use kubepki::rke::log::{Level, Line, info, warning};
use kubepki::rke::{ClusterConfig, Files, Role, Rotation, Service, names};

/// What a script is made from.
pub struct Told<'a> {
    /// What was asked for.
    pub rotation: &'a Rotation,
    /// The configuration that counts.
    pub config: &'a ClusterConfig,
    /// Paths, as RKE spells them.
    pub files: &'a Files,
    /// Hosts that could not be reached, and why.
    pub away: &'a [(String, String)],
}

/// The lines of each step.
#[derive(Debug, Default)]
pub struct Script(BTreeMap<u32, Cue>);

/// The lines of one step.
#[derive(Debug, Default)]
struct Cue {
    before: Vec<Line>,
    after: Vec<Line>,
    /// Once it is put off: lines, and what the last one begins with, before the reason.
    put_off: Vec<Line>,
    warning: Option<&'static str>,
}

/// What RKE restarts together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Plane {
    Etcd,
    Controller,
    Worker,
}

impl Plane {
    fn of(action: &Action) -> Option<Self> {
        let Action::RestartContainers { restarts } = action else {
            return None;
        };
        Some(match restarts.first()?.container.as_str() {
            "etcd" => Self::Etcd,
            "kubelet" | "kube-proxy" => Self::Worker,
            _ => Self::Controller,
        })
    }

    fn opening(self) -> Vec<Line> {
        match self {
            Self::Etcd => vec![info("[etcd] Restarting up etcd plane..")],
            Self::Controller => vec![
                info("[controlplane] Check if rotating a legacy cluster"),
                info("[controlplane] Restarting the Controller Plane.."),
            ],
            Self::Worker => vec![info("[worker] Restarting Worker Plane..")],
        }
    }

    fn closing(self) -> Line {
        match self {
            Self::Etcd => info("[etcd] Successfully restarted etcd plane.."),
            Self::Controller => info("[controlplane] Successfully restarted Controller Plane.."),
            Self::Worker => info("[worker] Successfully restarted Worker Plane.."),
        }
    }
}

impl Script {
    /// What is said to each step of `plan`.
    pub fn of(plan: &Plan, told: &Told<'_>) -> Self {
        let mut script = Self::default();
        // Hosts that are away are not waited for, and RKE says no more of them.
        let on_time = |step: &&Step| {
            !plan.deferrable.contains(&step.number) || !matches!(step.action, Action::Deploy { .. })
        };
        let steps: Vec<&Step> = plan.steps.iter().filter(on_time).collect();
        script.state_file(&steps, told);
        script.deployments(&steps);
        script.planes(plan, &steps);
        script.cluster(&steps, told);
        script
    }

    /// Before a step is taken.
    pub fn before(&self, step: u32) -> &[Line] {
        self.0.get(&step).map_or(&[], |cue| &cue.before)
    }

    /// Once it is done.
    pub fn after(&self, step: u32) -> &[Line] {
        self.0.get(&step).map_or(&[], |cue| &cue.after)
    }

    /// Once it is put off.
    pub fn put_off(&self, step: u32, reason: &str) -> Vec<Line> {
        let Some(cue) = self.0.get(&step) else {
            return Vec::new();
        };
        let last = cue.warning.map(|text| warning(format!("{text}: {reason}")));
        cue.put_off.iter().cloned().chain(last).collect()
    }

    fn cue(&mut self, step: &Step) -> &mut Cue {
        self.0.entry(step.number).or_default()
    }

    fn state_file(&mut self, steps: &[&Step], told: &Told<'_>) {
        let deployed = info(format!(
            "Successfully Deployed state file at [{}]",
            told.files.state.display()
        ));
        let edits = || {
            steps.iter().filter_map(|step| match &step.action {
                Action::Put {
                    content: Content::RkeState(edit),
                    ..
                } => Some((*step, edit.as_ref())),
                _ => None,
            })
        };
        let mut desired = edits().filter(|(_, edit)| matches!(edit, StateEdit::Desire { .. }));
        if let Some((step, edit)) = desired.next() {
            let cue = self.cue(step);
            cue.before = generation(edit, told);
            cue.after.push(deployed.clone());
            cue.after.push(info(
                "Rebuilding Kubernetes cluster with rotated certificates",
            ));
            cue.after.extend(tunnels(told));
        }
        let mut promoted = edits().filter(|(_, edit)| matches!(edit, StateEdit::Promote { .. }));
        if let Some((step, _)) = promoted.next_back() {
            self.cue(step).after.push(deployed);
        }
    }

    fn deployments(&mut self, steps: &[&Step]) {
        let is_wave = |step: &Step| matches!(step.action, Action::Deploy { .. });
        let mut previous: Option<&Step> = None;
        for (index, step) in steps.iter().enumerate() {
            if !is_wave(step) {
                previous = Some(step);
                continue;
            }
            if !previous.is_some_and(is_wave) {
                self.cue(step).before.push(info(
                    "[certificates] Deploying kubernetes certificates to Cluster nodes",
                ));
            }
            if !steps.get(index + 1).is_some_and(|next| is_wave(next)) {
                self.cue(step).after.push(info(
                    "[certificates] Successfully deployed kubernetes certificates to Cluster nodes",
                ));
            }
            previous = Some(step);
        }
    }

    fn planes(&mut self, plan: &Plan, steps: &[&Step]) {
        let mut restarts = steps
            .iter()
            .filter(|step| !plan.deferrable.contains(&step.number))
            .filter(|step| {
                // What stands between the restarts of one plane ends none; a phase does.
                Plane::of(&step.action).is_some() || matches!(step.action, Action::Deploy { .. })
            })
            .map(|step| (*step, Plane::of(&step.action)))
            .peekable();
        let mut open = None;
        while let Some((step, plane)) = restarts.next() {
            let Some(plane) = plane else {
                open = None;
                continue;
            };
            if open != Some(plane) {
                self.cue(step).before.extend(plane.opening());
            }
            open = Some(plane);
            if restarts.peek().and_then(|(_, next)| *next) != Some(plane) {
                self.cue(step).after.push(plane.closing());
            }
        }
    }

    /// Kubeconfig, pods, and the state in the cluster.
    fn cluster(&mut self, steps: &[&Step], told: &Told<'_>) {
        let mut admin = None;
        for step in steps {
            match &step.action {
                Action::Put {
                    content: Content::AdminKubeconfig { server, .. },
                    ..
                } => {
                    let place = told.files.kubeconfig.display();
                    admin = Some(host_of(server));
                    let cue = self.cue(step);
                    cue.before.push(info(
                        "[reconcile] Rebuilding and updating local kube config",
                    ));
                    cue.after.push(info(format!(
                        "Successfully Deployed local admin kubeconfig at [{place}]"
                    )));
                }
                Action::DeletePods { .. } => {
                    let cue = self.cue(step);
                    cue.before
                        .push(info("Restarting network, ingress, and metrics pods"));
                    cue.warning = Some("Failed to initialize new kubernetes client");
                }
                Action::SaveState { .. } => {
                    // Whether the API answers is known only when this was tried.
                    let saving = info("[state] Saving full cluster state to Kubernetes");
                    let cue = self.cue(step);
                    if let Some(host) = &admin {
                        let host = format!("[reconcile] host [{host}] is a control plane node");
                        let tail = "reachable Kubernetes API endpoint in the cluster";
                        cue.after.push(info(format!("{host} with {tail}")));
                        cue.put_off.push(warning(format!("{host} without {tail}")));
                    }
                    cue.after.push(saving.clone());
                    cue.put_off.push(saving);
                    cue.warning = Some("Failed to save full state to Kubernetes");
                }
                _ => {}
            }
        }
    }
}

/// `https://10.0.0.1:6443`: the host.
fn host_of(server: &str) -> String {
    let address = server.strip_prefix("https://").unwrap_or(server);
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host.trim_matches(['[', ']']).to_owned()
}

/// RKE sets up its tunnels between the state file and the hosts; hosts that do not answer are
/// dropped there.
pub fn tunnels(told: &Told<'_>) -> Vec<Line> {
    let nodes = told.config.nodes.iter();
    let mut lines: Vec<Line> = nodes
        .map(|node| info(format!("[dialer] Setup tunnel for host [{}]", node.address)))
        .collect();
    for (host, why) in told.away {
        lines.push(warning(format!(
            "Failed to set up SSH tunneling for host [{host}]: {why}"
        )));
        lines.push(warning(format!("Removing host [{host}] from node lists")));
    }
    lines
}

/// A line for each entry that RKE announces, in its order.
fn generation(edit: &StateEdit, told: &Told<'_>) -> Vec<Line> {
    let StateEdit::Desire {
        entries, removed, ..
    } = edit
    else {
        return Vec::new();
    };
    let made: BTreeSet<&str> = entries.keys().map(String::as_str).collect();
    let writer = Generation {
        made,
        removed,
        config: told.config,
    };
    match told.rotation {
        Rotation::Services(services) => {
            let lines = services.iter().flat_map(|service| writer.service(*service));
            lines.collect()
        }
        Rotation::All | Rotation::Authorities => writer.all(),
    }
}

struct Generation<'a> {
    made: BTreeSet<&'a str>,
    removed: &'a [String],
    config: &'a ClusterConfig,
}

impl Generation<'_> {
    fn all(&self) -> Vec<Line> {
        let mut lines = Vec::new();
        lines.extend(self.line(names::KUBE_CA, "CA kubernetes certificates"));
        lines.extend(self.line(
            names::REQUEST_HEADER_CA,
            "Kubernetes API server aggregation layer requestheader client CA certificates",
        ));
        if !self.config.serving_certificates {
            lines.push(info(
                "[certificates] GenerateServingCertificate is disabled, checking if there are \
                 unused kubelet certificates",
            ));
            lines.extend(self.deleted(names::KUBE_KUBELET, "unused kubelet certificate"));
        }
        for service in [
            Service::KubeApiserver,
            Service::KubeControllerManager,
            Service::KubeScheduler,
            Service::KubeProxy,
        ] {
            lines.extend(self.service(service));
        }
        lines.extend(self.line(names::KUBE_NODE, "Node certificate"));
        lines.extend(self.line(names::KUBE_ADMIN, "admin certificates and kubeconfig"));
        lines.extend(self.line(
            names::PROXY_CLIENT,
            "Kubernetes API server proxy client certificates",
        ));
        lines.extend(self.service(Service::Etcd));
        if self.config.serving_certificates {
            lines.extend(self.kubelets());
        }
        lines
    }

    /// What `--service` of that name announces.
    fn service(&self, service: Service) -> Vec<Line> {
        let one = |entry, what| self.line(entry, what).into_iter().collect();
        match service {
            Service::KubeApiserver => {
                let mut lines: Vec<Line> =
                    one(names::KUBE_APISERVER, "Kubernetes API server certificates");
                lines.extend(self.line(names::SERVICE_ACCOUNT_TOKEN, "Service account token key"));
                lines
            }
            Service::KubeControllerManager => one(
                names::KUBE_CONTROLLER_MANAGER,
                "Kube Controller certificates",
            ),
            Service::KubeScheduler => one(names::KUBE_SCHEDULER, "Kube Scheduler certificates"),
            Service::KubeProxy => one(names::KUBE_PROXY, "Kube Proxy certificates"),
            Service::Kubelet => {
                let mut lines: Vec<Line> = one(names::KUBE_NODE, "Node certificate");
                lines.extend(self.kubelets());
                lines
            }
            Service::Etcd => {
                let mut lines = Vec::new();
                for node in self.config.with_role(Role::Etcd) {
                    let entry = names::etcd_entry(node);
                    lines.extend(self.line(&entry, &format!("{entry} certificate and key")));
                }
                lines.extend(self.deleted(names::KUBE_ETCD, "unused certificate"));
                lines
            }
        }
    }

    /// Kubelets' serving certificates are a matter of debugging to RKE.
    fn kubelets(&self) -> Vec<Line> {
        let nodes = self.config.nodes.iter().map(names::kubelet_entry);
        let made: Vec<String> = nodes.filter(|it| self.made.contains(it.as_str())).collect();
        if made.is_empty() {
            return Vec::new();
        }
        let heading = "[certificates] Generating Kubernetes Kubelet certificates".to_owned();
        let each = made
            .iter()
            .map(|entry| format!("[certificates] Generating {entry} certificate and key"));
        std::iter::once(heading)
            .chain(each)
            .map(|text| Line::new(Level::Debug, text))
            .collect()
    }

    fn line(&self, entry: &str, what: &str) -> Option<Line> {
        let made = self.made.contains(entry);
        made.then(|| info(format!("[certificates] Generating {what}")))
    }

    fn deleted(&self, prefix: &str, what: &str) -> Vec<Line> {
        let gone = self.removed.iter().filter(|name| name.starts_with(prefix));
        gone.map(|name| info(format!("[certificates] Deleting {what}: {name}")))
            .collect()
    }
}

#[cfg(test)]
#[path = "../../../tests/common/rke_log.rs"]
mod rke_log;
#[cfg(test)]
mod tests;
