//! Distances in time as go-humanize words them.

const SECOND: u64 = 1_000_000_000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;
const WEEK: u64 = 7 * DAY;
const MONTH: u64 = 30 * DAY;
const YEAR: u64 = 12 * MONTH;

/// Below which distance which words hold; a divisor stands for a counted unit.
const MAGNITUDES: &[(u64, &str, Option<u64>)] = &[
    (SECOND, "now", None),
    (2 * SECOND, "1 second ", None),
    (MINUTE, "seconds ", Some(SECOND)),
    (2 * MINUTE, "1 minute ", None),
    (HOUR, "minutes ", Some(MINUTE)),
    (2 * HOUR, "1 hour ", None),
    (DAY, "hours ", Some(HOUR)),
    (2 * DAY, "1 day ", None),
    (WEEK, "days ", Some(DAY)),
    (2 * WEEK, "1 week ", None),
    (MONTH, "weeks ", Some(WEEK)),
    (2 * MONTH, "1 month ", None),
    (YEAR, "months ", Some(MONTH)),
    (18 * MONTH, "1 year ", None),
    (2 * YEAR, "2 years ", None),
    (37 * YEAR, "years ", Some(YEAR)),
];

/// `humanize.RelTime` with empty labels: past and future read the same, and everything but
/// `now` ends in the space where the label would follow.
pub(super) fn distance(nanoseconds: i64) -> String {
    let distance = nanoseconds.unsigned_abs();
    match MAGNITUDES.iter().find(|(below, ..)| distance < *below) {
        Some((_, unit, Some(divisor))) => format!("{} {unit}", distance / divisor),
        Some((_, words, None)) => (*words).to_owned(),
        None => "a long while ".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn edges() {
        const EDGES: &[(u64, &str, &str)] = &[
            (SECOND, "now", "1 second "),
            (2 * SECOND, "1 second ", "2 seconds "),
            (MINUTE, "59 seconds ", "1 minute "),
            (2 * MINUTE, "1 minute ", "2 minutes "),
            (HOUR, "59 minutes ", "1 hour "),
            (2 * HOUR, "1 hour ", "2 hours "),
            (DAY, "23 hours ", "1 day "),
            (2 * DAY, "1 day ", "2 days "),
            (WEEK, "6 days ", "1 week "),
            (2 * WEEK, "1 week ", "2 weeks "),
            (MONTH, "4 weeks ", "1 month "),
            (2 * MONTH, "1 month ", "2 months "),
            (YEAR, "11 months ", "1 year "),
            (540 * DAY, "1 year ", "2 years "),
            (720 * DAY, "2 years ", "2 years "),
            (1_080 * DAY, "2 years ", "3 years "),
            (13_320 * DAY, "36 years ", "a long while "),
        ];
        for (edge, before, on) in EDGES {
            let edge = i64::try_from(*edge).unwrap();
            assert_eq!(distance(edge - 1), *before);
            assert_eq!(distance(edge), *on);
            assert_eq!(distance(-edge), *on);
        }
        assert_eq!(distance(0), "now");
        assert_eq!(distance(i64::MAX), "a long while ");
        assert_eq!(distance(i64::MIN), "a long while ");
    }

    proptest! {
        /// The words never promise more than there is, and the sign does not matter.
        #[test]
        fn counts_are_whole_units(nanoseconds in -i64::MAX..i64::MAX) {
            let text = distance(nanoseconds);
            prop_assert_eq!(&text, &distance(-nanoseconds));
            let (count, unit) = text.trim_end().split_once(' ').unwrap_or(("0", "now"));
            let size = match unit.trim_end_matches('s') {
                "now" => 0,
                "second" => SECOND,
                "minute" => MINUTE,
                "hour" => HOUR,
                "day" => DAY,
                "week" => WEEK,
                "month" => MONTH,
                // From 18 months on the library rounds up to two years.
                "year" if count == "2" => 9 * MONTH,
                "year" => YEAR,
                _ => 37 * YEAR,
            };
            let count = count.parse().unwrap_or(1);
            prop_assert!(size * count <= nanoseconds.unsigned_abs());
        }
    }
}
