//! First states, and states that come back from hosts.

use std::collections::{BTreeMap, BTreeSet};

use kubepki::edge::{FreshKeys, SystemEntropy};
use kubepki::host::Entry;
use kubepki::plan::{Before, PlanId};
use kubepki::rke::init::{InitError, InitRequest, first_state, plan_init};
use kubepki::rke::placement::files_of;
use kubepki::rke::rebuild::{RebuildError, RebuildRequest, rebuild};
use kubepki::rke::rotate::Site;
use kubepki::rke::{ClusterConfig, Half, State, names};
use pki::verify::{Options, verify};
use pki::{Purpose, UnixTime};

use crate::lab::{Lab, NOW, host_entry};

fn site() -> Site {
    Site {
        root: "/clusters".into(),
        state: "/clusters/cluster.rkestate".into(),
        state_before: Before::Absent,
        kubeconfig: "/clusters/kube_config_cluster.yml".into(),
        kubeconfig_before: Before::Absent,
        kubeconfig_server: None,
        kubeconfig_spelled: "./kube_config_cluster.yml".to_owned(),
    }
}

/// Every leaf verifies under its CA and says what the recorded one says.
fn compare(ours: &State, half: Half, theirs: &State, now: UnixTime) {
    let (ours, theirs) = (ours.bundle(half), theirs.bundle(Half::Current));
    let keys = |bundle: &kubepki::rke::Bundle| bundle.keys().cloned().collect::<BTreeSet<_>>();
    assert_eq!(keys(&ours), keys(&theirs));
    for (name, entry) in &ours {
        let recorded = &theirs[name];
        for (one, other) in [
            (&entry.common_name, &recorded.common_name),
            (&entry.ou_name, &recorded.ou_name),
            (&entry.env_name, &recorded.env_name),
            (&entry.path, &recorded.path),
            (&entry.key_path, &recorded.key_path),
            (&entry.config_env_name, &recorded.config_env_name),
            (&entry.config_path, &recorded.config_path),
        ] {
            assert_eq!(one, other, "{name}");
        }
        let certificate = entry.certificate().unwrap().unwrap();
        let key = entry.key().unwrap().unwrap();
        let tokens = name == names::SERVICE_ACCOUNT_TOKEN;
        assert!(tokens || certificate.spki_der() == key.spki_der(), "{name}");
        let like = recorded.certificate().unwrap().unwrap();
        // RKE copies kube-apiserver there.
        if !tokens {
            assert_eq!(certificate.subject().der(), like.subject().der(), "{name}");
            assert_eq!(certificate.sans(), like.sans(), "{name}");
            assert_eq!(certificate.purposes(), like.purposes(), "{name}");
        }
        let issuer = match name.as_str() {
            names::PROXY_CLIENT | names::REQUEST_HEADER_CA => names::REQUEST_HEADER_CA,
            _ => names::KUBE_CA,
        };
        let root = [ours[issuer].certificate().unwrap().unwrap()];
        let options = Options::at(now).purposes(&[Purpose::ClientAuth]);
        verify(&certificate, &[], &root, &options).unwrap();
    }
}

#[test]
fn a_first_state_is_what_rke_makes_in_kind() {
    let lab = Lab::new();
    let id = PlanId("first".to_owned());
    let site = site();
    let request = InitRequest {
        id: &id,
        config: &lab.config,
        site: &site,
        now: lab.now,
        entropy: &SystemEntropy,
        keys: &FreshKeys,
    };
    let first = first_state(&request).unwrap();
    compare(&first.state, Half::Desired, &lab.state, lab.now);
    assert!(first.state.bundle(Half::Current).is_empty());
    assert!(
        first
            .kubeconfig
            .contains("server: \"https://127.0.0.11:6443\"")
    );
    // What is stored is read back as it was meant.
    let stored = first.state.rke_config(Half::Desired).unwrap();
    let stored = ClusterConfig::from_rke_config(stored).unwrap();
    assert_eq!(kubepki::rke::config::differences(&stored, &lab.config), []);
    assert_eq!(stored.kubernetes_version, lab.config.kubernetes_version);
    let again = State::parse(&first.state.render()).unwrap();
    assert!(again == first.state);
}

