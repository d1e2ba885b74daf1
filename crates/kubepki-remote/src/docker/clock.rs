//! Docker's times: RFC 3339 with up to nine digits after the second.

use pki::UnixTime;

/// `2026-11-22T18:01:02.123456789Z` or with an offset such as `+01:00`.
pub(super) fn parse(text: &str) -> Option<(UnixTime, u32)> {
    let (date, rest) = text.split_once('T')?;
    let zone = rest.find(['Z', '+', '-'])?;
    let (clock, zone) = rest.split_at_checked(zone)?;
    let (clock, fraction) = clock.split_once('.').unwrap_or((clock, ""));
    let [year, month, day] = numbers(date, '-')?;
    let [hour, minute, second] = numbers(clock, ':')?;
    let time = UnixTime::from_civil(year, [month, day, hour, minute, second])?;
    Some((time.plus(-offset(zone)?), nanoseconds(fraction)?))
}

fn numbers(text: &str, between: char) -> Option<[i64; 3]> {
    let parts: Option<Vec<i64>> = text.split(between).map(|it| it.parse().ok()).collect();
    parts?.try_into().ok()
}

/// Seconds east of Greenwich.
fn offset(zone: &str) -> Option<i64> {
    if zone == "Z" {
        return Some(0);
    }
    let (sign, rest) = zone.split_at_checked(1)?;
    let (hours, minutes) = rest.split_once(':')?;
    let (hours, minutes): (i64, i64) = (hours.parse().ok()?, minutes.parse().ok()?);
    let seconds = hours * 3600 + minutes * 60;
    Some(if sign == "-" { -seconds } else { seconds })
}

fn nanoseconds(fraction: &str) -> Option<u32> {
    if fraction.len() > 9 || !fraction.bytes().all(|it| it.is_ascii_digit()) {
        return None;
    }
    format!("{fraction:0<9}").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_docker_writes() {
        let at = |text| parse(text).map(|(time, nanoseconds)| (time.as_secs(), nanoseconds));
        assert_eq!(at("1970-01-01T00:00:01.5Z"), Some((1, 500_000_000)));
        assert_eq!(at("1970-01-01T01:00:01.000000007+01:00"), Some((1, 7)));
        assert_eq!(at("1969-12-31T23:00:01-01:00"), Some((1, 0)));
        // A container that was never started.
        assert_eq!(at("0001-01-01T00:00:00Z"), Some((-62_135_596_800, 0)));
        for bad in [
            "",
            "now",
            "1970-01-01",
            "1970-13-01T00:00:00Z",
            "1970-01-01T00:00:00.x1Z",
        ] {
            assert_eq!(at(bad), None, "{bad}");
        }
    }
}
