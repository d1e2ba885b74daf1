//! What an operator reads of steps on hosts.

use super::*;
use crate::host::Attributes;
use crate::plan::{Before, FileChange, PLAN_FORMAT, PlanId, show};

fn set(host: &str, files: &[(&str, Option<Content>)]) -> FileSet {
    let change = |content: &Option<Content>| FileChange {
        before: Before::Any,
        attributes: Attributes::new(0o600),
        content: content.clone(),
    };
    let files = files.iter();
    FileSet {
        host: host.to_owned(),
        directory: "/etc/kubernetes/ssl".into(),
        files: files
            .map(|(name, content)| ((*name).to_owned(), change(content)))
            .collect(),
    }
}

fn healthy(host: &str, url: String) -> Proof {
    Proof::Healthy {
        host: host.to_owned(),
        url,
        client: None,
        member: None,
    }
}

fn plan(steps: Vec<(Target, Action)>) -> Plan {
    let steps = (1..).zip(steps).map(|(number, (target, action))| Step {
        number,
        target,
        before: Before::Any,
        action,
        reason: "test".to_owned(),
    });
    Plan {
        format: PLAN_FORMAT,
        id: PlanId("p".to_owned()),
        undoes: None,
        title: "test".to_owned(),
        node: "local".to_owned(),
        root: "/c".into(),
        datastore: None,
        irreversible: None,
        created: pki::UnixTime::from_secs(0),
        hypothetical: false,
        leaves: BTreeMap::new(),
        steps: steps.collect(),
        deferrable: BTreeSet::from([4]),
        notes: Vec::new(),
    }
}

/// The plan's steps on `hosts`: one deployment, kubelets two at a time.
fn cluster(hosts: &[String]) -> Plan {
    let leaf = |name: String| Some(Content::LeafKey(LeafId(name)));
    let sets = hosts.iter().map(|host| {
        let own = format!("kube-kubelet-{}", host.replace('.', "-"));
        let (certificate, key) = (format!("{own}.pem"), format!("{own}-key.pem"));
        set(
            host,
            &[
                (certificate.as_str(), leaf(own.clone())),
                (key.as_str(), leaf(own.clone())),
                ("kube-ca.pem", Some(Content::Text(String::new()))),
                (
                    "kubecfg-kube-proxy.yaml",
                    Some(Content::Text(String::new())),
                ),
                ("kube-etcd-10-9-9-9.pem", None),
                ("kube-ca-key.pem", None),
            ],
        )
    });
    let everywhere = Target::Hosts {
        hosts: hosts.to_vec(),
    };
    let mut steps = vec![(
        everywhere,
        Action::Deploy {
            sets: sets.collect(),
        },
    )];
    for wave in hosts.chunks(2) {
        let restarts = wave.iter().map(|host| ContainerRestart {
            host: host.clone(),
            container: "kubelet".to_owned(),
            guard: Vec::new(),
            proof: vec![healthy(host, format!("https://{host}:10250/healthz"))],
        });
        let target = Target::Hosts {
            hosts: wave.to_vec(),
        };
        let restarts = restarts.collect();
        steps.push((target, Action::RestartContainers { restarts }));
    }
    plan(steps)
}

fn hosts(count: usize) -> Vec<String> {
    (1..=count)
        .map(|number| format!("10.0.0.{number}"))
        .collect()
}

#[test]
fn hosts_that_get_the_same_are_told_of_once() {
    let mut plan = cluster(&hosts(6));
    plan.deferrable.clear();
    assert_eq!(
        show(&plan, None),
        "Plan p: test\n\
         Cluster local, directory /c\n   \
         1. put files on 6 hosts\n      \
         on:     10.0.0.1, 10.0.0.2, 10.0.0.3, 10.0.0.4, 10.0.0.5, 10.0.0.6\n              \
         certificate: kube-ca\n              \
         certificate and key: its own kube-kubelet\n              \
         kubeconfig: kube-proxy\n              \
         removed: kube-ca-key.pem\n              \
         removed: 1 file of single nodes\n      \
         kept:   the former files, in /etc/kubernetes/.kubepki/p-1/old on each host\n      \
         reason: test\n   \
         2-4. restart kubelet on 6 hosts, 2 hosts at a time\n      \
         hosts:  all of step 1, in its order\n      \
         then:   kubelet: healthy at port 10250\n      \
         reason: test\n"
    );
}

#[test]
fn fifty_hosts_take_no_more_to_read() {
    let lines = |count| {
        let mut plan = cluster(&hosts(count));
        plan.deferrable.clear();
        show(&plan, None).lines().count()
    };
    assert!(lines(50) <= lines(6) + 8, "{}", lines(50));
}

#[test]
fn what_may_wait_is_marked_and_stands_alone() {
    let text = show(&cluster(&hosts(6)), None);
    let expected = "   2-3. restart kubelet on 10.0.0.1, 10.0.0.2, 10.0.0.3, 10.0.0.4, 2 hosts at";
    assert!(text.contains(expected), "{text}");
    let (_, last) = text.split_once("   4. restart kubelet on").unwrap();
    assert!(
        last.contains("later:  put off if it cannot be done now"),
        "{text}"
    );
    assert_eq!(text.matches("later:").count(), 1);
}

#[test]
fn headlines_name_containers_and_hosts() {
    let plan = cluster(&hosts(6));
    let told: Vec<String> = plan.steps.iter().map(crate::plan::headline).collect();
    assert_eq!(told[0], "put files on 6 hosts");
    assert_eq!(told[1], "restart kubelet on 10.0.0.1, 10.0.0.2");
}

#[test]
fn ports_are_told_alone() {
    assert_eq!(port_of("https://127.0.0.1:6443/healthz"), "port 6443");
    assert_eq!(port_of("https://[fd00::1]:2379/health"), "port 2379");
    assert_eq!(port_of("10.0.0.1:10250"), "port 10250");
    assert_eq!(port_of("nonsense"), "nonsense");
}

#[test]
fn entries_of_many_nodes_are_counted() {
    let of_nodes: Vec<String> = (1..=4).map(|it| format!("kube-etcd-10-0-0-{it}")).collect();
    let mut names: Vec<&str> = of_nodes.iter().map(String::as_str).collect();
    names.push("kube-ca");
    assert_eq!(
        show_state::entries_in_words(&names),
        "kube-ca, kube-etcd of 4 nodes"
    );
    names.remove(0);
    let told = "kube-ca, kube-etcd-10-0-0-2, kube-etcd-10-0-0-3, kube-etcd-10-0-0-4";
    assert_eq!(show_state::entries_in_words(&names), told);
}
