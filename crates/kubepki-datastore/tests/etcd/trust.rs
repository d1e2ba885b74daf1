//! TLS and passwords: who gets in, and what the others are told.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use kubepki::datastore::Datastore;
use kubepki_datastore::Tls;
use kubepki_datastore::etcd::EtcdStore;
use pki::{Authority, Certificate, KeyAlgorithm, LeafRequest, PrivateKey, Purpose, San, Serial};
use testkit::{Etcd, EtcdMember, Fixture, TlsFiles, openssl_ok};

use crate::lab::{KEY, assert_opens, recorded};

/// A stopped K3s with embedded etcd, whose own CA issues what our server presents.
struct Lab {
    fixture: Fixture,
}

impl Lab {
    fn new() -> Self {
        Self {
            fixture: Fixture::without_datastore("k3s-1.36-etcd-embedded"),
        }
    }

    fn server_dir(&self) -> PathBuf {
        self.fixture.data_dir().join("server")
    }

    fn etcd(&self, name: &str) -> PathBuf {
        self.server_dir().join("tls/etcd").join(name)
    }

    /// What K3s's own member would present, on our port, and demanding client certificates.
    fn member(&self, sans: &[&str]) -> TlsFiles {
        let key = PrivateKey::from_pem(testkit::KeyPool::pem(0).as_bytes()).unwrap();
        self.leaf("server", sans, &key)
    }

    fn leaf(&self, name: &str, sans: &[&str], key: &PrivateKey) -> TlsFiles {
        let ca = std::fs::read(self.etcd("server-ca.crt")).unwrap();
        let ca_key = std::fs::read(self.etcd("server-ca.key")).unwrap();
        let ca = Authority::new(
            Certificate::all_from_pem(&ca).unwrap().remove(0),
            PrivateKey::from_pem(&ca_key).unwrap(),
        )
        .unwrap();
        let sans: Vec<San> = sans.iter().map(|it| San::from_text(it)).collect();
        let leaf = ca
            .issue(&LeafRequest {
                organizations: &[],
                common_name: "etcd-server",
                sans: &sans,
                purposes: &[Purpose::ServerAuth, Purpose::ClientAuth],
                spki_der: key.spki_der(),
                serial: Serial::random(pki::random).unwrap(),
                validity: ca.certificate().validity(),
            })
            .unwrap();
        let files = TlsFiles {
            cert: self.fixture.scratch(&format!("{name}.crt")),
            key: self.fixture.scratch(&format!("{name}.key")),
            trusted: Some(self.etcd("server-ca.crt")),
        };
        write(&files.cert, leaf.to_pem().as_bytes());
        write(&files.key, key.to_pem().unwrap().as_bytes());
        files
    }

    fn control(&self) -> TlsFiles {
        TlsFiles {
            cert: self.etcd("client.crt"),
            key: self.etcd("client.key"),
            trusted: Some(self.etcd("server-ca.crt")),
        }
    }

    fn start(&self, sans: &[&str]) -> Etcd {
        let member = EtcdMember {
            client: Some(self.member(sans)),
            peer: None,
        };
        Etcd::start(&[member], Some(&self.control()))
    }

    fn scratch(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.fixture.scratch(name);
        write(&path, content);
        path
    }
}

