//! Whether `kubepki serve` works in a data directory, and where it answers.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

use crate::error::CliError;

/// In the state directory: locked for as long as a server serves; it holds the server's URL.
pub const FILE: &str = "serve.lock";

/// The lock; plans have another.
#[derive(Debug)]
pub struct Alone(File);

impl Alone {
    /// Takes it.
    ///
    /// # Errors
    ///
    /// A refusal while another server holds it.
    pub fn take(state: &Path) -> Result<Self, CliError> {
        let path = state.join(FILE);
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)?;
        flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|_| {
            CliError::refused(format!(
                "another `kubepki serve` works in this data directory: it holds {}",
                path.display()
            ))
        })?;
        file.set_len(0)?;
        Ok(Self(file))
    }

    /// Says where the server answers, for programs on this machine.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub fn at(&mut self, listening: SocketAddr) -> std::io::Result<()> {
        let address = match listening.ip() {
            it if it.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
            it => it,
        };
        let url = format!("https://{}\n", SocketAddr::new(address, listening.port()));
        self.0.set_len(0)?;
        self.0.rewind()?;
        self.0.write_all(url.as_bytes())
    }
}

/// The URL of the server that works in the data directory of that state directory; `None` where
/// none does, or does not answer yet.
pub fn serving(state: &Path) -> Option<String> {
    let mut file = File::open(state.join(FILE)).ok()?;
    match flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => None,
        Err(_) => {
            let mut text = String::new();
            file.read_to_string(&mut text).ok()?;
            let url = text.trim_end();
            url.starts_with("https://").then(|| url.to_owned())
        }
    }
}
