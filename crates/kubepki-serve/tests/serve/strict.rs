//! Each strictness, named: what ours refuses or asks for where K3s is careless.

use kubepki_serve::node::Strictness;
use testkit::openssl_ok;

use crate::common::{NODE_PASSWORD, PASSWORD, Running, request, serve};

const SERVING: &str = "/v1-k3s/serving-kubelet.crt";
const KUBELET: &str = "/v1-k3s/client-kubelet.crt";
const PROXY: &str = "/v1-k3s/client-kube-proxy.crt";
const CONTROLLER: &str = "/v1-k3s/client-k3s-controller.crt";

/// A request by OpenSSL for a key that `openssl genpkey` makes.
fn openssl_request(options: &[&str]) -> Vec<u8> {
    let key = openssl_ok(&[&["genpkey"], options].concat(), b"").stdout;
    let arguments = [
        "req",
        "-new",
        "-key",
        "/dev/stdin",
        "-subj",
        "/O=system:masters/CN=system:admin",
        "-addext",
        "subjectAltName=DNS:kubernetes",
        "-outform",
        "DER",
    ];
    openssl_ok(&arguments, &key).stdout
}

struct Row {
    name: &'static str,
    node: &'static str,
    path: &'static str,
    headers: &'static [&'static str],
    body: Vec<u8>,
    /// Ours, then K3s's.
    codes: [u16; 2],
    says: &'static str,
}

const NONE: &[&str] = &[];
const SERVICE: &[&str] = &["-H", "k3s-Node-IP: 10.43.0.1"];
const HOST: &[&str] = &["-H", "k3s-Node-IP: 10.0.0.9,10.77.0.11"];
const ANY: &[&str] = &["-H", "k3s-Node-IP: 0.0.0.0"];

/// Name, node, path, headers, codes, words.
type Named = (
    &'static str,
    &'static str,
    &'static str,
    &'static [&'static str],
    [u16; 2],
    &'static str,
);

/// What is asked for in the name of a node, with a good request.
#[rustfmt::skip]
const NODES: &[Named] = &[
    ("the service's address", "a", SERVING, SERVICE, [403, 200], "servers"),
    ("the server's address", "a", SERVING, HOST, [403, 200], "servers"),
    ("the server's own node", "s1", SERVING, HOST, [200, 200], ""),
    ("no host's address", "a", SERVING, ANY, [400, 200], "single host"),
    ("the API server's name", "kubernetes.default", SERVING, NONE, [403, 200], "servers"),
    ("localhost", "localhost", SERVING, NONE, [403, 200], "servers"),
    ("no node's name", "a..b", KUBELET, NONE, [400, 200], "no name of a node"),
    ("upper case", "NODE-A", KUBELET, NONE, [200, 200], ""),
];

/// What is sent as a request.
fn bodies() -> Vec<(&'static str, Vec<u8>, [u16; 2], &'static str)> {
    let good = request();
    let mut unsigned = good.clone();
    *unsigned.last_mut().unwrap() ^= 1;
    let pem = openssl_ok(&["req", "-inform", "DER"], &good).stdout;
    let rsa = |bits: &str| {
        let bits = format!("rsa_keygen_bits:{bits}");
        openssl_request(&["-algorithm", "RSA", "-pkeyopt", &bits])
    };
    let curve = |name: &str| {
        let name = format!("ec_paramgen_curve:{name}");
        openssl_request(&["-algorithm", "EC", "-pkeyopt", &name])
    };
    let nothing = "no certificate request";
    vec![
        ("wrong signature", unsigned, [400, 200], "signature"),
        ("PEM", pem, [400, 200], "PEM"),
        ("nothing", Vec::new(), [400, 200], nothing),
        ("garbage", b"0\x03abc".to_vec(), [400, 200], nothing),
        ("RSA 512", rsa("512"), [400, 200], "512 bits"),
        ("RSA 1024", rsa("1024"), [400, 200], "1024 bits"),
        ("RSA 2048", rsa("2048"), [200, 200], ""),
        ("P-224", curve("P-224"), [400, 200], "no kind that is taken"),
        (
            "secp256k1",
            curve("secp256k1"),
            [400, 200],
            "no kind that is taken",
        ),
        ("P-521", curve("P-521"), [200, 200], ""),
    ]
}

