//! A host that fails at a chosen call, and from then on: a crash, seen from inside.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use kubepki::host::{Entry, Host, HostError, LocalHost, Output};

#[derive(Debug)]
pub struct FaultyHost {
    left: AtomicUsize,
    /// Whether the failing call is carried out before it fails.
    after: bool,
}

impl FaultyHost {
    /// Fails at call number `nth` (from 1) and all later ones.
    pub fn at(nth: usize, after: bool) -> Self {
        Self {
            left: AtomicUsize::new(nth),
            after,
        }
    }

    /// Whether the call to come is the one that fails; an error if it came before.
    fn count(&self, path: &Path) -> Result<bool, HostError> {
        let left = self.left.load(Ordering::Relaxed);
        if left == 0 {
            return Err(broken(path));
        }
        self.left.store(left - 1, Ordering::Relaxed);
        if left == 1 && !self.after {
            return Err(broken(path));
        }
        Ok(left == 1)
    }

    pub fn broke(&self) -> bool {
        self.left.load(Ordering::Relaxed) == 0
    }
}

fn broken(path: &Path) -> HostError {
    let source = std::io::Error::other("the test broke it");
    HostError::File {
        action: "reach",
        path: path.to_owned(),
        source,
    }
}

#[async_trait]
impl Host for FaultyHost {
    async fn read(&self, path: &Path) -> Result<Option<Entry>, HostError> {
        let fails = self.count(path)?;
        let entry = LocalHost.read(path).await?;
        if fails { Err(broken(path)) } else { Ok(entry) }
    }

    async fn put(&self, path: &Path, entry: &Entry) -> Result<(), HostError> {
        let fails = self.count(path)?;
        LocalHost.put(path, entry).await?;
        if fails { Err(broken(path)) } else { Ok(()) }
    }

    async fn remove(&self, path: &Path) -> Result<(), HostError> {
        let fails = self.count(path)?;
        LocalHost.remove(path).await?;
        if fails { Err(broken(path)) } else { Ok(()) }
    }

    async fn list(&self, path: &Path) -> Result<Option<Vec<String>>, HostError> {
        let fails = self.count(path)?;
        let names = LocalHost.list(path).await?;
        if fails { Err(broken(path)) } else { Ok(names) }
    }

    async fn run(&self, argv: &[String], timeout: Duration) -> Result<Output, HostError> {
        let fails = self.count(Path::new("command"))?;
        let output = LocalHost.run(argv, timeout).await?;
        if fails {
            Err(broken(Path::new("command")))
        } else {
            Ok(output)
        }
    }
}
