use std::path::{Path, PathBuf};

use super::tls::{ClientFiles, Roots};
use super::*;

fn parsed(text: &str) -> Endpoint {
    Endpoint::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn postgres(text: &str) -> Postgres {
    match parsed(text) {
        Endpoint::Postgres(address) => address,
        other => panic!("{text}: {other}"),
    }
}

fn mysql(text: &str) -> Mysql {
    match parsed(text) {
        Endpoint::Mysql(address) => address,
        other => panic!("{text}: {other}"),
    }
}

fn tcp(host: &str, port: u16) -> Address {
    Address::Tcp(host.to_owned(), port)
}

const SQLITE: &[(&str, &str)] = &[
    ("", "/var/lib/rancher/k3s/server/db/state.db"),
    ("  ", "/var/lib/rancher/k3s/server/db/state.db"),
    ("sqlite", "/var/lib/rancher/k3s/server/db/state.db"),
    ("sqlite://", "/var/lib/rancher/k3s/server/db/state.db"),
    (
        "sqlite://?_journal=WAL",
        "/var/lib/rancher/k3s/server/db/state.db",
    ),
    (
        "sqlite://./db/state.db?_journal=WAL&cache=shared&_busy_timeout=30000&_txlock=immediate",
        "/var/lib/rancher/k3s/server/db/state.db",
    ),
    ("sqlite:///srv/k3s.db?mode=rw", "/srv/k3s.db"),
    ("sqlite://other.db", "/var/lib/rancher/k3s/server/other.db"),
    ("sqlite://../x.db", "/var/lib/rancher/k3s/server/../x.db"),
    ("sqlite://file:/srv/a%20b.db?cache=shared", "/srv/a b.db"),
    ("sqlite://file:///srv/x.db", "/srv/x.db"),
    ("sqlite://file://localhost/srv/x.db", "/srv/x.db"),
    ("sqlite:///srv/100%.db", "/srv/100%.db"),
];

#[test]
fn sqlite_paths_are_seen_from_the_server_directory() {
    let server = Path::new("/var/lib/rancher/k3s/server");
    for &(text, path) in SQLITE {
        match parsed(text) {
            Endpoint::Sqlite(file) => {
                assert_eq!(file.path_below(server), Path::new(path), "{text}")
            }
            other => panic!("{text}: {other}"),
        }
    }
}

const POSTGRES: &[(&str, &str, Option<&str>, &str, &str)] = &[
    (
        "postgres://",
        "postgres",
        Some("postgres"),
        "localhost:5432",
        "kubernetes",
    ),
    ("postgresql://h", "root", None, "h:5432", "kubernetes"),
    ("postgres://u@h/", "u", None, "h:5432", "kubernetes"),
    ("postgres://u:@h/K3S", "u", Some(""), "h:5432", "k3s"),
    ("postgres://u:p@h:6543/db", "u", Some("p"), "h:6543", "db"),
    (
        "postgres://u:p@[::1]:6543/db",
        "u",
        Some("p"),
        "[::1]:6543",
        "db",
    ),
    (
        "postgres://u:p@[fe80::1]/db",
        "u",
        Some("p"),
        "[fe80::1]:5432",
        "db",
    ),
    (
        "postgres://u:a@b:c@h/db",
        "u",
        Some("a@b:c"),
        "h:5432",
        "db",
    ),
    (
        "postgres://u:%40%3A%2F%3F%23%25@h/db",
        "u",
        Some("@:/?#%"),
        "h:5432",
        "db",
    ),
    ("postgres://u:a+b@h/db", "u", Some("a+b"), "h:5432", "db"),
    (
        "postgres://u%20v:p@h.example.:1/d%20b",
        "u v",
        Some("p"),
        "h.example.:1",
        "d b",
    ),
];

#[test]
fn postgres_urls_are_read_as_kine_reads_them() {
    // user, password, address, database
    for &(text, user, password, address, database) in POSTGRES {
        let it = postgres(text);
        let found = it.password.as_ref().map(|it| it.as_str());
        assert_eq!((it.user.as_str(), found), (user, password), "{text}");
        assert_eq!(
            (it.address.to_string().as_str(), it.database.as_str()),
            (address, database),
            "{text}"
        );
    }
    // What stands after ? wins.
    let it = postgres("postgres://a:b@h:1/c?user=x&password=y%26z&dbname=Q&host=/run/pg&port=2");
    assert_eq!((it.user.as_str(), it.database.as_str()), ("x", "Q"));
    assert_eq!(it.password.as_ref().map(|it| it.as_str()), Some("y&z"));
    assert_eq!(it.address, Address::Unix(PathBuf::from("/run/pg"), 2));
    let it = postgres("postgres://h/?search_path=k3s&sslmode=require&connect_timeout=5");
    assert_eq!(
        it.parameters,
        [("search_path".to_owned(), "k3s".to_owned())]
    );
}

#[test]
fn what_postgres_does_with_tls() {
    let file = |name: &str| Some(PathBuf::from(name));
    let none = Tls::default();
    let ca = Tls {
        ca_file: file("/ca"),
        ..Tls::default()
    };
    let all = Tls {
        cert_file: file("/cert"),
        key_file: file("/key"),
        ..ca.clone()
    };
    let client = Some(ClientFiles {
        certificate: "/cert".into(),
        key: "/key".into(),
    });
    let given = || Roots::File("/ca".into());
    let cases = [
        ("", &none, PostgresTls::Preferred(None)),
        ("", &ca, PostgresTls::Checked(given(), None)),
        ("", &all, PostgresTls::Checked(given(), client.clone())),
        ("?sslmode=disable", &none, PostgresTls::Off),
        ("?sslmode=allow", &none, PostgresTls::Preferred(None)),
        (
            "?sslmode=prefer",
            &all,
            PostgresTls::Preferred(client.clone()),
        ),
        ("?sslmode=require", &none, PostgresTls::Unchecked(None)),
        ("?sslmode=require", &ca, PostgresTls::Checked(given(), None)),
        (
            "?sslmode=require&sslrootcert=/ca",
            &none,
            PostgresTls::Checked(given(), None),
        ),
        (
            "?sslmode=verify-ca",
            &none,
            PostgresTls::Checked(Roots::System, None),
        ),
        (
            "?sslmode=verify-full&sslrootcert=system",
            &none,
            PostgresTls::Checked(Roots::System, None),
        ),
        (
            "?sslrootcert=/other",
            &ca,
            PostgresTls::Checked(Roots::File("/other".into()), None),
        ),
        (
            "?sslmode=verify-full&sslrootcert=/ca&sslcert=/cert&sslkey=/key",
            &none,
            PostgresTls::Checked(given(), client),
        ),
    ];
    for (query, files, expected) in cases {
        let it = postgres(&format!("postgres://u:p@h/d{query}"));
        assert_eq!(it.tls(files).unwrap(), expected, "{query} {files:?}");
    }
    let socket = postgres("postgres:///d?host=/run/postgresql&sslmode=verify-full");
    assert_eq!(socket.tls(&ca).unwrap(), PostgresTls::Off);
}

#[test]
fn tls_options_of_postgres_that_contradict_each_other() {
    let none = Tls::default();
    let ca = Tls {
        ca_file: Some(PathBuf::from("/ca")),
        ..Tls::default()
    };
    for (query, files) in [
        ("h/d?sslmode=disable", &ca),
        ("h/d?sslmode=disable&sslrootcert=/ca", &none),
        ("h/d?sslcert=/cert", &none),
    ] {
        let it = postgres(&format!("postgres://{query}"));
        assert!(
            matches!(it.tls(files), Err(DatastoreError::Endpoint { .. })),
            "{query}"
        );
    }
}

const MYSQL: &[(&str, &str, Option<&str>, &str, &str)] = &[
    (
        "mysql://",
        "root",
        None,
        "/var/run/mysqld/mysqld.sock",
        "kubernetes",
    ),
    ("mysql:///", "", None, "127.0.0.1:3306", "kubernetes"),
    ("mysql://u:p@tcp(h:1)/db", "u", Some("p"), "h:1", "db"),
    ("mysql://u:p@tcp(h)/DB", "u", Some("p"), "h:3306", "DB"),
    ("mysql://u:p@tcp/db", "u", Some("p"), "127.0.0.1:3306", "db"),
    ("mysql://u:p@(h:1)/db", "u", Some("p"), "h:1", "db"),
    ("mysql://u:p@/db", "u", Some("p"), "127.0.0.1:3306", "db"),
    (
        "mysql://u@tcp([::1]:3307)/",
        "u",
        None,
        "[::1]:3307",
        "kubernetes",
    ),
    (
        "mysql://u@tcp6([fe80::1])/",
        "u",
        None,
        "[fe80::1]:3306",
        "kubernetes",
    ),
    ("mysql://u:@tcp(h)/", "u", None, "h:3306", "kubernetes"),
    (
        "mysql://u:p@unix(/run/x/y.sock)/db",
        "u",
        Some("p"),
        "/run/x/y.sock",
        "db",
    ),
    (
        "mysql://u:p@unix/db",
        "u",
        Some("p"),
        "/tmp/mysql.sock",
        "db",
    ),
    // The password stands there as it is.
    (
        "mysql://u:a@b:c/d;e?f%20g@tcp(h)/db",
        "u",
        Some("a@b:c/d;e?f%20g"),
        "h:3306",
        "db",
    ),
    (
        "mysql://u:p@tcp(h)/a%2Fb?parseTime=true&x=%2F",
        "u",
        Some("p"),
        "h:3306",
        "a/b",
    ),
];

#[test]
fn mysql_dsns_are_read_as_gos_driver_reads_them() {
    let none = Tls::default();
    for &(text, user, password, address, database) in MYSQL {
        let it = mysql(text);
        let found = it.password.as_ref().map(|it| it.as_str());
        assert_eq!((it.user.as_str(), found), (user, password), "{text}");
        assert_eq!(
            (it.address(&none).to_string().as_str(), it.database.as_str()),
            (address, database),
            "{text}"
        );
    }
    // kine's default with TLS files is another.
    let files = Tls {
        ca_file: Some(PathBuf::from("/ca")),
        ..Tls::default()
    };
    assert_eq!(mysql("mysql://").address(&files), tcp("127.0.0.1", 3306));
    assert!(
        mysql(
            "mysql://u:p@h/d?allowCleartextPasswords=true"
                .replace("h/", "tcp(h)/")
                .as_str()
        )
        .cleartext
    );
}

#[test]
fn what_mysql_does_with_tls() {
    let none = Tls::default();
    let ca = Tls {
        ca_file: Some(PathBuf::from("/ca")),
        ..Tls::default()
    };
    let checked = MysqlTls::Checked(Roots::File("/ca".into()), None);
    let cases = [
        ("", &none, MysqlTls::Off),
        ("?tls=false", &none, MysqlTls::Off),
        ("?tls=0", &none, MysqlTls::Off),
        ("?tls=true", &none, MysqlTls::Checked(Roots::System, None)),
        ("?tls=1", &none, MysqlTls::Checked(Roots::System, None)),
        ("?tls=skip-verify", &none, MysqlTls::Unchecked),
        ("?tls=Skip-Verify", &none, MysqlTls::Unchecked),
        ("?tls=preferred", &none, MysqlTls::Preferred),
        ("", &ca, checked.clone()),
        ("?tls=false", &ca, checked.clone()),
        ("?tls=skip-verify", &ca, checked),
    ];
    for (query, files, expected) in cases {
        let it = mysql(&format!("mysql://u:p@tcp(h)/d{query}"));
        assert_eq!(it.tls(files).unwrap(), expected, "{query} {files:?}");
    }
}

#[test]
fn etcds_urls_are_handed_on() {
    let text = "https://a:2379, https://b:2379,http://[::1]:2379";
    match parsed(text) {
        Endpoint::Etcd { urls } => {
            assert_eq!(
                urls,
                ["https://a:2379", "https://b:2379", "http://[::1]:2379"]
            );
        }
        other => panic!("{other}"),
    }
    let hidden = parsed("https://user:secret@a:2379,https://b:2379?x=secret").describe();
    assert_eq!(hidden, "https://***@a:2379,https://b:2379");
}

const NONSENSE: &[(&str, &str)] = &[
    ("mysql", "it has no ://"),
    ("postgres", "it has no ://"),
    ("./db/state.db", "it has no ://"),
    ("user:secret@tcp(h)/db", "it has no ://"),
    ("nats://h:4222", "NATS is not supported"),
    ("t4://h", "T4 is not supported"),
    ("dqlite://x", "Dqlite"),
    ("unix:///run/kine.sock", "a kine that runs by itself"),
    ("oracle://u:secret@h", "not one of K3s's"),
    ("MYSQL://u:secret@tcp(h)/d", "not one of K3s's"),
    ("://", "not one of K3s's"),
    ("https://", "every etcd member needs"),
    ("https://a:2379,b:2379", "every etcd member needs"),
    ("https://a:2379,", "every etcd member needs"),
    ("postgres://u:secret\n@h/d", "control character"),
    ("postgres://u:secret@h:port/d", "the port is not a number"),
    ("postgres://u:secret@h:0/d", "the port is not a number"),
    ("postgres://u:secret@h:70000/d", "the port is not a number"),
    ("postgres://u:sec/ret@h/d", "the port is not a number"),
    ("postgres://u:sec?ret@h/d", "the port is not a number"),
    ("postgres://u:sec#ret@h/d", "write it as %23"),
    ("postgres://u:sec%zzret@h/d", "broken %-escape"),
    ("postgres://u:sec%ffret@h/d", "broken %-escape"),
    ("postgres://u:sec%00ret@h/d", "broken %-escape"),
    ("postgres://u:secret@::1/d", "needs brackets"),
    ("postgres://u:secret@[::1/d", "lacks its ]"),
    ("postgres://u:secret@[nonsense]/d", "not an IPv6 address"),
    ("postgres://u:secret@[::1]x/d", "the port is not a number"),
    (
        "postgres://u:secret@h h/d",
        "a character that none may have",
    ),
    ("postgres://u:secret@a,b/d", "several hosts"),
    (
        "postgres://u:secret@h/d?sslmode=yes",
        "sslmode must be one of disable, allow",
    ),
    (
        "postgres://u:secret@h/d?sslpassword=secret",
        "decrypt it first",
    ),
    (
        "postgres://u:secret@h/d?a b=secret",
        "a name that none may have",
    ),
    ("postgres://u:secret@h/d?x=%", "broken %-escape"),
    ("postgres://u:secret@h/d?port=x", "the option port"),
    (
        "mysql://u:secret@tcp(h)",
        "the / before the database is missing",
    ),
    (
        "mysql://u:secret@tcp(h/db",
        "the ) after the address is missing",
    ),
    (
        "mysql://u:secret@tcp(h)/db?x=/",
        "the ) after the address is missing",
    ),
    (
        "mysql://u:secret@h:3306/db",
        "neither tcp(<host>:<port>) nor unix(<path>)",
    ),
    (
        "mysql://u:secret@udp(h)/db",
        "neither tcp(<host>:<port>) nor unix(<path>)",
    ),
    ("mysql://u:secret@tcp(h:x)/db", "the port is not a number"),
    ("mysql://u:secret@tcp(::1)/db", "needs brackets"),
    ("mysql://u:secret@tcp(h)/db?tls=%20secret", "the option tls"),
    ("sqlite://:memory:", "a database in memory"),
    ("sqlite://file:x?mode=memory", "a database in memory"),
    ("sqlite://db/", "the path ends with /"),
    ("sqlite://file:%zz", "broken %-escape"),
];

#[test]
fn nonsense_is_refused_with_a_reason() {
    for &(text, words) in NONSENSE {
        match Endpoint::parse(text) {
            Err(error @ DatastoreError::Endpoint { .. }) => {
                let error = error.to_string();
                assert!(error.contains(words), "{text}: {error}");
                assert!(!error.contains("sec"), "{text}: {error}");
            }
            other => panic!("{text}: {other:?}"),
        }
    }
}