fn rows() -> Vec<Row> {
    let bodies = bodies().into_iter().map(|(name, body, codes, says)| Row {
        name,
        node: "a",
        path: KUBELET,
        headers: NONE,
        body,
        codes,
        says,
    });
    let nodes = NODES
        .iter()
        .map(|&(name, node, path, headers, codes, says)| Row {
            name,
            node,
            path,
            headers,
            body: request(),
            codes,
            says,
        });
    bodies.chain(nodes).collect()
}

fn ask(server: &Running, row: &Row) -> crate::common::Answer {
    let user = format!("node:{PASSWORD}");
    let name = format!("k3s-Node-Name: {}", row.node);
    let password = format!("k3s-Node-Password: {NODE_PASSWORD}");
    let fixed = [
        "-u",
        &user,
        "-H",
        &name,
        "-H",
        &password,
        "--data-binary",
        "@-",
    ];
    server.curl_with(row.path, &[&fixed[..], row.headers].concat(), &row.body)
}

#[test]
fn what_k3s_takes_and_we_refuse() {
    let servers = [Strictness::Strict, Strictness::K3sCompatible].map(serve);
    for row in rows() {
        for (server, code) in servers.iter().zip(row.codes) {
            let answer = ask(server, &row);
            assert_eq!(answer.code, code, "{}: {}", row.name, answer.text());
            if code >= 400 {
                assert!(
                    answer.text().contains(row.says),
                    "{}: {}",
                    row.name,
                    answer.text()
                );
            }
            if code == 200 {
                // Whatever a request says, it gets its node's names.
                let leaf = pki::Certificate::all_from_pem(&answer.body)
                    .unwrap()
                    .remove(0);
                assert!(
                    !leaf.subject().to_string().contains("masters"),
                    "{}",
                    row.name
                );
                let name = leaf.subject().common_name().unwrap().to_owned();
                assert!(name.ends_with(&row.node.to_lowercase()), "{name}");
            }
        }
    }
}

