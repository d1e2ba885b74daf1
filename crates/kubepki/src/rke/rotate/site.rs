//! The files on the operator's machine.

use std::path::PathBuf;

use crate::host::{Entry, Host, HostError, followed};
use crate::kubeconfig::Kubeconfig;
use crate::plan::{Before, Fingerprint};
use crate::rke::state::Files;

/// The directory of a `cluster.yml`, and what of it a plan changes.
#[derive(Clone, Debug, PartialEq)]
pub struct Site {
    /// The directory, absolute.
    pub root: PathBuf,
    /// The state file, absolute, links resolved.
    pub state: PathBuf,
    /// What a plan finds there.
    pub state_before: Before,
    /// The administrator's kubeconfig, absolute, links resolved.
    pub kubeconfig: PathBuf,
    /// What a plan finds there.
    pub kubeconfig_before: Before,
    /// The API server that it names now, if it can be read: `https://10.0.0.1:6443`.
    pub kubeconfig_server: Option<String>,
    /// The kubeconfig as RKE spells it: `./kube_config_cluster.yml`.
    pub kubeconfig_spelled: String,
}

impl Site {
    /// Looks at the files of a `cluster.yml` that lies in `root`, an absolute directory. The
    /// state file's entry comes along, for its bytes. Where a file is a link, as RKE follows it,
    /// what it leads to is meant from here on.
    ///
    /// # Errors
    ///
    /// When a file cannot be read, or links lead in a circle; that there is none is no error.
    pub async fn open(
        host: &dyn Host,
        root: PathBuf,
        files: &Files,
    ) -> Result<(Self, Option<Entry>), HostError> {
        let within = |path: &PathBuf| match path.file_name() {
            Some(name) => root.join(name),
            None => root.clone(),
        };
        let (state, found) = followed(host, within(&files.state)).await?;
        let (kubeconfig, admin) = followed(host, within(&files.kubeconfig)).await?;
        let before = |entry: Option<&Entry>| match entry {
            Some(entry) => Before::Present(Fingerprint::of(entry)),
            None => Before::Absent,
        };
        let site = Self {
            state_before: before(found.as_ref()),
            kubeconfig_before: before(admin.as_ref()),
            kubeconfig_server: admin.as_ref().and_then(Entry::bytes).and_then(server),
            kubeconfig_spelled: files.kubeconfig.display().to_string(),
            root,
            state,
            kubeconfig,
        };
        Ok((site, found))
    }
}

/// The API server of a kubeconfig's current context.
pub(super) fn server(kubeconfig: &[u8]) -> Option<String> {
    let config = Kubeconfig::parse(kubeconfig).ok()?;
    let current = config.current_context.as_deref()?;
    let context = config.contexts.iter().find(|it| it.name == current)?;
    config.cluster(context.cluster.as_deref()?)?.server.clone()
}
