//! What each kind of rotation renews, held to what RKE wrote after it.

use std::collections::{BTreeMap, BTreeSet};

use kubepki::rke::generate::{LeafKey, LeafSpec};
use kubepki::rke::{Bundle, ClusterConfig, Entry, Half, Rotation, Service, Wanted, first, renewed};
use pki::{Certificate, CertificateRequest, DAY, San};

use crate::{Recording, files_in};

const CASES: [(&str, Rotation); 2] = [
    ("after/rotate.rkestate", Rotation::All),
    ("after/rotate-ca.rkestate", Rotation::Authorities),
];

fn cases() -> Vec<(&'static str, Rotation)> {
    let services = |service| Rotation::Services(vec![service]);
    let mut cases = CASES.to_vec();
    cases.push(("after/service-etcd.rkestate", services(Service::Etcd)));
    cases.push(("after/service-kubelet.rkestate", services(Service::Kubelet)));
    cases
}

fn names(wanted: &Wanted) -> BTreeSet<String> {
    let leaves = wanted.leaves.iter().map(|leaf| leaf.entry.clone());
    let authorities = wanted.authorities.iter().map(|spec| spec.entry.to_owned());
    leaves.chain(authorities).collect()
}

/// Names of entries whose certificate or key differs.
fn changed(before: &Bundle, after: &Bundle) -> BTreeSet<String> {
    assert!(before.keys().eq(after.keys()));
    let differ = |name: &&String| {
        let (old, new) = (&before[*name], &after[*name]);
        // RKE makes new keys: neither changes alone.
        assert_eq!(
            old.certificate_pem == new.certificate_pem,
            old.key_pem == new.key_pem
        );
        old.certificate_pem != new.certificate_pem
    };
    before.keys().filter(differ).cloned().collect()
}

/// Fails unless `certificate` says what `spec` asks for.
fn assert_says(spec: &LeafSpec, certificate: &Certificate, issuer: &Certificate) {
    let subject = certificate.subject();
    assert_eq!(subject.common_name(), Some(spec.common_name.as_str()));
    assert_eq!(
        subject.organizations(),
        spec.organizations,
        "{}",
        spec.entry
    );
    assert_eq!(certificate.sans(), spec.sans, "{}", spec.entry);
    assert_eq!(certificate.purposes(), spec.purposes, "{}", spec.entry);
    assert!(certificate.verify_signature(issuer.spki_der()).is_ok());
    let algorithm = pki::public_key_algorithm(certificate.spki_der()).unwrap();
    assert_eq!(algorithm, spec.algorithm());
}

#[test]
fn each_rotation_renews_exactly_what_rke_renews() {
    for recording in [Recording::state(), Recording::live()] {
        let (config, before) = recording.current();
        for (path, rotation) in cases() {
            let wanted = renewed(&rotation, &config, &before).unwrap();
            let after = recording.parsed(path).bundle(Half::Desired);
            assert_eq!(names(&wanted), changed(&before, &after), "{path}");
            assert_eq!(wanted.removed, [""; 0]);
            assert!(wanted.given.is_empty());
            for leaf in &wanted.leaves {
                let certificate = after[&leaf.entry].certificate().unwrap().unwrap();
                let issuer = after[leaf.issuer].certificate().unwrap().unwrap();
                assert_says(leaf, &certificate, &issuer);
                assert_eq!(leaf.key, LeafKey::New);
            }
            for authority in &wanted.authorities {
                let certificate = after[authority.entry].certificate().unwrap().unwrap();
                assert_eq!(certificate.subject().common_name(), Some(authority.entry));
                assert!(certificate.is_self_signed());
                let validity = certificate.validity();
                let ours = authority.validity(validity.not_before);
                assert_eq!(ours, validity);
            }
        }
    }
}

