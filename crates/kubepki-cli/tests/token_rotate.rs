//! `kubepki token rotate` on a server with K3s's own datastore.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "tests fail by panicking, and lay out their own files"
)]

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use kubepki::bootstrap::{Bundle, Field, Passphrase, Stamp, open, seal_bundle};
use kubepki::datastore::{Archive as _, Datastore as _, Former, Record};
use kubepki::edge::SystemEntropy;
use kubepki_datastore::{Access, SqliteStore};
use testkit::{CrashPoint, DiffOptions, Fixture, Run, Tree, Victim};

const KUBEPKI: &str = env!("CARGO_BIN_EXE_kubepki");
const OLD: &str = "fixture-token-0123456789abcdef";
const NEW: &str = "another-token-fedcba9876543210";

/// A stopped server, datastore and all.
struct Server {
    fixture: Fixture,
}

impl Server {
    fn new(name: &str) -> Self {
        let fixture = Fixture::new(name);
        let server = Self { fixture };
        server.write("new-token", NEW);
        server
    }

    fn data(&self) -> PathBuf {
        self.fixture.data_dir()
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.fixture.scratch(name), text).unwrap();
    }

    fn args(&self, args: &[&str]) -> Vec<String> {
        let data = self.data();
        let site = ["--still-for", "0", "--data-dir", data.to_str().unwrap()];
        args.iter()
            .chain(&site)
            .map(|it| (*it).to_owned())
            .collect()
    }

    fn run(&self, args: &[&str]) -> Run {
        testkit::run(KUBEPKI, &self.args(args), b"")
    }

    fn rotate_args(&self) -> Vec<String> {
        let file = self.fixture.scratch("new-token");
        self.args(&[
            "token",
            "rotate",
            "--yes",
            "--new-token-file",
            file.to_str().unwrap(),
        ])
    }

    fn rotate(&self) -> Run {
        testkit::run(KUBEPKI, &self.rotate_args(), b"")
    }

    #[track_caller]
    fn ok(&self, args: &[&str]) -> Run {
        let run = self.run(args);
        assert!(run.success(), "{args:?}: {}", run.text());
        run
    }

    fn file(&self, path: &str) -> String {
        fs::read_to_string(self.data().join(path)).unwrap()
    }

    /// Everything but datastore and state directory.
    fn tree(&self) -> Tree {
        Tree::snapshot(self.data())
    }

    #[track_caller]
    fn assert_is(&self, before: &Tree, at: &str) {
        let options = DiffOptions::exact()
            .without_directory_mtimes()
            .ignoring("kubepki")
            .ignoring("server/db");
        let differences = Tree::diff(before, &self.tree(), &options);
        assert!(differences.is_empty(), "{at}:\n{}", differences.join("\n"));
    }

    fn store(&self) -> (tokio::runtime::Runtime, SqliteStore) {
        let runtime = runtime();
        let path = self.data().join("server/db/state.db");
        let store = runtime
            .block_on(SqliteStore::open(&path, Access::Write))
            .unwrap();
        (runtime, store)
    }

    /// What lies below `/bootstrap`, now and before, in a copy of the datastore: whoever opens it
    /// leaves files beside it for a while.
    fn keys(&self) -> (Vec<Record>, Vec<Former>) {
        let seen = tempfile::tempdir().unwrap();
        copy(&self.data().join("server/db"), &seen.path().join("db"));
        let runtime = runtime();
        let path = seen.path().join("db/state.db");
        let store = runtime.block_on(SqliteStore::open(&path, Access::Read));
        let store = store.unwrap();
        let live = runtime.block_on(store.list("/bootstrap")).unwrap();
        let former = runtime.block_on(store.former("/bootstrap")).unwrap();
        (live, former)
    }

    /// The one bundle, which must open with `password`.
    fn bundle(&self, password: &str) -> Bundle {
        let (live, _) = self.keys();
        assert_eq!(live.len(), 1, "{live:?}");
        assert_eq!(live[0].key, passphrase(password).key_name());
        Bundle::parse(&open(&live[0].value, &passphrase(password)).unwrap()).unwrap()
    }

    /// Writes another bundle under the present token.
    fn save(&self, bundle: &Bundle) {
        let (runtime, store) = self.store();
        let live = runtime.block_on(store.list("/bootstrap")).unwrap();
        let value = seal_bundle(bundle, &passphrase(OLD), &SystemEntropy).unwrap();
        let update = store.update(&live[0].key, live[0].revision, &value);
        runtime.block_on(update).unwrap();
    }
}

fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().unwrap()
}

fn passphrase(text: &str) -> Passphrase {
    Passphrase::new(text.to_owned())
}

fn users(text: &str) -> Vec<&str> {
    let mut rows: Vec<&str> = text.lines().collect();
    rows.sort_unstable();
    rows
}

#[test]
fn datastore_users_and_token_file_change_as_one_and_come_back() {
    let server = Server::new("k3s-1.36-sqlite");
    let before = server.tree();
    let old = server.bundle(OLD);
    let hash = server.file("server/token").get(..67).unwrap().to_owned();

    let run = server.rotate();
    assert!(run.success(), "{}", run.text());
    let token = format!("{hash}::server:{NEW}\n");
    assert_eq!(server.file("server/token"), token);
    assert!(
        String::from_utf8(run.stdout.clone())
            .unwrap()
            .ends_with(&token)
    );
    assert!(!String::from_utf8(run.stderr).unwrap().contains(NEW));
    let text = server.file("server/cred/passwd");
    let expected = [
        format!("{NEW},node,node,k3s:agent"),
        format!("{NEW},server,server,k3s:server"),
    ];
    assert_eq!(users(&text), expected);

    let new = server.bundle(NEW);
    for (field, file) in &old.files {
        match field {
            Field::PasswdFile => assert!(new.content(*field) == Some(text.as_bytes())),
            _ => assert_eq!(new.files[field], *file, "{field}"),
        }
    }
    // K3s dies of a list of users that is newer than the datastore's.
    let passwd = fs::metadata(server.data().join("server/cred/passwd")).unwrap();
    assert_eq!(passwd.mtime(), new.files[&Field::PasswdFile].stamp.seconds);
    assert_eq!(passwd.mode() & 0o777, 0o600);
    let (_, former) = server.keys();
    let opens = |it: &Former| open(&it.value, &passphrase(OLD)).is_ok();
    assert!(
        former.iter().any(opens),
        "the old ciphertext stays readable: {former:?}"
    );

    let run = server.ok(&[
        "token",
        "check",
        "--datastore",
        "--token-file",
        server.fixture.scratch("new-token").to_str().unwrap(),
    ]);
    assert!(run.text().contains("opens them"), "{}", run.text());

    let undo = server.ok(&["undo", "--yes"]);
    assert!(
        !undo.text().contains(NEW) && !undo.text().contains(OLD),
        "{}",
        undo.text()
    );
    server.assert_is(&before, "undo");
    let back = server.bundle(OLD);
    for (field, file) in &old.files {
        assert!(
            back.content(*field) == Some(file.content.as_slice()),
            "{field}"
        );
        let disk = fs::metadata(server.data().join("server").join(field.path())).unwrap();
        assert!(
            disk.mtime() - back.files[field].stamp.seconds < 3,
            "{field}"
        );
    }
}

#[test]
fn agents_with_a_token_of_their_own_keep_it() {
    let server = Server::new("k3s-1.36-encryption-token-rotated");
    let agent = server.file("server/agent-token");
    let run = server.rotate();
    assert!(run.success(), "{}", run.text());
    assert_eq!(server.file("server/agent-token"), agent);
    let text = server.file("server/cred/passwd");
    let expected = [
        "agent-fixture-token-98765,node,node,k3s:agent".to_owned(),
        format!("{NEW},server,server,k3s:server"),
    ];
    assert_eq!(users(&text), expected);
    assert!(
        run.text().contains("agents have a token of their own"),
        "{}",
        run.text()
    );

    server.write("new-token", "agent-fixture-token-98765");
    let run = server.rotate();
    assert_eq!(run.code, Some(5), "{}", run.text());
    assert!(run.text().contains("the agents' own"), "{}", run.text());
}

#[test]
fn the_datastores_authorities_survive_not_the_disks() {
    let server = Server::new("k3s-1.36-custom-ca");
    // `rotate-ca` was done; no server has restarted since.
    let staged = server.fixture.extra("staged-same-root");
    let mut bundle = server.bundle(OLD);
    for field in Field::ALL.into_iter().filter(|field| field.is_rotatable()) {
        let content = fs::read(staged.join(field.path())).unwrap();
        let file = bundle.files.get_mut(&field).unwrap();
        file.content = content.into();
        file.stamp = Stamp::at(pki::UnixTime::from_secs(1_900_000_000));
    }
    server.save(&bundle);

    let run = server.rotate();
    assert!(run.success(), "{}", run.text());
    let new = server.bundle(NEW);
    for field in Field::ALL.into_iter().filter(|field| field.is_rotatable()) {
        assert_eq!(new.files[&field], bundle.files[&field], "{field}");
    }
    let disk = fs::read(server.data().join("server/tls/server-ca.crt")).unwrap();
    assert_ne!(new.content(Field::ServerCa), Some(disk.as_slice()));
}

