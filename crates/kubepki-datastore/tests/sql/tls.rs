//! TLS to the database: who is believed, who is refused, and that nothing goes out in the clear.

use std::path::{Path, PathBuf};

use kubepki::datastore::DatastoreError;
use kubepki_datastore::{Access, Endpoint, Store, Tls, open};
use testkit::server::{Certificates, Encryption, MariaDb, Postgres};

async fn connect(endpoint: &str, tls: &Tls) -> Result<Box<dyn Store>, DatastoreError> {
    open(
        &Endpoint::parse(endpoint)?,
        tls,
        Path::new("/"),
        Access::Write,
    )
    .await
}

/// What is refused says `words`.
async fn refused(endpoint: &str, tls: &Tls, words: &str) {
    match connect(endpoint, tls).await {
        Ok(store) => panic!("{endpoint}, {tls:?}: connected: {store:?}"),
        Err(error) => assert!(
            error.to_string().contains(words),
            "{endpoint}, {tls:?}: {error}"
        ),
    }
}

fn ca(file: PathBuf) -> Tls {
    Tls {
        ca_file: Some(file),
        ..Tls::default()
    }
}

fn with_client(all: &Certificates, name: &str, key: PathBuf) -> Tls {
    Tls {
        cert_file: Some(all.certificate(name)),
        key_file: Some(key),
        ..ca(all.certificate("ca"))
    }
}

const POSTGRES_TABLE: &str = "CREATE TABLE kine (id BIGSERIAL PRIMARY KEY, name text COLLATE \"C\", \
    created INTEGER, deleted INTEGER, create_revision BIGINT, prev_revision BIGINT, \
    lease INTEGER, value bytea, old_value bytea); \
    CREATE UNIQUE INDEX kine_name_prev_revision_uindex ON kine (name, prev_revision);";

fn postgres(encryption: Encryption, certificate: &str) -> Postgres {
    let server = Postgres::with(encryption, certificate);
    server.sql("kubernetes", POSTGRES_TABLE);
    server
}

/// Whether the connections of ours that are open have TLS.
fn encrypted(server: &Postgres) -> String {
    let question = "SELECT COALESCE(string_agg(DISTINCT ssl::text, ','), '') FROM pg_stat_ssl \
                    JOIN pg_stat_activity USING (pid) WHERE application_name = 'kubepki';";
    server.sql("kubernetes", question).trim().to_owned()
}

