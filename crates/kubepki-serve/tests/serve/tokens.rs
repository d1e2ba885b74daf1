//! Tokens that were made with a record: what they allow, and every refusal.

use kubepki::edge::SystemEntropy;
use kubepki::token::made::{
    self, Entry, LONG, Made, PREFIX, RETRY, Role, SHORT, Secret, Shape, Wanted,
};
use kubepki_serve::node::Strictness::{self, K3sCompatible, Strict};

use crate::common::{Answer, NODE_PASSWORD, Running, request, runtime, serve};

const KUBELET: &str = "/v1-k3s/client-kubelet.crt";
const SERVING: &str = "/v1-k3s/serving-kubelet.crt";
const PROXY: &str = "/v1-k3s/client-kube-proxy.crt";
const CONFIG: &str = "/v1-k3s/config";
const BOOTSTRAP: &str = "/v1-k3s/server-bootstrap";
const HOUR: i64 = 3600;

/// A server, and tokens for it.
struct Lab {
    server: Running,
    runtime: tokio::runtime::Runtime,
}

/// A made token and its record's id.
struct Held {
    secret: Secret,
    text: String,
}

impl Held {
    fn of(secret: Secret) -> Self {
        let text = format!("{}.{}", secret.id(), secret.expose());
        Self { secret, text }
    }

    fn id(&self) -> &str {
        self.secret.id()
    }

    fn bearer(&self) -> String {
        format!("Authorization: Bearer {}", self.text)
    }
}

impl Lab {
    fn new(strictness: Strictness) -> Self {
        Self {
            server: serve(strictness),
            runtime: runtime(),
        }
    }

    fn wanted(&self, role: Role) -> Wanted {
        Wanted {
            role,
            shape: Shape::Pins,
            now: self.server.service.clock.now(),
            expires: Some(self.server.service.clock.now().plus(HOUR)),
            uses: None,
            node: None,
            description: None,
        }
    }

    fn make(&self, wanted: &Wanted) -> Held {
        let length = if wanted.shape == Shape::Bootstrap {
            SHORT
        } else {
            LONG
        };
        let secret = Secret::random(&SystemEntropy, length).unwrap();
        let record = Made::new(&secret, wanted);
        let store = self.server.service.datastore.as_ref();
        let created = self.runtime.block_on(made::create(store, &secret, &record));
        created.unwrap();
        Held::of(secret)
    }

    fn agent(&self, uses: Option<u32>, node: Option<&str>) -> Held {
        let node = node.map(str::to_owned);
        self.make(&Wanted {
            uses,
            node,
            ..self.wanted(Role::Agent)
        })
    }

    fn record(&self, held: &Held) -> Entry {
        let store = self.server.service.datastore.as_ref();
        let found = self.runtime.block_on(made::find(store, held.id()));
        found.unwrap().unwrap()
    }

    fn get(&self, path: &str, header: &str) -> Answer {
        self.server.curl(path, &["-H", header])
    }

    /// Asks for a certificate of a node.
    fn join(&self, header: &str, node: &str, path: &str) -> Answer {
        let name = format!("k3s-Node-Name: {node}");
        let password = format!("k3s-Node-Password: {NODE_PASSWORD}");
        let headers = ["-H", header, "-H", &name, "-H", &password];
        let more = [&headers[..], &["--data-binary", "@-"]].concat();
        self.server.curl_with(path, &more, &request())
    }

    /// Logs have said so, and never the secret.
    fn assert_said(&self, text: &str, held: &Held) {
        let said = self.server.said.lock().unwrap().join("\n");
        assert!(said.contains(text), "{text}: {said}");
        assert!(!said.contains(held.secret.expose()), "{said}");
    }
}

/// What K3s answers to a wrong password, octet for octet.
fn not_authorized(lab: &Lab) -> Answer {
    let answer = lab.server.curl(CONFIG, &["-u", "node:wrong-password"]);
    assert_eq!(answer.code, 401);
    answer
}

#[track_caller]
fn assert_is(answer: &Answer, expected: &Answer) {
    assert_eq!(answer.code, expected.code, "{}", answer.text());
    assert_eq!(answer.text(), expected.text());
}

