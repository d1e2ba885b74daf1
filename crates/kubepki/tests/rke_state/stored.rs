//! The configuration that a state file stores.

use kubepki::rke::config::{Difference, differences};
use kubepki::rke::{ClusterConfig, Half, Json, json};

use crate::Recording;
use crate::config::{FULL, ONE, parse};

#[test]
fn the_state_says_what_its_cluster_yml_says() {
    for recording in [Recording::state(), Recording::live()] {
        let yaml = parse(&recording.text("cluster.yml"));
        for half in [Half::Desired, Half::Current] {
            let state = recording.parsed("cluster.rkestate");
            let mut stored =
                ClusterConfig::from_rke_config(state.rke_config(half).unwrap()).unwrap();
            assert_eq!(differences(&stored, &yaml), []);
            // RKE knows more images than cluster.yml says.
            assert!(stored.images.cert_downloader.is_some());
            stored.images = yaml.images.clone();
            assert_eq!(stored, yaml);
        }
        let after = recording.parsed("after/service-kubelet.rkestate");
        let config = after.rke_config(Half::Desired).unwrap();
        let rotate = ClusterConfig::from_rke_config(config)
            .unwrap()
            .rotate
            .unwrap();
        assert_eq!(
            (rotate.authorities, rotate.services),
            (false, vec!["kubelet".to_owned()])
        );
    }
}

#[test]
fn a_stored_configuration_of_the_wrong_shape_is_told_by_place() {
    let of = |text: &str| {
        let value: Json = json::parse(text.as_bytes()).unwrap();
        ClusterConfig::from_rke_config(&value)
            .unwrap_err()
            .to_string()
    };
    assert_eq!(
        of(r#"{"nodes":[{"address":1}]}"#),
        "rkeConfig.nodes[0].address is a number, not text"
    );
    assert_eq!(
        of(r#"{"nodes":[{"address":"a","user":"u"}]}"#),
        "rkeConfig.nodes[0]: Role for host (1) is not provided"
    );
    assert_eq!(of("[]"), "rkeConfig is a list, not an object");
}

#[test]
fn writing_what_is_stored_changes_nothing() {
    for recording in [Recording::state(), Recording::live()] {
        for path in ["cluster.rkestate", "after/service-kubelet.rkestate"] {
            let state = recording.parsed(path);
            for half in [Half::Desired, Half::Current] {
                let stored = state.rke_config(half).unwrap();
                let mut written = stored.clone();
                ClusterConfig::from_rke_config(stored)
                    .unwrap()
                    .write_into(&mut written);
                assert!(written == *stored, "{path} {half:?}");
            }
        }
    }
}

#[test]
fn a_first_configuration_has_what_rke_stores_of_it_in_its_order() {
    for recording in [Recording::state(), Recording::live()] {
        let config = parse(&recording.text("cluster.yml"));
        let mut made = Json::Object(Vec::new());
        config.write_into(&mut made);
        assert_eq!(ClusterConfig::from_rke_config(&made).unwrap(), config);
        let state = recording.parsed("cluster.rkestate");
        assert_within("rkeConfig", &made, state.rke_config(Half::Desired).unwrap());
    }
}

/// Fails unless everything in `part` is in `whole`, keys in the same order.
fn assert_within(place: &str, part: &Json, whole: &Json) {
    match (part, whole) {
        (Json::Object(part), Json::Object(whole)) => {
            let mut rest = whole.iter();
            for (key, value) in part {
                let place = format!("{place}.{key}");
                match rest.find(|(other, _)| other == key) {
                    Some((_, other)) => assert_within(&place, value, other),
                    None => panic!("{place} is not there, or in another place"),
                }
            }
        }
        (Json::List(part), Json::List(whole)) => {
            assert_eq!(part.len(), whole.len(), "{place}");
            for (part, whole) in part.iter().zip(whole) {
                assert_within(place, part, whole);
            }
        }
        _ => assert!(part == whole, "{place}"),
    }
}

#[test]
fn a_changed_configuration_is_written_into_the_stored_one() {
    let recording = Recording::state();
    let state = recording.parsed("cluster.rkestate");
    let stored = state.rke_config(Half::Current).unwrap();
    let mut config = parse(FULL);
    config.extra_files.clear();
    let mut written = stored.clone();
    config.write_into(&mut written);
    let mut read = ClusterConfig::from_rke_config(&written).unwrap();
    // Images that cluster.yml does not name stay.
    assert!(read.images.nginx_proxy.take().is_some());
    assert!(read.images.sidecar.take().is_some());
    assert_eq!(read, config);
    // What is not known here is not touched.
    for key in ["dns", "ingress", "upgradeStrategy", "monitoring"] {
        assert!(
            written.get(key) == stored.get(key) && written.get(key).is_some(),
            "{key}"
        );
    }
    // And back again.
    ClusterConfig::from_rke_config(stored)
        .unwrap()
        .write_into(&mut written);
    let back = ClusterConfig::from_rke_config(&written).unwrap();
    let current = ClusterConfig::from_rke_config(stored).unwrap();
    assert_eq!(differences(&current, &back), []);
    assert_eq!(
        (back.bastion, back.rotate, back.etcd),
        (None, None, current.etcd)
    );
}

#[test]
fn differences_are_told() {
    let current = parse(ONE);
    let wanted = parse(
        "nodes:\n\
         - {address: 10.0.0.1, internal_address: 172.16.0.1, user: x, role: [etcd, controlplane]}\n\
         - {address: 10.0.0.2, user: x, role: [worker]}\n\
         authentication: {sans: [a]}\n\
         services: {kubelet: {generate_serving_certificate: true}, etcd: {key: k}}\n",
    );
    let found: Vec<String> = differences(&current, &wanted)
        .iter()
        .map(Difference::to_string)
        .collect();
    assert_eq!(
        found,
        [
            "node 10.0.0.1: role is [controlplane, etcd] in cluster.yml and [controlplane, etcd, worker] in the state",
            "node 10.0.0.1: internal_address is 172.16.0.1 in cluster.yml and 10.0.0.1 in the state",
            "node 10.0.0.2 is in cluster.yml and not in the state",
            "authentication.sans is [a] in cluster.yml and [] in the state",
            "services.kubelet.generate_serving_certificate is true in cluster.yml and false in the state",
            "services.etcd.key in cluster.yml is not that of the state",
        ]
    );
    let mut turned = wanted.clone();
    turned.nodes.reverse();
    assert_eq!(differences(&wanted, &turned), [Difference::NodeOrder]);
    assert_eq!(
        differences(&wanted, &current)[1..3],
        [
            Difference::Node {
                address: "10.0.0.1".to_owned(),
                key: "internal_address",
                current: "172.16.0.1".to_owned(),
                wanted: "10.0.0.1".to_owned(),
            },
            Difference::NodeRemoved {
                address: "10.0.0.2".to_owned()
            },
        ]
    );
}
