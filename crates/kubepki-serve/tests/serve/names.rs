//! What the listener's certificate learns from connections, and what not.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kubepki::listener::Listener;
use kubepki::state::StateDir;
use kubepki_serve::accept::Limits;
use kubepki_serve::names::{Filter, MOST, Names, PAUSE, SHARED};
use kubepki_serve::node::Strictness;
use pki::{Certificate, San};
use testkit::openssl;
use tokio::sync::watch;

use crate::common::{Running, runtime, serve_at, settings};

/// An address of this machine that is in no certificate.
const HOME: &str = "127.0.0.7";

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A server that learns names, until it is dropped.
struct Lab {
    server: Running,
    stop: watch::Sender<bool>,
    /// Held while a plan is carried out.
    turn: Arc<tokio::sync::Mutex<()>>,
    /// Where somebody else's lie.
    plans: StateDir,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = self.stop.send(true);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Lab {
    fn new(is_secure: bool) -> Self {
        let server = serve_at(
            HOME,
            testkit::Fixture::new("k3s-1.36-sqlite"),
            Strictness::Strict,
            Limits {
                // A connection stays open for as long as is waited for anything else.
                headers: 2 * PATIENCE,
                idle: 2 * PATIENCE,
                ..Limits::default()
            },
        );
        let (stop, stopped) = watch::channel(false);
        let (service, listened) = (Arc::clone(&server.service), Arc::clone(&server.listened));
        service.names.shows(&served(&server));
        let services = settings().service_cidrs;
        let filter = Filter {
            is_secure,
            services,
        };
        service.names.begin(filter, &settings().sans);
        let turn: Arc<tokio::sync::Mutex<()>> = Arc::default();
        let plans = StateDir::of_data_dir(&server.fixture.data_dir());
        let held = (Arc::clone(&turn), vec![plans.clone()]);
        let thread = std::thread::spawn(move || {
            let runtime = runtime();
            runtime.block_on(service.learns(listened, held, stopped));
        });
        Self {
            server,
            stop,
            turn,
            plans,
            thread: Some(thread),
        }
    }

    /// What OpenSSL says of a handshake.
    fn handshake(&self, more: &[&str]) -> String {
        let connect = self.server.address.to_string();
        let authority = self.server.tls_file("server-ca.crt").display().to_string();
        let fixed = ["s_client", "-connect", &connect, "-CAfile", &authority];
        openssl(&[&fixed[..], &["-verify_return_error"], more].concat(), b"").text()
    }

    /// Shakes hands until all is well: a connection waits for its name, but not for long.
    #[track_caller]
    fn assert_fine(&self, more: &[&str]) {
        let begin = Instant::now();
        loop {
            let seen = self.handshake(more);
            if seen.contains("Verify return code: 0 (ok)") {
                return;
            }
            assert!(begin.elapsed() < PATIENCE, "{seen}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn file(&self) -> Vec<u8> {
        std::fs::read(self.server.tls_file("dynamic-cert.json")).unwrap()
    }

    fn names(&self) -> Vec<String> {
        Listener::parse(&self.file()).unwrap().sans
    }

    #[track_caller]
    fn until(&self, is_so: impl Fn(&[String]) -> bool) {
        let begin = Instant::now();
        while !is_so(&self.names()) {
            assert!(begin.elapsed() < PATIENCE, "{:?}", self.names());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn said(&self, text: &str) -> usize {
        let said = self.server.said.lock().unwrap();
        said.iter().filter(|line| line.contains(text)).count()
    }
}

/// What a handshake shows that says no name, before anything is learnt.
fn served(server: &Running) -> Certificate {
    let bytes = std::fs::read(server.tls_file("dynamic-cert.json")).unwrap();
    let listener = Listener::parse(&bytes).unwrap();
    listener.certificates().unwrap().remove(0)
}

/// Says that a request is for `hosts`, one after the other on one connection.
fn ask_for(stream: &mut impl ReadWrite, hosts: impl Iterator<Item = String>, agent: &str) {
    for host in hosts {
        let text = format!("GET /ping HTTP/1.1\r\nHost: {host}\r\nUser-Agent: {agent}\r\n\r\n");
        stream.write_all(text.as_bytes()).unwrap();
        let mut answer = [0; 512];
        let read = stream.read(&mut answer).unwrap();
        let answer = String::from_utf8_lossy(&answer[..read]).into_owned();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}

trait ReadWrite: std::io::Read + std::io::Write {}
impl<T: std::io::Read + std::io::Write> ReadWrite for T {}

#[test]
fn the_first_connection_to_a_new_address_gets_it() {
    let lab = Lab::new(false);
    let before = Listener::parse(&lab.file()).unwrap();
    assert!(!before.sans.contains(&HOME.to_owned()));
    lab.assert_fine(&["-verify_ip", HOME]);
    let after = Listener::parse(&lab.file()).unwrap();
    assert!(after.sans.contains(&HOME.to_owned()), "{:?}", after.sans);
    assert!(before.sans.iter().all(|it| after.sans.contains(it)));
    assert!(after.key == before.key && after.certificate != before.certificate);
    assert_eq!(lab.said("another certificate"), 1);
}

#[test]
fn strangers_add_nothing() {
    let lab = Lab::new(true);
    let file = lab.file();
    let mut open = crate::hostile::connect(&lab.server);
    for name in ["stranger.example", "localhost.stranger.example", "s1.lan"] {
        lab.assert_fine(&["-servername", name]);
        lab.assert_fine(&["-servername", name]);
    }
    ask_for(&mut open, ["192.0.2.7".to_owned()].into_iter(), "Go-http");
    assert!(lab.file() == file);
    // Three names, and an address of loopback.
    assert_eq!(lab.said("did not learn a name"), 4);
    assert_eq!(lab.said("another certificate"), 0);
}

#[test]
fn without_the_filter_what_clients_say_is_learnt_up_to_a_limit() {
    let lab = Lab::new(false);
    let begin = Instant::now();
    let mut stays = crate::hostile::connect(&lab.server);
    let name = "LB.Example.net";
    lab.assert_fine(&["-servername", name, "-verify_hostname", "lb.example.net"]);
    ask_for(&mut stays, ["192.0.2.7:6443".to_owned()].into_iter(), "Go");
    lab.until(|names| names.contains(&"192.0.2.7".to_owned()));
    lab.assert_fine(&["-verify_ip", "192.0.2.7"]);
    // Browsers say what K3s does not learn; names in requests, and what no machine has, are
    // passed over.
    let browsers = ["192.0.2.8".to_owned()].into_iter();
    ask_for(&mut stays, browsers, "Mozilla/5.0 (X11)");
    let odd = [
        "host.example",
        "0.0.0.0",
        "224.0.0.1",
        "[::]:1",
        "[fe80::1]",
        "*",
    ];
    ask_for(&mut stays, odd.map(str::to_owned).into_iter(), "Go");
    // Names that somebody makes up end somewhere, and so does signing.
    let many = (0..400).map(|it| format!("[2001:db8::{it:x}]:6443"));
    ask_for(&mut stays, many, "Go");
    lab.until(|names| names.len() == MOST);
    lab.handshake(&["-servername", "one-more.example"]);
    let names = lab.names();
    assert_eq!(names.len(), MOST);
    for absent in ["192.0.2.8", "host.example", "one-more.example", "0.0.0.0"] {
        assert!(!names.contains(&absent.to_owned()), "{names:?}");
    }
    let signed = lab.said("another certificate");
    let most = u64::try_from(signed).unwrap() <= begin.elapsed().as_secs() / PAUSE.as_secs() + 3;
    assert!(most, "{signed}");
    assert!(lab.said("did not learn a name") <= 64);
    lab.assert_fine(&["-verify_hostname", "lb.example.net"]);
    // Open connections went through all that.
    ask_for(&mut stays, ["x".to_owned()].into_iter(), "Go");
}

#[test]
fn a_static_certificate_is_never_changed() {
    let lab = Lab::new(false);
    let path = lab.server.tls_file("dynamic-cert.json");
    let text = String::from_utf8(lab.file()).unwrap();
    let marked = r#""annotations":{"listener.cattle.io/static":"true","#;
    let marked = text.replacen(r#""annotations":{"#, marked, 1);
    assert_ne!(marked, text);
    std::fs::write(&path, &marked).unwrap();
    lab.handshake(&["-servername", "lb.example.net"]);
    lab.handshake(&["-servername", "lb.example.net"]);
    assert!(lab.file() == marked.as_bytes());
    assert_eq!(lab.said("stays as it is"), 0);
}

#[test]
fn servers_share_what_they_learnt() {
    let lab = Lab::new(false);
    lab.assert_fine(&["-verify_ip", HOME]);
    let store = lab.server.service.datastore.as_ref();
    let runtime = runtime();
    let own = &lab.server.service.names;
    assert!(!runtime.block_on(own.share(store)).unwrap());
    let record = || runtime.block_on(store.get(SHARED)).unwrap().unwrap();
    let first = record();
    assert!(String::from_utf8_lossy(&first.value).contains(HOME));
    // Another server takes it up, and what both have is not written again.
    let other = Names::default();
    assert!(runtime.block_on(other.share(store)).unwrap());
    assert!(other.learnt().contains(&San::from_text(HOME)));
    runtime.block_on(own.share(store)).unwrap();
    assert_eq!(record(), first);
    // Names that cannot be ones are passed over, and a record that is not ours stays.
    let put = |value: &str| {
        let revision = record().revision;
        let put = store.update(SHARED, revision, value.as_bytes());
        runtime.block_on(put).unwrap();
    };
    put(r#"{"version":1,"names":["a.example","b c","","*x","-"]}"#);
    assert!(runtime.block_on(own.share(store)).unwrap());
    let text = String::from_utf8_lossy(&record().value).into_owned();
    assert!(text.contains("a.example") && text.contains(HOME), "{text}");
    let learnt = own.learnt();
    assert!(learnt.contains(&San::from_text("a.example")));
    assert!(!learnt.iter().any(|it| it.to_string().contains([' ', '*'])));
    for strange in [r#"{"version":2,"names":[]}"#, "[]", "", "{"] {
        put(strange);
        assert!(runtime.block_on(own.share(store)).is_err(), "{strange}");
        assert_eq!(record().value.as_slice(), strange.as_bytes());
    }
}

/// A plan knows what was in the listener's file: nothing is signed before it has ended, connections
/// go on with what there is, and what was learnt meanwhile is not lost.
#[test]
fn a_name_that_is_learnt_during_a_plan_waits_for_its_end() {
    let lab = Lab::new(false);
    let (before, name) = (lab.file(), "lb.example");
    let asked = ["-servername", name, "-verify_hostname", name];
    let plan = lab.turn.blocking_lock();
    let seen = lab.handshake(&asked);
    assert!(seen.contains("ostname mismatch"), "{seen}");
    assert_eq!(lab.file(), before);
    let others = lab.plans.lock().unwrap();
    drop(plan);
    let seen = lab.handshake(&asked);
    assert!(seen.contains("ostname mismatch"), "{seen}");
    assert_eq!(lab.file(), before);
    drop(others);
    lab.assert_fine(&asked);
    lab.until(|names| names.iter().any(|it| it == name));
}

#[test]
fn what_two_share_at_once_is_not_lost() {
    let lab = Lab::new(true);
    let leaf = served(&lab.server);
    let (even, odd): (Vec<_>, Vec<_>) = (0..).zip(leaf.sans()).partition(|(at, _)| at % 2 == 0);
    let half = |half: Vec<(usize, &San)>| {
        let names = Names::default();
        names.shows(&leaf);
        let own: Vec<San> = half.into_iter().map(|(_, it)| it.clone()).collect();
        let filter = Filter {
            is_secure: true,
            services: Vec::new(),
        };
        names.begin(filter, &own);
        names
    };
    let (one, two) = (half(even), half(odd));
    assert!(one.learnt().iter().all(|it| !two.learnt().contains(it)));
    let store = lab.server.service.datastore.as_ref();
    let runtime = runtime();
    runtime.block_on(async {
        let (one, two) = tokio::join!(one.share(store), two.share(store));
        one.and(two).unwrap();
        let record = store.get(SHARED).await.unwrap().unwrap();
        let text = String::from_utf8_lossy(&record.value).into_owned();
        for san in leaf.sans() {
            assert!(text.contains(&format!("\"{san}\"")), "{san}: {text}");
        }
    });
}
