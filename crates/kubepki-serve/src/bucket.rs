//! So many at once, and then one more each second: a leaky bucket. Pure; times are those of a
//! clock that nobody sets.

use std::time::Duration;

/// Until one of what is in a bucket has run out.
pub(crate) const ONE_LEAKS_AFTER: Duration = Duration::from_secs(1);

/// Holds `SIZE` at most.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Bucket<const SIZE: u32> {
    count: u32,
    last: Duration,
}

impl<const SIZE: u32> Bucket<SIZE> {
    /// How many ran out until `now`. A clock that goes back lets none out.
    fn leaked(self, now: Duration) -> u32 {
        let periods = now.saturating_sub(self.last).as_nanos() / ONE_LEAKS_AFTER.as_nanos();
        u32::try_from(periods).unwrap_or(u32::MAX)
    }

    /// How many are in it at `now`.
    pub(crate) fn left(self, now: Duration) -> u32 {
        self.count.saturating_sub(self.leaked(now))
    }

    /// Whether it holds no more.
    pub(crate) fn is_full(self, now: Duration) -> bool {
        self.left(now) >= SIZE
    }

    /// Whether nothing was ever put into it.
    pub(crate) fn is_unused(self) -> bool {
        self.count == 0
    }

    /// One more at `now`; what does not fit in is nowhere. What has passed of a period counts on.
    pub(crate) fn add(&mut self, now: Duration) {
        let (left, leaked) = (self.left(now), self.leaked(now));
        self.last = match left {
            0 => self.last.max(now),
            _ => self.last.saturating_add(ONE_LEAKS_AFTER * leaked),
        };
        self.count = left.saturating_add(1).min(SIZE);
    }
}
