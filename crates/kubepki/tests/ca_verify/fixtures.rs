//! The sets that real clusters were given, and what K3s said of them.

use std::path::{Path, PathBuf};

use kubepki::bootstrap::{Bundle, Field};
use kubepki::ca::verify::{Continuity, Intent, Places, Question, Stamps, Verdict, verify};
use kubepki::inventory::DetectedRelease;
use pki::UnixTime;
use testkit::Fixture;

use super::lab::{oracle, read};

/// The day on which the fixtures were written, after the last of them: 2026-11-22T07:32:00Z.
const AT: UnixTime = UnixTime::from_secs(1_795_332_720);

struct Case {
    old: Bundle,
    new: Bundle,
    places: Places,
}

impl Case {
    fn new(old: PathBuf, new: PathBuf) -> Self {
        Self {
            old: read(&old),
            new: read(&new),
            places: Places { old, new },
        }
    }

    fn verdict(&self) -> Verdict {
        verify(&Question {
            old: Some(&self.old),
            new: &self.new,
            now: AT,
            on_date: AT,
            release: DetectedRelease::Unknown,
            intent: Intent::Ordinary,
            stamps: Stamps::Now,
            places: self.places.clone(),
        })
    }
}

fn recorded_hash(server: &Path) -> String {
    let token = std::fs::read_to_string(server.join("token")).unwrap();
    token
        .strip_prefix("K10")
        .unwrap()
        .split("::")
        .next()
        .unwrap()
        .to_owned()
}

fn rules(verdict: &Verdict) -> Vec<&'static str> {
    let mut rules: Vec<_> = verdict.refusals().map(|finding| finding.rule).collect();
    rules.dedup();
    rules
}

fn hex(hash: Option<pki::Digest>) -> String {
    hash.unwrap().to_string()
}

#[test]
fn same_root() {
    let before = Fixture::without_datastore("k3s-1.36-custom-ca");
    let after = Fixture::without_datastore("k3s-1.36-custom-ca-rotated");
    let case = Case::new(
        before.data_dir().join("server"),
        before.extra("staged-same-root"),
    );
    let verdict = case.verdict();
    assert_eq!(verdict.k3s_message(), "");
    assert!(
        verdict.worst() < Some(kubepki::check::Severity::Broken),
        "{:#?}",
        verdict.findings
    );
    assert_eq!(verdict.reach(), Continuity::SameRoot);
    assert!(!verdict.tokens_change());
    let recorded = recorded_hash(&after.data_dir().join("server"));
    assert_eq!(hex(verdict.hash_before), recorded);
    assert_eq!(hex(verdict.hash_after), recorded);
}

/// K3s took each of these sets: its own script's, cross-signed.
#[test]
fn cross_signed_by_the_script() {
    for name in [
        "k3s-1.36-default-rotated",
        "k3s-1.36-postgres",
        "k3s-1.36-mariadb",
    ] {
        let fixture = Fixture::without_datastore(name);
        let server = fixture.data_dir().join("server");
        let staged = server.join("rotate-ca");
        // The old CAs are in the fixture that was rotated after its restart only by the script's
        // copies.
        let old = match name {
            "k3s-1.36-default-rotated" => old_of_the_script(&fixture, &staged),
            _ => server.clone(),
        };
        let case = Case::new(old, staged);
        let verdict = case.verdict();
        assert_eq!(verdict.k3s_message(), "", "{name}");
        assert_eq!(verdict.reach(), Continuity::CrossSigned, "{name}");
        assert!(verdict.tokens_change(), "{name}");
        // K3s takes the script's order, and every OpenSSL client breaks.
        assert_eq!(
            rules(&verdict),
            ["root-before-cross"],
            "{name}: {:#?}",
            verdict.findings
        );
        let new_signer = verdict.service_keys.signer_changes();
        assert!(new_signer, "{name}");
        assert_eq!(verdict.service_keys.dropped().count(), 0, "{name}");
        if name == "k3s-1.36-default-rotated" {
            assert_eq!(hex(verdict.hash_after), recorded_hash(&server));
            let printed = fixture.extra_text("script-printed-tokens.txt");
            assert!(!printed.contains(&hex(verdict.hash_after)));
        } else {
            // Not restarted: the token in the tree is the one before.
            assert_eq!(hex(verdict.hash_before), recorded_hash(&server), "{name}");
        }
    }
}

