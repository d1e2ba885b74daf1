//! Writers that meet in mid-transaction, and connections that end there.

use std::path::Path;
use std::time::Duration;

use kubepki::datastore::DatastoreError;
use kubepki_datastore::Access;
use sqlx::{Connection as _, MySqlConnection, PgConnection, SqliteConnection};
use testkit::server::{MariaDb, PASSWORD_IN_URL, Postgres, USER};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::common::{Database, KEY, store};

/// Another writer who has replaced the row and not yet committed.
enum Rival {
    Postgres(PgConnection),
    MariaDb(MySqlConnection),
    Sqlite(SqliteConnection),
}

impl Rival {
    async fn replace(database: &Database, revision: i64) -> Self {
        let insert = format!(
            "INSERT INTO kine (name, created, deleted, create_revision, prev_revision, lease) \
             VALUES ('{KEY}', 0, 0, 1, {revision}, 0)"
        );
        let run = |begin: &str| sqlx::AssertSqlSafe(format!("{begin}; {insert}"));
        match database {
            Database::Postgres { name, .. } => {
                let url = Postgres::shared().endpoint(name);
                let mut line = PgConnection::connect(&url).await.unwrap();
                sqlx::raw_sql(run("BEGIN"))
                    .execute(&mut line)
                    .await
                    .unwrap();
                Self::Postgres(line)
            }
            Database::MariaDb { name, .. } => {
                let port = MariaDb::shared().port();
                let url = format!("mysql://{USER}:{PASSWORD_IN_URL}@127.0.0.1:{port}/{name}");
                let mut line = MySqlConnection::connect(&url).await.unwrap();
                sqlx::raw_sql(run("START TRANSACTION"))
                    .execute(&mut line)
                    .await
                    .unwrap();
                Self::MariaDb(line)
            }
            Database::Sqlite { .. } => {
                let file = database.server_dir().join("db/state.db");
                let url = format!("sqlite://{}", file.display());
                let mut line = SqliteConnection::connect(&url).await.unwrap();
                sqlx::raw_sql(run("BEGIN IMMEDIATE"))
                    .execute(&mut line)
                    .await
                    .unwrap();
                Self::Sqlite(line)
            }
        }
    }

    async fn end(self, how: &'static str) {
        match self {
            Self::Postgres(mut line) => sqlx::raw_sql(how).execute(&mut line).await.map(drop),
            Self::MariaDb(mut line) => sqlx::raw_sql(how).execute(&mut line).await.map(drop),
            Self::Sqlite(mut line) => sqlx::raw_sql(how).execute(&mut line).await.map(drop),
        }
        .unwrap();
    }
}

