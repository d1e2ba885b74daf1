//! What is refused, and what it says.

use std::path::PathBuf;

use kubepki::apply::{Aftermath, ApplyError, MakeError, StepError};
use kubepki::edge::file::replace;
use kubepki::error_chain;
use kubepki::host::{Attributes, LocalHost};
use kubepki::journal::Progress;
use kubepki::plan::*;

use crate::case::{Case, finished};
use crate::faulty::FaultyHost;
use crate::node::{authority, executor, put};

#[tokio::test]
async fn a_stale_plan_is_refused_with_everything_that_differs() {
    let case = Case::new().await;
    case.write("old.txt", b"changed");
    case.write("new.txt", b"came");
    std::fs::remove_file(case.node.path("tls/admin.key")).unwrap();
    let changed = case.node.tree();
    let state = case.lock();
    let error = executor(&LocalHost, &state)
        .apply(&case.plan)
        .await
        .unwrap_err();
    assert_eq!(error.aftermath(), Aftermath::Refused);
    let ApplyError::Stale {
        differences,
        begun: false,
        ..
    } = error
    else {
        panic!("{error}")
    };
    let steps: Vec<u32> = differences
        .iter()
        .map(|difference| difference.step)
        .collect();
    assert_eq!(steps, [3, 6, 11]);
    case.node.assert_original(&changed);
    assert!(state.plans().unwrap().is_empty());
}

#[tokio::test]
async fn what_cannot_be_applied_changes_nothing() {
    let case = Case::new().await;
    let state = case.lock();
    let executor = executor(&LocalHost, &state);
    let far = Target::File {
        host: "far".to_owned(),
        path: PathBuf::from("/x"),
    };
    let near = |path: &str| Target::File {
        host: "local".to_owned(),
        path: path.into(),
    };
    let text = || put(Attributes::new(0o600), Content::Text(String::new()));
    let unnamed = put(
        Attributes::new(0o600),
        Content::LeafKey(LeafId("none".to_owned())),
    );
    let mut any = case.plan.clone();
    any.steps[0].before = Before::Any;
    let mut gap = case.plan.clone();
    gap.steps.remove(3);
    let plans = [
        (
            "hypothetical",
            Plan {
                hypothetical: true,
                ..case.plan.clone()
            },
        ),
        ("unsupported", case.one_step(far, text())),
        ("unfit", case.one_step(near("relative"), text())),
        ("unfit", case.one_step(near("/x"), unnamed)),
        ("unfit", case.manual(Vec::new())),
        (
            "unfit",
            Plan {
                format: 9,
                ..case.plan.clone()
            },
        ),
        ("unfit", any),
        ("unfit", gap),
        ("stale", case.one_step(near("/no/such/directory/x"), text())),
    ];
    for (expected, plan) in plans {
        let error = executor.apply(&plan).await.unwrap_err();
        let kind = match &error {
            ApplyError::Hypothetical { .. } => "hypothetical",
            ApplyError::Unsupported { .. } => "unsupported",
            ApplyError::Unfit { .. } => "unfit",
            ApplyError::Stale { .. } => "stale",
            _ => "other",
        };
        assert_eq!(kind, expected, "{error}");
        assert_eq!(error.aftermath(), Aftermath::Refused, "{error}");
    }
    case.node.assert_original(&case.original);
    assert!(state.plans().unwrap().is_empty());
}

/// A plan of one call.
fn call(case: &Case, url: &str) -> Plan {
    let target = Target::Http {
        method: "PUT".to_owned(),
        url: url.to_owned(),
    };
    let text = || Content::Text("x".to_owned());
    let action = Action::Call {
        body: text(),
        former: text(),
        former_url: None,
    };
    case.one_step(target, action)
}

