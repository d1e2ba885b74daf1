//! `node forget`: a node's name is free again.

use std::time::Duration;

use clap::Args;
use kubepki::datastore::Datastore;
use kubepki::token::kubernetes::node_password_key;
use kubepki_serve::cluster::SERVERS;
use kubepki_serve::forgotten::forget as forget_node;
use kubepki_serve::node::name_problem;
use kubepki_serve::password::PREFIX as NODES;

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
/// For what is no name of a node; then nothing is forgotten. When the datastore cannot be asked or
/// written; what stood before in the list is forgotten then.
pub(super) async fn forget(args: &ForgetArgs) -> Result<Exit, CliError> {
    let world = World::real();
    let connected = cluster_datastore(&world, &args.endpoint, &args.site, Access::Write).await?;
    let store = connected.store.as_ref();
    let names: Vec<String> = args.names.iter().map(|it| it.to_lowercase()).collect();
    for name in &names {
        check_name(store, name).await?;
    }
    let mut until = world.now();
    for (done, name) in names.iter().enumerate() {
        let forgot = forget_node(store, name, world.clock.as_ref()).await;
        let forgot = forgot.map_err(|error| {
            let error = reached(error);
            let exit = if done > 0 { Exit::Partial } else { error.exit };
            CliError { exit, ..error }
        })?;
        until = until.max(forgot.until);
        output::talk(&match forgot.known {
            true => {
                format!("Node {name} is forgotten: who comes next with a good token has its name.")
            }
            false => format!(
                "No node {name} has come to `kubepki serve` yet: one from before is kept out."
            ),
        });
        let secret = store.get(&node_password_key(name)).await;
        if secret.map_err(reached)?.is_some() {
            output::talk(&format!(
                "K3s has a password of {name} too, which counts for `kubepki serve` no more. K3s's \
                 own servers hold the node to it until somebody runs `kubectl -n kube-system \
                 delete secret {name}.node-password.k3s`."
            ));
        }
        let server = store.get(&format!("{SERVERS}{name}")).await;
        if server.map_err(reached)?.is_some() {
            output::talk(&format!(
                "warning: {name} is a server: its name stays its own, until seven days after its \
                 last sign of life."
            ));
        }
    }
    // What it gets from then on is told from what it had.
    for _ in 0..LONGEST {
        if world.now() > until {
            break;
        }
        tokio::time::sleep(LOOK).await;
    }
    output::talk(
        "Certificates that it has stay good until they end, towards Kubernetes too, but nothing is \
         renewed by them.",
    );
    Ok(Exit::Fine)
}

/// Between two looks at the clock.
const LOOK: Duration = Duration::from_millis(50);
/// Looks: for five seconds, should the clock stand still.
const LONGEST: usize = 100;

/// With `--k3s-compatible` nodes of odd names may have come: those can go.
async fn check_name(store: &dyn Datastore, name: &str) -> Result<(), CliError> {
    let Some(problem) = name_problem(name) else {
        return Ok(());
    };
    let present = store
        .get(&format!("{NODES}{name}"))
        .await
        .map_err(reached)?;
    match present {
        Some(_) => Ok(()),
        None => Err(CliError::usage(format!(
            "{name:?} {problem}; nothing was forgotten: give names as `kubectl get nodes` shows them"
        ))),
    }
}