#[expect(clippy::disallowed_methods, reason = "a file in a temporary folder")]
fn write(path: &Path, content: &[u8]) {
    std::fs::write(path, content).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

async fn refused(urls: &[String], tls: &Tls) -> String {
    match EtcdStore::connect(urls, tls).await {
        Ok(store) => panic!("{} let us in", store.endpoint()),
        Err(error) => error.to_string(),
    }
}

#[tokio::test]
async fn k3s_own_client_certificate_opens_its_etcd() {
    let lab = Lab::new();
    let etcd = lab.start(&["127.0.0.1", "localhost"]);
    let tls = Tls::embedded(&lab.server_dir());
    let store = EtcdStore::connect(&etcd.urls(), &tls).await.unwrap();
    let recorded = recorded(&lab.fixture);
    store.create(KEY, &recorded[0].value).await.unwrap();
    let record = store.get(KEY).await.unwrap().unwrap();
    assert_eq!(record.value, recorded[0].value);
    assert_opens(&record.value, &lab.fixture);
    let shown = etcd.control(&["get", KEY, "--print-value-only"]).stdout;
    assert_eq!(
        shown.strip_suffix(b"\n").unwrap(),
        recorded[0].value.as_slice()
    );

    // By name as well, and with every form of key.
    let by_name: Vec<String> = etcd
        .urls()
        .iter()
        .map(|url| url.replace("127.0.0.1", "localhost"))
        .collect();
    let sec1 = std::fs::read(lab.etcd("client.key")).unwrap();
    let pkcs8 = openssl_ok(&["pkcs8", "-topk8", "-nocrypt"], &sec1).stdout;
    let params = openssl_ok(&["ecparam", "-name", "prime256v1"], b"").stdout;
    let forms = [pkcs8, [params, sec1].concat()];
    for (index, form) in forms.iter().enumerate() {
        let tls = Tls {
            key_file: Some(lab.scratch(&format!("form-{index}.key"), form)),
            ..tls.clone()
        };
        let store = EtcdStore::connect(&by_name, &tls).await.unwrap();
        assert_eq!(store.get(KEY).await.unwrap().unwrap(), record);
    }
    for algorithm in [KeyAlgorithm::Rsa(2048), KeyAlgorithm::P384] {
        // PKCS#1, SEC1 of another curve.
        let key = PrivateKey::generate(algorithm).unwrap();
        let files = lab.leaf(&algorithm.to_string(), &["client"], &key);
        let tls = Tls {
            cert_file: Some(files.cert),
            key_file: Some(files.key),
            ..tls.clone()
        };
        let store = EtcdStore::connect(&by_name, &tls).await.unwrap();
        assert_eq!(store.get(KEY).await.unwrap().unwrap(), record);
    }
}

#[tokio::test]
async fn strangers_are_kept_out_in_words() {
    let lab = Lab::new();
    let etcd = lab.start(&["127.0.0.1"]);
    let good = Tls::embedded(&lab.server_dir());

    let wrong_ca = Tls {
        ca_file: Some(lab.etcd("peer-ca.crt")),
        ..good.clone()
    };
    let text = refused(&etcd.urls(), &wrong_ca).await;
    assert!(
        text.contains("does not come from a CA that is trusted"),
        "{text}"
    );

    let anonymous = Tls {
        ca_file: good.ca_file.clone(),
        ..Tls::default()
    };
    let text = refused(&etcd.urls(), &anonymous).await;
    assert!(text.contains("client certificate"), "{text}");

    // A certificate of the peer CA is none that clients are known by.
    let stranger = Tls {
        cert_file: Some(lab.etcd("peer-server-client.crt")),
        key_file: Some(lab.etcd("peer-server-client.key")),
        ..good.clone()
    };
    let text = refused(&etcd.urls(), &stranger).await;
    assert!(
        text.contains("does not accept our client certificate"),
        "{text}"
    );

    let by_name: Vec<String> = etcd
        .urls()
        .iter()
        .map(|url| url.replace("127.0.0.1", "localhost"))
        .collect();
    let text = refused(&by_name, &good).await;
    assert!(text.contains("another name or address"), "{text}");

    let plain: Vec<String> = etcd
        .urls()
        .iter()
        .map(|url| url.replace("https:", "http:"))
        .collect();
    let text = refused(&plain, &Tls::default()).await;
    assert!(
        text.contains("cannot reach the datastore http://127.0.0.1"),
        "{text}"
    );
    let http = Etcd::plain();
    let https: Vec<String> = http
        .urls()
        .iter()
        .map(|url| url.replace("http:", "https:"))
        .collect();
    let text = refused(&https, &good).await;
    assert!(text.contains("perhaps it speaks http://"), "{text}");
}

/// A server without TLS whose answer was lost: it hangs up with our first message unread.
#[tokio::test]
async fn a_reset_in_the_handshake_is_told() {
    let lab = Lab::new();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            stream.readable().await.unwrap();
        }
    });
    let text = refused(&[url], &Tls::embedded(&lab.server_dir())).await;
    assert!(text.contains("Connection reset by peer"), "{text}");
    assert!(text.contains("perhaps it speaks http://"), "{text}");
}

