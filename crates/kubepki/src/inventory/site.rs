//! Where a node keeps its PKI.

use std::path::{Component, Path, PathBuf};

use crate::host::{EntryKind, Host, HostError};

/// What kind of node a data directory belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It has `server/`: control plane, with an agent beside it or not.
    Server,
    /// It has `agent/` alone.
    AgentOnly,
}

/// A node's directories, links resolved once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    /// The data directory.
    pub data_dir: PathBuf,
    /// Server or agent.
    pub role: Role,
    /// Whether K3s itself works on it, and so makes what is missing at its start: it has left
    /// traces here, or the caller knows of a unit or process. A node that only `kubepki join`
    /// made has nobody who would.
    pub has_k3s: bool,
    /// The administrator's kubeconfig outside the data directory, if it is in scope.
    pub admin_kubeconfig: Option<PathBuf>,
    /// The data directory that paths inside the files name; differs from [`Self::data_dir`] when
    /// a tree was copied.
    pub recorded_data_dir: PathBuf,
}

/// A directory that is no node's.
#[derive(Debug, thiserror::Error)]
pub enum SiteError {
    /// It holds neither `server/` nor `agent/`.
    #[error(
        "{} holds neither server/ nor agent/: name a K3s data directory with --data-dir",
        path.display()
    )]
    NotADataDir {
        /// The directory.
        path: PathBuf,
    },
    /// It could not be looked at.
    #[error("cannot look into {}", path.display())]
    Host {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: HostError,
    },
}

/// Where K3s keeps its data unless told otherwise.
pub const DEFAULT_DATA_DIR: &str = "/var/lib/rancher/k3s";

impl Site {
    /// Looks at the data directory `data_dir`, links already resolved. A server directory
    /// (one that holds `tls/`) is taken for its parent's.
    ///
    /// # Errors
    ///
    /// [`SiteError::NotADataDir`] when nothing of K3s is there.
    pub async fn open(
        host: &dyn Host,
        data_dir: &Path,
        admin_kubeconfig: Option<PathBuf>,
    ) -> Result<Self, SiteError> {
        let names = match host.list(data_dir).await {
            Ok(names) => names.unwrap_or_default(),
            Err(source) => {
                return Err(SiteError::Host {
                    path: data_dir.to_owned(),
                    source,
                });
            }
        };
        let has = |name: &str| names.iter().any(|found| found == name);
        let (data_dir, role) = match () {
            () if has("server") => (data_dir.to_owned(), Role::Server),
            () if has("tls") && data_dir.ends_with("server") => (
                data_dir.parent().unwrap_or(data_dir).to_owned(),
                Role::Server,
            ),
            () if has("agent") => (data_dir.to_owned(), Role::AgentOnly),
            () => {
                return Err(SiteError::NotADataDir {
                    path: data_dir.to_owned(),
                });
            }
        };
        // Files that cannot be read are entries; a node of which nothing can be read is an error.
        for directory in ["server/tls", "agent"].map(|name| data_dir.join(name)) {
            let listed = host.list(&directory).await;
            listed.map_err(|source| SiteError::Host {
                path: data_dir.clone(),
                source,
            })?;
        }
        let has_k3s = role == Role::Server || has_traces(host, &data_dir).await;
        let recorded_data_dir = recorded(host, &data_dir)
            .await
            .unwrap_or_else(|| data_dir.clone());
        Ok(Self {
            data_dir,
            role,
            has_k3s,
            admin_kubeconfig,
            recorded_data_dir,
        })
    }

    /// `<data>/server`.
    pub fn server(&self) -> PathBuf {
        self.data_dir.join("server")
    }

    /// `<data>/agent`.
    pub fn agent(&self) -> PathBuf {
        self.data_dir.join("agent")
    }

    /// Whether the link `link` to `target` leads out of the data directory, by its words.
    pub fn is_outside(&self, link: &Path, target: &Path) -> bool {
        let mut walked = match target.is_absolute() {
            true => PathBuf::new(),
            false => link.parent().unwrap_or(link).to_owned(),
        };
        for component in target.components() {
            match component {
                Component::ParentDir => {
                    walked.pop();
                }
                Component::CurDir => {}
                other => walked.push(other),
            }
        }
        !walked.starts_with(&self.data_dir) && !walked.starts_with(&self.recorded_data_dir)
    }

    /// A path that a recorded file names, moved under [`Self::data_dir`].
    pub fn resolve(&self, path: &Path) -> PathBuf {
        match path.strip_prefix(&self.recorded_data_dir) {
            Ok(rest) => self.data_dir.join(rest),
            Err(_) => path.to_owned(),
        }
    }
}

/// Whether a K3s agent has worked in this data directory: it leaves more there than certificates
/// and its node's password, which is all that `kubepki join` writes.
async fn has_traces(host: &dyn Host, data_dir: &Path) -> bool {
    const TRACES: [(&str, &[&str]); 3] = [
        ("", &["data"]),
        ("agent", &["containerd", "images", "pod-manifests"]),
        (
            "agent/etc",
            &[
                "containerd",
                "kubelet.conf.d",
                "k3s-agent-load-balancer.json",
                "k3s-api-server-agent-load-balancer.json",
            ],
        ),
    ];
    for (folder, traces) in TRACES {
        let names = host.list(&data_dir.join(folder)).await;
        let names = names.ok().flatten().unwrap_or_default();
        if names.iter().any(|name| traces.contains(&name.as_str())) {
            return true;
        }
    }
    false
}

/// The data directory that the node's own kubeconfigs name.
async fn recorded(host: &dyn Host, data_dir: &Path) -> Option<PathBuf> {
    const WHERE: [(&str, &str); 2] = [
        ("server/cred/admin.kubeconfig", "/server/tls/server-ca.crt"),
        ("agent/kubelet.kubeconfig", "/agent/server-ca.crt"),
    ];
    for (file, tail) in WHERE {
        let Ok(Some(entry)) = host.read(&data_dir.join(file)).await else {
            continue;
        };
        let EntryKind::File(bytes) = &entry.kind else {
            continue;
        };
        let text = String::from_utf8_lossy(bytes);
        let named = text
            .lines()
            .find_map(|line| line.trim().strip_prefix("certificate-authority:"))
            .and_then(|path| path.trim().trim_matches(['"', '\'']).strip_suffix(tail));
        if let Some(named) = named {
            return Some(PathBuf::from(named));
        }
    }
    None
}
