//! States that RKE cannot have made, or not with this `cluster.yml`.

use std::path::PathBuf;

use kubepki::check::{AUTHORITY_WINDOW, Severity};
use kubepki::plan::{KeyOrigin, LeafId};
use kubepki::rke::check::{Question, check};
use kubepki::rke::rotate::Switch;
use kubepki::rke::{Half, Rotation, State};
use pki::{
    Authority, Certificate, DAY, KeyAlgorithm, LeafRequest, Name, PrivateKey, Purpose, Serial,
    Validity,
};

use crate::lab::{Lab, services};
use crate::refuse::{edit, refusal};

/// What a check finds beyond notes: severity, rule, place.
fn wrong(lab: &Lab) -> Vec<(Severity, &'static str, String)> {
    let question = Question {
        name: "cluster.rkestate",
        root: &PathBuf::from("/clusters"),
        state: &lab.state,
        config: &lab.config,
        survey: None,
        now: lab.now,
        window: 90 * DAY,
        authority_window: AUTHORITY_WINDOW,
    };
    let found = check(&question).into_iter();
    let found = found.filter(|it| it.severity > Severity::Note);
    found.map(|it| (it.severity, it.rule, it.path)).collect()
}

fn at(entry: &str) -> String {
    format!("cluster.rkestate:{entry}")
}

fn validity(lab: &Lab) -> Validity {
    Validity {
        not_before: lab.now.plus(-DAY),
        not_after: lab.now.plus(1000 * DAY),
    }
}

fn put(lab: &mut Lab, name: &str, certificate: &Certificate, key: &PrivateKey) {
    let (certificate, key) = (certificate.to_pem(), key.to_pem().unwrap());
    edit(lab, name, |entry| {
        entry.certificate_pem = certificate.clone();
        entry.key_pem = key.as_str().into();
    });
}

#[test]
fn an_elliptic_leaf_is_a_finding_and_is_replaced() {
    let mut lab = Lab::new();
    let name = "kube-scheduler";
    let ca = lab.state.entry(Half::Current, "kube-ca").unwrap();
    let certificate = ca.certificate().unwrap().unwrap();
    let since = certificate.validity().not_before;
    let ca = Authority::new(certificate, ca.key().unwrap().unwrap()).unwrap();
    let key = PrivateKey::generate(KeyAlgorithm::P256).unwrap();
    let leaf = ca.issue(&LeafRequest {
        organizations: &[],
        common_name: "system:kube-scheduler",
        sans: &[],
        purposes: &[Purpose::ClientAuth, Purpose::ServerAuth],
        spki_der: key.spki_der(),
        serial: Serial::from_hex("07").unwrap(),
        validity: Validity {
            not_before: since,
            ..validity(&lab)
        },
    });
    put(&mut lab, name, &leaf.unwrap(), &key);
    assert_eq!(wrong(&lab), [(Severity::Warning, "not-rsa", at(name))]);
    let (plan, _) = lab.plan(&Rotation::All);
    let told = plan.notes.iter().find(|it| it.contains("panics")).unwrap();
    assert!(told.contains("kube-scheduler: p256"), "{told}");
    let leaf = &plan.leaves[&LeafId(name.to_owned())];
    let rsa = KeyOrigin::New {
        algorithm: "rsa2048".to_owned(),
    };
    assert_eq!(leaf.key, rsa);
    // The key alone is of no certificate.
    let mut lab = Lab::new();
    let pem = key.to_pem().unwrap();
    edit(&mut lab, name, |entry| entry.key_pem = pem.as_str().into());
    assert_eq!(wrong(&lab), [(Severity::Broken, "key-mismatch", at(name))]);
    assert!(lab.try_plan(&services(&[name])).is_ok());
}

#[test]
fn an_elliptic_ca_signs_for_us_and_is_told_of() {
    let mut lab = Lab::new();
    let key = PrivateKey::generate(KeyAlgorithm::P256).unwrap();
    let own = Name::new(&[], "kube-ca").unwrap();
    let serial = Serial::from_hex("07").unwrap();
    let ca = Authority::self_signed(&own, key, serial, validity(&lab)).unwrap();
    put(&mut lab, "kube-ca", ca.certificate(), ca.key());
    let found = wrong(&lab);
    let expected = (Severity::Warning, "not-rsa", at("kube-ca"));
    assert!(found.contains(&expected), "{found:?}");
    for rotation in [Rotation::All, Rotation::Authorities] {
        let (plan, _) = lab.plan(&rotation);
        let told = plan.notes.iter().find(|it| it.contains("panics")).unwrap();
        assert!(told.contains("kube-ca: p256"), "{told}");
    }
}

#[test]
fn a_ca_that_is_not_its_keys_is_refused_before_hosts_are_asked() {
    let mut lab = Lab::new();
    let other = lab.state.entry(Half::Current, "kube-node").unwrap().key_pem;
    edit(&mut lab, "kube-ca", |entry| entry.key_pem = other.clone());
    let expected = (Severity::Broken, "key-mismatch", at("kube-ca"));
    assert!(wrong(&lab).contains(&expected));
    lab.survey.hosts.clear();
    for rotation in [Rotation::All, services(&["etcd"])] {
        let text = refusal(&lab, &rotation);
        let begins = "kube-ca in the state file cannot sign: ";
        assert!(text.starts_with(begins), "{text}");
    }
    let text = refusal(&lab, &Rotation::Authorities);
    let begins = "kube-ca cannot vouch for a new root: ";
    assert!(text.starts_with(begins), "{text}");
    // The way out of it.
    lab.survey.hosts = lab.hosts();
    lab.options.switch = Switch::Hard;
    assert!(lab.try_plan(&Rotation::Authorities).is_ok());
}

/// A state of a later day than `cluster.yml`: with nodes that it does not know, and keys that a
/// later RKE has written.
#[test]
fn a_state_that_is_newer_than_cluster_yml() {
    let mut lab = Lab::new();
    let text = String::from_utf8(lab.state.render().to_vec()).unwrap();
    let newer = text.replacen('{', "{\n  \"later\": {\"than\": [1.50, null]},", 1);
    lab.state = State::parse(newer.as_bytes()).unwrap();
    let kept = String::from_utf8(lab.state.render().to_vec()).unwrap();
    assert!(kept.contains("1.50"), "{kept}");
    lab.config.nodes.pop();
    lab.config.sans.clear();
    let found = wrong(&lab);
    let drift = (
        Severity::Warning,
        "config-differs",
        "cluster.yml".to_owned(),
    );
    assert!(found.contains(&drift), "{found:?}");
    let (plan, _) = lab.plan(&Rotation::All);
    let told = |words: &str| plan.notes.iter().any(|it| it.contains(words));
    assert!(told("differs from what the cluster was made with"));
    assert!(told(
        "Host 127.0.0.13 is in the state and not in cluster.yml"
    ));
    // What the state knows stays in certificates.
    let leaf = &plan.leaves[&LeafId("kube-apiserver".to_owned())];
    let recorded = lab.after["rotate"].entry(Half::Desired, "kube-apiserver");
    let recorded = recorded.unwrap().certificate().unwrap().unwrap();
    let sans: Vec<String> = recorded.sans().iter().map(ToString::to_string).collect();
    assert_eq!(leaf.certificate.as_ref().unwrap().sans, sans);
}
