//! SQLite's file: what it must be, and what it keeps.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use kubepki::datastore::DatastoreError;
use kubepki_datastore::{Access, SqliteStore};
use testkit::{Fixture, fixture};

use crate::common::{KEY, store};

fn sqlite(file: &Path, statement: &str) -> String {
    let options = ["-batch", "-cmd", ".timeout 30000", file.to_str().unwrap()];
    let run = testkit::run("sqlite3", &options, statement.as_bytes());
    assert!(run.success(), "{}", run.text());
    String::from_utf8(run.stdout).unwrap().trim().to_owned()
}

fn database(fixture: &Fixture) -> PathBuf {
    fixture.data_dir().join("server/db/state.db")
}

/// Read by another program: SQLite's locks of this one go when it closes the file once.
fn bytes_of(file: &Path) -> Vec<u8> {
    let run = testkit::run("cat", &[file], b"");
    assert!(run.success(), "{}", run.text());
    run.stdout
}

/// Files of the folder with mode, owner and group.
fn listing(folder: &Path) -> BTreeMap<String, (u32, u32, u32)> {
    // SQLite takes its own files away a moment after a store is closed.
    let entries = fs::read_dir(folder).unwrap().filter_map(|entry| {
        let entry = entry.unwrap();
        let it = entry.metadata().ok()?;
        let name = entry.file_name().into_string().unwrap();
        Some((name, (it.mode() & 0o7777, it.uid(), it.gid())))
    });
    entries.collect()
}

async fn write_once(file: &Path) {
    let store = SqliteStore::open(file, Access::Write).await.unwrap();
    let store: &dyn kubepki_datastore::Store = &store;
    let record = store.get(KEY).await.unwrap().unwrap();
    store.update(KEY, record.revision, b"ours").await.unwrap();
}

#[tokio::test]
async fn a_write_keeps_mode_owner_and_journal_and_leaves_nothing_else() {
    let root = fs::metadata("/proc/self").unwrap().uid() == 0;
    for journal in ["wal", "delete"] {
        let fixture = fixture("k3s-1.36-sqlite");
        let file = database(&fixture);
        let folder = file.parent().unwrap();
        assert_eq!(
            sqlite(&file, &format!("PRAGMA journal_mode={journal};")),
            journal
        );
        for name in listing(folder).keys() {
            let path = folder.join(name);
            fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
            if root {
                std::os::unix::fs::chown(&path, Some(1234), Some(4321)).unwrap();
            }
        }
        let before = listing(folder);
        write_once(&file).await;
        let after = listing(folder);
        assert_eq!(after["state.db"], before["state.db"]);
        for (name, is) in &after {
            let own = ["state.db", "state.db-wal", "state.db-shm"];
            assert!(own.contains(&name.as_str()), "{name} is new");
            assert_eq!(*is, before["state.db"], "{name}");
        }
        assert_eq!(sqlite(&file, "PRAGMA journal_mode;"), journal);
        assert_eq!(sqlite(&file, "PRAGMA integrity_check;"), "ok");
        let newest = "SELECT value FROM kine ORDER BY id DESC LIMIT 1;";
        assert_eq!(sqlite(&file, newest), "ours");
    }
}

#[tokio::test]
async fn what_lies_in_the_log_only_is_read_and_reading_changes_no_row() {
    let fixture = fixture("k3s-1.36-sqlite");
    let file = database(&fixture);
    let log = file.with_file_name("state.db-wal");
    assert!(
        fs::metadata(&log).unwrap().len() > 4_000_000,
        "K3s was killed with a full log"
    );
    let (main, logged) = (bytes_of(&file), bytes_of(&log));
    let reading = SqliteStore::open(&file, Access::Read).await.unwrap();
    let reading: &dyn kubepki_datastore::Store = &reading;
    let newest = reading.newest_revision().await.unwrap();
    assert!(reading.get(KEY).await.unwrap().is_some());
    assert_eq!(bytes_of(&file), main);
    assert_eq!(bytes_of(&log), logged);
    // A second program at the same time is no trouble, nor is a writer.
    assert_eq!(
        sqlite(&file, "SELECT MAX(id) FROM kine;"),
        newest.to_string()
    );
    write_once(&file).await;
    assert_eq!(reading.newest_revision().await.unwrap(), newest + 1);
}

