//! Which key, which token.

use kubepki::bootstrap::{
    Bundle, Candidates, Field, LocateError, Passphrase, SealError, SharedFile, Stamp, locate,
    seal_bundle,
};
use kubepki::datastore::Record;
use kubepki::edge::SystemEntropy;
use zeroize::Zeroizing;

pub(crate) fn bundle(content: &[u8]) -> Bundle {
    let file = SharedFile {
        stamp: Stamp {
            seconds: 1_700_000_000,
            nanoseconds: 5,
        },
        content: Zeroizing::new(content.to_vec()),
    };
    Bundle {
        files: [(Field::ServerCa, file)].into(),
        ..Bundle::default()
    }
}

/// A key sealed with `password`, as K3s names and writes it.
pub(crate) fn record(password: &str, revision: i64) -> Record {
    let passphrase = Passphrase::new(password.to_owned());
    let value = seal_bundle(&bundle(b"abc"), &passphrase, &SystemEntropy).unwrap();
    Record {
        key: passphrase.key_name(),
        value: value.into(),
        revision,
        create_revision: 1,
    }
}

pub(crate) fn tokens(texts: &[&str]) -> Candidates {
    let mut candidates = Candidates::new();
    for (index, text) in texts.iter().enumerate() {
        candidates
            .add_token(text, &format!("file {index}"))
            .unwrap();
    }
    candidates
}

fn long(password: &str) -> String {
    format!("K10{}::server:{password}", "ab".repeat(32))
}

#[test]
fn the_token_that_fits_is_found_in_every_form() {
    for token in ["secret", &long("secret"), " secret\n", "K10::server:secret"] {
        let opened = locate(&[record("secret", 4)], &tokens(&["other", token])).unwrap();
        assert_eq!(opened.origin, "file 1");
        assert_eq!(opened.record.revision, 4);
        assert!(!opened.moves() && opened.notes.is_empty());
        assert_eq!(opened.bundle, bundle(b"abc"));
    }
}

#[test]
fn former_keys_are_opened_and_said_to_move() {
    let token = long("secret");
    for former in ["", token.as_str()] {
        let opened = locate(&[record(former, 4)], &tokens(&[&token])).unwrap();
        assert!(opened.moves());
        assert_eq!(opened.key(), record("secret", 0).key);
        assert!(
            opened.notes[0].contains(&opened.key()),
            "{:?}",
            opened.notes
        );
        // Beside the token's own key K3s only deletes them.
        let both = [record(former, 4), record("secret", 9)];
        let opened = locate(&both, &tokens(&[&token])).unwrap();
        assert!(!opened.moves());
        assert_eq!(opened.record.revision, 9);
        assert_eq!(opened.superseded.len(), 1);
    }
}

#[test]
fn each_case_of_k3s_has_its_words() {
    let none = locate(&[], &tokens(&["secret"])).unwrap_err();
    assert!(none.to_string().starts_with("no bootstrap data found"));

    let unknown = locate(&[record("secret", 4)], &Candidates::new()).unwrap_err();
    assert!(matches!(unknown, LocateError::NoToken { .. }));

    let other = locate(&[record("secret", 4)], &tokens(&["wrong", "too"])).unwrap_err();
    let text = other.to_string();
    for part in [
        "encrypted with a different token",
        &record("secret", 0).key,
        &record("wrong", 0).key,
        "file 1",
    ] {
        assert!(text.contains(part), "{text}");
    }
    assert!(!text.contains("wrong"), "no token is told");

    let several = [record("secret", 4), record("stranger", 5)];
    let several = locate(&several, &tokens(&["secret"])).unwrap_err();
    let text = several.to_string();
    assert!(
        text.contains("found multiple bootstrap keys in storage"),
        "{text}"
    );
    assert!(text.contains("opens with the token from file 0"), "{text}");
    assert!(text.contains("of an unknown token"), "{text}");
    // Two tokens that both open something: it is not for us to choose.
    let two = [record("secret", 4), record("stranger", 5)];
    let two = locate(&two, &tokens(&["secret", "stranger"])).unwrap_err();
    assert!(matches!(two, LocateError::Several { .. }));
}

#[test]
fn locks_and_damage_are_told_apart() {
    for tokens in [tokens(&["secret"]), tokens(&["wrong"]), Candidates::new()] {
        let mut lock = record("secret", 4);
        lock.value.clear();
        let error = locate(&[lock], &tokens).unwrap_err();
        assert!(matches!(error, LocateError::Locked { .. }), "{error}");
    }
    let mut cut = record("secret", 4);
    cut.value.truncate(20);
    let error = locate(&[cut], &tokens(&["secret"])).unwrap_err();
    assert!(matches!(
        error,
        LocateError::Sealed {
            source: SealError::Malformed { .. },
            ..
        }
    ));
    // Another token's value under our name.
    let swapped = Record {
        value: record("other", 1).value,
        ..record("secret", 4)
    };
    let error = locate(&[swapped], &tokens(&["secret"])).unwrap_err();
    assert!(matches!(
        error,
        LocateError::Sealed {
            source: SealError::OtherPassphrase,
            ..
        }
    ));
}