/// Files that cannot be right, and what the error must name.
fn wrong_files(lab: &Lab) -> Vec<(Tls, &'static str)> {
    let encrypted = openssl_ok(
        &["pkcs8", "-topk8", "-passout", "pass:x"],
        &std::fs::read(lab.etcd("client.key")).unwrap(),
    );
    let locked = lab.scratch("locked.key", &encrypted.stdout);
    let text = lab.scratch("text", b"no PEM at all");
    let missing = lab.fixture.scratch("none.crt");
    let good = || Tls::embedded(&lab.server_dir());
    let ca = |ca_file: Option<PathBuf>| Tls { ca_file, ..good() };
    let cert = |cert_file: Option<PathBuf>| Tls {
        cert_file,
        ..good()
    };
    let key = |key_file: Option<PathBuf>| Tls { key_file, ..good() };
    vec![
        (ca(Some(text.clone())), "text"),
        (ca(Some(missing)), "none.crt"),
        (ca(Some(lab.server_dir())), "is not a file"),
        (ca(Some("/dev/zero".into())), "is not a file"),
        (cert(None), "--datastore-certfile"),
        (cert(Some(text.clone())), "text"),
        (key(None), "--datastore-keyfile"),
        (key(Some(text)), "text"),
        (key(Some(locked)), "locked.key"),
        (
            key(Some(lab.etcd("server-ca.key"))),
            "does not belong to the first certificate",
        ),
    ]
}

#[tokio::test]
async fn files_that_do_not_fit_are_named() {
    let lab = Lab::new();
    let urls = ["https://127.0.0.1:1".to_owned()];
    for (tls, wanted) in wrong_files(&lab) {
        let problem = refused(&urls, &tls).await;
        assert!(problem.contains(wanted), "{wanted}: {problem}");
        assert!(problem.contains("cannot be used"), "{problem}");
    }
}

#[tokio::test]
async fn users_and_passwords_of_etcd() {
    let etcd = Etcd::plain();
    let login = |login: &str| vec![etcd.url(0).replace("://", &format!("://{login}@"))];
    let text = refused(&login("root:s3cret"), &Tls::default()).await;
    assert!(text.contains("no authentication on"), "{text}");

    etcd.control(&["user", "add", "root:s3%cret"]);
    etcd.control(&["user", "grant-role", "root", "root"]);
    etcd.control(&["user", "add", "reader:other"]);
    etcd.control(&["auth", "enable"]);
    let store = EtcdStore::connect(&login("root:s3%25cret"), &Tls::default())
        .await
        .unwrap();
    let revision = store.create(KEY, b"value").await.unwrap();
    assert!(!format!("{store:?} {}", store.endpoint()).contains("cret"));

    let wrong = refused(&login("root:s3wrong"), &Tls::default()).await;
    assert!(wrong.contains("wrong user or password"), "{wrong}");
    assert!(!wrong.contains("s3wrong"), "{wrong}");

    let reader = EtcdStore::connect(&login("reader:other"), &Tls::default())
        .await
        .unwrap();
    let error = reader.update(KEY, revision, b"x").await.unwrap_err();
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(source.contains("permission denied"), "{source}");
    assert!(source.ends_with("nothing was written"), "{source}");

    let anonymous = EtcdStore::connect(&etcd.urls(), &Tls::default()).await;
    let error = match anonymous {
        Ok(store) => store.get(KEY).await.unwrap_err(),
        Err(error) => error,
    };
    let source = std::error::Error::source(&error).map(ToString::to_string);
    let text = format!("{error} {}", source.unwrap_or_default());
    assert!(text.contains("wants a user"), "{text}");
}
