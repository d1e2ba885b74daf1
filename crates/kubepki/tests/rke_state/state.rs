//! Reading and writing `.rkestate`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use kubepki::rke::entry::Origin;
use kubepki::rke::{Entry, Files, Half, Json, Secret, State, StateFileError, json};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::Recording;

const HALVES: [Half; 2] = [Half::Desired, Half::Current];

#[test]
fn every_recorded_state_is_rewritten_byte_for_byte() {
    for recording in [Recording::state(), Recording::live()] {
        for path in recording.states() {
            let bytes = std::fs::read(&path).unwrap();
            let state = State::parse(&bytes).unwrap();
            assert!(*state.render() == bytes, "{}", path.display());
            let compact = state.render_compact();
            assert!(!compact.contains(&b'\n'));
            assert!(
                State::parse(&compact).unwrap() == state,
                "{}",
                path.display()
            );
        }
    }
}

#[test]
fn entries_made_anew_are_those_recorded() {
    for recording in [Recording::state(), Recording::live()] {
        for path in recording.states() {
            let state = State::parse(&std::fs::read(&path).unwrap()).unwrap();
            for half in HALVES {
                let bundle = state.bundle(half);
                assert_eq!(bundle.len(), 15);
                for (name, entry) in bundle {
                    let (pem, key) = (&entry.certificate_pem, entry.key_pem.clone());
                    let mut made = Entry::new(&name, pem, key, Origin::Issued);
                    if name == "kube-admin" {
                        let config = entry.config.clone();
                        made = made.with_admin_config(config, "./kube_config_cluster.yml");
                    }
                    assert!(made == entry, "{name} in {}", path.display());
                    assert_eq!(state.entry(half, &name), Some(entry));
                }
            }
        }
    }
}

#[test]
fn setting_what_is_there_changes_nothing() {
    let recording = Recording::live();
    let bytes = recording.bytes("after/rotate.rkestate");
    let mut state = State::parse(&bytes).unwrap();
    let bundle = state.bundle(Half::Desired);
    state.set_desired(bundle.into_values());
    assert!(*state.render() == bytes);
    state.promote(["kube-node", "kube-ca"]);
    assert!(*state.render() == bytes);
}

#[test]
fn two_phases_lead_from_the_state_before_to_the_state_after() {
    let recording = Recording::live();
    let before = recording.parsed("cluster.rkestate");
    let after = recording.parsed("after/rotate.rkestate");
    let new = after.bundle(Half::Desired);
    let names: Vec<&str> = new.keys().map(String::as_str).collect();

    let mut state = before.clone();
    state.set_desired(new.clone().into_values());
    assert!(state.bundle(Half::Desired) == new);
    assert!(state.bundle(Half::Current) == before.bundle(Half::Current));

    state.promote(["kube-proxy"]);
    for (name, entry) in state.bundle(Half::Current) {
        let expected = match name.as_str() {
            "kube-proxy" => &after,
            _ => &before,
        };
        assert_eq!(expected.entry(Half::Current, &name), Some(entry), "{name}");
    }
    state.promote(names.iter().copied());
    assert!(state.bundle(Half::Current) == after.bundle(Half::Current));
    let config = after.rke_config(Half::Desired).unwrap().clone();
    state.set_rke_config(Half::Desired, config.clone());
    assert!(state.rke_config(Half::Current) == before.rke_config(Half::Current));
    state.promote_config();
    assert!(state.rke_config(Half::Current) == Some(&config));
    let config = after.rke_config(Half::Current).unwrap().clone();
    state.set_rke_config(Half::Current, config);
    assert!(state == after);

    state.desire_current();
    state.remove_desired(["kube-proxy", "no-such"]);
    assert!(state.entry(Half::Desired, "kube-proxy").is_none());
    assert!(state.entry(Half::Current, "kube-proxy").is_some());
    state.promote(["kube-proxy"]);
    assert!(state.entry(Half::Current, "kube-proxy").is_none());
    assert_eq!(state.bundle(Half::Current).len(), 14);
}