#[test]
fn all_is_twelve_entries_and_with_the_authorities_fourteen() {
    let (config, bundle) = Recording::state().current();
    let count = |rotation| names(&renewed(&rotation, &config, &bundle).unwrap()).len();
    assert_eq!(bundle.len(), 15);
    assert_eq!(count(Rotation::All), 12);
    assert_eq!(count(Rotation::Authorities), 14);
    assert_eq!(count(Rotation::Services(Service::ALL.to_vec())), 10);
}

#[test]
fn each_service_renews_its_own() {
    let (mut config, bundle) = Recording::state().current();
    let of = |config: &ClusterConfig, services: &[Service]| -> Vec<String> {
        let rotation = Rotation::Services(services.to_vec());
        let wanted = renewed(&rotation, config, &bundle).unwrap();
        assert!(wanted.removed.is_empty());
        wanted.leaves.into_iter().map(|leaf| leaf.entry).collect()
    };
    for (service, expected) in [
        (Service::KubeApiserver, vec!["kube-apiserver"]),
        (
            Service::KubeControllerManager,
            vec!["kube-controller-manager"],
        ),
        (Service::KubeScheduler, vec!["kube-scheduler"]),
        (Service::KubeProxy, vec!["kube-proxy"]),
        (
            Service::Etcd,
            vec!["kube-etcd-10-99-0-11", "kube-etcd-10-99-0-12"],
        ),
        (
            Service::Kubelet,
            vec![
                "kube-node",
                "kube-kubelet-10-99-0-11",
                "kube-kubelet-10-99-0-12",
                "kube-kubelet-10-99-0-13",
            ],
        ),
    ] {
        assert_eq!(of(&config, &[service]), expected, "{service}");
        assert_eq!(of(&config, &[service, service]), expected, "{service}");
        assert_eq!(service.name().parse(), Ok(service));
    }
    let two = [Service::KubeScheduler, Service::KubeApiserver];
    assert_eq!(of(&config, &two), ["kube-scheduler", "kube-apiserver"]);
    config.serving_certificates = false;
    assert_eq!(of(&config, &[Service::Kubelet]), ["kube-node"]);
    let error = "kubelet,etcd".parse::<Service>().unwrap_err();
    assert_eq!(
        error.to_string(),
        "unknown service \"kubelet,etcd\"; allowed values: kube-apiserver, \
         kube-controller-manager, kube-scheduler, kubelet, kube-proxy, etcd; give each with a \
         --service of its own"
    );
}

#[test]
fn what_no_node_needs_is_removed() {
    let (mut config, bundle) = Recording::state().current();
    config.nodes.remove(1);
    let removed =
        |config: &ClusterConfig, rotation| renewed(&rotation, config, &bundle).unwrap().removed;
    let both = ["kube-etcd-10-99-0-12", "kube-kubelet-10-99-0-12"];
    assert_eq!(removed(&config, Rotation::All), both);
    assert_eq!(removed(&config, Rotation::Authorities), both);
    let etcd = Rotation::Services(vec![Service::Etcd]);
    assert_eq!(removed(&config, etcd), ["kube-etcd-10-99-0-12"]);
    let proxy = Rotation::Services(vec![Service::KubeProxy]);
    assert!(removed(&config, proxy).is_empty());
    // The switch turned off: RKE looks for them in a rotation of everything only.
    config.serving_certificates = false;
    assert_eq!(removed(&config, Rotation::All).len(), 4);
    let kubelet = Rotation::Services(vec![Service::Kubelet]);
    assert!(removed(&config, kubelet).is_empty());
}

