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

#[test]
fn they_are_joined_with_listed_checked_and_left_to_kubernetes() {
    let serve = Serve::start(
        Fixture::new("k3s-1.36-encryption-token-rotated"),
        "one",
        None,
    );
    let folder = tempfile::tempdir().unwrap();
    let (name, key) = key_of(&serve);
    let secret = |id: &str| KubeSecret::bootstrap_token(id, SECRET, Some("2099-01-01T00:00:00Z"));
    let good = secret("goodid");
    put(&serve, &good, &aes_cbc(&good.protobuf(), &name, &key));
    let ended = secret("oldone").with("expiration", Some("2020-01-01T00:00:00Z"));
    put(&serve, &ended, &ended.protobuf());
    let signs = secret("signer").with("usage-bootstrap-authentication", None);
    put(&serve, &signs, &signs.json());
    let strange = secret("sealed");
    put(
        &serve,
        &strange,
        &aes_cbc(&strange.protobuf(), "lost-key", &key),
    );

    let token = |id: &str| full(&serve, &format!("{id}.{SECRET}"));
    let go = |id: &str| join(&serve.url, folder.path(), &token(id), "worker-1", &[]);
    assert_ends(&go("goodid"), 0, "files written");
    for id in ["oldone", "signer", "sealed", "absent"] {
        let run = join(
            &serve.url,
            folder.path(),
            &token(id),
            &format!("no-{id}"),
            &[],
        );
        assert_ends(&run, 5, "401");
    }

    let table = serve.token(&["list"]);
    assert_ends(
        &table,
        0,
        "1 of 4 Secrets of bootstrap tokens cannot be read",
    );
    let text = table.text();
    let line = |id: &str| {
        text.lines()
            .find(|it| it.starts_with(id))
            .unwrap()
            .to_owned()
    };
    for (id, words) in [
        (
            "goodid",
            [
                "good",
                "2099-01-01T00:00:00Z",
                "for authentication, signing; rack 7",
            ],
        ),
        (
            "oldone",
            ["expired", "2020-01-01T00:00:00Z", "it expired at"],
        ),
        (
            "signer",
            ["unfit", "for signing", "it is not for authentication"],
        ),
        (
            "sealed",
            [
                "unreadable",
                "aescbc:v1:lost-key",
                "none of cred/encryption-config.json",
            ],
        ),
    ] {
        for word in words {
            assert!(line(id).contains(word), "{id} {word}: {text}");
        }
    }
    for (id, state) in [
        ("goodid", "good"),
        ("oldone", "expired"),
        ("sealed", "unreadable"),
    ] {
        let entry = serve.listed(id);
        let shown = (entry["state"].as_str(), entry["keeper"].as_str());
        assert_eq!(shown, (Some(state), Some("kubernetes")));
    }
    assert_eq!(serve.listed("goodid")["usages"][0], "authentication");

    let check = |id: &str| serve.token_with(&["check", "--datastore"], token(id).as_bytes());
    assert_ends(&check("goodid"), 0, "a bootstrap token of Kubernetes");
    assert_ends(&check("oldone"), 4, "it expired at");
    assert_ends(&check("sealed"), 4, "servers ignore it");
    assert_ends(&check("absent"), 4, "none with this id and secret");

    let run = serve.token(&["revoke", "goodid"]);
    assert_ends(
        &run,
        5,
        "kubectl -n kube-system delete secret bootstrap-token-goodid",
    );
    assert_ends(
        &serve.token(&["revoke", "absent"]),
        5,
        "no token has the id absent",
    );
    assert_eq!(serve.listed("goodid")["state"], "good");

    let said = serve.said.lock().unwrap().clone();
    for text in [&text, &said, &check("goodid").text(), &run.text()] {
        assert!(!text.contains(SECRET), "{text}");
    }
    assert!(
        said.contains("a bootstrap token's Secret was ignored"),
        "{said}"
    );
}
