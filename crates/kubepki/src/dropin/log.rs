//! Log lines as logrus' text formatter writes them.

use pki::UnixTime;

use super::go;

/// How much a line matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Only with `--debug`.
    Debug,
    /// What was done.
    Info,
    /// What will need attention.
    Warning,
    /// What is broken.
    Error,
    /// Why the command failed.
    Fatal,
}

/// One line of the log, without time and form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// How much it matters.
    pub level: Level,
    /// What it says.
    pub text: String,
}

/// How lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineStyle {
    /// `time="…" level=info msg="…"`, at an offset from UTC in seconds.
    Fields {
        /// Seconds east of UTC.
        offset: i32,
    },
    /// Coloured, for a terminal.
    Terminal,
}

impl Line {
    /// A line.
    pub fn new(level: Level, text: impl Into<String>) -> Self {
        Self {
            level,
            text: text.into(),
        }
    }

    /// The line with its LF, written at `time`, in the first second of the program.
    pub fn render(&self, time: UnixTime, style: LineStyle) -> String {
        self.render_after(time, 0, style)
    }

    /// The line with its LF, written at `time`, that many seconds after the program's start.
    pub fn render_after(&self, time: UnixTime, seconds: u64, style: LineStyle) -> String {
        match style {
            LineStyle::Fields { offset } => {
                let time = field(&go::rfc3339(time, offset));
                let level = self.level.name();
                match self.text.as_str() {
                    "" => format!("time={time} level={level}\n"),
                    text => format!("time={time} level={level} msg={}\n", field(text)),
                }
            }
            LineStyle::Terminal => format!(
                "\x1b[{}m{}\x1b[0m[{seconds:04}] {:<44} \n",
                self.level.colour(),
                self.level.short(),
                printable(&self.text)
            ),
        }
    }
}

impl Level {
    fn name(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
            Self::Fatal => "fatal",
        }
    }

    fn short(self) -> &'static str {
        match self {
            Self::Debug => "DEBU",
            Self::Info => "INFO",
            Self::Warning => "WARN",
            Self::Error => "ERRO",
            Self::Fatal => "FATA",
        }
    }

    fn colour(self) -> u8 {
        match self {
            Self::Debug => 37,
            Self::Info => 36,
            Self::Warning => 33,
            Self::Error | Self::Fatal => 31,
        }
    }
}

/// A value, in quotes unless it is made of harmless characters only.
fn field(value: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || "-._/@^+".contains(c);
    if value.chars().all(bare) {
        value.to_owned()
    } else {
        go::quote(value)
    }
}

/// logrus writes a message to a terminal as it is; a subject can hold anything, so controls are
/// shown by number instead.
pub(super) fn printable(text: &str) -> String {
    let shown = |c: char| {
        if c.is_control() {
            c.escape_unicode().to_string()
        } else {
            c.to_string()
        }
    };
    text.chars().map(shown).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: UnixTime = UnixTime::from_secs(1_795_332_595);

    // Printed by logrus 1.9.3.
    #[test]
    fn fields() {
        for (level, text, line) in [
            (Level::Info, "two words", r#"level=info msg="two words""#),
            (Level::Warning, "word", "level=warning msg=word"),
            (Level::Error, "a-b._/@^+9", "level=error msg=a-b._/@^+9"),
            (Level::Fatal, "a=b", r#"level=fatal msg="a=b""#),
            (Level::Debug, "", "level=debug"),
            (Level::Info, "a\"b\n\x1b", r#"level=info msg="a\"b\n\x1b""#),
            (Level::Info, "grün", r#"level=info msg="grün""#),
        ] {
            assert_eq!(
                Line::new(level, text).render(TIME, LineStyle::Fields { offset: 0 }),
                format!("time=\"2026-11-22T07:29:55Z\" {line}\n")
            );
        }
    }

    #[test]
    fn terminals_get_colours() {
        let line = Line::new(Level::Warning, "grün").render(TIME, LineStyle::Terminal);
        assert_eq!(
            line,
            format!("\x1b[33mWARN\x1b[0m[0000] grün{} \n", " ".repeat(40))
        );
    }

    #[test]
    fn terminals_get_the_seconds_since_the_start() {
        let line = Line::new(Level::Info, "Finding").render_after(TIME, 17, LineStyle::Terminal);
        assert!(line.starts_with("\x1b[36mINFO\x1b[0m[0017] Finding "));
    }

    #[test]
    fn terminals_get_no_foreign_controls() {
        let line = Line::new(Level::Info, "a\x1b[2Jb").render(TIME, LineStyle::Terminal);
        assert_eq!(line.matches('\x1b').count(), 2);
        assert!(line.contains("a\\u{1b}[2Jb"));
    }
}
