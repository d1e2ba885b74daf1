//! A process that is killed in the middle of a rotation.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use kubepki::host::{Entry, Host, HostError, LocalHost, Output};
use rustix::process::Signal;

/// This machine, until `left` entries are put in place; then this process kills itself.
#[derive(Debug)]
pub struct Killer {
    /// How many entries can still be put.
    pub left: AtomicUsize,
}

impl Killer {
    /// SIGKILL: no destructor runs, nothing is flushed, as when the machine dies.
    fn count(&self) {
        if self.left.fetch_sub(1, Ordering::Relaxed) == 0 {
            let _ = rustix::process::kill_process(rustix::process::getpid(), Signal::KILL);
        }
    }
}

#[async_trait]
impl Host for Killer {
    async fn read(&self, path: &Path) -> Result<Option<Entry>, HostError> {
        LocalHost.read(path).await
    }

    async fn put(&self, path: &Path, entry: &Entry) -> Result<(), HostError> {
        self.count();
        LocalHost.put(path, entry).await
    }

    async fn remove(&self, path: &Path) -> Result<(), HostError> {
        self.count();
        LocalHost.remove(path).await
    }

    async fn list(&self, path: &Path) -> Result<Option<Vec<String>>, HostError> {
        LocalHost.list(path).await
    }

    async fn run(&self, argv: &[String], timeout: Duration) -> Result<Output, HostError> {
        LocalHost.run(argv, timeout).await
    }
}
