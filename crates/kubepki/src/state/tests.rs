use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;

use pki::{DAY, UnixTime};

use super::*;
use crate::journal::{Event, FORMAT, Found, Header, Intend};
use crate::plan::{Action, Before, Content, Step, Target};

fn plan(id: &str, created: i64) -> Plan {
    Plan {
        format: PLAN_FORMAT,
        id: PlanId(id.to_owned()),
        undoes: None,
        title: "test".to_owned(),
        node: "n".to_owned(),
        root: PathBuf::from("/nowhere"),
        created: UnixTime::from_secs(created),
        datastore: None,
        irreversible: None,
        deferrable: std::collections::BTreeSet::new(),
        hypothetical: false,
        leaves: BTreeMap::new(),
        steps: Vec::new(),
        notes: Vec::new(),
    }
}

fn begin(locked: &Locked, plan: &Plan) -> crate::journal::Journal {
    let mut journal = locked.open_journal(&plan.id).unwrap();
    let header = Header {
        format: FORMAT,
        plan: plan.id.clone(),
        plan_sha256: locked.plan_sha256(&plan.id).unwrap(),
        steps: u32::try_from(plan.steps.len()).unwrap(),
    };
    journal.append(plan.created, Event::Begin(header)).unwrap();
    journal
}

#[test]
fn reading_makes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let state = StateDir::of_data_dir(directory.path());
    let id = PlanId("p".to_owned());
    assert_eq!(state.plans().unwrap(), []);
    assert!(matches!(
        state.load_plan(&id),
        Err(StateError::NoPlan { .. })
    ));
    assert!(state.journal(&id).unwrap().entries.is_empty());
    assert_eq!(state.read_backup(&id, 1).unwrap(), None);
    assert!(!state.path().exists());
}

#[test]
fn who_wants_the_lock_waits_for_a_quiet_moment_and_for_nobody_else() {
    let directory = tempfile::tempdir().unwrap();
    let state = StateDir::of_data_dir(directory.path());
    assert!(state.quiet().unwrap().is_some() && !state.path().exists());

    let locked = state.lock().unwrap();
    assert!(state.quiet().unwrap().is_none());
    assert!(matches!(state.lock(), Err(StateError::Locked { .. })));
    drop(locked);

    let quiet = state.quiet().unwrap().unwrap();
    assert_eq!(state.holder().unwrap(), None);
    let other = state.clone();
    let waiting = std::thread::spawn(move || drop(other.lock().unwrap()));
    std::thread::sleep(3 * locked::MOMENT);
    assert!(!waiting.is_finished());
    drop(quiet);
    waiting.join().unwrap();
}

