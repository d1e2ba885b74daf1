//! A company's CA signs what the cluster asks for, and the cluster runs with it.

use std::path::Path;

use kubepki::rke::{Half, names};
use testkit::openssl_ok;
use testkit::rke::Spec;

use crate::pods::Pods;
use crate::rotate::{ALL, assert_none_lost, begun, finished};
use crate::scene::{Scene, text};
use crate::watch::Lookout;

#[test]
fn a_company_signs() {
    let scene = Scene::start(&Spec::three());
    let mut lookout = Lookout::new(&scene);
    let writer = scene.cluster.reloading_writer(&scene.node_pair());
    begun(&writer);
    let pods = Pods::start(&scene);
    let before = scene.snapshot();
    let config = text(&scene.config).to_owned();
    let directory = scene.cluster.folder().join("signed");
    let asked = [
        "rke",
        "cert",
        "generate-csr",
        "--config",
        &config,
        "--cert-dir",
        text(&directory),
    ];
    let run = scene.run_bare(&asked);
    assert!(run.success(), "{}", run.text());
    let certs = ["--cluster", &config, "--cert-dir", text(&directory)];
    // Not signed yet.
    let run = scene.run_bare(&[&["custom-certs", "verify"], &certs[..]].concat());
    assert_eq!(run.code, Some(4), "{}", run.text());
    let run = scene.run(&[
        "custom-certs",
        "install",
        "--yes",
        "--cert-dir",
        text(&directory),
    ]);
    assert_eq!(run.code, Some(5), "{}", run.text());
    scene.assert_untouched(&before);
    sign(&scene, &directory);
    let run = scene.run_bare(&[&["custom-certs", "verify"], &certs[..]].concat());
    assert!(run.success(), "{}", run.text());
    scene.ok(&[
        "custom-certs",
        "install",
        "--yes",
        "--cert-dir",
        text(&directory),
    ]);
    lookout.learn();
    scene.assert_restarted(&before.starts, &scene.everywhere(ALL));
    scene.assert_whole();
    pods.assert_deleted_once(&scene);
    for (name, entry) in scene.state().bundle(Half::Current) {
        let signed = std::fs::read_to_string(directory.join(format!("{name}.pem"))).unwrap();
        assert_eq!(
            entry.certificate_pem.trim_end(),
            signed.trim_end(),
            "{name}"
        );
    }
    let after = scene.cluster.starts();
    scene.ok(&["undo", "--yes"]);
    scene.assert_restarted(&after, &scene.everywhere(ALL));
    scene.assert_files(&before);
    scene.assert_whole();
    assert_none_lost(&finished(writer));
    lookout.finish();
}

/// Two CAs whose keys never come here; the service-account pair stays.
fn sign(scene: &Scene, directory: &Path) {
    let vault = tempfile::tempdir().unwrap();
    for name in [names::KUBE_CA, names::REQUEST_HEADER_CA] {
        let key = vault.path().join(name);
        let cert = directory.join(format!("{name}.pem"));
        let subject = format!("/O=Company/CN={name} 2026");
        let mut all = vec![
            "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30",
        ];
        all.extend(["-addext", "keyUsage=critical,keyCertSign,cRLSign"]);
        all.extend([
            "-subj",
            &subject,
            "-keyout",
            text(&key),
            "-out",
            text(&cert),
        ]);
        openssl_ok(&all, b"");
    }
    for entry in std::fs::read_dir(directory).unwrap() {
        let request = entry.unwrap().path();
        let name = request.file_name().unwrap().to_str().unwrap().to_owned();
        let Some(name) = name.strip_suffix("-csr.pem") else {
            continue;
        };
        let issuer = match name {
            "kube-apiserver-proxy-client" => names::REQUEST_HEADER_CA,
            _ => names::KUBE_CA,
        };
        let authority = directory.join(format!("{issuer}.pem"));
        let (key, cert) = (
            vault.path().join(issuer),
            directory.join(format!("{name}.pem")),
        );
        let mut all = vec!["x509", "-req", "-days", "20", "-copy_extensions", "copyall"];
        all.extend(["-in", text(&request), "-out", text(&cert)]);
        all.extend(["-CA", text(&authority), "-CAkey", text(&key)]);
        openssl_ok(&all, b"");
    }
    let account = scene.entry(names::SERVICE_ACCOUNT_TOKEN);
    let put = |end: &str, bytes: &[u8]| {
        let path = directory.join(format!("{}{end}.pem", names::SERVICE_ACCOUNT_TOKEN));
        std::fs::write(path, bytes).unwrap();
    };
    put("", account.certificate_pem.as_bytes());
    put("-key", account.key_pem.as_bytes());
}
