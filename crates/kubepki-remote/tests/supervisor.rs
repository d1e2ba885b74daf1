//! The supervisor is believed once it has shown the CA that the token pins, and told nothing
//! before.

#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use kubepki::edge::{Clock as _, SystemClock};
use kubepki::token::{Token, authority_hash};
use kubepki_remote::{Supervisor, SupervisorError};
use pki::{
    Authority, Certificate, DAY, KeyAlgorithm, LeafRequest, PrivateKey, Purpose, San, Serial,
    UnixTime, Validity,
};
use testkit::supervisor::{Cluster, Supervisor as Standing};

const PASSWORD: &str = "fixture-token-0123456789abcdef";
const AGENT_PASSWORD: &str = "another-one-for-agents";

fn now() -> UnixTime {
    SystemClock.now()
}

/// A leaf for 127.0.0.1 under the fixture's server CA, as the dynamic listener has one.
fn cluster(name: &str) -> Cluster {
    let fixture = testkit::fixture(name);
    let tls = fixture.data_dir().join("server/tls");
    let bundle = std::fs::read(tls.join("server-ca.crt")).unwrap();
    let key = std::fs::read(tls.join("server-ca.key")).unwrap();
    let ca = Certificate::all_from_pem(&bundle).unwrap().remove(0);
    let authority = Authority::new(ca, PrivateKey::from_pem(&key).unwrap()).unwrap();
    let key = PrivateKey::generate(KeyAlgorithm::P256).unwrap();
    let leaf = authority
        .issue(&LeafRequest {
            organizations: &["k3s".to_owned()],
            common_name: "k3s",
            sans: &[San::from_text("127.0.0.1")],
            purposes: &[Purpose::ServerAuth],
            spki_der: key.spki_der(),
            serial: Serial::random(pki::random).unwrap(),
            validity: Validity {
                not_before: authority.certificate().validity().not_before,
                not_after: now().plus(DAY),
            },
        })
        .unwrap();
    Cluster {
        chain: [leaf.to_pem().as_bytes(), &bundle].concat(),
        key: key.to_pem().unwrap().as_bytes().to_vec(),
        cacerts: bundle,
        password: PASSWORD.to_owned(),
        agent_password: AGENT_PASSWORD.to_owned(),
        kubernetes: Default::default(),
    }
}

