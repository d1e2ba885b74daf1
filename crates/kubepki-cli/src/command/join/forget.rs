//! `node forget`: a node's name is free again.

use std::time::Duration;

use clap::Args;
use kubepki_serve::forgotten::forget as forget_node;

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

/// Removes what `kubepki serve` holds nodes of these names to, and has it refuse their
/// certificates.
///
/// # Errors
///
/// When the datastore cannot be asked or written; what stood before in the list is forgotten then.
pub(super) async fn forget(args: &ForgetArgs) -> Result<Exit, CliError> {
    let world = World::real();
    let connected = cluster_datastore(&world, &args.endpoint, &args.site, Access::Write).await?;
    let store = connected.store.as_ref();
    for (done, name) in args.names.iter().enumerate() {
        let name = name.to_lowercase();
        let known = forget_node(store, &name, world.now()).await;
        let known = known.map_err(|error| {
            let error = reached(error);
            let exit = if done > 0 { Exit::Partial } else { error.exit };
            CliError { exit, ..error }
        })?;
        output::talk(&match known {
            true => {
                format!("Node {name} is forgotten: who comes next with a good token has its name.")
            }
            false => format!(
                "No node {name} has come to `kubepki serve` yet: one from before is kept out."
            ),
        });
    }
    // What it gets from the next second on is told from what it had.
    let forgotten = world.now();
    for _ in 0..40 {
        if world.now() > forgotten {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    output::talk(
        "Certificates that it has stay good until they end, towards Kubernetes too, but nothing is \
         renewed by them.",
    );
    Ok(Exit::Fine)
}
