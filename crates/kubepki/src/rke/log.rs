//! RKE's log: its lines, and the two forms that logrus gives them.
//!
//! RKE logs to standard output: coloured and padded with the seconds since its start on a
//! terminal, as fields elsewhere.

use pki::UnixTime;

pub use crate::dropin::{Level, Line, LineStyle};

/// The release whose words and ways the drop-in commands have.
pub const RKE_VERSION: &str = "v1.6.3";

/// The first line of every command.
pub fn version_line() -> Line {
    info(format!("Running RKE version: {RKE_VERSION}"))
}

/// A line at level info.
pub fn info(text: impl Into<String>) -> Line {
    Line::new(Level::Info, text)
}

/// A line at level warning.
pub fn warning(text: impl Into<String>) -> Line {
    Line::new(Level::Warning, text)
}

/// The last line of a command that failed; it ends with 1.
pub fn fatal(text: impl Into<String>) -> Line {
    Line::new(Level::Fatal, text)
}

/// The form of lines for standard output: `offset` is the local time's, in seconds east of UTC.
pub fn style(is_terminal: bool, offset: i32) -> LineStyle {
    match is_terminal {
        true => LineStyle::Terminal,
        false => LineStyle::Fields { offset },
    }
}

/// Renders lines of one program.
#[derive(Clone, Copy, Debug)]
pub struct Formatter {
    /// The form.
    pub style: LineStyle,
    /// When the program started.
    pub started: UnixTime,
}

impl Formatter {
    /// The line with its LF, written at `now`. A clock that was set back counts as no time.
    pub fn render(&self, line: &Line, now: UnixTime) -> String {
        let seconds = now.as_secs().saturating_sub(self.started.as_secs());
        line.render_after(now, u64::try_from(seconds).unwrap_or(0), self.style)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: UnixTime = UnixTime::from_secs(1_795_332_595);

    #[test]
    fn both_forms() {
        let line = info("Initiating Kubernetes cluster");
        let terminal = Formatter {
            style: style(true, 0),
            started: START,
        };
        assert_eq!(
            terminal.render(&line, START.plus(3)),
            "\x1b[36mINFO\x1b[0m[0003] Initiating Kubernetes cluster                \n"
        );
        assert!(terminal.render(&line, START.plus(-9)).contains("[0000]"));
        let pipe = Formatter {
            style: style(false, 3600),
            started: START,
        };
        assert_eq!(
            pipe.render(&version_line(), START.plus(12_345)),
            "time=\"2026-11-22T11:55:40+01:00\" level=info msg=\"Running RKE version: v1.6.3\"\n"
        );
        assert_eq!(
            pipe.render(&fatal("x"), START),
            "time=\"2026-11-22T08:29:55+01:00\" level=fatal msg=x\n"
        );
        assert!(
            terminal
                .render(&warning("x"), START)
                .starts_with("\x1b[33mWARN")
        );
    }
}