#[test]
fn kube_proxy_and_controller_are_bound_to_a_node() {
    let user = format!("node:{PASSWORD}");
    let bare = ["-u", &user, "--data-binary", "@-"];
    let [strict, careless] = [Strictness::Strict, Strictness::K3sCompatible].map(serve);
    for path in [PROXY, CONTROLLER] {
        assert_eq!(careless.curl_with(path, &bare, &request()).code, 200);
        let refused = strict.curl_with(path, &bare, &request());
        assert_eq!(refused.code, 400);
        assert!(refused.text().contains("node name not set"));
        assert_eq!(strict.ask_as("a", path, &request()).code, 200);
    }
    let said = strict.said.lock().unwrap().join("\n");
    assert!(
        said.contains(r#"("node", "a"), ("subject", "CN=system:kube-proxy")"#),
        "{said}"
    );
}

#[test]
fn legacy_mode_is_behind_the_switch() {
    let strict = serve(Strictness::Strict);
    let node = format!("k3s-Node-Password: {NODE_PASSWORD}");
    let user = format!("node:{PASSWORD}");
    let arguments = [
        "-u",
        &user,
        "-H",
        "k3s-Node-Name: a",
        "-H",
        &node,
        "--http1.1",
    ];
    for path in [SERVING, KUBELET, PROXY, CONTROLLER] {
        let answer = strict.curl(path, &arguments);
        assert_eq!(answer.code, 405);
        assert!(!answer.text().contains("PRIVATE KEY"));
        assert_eq!(answer.header("connection"), Some("close"));
    }
}

#[test]
fn a_kubelets_certificate_renews_its_own_node_only() {
    let server = serve(Strictness::Strict);
    let [certificate, key] =
        ["client-kubelet.crt", "client-kubelet.key"].map(|it| server.agent_file(it));
    let pem = std::fs::read(&certificate).unwrap();
    let own = pki::Certificate::all_from_pem(&pem).unwrap().remove(0);
    let own = own
        .subject()
        .common_name()
        .unwrap()
        .replace("system:node:", "");
    let with = ["--cert", &certificate, "--key", &key, "--data-binary", "@-"];
    for path in [SERVING, KUBELET, PROXY, CONTROLLER] {
        let answer = server.curl_with(path, &with, &request());
        assert_eq!(answer.code, 200, "{path}: {}", answer.text());
    }
    let named = |name: &str| {
        let name = format!("k3s-Node-Name: {name}");
        let password = format!("k3s-Node-Password: {NODE_PASSWORD}");
        let more = ["-H", &name, "-H", &password];
        server.curl_with(KUBELET, &[&with[..], &more].concat(), &request())
    };
    assert_eq!(named(&own.to_uppercase()).code, 200);
    let other = named("another");
    assert_eq!(other.code, 400);
    assert!(
        other
            .text()
            .contains("header node name does not match auth node name")
    );
    assert_eq!(server.curl("/v1-k3s/config", &with[..4]).code, 200);
    assert_eq!(
        server.curl("/v1-k3s/server-bootstrap", &with[..4]).code,
        403
    );

    // A certificate of the server CA, of another cluster, and one that is no node's.
    let serving = ["serving-kubelet.crt", "serving-kubelet.key"].map(|it| server.agent_file(it));
    let foreign = testkit::Fixture::without_datastore("k3s-1.36-custom-ca");
    let foreign = ["crt", "key"].map(|it| {
        let path = foreign
            .data_dir()
            .join(format!("server/tls/client-admin.{it}"));
        let copy = server.fixture.scratch(&format!("foreign.{it}"));
        std::fs::copy(path, &copy).unwrap();
        copy.display().to_string()
    });
    let admin = ["client-admin.crt", "client-admin.key"]
        .map(|it| server.tls_file(it).display().to_string());
    for ([certificate, key], code) in [(serving, 401), (foreign, 401), (admin, 403)] {
        let answer = server.curl("/v1-k3s/config", &["--cert", &certificate, "--key", &key]);
        assert_eq!(answer.code, code, "{certificate}: {}", answer.text());
    }
}

#[test]
fn one_of_many_that_come_at_once_becomes_the_node() {
    let server = serve(Strictness::Strict);
    let passwords: Vec<String> = (0..6u8)
        .map(|it| pki::hex(&[it; 4]) + &NODE_PASSWORD[8..])
        .collect();
    let ask = |password: &str| {
        let user = format!("node:{PASSWORD}");
        let password = format!("k3s-Node-Password: {password}");
        let arguments = [
            "-u",
            &user,
            "-H",
            "k3s-Node-Name: race",
            "-H",
            &password,
            "--data-binary",
            "@-",
        ];
        server.curl_with(KUBELET, &arguments, &request()).code
    };
    let round = || -> Vec<u16> {
        std::thread::scope(|scope| {
            let all: Vec<_> = passwords.iter().map(|it| scope.spawn(|| ask(it))).collect();
            all.into_iter().map(|it| it.join().unwrap()).collect()
        })
    };
    let first = round();
    assert_eq!(
        first.iter().filter(|code| **code == 200).count(),
        1,
        "{first:?}"
    );
    assert_eq!(
        first.iter().filter(|code| **code == 403).count(),
        5,
        "{first:?}"
    );
    // And stays it; a weak password costs a slow hash once.
    assert_eq!(round(), first);
}
