//! Requests: the same as RKE's, and kinder to what is there.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use kubepki::rke::ClusterConfig;
use kubepki::rke::csr::{CsrError, Done};
use pki::{CertificateRequest, KeyAlgorithm, PrivateKey};
use tempfile::TempDir;
use testkit::{openssl_ok, run as program};

use crate::lab::{Recording, run};

fn texts(lines: &[kubepki::rke::log::Line]) -> Vec<String> {
    lines.iter().map(|line| line.text.clone()).collect()
}

/// The messages of a recorded log.
fn recorded(recording: &Recording) -> Vec<String> {
    let log = fs::read_to_string(recording.path("logs/generate-csr.log")).unwrap();
    let message = |line: &str| {
        let (_, message) = line.split_once(" msg=").unwrap();
        message.trim_matches('"').to_owned()
    };
    log.lines().map(message).collect()
}

#[test]
fn the_same_files_requests_and_lines_as_rke() {
    let recording = Recording::new();
    let folder = TempDir::new().unwrap();
    let ours = folder.path().join("cluster_certs");
    let set = run(&recording.config(), &ours).unwrap();
    let mut log = vec!["Running RKE version: v1.6.3".to_owned()];
    log.extend(texts(&set.lines));
    assert_eq!(log, recorded(&recording));
    assert_eq!(set.notes, Vec::<String>::new());

    let theirs = recording.path("csr");
    let names = |path: &std::path::Path| {
        let mut names: Vec<_> = fs::read_dir(path)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    assert_eq!(names(&ours), names(&theirs));
    assert_eq!(mode(&ours), 0o700);
    for name in names(&ours) {
        assert_eq!(mode(&ours.join(&name)), 0o600, "{name}");
        let (own, other) = (
            fs::read(ours.join(&name)).unwrap(),
            fs::read(theirs.join(&name)).unwrap(),
        );
        if name.ends_with("-key.pem") {
            let own_text = String::from_utf8(own.clone()).unwrap();
            assert!(own_text.starts_with("-----BEGIN RSA PRIVATE KEY-----\n"));
            let kind = |bytes: &[u8]| PrivateKey::from_pem(bytes).unwrap().algorithm();
            assert_eq!(kind(&own), KeyAlgorithm::Rsa(2048));
            assert_eq!(kind(&other), KeyAlgorithm::Rsa(2048));
        } else {
            assert_eq!(without_key(&own), without_key(&other), "{name}");
        }
    }
}

/// A request's DER with its key and signature cleared: everything else must be equal.
fn without_key(pem: &[u8]) -> Vec<u8> {
    let request = CertificateRequest::from_pem(pem).unwrap();
    let der = request.der();
    let spki = request.spki_der();
    let at = der.windows(spki.len()).position(|it| it == spki).unwrap();
    let mut rest = der.to_vec();
    // RSA-2048: the signature is the last 256 octets.
    let end = rest.len() - 256;
    rest.truncate(end);
    rest.drain(at..at + spki.len());
    rest
}

fn mode(path: &std::path::Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

/// Every name and content.
fn tree(path: &std::path::Path) -> BTreeMap<String, Vec<u8>> {
    fs::read_dir(path)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            (name, fs::read(path).unwrap())
        })
        .collect()
}

#[test]
fn openssl_and_go_read_them() {
    const READER: &str = r#"
package main

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"os"
)

func main() {
	text, _ := io.ReadAll(os.Stdin)
	block, _ := pem.Decode(text)
	request, err := x509.ParseCertificateRequest(block.Bytes)
	if err == nil {
		err = request.CheckSignature()
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println(request.Subject, request.SignatureAlgorithm, request.DNSNames, request.IPAddresses)
	for _, extension := range request.Extensions {
		fmt.Println(extension.Id, extension.Critical)
	}
}
"#;
    let folder = TempDir::new().unwrap();
    let config = Recording::new().config();
    run(&config, folder.path()).unwrap();
    let go = testkit::go_program(READER);
    for (name, bytes) in tree(folder.path()) {
        if name.ends_with("-key.pem") {
            openssl_ok(&["rsa", "-check", "-noout"], &bytes);
            continue;
        }
        let text = openssl_ok(&["req", "-verify", "-noout"], &bytes).text();
        assert!(text.contains("verify OK"), "{name}: {text}");
        let read = program(&go, &[] as &[&str], &bytes);
        assert!(read.success(), "{name}: {}", read.text());
        if name == "kube-kubelet-10-99-0-13-csr.pem" {
            assert_eq!(
                read.text(),
                "CN=kube-kubelet-10-99-0-13 SHA256-RSA [w1] [127.0.0.13 10.99.0.13]\n\
                 2.5.29.17 false\n2.5.29.37 false\n"
            );
        }
    }
}

