//! Trees, disks and state directories as they should not be: each gets a clear error with its own
//! exit code, nothing is half-written, and nothing panics.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "tests fail by panicking and spoil files"
)]

mod authority;
#[path = "../common/mod.rs"]
mod common;
mod disk;
mod names;
mod rke;
mod state;
mod trees;

use testkit::Run;

/// A tree that real K3s wrote.
const SERVER: &str = "k3s-1.36-sqlite";

/// What holds however a command ends: no panic, a documented code, nothing that a terminal obeys.
#[track_caller]
fn assert_civil(what: &str, run: &Run) {
    let text = run.text();
    assert!(!text.contains("panicked at"), "{what}: {text}");
    assert!(
        run.code.is_some_and(|code| (0..=7).contains(&code)),
        "{what}: {:?}: {text}",
        run.code
    );
    let obeyed = |letter: char| letter.is_control() && letter != '\n' && letter != '\t';
    assert!(!text.contains(obeyed), "{what}: {text:?}");
}

/// A program run with `arguments`, as `user` if one is given.
fn run(program: &str, arguments: &[&str], user: Option<&str>) -> Run {
    match user {
        None => testkit::run(program, arguments, b""),
        Some(user) => {
            let mut words = vec!["--reuid", user, "--regid", user, "--clear-groups", program];
            words.extend(arguments);
            testkit::run("setpriv", &words, b"")
        }
    }
}

/// Whether the tests may mount and become other users.
fn as_root() -> bool {
    testkit::run("id", &["-u"], b"").stdout == b"0\n"
}
