//! What is refused, in whose words.

use std::collections::BTreeSet;

use kubepki::plan::{Action, LeafId, Proof};
use kubepki::rke::rotate::{RotateError, Switch};
use kubepki::rke::survey::Seen;
use kubepki::rke::{Half, Rotation, State, json};
use pki::{DAY, UnixTime};

use crate::lab::{Lab, NOW, services};

pub fn refusal(lab: &Lab, rotation: &Rotation) -> String {
    match lab.try_plan(rotation) {
        Ok((plan, _)) => panic!("planned: {}", plan.title),
        Err(error) => error.to_string(),
    }
}

/// An entry of both halves, changed.
pub fn edit(lab: &mut Lab, name: &str, change: impl Fn(&mut kubepki::rke::Entry)) {
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
    assert!(text.contains("10.0.0.2: connection refused"), "{text}");
    assert!(text.contains("10.0.0.4: connection refused"), "{text}");
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

fn sicken(lab: &mut Lab, host: &str) {
    let url = format!("https://{host}:2379/health");
    let why = "it answers 503".to_owned();
    lab.view(host).health.insert(url, Err(why));
}

/// Who restarts etcd, in order, and how many healthy others each restart asks for.
fn etcd_order(lab: &Lab) -> Vec<(String, Vec<u32>)> {
    let (plan, _) = lab.plan(&Rotation::All);
    let mut order = Vec::new();
    for step in &plan.steps {
        let Action::RestartContainers { restarts } = &step.action else {
            continue;
        };
        for restart in restarts.iter().filter(|it| it.container == "etcd") {
            let needed = restart.guard.iter().filter_map(|guard| match guard {
                Proof::Quorum { needed, .. } => Some(*needed),
                _ => None,
            });
            order.push((restart.host.clone(), needed.collect()));
        }
    }
    order
}

#[test]
fn a_quorum_that_is_left_is_kept_while_the_sick_are_mended() {
    let mut lab = Lab::of_members(3);
    sicken(&mut lab, "10.0.0.3");
    lab.options.allow_etcd_outage = false;
    let error = lab.try_plan(&Rotation::All).unwrap_err();
    assert!(
        matches!(
            error,
            RotateError::Unhealthy {
                healthy: 2,
                needed: 2,
                ..
            }
        ),
        "{error}"
    );
    assert!(error.to_string().contains("a quorum still"), "{error}");
    lab.options.allow_etcd_outage = true;
    let (plan, _) = lab.plan(&Rotation::All);
    assert_eq!(crate::cut_off::etcd_steps(&plan), [1, 1, 1]);
    let first = plan.notes.iter().find(|it| it.contains("restart first"));
    assert!(first.unwrap().contains("10.0.0.3"));
    let hosts = ["10.0.0.3", "10.0.0.1", "10.0.0.2"];
    let all = hosts.map(|host| (host.to_owned(), vec![2]));
    assert_eq!(etcd_order(&lab), all);
    // Two of three: nobody has a quorum, and all come up together.
    sicken(&mut lab, "10.0.0.1");
    let (plan, _) = lab.plan(&Rotation::All);
    assert_eq!(crate::cut_off::etcd_steps(&plan), [3]);
    // What has no container is not waited for, and said.
    let mut lab = Lab::of_members(3);
    lab.view("10.0.0.2").containers.remove("etcd");
    let hosts = ["10.0.0.1", "10.0.0.3"].map(|host| (host.to_owned(), vec![1]));
    assert_eq!(etcd_order(&lab), hosts);
    let (plan, _) = lab.plan(&Rotation::All);
    let missing = "Host 10.0.0.2 has no container etcd";
    assert!(plan.notes.iter().any(|it| it.contains(missing)));
}

#[test]
fn hosts_that_refuse_us_are_to_be_mended() {
    let mut lab = Lab::of_members(3);
    let refuses = Seen::Away {
        why: "the host key has changed".to_owned(),
        refuses: true,
    };
    lab.survey.hosts.insert("10.0.0.2".to_owned(), refuses);
    let text = refusal(&lab, &Rotation::All);
    assert!(
        text.contains("10.0.0.2: the host key has changed"),
        "{text}"
    );
    assert!(text.contains("Mend this first"), "{text}");
    assert!(!text.contains("--skip-unreachable"), "{text}");
    lab.away("10.0.0.3");
    let text = refusal(&lab, &Rotation::All);
    assert!(text.contains("--skip-unreachable"), "{text}");
    assert!(text.contains("10.0.0.3: 10.0.0.3 cannot be"), "{text}");
}

#[test]
fn what_needs_new_containers_needs_rke_up() {
    let asked = |edit: fn(&mut kubepki::rke::ClusterConfig)| {
        let mut lab = Lab::new();
        let json = lab.state.rke_config(Half::Current).unwrap().pretty();
        let text = std::str::from_utf8(&json).unwrap();
        let (on, off) = ("Certificate\": true", "Certificate\": false");
        assert_eq!(text.matches(on).count(), 1);
        let json = json::parse(text.replace(on, off).as_bytes()).unwrap();
        lab.state.set_rke_config(Half::Current, json);
        lab.options.apply_config = true;
        lab.config.serving_certificates = false;
        edit(&mut lab.config);
        lab.try_plan(&Rotation::All).map(drop)
    };
    asked(|config| config.sans.push("other.example".to_owned())).unwrap();
    for error in [
        asked(|config| config.serving_certificates = true),
        asked(|config| config.etcd.uid = 52_034),
    ] {
        let error = error.unwrap_err();
        assert!(matches!(error, RotateError::Containers(_)), "{error}");
        assert!(error.to_string().contains("Run `rke up` first"), "{error}");
    }
}

#[test]
fn an_external_etcd_is_none_of_ours() {
    let mut lab = Lab::of_members(1);
    let json = lab.state.rke_config(Half::Current).unwrap().pretty();
    let text = std::str::from_utf8(&json).unwrap();
    let (before, after) = text.split_once("\"kubelet\"").unwrap();
    let urls = r#"{"externalUrls": ["https://10.9.9.9:2379"], "path": "/x", "caCert": "a",
        "cert": "b", "key": "c"}"#;
    let text = format!("{before}\"etcd\": {urls}, \"kubelet\"{after}");
    let json = json::parse(text.as_bytes()).unwrap();
    lab.state.set_rke_config(Half::Current, json);
    let text = refusal(&lab, &services(&["etcd"]));
    assert!(
        text.contains("nothing to rotate for the service etcd"),
        "{text}"
    );
}

