//! What comes after the set: the restarts, and the nodes that they concern.

use std::time::Duration;

use kubepki::ca::rotate::{Here, Restarts, Way};
use kubepki::fleet::Fleet;
use kubepki::host::{EntryKind, Host as _};
use kubepki_remote::Kubernetes;

use super::Rotation;
use crate::error::CliError;
use crate::output;
use crate::serving::serving;

/// How long the Kubernetes API may take for what is only told.
const PATIENCE: Duration = Duration::from_secs(10);

impl Rotation<'_> {
    /// What becomes of the restarts, by the flags.
    ///
    /// # Errors
    ///
    /// When a command is empty.
    pub(super) fn restarts(&self, way: Way<'_>) -> Result<Restarts, CliError> {
        if let Way::Through { url } = way
            && serving(self.node.state.path()).as_deref() == Some(url)
        {
            return self.live();
        }
        let restart = &self.args.restart;
        let words = |flag: &str, text: Option<&String>| {
            let words: Option<Vec<String>> =
                text.map(|text| text.split_whitespace().map(str::to_owned).collect());
            match words {
                Some(words) if words.is_empty() => Err(CliError::usage(format!("{flag} is empty"))),
                words => Ok(words),
            }
        };
        let command = words("--restart-command", restart.restart_command.as_ref())?;
        let stop = words("--stop-command", self.args.stop_command.as_ref())?;
        Ok(Restarts {
            here: match (restart.restart || command.is_some(), self.args.watch) {
                (true, _) => Here::Driven { command, stop },
                (false, true) => Here::Watched,
                (false, false) => Here::Told,
            },
            others: self.args.watch,
        })
    }

    /// Our own server has no restart.
    fn live(&self) -> Result<Restarts, CliError> {
        let restart = &self.args.restart;
        if restart.restart || restart.restart_command.is_some() {
            return Err(CliError::usage(
                "`kubepki serve` takes new CAs up while it serves: leave --restart and \
                 --restart-command away",
            ));
        }
        Ok(Restarts {
            here: Here::Live,
            others: self.args.watch,
        })
    }

    /// The cluster's nodes, if the Kubernetes API tells them soon.
    pub(super) async fn fleet(&self) -> Option<Fleet> {
        let path = self.settings.admin_kubeconfig.as_ref()?;
        let entry = self.world.host.read(path).await.ok()??;
        let EntryKind::File(text) = entry.kind else {
            return None;
        };
        let asked = async {
            let api = Kubernetes::from_kubeconfig(&text, self.world.now())?;
            api.fleet().await
        };
        match tokio::time::timeout(PATIENCE, asked).await {
            Ok(Ok(fleet)) => Some(fleet),
            Ok(Err(error)) => {
                let error = kubepki::error_chain(&error);
                output::talk(&format!(
                    "Note: the Kubernetes API does not tell the nodes: {error}"
                ));
                None
            }
            Err(_) => {
                output::talk("Note: the Kubernetes API does not tell the nodes: no answer in 10 s");
                None
            }
        }
    }
}
