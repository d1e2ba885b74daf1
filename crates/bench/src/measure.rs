//! Costs of threads and of processes, and how they are printed.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

use rustix::time::{ClockId, clock_gettime};
use wait4::Wait4;

/// Whatever keeps a measurement from being made.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// What a process took, its own children included.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cost {
    /// User and system time in seconds.
    pub cpu: f64,
    /// Seconds from start to end.
    pub wall: f64,
    /// The most memory that one of them held, in bytes.
    pub peak: u64,
}

impl Cost {
    /// This and then `next`.
    pub fn then(self, next: Self) -> Self {
        Self {
            cpu: self.cpu + next.cpu,
            wall: self.wall + next.wall,
            peak: self.peak.max(next.peak),
        }
    }
}

/// A program to be run by [`cost`]: no input, output thrown away.
#[expect(
    clippy::disallowed_methods,
    reason = "the processes are what is measured"
)]
pub fn program(name: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(name);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

/// Runs `command` to its end.
///
/// # Errors
///
/// When it cannot be run or ends with a code over `worst`.
pub fn cost(command: &mut Command, worst: i32) -> Result<Cost, Failure> {
    let begin = Instant::now();
    let ended = command
        .spawn()
        .and_then(|mut child| child.wait4())
        .map_err(|error| format!("{}: {error}", command.get_program().display()))?;
    let wall = begin.elapsed().as_secs_f64();
    if ended.status.code().is_none_or(|code| code > worst) {
        let words = command.get_args().take(6).collect::<Vec<_>>();
        let name = command.get_program();
        return Err(format!("{name:?} {words:?} ended with {}", ended.status).into());
    }
    let usage = ended.rusage;
    Ok(Cost {
        cpu: (usage.utime + usage.stime).as_secs_f64(),
        wall,
        peak: usage.maxrss,
    })
}

/// CPU time of this thread, in seconds.
pub fn thread_cpu() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// The release build of kubepki beside this program.
///
/// # Errors
///
/// When there is none.
pub fn kubepki() -> Result<PathBuf, Failure> {
    let found = std::env::current_exe()?.with_file_name("kubepki");
    if !found.is_file() {
        return Err(format!(
            "{} is missing: `cargo build --release -p kubepki-cli`",
            found.display()
        )
        .into());
    }
    Ok(found)
}

/// Several measurements of one thing.
#[derive(Clone, Debug, Default)]
pub struct Sample(Vec<f64>);

impl Sample {
    /// One more.
    pub fn push(&mut self, value: f64) {
        let place = self.0.partition_point(|known| *known < value);
        self.0.insert(place, value);
    }

    /// The value below which `part` of all lie.
    fn quantile(&self, part: f64) -> f64 {
        let last = self.0.len().saturating_sub(1);
        let index = (last as f64 * part).round() as usize;
        self.0.get(index).copied().unwrap_or(f64::NAN)
    }

    /// The middle one.
    pub fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    /// The smallest one.
    pub fn least(&self) -> f64 {
        self.quantile(0.0)
    }

    /// The largest one.
    pub fn most(&self) -> f64 {
        self.quantile(1.0)
    }

    /// `median (tenth-ninetieth percentile)`, each times `unit`.
    pub fn range(&self, unit: f64, digits: usize) -> String {
        let [low, middle, high] = [0.1, 0.5, 0.9].map(|part| self.quantile(part) * unit);
        format!("{middle:.digits$} ({low:.digits$}-{high:.digits$})")
    }
}

impl FromIterator<f64> for Sample {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Self {
        let mut sample = Self::default();
        values.into_iter().for_each(|value| sample.push(value));
        sample
    }
}

/// The costs of one contender, one per round.
#[derive(Clone, Debug, Default)]
pub struct Costs(pub Vec<Cost>);

impl Costs {
    /// CPU seconds.
    pub fn cpu(&self) -> Sample {
        self.0.iter().map(|cost| cost.cpu).collect()
    }

    /// Wall seconds.
    pub fn wall(&self) -> Sample {
        self.0.iter().map(|cost| cost.wall).collect()
    }

    /// The most memory of any round, in MiB.
    pub fn peak_mib(&self) -> f64 {
        self.0.iter().map(|cost| cost.peak).max().unwrap_or(0) as f64 / 1048576.0
    }

    /// This one's CPU over the other's, round by round.
    pub fn cpu_over(&self, other: &Self) -> Sample {
        let pairs = self.0.iter().zip(&other.0);
        pairs.map(|(own, other)| own.cpu / other.cpu).collect()
    }
}

/// Prints columns: the first to the left, the others to the right.
pub fn table(head: &[&str], rows: &[Vec<String>]) {
    let head: Vec<String> = head.iter().map(|&text| text.to_owned()).collect();
    let lines = || std::iter::once(&head).chain(rows);
    let width = |column: usize| {
        lines()
            .filter_map(|line| line.get(column))
            .map(|text| text.chars().count())
            .max()
            .unwrap_or(0)
    };
    for line in lines() {
        for (column, text) in line.iter().enumerate() {
            let width = width(column);
            if column == 0 {
                print!("{text:<width$}");
            } else {
                print!("  {text:>width$}");
            }
        }
        println!();
    }
}
