//! RKE's log: its lines, and the two forms that logrus gives them.
//!
//! RKE logs to standard output: coloured and padded with the seconds since its start on a
//! terminal, as fields elsewhere.

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

#[cfg(test)]
mod tests {
    use pki::UnixTime;

    use super::*;

    #[test]
    fn both_forms() {
        let start = UnixTime::from_secs(1_795_332_595);
        let terminal = style(true, 0);
        assert_eq!(
            info("Initiating Kubernetes cluster").render_after(start, 3, terminal),
            "\x1b[36mINFO\x1b[0m[0003] Initiating Kubernetes cluster                \n"
        );
        assert!(
            warning("x")
                .render(start, terminal)
                .starts_with("\x1b[33mWARN")
        );
        let pipe = style(false, 3600);
        assert_eq!(
            version_line().render_after(start.plus(12_345), 12_345, pipe),
            "time=\"2026-11-22T11:55:40+01:00\" level=info msg=\"Running RKE version: v1.6.3\"\n"
        );
        assert_eq!(
            fatal("x").render(start, pipe),
            "time=\"2026-11-22T08:29:55+01:00\" level=fatal msg=x\n"
        );
    }
}