#[test]
fn a_missing_requestheader_ca_is_made_and_a_missing_token_key_taken_over() {
    let (config, mut bundle) = Recording::state().current();
    bundle.remove("kube-apiserver-requestheader-ca");
    bundle.remove("kube-service-account-token");
    let wanted = renewed(&Rotation::All, &config, &bundle).unwrap();
    assert_eq!(wanted.authorities.len(), 1);
    assert_eq!(
        wanted.authorities[0].entry,
        "kube-apiserver-requestheader-ca"
    );
    let token = |wanted: &Wanted| {
        let mut leaves = wanted.leaves.iter();
        leaves
            .find(|leaf| leaf.entry == "kube-service-account-token")
            .cloned()
    };
    assert_eq!(token(&wanted).unwrap().key, LeafKey::Of("kube-apiserver"));
    let rotation = Rotation::Services(vec![Service::KubeApiserver]);
    let wanted = renewed(&rotation, &config, &bundle).unwrap();
    assert_eq!(token(&wanted).unwrap().key, LeafKey::Of("kube-apiserver"));
    bundle.remove("kube-apiserver");
    let wanted = renewed(&rotation, &config, &bundle).unwrap();
    assert_eq!(token(&wanted).unwrap().key, LeafKey::New);
    let rotation = Rotation::Services(vec![Service::Etcd]);
    assert_eq!(token(&renewed(&rotation, &config, &bundle).unwrap()), None);
}

#[test]
fn a_first_state_has_every_entry_that_rke_makes() {
    for recording in [Recording::state(), Recording::live()] {
        let config = ClusterConfig::parse(&recording.text("cluster.yml")).unwrap();
        let wanted = first(&config).unwrap();
        let recorded = recording.parsed("cluster.rkestate").bundle(Half::Desired);
        let all: BTreeSet<String> = recorded.keys().cloned().collect();
        assert_eq!(names(&wanted), all);
        for leaf in &wanted.leaves {
            assert_eq!(leaf.key, LeafKey::New, "{}", leaf.entry);
            if leaf.entry == "kube-service-account-token" {
                // RKE copies kube-apiserver's; ours has the profile of its other branch.
                assert_eq!(leaf.common_name, leaf.entry);
                assert!(leaf.sans.is_empty());
                continue;
            }
            let certificate = recorded[&leaf.entry].certificate().unwrap().unwrap();
            let issuer = recorded[leaf.issuer].certificate().unwrap().unwrap();
            assert_says(leaf, &certificate, &issuer);
        }
    }
}

#[test]
fn requests_of_rke_say_what_the_specifications_say() {
    let recording = Recording::state();
    let config = ClusterConfig::parse(&recording.text("cluster.yml")).unwrap();
    let mut specs: BTreeMap<String, LeafSpec> = first(&config)
        .unwrap()
        .leaves
        .into_iter()
        .map(|leaf| (leaf.entry.clone(), leaf))
        .collect();
    // RKE asks for no certificate for it.
    specs.remove("kube-service-account-token").unwrap();
    let requests: Vec<String> = files_in(&recording.path("csr"))
        .iter()
        .filter_map(|name| name.strip_suffix("-csr.pem").map(str::to_owned))
        .collect();
    assert!(requests.iter().eq(specs.keys()), "{requests:?}");
    for (name, spec) in specs {
        let pem = recording.bytes(&format!("csr/{name}-csr.pem"));
        let request = CertificateRequest::from_pem(&pem).unwrap();
        let subject = request.subject();
        assert_eq!(subject.common_name(), Some(spec.common_name.as_str()));
        assert_eq!(subject.organizations(), spec.organizations);
        assert_eq!(request.sans(), spec.sans, "{name}");
        assert_eq!(request.purposes(), spec.purposes, "{name}");
    }
}

#[test]
fn a_leaf_stays_within_its_issuer() {
    use kubepki::rke::generate::leaf_validity;
    use pki::{UnixTime, Validity};

    let now = UnixTime::from_secs(1_800_000_000);
    let issuer = |from: i64, to: i64| Validity {
        not_before: now.plus(from),
        not_after: now.plus(to),
    };
    let long = leaf_validity(now, issuer(-100 * DAY, 4000 * DAY));
    assert_eq!(
        (long.not_before, long.not_after),
        (now.plus(-3600), now.plus(3650 * DAY))
    );
    let short = leaf_validity(now, issuer(-60, 10 * DAY));
    assert_eq!(
        (short.not_before, short.not_after),
        (now.plus(-60), now.plus(10 * DAY))
    );
}

