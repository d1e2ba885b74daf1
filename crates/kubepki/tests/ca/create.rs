//! The first CAs.

use kubepki::bootstrap::Field;
use kubepki::ca::{Algorithms, CaError, CaName, CreateRequest, Kind, Outer, StagedSet, create};
use kubepki::edge::FreshKeys;
use pki::{Authority, AuthorityRequest, Certificate, KeyAlgorithm, KeyUsage, PrivateKey, UnixTime};

use crate::lab::{
    NOW, assert_sound, certificates, from_hour_before, keys, make, name, new_root, serial,
};

fn created(outer: Outer, algorithms: Algorithms) -> Result<StagedSet, CaError> {
    create(CreateRequest {
        outer,
        algorithms,
        service_keys: None,
        make: make(&FreshKeys, NOW),
    })
}

#[test]
fn from_nothing() {
    for outer in [
        KeyAlgorithm::P256,
        KeyAlgorithm::P384,
        KeyAlgorithm::P521,
        KeyAlgorithm::Rsa(2048),
    ] {
        let algorithms = Algorithms {
            outer,
            authorities: KeyAlgorithm::P256,
        };
        let set = created(Outer::New, algorithms).unwrap();
        assert_sound(&kubepki::bootstrap::Bundle::default(), &set, NOW);
        assert_eq!(set.kind, Kind::First);
        assert_eq!(set.hash.before, None);
        let names: Vec<&str> = set.offline.iter().map(|it| it.name.as_str()).collect();
        assert_eq!(
            names,
            [
                "root-ca.crt",
                "root-ca.key",
                "intermediate-ca.crt",
                "intermediate-ca.key"
            ]
        );
        for ca in CaName::ALL {
            let file = certificates(&set.bundle, ca);
            let subjects: Vec<String> = file.iter().map(|it| it.subject().to_string()).collect();
            let now = NOW.as_secs();
            assert_eq!(
                subjects,
                [
                    format!("CN=k3s-{}-ca@{now}", ca.flat()),
                    format!("CN=k3s-intermediate-ca@{now}"),
                    format!("CN=k3s-root-ca@{now}"),
                ]
            );
            for one in &file {
                let usage = one.key_usage().unwrap();
                let wanted = KeyUsage::KEY_CERT_SIGN
                    .and(KeyUsage::CRL_SIGN)
                    .and(KeyUsage::DIGITAL_SIGNATURE);
                assert_eq!(usage, wanted);
                assert!(one.serial().is_conformant());
                assert_eq!(one.validity().not_before, NOW.plus(-3600));
            }
        }
        openssl_accepts(&set);
    }
}

/// OpenSSL walks each chain up to the root, with nothing but the root trusted.
fn openssl_accepts(set: &StagedSet) {
    let folder = tempfile::tempdir().unwrap();
    for ca in CaName::ALL {
        let file = certificates(&set.bundle, ca);
        let path = |name: &str, certificates: &[Certificate]| {
            let text: String = certificates.iter().map(Certificate::to_pem).collect();
            let path = folder.path().join(name);
            kubepki::edge::file::replace(
                &path,
                text.as_bytes(),
                &kubepki::host::Attributes::new(0o600),
            )
            .unwrap();
            path.to_str().unwrap().to_owned()
        };
        let (one, root) = (
            path("one", &file[..1]),
            path("root", &file[file.len() - 1..]),
        );
        let between = path("between", &file[1..]);
        let at = NOW.as_secs().to_string();
        let run = testkit::openssl_ok(
            &[
                "verify",
                "-attime",
                &at,
                "-x509_strict",
                "-check_ss_sig",
                "-CAfile",
                &root,
                "-untrusted",
                &between,
                &one,
            ],
            b"",
        );
        assert!(run.text().contains("OK"), "{run:?}");
    }
}

