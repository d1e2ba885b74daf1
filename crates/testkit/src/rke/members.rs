//! When members of etcd were away, as they say it themselves.
//!
//! Whoever asks a member from outside cannot tell one that is away from one that is slow, or that
//! waits for the others to elect a leader; its log can, on a machine of any speed.

use std::sync::Arc;

use super::docker::Docker;
use super::host::{self, Host, Power};

/// A member's log from some moment on.
#[derive(Debug)]
pub(super) struct Log {
    power: Arc<Power>,
    /// How long it was at that moment.
    read: usize,
}

/// From the moment when a member begins to stop (or, if it was killed, when it begins again) to the
/// one when it serves again; RFC 3339 without letters, UTC, microseconds: sorts as text.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Outage {
    from: String,
    /// `None` if it does not serve yet.
    until: Option<String>,
}

impl Log {
    /// What the member on a machine, which serves, says from now on.
    pub(super) fn from_now(host: &Host) -> Self {
        let power = host.power.clone();
        let read = engine(&power).logs("etcd").len();
        Self { power, read }
    }

    fn outages(&self) -> Vec<Outage> {
        let said = engine(&self.power).logs("etcd");
        // A container that was made anew has a log of its own.
        let news = said.get(self.read..).unwrap_or(&said);
        outages(&String::from_utf8_lossy(news))
    }
}

/// How many members were away at one moment, at most.
pub(super) fn most_away(logs: &[Log]) -> usize {
    at_once(&logs.iter().flat_map(Log::outages).collect::<Vec<_>>())
}

fn engine(power: &Power) -> Docker {
    Docker::at(host::socket(power))
}

/// The outages that the log of a member tells of which served at its beginning.
fn outages(log: &str) -> Vec<Outage> {
    let mut found: Vec<Outage> = Vec::new();
    let mut serves = true;
    for line in log.lines() {
        let Some((at, words)) = parse(line) else {
            continue;
        };
        if words.starts_with("embed: ready to serve client requests") {
            serves = true;
            if let Some(last) = found.last_mut() {
                last.until.get_or_insert_with(|| at.to_owned());
            }
        } else if serves
            && (words.starts_with("pkg/osutil: received terminated signal")
                || words.starts_with("etcdmain: etcd Version"))
        {
            serves = false;
            found.push(Outage {
                from: at.to_owned(),
                until: None,
            });
        }
    }
    found
}

/// Time and words of `2026-11-23 08:38:34.527163 I | etcdmain: etcd Version: 3.4.23`, which
/// Docker's frame head may precede.
fn parse(line: &str) -> Option<(&str, &str)> {
    const TIME: usize = "2026-11-23 08:38:34.527163".len();
    let (head, words) = line.split_once(" | ")?;
    // The level, one letter.
    let head = head.get(..head.len().checked_sub(2)?)?;
    let at = head.get(head.len().checked_sub(TIME)?..)?;
    Some((at, words))
}

fn at_once(outages: &[Outage]) -> usize {
    let mut changes: Vec<(&str, i32)> = Vec::new();
    for outage in outages {
        changes.push((&outage.from, 1));
        changes.extend(outage.until.as_deref().map(|it| (it, -1)));
    }
    // At the same microsecond the end comes first.
    changes.sort_unstable();
    let mut away = 0;
    let most = changes.iter().map(|(_, change)| {
        away += change;
        away
    });
    most.max().unwrap_or_default().unsigned_abs() as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outage(from: &str, until: Option<&str>) -> Outage {
        let at = |it: &str| format!("2026-11-23 08:38:{it}");
        Outage {
            from: at(from),
            until: until.map(at),
        }
    }

    #[test]
    fn reads_what_etcd_says() {
        let frame = "\u{2}\0\0\0\0\0\0";
        let log = format!(
            "{frame}72026-11-23 08:38:46.477461 N | pkg/osutil: received terminated signal, shutting down...\n\
             {frame}l2026-11-23 08:38:50.707072 I | rafthttp: stopping peer d7cd27b8fcd3d634...\n\
             {frame}82026-11-23 08:38:52.121779 I | etcdmain: etcd Version: 3.4.23\n\
             {frame}\n2026-11-23 08:38:52.440358 I | embed: ready to serve client requests\n\
             {frame}x2026-11-23 08:38:53.100000 I | embed: serving client requests on [::]:2379\n\
             {frame}x2026-11-23 08:38:55.000001 I | etcdmain: etcd Version: 3.4.23\n"
        );
        let killed = outage("55.000001", None);
        let found = outages(&log);
        assert_eq!(found, [outage("46.477461", Some("52.440358")), killed]);
    }

    #[test]
    fn counts_what_overlaps() {
        let one = outage("10.000000", Some("12.000000"));
        let next = outage("12.000000", Some("13.000000"));
        let within = outage("11.000000", Some("11.500000"));
        let open = outage("11.999999", None);
        assert_eq!(at_once(&[]), 0);
        assert_eq!(at_once(&[next.clone(), one.clone()]), 1);
        assert_eq!(at_once(&[next.clone(), within.clone(), one.clone()]), 2);
        assert_eq!(at_once(&[open, within, one, next]), 2);
    }
}
