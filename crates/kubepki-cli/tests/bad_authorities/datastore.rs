//! Refusals that come after the datastore was opened leave its file and log byte-identical.

use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};

use kubepki::datastore::Datastore as _;
use kubepki_datastore::{Access, SqliteStore};

use crate::{KUBEPKI, Lab};

const NOW: [&str; 3] = ["--yes", "--still-for", "0"];

#[test]
fn no_token_and_a_disk_that_cannot_be_written() {
    let lab = Lab::new("k3s-1.36-custom-ca");
    let good = lab.good();
    let rotate = ["rotate-ca", "--path", &good];
    let commands = [&rotate[..], &["token", "rotate"], &["sa-key", "rotate"]];

    // As a full disk: nothing can be staged.
    let state = lab.fixture.data_dir().join("kubepki");
    std::fs::create_dir(&state).unwrap();
    std::fs::set_permissions(&state, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    std::fs::write(state.join("staging"), "in the way").unwrap();
    let before = lab.tree();
    for command in commands {
        let run = lab.run(&[command, &NOW].concat());
        assert_eq!(run.code, Some(1), "{}", run.text());
        lab.assert_untouched(&before);
    }
    std::fs::remove_dir_all(state).unwrap();

    for name in ["token", "cred/passwd"] {
        std::fs::remove_file(lab.server().join(name)).unwrap();
    }
    std::fs::write(lab.server().join("token"), "another-token\n").unwrap();
    let before = lab.tree();
    for command in [&rotate[..], &["sa-key", "rotate"]] {
        lab.ends(
            &[command, &NOW].concat(),
            5,
            "encrypted with a different token",
        );
        lab.assert_untouched(&before);
    }
    let run = lab.run(&[&["token", "rotate"][..], &NOW].concat());
    assert!(matches!(run.code, Some(1 | 5)), "{}", run.text());
    lab.assert_untouched(&before);
}

/// A value that nothing opens says what puts another in its place; a file without kine's table
/// is left without a log.
#[test]
fn damaged_data() {
    let lab = Lab::new("k3s-1.36-custom-ca");
    let file = lab.server().join("db/state.db").display().to_string();
    let sql = |text: &str| {
        let run = testkit::run("sqlite3", &[&file, text], b"");
        assert!(run.success(), "{}", run.text());
    };
    sql("UPDATE kine SET value = x'00ff' WHERE name LIKE '/bootstrap/%' AND length(value) > 0");
    let before = lab.tree();
    lab.ends(&["bootstrap", "verify"], 4, "kubepki bootstrap restore");
    lab.assert_untouched(&before);
    sql("DROP TABLE kine");
    let before = lab.tree();
    for _ in 0..8 {
        lab.ends(&["bootstrap", "show"], 1, "it has no table kine");
        lab.assert_untouched(&before);
    }
}

/// A server that is started while the operator reads the plan.
#[test]
fn somebody_writes_while_the_question_stands() {
    let lab = Lab::new("k3s-1.36-custom-ca");
    let command = format!(
        "{KUBEPKI} rotate-ca --path {} --still-for 0 --data-dir {}",
        lab.good(),
        lab.fixture.data_dir().display()
    );
    // A terminal, so that it asks.
    let mut child = Command::new("script")
        .args(["-qec", &command, "/dev/null"])
        .env_remove("K3S_TOKEN")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = child.stdout.take().unwrap();
    let mut heard = Vec::new();
    let mut piece = [0; 4096];
    while !heard.windows(5).any(|window| window == b"[y/N]") {
        let length = output.read(&mut piece).unwrap();
        assert!(length > 0, "{}", String::from_utf8_lossy(&heard));
        heard.extend(piece.iter().take(length));
    }
    let file = lab.server().join("db/state.db");
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(async {
            let store = SqliteStore::open(&file, Access::Write).await.unwrap();
            store.create("/registry/started", b"{}").await.unwrap();
        });
    let before = lab.tree();
    child.stdin.take().unwrap().write_all(b"y\n").unwrap();
    output.read_to_end(&mut heard).unwrap();
    let heard = String::from_utf8_lossy(&heard).into_owned();
    assert_eq!(child.wait().unwrap().code(), Some(5), "{heard}");
    assert!(heard.contains("somebody wrote to the datastore"), "{heard}");
    lab.assert_untouched(&before);
}
