//! `node forget`: a node's name is free again.

use clap::Args;
use kubepki::datastore::DatastoreError;
use kubepki_serve::password::PREFIX;

use crate::args::SiteArgs;
use crate::command::token::cluster_datastore;
use crate::datastore::{Access, EndpointArgs, reached};
use crate::error::{CliError, Exit};
use crate::output;
use crate::world::World;

/// `node forget`.
#[derive(Clone, Debug, Args)]
pub struct ForgetArgs {
    /// Names of nodes.
    #[arg(required = true, value_name = "NAME")]
    pub names: Vec<String>,
    #[command(flatten)]
    pub endpoint: EndpointArgs,
    #[command(flatten)]
    pub site: SiteArgs,
}

/// Removes what `kubepki serve` holds nodes of these names to.
///
/// # Errors
///
/// Refused for a node that is not known; what stood before it in the list is forgotten then.
pub(super) async fn forget(args: &ForgetArgs) -> Result<Exit, CliError> {
    let world = World::real();
    let connected = cluster_datastore(&world, &args.endpoint, &args.site, Access::Write).await?;
    let store = connected.store.as_ref();
    for (done, name) in args.names.iter().enumerate() {
        let exit = |exit| if done > 0 { Exit::Partial } else { exit };
        let failed = |error: DatastoreError| {
            let error = reached(error);
            CliError {
                exit: exit(error.exit),
                ..error
            }
        };
        let name = name.to_lowercase();
        let key = format!("{PREFIX}{name}");
        let Some(present) = store.get(&key).await.map_err(failed)? else {
            let unknown = CliError::refused(format!("no node {name} has come to `kubepki serve`"));
            let unknown = CliError {
                exit: exit(Exit::Refused),
                ..unknown
            };
            return Err(unknown.hint(
                "K3s's own servers keep a Secret <node>.node-password.k3s in kube-system instead",
            ));
        };
        store.delete(&key, present.revision).await.map_err(failed)?;
        output::talk(&format!(
            "Node {name} is forgotten: whoever comes next with a good token has its name."
        ));
    }
    output::talk("Certificates that it has stay good until they end, and renew themselves.");
    Ok(Exit::Fine)
}
