//! Sets that are wrong in one way each. K3s's verdict on every one is held to Go's.

mod bundle;
mod cross;
mod file;
mod fitness;
mod key;
mod service;

use kubepki::bootstrap::Field;
use kubepki::ca::verify::{Intent, Verdict};
use kubepki::check::Severity;
use kubepki::inventory::DetectedRelease;
use pki::DAY;
use testkit::openssl_ok;

use super::lab::{Ca, EC, Lab, now, pem, root, rsa_key, span};

const CA: Field = Field::ServerCa;
const KEY: Field = Field::ServerCaKey;

/// A way to spoil a set.
#[derive(Clone, Copy)]
struct Case {
    name: &'static str,
    spoil: fn(&mut Lab),
    /// Whether K3s takes it.
    k3s: bool,
    /// Rules that refuse it, in any order; none where only warnings are given.
    refused: &'static [&'static str],
    /// Rules that only warn, some of them.
    told: &'static [&'static str],
}

const fn case(
    name: &'static str,
    spoil: fn(&mut Lab),
    k3s: bool,
    refused: &'static [&'static str],
    told: &'static [&'static str],
) -> Case {
    Case {
        name,
        spoil,
        k3s,
        refused,
        told,
    }
}

const CASES: [&[Case]; 6] = [
    bundle::CASES,
    fitness::CASES,
    key::CASES,
    file::CASES,
    cross::CASES,
    service::CASES,
];

fn blocks(text: &str) -> Vec<&str> {
    text.split_inclusive("-----END CERTIFICATE-----\n")
        .collect()
}

fn first_of(text: &str) -> &str {
    blocks(text)[0]
}

fn reversed(text: &str) -> String {
    blocks(text).into_iter().rev().collect()
}

fn pkcs8_ec() -> String {
    let arguments = [
        "genpkey",
        "-algorithm",
        "EC",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
    ];
    String::from_utf8(openssl_ok(&arguments, b"").stdout).unwrap()
}

/// Stages a server CA with these extensions under the old intermediate.
fn odd(lab: &Lab, extensions: &str, key: &[&str]) {
    let (certificate, key) = lab.odd(&lab.intermediate, key, extensions, "-sha256");
    lab.stage(CA, certificate + &lab.intermediate.bundle());
    lab.stage(KEY, key);
}

/// Stages a server CA under a new root that the old intermediate's root vouches for.
fn cross(lab: &Lab, order: fn(&str, &str, &str, &str) -> String) {
    let new = root("new-root", span(-1, 2000));
    let ca = new.below("server-ca@3", span(-1, 1500), None);
    let x = lab.root.cross(&new, span(-1, 2000));
    let (old, own) = (lab.root.pem(), new.pem());
    let bundle = order(&ca.pem(), &x.to_pem(), &own, &old);
    lab.stage_ca(CA, &ca, &bundle);
    let old_bundle = pem(&lab.intermediate.above);
    assert_eq!(old_bundle, lab.root.pem());
}

fn rules(verdict: &Verdict, severities: &[Severity]) -> Vec<&'static str> {
    let mut rules: Vec<_> = verdict
        .findings
        .iter()
        .filter(|finding| severities.contains(&finding.severity))
        .map(|finding| finding.rule)
        .collect();
    rules.sort_unstable();
    rules.dedup();
    rules
}

#[test]
fn each_wrong_set_has_its_verdict() {
    let mut problems = Vec::new();
    for case in CASES.concat() {
        let mut lab = Lab::new();
        (case.spoil)(&mut lab);
        lab.now = now();
        let verdict = lab.verdict();
        let (ours, theirs) = (verdict.k3s_message(), lab.oracle());
        if ours != theirs {
            problems.push(format!("{}: K3s says\n{theirs}\nwe say\n{ours}", case.name));
        }
        if verdict.k3s_accepts() != case.k3s {
            problems.push(format!(
                "{}: K3s {}: {theirs}",
                case.name,
                if case.k3s { "refuses" } else { "accepts" }
            ));
        }
        let mut wanted = case.refused.to_vec();
        wanted.sort_unstable();
        let refused = rules(&verdict, &[Severity::Broken]);
        if refused != wanted {
            problems.push(format!(
                "{}: refused for {refused:?}, not {wanted:?}: {:#?}",
                case.name, verdict.findings
            ));
        }
        let told = rules(
            &verdict,
            &[Severity::Note, Severity::Warning, Severity::Due],
        );
        if let Some(missing) = case.told.iter().find(|rule| !told.contains(rule)) {
            problems.push(format!(
                "{}: {missing} is not told, {told:?} are",
                case.name
            ));
        }
    }
    let count = CASES.concat().len();
    assert!(count > 55, "{count}");
    assert!(
        problems.is_empty(),
        "{} problems:\n{}",
        problems.len(),
        problems.join("\n")
    );
}

