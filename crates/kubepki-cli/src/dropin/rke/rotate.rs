//! `rke cert rotate`: acts at once, says what RKE says, and exits as RKE does, but for hosts that
//! were left out.

use std::sync::Arc;

use kubepki::apply::{Outcome, plan_id};
use kubepki::init::Staged;
use kubepki::plan::{Action, Plan};
use kubepki::rke::log::{info, version_line};
use kubepki::rke::rotate::{Options, Request, RotateError, Switch, plan};
use kubepki::rke::survey::{Seen, Survey};
use kubepki::rke::{ClusterConfig, Half, Role, Rotation, Service};

use super::args::RotateArgs;
use super::log::Log;
use super::narrator::{self, Narrator, notify};
use super::script::{Script, Told, tunnels};
use crate::args::SiteArgs;
use crate::command::change::refuse_unfinished;
use crate::error::{CliError, Exit};
use crate::output;
use crate::rke::rotate::{api_away, look, refuse_early};
use crate::rke::{Hosts, RkeCluster, Session, reach};
use crate::world::World;

/// Seconds to wait for the proofs of a restart.
const PATIENCE: u64 = 120;

/// So many members of etcd can spare one.
const SPARE: usize = 3;

/// Why it ended, in RKE's words, and what to do about it.
#[derive(Debug)]
pub struct Failure {
    /// The last line of the log.
    pub text: String,
    /// For standard error.
    pub hint: Option<String>,
}

impl From<String> for Failure {
    fn from(text: String) -> Self {
        Self { text, hint: None }
    }
}

impl From<CliError> for Failure {
    fn from(error: CliError) -> Self {
        Self {
            text: error.message,
            hint: error.hint,
        }
    }
}

/// Runs it.
///
/// # Errors
///
/// What RKE's log ends with; unless a hint says otherwise, nothing was changed.
pub async fn rotate(args: &RotateArgs, world: &World, log: &Arc<Log>) -> Result<Exit, Failure> {
    let say = |text: &str| narrator::say(log, &info(text));
    narrator::say(log, &version_line());
    let valid = super::cluster(world, &args.config.config).await;
    if !matches!(&valid, Err(text) if !text.starts_with("Failed to validate")) {
        say("Initiating Kubernetes cluster");
    }
    valid?;
    let rotation = rotation(args)?;
    say("Rotating Kubernetes cluster certificates");
    let cluster = RkeCluster::open(world, &args.config.config, &SiteArgs::default())
        .await
        .map_err(|error| Failure {
            text: format!("[state] failed to read state file: {}", error.message),
            hint: Some("nothing was changed; RKE itself would take it for an empty one".to_owned()),
        })?;
    let done = rotate_opened(&cluster, args, &rotation, world, log).await;
    done.map_err(|failure| Failure {
        text: cluster.spelled(&failure.text),
        hint: failure.hint.map(|hint| cluster.spelled(&hint)),
    })
}

async fn rotate_opened(
    cluster: &RkeCluster,
    args: &RotateArgs,
    rotation: &Rotation,
    world: &World,
    log: &Arc<Log>,
) -> Result<Exit, Failure> {
    refuse_unfinished(&cluster.state_dir)?;
    let stored = stored(cluster)?;
    refuse_early(world, cluster, rotation, &Options::default())?;
    let machines = reach::machines(cluster, &args.ssh, notify(log)).map_err(|error| Failure {
        text: format!("Can't establish dialer connection: {}", error.message),
        hint: error.hint,
    })?;
    let survey = look(world, cluster, &machines).await;
    let away = away(&survey, &stored)?;
    let told = Told {
        rotation,
        config: &stored,
        files: &cluster.files,
        away: &away,
    };
    refuse_lone(&told, log)?;
    let drops = *rotation == Rotation::Authorities;
    let wanted = Options {
        switch: Switch::Cross,
        allow_etcd_outage: args.allow_etcd_outage,
        skip_unreachable: away.iter().map(|(host, _)| host.clone()).collect(),
        api_away: drops && api_away(world, cluster, &machines).await,
        ..Options::default()
    };
    let planned = draft(world, cluster, &survey, &told, wanted);
    let (plan, staged) = planned.map_err(|error| {
        if !away.is_empty() {
            tunnels(&told).iter().for_each(|it| narrator::say(log, it));
        }
        Failure::from(error)
    })?;
    for note in &plan.notes {
        output::talk(&format!("kubepki: {note}"));
    }
    let narrator = Narrator {
        script: Script::of(&plan, &told),
        log: Arc::clone(log),
    };
    carry_out(world, cluster, &machines, (plan, staged), &narrator).await
}

