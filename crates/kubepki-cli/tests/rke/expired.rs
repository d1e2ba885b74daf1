//! A cluster whose leaves are all over: nobody believes anybody, and no API answers.

use kubepki::rke::{Bundle, Entry, Half, names};
use pki::{Authority, Certificate, LeafRequest, Serial, Validity};

use crate::rotate::ALL;
use crate::scene::{Scene, write_private};

/// The state file is enough to rotate it.
pub fn is_rotated(scene: &Scene) {
    expire(scene);
    let before = scene.snapshot();
    scene.finds(4, &["broken: cluster.rkestate:kube-apiserver: … expired"]);
    let run = scene.ends(&["rotate", "--yes"], 5);
    assert!(run.text().contains("--allow-etcd-outage"), "{}", run.text());
    scene.assert_files(&before);
    scene.ok(&["rotate", "--yes", "--allow-etcd-outage"]);
    scene.assert_restarted(&before.starts, &scene.everywhere(ALL));
    scene.assert_whole();
    scene.ok(&["check"]);
}

/// Every leaf gets another certificate for its key, which was good for a second; everything is
/// started anew with these.
fn expire(scene: &Scene) {
    let mut state = scene.state();
    let bundle = state.bundle(Half::Current);
    let kubeconfig = std::fs::read_to_string(scene.kubeconfig()).unwrap();
    let leaves = bundle.values().filter_map(|entry| over(entry, &bundle));
    let leaves: Vec<(Entry, Certificate)> = leaves.collect();
    let (_, admin) = leaves
        .iter()
        .find(|(entry, _)| entry.name == names::KUBE_ADMIN)
        .unwrap();
    write_private(
        &scene.kubeconfig(),
        with_certificate(&kubeconfig, admin).as_bytes(),
    );
    let wanted: Vec<String> = leaves.iter().map(|(entry, _)| entry.name.clone()).collect();
    state.set_desired(leaves.into_iter().map(|(entry, _)| entry));
    state.promote(wanted.iter().map(String::as_str));
    write_private(&scene.state_file(), &state.render());
    scene.cluster.deploy_state(&scene.state_file());
    for host in scene.cluster.hosts() {
        let there = host.docker().names().unwrap();
        for name in ALL.iter().filter(|it| there.iter().any(|name| name == *it)) {
            host.kill_container(name);
        }
    }
}

/// `None` for what is no leaf.
fn over(entry: &Entry, bundle: &Bundle) -> Option<(Entry, Certificate)> {
    let issuer = match entry.name.as_str() {
        names::KUBE_CA | names::REQUEST_HEADER_CA | names::SERVICE_ACCOUNT_TOKEN => return None,
        names::PROXY_CLIENT => names::REQUEST_HEADER_CA,
        _ => names::KUBE_CA,
    };
    let issuer = &bundle[issuer];
    let (root, key) = (issuer.certificate().unwrap().unwrap(), issuer.key());
    let authority = Authority::new(root, key.unwrap().unwrap()).unwrap();
    let now = entry.certificate().unwrap().unwrap();
    let organizations = now.subject().organizations();
    let organizations: Vec<String> = organizations.into_iter().map(str::to_owned).collect();
    let begin = authority.certificate().validity().not_before;
    let serial = Serial::random(|bytes| {
        // Names differ at their ends.
        let pairs = bytes.iter_mut().zip(entry.name.bytes().rev());
        pairs.for_each(|(byte, letter)| *byte = letter);
        Ok(())
    });
    let certificate = authority.issue(&LeafRequest {
        organizations: &organizations,
        common_name: now.subject().common_name().unwrap(),
        sans: now.sans(),
        purposes: now.purposes(),
        spki_der: now.spki_der(),
        serial: serial.unwrap(),
        validity: Validity {
            not_before: begin,
            not_after: begin.plus(1),
        },
    });
    let certificate = certificate.unwrap();
    let mut entry = entry.clone();
    entry.certificate_pem = certificate.to_pem();
    Some((entry, certificate))
}

fn with_certificate(kubeconfig: &str, certificate: &Certificate) -> String {
    let pem = certificate.to_pem();
    let run = testkit::openssl_ok(&["base64", "-e", "-A"], pem.as_bytes());
    let data = String::from_utf8(run.stdout).unwrap();
    let lines = kubeconfig.lines().map(|line| match line.split_once(": ") {
        Some((name, _)) if name.trim() == "client-certificate-data" => {
            format!("{name}: \"{}\"\n", data.trim())
        }
        _ => format!("{line}\n"),
    });
    lines.collect()
}
