//! Rows that we write look as those of kine do (K3s reference 13.5 and 13.6).

use std::collections::BTreeSet;

use kubepki::datastore::DatastoreError;
use kubepki_datastore::Access;

use crate::common::{Database, KEY};

const NEW: &str = "/bootstrap/123456789abc";

/// `id|…` split and read; NULL is `None`.
fn numbers(rows: &[String]) -> Vec<Vec<Option<i64>>> {
    let read = |it: &str| (it != "NULL").then(|| it.parse().unwrap());
    rows.iter()
        .map(|row| row.split('|').map(read).collect())
        .collect()
}

#[tokio::test]
async fn many_keys_at_once_are_what_each_is() {
    for database in Database::all("many") {
        let store = database.open(Access::Write).await;
        assert_eq!(store.get_all(&[]).await.unwrap(), []);
        // More than one question takes, with keys that are not there, are there twice, were
        // changed, are gone, or differ in case or in a blank only.
        let key = |number: usize| format!("/kubepki/many/{number}");
        let mut keys: Vec<String> = (0..70).map(key).collect();
        for (number, key) in keys.iter().enumerate().filter(|(number, _)| number % 3 > 0) {
            let made = store.create(key, b"one").await.unwrap();
            let newer = store.update(key, made, key.as_bytes()).await.unwrap();
            if number % 7 == 0 {
                store.delete(key, newer).await.unwrap();
            }
        }
        store.create("/kubepki/many/x", b"small").await.unwrap();
        keys.extend(["/kubepki/many/X", "/kubepki/many/1", KEY].map(str::to_owned));
        keys.push("/kubepki/many/2 ".to_owned());
        let mut expected = Vec::new();
        for key in keys.iter().collect::<BTreeSet<_>>() {
            expected.extend(store.get(key).await.unwrap());
        }
        assert!(
            expected.len() > 40 && expected.len() < 50,
            "{}",
            expected.len()
        );
        let mut found = store.get_all(&keys).await.unwrap();
        found.sort_by(|one, other| one.key.cmp(&other.key));
        found.dedup();
        assert_eq!(found, expected, "{database:?}");
    }
}

#[tokio::test]
async fn lock_save_second_save_deletion_and_another_creation() {
    for database in Database::all("rows") {
        let store = database.open(Access::Write).await;
        let before = database.everything();
        let newest = store.newest_revision().await.unwrap();

        let lock = store.create(NEW, b"").await.unwrap();
        assert!(lock > newest);
        let record = store.get(NEW).await.unwrap().unwrap();
        assert!(record.value.is_empty(), "a lock is an empty value");
        assert_eq!((record.revision, record.create_revision), (lock, lock));
        let saved = store.update(NEW, lock, b"first").await.unwrap();
        let again = store.update(NEW, saved, b"second value").await.unwrap();
        let record = store.get(NEW).await.unwrap().unwrap();
        assert_eq!(record.value.as_slice(), b"second value");
        assert_eq!((record.revision, record.create_revision), (again, lock));
        let gone = store.delete(NEW, again).await.unwrap().unwrap();
        assert_eq!(store.get(NEW).await.unwrap(), None);
        assert_eq!(store.list(NEW).await.unwrap(), []);
        let back = store.create(NEW, b"third").await.unwrap();
        let last = store.update(NEW, back, b"fourth").await.unwrap();
        let record = store.get(NEW).await.unwrap().unwrap();
        assert_eq!((record.revision, record.create_revision), (last, back));

        // id, created, deleted, create_revision, prev_revision, lease, value, old_value
        let expected = [
            format!("{lock}|1|0|0|0|0|NULL|NULL"),
            format!("{saved}|0|0|{lock}|{lock}|0|5|NULL"),
            format!("{again}|0|0|{lock}|{saved}|0|12|5"),
            format!("{gone}|0|1|0|{again}|0|NULL|12"),
            format!("{back}|1|0|0|{gone}|0|5|NULL"),
            format!("{last}|0|0|{back}|{back}|0|6|5"),
        ];
        assert_eq!(database.rows(NEW), expected, "{database:?}");
        assert_eq!(store.newest_revision().await.unwrap(), last);

        // All that was there before is there still, octet for octet: rows are only added.
        let after = database.everything();
        assert_eq!(after.len(), before.len() + 6);
        assert_eq!(after[..before.len()], before, "{database:?}");

        let places: Vec<(String, Vec<u8>)> = store
            .former(NEW)
            .await
            .unwrap()
            .into_iter()
            .map(|it| (it.place, it.value.to_vec()))
            .collect();
        let place = |row: i64, column: &str| format!("row {row} of table kine, column {column}");
        let expected = [
            (place(saved, "value"), b"first".to_vec()),
            (place(again, "old_value"), b"first".to_vec()),
            (place(again, "value"), b"second value".to_vec()),
            (place(gone, "old_value"), b"second value".to_vec()),
            (place(back, "value"), b"third".to_vec()),
            (place(last, "old_value"), b"third".to_vec()),
        ];
        assert_eq!(places, expected, "{database:?}");
    }
}