#[test]
fn what_k3s_could_not_use_is_refused_and_changes_nothing() {
    let server = Server::new("k3s-1.36-sqlite");
    let before = server.tree();
    let other = Fixture::without_datastore("k3s-1.36-postgres");
    let theirs = fs::read_to_string(other.data_dir().join("server/token")).unwrap();
    for (text, code, words) in [
        (OLD, 5, "nothing to rotate"),
        ("abc123.0123456789abcdef", 2, "bootstrap token"),
        ("K10user:password-of-some-length", 2, "begins with K10"),
        ("", 2, "empty"),
        ("two\nlines", 2, "control character"),
        ("\u{feff}password-of-some-length", 2, "byte order mark"),
        (&theirs, 2, "this cluster's is"),
    ] {
        server.write("new-token", text);
        let run = server.rotate();
        assert_eq!(run.code, Some(code), "{text:?}: {}", run.text());
        assert!(run.text().contains(words), "{text:?}: {}", run.text());
        assert!(!run.text().contains("of-some-length"), "{}", run.text());
    }
    server.write("new-token", NEW);

    // The list of users on disk is not the datastore's.
    let passwd = server.data().join("server/cred/passwd");
    let kept = fs::read(&passwd).unwrap();
    let more = [&kept[..], b"x,eve,eve,system:masters\n"].concat();
    fs::write(&passwd, more).unwrap();
    let run = server.rotate();
    assert_eq!(run.code, Some(5), "{}", run.text());
    assert!(
        run.text().contains("is not what the bootstrap data hold"),
        "{}",
        run.text()
    );
    assert!(server.bundle(OLD).files.len() >= 13);
    let restored = before.get("server/cred/passwd").is_some();
    assert!(restored);
    fs::write(&passwd, kept).unwrap();

    // A second key, a lock, and nothing.
    let (runtime, store) = server.store();
    let second = "/bootstrap/0123456789ab";
    let revision = runtime.block_on(store.create(second, b"")).unwrap();
    let run = server.rotate();
    assert!(
        run.text().contains("multiple bootstrap keys"),
        "{}",
        run.text()
    );
    runtime.block_on(store.delete(second, revision)).unwrap();
    let live = runtime.block_on(store.list("/bootstrap")).unwrap();
    let revision = runtime
        .block_on(store.update(&live[0].key, live[0].revision, b""))
        .unwrap();
    let run = server.rotate();
    assert!(run.text().contains("is locked"), "{}", run.text());
    runtime
        .block_on(store.delete(&live[0].key, revision))
        .unwrap();
    let run = server.rotate();
    assert!(
        run.text().contains("no bootstrap data found"),
        "{}",
        run.text()
    );
}

