//! Who is let in while things change: CAs and passwords that were replaced, nodes that K3s knew or
//! that were forgotten, tokens of one use.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use kubepki::token::made;
use kubepki_serve::cluster::{Control, Undone};
use kubepki_serve::forgotten::forget;
use kubepki_serve::node::{NodeHeaders, Strictness};
use kubepki_serve::password::PREFIX as NODES;
use kubepki_serve::renewal::reload;
use kubepki_serve::service::{Loaded, Request, Service};
use pki::Certificate;
use testkit::Fixture;
use testkit::kube::{KubeSecret, aes_cbc};
use tokio::runtime::Runtime;
use zeroize::Zeroizing;

use crate::common::{NODE_PASSWORD, PASSWORD, Running, request, runtime, serve};
use crate::noise::basic;

pub const KUBELET: &str = "/v1-k3s/client-kubelet.crt";
pub const TOKEN: &str = "/v1-k3s/token";
/// An address from which many come.
const SITE: &str = "192.0.2.7:1000";

pub struct Lab {
    pub server: Running,
    runtime: Runtime,
}

/// One caller.
#[derive(Clone, Default)]
pub struct Caller {
    authorization: Option<Vec<u8>>,
    certificates: Vec<Vec<u8>>,
    node: Option<String>,
    password: Option<String>,
    body: Vec<u8>,
}

impl Caller {
    pub fn with(user: &str, password: &str) -> Self {
        Self {
            authorization: Some(basic(user, password)),
            ..Self::default()
        }
    }

    pub fn bearer(token: &str) -> Self {
        Self {
            authorization: Some(format!("Bearer {token}").into_bytes()),
            ..Self::default()
        }
    }

    pub fn by(leaf: &Certificate) -> Self {
        Self {
            certificates: vec![leaf.der().to_vec()],
            ..Self::default()
        }
    }

    /// Sends that body.
    pub fn says(self, body: &[u8]) -> Self {
        let body = body.to_vec();
        Self { body, ..self }
    }

    /// Asks for a node's certificate.
    pub fn node(self, name: &str, password: &str) -> Self {
        Self {
            node: Some(name.to_owned()),
            password: Some(password.to_owned()),
            body: request(),
            ..self
        }
    }

    fn request<'a>(&'a self, method: &'a str, path: &'a str) -> Request<'a> {
        Request {
            peer: SITE.parse::<SocketAddr>().unwrap(),
            method,
            path,
            query: None,
            is_form: false,
            authorization: self.authorization.as_deref(),
            certificates: &self.certificates,
            node: NodeHeaders {
                name: self.node.clone(),
                password: self.password.clone().map(Zeroizing::new),
                addresses: None,
            },
            body: Zeroizing::new(self.body.clone()),
        }
    }
}

impl Lab {
    pub fn new(server: Running) -> Self {
        let runtime = runtime();
        Self { server, runtime }
    }

    pub fn service(&self) -> &Service {
        &self.server.service
    }

    /// What the caller gets; `meanwhile` happens after it was admitted.
    pub fn ask_while(
        &self,
        (method, path): (&str, &str),
        caller: &Caller,
        meanwhile: impl FnOnce(),
    ) -> (u16, String) {
        let asked = caller.request(method, path);
        let answer = self.runtime.block_on(async {
            let admitted = self.service().admit(&asked).await;
            meanwhile();
            self.service().answer(&asked, admitted).await
        });
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        (answer.code, text)
    }

    pub fn ask(&self, path: &str, caller: &Caller) -> (u16, String) {
        let method = if path == KUBELET { "POST" } else { "GET" };
        self.ask_while((method, path), caller, || ())
    }

    pub fn code(&self, path: &str, caller: &Caller) -> u16 {
        self.ask(path, caller).0
    }

    pub fn leaf(&self, caller: &Caller) -> Certificate {
        let (code, text) = self.ask(KUBELET, caller);
        assert_eq!(code, 200, "{text}");
        Certificate::all_from_pem(text.as_bytes())
            .unwrap()
            .remove(0)
    }