#[tokio::test]
async fn a_file_without_a_log_is_left_without_one() {
    let fixture = fixture("k3s-1.36-sqlite");
    let file = database(&fixture);
    let folder = file.parent().unwrap();
    // As after a clean stop of K3s.
    sqlite(&file, "PRAGMA wal_checkpoint(TRUNCATE);");
    assert_eq!(listing(folder).len(), 1, "{:?}", listing(folder));
    let (before, bytes) = (listing(folder), bytes_of(&file));
    let reading = SqliteStore::open(&file, Access::Read).await.unwrap();
    let store: &dyn kubepki_datastore::Store = &reading;
    assert!(store.get(KEY).await.unwrap().is_some());
    assert!(store.create("/bootstrap/x", b"y").await.is_err());
    drop(reading);
    assert_eq!(listing(folder), before);
    assert_eq!(bytes_of(&file), bytes);
    write_once(&file).await;
    assert_eq!(listing(folder), before, "one file again");
    assert_ne!(bytes_of(&file), bytes);
}

#[tokio::test]
async fn a_file_that_is_not_kines_is_called_so() {
    let folder = tempfile::tempdir().unwrap();
    let server = folder.path();
    fs::create_dir(server.join("db")).unwrap();
    let file = server.join("db/state.db");
    let refused = async || {
        store("", server, Access::Write)
            .await
            .unwrap_err()
            .to_string()
    };

    let error = refused().await;
    assert!(error.contains("there is no such file"), "{error}");
    assert!(!file.exists(), "it is never made");

    fs::create_dir(&file).unwrap();
    assert!(refused().await.contains("it is not a file"));
    fs::remove_dir(&file).unwrap();

    let fixture = fixture("k3s-1.36-sqlite");
    let real = database(&fixture);
    sqlite(&real, "PRAGMA wal_checkpoint(TRUNCATE);");
    let bytes = fs::read(&real).unwrap();
    let put = |bytes: &[u8]| {
        use std::io::Write as _;
        let mut options = fs::OpenOptions::new();
        let mut it = options
            .write(true)
            .create(true)
            .truncate(true)
            .open(&file)
            .unwrap();
        it.write_all(bytes).unwrap();
    };
    let cases: [(&[u8], &str); 5] = [
        (b"", "no table kine"),
        (b"-----BEGIN CERTIFICATE-----\n", "not an SQLite database"),
        (&[0; 4096], "not an SQLite database"),
        (&bytes[..8192], "damaged"),
        (&bytes[..100], "damaged"),
    ];
    for (content, words) in cases {
        put(content);
        let error = refused().await;
        assert!(error.contains(words), "{}: {error}", content.len());
        assert_eq!(
            fs::read(&file).unwrap(),
            content,
            "nothing is written to it"
        );
    }
    // A page in the middle: whatever is found, it is an error and no panic.
    let mut spoilt = bytes.clone();
    for page in 2..spoilt.len() / 4096 {
        spoilt[page * 4096..page * 4096 + 64].fill(0xff);
    }
    put(&spoilt);
    assert!(refused().await.contains("damaged"));
}

#[tokio::test]
async fn the_endpoint_names_the_file() {
    let fixture = fixture("k3s-1.36-sqlite");
    let server = fixture.data_dir().join("server");
    let absolute = server.join("db/state.db");
    let endpoints = [
        String::new(),
        "sqlite".to_owned(),
        "sqlite://".to_owned(),
        "sqlite://./db/state.db?_journal=WAL&cache=shared&_busy_timeout=30000".to_owned(),
        "sqlite://db/state.db".to_owned(),
        "sqlite://file:./db/state.db?mode=rwc".to_owned(),
        format!("sqlite://{}", absolute.display()),
        format!("sqlite://file://{}", absolute.display()),
    ];
    for endpoint in endpoints {
        let store = store(&endpoint, &server, Access::Read).await;
        assert!(
            store.unwrap().get(KEY).await.unwrap().is_some(),
            "{endpoint}"
        );
    }
}

/// How one of the tests below is run as a program of its own, which finds the file in its
/// environment.
fn child(test: &str, file: &Path, prefix: &[&str]) -> (PathBuf, Vec<String>) {
    // Another user may not reach into the build output.
    let program = file.parent().unwrap().with_file_name("test-program");
    let own = std::env::current_exe().unwrap();
    let run = testkit::run("cp", &[own.as_path(), program.as_path()], b"");
    assert!(run.success(), "{}", run.text());
    let mut words: Vec<String> = prefix.iter().map(|it| (*it).to_owned()).collect();
    words.push("env".to_owned());
    words.push(format!("TEST_FILE={}", file.display()));
    words.push(program.display().to_string());
    words.extend(["--exact", test, "--nocapture"].map(str::to_owned));
    (PathBuf::from(words.remove(0)), words)
}

/// The file to work on, in a test that was run so.
fn file_of_child() -> Option<PathBuf> {
    std::env::var_os("TEST_FILE").map(PathBuf::from)
}

