//! What follows the CAs that real clusters have.

use std::path::Path;

use kubepki::bootstrap::{Bundle, Field, read_directory};
use kubepki::ca::CaName;
use kubepki::ca::{Change, CrossRoots, Kind, Outer, Pool};
use kubepki::host::LocalHost;
use pki::{Certificate, KeyAlgorithm, PrivateKey};

use crate::lab::{
    NOW, assert_seamless, assert_sound, certificates, default_cluster, in_force, keys, new_root,
    pool_of, put, staged, staged_at,
};

async fn live(name: &str) -> (testkit::Fixture, Bundle) {
    let fixture = testkit::Fixture::without_datastore(name);
    let bundle = read_directory(&LocalHost, &fixture.data_dir().join("server"))
        .await
        .unwrap();
    (fixture, bundle)
}

fn cross() -> Change {
    Change::CrossSigned(CrossRoots::AsNow)
}

#[tokio::test]
async fn default_cas_are_cross_signed_as_often_as_one_likes() {
    let (_fixture, first) = live("k3s-1.36-sqlite").await;
    let set = staged(&first, cross(), Pool::default()).unwrap();
    assert_eq!(set.kind, Kind::CrossSigned);
    assert_sound(&first, &set, NOW);
    assert_seamless(&first, &set, NOW);
    assert_eq!(set.offline.len(), 10);
    assert!(set.hash.changes());
    for found in &set.cross {
        let file = certificates(&set.bundle, found.ca);
        let old = &certificates(&first, found.ca)[0];
        assert_eq!(
            file,
            [
                file[0].clone(),
                found.certificate.clone(),
                found.new_root.clone(),
                old.clone()
            ]
        );
        assert_eq!(&found.signer, old);
        assert_eq!(set.served[&found.ca], file[..2]);
        assert!(
            found.ends_early,
            "the old root has fewer years left than the new CA"
        );
    }

    // Again without the root's key: the CA itself vouches, and stays in the file.
    let second = in_force(&first, &set);
    let now = NOW.plus(86_400);
    let next = staged_at(&second, cross(), Pool::default(), now).unwrap();
    assert_sound(&second, &next, now);
    assert_seamless(&second, &next, now);
    let file = certificates(&next.bundle, CaName::Server);
    assert_eq!(file.len(), 5);
    assert_eq!(file[2], certificates(&second, CaName::Server)[0]);
    // And with it: the root vouches.
    let next = staged_at(&second, cross(), pool_of(&set), now).unwrap();
    assert_sound(&second, &next, now);
    assert_seamless(&second, &next, now);
    assert_eq!(certificates(&next.bundle, CaName::Server).len(), 4);
    assert!(
        next.notes
            .iter()
            .any(|it| it.contains("rotation before the last")),
        "{:?}",
        next.notes
    );
    assert_eq!(keys(&next.bundle, Field::ServiceKey).len(), 3);
}

#[tokio::test]
async fn what_the_script_left_is_cross_signed_by_its_root() {
    let (_fixture, first) = live("k3s-1.36-default-rotated").await;
    let set = staged(&first, cross(), Pool::default()).unwrap();
    assert_sound(&first, &set, NOW);
    assert_seamless(&first, &set, NOW);
    for found in &set.cross {
        // certs[1] of the script's bundle is its self-signed root, whose key lies beside the CA's.
        assert_eq!(found.signer, certificates(&first, found.ca)[1]);
    }
}

#[tokio::test]
async fn a_custom_topology_is_cross_signed_by_the_best_key_at_hand() {
    let (fixture, first) = live("k3s-1.36-custom-ca").await;
    let set = staged(&first, cross(), Pool::default()).unwrap();
    assert_sound(&first, &set, NOW);
    assert_seamless(&first, &set, NOW);
    // One root now, so one root then.
    assert_eq!(set.offline.len(), 4);
    let old = certificates(&first, CaName::Client);
    let file = certificates(&set.bundle, CaName::Client);
    assert_eq!(file.len(), 7);
    assert_eq!(file[3..5], old[..2], "the old CA and its intermediate stay");
    assert_eq!(file[6], old[2]);
    // With the script's working files at hand, the root signs.
    let mut pool = Pool::default();
    let tls = fixture.data_dir().join("server/tls");
    for name in ["root-ca.key", "intermediate-ca.key"] {
        let bytes = std::fs::read(tls.join(name)).unwrap();
        pool.add(Path::new(name), &bytes, None).unwrap();
    }
    let set = staged(&first, cross(), pool).unwrap();
    assert_sound(&first, &set, NOW);
    assert_seamless(&first, &set, NOW);
    let file = certificates(&set.bundle, CaName::Client);
    assert_eq!(file.len(), 5);
    assert_eq!(set.cross[0].signer, old[2]);
    // One old root, one new one: one cross-certificate.
    assert!(
        set.cross
            .iter()
            .all(|it| it.certificate == set.cross[0].certificate)
    );
    // Five roots are had for the asking.
    let set = staged(
        &first,
        Change::CrossSigned(CrossRoots::PerCa),
        Pool::default(),
    )
    .unwrap();
    assert_seamless(&first, &set, NOW);
    assert_eq!(set.offline.len(), 10);
}

