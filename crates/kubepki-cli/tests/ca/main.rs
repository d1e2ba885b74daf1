//! `kubepki ca …` and the drop-in scripts, as an operator runs them.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

#[path = "../common/mod.rs"]
mod common;
mod company;
mod stage;

use std::fs;
use std::path::Path;

use common::KUBEPKI;
use testkit::Run;

/// Runs `kubepki ARGS`, which must end with `code`.
#[track_caller]
fn program(args: &[&str], code: i32) -> Run {
    let run = testkit::run(KUBEPKI, args, b"");
    assert_eq!(run.code, Some(code), "{}", run.text());
    run
}

/// A private file.
fn put(path: &Path, bytes: &[u8]) {
    kubepki::edge::file::replace(path, bytes, &kubepki::host::Attributes::new(0o600)).unwrap();
}

/// Whether OpenSSL walks from the first certificate of `chain` to a root of `trusted`, given
/// what a server sends.
fn openssl_accepts(chain: &Path, sent: usize, trusted: &Path) -> bool {
    let folder = tempfile::tempdir().unwrap();
    let text = fs::read_to_string(chain).unwrap();
    let blocks: Vec<&str> = text
        .split_inclusive("-----END CERTIFICATE-----\n")
        .collect();
    let put = |name: &str, text: &str| {
        let path = folder.path().join(name);
        kubepki::edge::file::replace(
            &path,
            text.as_bytes(),
            &kubepki::host::Attributes::new(0o600),
        )
        .unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (one, others) = (
        put("one", blocks[0]),
        put("others", &blocks[1..sent].concat()),
    );
    let trusted = trusted.to_str().unwrap();
    // Without -trusted_first the first issuer by name of what is sent counts, as in a handshake.
    let args = ["verify", "-CAfile", trusted, "-untrusted", &others, &one];
    testkit::openssl(&args, b"").success()
}