/// The default CAs before the script ran, from the copies that it keeps.
fn old_of_the_script(fixture: &Fixture, staged: &Path) -> PathBuf {
    let old = fixture.scratch("old");
    for (field, key) in Field::AUTHORITIES {
        for (field, ending) in [(field, "pem"), (key, "key")] {
            let stem = field.path().with_extension("");
            let stem = stem.to_str().unwrap().replace("-ca", "-root-old");
            let to = field.under(&old);
            std::fs::create_dir_all(to.parent().unwrap()).unwrap();
            std::fs::copy(staged.join(format!("{stem}.{ending}")), to).unwrap();
        }
    }
    let keys = std::fs::read_to_string(Field::ServiceKey.under(staged)).unwrap();
    let second = keys.rfind("-----BEGIN").unwrap();
    std::fs::write(Field::ServiceKey.under(&old), &keys[second..]).unwrap();
    old
}

#[test]
fn new_root_is_refused_in_the_words_of_the_log() {
    let before = Fixture::without_datastore("k3s-1.36-custom-ca");
    let after = Fixture::without_datastore("k3s-1.36-new-root-forced");
    let case = Case::new(
        before.data_dir().join("server"),
        after.data_dir().join("server"),
    );
    let verdict = case.verdict();
    let log = after.extra_text("rotate-ca-server-messages.log");
    let logged = |before: &str| {
        let (_, rest) = log.split_once(before).unwrap();
        rest.split('"').next().unwrap().replace("\\n", "\n")
    };
    let message = verdict.k3s_message();
    assert_eq!(
        message,
        logged("failed to validate new CA certificates and keys: ")
    );
    assert_eq!(message, logged("forced, ignoring validation errors: "));
    assert_eq!(message, oracle(&case.places.old, &case.places.new, AT));
    assert_eq!(verdict.reach(), Continuity::NewRoot);
    assert_eq!(rules(&verdict), ["new-root", "service-key-lost"]);
    assert_eq!(hex(verdict.hash_after), recorded_hash(&case.places.new));
    assert_eq!(hex(verdict.hash_before), recorded_hash(&case.places.old));
}

/// What the custom-CA script made is good for a first start; what it left undone is not.
#[test]
fn sets_of_the_custom_ca_script() {
    let fixture = Fixture::new("k3s-1.36-script-recordings");
    for (input, whole) in [
        ("nothing", true),
        ("root-only", true),
        ("root-and-intermediate", true),
        ("intermediate-without-key", false),
        ("root-without-key", false),
    ] {
        let places = Places {
            old: PathBuf::from("/nowhere"),
            new: fixture.extra(input).join("server"),
        };
        let new = read(&places.new);
        let verdict = verify(&Question {
            old: None,
            new: &new,
            now: AT,
            on_date: AT.plus(365 * pki::DAY),
            release: DetectedRelease::Unknown,
            intent: Intent::Ordinary,
            stamps: Stamps::AsStaged,
            places,
        });
        assert_eq!(verdict.k3s, [], "{input}");
        let expected: &[&str] = if whole { &[] } else { &["missing"] };
        assert_eq!(
            rules(&verdict),
            expected,
            "{input}: {:#?}",
            verdict.findings
        );
        if whole {
            assert_eq!(verdict.reach(), Continuity::First);
        }
    }
}

/// Each rotated fixture's token follows from its CA file alone.
#[test]
fn recorded_tokens_follow_from_the_files() {
    for name in [
        "k3s-1.36-sqlite",
        "k3s-1.36-custom-ca",
        "k3s-1.36-custom-ca-rotated",
        "k3s-1.36-default-rotated",
        "k3s-1.36-encryption-token-rotated",
        "k3s-1.36-new-root-forced",
    ] {
        let fixture = Fixture::without_datastore(name);
        let server = fixture.data_dir().join("server");
        let case = Case::new(server.clone(), server.clone());
        let verdict = case.verdict();
        assert_eq!(hex(verdict.hash_after), recorded_hash(&server), "{name}");
        assert_eq!(verdict.reach(), Continuity::Unchanged, "{name}");
    }
    // v1.21.2 pins the file itself.
    for name in ["k3s-1.21-sqlite", "k3s-1.21-custom-ca"] {
        let fixture = Fixture::without_datastore(name);
        let server = fixture.data_dir().join("server");
        let set = read(&server);
        let release = "v1.21.2".parse().unwrap();
        let verdict = verify(&Question {
            old: Some(&set),
            new: &set,
            now: AT,
            on_date: AT,
            release: DetectedRelease::Known(release),
            intent: Intent::Ordinary,
            stamps: Stamps::Now,
            places: Places {
                old: server.clone(),
                new: server.clone(),
            },
        });
        assert_eq!(hex(verdict.hash_after), recorded_hash(&server), "{name}");
        assert!(rules(&verdict).contains(&"release"), "{name}");
    }
}