#[tokio::test]
async fn the_lock_of_a_real_k3s_is_kept_as_it_is() {
    for database in Database::all("locks") {
        // As K3s left it: first row a lock, NULL; the save after it has no old value.
        let rows = numbers(&database.rows(KEY));
        let (lock, saved) = (&rows[0], &rows[1]);
        assert_eq!(
            lock[1..],
            [Some(1), Some(0), Some(0), Some(0), Some(0), None, None]
        );
        assert_eq!(saved[1..6], [Some(0), Some(0), lock[0], lock[0], Some(0)]);
        assert_eq!(saved[7], None);

        // And ours on top of its newest.
        let newest = rows.last().unwrap().clone();
        let store = database.open(Access::Write).await;
        let record = store.get(KEY).await.unwrap().unwrap();
        assert_eq!(Some(record.revision), newest[0]);
        let id = store.update(KEY, record.revision, b"ours").await.unwrap();
        let ours = numbers(&database.rows(KEY)).pop().unwrap();
        let expected = [
            Some(id),
            Some(0),
            Some(0),
            lock[0],
            newest[0],
            Some(0),
            Some(4),
            newest[6],
        ];
        assert_eq!(ours, expected, "{database:?}");
        let copied = database.sql(&format!(
            "SELECT COUNT(*) FROM kine a JOIN kine b ON b.id = a.prev_revision \
             WHERE a.id = {id} AND a.old_value = b.value;"
        ));
        assert_eq!(copied, ["1"], "old_value is the value that was replaced");
    }
}

#[tokio::test]
async fn a_token_rotation_is_three_rows() {
    for database in Database::all("triple") {
        let store = database.open(Access::Write).await;
        let old = store.get(KEY).await.unwrap().unwrap();
        let length = i64::try_from(old.value.len()).unwrap();
        let created = store.create(NEW, b"under the new token").await.unwrap();
        let gone = store.delete(KEY, old.revision).await.unwrap().unwrap();
        let saved = store
            .update(NEW, created, b"and saved once more")
            .await
            .unwrap();
        let last = |key| numbers(&database.rows(key)).pop().unwrap();
        let zero = Some(0);
        let deletion = [
            Some(gone),
            zero,
            Some(1),
            zero,
            Some(old.revision),
            zero,
            None,
            Some(length),
        ];
        assert_eq!(last(KEY), deletion, "{database:?}");
        let (it, size) = (Some(created), Some(19));
        assert_eq!(
            last(NEW),
            [Some(saved), zero, zero, it, it, zero, size, size]
        );
        assert_eq!(
            numbers(&database.rows(NEW))[0],
            [it, Some(1), zero, zero, zero, zero, size, None]
        );
        assert_eq!(store.list("/bootstrap").await.unwrap().len(), 1);
        let former = store.former("/bootstrap").await.unwrap();
        let kept = former.iter().filter(|it| it.value == old.value).count();
        assert_eq!(
            kept, 2,
            "in its own row and in the deletion's old_value: {former:?}"
        );
    }
}

#[tokio::test]
async fn a_write_at_another_revision_is_refused_and_writes_nothing() {
    for database in Database::all("stale") {
        let store = database.open(Access::Write).await;
        let record = store.get(KEY).await.unwrap().unwrap();
        let gone = store.create(NEW, b"x").await.unwrap();
        let gone = store.delete(NEW, gone).await.unwrap().unwrap();
        let before = database.everything();
        let now = record.revision;
        let cases = [
            (store.create(KEY, b"x").await, KEY, None, Some(now)),
            (
                store.update(KEY, now - 1, b"x").await,
                KEY,
                Some(now - 1),
                Some(now),
            ),
            (
                store.update(KEY, now + 1, b"x").await,
                KEY,
                Some(now + 1),
                Some(now),
            ),
            (store.update(NEW, gone, b"x").await, NEW, Some(gone), None),
            (
                store.update("/bootstrap/0", 1, b"x").await,
                "/bootstrap/0",
                Some(1),
                None,
            ),
            (
                store.delete(KEY, 1).await.map(Option::unwrap),
                KEY,
                Some(1),
                Some(now),
            ),
            (
                store.delete(NEW, gone).await.map(Option::unwrap),
                NEW,
                Some(gone),
                None,
            ),
        ];
        for (result, name, wanted, there) in cases {
            match result.unwrap_err() {
                DatastoreError::Conflict {
                    key,
                    expected,
                    found,
                } => {
                    assert_eq!((key.as_str(), expected, found), (name, wanted, there));
                }
                other => panic!("{other}"),
            }
        }
        assert_eq!(database.everything(), before, "{database:?}");
        // The connection is in order after each refusal.
        store.update(KEY, now, b"fine").await.unwrap();
    }
}

