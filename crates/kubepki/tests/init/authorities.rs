//! CAs that somebody brings.

use kubepki::init::InitError;
use kubepki::token::Token;
use pki::{
    Authority, AuthorityRequest, Certificate, DAY, KeyAlgorithm, Name, PrivateKey, Serial,
    UnixTime, Validity,
};
use testkit::{Fixture, Tree};

use crate::place::{FIRST_START, PASSWORD, Place};

/// The files that K3s takes from its administrator.
const ELEVEN: [&str; 11] = [
    "server/tls/client-ca.crt",
    "server/tls/client-ca.key",
    "server/tls/etcd/peer-ca.crt",
    "server/tls/etcd/peer-ca.key",
    "server/tls/etcd/server-ca.crt",
    "server/tls/etcd/server-ca.key",
    "server/tls/request-header-ca.crt",
    "server/tls/request-header-ca.key",
    "server/tls/server-ca.crt",
    "server/tls/server-ca.key",
    "server/tls/service.key",
];

/// A place with the eleven files of the fixture whose CAs have an outer root.
async fn custom() -> Place {
    let fixture = Fixture::without_datastore("k3s-1.36-custom-ca");
    let mut place = Place::new();
    place.now = FIRST_START.plus(3_600);
    for file in ELEVEN {
        place.bring(&fixture.data_dir(), file).await;
    }
    place
}

#[tokio::test]
async fn files_that_are_brought_are_used_and_never_touched() {
    let place = custom().await;
    let before = Tree::snapshot(place.data_dir());
    place.make(&place.spec()).await;
    let after = Tree::snapshot(place.data_dir());
    for file in ELEVEN {
        assert_eq!(after.get(file), before.get(file), "{file}");
    }
    let bundle = certificates(&place, "server/tls/server-ca.crt");
    assert_eq!(bundle.len(), 4 - 1);
    for leaf in [
        "server/tls/serving-kube-apiserver.crt",
        "agent/serving-kubelet.crt",
    ] {
        let chain = certificates(&place, leaf);
        assert_eq!(chain.get(1..), Some(bundle.as_slice()), "{leaf}");
    }
    let nochain = certificates(&place, "server/tls/server-ca.nochain.crt");
    assert_eq!(nochain.as_slice(), bundle.get(..1).unwrap());
    // What K3s itself derived from these files.
    let token = Token::parse(&place.read("server/token")).unwrap();
    let root = "bcc08c79045589c54a261e4a51b773918cf03e6583cf36d4f3f745328c70a2fa";
    assert_eq!(token.authority(), Some(root));
    assert_eq!(bundle.last().unwrap().fingerprint().to_string(), root);
}

