//! Requests to a company's CA, which OpenSSL plays, and what it answers.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use kubepki::bootstrap::{Bundle, Field, read_directory};
use kubepki::ca::{
    CaName, ImportRequest, Kind, Pool, StagedSet, certificates_in, csr_name, import,
    read_request_keys, request,
};
use kubepki::edge::{Clock as _, FreshKeys, SystemClock};
use kubepki::host::LocalHost;
use pki::{Certificate, KeyAlgorithm, PrivateKey, UnixTime};

use crate::lab::{assert_sound, certificates, make};

/// A company's root and issuing CA, as OpenSSL makes them, and a cluster's requests.
pub struct Company {
    folder: tempfile::TempDir,
}

impl Company {
    pub fn new() -> Self {
        let company = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        company.ssl(&[
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-keyout",
            "root.key",
            "-out",
            "root.pem",
            "-subj",
            "/O=Example Corp/CN=Example Root",
            "-days",
            "4000",
            "-addext",
            "keyUsage=critical,keyCertSign,cRLSign",
        ]);
        company.ssl(&[
            "req",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-384",
            "-nodes",
            "-keyout",
            "issuing.key",
            "-out",
            "issuing.csr",
            "-subj",
            "/O=Example Corp/CN=Example Issuing",
            "-addext",
            "basicConstraints=critical,CA:true,pathlen:1",
            "-addext",
            "keyUsage=critical,keyCertSign,cRLSign",
        ]);
        company.ssl(&[
            "x509",
            "-req",
            "-in",
            "issuing.csr",
            "-CA",
            "root.pem",
            "-CAkey",
            "root.key",
            "-CAcreateserial",
            "-days",
            "3000",
            "-copy_extensions",
            "copyall",
            "-out",
            "issuing.pem",
        ]);
        let requests = request(KeyAlgorithm::P256, &make(&FreshKeys, now())).unwrap();
        requests.write(&company.path("request")).unwrap();
        company
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// OpenSSL, with names of files in the folder.
    pub fn ssl(&self, args: &[&str]) {
        let exists = |it: &str| {
            ["pem", "key", "csr", "p7b", "der", "cnf"]
                .iter()
                .any(|kind| it.ends_with(&format!(".{kind}")))
        };
        let args: Vec<String> = args
            .iter()
            .map(|it| match exists(it) {
                true => self.path(it).to_str().unwrap().to_owned(),
                false => (*it).to_owned(),
            })
            .collect();
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        testkit::openssl_ok(&args, b"");
    }

    /// Signs every request with `openssl x509 -req`.
    pub fn sign_all(&self) {
        for ca in CaName::ALL {
            self.sign(ca, &["-copy_extensions", "copyall"]);
        }
    }

    fn sign(&self, ca: CaName, more: &[&str]) {
        let (csr, out) = (
            format!("request/{}", csr_name(ca)),
            format!("{}.pem", ca.flat()),
        );
        let mut args = vec![
            "x509",
            "-req",
            "-in",
            &csr,
            "-CA",
            "issuing.pem",
            "-CAkey",
            "issuing.key",
            "-CAcreateserial",
            "-days",
            "1000",
            "-out",
            &out,
        ];
        args.extend(more);
        self.ssl(&args);
    }

    pub fn read(&self, name: &str) -> Vec<Certificate> {
        let path = self.path(name);
        certificates_in(&path, &fs::read(&path).unwrap()).unwrap()
    }

    async fn keys(&self) -> BTreeMap<CaName, PrivateKey> {
        read_request_keys(&LocalHost, &self.path("request"))
            .await
            .unwrap()
    }

    pub async fn import(&self, answers: Vec<Certificate>) -> Result<StagedSet, String> {
        self.import_over(answers, None).await
    }

    async fn import_over(
        &self,
        answers: Vec<Certificate>,
        live: Option<&Bundle>,
    ) -> Result<StagedSet, String> {
        let request = ImportRequest {
            keys: self.keys().await,
            answers,
            live,
            make: make(&crate::lab::Keys, now()),
            cross: None,
        };
        import(request).map_err(|error| error.to_string())
    }

    pub fn everything(&self) -> Vec<Certificate> {
        let five = CaName::ALL
            .into_iter()
            .map(|ca| format!("{}.pem", ca.flat()));
        let names = five.chain(["issuing.pem".to_owned(), "root.pem".to_owned()]);
        names.flat_map(|name| self.read(&name)).collect()
    }
}

fn now() -> UnixTime {
    SystemClock.now()
}

#[tokio::test]
async fn any_order_and_any_form() {
    let company = Company::new();
    company.sign_all();
    let mut answers = company.everything();
    answers.extend(company.everything());
    answers.reverse();
    let set = company.import(answers).await.unwrap();
    assert_eq!(set.kind, Kind::First);
    assert_sound(&Bundle::default(), &set, now());
    let root = company.read("root.pem");
    assert_eq!(set.hash.after, root[0].fingerprint());
    for ca in CaName::ALL {
        let file = certificates(&set.bundle, ca);
        assert_eq!(
            file[1..],
            [company.read("issuing.pem"), root.clone()].concat()
        );
    }
}

#[tokio::test]
async fn openssl_ca_with_a_policy_of_its_own() {
    let company = Company::new();
    let config = format!(
        "[ca]\ndefault_ca=a\n[a]\ndatabase={0}/index\nnew_certs_dir={0}\nserial={0}/serial\n\
         default_md=sha384\ndefault_days=900\npolicy=p\ncopy_extensions=copy\nrand_serial=yes\n\
         x509_extensions=v\n[p]\norganizationName=optional\ncommonName=supplied\n[v]\n\
         authorityKeyIdentifier=keyid\ncertificatePolicies=1.2.3.4\n\
         extendedKeyUsage=serverAuth,clientAuth\n",
        company.folder.path().display()
    );
    write(&company.path("ca.cnf"), config.as_bytes());
    write(&company.path("index"), b"");
    for ca in CaName::ALL {
        let (csr, out) = (
            format!("request/{}", csr_name(ca)),
            format!("{}.pem", ca.flat()),
        );
        company.ssl(&[
            "ca",
            "-batch",
            "-notext",
            "-config",
            "ca.cnf",
            "-cert",
            "issuing.pem",
            "-keyfile",
            "issuing.key",
            "-in",
            &csr,
            "-out",
            &out,
        ]);
    }
    let set = company.import(company.everything()).await.unwrap();
    assert_sound(&Bundle::default(), &set, now());
    // The same root again: nobody has to join anew, and the old service key stays.
    let live = crate::lab::in_force(&Bundle::default(), &set);
    let other = Company {
        folder: company.folder,
    };
    let again = other
        .import_over(other.everything(), Some(&live))
        .await
        .unwrap();
    assert_eq!((again.kind, again.hash.changes()), (Kind::SameRoot, false));
    assert_eq!(crate::lab::keys(&again.bundle, Field::ServiceKey).len(), 2);
    let stranger = crate::lab::default_cluster(30);
    let new = other
        .import_over(other.everything(), Some(&stranger))
        .await
        .unwrap();
    assert_eq!((new.kind, new.hash.changes()), (Kind::NewRoot, true));
}

#[tokio::test]
async fn what_is_missing_or_wrong_is_told() {
    let company = Company::new();
    company.sign_all();
    let all = company.everything();
    let but = |left_out: usize| {
        let mut answers = all.clone();
        answers.remove(left_out);
        answers
    };
    let said = company.import(but(0)).await.unwrap_err();
    assert!(
        said.contains("client CA has no certificate") && said.contains("client-ca.csr"),
        "{said}"
    );
    assert_eq!(said.lines().count(), 2, "{said}");
    let said = company.import(but(5)).await.unwrap_err();
    assert!(
        said.contains("Give the certificates of every CA above it"),
        "{said}"
    );
    assert_eq!(said.lines().count(), 6, "{said}");
    let said = company.import(but(6)).await.unwrap_err();
    assert!(said.contains("up to the root"), "{said}");

    let cases: [(&[&str], &str); 3] = [
        // A CA that does not honour what was asked for makes no CA.
        (&["-copy_extensions", "none"], "is not a CA"),
        (&["-extfile", "serverOnly.cnf"], "excludes clientAuth"),
        (&["-copy_extensions", "copyall", "-sha1"], "nobody accepts"),
    ];
    write(
        &company.path("serverOnly.cnf"),
        b"basicConstraints=critical,CA:true\nsubjectKeyIdentifier=hash\nextendedKeyUsage=serverAuth\n",
    );
    for (more, words) in cases {
        company.sign(CaName::EtcdPeer, more);
        let said = company.import(company.everything()).await.unwrap_err();
        assert!(said.contains(words) && said.contains("etcd/peer"), "{said}");
        assert!(!said.contains("etcd/server"), "{said}");
    }
}

#[tokio::test]
async fn strangers_are_left_out_and_path_lengths_counted() {
    let company = Company::new();
    // Signed twice: the newer one counts; strangers are left out, with a word.
    company.sign_all();
    company.sign_all();
    let mut answers = company.everything();
    answers.extend(certificates(
        &crate::lab::default_cluster(3),
        CaName::Client,
    ));
    let set = company.import(answers).await.unwrap();
    assert!(
        set.notes.iter().any(|it| it.contains("Left out")),
        "{:?}",
        set.notes
    );

    // pathLen 0 above.
    company.ssl(&[
        "req",
        "-new",
        "-key",
        "issuing.key",
        "-out",
        "short.csr",
        "-subj",
        "/CN=Example Issuing",
        "-addext",
        "basicConstraints=critical,CA:true,pathlen:0",
        "-addext",
        "keyUsage=critical,keyCertSign",
    ]);
    company.ssl(&[
        "x509",
        "-req",
        "-in",
        "short.csr",
        "-CA",
        "root.pem",
        "-CAkey",
        "root.key",
        "-CAcreateserial",
        "-days",
        "3000",
        "-copy_extensions",
        "copyall",
        "-out",
        "issuing.pem",
    ]);
    company.sign_all();
    let said = company.import(company.everything()).await.unwrap_err();
    assert!(said.contains("allows 0 CAs below it"), "{said}");
}

/// From K3s's own CAs to a company's that signs only requests, and nobody is shut out.
#[tokio::test]
async fn the_present_cas_vouch_for_the_companys_root() {
    let company = Company::new();
    company.sign_all();
    let fixture = testkit::Fixture::without_datastore("k3s-1.36-sqlite");
    let server = fixture.data_dir().join("server");
    let live = read_directory(&LocalHost, &server).await.unwrap();
    let set = import(ImportRequest {
        keys: company.keys().await,
        answers: company.everything(),
        live: Some(&live),
        make: make(&crate::lab::Keys, now()),
        cross: Some(Pool::default()),
    })
    .unwrap();
    assert_eq!((set.kind, set.cross.len()), (Kind::CrossSigned, 5));
    assert_sound(&live, &set, now());
    crate::lab::assert_seamless(&live, &set, now());
    assert_eq!(set.hash.after, company.read("root.pem")[0].fingerprint());
}

#[tokio::test]
async fn files_that_hold_no_certificates() {
    let path = Path::new("answer");
    let key = PrivateKey::generate(KeyAlgorithm::P256).unwrap();
    for bytes in [
        Vec::new(),
        b"Dear customer, your request was denied.".to_vec(),
        key.to_pem().unwrap().as_bytes().to_vec(),
        vec![0x30, 0x82, 0xff, 0xff],
        vec![0x30; 10_000],
        b"-----BEGIN PKCS7-----\nMAA=\n-----END PKCS7-----\n".to_vec(),
        b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n".to_vec(),
    ] {
        let error = certificates_in(path, &bytes).unwrap_err();
        assert!(
            error.to_string().starts_with("answer cannot be used"),
            "{error}"
        );
    }
    let empty = tempfile::tempdir().unwrap();
    let error = read_request_keys(&LocalHost, empty.path())
        .await
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains("client-ca.key is missing"), "{error}");
}

pub fn write(path: &Path, bytes: &[u8]) {
    let attributes = kubepki::host::Attributes::new(0o600);
    kubepki::edge::file::replace(path, bytes, &attributes).unwrap();
}
