//! Texts as Go's standard library writes them: durations, quoted strings, JSON strings, times.

use std::fmt::Write as _;
use std::io;

use pki::UnixTime;

/// `time.Duration.String`: hours, minutes and seconds, the fraction without trailing zeros;
/// below a second one unit.
pub(super) fn duration(nanoseconds: i64) -> String {
    let magnitude = nanoseconds.unsigned_abs();
    let sign = if nanoseconds < 0 { "-" } else { "" };
    let (unit, name) = match magnitude {
        0 => return "0s".to_owned(),
        1..1_000 => (1, "ns"),
        1_000..1_000_000 => (1_000, "µs"),
        1_000_000..1_000_000_000 => (1_000_000, "ms"),
        _ => (1_000_000_000, "s"),
    };
    let whole = magnitude / unit;
    let fraction = fraction(magnitude % unit, unit);
    if unit < 1_000_000_000 {
        return format!("{sign}{whole}{fraction}{name}");
    }
    let (hours, minutes, seconds) = (whole / 3_600, whole / 60 % 60, whole % 60);
    match (hours, minutes) {
        (0, 0) => format!("{sign}{seconds}{fraction}s"),
        (0, _) => format!("{sign}{minutes}m{seconds}{fraction}s"),
        _ => format!("{sign}{hours}h{minutes}m{seconds}{fraction}s"),
    }
}

/// `.5` for half of `unit`, a power of ten; nothing for nothing.
fn fraction(part: u64, unit: u64) -> String {
    if part == 0 {
        return String::new();
    }
    let digits = unit.ilog10() as usize;
    let text = format!(".{part:0digits$}");
    text.trim_end_matches('0').to_owned()
}

/// `strconv.Quote`: double quotes, backslash escapes, unprintable characters by number.
pub(super) fn quote(text: &str) -> String {
    let mut quoted = String::from('"');
    for character in text.chars() {
        match character {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\x07' => quoted.push_str("\\a"),
            '\x08' => quoted.push_str("\\b"),
            '\x0c' => quoted.push_str("\\f"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '\x0b' => quoted.push_str("\\v"),
            '\0'..' ' | '\x7f' => push_number(&mut quoted, "\\x", 2, character),
            // Rust's rule has its own mind about apostrophes.
            '\'' => quoted.push('\''),
            character if is_printable(character) => quoted.push(character),
            '\u{80}'..='\u{ffff}' => push_number(&mut quoted, "\\u", 4, character),
            _ => push_number(&mut quoted, "\\U", 8, character),
        }
    }
    quoted.push('"');
    quoted
}

fn push_number(text: &mut String, prefix: &str, digits: usize, character: char) {
    // Writing to a String cannot fail.
    let _ = write!(text, "{prefix}{:0digits$x}", u32::from(character));
}

/// Letters, marks, numbers, punctuation, symbols and the space: what both Go and Rust print.
fn is_printable(character: char) -> bool {
    // Rust's own rule lies behind Debug, which also escapes marks that would join the quote in
    // front of them; behind a letter they are left alone.
    let mut pair = [0; 4];
    let mut text = String::from('a');
    text.push_str(character.encode_utf8(&mut pair));
    text.escape_debug().eq(text.chars())
}

/// `encoding/json` of a string with HTML escaping, as `json.NewEncoder` has it by default.
pub(super) fn json_string(text: &str) -> String {
    let mut json = String::from('"');
    for character in text.chars() {
        match character {
            '"' => json.push_str("\\\""),
            '\\' => json.push_str("\\\\"),
            '\x08' => json.push_str("\\b"),
            '\x0c' => json.push_str("\\f"),
            '\n' => json.push_str("\\n"),
            '\r' => json.push_str("\\r"),
            '\t' => json.push_str("\\t"),
            '\0'..' ' | '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                push_number(&mut json, "\\u", 4, character);
            }
            character => json.push(character),
        }
    }
    json.push('"');
    json
}

/// RFC 3339 to the second at `offset` seconds east of UTC: `Z` only for UTC itself.
pub(super) fn rfc3339(time: UnixTime, offset: i32) -> String {
    let local = time.plus(i64::from(offset)).to_string();
    if offset == 0 {
        return local;
    }
    let sign = if offset < 0 { '-' } else { '+' };
    let minutes = offset.unsigned_abs() / 60;
    let local = local.trim_end_matches('Z');
    format!("{local}{sign}{:02}:{:02}", minutes / 60, minutes % 60)
}

/// The layout `Jan 02, 2006 15:04 MST` in UTC.
pub(super) fn table_time(time: UnixTime) -> String {
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let (year, month, day, hour, minute, _) = time.civil();
    let month = MONTHS
        .get(usize::from(month).saturating_sub(1))
        .unwrap_or(&"Jan");
    format!("{month} {day:02}, {year:04} {hour:02}:{minute:02} UTC")
}

/// `time.Time.String` in UTC, without the monotonic clock's reading.
pub(super) fn time_string(time: UnixTime) -> String {
    let (year, month, day, hour, minute, second) = time.civil();
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} +0000 UTC")
}