#[test]
fn an_aggregation_ca_that_is_over_needs_no_word_for_the_new_one() {
    let name = "kube-apiserver-requestheader-ca";
    let mut lab = Lab::new();
    let key = lab.key();
    let day = |days: i64| UnixTime::from_secs(NOW).plus(days * DAY);
    let validity = pki::Validity {
        not_before: day(-20),
        not_after: day(-10),
    };
    let pem = key.to_pem().unwrap().to_string();
    let own = pki::Name::new(&[], name).unwrap();
    let serial = pki::Serial::from_hex("01").unwrap();
    let old = pki::Authority::self_signed(&own, key, serial, validity).unwrap();
    let old = old.certificate().to_pem();
    edit(&mut lab, name, |entry| {
        entry.certificate_pem = old.clone();
        entry.key_pem = pem.as_str().into();
    });
    let (plan, _) = lab.plan(&Rotation::Authorities);
    assert_eq!(plan.title, "rotate CAs");
    assert!(
        plan.notes
            .iter()
            .any(|it| it.contains("without the old one's word"))
    );
    let chain = |entry: &str| {
        let leaf = &plan.leaves[&LeafId(entry.to_owned())];
        leaf.certificate.as_ref().unwrap().chain.len()
    };
    assert_eq!(chain("kube-apiserver-proxy-client"), 0);
    assert!(chain("kube-apiserver") > 0);
}

/// Pods that cannot be made to read the new root keep the old one.
#[test]
fn the_old_root_stays_while_the_api_is_away() {
    let mut lab = Lab::new();
    let (whole, _) = lab.plan(&Rotation::Authorities);
    lab.options.api_away = true;
    let mut again = Lab::new();
    again.options = lab.options.clone();
    let (plan, _) = again.plan(&Rotation::Authorities);
    assert_eq!(plan.title, "rotate CAs, the old root stays trusted");
    assert!(plan.steps.len() < whole.steps.len());
    let why = "because the cluster's API does not answer";
    assert!(
        plan.notes.iter().any(|it| it.contains(why)),
        "{:?}",
        plan.notes
    );
}

/// While pods that know only the old root are there, so is the root.
#[test]
fn pods_hold_the_second_phase_back() {
    let gates = |plan: &kubepki::plan::Plan| -> Vec<u32> {
        let gates = plan.steps.iter().filter(|step| plan.holds_back(step));
        gates.map(|step| step.number).collect()
    };
    let lab = Lab::new();
    let (plan, _) = lab.plan(&Rotation::Authorities);
    let pods = plan
        .steps
        .iter()
        .find(|step| matches!(step.action, Action::DeletePods { .. }))
        .unwrap();
    assert_eq!(gates(&plan), [pods.number]);
    // Nothing follows that needs them.
    for change in [
        (|lab| lab.options.keep_old = true) as fn(&mut Lab),
        |lab| lab.options.switch = Switch::Hard,
        |lab| lab.options.api_away = true,
    ] {
        let mut lab = Lab::new();
        change(&mut lab);
        let (plan, _) = lab.plan(&Rotation::Authorities);
        assert_eq!(gates(&plan), [0; 0], "{}", plan.title);
    }
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