async fn read_and_write(file: &Path) {
    match SqliteStore::open(file, Access::Read).await {
        Ok(store) => {
            let store: &dyn kubepki_datastore::Store = &store;
            println!("read {:?}", store.get(KEY).await.unwrap().is_some());
        }
        Err(error) => println!("refused: {error}"),
    }
    let written = match SqliteStore::open(file, Access::Write).await {
        Ok(store) => {
            let store: &dyn kubepki_datastore::Store = &store;
            store.create("/bootstrap/x", b"y").await
        }
        Err(error) => Err(error),
    };
    match written {
        Ok(id) => println!("written {id}"),
        Err(DatastoreError::ReadOnly { .. }) => println!("only reading"),
        Err(error) => println!("refused: {error}"),
    }
}

#[tokio::test]
async fn where_nothing_can_be_written_the_file_is_still_read() {
    if let Some(file) = file_of_child() {
        return read_and_write(&file).await;
    }
    if fs::metadata("/proc/self").unwrap().uid() != 0 {
        panic!("run as root: another user has to be tried");
    }
    let fixture = fixture("k3s-1.36-sqlite");
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let place = folder.path().join("db");
    let from = database(&fixture);
    let run = testkit::run(
        "cp",
        &["-r".as_ref(), from.parent().unwrap(), place.as_path()],
        b"",
    );
    assert!(run.success(), "{}", run.text());
    let file = place.join("state.db");
    let modes = |file_mode| {
        for name in listing(&place).keys() {
            let mode = fs::Permissions::from_mode(file_mode);
            fs::set_permissions(place.join(name), mode).unwrap();
        }
        fs::set_permissions(&place, fs::Permissions::from_mode(0o755)).unwrap();
    };
    let nobody = [
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
        "--",
    ];
    let run = || {
        let (program, arguments) = child(
            "files::where_nothing_can_be_written_the_file_is_still_read",
            &file,
            &nobody,
        );
        let run = testkit::run(program, &arguments, b"");
        assert!(run.success(), "{}", run.text());
        run.text()
    };
    // With the log that a killed K3s leaves, and without.
    modes(0o644);
    let text = run();
    assert!(
        text.contains("read true") && text.contains("only reading"),
        "{text}"
    );
    sqlite(&file, "PRAGMA wal_checkpoint(TRUNCATE);");
    for left in ["state.db-wal", "state.db-shm"] {
        let _ = fs::remove_file(place.join(left));
    }
    modes(0o644);
    let before = listing(&place);
    let text = run();
    assert!(
        text.contains("read true") && text.contains("only reading"),
        "{text}"
    );
    assert_eq!(listing(&place), before);
    // And a file that may not be read at all.
    modes(0o600);
    let text = run();
    assert!(text.matches("refused: ").count() == 2, "{text}");
    assert!(text.contains("may not be opened"), "{text}");
}

async fn write_until_killed(file: &Path) {
    let store = SqliteStore::open(file, Access::Write).await.unwrap();
    let store: &dyn kubepki_datastore::Store = &store;
    let mut revision = store.get(KEY).await.unwrap().unwrap().revision;
    loop {
        let value = vec![u8::try_from(revision % 251).unwrap(); 40_000];
        revision = store.update(KEY, revision, &value).await.unwrap();
    }
}

#[tokio::test]
async fn a_writer_killed_at_any_moment_leaves_a_whole_table() {
    if let Some(file) = file_of_child() {
        return write_until_killed(&file).await;
    }
    let fixture = fixture("k3s-1.36-sqlite");
    let file = database(&fixture);
    let (program, arguments) = child(
        "files::a_writer_killed_at_any_moment_leaves_a_whole_table",
        &file,
        &[],
    );
    let mut last = 0;
    for round in 0..8 {
        let mut writer = spawn(&program, &arguments);
        let newest = |()| {
            sqlite(&file, "SELECT MAX(id) FROM kine;")
                .parse::<i64>()
                .unwrap()
        };
        let start = newest(());
        while newest(()) < start + 3 + round {
            tokio::time::sleep(Duration::from_millis(7)).await;
        }
        writer.kill().unwrap();
        writer.wait().unwrap();
        assert_eq!(sqlite(&file, "PRAGMA integrity_check;"), "ok");
        let broken = format!(
            "SELECT COUNT(*) FROM kine a LEFT JOIN kine b ON b.id = a.prev_revision \
             WHERE a.name = '{KEY}' AND a.id > 250 AND (b.name <> a.name OR \
             a.old_value IS NOT b.value OR length(a.value) = 0);"
        );
        assert_eq!(sqlite(&file, &broken), "0");
        assert!(newest(()) > last);
        last = newest(());
        write_once(&file).await;
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the test's own program, to be killed"
)]
fn spawn(program: &Path, arguments: &[String]) -> std::process::Child {
    let mut command = std::process::Command::new(program);
    command.args(arguments).stdout(std::process::Stdio::null());
    command.spawn().unwrap()
}
