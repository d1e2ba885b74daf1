//! Moments and periods, in whole seconds as X.509 has them.

use core::fmt;

/// Seconds since 1970-01-01T00:00:00Z, leap seconds not counted.
///
/// X.509 times have no fractions (RFC 5280 section 4.1.2.5), so neither has this type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixTime(i64);

/// One day in seconds.
pub const DAY: i64 = 86_400;
/// How long before it is issued a certificate begins, in seconds: for clocks that are behind.
pub const BACKDATE: i64 = 3_600;

impl UnixTime {
    /// The moment `seconds` after the epoch.
    pub const fn from_secs(seconds: i64) -> Self {
        Self(seconds)
    }

    /// Seconds since the epoch.
    pub const fn as_secs(self) -> i64 {
        self.0
    }

    /// This moment moved by `seconds`; stops at the ends of the range instead of wrapping.
    pub const fn plus(self, seconds: i64) -> Self {
        Self(self.0.saturating_add(seconds))
    }

    /// Seconds from `earlier` to this moment; negative when `earlier` is later.
    pub const fn since(self, earlier: Self) -> i64 {
        self.0.saturating_sub(earlier.0)
    }

    /// The moment of a calendar date in UTC: year, then month, day, hour, minute, second.
    ///
    /// `None` when no such day or second exists.
    pub fn from_civil(year: i64, [month, day, hour, minute, second]: [i64; 5]) -> Option<Self> {
        let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let days_in_month = match month {
            2 => 28 + i64::from(leap),
            4 | 6 | 9 | 11 => 30,
            1..=12 => 31,
            _ => return None,
        };
        let in_range = (0..=9999).contains(&year)
            && (1..=days_in_month).contains(&day)
            && (0..24).contains(&hour)
            && (0..60).contains(&minute)
            && (0..60).contains(&second);
        if !in_range {
            return None;
        }
        let shifted_year = year - i64::from(month <= 2);
        let era = shifted_year.div_euclid(400);
        let year_of_era = shifted_year.rem_euclid(400);
        let day_of_year = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
        let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
        let days = era * 146_097 + day_of_era - 719_468;
        Some(Self(days * DAY + hour * 3_600 + minute * 60 + second))
    }

    /// Calendar date and time of day in UTC: `(year, month, day, hour, minute, second)`.
    pub fn civil(self) -> (i64, u8, u8, u8, u8, u8) {
        let days = self.0.div_euclid(DAY);
        let second_of_day = self.0.rem_euclid(DAY);
        // Days to civil date in the proleptic Gregorian calendar, eras of 400 years.
        let shifted = days.saturating_add(719_468);
        let era = shifted.div_euclid(146_097);
        let day_of_era = shifted.rem_euclid(146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_index = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * month_index + 2) / 5 + 1;
        let month = if month_index < 10 {
            month_index + 3
        } else {
            month_index - 9
        };
        let year = year_of_era + era * 400 + i64::from(month <= 2);
        (
            year,
            month as u8,
            day as u8,
            (second_of_day / 3_600) as u8,
            (second_of_day / 60 % 60) as u8,
            (second_of_day % 60) as u8,
        )
    }
}

impl fmt::Display for UnixTime {
    /// RFC 3339 in UTC with `Z`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day, hour, minute, second) = self.civil();
        if !(0..=9999).contains(&year) {
            return write!(
                f,
                "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z"
            );
        }
        // Several for each certificate that a server issues: digits without a formatter for each.
        let mut text = *b"0000-00-00T00:00:00Z";
        let pairs = [
            (0, (year / 100) as u8),
            (2, (year % 100) as u8),
            (5, month),
            (8, day),
            (11, hour),
            (14, minute),
            (17, second),
        ];
        for (at, number) in pairs {
            if let Some(place) = text.get_mut(at..at + 2) {
                place.copy_from_slice(&[b'0' + number / 10, b'0' + number % 10]);
            }
        }
        f.write_str(core::str::from_utf8(&text).unwrap_or_default())
    }
}

/// The period in which a certificate may be used; both ends belong to it (RFC 5280 section 4.1.2.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Validity {
    /// First valid second.
    pub not_before: UnixTime,
    /// Last valid second.
    pub not_after: UnixTime,
}

impl Validity {
    /// Whether `now` lies inside.
    pub fn contains(self, now: UnixTime) -> bool {
        self.not_before <= now && now <= self.not_after
    }

    /// Seconds until `not_after`; negative once it is past.
    pub fn remaining(self, now: UnixTime) -> i64 {
        self.not_after.since(now)
    }

    /// This period cut down to what lies inside `issuer`.
    ///
    /// A certificate that outlives its issuer promises more than it can keep. The result can be
    /// empty (`not_before` after `not_after`) when the two do not overlap.
    pub fn clamped_to(self, issuer: Self) -> Self {
        Self {
            not_before: self.not_before.max(issuer.not_before),
            not_after: self.not_after.min(issuer.not_after),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renders_rfc3339() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_795_328_351, "2026-11-22T06:19:11Z"),
            (-1, "1969-12-31T23:59:59Z"),
            (253_402_300_799, "9999-12-31T23:59:59Z"),
            (253_402_300_800, "10000-01-01T00:00:00Z"),
            (-62_167_219_200, "0000-01-01T00:00:00Z"),
            (-62_167_219_201, "-001-12-31T23:59:59Z"),
        ] {
            assert_eq!(UnixTime::from_secs(seconds).to_string(), text);
        }
    }

    proptest::proptest! {
        #[test]
        fn civil_round_trips(seconds in -62_167_219_200_i64..253_402_300_800) {
            let time = UnixTime::from_secs(seconds);
            let (year, month, day, hour, minute, second) = time.civil();
            let fields = [month, day, hour, minute, second].map(i64::from);
            proptest::prop_assert_eq!(UnixTime::from_civil(year, fields), Some(time));
        }
    }

    #[test]
    fn days_that_do_not_exist_are_refused() {
        for (year, month, day) in [(2026, 2, 29), (2026, 13, 1), (2026, 0, 1), (2026, 4, 31)] {
            assert_eq!(UnixTime::from_civil(year, [month, day, 0, 0, 0]), None);
        }
    }

    #[test]
    fn both_ends_are_valid() {
        let validity = Validity {
            not_before: UnixTime::from_secs(10),
            not_after: UnixTime::from_secs(20),
        };
        assert!(!validity.contains(UnixTime::from_secs(9)));
        assert!(validity.contains(UnixTime::from_secs(10)));
        assert!(validity.contains(UnixTime::from_secs(20)));
        assert!(!validity.contains(UnixTime::from_secs(21)));
    }
}
