//! What running servers did is taken back, and in force everywhere, while they serve.

use std::path::Path;

use testkit::server::Postgres;

use crate::lab::{Serving, assert_ends};
use crate::names::assert_known;

/// The words after `kubepki` of the last line that says how to take something back.
fn way_back(text: &str) -> Vec<String> {
    let (_, words) = text.rsplit_once("Take it back with: kubepki ").unwrap();
    let words = words.lines().next().unwrap().split(' ');
    words.map(str::to_owned).collect()
}

/// Carries out what was printed; no K3s is there to be waited for.
fn take_back(server: &Serving, printed: &str, still_for: &str) {
    let words = way_back(printed);
    let mut words: Vec<&str> = words.iter().map(String::as_str).collect();
    words.extend(["--yes", "--still-for", still_for]);
    let run = match words.contains(&"--data-dir") {
        true => testkit::run(crate::lab::KUBEPKI, &words, b""),
        false => server.kubepki(&words),
    };
    assert_ends(&run, 0, "Done: undo");
}

fn is_ready(server: &Serving) {
    server.await_answer("/v1-k3s/readyz", |code, body| (code, body) == ("200", "ok"));
}

const CA: &str = "tls/server-ca.crt";

/// Waits until the CA in force, on the disk and in what is served, is `wanted`.
fn is_in_force(server: &Serving, wanted: &str) {
    server.await_answer("/cacerts", |_, body| body == wanted);
    assert_eq!(server.read(CA), wanted);
    is_ready(server);
}

/// The last plan that the server made by itself, undone under its own lock.
fn own_undo(server: &Serving, purpose: &str) -> String {
    let state = server.data_dir.join("kubepki/serve");
    let plans = std::fs::read_dir(state.join("plans")).unwrap();
    let names = plans.map(|it| it.unwrap().file_name().into_string().unwrap());
    let last = names.filter(|it| it.contains(purpose)).max().unwrap();
    format!(
        "Take it back with: kubepki undo {} --data-dir {} --state-dir {}",
        last.trim_end_matches(".json"),
        server.data_dir.display(),
        state.display()
    )
}

#[test]
fn over_postgres_it_is_taken_back_everywhere() {
    let postgres = Postgres::start(false);
    let endpoint = postgres.database("undo");
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let one = Serving::start(&at("one"), ("one", "10.9.9.1"), &endpoint, &[]);
    let token = at("token");
    std::fs::copy(one.server("token"), &token).unwrap();
    let join = ["--token-file", &token.display().to_string()].map(str::to_owned);
    let join = join.each_ref().map(String::as_str);
    let two = Serving::start(&at("two"), ("two", "10.9.9.2"), &endpoint, &join);
    let worker = at("worker");
    assert_ends(
        &one.node(&["join"], &worker, "10.1.1.1"),
        0,
        "files written",
    );
    let before = one.read(CA);
    // As an operator on this node, whose commands find the datastore by the flag.
    let flag = ["--datastore-endpoint", endpoint.as_str()];

    // What the client did, through the server.
    let set = one.stage(folder.path());
    let rotated = one.kubepki(&["rotate-ca", "--yes", "--path", &set]);
    assert_ends(&rotated, 0, "Take it back with");
    let text = rotated.text();
    assert!(
        text.contains("puts the set in force while it serves"),
        "{text}"
    );
    assert!(!text.contains("systemctl"), "{text}");
    let staged = one.read(CA);
    is_in_force(&two, &staged);
    take_back(&one, &text, "12");
    for server in [&one, &two] {
        is_in_force(server, &before);
    }
    let renew = ["node", "renew", "--window", "400"];
    assert_ends(&two.node(&renew, &worker, ""), 0, "files written");

    // A direct write sees that servers live, although no revision moves.
    let direct = one.kubepki(
        &[
            &["rotate-ca", "--direct", "--yes", "--path", &set],
            &flag[..],
        ]
        .concat(),
    );
    assert_ends(&direct, 5, "`kubepki serve` of node");
    assert_eq!(one.read(CA), before);

    servers_own(&one, &two, (&set, &before, &staged), &flag);
    tokens(&one, &two, &token, &flag);
    assert_ends(
        &two.node(&["join"], &at("worker-2"), "10.1.1.2"),
        0,
        "files written",
    );
}

/// What the server did, undone under its own lock.
fn servers_own(
    one: &Serving,
    two: &Serving,
    (set, before, staged): (&str, &str, &str),
    flag: &[&str],
) {
    let rotated = one.kubepki(&["rotate-ca", "--yes", "--path", set]);
    assert_ends(&rotated, 0, "");
    is_in_force(two, staged);
    let printed = own_undo(one, "-serve-rotate-ca-") + " " + &flag.join(" ");
    take_back(one, &printed, "1");
    for server in [one, two] {
        is_in_force(server, before);
    }
}