#[tokio::test]
async fn what_is_opened_for_reading_refuses_to_write() {
    for database in Database::all("reading") {
        let before = database.everything();
        let store = database.open(Access::Read).await;
        for refused in [
            store.create(NEW, b"x").await,
            store.update(KEY, 1, b"x").await,
            store.delete(KEY, 1).await.map(Option::unwrap),
        ] {
            let error = refused.unwrap_err();
            assert!(matches!(error, DatastoreError::ReadOnly { .. }), "{error}");
        }
        assert_eq!(database.everything(), before, "{database:?}");
    }
}

/// kine's tables before ids of 64 bits (PostgreSQL, MySQL), and names of no kind (SQLite).
#[tokio::test]
async fn tables_of_old_installations_work() {
    for database in Database::all("old") {
        let table = match &database {
            Database::Sqlite { .. } => {
                "id INTEGER PRIMARY KEY AUTOINCREMENT, name INTEGER, created INTEGER, \
                 deleted INTEGER, create_revision INTEGER, prev_revision INTEGER, lease INTEGER, \
                 value BLOB, old_value BLOB"
            }
            Database::Postgres { .. } => {
                "id SERIAL PRIMARY KEY, name VARCHAR(630), created INTEGER, deleted INTEGER, \
                 create_revision INTEGER, prev_revision INTEGER, lease INTEGER, value bytea, \
                 old_value bytea"
            }
            Database::MariaDb { .. } => {
                "id INTEGER AUTO_INCREMENT PRIMARY KEY, name VARCHAR(630), created INTEGER, \
                 deleted INTEGER, create_revision INTEGER, prev_revision INTEGER, lease INTEGER, \
                 value MEDIUMBLOB, old_value MEDIUMBLOB"
            }
        };
        database.sql(&format!(
            "DROP TABLE kine; CREATE TABLE kine ({table}); \
             CREATE UNIQUE INDEX kine_name_prev_revision_uindex ON kine (name, prev_revision); \
             INSERT INTO kine (name, created, deleted, create_revision, prev_revision, lease) \
             VALUES ('compact_rev_key', 1, 0, 0, 0, 0);"
        ));
        let store = database.open(Access::Write).await;
        assert_eq!(store.newest_revision().await.unwrap(), 1);
        let id = store.create(NEW, b"one").await.unwrap();
        let id = store.update(NEW, id, b"two").await.unwrap();
        let record = store.get(NEW).await.unwrap().unwrap();
        assert_eq!((record.revision, record.create_revision), (id, 2));
        assert_eq!(record.value.as_slice(), b"two");
        assert_eq!(store.list("/bootstrap").await.unwrap(), [record]);
        assert_eq!(store.former("").await.unwrap().len(), 2);
        assert_eq!(database.rows("compact_rev_key"), ["1|1|0|0|0|0|NULL|NULL"]);
    }
}

#[tokio::test]
async fn after_kines_compaction_the_copy_is_what_is_left() {
    for database in Database::all("compacted") {
        let store = database.open(Access::Write).await;
        let record = store.get(KEY).await.unwrap().unwrap();
        let id = store.update(KEY, record.revision, b"ours").await.unwrap();
        // What kine's compaction does: rows go whose id a later row names.
        database.sql(&format!(
            "DELETE FROM kine WHERE name = '{KEY}' AND id < {id};"
        ));
        let former = store.former("/bootstrap").await.unwrap();
        assert_eq!(former.len(), 1, "{database:?}: {former:?}");
        assert_eq!(former[0].revision, Some(record.revision));
        let place = format!("row {id} of table kine, column old_value");
        assert_eq!(
            (&former[0].place, &former[0].value),
            (&place, &record.value)
        );
        let now = store.get(KEY).await.unwrap().unwrap();
        assert_eq!(now.create_revision, record.create_revision);
        store.update(KEY, id, b"and on").await.unwrap();
        let gone = store.get(KEY).await.unwrap().unwrap().revision;
        let gone = store.delete(KEY, gone).await.unwrap().unwrap();
        // Tombstones go too: the next creation is a first one again.
        database.sql(&format!(
            "DELETE FROM kine WHERE name = '{KEY}' AND id <= {gone};"
        ));
        assert_eq!(store.former("/bootstrap").await.unwrap(), []);
        let again = store.create(KEY, b"again").await.unwrap();
        assert_eq!(database.rows(KEY), [format!("{again}|1|0|0|0|0|5|NULL")]);
    }
}