#[tokio::test]
async fn a_company_root_can_be_vouched_for() {
    let (_fixture, first) = live("k3s-1.36-sqlite").await;
    let company = new_root("Example Root", KeyAlgorithm::P384, 4000);
    let certificate = company.certificate().clone();
    let roots = CrossRoots::Common(Outer::Root(company));
    let set = staged(&first, Change::CrossSigned(roots), Pool::default()).unwrap();
    assert_sound(&first, &set, NOW);
    assert_seamless(&first, &set, NOW);
    assert_eq!(set.hash.after, certificate.fingerprint());
    for found in &set.cross {
        assert_eq!(found.new_root, certificate);
        assert_eq!(
            found.certificate.subject_key_identifier(),
            certificate.subject_key_identifier()
        );
    }
}

#[tokio::test]
async fn the_same_root_signs_again() {
    let (fixture, first) = live("k3s-1.36-custom-ca").await;
    let error = staged(&first, Change::SameRoot, Pool::default())
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("--keys") && error.contains("intermediate"),
        "{error}"
    );
    let tls = fixture.data_dir().join("server/tls");
    let mut pool = Pool::default();
    let bytes = std::fs::read(tls.join("intermediate-ca.key")).unwrap();
    pool.add(Path::new("k"), &bytes, None).unwrap();
    let set = staged(&first, Change::SameRoot, pool).unwrap();
    assert_sound(&first, &set, NOW);
    assert_seamless(&first, &set, NOW);
    assert!(!set.hash.changes() && set.offline.is_empty());
    let (old, new) = (
        certificates(&first, CaName::Server),
        certificates(&set.bundle, CaName::Server),
    );
    assert_eq!(old[1..], new[1..]);

    // The root's key alone: a new intermediate takes the old one's place.
    let mut pool = Pool::default();
    let bytes = std::fs::read(tls.join("root-ca.key")).unwrap();
    pool.add(Path::new("k"), &bytes, None).unwrap();
    let set = staged(&first, Change::SameRoot, pool).unwrap();
    assert_sound(&first, &set, NOW);
    assert_seamless(&first, &set, NOW);
    assert!(!set.hash.changes());
    assert_eq!(set.offline.len(), 2);
    let new = certificates(&set.bundle, CaName::Server);
    assert_ne!(new[1], old[1]);
    assert_eq!(new[2], old[2]);
}

#[tokio::test]
async fn the_same_root_under_a_new_intermediate() {
    let (fixture, first) = live("k3s-1.36-custom-ca").await;
    let key = std::fs::read(fixture.data_dir().join("server/tls/root-ca.key")).unwrap();
    let old = certificates(&first, CaName::Client);
    let root = |key: &[u8]| {
        let key = PrivateKey::from_pem(key).unwrap();
        pki::Authority::new(old[2].clone(), key).unwrap()
    };
    let change = Change::SameRootUnder(Outer::Root(root(&key)));
    let set = staged(&first, change, Pool::default()).unwrap();
    assert_sound(&first, &set, NOW);
    assert_seamless(&first, &set, NOW);
    assert!(!set.hash.changes());
    assert_eq!(set.offline.len(), 2);
    let new = certificates(&set.bundle, CaName::Client);
    assert_eq!((new.len(), &new[2]), (3, &old[2]));
    let error = staged(
        &first,
        Change::NewRoot(Outer::Root(root(&key))),
        Pool::default(),
    );
    assert!(error.unwrap_err().to_string().contains("--same-root"));
    let other = new_root("Example Root", KeyAlgorithm::P256, 4000);
    let error = staged(
        &first,
        Change::SameRootUnder(Outer::Root(other)),
        Pool::default(),
    );
    assert!(error.unwrap_err().to_string().contains("--cross-signed"));
}

