//! What the port serves, as OpenSSL sees it; the file behind it.

use kubepki::edge::{FreshKeys, SystemEntropy};
use kubepki::listener::Listener;
use kubepki::log::{Log, Options};
use kubepki::state::StateDir;
use kubepki_serve::accept::Limits;
use kubepki_serve::health::Part;
use kubepki_serve::listener::{PortError, WINDOW, Wanted, prepare};
use kubepki_serve::node::Strictness;
use kubepki_serve::tree::Tree;
use pki::{DAY, San, UnixTime};
use testkit::{Fixture, openssl};

use crate::common::{HOST, Own, serve, serve_with, settings};

/// The day after the fixtures were: some of their certificates end a year later.
const RECORDED: UnixTime = UnixTime::from_secs(1_795_435_200);

fn s_client(server: &crate::common::Running, more: &[&str]) -> String {
    let connect = server.address.to_string();
    let authority = server.tls_file("server-ca.crt").display().to_string();
    let fixed = [
        "s_client",
        "-connect",
        &connect,
        "-CAfile",
        &authority,
        "-verify_return_error",
        "-verify_ip",
        HOST,
    ];
    openssl(&[&fixed[..], more].concat(), b"").text()
}

#[test]
fn openssl_trusts_it_and_is_asked_for_a_certificate() {
    let server = serve(Strictness::Strict);
    let modern = s_client(&server, &["-alpn", "h2"]);
    assert!(modern.contains("Verify return code: 0 (ok)"), "{modern}");
    assert!(modern.contains("ALPN protocol: h2"), "{modern}");
    assert!(
        modern.contains("Client Certificate Types")
            || modern.contains("Acceptable client certificate")
            || modern.contains("No client certificate CA names sent"),
        "{modern}"
    );
    let older = s_client(&server, &["-tls1_2"]);
    assert!(older.contains("Verify return code: 0 (ok)"), "{older}");
    let oldest = s_client(&server, &["-tls1_1", "-cipher", "ALL@SECLEVEL=0"]);
    assert!(
        !oldest.contains("Verify return code: 0 (ok)\n---\n") || oldest.contains("alert"),
        "{oldest}"
    );
}

#[test]
fn trees_of_every_kind_are_served() {
    for name in ["k3s-1.36-custom-ca", "k3s-1.36-default-rotated"] {
        let server = serve_with(name, Strictness::Strict, Limits::default());
        let seen = s_client(&server, &[]);
        assert!(
            seen.contains("Verify return code: 0 (ok)"),
            "{name}: {seen}"
        );
        assert_eq!(server.curl("/ping", &[]).text(), "pong");
        let leaf = server.ask_as("a", "/v1-k3s/client-kubelet.crt", &crate::common::request());
        assert_eq!(leaf.code, 200, "{name}: {}", leaf.text());
        let file = server.fixture.scratch("leaf.pem");
        std::fs::write(&file, &leaf.body).unwrap();
        let authority = server.tls_file("client-ca.crt").display().to_string();
        let file = file.display().to_string();
        let arguments = [
            "verify",
            "-partial_chain",
            "-purpose",
            "sslclient",
            "-CAfile",
            &authority,
            "-untrusted",
            &file,
            &file,
        ];
        testkit::openssl_ok(&arguments, b"");
    }
}

#[test]
fn the_file_changes_only_for_a_reason_and_keeps_its_key() {
    let fixture = Fixture::without_datastore("k3s-1.36-sqlite");
    let server = fixture.data_dir().join("server");
    let path = server.join("tls/dynamic-cert.json");
    let tree = Tree::load(&server, Strictness::Strict).unwrap();
    let read = || Listener::parse(&std::fs::read(&path).unwrap()).unwrap();
    let before = read();
    let now = RECORDED;
    let (log, _) = Log::open(&Options::new(fixture.scratch("log"), "s1"), None).unwrap();
    let log = Own(log);
    let prepare = |sans: &[San], days: i64| {
        let wanted = Wanted {
            sans,
            lifetime: 365 * DAY,
            window: WINDOW,
            now: now.plus(days * DAY),
            entropy: &SystemEntropy,
            keys: &FreshKeys,
            records: &log,
            is_sure: true,
            plans: &[],
        };
        prepare(&tree, &wanted).unwrap().issued
    };
    assert_eq!(prepare(&[], 0), None);
    assert!(read() == before);
    assert_eq!(
        prepare(&[San::from_text("new.example")], 0),
        Some("the present one lacks a name")
    );
    let named = read();
    assert!(named.key == before.key && named.sans.contains(&"new.example".to_owned()));
    assert!(before.sans.iter().all(|name| named.sans.contains(name)));
    assert_eq!(prepare(&[], 0), None);
    assert_eq!(prepare(&[], 300), Some("it is due"));
    assert!(read().key == before.key);
    std::fs::remove_file(&path).unwrap();
    assert_eq!(prepare(&settings().sans, 0), Some("there is none"));
    let made = read();
    assert!(made.key != before.key && made.certificates().unwrap().len() == 2);
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    // Another CA in force: what was issued by the old one goes.
    let other = Fixture::without_datastore("k3s-1.36-custom-ca");
    let foreign = other.data_dir().join("server/tls/dynamic-cert.json");
    std::fs::copy(foreign, &path).unwrap();
    assert_eq!(prepare(&[], 0), Some("the present one is by another CA"));
}