#[test]
fn an_external_etcd_brings_its_own() {
    let (mut config, mut bundle) = Recording::state().current();
    let ca = bundle["kube-ca"].clone();
    let client = bundle["kube-node"].clone();
    for node in &mut config.nodes {
        node.roles.retain(|role| *role != kubepki::rke::Role::Etcd);
    }
    config.etcd.external_urls = vec!["https://etcd.example:2379".to_owned()];
    config.etcd.ca_cert.clone_from(&ca.certificate_pem);
    config.etcd.cert = format!("a comment\n{}", client.certificate_pem);
    config.etcd.key = client.key_pem.clone();
    let wanted = renewed(&Rotation::All, &config, &bundle).unwrap();
    let given: Vec<&Entry> = wanted.given.iter().collect();
    assert_eq!(given[0].name, "kube-etcd-client");
    assert_eq!(given[0].common_name, "system:kube-etcd-client");
    assert_eq!(given[0].certificate_pem, client.certificate_pem);
    assert!(given[0].key_pem == client.key_pem);
    assert!(given[0].config.is_empty());
    assert_eq!(given[1].name, "kube-etcd-client-ca");
    assert!(given[1].key_pem.is_empty());
    assert_eq!(
        wanted.removed,
        ["kube-etcd-10-99-0-11", "kube-etcd-10-99-0-12"]
    );

    // RKE's `--service etcd` would lose them.
    bundle.extend(
        wanted
            .given
            .into_iter()
            .map(|entry| (entry.name.clone(), entry)),
    );
    let etcd = Rotation::Services(vec![Service::Etcd]);
    let wanted = renewed(&etcd, &config, &bundle).unwrap();
    assert!(wanted.leaves.is_empty());
    assert_eq!(
        wanted.removed,
        ["kube-etcd-10-99-0-11", "kube-etcd-10-99-0-12"]
    );

    config.etcd.key = "nonsense".into();
    let error = renewed(&Rotation::All, &config, &bundle).unwrap_err();
    assert_eq!(
        kubepki::error_chain(&error),
        "services.etcd.key cannot be read; give it as PEM: no PRIVATE KEY PEM block found"
    );
}

#[test]
fn names_follow_rke_for_addresses_of_every_kind() {
    let config = ClusterConfig::parse(
        "nodes:\n\
         - {address: 1.2.3.4, internal_address: 10.0.0.4, hostname_override: Node4, user: u, role: [controlplane, etcd]}\n\
         - {address: Host.Example, user: u, role: [etcd, worker]}\n\
         - {address: \"fd00::1\", hostname_override: six, user: u, role: [controlplane]}\n\
         services:\n  kube-api: {service_cluster_ip_range: \"10.0.0.1/24,fd01::ff/112\"}\n\
         \x20 kubelet: {cluster_domain: my.domain}\n\
         authentication: {sans: [10.0.0.4, api.example, \"::ffff:1.1.1.1\"]}\n",
    )
    .unwrap();
    let text = |sans: Vec<San>| -> Vec<String> { sans.iter().map(San::to_string).collect() };
    let api = text(kubepki::rke::kube_apiserver_sans(&config).unwrap());
    let common = [
        "localhost",
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.my.domain",
    ];
    let expected = ["node4", "six", "api.example"]
        .into_iter()
        .chain(common)
        .chain(["1.2.3.4", "10.0.0.4", "fd00::1", "10.0.0.4", "1.1.1.1"])
        .chain(["127.0.0.1", "10.0.0.1", "fd01::1"]);
    assert_eq!(api, expected.collect::<Vec<_>>());
    let etcd = text(kubepki::rke::etcd_sans(&config).unwrap());
    let expected = ["node4", "Host.Example", "host.example"]
        .into_iter()
        .chain(common)
        .chain(["1.2.3.4", "10.0.0.4", "127.0.0.1", "10.0.0.1", "fd01::1"]);
    assert_eq!(etcd, expected.collect::<Vec<_>>());
    let ids: Vec<String> = config
        .nodes
        .iter()
        .map(kubepki::rke::names::host_id)
        .collect();
    assert_eq!(ids, ["10-0-0-4", "host-example", "fd00::1"]);
    let kubelet = text(kubepki::rke::kubelet_sans(&config.nodes[1]));
    assert_eq!(kubelet, ["Host.Example", "host.example"]);
}

