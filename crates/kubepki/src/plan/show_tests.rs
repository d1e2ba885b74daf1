//! What an operator reads of a plan.

use super::*;
use crate::plan::{PLAN_FORMAT, PlanId};

fn plan() -> Plan {
    let step = |number, target, before, action| Step {
        number,
        target,
        before,
        action,
        reason: "test".to_owned(),
    };
    let key = || Target::DatastoreKey {
        key: "/bootstrap/0123456789ab".to_owned(),
    };
    let kept = || Content::Restamped {
        plan: PlanId("other".to_owned()),
        step: 4,
        sha256: String::new(),
        sent: false,
    };
    let txn = |operation| Action::Txn { operation };
    let url = "https://127.0.0.1:6443/v1-k3s/cert/cacerts".to_owned();
    let call = Action::Call {
        body: Content::Text(String::new()),
        former: kept(),
        former_url: Some(format!("{url}?force=true")),
    };
    Plan {
        format: PLAN_FORMAT,
        id: PlanId("plan".to_owned()),
        undoes: None,
        title: "test".to_owned(),
        node: "node".to_owned(),
        root: "/data".into(),
        datastore: Some("postgres://kine@db:5432/kubernetes".to_owned()),
        irreversible: Some("the old keys are known".to_owned()),
        deferrable: std::collections::BTreeSet::new(),
        created: UnixTime::from_secs(0),
        hypothetical: false,
        leaves: Default::default(),
        steps: vec![
            step(1, key(), Before::Absent, txn(TxnOperation::Create(kept()))),
            step(
                2,
                key(),
                Before::RevisionOfStep(1),
                txn(TxnOperation::Update(kept())),
            ),
            step(3, key(), Before::Revision(7), txn(TxnOperation::Delete)),
            step(
                4,
                Target::Http {
                    method: "PUT".to_owned(),
                    url,
                },
                Before::Any,
                call,
            ),
        ],
        notes: Vec::new(),
    }
}

#[test]
fn rows_and_calls_are_told_in_words() {
    let text = show(&plan(), None);
    for expected in [
        "Datastore postgres://kine@db:5432/kubernetes\n",
        "   1. create datastore key /bootstrap/0123456789ab\n      before: nothing\n",
        "what step 4 of other replaced, its files' times set to now, at a new revision",
        "before: as step 1 leaves it",
        "   3. delete datastore key /bootstrap/0123456789ab\n      before: revision 7\n      \
         after:  nothing\n",
        "   4. call PUT https://127.0.0.1:6443/v1-k3s/cert/cacerts\n",
        "It cannot be taken back: the old keys are known\n",
    ] {
        assert!(text.contains(expected), "{expected:?} is not in\n{text}");
    }
    let headlines: Vec<String> = plan().steps.iter().map(headline).collect();
    assert_eq!(headlines[2], "delete datastore key /bootstrap/0123456789ab");
}

/// Plans of the first release have none of the later fields, and come back as they were.
#[test]
fn a_plan_is_read_as_it_was_written_with_or_without_later_fields() {
    let plan = plan();
    let text = serde_json::to_string(&plan).unwrap();
    assert_eq!(serde_json::from_str::<Plan>(&text).unwrap(), plan);

    let first = r#"{"format":1,"id":"p","title":"t","node":"n","root":"/r",
        "created":"2026-11-22T10:15:00Z","leaves":{},"notes":[],"steps":[
        {"number":1,"target":{"datastore-key":{"key":"/bootstrap/x"}},
         "before":{"revision":3},"action":{"txn":{"operation":"delete"}},"reason":"r"}]}"#;
    let old: Plan = serde_json::from_str(first).unwrap();
    assert_eq!((&old.datastore, &old.irreversible), (&None, &None));
    assert_eq!(old.steps[0].before, Before::Revision(3));
    let again = serde_json::to_value(&old).unwrap();
    assert!(again.get("datastore").is_none() && again.get("irreversible").is_none());
}

#[test]
fn what_it_means_comes_first_and_a_certificate_stands_with_its_key() {
    let file = |name: &str| Target::File {
        host: "local".to_owned(),
        path: std::path::Path::new("/d/tls").join(name),
    };
    let put = |text: &str| Action::Put {
        attributes: crate::host::Attributes::new(0o600),
        content: Content::Text(text.to_owned()),
    };
    let step = |number, name: &str, reason: &str| Step {
        number,
        target: file(name),
        before: Before::Absent,
        action: put(name),
        reason: reason.to_owned(),
    };
    let plan = Plan {
        root: "/d".into(),
        steps: vec![
            step(1, "a.key", "one"),
            step(2, "a.crt", "one"),
            step(3, "b.crt", "one"),
            step(4, "b.key", "another"),
            step(5, "c.crt", "one"),
            step(6, "d.key", "one"),
        ],
        notes: vec!["nobody breaks".to_owned()],
        ..plan()
    };
    let text = show(&plan, None);
    let lines: Vec<&str> = text
        .lines()
        .filter(|line| !line.starts_with("      "))
        .collect();
    let first = lines.iter().position(|line| line.contains("nobody breaks"));
    assert_eq!(first, Some(4), "{text}");
    let steps = [
        "   1. put tls/a.crt and .key (steps 1, 2)",
        "   3. put tls/b.crt",
        "   4. put tls/b.key",
        "   5. put tls/c.crt",
        "   6. put tls/d.key",
    ];
    assert_eq!(lines[5..], steps, "{text}");
    let after = "      after:  5 bytes of text, mode 0600; key: 5 bytes of text, mode 0600\n";
    assert!(text.contains(after), "{text}");
}
