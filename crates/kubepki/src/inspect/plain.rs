//! Words and harmless text.

use std::fmt::Write as _;

/// The longest text from an input that is shown, in characters.
const LONGEST: usize = 300;

/// `text` without anything that a terminal obeys or that reverses its direction, and not too long.
pub(super) fn plain(text: &str) -> String {
    let mut out = String::new();
    for (at, letter) in text.chars().enumerate() {
        if at == LONGEST {
            let _ = write!(out, "… ({} characters)", text.chars().count());
            break;
        }
        match letter {
            // Line and paragraph separators, marks and overrides of direction, invisible joiners.
            '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}'
            | '\u{61c}' => {
                let _ = write!(out, "\\u{{{:x}}}", u32::from(letter));
            }
            _ if letter.is_control() => {
                let _ = write!(out, "{}", letter.escape_default());
            }
            _ => out.push(letter),
        }
    }
    out
}

/// A span of time in words, rounded down: `9 years 362 days`, `364 days`, `5 hours`, `40 seconds`.
/// Years have 365 days.
pub fn duration_words(seconds: i64) -> String {
    let seconds = seconds.unsigned_abs();
    let count = |count: u64, unit: &str| match count {
        1 => format!("1 {unit}"),
        _ => format!("{count} {unit}s"),
    };
    let days = seconds / 86_400;
    match seconds {
        _ if days >= 730 && days.is_multiple_of(365) => count(days / 365, "year"),
        _ if days >= 730 => {
            format!("{} {}", count(days / 365, "year"), count(days % 365, "day"))
        }
        172_800.. => count(days, "day"),
        7_200.. => count(seconds / 3_600, "hour"),
        120.. => count(seconds / 60, "minute"),
        _ => count(seconds, "second"),
    }
}