/// A system error in Go's words: the C library's, in lower case, without its number.
pub(super) fn io_error(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error ").next().unwrap_or_default();
    let mut characters = text.chars();
    match characters.next() {
        Some(first) => first.to_lowercase().chain(characters).collect(),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    // Every expected text below was printed by Go 1.26.

    #[test]
    fn durations() {
        for (nanoseconds, text) in [
            (0, "0s"),
            (1, "1ns"),
            (999, "999ns"),
            (1_000, "1µs"),
            (1_500, "1.5µs"),
            (2_000_000, "2ms"),
            (1_100_000, "1.1ms"),
            (999_999_999, "999.999999ms"),
            (1_000_000_000, "1s"),
            (59_999_999_999, "59.999999999s"),
            (60_000_000_000, "1m0s"),
            (3_600_000_000_000, "1h0m0s"),
            (3_659_010_000_000, "1h0m59.01s"),
            (31_528_156_750_120_646, "8757h49m16.750120646s"),
            (-31_528_156_750_120_646, "-8757h49m16.750120646s"),
            (-1, "-1ns"),
            (-1_500_000_000, "-1.5s"),
            (i64::MAX, "2562047h47m16.854775807s"),
            (i64::MIN, "-2562047h47m16.854775808s"),
        ] {
            assert_eq!(duration(nanoseconds), text);
        }
    }

    #[test]
    fn quoted_strings() {
        for (text, quoted) in [
            ("", r#""""#),
            ("plain text", r#""plain text""#),
            ("can't", r#""can't""#),
            ("a\"b\\c", r#""a\"b\\c""#),
            ("\x07\x08\x0c\n\r\t\x0b", r#""\a\b\f\n\r\t\v""#),
            ("\x00\x1b[31m\x7f", r#""\x00\x1b[31m\x7f""#),
            ("grün 世界", r#""grün 世界""#),
            (
                "\u{80}\u{a0}\u{ad}\u{200b}\u{202e}",
                r#""\u0080\u00a0\u00ad\u200b\u202e""#,
            ),
            ("e\u{301}\u{301}", "\"e\u{301}\u{301}\""),
            (
                "\u{1f512}\u{e0001}\u{10ffff}",
                "\"\u{1f512}\\U000e0001\\U0010ffff\"",
            ),
        ] {
            assert_eq!(quote(text), quoted);
        }
    }

    #[test]
    fn json_strings() {
        for (text, json) in [
            ("a\"b\\c/", r#""a\"b\\c/""#),
            ("<b>&", r#""\u003cb\u003e\u0026""#),
            (
                "\x00\x08\x0c\n\r\t\x1f\x7f",
                "\"\\u0000\\b\\f\\n\\r\\t\\u001f\x7f\"",
            ),
            ("\u{2028}\u{2029}é", r#""\u2028\u2029é""#),
        ] {
            assert_eq!(json_string(text), json);
        }
    }

    #[test]
    fn times() {
        let time = UnixTime::from_secs(1_795_332_595);
        assert_eq!(rfc3339(time, 0), "2026-11-22T07:29:55Z");
        assert_eq!(rfc3339(time, 3_600), "2026-11-22T08:29:55+01:00");
        assert_eq!(rfc3339(time, -12_600), "2026-11-22T03:59:55-03:30");
        assert_eq!(table_time(time), "Nov 22, 2026 07:29 UTC");
        assert_eq!(time_string(time), "2026-11-22 07:29:55 +0000 UTC");
    }

    #[test]
    fn errors_lose_their_number() {
        for (code, text) in [
            (2, "no such file or directory"),
            (5, "input/output error"),
            (13, "permission denied"),
            (20, "not a directory"),
            (30, "read-only file system"),
            (40, "too many levels of symbolic links"),
        ] {
            assert_eq!(io_error(&io::Error::from_raw_os_error(code)), text);
        }
    }

    proptest! {
        /// Reading the parts of a duration back gives the same nanoseconds.
        #[test]
        fn durations_keep_every_nanosecond(nanoseconds: i64) {
            let text = duration(nanoseconds);
            let unsigned = text.trim_start_matches('-');
            prop_assert_eq!(text.starts_with('-'), nanoseconds < 0);
            let units: [(&str, u128); 6] = [
                ("ns", 1),
                ("µs", 1_000),
                ("ms", 1_000_000),
                ("h", 3_600_000_000_000),
                ("m", 60_000_000_000),
                ("s", 1_000_000_000),
            ];
            let mut rest = unsigned;
            let mut total = 0;
            while !rest.is_empty() {
                let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap();
                let (number, tail) = rest.split_at(digits);
                let (unit, size) = units.iter().find(|(unit, _)| tail.starts_with(unit)).unwrap();
                let (whole, part) = number.split_once('.').unwrap_or((number, ""));
                prop_assert!(!part.ends_with('0'));
                total += whole.parse::<u128>().unwrap() * size;
                if !part.is_empty() {
                    total += part.parse::<u128>().unwrap() * size / 10_u128.pow(part.len() as u32);
                }
                rest = &tail[unit.len()..];
            }
            prop_assert_eq!(total, u128::from(nanoseconds.unsigned_abs()));
        }

        /// Nothing that is quoted can end the quotes or reach the terminal as a control.
        #[test]
        fn quotes_hold(text in any::<String>()) {
            let quoted = quote(&text);
            prop_assert!(!quoted.chars().any(char::is_control));
            let inner = &quoted[1..quoted.len() - 1];
            prop_assert!(!inner.replace("\\\\", "").replace("\\\"", "").contains('"'));
        }

        /// Any JSON parser reads the text back.
        #[test]
        fn json_is_read_back(text in any::<String>()) {
            let read: String = serde_json::from_str(&json_string(&text)).unwrap();
            prop_assert_eq!(read, text);
        }
    }
}
