//! The files on the operator's machine.

use std::path::PathBuf;

use crate::host::{Entry, Host, HostError};
use crate::plan::{Before, Fingerprint};
use crate::rke::state::Files;

/// The directory of a `cluster.yml`, and what of it a plan changes.
#[derive(Clone, Debug, PartialEq)]
pub struct Site {
    /// The directory, absolute.
    pub root: PathBuf,
    /// The state file, absolute.
    pub state: PathBuf,
    /// What a plan finds there.
    pub state_before: Before,
    /// The administrator's kubeconfig, absolute.
    pub kubeconfig: PathBuf,
    /// What a plan finds there.
    pub kubeconfig_before: Before,
    /// The kubeconfig as RKE spells it: `./kube_config_cluster.yml`.
    pub kubeconfig_spelled: String,
}

impl Site {
    /// Looks at the files of a `cluster.yml` that lies in `root`, an absolute directory. The
    /// state file's entry comes along, for its bytes.
    ///
    /// # Errors
    ///
    /// When a file cannot be read; that there is none is no error.
    pub async fn open(
        host: &dyn Host,
        root: PathBuf,
        files: &Files,
    ) -> Result<(Self, Option<Entry>), HostError> {
        let within = |path: &PathBuf| match path.file_name() {
            Some(name) => root.join(name),
            None => root.clone(),
        };
        let (state, kubeconfig) = (within(&files.state), within(&files.kubeconfig));
        let found = host.read(&state).await?;
        let admin = host.read(&kubeconfig).await?;
        let before = |entry: Option<&Entry>| match entry {
            Some(entry) => Before::Present(Fingerprint::of(entry)),
            None => Before::Absent,
        };
        let site = Self {
            state_before: before(found.as_ref()),
            kubeconfig_before: before(admin.as_ref()),
            kubeconfig_spelled: files.kubeconfig.display().to_string(),
            root,
            state,
            kubeconfig,
        };
        Ok((site, found))
    }
}
