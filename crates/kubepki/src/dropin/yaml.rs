//! Strings as yaml.v2 writes them.

use std::fmt::Write as _;

/// A string as a block scalar's value: bare where a reader gets the same string back, else
/// quoted.
///
/// Other than yaml.v2, one line is kept where that one folds (text with spaces beyond column 80),
/// writes a literal block (text with line feeds) or a bare line separator: it reads the same.
pub(super) fn scalar(text: &str) -> String {
    if resolves_to_another_type(text) || is_base60(text) {
        return double_quoted(text);
    }
    let shape = Shape::of(text);
    match () {
        () if shape.needs_escapes => double_quoted(text),
        () if shape.needs_quotes => format!("'{}'", text.replace('\'', "''")),
        () => text.to_owned(),
    }
}

struct Shape {
    needs_escapes: bool,
    needs_quotes: bool,
}

impl Shape {
    /// libyaml's `analyze_scalar`, as far as a block context goes.
    fn of(text: &str) -> Self {
        let needs_escapes = text.chars().any(|c| !is_printable(c) || is_break(c));
        let blank_after = |rest: &str| rest.chars().next().is_none_or(|c| matches!(c, ' ' | '\t'));
        let mut needs_quotes = text.starts_with("---")
            || text.starts_with("...")
            || text.starts_with(' ')
            || text.ends_with(' ');
        let mut after_blank = true;
        for (index, character) in text.char_indices() {
            let rest = text.get(index + character.len_utf8()..).unwrap_or_default();
            needs_quotes |= match character {
                ',' | '[' | ']' | '{' | '}' | '&' | '*' | '!' | '|' | '>' | '\'' | '"' | '%'
                | '@' | '`' => index == 0,
                '#' => after_blank,
                ':' => blank_after(rest),
                '?' | '-' => index == 0 && blank_after(rest),
                _ => false,
            };
            after_blank = matches!(character, ' ' | '\t') || is_break(character);
        }
        Self {
            needs_escapes,
            needs_quotes,
        }
    }
}

fn is_break(character: char) -> bool {
    matches!(character, '\r' | '\n' | '\u{85}' | '\u{2028}' | '\u{2029}')
}

/// libyaml's idea of it, without anything beyond the basic plane.
fn is_printable(character: char) -> bool {
    matches!(character, '\n' | ' '..='~' | '\u{a0}'..='\u{d7ff}' | '\u{e000}'..='\u{fffd}')
        && character != '\u{feff}'
}

fn double_quoted(text: &str) -> String {
    let mut quoted = String::from('"');
    for character in text.chars() {
        let short = match character {
            '\0' => Some('0'),
            '\x07' => Some('a'),
            '\x08' => Some('b'),
            '\t' => Some('t'),
            '\n' => Some('n'),
            '\x0b' => Some('v'),
            '\x0c' => Some('f'),
            '\r' => Some('r'),
            '\x1b' => Some('e'),
            '"' | '\\' => Some(character),
            '\u{85}' => Some('N'),
            '\u{2028}' => Some('L'),
            '\u{2029}' => Some('P'),
            _ => None,
        };
        // Writing to a String cannot fail.
        let _ = match (short, u32::from(character)) {
            (Some(short), _) => write!(quoted, "\\{short}"),
            _ if is_printable(character) => write!(quoted, "{character}"),
            (None, code @ ..=0xff) => write!(quoted, "\\x{code:02X}"),
            (None, code @ ..=0xffff) => write!(quoted, "\\u{code:04X}"),
            (None, code) => write!(quoted, "\\U{code:08X}"),
        };
    }
    quoted.push('"');
    quoted
}

/// Whether yaml.v2 would read the bare text as something else than a string.
fn resolves_to_another_type(text: &str) -> bool {
    const WORDS: &[&str] = &[
        "", "~", "null", "Null", "NULL", "y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE",
        "on", "On", "ON", "n", "N", "no", "No", "NO", "false", "False", "FALSE", "off", "Off",
        "OFF", ".nan", ".NaN", ".NAN", ".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF", "-.inf",
        "-.Inf", "-.INF",
    ];
    if WORDS.contains(&text) {
        return true;
    }
    match text.chars().next() {
        Some('.') => is_decimal(text),
        Some('+' | '-' | '0'..='9') => {
            let plain = text.replace('_', "");
            is_timestamp(text) || is_integer(&plain) || is_decimal(&plain)
        }
        _ => false,
    }
}

/// An integer in any of Go's notations that fits into 64 bits.
fn is_integer(text: &str) -> bool {
    let negative = text.starts_with('-');
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    let lower = digits.to_ascii_lowercase();
    let (radix, digits) = match lower.as_bytes() {
        [b'0', b'x', ..] => (16, lower.get(2..)),
        [b'0', b'b', ..] => (2, lower.get(2..)),
        [b'0', b'o', ..] => (8, lower.get(2..)),
        [b'0', _, ..] => (8, lower.get(1..)),
        _ => (10, Some(lower.as_str())),
    };
    let digits = digits.unwrap_or_default();
    // Rust would take a second sign.
    let Ok(magnitude) = u64::from_str_radix(digits, radix) else {
        return false;
    };
    !digits.starts_with('+')
        && match (
            negative,
            digits.len() == text.len() || !text.starts_with('+'),
        ) {
            (true, _) => magnitude <= i64::MIN.unsigned_abs(),
            (false, true) => true,
            // Go reads a plus sign only where the number fits a signed one.
            (false, false) => i64::try_from(magnitude).is_ok(),
        }
}