#[tokio::test]
async fn postgres_that_offers_tls() {
    let server = postgres(Encryption::Offered, "server");
    let all = server.certificates();
    let plain = server.endpoint("kubernetes");
    let mode = |mode: &str| format!("{plain}?sslmode={mode}");
    let ours = ca(all.certificate("ca"));
    let none = Tls::default();
    let cases = [
        (plain.clone(), &ours, "true"),
        (plain.clone(), &none, "true"),
        (mode("prefer"), &none, "true"),
        (mode("allow"), &none, "true"),
        (mode("require"), &none, "true"),
        (mode("require"), &ours, "true"),
        (mode("verify-ca"), &ours, "true"),
        (mode("verify-full"), &ours, "true"),
        (plain.replace("127.0.0.1", "localhost"), &ours, "true"),
        (
            format!(
                "{plain}?sslmode=verify-full&sslrootcert={}",
                all.certificate("ca").display()
            ),
            &none,
            "true",
        ),
        (mode("disable"), &none, "false"),
    ];
    for (endpoint, tls, expected) in cases {
        let store = connect(&endpoint, tls)
            .await
            .unwrap_or_else(|it| panic!("{endpoint}: {it}"));
        assert_eq!(encrypted(&server), expected, "{endpoint}");
        store
            .create(
                &format!("/bootstrap/{}", store.newest_revision().await.unwrap()),
                b"x",
            )
            .await
            .unwrap();
        drop(store);
        while !encrypted(&server).is_empty() {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }
}

#[tokio::test]
async fn postgres_whose_certificate_is_not_trusted() {
    let server = postgres(Encryption::Offered, "server");
    let all = server.certificates();
    let plain = server.endpoint("kubernetes");
    let mode = |mode: &str| format!("{plain}?sslmode={mode}");
    let ours = ca(all.certificate("ca"));
    let none = Tls::default();
    let strange = ca(all.certificate("stranger"));
    let untrusted = "its certificate is not trusted: no CA of";
    for endpoint in [
        plain.clone(),
        mode("verify-full"),
        mode("verify-ca"),
        mode("require"),
    ] {
        refused(&endpoint, &strange, untrusted).await;
    }
    refused(
        &plain,
        &strange,
        &all.certificate("stranger").display().to_string(),
    )
    .await;
    refused(
        &mode("verify-full"),
        &none,
        "no CA of the system's trust store",
    )
    .await;
    refused(
        &mode("disable"),
        &ours,
        "would send the password in plain text",
    )
    .await;
}

#[tokio::test]
async fn postgres_that_wants_tls_or_has_none() {
    let server = postgres(Encryption::Required, "misnamed");
    let ours = ca(server.certificates().certificate("ca"));
    let plain = server.endpoint("kubernetes");
    refused(
        &format!("{plain}?sslmode=disable"),
        &Tls::default(),
        "let us not in",
    )
    .await;
    refused(&plain, &ours, "is not for this host").await;
    // verify-ca is held to the name too; require alone is not.
    refused(
        &format!("{plain}?sslmode=verify-ca"),
        &ours,
        "is not for this host",
    )
    .await;
    connect(&format!("{plain}?sslmode=require"), &Tls::default())
        .await
        .unwrap();

    // A server without TLS is never spoken to in the clear when TLS is asked for.
    let without = Postgres::shared().endpoint("kubernetes");
    for (endpoint, tls) in [
        (without.clone(), ours.clone()),
        (format!("{without}?sslmode=require"), Tls::default()),
        (format!("{without}?sslmode=verify-full"), Tls::default()),
    ] {
        refused(&endpoint, &tls, "TLS is asked for and the server has none").await;
    }
}

#[tokio::test]
async fn postgres_that_wants_a_client_certificate() {
    let server = postgres(Encryption::Mutual, "server");
    let all = server.certificates();
    let endpoint = server.endpoint("kubernetes");
    refused(&endpoint, &ca(all.certificate("ca")), "client certificate").await;
    for key in [all.key("client"), all.sec1_key("client")] {
        connect(&endpoint, &with_client(all, "client", key))
            .await
            .unwrap();
    }
    for key in [all.key("client-rsa"), all.pkcs1_key("client-rsa")] {
        connect(&endpoint, &with_client(all, "client-rsa", key))
            .await
            .unwrap();
    }
    let in_url = format!(
        "{endpoint}?sslmode=verify-full&sslrootcert={}&sslcert={}&sslkey={}",
        all.certificate("ca").display(),
        all.certificate("client").display(),
        all.sec1_key("client").display(),
    );
    connect(&in_url, &Tls::default()).await.unwrap();

    let stranger = with_client(all, "stranger-client", all.key("stranger-client"));
    refused(&endpoint, &stranger, "it refuses our client certificate").await;
    let mixed = with_client(all, "client", all.key("stranger-client"));
    refused(&endpoint, &mixed, "do not belong together").await;
}

#[tokio::test]
async fn files_that_are_not_what_they_should_be() {
    let all = Certificates::new();
    let scratch = tempfile::tempdir().unwrap();
    let encrypted = scratch.path().join("encrypted.key");
    let arguments = ["ec", "-aes256", "-passout", "pass:secret", "-in"];
    let key = all.key("client");
    let mut words: Vec<&str> = arguments.to_vec();
    words.extend([key.to_str().unwrap(), "-out", encrypted.to_str().unwrap()]);
    testkit::openssl_ok(&words, b"");
    let missing = scratch.path().join("missing.pem");
    let half = |cert: Option<PathBuf>, key: Option<PathBuf>| Tls {
        cert_file: cert,
        key_file: key,
        ..ca(all.certificate("ca"))
    };
    let (cert, key) = (all.certificate("client"), all.key("client"));
    let cases = [
        (
            half(Some(cert.clone()), None),
            "a client certificate is given without its key",
        ),
        (
            half(None, Some(key.clone())),
            "a client key is given without its certificate",
        ),
        (ca(missing.clone()), "missing.pem cannot be read"),
        (ca(key.clone()), "holds no certificate in PEM"),
        (
            half(Some(key.clone()), Some(key.clone())),
            "holds no certificate in PEM",
        ),
        (
            half(Some(cert.clone()), Some(cert.clone())),
            "holds no private key in PEM",
        ),
        (
            half(Some(cert.clone()), Some(encrypted)),
            "encrypted keys are not supported",
        ),
        (
            half(Some(cert), Some(missing)),
            "missing.pem cannot be read",
        ),
    ];
    let endpoints = [
        "postgres://a:b@127.0.0.1:1/x",
        "mysql://a:b@tcp(127.0.0.1:1)/x",
    ];
    for (tls, words) in cases {
        for endpoint in endpoints {
            refused(endpoint, &tls, words).await;
        }
    }
}

const MARIADB_TABLE: &str = "CREATE TABLE kine (id BIGINT UNSIGNED AUTO_INCREMENT PRIMARY KEY, \
    name VARCHAR(630) CHARACTER SET ascii, created INTEGER, deleted INTEGER, \
    create_revision BIGINT UNSIGNED, prev_revision BIGINT UNSIGNED, lease INTEGER, \
    value MEDIUMBLOB, old_value MEDIUMBLOB, UNIQUE (name, prev_revision));";

fn mariadb(encryption: Encryption, certificate: &str) -> MariaDb {
    let server = MariaDb::with(encryption, certificate);
    server.sql("kubernetes", MARIADB_TABLE);
    server
}

#[tokio::test]
async fn mariadb_that_wants_tls_or_has_none() {
    let server = mariadb(Encryption::Required, "server");
    let all = server.certificates();
    let plain = server.endpoint("kubernetes");
    let ours = ca(all.certificate("ca"));
    let none = Tls::default();
    for (endpoint, tls) in [
        (plain.clone(), &ours),
        (plain.replace("127.0.0.1", "localhost"), &ours),
        (format!("{plain}?tls=skip-verify"), &none),
        (format!("{plain}?tls=preferred"), &none),
        // kine lets the files win.
        (format!("{plain}?tls=false"), &ours),
        (format!("{plain}?tls=nowhere"), &ours),
    ] {
        let store = connect(&endpoint, tls)
            .await
            .unwrap_or_else(|it| panic!("{endpoint}: {it}"));
        let id = store.newest_revision().await.unwrap();
        store
            .create(&format!("/bootstrap/{id}"), b"x")
            .await
            .unwrap();
    }
    refused(&plain, &none, "refuses user or password, or wants TLS").await;
    refused(
        &plain,
        &ca(all.certificate("stranger")),
        "not trusted: no CA of",
    )
    .await;
    refused(
        &format!("{plain}?tls=true"),
        &none,
        "no CA of the system's trust store",
    )
    .await;
    refused(
        &format!("{plain}?tls=nowhere"),
        &none,
        "a configuration that K3s does not have",
    )
    .await;

    let without = MariaDb::shared().endpoint("kubernetes");
    for (endpoint, tls) in [
        (without.clone(), ours.clone()),
        (format!("{without}?tls=skip-verify"), none.clone()),
        (format!("{without}?tls=true"), none),
    ] {
        refused(&endpoint, &tls, "TLS is asked for and the server has none").await;
    }
    let socket = format!(
        "mysql://root@unix({})/kubernetes",
        server.socket().display()
    );
    connect(&socket, &Tls::default()).await.unwrap();
    refused(
        &socket,
        &ours,
        "over a socket there is no host name to check",
    )
    .await;
}

#[tokio::test]
async fn mariadb_that_wants_a_client_certificate() {
    let server = mariadb(Encryption::Mutual, "server");
    let all = server.certificates();
    let endpoint = server.endpoint("kubernetes");
    refused(
        &endpoint,
        &ca(all.certificate("ca")),
        "refuses user or password, or wants",
    )
    .await;
    for key in [all.key("client"), all.sec1_key("client")] {
        connect(&endpoint, &with_client(all, "client", key))
            .await
            .unwrap();
    }
    let stranger = with_client(all, "stranger-client", all.key("stranger-client"));
    refused(&endpoint, &stranger, "client certificate").await;

    let other = mariadb(Encryption::Offered, "misnamed");
    let trusted = ca(other.certificates().certificate("ca"));
    refused(
        &other.endpoint("kubernetes"),
        &trusted,
        "is not for this host",
    )
    .await;
    connect(&other.endpoint("kubernetes"), &Tls::default())
        .await
        .unwrap();
}
