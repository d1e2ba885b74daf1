//! Where text meets the terminal: stdout is data, stderr is talk.

use std::borrow::Cow;
use std::io::{self, BufRead, IsTerminal, Write};

use crate::error::CliError;

/// Writes data to stdout. A reader that has gone away (`| head`) is no error.
///
/// # Errors
///
/// When stdout cannot be written for another reason: a full disk loses data.
pub fn data(text: &str) -> Result<(), CliError> {
    let mut stdout = io::stdout().lock();
    match stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
    {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(CliError::from(error)),
        _ => Ok(()),
    }
}

/// Says something to the operator; nobody listening is no error.
pub fn talk(text: &str) {
    // One write a line: standard error has no buffer.
    let mut line = harmless(text.trim_end()).into_owned();
    line.push('\n');
    let _ = io::stderr().lock().write_all(line.as_bytes());
}

/// `text` without anything that a terminal obeys or that reverses its direction, line ends and
/// tabs excepted. Names in kubeconfigs and certificates come from anybody.
pub fn harmless(text: &str) -> Cow<'_, str> {
    let tame = |letter: char| match letter {
        '\n' | '\t' => true,
        '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' => false,
        '\u{feff}' | '\u{61c}' => false,
        other => !other.is_control(),
    };
    let plain = |byte: u8| byte == b'\n' || byte == b'\t' || (b' '..=b'~').contains(&byte);
    if text.bytes().all(plain) || text.chars().all(tame) {
        return Cow::Borrowed(text);
    }
    let tamed = |letter: char| match tame(letter) {
        true => letter.to_string(),
        false => letter.escape_unicode().to_string(),
    };
    Cow::Owned(text.chars().map(tamed).collect())
}

/// Asks whether to go on.
///
/// # Errors
///
/// A refusal when the answer is not yes, or when nobody can be asked: without a terminal a
/// command that changes something wants `--yes`.
pub fn confirm(question: &str, yes: bool) -> Result<(), CliError> {
    if yes {
        return Ok(());
    }
    if !io::stdin().is_terminal() {
        return Err(
            CliError::refused("there is no terminal to ask on, so nothing was changed")
                .hint("say --yes to go on without asking, or --dry-run to see the plan only"),
        );
    }
    let mut stderr = io::stderr().lock();
    let _ = write!(stderr, "{question} [y/N] ");
    let _ = stderr.flush();
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(CliError::refused("not confirmed, so nothing was changed")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_from_anybody_obeys_nobody() {
        assert_eq!(harmless("a\tb\nc ü"), "a\tb\nc ü");
        assert_eq!(
            harmless("\u{1b}[31m\rx\u{202e}y\u{7}"),
            "\\u{1b}[31m\\u{d}x\\u{202e}y\\u{7}"
        );
    }
}