/// Waits until our writer stands at its INSERT (SQLite: at its BEGIN, which nobody can see).
async fn wait_for_insert(database: &Database) {
    let waiting = match database {
        Database::Sqlite { .. } => return tokio::time::sleep(Duration::from_millis(300)).await,
        Database::Postgres { name, .. } => format!(
            "SELECT COUNT(*) FROM pg_stat_activity WHERE datname = '{name}' AND \
             application_name = 'kubepki' AND wait_event_type = 'Lock' AND query LIKE 'INSERT%';"
        ),
        Database::MariaDb { name, .. } => format!(
            "SELECT COUNT(*) FROM information_schema.processlist WHERE db = '{name}' AND \
             info LIKE 'INSERT%' AND state = 'Update';"
        ),
    };
    while database.sql(&waiting) != ["1"] {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_row_that_changes_between_look_and_write_is_a_conflict() {
    for database in Database::all("between") {
        let store = database.open(Access::Write).await;
        let before = store.get(KEY).await.unwrap().unwrap();
        let rival = Rival::replace(&database, before.revision).await;
        let ours = store.update(KEY, before.revision, b"ours");
        let other = async {
            wait_for_insert(&database).await;
            rival.end("COMMIT").await;
        };
        let (result, ()) = tokio::join!(ours, other);
        let now = store.get(KEY).await.unwrap().unwrap();
        assert!(now.value.is_empty() && now.revision > before.revision);
        match result.unwrap_err() {
            DatastoreError::Conflict {
                expected, found, ..
            } => {
                assert_eq!(expected, Some(before.revision));
                assert_eq!(found, Some(now.revision), "{database:?}");
            }
            other => panic!("{other}"),
        }

        // A rival that gives up leaves the way free.
        let rival = Rival::replace(&database, now.revision).await;
        let ours = store.update(KEY, now.revision, b"ours");
        let other = async {
            wait_for_insert(&database).await;
            rival.end("ROLLBACK").await;
        };
        let (result, ()) = tokio::join!(ours, other);
        assert_eq!(
            store.get(KEY).await.unwrap().unwrap().revision,
            result.unwrap()
        );
    }
}

#[tokio::test]
async fn a_connection_cut_before_the_commit_writes_nothing() {
    let [_, postgres, mariadb] = Database::all("cut");
    for database in [postgres, mariadb] {
        let store = database.open(Access::Write).await;
        let record = store.get(KEY).await.unwrap().unwrap();
        let before = database.everything();
        let rival = Rival::replace(&database, record.revision).await;
        let ours = store.update(KEY, record.revision, b"ours");
        let other = async {
            wait_for_insert(&database).await;
            match &database {
                Database::MariaDb { name, .. } => {
                    let id = database.sql(&format!(
                        "SELECT id FROM information_schema.processlist WHERE db = '{name}' AND \
                         info LIKE 'INSERT%' AND state = 'Update';"
                    ));
                    database.sql(&format!("KILL {};", id[0]));
                }
                _ => {
                    database.sql(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE \
                         datname = 't_cut' AND application_name = 'kubepki';",
                    );
                }
            }
        };
        let (result, ()) = tokio::join!(ours, other);
        let error = result.unwrap_err();
        assert!(error.to_string().contains("nothing was written"), "{error}");
        rival.end("ROLLBACK").await;
        assert_eq!(database.everything(), before);
        // The store connects anew by itself.
        store.update(KEY, record.revision, b"ours").await.unwrap();
    }
}

#[tokio::test]
async fn a_postgres_killed_before_the_commit_has_written_nothing() {
    let mut postgres = Postgres::start(false);
    let fixture = testkit::fixture("k3s-1.36-postgres");
    postgres.load("kubernetes", &fixture.extra("kubernetes.sql"));
    let endpoint = postgres.endpoint("kubernetes");
    let table = "SELECT md5(string_agg(kine::text, ',' ORDER BY id)) FROM kine;";
    let before = postgres.sql("kubernetes", table);
    let ours = store(&endpoint, Path::new("/"), Access::Write)
        .await
        .unwrap();
    let record = ours.get(KEY).await.unwrap().unwrap();
    let mut rival = PgConnection::connect(&endpoint).await.unwrap();
    sqlx::raw_sql("BEGIN; LOCK TABLE kine IN SHARE MODE")
        .execute(&mut rival)
        .await
        .unwrap();
    let kill = async {
        let waiting = "SELECT COUNT(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock';";
        while postgres.sql("kubernetes", waiting).trim() != "1" {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        postgres.kill();
    };
    let (result, ()) = tokio::join!(ours.update(KEY, record.revision, b"x"), kill);
    let error = result.unwrap_err();
    assert!(error.to_string().contains("nothing was written"), "{error}");
    drop(rival);
    postgres.restart();
    assert_eq!(postgres.sql("kubernetes", table), before);
    let ours = store(
        &postgres.endpoint("kubernetes"),
        Path::new("/"),
        Access::Write,
    )
    .await;
    ours.unwrap()
        .update(KEY, record.revision, b"x")
        .await
        .unwrap();
}

#[tokio::test]
async fn a_mariadb_killed_before_the_commit_has_written_nothing() {
    let mut mariadb = MariaDb::start(false);
    let fixture = testkit::fixture("k3s-1.36-mariadb");
    mariadb.load("kubernetes", &fixture.extra("kubernetes.sql"));
    let table = "SELECT id, name, prev_revision, md5(value), md5(old_value) FROM kine;";
    let before = mariadb.sql("kubernetes", table);
    let endpoint = mariadb.endpoint("kubernetes");
    let ours = store(&endpoint, Path::new("/"), Access::Write)
        .await
        .unwrap();
    let record = ours.get(KEY).await.unwrap().unwrap();
    let url = format!(
        "mysql://{USER}:{PASSWORD_IN_URL}@127.0.0.1:{}/kubernetes",
        mariadb.port()
    );
    let mut rival = MySqlConnection::connect(&url).await.unwrap();
    let insert = format!(
        "START TRANSACTION; INSERT INTO kine (name, prev_revision) VALUES ('{KEY}', {})",
        record.revision
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(insert))
        .execute(&mut rival)
        .await
        .unwrap();
    let kill = async {
        let waiting = "SELECT COUNT(*) FROM information_schema.processlist WHERE \
                       info LIKE 'INSERT%' AND state = 'Update';";
        while mariadb.sql("kubernetes", waiting).trim() != "1" {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        mariadb.kill();
    };
    let (result, ()) = tokio::join!(ours.update(KEY, record.revision, b"x"), kill);
    let error = result.unwrap_err();
    assert!(error.to_string().contains("nothing was written"), "{error}");
    mariadb.restart();
    assert_eq!(mariadb.sql("kubernetes", table), before);
    let ours = store(
        &mariadb.endpoint("kubernetes"),
        Path::new("/"),
        Access::Write,
    )
    .await;
    ours.unwrap()
        .update(KEY, record.revision, b"x")
        .await
        .unwrap();
}

/// Hands bytes to and fro until the client says COMMIT: then that is passed on or not, and no
/// answer comes back.
async fn relay(listener: TcpListener, server: u16, pass_on: bool) {
    while let Ok((mut client, _)) = listener.accept().await {
        let mut server = TcpStream::connect(("127.0.0.1", server)).await.unwrap();
        let (mut asked, mut answered) = (vec![0; 65536], vec![0; 65536]);
        loop {
            tokio::select! {
                read = client.read(&mut asked) => {
                    let bytes = &asked[..read.unwrap_or(0)];
                    // Not the COMMITTED of an isolation level.
                    let commit = bytes.ends_with(b"COMMIT") || bytes.ends_with(b"COMMIT\0");
                    if bytes.is_empty() || (commit && !pass_on) {
                        break;
                    }
                    server.write_all(bytes).await.unwrap();
                    if commit {
                        // The server has done it when it answers.
                        let _ = server.read(&mut answered).await;
                        break;
                    }
                }
                read = server.read(&mut answered) => {
                    let bytes = &answered[..read.unwrap_or(0)];
                    if bytes.is_empty() || client.write_all(bytes).await.is_err() {
                        break;
                    }
                }
            }
        }
    }
}

#[tokio::test]
async fn a_connection_cut_at_the_commit_leaves_it_open_and_says_so() {
    let [_, postgres, mariadb] = Database::all("commit");
    for database in [postgres, mariadb] {
        for pass_on in [true, false] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let port = listener.local_addr().unwrap().port().to_string();
            let server = match database {
                Database::Postgres { .. } => Postgres::shared().port(),
                _ => MariaDb::shared().port(),
            };
            let relay = tokio::spawn(relay(listener, server, pass_on));
            let endpoint = database.endpoint().replace(&server.to_string(), &port);
            let ours = store(&endpoint, Path::new("/"), Access::Write)
                .await
                .unwrap();
            let before = ours.get(KEY).await.unwrap().unwrap();
            let error = ours
                .update(KEY, before.revision, b"ours")
                .await
                .unwrap_err();
            let words = "whether it was is not known, look before going on";
            assert!(error.to_string().contains(words), "{error}");
            let now = ours.get(KEY).await.unwrap().unwrap();
            assert_eq!(now.revision != before.revision, pass_on, "{database:?}");
            relay.abort();
        }
    }
}

#[tokio::test]
async fn a_caller_that_stops_waiting_leaves_nothing_behind() {
    for database in Database::all("impatient") {
        let store = database.open(Access::Write).await;
        let record = store.get(KEY).await.unwrap().unwrap();
        let before = database.everything();
        let rival = Rival::replace(&database, record.revision).await;
        let ours = store.update(KEY, record.revision, b"ours");
        tokio::select! {
            result = ours => panic!("{result:?}"),
            () = wait_for_insert(&database) => {}
        }
        rival.end("ROLLBACK").await;
        let id = store.update(KEY, record.revision, b"later").await.unwrap();
        let after = database.everything();
        assert_eq!(after[..after.len() - 1], before, "{database:?}");
        assert_eq!(store.get(KEY).await.unwrap().unwrap().revision, id);
    }
}
