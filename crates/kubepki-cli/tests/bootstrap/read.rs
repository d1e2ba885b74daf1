//! Every recorded tree: shown, verified, compared, extracted.

use std::fs;

use kubepki::bootstrap::{Bundle, Field, KEY_PREFIX, locate};
use kubepki::datastore::Datastore as _;
use kubepki_datastore::etcd::EtcdFile;
use serde_json::Value;

use crate::lab::{Lab, TOKEN, assert_extracted, block_on, candidates};

/// The trees that hold their own datastore, with their tokens.
const TREES: [(&str, &str); 9] = [
    ("k3s-1.36-sqlite", TOKEN),
    ("k3s-1.36-custom-ca", TOKEN),
    ("k3s-1.36-custom-ca-rotated", TOKEN),
    ("k3s-1.36-default-rotated", TOKEN),
    (
        "k3s-1.36-encryption-token-rotated",
        "rotated-token-abcdef0123456789",
    ),
    ("k3s-1.36-new-root-forced", TOKEN),
    ("k3s-1.36-etcd-embedded", TOKEN),
    ("k3s-1.21-sqlite", TOKEN),
    ("k3s-1.21-custom-ca", TOKEN),
];

fn json(text: &[u8]) -> Value {
    serde_json::from_slice(text).unwrap()
}

#[test]
fn every_tree_is_shown_and_is_whole() {
    for (name, token) in TREES {
        let lab = Lab::new(name);
        let before = lab.tree();
        let shown = json(&lab.ends(&["bootstrap", "show", "-o", "json"], 0).stdout);
        let names: Vec<&str> = shown["files"]
            .as_array()
            .unwrap()
            .iter()
            .map(|file| file["name"].as_str().unwrap())
            .collect();
        let on_disk = |field: &Field| lab.server().join(field.path()).exists();
        let expected: Vec<&str> = Field::ALL
            .into_iter()
            .filter(on_disk)
            .map(Field::name)
            .collect();
        assert_eq!(names, expected, "{name}");
        for file in shown["files"].as_array().unwrap() {
            let path = lab.server().join(file["path"].as_str().unwrap());
            let bytes = fs::read(path).unwrap();
            assert_eq!(file["size"], bytes.len(), "{name}");
            match file["sha256"].as_str() {
                Some(sha256) => assert_eq!(sha256, pki::sha256(&bytes).to_string(), "{name}"),
                None => assert_eq!(file["name"], "PasswdFile"),
            }
        }
        if name != "k3s-1.36-encryption-token-rotated" {
            let token = fs::read_to_string(lab.server().join("token")).unwrap();
            let pinned = shown["token_hash"].as_str().unwrap();
            let old = name.starts_with("k3s-1.21-custom");
            assert_eq!(token.contains(pinned), !old, "{name}: {token}");
        }
        // The data of K3s 1.21 have no times, but equal the disk's.
        let verified = lab.ends(&["bootstrap", "verify", "-o", "json"], 0);
        let verified = json(&verified.stdout);
        assert_eq!(verified["files"], names.len());
        assert_eq!(verified["findings"], Value::Array(Vec::new()), "{name}");
        for output in ["table", "text"] {
            let text = lab.ends(&["bootstrap", "show", "-o", output], 0).text();
            for file in &names {
                assert!(text.contains(file), "{name}: {text}");
            }
            assert!(!text.contains(token), "{name}");
            assert!(!text.contains("PRIVATE KEY"), "{name}");
        }
        lab.assert_untouched(&before);
    }
}

/// The bootstrap data in a tree's own datastore: SQLite, or the files of an etcd that is stopped.
fn data(lab: &Lab, token: &str) -> Bundle {
    if !lab.server().join("db/etcd").exists() {
        return lab.opened(token).bundle;
    }
    let records = block_on(async {
        let file = EtcdFile::stopped_member(&lab.server()).unwrap();
        file.list(KEY_PREFIX).await.unwrap()
    });
    locate(&records, &candidates(token)).unwrap().bundle
}

