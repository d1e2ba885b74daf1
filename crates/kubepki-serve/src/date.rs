//! Dates of HTTP (RFC 9110 section 5.6.7). Pure.

use pki::{DAY, UnixTime};

const MONTHS: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];

/// `Sun, 22 Nov 2026 06:48:38 GMT` (RFC 9110 section 5.6.7).
pub(crate) fn write(time: UnixTime) -> String {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    let (year, month, day, hour, minute, second) = time.civil();
    // 1 January 1970 was a Thursday.
    let weekday = usize::try_from(time.as_secs().div_euclid(DAY).rem_euclid(7)).unwrap_or(0);
    let weekday = DAYS.get(weekday).copied().unwrap_or_default();
    let month = MONTHS
        .get(usize::from(month).saturating_sub(1))
        .copied()
        .unwrap_or_default();
    format!("{weekday}, {day:02} {month} {year:04} {hour:02}:{minute:02}:{second:02} GMT")
}

/// `Sun, 22 Nov 2026 06:48:38 GMT`, the form that has been written since 1995; others are as good
/// as none.
pub(crate) fn read(text: &str) -> Option<UnixTime> {
    let text = text.strip_suffix(" GMT")?;
    let (_, text) = text.split_once(", ")?;
    let mut fields = text.split([' ', ':']);
    let mut next = || fields.next();
    let day: i64 = next()?.parse().ok()?;
    let month = next()?;
    let month = MONTHS.iter().position(|it| *it == month)?;
    let month = i64::try_from(month).ok()?.saturating_add(1);
    let year: i64 = next()?.parse().ok()?;
    let mut time = [0; 3];
    for field in &mut time {
        *field = next()?.parse::<i64>().ok()?;
    }
    let [hour, minute, second] = time;
    UnixTime::from_civil(year, [month, day, hour, minute, second])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_as_http_has_them() {
        let date = |seconds| write(UnixTime::from_secs(seconds));
        assert_eq!(date(1_795_330_118), "Sun, 22 Nov 2026 06:48:38 GMT");
        assert_eq!(date(0), "Thu, 01 Jan 1970 00:00:00 GMT");
    }

    #[test]
    fn dates_are_read_as_they_are_written() {
        assert_eq!(
            read("Sun, 22 Nov 2026 06:48:38 GMT"),
            Some(UnixTime::from_secs(1_795_330_118))
        );
        for odd in [
            "",
            "GMT",
            "Sun, 22 Nov 2026",
            "Sun, 40 Nov 2026 06:48:38 GMT",
        ] {
            assert_eq!(read(odd), None, "{odd}");
        }
    }
}
