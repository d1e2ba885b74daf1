//! A good directory is clean; what a set names; the cluster's own state beside it.

use std::fs;

use kubepki::rke::cert_dir::CertDir;
use kubepki::rke::config::ClusterConfig;
use kubepki::rke::custom::{Against, Rule, Severity, verify};
use kubepki::rke::entry::{Entry, Origin};
use kubepki::rke::{Bundle, Secret};
use pki::{Certificate, DAY, PrivateKey};

use crate::lab::{Lab, read, today};

#[test]
fn the_good_one_is_clean() {
    let lab = Lab::new();
    let verdict = lab.verdict();
    assert!(verdict.findings.is_empty(), "{:#?}", verdict.findings);
    assert_eq!(verdict.rke_text(), None);
    let set = verdict.set.unwrap();
    assert!(set.can_issue());
    assert!(!set.request_header_defaulted);
    let mut expected = lab.entries();
    expected.extend(
        [
            "kube-ca",
            "kube-apiserver-requestheader-ca",
            "kube-service-account-token",
        ]
        .map(str::to_owned),
    );
    expected.sort();
    assert_eq!(set.entries.keys().cloned().collect::<Vec<_>>(), expected);
    for (name, entry) in &set.entries {
        let key = entry.key.as_ref().unwrap();
        let bytes = fs::read(&key.path).unwrap();
        assert_eq!(key.sha256, testkit::sha256(&bytes), "{name}");
        let spki = PrivateKey::from_pem(&bytes).unwrap().spki_sha256();
        assert_eq!(entry.spki, spki.to_string());
        let certificate = entry.certificate.as_ref().unwrap();
        let bytes = fs::read(&certificate.path).unwrap();
        assert_eq!(certificate.sha256, testkit::sha256(&bytes));
        let own = Certificate::all_from_pem(&bytes).unwrap();
        let listed = Certificate::all_from_pem(entry.certificate_pem.as_bytes()).unwrap();
        assert_eq!(own, listed);
    }
    // It says where keys are, and none of them.
    let secrets = testkit::Secrets::below(lab.certs());
    secrets.assert_absent("the set", format!("{set:?}"));
    secrets.assert_absent("the directory", format!("{:?}", read(&lab.certs())));
}

#[test]
fn one_ca_for_all_may_stand_in() {
    let lab = Lab::new();
    fs::remove_file(lab.file("kube-apiserver-requestheader-ca.pem")).unwrap();
    fs::remove_file(lab.file("kube-apiserver-requestheader-ca-key.pem")).unwrap();
    fs::remove_file(lab.file("kube-ca-key.pem")).unwrap();
    let verdict = lab.verdict();
    assert_eq!(verdict.worst(), Some(Severity::Refused));
    // What RKE's documentation says to do.
    let lab = Lab::new();
    lab.sign_with(
        "kube-apiserver-proxy-client",
        "kube-ca",
        "basicConstraints=CA:FALSE",
        true,
        &[],
    );
    fs::remove_file(lab.file("kube-apiserver-requestheader-ca.pem")).unwrap();
    fs::remove_file(lab.file("kube-apiserver-requestheader-ca-key.pem")).unwrap();
    let verdict = lab.verdict();
    let rules: Vec<_> = verdict.findings.iter().map(|it| it.rule).collect();
    assert_eq!(
        rules,
        [
            Rule::NoRequestHeaderAuthority,
            Rule::KeylessRequestHeaderAuthority
        ]
    );
    let set = verdict.set.unwrap();
    assert!(set.request_header_defaulted);
    assert!(!set.can_issue());
    let (own, ca) = (
        &set.entries["kube-apiserver-requestheader-ca"],
        &set.entries["kube-ca"],
    );
    assert_eq!(own.certificate_pem, ca.certificate_pem);
    assert!(own.key.is_none() && ca.key.is_some());
}

