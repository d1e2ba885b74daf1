//! Tokens that were made with a record, at one server.

use kubepki::token::Token;
use pki::Certificate;
use serde_json::Value;
use testkit::Fixture;

use crate::lab::{Serve, assert_ends, join, secret_of};

#[test]
fn nodes_join_with_made_tokens_until_these_end() {
    let serve = Serve::start(Fixture::new("k3s-1.36-sqlite"), "one", None);
    let folder = tempfile::tempdir().unwrap();
    let go =
        |token: &str, node: &str, more: &[&str]| join(&serve.url, folder.path(), token, node, more);
    // Every form, made while the server serves, is in force at once.
    let mut secrets = Vec::new();
    for (form, begins) in [("pins", "K10P1."), ("k10", "K10"), ("bootstrap", "K10")] {
        let (token, id) = serve.create(&["--role", "agent", "--form", form, "--ttl", "1h"]);
        assert!(token.starts_with(begins), "{form}");
        assert_ends(&go(&token, &format!("by-{form}"), &[]), 0, "files written");
        assert_eq!(serve.listed(&id)["state"], "good");
        secrets.push(token);
    }

    let (token, id) = serve.create(&["--role", "agent", "--uses", "2", "--description", "rack 7"]);
    assert_ends(&go(&token, "worker-1", &[]), 0, "files written");
    // The same node again, with every certificate anew, is no other use.
    assert_ends(&go(&token, "worker-1", &["--window", "400"]), 0, "");
    assert_eq!(serve.listed(&id)["used"], 1);
    assert_ends(&go(&token, "worker-2", &[]), 0, "files written");
    assert_ends(&go(&token, "worker-3", &[]), 5, "the token has ended");
    let entry = serve.listed(&id);
    assert_eq!(
        (&entry["state"], &entry["used"]),
        (&"used up".into(), &2.into())
    );
    assert_eq!(entry["nodes"][1]["node"], "worker-2");
    secrets.push(token);

    let (token, id) = serve.create(&["--role", "agent", "--node", "Worker-9", "--ttl", "0"]);
    assert_ends(&go(&token, "worker-8", &[]), 5, "another node");
    assert_ends(&go(&token, "worker-9", &[]), 0, "files written");
    assert_eq!(serve.listed(&id)["expires"], Value::Null);
    assert_ends(&serve.token(&["revoke", &id]), 0, "was revoked");
    assert_ends(&go(&token, "worker-9", &["--window", "400"]), 5, "401");
    assert_eq!(serve.listed(&id)["state"], "revoked");
    secrets.push(token);

    let (token, _) = serve.create(&["--role", "server"]);
    assert_ends(&go(&token, "worker-1", &["--window", "400"]), 5, "403");
    secrets.push(token);

    let table = serve.token(&["list"]);
    assert_ends(&table, 0, "rack 7");
    let said = serve.said.lock().unwrap().clone();
    let mut kept = std::fs::read(serve.data_dir().join("server/db/state.db")).unwrap();
    let journal = std::fs::read(serve.data_dir().join("server/db/state.db-wal"));
    kept.extend(journal.unwrap_or_default());
    for token in &secrets {
        let secret = secret_of(token);
        assert!(secret.len() >= 16);
        assert!(
            !table.text().contains(secret) && !said.contains(secret),
            "{said}"
        );
        assert!(!kept.windows(secret.len()).any(|it| it == secret.as_bytes()));
    }
    assert!(said.contains("a token was refused"), "{said}");
}

#[test]
fn what_cannot_be_made_is_said() {
    let serve = Serve::start(Fixture::new("k3s-1.36-sqlite"), "one", None);
    for (words, code, says) in [
        (&["create", "--ttl", "1h"][..], 2, "--role"),
        (
            &["create", "--role", "agent", "--uses", "0"],
            2,
            "1 to 1000",
        ),
        (&["create", "--role", "agent", "--ttl", "soon"], 2, "period"),
        (
            &["create", "--role", "agent", "--ttl", "9999d"],
            2,
            "ten years",
        ),
        (&["create", "--role", "agent", "--node", "a b"], 2, "--node"),
        (
            &["create", "--role", "agent", "--pin", "abc"],
            2,
            "64 hex digits",
        ),
        (
            &["create", "--role", "server", "--uses", "1"],
            2,
            "lets none in",
        ),
        (
            &["create", "--role", "server", "--form", "bootstrap"],
            2,
            "no bootstrap token",
        ),
        (&["revoke", "abc123.0123456789abcdef"], 2, "six characters"),
        (&["revoke", "abc123"], 5, "no token has the id abc123"),
    ] {
        let run = serve.token(words);
        assert_ends(&run, code, says);
        assert!(!run.text().contains("0123456789abcdef"), "{}", run.text());
    }
    // Without a role nothing is written, as before.
    assert_ends(&serve.token(&["create"]), 0, "");
    assert_eq!(serve.token(&["list", "-o", "json"]).stdout, b"[]\n");
}

