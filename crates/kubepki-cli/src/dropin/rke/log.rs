//! Where RKE's commands write: everything to standard output.

use std::io::{self, IsTerminal, Write};
use std::time::Instant;

use jiff::tz::TimeZone;
use kubepki::rke::log::{Level, Line, LineStyle, style};
use pki::UnixTime;

use super::args::GlobalArgs;

/// The log of one command.
#[derive(Debug)]
pub struct Log {
    /// Seconds count from here, whatever happens to the clock.
    began: Instant,
    terminal: bool,
    quiet: bool,
    debug: bool,
    zone: TimeZone,
}

impl Log {
    /// As the flags have it. logrus looks at standard output, and at no variable.
    pub fn open(args: GlobalArgs) -> Self {
        Self {
            began: Instant::now(),
            terminal: io::stdout().is_terminal(),
            quiet: args.quiet,
            debug: args.debug || args.trace,
            zone: TimeZone::system(),
        }
    }

    /// Writes a line, if it is not too talkative; `--quiet` takes them all, the last one, too.
    /// A log that cannot be written stops nothing.
    pub fn line(&self, line: &Line, now: UnixTime) {
        if self.quiet || (line.level == Level::Debug && !self.debug) {
            return;
        }
        let text = line.render_after(now, self.began.elapsed().as_secs(), self.style(now));
        let mut stdout = io::stdout().lock();
        let written = stdout.write_all(text.as_bytes());
        let _ = written.and_then(|()| stdout.flush());
    }

    fn style(&self, now: UnixTime) -> LineStyle {
        // Go's log has local time.
        let offset = jiff::Timestamp::from_second(now.as_secs())
            .map_or(0, |time| self.zone.to_offset(time).seconds());
        style(self.terminal, offset)
    }
}
