//! That no order of steps, there or back, cuts anybody off.

use std::collections::BTreeSet;

use kubepki::init::Staged;
use kubepki::plan::{Action, Plan, Proof, Step};
use kubepki::rke::custom::{CustomEntry, CustomFile, CustomSet};
use kubepki::rke::rotate::{RotateError, Switch, quorum};
use kubepki::rke::survey::FileView;
use kubepki::rke::{Half, Rotation, Service};

use testkit::assert_golden;

use crate::lab::{Lab, host_entry, services};
use crate::words::words;
use crate::world::{Judge, World};

/// Steps in which members of etcd restart, and how many members there are in each.
fn etcd(plan: &Plan) -> Vec<(usize, &Step)> {
    let restarts = plan.steps.iter().filter_map(|step| match &step.action {
        Action::RestartContainers { restarts } => {
            let members = restarts.iter().filter(|it| it.container == "etcd");
            Some((members.count(), step))
        }
        _ => None,
    });
    restarts.filter(|(members, _)| *members > 0).collect()
}

/// How many members of etcd restart in each step that restarts some.
pub fn etcd_steps(plan: &Plan) -> Vec<usize> {
    etcd(plan).into_iter().map(|(members, _)| members).collect()
}

/// Takes steps back as an undo does: the last deployment first, what had restarted for it after
/// that, system pods at the end.
fn back(worlds: &[World], steps: &[Step], mut see: impl FnMut(&World, &str)) {
    let mut world = worlds[steps.len()].clone();
    let mut parts: Vec<(Vec<usize>, Vec<usize>)> = Vec::new();
    for (at, step) in steps.iter().enumerate() {
        match &step.action {
            Action::Deploy { .. } => match parts.last_mut() {
                Some((deployments, restarts)) if restarts.is_empty() => deployments.push(at),
                _ => parts.push((vec![at], Vec::new())),
            },
            Action::RestartContainers { .. } => parts.last_mut().unwrap().1.push(at),
            _ => {}
        }
    }
    for (deployments, restarts) in parts.into_iter().rev() {
        for at in deployments.into_iter().rev() {
            let Action::Deploy { sets } = &steps[at].action else {
                panic!("{at}")
            };
            let hosts: BTreeSet<String> = sets.iter().map(|set| set.host.clone()).collect();
            world.deploy_back(&hosts, &worlds[at]);
            world.admin_back(&worlds[at]);
            see(&world, &format!("back: step {}", steps[at].number));
        }
        for at in restarts {
            world.take(&steps[at]);
            see(&world, &format!("back: step {} again", steps[at].number));
        }
    }
    world.renew_pods();
    see(&world, "back: pods");
}

/// Every moment there, and every moment of the way back from each.
fn holds(lab: &Lab, rotation: &Rotation) -> World {
    let (plan, staged) = lab.plan(rotation);
    walk(lab, &plan, &staged)
}

fn walk(lab: &Lab, plan: &Plan, staged: &[Staged]) -> World {
    let mut judge = Judge::at(lab.now);
    let mut worlds = vec![World::before(lab, plan, staged)];
    let title = &plan.title;
    for step in &plan.steps {
        let mut world = worlds.last().unwrap().clone();
        world.take(step);
        let refusals = world.cut_off(&mut judge);
        assert!(
            refusals.is_empty(),
            "{title}, step {}: {refusals:#?}",
            step.number
        );
        worlds.push(world);
    }
    for taken in 0..=plan.steps.len() {
        back(&worlds, &plan.steps[..taken], |world, when| {
            let refusals = world.cut_off(&mut judge);
            assert!(
                refusals.is_empty(),
                "{title}, after {taken}, {when}: {refusals:#?}"
            );
        });
    }
    worlds.pop().unwrap()
}

#[test]
fn nobody_is_cut_off_at_any_step_there_or_back() {
    // Three members of etcd are the next test's.
    for rotation in [
        Rotation::All,
        Rotation::Authorities,
        services(&["etcd", "kubelet"]),
    ] {
        holds(&Lab::new(), &rotation);
    }
}

#[test]
fn in_the_end_the_old_root_is_nowhere_unless_it_is_kept() {
    let mut lab = Lab::of_members(3);
    let old: Vec<String> = ["kube-ca", "kube-apiserver-requestheader-ca"]
        .iter()
        .map(|name| {
            lab.state
                .entry(Half::Current, name)
                .unwrap()
                .certificate_pem
        })
        .collect();
    let counted = |world: &World| {
        let texts = world.texts();
        texts
            .filter(|(_, text)| old.iter().any(|pem| text.contains(pem.trim())))
            .count()
    };
    let world = holds(&lab, &Rotation::Authorities);
    assert_eq!(counted(&world), 0);
    // Whatever is served is one certificate again.
    for (name, text) in world.texts() {
        let blocks = text.matches("BEGIN CERTIFICATE").count();
        assert!(blocks <= 1, "{name} holds {blocks} certificates");
    }
    lab = Lab::of_members(3);
    lab.options.keep_old = true;
    let world = holds(&lab, &Rotation::Authorities);
    assert_eq!(counted(&world), 6, "two bundles on each of three hosts");
}

