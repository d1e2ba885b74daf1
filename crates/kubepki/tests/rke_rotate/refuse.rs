//! What is refused, in whose words.

use std::collections::BTreeSet;

use kubepki::plan::Action;
use kubepki::rke::rotate::{RotateError, Switch};
use kubepki::rke::{Half, Rotation, State};
use pki::{DAY, UnixTime};

use crate::lab::{Lab, NOW, services};

fn refusal(lab: &Lab, rotation: &Rotation) -> String {
    match lab.try_plan(rotation) {
        Ok((plan, _)) => panic!("planned: {}", plan.title),
        Err(error) => error.to_string(),
    }
}

/// An entry of both halves, changed.
fn edit(lab: &mut Lab, name: &str, change: impl Fn(&mut kubepki::rke::Entry)) {
    let mut entry = lab.state.entry(Half::Current, name).unwrap();
    change(&mut entry);
    lab.state.set_desired([entry]);
    lab.state.promote([name]);
}

#[test]
fn rkes_words_where_rke_has_them() {
    let mut lab = Lab::new();
    lab.state = State::empty();
    let text = refusal(&lab, &Rotation::All);
    assert_eq!(
        text,
        "Failed to rotate certificates: can't find old certificates"
    );
    assert!(
        lab.try_plan(&Rotation::All)
            .unwrap_err()
            .advice()
            .unwrap()
            .contains("state rebuild")
    );

    let mut lab = Lab::new();
    lab.state.remove_desired(["kube-ca"]);
    lab.state.promote(["kube-ca"]);
    let text = refusal(&lab, &Rotation::All);
    assert_eq!(
        text,
        "Failed to rotate certificates: can't find CA certificate"
    );
    assert!(lab.try_plan(&Rotation::Authorities).is_ok());

    let mut lab = Lab::new();
    edit(&mut lab, "kube-ca", |entry| entry.certificate_pem.clear());
    let text = refusal(&lab, &Rotation::All);
    assert_eq!(text, "Failed to rotate certificates: CA certificate is nil");

    let mut lab = Lab::new();
    edit(&mut lab, "kube-ca", |entry| {
        entry.key_pem = Default::default()
    });
    assert_eq!(
        refusal(&lab, &Rotation::All),
        "CA Certificate or Key is empty"
    );
    let text = refusal(&lab, &Rotation::Authorities);
    assert!(
        text.contains("kube-ca cannot vouch for a new root: its key is not"),
        "{text}"
    );
    lab.options.switch = Switch::Hard;
    assert!(lab.try_plan(&Rotation::Authorities).is_ok());
}

#[test]
fn keys_that_are_missing_and_times_that_are_over() {
    let mut lab = Lab::new();
    let name = "kube-apiserver-requestheader-ca";
    edit(&mut lab, name, |entry| entry.key_pem = Default::default());
    let text = refusal(&lab, &Rotation::All);
    assert_eq!(text, "Request Header CA Certificate or Key is empty");
    assert!(lab.try_plan(&services(&["etcd"])).is_ok());

    let mut lab = Lab::new();
    lab.now = UnixTime::from_secs(NOW).plus(4000 * DAY);
    let text = refusal(&lab, &Rotation::All);
    assert!(
        text.starts_with(
            "Failed to rotate certificates: CA certificate is invalid, please use the \
             --rotate-ca flag to rotate CA certificate, error: x509: certificate has expired or \
             is not yet valid: current time "
        ),
        "{text}"
    );
    // An expired root vouches for nobody: the switch is at once, and said.
    let (plan, _) = lab.plan(&Rotation::Authorities);
    assert!(plan.title.contains("at once"));
    assert!(
        plan.notes
            .iter()
            .any(|note| note.contains("it can vouch for no new root"))
    );
}

#[test]
fn a_ca_with_anothers_key_signs_nothing() {
    let mut lab = Lab::new();
    let other = lab.state.entry(Half::Current, "kube-node").unwrap().key_pem;
    edit(&mut lab, "kube-ca", |entry| entry.key_pem = other.clone());
    let text = refusal(&lab, &services(&["kube-proxy"]));
    assert!(
        text.starts_with("kube-ca in the state file cannot sign: "),
        "{text}"
    );
}