#[test]
fn a_second_run_changes_nothing_and_says_only_the_end() {
    let folder = TempDir::new().unwrap();
    let recording = Recording::new();
    // RKE's own directory.
    for (name, bytes) in tree(&recording.path("csr")) {
        fs::write(folder.path().join(name), bytes).unwrap();
    }
    let before = tree(folder.path());
    let set = run(&recording.config(), folder.path()).unwrap();
    assert!(set.files.is_empty());
    assert_eq!(
        texts(&set.lines),
        [
            "Generating Kubernetes cluster CSR certificates",
            "Successfully Deployed certificates at [./cluster_certs]"
        ]
    );
    assert!(
        set.requests
            .iter()
            .all(|it| it.done == Done::Kept && it.key_kept)
    );
    assert_eq!(tree(folder.path()), before);
    // RKE left its keys readable by others.
    assert!(
        set.notes.iter().all(|note| note.contains("chmod 600")),
        "{:?}",
        set.notes
    );
    assert_eq!(set.notes.len(), 12);
}

#[test]
fn a_new_node_gets_a_request_and_changes_the_names_of_others() {
    let folder = TempDir::new().unwrap();
    let recording = Recording::new();
    run(&recording.config(), folder.path()).unwrap();
    let before = tree(folder.path());
    let more = recording.config_text().replace(
        "services:",
        "  - {address: 127.0.0.14, hostname_override: cp3, user: root, role: [etcd]}\nservices:",
    );
    let set = run(&ClusterConfig::parse(&more).unwrap(), folder.path()).unwrap();
    let done: BTreeMap<&str, Done> = set
        .requests
        .iter()
        .map(|request| (request.entry.as_str(), request.done))
        .collect();
    assert_eq!(done["kube-etcd-10-99-0-11"], Done::Replaced);
    assert_eq!(done["kube-etcd-10-99-0-12"], Done::Replaced);
    assert_eq!(done["kube-etcd-127-0-0-14"], Done::Made);
    assert_eq!(done["kube-kubelet-127-0-0-14"], Done::Made);
    assert_eq!(done["kube-apiserver"], Done::Kept);
    assert_eq!(done["kube-admin"], Done::Kept);
    let lines = texts(&set.lines);
    assert!(lines.contains(&"[certificates] Generating etcd-127.0.0.14 csr and key".to_owned()));
    assert_eq!(lines.len(), 6);
    // No key was replaced.
    let after = tree(folder.path());
    for (name, bytes) in before.iter().filter(|(name, _)| name.ends_with("-key.pem")) {
        assert_eq!(&after[name], bytes, "{name}");
    }

    // And back: the requests of the node that is gone stay, and are named.
    let set = run(&recording.config(), folder.path()).unwrap();
    let named = |name: &str| set.notes.iter().any(|note| note.starts_with(name));
    assert!(named("kube-etcd-127-0-0-14-csr.pem"), "{:?}", set.notes);
    assert!(named("kube-kubelet-127-0-0-14-csr.pem"));
    assert!(folder.path().join("kube-etcd-127-0-0-14-csr.pem").exists());
}