#[test]
fn everything_is_private_and_comes_back() {
    let directory = tempfile::tempdir().unwrap();
    let state = StateDir::of_data_dir(directory.path());
    let locked = state.lock().unwrap();
    let plan = plan("p", 0);
    locked.save_plan(&plan).unwrap();
    locked.save_plan(&plan).unwrap();
    let other = Plan {
        title: "other".to_owned(),
        ..plan.clone()
    };
    assert!(matches!(
        locked.save_plan(&other),
        Err(StateError::PlanDiffers { .. })
    ));
    locked.stage(&plan.id, "a.key", b"secret").unwrap();
    locked.backup(&plan.id, 3, b"old").unwrap();
    begin(&locked, &plan);

    assert_eq!(state.plans().unwrap(), std::slice::from_ref(&plan.id));
    assert_eq!(state.load_plan(&plan.id).unwrap(), plan);
    assert_eq!(
        **state.read_staged(&plan.id, "a.key").unwrap().unwrap(),
        *b"secret"
    );
    assert_eq!(**state.read_backup(&plan.id, 3).unwrap().unwrap(), *b"old");
    let mut pending = vec![state.path().to_owned()];
    let mut files = 0;
    while let Some(path) = pending.pop() {
        let metadata = std::fs::symlink_metadata(&path).unwrap();
        let mode = metadata.permissions().mode() & 0o7777;
        if metadata.is_dir() {
            assert_eq!(mode, 0o700, "{}", path.display());
            pending.extend(
                std::fs::read_dir(&path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
        } else {
            assert_eq!(mode, 0o600, "{}", path.display());
            files += 1;
        }
    }
    assert_eq!(files, 5);

    locked.drop_staging(&plan.id).unwrap();
    assert_eq!(state.read_staged(&plan.id, "a.key").unwrap(), None);
}

#[test]
fn names_stay_inside() {
    let directory = tempfile::tempdir().unwrap();
    let locked = StateDir::of_data_dir(directory.path()).lock().unwrap();
    let long = "x".repeat(MAX_NAME + 1);
    for name in [
        "", ".", "..", "../p", "a/b", "a\0b", ".hidden", "ü", "a b", &long,
    ] {
        let id = PlanId(name.to_owned());
        let refused = |result: Result<(), StateError>| {
            assert!(
                matches!(result, Err(StateError::Name { .. })),
                "{name:?}: {result:?}"
            );
        };
        refused(locked.save_plan(&plan(name, 0)));
        refused(locked.load_plan(&id).map(drop));
        refused(locked.backup(&id, 1, b""));
        refused(locked.drop_staging(&id));
        refused(locked.forget(&id));
        refused(locked.open_journal(&id).map(drop));
        refused(locked.stage(&PlanId("p".to_owned()), name, b""));
    }
}

#[test]
fn a_second_holder_is_told_of_the_first() {
    let directory = tempfile::tempdir().unwrap();
    let state = StateDir::of_data_dir(directory.path());
    let first = state.lock().unwrap();
    match state.lock() {
        Err(StateError::Locked { holder, .. }) => assert_eq!(holder, Some(std::process::id())),
        other => panic!("{other:?}"),
    }
    drop(first);
    state.lock().unwrap();
}

#[test]
fn a_directory_that_others_can_write_to_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let open = directory.path().join("open");
    file::make_directory(&open, &Attributes::new(0o777)).unwrap();
    let link = directory.path().join("link");
    std::os::unix::fs::symlink(directory.path(), &link).unwrap();
    for path in [open, link] {
        let error = StateDir::new(path).lock().unwrap_err();
        assert!(matches!(error, StateError::Unsafe { .. }), "{error}");
    }
}

#[test]
fn a_newer_plan_and_a_broken_one_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let state = StateDir::of_data_dir(directory.path());
    let locked = state.lock().unwrap();
    locked.save_plan(&plan("p", 0)).unwrap();
    write_private(
        &state.plan_path(&PlanId("n".to_owned())),
        b"{\"format\": 99}",
    )
    .unwrap();
    write_private(&state.plan_path(&PlanId("b".to_owned())), b"{").unwrap();
    let load = |id: &str| state.load_plan(&PlanId(id.to_owned()));
    assert!(matches!(
        load("n"),
        Err(StateError::NewerPlan { found: 99, .. })
    ));
    assert!(matches!(load("b"), Err(StateError::BadPlan { .. })));
}

#[test]
fn prune_keeps_what_is_new_few_open_needed_or_holds_a_ca_key() {
    let directory = tempfile::tempdir().unwrap();
    let locked = StateDir::of_data_dir(directory.path()).lock().unwrap();
    let now = 1_800_000_000;
    let days_ago = |days: i64| now - days * DAY;
    let save = |id: &str, days: i64| {
        let plan = plan(id, days_ago(days));
        locked.save_plan(&plan).unwrap();
        plan
    };
    for (id, days) in [
        ("old", 90),
        ("young", 29),
        ("n1", 1),
        ("n2", 2),
        ("n3", 3),
        ("n4", 4),
    ] {
        let plan = save(id, days);
        begin(&locked, &plan)
            .append(plan.created, Event::Finished)
            .unwrap();
        locked.backup(&plan.id, 1, b"bytes").unwrap();
    }
    save("n5", 5);
    begin(&locked, &save("open", 80));
    save("unused", 70);

    let with_key = plan_with_key(&locked, days_ago(60));

    save("needed", 60);
    undo_of(&locked, "needed", days_ago(59));

    let removed = locked.prune(UnixTime::from_secs(now)).unwrap();
    assert_eq!(
        removed,
        [PlanId("unused".to_owned()), PlanId("old".to_owned())]
    );
    assert_eq!(
        locked.read_backup(&PlanId("old".to_owned()), 1).unwrap(),
        None
    );
    let kept: Vec<String> = locked.plans().unwrap().into_iter().map(|id| id.0).collect();
    let expected = [
        "n1", "n2", "n3", "n4", "n5", "needed", "open", "undo", "with-key", "young",
    ];
    assert_eq!(kept, expected);

    for id in ["open", "needed", "undo"] {
        let error = locked.forget(&PlanId(id.to_owned())).unwrap_err();
        assert!(
            matches!(error, StateError::StillNeeded { .. }),
            "{id}: {error}"
        );
    }
    locked.forget(&with_key.id).unwrap();
    assert_eq!(locked.read_backup(&with_key.id, 1).unwrap(), None);
    assert!(matches!(
        locked.load_plan(&with_key.id),
        Err(StateError::NoPlan { .. })
    ));
}

