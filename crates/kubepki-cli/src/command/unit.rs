//! `unit`: systemd units that keep a node's leaves fresh.

use crate::args::{UnitArgs, UnitKind, UnitRole};
use crate::error::{CliError, Exit};
use crate::output;

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
    let text = match args.kind {
        UnitKind::DropIn => drop_in(&program, args.role),
        UnitKind::Timer => timer(&program),
        UnitKind::Metrics => metrics(&program),
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

fn timer(program: &str) -> String {
    format!(
        "# /etc/systemd/system/kubepki-renew.service\n\
         [Unit]\n\
         Description=Renew Kubernetes certificates that are due\n\
         \n\
         [Service]\n\
         Type=oneshot\n\
         ExecStart={program} renew --yes\n\
         \n\
         # /etc/systemd/system/kubepki-renew.timer\n\
         # Renewed certificates are served after the next restart of K3s; add --restart above to\n\
         # restart it whenever something was renewed.\n\
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
