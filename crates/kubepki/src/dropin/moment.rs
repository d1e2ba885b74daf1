//! A point in time as Go has it: with nanoseconds.

use pki::UnixTime;

use super::error::DropinError;

/// Seconds and nanoseconds since 1970: K3s's residual times have them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment {
    seconds: UnixTime,
    nanoseconds: u32,
}

/// 1980-01-01T00:00:00Z: K3s takes an earlier clock for one that was never set.
const EARLIEST: UnixTime = UnixTime::from_secs(315_532_800);

impl Moment {
    /// `nanoseconds` after `seconds`; what goes beyond a second is cut off.
    pub fn new(seconds: UnixTime, nanoseconds: u32) -> Self {
        Self {
            seconds,
            nanoseconds: nanoseconds.min(999_999_999),
        }
    }

    /// The whole second that it lies in.
    pub fn second(self) -> UnixTime {
        self.seconds
    }

    /// Nanoseconds until `time`, held to the range of Go's `Duration` (292 years).
    pub(super) fn until(self, time: UnixTime) -> i64 {
        let seconds = i128::from(time.as_secs()) - i128::from(self.seconds.as_secs());
        let nanoseconds = seconds * 1_000_000_000 - i128::from(self.nanoseconds);
        match i64::try_from(nanoseconds) {
            Ok(nanoseconds) => nanoseconds,
            Err(_) if nanoseconds < 0 => i64::MIN,
            Err(_) => i64::MAX,
        }
    }

    /// Refuses a clock that was never set, as K3s does before every command.
    ///
    /// # Errors
    ///
    /// [`DropinError::Clock`] before 1980.
    pub fn plausible(self) -> Result<Self, DropinError> {
        if self.seconds < EARLIEST {
            return Err(DropinError::Clock { now: self.seconds });
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_must_be_set() {
        let at = |seconds| Moment::new(UnixTime::from_secs(seconds), 0);
        assert!(at(315_532_800).plausible().is_ok());
        let error = at(315_532_799).plausible().unwrap_err();
        assert_eq!(
            error.to_string(),
            "server time isn't set properly: 1979-12-31 23:59:59 +0000 UTC"
        );
    }

    #[test]
    fn durations_stop_at_the_ends_of_go() {
        let now = Moment::new(UnixTime::from_secs(1_795_328_351), 250_000_000);
        assert_eq!(now.until(UnixTime::from_secs(1_795_328_352)), 750_000_000);
        assert_eq!(now.until(UnixTime::from_secs(1_795_328_351)), -250_000_000);
        // 9999-12-31T23:59:59Z, which stands for "no end" (RFC 5280 section 4.1.2.5).
        assert_eq!(now.until(UnixTime::from_secs(253_402_300_799)), i64::MAX);
        assert_eq!(now.until(UnixTime::from_secs(-62_135_596_800)), i64::MIN);
    }
}
