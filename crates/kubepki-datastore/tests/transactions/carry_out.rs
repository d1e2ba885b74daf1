//! Plans that nothing interrupts.

use std::path::Path;

use kubepki::apply::{ApplyError, MakeError, StepError, history};
use kubepki::bootstrap::{self, Bundle, Field};
use kubepki::error_chain;
use kubepki::host::{Attributes, Entry, EntryKind, Host, LocalHost};
use kubepki::plan::*;
use testkit::server::Etcd;

use crate::places::{Case, mariadb, postgres};
use crate::scene::{
    OLD, OLD_KEY, cluster, executor, finished, new_key, newer_on_disk, now, opened, passphrase,
    sealed,
};

#[tokio::test]
async fn another_token_and_back_in_sqlite() {
    another_token_and_back(&Case::sqlite().await).await;
}

#[tokio::test]
async fn another_token_and_back_in_postgresql() {
    another_token_and_back(&Case::at(postgres("carry_out")).await).await;
}

#[tokio::test]
async fn another_token_and_back_in_mariadb() {
    another_token_and_back(&Case::at(mariadb("carry_out")).await).await;
}

#[tokio::test]
async fn another_token_and_back_in_etcd() {
    let etcd = Etcd::plain();
    another_token_and_back(&Case::at(etcd.url(0)).await).await;
}

/// No token is given to the executor: both lie in the files that the plan changes.
async fn another_token_and_back(case: &Case) {
    let revision = case.begin().await;
    let plan = case.scene.rotation(revision).await;
    let store = case.store().await;
    let state = case.scene.state().lock().unwrap();
    let executor = executor(&state, store.as_ref());
    finished(executor.apply(&plan).await);
    let rotated = case.scene.tree();
    case.scene.assert_rotated(&rotated, store.as_ref()).await;
    assert!(state.holds_ca_key(&plan.id).unwrap());

    let undo = executor.undo(&plan.id).await.unwrap();
    // What was between the first and the last write of a key was in force for nobody, and there
    // is never a moment without a key.
    let headlines: Vec<String> = undo.steps.iter().map(headline).collect();
    let rows = [
        format!("create datastore key {OLD_KEY}"),
        format!("delete datastore key {}", new_key()),
    ];
    assert_eq!(headlines[1..3], rows, "{headlines:?}");
    finished(executor.apply(&undo).await);
    case.scene
        .assert_original(&case.original, store.as_ref())
        .await;

    let redo = executor.undo(&undo.id).await.unwrap();
    finished(executor.apply(&redo).await);
    case.scene.assert_rotated(&rotated, store.as_ref()).await;
    let past = history(&state).unwrap();
    let undone = past.iter().find(|past| past.id == undo.id).unwrap();
    assert_eq!(undone.undone_by, Some(redo.id));
}

/// CAs come into force by a restart of K3s, which gives the files the times of the row. What is
/// taken back afterwards must not be older than they are.
#[tokio::test]
async fn k3s_starts_over_what_an_undo_leaves() {
    let case = Case::sqlite().await;
    let store = case.store().await;
    let row = store.get(OLD_KEY).await.unwrap().unwrap();
    let state = case.scene.state().lock().unwrap();
    let mut bundle = opened(&row.value, OLD);
    let first = bundle.clone();
    for (field, file) in &mut bundle.files {
        if field.is_rotatable() {
            file.content = format!("another {field}\n").into_bytes().into();
            // Staged on a machine whose clock is ahead.
            file.stamp = now();
            file.stamp.seconds += 1_000;
        }
    }
    let value = sealed(&bundle, OLD);
    let id = PlanId("exchange".to_owned());
    state.stage(&id, "value", &value).unwrap();
    let content = Content::Staged {
        name: "value".to_owned(),
        sha256: pki::sha256(&value).to_string(),
    };
    let key = OLD_KEY.to_owned();
    let operation = TxnOperation::Update(content);
    let plan = case.scene.plan(
        &id.0,
        vec![(
            Target::DatastoreKey { key },
            Before::Revision(row.revision),
            Action::Txn { operation },
        )],
    );
    finished(executor(&state, store.as_ref()).apply(&plan).await);
    start_k3s(&case.scene.server(), &bundle).await;

    // No step of this plan touches a file with a token.
    let refused = executor(&state, store.as_ref())
        .undo(&id)
        .await
        .unwrap_err();
    let text = error_chain(&refused);
    let ApplyError::Unprepared { source, .. } = &refused else {
        panic!("{text}")
    };
    let StepError::Make(MakeError::NoPassphrase { .. }) = &**source else {
        panic!("{text}")
    };
    assert!(
        text.contains("--token-file") && text.contains(OLD_KEY),
        "{text}"
    );

    let tokens = [passphrase("something else"), passphrase(OLD)];
    let mut executor = executor(&state, store.as_ref());
    executor.cluster = Some(cluster(store.as_ref(), &tokens));
    let undo = executor.undo(&id).await.unwrap();
    finished(executor.apply(&undo).await);
    let row = store.get(OLD_KEY).await.unwrap().unwrap();
    let back = opened(&row.value, OLD);
    assert_eq!(newer_on_disk(&case.scene.server(), &back), []);
    // The old row itself would be K3s's end.
    assert!(newer_on_disk(&case.scene.server(), &first).contains(&Field::ServerCa));
    start_k3s(&case.scene.server(), &back).await;
    for (field, file) in &first.files {
        let content = std::fs::read(field.under(&case.scene.server())).unwrap();
        assert_eq!(content, *file.content, "{field}");
    }
    assert_eq!(store.list(bootstrap::KEY_PREFIX).await.unwrap(), [row]);
}

/// What K3s does at start with files that differ and are not newer: it writes all of them, each
/// with the time of the row.
async fn start_k3s(server: &Path, bundle: &Bundle) {
    assert_eq!(newer_on_disk(server, bundle), [], "K3s dies");
    for (field, file) in &bundle.files {
        let path = field.under(server);
        let mode = match LocalHost.read(&path).await.unwrap() {
            Some(entry) => entry.attributes.mode,
            None => 0o600,
        };
        let attributes = Attributes {
            mtime: Some((file.stamp.seconds, file.stamp.nanoseconds)),
            ..Attributes::new(mode)
        };
        let kind = EntryKind::File(file.content.clone());
        let entry = Entry { kind, attributes };
        LocalHost.put(&path, &entry).await.unwrap();
    }
}
