//! Paths as OpenSSL sees them, and certificates that Go cannot make.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use pki::verify::{Options, Reason, verify};
use pki::{Certificate, Error};

use super::go::{Case, ask, oracle};
use super::openssl::{get, put, stranger, tool};

#[test]
fn sha1_signatures_end_a_path() {
    if super::without("openssl") || super::without("go") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    let ca = stranger(at, "/CN=ca", "");
    for (digest, key) in [("sha1", "-newkey rsa:2048"), ("sha256", "-newkey rsa:2048")] {
        let line =
            format!("openssl req {key} -nodes -subj /CN=leaf -keyout leaf.key -out leaf.csr");
        tool(at, &line).unwrap();
        let line = format!(
            "openssl x509 -req -{digest} -in leaf.csr -CA ca.pem -CAkey ca.key -days 30 -out leaf.pem"
        );
        tool(at, &line).unwrap();
        let issued = Certificate::all_from_pem(&get(at, "leaf.pem"))
            .unwrap()
            .remove(0);
        let when = issued.validity().not_before;
        let roots = [ca.certificate().clone()];
        let ours = verify(&issued, &[], &roots, &Options::at(when));
        let question = Case {
            op: "verify".to_owned(),
            leaf: STANDARD.encode(issued.der()),
            roots: vec![STANDARD.encode(ca.certificate().der())],
            at: when.as_secs(),
            ..Case::default()
        };
        let theirs = ask(&[question]).remove(0);
        assert_eq!(ours.is_ok(), digest == "sha256");
        assert_eq!(
            theirs.class.is_empty(),
            digest == "sha256",
            "{}",
            theirs.detail
        );
        if let Err(error) = ours {
            let [blamed] = error.reasons() else {
                panic!("{error}")
            };
            assert!(matches!(
                blamed.reason,
                Reason::Signature {
                    error: Error::UnsupportedSignature { .. },
                    ..
                }
            ));
        }
    }
}

#[test]
fn version_1_signs_as_a_root_only() {
    if super::without("openssl") || super::without("go") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    // Without an extension file `openssl x509 -req` writes version 1.
    for (name, signer) in [
        ("root", "-signkey root.key"),
        ("middle", "-CA root.pem -CAkey root.key"),
        ("leaf", "-CA middle.pem -CAkey middle.key"),
    ] {
        let line = format!(
            "openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN={name} \
             -keyout {name}.key -out {name}.csr"
        );
        tool(at, &line).unwrap();
        let line = format!("openssl x509 -req -in {name}.csr {signer} -days 30 -out {name}.pem");
        tool(at, &line).unwrap();
    }
    let read = |name: &str| {
        let text = get(at, &format!("{name}.pem"));
        Certificate::all_from_pem(&text).unwrap().remove(0)
    };
    let (root, middle, leaf) = (read("root"), read("middle"), read("leaf"));
    assert_eq!(root.version(), 1);
    let when = leaf.validity().not_before;
    for (below, intermediates, roots, good) in [
        (&middle, vec![], vec![&root], true),
        (&leaf, vec![], vec![&middle], true),
        (&leaf, vec![&middle], vec![&root], false),
    ] {
        let owned = |list: &[&Certificate]| -> Vec<Certificate> {
            list.iter()
                .map(|certificate| (*certificate).clone())
                .collect()
        };
        let (all, trusted) = (owned(&intermediates), owned(&roots));
        let ours = verify(below, &all, &trusted, &Options::at(when));
        assert_eq!(ours.is_ok(), good);
        let texts = |list: &[&Certificate]| -> Vec<String> {
            list.iter().map(|c| STANDARD.encode(c.der())).collect()
        };
        let question = Case {
            op: "verify".to_owned(),
            leaf: STANDARD.encode(below.der()),
            intermediates: texts(&intermediates),
            roots: texts(&roots),
            at: when.as_secs(),
            ..Case::default()
        };
        assert_eq!(ask(&[question]).remove(0).class.is_empty(), good);
    }
}

