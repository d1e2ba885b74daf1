//! What lies in the folder: links, and states that RKE cannot have made.

use std::fs;
use std::os::unix::fs::symlink;

use pki::{Authority, Certificate, DAY, KeyAlgorithm, LeafRequest, PrivateKey, Purpose, Serial};
use pki::{UnixTime, Validity};
use serde_json::{Value, json};
use testkit::{DiffOptions, Tree};

use crate::operator::{Operator, entry, text};

/// RKE follows links, so the real file is read and written, and the link stays.
#[test]
fn links_are_followed_and_stay() {
    let operator = Operator::new();
    let (folder, vault) = (operator.folder(), operator.0.scratch("vault"));
    fs::create_dir_all(&vault).unwrap();
    let (link, real) = (
        folder.join("cluster.rkestate"),
        vault.join("prod/../prod.state"),
    );
    fs::create_dir(vault.join("prod")).unwrap();
    fs::rename(&link, vault.join("prod.state")).unwrap();
    symlink(&real, &link).unwrap();
    let run = operator.run(&["check", "--offline"]);
    assert!(matches!(run.code, Some(0 | 3)), "{}", run.text());
    let run = operator.run(&["state", "show"]);
    assert!(text(&run.stdout).contains("kube-ca"), "{}", run.text());

    // One that leads to nothing yet: the file is made where it leads.
    let real = vault.join("prod.state");
    fs::remove_file(&real).unwrap();
    let admin = vault.join("admin.conf");
    symlink(&admin, folder.join("kube_config_cluster.yml")).unwrap();
    let run = operator.run(&["init", "--yes"]);
    assert_eq!(run.code, Some(0), "{}", run.text());
    let made: Value = serde_json::from_slice(&fs::read(&real).unwrap()).unwrap();
    assert!(made.get("desiredState").is_some());
    assert!(fs::read_link(&link).is_ok());
    assert!(folder.join(".kubepki/cluster").is_dir());
    assert!(!vault.join(".kubepki").exists());
    let run = operator.run(&["undo", "--yes"]);
    assert_eq!(run.code, Some(0), "{}", run.text());
    assert!(!real.exists());
    assert!(fs::read_link(&link).is_ok());

    // In a circle.
    symlink(&link, &real).unwrap();
    let run = operator.run(&["rotate", "--yes"]);
    assert_eq!(run.code, Some(1), "{}", run.text());
    assert!(run.text().contains("symbolic links"), "{}", run.text());
    let run = operator.run(&["rke", "cert", "rotate"]);
    assert_eq!(run.code, Some(1), "{}", run.text());
}

/// A leaf with an elliptic key, signed by the cluster's CA: RKE panics on it.
fn elliptic(state: &mut Value) {
    let ca = entry(state, "kube-ca");
    let read = |key: &str| ca[key].as_str().unwrap().as_bytes().to_vec();
    let certificate = Certificate::all_from_pem(&read("certificatePEM")).unwrap();
    let key = PrivateKey::from_pem(&read("keyPEM")).unwrap();
    let ca = Authority::new(certificate.first().unwrap().clone(), key).unwrap();
    let key = PrivateKey::generate(KeyAlgorithm::P256).unwrap();
    let since = ca.certificate().validity().not_before;
    let leaf = ca.issue(&LeafRequest {
        organizations: &[],
        common_name: "system:kube-scheduler",
        sans: &[],
        purposes: &[Purpose::ClientAuth, Purpose::ServerAuth],
        spki_der: key.spki_der(),
        serial: Serial::from_hex("07").unwrap(),
        validity: Validity {
            not_before: since,
            not_after: UnixTime::from_secs(since.as_secs() + 3000 * DAY),
        },
    });
    for half in ["desiredState", "currentState"] {
        let place = format!("/{half}/certificatesBundle/kube-scheduler");
        let scheduler = state.pointer_mut(&place).unwrap();
        scheduler["certificatePEM"] = json!(leaf.as_ref().unwrap().to_pem());
        scheduler["keyPEM"] = json!(key.to_pem().unwrap().as_str());
    }
}

/// A check names what is odd, with an exit code; nothing panics, nothing changes.
#[test]
fn odd_states_are_findings() {
    type Spoil = fn(&Operator);
    let cases: [(&str, Spoil, i32, [&str; 2]); 4] = [
        (
            "EC in the bundle",
            |it| it.state(elliptic),
            3,
            ["not-rsa", "kube-scheduler"],
        ),
        (
            "a CA with another's key",
            crate::anothers_key,
            4,
            ["key-mismatch", "kube-ca"],
        ),
        (
            "a state that knows more nodes",
            |it| {
                it.edit("cluster.yml", |text| {
                    let (kept, _) = text.split_once("  - address: 127.0.0.13").unwrap();
                    let rest = text.split_once("services:").map_or("", |it| it.1);
                    format!("{kept}services:{rest}")
                });
            },
            3,
            ["config-differs", "127.0.0.13"],
        ),
        (
            "a state of a later RKE",
            |it| it.state(|state| state["currentState"]["rkeConfig"]["later"] = json!({"x": [1]})),
            0,
            ["", ""],
        ),
    ];
    for (name, spoil, code, words) in cases {
        let operator = Operator::new();
        spoil(&operator);
        let before = Tree::snapshot(operator.folder());
        let run = operator.run(&["check", "--offline", "-o", "json"]);
        assert_eq!(run.code, Some(code), "{name}: {}", run.text());
        for word in words {
            assert!(run.text().contains(word), "{name}: {}", run.text());
        }
        // Hosts do not answer; it gets as far as that, or stops before.
        let run = operator.run(&["rotate", "--yes", "--cluster", "cluster.yml"]);
        assert_eq!(run.code, Some(5), "{name}: {}", run.text());
        let after = Tree::snapshot(operator.folder());
        Tree::assert_equal(&before, &after, &DiffOptions::exact());
    }
}
