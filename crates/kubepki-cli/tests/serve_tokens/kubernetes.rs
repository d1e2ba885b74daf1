//! Bootstrap tokens of Kubernetes in what people see of tokens.

use serde_json::Value;
use testkit::Fixture;
use testkit::kube::{KubeSecret, aes_cbc};

use crate::lab::{Serve, assert_ends, full, join, kine_insert, sqlite};

const SECRET: &str = "0123456789abcdef";

fn put(serve: &Serve, secret: &KubeSecret, value: &[u8]) {
    let file = serve.data_dir().join("server/db/state.db");
    let bytes = |bytes: &[u8]| format!("x'{}'", pki::hex(bytes));
    sqlite(&file, &kine_insert(secret, value, bytes));
}

/// The key that the fixture's K3s encrypts its Secrets with.
fn key_of(serve: &Serve) -> (String, [u8; 32]) {
    let path = serve.data_dir().join("server/cred/encryption-config.json");
    let config: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let key = &config["resources"][0]["providers"][0]["aescbc"]["keys"][0];
    let text = |name: &str| key[name].as_str().unwrap().to_owned();
    let run = testkit::openssl_ok(&["base64", "-d", "-A"], text("secret").as_bytes());
    (text("name"), run.stdout.try_into().unwrap())
}

/// A whole token of that id.
fn token(serve: &Serve, id: &str) -> String {
    full(serve, &format!("{id}.{SECRET}"))
}

#[test]
fn they_are_joined_with_listed_checked_and_left_to_kubernetes() {
    let fixture = Fixture::new("k3s-1.36-encryption-token-rotated");
    let serve = Serve::start(fixture, "one", None);
    let (name, key) = key_of(&serve);
    let secret = |id: &str| KubeSecret::bootstrap_token(id, SECRET, Some("2099-01-01T00:00:00Z"));
    let good = secret("goodid");
    put(&serve, &good, &aes_cbc(&good.protobuf(), &name, &key));
    let ended = secret("oldone").with("expiration", Some("2020-01-01T00:00:00Z"));
    put(&serve, &ended, &ended.protobuf());
    let signs = secret("signer").with("usage-bootstrap-authentication", None);
    put(&serve, &signs, &signs.json());
    let strange = secret("sealed");
    let sealed = aes_cbc(&strange.protobuf(), "lost-key", &key);
    put(&serve, &strange, &sealed);

    joined_with(&serve);
    let mut texts = vec![listed(&serve)];
    let check = |id: &str| {
        let token = token(&serve, id);
        serve.token_with(&["check", "--datastore"], token.as_bytes())
    };
    for (id, code, says) in [
        ("goodid", 0, "a bootstrap token of Kubernetes"),
        ("oldone", 4, "it expired at"),
        ("sealed", 4, "servers ignore it"),
        ("absent", 4, "none with this id and secret"),
    ] {
        let run = check(id);
        assert_ends(&run, code, says);
        texts.push(run.text());
    }
    let way_out = "kubectl -n kube-system delete secret bootstrap-token-goodid";
    for (id, says) in [
        ("goodid", way_out),
        ("absent", "no token has the id absent"),
    ] {
        let run = serve.token(&["revoke", id]);
        assert_ends(&run, 5, says);
        texts.push(run.text());
    }
    assert_eq!(serve.listed("goodid")["state"], "good");

    let said = serve.said.lock().unwrap().clone();
    let ignored = "a bootstrap token's Secret was ignored";
    assert!(said.contains(ignored), "{said}");
    texts.push(said);
    assert!(texts.iter().all(|it| !it.contains(SECRET)), "{texts:?}");
}

fn joined_with(serve: &Serve) {
    let folder = tempfile::tempdir().unwrap();
    for (id, code, says) in [
        ("goodid", 0, "files written"),
        ("oldone", 5, "401"),
        ("signer", 5, "401"),
        ("sealed", 5, "401"),
        ("absent", 5, "401"),
    ] {
        let node = format!("by-{id}");
        let run = join(&serve.url, folder.path(), &token(serve, id), &node, &[]);
        assert_ends(&run, code, says);
    }
}

fn listed(serve: &Serve) -> String {
    let table = serve.token(&["list"]);
    let note = "1 of 4 Secrets of bootstrap tokens cannot be read";
    assert_ends(&table, 0, note);
    let text = table.text();
    let line = |id: &str| text.lines().find(|it| it.starts_with(id)).unwrap();
    for (id, words) in [
        ("goodid", "good,2099-01-01T00:00:00Z,signing; rack 7"),
        ("oldone", "expired,2020-01-01T00:00:00Z,it expired at"),
        ("signer", "unfit,for signing,it is not for authentication"),
        (
            "sealed",
            "unreadable,aescbc:v1:lost-key,cred/encryption-config",
        ),
    ] {
        for word in words.split(',') {
            assert!(line(id).contains(word), "{id} {word}: {text}");
        }
        let entry = serve.listed(id);
        let state = words.split(',').next();
        let shown = (entry["state"].as_str(), entry["keeper"].as_str());
        assert_eq!(shown, (state, Some("kubernetes")));
    }
    assert_eq!(serve.listed("goodid")["usages"][0], "authentication");
    text
}
