//! `restore`, and taking it back.

use std::fs;
use std::path::PathBuf;
use std::time::SystemTime;

use kubepki::bootstrap::{Field, Stamp};

use crate::lab::{Lab, TOKEN, files};

/// The servers of the recordings are not running.
const STILL: [&str; 2] = ["--still-for", "0"];

fn with<'a>(args: &[&'a str]) -> Vec<&'a str> {
    args.iter().copied().chain(STILL).collect()
}

/// The disk's service keys get a line end, and are newer.
fn spoil(lab: &Lab) -> Vec<u8> {
    let path = lab.server().join("tls/service.key");
    let mut bytes = fs::read(&path).unwrap();
    bytes.push(b'\n');
    fs::write(&path, &bytes).unwrap();
    bytes
}

#[test]
fn a_disk_is_restored_and_that_is_taken_back() {
    let lab = Lab::new("k3s-1.36-sqlite");
    let was = lab.opened(TOKEN);
    let bytes = spoil(&lab);
    lab.ends(&["bootstrap", "diff"], 4);
    let run = lab.ends(&with(&["bootstrap", "restore", "--yes"]), 0);
    assert!(!run.text().contains("PRIVATE KEY"));
    let now = lab.opened(TOKEN);
    assert_eq!(now.bundle.content(Field::ServiceKey), Some(&bytes[..]));
    assert!(now.record.revision > was.record.revision);
    assert_eq!(now.record.create_revision, was.record.create_revision);
    let stamp = now.bundle.files[&Field::ServiceKey].stamp;
    let clock = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let age = i64::try_from(clock.unwrap().as_secs()).unwrap() - stamp.seconds;
    assert!((0..60).contains(&age), "times are those of the write");
    lab.ends(&["bootstrap", "diff"], 0);
    lab.ends(&["bootstrap", "verify"], 0);

    lab.ends(&with(&["undo", "--yes"]), 0);
    let back = lab.opened(TOKEN);
    assert!(
        back.record.revision > now.record.revision,
        "a new row, not an old one"
    );
    let contents = |opened: &kubepki::bootstrap::Opened| -> Vec<Vec<u8>> {
        opened
            .bundle
            .files
            .values()
            .map(|file| file.content.to_vec())
            .collect()
    };
    assert_eq!(contents(&back), contents(&was));
    assert!(back.bundle.files.values().all(|file| file.stamp >= stamp));
}

#[test]
fn nothing_is_restored_where_both_are_the_same() {
    let lab = Lab::new("k3s-1.36-custom-ca");
    let before = lab.tree();
    let run = lab.ends(&with(&["bootstrap", "restore", "--yes"]), 0);
    assert!(run.text().contains("Nothing to do"), "{}", run.text());
    lab.assert_untouched(&before);
}

#[test]
fn a_damaged_value_is_replaced() {
    let lab = Lab::new("k3s-1.36-sqlite");
    damage(&lab);
    let run = lab.ends(&["bootstrap", "show"], 4);
    assert!(run.text().contains("cannot be opened"), "{}", run.text());
    lab.ends(&with(&["bootstrap", "restore", "--yes"]), 0);
    lab.ends(&["bootstrap", "diff"], 0);
    lab.ends(&["bootstrap", "verify"], 0);
}

/// Changes one letter of the newest ciphertext.
fn damage(lab: &Lab) {
    let sql = "UPDATE kine SET value = CAST(replace(CAST(value AS TEXT), \
               substr(CAST(value AS TEXT), 100, 4), 'AAAA') AS BLOB) \
               WHERE id = (SELECT max(id) FROM kine WHERE name LIKE '/bootstrap/%')";
    sqlite(lab, sql);
}

/// Runs a statement in the tree's SQLite file.
pub fn sqlite(lab: &Lab, sql: &str) {
    let db = lab.server().join("db/state.db");
    let program = "import sqlite3, sys\nc = sqlite3.connect(sys.argv[1])\n\
                   c.execute(sys.argv[2])\nc.commit()\n";
    let run = testkit::run("python3", &["-c", program, db.to_str().unwrap(), sql], b"");
    assert!(run.success(), "{}", run.text());
}

#[test]
fn a_snapshot_is_restored_without_its_passwords() {
    // The database as it was, kept as a file.
    let lab = Lab::new("k3s-1.36-custom-ca");
    let kept = lab.scratch("kept.db");
    fs::copy(lab.server().join("db/state.db"), &kept).unwrap();
    let wal = lab.server().join("db/state.db-wal");
    if wal.exists() {
        fs::copy(wal, lab.scratch("kept.db-wal")).unwrap();
    }
    let was = lab.opened(TOKEN);
    spoil(&lab);
    lab.ends(&with(&["bootstrap", "restore", "--yes"]), 0);
    let kept = kept.to_str().unwrap();
    let shown = lab.ends(&["bootstrap", "show", "--snapshot", kept], 0);
    assert!(shown.text().contains("kept.db"), "{}", shown.text());
    lab.ends(
        &with(&["bootstrap", "restore", "--snapshot", kept, "--yes"]),
        0,
    );
    let now = lab.opened(TOKEN);
    assert_eq!(
        now.bundle.content(Field::ServiceKey),
        was.bundle.content(Field::ServiceKey)
    );
    assert!(now.bundle.files[&Field::ServiceKey].stamp > Stamp::ZERO);
}

#[test]
fn a_wiped_server_gets_its_files_back_and_the_extraction_is_taken_back() {
    let lab = Lab::new("k3s-1.36-custom-ca");
    let tls = lab.server().join("tls");
    let kept = fs::read(tls.join("server-ca.key")).unwrap();
    fs::remove_dir_all(&tls).unwrap();
    fs::create_dir(&tls).unwrap();
    let before = files(&lab.server());
    lab.ends(&["bootstrap", "extract", "--yes"], 0);
    assert_eq!(fs::read(tls.join("server-ca.key")).unwrap(), kept);
    lab.ends(&["bootstrap", "diff"], 0);
    lab.ends(&["undo", "--yes"], 0);
    let index = |path: &PathBuf| path.ends_with("state.db-shm");
    let mut after = files(&lab.server());
    after.retain(|path, _| !index(path));
    assert!(
        after
            .iter()
            .eq(before.iter().filter(|(path, _)| !index(path)))
    );
}

#[test]
fn an_extraction_keeps_modes_and_needs_a_word_for_newer_files() {
    use std::os::unix::fs::PermissionsExt as _;

    let lab = Lab::new("k3s-1.36-sqlite");
    let path = lab.server().join("tls/server-ca.crt");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    fs::write(&path, "other").unwrap();
    let before = lab.tree();
    let run = lab.ends(&["bootstrap", "extract", "--yes"], 5);
    assert!(
        run.text().contains("newer than datastore"),
        "{}",
        run.text()
    );
    lab.assert_untouched(&before);
    lab.ends(&["bootstrap", "extract", "--keep", "datastore", "--yes"], 0);
    let metadata = fs::metadata(&path).unwrap();
    assert_eq!(metadata.permissions().mode() & 0o7777, 0o640);
    lab.ends(&["bootstrap", "diff"], 0);
}