#[test]
fn every_tree_is_extracted_as_it_is() {
    for (name, token) in TREES {
        let lab = Lab::new(name);
        let before = lab.tree();
        let to = lab.data_dir().join("../out");
        let to = to.to_str().unwrap();
        lab.ends(&["bootstrap", "extract", "--to", to, "--yes"], 0);
        let to = lab.scratch("out");
        assert_extracted(&to, &lab.server(), &data(&lab, token));
        let again = lab.ends(
            &[
                "bootstrap",
                "extract",
                "--to",
                to.to_str().unwrap(),
                "--yes",
            ],
            0,
        );
        assert!(again.text().contains("Nothing to do"), "{}", again.text());
        fs::remove_dir_all(&to).unwrap();
        fs::remove_dir_all(lab.scratch("out.kubepki")).unwrap();
        lab.assert_untouched(&before);
    }
}

#[test]
fn what_a_former_token_still_opens_is_told() {
    let lab = Lab::new("k3s-1.36-encryption-token-rotated");
    let old = lab.token(TOKEN);
    let before = lab.tree();
    let run = lab.ends(
        &["bootstrap", "verify", "--token-file", &old, "-o", "json"],
        3,
    );
    let answer = json(&run.stdout);
    let exposed: Vec<(&str, &str)> = answer["still_open"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|it| it["key"] == "/bootstrap/d0bdc7873da2")
        .map(|it| (it["place"].as_str().unwrap(), it["token"].as_str().unwrap()))
        .collect();
    assert!(!exposed.is_empty());
    assert!(exposed.iter().all(|(_, token)| *token == old));
    assert!(
        exposed
            .iter()
            .any(|(place, _)| place.contains("207") && place.contains("old_value")),
        "{exposed:?}"
    );
    let text = lab
        .ends(&["bootstrap", "verify", "--token-file", &old], 3)
        .text();
    assert!(
        text.contains("still opens keys that are in force"),
        "{text}"
    );
    lab.assert_untouched(&before);
    // Nobody who lacks it is told so.
    lab.ends(&["bootstrap", "verify"], 0);
}

#[test]
fn the_disk_against_the_datastore() {
    let lab = Lab::new("k3s-1.36-sqlite");
    lab.ends(&["bootstrap", "diff"], 0);
    let path = lab.server().join("tls/client-ca.crt");
    let original = fs::read(&path).unwrap();
    let stamp = fs::metadata(&path).unwrap().modified().unwrap();
    let write = |bytes: &[u8], newer: u64| {
        fs::write(&path, bytes).unwrap();
        let file = fs::File::options().write(true).open(&path).unwrap();
        file.set_modified(stamp + std::time::Duration::from_secs(newer))
            .unwrap();
    };
    // Newer by less than three seconds, the datastore counts; by three, K3s dies.
    let other = [original.as_slice(), b"\n"].concat();
    write(&other, 2);
    let run = lab.ends(&["bootstrap", "diff", "-o", "json"], 3);
    assert_eq!(json(&run.stdout)["verdict"], "update");
    write(&other, 3);
    let run = lab.ends(&["bootstrap", "diff"], 4);
    let words = format!(
        "{} newer than datastore and could cause a cluster outage. Remove the file(s) from disk \
         and restart to be recreated from datastore.",
        path.display()
    );
    assert!(run.text().contains(&words), "{}", run.text());
    lab.ends(&["bootstrap", "verify"], 4);
    // The same bytes are the same whatever their time.
    write(&original, 3_000_000);
    lab.ends(&["bootstrap", "diff"], 0);
    fs::remove_file(&path).unwrap();
    let run = lab.ends(&["bootstrap", "diff", "-o", "json"], 3);
    assert_eq!(json(&run.stdout)["verdict"], "update");
    fs::remove_dir_all(lab.server().join("tls/etcd")).unwrap();
    let run = lab.ends(&["bootstrap", "diff", "-o", "json"], 3);
    assert_eq!(json(&run.stdout)["verdict"], "write-all");
}
