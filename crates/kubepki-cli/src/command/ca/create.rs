//! `ca create`.

use std::path::PathBuf;

use clap::Args;
use kubepki::ca::{CreateRequest, Places, check_places, create};

use super::given::{AlgorithmArgs, OuterArgs, passphrase};
use super::{OfflineArgs, absolute, data_dirs, finish, make, refused};
use crate::args::SiteArgs;
use crate::error::{CliError, Exit};
use crate::world::World;

/// `ca create`.
#[derive(Clone, Debug, Args)]
pub struct CreateArgs {
    /// A new directory; its `tls/` is for <DATA-DIR>/server/tls of the first server, before K3s's
    /// first start.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    #[command(flatten)]
    pub offline: OfflineArgs,
    #[command(flatten)]
    pub outer: OuterArgs,
    #[command(flatten)]
    pub algorithms: AlgorithmArgs,
    /// A `service.key` that is in use already; its keys stay, after the new one.
    #[arg(long, value_name = "FILE")]
    pub service_key: Option<PathBuf>,
    #[command(flatten)]
    pub site: SiteArgs,
}

pub(super) async fn run(args: &CreateArgs, world: &World) -> Result<Exit, CliError> {
    super::stage::refuse_old(args.site.k3s_version.as_deref(), None)?;
    let data_dirs = data_dirs(world, &args.site).await?;
    let secret = passphrase(args.offline.passphrase_file.as_deref())?;
    let (out, offline) = (
        absolute(&args.out)?,
        args.offline.offline.as_deref().map(absolute).transpose()?,
    );
    let places = Places {
        out: &out,
        offline: offline.as_deref(),
        data_dirs: &data_dirs,
        keep_on_node: args.offline.keep_on_node,
        passphrase: secret.as_ref().map(|it| it.as_slice()),
    };
    check_places(&places).map_err(refused)?;
    let make = make(world);
    let outer = args.outer.outer(&world.host, make.now).await?;
    if offline.is_none() && !matches!(outer, kubepki::ca::Outer::Intermediate { .. }) {
        return Err(CliError::usage(
            "a root or intermediate will be made, whose key belongs on no server: name a \
             directory for it with --offline",
        ));
    }
    let service = match &args.service_key {
        Some(path) => Some(super::request::read(world, path).await?),
        None => None,
    };
    let set = create(CreateRequest {
        outer,
        algorithms: args.algorithms.into(),
        service_keys: service.as_ref().map(|it| it.as_slice()),
        make,
    })
    .map_err(refused)?;
    let next = format!(
        "Next: copy {}/tls to <DATA-DIR>/server/tls of the first server, before K3s's first \
         start; `kubepki init` makes the rest beside it.",
        out.display()
    );
    finish(&set, &places, &next)
}
