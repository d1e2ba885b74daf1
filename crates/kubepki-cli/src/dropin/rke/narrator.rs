//! Says what RKE says while a plan is carried out.

use std::sync::Arc;

use kubepki::apply::Observer;
use kubepki::edge::{Clock as _, SystemClock};
use kubepki::plan::{Action, Step};
use kubepki::rke::log::{Line, info, warning};
use kubepki_remote::machine::{Notice, Notify};

use super::log::Log;
use super::script::Script;
use crate::output;
use crate::rke::reach::api_by_host;

/// How [`Observer::progress`] says that a container is proven.
const PROVEN: &str = "proved ";

/// Logs a plan's steps as RKE would.
#[derive(Debug)]
pub struct Narrator {
    /// Where to.
    pub log: Arc<Log>,
    /// What.
    pub script: Script,
}

impl Narrator {
    fn say(&self, lines: &[Line]) {
        for line in lines {
            say(&self.log, line);
        }
    }
}

/// Writes a line of the moment.
pub fn say(log: &Log, line: &Line) {
    log.line(line, SystemClock.now());
}

impl Observer for Narrator {
    fn begin(&self, step: &Step) {
        self.say(self.script.before(step.number));
    }

    fn done(&self, step: &Step) {
        self.say(self.script.after(step.number));
    }

    fn progress(&self, step: &Step, host: &str, what: &str) {
        let Action::RestartContainers { .. } = step.action else {
            return;
        };
        if let Some(container) = what.strip_prefix(PROVEN) {
            self.say(&[info(format!(
                "[restart/{container}] Successfully restarted container on host [{host}]"
            ))]);
        }
    }

    fn deferred(&self, step: &Step, reason: &str) {
        self.say(&self.script.put_off(step.number, reason));
    }
}

/// What happens on hosts. RKE's own lines go to the log, ours to standard error.
pub fn notify(log: &Arc<Log>) -> Notify {
    let log = Arc::clone(log);
    Arc::new(move |host, notice| match notice {
        Notice::Restarting { container, attempt } => say(
            &log,
            &info(format!(
                "Restarting container [{container}] on host [{host}], try #{attempt}"
            )),
        ),
        Notice::RestartFailed { container, error } => say(
            &log,
            &warning(format!(
                "Can't restart Docker container [{container}] for host [{host}]: {error}"
            )),
        ),
        Notice::Connected { news } => output::talk(&format!("kubepki: {host}: {news}")),
        Notice::Reconnecting => {
            output::talk(&format!("kubepki: {host}: the connection broke; once more"));
        }
        Notice::ApiByHost { target, why } => {
            output::talk(&format!("kubepki: {}", api_by_host(host, target, why)));
        }
        Notice::FilesDirect | Notice::FilesByDocker { .. } => {}
    })
}
