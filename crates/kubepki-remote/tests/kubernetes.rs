//! What is read of a cluster, from a server that answers in the API's form over mutual TLS, with
//! the kubeconfig that K3s wrote.

#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::sync::Arc;

use kubepki::edge::{Clock as _, SystemClock};
use kubepki::fleet::{Fleet, Node};
use kubepki_remote::{ApiRoute, Kubernetes, KubernetesError};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use testkit::Fixture;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

const NODES: &str = r#"{"kind":"NodeList","apiVersion":"v1","metadata":{"resourceVersion":"7"},"items":[
 {"metadata":{"name":"worker","labels":{"kubernetes.io/os":"linux"}},"spec":{"podCIDR":"10.42.1.0/24"},
  "status":{"addresses":[{"type":"Hostname","address":"worker"},{"type":"InternalIP","address":"10.0.0.2"}],
   "conditions":[{"type":"Ready","status":"Unknown"}],"nodeInfo":{"kubeletVersion":"v1.36.2+k3s1"}}},
 {"metadata":{"name":"first","labels":{"node-role.kubernetes.io/control-plane":"true"}},
  "status":{"addresses":[{"type":"InternalIP","address":"10.0.0.1"}],
   "conditions":[{"type":"MemoryPressure","status":"False"},{"type":"Ready","status":"True"}],
   "nodeInfo":{"kubeletVersion":"v1.36.3+k3s1"}}}]}"#;

const PODS: &str = r#"{"kind":"PodList","items":[{"metadata":{"name":"a","namespace":"kube-system"}},
 {"metadata":{"name":"b","namespace":"default"}},{"metadata":{"name":"c","namespace":"kube-system"}}]}"#;

const SECRETS: &str =
    r#"{"kind":"SecretList","items":[{"metadata":{"name":"ci-token","namespace":"build"}}]}"#;

const FORBIDDEN: &str = r#"{"kind":"Status","message":"secrets is forbidden","code":403}"#;

/// The fixture's API server certificate, clients under its client CA only.
fn config(fixture: &Fixture) -> ServerConfig {
    let tls = fixture.data_dir().join("server/tls");
    let chain = CertificateDer::pem_file_iter(tls.join("serving-kube-apiserver.crt")).unwrap();
    let key = PrivateKeyDer::from_pem_file(tls.join("serving-kube-apiserver.key")).unwrap();
    let mut roots = RootCertStore::empty();
    let clients = CertificateDer::pem_file_iter(tls.join("client-ca.crt")).unwrap();
    roots.add_parsable_certificates(clients.map(Result::unwrap));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone());
    ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier.build().unwrap())
        .with_single_cert(chain.map(Result::unwrap).collect(), key)
        .unwrap()
}

/// Asks for the fleet, of a server that answers to `secrets` with this.
fn fleet(secrets: (u16, &'static str)) -> Result<Fleet, KubernetesError> {
    fleet_at("127.0.0.1", secrets)
}

/// The same at an address, by both ways to ask.
fn fleet_at(address: &str, secrets: (u16, &'static str)) -> Result<Fleet, KubernetesError> {
    let fixture = testkit::fixture("k3s-1.36-sqlite");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let acceptor = TlsAcceptor::from(Arc::new(config(&fixture)));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let Ok(mut stream) = acceptor.accept(stream).await else {
                    continue;
                };
                let mut buffer = vec![0; 16 * 1024];
                while let Ok(length) = stream.read(&mut buffer).await
                    && length != 0
                {
                    let request = String::from_utf8_lossy(buffer.get(..length).unwrap());
                    let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
                    let (status, body) = match path.as_str() {
                        "/api/v1/nodes" => (200, NODES),
                        "/api/v1/pods" => (200, PODS),
                        _ => secrets,
                    };
                    let head = format!(
                        "HTTP/1.1 {status} x\r\nContent-Length: {}\r\n\r\n",
                        body.len()
                    );
                    stream.write_all((head + body).as_bytes()).await.unwrap();
                }
            }
        });
        let text = std::fs::read_to_string(fixture.admin_kubeconfig()).unwrap();
        let text = text.replace("127.0.0.1:6443", &format!("{address}:{port}"));
        assert!(text.contains(&port.to_string()));
        let (text, now) = (text.as_bytes(), SystemClock.now());
        let route = Arc::new(ApiRoute::direct());
        let by_route = Kubernetes::by_route(text, now, route)?.fleet().await;
        let seen = Kubernetes::from_kubeconfig(text, now)?.fleet().await;
        let said = |seen: &Result<Fleet, KubernetesError>| match seen {
            Ok(fleet) => format!("{fleet:?}"),
            Err(error) => error.to_string(),
        };
        assert_eq!(said(&by_route), said(&seen));
        seen
    })
}

#[test]
fn nodes_pods_and_lasting_tokens_are_counted() {
    let node = |name: &str, address: &str, is_server, version: &str| Node {
        name: name.to_owned(),
        addresses: vec![address.to_owned()],
        is_server,
        version: version.to_owned(),
        is_ready: is_server,
    };
    let mut worker = node("worker", "10.0.0.2", false, "v1.36.2+k3s1");
    worker.addresses.push("worker".to_owned());
    let expected = Fleet {
        nodes: vec![node("first", "10.0.0.1", true, "v1.36.3+k3s1"), worker],
        pods: vec![("default".to_owned(), 1), ("kube-system".to_owned(), 2)],
        lasting_tokens: vec!["build/ci-token".to_owned()],
    };
    let seen = fleet((200, SECRETS)).unwrap();
    assert_eq!(seen, expected);
    assert_eq!(seen.pod_count(), 3);
}

#[test]
fn an_answer_that_says_no_is_passed_on() {
    let error = fleet((403, FORBIDDEN)).unwrap_err().to_string();
    assert!(
        error.contains("403") && error.contains("secrets is forbidden"),
        "{error}"
    );
    let error = fleet((200, "{\"items\":3}")).unwrap_err();
    assert!(
        matches!(error, KubernetesError::Unreachable { .. }),
        "{error}"
    );
}

#[test]
fn a_server_of_another_name_is_refused() {
    let error = fleet_at("127.0.0.2", (200, SECRETS)).unwrap_err();
    assert!(
        matches!(error, KubernetesError::Unreachable { .. }),
        "{error}"
    );
}

#[test]
fn a_kubeconfig_that_leads_nowhere_is_refused() {
    for (text, words) in [
        ("{}", "has no current context"),
        (
            "current-context: a\ncontexts: [{name: a, context: {}}]",
            "names no cluster",
        ),
        (
            "current-context: a\ncontexts: [{name: a, context: {cluster: c, user: u}}]\n\
             clusters: [{name: c, cluster: {server: 'http://x'}}]\nusers: [{name: u, user: {}}]",
            "has no https:// URL",
        ),
        (
            "current-context: a\ncontexts: [{name: a, context: {cluster: c, user: u}}]\n\
             clusters: [{name: c, cluster: {server: 'https://x'}}]\nusers: [{name: u, user: {}}]",
            "does not inline certificate and key",
        ),
    ] {
        let error = Kubernetes::from_kubeconfig(text.as_bytes(), SystemClock.now()).unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
    }
}
