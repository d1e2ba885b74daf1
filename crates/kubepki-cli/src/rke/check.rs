//! `check` of an RKE cluster: state, host files and what is served, side by side.

use std::path::Path;

use kubepki::check::{AUTHORITY_WINDOW, Severity};
use kubepki::rke::check::{Question, check, report};
use pki::DAY;

use super::rotate::look;
use super::{RkeCluster, flags, reach};
use crate::command::check::{CheckArgs, print_one};
use crate::error::{CliError, Exit};
use crate::world::{World, moment};

/// Days before its end from which a leaf is due. RKE never renews one by itself.
const WINDOW_DAYS: u32 = 90;

/// `kubepki check --cluster cluster.yml`.
///
/// # Errors
///
/// When cluster.yml or the state file cannot be read. Hosts that cannot be reached are findings.
pub async fn run(config: &Path, args: &CheckArgs) -> Result<Exit, CliError> {
    flags::refuse_node(&[
        flags::first(&[
            (!args.directories.is_empty(), "a data directory"),
            (args.timeline, "--timeline"),
        ]),
        flags::site(&args.site),
    ])?;
    let world = match &args.at {
        Some(at) => World::at(moment(at)?),
        None => World::real(),
    };
    let cluster = RkeCluster::open(&world, config, &args.site).await?;
    let state = cluster.state()?;
    let survey = match args.offline {
        true => None,
        false => {
            let machines = reach::machines(&cluster, &args.cluster.ssh, reach::told())?;
            Some(look(&world, &cluster, &machines).await)
        }
    };
    let name = cluster.files.state.file_name().unwrap_or_default();
    let name = name.to_string_lossy();
    let days = i64::from(args.window.unwrap_or(WINDOW_DAYS));
    let question = Question {
        name: &name,
        root: &cluster.site.root,
        state,
        config: &cluster.config,
        survey: survey.as_ref(),
        now: world.now(),
        window: args.warn_within.unwrap_or(days.saturating_mul(DAY)),
        authority_window: args.warn_within.unwrap_or(AUTHORITY_WINDOW),
    };
    let mut findings = check(&question);
    for mends in findings.iter_mut().filter_map(|it| it.mends.as_mut()) {
        *mends = cluster.mended(mends);
    }
    let worst: Option<Severity> = findings.iter().map(|finding| finding.severity).max();
    let root = cluster.site.root.clone();
    print_one(args, root, report(&question, &findings), worst)
}