fn token(cluster: &Cluster, password: &str) -> Token {
    let hash = authority_hash(&cluster.cacerts, now()).unwrap();
    Token::new(hash, "server", password.to_owned().into())
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

/// Connects and sends; the error of whichever fails.
fn put(
    server: &Standing,
    token: &Token,
    trust: bool,
    call: (&str, &str),
    body: &[u8],
) -> Result<Vec<u8>, SupervisorError> {
    runtime().block_on(async {
        let supervisor = Supervisor::connect(&server.url(), token, trust, now()).await?;
        supervisor.send(call.0, call.1, body).await
    })
}

const PUT: (&str, &str) = ("PUT", "/v1-k3s/cert/cacerts?force=false");

#[test]
fn a_call_arrives_as_it_was_made() {
    for name in [
        "k3s-1.36-sqlite",
        "k3s-1.36-custom-ca",
        "k3s-1.36-default-rotated",
    ] {
        let cluster = cluster(name);
        let token = token(&cluster, PASSWORD);
        let server = Standing::start(cluster, Box::new(|_| true));
        assert_eq!(
            put(&server, &token, false, PUT, b"{}\n").unwrap(),
            b"",
            "{name}"
        );
        let calls = server.calls();
        assert_eq!(calls.len(), 1);
        assert_eq!(
            (calls[0].path.as_str(), calls[0].body.as_slice()),
            (PUT.1, &b"{}\n"[..])
        );
    }
}

#[test]
fn what_is_refused_says_why_and_what_to_do() {
    let cluster = cluster("k3s-1.36-sqlite");
    let right = token(&cluster, PASSWORD);
    let wrong = token(&cluster, "not the password");
    let server = Standing::start(cluster, Box::new(|_| false));
    let cases = [
        (
            &wrong,
            PUT,
            401,
            "not authorized; the password in the token",
        ),
        (
            &right,
            PUT,
            500,
            "error ID 29231; K3s wrote the reason to its own log",
        ),
        (
            &right,
            ("GET", PUT.1),
            405,
            "this K3s is older than the call",
        ),
    ];
    for (token, call, expected, words) in cases {
        let error = put(&server, token, false, call, b"{}").unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
        match error {
            SupervisorError::Refused { status, .. } => assert_eq!(status, expected),
            other => panic!("{other}"),
        }
    }
}

#[test]
fn nothing_secret_goes_to_another_cluster() {
    let own = token(&cluster("k3s-1.36-custom-ca"), PASSWORD);
    let server = Standing::start(cluster("k3s-1.36-sqlite"), Box::new(|_| true));
    let error = put(&server, &own, true, PUT, b"{}").unwrap_err();
    assert!(
        matches!(error, SupervisorError::OtherAuthority { .. }),
        "{error}"
    );
    assert_eq!(server.calls(), []);
}

#[test]
fn a_server_that_only_shows_the_bundle_gets_no_password() {
    // It shows the cluster's public bundle, which anybody can, and serves its own certificate.
    let mut liar = cluster("k3s-1.36-custom-ca");
    let victim = cluster("k3s-1.36-sqlite");
    let token = token(&victim, PASSWORD);
    liar.cacerts = victim.cacerts;
    let server = Standing::start(liar, Box::new(|_| true));
    let error = put(&server, &token, false, PUT, b"{}").unwrap_err();
    assert!(
        matches!(error, SupervisorError::Unreachable { .. }),
        "{error}"
    );
    assert_eq!(server.calls(), []);
}

#[test]
fn a_token_without_a_hash_needs_leave_to_trust() {
    let cluster = cluster("k3s-1.36-sqlite");
    let hash = authority_hash(&cluster.cacerts, now()).unwrap().to_string();
    let server = Standing::start(cluster, Box::new(|_| true));
    let bare = Token::parse(PASSWORD).unwrap();
    let error = put(&server, &bare, false, PUT, b"{}").unwrap_err();
    assert!(
        matches!(&error, SupervisorError::Unpinned { seen, .. } if *seen == hash),
        "{error}"
    );
    assert_eq!(server.calls(), []);

    assert!(put(&server, &bare, true, PUT, b"{}").is_ok());
    let url = server.url();
    let seen = runtime()
        .block_on(Supervisor::connect(&url, &bare, true, now()))
        .unwrap();
    assert_eq!(
        (seen.seen().hash.to_string(), seen.seen().pinned),
        (hash, false)
    );
}

#[test]
fn nobody_there_is_an_error_with_the_address() {
    let token = token(&cluster("k3s-1.36-sqlite"), PASSWORD);
    let server = Standing::start(cluster("k3s-1.36-sqlite"), Box::new(|_| true));
    let url = server.url();
    drop(server);
    let error = runtime()
        .block_on(Supervisor::connect(&url, &token, false, now()))
        .unwrap_err();
    assert!(error.to_string().contains(&url), "{error}");
}

#[test]
fn the_executor_calls_only_the_server_that_was_proved() {
    use kubepki::apply::Caller as _;

    let cluster = cluster("k3s-1.36-sqlite");
    let token = token(&cluster, PASSWORD);
    let server = Standing::start(cluster, Box::new(|call| call.body.ends_with(b"}")));
    runtime().block_on(async {
        let url = server.url();
        let supervisor = Supervisor::connect(&url, &token, false, now())
            .await
            .unwrap();
        let whole = format!("{url}{}", PUT.1);
        assert!(supervisor.call("PUT", &whole, b"{}").await.is_ok());
        let refused = supervisor.call("PUT", &whole, b"{").await.unwrap_err();
        assert!(refused.message.contains("500"), "{refused}");
        for other in [
            "https://127.0.0.2:6443/cacerts",
            "nonsense",
            "http://127.0.0.1:1/",
        ] {
            assert!(
                supervisor.call("PUT", other, b"{}").await.is_err(),
                "{other}"
            );
        }
    });
    assert_eq!(server.calls().len(), 2);
}

/// A pin set for the keys of these certificates.
fn pinning(certificates: &[Certificate]) -> Token {
    let keys: Vec<_> = certificates.iter().map(Certificate::spki_sha256).collect();
    Token::pinning(&keys, "abc123", "0123456789abcdef0123456789abcdef").unwrap()
}

fn connect(server: &Standing, token: &Token) -> Result<(), SupervisorError> {
    let url = server.url();
    let connected = Supervisor::connect(&url, token, false, now());
    runtime().block_on(connected).map(drop)
}

#[test]
fn a_pinned_key_must_be_led_to_and_not_only_shown() {
    let real = cluster("k3s-1.36-custom-ca");
    let pinned = Certificate::all_from_pem(&real.cacerts).unwrap();
    let root = pinned.iter().find(|it| it.is_self_issued()).unwrap();
    let token = pinning(std::slice::from_ref(root));
    let other = cluster("k3s-1.36-sqlite");
    let stranger = pinning(&Certificate::all_from_pem(&other.cacerts).unwrap());

    // Another cluster's CA, beside the pinned one: the bundle is public, so anybody can show it.
    let mut imposter = cluster("k3s-1.36-sqlite");
    imposter.cacerts.extend_from_slice(&real.cacerts);
    let imposter = Standing::start(imposter, Box::new(|_| true));
    let error = connect(&imposter, &token).unwrap_err();
    assert!(matches!(error, SupervisorError::Unproven { .. }), "{error}");
    // The same with the real chain sent along.
    let mut imposter = cluster("k3s-1.36-sqlite");
    imposter.cacerts.extend_from_slice(&real.cacerts);
    imposter.chain.extend_from_slice(&real.cacerts);
    let imposter = Standing::start(imposter, Box::new(|_| true));
    let error = connect(&imposter, &token).unwrap_err();
    assert!(matches!(error, SupervisorError::Unproven { .. }), "{error}");

    // The real one, whether it sends its chain or its leaf alone.
    let server = Standing::start(real, Box::new(|_| true));
    connect(&server, &token).unwrap();
    let error = connect(&server, &stranger).unwrap_err();
    assert!(
        matches!(error, SupervisorError::OtherKeys { .. }),
        "{error}"
    );
    assert!(
        !error
            .to_string()
            .contains("0123456789abcdef0123456789abcdef")
    );
    let mut alone = cluster("k3s-1.36-custom-ca");
    let leaf = Certificate::all_from_pem(&alone.chain).unwrap().remove(0);
    alone.chain = leaf.to_pem().into_bytes();
    let server = Standing::start(alone, Box::new(|_| true));
    connect(&server, &token).unwrap();
    assert!(server.calls().is_empty());
}

/// K3s's hash of several certificates is that of one root: it says nothing of a CA beside it.
#[test]
fn a_ca_beside_the_one_that_is_hashed_proves_nothing() {
    let real = cluster("k3s-1.36-custom-ca");
    let token = token(&real, PASSWORD);
    let mut imposter = cluster("k3s-1.36-sqlite");
    imposter.cacerts = [&real.cacerts[..], &imposter.cacerts].concat();
    let same = authority_hash(&imposter.cacerts, now()).unwrap();
    assert_eq!(same, authority_hash(&real.cacerts, now()).unwrap());
    let imposter = Standing::start(imposter, Box::new(|_| true));
    let error = connect(&imposter, &token).unwrap_err();
    assert!(matches!(error, SupervisorError::Unproven { .. }), "{error}");
    assert!(imposter.calls().is_empty());
    connect(&Standing::start(real, Box::new(|_| true)), &token).unwrap();
}

#[test]
fn the_old_roots_pin_is_good_while_a_cross_certificate_leads_to_it() {
    let rotated = cluster("k3s-1.36-default-rotated");
    let all = Certificate::all_from_pem(&rotated.cacerts).unwrap();
    let roots = all.iter().filter(|it| it.is_self_issued());
    let roots: Vec<Certificate> = roots.cloned().collect();
    let server = Standing::start(rotated, Box::new(|_| true));
    for root in &roots {
        connect(&server, &pinning(std::slice::from_ref(root))).unwrap();
    }
    // Without it the old root stands there and leads nowhere.
    let mut cut = cluster("k3s-1.36-default-rotated");
    let is_cross = |it: &Certificate| !it.is_self_issued() && it.subject() == roots[0].subject();
    let kept = all.iter().filter(|it| !is_cross(it));
    cut.cacerts = kept
        .map(Certificate::to_pem)
        .collect::<String>()
        .into_bytes();
    let leaf = Certificate::all_from_pem(&cut.chain).unwrap().remove(0);
    cut.chain = [leaf.to_pem().as_bytes(), &cut.cacerts].concat();
    let server = Standing::start(cut, Box::new(|_| true));
    connect(&server, &pinning(&roots[..1])).unwrap();
    let error = connect(&server, &pinning(&roots[1..])).unwrap_err();
    assert!(matches!(error, SupervisorError::Unproven { .. }), "{error}");
}
