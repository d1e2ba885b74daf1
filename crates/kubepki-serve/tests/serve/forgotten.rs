//! What a forgotten node had renews nothing, whatever it did while it was being forgotten.

use std::net::SocketAddr;

use kubepki_serve::forgotten::{PREFIX, SKEW, forget};
use kubepki_serve::node::{NodeHeaders, Strictness};
use kubepki_serve::service::Request;
use pki::Certificate;
use zeroize::Zeroizing;

use crate::common::{NODE_PASSWORD, PASSWORD, Running, request, runtime, serve};

const KUBELET: &str = "/v1-k3s/client-kubelet.crt";

/// The answer's code, and the leaf of its body, for a kubelet that shows `held`, or the agents'
/// token.
fn ask(server: &Running, held: Option<&Certificate>) -> (u16, Option<Certificate>) {
    let token = crate::noise::basic("node", PASSWORD);
    let shown: Vec<Vec<u8>> = held.iter().map(|it| it.der().to_vec()).collect();
    let asked = Request {
        peer: "10.77.0.99:1000".parse::<SocketAddr>().unwrap(),
        method: "POST",
        path: KUBELET,
        query: None,
        is_form: false,
        authorization: held.is_none().then_some(token.as_slice()),
        certificates: &shown,
        node: NodeHeaders {
            name: Some("a".to_owned()),
            password: Some(Zeroizing::new(NODE_PASSWORD.to_owned())),
            addresses: None,
        },
        body: Zeroizing::new(request()),
    };
    let answer = runtime().block_on(async {
        let admitted = server.service.admit(&asked).await;
        server.service.answer(&asked, admitted).await
    });
    let leaf = Certificate::all_from_pem(&answer.body);
    (answer.code, leaf.ok().map(|mut all| all.remove(0)))
}

#[track_caller]
fn gets(server: &Running, held: Option<&Certificate>) -> Certificate {
    let (code, leaf) = ask(server, held);
    assert_eq!(code, 200);
    leaf.unwrap()
}

#[test]
fn what_is_renewed_upon_an_earlier_look_is_as_old_as_that() {
    let server = serve(Strictness::Strict);
    let first = gets(&server, None);
    server.time.to(10);
    let second = gets(&server, Some(&first));
    // It is forgotten in the very second in which it was looked at. The next second the server
    // has not looked again.
    let at = server.service.clock.now().as_secs();
    let record = format!(r#"{{"version":1,"at":{at}}}"#);
    let store = server.service.datastore.as_ref();
    let key = format!("{PREFIX}a");
    let written = store.create(&key, record.as_bytes());
    runtime().block_on(written).unwrap();
    server.time.to(11);
    let third = gets(&server, Some(&second));
    for time in [12, 20, 90_000] {
        server.time.to(time);
        for held in [&first, &second, &third] {
            assert_eq!(ask(&server, Some(held)).0, 401, "{time}");
        }
    }
    // Whoever has the token comes anew, and renews.
    let anew = gets(&server, None);
    gets(&server, Some(&anew));
}

#[test]
fn a_server_whose_clock_is_ahead_lets_nothing_through() {
    let server = serve(Strictness::Strict);
    let now = server.service.clock.now();
    server.time.to(SKEW);
    let ahead = gets(&server, None);
    server.time.to(0);
    let store = server.service.datastore.as_ref();
    let forgot = runtime().block_on(forget(store, "a", server.time.as_ref()));
    let forgot = forgot.unwrap();
    assert!(forgot.known);
    assert_eq!(forgot.until, now.plus(SKEW));
    server.time.to(10);
    assert_eq!(ask(&server, Some(&ahead)).0, 401);
    let anew = gets(&server, None);
    gets(&server, Some(&anew));
    let again = runtime().block_on(forget(store, "a", server.time.as_ref()));
    assert_eq!(again.unwrap().until, now.plus(10 + SKEW));
    server.time.to(20);
    assert_eq!(ask(&server, Some(&anew)).0, 401);
}