    fn put(&self, key: &str, value: &[u8]) -> i64 {
        let store = self.service().datastore.as_ref();
        self.runtime.block_on(store.create(key, value)).unwrap()
    }

    pub fn remove(&self, key: &str) {
        let store = self.service().datastore.as_ref();
        let removed = self.runtime.block_on(async {
            let present = store.get(key).await.unwrap().unwrap();
            store.delete(key, present.revision).await
        });
        removed.unwrap();
    }

    pub fn has_record(&self, node: &str) -> bool {
        let store = self.service().datastore.as_ref();
        let key = format!("{NODES}{node}");
        let found = self.runtime.block_on(store.get(&key));
        found.unwrap().is_some()
    }

    pub fn said(&self, text: &str) -> usize {
        let said = self.server.said.lock().unwrap();
        said.iter().filter(|line| line.contains(text)).count()
    }

    pub fn metric(&self, begin: &str) -> String {
        let (_, text) = self.ask("/metrics", &Caller::default());
        let line = text.lines().find(|it| it.starts_with(begin));
        line.unwrap().to_owned()
    }
}

/// Other passwords are in force.
pub fn replace_passwords(service: &Service) {
    let path = server_folder(service).join("cred/passwd");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace(PASSWORD, "another-password")).unwrap();
    assert!(reload(service).unwrap());
}

/// Another client CA is in force: another cluster's.
pub fn replace_authority(service: &Service) {
    let other = Fixture::without_datastore("k3s-1.36-custom-ca");
    for name in ["client-ca.crt", "client-ca.key"] {
        let from = other.data_dir().join("server/tls").join(name);
        let to = server_folder(service).join("tls").join(name);
        std::fs::write(to, std::fs::read(from).unwrap()).unwrap();
    }
    assert!(reload(service).unwrap());
}

fn server_folder(service: &Service) -> PathBuf {
    service.loaded().unwrap().tree.directory.clone()
}

#[test]
fn who_was_admitted_by_a_password_of_before_gets_nothing() {
    let lab = Lab::new(serve(Strictness::Strict));
    let agent = Caller::with("node", PASSWORD).node("a", NODE_PASSWORD);
    assert_eq!(lab.code(KUBELET, &agent), 200);
    let slow = lab.ask_while(("POST", KUBELET), &agent, || {
        replace_passwords(lab.service());
    });
    assert_eq!(slow.0, 401, "{}", slow.1);
    assert!(!slow.1.contains("CERTIFICATE"));
    assert_eq!(lab.said("\"issued\""), 1);
    // Who shows the new one has lost nothing.
    let agent = Caller::with("node", "another-password").node("a", NODE_PASSWORD);
    assert_eq!(lab.code(KUBELET, &agent), 200);
}

#[test]
fn who_was_admitted_by_a_ca_of_before_gets_nothing() {
    let lab = Lab::new(serve(Strictness::Strict));
    let agent = Caller::with("node", PASSWORD).node("a", NODE_PASSWORD);
    let leaf = lab.leaf(&agent);
    let kubelet = Caller::by(&leaf).node("a", NODE_PASSWORD);
    assert_eq!(lab.code(KUBELET, &kubelet), 200);
    let slow = lab.ask_while(("POST", KUBELET), &kubelet, || {
        replace_authority(lab.service());
    });
    assert_eq!(slow.0, 401, "{}", slow.1);
    assert_eq!(lab.said("\"issued\""), 2);
    // The agents' token is as good as before, also for whoever began under the former CA.
    let renewed = lab.leaf(&agent);
    let kubelet = Caller::by(&renewed).node("a", NODE_PASSWORD);
    assert_eq!(lab.code(KUBELET, &kubelet), 200);
}

/// Counts orders; each is overtaken unless its caller is of what is in force.
pub struct Orders {
    service: std::sync::Weak<Service>,
    pub done: AtomicUsize,
}