/// Plans of one transaction each, and of two on the same key.
#[tokio::test]
async fn a_transaction_needs_its_datastore_its_key_and_a_condition() {
    let case = Case::new().await;
    let state = case.lock();
    let executor = executor(&LocalHost, &state);
    let key = |key: &str| Target::DatastoreKey {
        key: key.to_owned(),
    };
    let txn = |before: Before, operation: TxnOperation| {
        let steps = case
            .one_step(key("/bootstrap/x"), Action::Txn { operation })
            .steps;
        let step = |number| Step {
            number,
            before: before.clone(),
            ..steps[0].clone()
        };
        let mut plan = case.node.plan_of("one", vec![step(1), step(2)]);
        plan.datastore = Some("here".to_owned());
        plan
    };
    let once = |mut plan: Plan| {
        plan.steps.truncate(1);
        plan
    };
    let text = || Content::Text("x".to_owned());
    let create = || TxnOperation::Create(text());
    let update = || TxnOperation::Update(text());
    let at = Before::Revision(3);
    let mut nowhere = once(txn(at.clone(), update()));
    nowhere.datastore = None;
    let mut foreign = once(txn(at.clone(), update()));
    foreign.steps[0].target = key("/registry/secrets/x");
    let unready = TxnOperation::Create(Content::LeafKey(LeafId("client-admin".to_owned())));
    let plans = [
        ("unfit", nowhere),
        ("unfit", foreign),
        ("unfit", once(txn(at.clone(), create()))),
        ("unfit", once(txn(Before::Absent, update()))),
        ("unfit", once(txn(Before::Any, TxnOperation::Delete))),
        ("unfit", once(txn(Before::RevisionOfStep(1), update()))),
        ("unfit", once(txn(Before::Absent, unready))),
        ("unfit", txn(Before::Absent, create())),
        ("unfit", txn(at.clone(), update())),
        ("unfit", txn(at.clone(), TxnOperation::Delete)),
        ("unreached", once(txn(at, update()))),
        ("unreached", once(txn(Before::Absent, create()))),
        (
            "unreached",
            call(&case, "https://127.0.0.1:6443/v1-k3s/cert/cacerts"),
        ),
        (
            "unfit",
            call(&case, "http://127.0.0.1:6443/v1-k3s/cert/cacerts"),
        ),
    ];
    for (expected, plan) in plans {
        let error = executor.apply(&plan).await.unwrap_err();
        let kind = match &error {
            ApplyError::Unfit { .. } => "unfit",
            ApplyError::NoDatastore { .. } | ApplyError::NoCaller { .. } => "unreached",
            _ => "other",
        };
        assert_eq!(kind, expected, "{error}: {:?}", plan.steps);
        assert_eq!(error.aftermath(), Aftermath::Refused, "{error}");
    }
    case.node.assert_original(&case.original);
    assert!(state.plans().unwrap().is_empty());
}

#[tokio::test]
async fn a_ca_key_that_was_replaced_is_found_before_anything_is_changed() {
    let case = Case::new().await;
    let other = authority("other");
    case.write("tls/ca.key", other.key().to_pem().unwrap().as_bytes());
    let state = case.lock();
    let error = executor(&LocalHost, &state)
        .apply(&case.plan)
        .await
        .unwrap_err();
    let text = error_chain(&error);
    let ApplyError::Unprepared {
        step: 4, source, ..
    } = error
    else {
        panic!("{text}")
    };
    assert!(
        matches!(*source, StepError::Make(MakeError::OtherKey { .. })),
        "{text}"
    );
    assert!(
        text.contains(&other.key().spki_sha256().to_string()),
        "{text}"
    );
    let certificate = case
        .plan
        .leaves
        .values()
        .next()
        .unwrap()
        .certificate
        .clone()
        .unwrap();
    assert!(text.contains(&certificate.issuer.spki), "{text}");
    assert!(state.plans().unwrap().is_empty());
}

