//! Restarts, what must hold after them, and what a person does.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use kubepki::apply::{Aftermath, Outcome, Standing, served_certificate, unfinished};
use kubepki::error_chain;
use kubepki::host::{Attributes, LocalHost};
use kubepki::plan::*;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use tokio::net::TcpListener;

use crate::case::{Case, finished};
use crate::node::{authority, executor, issue, put};

#[tokio::test]
async fn a_restart_that_fails_says_how_and_is_taken_back_by_another() {
    let case = Case::new().await;
    let state = case.lock();
    let executor = executor(&LocalHost, &state);
    let error = executor
        .apply(&case.unit("echo no >&2; exit 7", Vec::new()))
        .await
        .unwrap_err();
    let text = error_chain(&error);
    assert!(
        text.contains("exit code 7: no") && text.contains("kubepki resume one"),
        "{text}"
    );
    assert_eq!(error.aftermath(), Aftermath::Interrupted);
    let undo = executor.undo(&PlanId("one".to_owned())).await.unwrap();
    assert!(matches!(
        undo.steps[..],
        [Step {
            action: Action::Restart { .. },
            ..
        }]
    ));
}

#[tokio::test]
async fn a_restart_must_prove_itself() {
    let case = Case::new().await;
    let state = case.lock();
    let mut executor = executor(&LocalHost, &state);
    executor.patience.proof = Duration::from_millis(100);
    executor.patience.pause = Duration::from_millis(20);
    let path = case.node.path("tls/admin.crt");
    let present = std::fs::read(&path).unwrap();
    let present = pki::Certificate::all_from_pem(&present).unwrap()[0]
        .fingerprint()
        .to_string();
    let plan = case.unit(
        "true",
        vec![Proof::FileRenewed {
            path,
            sha256: Some(present),
        }],
    );
    let error = executor.apply(&plan).await.unwrap_err();
    assert!(
        error_chain(&error).contains("holds the certificate of before"),
        "{error}"
    );
    // Somebody renews it, and the same plan goes on.
    let (_, other) = issue(&authority("x"), "x");
    case.write("tls/admin.crt", other.to_pem().as_bytes());
    finished(executor.resume(&plan.id).await);
}

#[tokio::test]
async fn a_manual_step_waits_for_its_probe() {
    let case = Case::new().await;
    let path = case.node.path("server.crt");
    let plan = case.manual(vec![Proof::FileRenewed { path, sha256: None }]);
    let state = case.lock();
    let executor = executor(&LocalHost, &state);
    for run in 0..2 {
        let outcome = match run {
            0 => executor.apply(&plan).await,
            _ => executor.resume(&plan.id).await,
        };
        match outcome.unwrap() {
            Outcome::Waiting {
                step: 1,
                instruction,
                unmet,
            } => {
                assert_eq!(instruction, "restart it");
                assert_eq!(unmet.len(), 1);
            }
            other => panic!("{other:?}"),
        }
    }
    let past = unfinished(&state).unwrap().unwrap();
    assert!(
        matches!(past.standing, Standing::Interrupted { waiting: true, .. }),
        "{past:?}"
    );
    let (_, certificate) = issue(&authority("x"), "x");
    case.write("server.crt", certificate.to_pem().as_bytes());
    finished(executor.resume(&plan.id).await);
    let undo = executor.undo(&plan.id).await.unwrap();
    assert!(undo.steps.is_empty());
    assert!(
        undo.notes
            .iter()
            .any(|note| note.contains("by hand: restart it")),
        "{:?}",
        undo.notes
    );
}

/// A server that reads certificate and key from the node at every connection, as K3s does after
/// every restart. With `strict` it speaks TLS 1.2 only and turns away who has no certificate.
async fn serve(case: &Case, strict: bool) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (crt, key) = (
        case.node.path("tls/admin.crt"),
        case.node.path("tls/admin.key"),
    );
    let ca = case.node.path("tls/ca.crt");
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let config = Arc::new(server_config(&crt, &key, strict.then_some(ca.as_path())));
            let acceptor = tokio_rustls::TlsAcceptor::from(config);
            // Who looks on does not stay.
            let _ = acceptor.accept(stream).await;
        }
    });
    address
}

fn server_config(crt: &Path, key: &Path, strict: Option<&Path>) -> ServerConfig {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let chain = |path| {
        CertificateDer::pem_file_iter(path)
            .unwrap()
            .map(Result::unwrap)
            .collect::<Vec<_>>()
    };
    let builder = ServerConfig::builder_with_provider(provider.clone());
    let builder = match strict {
        None => builder
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth(),
        Some(ca) => {
            let mut roots = rustls::RootCertStore::empty();
            roots.add_parsable_certificates(chain(ca));
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder
                .with_protocol_versions(&[&rustls::version::TLS12])
                .unwrap()
                .with_client_cert_verifier(verifier.unwrap())
        }
    };
    builder
        .with_single_cert(chain(crt), PrivateKeyDer::from_pem_file(key).unwrap())
        .unwrap()
}

