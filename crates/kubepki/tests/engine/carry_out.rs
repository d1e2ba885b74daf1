//! Plans that are carried out, interrupted, resumed and taken back.

use kubepki::apply::{ApplyError, Standing, history, unfinished};
use kubepki::host::{Attributes, Host, LocalHost};
use kubepki::journal::Progress;
use kubepki::plan::*;
use kubepki::state::Locked;
use testkit::Tree;

use crate::case::{Case, finished};
use crate::faulty::FaultyHost;
use crate::node::{executor, put};

#[tokio::test]
async fn a_plan_is_done_undone_and_the_undo_undone() {
    let case = Case::new().await;
    let done = case.apply_all(&case.plan).await;
    case.node.assert_finished(&done, &case.plan.id);

    let state = case.lock();
    let executor = executor(&LocalHost, &state);
    finished(executor.resume(&case.plan.id).await);
    let undo = executor.undo(&case.plan.id).await.unwrap();
    assert_eq!(undo.undoes, Some(case.plan.id.clone()));
    assert!(
        undo.notes.iter().any(|note| note.contains("stay valid")),
        "{:?}",
        undo.notes
    );
    finished(executor.apply(&undo).await);
    case.node.assert_original(&case.original);
    let again = executor.undo(&case.plan.id).await.unwrap_err();
    assert!(matches!(again, ApplyError::Undone { .. }), "{again}");

    let redo = executor.undo(&undo.id).await.unwrap();
    finished(executor.apply(&redo).await);
    // All of it, the leaf too: the same key and certificate, from the backups.
    let options = testkit::DiffOptions::exact().without_directory_mtimes();
    Tree::assert_equal(&done, &case.node.tree(), &options);

    let past = history(&state).unwrap();
    assert!(
        past.iter().all(|plan| plan.standing == Standing::Finished),
        "{past:?}"
    );
    let undone_by = |id: &PlanId| {
        past.iter()
            .find(|plan| plan.id == *id)
            .unwrap()
            .undone_by
            .clone()
    };
    assert_eq!(undone_by(&undo.id), Some(redo.id));
    assert_eq!(undone_by(&case.plan.id), None);
    assert_eq!(unfinished(&state).unwrap(), None);
}

/// Fails at each call to the host, before and after it takes effect; goes on in both directions,
/// which fails too, at a call further on each time.
#[tokio::test]
async fn every_failing_call_can_be_resumed_and_undone() {
    let case = Case::new().await;
    let done = case.apply_all(&case.plan).await;
    let mut failures = 0;
    for nth in 1.. {
        let mut broke = false;
        for (after, resumes) in [(false, false), (false, true), (true, false), (true, true)] {
            case.node.restore(&case.kept);
            let state = case.lock();
            let host = FaultyHost::at(nth, after);
            let outcome = executor(&host, &state).apply(&case.plan).await;
            assert_eq!(host.broke(), outcome.is_err(), "call {nth}");
            broke |= host.broke();
            failures += usize::from(host.broke());
            let begun = !state.journal(&case.plan.id).unwrap().entries.is_empty();
            if !begun {
                case.node.assert_original(&case.original);
            } else if resumes {
                resume_stumbling(&state, &case.plan.id, nth, after).await;
                case.node.assert_finished(&done, &case.plan.id);
            } else {
                undo_stumbling(&case, &state, nth, after).await;
                case.node.assert_original(&case.original);
                assert_eq!(unfinished(&state).unwrap(), None);
            }
        }
        if !broke {
            break;
        }
    }
    assert!(failures > 150, "{failures}");
}

async fn resume_stumbling(state: &Locked, id: &PlanId, nth: usize, after: bool) {
    let host = FaultyHost::at(nth % 11 + 1, after);
    if executor(&host, state).resume(id).await.is_err() {
        assert!(unfinished(state).unwrap().is_some());
        finished(executor(&LocalHost, state).resume(id).await);
    }
}

async fn undo_stumbling(case: &Case, state: &Locked, nth: usize, after: bool) {
    let undo = executor(&LocalHost, state)
        .undo(&case.plan.id)
        .await
        .unwrap();
    let host = FaultyHost::at(nth % 37 + 1, after);
    if executor(&host, state).apply(&undo).await.is_ok() {
        return;
    }
    if state.journal(&undo.id).unwrap().entries.is_empty() {
        finished(executor(&LocalHost, state).apply(&undo).await);
        return;
    }
    // The undo has begun: its plan must not go on any more, wherever it stands.
    let refused = executor(&LocalHost, state).resume(&case.plan.id).await;
    let entries = state.journal(&case.plan.id).unwrap().entries;
    let progress = kubepki::journal::replay(&entries).unwrap().progress;
    match (progress, refused) {
        (Progress::Finished, Ok(_)) => {}
        (_, Err(ApplyError::BeingUndone { by, .. })) => assert_eq!(by, undo.id),
        (Progress::Abandoned, Err(ApplyError::Abandoned { .. })) => {}
        other => panic!("{other:?}"),
    }
    resume_stumbling(state, &undo.id, nth, after).await;
}

