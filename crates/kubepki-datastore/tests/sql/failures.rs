//! What goes wrong is said, and the table stays whole.

use std::path::Path;
use std::time::Duration;

use kubepki::datastore::DatastoreError;
use kubepki_datastore::{Access, Store, is_moving};
use testkit::server::{MariaDb, PASSWORD, PASSWORD_IN_URL, Postgres, USER};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::common::{Database, KEY, store};

fn unreachable(result: Result<Box<dyn Store>, DatastoreError>) -> String {
    match result {
        Err(error @ DatastoreError::Unreachable { .. }) => {
            let shown = format!("{error} {error:?}");
            assert!(
                !shown.contains(PASSWORD) && !shown.contains(PASSWORD_IN_URL),
                "{shown}"
            );
            error.to_string()
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn who_is_not_let_in_is_told_why() {
    let (postgres, mariadb) = (Postgres::shared(), MariaDb::shared());
    let (one, other) = (
        postgres.endpoint("kubernetes"),
        mariadb.endpoint("kubernetes"),
    );
    let wrong = |endpoint: &str, from: &str, to: &str| {
        assert!(endpoint.contains(from));
        endpoint.replacen(from, to, 1)
    };
    let nobody = testkit::free_port().to_string();
    let cases = [
        (
            wrong(&one, PASSWORD_IN_URL, "wrong"),
            "refuses user or password",
        ),
        (wrong(&other, PASSWORD, "wrong"), "refuses user or password"),
        (postgres.endpoint("nowhere"), "no such database"),
        (mariadb.endpoint("nowhere"), "no such database"),
        (
            wrong(&one, &postgres.port().to_string(), &nobody),
            "nobody listens",
        ),
        (
            wrong(&other, &mariadb.port().to_string(), &nobody),
            "nobody listens",
        ),
        // Each at the other's port.
        (
            wrong(
                &one,
                &postgres.port().to_string(),
                &mariadb.port().to_string(),
            ),
            "understood",
        ),
        (
            "postgres:///x?host=/nowhere".to_owned(),
            "socket, or the host name, does not exist",
        ),
        (
            "mysql://root@unix(/nowhere/socket)/x".to_owned(),
            "socket, or the host name, does not",
        ),
        (
            "postgres://a:b@no-such-host.invalid/x".to_owned(),
            "cannot reach",
        ),
    ];
    for (endpoint, words) in cases {
        let error = unreachable(store(&endpoint, Path::new("/"), Access::Read).await);
        assert!(error.contains(words), "{endpoint}: {error}");
    }
}

#[tokio::test]
async fn a_server_that_says_nothing_is_not_waited_for_for_ever() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = silent.local_addr().unwrap().port();
    let (one, other) = (
        format!("postgres://a:b@127.0.0.1:{port}/x?sslmode=disable"),
        format!("mysql://a:b@tcp(127.0.0.1:{port})/x"),
    );
    let (one, other) = tokio::join!(
        store(&one, Path::new("/"), Access::Read),
        store(&other, Path::new("/"), Access::Read),
    );
    for result in [one, other] {
        assert!(unreachable(result).contains("no answer within 10 s"));
    }
}

/// The first words of a MySQL 8 without TLS that does not remember the password; Debian has no
/// MySQL that could say them.
async fn forgetful_mysql(listener: TcpListener) {
    let mut greeting = vec![10];
    greeting.extend(b"8.0.36\0\x01\0\0\0nonce-12\0");
    // Lower capabilities, character set, status, upper capabilities, length of the nonce.
    greeting.extend([0x08, 0x82, 45, 2, 0, 0x08, 0, 21]);
    greeting.extend([0; 10]);
    greeting.extend(b"345678901234\0caching_sha2_password\0");
    let packet = |number: u8, payload: &[u8]| {
        let length = u8::try_from(payload.len()).unwrap();
        [&[length, 0, 0, number], payload].concat()
    };
    while let Ok((mut client, _)) = listener.accept().await {
        client.write_all(&packet(0, &greeting)).await.unwrap();
        let answer = client.read(&mut [0; 1024]).await.unwrap_or(0);
        if answer > 0 {
            // "The whole password, please."
            let _ = client.write_all(&packet(2, &[1, 4])).await;
            let _ = client.read(&mut [0; 1024]).await;
            // Its key, asked for.
            let _ = client
                .write_all(&packet(4, b"\x01-----BEGIN PUBLIC KEY-----"))
                .await;
            let _ = client.read(&mut [0; 1024]).await;
        }
    }
}

#[tokio::test]
async fn a_mysql_that_wants_the_password_encrypted_and_has_no_tls() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = tokio::spawn(forgetful_mysql(listener));
    let endpoint = format!("mysql://{USER}:{PASSWORD}@tcp(127.0.0.1:{port})/kubernetes");
    let error = unreachable(store(&endpoint, Path::new("/"), Access::Read).await);
    assert!(error.contains("has no TLS: turn its TLS on"), "{error}");
    server.abort();
}

#[tokio::test]
async fn a_database_that_is_not_kines_is_called_so() {
    let statements = [
        ("DROP TABLE kine;", "no table kine"),
        (
            "CREATE TABLE kine (id INTEGER, name VARCHAR(630), value INTEGER);",
            "its table kine is not K3s's",
        ),
    ];
    let databases = Database::all("foreign");
    for (statement, words) in statements {
        for database in &databases {
            database.sql(statement);
            let result = store(&database.endpoint(), &database.server_dir(), Access::Write).await;
            match result {
                Err(DatastoreError::Malformed { problem, .. }) => {
                    assert!(problem.contains(words), "{database:?}: {problem}");
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

#[tokio::test]
async fn columns_of_another_kind_are_called_so() {
    for database in Database::all("kinds") {
        let create = "created INTEGER, deleted INTEGER, create_revision INTEGER, \
                      prev_revision INTEGER, lease INTEGER, old_value";
        let table = match database {
            Database::Sqlite { .. } => format!("id INTEGER, name TEXT, {create} BLOB, value REAL"),
            Database::Postgres { .. } => {
                format!("id INTEGER, name TEXT, {create} bytea, value TEXT")
            }
            Database::MariaDb { .. } => {
                format!("id INTEGER, name VARCHAR(630), {create} MEDIUMBLOB, value DOUBLE")
            }
        };
        database.sql(&format!(
            "DROP TABLE kine; CREATE TABLE kine ({table}); \
             INSERT INTO kine VALUES (1, '{KEY}', 1, 0, 0, 0, 0, NULL, '1.5');"
        ));
        let store = database.open(Access::Read).await;
        for result in [
            store.get(KEY).await.map(drop),
            store.former("/").await.map(drop),
        ] {
            match result {
                Err(DatastoreError::Malformed { problem, .. }) => {
                    assert!(problem.contains("column value"), "{database:?}: {problem}");
                }
                other => panic!("{database:?}: {other:?}"),
            }
        }
    }
}

#[tokio::test]
async fn an_account_without_rights_is_told_so() {
    let [_, one, other] = Database::all("rights");
    one.sql("CREATE ROLE guest LOGIN PASSWORD 'guest';");
    other.sql(
        "CREATE USER guest@'%' IDENTIFIED BY 'guest'; GRANT CREATE ON t_rights.* TO guest@'%'; \
         CREATE USER reader@'%' IDENTIFIED BY 'reader'; GRANT SELECT ON t_rights.* TO reader@'%';",
    );
    one.sql("CREATE ROLE reader LOGIN PASSWORD 'reader'; GRANT SELECT ON kine TO reader;");
    let of = |database: &Database, user: &str| match database {
        Database::Postgres { .. } => {
            format!(
                "postgres://{user}:{user}@127.0.0.1:{}/t_rights",
                Postgres::shared().port()
            )
        }
        _ => format!(
            "mysql://{user}:{user}@tcp(127.0.0.1:{})/t_rights",
            MariaDb::shared().port()
        ),
    };
    for database in [one, other] {
        let result = store(&of(&database, "guest"), Path::new("/"), Access::Read).await;
        assert!(unreachable(result).contains("use K3s's own account"));

        let reader = of(&database, "reader");
        let reader = store(&reader, Path::new("/"), Access::Write).await.unwrap();
        let record = reader.get(KEY).await.unwrap().unwrap();
        let before = database.everything();
        let error = reader.update(KEY, record.revision, b"x").await.unwrap_err();
        assert!(
            error.to_string().contains("use K3s's own account"),
            "{error}"
        );
        assert_eq!(database.everything(), before);
    }
}

#[tokio::test]
async fn a_living_server_moves_the_revision() {
    for database in Database::all("alive") {
        let ours = database.open(Access::Read).await;
        assert!(!is_moving(&*ours, Duration::from_millis(700)).await.unwrap());
        let other = database.open(Access::Write).await;
        // The first of its writes may come before the first look.
        let server = async {
            for number in 0.. {
                tokio::time::sleep(Duration::from_millis(200)).await;
                let key = format!("/registry/lease{number}");
                other.create(&key, b"renewed").await.unwrap();
            }
        };
        tokio::select! {
            moved = is_moving(&*ours, Duration::from_secs(60)) => {
                assert!(moved.unwrap(), "{database:?}");
            }
            () = server => {}
        }
    }
}
