//! CAs that end, told long before; a clock that jumps. Pure.

use std::time::Duration;

use kubepki::check::AUTHORITY_WINDOW;
use pki::{Certificate, DAY, UnixTime};

/// A CA that must be replaced, which no server does by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ending {
    /// Its subject.
    pub subject: String,
    /// When it ends.
    pub not_after: UnixTime,
    /// Seconds until then; negative afterwards.
    pub left: i64,
}

impl Ending {
    /// What the operator is told.
    pub fn text(&self) -> String {
        let Self {
            subject,
            not_after,
            left,
        } = self;
        match *left {
            ..0 => format!(
                "the CA {subject} ended at {not_after}: nothing it issued is valid any more; \
                 `kubepki rotate-ca` replaces it"
            ),
            left => format!(
                "the CA {subject} ends at {not_after}, in {} days, and every leaf that it issues \
                 ends with it: replace it with `kubepki rotate-ca`",
                left / DAY
            ),
        }
    }

    /// Whether to say it anew, `since` seconds after it was said last: once a week, in the last
    /// month once a day.
    pub fn is_to_be_said(&self, since: Option<i64>) -> bool {
        let pause = match self.left {
            ..MONTH => DAY,
            _ => 7 * DAY,
        };
        // A clock that went back keeps nobody from saying it.
        since.is_none_or(|since| since >= pause || since < 0)
    }
}

const MONTH: i64 = 30 * DAY;

/// CAs among `certificates` that end within a year ([`AUTHORITY_WINDOW`]), the first to end first.
/// From then on what they issue lives shorter than it should.
pub fn ending<'a>(
    certificates: impl IntoIterator<Item = &'a Certificate>,
    now: UnixTime,
) -> Vec<Ending> {
    let authorities = certificates.into_iter().filter(|it| it.is_ca());
    let mut found: Vec<Ending> = authorities
        .map(|authority| Ending {
            subject: authority.subject().to_string(),
            not_after: authority.validity().not_after,
            left: authority.validity().remaining(now),
        })
        .filter(|ending| ending.left <= AUTHORITY_WINDOW)
        .collect();
    found.sort_by(|a, b| (a.left, &a.subject).cmp(&(b.left, &b.subject)));
    found.dedup();
    found
}

/// CAs that are not valid yet: the clock is wrong, and what is said of dates is too.
pub fn unbegun<'a>(
    certificates: impl IntoIterator<Item = &'a Certificate>,
    now: UnixTime,
) -> Option<String> {
    let authorities = certificates.into_iter().filter(|it| it.is_ca());
    let latest = authorities
        .filter(|it| it.validity().not_before > now)
        .max_by_key(|it| it.validity().not_before)?;
    Some(format!(
        "this machine's clock says {now}, and the CA {} is not valid before {}: set the clock",
        latest.subject(),
        latest.validity().not_before
    ))
}

/// Holds the clock of the day to one that only goes forwards.
#[derive(Debug, Clone, Copy)]
pub struct Jumps {
    wall: UnixTime,
    steady: Duration,
}

/// What clocks may differ by between two looks without anybody having set one: 90 seconds are
/// three of the loop's pauses on a machine that hardly gets to run.
pub const TOLERANCE: i64 = 90;

impl Jumps {
    /// From now on. `steady` is the time since anything that does not change.
    pub fn new(wall: UnixTime, steady: Duration) -> Self {
        Self { wall, steady }
    }

    /// By how many seconds the clock was set since the last look, forwards or back; `None` if it
    /// only went on.
    pub fn look(&mut self, wall: UnixTime, steady: Duration) -> Option<i64> {
        let went = wall.since(self.wall);
        let passed = steady.saturating_sub(self.steady).as_secs();
        *self = Self { wall, steady };
        let jump = went.saturating_sub(i64::try_from(passed).unwrap_or(i64::MAX));
        (jump.abs() > TOLERANCE).then_some(jump)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_set_is_noticed_once() {
        let at = |seconds| UnixTime::from_secs(1_000_000 + seconds);
        let mut jumps = Jumps::new(at(0), Duration::from_secs(5));
        assert_eq!(jumps.look(at(30), Duration::from_secs(35)), None);
        assert_eq!(jumps.look(at(100), Duration::from_secs(65)), None);
        assert_eq!(
            jumps.look(at(400 * DAY), Duration::from_secs(95)),
            Some(400 * DAY - 130)
        );
        assert_eq!(jumps.look(at(400 * DAY), Duration::from_secs(125)), None);
        assert_eq!(
            jumps.look(at(0), Duration::from_secs(125)),
            Some(-400 * DAY)
        );
    }

    #[test]
    fn a_warning_is_said_weekly_and_in_the_end_daily() {
        let ending = |left| Ending {
            subject: "CN=x".to_owned(),
            not_after: UnixTime::from_secs(left),
            left,
        };
        assert!(ending(300 * DAY).is_to_be_said(None));
        assert!(!ending(300 * DAY).is_to_be_said(Some(6 * DAY)));
        assert!(ending(300 * DAY).is_to_be_said(Some(7 * DAY)));
        assert!(ending(20 * DAY).is_to_be_said(Some(DAY)));
        assert!(!ending(20 * DAY).is_to_be_said(Some(DAY - 1)));
        assert!(ending(300 * DAY).is_to_be_said(Some(-5)));
        assert!(ending(-1).text().contains("ended at"));
    }
}