/// The token: `two` is given it again each time.
fn tokens(one: &Serving, two: &Serving, token: &Path, flag: &[&str]) {
    let old = one.read("token");
    let rotated = one.kubepki(&["token", "rotate", "--yes"]);
    assert_ends(&rotated, 0, "Take it back with");
    assert_ne!(one.read("token"), old);
    std::fs::write(token, one.read("token")).unwrap();
    is_ready_with(two, one);
    let undone = one.password();
    let text = rotated.text();
    let line = text.lines().find(|it| it.contains("Take it back"));
    take_back(one, &format!("{} {}", line.unwrap(), flag.join(" ")), "1");
    assert_eq!(one.read("token"), old);
    is_refused(one, &undone);
    is_ready(one);
    std::fs::write(token, &old).unwrap();
    is_ready_with(two, one);
}

/// Waits until a token that was undone is none any more: the answers of before were as good.
#[track_caller]
fn is_refused(server: &Serving, undone: &str) {
    let user = format!("node:{undone}");
    let mut last = String::new();
    for _ in 0..900 {
        let (code, body) = server.ask("/v1-k3s/readyz", &["-u", &user]);
        if code == "401" {
            return;
        }
        last = format!("{code}: {body}");
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    panic!("the token that was undone is still good: {last}");
}

/// `two` takes the password of `one`.
fn is_ready_with(two: &Serving, one: &Serving) {
    let user = format!("node:{}", one.password());
    for _ in 0..900 {
        let (code, body) = two.ask("/v1-k3s/readyz", &["-u", &user]);
        if (code.as_str(), body.as_str()) == ("200", "ok") {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    panic!("{:#?}", two.seen);
}

/// What was taken back is not gone on with, and nothing else is open.
#[track_caller]
fn is_over(server: &Serving, undo: &str, before: &str) {
    let words = way_back(undo);
    let [_, id, place @ ..] = words.as_slice() else {
        panic!("{words:?}");
    };
    let place: Vec<&str> = place.iter().map(String::as_str).collect();
    let resume = |id: &[&str]| {
        testkit::run(
            crate::lab::KUBEPKI,
            &[&["resume"], id, &place].concat(),
            b"",
        )
    };
    let refused = resume(&[id]);
    assert_ends(&refused, 5, &format!("plan {id} was taken back by "));
    assert_ends(&refused, 5, "brings it about again");
    assert_ends(&resume(&[]), 0, "Nothing is interrupted.");
    assert_eq!(server.read(CA), before);
}

/// This node's configuration holds the token: it is changed with it, or nothing is.
fn configured(folder: &Path, one: &Serving) {
    let config = folder.join("config.yaml");
    let text = format!(
        "data-dir: {}\ntoken: {}\n",
        one.data_dir.display(),
        one.password()
    );
    std::fs::write(&config, &text).unwrap();
    let path = config.display().to_string();
    let rotate = ["token", "rotate", "--yes", "--k3s-config", &path];
    let before = one.read("token");
    assert_ends(&one.kubepki(&rotate), 5, "--rewrite-configs");
    assert_eq!(one.read("token"), before);
    let rotated = one.kubepki(&[&rotate[..], &["--rewrite-configs"]].concat());
    assert_ends(&rotated, 0, "put the new token into this node's files");
    let now = std::fs::read_to_string(&config).unwrap();
    assert_ne!(one.read("token"), before);
    assert!(now != text && now.contains(&one.password()), "not changed");
    let kept = one.kubepki(&[&rotate[..], &["--keep-configs"]].concat());
    assert_ends(&kept, 0, "Done");
    assert_eq!(std::fs::read_to_string(&config).unwrap(), now);
}

#[test]
fn over_sqlite_it_is_taken_back_while_it_serves() {
    let folder = tempfile::tempdir().unwrap();
    let open = ["--tls-san-security=false"];
    let one = Serving::start(&folder.path().join("one"), ("one", "10.9.9.1"), "", &open);
    let before = one.read(CA);
    let set = one.stage(folder.path());
    let rotate = || assert_ends(&one.kubepki(&["rotate-ca", "--yes", "--path", &set]), 0, "");
    rotate();
    let staged = one.read(CA);
    is_in_force(&one, &staged);
    // What the listener learns is in nobody's way, and not lost with what is taken back.
    assert_known(&one, "since.example.net");
    let undo = own_undo(&one, "-serve-rotate-ca-");
    take_back(&one, &undo, "1");
    is_in_force(&one, &before);
    assert_known(&one, "since.example.net");
    is_over(&one, &undo, &before);
    // Beside a server that has the file open nothing else is written.
    let direct = one.kubepki(&["rotate-ca", "--direct", "--yes", "--path", &set]);
    assert_ends(&direct, 5, "has");
    rotate();
    is_in_force(&one, &staged);
    let old = one.read("token");
    let rotated = one.kubepki(&["token", "rotate", "--yes"]);
    assert_ends(&rotated, 0, "Take it back with");
    let undone = one.password();
    take_back(&one, &rotated.text(), "1");
    assert_eq!(one.read("token"), old);
    is_refused(&one, &undone);
    is_ready(&one);
    configured(folder.path(), &one);
    is_ready(&one);
}
