//! Whether `kubepki serve` works in a data directory, and where it answers.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

use crate::error::CliError;

/// In the state directory: locked for as long as a server serves; it holds the server's URL, and in
/// a second line which run of it that is, and where.
pub const FILE: &str = "serve.lock";

/// The lock; plans have another.
#[derive(Debug)]
pub struct Alone {
    file: File,
    life: String,
}

impl Drop for Alone {
    /// Lets go at once: closing the file would not while a child that was just forked has a copy
    /// of it.
    fn drop(&mut self) {
        let _ = flock(&self.file, FlockOperation::Unlock);
    }
}

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
        let mut life = [0; 16];
        pki::random(&mut life).map_err(|error| CliError::failed(&error))?;
        let life = pki::hex(&life);
        Ok(Self { file, life })
    }

    /// Names this run of the server: no other has that name.
    pub fn life(&self) -> &str {
        &self.life
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
        let mut text = format!("https://{}\n", SocketAddr::new(address, listening.port()));
        if let Some(place) = place(&self.file) {
            text = format!("{text}{} {place}\n", self.life);
        }
        self.file.set_len(0)?;
        self.file.rewind()?;
        self.file.write_all(text.as_bytes())
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
            let url = text.lines().next().unwrap_or_default();
            url.starts_with("https://").then(|| url.to_owned())
        }
    }
}

/// Which run of the server last worked in the data directory of that state directory, if that is
/// known to be over: the lock that it held is free. A copy of the lock proves nothing, nor does one
/// that was held before this machine was started.
pub fn ended(state: &Path) -> Option<String> {
    let mut file = File::open(state.join(FILE)).ok()?;
    flock(&file, FlockOperation::NonBlockingLockShared).ok()?;
    let mut text = String::new();
    file.read_to_string(&mut text).ok()?;
    let (life, place) = text.lines().nth(1)?.split_once(' ')?;
    (place == self::place(&file)?).then(|| life.to_owned())
}

/// What only this file has, and only until this machine is started again.
fn place(file: &File) -> Option<String> {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let file = file.metadata().ok()?;
    Some(format!("{} {}:{}", boot.trim(), file.dev(), file.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The file in its place, without what it said.
    fn emptied(path: &Path) -> File {
        let mut options = std::fs::OpenOptions::new();
        let options = options.write(true).create(true).truncate(true);
        options.open(path).unwrap()
    }

    #[test]
    fn who_held_the_lock_is_over_when_it_is_free_and_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path();
        assert_eq!(ended(state), None);
        let mut alone = Alone::take(state).unwrap();
        let life = alone.life().to_owned();
        alone.at("[::]:6443".parse().unwrap()).unwrap();
        assert_eq!(ended(state), None);
        assert_eq!(serving(state).as_deref(), Some("https://127.0.0.1:6443"));
        // Of a copy nobody knows whether the server lives on beside the other one.
        let copy = tempfile::tempdir().unwrap();
        let text = std::fs::read(state.join(FILE)).unwrap();
        let mut file = emptied(&copy.path().join(FILE));
        file.write_all(&text).unwrap();
        assert_eq!(ended(copy.path()), None);
        drop(alone);
        assert_eq!(ended(copy.path()), None);
        assert_eq!(ended(state), Some(life.clone()));
        assert_eq!(serving(state), None);
        // The next one has said nothing yet, nor has one of another boot.
        let next = Alone::take(state).unwrap();
        assert_ne!(next.life(), life);
        drop(next);
        assert_eq!(ended(state), None);
        let mut file = emptied(&state.join(FILE));
        let place = super::place(&file).unwrap();
        let (boot, place) = place.split_once(' ').unwrap();
        let other = boot.replace(|_: char| true, "0");
        file.write_all(format!("https://x\n{life} {other} {place}\n").as_bytes())
            .unwrap();
        assert_eq!(ended(state), None);
    }
}
