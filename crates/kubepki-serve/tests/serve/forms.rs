//! What HTTP lets a client wish for: parts of files, files only if they are new, other forms of
//! refusals; and what a request must not leave open.

use std::io::Write as _;

use kubepki_serve::health::{Part, State};
use kubepki_serve::node::Strictness;

use crate::common::{Answer, PASSWORD, Running, serve};
use crate::hostile::{connect, rest};

const FILE: &str = "/v1-k3s/client-ca.crt";

fn agent(server: &Running, path: &str, header: &str) -> Answer {
    let user = format!("node:{PASSWORD}");
    server.curl(path, &["-u", &user, "-H", header])
}

#[test]
fn files_are_served_as_gos_file_server_serves_them() {
    let server = serve(Strictness::Strict);
    let file = std::fs::read(server.tls_file("client-ca.crt")).unwrap();
    let whole = agent(&server, FILE, "X: y");
    assert_eq!((whole.code, &whole.body), (200, &file));
    assert_eq!(whole.header("accept-ranges"), Some("bytes"));
    let modified = whole.header("last-modified").unwrap();

    let part = agent(&server, FILE, "Range: bytes=5-14");
    assert_eq!((part.code, &part.body[..]), (206, &file[5..15]));
    let range = format!("bytes 5-14/{}", file.len());
    assert_eq!(part.header("content-range"), Some(range.as_str()));
    let last = agent(&server, FILE, "Range: bytes=-7");
    assert_eq!((last.code, &last.body[..]), (206, &file[file.len() - 7..]));
    let beyond = agent(&server, FILE, "Range: bytes=99999-");
    assert_eq!((beyond.code, beyond.body.len()), (416, 0));
    let range = format!("bytes */{}", file.len());
    assert_eq!(beyond.header("content-range"), Some(range.as_str()));

    let later = "Fri, 01 Jan 2100 00:00:00 GMT";
    let earlier = "Sun, 01 Jan 2006 00:00:00 GMT";
    for (header, code) in [
        (format!("If-Modified-Since: {modified}"), 304),
        (format!("If-Modified-Since: {later}"), 304),
        (format!("If-Modified-Since: {earlier}"), 200),
        ("If-Modified-Since: yesterday".to_owned(), 200),
        (format!("If-Unmodified-Since: {modified}"), 200),
        (format!("If-Unmodified-Since: {earlier}"), 412),
    ] {
        let answer = agent(&server, FILE, &header);
        assert_eq!(answer.code, code, "{header}");
        assert_eq!(answer.body.is_empty(), code != 200, "{header}");
    }
    let user = format!("node:{PASSWORD}");
    for (since, code) in [(modified, 206), (earlier, 200)] {
        let since = format!("If-Range: {since}");
        let headers = ["-u", &user, "-H", "Range: bytes=0-0", "-H", &since];
        assert_eq!(server.curl(FILE, &headers).code, code, "{since}");
    }
    // No file, no parts.
    assert_eq!(agent(&server, "/cacerts", "Range: bytes=0-1").code, 200);
}

#[test]
fn refusals_come_in_the_form_that_is_asked_for() {
    let server = serve(Strictness::Strict);
    let ask = |accept: &str| server.curl("/v1-k3s/readyz", &["-H", &format!("Accept: {accept}")]);
    let plain = server.curl("/v1-k3s/readyz", &[]);
    for accept in ["*/*", "text/html", "application/json", "application/*"] {
        assert_eq!(ask(accept).body, plain.body, "{accept}");
    }
    let yaml = ask("application/yaml");
    assert_eq!(yaml.code, 403);
    assert_eq!(yaml.header("content-type"), Some("application/yaml"));
    assert!(
        yaml.text().contains("message: \"forbidden\"\n"),
        "{}",
        yaml.text()
    );
    let proto = ask("application/vnd.kubernetes.protobuf,application/json;q=0.9");
    assert_eq!(proto.code, 403);
    assert_eq!(
        proto.header("content-type"),
        Some("application/vnd.kubernetes.protobuf")
    );
    assert!(proto.body.starts_with(b"k8s\0"));
    // What is no refusal has one form.
    assert_eq!(
        agent(&server, "/ping", "Accept: application/yaml").text(),
        "pong"
    );
}

#[test]
fn a_path_that_is_nobodys_is_kube_apiservers_who_knows_no_passwords() {
    let server = serve(Strictness::Strict);
    let nobody = server.curl("/v1-k3s/nothing", &[]);
    assert_eq!(nobody.code, 401);
    for credential in ["node:wrong", &format!("node:{PASSWORD}")] {
        let answer = server.curl("/v1-k3s/nothing", &["-u", credential]);
        assert_eq!((answer.code, &answer.body), (401, &nobody.body));
    }
    let (certificate, key) = ("client-kubelet.crt", "client-kubelet.key");
    let pair = [certificate, key].map(|name| server.agent_file(name));
    let own = server.curl("/api", &["--cert", &pair[0], "--key", &pair[1]]);
    assert_eq!(own.code, 503, "{}", own.text());
}

#[test]
fn what_two_programs_could_read_in_two_ways_is_refused() {
    let server = serve(Strictness::Strict);
    let good = testkit::run("base64", &["-w0"], format!("node:{PASSWORD}").as_bytes());
    let good = format!("Authorization: Basic {}\r\n", good.text().trim());
    let wrong = "Authorization: Basic eDp5\r\n";
    let host = "Host: x\r\n";
    for (headers, code) in [
        (format!("{host}{good}"), 200),
        (format!("{host}{good}{wrong}"), 401),
        (format!("{host}{wrong}{good}"), 401),
        (format!("{host}{good}{good}"), 401),
        (good.clone(), 400),
        (format!("{host}{host}{good}"), 400),
    ] {
        let mut stream = connect(&server);
        let text = format!("GET /v1-k3s/readyz HTTP/1.1\r\n{headers}Connection: close\r\n\r\n");
        stream.write_all(text.as_bytes()).unwrap();
        let answer = rest(&mut stream);
        let status = format!("HTTP/1.1 {code} ");
        assert!(answer.starts_with(&status), "{headers}{answer}");
    }
    // A path of any length is a line of a certain length in the log.
    let path = format!("/{}", "x".repeat(9000));
    assert_eq!(server.curl(&path, &[]).code, 401);
    let said = server.said.lock().unwrap();
    assert!(said.iter().all(|line| line.len() < 1000));
}

/// Anybody learns whether it issues and what somebody should look at; why, only who may.
#[test]
fn readiness_is_open_and_its_reasons_are_not() {
    let server = serve(Strictness::Strict);
    let open = || {
        let answer = server.curl("/readyz", &[]);
        (answer.code, answer.text())
    };
    assert_eq!(open(), (200, "ok".to_owned()));
    let why = || "db.internal:5432 is silent".to_owned();
    server.service.note(Part::Head, State::Warning(why()));
    assert_eq!(open(), (200, "ok\nwarning: issuance-log-head".to_owned()));
    server.service.note(Part::Datastore, State::Down(why()));
    let (code, text) = open();
    assert_eq!(code, 503, "{text}");
    assert!(text.contains("down: datastore") && !text.contains("db.internal"));
    assert_eq!(server.curl("/v1-k3s/readyz", &[]).code, 403);
    let told = agent(&server, "/v1-k3s/readyz", "Accept: */*");
    assert!(told.code == 503 && told.text().contains("db.internal"));
    assert_eq!(server.curl("/healthz", &[]).text(), "ok");
}