#[test]
fn under_a_given_root_and_a_given_intermediate() {
    let root = new_root("Example Root", KeyAlgorithm::P384, 5000);
    let root_pem = root.certificate().clone();
    let key = PrivateKey::generate(KeyAlgorithm::P384).unwrap();
    let intermediate = root
        .issue_authority(&AuthorityRequest {
            subject: &name("Example Issuing"),
            spki_der: key.spki_der(),
            subject_key_identifier: None,
            path_len: Some(1),
            serial: serial(),
            validity: from_hour_before(900),
        })
        .unwrap();
    let set = created(Outer::Root(root), Algorithms::default()).unwrap();
    assert_sound(&kubepki::bootstrap::Bundle::default(), &set, NOW);
    let names: Vec<&str> = set.offline.iter().map(|it| it.name.as_str()).collect();
    assert_eq!(names, ["intermediate-ca.crt", "intermediate-ca.key"]);
    assert_eq!(certificates(&set.bundle, CaName::Client)[2], root_pem);

    let outer = Outer::Intermediate {
        signer: Authority::new(intermediate.clone(), key).unwrap(),
        above: vec![root_pem],
    };
    let set = created(outer, Algorithms::default()).unwrap();
    assert_sound(&kubepki::bootstrap::Bundle::default(), &set, NOW);
    assert!(set.offline.is_empty());
    // Never beyond the intermediate.
    let own = &certificates(&set.bundle, CaName::EtcdPeer)[0];
    assert_eq!(own.validity().not_after, intermediate.validity().not_after);
    assert_eq!(
        own.authority_key_identifier(),
        intermediate.subject_key_identifier()
    );
    openssl_accepts(&set);
}

#[test]
fn old_service_keys_stay_after_the_new_one() {
    let rsa = crate::lab::service_key();
    let ec = PrivateKey::generate(KeyAlgorithm::P256).unwrap();
    let pkcs8 = testkit::openssl_ok(
        &["pkcs8", "-topk8", "-nocrypt"],
        ec.to_pem().unwrap().as_bytes(),
    );
    let parameters = testkit::openssl_ok(&["ecparam", "-name", "prime256v1"], b"");
    let mut previous = rsa.replace('\n', "\r\n").into_bytes();
    previous.extend(&parameters.stdout);
    previous.extend(&pkcs8.stdout);
    previous.extend(rsa.as_bytes());
    let set = create(CreateRequest {
        outer: Outer::New,
        algorithms: Algorithms::default(),
        service_keys: Some(&previous),
        make: make(&FreshKeys, NOW),
    })
    .unwrap();
    let found = keys(&set.bundle, Field::ServiceKey);
    let text = String::from_utf8(set.bundle.content(Field::ServiceKey).unwrap().to_vec()).unwrap();
    let labels: Vec<&str> = text.lines().filter(|it| it.contains("BEGIN")).collect();
    assert_eq!(
        labels,
        [
            "-----BEGIN RSA PRIVATE KEY-----",
            "-----BEGIN RSA PRIVATE KEY-----",
            "-----BEGIN EC PRIVATE KEY-----"
        ]
    );
    assert_eq!(found[2].spki_der(), ec.spki_der());
    assert_eq!(set.notes.len(), 2, "{:?}", set.notes);
    for bad in [
        &b"no key at all"[..],
        b"-----BEGIN RSA PRIVATE KEY-----\nAAAA\n-----END RSA PRIVATE KEY-----\n",
    ] {
        let refused = create(CreateRequest {
            outer: Outer::New,
            algorithms: Algorithms::default(),
            service_keys: Some(bad),
            make: make(&FreshKeys, NOW),
        });
        assert!(
            refused
                .unwrap_err()
                .to_string()
                .starts_with("service.key has ")
                || bad.starts_with(b"no")
        );
    }
}

/// A CA of OpenSSL's making, self-signed, with these extensions.
fn openssl_root(extensions: &[&str], more: &[&str], key: &[&str]) -> Authority {
    let folder = tempfile::tempdir().unwrap();
    let (crt, pem) = (folder.path().join("c"), folder.path().join("k"));
    let mut args = vec![
        "req",
        "-x509",
        "-nodes",
        "-subj",
        "/CN=Example",
        "-days",
        "30",
        "-out",
        crt.to_str().unwrap(),
        "-keyout",
        pem.to_str().unwrap(),
    ];
    args.extend(key);
    args.extend(more);
    for extension in extensions {
        args.extend(["-addext", extension]);
    }
    testkit::openssl_ok(&args, b"");
    let certificate = Certificate::all_from_pem(&std::fs::read(crt).unwrap())
        .unwrap()
        .remove(0);
    let key = PrivateKey::from_pem(&std::fs::read(pem).unwrap());
    Authority::new(certificate, key.unwrap()).unwrap()
}