#[test]
fn staged_files_older_than_the_disk_are_refused_unless_they_get_new_times() {
    let lab = Lab::new();
    let file = std::fs::File::open(CA.under(&lab.new_set())).unwrap();
    let old = std::time::SystemTime::now() - std::time::Duration::from_secs(90);
    file.set_modified(old).unwrap();
    let verdict = lab.verdict();
    assert_eq!(rules(&verdict, &[Severity::Broken]), ["older-than-disk"]);
    assert!(verdict.k3s_accepts());
    let mend = verdict.refusals().next().unwrap().mend.clone().unwrap();
    assert!(mend.starts_with("touch "), "{mend}");
    let verdict = lab.verdict_of(|mut question| {
        question.stamps = kubepki::ca::verify::Stamps::Now;
        question
    });
    assert_eq!(rules(&verdict, &[Severity::Broken]), [""; 0]);
}

#[test]
fn a_date_far_away_is_asked_for() {
    let lab = Lab::new();
    let on = |days: i64| {
        let date = lab.now.plus(days * DAY);
        lab.verdict_of(|mut question| {
            question.on_date = date;
            question
        })
    };
    assert_eq!(rules(&on(1000), &[Severity::Broken]), [""; 0]);
    assert_eq!(rules(&on(1700), &[Severity::Due]), ["ends-soon"]);
    assert_eq!(rules(&on(2100), &[Severity::Broken]), ["ends-before"]);
    // The root lasts longer, but from then on no path is left to take the hash from.
    assert!(rules(&on(2100), &[Severity::Warning]).contains(&"token-hash-later"));
}

#[test]
fn an_old_k3s_is_told() {
    let lab = Lab::new();
    for (version, refused) in [
        ("v1.26.1", true),
        ("v1.26.2", false),
        ("v1.25.7", false),
        ("v1.24.10", true),
    ] {
        let verdict = lab.verdict_of(|mut question| {
            question.release = DetectedRelease::Known(version.parse().unwrap());
            question
        });
        let rules = rules(&verdict, &[Severity::Broken]);
        assert_eq!(rules == ["release"], refused, "{version}: {rules:?}");
    }
}

#[test]
fn after_a_compromise_nothing_old_may_be_left() {
    let compromised = |lab: &Lab| {
        lab.verdict_of(|mut question| {
            question.intent = Intent::Compromised;
            question
        })
    };
    // Same roots everywhere.
    let lab = Lab::new();
    let verdict = compromised(&lab);
    assert_eq!(
        rules(&verdict, &[Severity::Broken]),
        [
            "compromised-cross",
            "compromised-service-key",
            "compromised-trusted"
        ]
    );
    // Everything new.
    for (field, _) in Field::AUTHORITIES {
        let new =
            root("fresh-root", span(-1, 3000)).below(&format!("{field}@3"), span(-1, 900), None);
        lab.stage_ca(field, &new, &new.bundle());
    }
    lab.stage(Field::ServiceKey, rsa_key(2));
    let verdict = compromised(&lab);
    assert_eq!(
        rules(&verdict, &[Severity::Broken]),
        [""; 0],
        "{:#?}",
        verdict.findings
    );
    assert!(!verdict.k3s_accepts());
    // A cross-certificate.
    cross(&lab, |ca, x, s, _| [ca, x, s].concat());
    let verdict = compromised(&lab);
    assert_eq!(rules(&verdict, &[Severity::Broken]), ["compromised-cross"]);
    // A CA that stays.
    let lab = Lab::new();
    lab.remove(CA);
    lab.remove(KEY);
    assert!(rules(&compromised(&lab), &[Severity::Broken]).contains(&"compromised-kept"));
}

#[test]
fn before_the_first_start_the_set_must_be_whole() {
    let verdict = |lab: &Lab| {
        lab.verdict_of(|mut question| {
            question.old = None;
            question
        })
    };
    let lab = Lab::new();
    let good = verdict(&lab);
    assert_eq!(
        (rules(&good, &[Severity::Broken]), good.k3s),
        (vec![], vec![])
    );
    assert_eq!(good.hash_before, None);
    // A self-signed CA alone is what K3s makes itself.
    let own = root("own", span(-1, 3000));
    lab.stage_ca(CA, &own, &own.pem());
    assert_eq!(rules(&verdict(&lab), &[Severity::Broken]), [""; 0]);
    for field in [Field::ServiceKey, CA, Field::EtcdPeerCaKey] {
        let lab = Lab::new();
        lab.remove(field);
        assert_eq!(
            rules(&verdict(&lab), &[Severity::Broken]),
            ["missing"],
            "{field}"
        );
    }
    let lab = Lab::new();
    lab.stage(KEY, lab.staged(Field::ClientCaKey));
    assert_eq!(rules(&verdict(&lab), &[Severity::Broken]), ["key-mismatch"]);
}
