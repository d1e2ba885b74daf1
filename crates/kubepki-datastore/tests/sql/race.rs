//! Two writers at once: one wins, the other is told, and the table is whole.

use kubepki::datastore::DatastoreError;
use kubepki_datastore::{Access, Store};

use crate::common::Database;

const KEY: &str = "/bootstrap/00000000race";
const ROUNDS: i64 = 60;

fn conflict(result: Result<i64, DatastoreError>) -> Option<i64> {
    match result {
        Ok(id) => Some(id),
        Err(DatastoreError::Conflict { .. }) => None,
        Err(other) => panic!("{other:?}"),
    }
}

/// Both, started together; who won, and the new revision.
async fn both(
    one: &dyn Store,
    other: &dyn Store,
    round: i64,
    revision: Option<i64>,
) -> (bool, i64) {
    let write = async |store: &dyn Store, name: &str| {
        let value = format!("{name} in round {round}");
        match revision {
            None => store.create(KEY, value.as_bytes()).await,
            Some(revision) if round % 7 == 6 => {
                store.delete(KEY, revision).await.map(Option::unwrap)
            }
            Some(revision) => store.update(KEY, revision, value.as_bytes()).await,
        }
    };
    let (first, second) = tokio::join!(write(one, "one"), write(other, "other"));
    match (conflict(first), conflict(second)) {
        (Some(id), None) => (true, id),
        (None, Some(id)) => (false, id),
        outcome => panic!("round {round}: {outcome:?}"),
    }
}

#[tokio::test]
async fn one_of_two_writers_wins_every_round() {
    for database in Database::all("race") {
        let one = database.open(Access::Write).await;
        let other = database.open(Access::Write).await;
        let mut revision = None;
        let mut wins = Vec::new();
        for round in 0..ROUNDS {
            let (first, id) = both(&*one, &*other, round, revision).await;
            assert!(revision.is_none_or(|before| before < id));
            let record = other.get(KEY).await.unwrap();
            if let Some(record) = &record {
                let winner = if first { "one" } else { "other" };
                let value = format!("{winner} in round {round}");
                assert_eq!(record.value.as_slice(), value.as_bytes());
                assert_eq!(record.revision, id);
            }
            wins.push(id);
            revision = record.map(|it| it.revision);
        }
        let rows = database.rows(KEY);
        assert_eq!(rows.len(), wins.len(), "{database:?}: {rows:?}");
        let links: Vec<(i64, i64)> = rows
            .iter()
            .map(|row| {
                let fields: Vec<&str> = row.split('|').collect();
                (fields[0].parse().unwrap(), fields[4].parse().unwrap())
            })
            .collect();
        let before = std::iter::once(0).chain(wins.iter().copied());
        let expected: Vec<(i64, i64)> = wins.iter().copied().zip(before).collect();
        assert_eq!(links, expected, "each row replaces the one before it");
    }
}

/// kine fills what it takes for a gap with a row of that id, before ours is there.
#[tokio::test]
async fn an_id_that_kine_took_is_passed_over() {
    let [_, postgres, mariadb] = Database::all("gaps");
    let store = postgres.open(Access::Write).await;
    let newest = store.newest_revision().await.unwrap();
    // The sequence is behind by three rows.
    postgres.sql(&format!(
        "SELECT setval('kine_id_seq', {newest}); \
         INSERT INTO kine (id, name, created, deleted, create_revision, prev_revision, lease) \
         SELECT g, 'gap-' || g, 0, 1, 0, 0, 0 FROM generate_series({newest} + 1, {newest} + 3) g;"
    ));
    let id = store.create(KEY, b"value").await.unwrap();
    assert_eq!(id, newest + 4);
    assert_eq!(postgres.rows(KEY).len(), 1);

    // For ever is too long: after twenty tries it is said.
    postgres.sql(&format!(
        "SELECT setval('kine_id_seq', {id}); \
         INSERT INTO kine (id, name, created, deleted, create_revision, prev_revision, lease) \
         SELECT g, 'gap-' || g, 0, 1, 0, 0, 0 FROM generate_series({id} + 1, {id} + 30) g;"
    ));
    let before = postgres.everything();
    let error = store.update(KEY, id, b"new").await.unwrap_err();
    assert!(
        error.to_string().contains("20 tries; nothing was written"),
        "{error}"
    );
    assert_eq!(postgres.everything(), before);
    let later = store.update(KEY, id, b"new").await.unwrap();
    assert_eq!(
        later,
        id + 31,
        "twenty ids are used up, ten more are passed over"
    );

    let store = mariadb.open(Access::Write).await;
    let newest = store.newest_revision().await.unwrap();
    mariadb.sql(&format!(
        "INSERT INTO kine (id, name, created, deleted, create_revision, prev_revision, lease) \
         VALUES ({newest} + 5, 'gap', 0, 1, 0, 0, 0);"
    ));
    assert!(store.create(KEY, b"value").await.unwrap() > newest + 5);
}