#[test]
fn a_state_that_is_there_is_not_made_again() {
    let lab = Lab::new();
    let id = PlanId("first".to_owned());
    let mut site = site();
    site.state_before = Before::Any;
    let request = InitRequest {
        id: &id,
        config: &lab.config,
        site: &site,
        now: lab.now,
        entropy: &SystemEntropy,
        keys: &FreshKeys,
    };
    let error = plan_init(&request).unwrap_err();
    assert!(matches!(error, InitError::Exists { .. }), "{error}");
}

type Directory = BTreeMap<String, Entry>;

/// What RKE gives to the first host.
fn directory(lab: &Lab, host: usize) -> (String, Directory) {
    let node = &lab.config.nodes[host];
    let bundle = lab.state.bundle(Half::Current);
    let own = files_of(node, &bundle, &lab.config);
    let others = kubepki::rke::placement::surplus_of(node, &bundle, &lab.config);
    let files = own.iter().chain(&others);
    let files = files.map(|file| {
        (
            file.name.clone(),
            host_entry(&file.content(&bundle).unwrap()),
        )
    });
    (node.address.clone(), files.collect())
}

fn rebuilt(
    lab: &Lab,
    hosts: &[(String, Directory)],
) -> Result<kubepki::rke::rebuild::Rebuilt, RebuildError> {
    rebuild(&RebuildRequest {
        config: &lab.config,
        hosts,
        site: &site(),
        now: UnixTime::from_secs(NOW),
        entropy: &SystemEntropy,
        keys: &FreshKeys,
    })
}

#[test]
fn a_lost_state_comes_back_from_one_control_plane_host() {
    let lab = Lab::new();
    let back = rebuilt(&lab, &[directory(&lab, 0)]).unwrap();
    for half in [Half::Desired, Half::Current] {
        compare(&back.state, half, &lab.state, lab.now);
        let before = lab.state.bundle(Half::Current);
        for (name, entry) in back.state.bundle(half) {
            if name != names::KUBE_ADMIN {
                assert_eq!(
                    entry.certificate_pem, before[&name].certificate_pem,
                    "{name}"
                );
                assert_eq!(
                    entry.key_pem.expose(),
                    before[&name].key_pem.expose(),
                    "{name}"
                );
            }
        }
    }
    // It can be rotated with.
    let mut lab = Lab::new();
    lab.state = back.state;
    assert!(lab.try_plan(&kubepki::rke::Rotation::All).is_ok());
}

#[test]
fn what_is_missing_is_said_and_without_the_ca_nothing_goes() {
    let lab = Lab::new();
    let (host, mut files) = directory(&lab, 0);
    files.remove("kube-etcd-10-99-0-12.pem");
    files.insert(
        "encryption.yaml".to_owned(),
        host_entry(b"kind: EncryptionConfiguration\n"),
    );
    let back = rebuilt(&lab, &[(host.clone(), files.clone())]).unwrap();
    let gone = "kube-etcd-10-99-0-12.pem is on none of the hosts";
    assert!(
        back.notes.iter().any(|note| note.contains(gone)),
        "{:?}",
        back.notes
    );
    let stored = back.state.encryption_config(Half::Current);
    assert_eq!(stored, Some("kind: EncryptionConfiguration\n"));
    // The other host has it.
    let both = [(host.clone(), files.clone()), directory(&lab, 1)];
    let back = rebuilt(&lab, &both).unwrap();
    assert!(
        !back.notes.iter().any(|note| note.contains("is on none")),
        "{:?}",
        back.notes
    );

    files.remove("kube-ca-key.pem");
    let error = rebuilt(&lab, &[(host, files)]).err().unwrap();
    assert!(error.to_string().contains("has kube-ca-key.pem"), "{error}");
    let worker = rebuilt(&lab, &[directory(&lab, 2)]).err().unwrap();
    assert!(matches!(worker, RebuildError::Missing { .. }));
}
