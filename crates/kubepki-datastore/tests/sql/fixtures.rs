//! What real clusters wrote is read, decrypted, and nothing of it changed.

use std::path::Path;

use kubepki::bootstrap::{self, Bundle, Field};
use kubepki_datastore::Access;
use testkit::fixture;

use crate::common::{Database, KEY, opened, passphrase, store};

fn assert_equals_files(bundle: &Bundle, server: &Path, what: &str) {
    assert!(
        bundle.files.len() >= 11,
        "{what}: {:?}",
        bundle.files.keys()
    );
    for (field, file) in &bundle.files {
        let on_disk = std::fs::read(field.under(server)).unwrap();
        assert_eq!(file.content.as_slice(), on_disk, "{what} {field:?}");
    }
}

#[tokio::test]
async fn sqlite_files_of_clusters_are_read() {
    for name in [
        "k3s-1.36-sqlite",
        "k3s-1.36-custom-ca",
        "k3s-1.36-custom-ca-rotated",
        "k3s-1.36-default-rotated",
        "k3s-1.36-new-root-forced",
        "k3s-1.21-sqlite",
        "k3s-1.21-custom-ca",
    ] {
        let fixture = fixture(name);
        let server = fixture.data_dir().join("server");
        let store = store("", &server, Access::Read).await.unwrap();
        let record = store.get(KEY).await.unwrap().unwrap();
        assert_equals_files(&opened(&record.value), &server, name);
        assert_eq!(store.list("/bootstrap").await.unwrap(), [record], "{name}");
        assert!(store.newest_revision().await.unwrap() > 100, "{name}");
    }
}

#[tokio::test]
async fn dumps_in_real_servers_are_read() {
    let [_, postgres, mariadb] = Database::all("fixtures");
    for (database, saves) in [(postgres, 2), (mariadb, 1)] {
        let server = database.server_dir();
        let store = database.open(Access::Read).await;
        let record = store.get(KEY).await.unwrap().unwrap();
        let listed = store.list("/bootstrap").await.unwrap();
        assert_eq!(listed.as_slice(), std::slice::from_ref(&record));
        let ids: Vec<i64> = database
            .rows(KEY)
            .iter()
            .map(|row| row.split('|').next().unwrap().parse().unwrap())
            .collect();
        assert_eq!(record.revision, *ids.last().unwrap());
        assert_eq!(record.create_revision, ids[0]);

        // The staged set, saved last and never started on.
        let live = opened(&record.value);
        let staged = server.join("rotate-ca");
        for field in Field::ALL.into_iter().filter(|it| it.is_rotatable()) {
            let on_disk = std::fs::read(field.under(&staged)).unwrap();
            assert_eq!(live.content(field), Some(on_disk.as_slice()), "{field:?}");
        }

        // Each earlier save lies in a row of its own and in old_value of the row after it; the
        // lock was empty and is no value.
        let former = store.former("/bootstrap").await.unwrap();
        assert_eq!(former.len(), 2 * saves, "{former:?}");
        for (index, it) in former.iter().enumerate() {
            let (writer, next) = (ids[index / 2 + 1], ids[index / 2 + 2]);
            let place = match index % 2 {
                0 => format!("row {writer} of table kine, column value"),
                _ => format!("row {next} of table kine, column old_value"),
            };
            assert_eq!((it.revision, &it.place), (Some(writer), &place));
            assert_eq!(it.key, KEY);
        }
        assert_equals_files(&opened(&former[0].value), &server, &former[0].place);

        let newest: i64 = database.sql("SELECT MAX(id) FROM kine;")[0]
            .parse()
            .unwrap();
        assert_eq!(store.newest_revision().await.unwrap(), newest);
    }
}

#[tokio::test]
async fn a_token_that_was_rotated_away_still_opens_what_is_left() {
    let fixture = fixture("k3s-1.36-encryption-token-rotated");
    let server = fixture.data_dir().join("server");
    let store = store("sqlite://", &server, Access::Read).await.unwrap();
    assert_eq!(store.get(KEY).await.unwrap(), None, "the key was deleted");
    let live = store.list("/bootstrap/").await.unwrap();
    assert_eq!(live.len(), 1);
    assert_eq!(live[0].key, "/bootstrap/5d556c033043");
    let new = passphrase("rotated-token-abcdef0123456789");
    bootstrap::open(&live[0].value, &new).unwrap();

    let former = store.former("/bootstrap").await.unwrap();
    let old: Vec<&str> = former
        .iter()
        .filter(|it| it.key == KEY)
        .map(|it| it.place.as_str())
        .collect();
    assert!(
        old.contains(&"row 207 of table kine, column old_value"),
        "{former:?}"
    );
    for it in former.iter().filter(|it| it.key == KEY) {
        opened(&it.value);
    }
    assert!(former.iter().all(|it| it.value != live[0].value));
}

#[tokio::test]
async fn names_are_compared_exactly() {
    for database in Database::all("names") {
        let store = database.open(Access::Write).await;
        let upper = KEY.to_uppercase();
        assert_eq!(store.get(&upper).await.unwrap(), None, "{database:?}");
        assert_eq!(store.get(&format!("{KEY} ")).await.unwrap(), None);
        assert_eq!(store.get("/bootstrap").await.unwrap(), None);
        assert_eq!(store.list("/BOOTSTRAP").await.unwrap(), []);
        assert_eq!(store.list("/boot_trap").await.unwrap(), []);
        assert_eq!(store.list("/boot%").await.unwrap(), []);
        assert_eq!(store.former("/boot%").await.unwrap(), []);
        for key in [
            "/bootstrap/a_b",
            "/bootstrap/a%b",
            "/bootstrap/axb",
            "/bootstrap/a^b",
        ] {
            store.create(key, key.as_bytes()).await.unwrap();
        }
        let listed = async |prefix| {
            let records = store.list(prefix).await.unwrap();
            records.into_iter().map(|it| it.key).collect::<Vec<_>>()
        };
        assert_eq!(listed("/bootstrap/a_").await, ["/bootstrap/a_b"]);
        assert_eq!(listed("/bootstrap/a%").await, ["/bootstrap/a%b"]);
        assert_eq!(listed("/bootstrap/a^").await, ["/bootstrap/a^b"]);
        let all = [
            "/bootstrap/a%b",
            "/bootstrap/a^b",
            "/bootstrap/a_b",
            "/bootstrap/axb",
        ];
        assert_eq!(listed("/bootstrap/a").await, all);
        // Everything else of the cluster is seen, if asked for, but never among ours.
        assert!(store.list("").await.unwrap().len() > 50);
    }
}
