//! What the tests of all crates share: trees that real clusters wrote, comparison of trees,
//! throw-away keys, second opinions and golden files.
//!
//! Everything here panics when it cannot do its work: the test that asked fails with the reason.

#![expect(clippy::panic, reason = "a test fails by panicking")]

mod crash;
mod fixture;
mod golden;
mod keys;
pub mod kube;
mod opinion;
pub mod rke;
mod secrets;
pub mod server;
pub mod stacks;
pub mod supervisor;
mod tree;

use std::path::PathBuf;

pub use crash::{CrashPoint, Victim};
pub use fixture::{Fixture, fixture};
pub use golden::{assert_golden, line_diff};
pub use keys::KeyPool;
pub use opinion::{Run, go_program, openssl, openssl_ok, run};
pub use secrets::Secrets;
pub use server::{Etcd, EtcdMember, SshKey, SshKeyType, Sshd, SshdOptions, TlsFiles, free_port};
pub use tree::{DiffOptions, Node, NodeKind, Tree};

/// The folder that holds `Cargo.lock`, `fixtures/` and `crates/`.
pub fn repository() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

/// A folder under the build output that outlives the test, for what is dear to make.
fn cache(name: &str) -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| repository().join("target"), PathBuf::from);
    let folder = target.join("testkit").join(name);
    if let Err(error) = std::fs::create_dir_all(&folder) {
        panic!("cannot make {}: {error}", folder.display());
    }
    folder
}

/// Lower-case hex of the SHA-256 of `bytes`.
pub fn sha256(bytes: &[u8]) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    digest
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
