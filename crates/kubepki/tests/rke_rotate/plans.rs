//! What plans say, and which entries they change.

use std::collections::BTreeSet;

use kubepki::plan::{Action, Content, Plan, StateEdit};
use kubepki::rke::rotate::Switch;
use kubepki::rke::{Half, Rotation, State, names};
use testkit::assert_golden;

use crate::lab::{Lab, each, services};
use crate::words::words;

fn golden(name: &str, plan: &Plan) {
    assert_golden(format!("tests/golden/rke/{name}.txt"), &words(plan));
}

#[test]
fn every_kind_in_words() {
    let lab = Lab::new();
    golden("rotate", &lab.plan(&Rotation::All).0);
    golden("rotate-ca", &lab.plan(&Rotation::Authorities).0);
    golden(
        "service-etcd",
        &Lab::of_members(3).plan(&services(&["etcd"])).0,
    );
    golden("service-kubelet", &lab.plan(&services(&["kubelet"])).0);
}

#[test]
fn every_switch_in_words() {
    let mut lab = Lab::new();
    lab.options.allow_etcd_outage = false;
    lab.options.switch = Switch::Hard;
    golden("rotate-ca-hard", &lab.plan(&Rotation::Authorities).0);
    lab.options.switch = Switch::Compromised;
    golden("rotate-ca-compromised", &lab.plan(&Rotation::Authorities).0);
    let mut lab = Lab::of_members(5);
    lab.away("10.0.0.4");
    lab.options.allow_etcd_outage = false;
    lab.options.skip_unreachable = BTreeSet::from(["10.0.0.4".to_owned()]);
    golden("rotate-ca-one-away", &lab.plan(&Rotation::Authorities).0);
}

/// The entries that a plan puts into `desiredState`.
fn desired(plan: &Plan) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for edit in edits(plan) {
        if let StateEdit::Desire { entries, .. } = edit {
            names.extend(entries.keys().cloned());
        }
    }
    names
}

fn promoted(plan: &Plan) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for edit in edits(plan) {
        if let StateEdit::Promote { entries, .. } = edit {
            names.extend(entries.iter().cloned());
        }
    }
    names
}

fn edits(plan: &Plan) -> Vec<&StateEdit> {
    let contents = plan.steps.iter().filter_map(|step| match &step.action {
        Action::Put { content, .. } => Some(content),
        _ => None,
    });
    contents
        .filter_map(|content| match content {
            Content::RkeState(edit) => Some(&**edit),
            _ => None,
        })
        .collect()
}

/// The entries whose certificate RKE replaced.
fn replaced(before: &State, after: &State) -> BTreeSet<String> {
    let before = before.bundle(Half::Desired);
    let after = after.bundle(Half::Desired);
    after
        .iter()
        .filter(|(name, entry)| {
            before.get(*name).map(|it| &it.certificate_pem) != Some(&entry.certificate_pem)
        })
        .map(|(name, _)| name.clone())
        .collect()
}

#[test]
fn exactly_the_entries_change_that_rke_changes() {
    let lab = Lab::new();
    for (kind, rotation) in [
        ("rotate", Rotation::All),
        ("rotate-ca", Rotation::Authorities),
        ("service-etcd", services(&["etcd"])),
        ("service-kubelet", services(&["kubelet"])),
    ] {
        let rkes = replaced(&lab.state, &lab.after[kind]);
        let (plan, _) = Lab::new().plan(&rotation);
        assert_eq!(desired(&plan), rkes, "{kind}");
        assert_eq!(
            promoted(&plan),
            rkes,
            "{kind}: what is wanted comes into force"
        );
    }
}

/// A leaf says what RKE's says: subject, names in order, purposes.
#[test]
fn leaves_say_what_rkes_say() {
    let lab = Lab::new();
    let (plan, _) = lab.plan(&Rotation::All);
    let rkes = lab.after["rotate"].bundle(Half::Desired);
    for (id, leaf) in &plan.leaves {
        let ours = leaf.certificate.as_ref().unwrap();
        let theirs = rkes[&id.0].certificate().unwrap().unwrap();
        assert_eq!(
            Some(ours.common_name.as_str()),
            theirs.subject().common_name(),
            "{id}"
        );
        assert_eq!(ours.organizations, theirs.subject().organizations(), "{id}");
        let sans: Vec<String> = theirs.sans().iter().map(ToString::to_string).collect();
        assert_eq!(ours.sans, sans, "{id}");
        assert_eq!(ours.purposes.len(), theirs.purposes().len(), "{id}");
        assert!(ours.not_before >= theirs.validity().not_before);
        let issuer = pki::Certificate::all_from_pem(ours.issuer.certificate.as_bytes()).unwrap();
        assert!(ours.not_after <= issuer[0].validity().not_after, "{id}");
    }
}