/// Where OpenSSL answers otherwise than Go and we do: the beginning of the case's name, and why.
const DIFFERENCES: [(&str, &str); 22] = [
    (
        "root without basic constraints",
        "a root's are not looked at",
    ),
    (
        "path length counts self-issued",
        "RFC 5280 does not count self-issued CAs; Go does",
    ),
    (
        "wrong key identifier is a hint",
        "a mismatch rules the issuer out",
    ),
    (
        "name in another string type",
        "names are compared as text, not as octets",
    ),
    ("purpose any wanted \"\"", ANY),
    ("purpose any wanted \"server\"", ANY),
    ("purpose any wanted \"client\"", ANY),
    ("purpose nested in any", ANY),
    ("purpose nested in root of any", ANY),
    ("host a.example.", "the final dot of a host is part of it"),
    ("host [10.0.0.1]", "brackets are for URIs"),
    ("host [::1]", "brackets are for URIs"),
    (
        "host ::ffff:10.0.0.1",
        "an IPv4-mapped address is another address",
    ),
    (
        "host in common name only",
        "the common name counts where no alternative name is",
    ),
    ("constraints 8", "a wildcard may cover an excluded name"),
    (
        "constraints 22",
        "an email domain without a dot does not reach below",
    ),
    (
        "constraints 29",
        "a URI domain without a dot does not reach below",
    ),
    (
        "constraints 31",
        "a name of a kind without constraints is not looked at",
    ),
    (
        "extension 36",
        "policies are checked only with -policy_check",
    ),
    (
        "99 strangers",
        "the first issuer of that name is taken, without another try",
    ),
    (
        "mapped address",
        "an IPv4-mapped address is another address",
    ),
    (
        "ring with root",
        "the first path is enough, so no limit is reached",
    ),
];

const ANY: &str = "OpenSSL 3.0 does not take anyExtendedKeyUsage for a TLS purpose";

#[test]
fn the_table_as_openssl_sees_it() {
    if super::without("openssl") || super::without("go") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    let pem = |list: &[String]| -> String {
        list.iter()
            .map(|text| {
                pki::pem::encode("CERTIFICATE", &STANDARD.decode(text).unwrap()).to_string()
            })
            .collect()
    };
    let mut deviations = Vec::new();
    let mut used = std::collections::BTreeSet::new();
    for case in oracle(&["generate", "1", "0"], b"") {
        if case.purposes.iter().any(|purpose| purpose == "code") {
            // OpenSSL 3.0 has no such purpose.
            continue;
        }
        put(at, "leaf.pem", &pem(std::slice::from_ref(&case.leaf)));
        put(at, "roots.pem", &pem(&case.roots));
        put(at, "more.pem", &pem(&case.intermediates));
        let mut line = format!(
            "openssl verify -partial_chain -no-CApath -no-CAstore -attime {}",
            case.at
        );
        match case.purposes.first().map(String::as_str) {
            None | Some("server") => line += " -purpose sslserver",
            Some("client") => line += " -purpose sslclient",
            _ => {}
        }
        if !case.host.is_empty() {
            let kind = match case.host.parse::<std::net::IpAddr>() {
                Ok(_) => "-verify_ip",
                Err(_) => "-verify_hostname",
            };
            line += &format!(" {kind} {}", case.host);
        }
        if !case.roots.is_empty() {
            line += " -CAfile roots.pem";
        }
        if !case.intermediates.is_empty() {
            line += " -untrusted more.pem";
        }
        let theirs = tool(at, &format!("{line} leaf.pem"));
        let listed = DIFFERENCES
            .iter()
            .find(|(start, _)| case.id.starts_with(start));
        let agree = theirs.is_ok() == case.class.is_empty();
        if let Some((start, _)) = listed
            && !agree
        {
            used.insert(*start);
        } else if !agree {
            let reason = theirs.err().unwrap_or_default();
            deviations.push(format!(
                "{}: Go {:?}, OpenSSL {reason:?}",
                case.id, case.detail
            ));
        }
    }
    assert!(deviations.is_empty(), "{}", deviations.join("\n"));
    assert_eq!(
        used.len(),
        DIFFERENCES.len(),
        "a listed difference is gone: {used:?}"
    );
}
