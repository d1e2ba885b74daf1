//! `ca stage`.

use std::path::{Path, PathBuf};

use clap::Args;
use kubepki::bootstrap::read_directory;
use kubepki::ca::{
    Change, CrossRoots, Outer, Places, Pool, StageRequest, check_places, outer_authorities, stage,
};
use kubepki::catalogue::{Release, ReleaseError};
use kubepki::host::Host as _;
use kubepki::inventory::DetectedRelease;

use super::given::{AlgorithmArgs, OuterArgs, passphrase};
use super::{OfflineArgs, absolute, finish, make, refused};
use crate::args::SiteArgs;
use crate::error::{CliError, Exit};
use crate::world::{Node, World};

/// `ca stage`.
#[derive(Clone, Debug, Args)]
pub struct StageArgs {
    #[command(flatten)]
    pub change: ChangeKind,
    /// With --cross-signed: a root of its own for each of the five CAs [default: as it is now].
    #[arg(long, requires = "cross_signed", conflicts_with = "common_root")]
    pub per_ca_roots: bool,
    /// With --cross-signed: one root for all five, and an intermediate.
    #[arg(long, requires = "cross_signed")]
    pub common_root: bool,
    /// A file or directory with keys and certificates of the roots and intermediates in force;
    /// may be given several times. `root-ca` and `intermediate-ca` in the data directory are
    /// found by themselves.
    #[arg(long, value_name = "PATH")]
    pub keys: Vec<PathBuf>,
    /// A new directory for the set [default: <STATE-DIR>/staged].
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    #[command(flatten)]
    pub offline: OfflineArgs,
    #[command(flatten)]
    pub outer: OuterArgs,
    #[command(flatten)]
    pub algorithms: AlgorithmArgs,
    #[command(flatten)]
    pub site: SiteArgs,
}

/// What should follow; exactly one.
#[derive(Clone, Copy, Debug, Args)]
#[group(required = true, multiple = false)]
pub struct ChangeKind {
    /// New CAs under the present root: nobody has to join again.
    #[arg(long)]
    pub same_root: bool,
    /// New roots that the present CAs vouch for: everybody goes on, tokens change.
    #[arg(long)]
    pub cross_signed: bool,
    /// New roots that nobody trusts yet: every node and client has to be given them.
    #[arg(long)]
    pub new_root: bool,
    /// After a compromise: new roots, new service-account keys, nothing of the old.
    #[arg(long)]
    pub compromised: bool,
    /// A new first key in service.key; the CAs stay as they are.
    #[arg(long)]
    pub service_key_only: bool,
}

pub(super) async fn run(args: &StageArgs, world: &World) -> Result<Exit, CliError> {
    let node = Node::open(world, &args.site, None, None).await?;
    refuse_old(
        args.site.k3s_version.as_deref(),
        Some(node.inventory.release),
    )?;
    let site = &node.inventory.site;
    let out = match &args.out {
        Some(path) => absolute(path)?,
        None => node.state.path().join("staged"),
    };
    let offline = args.offline.offline.as_deref().map(absolute).transpose()?;
    let secret = passphrase(args.offline.passphrase_file.as_deref())?;
    let data_dirs = [node.configured.clone(), site.data_dir.clone()];
    let places = Places {
        out: &out,
        offline: offline.as_deref(),
        data_dirs: &data_dirs,
        keep_on_node: args.offline.keep_on_node,
        passphrase: secret.as_ref().map(|it| it.as_slice()),
    };
    // The state directory is made and held while something is written into it.
    let _locked = match args.out {
        None => Some(node.state.lock()?),
        Some(_) => None,
    };
    check_places(&places).map_err(refused)?;
    let change = change(args, world).await?;
    let makes_roots = !matches!(change, Change::SameRoot | Change::ServiceKeyOnly);
    if makes_roots && offline.is_none() && !brings_intermediate(&change) {
        return Err(CliError::usage(
            "a root or intermediate will be made, whose key belongs on no server: name a \
             directory for it with --offline",
        ));
    }
    let live = read_directory(&world.host, &site.server()).await?;
    let set = stage(StageRequest {
        live: &live,
        change,
        pool: pool(args, world, &site.server()).await?,
        algorithms: args.algorithms.into(),
        make: make(world),
    })
    .map_err(refused)?;
    let next = match args.out {
        None => "Next: kubepki rotate-ca --staged".to_owned(),
        Some(_) => format!("Next: kubepki rotate-ca --path {}", out.display()),
    };
    finish(&set, &places, &next)
}