#[test]
fn unknown_missing_and_null_keys_stay() {
    let text = r#"{
  "desiredState": {
    "certificatesBundle": {
      "kube-ca": {
        "certificatePEM": null,
        "later": 1.50,
        "keyPEM": "k"
      },
      "kube-nothing": null
    },
    "later": [
      {},
      []
    ]
  },
  "currentState": {
    "rkeConfig": null,
    "encryptionConfig": "a\u0026b"
  },
  "later": -0e+10
}"#;
    let mut state = State::parse(text.as_bytes()).unwrap();
    assert_eq!(std::str::from_utf8(&state.render()).unwrap(), text);
    assert_eq!(state.bundle(Half::Desired).len(), 1);
    assert!(state.rke_config(Half::Current).is_none());
    assert_eq!(state.encryption_config(Half::Current), Some("a&b"));

    // What desiredState does not have is not taken from currentState.
    state.promote_config();
    assert_eq!(state.encryption_config(Half::Current), Some("a&b"));
    assert_eq!(std::str::from_utf8(&state.render()).unwrap(), text);

    // An entry keeps what is not known here, and gets the twelve keys.
    state.set_desired([Entry::new(
        "kube-ca",
        "c",
        Secret::from("k"),
        Origin::Issued,
    )]);
    let written = String::from_utf8(state.render().to_vec()).unwrap();
    assert!(written.contains("\"certificatePEM\": \"c\",\n        \"later\": 1.50,"));
    assert!(written.contains("\"configPath\": \"\""));
    assert!(written.contains("\"kube-nothing\": null"));
    assert!(written.contains("\"later\": -0e+10"));
}