#[test]
fn outer_cas_that_could_not_serve_are_refused() {
    const EC: [&str; 4] = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"];
    let now = |root: &Authority| root.certificate().validity().not_before.plus(60);
    let problem = |root: Authority, at: UnixTime| {
        Outer::Root(root)
            .check(at)
            .map_or_else(|error| error.to_string(), |()| "fine".to_owned())
    };
    let good = openssl_root(&[], &[], &EC);
    let at = now(&good);
    assert_eq!(problem(good, at), "fine");
    let cases = [
        (
            vec!["extendedKeyUsage=serverAuth"],
            vec![],
            "excludes clientAuth",
        ),
        (
            vec!["extendedKeyUsage=clientAuth"],
            vec![],
            "excludes serverAuth",
        ),
        (vec![], vec!["-sha1"], "nobody accepts"),
        (
            vec!["1.2.3.4=critical,ASN1:NULL"],
            vec![],
            "critical extensions",
        ),
    ];
    for (extensions, more, words) in cases {
        let root = openssl_root(&extensions, &more, &EC);
        let at = now(&root);
        let said = problem(root, at);
        assert!(said.contains(words), "{said}");
    }
    let root = openssl_root(&[], &[], &EC);
    let end = root.certificate().validity().not_after;
    assert!(problem(root, end.plus(1)).contains("expired at"));
    let root = openssl_root(&[], &[], &EC);
    let begin = root.certificate().validity().not_before;
    assert!(problem(root, begin.plus(-1)).contains("is not valid before"));
}

#[test]
fn path_length_and_strangers_are_refused() {
    let root = new_root("Example Root", KeyAlgorithm::P256, 5000);
    let certificate = root.certificate().clone();
    let below = |path_len, days| {
        let key = PrivateKey::generate(KeyAlgorithm::P256).unwrap();
        let request = AuthorityRequest {
            subject: &name("Example Issuing"),
            spki_der: key.spki_der(),
            subject_key_identifier: None,
            path_len,
            serial: serial(),
            validity: from_hour_before(days),
        };
        let certificate = root.issue_authority(&request).unwrap();
        Authority::new(certificate, key).unwrap()
    };
    let said = |signer, above| {
        let outer = Outer::Intermediate { signer, above };
        created(outer, Algorithms::default())
            .unwrap_err()
            .to_string()
    };
    let found = said(below(Some(0), 900), vec![certificate.clone()]);
    assert!(found.contains("allows 0 CAs below it"), "{found}");
    let found = said(below(None, 0), vec![certificate.clone()]);
    assert!(found.contains("expired"), "{found}");
    let found = said(below(None, 900), vec![]);
    assert!(found.contains("give the root too"), "{found}");
    let stranger = new_root("Example Root", KeyAlgorithm::P256, 5000);
    let found = said(below(None, 900), vec![stranger.certificate().clone()]);
    assert!(found.contains("does not lead to the root"), "{found}");
    // An intermediate is no root.
    let found = created(Outer::Root(below(None, 900)), Algorithms::default());
    let found = found.unwrap_err().to_string();
    assert!(found.contains("is not self-signed"), "{found}");
}

#[test]
fn no_algorithm_that_kubernetes_cannot_use() {
    for wrong in [
        KeyAlgorithm::Ed25519,
        KeyAlgorithm::Rsa(1024),
        KeyAlgorithm::Rsa(8192),
    ] {
        let algorithms = Algorithms {
            outer: KeyAlgorithm::P256,
            authorities: wrong,
        };
        let error = created(Outer::New, algorithms).unwrap_err().to_string();
        assert!(error.contains("say p256"), "{error}");
    }
}
