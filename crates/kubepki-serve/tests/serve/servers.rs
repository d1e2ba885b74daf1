//! Servers' names: whoever has them in a certificate could pass for the API server.

use std::net::SocketAddr;

use kubepki::datastore::Datastore as _;
use kubepki_serve::cluster::Member;
use kubepki_serve::node::{NodeHeaders, Strictness};
use kubepki_serve::service::Request;
use zeroize::Zeroizing;

use crate::common::{HOST, NODE_PASSWORD, PASSWORD, Running, request, runtime, serve, store};

const ELSEWHERE: &str = "10.77.0.99:1000";

/// The code and words of what `peer` gets who asks as `node` with that user's token.
fn asked(server: &Running, user: &str, node: &str, peer: &str, path: &str) -> (u16, String) {
    let authorization = crate::noise::basic(user, PASSWORD);
    let asked = Request {
        peer: peer.parse::<SocketAddr>().unwrap(),
        method: "POST",
        path,
        query: None,
        is_form: false,
        authorization: Some(&authorization),
        certificates: &[],
        node: NodeHeaders {
            name: Some(node.to_owned()),
            password: Some(Zeroizing::new(NODE_PASSWORD.to_owned())),
            addresses: None,
        },
        body: Zeroizing::new(request()),
    };
    let answer = runtime().block_on(async {
        let admitted = server.service.admit(&asked).await;
        server.service.answer(&asked, admitted).await
    });
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    (answer.code, text)
}

#[test]
fn a_servers_name_is_for_the_server_alone() {
    let server = serve(Strictness::Strict);
    let home = format!("{HOST}:1000");
    server.service.names.arrived(HOST.parse().unwrap());
    for path in ["/v1-k3s/serving-kubelet.crt", "/v1-k3s/client-kubelet.crt"] {
        let (code, said) = asked(&server, "node", "S1", ELSEWHERE, path);
        assert_eq!(code, 403, "{said}");
        assert!(said.contains("only the server itself"), "{said}");
        assert_eq!(asked(&server, "node", "s1", &home, path).0, 200);
        assert_eq!(asked(&server, "node", "other", ELSEWHERE, path).0, 200);
    }
    let careless = serve(Strictness::K3sCompatible);
    let path = "/v1-k3s/serving-kubelet.crt";
    assert_eq!(asked(&careless, "node", "s1", ELSEWHERE, path).0, 200);
}

#[test]
fn so_is_another_servers() {
    let server = serve(Strictness::Strict);
    let other = Member {
        version: 1,
        node: "s2".to_owned(),
        address: "10.77.0.12:6443".parse().unwrap(),
        sans: ["10.77.0.12", "LB.example", "*.k8s.example", "10.77.0.200"]
            .map(str::to_owned)
            .into(),
        local: vec!["10.77.0.12".to_owned()],
        heard: server.service.clock.now().as_secs(),
        stopped: false,
        life: None,
    };
    runtime().block_on(async {
        let store = store(&server.fixture.data_dir().join("server")).await;
        let record = serde_json::to_vec(&other).unwrap();
        store.create("/kubepki/servers/s2", &record).await.unwrap();
        let now = server.service.clock.now();
        let cluster = &server.service.cluster;
        cluster.look_around(&store, "s1", now).await.unwrap();
    });
    let path = "/v1-k3s/serving-kubelet.crt";
    for name in ["s2", "lb.example", "LB.example", "w.k8s.example"] {
        let (code, said) = asked(&server, "node", name, ELSEWHERE, path);
        assert_eq!(code, 403, "{name}: {said}");
    }
    // Everybody comes from the load balancer, whose address is among the server's.
    let (code, said) = asked(&server, "node", "s2", "10.77.0.200:1", path);
    assert_eq!(code, 403, "{said}");
    assert_eq!(asked(&server, "node", "s2", "10.77.0.12:1", path).0, 200);
}

/// Who comes through a load balancer or a NAT has its address, whoever he is: that it is among the
/// server's names makes him no server.
#[test]
fn the_address_of_a_load_balancer_is_nobodys_home() {
    let server = serve(Strictness::Strict);
    let path = "/v1-k3s/serving-kubelet.crt";
    // Among the names, and told to agents; no connection ever arrived there.
    let balancer = format!("{HOST}:1000");
    let (code, said) = asked(&server, "node", "s1", &balancer, path);
    assert_eq!(code, 403, "{said}");
    assert_eq!(asked(&server, "node", "s1", "127.0.0.1:1", path).0, 200);
    assert_eq!(asked(&server, "node", "worker", &balancer, path).0, 200);
}

/// Where agents reach the server is learnt from connections: no other node gets it.
#[test]
fn so_is_an_address_at_which_it_is_reached() {
    let server = serve(Strictness::Strict);
    let path = "/v1-k3s/serving-kubelet.crt";
    let ask = |node: &str, address: &str| {
        let name = format!("k3s-Node-Name: {node}");
        let password = format!("k3s-Node-Password: {NODE_PASSWORD}");
        let address = format!("k3s-Node-IP: {address}");
        let user = format!("node:{PASSWORD}");
        let headers = ["-u", &user, "-H", &name, "-H", &password, "-H", &address];
        let body = ["-H", "Content-Type:", "--data-binary", "@-"];
        server.curl_with(path, &[&headers[..], &body].concat(), &request())
    };
    let (new, other) = ("10.77.0.50", "10.77.0.51");
    assert_eq!(ask("a", new).code, 200);
    server.service.names.arrived(new.parse().unwrap());
    for asked in [new.to_owned(), format!("{other},{new}")] {
        let answer = ask("a", &asked);
        assert_eq!(answer.code, 403, "{}", answer.text());
        assert!(answer.text().contains("belongs to the servers"));
    }
    let named = asked(&server, "node", new, ELSEWHERE, path);
    assert_eq!(named.0, 403, "{}", named.1);
    assert_eq!(ask("a", other).code, 200);
    // The server's own kubelet may, and may come from there.
    assert_eq!(ask("s1", new).code, 200);
    let from = format!("{new}:1000");
    assert_eq!(asked(&server, "node", "s1", &from, path).0, 200);
}