/// The check has teeth: RKE's switch cuts off almost everybody on the way, and nobody at its end.
#[test]
fn the_hard_switch_cuts_off_on_the_way_and_heals() {
    for switch in [Switch::Hard, Switch::Compromised] {
        let mut lab = Lab::of_members(3);
        lab.options.switch = switch;
        let (plan, staged) = lab.plan(&Rotation::Authorities);
        let mut judge = Judge::at(lab.now);
        let mut world = World::before(&lab, &plan, &staged);
        let mut most = 0;
        for step in &plan.steps {
            world.take(step);
            most = most.max(world.cut_off(&mut judge).len());
        }
        assert!(most > 20, "{most}");
        assert_eq!(world.cut_off(&mut judge), Vec::<String>::new());
    }
}

#[test]
fn one_member_of_etcd_at_a_time_guarded_by_the_others() {
    for members in 3..=7 {
        for rotation in [Rotation::All, Rotation::Authorities, services(&["etcd"])] {
            let mut lab = Lab::of_members(members);
            lab.options.allow_etcd_outage = false;
            let (plan, _) = lab.plan(&rotation);
            let steps = etcd(&plan);
            let rounds = if rotation == Rotation::Authorities {
                2
            } else {
                1
            };
            assert_eq!(steps.len(), members * rounds);
            for (count, step) in steps {
                assert_eq!(count, 1);
                let Action::RestartContainers { restarts } = &step.action else {
                    panic!("{step:?}")
                };
                assert_eq!(restarts.len(), 1, "nothing else restarts with it");
                let [
                    Proof::Quorum {
                        members: others,
                        needed,
                        ..
                    },
                ] = restarts[0].guard.as_slice()
                else {
                    panic!("{:?}", restarts[0].guard)
                };
                assert_eq!(others.len(), members - 1);
                assert!(others.iter().all(|(host, _)| *host != restarts[0].host));
                assert_eq!(*needed as usize, quorum(members));
            }
        }
    }
}

#[test]
fn nodes_restart_in_waves_and_at_once_only_when_asked() {
    let widest = |plan: &Plan, service: Service| {
        let steps = plan.steps.iter().filter_map(|step| match &step.action {
            Action::RestartContainers { restarts } => Some(restarts),
            _ => None,
        });
        let hosts = steps.map(|restarts| {
            let of_service = restarts.iter().filter(|it| it.container == service.name());
            of_service.count()
        });
        hosts.max().unwrap()
    };
    let mut lab = Lab::of_members(7);
    let (plan, _) = lab.plan(&Rotation::All);
    assert_eq!(widest(&plan, Service::Kubelet), 1);
    assert_eq!(widest(&plan, Service::KubeApiserver), 1);
    lab = Lab::of_members(7);
    lab.options.max_unavailable = Some(3);
    let (plan, _) = lab.plan(&Rotation::All);
    assert_eq!(widest(&plan, Service::Kubelet), 3);
    assert_eq!(widest(&plan, Service::KubeApiserver), 1);
    lab = Lab::of_members(7);
    lab.options.parallel_restarts = true;
    let (plan, _) = lab.plan(&Rotation::All);
    assert_eq!(widest(&plan, Service::Kubelet), 7);
    assert_eq!(widest(&plan, Service::KubeApiserver), 7);
    assert_eq!(etcd_steps(&plan), [7]);
}

/// A host that is away keeps the rest from nothing, and comes last.
#[test]
fn what_can_wait_comes_after_what_cannot() {
    let mut lab = Lab::of_members(5);
    lab.away("10.0.0.4");
    lab.options.skip_unreachable = BTreeSet::from(["10.0.0.4".to_owned()]);
    lab.options.allow_etcd_outage = false;
    let (plan, _) = lab.plan(&Rotation::Authorities);
    let waits = |step: &&Step| plan.deferrable.contains(&step.number);
    let about = |step: &Step| match &step.target {
        kubepki::plan::Target::Hosts { hosts } => hosts.contains(&"10.0.0.4".to_owned()),
        _ => false,
    };
    let late: Vec<u32> = plan
        .steps
        .iter()
        .filter(|step| about(step))
        .map(|step| step.number)
        .collect();
    let end = u32::try_from(plan.steps.len()).unwrap();
    assert_eq!(late, [end - 1, end]);
    assert!(
        plan.steps
            .iter()
            .filter(|step| about(step))
            .all(|step| waits(&step))
    );
    let firm = plan.steps.iter().rev().find(|step| !waits(step)).unwrap();
    assert!(firm.number < end - 1);
    // Its old root stays trusted, for it knows no other.
    assert!(plan.title.contains("stays trusted"));
}

