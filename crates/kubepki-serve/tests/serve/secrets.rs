//! Bootstrap tokens of Kubernetes: Secrets in the datastore, which the server only reads.

use kubepki_serve::node::Strictness::{K3sCompatible, Strict};
use kubepki_serve::renewal::reload;
use testkit::Fixture;
use testkit::kube::{KubeSecret, aes_cbc};

use crate::common::{Answer, NODE_PASSWORD, Running, request, runtime, serve, serve_tree};

const CONFIG: &str = "/v1-k3s/config";
const KUBELET: &str = "/v1-k3s/client-kubelet.crt";
const SERVING: &str = "/v1-k3s/serving-kubelet.crt";
const PROXY: &str = "/v1-k3s/client-kube-proxy.crt";
const CONTROLLER: &str = "/v1-k3s/client-k3s-controller.crt";
const SECRET: &str = "0123456789abcdef";

struct Lab {
    server: Running,
    runtime: tokio::runtime::Runtime,
}

impl Lab {
    fn new(server: Running) -> Self {
        let runtime = runtime();
        Self { server, runtime }
    }

    /// A Secret that ends an hour from now.
    fn secret(&self, id: &str) -> KubeSecret {
        let end = self.server.service.clock.now().plus(3600).to_string();
        KubeSecret::bootstrap_token(id, SECRET, Some(&end))
    }

    /// What kube-apiserver would do; answers the revision.
    fn put(&self, secret: &KubeSecret, value: &[u8]) -> i64 {
        let store = self.server.service.datastore.as_ref();
        let done = self.runtime.block_on(store.create(&secret.key(), value));
        done.unwrap()
    }

    fn delete(&self, secret: &KubeSecret, revision: i64) {
        let store = self.server.service.datastore.as_ref();
        let done = self.runtime.block_on(store.delete(&secret.key(), revision));
        done.unwrap();
    }

    fn get(&self, path: &str, id: &str) -> Answer {
        let header = format!("Authorization: Bearer {id}.{SECRET}");
        self.server.curl(path, &["-H", &header])
    }

    fn join(&self, path: &str, id: &str) -> Answer {
        let headers = [
            format!("Authorization: Bearer {id}.{SECRET}"),
            format!("k3s-Node-Name: node-{id}"),
            format!("k3s-Node-Password: {NODE_PASSWORD}"),
        ];
        let mut words: Vec<&str> = headers.iter().flat_map(|it| ["-H", it]).collect();
        words.extend(["--data-binary", "@-"]);
        self.server.curl_with(path, &words, &request())
    }

    #[track_caller]
    fn assert_said(&self, text: &str) {
        let said = self.server.said.lock().unwrap().join("\n");
        assert!(said.contains(text), "{text}: {said}");
        assert!(!said.contains(SECRET), "{said}");
    }

    fn metric(&self, name: &str) -> String {
        let metrics = self.server.curl("/metrics", &[]).text();
        let line = metrics.lines().find(|it| it.starts_with(name));
        line.unwrap().to_owned()
    }
}