impl Orders {
    /// Those that the server of `lab` carries out.
    pub fn of(lab: &Lab) -> Arc<Self> {
        let orders = Arc::new(Self {
            service: Arc::downgrade(&lab.server.service),
            done: AtomicUsize::new(0),
        });
        lab.service().cluster.controlled_by(orders.clone());
        orders
    }
}

#[async_trait::async_trait]
impl Control for Orders {
    async fn put_authorities(
        &self,
        _body: Zeroizing<Vec<u8>>,
        _force: bool,
        admitted: &Arc<Loaded>,
    ) -> Result<(), Undone> {
        self.put_token(Zeroizing::default(), admitted).await
    }

    async fn put_token(
        &self,
        _new: Zeroizing<String>,
        admitted: &Arc<Loaded>,
    ) -> Result<(), Undone> {
        let service = self.service.upgrade().unwrap();
        if !Arc::ptr_eq(&service.loaded().unwrap(), admitted) {
            return Err(Undone::Overtaken);
        }
        self.done.fetch_add(1, Ordering::SeqCst);
        // From here on another password is in force.
        replace_passwords(&service);
        Ok(())
    }
}

#[test]
fn who_was_admitted_by_a_password_of_before_orders_nothing() {
    let lab = Lab::new(serve(Strictness::Strict));
    let orders = Orders::of(&lab);
    let server = Caller::with("server", PASSWORD).says(br#"{"newToken":""}"#);
    // While the second one's body is read the first one's order is carried out.
    let slow = lab.ask_while(("PUT", TOKEN), &server, || {
        let (service, other) = (lab.service(), server.request("PUT", TOKEN));
        let other = &other;
        std::thread::scope(|scope| {
            let ordered = scope.spawn(move || {
                runtime().block_on(async {
                    let admitted = service.admit(other).await;
                    service.answer(other, admitted).await.code
                })
            });
            assert_eq!(ordered.join().unwrap(), 200);
        });
    });
    assert_eq!(slow.0, 401, "{}", slow.1);
    assert_eq!(orders.done.load(Ordering::SeqCst), 1);
}

/// The password `nodepass`, as K3s hashes it (reference section 5.8).
const HASH: &str = "$1:0011223344556677:15:8:1:Vjp30ZvY2GxNnMhwo9BZ+xFojekXCeIv+B5D4OMP/\
                    FmdF8c7+26wGpiLpCdyHX27kkGwS/H1fFGkAqvwmukklg";

#[test]
fn what_k3s_knew_of_a_node_holds() {
    let lab = Lab::new(serve(Strictness::Strict));
    let agent = Caller::with("node", PASSWORD);
    let secret = KubeSecret::node_password("worker-1", HASH);
    lab.put(&secret.key(), &secret.protobuf());
    let thief = agent.clone().node("worker-1", NODE_PASSWORD);
    let (code, text) = lab.ask(KUBELET, &thief);
    assert_eq!(code, 403, "{text}");
    assert!(text.contains("unable to verify password for node worker-1"));
    assert!(!lab.has_record("worker-1"));
    let own = agent.clone().node("Worker-1", "nodepass");
    assert_eq!(lab.code(KUBELET, &own), 200);
    // From then on it has a record here.
    assert!(lab.has_record("worker-1"));
    assert_eq!(lab.code(KUBELET, &thief), 403);
    // What cannot be read proves nothing for anybody, and says so.
    let closed = KubeSecret::node_password("worker-2", HASH);
    let sealed = aes_cbc(&closed.protobuf(), "elsewhere", &[9; 32]);
    lab.put(&closed.key(), &sealed);
    let odd = KubeSecret::node_password("worker-3", "$2:00:AA");
    lab.put(&odd.key(), &odd.json());
    for node in ["worker-2", "worker-3"] {
        let own = agent.clone().node(node, "nodepass");
        assert_eq!(lab.code(KUBELET, &own), 503, "{node}");
        assert!(!lab.has_record(node));
        assert_eq!(
            lab.said(&format!("kube-system/{node}.node-password.k3s")),
            1
        );
    }
    // Once it is forgotten, the name is free.
    let store = lab.service().datastore.as_ref();
    let forgot = lab
        .runtime
        .block_on(forget(store, "worker-2", lab.server.time.as_ref()));
    forgot.unwrap();
    let new = agent.clone().node("worker-2", NODE_PASSWORD);
    assert_eq!(lab.code(KUBELET, &new), 200);
}

#[test]
fn a_forgotten_node_does_not_take_its_name_again_by_what_it_has() {
    let lab = Lab::new(serve(Strictness::Strict));
    let agent = Caller::with("node", PASSWORD).node("a", NODE_PASSWORD);
    let leaf = lab.leaf(&agent);
    lab.server.time.to(10);
    // By its certificate alone: that it is not forgotten is known for two seconds.
    let bare = Caller::by(&leaf).says(&request());
    assert_eq!(lab.code(KUBELET, &bare), 200);
    let store = lab.service().datastore.as_ref();
    let forgot = lab
        .runtime
        .block_on(forget(store, "a", lab.server.time.as_ref()));
    assert!(forgot.unwrap().known);
    lab.server.time.to(11);
    let again = Caller::by(&leaf).node("a", NODE_PASSWORD);
    assert_eq!(lab.code(KUBELET, &again), 401);
    assert!(!lab.has_record("a"));
    // The machine that was set up anew has the name.
    let other = NODE_PASSWORD.replace('0', "f");
    let anew = Caller::with("node", PASSWORD).node("a", &other);
    assert_eq!(lab.code(KUBELET, &anew), 200);
}

pub fn made_token(lab: &Lab, uses: Option<u32>) -> String {
    let now = lab.service().clock.now();
    let wanted = made::Wanted {
        role: made::Role::Agent,
        shape: made::Shape::Pins,
        now,
        expires: Some(now.plus(3600)),
        uses,
        node: None,
        description: None,
    };
    let entropy = kubepki::edge::SystemEntropy;
    let secret = made::Secret::random(&entropy, made::LONG).unwrap();
    let record = made::Made::new(&secret, &wanted);
    let store = lab.service().datastore.as_ref();
    let created = lab.runtime.block_on(made::create(store, &secret, &record));
    created.unwrap();
    format!("{}.{}", secret.id(), secret.expose())
}

#[test]
fn a_token_with_one_use_takes_one_name() {
    let lab = Lab::new(serve(Strictness::Strict));
    let token = made_token(&lab, Some(1));
    let node = |name: &str| Caller::bearer(&token).node(name, NODE_PASSWORD);
    // What cannot be issued takes no name and spends nothing.
    for name in ["a", "b", "c"] {
        let bad = node(name).says(b"no request");
        assert_eq!(lab.code(KUBELET, &bad), 400);
        assert!(!lab.has_record(name), "{name}");
    }
    // All are permitted before one is let in.
    let callers: Vec<Caller> = (0..8).map(|it| node(&format!("n{it}"))).collect();
    let service = lab.service();
    let codes = lab.runtime.block_on(async {
        let mut admitted = Vec::new();
        for caller in &callers {
            admitted.push(service.admit(&caller.request("POST", KUBELET)).await);
        }
        let mut codes = Vec::new();
        for (caller, admitted) in callers.iter().zip(admitted) {
            let asked = caller.request("POST", KUBELET);
            codes.push(service.answer(&asked, admitted).await.code);
        }
        codes
    });
    assert_eq!(codes[0], 200, "{codes:?}");
    assert!(codes[1..].iter().all(|code| *code == 401), "{codes:?}");
    let names = (0..8).filter(|it| lab.has_record(&format!("n{it}")));
    assert_eq!(names.collect::<Vec<_>>(), [0]);
}