/// A finished plan whose backup holds a CA's key.
fn plan_with_key(locked: &Locked, created: i64) -> Plan {
    let mut with_key = plan("with-key", created);
    with_key.steps.push(step_from(Content::Text(String::new())));
    locked.save_plan(&with_key).unwrap();
    let mut journal = begin(locked, &with_key);
    for event in [
        Event::Intend(Intend {
            step: 1,
            before: Found::Absent,
            after: Found::Absent,
            leaves: Vec::new(),
            holds_ca_key: true,
        }),
        Event::Done {
            step: 1,
            after: Found::Absent,
        },
        Event::Finished,
    ] {
        journal.append(with_key.created, event).unwrap();
    }
    locked.backup(&with_key.id, 1, b"key").unwrap();
    with_key
}

/// An undo that is begun, and needs the first backup of `of`.
fn undo_of(locked: &Locked, of: &str, created: i64) {
    let content = Content::Backup {
        plan: PlanId(of.to_owned()),
        step: 1,
        sha256: String::new(),
    };
    let mut undo = plan("undo", created);
    undo.steps.push(step_from(content));
    locked.save_plan(&undo).unwrap();
    begin(locked, &undo);
}

fn step_from(content: Content) -> Step {
    Step {
        number: 1,
        target: Target::File {
            host: "local".to_owned(),
            path: PathBuf::from("/x"),
        },
        before: Before::Absent,
        action: Action::Put {
            attributes: Attributes::new(0o600),
            content,
        },
        reason: String::new(),
    }
}

#[test]
fn ca_keys_are_known_by_name_and_content() {
    let key = b"-----BEGIN EC PRIVATE KEY-----\n";
    assert!(prune::looks_like_ca_key("server-ca.key", key));
    assert!(prune::looks_like_ca_key("kube-ca-key.pem", key));
    assert!(!prune::looks_like_ca_key(
        "server-ca.crt",
        b"-----BEGIN CERTIFICATE-----\n"
    ));
    assert!(!prune::looks_like_ca_key("client-admin.key", key));
}

#[test]
fn what_was_staged_for_a_plan_that_nobody_began_goes() {
    let directory = tempfile::tempdir().unwrap();
    let state = StateDir::of_data_dir(directory.path());
    let locked = state.lock().unwrap();
    for name in ["begun", "killed", "kept"] {
        locked.save_plan(&plan(name, 0)).unwrap();
    }
    let id = |name: &str| PlanId(name.to_owned());
    begin(&locked, &plan("begun", 0));
    for name in ["begun", "killed", "unsaved"] {
        locked.stage(&id(name), "token", b"secret").unwrap();
    }
    // A kill may leave a journal without a line.
    drop(locked.open_journal(&id("killed")).unwrap());
    locked.drop_unbegun().unwrap();
    // One that stages nothing was saved to be applied later.
    assert_eq!(state.plans().unwrap(), [id("begun"), id("kept")]);
    let staged = |name: &str| state.read_staged(&id(name), "token").unwrap().is_some();
    assert!(staged("begun") && !staged("killed") && !staged("unsaved"));
    assert!(!state.path().join("journal/killed.jsonl").exists());
}