#[test]
fn check_knows_what_a_pin_set_is_good_for() {
    let serve = Serve::start(Fixture::new("k3s-1.36-sqlite"), "one", None);
    let (token, id) = serve.create(&["--role", "agent", "--uses", "3"]);
    let check = |token: &str, more: &[&str]| {
        serve.token_with(&[&["check"], more].concat(), token.as_bytes())
    };
    let run = check(&token, &["--datastore"]);
    assert_ends(&run, 0, "a token that pins CA keys");
    for word in ["of this cluster's CA", "0/3 uses", "accepted"] {
        assert!(run.text().contains(word), "{}", run.text());
    }
    assert!(!run.text().contains(secret_of(&token)));
    // A rotation that the old root has cross-signed leaves it good, another CA does not.
    let rotated = Fixture::without_datastore("k3s-1.36-default-rotated");
    let path = rotated.data_dir().join("server").display().to_string();
    let run = check(&token, &["--path", &path]);
    assert_ends(&run, 0, "after the staged set: accepted");
    let other = Fixture::without_datastore("k3s-1.36-custom-ca");
    let path = other.data_dir().join("server").display().to_string();
    let run = check(&token, &["--path", &path]);
    assert_ends(&run, 3, "after the staged set: refused");
    let (both, _) = serve.create(&["--role", "agent", "--path", &path]);
    assert_ends(
        &check(&both, &["--path", &path]),
        0,
        "after the staged set: accepted",
    );

    let strange = format!(
        "K10P1.{}::{}",
        "ab".repeat(32),
        token.split("::").nth(1).unwrap()
    );
    assert_ends(&check(&strange, &[]), 4, "not this cluster's now");
    assert_ends(&serve.token(&["revoke", &id]), 0, "");
    assert_ends(&check(&token, &["--datastore"]), 4, "it was revoked");
}

#[test]
fn a_pin_of_the_old_root_outlives_a_rotation() {
    // Its server CA stands under a new root that the old one has cross-signed.
    let fixture = Fixture::new("k3s-1.36-default-rotated");
    let bundle = std::fs::read(fixture.data_dir().join("server/tls/server-ca.crt")).unwrap();
    let certificates = Certificate::all_from_pem(&bundle).unwrap();
    let serve = Serve::start(fixture, "one", None);
    let folder = tempfile::tempdir().unwrap();
    let (whole, _) = serve.create(&["--role", "agent"]);
    let (id, secret) = whole.split("::").nth(1).unwrap().split_once('.').unwrap();
    let with = |keys: &[pki::Digest]| {
        let token = Token::pinning(keys, id, secret).unwrap();
        token.to_text().to_string()
    };
    let roots: Vec<pki::Digest> = certificates
        .iter()
        .filter(|it| it.is_self_issued())
        .map(Certificate::spki_sha256)
        .collect();
    assert_eq!(roots.len(), 2, "the new root and the old one");
    assert_eq!(Token::parse(&whole).unwrap().pins(), roots);
    for (name, keys) in [("new", &roots[..1]), ("old", &roots[1..]), ("both", &roots)] {
        let run = join(&serve.url, folder.path(), &with(keys), name, &[]);
        assert_ends(&run, 0, "files written");
    }
    let stranger = pki::Digest([7; 32]);
    let run = join(&serve.url, folder.path(), &with(&[stranger]), "none", &[]);
    assert_ends(&run, 5, "nothing secret was sent");
    let said = serve.said.lock().unwrap().clone();
    assert!(said.contains("\"node\":\"both\""), "{said}");
    assert!(!said.contains("\"node\":\"none\""), "{said}");
}