/// `[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?`, within the range of a float.
fn is_decimal(text: &str) -> bool {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (unsigned, None),
    };
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let mantissa_fits = match mantissa.split_once('.') {
        Some((whole, part)) => digits(whole) && digits(part) && whole.len() + part.len() > 0,
        None => digits(mantissa) && !mantissa.is_empty(),
    };
    let exponent_fits = exponent.is_none_or(|exponent| {
        let exponent = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
        digits(exponent) && !exponent.is_empty()
    });
    mantissa_fits && exponent_fits && text.parse::<f64>().is_ok_and(f64::is_finite)
}

/// A date, or date and time, as yaml.v2 takes them: `2006-1-2`, with `T`, `t` or a space before
/// the time, and a zone exactly where a letter stood.
fn is_timestamp(text: &str) -> bool {
    let mut dashes = text.splitn(3, '-');
    let (Some(year), Some(month), Some(rest)) = (dashes.next(), dashes.next(), dashes.next())
    else {
        return false;
    };
    if year.len() != 4 || !year.bytes().all(|byte| byte.is_ascii_digit()) {
        return false;
    }
    let end = rest.find(['T', 't', ' ']).unwrap_or(rest.len());
    let (day, clock) = rest.split_at(end);
    let clock_fits = match clock.chars().next() {
        None => true,
        Some(' ') => clock.get(1..).is_some_and(is_clock),
        Some(_) => clock.get(1..).and_then(without_zone).is_some_and(is_clock),
    };
    let (Ok(year), Some(month), Some(day)) = (year.parse(), short(month), short(day)) else {
        return false;
    };
    clock_fits && pki::UnixTime::from_civil(year, [month, day, 0, 0, 0]).is_some()
}

/// `Z` or `+01:00` cut off.
fn without_zone(text: &str) -> Option<&str> {
    if let Some(clock) = text.strip_suffix('Z') {
        return Some(clock);
    }
    let (clock, zone) = text.split_at_checked(text.len().checked_sub(6)?)?;
    let (hours, minutes) = zone.strip_prefix(['+', '-'])?.split_once(':')?;
    let fits = |part: &str, limit| part.len() == 2 && short(part).is_some_and(|part| part <= limit);
    (fits(hours, 24) && fits(minutes, 60)).then_some(clock)
}

/// `15:4:5.999`.
fn is_clock(text: &str) -> bool {
    let (clock, part) = text.split_once(['.', ',']).unwrap_or((text, "0"));
    let mut fields = clock.split(':').map(short);
    let limits = [23, 59, 59];
    limits
        .iter()
        .all(|limit| fields.next().flatten().is_some_and(|field| field <= *limit))
        && fields.next().is_none()
        && !part.is_empty()
        && part.bytes().all(|byte| byte.is_ascii_digit())
}

/// A number of one or two digits.
fn short(text: &str) -> Option<i64> {
    let fits = matches!(text.len(), 1 | 2) && text.bytes().all(|byte| byte.is_ascii_digit());
    if fits { text.parse().ok() } else { None }
}

/// `[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?`: older readers take it for a number.
fn is_base60(text: &str) -> bool {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let (whole, part) = unsigned.split_once('.').unwrap_or((unsigned, ""));
    let mut groups = whole.split(':');
    let first = groups.next().unwrap_or_default();
    let mut rest = groups.peekable();
    rest.peek().is_some()
        && first.starts_with(|c: char| c.is_ascii_digit())
        && first.chars().all(|c| c.is_ascii_digit() || c == '_')
        && part.chars().all(|c| c.is_ascii_digit() || c == '_')
        && rest.all(|group| short(group).is_some_and(|value| value < 60))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// One string a line and what yaml.v2 2.4.0 made of it, both as JSON.
    const YAML_V2: &str = include_str!("../../tests/data/yaml-v2.4.0.tsv");

    #[test]
    fn strings_are_quoted_as_yaml_v2_does() {
        let mut wrong = Vec::new();
        for row in YAML_V2.lines() {
            let (text, expected) = row.split_once('\t').unwrap();
            let text: String = serde_json::from_str(text).unwrap();
            let expected: String = serde_json::from_str(expected).unwrap();
            let scalar = scalar(&text);
            if scalar != expected {
                wrong.push(format!("{text:?}: expected {expected}, got {scalar}"));
            }
        }
        assert_eq!(wrong, Vec::<String>::new());
        assert!(YAML_V2.lines().count() > 100);
    }

    #[test]
    fn text_with_line_feeds_stays_on_one_line() {
        assert_eq!(scalar("a\nb"), r#""a\nb""#);
    }

    proptest! {
        /// Any YAML reader gets the same string back, on one line.
        #[test]
        fn strings_are_read_back(text in any::<String>()) {
            let line = format!("subject: {}", scalar(&text));
            prop_assert!(!line.contains(['\n', '\r']));
            let read: std::collections::BTreeMap<String, String> =
                serde_saphyr::from_str(&line).unwrap();
            prop_assert_eq!(&read["subject"], &text);
        }
    }
}