#[test]
fn keys_survive_their_requests() {
    let folder = TempDir::new().unwrap();
    let config = Recording::new().config();
    run(&config, folder.path()).unwrap();
    let key = folder.path().join("kube-scheduler-key.pem");
    let before = fs::read(&key).unwrap();
    // RKE would overwrite the key now.
    fs::remove_file(folder.path().join("kube-scheduler-csr.pem")).unwrap();
    let set = run(&config, folder.path()).unwrap();
    assert_eq!(fs::read(&key).unwrap(), before);
    let scheduler = set
        .requests
        .iter()
        .find(|it| it.entry == "kube-scheduler")
        .unwrap();
    assert_eq!((scheduler.done, scheduler.key_kept), (Done::Made, true));
    assert_eq!(set.files.len(), 1);

    // A request whose key is gone stays, as with RKE, but not without a word.
    fs::remove_file(&key).unwrap();
    let set = run(&config, folder.path()).unwrap();
    assert!(set.files.is_empty());
    assert!(
        set.notes[0].contains("kube-scheduler-key.pem is missing"),
        "{:?}",
        set.notes
    );

    // One that was made with another key is of no use.
    let other = fs::read(folder.path().join("kube-proxy-key.pem")).unwrap();
    fs::write(&key, other).unwrap();
    let set = run(&config, folder.path()).unwrap();
    let scheduler = set
        .requests
        .iter()
        .find(|it| it.entry == "kube-scheduler")
        .unwrap();
    assert_eq!((scheduler.done, scheduler.key_kept), (Done::Replaced, true));
    assert!(set.notes[0].contains("another key"), "{:?}", set.notes);
    // An empty key is none.
    fs::write(&key, b"").unwrap();
    fs::remove_file(folder.path().join("kube-scheduler-csr.pem")).unwrap();
    let set = run(&config, folder.path()).unwrap();
    assert_eq!(set.files.len(), 2);
}

#[test]
fn what_cannot_be_read_stops_before_anything_is_written() {
    let config = Recording::new().config();
    let pkcs8 = openssl_ok(&["genpkey", "-algorithm", "RSA"], b"").stdout;
    let encrypted = openssl_ok(
        &["pkcs8", "-topk8", "-passout", "pass:x", "-v2", "aes256"],
        &pkcs8,
    )
    .stdout;
    let legacy = openssl_ok(
        &["rsa", "-aes128", "-passout", "pass:x", "-traditional"],
        &pkcs8,
    );
    let short = openssl_ok(&["genrsa", "-traditional", "1024"], b"").stdout;
    let ec = openssl_ok(
        &[
            "genpkey",
            "-algorithm",
            "EC",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
        ],
        b"",
    )
    .stdout;
    let cases: [(&str, &[u8], &str); 7] = [
        (
            "kube-admin-csr.pem",
            b"nothing",
            "failed to read csr [./cluster_certs/kube-admin-csr.pem]: no CERTIFICATE REQUEST",
        ),
        (
            "kube-admin-csr.pem",
            b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n",
            "failed to read csr [./cluster_certs/kube-admin-csr.pem]: malformed",
        ),
        (
            "kube-node-key.pem",
            b"garbage",
            "failed to read key [./cluster_certs/kube-node-key.pem], make sure it is not encrypted",
        ),
        ("kube-node-key.pem", &encrypted, "needs a passphrase"),
        ("kube-node-key.pem", &legacy.stdout, "legacy form"),
        ("kube-node-key.pem", &short, "1024 bits is too short"),
        (
            "kube-node-key.pem",
            &ec,
            "is p256: RKE stops at anything but RSA",
        ),
    ];
    for (name, bytes, words) in cases {
        let folder = TempDir::new().unwrap();
        fs::write(folder.path().join(name), bytes).unwrap();
        let error = run(&config, folder.path()).unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
        assert!(!matches!(error, CsrError::Make { .. }));
        assert_eq!(tree(folder.path()).len(), 1);
    }
    // A key in the other form is taken.
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("kube-node-key.pem"), &pkcs8).unwrap();
    run(&config, folder.path()).unwrap();
    assert_eq!(
        fs::read(folder.path().join("kube-node-key.pem")).unwrap(),
        pkcs8
    );
}

#[test]
fn backups_of_requests_stop_nobody() {
    let folder = TempDir::new().unwrap();
    let config = Recording::new().config();
    fs::write(folder.path().join("kube-admin-csr.pem.bak"), b"old").unwrap();
    let set = run(&config, folder.path()).unwrap();
    assert_eq!(set.files.len(), 24);
    assert!(
        set.notes[0].contains("RKE would stop at it"),
        "{:?}",
        set.notes
    );
}
