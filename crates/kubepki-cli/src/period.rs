//! Periods of time as people write them.

use pki::DAY;

/// A period as a number with `d`, `h`, `m` or `s`, or several: `1d12h`. In seconds.
///
/// # Errors
///
/// With an example when it is not one.
pub fn period(text: &str) -> Result<i64, String> {
    let bad = || format!("{text:?} is not a period; write it as 30d or 720h");
    let mut seconds: i64 = 0;
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(bad());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(bad)?;
        let (number, unit) = rest.split_at(digits);
        let number: i64 = number.parse().map_err(|_| bad())?;
        let mut unit = unit.chars();
        let length = match unit.next() {
            Some('d') => DAY,
            Some('h') => 3_600,
            Some('m') => 60,
            Some('s') => 1,
            _ => return Err(bad()),
        };
        seconds = number
            .checked_mul(length)
            .and_then(|more| seconds.checked_add(more))
            .ok_or_else(bad)?;
        rest = unit.as_str();
    }
    Ok(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn periods_are_read_with_their_units() {
        for (text, seconds) in [
            ("30d", 30 * DAY),
            ("720h", 30 * DAY),
            ("1d12h", 129_600),
            ("0s", 0),
            ("90m", 5_400),
        ] {
            assert_eq!(period(text), Ok(seconds), "{text}");
        }
        for text in [
            "",
            "30",
            "d",
            "1w",
            "-1d",
            "1d2",
            "99999999999999999999d",
            "9999999999999999d",
            "1ü",
        ] {
            assert!(period(text).is_err(), "{text}");
        }
    }
}
