//! Strangers' opinions: Go, whose word decides in Kubernetes, and OpenSSL and GnuTLS, which
//! everyone else uses.
//!
//! Needs `go` (1.19 or later), `openssl` and `certtool`. Where one cannot be had,
//! `KUBEPKI_TEST_WITHOUT=go,openssl,certtool` leaves the named ones out.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "tests fail by panicking and talk to other programs"
)]

mod go;
mod openssl;
mod openssl_paths;
mod parse;

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// Whether the environment says to leave `program` out.
fn without(program: &str) -> bool {
    std::env::var("KUBEPKI_TEST_WITHOUT")
        .is_ok_and(|list| list.split(',').any(|name| name == program))
}

/// Runs a program with `input`, and panics only if it cannot be started.
fn run(directory: &Path, program: &str, arguments: &[&str], input: &[u8]) -> Output {
    let mut child = Command::new(program)
        .args(arguments)
        .current_dir(directory)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{program}: {error}; see the head of tests/foreign"));
    let mut pipe = child.stdin.take().unwrap();
    let input = input.to_vec();
    // A program that answers while it reads would block a writer that does not read.
    let writer = std::thread::spawn(move || pipe.write_all(&input));
    let output = child.wait_with_output().unwrap();
    // A program may stop reading early; its answer tells why.
    let _ = writer.join().unwrap();
    output
}