#[tokio::test]
async fn what_is_served_is_seen_even_by_strict_servers_and_silence_is_not() {
    let case = Case::new().await;
    let limit = Duration::from_secs(10);
    let leaf =
        pki::Certificate::all_from_pem(&std::fs::read(case.node.path("tls/admin.crt")).unwrap())
            .unwrap()
            .remove(0);
    for strict in [false, true] {
        let address = serve(&case, strict).await;
        assert_eq!(
            served_certificate(&address, limit).await.unwrap(),
            leaf.der()
        );
    }

    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let error = served_certificate(&address, Duration::from_millis(200))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
    // Bound but not listening: refused, and no other test can take the port meanwhile.
    let deaf = tokio::net::TcpSocket::new_v4().unwrap();
    deaf.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = deaf.local_addr().unwrap().to_string();
    let error = served_certificate(&address, limit).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
    for address in ["127.0.0.1", "127.0.0.1:x", "::1:99999", "a b:1"] {
        let error = served_certificate(address, limit).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput, "{address}");
    }
}

#[tokio::test]
async fn a_restart_is_proven_by_what_is_served_and_so_is_its_undo() {
    let case = Case::new().await;
    let address = serve(&case, false).await;
    let before = served_certificate(&address, Duration::from_secs(10))
        .await
        .unwrap();
    let leaf = || LeafId("client-admin".to_owned());
    let mut steps = case
        .node
        .steps([
            (
                "tls/admin.key",
                put(Attributes::new(0o600), Content::LeafKey(leaf())),
            ),
            (
                "tls/admin.crt",
                put(Attributes::new(0o644), Content::LeafCertificate(leaf())),
            ),
        ])
        .await;
    let other = pki::sha256(&before).to_string();
    let proof = vec![
        Proof::Listens {
            address: address.clone(),
        },
        Proof::ServesOther {
            address: address.clone(),
            sha256: other,
        },
        Proof::Serves {
            address: address.clone(),
            leaf: leaf(),
        },
    ];
    let restart = case.unit("true", proof).steps.remove(0);
    steps.push(Step {
        number: 3,
        ..restart
    });
    let plan = case.node.plan_of("restart", steps);

    let state = case.lock();
    let executor = executor(&LocalHost, &state);
    let outcome = executor.apply(&plan).await.unwrap();
    let Outcome::Finished { leaves, .. } = outcome else {
        panic!("{outcome:?}")
    };
    let served = served_certificate(&address, Duration::from_secs(10))
        .await
        .unwrap();
    let recorded = leaves[&leaf()].certificate.clone().unwrap();
    assert_eq!(recorded, pki::sha256(&served).to_string());

    let undo = executor.undo(&plan.id).await.unwrap();
    let last = undo.steps.last().unwrap();
    let Action::Restart { proof, .. } = &last.action else {
        panic!("{last:?}")
    };
    let gone = Proof::ServesOther {
        address: address.clone(),
        sha256: recorded,
    };
    assert!(proof.contains(&gone), "{proof:?}");
    finished(executor.apply(&undo).await);
    let served = served_certificate(&address, Duration::from_secs(10))
        .await
        .unwrap();
    assert_eq!(served, before);
}

#[tokio::test]
async fn who_issued_what_is_served_is_told_by_the_signature() {
    let case = Case::new().await;
    let state = case.lock();
    let executor = executor(&LocalHost, &state);
    let pem = |name: &str| std::fs::read_to_string(case.node.path(name)).unwrap();
    // The same name, another key.
    let (other, stranger) = (authority("test-ca"), authority("stranger"));
    for strict in [false, true] {
        let address = serve(&case, strict).await;
        let under = |authority: String| Proof::ServesUnder {
            address: address.clone(),
            authority,
        };
        let (renamed, bundle) = (
            other.certificate().to_pem(),
            pem("tls/ca.crt") + &stranger.certificate().to_pem(),
        );
        for (number, (authority, expected)) in [
            (pem("tls/ca.crt"), None),
            (renamed, Some("with another key")),
            (stranger.certificate().to_pem(), Some("CN=test-ca issued")),
            (bundle, Some("not exactly one")),
            ("nonsense".to_owned(), Some("no CERTIFICATE")),
        ]
        .into_iter()
        .enumerate()
        {
            let mut plan = case.manual(vec![under(authority)]);
            plan.id = PlanId(format!("under-{strict}-{number}"));
            match (executor.apply(&plan).await.unwrap(), expected) {
                (Outcome::Finished { .. }, None) => {}
                (Outcome::Waiting { unmet, .. }, Some(expected)) => {
                    assert!(unmet[0].contains(&address), "{unmet:?}");
                    assert!(unmet[0].contains(expected), "{unmet:?}");
                    state.forget(&plan.id).unwrap_err();
                    let undo = executor.undo(&plan.id).await.unwrap();
                    finished(executor.apply(&undo).await);
                }
                (outcome, expected) => panic!("{outcome:?} instead of {expected:?}"),
            }
        }
    }
}

#[tokio::test]
async fn a_file_holds_what_it_should_or_waiting_goes_on() {
    let case = Case::new().await;
    let state = case.lock();
    let executor = executor(&LocalHost, &state);
    let path = case.node.path("extracted.crt");
    let sha256 = pki::sha256(b"as planned").to_string();
    let plan = case.manual(vec![Proof::Holds { path, sha256 }]);
    for (content, expected) in [(None, "not there"), (Some(b"something"), "something else")] {
        if let Some(content) = content {
            case.write("extracted.crt", content);
        }
        let outcome = match content {
            None => executor.apply(&plan).await,
            Some(_) => executor.resume(&plan.id).await,
        };
        match outcome.unwrap() {
            Outcome::Waiting { unmet, .. } => assert!(unmet[0].contains(expected), "{unmet:?}"),
            other => panic!("{other:?}"),
        }
    }
    case.write("extracted.crt", b"as planned");
    finished(executor.resume(&plan.id).await);
}
