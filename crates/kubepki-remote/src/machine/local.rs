//! The machine that this program runs on, with a Docker of its own.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use kubepki::host::{Host, HostError, LocalHost};
use kubepki::machine::Stream;

use super::{Link, Reach};
use crate::docker::{Dial, LocalSocket};

/// Reaches this machine: Docker by its socket, files directly where we may write.
#[derive(Clone, Copy, Debug, Default)]
pub struct LocalReach {
    /// Whether files go through Docker even if we may write them.
    pub files_by_docker: bool,
}

#[async_trait]
impl Reach for LocalReach {
    async fn connect(&self, host: &str) -> Result<Arc<dyn Link>, HostError> {
        Ok(Arc::new(LocalLink {
            host: host.to_owned(),
            files_by_docker: self.files_by_docker,
        }))
    }
}

#[derive(Debug)]
struct LocalLink {
    host: String,
    files_by_docker: bool,
}

#[async_trait]
impl Link for LocalLink {
    fn is_closed(&self) -> bool {
        false
    }

    async fn is_broken(&self) -> bool {
        false
    }

    fn news(&self) -> Vec<String> {
        Vec::new()
    }

    fn socket(&self, path: &str) -> Arc<dyn Dial> {
        Arc::new(LocalSocket(PathBuf::from(path)))
    }

    async fn open_tcp(&self, address: &str) -> Result<Box<dyn Stream>, HostError> {
        match tokio::net::TcpStream::connect(address).await {
            Ok(stream) => Ok(Box::new(stream)),
            Err(error) => Err(HostError::Remote {
                host: self.host.clone(),
                message: format!("cannot connect to {address}"),
                source: Some(Box::new(error)),
            }),
        }
    }

    async fn files(&self) -> Result<Option<Arc<dyn Host>>, HostError> {
        // Owners and modes are kept, and only root may give files away.
        let root = std::fs::metadata("/proc/self")
            .is_ok_and(|it| std::os::unix::fs::MetadataExt::uid(&it) == 0);
        let direct = root && !self.files_by_docker;
        Ok(direct.then(|| Arc::new(LocalHost) as Arc<dyn Host>))
    }

    fn may_write(&self, directory: &Path) -> bool {
        let nearest = directory.ancestors().find(|it| it.exists());
        nearest.is_some_and(|it| {
            std::fs::metadata(it).is_ok_and(|it| it.is_dir() && !it.permissions().readonly())
        })
    }
}
