//! Where K3s's commands write: log lines to standard error, data to standard output, or all of
//! it to a file.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;

use jiff::tz::TimeZone;
use kubepki::dropin::{Level, Line, LineStyle};
use pki::UnixTime;

use super::args::CommonArgs;
use crate::error::CliError;

/// The log of one command.
#[derive(Debug)]
pub struct Log {
    file: Option<File>,
    stderr: bool,
    debug: bool,
    terminal: bool,
    zone: TimeZone,
}

impl Log {
    /// As the flags have it. With `--log` everything goes to that file, data too, because K3s
    /// then runs itself with both streams led there; to standard error only with
    /// `--alsologtostderr`.
    ///
    /// # Errors
    ///
    /// When the file cannot be opened.
    pub fn open(args: &CommonArgs) -> Result<Self, CliError> {
        let file = match args.log.as_deref().filter(|path| !path.is_empty()) {
            Some(path) => Some(append_to(path)?),
            None => None,
        };
        let stderr = file.is_none() || args.alsologtostderr;
        let wants_colour = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let terminal = file.is_none() && wants_colour && io::stderr().is_terminal();
        Ok(Self {
            file,
            stderr,
            debug: args.debug,
            terminal,
            zone: TimeZone::system(),
        })
    }

    /// A log on standard error, for when the wanted one cannot be opened.
    pub fn fallback() -> Self {
        Self {
            file: None,
            stderr: true,
            debug: false,
            terminal: false,
            zone: TimeZone::system(),
        }
    }

    /// Writes a line, if it is not too talkative. Like K3s, a log that cannot be written stops
    /// nothing.
    pub fn line(&mut self, line: &Line, time: UnixTime) {
        if line.level == Level::Debug && !self.debug {
            return;
        }
        let style = match self.terminal {
            true => LineStyle::Terminal,
            false => LineStyle::Fields {
                offset: self.offset(time),
            },
        };
        let text = line.render(time, style);
        if let Some(file) = &mut self.file {
            let _ = file.write_all(text.as_bytes());
        }
        if self.stderr {
            let _ = io::stderr().lock().write_all(text.as_bytes());
        }
    }

    /// Writes data.
    ///
    /// # Errors
    ///
    /// When it cannot be written whole.
    pub fn data(&mut self, text: &str) -> Result<(), CliError> {
        let Some(file) = &mut self.file else {
            return crate::output::data(text);
        };
        file.write_all(text.as_bytes())?;
        if self.stderr {
            let _ = io::stderr().lock().write_all(text.as_bytes());
        }
        Ok(())
    }

    /// Seconds east of UTC, which Go's log writes local time by.
    fn offset(&self, time: UnixTime) -> i32 {
        jiff::Timestamp::from_second(time.as_secs())
            .map_or(0, |time| self.zone.to_offset(time).seconds())
    }
}

fn append_to(path: &OsStr) -> Result<File, CliError> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
        .map_err(|error| CliError::message(format!("cannot write {}: {error}", path.display())))
}