#[tokio::test]
async fn a_whole_token_fits_cas_that_are_brought() {
    let place = custom().await;
    let whole = |hash: &str| Token::parse(&format!("K10{hash}::server:{PASSWORD}")).unwrap();
    let root = "bcc08c79045589c54a261e4a51b773918cf03e6583cf36d4f3f745328c70a2fa";
    assert!(place.plan(&place.spec(), Some(&whole(root))).await.is_ok());
    let other = "0".repeat(64);
    let refused = place.plan(&place.spec(), Some(&whole(&other))).await;
    match refused {
        Err(InitError::OtherAuthority { pinned, own }) => {
            assert_eq!((pinned, own.as_str()), (other, root));
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn each_of_the_eleven_missing_has_its_error() {
    for missing in ELEVEN {
        let place = custom().await;
        place.remove(missing).await;
        let before = Tree::snapshot(place.data_dir());
        let path = place.data_dir().join(missing);
        let error = place.plan(&place.spec(), None).await.unwrap_err();
        assert!(
            error.to_string().contains(&path.display().to_string()),
            "{missing}: {error}"
        );
        let is_ca_key = missing.ends_with(".key") && !missing.ends_with("service.key");
        match &error {
            // K3s would overwrite the certificate, so this is not completed either.
            InitError::Authorities { faults } if is_ca_key => {
                assert_eq!(faults.len(), 1);
                let mut spec = place.spec();
                spec.complete = true;
                let again = place.plan(&spec, None).await.unwrap_err();
                assert_eq!(again.to_string(), error.to_string());
            }
            InitError::Incomplete { missing } if !is_ca_key => assert_eq!(*missing, [path]),
            other => panic!("{missing}: {other}"),
        }
        assert!(Tree::snapshot(place.data_dir()) == before, "{missing}");
    }
}

#[tokio::test]
async fn all_that_is_missing_is_named_at_once() {
    let place = Place::new();
    let fixture = Fixture::without_datastore("k3s-1.36-custom-ca");
    place
        .bring(&fixture.data_dir(), "server/tls/service.key")
        .await;
    match place.plan(&place.spec(), None).await {
        Err(InitError::Incomplete { missing }) => assert_eq!(missing.len(), 10),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn complete_makes_what_is_missing_and_nothing_else() {
    let place = custom().await;
    for file in [
        "etcd/peer-ca.crt",
        "etcd/peer-ca.key",
        "client-ca.crt",
        "service.key",
    ] {
        place.remove(&format!("server/tls/{file}")).await;
    }
    let before = Tree::snapshot(place.data_dir());
    let mut spec = place.spec();
    spec.complete = true;
    place.make(&spec).await;
    let after = Tree::snapshot(place.data_dir());
    for (path, node) in before.nodes().filter(|(path, _)| path.ends_with(".key")) {
        assert_eq!(after.get(path), Some(node), "{path}");
    }
    let one = |file: &str| certificates(&place, file).first().unwrap().clone();
    let peer = one("server/tls/etcd/peer-ca.crt");
    assert!(peer.is_self_signed());
    // Like K3s, a key that was there signs a certificate for itself.
    let client = one("server/tls/client-ca.crt");
    let key = PrivateKey::from_pem(place.read("server/tls/client-ca.key").as_bytes()).unwrap();
    assert!(client.is_self_signed() && client.spki_der() == key.spki_der());
    let leaf = one("server/tls/client-admin.crt");
    assert!(leaf.verify_signature(client.spki_der()).is_ok());
}

fn certificates(place: &Place, file: &str) -> Vec<Certificate> {
    Certificate::all_from_pem(place.read(file).as_bytes()).unwrap()
}

/// A server CA below a root, changed in one way, and what `init` says of it.
async fn complaint(change: impl FnOnce(&mut Brought)) -> String {
    let mut brought = Brought::new();
    change(&mut brought);
    let place = custom().await;
    place
        .write("server/tls/server-ca.crt", &brought.bundle())
        .await;
    let key = brought.other_key.as_ref().unwrap_or(&brought.key);
    place
        .write("server/tls/server-ca.key", &key.to_pem().unwrap())
        .await;
    let mut spec = place.spec();
    spec.release = brought.release.map(|text| text.parse().unwrap());
    match place.plan(&spec, None).await {
        Ok(_) => String::new(),
        Err(error) => error.to_string(),
    }
}

struct Brought {
    root: Authority,
    key: PrivateKey,
    other_key: Option<PrivateKey>,
    root_path_len: Option<u32>,
    validity: Validity,
    without_root: bool,
    leaf_instead: bool,
    release: Option<&'static str>,
}

impl Brought {
    fn new() -> Self {
        let validity = Validity {
            not_before: FIRST_START.plus(-DAY),
            not_after: FIRST_START.plus(3650 * DAY),
        };
        let key = PrivateKey::generate(KeyAlgorithm::P384).unwrap();
        let serial = Serial::random(pki::random).unwrap();
        let name = Name::new(&[], "company root").unwrap();
        let root = Authority::self_signed(&name, key, serial, validity).unwrap();
        Self {
            root,
            key: PrivateKey::generate(KeyAlgorithm::P256).unwrap(),
            other_key: None,
            root_path_len: None,
            validity,
            without_root: false,
            leaf_instead: false,
            release: None,
        }
    }

    fn below(
        &self,
        root: &Authority,
        name: &str,
        key: &PrivateKey,
        len: Option<u32>,
    ) -> Certificate {
        root.issue_authority(&AuthorityRequest {
            subject: &Name::new(&[], name).unwrap(),
            spki_der: key.spki_der(),
            subject_key_identifier: None,
            path_len: len,
            serial: Serial::random(pki::random).unwrap(),
            validity: self.validity,
        })
        .unwrap()
    }

    fn bundle(&self) -> String {
        if self.leaf_instead {
            let request = pki::LeafRequest {
                organizations: &[],
                common_name: "no CA",
                sans: &[],
                purposes: &[pki::Purpose::ServerAuth],
                spki_der: self.key.spki_der(),
                serial: Serial::random(pki::random).unwrap(),
                validity: self.validity,
            };
            let leaf = self.root.issue(&request).unwrap();
            return leaf.to_pem() + &self.root.certificate().to_pem();
        }
        let mut certificates = Vec::new();
        match self.root_path_len {
            Some(len) => {
                let key = PrivateKey::generate(KeyAlgorithm::P256).unwrap();
                let middle = self.below(&self.root, "middle", &key, Some(len + 1));
                let middle = Authority::new(middle, key).unwrap();
                let inner_key = PrivateKey::generate(KeyAlgorithm::P256).unwrap();
                let inner = self.below(&middle, "inner", &inner_key, Some(1));
                let inner = Authority::new(inner, inner_key).unwrap();
                certificates.push(self.below(&inner, "server CA", &self.key, None));
                certificates.push(inner.certificate().clone());
                certificates.push(middle.certificate().clone());
            }
            None => certificates.push(self.below(&self.root, "server CA", &self.key, Some(0))),
        }
        if !self.without_root {
            certificates.push(self.root.certificate().clone());
        }
        certificates.iter().map(Certificate::to_pem).collect()
    }
}

#[tokio::test]
async fn a_ca_that_could_not_do_its_work_is_refused_beforehand() {
    assert_eq!(complaint(|_| ()).await, "");
    let other = PrivateKey::generate(KeyAlgorithm::P256).unwrap();
    let said = complaint(|it| it.other_key = Some(other)).await;
    assert!(
        said.contains("server-ca.key is not the key of CN=server CA"),
        "{said}"
    );
    let said = complaint(|it| it.leaf_instead = true).await;
    assert!(said.contains("CN=no CA, which is not a CA"), "{said}");
    let said = complaint(|it| it.without_root = true).await;
    assert!(said.contains("issued by CN=company root"), "{said}");
    let said = complaint(|it| it.root_path_len = Some(0)).await;
    assert!(
        said.contains("CN=middle, which allows 1 CAs below it (path length) and has 2"),
        "{said}"
    );
    let said = complaint(|it| it.root_path_len = Some(1)).await;
    assert_eq!(said, "");
    let said = complaint(|it| it.validity.not_after = FIRST_START).await;
    assert!(
        said.contains("CN=server CA") && said.contains("expired"),
        "{said}"
    );
    let said = complaint(|it| it.release = Some("v1.26.1+k3s1")).await;
    assert!(said.contains("K3s v1.26.1 cannot use"), "{said}");
    let said = complaint(|it| it.release = Some("v1.26.2+k3s1")).await;
    assert_eq!(said, "");
}

#[tokio::test]
async fn a_ca_that_ends_soon_takes_its_leaves_with_it() {
    let mut place = custom().await;
    place.make(&place.spec()).await;
    let end = certificates(&place, "server/tls/server-ca.crt")
        .first()
        .unwrap()
        .validity();
    place.now = end.not_after.plus(-200 * DAY);
    place.remove("server/tls/serving-kube-apiserver.crt").await;
    let (plan, staged) = place.plan(&place.spec(), None).await.unwrap();
    assert!(
        plan.notes
            .iter()
            .any(|note| note.contains("its leaves end with it")),
        "{:?}",
        plan.notes
    );
    place.apply(&plan, &staged).await;
    let leaf = certificates(&place, "server/tls/serving-kube-apiserver.crt");
    assert_eq!(leaf.first().unwrap().validity().not_after, end.not_after);
}

#[test]
fn the_moment_lies_inside_the_brought_cas() {
    let fixture = Fixture::without_datastore("k3s-1.36-custom-ca");
    let pem = std::fs::read(fixture.data_dir().join("server/tls/server-ca.crt")).unwrap();
    let now: UnixTime = FIRST_START.plus(3_600);
    for certificate in Certificate::all_from_pem(&pem).unwrap() {
        assert!(
            certificate.validity().contains(now),
            "{}",
            certificate.subject()
        );
    }
}