#[test]
fn a_first_entry_makes_the_sections_in_their_order() {
    let mut state = State::empty();
    let empty = "{\n  \"desiredState\": {},\n  \"currentState\": {}\n}";
    assert_eq!(std::str::from_utf8(&state.render()).unwrap(), empty);
    state.set_desired([
        Entry::new("kube-node", "", Secret::default(), Origin::Issued),
        Entry::new("kube-ca", "", Secret::default(), Origin::Issued),
    ]);
    state.set_rke_config(Half::Desired, kubepki::rke::Json::Object(Vec::new()));
    let text = String::from_utf8(state.render_compact().to_vec()).unwrap();
    assert!(
        text.starts_with(
            r#"{"desiredState":{"rkeConfig":{},"certificatesBundle":{"kube-ca":{"certificatePEM":"","keyPEM":"","config":"","name":"kube-ca","commonName":"system:kube-ca","#
        ),
        "{text}"
    );
    assert!(text.ends_with(r#"}},"currentState":{}}"#));
    assert!(text.find("\"kube-ca\":{") < text.find("\"kube-node\":{"));
}

#[test]
fn halves_may_be_missing() {
    for text in ["{}", r#"{"desiredState":null,"currentState":null}"#] {
        let mut state = State::parse(text.as_bytes()).unwrap();
        assert!(state.bundle(Half::Current).is_empty());
        state.set_desired([Entry::new(
            "kube-ca",
            "c",
            Secret::default(),
            Origin::Issued,
        )]);
        state.promote(["kube-ca"]);
        assert_eq!(state.bundle(Half::Current).len(), 1);
        assert!(State::parse(&state.render()).unwrap() == state);
    }
}

fn refused(text: &str) -> String {
    match State::parse(text.as_bytes()) {
        Ok(_) => panic!("{text} was read"),
        Err(error) => kubepki::error_chain(&error),
    }
}

#[test]
fn what_is_broken_is_told_with_its_place() {
    for (text, expected) in [
        (
            "",
            "the state file is empty; restore it from a backup or with `rke util get-state-file`",
        ),
        (
            " \n",
            "the state file is empty; restore it from a backup or with `rke util get-state-file`",
        ),
        (
            "{\n  \"desiredState\": {",
            "the state file is not JSON; restore it from a backup: line 2, column 20: \
             the text ends where a key in quotes is expected",
        ),
        (
            "{\"a\": \"b",
            "the state file is not JSON; restore it from a backup: line 1, column 7: \
             the text in quotes that begins here does not end",
        ),
        (
            "{\"ä\": 01}",
            "the state file is not JSON; restore it from a backup: line 1, column 8: \
             '1' where ',' or '}' is expected",
        ),
        ("[]", "the value in the state file is a list, not an object"),
        (
            "3",
            "the value in the state file is a number, not an object",
        ),
        (
            r#"{"currentState":[]}"#,
            "currentState in the state file is a list, not an object",
        ),
        (
            r#"{"currentState":{"certificatesBundle":{"kube-ca":{"keyPEM":1}}}}"#,
            "currentState.certificatesBundle.kube-ca.keyPEM in the state file is a number, not text",
        ),
        (
            r#"{"currentState":{"rkeConfig":"x"}}"#,
            "currentState.rkeConfig in the state file is text, not an object",
        ),
    ] {
        assert_eq!(refused(text), expected, "{text}");
    }
    let huge = vec![b' '; kubepki::rke::state::LIMIT + 1];
    assert_eq!(
        State::parse(&huge).map(drop),
        Err(StateFileError::TooLarge { size: huge.len() })
    );
}

#[test]
fn a_state_cut_anywhere_is_an_error_and_tells_no_key() {
    let bytes = Recording::state().bytes("cluster.rkestate");
    for length in (0..bytes.len()).step_by(997).chain([bytes.len() - 1]) {
        let error = State::parse(&bytes[..length]).map(drop).unwrap_err();
        let text = kubepki::error_chain(&error);
        assert!(text.len() < 300, "{text}");
        assert!(!text.contains("BEGIN"), "{text}");
    }
}

#[test]
fn nothing_secret_is_shown() {
    let state = Recording::state().parsed("cluster.rkestate");
    let bundle = state.bundle(Half::Current);
    let shown = format!(
        "{bundle:?} {state:?} {:?} {:?}",
        bundle["kube-ca"].key_pem,
        state.rke_config(Half::Current)
    );
    assert!(!shown.contains("PRIVATE"), "{shown}");
    assert!(!shown.contains("MII"), "{shown}");
}

#[test]
fn files_are_named_after_the_configuration() {
    let of = |config: &str| {
        let files = Files::of(Path::new(config));
        [files.state, files.kubeconfig, files.cert_dir]
    };
    let paths = |paths: [&str; 3]| paths.map(PathBuf::from);
    for (config, expected) in [
        (
            "cluster.yml",
            [
                "./cluster.rkestate",
                "./kube_config_cluster.yml",
                "./cluster_certs",
            ],
        ),
        (
            "./cluster.yml",
            [
                "./cluster.rkestate",
                "./kube_config_cluster.yml",
                "./cluster_certs",
            ],
        ),
        (
            "/a/b.c.yaml",
            ["/a/b.c.rkestate", "/a/kube_config_b.c.yaml", "/a/b.c_certs"],
        ),
        (
            "sub/b",
            ["sub/b.rkestate", "sub/kube_config_b", "sub/b_certs"],
        ),
    ] {
        assert_eq!(of(config), paths(expected), "{config}");
        // As text, too: the log shows it so.
        assert_eq!(of(config)[0].to_str(), Some(expected[0]));
    }
}

proptest! {
    #[test]
    fn it_does_not_matter_in_which_order_entries_are_promoted(
        current in proptest::collection::btree_map("[a-e]{1,2}", "[a-c]", 0..8),
        desired in proptest::collection::btree_map("[a-e]{1,2}", "[a-c]", 0..8),
        order in proptest::collection::vec("[a-e]{1,2}", 0..12),
    ) {
        let entries = |half: &BTreeMap<String, String>| -> Vec<Entry> {
            let made = half.iter().map(|(name, text)| {
                Entry::new(name, text, Secret::from(text.as_str()), Origin::Issued)
            });
            made.collect()
        };
        let mut state = State::empty();
        state.set_desired(entries(&current));
        state.promote(current.keys().map(String::as_str));
        state.desire_current();
        prop_assert!(state.bundle(Half::Desired) == state.bundle(Half::Current));
        state.remove_desired(current.keys().map(String::as_str));
        state.set_desired(entries(&desired));

        let mut one_by_one = state.clone();
        for name in &order {
            one_by_one.promote([name.as_str()]);
        }
        state.promote(order.iter().rev().map(String::as_str));
        prop_assert!(state == one_by_one);

        let mut expected = current;
        for name in &order {
            match desired.get(name) {
                Some(text) => expected.insert(name.clone(), text.clone()),
                None => expected.remove(name),
            };
        }
        let found: BTreeMap<String, String> = state
            .bundle(Half::Current)
            .into_iter()
            .map(|(name, entry)| (name, entry.certificate_pem))
            .collect();
        prop_assert_eq!(found, expected);
        // As Go writes them: sorted.
        let root = json::parse(&state.render()).unwrap();
        for half in ["desiredState", "currentState"] {
            let bundle = root.get(half).and_then(|half| half.get("certificatesBundle"));
            let pairs = bundle.and_then(Json::pairs).unwrap_or_default();
            prop_assert!(pairs.is_sorted_by(|(a, _), (b, _)| a < b));
        }
    }
}

#[test]
fn a_damaged_state_is_read_or_refused() {
    let whole = Recording::state().bytes("cluster.rkestate");
    let mut runner = TestRunner::new(Config::with_cases(60));
    let damage = proptest::collection::vec((0..whole.len(), 0x20_u8..0x7f), 1..4);
    let outcome = runner.run(&damage, |damage| {
        let mut bytes = whole.clone();
        for (place, byte) in damage {
            bytes[place] = byte;
        }
        match State::parse(&bytes) {
            Ok(state) => {
                for (_, entry) in state.bundle(Half::Current) {
                    // What cannot be read is told without being shown.
                    if let Err(error) = entry.certificates() {
                        prop_assert!(!error.to_string().contains("MII"));
                    }
                    let _ = entry.key();
                }
                let again = State::parse(&state.render()).unwrap();
                prop_assert!(again == state);
            }
            Err(error) => {
                let text = kubepki::error_chain(&error);
                prop_assert!(text.len() < 400 && !text.contains("MII"), "{text}");
            }
        }
        Ok(())
    });
    assert!(outcome.is_ok(), "{outcome:?}");
}
