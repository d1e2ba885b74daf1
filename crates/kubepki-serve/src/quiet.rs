//! Lines of the log that strangers, and agents that ask again and again, cause: so many are said,
//! the others are counted.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use pki::Digest;

use crate::bucket::Bucket;

/// Lines that strangers can cause at once.
pub const BURST: u32 = 128;
/// For that long a caller is not said again to have asked for what is not here.
pub const HOUR: Duration = Duration::from_secs(3600);
/// Callers that are remembered.
const CALLERS: usize = 16_384;

/// What was said, and what was not. Times are those of a clock that nobody sets.
#[derive(Debug, Default)]
pub struct Quiet(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    strangers: Said,
    callers: HashMap<Digest, Once>,
}

#[derive(Debug, Default)]
struct Said {
    lines: Bucket<BURST>,
    unsaid: u64,
}

#[derive(Debug)]
struct Once {
    at: Duration,
    unsaid: u64,
}

impl Said {
    fn says(&mut self, now: Duration) -> Option<u64> {
        if self.lines.is_full(now) {
            self.unsaid = self.unsaid.saturating_add(1);
            return None;
        }
        self.lines.add(now);
        Some(std::mem::take(&mut self.unsaid))
    }
}

/// Why something was refused, and how many more were of which nothing was said.
pub(crate) fn with_unsaid(why: String, unsaid: u64) -> String {
    match unsaid {
        0 => why,
        _ => format!("{why}; {unsaid} more were refused and not said"),
    }
}

impl Quiet {
    /// Whether a line is said that any stranger can cause; then how many were not said since the
    /// last one.
    pub fn stranger(&self, now: Duration) -> Option<u64> {
        let mut inner = self.0.lock().ok()?;
        inner.strangers.says(now)
    }

    /// The same for a caller who asks for what is not here: one line an hour.
    pub fn caller(&self, who: Digest, now: Duration) -> Option<u64> {
        let mut inner = self.0.lock().ok()?;
        if let Some(once) = inner.callers.get_mut(&who) {
            if now.saturating_sub(once.at) < HOUR {
                once.unsaid = once.unsaid.saturating_add(1);
                return None;
            }
            once.at = now;
            return Some(std::mem::take(&mut once.unsaid));
        }
        if inner.callers.len() >= CALLERS {
            let is_late = |once: &Once| now.saturating_sub(once.at) < HOUR;
            inner.callers.retain(|_, once| is_late(once));
        }
        if inner.callers.len() >= CALLERS {
            return inner.strangers.says(now);
        }
        inner.callers.insert(who, Once { at: now, unsaid: 0 });
        Some(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bucket::ONE_LEAKS_AFTER;

    #[test]
    fn strangers_say_so_much_and_the_rest_is_counted() {
        let quiet = Quiet::default();
        let now = Duration::from_secs(50);
        for _ in 0..BURST {
            assert_eq!(quiet.stranger(now), Some(0));
        }
        for _ in 0..1000 {
            assert_eq!(quiet.stranger(now), None);
        }
        assert_eq!(quiet.stranger(now + ONE_LEAKS_AFTER), Some(1000));
        assert_eq!(quiet.stranger(now + ONE_LEAKS_AFTER), None);
        // A clock that goes back forgives nothing.
        assert_eq!(quiet.stranger(Duration::ZERO), None);
        assert_eq!(quiet.stranger(now + 2 * ONE_LEAKS_AFTER), Some(2));
    }

    #[test]
    fn who_asks_again_and_again_is_said_once_an_hour() {
        let quiet = Quiet::default();
        let (one, other) = (pki::sha256(b"one"), pki::sha256(b"other"));
        let now = Duration::from_secs(50);
        assert_eq!(quiet.caller(one, now), Some(0));
        for second in 1..3600 {
            let now = now + Duration::from_secs(second);
            assert_eq!(quiet.caller(one, now), None);
        }
        assert_eq!(quiet.caller(other, now), Some(0));
        assert_eq!(quiet.caller(one, now + HOUR), Some(3599));
        // However many come, what is remembered has an end.
        for number in 0..20_000u32 {
            let _ = quiet.caller(pki::sha256(&number.to_be_bytes()), now);
        }
        let inner = quiet.0.lock().unwrap();
        assert_eq!(inner.callers.len(), CALLERS);
        assert!(inner.strangers.unsaid > 0);
    }
}