#[tokio::test]
async fn the_same_root_after_a_cross_signed_rotation() {
    let (_fixture, first) = live("k3s-1.36-sqlite").await;
    let error = staged(&first, Change::SameRoot, Pool::default())
        .unwrap_err()
        .to_string();
    assert!(error.contains("cross-signed"), "{error}");
    let crossed = staged(&first, cross(), Pool::default()).unwrap();
    let second = in_force(&first, &crossed);
    let set = staged(&second, Change::SameRoot, pool_of(&crossed)).unwrap();
    assert_sound(&second, &set, NOW);
    assert_seamless(&second, &set, NOW);
    // Clients that have the first root only still get in.
    for ca in CaName::ALL {
        let leaf = crate::lab::leaf(&set.bundle, ca, NOW);
        crate::lab::accepted(&leaf, &certificates(&first, ca), NOW).unwrap();
    }
}

#[tokio::test]
async fn new_root_and_compromised() {
    let (_fixture, first) = live("k3s-1.36-default-rotated").await;
    let set = staged(&first, Change::NewRoot(Outer::New), Pool::default()).unwrap();
    assert_sound(&first, &set, NOW);
    assert_eq!(
        (set.kind, set.cross.len(), set.offline.len()),
        (Kind::NewRoot, 0, 4)
    );
    let old_keys = keys(&first, Field::ServiceKey).len();
    assert_eq!(keys(&set.bundle, Field::ServiceKey).len(), old_keys + 1);

    let set = staged(&first, Change::Compromised(Outer::New), Pool::default()).unwrap();
    assert_sound(&first, &set, NOW);
    assert_eq!(keys(&set.bundle, Field::ServiceKey).len(), 1);
    for ca in CaName::ALL {
        let old = certificates(&first, ca);
        let new = certificates(&set.bundle, ca);
        assert!(new.iter().all(|it| !old.contains(it)));
        assert!(!crate::lab::k3s_accepts(&old, &new, NOW));
    }
    // The old root may not come back as the new one.
    let old = certificates(&first, CaName::Client)[1].clone();
    let key = keys(&first, Field::ClientCaKey).remove(1);
    let again = || {
        let key = PrivateKey::from_pem(key.to_pem().unwrap().as_bytes()).unwrap();
        Outer::Root(pki::Authority::new(old.clone(), key).unwrap())
    };
    let error = staged(&first, Change::Compromised(again()), Pool::default());
    assert!(
        error
            .unwrap_err()
            .to_string()
            .contains("nothing of the old may stay")
    );
    let error = staged(&first, Change::NewRoot(again()), Pool::default());
    assert!(
        error
            .unwrap_err()
            .to_string()
            .contains("stage with the same root")
    );
}

#[tokio::test]
async fn a_service_key_alone() {
    let (_fixture, first) = live("k3s-1.36-sqlite").await;
    let set = staged(&first, Change::ServiceKeyOnly, Pool::default()).unwrap();
    let fields: Vec<Field> = set.bundle.files.keys().copied().collect();
    assert_eq!(fields, [Field::ServiceKey]);
    assert!(!set.hash.changes());
    let (old, new) = (
        keys(&first, Field::ServiceKey),
        keys(&set.bundle, Field::ServiceKey),
    );
    assert_eq!(new.len(), old.len() + 1);
    assert_eq!(new[1].spki_der(), old[0].spki_der());
}

#[test]
fn live_files_that_do_not_fit_are_told() {
    let good = default_cluster(3650);
    let say = |live: &Bundle| {
        staged(live, cross(), Pool::default())
            .unwrap_err()
            .to_string()
    };
    let mut live = good.clone();
    live.files.remove(&Field::EtcdPeerCaKey);
    assert!(say(&live).contains("tls/etcd/peer-ca.key"));
    let mut live = good.clone();
    let other = live.files[&Field::ClientCaKey].clone();
    live.files.insert(Field::ServerCaKey, other);
    assert!(say(&live).contains("the server CA: the first key"));
    let mut live = good.clone();
    put(&mut live, Field::ServerCa, "nonsense");
    assert!(say(&live).contains("no CERTIFICATE PEM block"));
    let expired = default_cluster(0);
    assert!(say(&expired).contains("expired at"), "{}", say(&expired));
    assert!(say(&expired).contains("--new-root"), "{}", say(&expired));
    // CRLF, text around, and a certificate twice are no reason to refuse.
    let mut live = good.clone();
    let text = String::from_utf8(good.content(Field::ServerCa).unwrap().to_vec()).unwrap();
    put(
        &mut live,
        Field::ServerCa,
        &format!("# CA\r\n{}", text.replace('\n', "\r\n").repeat(2)),
    );
    let set = staged(&live, cross(), Pool::default()).unwrap();
    assert_eq!(certificates(&set.bundle, CaName::Server).len(), 4);
}

