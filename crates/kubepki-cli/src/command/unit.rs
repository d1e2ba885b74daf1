//! `unit`: systemd units that keep a node's leaves fresh.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::error::{CliError, Exit};
use crate::output;

/// `unit`.
#[derive(Clone, Debug, Args)]
pub struct UnitArgs {
    /// Which one.
    #[arg(value_enum)]
    pub kind: UnitKind,
    /// The kind of node that a drop-in is for.
    #[arg(long, value_enum, default_value_t = UnitRole::Server)]
    pub role: UnitRole,
    /// Where kubepki is installed.
    #[arg(long, value_name = "FILE", default_value = "/usr/local/bin/kubepki")]
    pub program: PathBuf,
    /// For node-timer: the servers that the node asks in turn, https://HOST:6443.
    #[arg(
        long = "server",
        value_name = "URL",
        value_delimiter = ',',
        value_parser = crate::world::server_url,
        required_if_eq("kind", "node-timer")
    )]
    pub servers: Vec<String>,
}

/// A unit that can be printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum UnitKind {
    /// A drop-in for K3s's own unit: renew before every start.
    DropIn,
    /// A service and timer: renew every day.
    Timer,
    /// A service and timer for a node that `kubepki join` made: renew every day, at a server.
    NodeTimer,
    /// A service and timer: check every hour, for Prometheus.
    Metrics,
    /// A service: `kubepki serve`.
    Serve,
}

/// The kind of node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum UnitRole {
    /// `k3s.service`.
    Server,
    /// `k3s-agent.service`.
    Agent,
}

/// `kubepki unit`.
///
/// # Errors
///
/// When the program's path cannot stand in a unit, or stdout cannot be written.
pub fn run(args: &UnitArgs) -> Result<Exit, CliError> {
    let program = args.program.to_string_lossy();
    if !args.program.is_absolute() || program.contains([' ', '\t', '\n', '%', '"', '\'', '\\']) {
        return Err(CliError::usage(format!(
            "{program:?} cannot stand in a unit; give an absolute path without blanks, quotes and %"
        )));
    }
    // A % is systemd's, and a quote would end a word.
    if let Some(odd) = args
        .servers
        .iter()
        .find(|it| it.contains(['%', '"', '\'', '\\']))
    {
        return Err(CliError::usage(format!("{odd:?} cannot stand in a unit")));
    }
    let text = match args.kind {
        UnitKind::DropIn => drop_in(&program, args.role),
        UnitKind::Timer => timer(&renewal(&program)),
        UnitKind::NodeTimer => timer(&Renewal {
            name: "kubepki-node-renew",
            command: format!(
                "{program} node renew --yes --server {}",
                args.servers.join(",")
            ),
            after: "Renewed certificates are used once what reads them is started anew.",
            wants: "Wants=network-online.target\nAfter=network-online.target\n",
        }),
        UnitKind::Metrics => metrics(&program),
        UnitKind::Serve => serve(&program),
    };
    output::data(&text)?;
    Ok(Exit::Fine)
}

fn drop_in(program: &str, role: UnitRole) -> String {
    let unit = match role {
        UnitRole::Server => "k3s",
        UnitRole::Agent => "k3s-agent",
    };
    format!(
        "# /etc/systemd/system/{unit}.service.d/10-kubepki.conf\n\
         # Renews what is due before K3s starts. The minus lets K3s start even if that fails.\n\
         [Service]\n\
         ExecStartPre=-{program} renew --yes\n"
    )
}

/// A service that renews, started by a timer.
struct Renewal {
    /// The unit's name.
    name: &'static str,
    command: String,
    /// What has to be done then.
    after: &'static str,
    /// What must be there before, in lines.
    wants: &'static str,
}

fn renewal(program: &str) -> Renewal {
    Renewal {
        name: "kubepki-renew",
        command: format!("{program} renew --yes"),
        after: "Renewed certificates are served after the next restart of K3s; add --restart above to\n\
                # restart it whenever something was renewed.",
        wants: "",
    }
}

fn timer(renewal: &Renewal) -> String {
    let Renewal {
        name,
        command,
        after,
        wants,
    } = renewal;
    format!(
        "# /etc/systemd/system/{name}.service\n\
         [Unit]\n\
         Description=Renew Kubernetes certificates that are due\n\
         {wants}\
         \n\
         [Service]\n\
         Type=oneshot\n\
         ExecStart={command}\n\
         \n\
         # /etc/systemd/system/{name}.timer\n\
         # {after}\n\
         [Unit]\n\
         Description=Renew Kubernetes certificates that are due, every day\n\
         \n\
         [Timer]\n\
         OnCalendar=daily\n\
         RandomizedDelaySec=1h\n\
         Persistent=true\n\
         \n\
         [Install]\n\
         WantedBy=timers.target\n"
    )
}

fn serve(program: &str) -> String {
    format!(
        "# /etc/systemd/system/kubepki-serve.service\n\
         [Unit]\n\
         Description=Serve a Kubernetes cluster's certificates\n\
         Wants=network-online.target\n\
         After=network-online.target\n\
         Conflicts=k3s.service\n\
         \n\
         [Service]\n\
         Type=notify\n\
         ExecStart={program} serve\n\
         ExecReload=/bin/kill -HUP $MAINPID\n\
         Restart=on-failure\n\
         # What was said wrong, or is refused, does not come right by itself.\n\
         RestartPreventExitStatus=2 5\n\
         RestartSec=5s\n\
         LimitNOFILE=65536\n\
         UMask=0077\n\
         NoNewPrivileges=yes\n\
         ProtectHome=yes\n\
         PrivateTmp=yes\n\
         \n\
         [Install]\n\
         WantedBy=multi-user.target\n"
    )
}

fn metrics(program: &str) -> String {
    const DIRECTORY: &str = "/var/lib/prometheus/node-exporter";
    format!(
        "# /etc/systemd/system/kubepki-check.service\n\
         # For node_exporter's textfile collector. 3 and 4 mean findings, which are metrics too.\n\
         [Unit]\n\
         Description=Check Kubernetes certificates for node_exporter\n\
         \n\
         [Service]\n\
         Type=oneshot\n\
         SuccessExitStatus=3 4\n\
         ExecStart={program} check --output prometheus\n\
         StandardOutput=truncate:{DIRECTORY}/kubepki.prom.new\n\
         ExecStartPost=/bin/mv {DIRECTORY}/kubepki.prom.new {DIRECTORY}/kubepki.prom\n\
         \n\
         # /etc/systemd/system/kubepki-check.timer\n\
         [Unit]\n\
         Description=Check Kubernetes certificates for node_exporter, every hour\n\
         \n\
         [Timer]\n\
         OnCalendar=hourly\n\
         RandomizedDelaySec=5m\n\
         Persistent=true\n\
         \n\
         [Install]\n\
         WantedBy=timers.target\n"
    )
}