#[test]
fn hosts_that_are_away_stop_everything_unless_named() {
    let mut lab = Lab::of_members(5);
    lab.options.allow_etcd_outage = false;
    lab.away("10.0.0.2");
    lab.away("10.0.0.4");
    let text = refusal(&lab, &Rotation::All);
    assert!(
        text.contains("10.0.0.2: 10.0.0.2 cannot be reached"),
        "{text}"
    );
    assert!(
        text.contains("10.0.0.4: 10.0.0.4 cannot be reached"),
        "{text}"
    );
    lab.options.skip_unreachable = BTreeSet::from(["10.0.0.4".to_owned()]);
    let text = refusal(&lab, &Rotation::All);
    assert!(text.contains("1 of the cluster's hosts"), "{text}");
    assert!(!text.contains("10.0.0.4"), "{text}");
    lab.options.skip_unreachable.insert("10.0.0.9".to_owned());
    let error = lab.try_plan(&Rotation::All).unwrap_err();
    assert!(error.is_usage() && matches!(error, RotateError::UnknownHost { .. }));
    // Three of five are a quorum, and none of them can be spared.
    lab.options.skip_unreachable = BTreeSet::from(["10.0.0.2", "10.0.0.4"].map(str::to_owned));
    let text = refusal(&lab, &Rotation::All);
    assert!(
        text.contains("of its 5 members 3 can be reached, and 3 have to be"),
        "{text}"
    );
    assert!(lab.try_plan(&services(&["kube-proxy"])).is_ok());
}

#[test]
fn etcd_is_not_touched_while_it_is_sick_or_too_small() {
    for members in [1, 2] {
        let mut lab = Lab::of_members(members);
        lab.options.allow_etcd_outage = false;
        let text = refusal(&lab, &services(&["etcd"]));
        assert!(text.contains("--allow-etcd-outage"), "{text}");
        assert!(lab.try_plan(&services(&["kube-scheduler"])).is_ok());
        lab.options.allow_etcd_outage = true;
        assert!(lab.try_plan(&services(&["etcd"])).is_ok());
    }
    let mut lab = Lab::of_members(3);
    lab.options.allow_etcd_outage = false;
    let url = "https://10.0.0.2:2379/health".to_owned();
    lab.view("10.0.0.2")
        .health
        .insert(url, Err("connection refused".to_owned()));
    lab.view("10.0.0.3")
        .containers
        .get_mut("etcd")
        .unwrap()
        .running = false;
    let text = refusal(&lab, &Rotation::Authorities);
    assert!(text.contains("10.0.0.2: connection refused"), "{text}");
    assert!(
        text.contains("10.0.0.3: the container etcd does not run"),
        "{text}"
    );
    // What is down comes up together, or not at all.
    lab.options.allow_etcd_outage = true;
    let (plan, _) = lab.plan(&Rotation::All);
    assert_eq!(crate::cut_off::etcd_steps(&plan), [3]);
}

#[test]
fn nodes_do_not_come_and_go_with_certificates() {
    let mut lab = Lab::new();
    lab.options.apply_config = true;
    lab.config.nodes.pop();
    let text = refusal(&lab, &Rotation::All);
    assert!(
        text.contains("127.0.0.13") && text.contains("rke up"),
        "{text}"
    );
    lab.options.apply_config = false;
    let (plan, _) = lab.plan(&Rotation::All);
    assert!(
        plan.notes
            .iter()
            .any(|note| note.contains("Host 127.0.0.13 is in the state"))
    );
    let touched = plan.steps.iter().any(|step| match &step.action {
        Action::Deploy { sets } => sets.iter().any(|set| set.host == "127.0.0.13"),
        _ => false,
    });
    assert!(!touched);
}

/// RKE redeploys such API servers in a rotation; without that, a new key voids every token.
#[test]
fn api_servers_of_rke_before_0_2_keep_their_key() {
    let mut lab = Lab::new();
    let old = |key: &str| format!("--service-account-key-file=/etc/kubernetes/ssl/{key}");
    let host = lab.config.nodes[0].address.clone();
    let argue = |lab: &mut Lab, key: &str| {
        let containers = &mut lab.view(&host).containers;
        containers.get_mut("kube-apiserver").unwrap().arguments = vec![old(key)];
    };
    argue(&mut lab, "kube-service-account-token-key.pem");
    assert!(lab.try_plan(&Rotation::All).is_ok());
    argue(&mut lab, "kube-apiserver-key.pem");
    for rotation in [
        Rotation::All,
        Rotation::Authorities,
        services(&["kube-apiserver"]),
    ] {
        let text = refusal(&lab, &rotation);
        let expected = format!("kube-apiserver on {host} checks service-account tokens");
        assert!(text.contains(&expected), "{text}");
        assert!(
            text.contains("Run `rke up` with RKE 0.2 or later first"),
            "{text}"
        );
    }
    assert!(lab.try_plan(&services(&["kube-scheduler"])).is_ok());
}