/// Says for each line `roots chain` (two files) whether Go verifies the chain at the moment.
const GO: &str = r#"package main

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"strconv"
	"time"
)

func read(path string) (found []*x509.Certificate) {
	rest, err := os.ReadFile(path)
	if err != nil {
		panic(err)
	}
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return
		}
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			panic(err)
		}
		found = append(found, certificate)
	}
}

func main() {
	seconds, _ := strconv.ParseInt(os.Args[1], 10, 64)
	roots, intermediates := x509.NewCertPool(), x509.NewCertPool()
	for _, root := range read(os.Args[2]) {
		roots.AddCert(root)
	}
	chain := read(os.Args[3])
	for _, certificate := range chain[1:] {
		intermediates.AddCert(certificate)
	}
	_, err := chain[0].Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: intermediates, CurrentTime: time.Unix(seconds, 0),
	})
	fmt.Print(err)
}
"#;

/// What our own verifier says of old and new chains, Go and OpenSSL say too.
#[tokio::test]
async fn go_and_openssl_agree() {
    let go = testkit::go_program(GO);
    let folder = tempfile::tempdir().unwrap();
    let put = |name: &str, found: &[Certificate]| put_pem(folder.path(), name, found);
    let at = NOW.as_secs().to_string();
    for name in [
        "k3s-1.36-sqlite",
        "k3s-1.36-default-rotated",
        "k3s-1.36-custom-ca",
    ] {
        let (_fixture, old) = live(name).await;
        let set = staged(&old, cross(), Pool::default()).unwrap();
        let new = in_force(&old, &set);
        for ca in CaName::ALL {
            let file = |of: &Bundle| certificates(of, ca);
            let only_old_root = set
                .cross
                .iter()
                .find(|it| it.ca == ca)
                .unwrap()
                .old_root
                .clone();
            for (leaf, trusted, good) in [
                (
                    crate::lab::leaf(&new, ca, NOW),
                    vec![only_old_root.clone()],
                    true,
                ),
                (crate::lab::leaf(&new, ca, NOW), file(&old), true),
                (
                    crate::lab::leaf(&new, ca, NOW),
                    crate::lab::roots(&file(&new)),
                    true,
                ),
                (
                    crate::lab::leaf(&old, ca, NOW),
                    crate::lab::roots(&file(&new)),
                    true,
                ),
                (
                    crate::lab::leaf(&old, ca, NOW),
                    file(&default_cluster(9)),
                    false,
                ),
            ] {
                let (one, chain) = leaf;
                let all = put("chain", &[vec![one.clone()], chain.clone()].concat());
                let (one, sent) = (put("one", &[one]), put("sent", &chain));
                let roots = put("roots", &trusted);
                let args = [
                    "verify",
                    "-attime",
                    &at,
                    "-CAfile",
                    &roots,
                    "-untrusted",
                    &sent,
                    &one,
                ];
                let openssl = testkit::openssl(&args, b"");
                assert_eq!(openssl.success(), good, "{name} {ca}: {}", openssl.text());
                let said = testkit::run(&go, &[&at, &roots, &all], b"").text();
                assert_eq!(said == "<nil>", good, "{name} {ca}: {said}");
            }
        }
    }
}

/// A file of certificates.
fn put_pem(folder: &Path, name: &str, certificates: &[Certificate]) -> String {
    let text: String = certificates.iter().map(Certificate::to_pem).collect();
    let path = folder.join(name);
    let attributes = kubepki::host::Attributes::new(0o600);
    kubepki::edge::file::replace(&path, text.as_bytes(), &attributes).unwrap();
    path.to_str().unwrap().to_owned()
}