fn brings_intermediate(change: &Change) -> bool {
    let outer = match change {
        Change::NewRoot(outer) | Change::Compromised(outer) | Change::SameRootUnder(outer) => outer,
        Change::CrossSigned(CrossRoots::Common(outer)) => outer,
        _ => return false,
    };
    matches!(outer, Outer::Intermediate { .. })
}

async fn change(args: &StageArgs, world: &World) -> Result<Change, CliError> {
    let kind = args.change;
    let outer = args.outer.outer(&world.host, world.now()).await?;
    let brings = !matches!(outer, Outer::New);
    if brings && (kind.service_key_only || args.per_ca_roots) {
        return Err(CliError::usage(
            "--root-cert and --intermediate-cert say what the five CAs are to stand under, which \
             is settled otherwise here",
        ));
    }
    Ok(if kind.same_root && brings {
        Change::SameRootUnder(outer)
    } else if kind.same_root {
        Change::SameRoot
    } else if kind.new_root {
        Change::NewRoot(outer)
    } else if kind.compromised {
        Change::Compromised(outer)
    } else if kind.service_key_only {
        Change::ServiceKeyOnly
    } else if args.per_ca_roots {
        Change::CrossSigned(CrossRoots::PerCa)
    } else if args.common_root || brings {
        Change::CrossSigned(CrossRoots::Common(outer))
    } else {
        Change::CrossSigned(CrossRoots::AsNow)
    })
}

/// What is at hand: what was named, and the working files of K3s's script beside the CAs.
async fn pool(args: &StageArgs, world: &World, server: &Path) -> Result<Pool, CliError> {
    let secret = passphrase(args.outer.key_passphrase_file.as_deref())?;
    let secret = secret.as_ref().map(|it| it.as_slice());
    let mut pool = Pool::default();
    for path in &args.keys {
        let had = pool.certificates.len() + pool.keys.len();
        pool.read(&world.host, path, secret)
            .await
            .map_err(refused)?;
        if pool.certificates.len() + pool.keys.len() == had {
            return Err(CliError::refused(format!(
                "--keys {} holds no certificate and no key",
                path.display()
            )));
        }
    }
    for name in ["root-ca", "intermediate-ca"] {
        for kind in ["pem", "crt", "key"] {
            let path = server.join("tls").join(format!("{name}.{kind}"));
            if world.host.read(&path).await?.is_some() {
                pool.read(&world.host, &path, secret)
                    .await
                    .map_err(refused)?;
            }
        }
    }
    Ok(pool)
}

/// Refuses releases of K3s that take no CA under another CA.
///
/// # Errors
///
/// A refusal with the first releases that do.
pub(super) fn refuse_old(
    named: Option<&str>,
    detected: Option<DetectedRelease>,
) -> Result<(), CliError> {
    let release: Option<Release> = match (named, detected) {
        (Some(text), _) => Some(
            text.parse()
                .map_err(|error: ReleaseError| CliError::usage(error.to_string()))?,
        ),
        (None, Some(DetectedRelease::Known(release))) => Some(release),
        (None, _) => None,
    };
    match release {
        Some(release) if !outer_authorities(release) => Err(CliError::refused(format!(
            "K3s {release} takes no CA under another CA, and has no rotate-ca; v1.26.2, v1.25.7, \
             v1.24.11 and v1.23.17 are the first that do. Update K3s first"
        ))),
        _ => Ok(()),
    }
}
