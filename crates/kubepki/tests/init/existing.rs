//! `init` where something is there already.

use kubepki::host::LocalHost;
use kubepki::init::{InitError, survey};
use kubepki::token::{Token, authority_hash};
use pki::UnixTime;
use testkit::{Fixture, Tree};

use crate::place::{FIRST_START, PASSWORD, Place};

/// The files of a fixture, copied to a new place.
async fn copy_of(name: &str) -> Place {
    let fixture = Fixture::without_datastore(name);
    let mut place = Place::new();
    place.now = FIRST_START.plus(7_200);
    for path in Tree::snapshot(fixture.data_dir())
        .nodes()
        .map(|(path, _)| path)
    {
        if fixture.data_dir().join(path).is_dir() {
            continue;
        }
        place.bring(&fixture.data_dir(), path).await;
    }
    place
}

#[tokio::test]
async fn a_server_that_k3s_made_is_left_alone() {
    for name in [
        "k3s-1.36-sqlite",
        "k3s-1.36-custom-ca",
        "k3s-1.36-default-rotated",
        "k3s-1.36-encryption-token-rotated",
        "k3s-1.36-etcd-embedded",
    ] {
        let fixture = Fixture::without_datastore(name);
        let mut place = Place::at(fixture.data_dir());
        place.now = FIRST_START.plus(7_200);
        let mut spec = place.spec();
        spec.kubeconfig = None;
        let (plan, staged) = place
            .plan(&spec, None)
            .await
            .unwrap_or_else(|e| panic!("{name}: {e}"));
        let steps: Vec<_> = plan
            .steps
            .iter()
            .map(|step| (&step.target, &step.reason))
            .collect();
        assert!(steps.is_empty() && staged.is_empty(), "{name}: {steps:#?}");
    }
}

#[tokio::test]
async fn token_hashes_are_k3s_own() {
    for name in [
        "k3s-1.36-sqlite",
        "k3s-1.36-custom-ca",
        "k3s-1.36-custom-ca-rotated",
        "k3s-1.36-default-rotated",
        "k3s-1.36-encryption-token-rotated",
        "k3s-1.36-new-root-forced",
    ] {
        let fixture = Fixture::without_datastore(name);
        let read = |file: &str| std::fs::read(fixture.data_dir().join(file)).unwrap();
        let text = String::from_utf8(read("server/token")).unwrap();
        let token = Token::parse(&text).unwrap();
        let now: UnixTime = FIRST_START.plus(7_200);
        let hash = authority_hash(&read("server/tls/server-ca.crt"), now).unwrap();
        assert_eq!(token.authority(), Some(hash.to_string().as_str()), "{name}");
        assert_eq!(*token.to_text(), text.trim(), "{name}");
    }
}

#[tokio::test]
async fn only_what_is_missing_is_made() {
    let place = copy_of("k3s-1.36-sqlite").await;
    let gone = [
        "server/tls/client-scheduler.crt",
        "server/tls/service.current.key",
        "server/cred/ipsec.psk",
        "server/cred/admin.kubeconfig",
        "server/token",
        "server/tls/client-kubelet.key",
    ];
    let token = place.read("server/token");
    let kubeconfig = place.read("server/cred/admin.kubeconfig");
    let current = place.read("server/tls/service.current.key");
    for file in gone {
        place.remove(file).await;
    }
    let before = Tree::snapshot(place.data_dir());
    let mut spec = place.spec();
    spec.kubeconfig = None;
    let (plan, staged) = place.plan(&spec, None).await.unwrap();
    place.apply(&plan, &staged).await;
    let after = Tree::snapshot(place.data_dir()).without("kubepki");
    // The password lay in the passwd file, the hash comes from the CA.
    assert_eq!(place.read("server/token"), token);
    assert_eq!(place.read("server/cred/admin.kubeconfig"), kubeconfig);
    assert_eq!(place.read("server/tls/service.current.key"), current);
    for (path, node) in before.nodes() {
        // A certificate that is made anew gets a new key, as K3s's would.
        let is_new = path == "server/tls/client-scheduler.key";
        let is_directory = place.data_dir().join(path).is_dir();
        if !is_new && !is_directory {
            assert_eq!(after.get(path), Some(node), "{path}");
        }
    }
    let files = after.files().count();
    assert_eq!(files, before.files().count() + gone.len());
}

#[tokio::test]
async fn another_password_than_the_trees_is_refused() {
    let place = copy_of("k3s-1.36-sqlite").await;
    let other = Token::parse("another-password").unwrap();
    let own = Token::parse(PASSWORD).unwrap();
    match place.plan(&place.spec(), Some(&other)).await {
        Err(InitError::OtherPassword {
            flag: "--token", ..
        }) => {}
        other => panic!("{other:?}"),
    }
    match place
        .plan_with(&place.spec(), Some(&own), Some(&other))
        .await
    {
        Err(InitError::OtherPassword {
            flag: "--agent-token",
            ..
        }) => {}
        other => panic!("{other:?}"),
    }
    assert!(place.plan(&place.spec(), Some(&own)).await.is_ok());
}

#[tokio::test]
async fn broken_files_are_named() {
    let cases = [
        ("server/token", "K10short::server:pw", "is no token"),
        ("server/cred/passwd", "lonesome\n", "list of users"),
        (
            "server/tls/server-ca.crt",
            "rubbish",
            "server-ca.crt cannot be used",
        ),
        (
            "server/tls/client-ca.key",
            "",
            "client-ca.key cannot be used",
        ),
        ("server/tls/token-ca.crt", "", "before v1.0"),
    ];
    for (file, text, expected) in cases {
        let place = copy_of("k3s-1.36-sqlite").await;
        place.write(file, text).await;
        let error = place.plan(&place.spec(), None).await.unwrap_err();
        let said = kubepki::error_chain(&error);
        assert!(said.contains(expected), "{file}: {said}");
        assert!(
            !said.contains("short::") && !said.contains("lonesome"),
            "{said}"
        );
    }
}

#[tokio::test]
async fn a_datastore_keeps_its_own_cas() {
    let place = copy_of("k3s-1.36-sqlite").await;
    place.write("server/db/state.db", "SQLite format 3").await;
    assert!(place.plan(&place.spec(), None).await.is_ok());
    place.remove("server/tls/etcd/peer-ca.crt").await;
    place.remove("server/tls/etcd/peer-ca.key").await;
    let mut spec = place.spec();
    spec.complete = true;
    match place.plan(&spec, None).await {
        Err(InitError::Datastore { path }) => assert!(path.ends_with("server/db/state.db")),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn new_service_account_keys_come_in_both_files() {
    let place = copy_of("k3s-1.36-sqlite").await;
    let before = place.read("server/tls/service.current.key");
    place.remove("server/tls/service.key").await;
    let mut spec = place.spec();
    spec.complete = true;
    place.make(&spec).await;
    let after = place.read("server/tls/service.current.key");
    assert!(after != before && after == place.read("server/tls/service.key"));
}

#[tokio::test]
async fn an_agents_directory_is_refused() {
    let fixture = Fixture::without_datastore("k3s-1.36-agent-only");
    let place = Place::new();
    let found = survey(&LocalHost, &fixture.data_dir(), &place.spec(), place.now).await;
    assert!(matches!(found, Err(InitError::AgentNode { .. })));
}