#[test]
fn it_is_renewed_while_connections_stay() {
    use std::io::{Read as _, Write as _};

    let server = serve(Strictness::Strict);
    let mut stays = crate::hostile::connect(&server);
    let mut ping = || {
        stays
            .write_all(b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n")
            .unwrap();
        let mut answer = [0; 512];
        let read = stays.read(&mut answer).unwrap();
        String::from_utf8_lossy(&answer[..read]).into_owned()
    };
    let served = || {
        let connect = server.address.to_string();
        let shown = openssl(&["s_client", "-connect", &connect, "-showcerts"], b"");
        pki::Certificate::all_from_pem(&shown.stdout)
            .unwrap()
            .remove(0)
    };
    assert!(ping().contains("200 OK"));
    let mut ends = served().validity().not_after;
    let mut renewed = 0;
    // A look a month, through 400 days.
    for month in 0..14 {
        server.time.to(month * 30 * DAY);
        let looked =
            kubepki_serve::renewal::look(&server.service, &server.listened, &FreshKeys, &[]);
        renewed += usize::from(looked.unwrap().is_some());
        let leaf = served();
        let left = leaf.validity().remaining(server.service.clock.now());
        assert!(left > 90 * DAY, "{left} seconds left in month {month}");
        assert!(leaf.validity().not_after >= ends);
        ends = leaf.validity().not_after;
        assert!(
            ping().contains("200 OK"),
            "the connection was lost in month {month}"
        );
    }
    assert_eq!(renewed, 1);
    let said = server.said.lock().unwrap().join("\n");
    assert!(said.contains("it is due"), "{said}");
}

/// Somebody's plan knows what is in the file.
#[test]
fn the_file_stays_as_it_is_while_a_plan_is_carried_out() {
    let server = serve(Strictness::Strict);
    let state = [StateDir::of_data_dir(&server.fixture.data_dir())];
    let look = || {
        let (service, listened) = (&server.service, &server.listened);
        kubepki_serve::renewal::look(service, listened, &FreshKeys, &state)
    };
    let at_work = || matches!(look(), Err(PortError::AtWork));
    let path = server.tls_file("dynamic-cert.json");
    let file = || std::fs::read(&path).unwrap();
    let shown = || s_client(&server, &[]).contains("Verify return code: 0 (ok)");
    let before = file();
    let ends = server.listened.remaining(UnixTime::from_secs(0)).unwrap();
    let left = ends - server.service.clock.now().as_secs();
    server.time.to(left - 100 * DAY);
    let plan = state[0].lock().unwrap();
    assert!(at_work() && file() == before && shown());
    // Not yet the file that the plan will put there: it is not shown.
    let other = Fixture::without_datastore("k3s-1.36-custom-ca");
    let foreign = other.data_dir().join("server/tls/dynamic-cert.json");
    std::fs::copy(foreign, &path).unwrap();
    assert!(at_work() && shown());
    std::fs::write(&path, &before).unwrap();
    // It serves on, but not beyond the end.
    server.time.to(left - 50 * DAY);
    assert_eq!(look().unwrap(), Some("it is due"));
    assert!(file() != before);
    drop(plan);
    let before = file();
    std::fs::write(server.tls_file("dynamic-cert-regenerate"), "").unwrap();
    assert_eq!(
        look().unwrap(),
        Some("tls/dynamic-cert-regenerate asks for it")
    );
    assert!(file() != before);
    assert!(state[0].lock().is_ok());
}

#[test]
fn new_authorities_are_taken_up_while_it_serves() {
    let server = serve(Strictness::Strict);
    let other = Fixture::without_datastore("k3s-1.36-custom-ca");
    let take = |name: &str| {
        let from = other.data_dir().join("server/tls").join(name);
        std::fs::copy(from, server.tls_file(name)).unwrap();
    };
    let reload = || kubepki_serve::renewal::reload(&server.service);
    let look = || kubepki_serve::renewal::look(&server.service, &server.listened, &FreshKeys, &[]);
    let before = server.curl("/cacerts", &[]);
    assert!(!reload().unwrap());
    // In the middle of a change nothing fits: what was in force stays.
    take("server-ca.crt");
    assert!(reload().is_err());
    for name in ["server-ca.key", "client-ca.crt", "client-ca.key"] {
        take(name);
    }
    std::fs::write(server.tls_file("dynamic-cert-regenerate"), "").unwrap();
    assert!(reload().unwrap());
    assert_eq!(
        look().unwrap(),
        Some("tls/dynamic-cert-regenerate asks for it")
    );
    assert!(!server.tls_file("dynamic-cert-regenerate").exists());
    assert_eq!((reload().unwrap(), look().unwrap()), (false, None));
    // curl trusts the CA that is now on the disk, and nothing else.
    let after = server.curl("/cacerts", &[]);
    assert!(after.code == 200 && after.body != before.body);
    let leaf = server.ask_as("a", "/v1-k3s/client-kubelet.crt", &crate::common::request());
    let chain = pki::Certificate::all_from_pem(&leaf.body).unwrap();
    let authority = std::fs::read(server.tls_file("client-ca.crt")).unwrap();
    let authority = pki::Certificate::all_from_pem(&authority).unwrap();
    assert_eq!(chain[1], authority[0]);
}

/// Before it is known whether the CAs on the disk are the cluster's: what is there is shown, whoever
/// signed it, and what has to be made is not written.
#[test]
fn nothing_is_written_by_authorities_that_may_be_others() {
    let fixture = Fixture::without_datastore("k3s-1.36-sqlite");
    let server = fixture.data_dir().join("server");
    let path = server.join("tls/dynamic-cert.json");
    let tree = Tree::load(&server, Strictness::Strict).unwrap();
    let other = Fixture::without_datastore("k3s-1.36-custom-ca");
    let foreign = other.data_dir().join("server/tls/dynamic-cert.json");
    let foreign = std::fs::read(foreign).unwrap();
    std::fs::write(&path, &foreign).unwrap();
    std::fs::write(server.join("tls/dynamic-cert-regenerate"), "").unwrap();
    let (log, _) = Log::open(&Options::new(fixture.scratch("log"), "s1"), None).unwrap();
    let log = Own(log);
    let wanted = Wanted {
        sans: &settings().sans,
        lifetime: 365 * DAY,
        window: WINDOW,
        now: RECORDED,
        entropy: &SystemEntropy,
        keys: &FreshKeys,
        records: &log,
        is_sure: false,
        plans: &[],
    };
    let port = prepare(&tree, &wanted).unwrap();
    let lying = Listener::parse(&foreign).unwrap().certificates().unwrap();
    assert_eq!((port.issued, &port.leaf), (None, &lying[0]));
    assert!(std::fs::read(&path).unwrap() == foreign);
    assert_eq!(log.0.head().records, 0);
    std::fs::remove_file(&path).unwrap();
    let port = prepare(&tree, &wanted).unwrap();
    assert_eq!(port.issued, Some("tls/dynamic-cert-regenerate asks for it"));
    assert_eq!(log.0.head().records, 1);
    assert!(!path.exists() && server.join("tls/dynamic-cert-regenerate").exists());
}

/// A log that takes nothing keeps the certificate, and is a failure that is tried again; with room
/// again the warning goes.
#[test]
fn a_certificate_that_cannot_be_recorded_is_wanted_again() {
    let server = serve(Strictness::Strict);
    let look = || kubepki_serve::renewal::look(&server.service, &server.listened, &FreshKeys, &[]);
    let is_warned = || server.service.health.is_troubled(Part::Log);
    assert_eq!(look().unwrap(), None);
    std::fs::write(server.tls_file("dynamic-cert-regenerate"), "").unwrap();
    let log = server.fixture.scratch("log/s1/00000000000000000001.jsonl");
    let away = log.with_extension("away");
    std::fs::rename(&log, &away).unwrap();
    let lying = std::fs::read(server.tls_file("dynamic-cert.json")).unwrap();
    assert!(matches!(look(), Err(PortError::Unrecorded(_))) && is_warned());
    assert!(std::fs::read(server.tls_file("dynamic-cert.json")).unwrap() == lying);
    std::fs::rename(&away, &log).unwrap();
    assert!(look().unwrap().is_some() && !is_warned());
    assert_eq!(look().unwrap(), None);
}