#[test]
fn an_agents_token_joins_in_every_form_that_agents_send() {
    for strictness in [Strict, K3sCompatible] {
        let lab = Lab::new(strictness);
        for shape in [Shape::Pins, Shape::Bootstrap, Shape::K10] {
            let held = lab.make(&Wanted {
                shape,
                ..lab.wanted(Role::Agent)
            });
            assert_eq!(lab.get(CONFIG, &held.bearer()).code, 200);
            for path in [SERVING, KUBELET, PROXY] {
                let answer = lab.join(&held.bearer(), "a", path);
                assert_eq!(answer.code, 200, "{path}: {}", answer.text());
            }
            // As K3s's agents send the password of a K10 token.
            let basic = lab
                .server
                .curl(CONFIG, &["-u", &format!("node:{}", held.text)]);
            assert_eq!(basic.code, 200);
            assert_eq!(lab.get(BOOTSTRAP, &held.bearer()).code, 403);
            let said = format!(r#"("user", "system:bootstrap:{}")"#, held.id());
            lab.assert_said(&said, &held);
            lab.assert_said(r#"("credential", "bootstrap-token")"#, &held);
        }
    }
}

#[test]
fn a_servers_token_is_no_agents() {
    let lab = Lab::new(Strict);
    let held = lab.make(&lab.wanted(Role::Server));
    for path in [CONFIG, "/v1-k3s/client-ca.crt"] {
        assert_eq!(lab.get(path, &held.bearer()).code, 403);
    }
    assert_eq!(lab.join(&held.bearer(), "a", KUBELET).code, 403);
    let as_server = format!("server:{}", held.text);
    let put = ["-u", &as_server, "-X", "PUT", "--data-binary", "{}"];
    let answer = lab.server.curl("/v1-k3s/cert/cacerts", &put);
    assert_ne!((answer.code, answer.code), (401, 403), "{}", answer.text());
    // The user of the other role is a wrong one.
    let crossed = lab
        .server
        .curl(CONFIG, &["-u", &format!("node:{}", held.text)]);
    assert_eq!(crossed.code, 401);
    lab.assert_said("it came with the user of another role", &held);
}

/// What is shown, and what the log says of it.
#[test]
fn every_refusal_is_k3ss_401_and_the_log_knows_why() {
    let lab = Lab::new(Strict);
    let expected = not_authorized(&lab);
    let store = lab.server.service.datastore.as_ref();
    let now = lab.server.service.clock.now();

    let good = lab.agent(None, None);
    let unknown = Held::of(Secret::random(&SystemEntropy, LONG).unwrap());
    let other = unknown.secret.expose();
    let wrong = Held::of(Secret::parse(&format!("{}.{other}", good.id())).unwrap());
    let expired = lab.make(&Wanted {
        expires: Some(now),
        ..lab.wanted(Role::Agent)
    });
    let revoked = lab.agent(None, None);
    let taken = lab.runtime.block_on(made::revoke(store, revoked.id(), now));
    taken.unwrap();
    for (held, why) in [
        (&unknown, "no token has that id"),
        (&wrong, "its secret is wrong"),
        (&expired, "it expired at"),
        (&revoked, "it was revoked at"),
    ] {
        for path in [CONFIG, BOOTSTRAP, "/v1-k3s/client-ca.crt"] {
            assert_is(&lab.get(path, &held.bearer()), &expected);
        }
        assert_is(&lab.join(&held.bearer(), "a", KUBELET), &expected);
        lab.assert_said(why, held);
    }
    let known = lab.runtime.block_on(store.list("/kubepki/nodes/")).unwrap();
    assert!(known.is_empty(), "a refused node left its password");

    // What has not the shape of a token is not even looked up.
    for header in [
        "Bearer",
        "Bearer x",
        "Bearer abc123.short",
        "Token abc123.0123456789abcdef",
    ] {
        assert_is(
            &lab.get(CONFIG, &format!("Authorization: {header}")),
            &expected,
        );
    }
    assert_eq!(lab.get(CONFIG, &good.bearer()).code, 200);
}

#[test]
fn a_token_ends_by_the_servers_clock() {
    let lab = Lab::new(Strict);
    let (ending, lasting) = (
        lab.agent(None, None),
        lab.make(&Wanted {
            expires: None,
            ..lab.wanted(Role::Agent)
        }),
    );
    lab.server.time.to(HOUR - 5);
    assert_eq!(lab.join(&ending.bearer(), "a", KUBELET).code, 200);
    lab.server.time.to(HOUR + 5);
    assert_eq!(lab.join(&ending.bearer(), "a", KUBELET).code, 401);
    assert_eq!(lab.join(&lasting.bearer(), "a", KUBELET).code, 200);
    // A clock that goes back makes it good again: it is the only one that the server has.
    lab.server.time.to(0);
    assert_eq!(lab.join(&ending.bearer(), "a", KUBELET).code, 200);
}

#[test]
fn uses_are_nodes_and_the_last_one_may_finish() {
    for strictness in [Strict, K3sCompatible] {
        let lab = Lab::new(strictness);
        let expected = not_authorized(&lab);
        let held = lab.agent(Some(2), None);
        for path in [SERVING, KUBELET, PROXY, KUBELET] {
            assert_eq!(lab.join(&held.bearer(), "a", path).code, 200);
        }
        // Reading spends nothing, nor does a request that gets nothing.
        assert_eq!(lab.get(CONFIG, &held.bearer()).code, 200);
        let name = [
            "-H",
            "k3s-Node-Name: x",
            "-H",
            "k3s-Node-Password: 0123456789abcdef0123",
        ];
        let header = held.bearer();
        let more = [&["-H", &header][..], &name, &["--data-binary", "rubbish"]].concat();
        if strictness == Strict {
            assert_eq!(lab.server.curl(KUBELET, &more).code, 400);
        }
        assert_eq!(lab.record(&held).made.nodes.len(), 1);
        // A token for so many must know who comes, K3s's way or ours.
        let bare = ["-H", &header, "--data-binary", "@-"];
        assert_eq!(lab.server.curl_with(PROXY, &bare, &request()).code, 400);

        assert_eq!(lab.join(&held.bearer(), "b", KUBELET).code, 200);
        assert_is(&lab.join(&held.bearer(), "c", KUBELET), &expected);
        lab.assert_said("it has no uses left since", &held);
        lab.assert_said("node b, use 2 of 2", &held);
        // The last one has lost an answer.
        for path in [SERVING, KUBELET, PROXY] {
            assert_eq!(lab.join(&held.bearer(), "b", path).code, 200);
        }
        assert_eq!(lab.get(CONFIG, &held.bearer()).code, 200);
        lab.server.time.to(RETRY + 5);
        for node in ["a", "b", "c"] {
            assert_is(&lab.join(&held.bearer(), node, KUBELET), &expected);
        }
        assert_is(&lab.get(CONFIG, &held.bearer()), &expected);
        let nodes: Vec<String> = lab
            .record(&held)
            .made
            .nodes
            .into_iter()
            .map(|it| it.node)
            .collect();
        assert_eq!(nodes, ["a", "b"]);
    }
}

#[test]
fn a_token_for_one_node_is_no_other_nodes() {
    let lab = Lab::new(Strict);
    let held = lab.agent(None, Some("worker-1"));
    let answer = lab.join(&held.bearer(), "worker-2", KUBELET);
    assert_eq!(answer.code, 403);
    assert!(
        answer.text().contains("for another node"),
        "{}",
        answer.text()
    );
    assert_eq!(lab.join(&held.bearer(), "WORKER-1", KUBELET).code, 200);
    // The name alone does not make a node: its password does.
    let header = held.bearer();
    let imposter = [
        "-H",
        &header,
        "-H",
        "k3s-Node-Name: worker-1",
        "-H",
        "k3s-Node-Password: ffffffffffffffffffffffffffffffff",
        "--data-binary",
        "@-",
    ];
    assert_eq!(
        lab.server.curl_with(KUBELET, &imposter, &request()).code,
        403
    );
}

#[test]
fn a_damaged_record_lets_nobody_in() {
    let lab = Lab::new(Strict);
    let held = Held::of(Secret::random(&SystemEntropy, LONG).unwrap());
    let store = lab.server.service.datastore.as_ref();
    let key = format!("{PREFIX}{}", held.id());
    for record in [&b"{}"[..], b"", b"\xff", b"{\"version\":2}"] {
        let created = lab.runtime.block_on(store.create(&key, record)).unwrap();
        assert_eq!(lab.get(CONFIG, &held.bearer()).code, 500);
        lab.assert_said("a token could not be checked", &held);
        lab.runtime.block_on(store.delete(&key, created)).unwrap();
    }
}

#[test]
fn who_guesses_waits() {
    let lab = Lab::new(Strict);
    let good = lab.agent(None, None);
    let mut codes = Vec::new();
    for number in 0..80 {
        let guess = format!("Authorization: Bearer {}.{number:032}", good.id());
        codes.push(lab.get(CONFIG, &guess).code);
    }
    assert_eq!(codes[0], 401);
    assert_eq!(codes[79], 429, "{codes:?}");
    // Not even the right one is looked at before time has passed.
    assert_eq!(lab.get(CONFIG, &good.bearer()).code, 429);
    lab.server.time.to(60);
    assert_eq!(lab.get(CONFIG, &good.bearer()).code, 200);
}

/// However many guess at once, the datastore is asked for as many as the throttle lets through;
/// whoever comes with one that was right is not held up by them.
#[test]
fn guesses_cost_the_datastore_no_more_than_the_throttle_allows() {
    use std::sync::atomic::Ordering;

    use kubepki_serve::node::NodeHeaders;
    use kubepki_serve::service::Request;
    use kubepki_serve::throttle::BURST;

    let lab = Lab::new(Strict);
    let good = lab.agent(None, None);
    assert_eq!(lab.get(CONFIG, &good.bearer()).code, 200);
    let service = &lab.server.service;
    let asked = |header: &str| {
        let header = header.as_bytes().to_vec();
        async move {
            let request = Request {
                peer: "127.0.0.1:1".parse().unwrap(),
                method: "GET",
                path: CONFIG,
                query: None,
                is_form: false,
                authorization: Some(&header),
                certificates: &[],
                node: NodeHeaders::default(),
                body: Default::default(),
            };
            let admitted = service.admit(&request).await;
            service.answer(&request, admitted).await.code
        }
    };
    let before = lab.server.reads.load(Ordering::SeqCst);
    let codes = lab.runtime.block_on(async {
        let guesses = (0..500).map(|number| asked(&format!("Bearer {}.{number:032}", good.id())));
        let mut guesses: Vec<_> = guesses.map(Box::pin).collect();
        // Every one has begun before the first is answered.
        let mut codes = vec![None; guesses.len()];
        std::future::poll_fn(|context| {
            for (guess, code) in guesses.iter_mut().zip(&mut codes) {
                if code.is_none()
                    && let std::task::Poll::Ready(done) = guess.as_mut().poll(context)
                {
                    *code = Some(done);
                }
            }
            match codes.iter().all(Option::is_some) {
                true => std::task::Poll::Ready(()),
                false => std::task::Poll::Pending,
            }
        })
        .await;
        codes
    });
    let of = |code| codes.iter().filter(|it| **it == Some(code)).count();
    let burst = usize::try_from(BURST).unwrap();
    assert_eq!((of(401), of(429)), (burst, 500 - burst));
    let reads = lab.server.reads.load(Ordering::SeqCst) - before;
    assert_eq!(reads, burst);
    // What was wrong is forgotten by and by; what was right costs nothing of that.
    lab.server.time.to(60);
    let many: Vec<u16> = (0..200)
        .map(|_| {
            lab.runtime
                .block_on(asked(&format!("Bearer {}", good.text)))
        })
        .collect();
    assert!(many.iter().all(|code| *code == 200), "{many:?}");
}