#[test]
fn a_ca_below_another_is_trusted_as_it_is() {
    let lab = Lab::new();
    lab.root("top", "/O=Example/CN=Example Root");
    let key = lab.file("kube-ca-key.pem");
    let request = testkit::openssl_ok(
        &[
            "req",
            "-new",
            "-key",
            key.to_str().unwrap(),
            "-subj",
            "/O=Example/CN=Example Cluster CA",
        ],
        b"",
    );
    fs::write(lab.file("kube-ca-csr.pem"), request.stdout).unwrap();
    let extensions = "basicConstraints=critical,CA:TRUE,pathlen:0\nkeyUsage=keyCertSign";
    lab.sign_with("kube-ca", "top", extensions, false, &["-days", "5000"]);
    let top = fs::read(lab.file("top.pem")).unwrap();
    fs::remove_file(lab.file("top.pem")).unwrap();
    fs::remove_file(lab.file("top-key.pem")).unwrap();
    let verdict = lab.verdict();
    let rules: Vec<_> = verdict.findings.iter().map(|it| it.rule).collect();
    assert_eq!(rules, [Rule::Intermediate]);
    assert!(verdict.set.is_some());
    // With the root behind it OpenSSL is content, too, and RKE keeps only the first.
    let mut both = fs::read(lab.file("kube-ca.pem")).unwrap();
    both.extend(top);
    fs::write(lab.file("kube-ca.pem"), both).unwrap();
    let verdict = lab.verdict();
    let rules: Vec<_> = verdict.findings.iter().map(|it| it.rule).collect();
    assert_eq!(rules, [Rule::Authorities]);
    assert_eq!(verdict.rke_text(), None);
    let set = verdict.set.unwrap();
    let kept = Certificate::all_from_pem(set.entries["kube-ca"].certificate_pem.as_bytes());
    assert_eq!(kept.unwrap().len(), 2);
}

#[test]
fn the_state_keeps_its_service_account_key() {
    let lab = Lab::new();
    let pem = |name: &str| fs::read_to_string(lab.file(name)).unwrap();
    let certificate = pem("kube-service-account-token.pem");
    let judge = |key: String| {
        let name = "kube-service-account-token";
        let entry = Entry::new(name, &certificate, Secret::from(&*key), Origin::Custom);
        let current = Bundle::from([(name.to_owned(), entry)]);
        let against = Against {
            config: &lab.config,
            now: today(),
            current: Some(&current),
        };
        verify(&read(&lab.certs()), &against).unwrap()
    };
    let own = pem("kube-service-account-token-key.pem");
    assert!(judge(own.clone()).findings.is_empty());
    let changed = judge(pem("kube-node-key.pem"));
    assert_eq!(changed.findings[0].rule, Rule::NewServiceAccountKey);
    assert_eq!(changed.findings[0].severity, Severity::Warning);
    fs::remove_file(lab.file("kube-service-account-token.pem")).unwrap();
    fs::remove_file(lab.file("kube-service-account-token-key.pem")).unwrap();
    let kept = judge(own);
    assert_eq!(kept.findings[0].rule, Rule::NoServiceAccountKey);
    assert_eq!(kept.findings[0].severity, Severity::Note);
    let set = kept.set.unwrap();
    assert!(!set.entries.contains_key("kube-service-account-token"));
}

#[test]
fn nothing_is_valid_before_its_time() {
    let lab = Lab::new();
    let verdict = lab.verdict_at(today().plus(-DAY));
    let early = |it: &&kubepki::rke::custom::Finding| it.rule == Rule::NotYetValid;
    // Ten leaves and two CAs.
    assert_eq!(verdict.findings.iter().filter(early).count(), 12);
    assert!(verdict.set.is_none());
}

#[test]
fn an_empty_directory_is_told_in_rkes_words() {
    let lab = Lab::new();
    for entry in fs::read_dir(lab.certs()).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
    let verdict = lab.verdict();
    assert_eq!(
        verdict.rke_text().unwrap(),
        "[state] Failed to validates certificates from dir [./cluster_certs]: Failed to find \
         master CA certificate"
    );
    let missing: Vec<_> = verdict.findings.iter().map(|it| it.rule).collect();
    assert_eq!(
        missing
            .iter()
            .filter(|it| **it == Rule::MissingComponent)
            .count(),
        7
    );
}

#[test]
fn no_service_range_no_names() {
    let text = "nodes: [{address: 1.1.1.1, user: x, role: [controlplane, etcd, worker]}]\n\
                services: {kube-api: {service_cluster_ip_range: nonsense}}\n";
    // Either the configuration is refused or the names are.
    let Ok(config) = ClusterConfig::parse(text) else {
        return;
    };
    let against = Against {
        config: &config,
        now: today(),
        current: None,
    };
    let directory: CertDir = read(Lab::new().certs().as_path());
    let error = verify(&directory, &against).unwrap_err();
    assert!(error.to_string().contains("invalid CIDR address: nonsense"));
}