/// What is asked for. RKE takes any service, and gives `--rotate-ca` precedence.
fn rotation(args: &RotateArgs) -> Result<Rotation, Failure> {
    if args.rotate_ca && !args.service.is_empty() {
        return Err(Failure {
            text: "--rotate-ca rotates the certificates of every service: it cannot be used with \
                   --service"
                .to_owned(),
            hint: Some("leave one of them out; nothing was changed".to_owned()),
        });
    }
    if args.rotate_ca {
        return Ok(Rotation::Authorities);
    }
    if args.service.is_empty() {
        return Ok(Rotation::All);
    }
    let mut services: Vec<Service> = Vec::new();
    for name in &args.service {
        let service = name.parse::<Service>().map_err(|error| error.to_string())?;
        if !services.contains(&service) {
            services.push(service);
        }
    }
    Ok(Rotation::Services(services))
}

/// The configuration that the cluster was made with, which RKE rotates by.
fn stored(cluster: &RkeCluster) -> Result<ClusterConfig, Failure> {
    let missing = || Failure::from(CliError::from_rotation(&RotateError::NoCurrentState));
    let state = cluster.state.as_ref().ok_or_else(missing)?;
    let json = state.rke_config(Half::Current).ok_or_else(missing)?;
    let config = ClusterConfig::from_rke_config(json);
    config.map_err(|error| {
        let error = RotateError::Config(error.to_string());
        CliError::from_rotation(&error).into()
    })
}

/// Hosts that do not answer. RKE leaves out what turns it away, too; we stop there, while nothing
/// is changed: waiting would not mend it, and a host key that changed is no matter to pass over.
///
/// Nodes are those of the state, as with RKE: one that only cluster.yml has gets nothing.
fn away(survey: &Survey, stored: &ClusterConfig) -> Result<Vec<(String, String)>, Failure> {
    let mut away = Vec::new();
    for node in &stored.nodes {
        let host = &node.address;
        let Some(Seen::Away { why, refuses }) = survey.hosts.get(host) else {
            continue;
        };
        let why = why.clone();
        if *refuses {
            return Err(Failure {
                text: format!("Failed to set up SSH tunneling for host [{host}]: {why}"),
                hint: Some("nothing was changed".to_owned()),
            });
        }
        away.push((host.clone(), why));
    }
    Ok(away)
}

/// The members of etcd that do not answer.
fn members_away<'a>(told: &'a Told<'_>) -> Vec<&'a str> {
    let members = told.config.with_role(Role::Etcd);
    members
        .map(|node| node.address.as_str())
        .filter(|member| told.away.iter().any(|(host, _)| host == member))
        .collect()
}

/// RKE's one condition on how many hosts are left.
fn refuse_lone(told: &Told<'_>, log: &Log) -> Result<(), Failure> {
    let members = members_away(told);
    let lone = members.len() == told.config.with_role(Role::Etcd).count();
    if told.config.has_external_etcd() || members.is_empty() || !lone {
        return Ok(());
    }
    tunnels(told).iter().for_each(|it| narrator::say(log, it));
    Err(Failure {
        text: format!(
            "Cluster must have at least one etcd plane host: failed to connect to the following \
             etcd host(s) [{}]",
            members.join(" ")
        ),
        hint: Some("nothing was changed".to_owned()),
    })
}

/// Plans; where etcd cannot but be out of order for a while, it is, as with RKE: it has one or two
/// members, or no quorum even now. Where it has one and need not lose it, RKE would take it away;
/// we stop.
fn draft(
    world: &World,
    cluster: &RkeCluster,
    survey: &Survey,
    told: &Told<'_>,
    mut options: Options,
) -> Result<(Plan, Vec<Staged>), CliError> {
    let state = cluster.state()?;
    let purpose = match told.rotation {
        Rotation::Authorities => "rotate-ca",
        Rotation::All | Rotation::Services(_) => "rotate",
    };
    let id = plan_id(world.now(), purpose, &world.entropy)?;
    let attempt = |options: &Options| {
        plan(&Request {
            id: &id,
            rotation: told.rotation,
            options,
            site: &cluster.site,
            state,
            config: &cluster.config,
            survey,
            now: world.now(),
            entropy: &world.entropy,
            keys: &world.keys,
        })
    };
    let planned = match attempt(&options) {
        Err(error @ (RotateError::Quorum { .. } | RotateError::Unhealthy { .. })) => {
            if let Some(refusal) = needless(&error, told) {
                return Err(refusal);
            }
            output::talk(&format!(
                "kubepki: warning: {error}.\nkubepki: going on all the same, as RKE does"
            ));
            options.allow_etcd_outage = true;
            attempt(&options)
        }
        planned => planned,
    };
    planned.map_err(|error| CliError::from_rotation(&error))
}