#[test]
fn service_addresses_carry_and_bad_ranges_are_refused() {
    let of = |ranges: &str| {
        let found = kubepki::rke::service_addresses(ranges);
        found.map(|found| found.iter().map(ToString::to_string).collect::<Vec<_>>())
    };
    assert_eq!(of("10.43.0.0/16").unwrap(), ["10.43.0.1"]);
    assert_eq!(of("10.43.0.255/32").unwrap(), ["10.43.1.0"]);
    assert_eq!(of("255.255.255.255/32").unwrap(), ["0.0.0.0"]);
    assert_eq!(of("10.0.0.0/8,fd00::/64").unwrap(), ["10.0.0.1", "fd00::1"]);
    assert_eq!(of("1.2.3.4/0").unwrap(), ["0.0.0.1"]);
    for bad in [
        "",
        "10.43.0.0",
        "10.43.0.0/33",
        "10.43.0.0/+8",
        "10.0.0.0/8, fd00::/64",
        "x/8",
    ] {
        let error = of(bad).unwrap_err();
        assert!(
            error.to_string().starts_with(
                "Failed to get Kubernetes Service IP: Failed to get kubernetes service IP from \
                 Kube API option [service_cluster_ip_range]: invalid CIDR address: "
            ),
            "{error}"
        );
    }
}

#[test]
fn nodes_that_would_share_a_key_are_refused() {
    let (mut config, bundle) = Recording::state().current();
    config.nodes[1].internal_address = "10-99.0.11".to_owned();
    let error = renewed(&Rotation::All, &config, &bundle).unwrap_err();
    assert_eq!(
        error.to_string(),
        "two nodes share the certificate name kube-etcd-10-99-0-11; give them internal addresses \
         that differ"
    );
    let proxy = Rotation::Services(vec![Service::KubeProxy]);
    assert!(renewed(&proxy, &config, &bundle).is_ok());
}

#[test]
fn every_row_fits_the_others_and_every_recorded_entry_has_one() {
    use kubepki::rke::catalogue::{Kind, RKE, row_of};

    for row in RKE {
        assert_eq!(RKE.iter().filter(|other| other.id == row.id).count(), 1);
        assert!(!row.summary.is_empty());
        if let Some(profile) = row.profile() {
            let issuer = row_of(profile.issuer).unwrap();
            assert!(matches!(issuer.kind, Kind::Authority), "{}", row.id);
            assert!(!profile.purposes.is_empty());
        }
        let key_only = row
            .key_on
            .iter()
            .find(|role| !row.certificate_on.contains(role));
        assert_eq!(key_only, None, "{}", row.id);
    }
    let (config, bundle) = Recording::state().current();
    let expected: BTreeSet<String> = RKE
        .iter()
        .filter(|row| row.exists_in(&config))
        .flat_map(|row| row.entries(&config))
        .map(|(entry, _)| entry)
        .collect();
    assert!(bundle.keys().eq(expected.iter()));
    for entry in bundle.keys() {
        assert!(entry.starts_with(row_of(entry).unwrap().id));
    }
    assert!(row_of("kube-kubelet").is_none() && row_of("kube-ca-2").is_none());
    assert_eq!(
        row_of("kube-etcd-client-ca").unwrap().id,
        "kube-etcd-client-ca"
    );
}
