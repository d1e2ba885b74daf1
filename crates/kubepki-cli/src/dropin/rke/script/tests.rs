//! RKE's own logs beside what is said to a plan for the same cluster.

use std::collections::BTreeMap;
use std::path::Path;

use kubepki::edge::{Clock as _, FreshKeys, SystemClock, SystemEntropy};
use kubepki::host::{Attributes, Entry, EntryKind};
use kubepki::machine::ContainerState;
use kubepki::plan::{Before, PlanId};
use kubepki::rke::placement::{components_of, files_of};
use kubepki::rke::rotate::{Options, Request, Site, plan};
use kubepki::rke::survey::{FileView, HostView, Seen, Survey};
use kubepki::rke::{Half, State};

use super::rke_log::{ALL, ETCD_ALONE, KUBELET, Kind, Said, assert_like, recorded};
use super::*;

/// Three hosts as RKE left them, every container running.
fn survey(state: &State, config: &ClusterConfig) -> Survey {
    let bundle = state.bundle(Half::Current);
    let view = |node: &kubepki::rke::Node| {
        let files = files_of(node, &bundle, config).into_iter().map(|file| {
            let bytes = file.content(&bundle).unwrap();
            let entry = Entry {
                kind: EntryKind::File(bytes),
                attributes: Attributes::new(0o600),
            };
            (file.name.clone(), FileView::of(&file.name, &entry))
        });
        let running = ContainerState {
            running: true,
            started: (SystemClock.now(), 0),
            image: "image".to_owned(),
            arguments: Vec::new(),
        };
        let containers = components_of(node);
        let containers = containers
            .into_iter()
            .map(|it| (it.name().to_owned(), running.clone()));
        Seen::Here(Box::new(HostView {
            files: Some(files.collect()),
            containers: containers.collect(),
            ..HostView::default()
        }))
    };
    let nodes = config.nodes.iter();
    Survey {
        taken: SystemClock.now(),
        hosts: nodes.map(|it| (it.address.clone(), view(it))).collect(),
    }
}

fn site() -> Site {
    Site {
        root: "/clusters".into(),
        state: "/clusters/cluster.rkestate".into(),
        state_before: Before::Any,
        kubeconfig: "/clusters/kube_config_cluster.yml".into(),
        kubeconfig_before: Before::Absent,
        kubeconfig_server: None,
        kubeconfig_spelled: "./kube_config_cluster.yml".to_owned(),
    }
}

/// What is said if every step succeeds, or none of those that need the API.
fn said(rotation: &Rotation, api: bool) -> Vec<Said> {
    let fixture = testkit::fixture("rke-1.6-live");
    let text = fixture.extra_text("cluster.rkestate");
    let state = State::parse(text.replace("127.0.0.1", "10.99.0.1").as_bytes()).unwrap();
    let config = state.rke_config(Half::Current).unwrap();
    let config = ClusterConfig::from_rke_config(config).unwrap();
    let files = Files::of(Path::new("cluster.yml"));
    let request = Request {
        id: &PlanId("20261122T101500Z-rotate-1f0c".to_owned()),
        rotation,
        options: &Options {
            allow_etcd_outage: true,
            ..Options::default()
        },
        site: &site(),
        state: &state,
        config: &config,
        survey: &survey(&state, &config),
        now: SystemClock.now(),
        entropy: &SystemEntropy,
        keys: &FreshKeys,
    };
    let (plan, _) = plan(&request).unwrap();
    let told = Told {
        rotation,
        config: &config,
        files: &files,
        away: &[],
    };
    let script = Script::of(&plan, &told);
    let mut lines: Vec<Line> = [
        "Running RKE version: v1.6.3",
        "Initiating Kubernetes cluster",
        "Rotating Kubernetes cluster certificates",
    ]
    .map(info)
    .to_vec();
    for step in &plan.steps {
        lines.extend(script.before(step.number).iter().cloned());
        if plan.deferrable.contains(&step.number) && !api {
            lines.extend(script.put_off(step.number, "no route"));
            continue;
        }
        if let Action::RestartContainers { restarts } = &step.action {
            for it in restarts {
                let (host, container) = (&it.host, &it.container);
                lines.push(info(format!(
                    "Restarting container [{container}] on host [{host}], try #1"
                )));
                lines.push(info(format!(
                    "[restart/{container}] Successfully restarted container on host [{host}]"
                )));
            }
        }
        lines.extend(script.after(step.number).iter().cloned());
    }
    let levels: BTreeMap<&str, Level> = BTreeMap::from([
        ("info", Level::Info),
        ("warning", Level::Warning),
        ("debug", Level::Debug),
    ]);
    let named = |level: Level| {
        let mut levels = levels.iter();
        (*levels.find(|(_, it)| **it == level).unwrap().0).to_owned()
    };
    lines.retain(|line| line.level != Level::Debug);
    let lines = lines.into_iter();
    lines.map(|line| (named(line.level), line.text)).collect()
}

#[test]
fn what_rke_said_in_its_order() {
    let fixture = testkit::fixture("rke-1.6-live");
    let services = |it| Rotation::Services(vec![it]);
    let kinds: [(&str, Rotation, Kind<'_>); 4] = [
        ("rotate", Rotation::All, ALL),
        ("rotate-ca", Rotation::Authorities, ALL),
        ("service-etcd", services(Service::Etcd), ETCD_ALONE),
        ("service-kubelet", services(Service::Kubelet), KUBELET),
    ];
    for (name, rotation, kind) in kinds {
        let log = fixture.extra_text(&format!("logs/{name}.log"));
        assert_like(&said(&rotation, true), &recorded(&log), &kind);
    }
}

#[test]
fn an_api_that_is_away_is_a_warning() {
    let lines = said(&Rotation::Authorities, false);
    let warnings: Vec<&str> = lines
        .iter()
        .filter(|(level, _)| level == "warning")
        .map(|(_, text)| text.as_str())
        .collect();
    assert_eq!(
        warnings,
        [
            "Failed to initialize new kubernetes client: no route",
            "[reconcile] host [10.99.0.11] is a control plane node without reachable Kubernetes \
             API endpoint in the cluster",
            "Failed to save full state to Kubernetes: no route",
        ]
    );
}

#[test]
fn the_page_is_a_subsequence() {
    let lines = said(&Rotation::Authorities, true);
    let generating = |what: &str| format!("[certificates] Generating {what}");
    let page = [
        "Initiating Kubernetes cluster".to_owned(),
        "Rotating Kubernetes cluster certificates".to_owned(),
        generating("CA kubernetes certificates"),
        generating("Kubernetes API server aggregation layer requestheader client CA certificates"),
        generating("Kubernetes API server certificates"),
        generating("Kube Controller certificates"),
        generating("Kube Scheduler certificates"),
        generating("Kube Proxy certificates"),
        generating("Node certificate"),
        generating("admin certificates and kubeconfig"),
        generating("Kubernetes API server proxy client certificates"),
        generating("kube-etcd-10-99-0-11 certificate and key"),
        generating("kube-etcd-10-99-0-12 certificate and key"),
        "Successfully Deployed state file at [./cluster.rkestate]".to_owned(),
        "Rebuilding Kubernetes cluster with rotated certificates".to_owned(),
        "[worker] Successfully restarted Worker Plane..".to_owned(),
    ];
    let mut rest = lines.iter();
    for line in &page {
        assert!(rest.any(|(_, text)| text == line), "{line}: {lines:#?}");
    }
}
