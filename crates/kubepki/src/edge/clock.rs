//! What time it is.

use std::fmt;
use std::sync::LazyLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use pki::UnixTime;

/// Tells the time. Pure code takes a [`UnixTime`] instead.
pub trait Clock: Send + Sync + fmt::Debug {
    /// Now.
    fn now(&self) -> UnixTime;

    /// Now, and how many nanoseconds of the second have passed; none where the clock has only
    /// whole seconds.
    fn precise(&self) -> (UnixTime, u32) {
        (self.now(), 0)
    }

    /// How much time has passed since some moment of this process, whatever [`Self::now`] is set
    /// to meanwhile.
    fn steady(&self) -> Duration {
        static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);
        BEGAN.elapsed()
    }
}

/// The machine's clock.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> UnixTime {
        self.precise().0
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "the one door through which time enters"
    )]
    fn precise(&self) -> (UnixTime, u32) {
        let seconds = |seconds| i64::try_from(seconds).unwrap_or(i64::MAX);
        match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(since) => (
                UnixTime::from_secs(seconds(since.as_secs())),
                since.subsec_nanos(),
            ),
            // A clock before 1970 is wrong anyway: its fraction is of no use.
            Err(before) => (
                UnixTime::from_secs(-seconds(before.duration().as_secs())),
                0,
            ),
        }
    }
}

/// A clock that stands still: `--at`, the tour, tests.
#[derive(Clone, Copy, Debug)]
pub struct FixedClock(pub UnixTime);

impl Clock for FixedClock {
    fn now(&self) -> UnixTime {
        self.0
    }
}