/// Certificates of another CA, as a directory of custom certificates brings them: those that RKE
/// made when it rotated its CAs.
fn custom(lab: &Lab, with_key: bool) -> CustomSet {
    let entries = lab.after["rotate-ca"].bundle(Half::Desired);
    let file = |name: String| CustomFile {
        path: format!("/clusters/cluster_certs/{name}").into(),
        sha256: String::new(),
    };
    let entries = entries.into_iter().map(|(name, entry)| {
        let authority = name == "kube-ca" || name.ends_with("requestheader-ca");
        let key = entry.key().unwrap().unwrap();
        let custom = CustomEntry {
            certificate_pem: entry.certificate_pem,
            certificate: Some(file(format!("{name}.pem"))),
            key: (with_key || !authority).then(|| file(format!("{name}-key.pem"))),
            spki: key.spki_sha256().to_string(),
        };
        (name, custom)
    });
    CustomSet {
        entries: entries.collect(),
        request_header_defaulted: false,
    }
}

#[test]
fn custom_certificates_of_another_ca_cut_nobody_off() {
    for with_key in [true, false] {
        let lab = Lab::new();
        let set = custom(&lab, with_key);
        let key = lab.after["rotate-ca"]
            .entry(Half::Desired, "kube-admin")
            .unwrap()
            .key_pem;
        let (plan, staged) = lab.install(&set, &key).unwrap();
        let world = walk(&lab, &plan, &staged);
        let old = lab
            .state
            .entry(Half::Current, "kube-ca")
            .unwrap()
            .certificate_pem;
        assert!(world.texts().all(|(_, text)| !text.contains(old.trim())));
        assert_eq!(exactly_served(&plan), servers(&set));
        let keys = world
            .texts()
            .filter(|(name, _)| *name == "kube-ca-key.pem")
            .count();
        assert_eq!(
            keys,
            if with_key { 2 } else { 0 },
            "a CA's key that stays elsewhere"
        );
        assert!(
            !serde_json::to_string(&plan)
                .unwrap()
                .contains("PRIVATE KEY")
        );
        assert_golden(
            format!(
                "tests/golden/rke/install-{}.txt",
                if with_key { "with-key" } else { "keyless" }
            ),
            &words(&plan),
        );
    }
}

/// What servers have to show once they have it, a digest each.
fn exactly_served(plan: &Plan) -> BTreeSet<String> {
    let mut served = BTreeSet::new();
    for step in &plan.steps {
        let Action::RestartContainers { restarts } = &step.action else {
            continue;
        };
        for proof in restarts.iter().flat_map(|it| &it.proof) {
            match proof {
                Proof::ServesExactly { sha256, kept, .. } => {
                    assert!(!kept);
                    served.insert(sha256.clone());
                }
                Proof::ServesAt { .. } | Proof::ServesOtherAt { .. } => panic!("{proof:?}"),
                _ => {}
            }
        }
    }
    served
}

/// The digests of what etcd, API servers and kubelets serve.
fn servers(set: &CustomSet) -> BTreeSet<String> {
    let entries = set.entries.iter().filter(|(name, _)| {
        name.starts_with("kube-etcd-")
            || name.starts_with("kube-kubelet-")
            || *name == "kube-apiserver"
    });
    let leaves = entries.map(|(_, entry)| {
        let leaf = pki::Certificate::all_from_pem(entry.certificate_pem.as_bytes()).unwrap();
        pki::sha256(leaf[0].der()).to_string()
    });
    leaves.collect()
}

/// Taking the plan back leaves there what was there.
#[test]
fn a_server_that_has_its_certificate_keeps_it() {
    let mut lab = Lab::new();
    let set = custom(&lab, true);
    let file = "kube-etcd-10-99-0-11.pem";
    let pem = set.entries["kube-etcd-10-99-0-11"].certificate_pem.clone();
    let view = FileView::of(file, &host_entry(pem.as_bytes()));
    let files = lab.view("127.0.0.11").files.as_mut().unwrap();
    files.insert(file.to_owned(), view);
    let (plan, _) = lab.install(&set, "").unwrap();
    let kept = plan.steps.iter().filter_map(|step| match &step.action {
        Action::RestartContainers { restarts } => Some(restarts),
        _ => None,
    });
    let kept: Vec<&str> = kept
        .flatten()
        .flat_map(|restart| &restart.proof)
        .filter_map(|proof| match proof {
            Proof::ServesExactly { address, kept, .. } => kept.then_some(address.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(kept, ["10.99.0.11:2379"]);
}

#[test]
fn what_is_in_force_is_not_installed_again() {
    let mut lab = Lab::new();
    let set = custom(&lab, true);
    lab.state = lab.after["rotate-ca"].clone();
    lab.state.promote(set.entries.keys().map(String::as_str));
    let error = lab.install(&set, "").unwrap_err();
    assert!(matches!(error, RotateError::Same), "{error}");
}