/// Why we stop where etcd has a quorum and need not lose it.
fn needless(error: &RotateError, told: &Told<'_>) -> Option<CliError> {
    match error {
        RotateError::Unhealthy {
            members,
            healthy,
            needed,
        } if healthy >= needed => {
            let sick: Vec<String> = members
                .iter()
                .map(|(host, why)| format!("[{host}]: {why}"))
                .collect();
            let text = format!("etcd is not healthy on host(s) {}", sick.join("; "));
            Some(CliError::refused(text).hint(
                "nothing was changed: restarting the others could cost etcd its quorum. Mend \
                 these first, or say --allow-etcd-outage, which restarts the sick ones first and \
                 goes on only if they get well",
            ))
        }
        RotateError::Quorum {
            members, reachable, ..
        } if *members >= SPARE => {
            let text = format!(
                "etcd would be without a quorum while a member restarts: of its {members} members \
                 {reachable} can be reached, not host(s) [{}]",
                members_away(told).join(" ")
            );
            Some(CliError::refused(text).hint(
                "nothing was changed: RKE would go on, and the cluster stand still at each \
                 restart. Bring these hosts back, or say --allow-etcd-outage; they get what they \
                 lack with `kubepki resume`, once they are back",
            ))
        }
        _ => None,
    }
}

async fn carry_out(
    world: &World,
    cluster: &RkeCluster,
    machines: &Hosts,
    (plan, staged): (Plan, Vec<Staged>),
    narrator: &Narrator,
) -> Result<Exit, Failure> {
    let session = Session::new(world, cluster, machines, PATIENCE);
    let state = crate::command::change::lock(&cluster.state_dir)?;
    let outcome = session.run(&state, &plan, &staged, narrator).await;
    let outcome = outcome.map_err(|error| session.stopped(error))?;
    let open = match &outcome {
        Outcome::Partly { open, .. } => open.iter().map(|(step, _)| *step).collect(),
        _ => Vec::new(),
    };
    let exit = session.finish(&state, &plan, outcome);
    drop(state);
    session.look_after(&plan).await;
    // RKE warns of a copy that it could not save, and ends well.
    let saves = |number: &u32| {
        let mut steps = plan.steps.iter();
        let step = steps.find(|step| step.number == *number);
        step.is_some_and(|step| matches!(step.action, Action::SaveState { .. }))
    };
    Ok(match exit {
        Exit::Partial if !open.is_empty() && open.iter().all(saves) => Exit::Fine,
        exit => exit,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(service: &[&str], rotate_ca: bool) -> Result<Rotation, String> {
        let args = RotateArgs {
            config: super::super::args::ConfigArgs {
                config: "cluster.yml".into(),
            },
            service: service.iter().map(|it| (*it).to_owned()).collect(),
            rotate_ca,
            ssh: crate::rke::SshArgs::default(),
            ignore_docker_version: false,
            allow_etcd_outage: false,
        };
        rotation(&args).map_err(|failure| failure.text)
    }

    #[test]
    fn what_is_asked_for() {
        assert_eq!(asked(&[], false), Ok(Rotation::All));
        assert_eq!(asked(&[], true), Ok(Rotation::Authorities));
        assert_eq!(
            asked(&["kubelet", "etcd", "kubelet"], false),
            Ok(Rotation::Services(vec![Service::Kubelet, Service::Etcd]))
        );
        for unknown in ["etcd,kubelet", "apiserver", "", "Kubelet"] {
            let text = asked(&[unknown], false).unwrap_err();
            assert!(
                text.starts_with(&format!("unknown service {unknown:?}; ")),
                "{text}"
            );
        }
        let text = asked(&["etcd"], true).unwrap_err();
        assert!(text.contains("cannot be used with --service"), "{text}");
    }
}
