//! Every answer that was recorded of K3s, from an equal cluster, with the compatibility switch.

use std::collections::BTreeSet;

use kubepki::log::verify;
use kubepki_serve::node::Strictness;
use pki::{Certificate, DAY, PrivateKey};
use serde_json::Value;
use testkit::Fixture;

use crate::common::{Answer, NODE_PASSWORD, PASSWORD, recorded, request, serve};

/// How far an answer must be the recorded one, code and content type apart.
enum Like {
    /// Octet for octet.
    Exactly,
    /// The cluster's own CA file.
    Authority(&'static str),
    /// A certificate with the same profile for the same key, then the CA.
    Leaf,
    /// The same, for a shared key, which follows.
    Legacy(&'static str),
    /// Apart from the number in it.
    ErrorId,
    /// JSON whose members have the recorded values.
    Config,
}

use Like::{Authority, Config, ErrorId, Exactly, Leaf, Legacy};

const NODE: &[&str] = &["-u", "node:fixture-token-0123456789abcdef"];
const SERVER: &[&str] = &["-u", "server:fixture-token-0123456789abcdef"];
const CURL1: &[&str] = &[
    "-u",
    "node:fixture-token-0123456789abcdef",
    "-H",
    "k3s-Node-Name: curl1",
    "-H",
    "k3s-Node-Password: 0123456789abcdef0123456789abcdef",
    "-H",
    "Content-Type:",
];
const ADDRESS: &[&str] = &["-H", "k3s-Node-IP: 10.77.0.99"];
const POST: &[&str] = &["--data-binary", "@-"];
const PUT: &[&str] = &["-X", "PUT", "-H", "Content-Type:"];

type Row = (
    &'static str,
    &'static str,
    &'static [&'static [&'static str]],
    Like,
);

/// Recording, path, curl's arguments.
fn rows() -> Vec<Row> {
    let readyz = "/v1-k3s/readyz";
    vec![
        ("cacerts", "/cacerts", &[], Authority("server-ca.crt")),
        ("ping", "/ping", &[], Exactly),
        (
            "client-ca",
            "/v1-k3s/client-ca.crt",
            &[NODE],
            Authority("client-ca.crt"),
        ),
        ("readyz", readyz, &[NODE], Exactly),
        ("apiservers", "/v1-k3s/apiservers", &[NODE], Exactly),
        ("config", "/v1-k3s/config", &[NODE], Config),
        ("no-credentials", readyz, &[], Exactly),
        ("wrong-password", readyz, &[&["-u", "node:wrong"]], Exactly),
        ("server-user-on-agent-path", readyz, &[SERVER], Exactly),
        ("not-found", "/v1-k3s/no-such-path", &[], Exactly),
        (
            "server-bootstrap-sqlite",
            "/v1-k3s/server-bootstrap",
            &[SERVER],
            Exactly,
        ),
        (
            "put-cacerts-empty",
            "/v1-k3s/cert/cacerts",
            &[SERVER, PUT, &["-d", "{}"]],
            Exactly,
        ),
        (
            "put-cacerts-garbage",
            "/v1-k3s/cert/cacerts",
            &[SERVER, PUT, &["-d", "garbage"]],
            ErrorId,
        ),
        (
            "get-cacerts-route",
            "/v1-k3s/cert/cacerts",
            &[SERVER],
            Exactly,
        ),
        (
            "put-token-as-node",
            "/v1-k3s/token",
            &[NODE, PUT, &["-d", "{}"]],
            Exactly,
        ),
    ]
}

/// The same of the endpoints that sign. In the order in which they were recorded: the wrong
/// password is one because the right one came first.
fn signing_rows() -> Vec<Row> {
    let serving = "/v1-k3s/serving-kubelet.crt";
    let kubelet = "/v1-k3s/client-kubelet.crt";
    let proxy = "/v1-k3s/client-kube-proxy.crt";
    let controller = "/v1-k3s/client-k3s-controller.crt";
    vec![
        (
            "post-serving-kubelet",
            serving,
            &[CURL1, ADDRESS, POST],
            Leaf,
        ),
        (
            "post-client-kubelet",
            kubelet,
            &[CURL1, ADDRESS, POST],
            Leaf,
        ),
        ("post-client-kube-proxy", proxy, &[CURL1, POST], Leaf),
        (
            "post-client-k3s-controller",
            controller,
            &[CURL1, POST],
            Leaf,
        ),
        (
            "get-legacy",
            kubelet,
            &[CURL1],
            Legacy("client-kubelet.key"),
        ),
        ("post-no-node-headers", kubelet, &[NODE, POST], Exactly),
        (
            "post-wrong-node-password",
            kubelet,
            &[
                NODE,
                POST,
                &[
                    "-H",
                    "k3s-Node-Name: curl1",
                    "-H",
                    "k3s-Node-Password: wrong",
                ],
            ],
            Exactly,
        ),
        (
            "post-bad-ip",
            serving,
            &[CURL1, POST, &["-H", "k3s-Node-IP: nonsense"]],
            Exactly,
        ),
    ]
}

fn recording(fixture: &Fixture, name: &str) -> Answer {
    let head = fixture.extra_text(&format!("{name}.headers"));
    let body = std::fs::read(fixture.extra(&format!("{name}.body"))).unwrap();
    Answer::parse(&head, &body)
}

#[test]
fn every_recorded_answer_is_matched() {
    let recorded = recorded();
    let mut server = serve(Strictness::K3sCompatible);
    let csr = request();
    let mut left: BTreeSet<String> = std::fs::read_dir(recorded.extra(""))
        .unwrap()
        .filter_map(|entry| {
            let name = entry.unwrap().file_name().into_string().unwrap();
            name.strip_suffix(".headers").map(str::to_owned)
        })
        .collect();
    let mut issued = 0;
    for (name, path, arguments, like) in rows().into_iter().chain(signing_rows()) {
        left.remove(name);
        let expected = recording(&recorded, name);
        let arguments = arguments.concat();
        let found = match arguments.contains(&"@-") {
            true => server.curl_with(path, &arguments, &csr),
            false => server.curl(path, &arguments),
        };
        assert_eq!(found.code, expected.code, "{name}: {}", found.text());
        assert_eq!(
            found.header("content-type"),
            expected.header("content-type"),
            "{name}"
        );
        match like {
            Exactly => assert_eq!(found.text(), expected.text(), "{name}"),
            Authority(file) => {
                let own = std::fs::read(server.tls_file(file)).unwrap();
                assert_eq!(found.body, own, "{name}");
                assert_eq!(found.header("last-modified").is_some(), name != "cacerts");
                assert_eq!(
                    found.header("accept-ranges"),
                    expected.header("accept-ranges"),
                    "{name}"
                );
            }
            Leaf | Legacy(_) => {
                issued += 1;
                same_profile(name, &found.body, &expected.body);
                let leaf = Certificate::all_from_pem(&found.body).unwrap().remove(0);
                let key = match like {
                    Legacy(file) => {
                        let pem = std::fs::read(server.tls_file(file)).unwrap();
                        assert!(found.body.ends_with(&pem), "{name}");
                        PrivateKey::from_pem(&pem)
                    }
                    _ => PrivateKey::from_pem(recorded.extra_text("req.key").as_bytes()),
                };
                assert_eq!(leaf.spki_der(), key.unwrap().spki_der(), "{name}");
            }
            ErrorId => assert_eq!(without_digits(&found), without_digits(&expected), "{name}"),
            Config => same_config(&found, &expected),
        }
    }
    assert_eq!(left, BTreeSet::new(), "recordings that no row asks for");
    server.finish();
    let directory = server.fixture.scratch("log").join("s1");
    let checked = verify(&directory, "s1", None).unwrap();
    assert_eq!(checked.findings, []);
    assert_eq!(checked.head.records, issued);
    let said = server.said.lock().unwrap().join("\n");
    for secret in [PASSWORD, NODE_PASSWORD, "PRIVATE KEY", "garbage"] {
        assert!(!said.contains(secret), "{secret} in the log");
    }
    assert!(said.contains("certificate error ID"), "{said}");
}

fn without_digits(answer: &Answer) -> String {
    let text = answer.text();
    let (head, tail) = text.split_once("\"code\"").unwrap();
    head.replace(|letter: char| letter.is_ascii_digit(), "0") + tail
}

/// Blocks, subject, purposes, names and lifetime are K3s's. Key usage is ours: a key on a curve
/// enciphers nothing (decisions, section 3).
fn same_profile(name: &str, found: &[u8], expected: &[u8]) {
    let labels = |pem: &[u8]| -> Vec<String> {
        let blocks = pki::pem::blocks(pem);
        blocks.iter().map(|block| block.label.clone()).collect()
    };
    assert_eq!(labels(found), labels(expected), "{name}");
    let leaf = |pem: &[u8]| Certificate::all_from_pem(pem).unwrap().remove(0);
    let (found, expected) = (leaf(found), leaf(expected));
    assert_eq!(found.subject().der(), expected.subject().der(), "{name}");
    assert_eq!(found.purposes(), expected.purposes(), "{name}");
    assert_eq!(found.sans_der(), expected.sans_der(), "{name}");
    assert_eq!(found.is_ca(), expected.is_ca());
    let lifetime = |it: &Certificate| it.validity().not_after.since(it.validity().not_before);
    assert_eq!(lifetime(&found), lifetime(&expected), "{name}");
    assert_eq!(lifetime(&found), 365 * DAY);
    let usage = found.key_usage().unwrap();
    assert!(usage.has(pki::KeyUsage::DIGITAL_SIGNATURE));
    assert!(expected.key_usage().unwrap().has(usage));
}

/// What agents do not read, so that it is not sent.
const NOT_SENT: &[&str] = &[
    "APIServerBindAddress",
    "BindAddress",
    "ClusterInit",
    "ClusterReset",
    "ClusterResetRestorePath",
    "DefaultLocalStoragePath",
    "DisableAgent",
    "DisableControllerManager",
    "DisableScheduler",
    "Disables",
    "EncryptProvider",
    "EncryptSecrets",
    "ExtraAPIArgs",
    "ExtraCloudControllerArgs",
    "ExtraControllerArgs",
    "ExtraEtcdArgs",
    "ExtraHelmArgs",
    "ExtraSchedulerArgs",
    "HelmJobImage",
    "JoinURL",
    "KineTLS",
    "KubeConfigGroup",
    "KubeConfigMode",
    "KubeConfigName",
    "KubeConfigOutput",
    "NoLeaderElect",
    "Skips",
    "VLevel",
    "VModule",
];

fn same_config(found: &Answer, expected: &Answer) {
    let read = |answer: &Answer| -> Value { serde_json::from_slice(&answer.body).unwrap() };
    let (found, expected) = (read(found), read(expected));
    let (found, expected) = (found.as_object().unwrap(), expected.as_object().unwrap());
    let mut missing: Vec<&str> = expected
        .keys()
        .map(String::as_str)
        .filter(|name| !found.contains_key(*name))
        .collect();
    missing.sort_unstable();
    assert_eq!(missing, NOT_SENT);
    let set = |value: &Value| -> BTreeSet<String> {
        let list = value.as_array().unwrap().iter();
        list.map(|it| it.as_str().unwrap().to_owned()).collect()
    };
    for (name, value) in found {
        let recorded = expected
            .get(name)
            .unwrap_or_else(|| panic!("{name} is not K3s's"));
        match name.as_str() {
            "IPSECPSK" => assert_eq!(value.as_str().unwrap().len(), 96),
            // K3s repeats addresses.
            "SANs" => assert_eq!(set(value), set(recorded)),
            _ => assert_eq!(value, recorded, "{name}"),
        }
    }
}