#[tokio::test]
async fn a_step_in_flight_that_somebody_else_changed_is_a_conflict() {
    let case = Case::new().await;
    // Call after call, until the one that puts the admin's certificate in place.
    for nth in 1.. {
        case.node.restore(&case.kept);
        let state = case.lock();
        let outcome = executor(&FaultyHost::at(nth, true), &state)
            .apply(&case.plan)
            .await;
        assert!(outcome.is_err(), "{outcome:?}");
        let entries = state.journal(&case.plan.id).unwrap().entries;
        let replay = kubepki::journal::replay(&entries).unwrap();
        if replay.progress == (Progress::InFlight { step: 4 }) {
            break;
        }
    }
    let foreign = b"somebody else's";
    case.write("tls/admin.crt", foreign);
    let state = case.lock();
    let resumed = executor(&LocalHost, &state)
        .resume(&case.plan.id)
        .await
        .unwrap_err();
    let undone = executor(&LocalHost, &state)
        .undo(&case.plan.id)
        .await
        .unwrap_err();
    for error in [resumed, undone] {
        let text = error_chain(&error);
        let ApplyError::Stopped {
            step: 4, source, ..
        } = error
        else {
            panic!("{text}")
        };
        let StepError::Conflict {
            before,
            after,
            found,
            ..
        } = *source
        else {
            panic!("{text}")
        };
        assert!(
            before != after && after != found && found != before,
            "{text}"
        );
        assert!(text.contains(&pki::sha256(foreign).to_string()), "{text}");
    }
    assert_eq!(
        std::fs::read(case.node.path("tls/admin.crt")).unwrap(),
        foreign
    );
}

#[tokio::test]
async fn undo_refuses_what_was_changed_since_and_lists_it() {
    let case = Case::new().await;
    case.apply_all(&case.plan).await;
    case.write("new.txt", b"edited");
    case.write("backup/mine", b"stays");
    let changed = case.node.tree();
    let state = case.lock();
    let error = executor(&LocalHost, &state)
        .undo(&case.plan.id)
        .await
        .unwrap_err();
    let ApplyError::Stale {
        differences,
        begun: true,
        ..
    } = error
    else {
        panic!("{error}")
    };
    let paths: Vec<_> = differences
        .iter()
        .map(|difference| &difference.path)
        .collect();
    assert_eq!(
        paths,
        [&case.node.path("new.txt"), &case.node.path("backup")]
    );
    case.node.assert_original(&changed);
}

#[tokio::test]
async fn nothing_else_is_applied_while_a_plan_is_interrupted() {
    let case = Case::new().await;
    let state = case.lock();
    let mut nth = 1;
    while state.journal(&case.plan.id).unwrap().entries.is_empty() {
        let outcome = executor(&FaultyHost::at(nth, false), &state)
            .apply(&case.plan)
            .await;
        assert!(outcome.is_err(), "{outcome:?}");
        nth += 1;
    }
    let other = Plan {
        id: PlanId("other".to_owned()),
        ..case.plan.clone()
    };
    let executor = executor(&LocalHost, &state);
    let error = executor.apply(&other).await.unwrap_err();
    assert!(
        matches!(&error, ApplyError::Unfinished { plan } if *plan == case.plan.id),
        "{error}"
    );
    assert_eq!(error.aftermath(), Aftermath::Interrupted);
    let error = executor.apply(&case.plan).await.unwrap_err();
    assert!(matches!(error, ApplyError::Begun { .. }), "{error}");

    let saved = state
        .path()
        .join("plans")
        .join(format!("{}.json", case.plan.id));
    let text = std::fs::read_to_string(&saved).unwrap();
    let edited = text.replace("rotate admin", "rotate other");
    replace(&saved, edited.as_bytes(), &Attributes::new(0o600)).unwrap();
    let error = executor.resume(&case.plan.id).await.unwrap_err();
    assert!(matches!(error, ApplyError::PlanChanged { .. }), "{error}");
    replace(&saved, text.as_bytes(), &Attributes::new(0o600)).unwrap();
    finished(executor.resume(&case.plan.id).await);
}