#[test]
fn files_that_give_k3s_its_token_are_not_forgotten() {
    let server = Server::new("k3s-1.36-sqlite");
    let before = server.tree();
    let config = server.fixture.scratch("config.yaml");
    let token_file = server.fixture.scratch("the-token");
    let text = format!("# mine\ntoken: {OLD}   # K3s's\ntls-san: a.example\n");
    let more = format!("token-file: {}\nagent-token: other\n", token_file.display());
    server.write("config.yaml", &text);
    fs::create_dir(server.fixture.scratch("config.yaml.d")).unwrap();
    server.write("config.yaml.d/1.yaml", &more);
    server.write("the-token", &format!("K10::server:{OLD}\r\n"));
    let rotate = |flag: &[&str]| {
        let mut args = server.rotate_args();
        args.extend([
            "--k3s-config".to_owned(),
            config.to_str().unwrap().to_owned(),
        ]);
        args.extend(flag.iter().map(|it| (*it).to_owned()));
        testkit::run(KUBEPKI, &args, b"")
    };
    let refused = rotate(&[]);
    assert_eq!(refused.code, Some(5), "{}", refused.text());
    for words in [
        "config.yaml: token in line 2",
        "the-token: line 1",
        "--rewrite-configs",
    ] {
        assert!(
            refused.text().contains(words),
            "{words}: {}",
            refused.text()
        );
    }
    server.assert_is(&before, "a refusal");
    server.write("new-token", "it's got \"quotes\": and more");
    let refused = rotate(&["--rewrite-configs"]);
    assert!(refused.text().contains("need quotes"), "{}", refused.text());
    server.write("new-token", NEW);

    let done = rotate(&["--rewrite-configs"]);
    assert!(done.success(), "{}", done.text());
    let read = |name: &str| fs::read_to_string(server.fixture.scratch(name)).unwrap();
    assert_eq!(
        read("config.yaml"),
        text.replace(OLD, &format!("\"{NEW}\""))
    );
    assert_eq!(read("config.yaml.d/1.yaml"), more);
    assert_eq!(read("the-token"), format!("K10::server:{NEW}\r\n"));
    server.bundle(NEW);
    let mut args = server.args(&["undo", "--yes"]);
    args.extend([
        "--k3s-config".to_owned(),
        config.to_str().unwrap().to_owned(),
    ]);
    let undone = testkit::run(KUBEPKI, &args, b"");
    assert!(undone.success(), "{}", undone.text());
    assert_eq!(read("config.yaml"), text);
    server.assert_is(&before, "undo");
}

#[test]
fn data_of_k3s_1_21_are_refused() {
    let server = Server::new("k3s-1.21-sqlite");
    let run = server.rotate();
    assert_eq!(run.code, Some(5), "{}", run.text());
    assert!(run.text().contains("upgrade K3s first"), "{}", run.text());
}

/// A copy of everything below `from`, times and owners too.
fn copy(from: &Path, to: &Path) {
    testkit::run("rm", &["-rf".as_ref(), to.as_os_str()], b"");
    let run = testkit::run(
        "cp",
        &["-a".as_ref(), from.as_os_str(), to.as_os_str()],
        b"",
    );
    assert!(run.success(), "{}", run.text());
}

/// `true` if the server has the new token whole, `false` if it has the old one whole.
#[track_caller]
fn settled(server: &Server, at: &str) -> bool {
    let (live, _) = server.keys();
    assert_eq!(live.len(), 1, "{at}: {live:?}");
    let new = live[0].key == passphrase(NEW).key_name();
    let password = if new { NEW } else { OLD };
    let bundle = server.bundle(password);
    let text = server.file("server/cred/passwd");
    assert!(
        bundle.content(Field::PasswdFile) == Some(text.as_bytes()),
        "{at}"
    );
    assert!(
        server
            .file("server/token")
            .ends_with(&format!(":{password}\n")),
        "{at}"
    );
    assert!(text.contains(&format!("{password},server,")), "{at}");
    new
}

#[test]
fn a_kill_anywhere_ends_in_the_old_or_the_new_token() {
    let server = Server::new("k3s-1.36-sqlite");
    let copies = tempfile::tempdir().unwrap();
    let (base, saved) = (copies.path().join("base"), copies.path().join("saved"));
    copy(&server.data(), &base);
    let before = server.tree();
    let victim = Victim::new(KUBEPKI, server.rotate_args()).alone();
    let points: Vec<CrashPoint> = victim.crash_points();
    assert!(points.len() > 40, "{}", points.len());
    let mut interrupted = 0;
    // Each step makes about a dozen such calls; the engine's own tests go through all of them.
    for point in points.into_iter().step_by(3) {
        let at = format!("{} number {} ({})", point.call, point.nth, point.seen);
        copy(&base, &server.data());
        if !victim.crash_if_reached(&point) {
            continue;
        }
        copy(&server.data(), &saved);
        let resumed = server.run(&["resume"]);
        assert!(resumed.success(), "{at}: {}", resumed.text());
        let new = settled(&server, &at);
        interrupted += usize::from(!resumed.text().contains("Nothing is interrupted"));

        copy(&saved, &server.data());
        let undone = server.run(&["undo", "--yes"]);
        let nothing = undone.text().contains("nothing to take back");
        assert!(undone.success() || nothing, "{at}: {}", undone.text());
        assert!(!settled(&server, &at) || nothing && new, "{at}");
        if undone.success() {
            server.assert_is(&before, &at);
        }
    }
    assert!(
        interrupted > 10,
        "only {interrupted} kills left something to resume"
    );
}
