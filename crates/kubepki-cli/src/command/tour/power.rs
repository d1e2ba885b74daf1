//! A machine whose power fails in the middle of a rotation.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use kubepki::host::{Entry, Host, HostError, LocalHost, Output};

/// This machine, until it has put `left` entries in place; after that nothing works.
#[derive(Debug)]
pub struct PowerCut {
    /// How many entries can still be put.
    pub left: AtomicUsize,
}

impl PowerCut {
    fn failing(&self, path: &Path) -> Result<(), HostError> {
        match self.left.load(Ordering::Relaxed) {
            0 => Err(HostError::File {
                action: "write",
                path: path.to_owned(),
                source: std::io::Error::other("the power is gone (the tour pulled the plug)"),
            }),
            _ => Ok(()),
        }
    }
}

#[async_trait]
impl Host for PowerCut {
    async fn read(&self, path: &Path) -> Result<Option<Entry>, HostError> {
        LocalHost.read(path).await
    }

    async fn put(&self, path: &Path, entry: &Entry) -> Result<(), HostError> {
        self.failing(path)?;
        self.left.fetch_sub(1, Ordering::Relaxed);
        LocalHost.put(path, entry).await
    }

    async fn remove(&self, path: &Path) -> Result<(), HostError> {
        self.failing(path)?;
        LocalHost.remove(path).await
    }

    async fn list(&self, path: &Path) -> Result<Option<Vec<String>>, HostError> {
        LocalHost.list(path).await
    }

    async fn run(&self, argv: &[String], timeout: Duration) -> Result<Output, HostError> {
        LocalHost.run(argv, timeout).await
    }
}