#[test]
fn a_bootstrap_token_joins_a_node_and_does_nothing_else() {
    for strictness in [Strict, K3sCompatible] {
        let lab = Lab::new(serve(strictness));
        let (protobuf, json) = (lab.secret("aaaaaa"), lab.secret("bbbbbb"));
        lab.put(&protobuf, &protobuf.protobuf());
        lab.put(&json, &json.json());
        for id in ["aaaaaa", "bbbbbb"] {
            for path in [CONFIG, "/v1-k3s/client-ca.crt", "/v1-k3s/apiservers"] {
                assert_eq!(lab.get(path, id).code, 200, "{path}");
            }
            for path in [SERVING, KUBELET, PROXY, CONTROLLER] {
                let answer = lab.join(path, id);
                assert_eq!(answer.code, 200, "{path}: {}", answer.text());
            }
            // What servers alone may.
            assert_eq!(lab.get("/v1-k3s/server-bootstrap", id).code, 403);
            let header = format!("Authorization: Bearer {id}.{SECRET}");
            for path in ["/v1-k3s/cert/cacerts", "/v1-k3s/token"] {
                let put = ["-H", &header, "-X", "PUT", "--data-binary", "{}"];
                assert_eq!(lab.server.curl(path, &put).code, 403, "{path}");
            }
            lab.assert_said(&format!(r#"("user", "system:bootstrap:{id}")"#));
            lab.assert_said(r#"("credential", "bootstrap-token")"#);
        }
        // Kubernetes knows such a token as a bearer's only.
        for user in ["node", "server"] {
            let basic = format!("{user}:aaaaaa.{SECRET}");
            assert_eq!(lab.server.curl(CONFIG, &["-u", &basic]).code, 401);
        }
    }
}

#[test]
fn what_kubernetes_would_refuse_is_refused_at_once() {
    let lab = Lab::new(serve(Strict));
    let now = lab.server.service.clock.now();
    let good = lab.secret("aaaaaa");
    let revision = lab.put(&good, &good.protobuf());
    assert_eq!(lab.get(CONFIG, "aaaaaa").code, 200);
    let expected = lab.server.curl(CONFIG, &["-u", "node:wrong-password"]);
    assert_eq!(expected.code, 401);

    let mut deleted = lab.secret("dddddd");
    deleted.is_deleted = true;
    let mut opaque = lab.secret("oooooo");
    opaque.kind = "Opaque".to_owned();
    let masters = lab.secret("mmmmmm");
    for (secret, why) in [
        (deleted, "is deleted and awaits its removal"),
        (opaque, "has another type"),
        (
            masters.with(
                "auth-extra-groups",
                Some("system:bootstrappers:a,k3s:server"),
            ),
            "auth-extra-groups",
        ),
        (
            lab.secret("eeeeee")
                .with("expiration", Some(&now.to_string())),
            "expired at",
        ),
        (
            lab.secret("xxxxxx").with("expiration", Some("soon")),
            "an expiration that is no time",
        ),
        (
            lab.secret("uuuuuu")
                .with("usage-bootstrap-authentication", None),
            "is not for authentication",
        ),
        (
            lab.secret("wwwwww")
                .with("token-secret", Some("fedcba9876543210")),
            "has another secret",
        ),
        (
            lab.secret("iiiiii").with("token-id", Some("aaaaaa")),
            "another token-id",
        ),
    ] {
        let id = secret.name.rsplit('-').next().unwrap().to_owned();
        lab.put(&secret, &secret.protobuf());
        for path in [CONFIG, "/v1-k3s/server-bootstrap"] {
            let answer = lab.get(path, &id);
            assert_eq!(
                (answer.code, answer.text()),
                (401, expected.text()),
                "{why}"
            );
        }
        assert_eq!(lab.join(KUBELET, &id).code, 401);
        lab.assert_said(why);
    }
    // By the server's clock, and by what the API server wrote last.
    lab.server.time.to(3605);
    assert_eq!(lab.get(CONFIG, "aaaaaa").code, 401);
    lab.server.time.to(0);
    assert_eq!(lab.get(CONFIG, "aaaaaa").code, 200);
    lab.delete(&good, revision);
    assert_eq!(lab.get(CONFIG, "aaaaaa").code, 401);
    lab.assert_said("no token has that id");
}

#[test]
fn secrets_that_cannot_be_read_are_counted_and_keep_nobody_else_out() {
    let lab = Lab::new(serve(Strict));
    let good = lab.secret("aaaaaa");
    lab.put(&good, &good.protobuf());
    let bad = lab.secret("bbbbbb");
    let whole = bad.protobuf();
    let sealed = aes_cbc(&whole, "key-of-elsewhere", &[7; 32]);
    for (value, why) in [
        (&b""[..], "neither protocol buffers nor JSON"),
        (&whole[..whole.len() / 2], "its message is torn"),
        (b"k8s:enc:kms:v2:vault:0123456789abcdef", "kms:v2:vault"),
        (&sealed, "aescbc:v1:key-of-elsewhere"),
        (&lab.secret("cccccc").protobuf(), "names itself otherwise"),
    ] {
        let revision = lab.put(&bad, value);
        assert_eq!(lab.get(CONFIG, "bbbbbb").code, 401, "{why}");
        assert_eq!(lab.get(CONFIG, "aaaaaa").code, 200, "{why}");
        lab.assert_said("a bootstrap token's Secret was ignored");
        lab.assert_said("Secret kube-system/bootstrap-token-bbbbbb");
        lab.assert_said(why);
        lab.delete(&bad, revision);
    }
    let ignored = lab.metric("kubepki_bootstrap_secrets_ignored_total");
    assert_eq!(ignored, "kubepki_bootstrap_secrets_ignored_total 5");
}

#[test]
fn encrypted_secrets_open_with_the_keys_of_the_tree() {
    let fixture = Fixture::new("k3s-1.36-encryption-token-rotated");
    let path = fixture
        .data_dir()
        .join("server/cred/encryption-config.json");
    let text = std::fs::read_to_string(&path).unwrap();
    let keys: serde_json::Value = serde_json::from_str(&text).unwrap();
    let key = &keys["resources"][0]["providers"][0]["aescbc"]["keys"][0];
    use base64::Engine as _;
    let secret = key["secret"].as_str().unwrap();
    let secret = base64::engine::general_purpose::STANDARD.decode(secret);
    let lab = Lab::new(serve_tree(fixture, Strict, Default::default()));
    let held = lab.secret("aaaaaa");
    let value = aes_cbc(
        &held.protobuf(),
        key["name"].as_str().unwrap(),
        &secret.unwrap().try_into().unwrap(),
    );
    lab.put(&held, &value);
    assert_eq!(lab.join(KUBELET, "aaaaaa").code, 200);

    // A configuration that is none keeps such tokens out, and the server up.
    let fixture = Fixture::new("k3s-1.36-encryption-token-rotated");
    let broken = fixture
        .data_dir()
        .join("server/cred/encryption-config.json");
    std::fs::write(&broken, "{").unwrap();
    let lab = Lab::new(serve_tree(fixture, Strict, Default::default()));
    lab.put(&held, &value);
    assert_eq!(lab.get(CONFIG, "aaaaaa").code, 401);
    lab.assert_said("cred/encryption-config.json cannot be used");
    let plain = lab.secret("bbbbbb");
    lab.put(&plain, &plain.protobuf());
    assert_eq!(lab.get(CONFIG, "bbbbbb").code, 200);
    // Taken up with the files, as K3s writes them when the cluster's keys change.
    std::fs::write(broken, text).unwrap();
    assert!(reload(&lab.server.service).unwrap());
    assert!(!reload(&lab.server.service).unwrap());
    assert_eq!(lab.get(CONFIG, "aaaaaa").code, 200);
}

/// A made token's record goes before a Secret of the same id, and neither hides the other.
#[test]
fn one_id_of_both_kinds_is_two_tokens() {
    use kubepki::edge::SystemEntropy;
    use kubepki::token::made::{self, Made, Role, SHORT, Secret, Shape, Wanted};

    let lab = Lab::new(serve(Strict));
    let own = Secret::random(&SystemEntropy, SHORT).unwrap();
    let wanted = Wanted {
        role: Role::Server,
        shape: Shape::K10,
        now: lab.server.service.clock.now(),
        expires: None,
        uses: None,
        node: None,
        description: None,
    };
    let store = lab.server.service.datastore.as_ref();
    let record = Made::new(&own, &wanted);
    let created = lab.runtime.block_on(made::create(store, &own, &record));
    created.unwrap();
    let theirs = lab.secret(own.id());
    lab.put(&theirs, &theirs.protobuf());
    assert_eq!(lab.get(CONFIG, own.id()).code, 200);
    let header = format!("Authorization: Bearer {}.{}", own.id(), own.expose());
    assert_eq!(lab.server.curl(CONFIG, &["-H", &header]).code, 403);
    assert_eq!(lab.get("/v1-k3s/server-bootstrap", own.id()).code, 403);
}