#[tokio::test]
async fn a_touch_does_not_make_a_plan_stale_and_undo_gives_the_touched_time_back() {
    let case = Case::new().await;
    let path = case.node.path("old.txt");
    let mut entry = LocalHost.read(&path).await.unwrap().unwrap();
    entry.attributes.mtime = Some((1_710_000_000, 3));
    LocalHost.put(&path, &entry).await.unwrap();
    let touched = case.node.tree();
    case.apply_all(&case.plan).await;
    let state = case.lock();
    let undo = executor(&LocalHost, &state)
        .undo(&case.plan.id)
        .await
        .unwrap();
    finished(executor(&LocalHost, &state).apply(&undo).await);
    case.node.assert_original(&touched);
}

#[tokio::test]
async fn an_acl_is_kept_and_comes_back() {
    const ACL: &str = "system.posix_acl_access";
    let case = Case::new().await;
    for name in ["old.txt", "twice.txt"] {
        xattr::set(case.node.path(name), ACL, &acl_for_user_1000()).unwrap();
    }
    let original = case.node.tree();
    let twice = LocalHost
        .read(&case.node.path("twice.txt"))
        .await
        .unwrap()
        .unwrap();
    let attributes = Attributes {
        mtime: None,
        ..twice.attributes
    };
    let steps = case
        .node
        .steps([
            ("old.txt", Action::Remove),
            (
                "twice.txt",
                put(attributes, Content::Text("one\n".to_owned())),
            ),
        ])
        .await;
    let plan = case.node.plan_of("acl", steps);
    let done = case.apply_all(&plan).await;
    let node = |tree: &Tree| tree.get("twice.txt").unwrap().clone();
    assert!(node(&done).xattrs.contains_key(ACL));
    assert_eq!(node(&done).xattrs, node(&original).xattrs);
    assert_eq!(node(&done).mode, node(&original).mode);

    let state = case.lock();
    let undo = executor(&LocalHost, &state).undo(&plan.id).await.unwrap();
    finished(executor(&LocalHost, &state).apply(&undo).await);
    case.node.assert_original(&original);
}

/// As the kernel keeps it: version 2, then tag, permissions and id of each entry.
fn acl_for_user_1000() -> Vec<u8> {
    let none = u32::MAX;
    let entries: [(u16, u16, u32); 5] = [
        (1, 6, none),
        (2, 4, 1000),
        (4, 4, none),
        (16, 4, none),
        (32, 0, none),
    ];
    let mut acl = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        acl.extend(tag.to_le_bytes());
        acl.extend(permissions.to_le_bytes());
        acl.extend(id.to_le_bytes());
    }
    acl
}

#[tokio::test]
async fn an_undo_with_nothing_to_take_back_still_closes_its_plan() {
    let case = Case::new().await;
    let state = case.lock();
    for nth in 1.. {
        let outcome = executor(&FaultyHost::at(nth, false), &state)
            .apply(&case.plan)
            .await;
        assert!(outcome.is_err(), "{outcome:?}");
        if !state.journal(&case.plan.id).unwrap().entries.is_empty() {
            break;
        }
    }
    let undo = executor(&LocalHost, &state)
        .undo(&case.plan.id)
        .await
        .unwrap();
    assert!(undo.steps.is_empty(), "{undo:?}");
    assert!(unfinished(&state).unwrap().is_some());
    finished(executor(&LocalHost, &state).apply(&undo).await);
    assert_eq!(unfinished(&state).unwrap(), None);
    finished(
        executor(&LocalHost, &state)
            .apply(&Plan {
                id: PlanId("again".to_owned()),
                ..case.plan.clone()
            })
            .await,
    );
}

#[tokio::test]
async fn a_kept_key_is_found_in_a_kubeconfig_and_stays() {
    let case = Case::new().await;
    let key = std::fs::read(case.node.path("tls/admin.key")).unwrap();
    let spki = pki::PrivateKey::from_pem(&key)
        .unwrap()
        .spki_sha256()
        .to_string();
    let mut plan = case.plan.clone();
    let leaf = plan.leaves.values_mut().next().unwrap();
    leaf.key = KeyOrigin::Keep {
        path: case.node.path("admin.kubeconfig"),
        spki,
    };
    let done = case.apply_all(&plan).await;
    case.node.assert_finished(&done, &plan.id);
    assert_eq!(std::fs::read(case.node.path("tls/admin.key")).unwrap(), key);
}

#[tokio::test]
async fn no_plan_or_journal_holds_a_key() {
    let case = Case::new().await;
    case.apply_all(&case.plan).await;
    let secrets = testkit::Secrets::below(case.node.path("tls"));
    assert!(secrets.count() >= 2);
    for folder in ["plans", "journal"] {
        for file in std::fs::read_dir(case.node.path("kubepki").join(folder)).unwrap() {
            let path = file.unwrap().path();
            secrets.assert_absent(&path.display().to_string(), std::fs::read(&path).unwrap());
        }
    }
}