#[test]
fn nothing_restarts_that_reads_nothing_new() {
    for rotation in each() {
        let lab = Lab::of_members(3);
        let (plan, _) = lab.plan(&rotation);
        let Rotation::Services(asked) = &rotation else {
            panic!("{rotation:?}")
        };
        let mut expected: BTreeSet<&str> = asked.iter().map(|it| it.name()).collect();
        if expected.contains("kubelet") {
            // It shows kube-node to etcd.
            expected.insert("kube-apiserver");
        }
        let restarted: BTreeSet<&str> = plan
            .steps
            .iter()
            .filter_map(|step| match &step.action {
                Action::RestartContainers { restarts } => Some(restarts),
                _ => None,
            })
            .flatten()
            .map(|restart| restart.container.as_str())
            .collect();
        assert_eq!(restarted, expected, "{rotation:?}");
    }
}

#[test]
fn each_host_gets_its_own_keys_only() {
    for rotation in [Rotation::All, Rotation::Authorities] {
        let lab = Lab::of_members(3);
        let (plan, _) = lab.plan(&rotation);
        for step in &plan.steps {
            let Action::Deploy { sets } = &step.action else {
                continue;
            };
            for set in sets {
                let node = lab.config.node(&set.host).unwrap();
                let id = names::host_id(node);
                for (name, file) in &set.files {
                    let foreign = (name.starts_with("kube-etcd-")
                        || name.starts_with("kube-kubelet-"))
                        && !name.contains(&id);
                    assert_eq!(foreign, file.content.is_none(), "{}: {name}", set.host);
                }
            }
        }
    }
}

#[test]
fn no_private_key_is_in_a_plan() {
    for switch in [Switch::Cross, Switch::Hard, Switch::Compromised] {
        let mut lab = Lab::new();
        lab.options.switch = switch;
        let (plan, staged) = lab.plan(&Rotation::Authorities);
        let text = serde_json::to_string(&plan).unwrap();
        assert!(!text.contains("PRIVATE KEY"));
        assert!(
            staged
                .iter()
                .all(|it| it.bytes.starts_with(b"-----BEGIN RSA PRIVATE KEY"))
        );
        let again: Plan = serde_json::from_str(&text).unwrap();
        assert_eq!(again, plan);
    }
}

#[test]
fn drifted_files_are_put_right_by_a_rotation_of_all() {
    let mut lab = Lab::new();
    let view = lab.view("127.0.0.13");
    let files = view.files.as_mut().unwrap();
    files.remove("kube-ca.pem");
    files.remove("kubecfg-kube-proxy.yaml");
    let (plan, _) = lab.plan(&Rotation::All);
    let text = words(&plan);
    assert!(
        text.contains("kube-ca.pem 0600 0:0 1 certificates, before absent"),
        "{text}"
    );
    assert!(
        text.contains("kubecfg-kube-proxy.yaml 0600 0:0 text of"),
        "{text}"
    );
    assert!(
        text.contains("Host 127.0.0.13: kube-ca.pem is not what the state holds"),
        "{text}"
    );
    // One service leaves alone what is not its own.
    let text = words(&lab.plan(&services(&["kube-scheduler"])).0);
    assert!(!text.contains("kube-ca.pem 0600"), "{text}");
}

#[test]
fn a_changed_cluster_yml_is_said_and_used_only_when_asked_for() {
    let mut lab = Lab::new();
    lab.config.sans.push("new.example".to_owned());
    let (plan, _) = lab.plan(&Rotation::All);
    let sans = |plan: &Plan| {
        let leaf = &plan.leaves[&kubepki::plan::LeafId("kube-apiserver".to_owned())];
        leaf.certificate.as_ref().unwrap().sans.clone()
    };
    assert!(!sans(&plan).contains(&"new.example".to_owned()));
    assert!(words(&plan).contains("unless --apply-config is given"));
    lab.options.apply_config = true;
    let (plan, staged) = lab.plan(&Rotation::All);
    assert!(sans(&plan).contains(&"new.example".to_owned()));
    assert!(words(&plan).contains("and rkeConfig"));
    let config = staged
        .iter()
        .find(|it| it.name == "rke-config.json")
        .unwrap();
    let json = kubepki::rke::json::parse(&config.bytes).unwrap();
    let stored = kubepki::rke::ClusterConfig::from_rke_config(&json).unwrap();
    assert_eq!(stored.sans, lab.config.sans);
}

/// What an operator reads at night.
#[test]
fn plans_as_operators_read_them() {
    let shown = |lab: &Lab, rotation: &Rotation| kubepki::plan::show(&lab.plan(rotation).0, None);
    let lab = Lab::new();
    let text = shown(&lab, &Rotation::All);
    assert_golden("tests/golden/rke/shown-rotate.txt", &text);
    assert_golden(
        "tests/golden/rke/shown-rotate-ca.txt",
        &shown(&lab, &Rotation::Authorities),
    );
    let mut lab = Lab::of_members(5);
    lab.away("10.0.0.4");
    lab.options.skip_unreachable = BTreeSet::from(["10.0.0.4".to_owned()]);
    let text = shown(&lab, &services(&["etcd"]));
    assert_golden("tests/golden/rke/shown-one-away.txt", &text);
}
