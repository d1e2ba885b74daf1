//! Rust text taken apart just far enough: code, comments and strings.

/// A file's text three times, each with everything else replaced by spaces, lines kept.
#[derive(Debug)]
pub(crate) struct Lexed {
    /// Code: no comments, strings and character literals emptied.
    pub(crate) code: String,
    /// What readers and operators see: documentation comments and string literals.
    pub(crate) prose: String,
}

#[derive(Clone, Copy, PartialEq)]
enum Part {
    Code,
    Prose,
    Neither,
}

impl Lexed {
    pub(crate) fn new(text: &str) -> Self {
        let letters: Vec<char> = text.chars().collect();
        let mut lexed = Self {
            code: String::new(),
            prose: String::new(),
        };
        let mut at = 0;
        while let Some(rest) = letters.get(at..).filter(|rest| !rest.is_empty()) {
            let (part, length) = next_part(rest, at.checked_sub(1).and_then(|b| letters.get(b)));
            for letter in rest.iter().take(length.max(1)) {
                lexed.push(part, *letter);
            }
            at += length.max(1);
        }
        lexed
    }

    fn push(&mut self, part: Part, letter: char) {
        let blank = if letter == '\n' { '\n' } else { ' ' };
        self.code
            .push(if part == Part::Code { letter } else { blank });
        self.prose
            .push(if part == Part::Prose { letter } else { blank });
    }
}

/// What begins at `rest` and how many characters it takes.
fn next_part(rest: &[char], before: Option<&char>) -> (Part, usize) {
    let starts = |text: &str| {
        text.chars()
            .enumerate()
            .all(|(at, c)| rest.get(at) == Some(&c))
    };
    let in_word = before.is_some_and(|c| c.is_alphanumeric() || *c == '_');
    if starts("//") {
        let doc = (starts("///") && !starts("////")) || starts("//!");
        let length = rest.iter().take_while(|c| **c != '\n').count();
        (if doc { Part::Prose } else { Part::Neither }, length)
    } else if starts("/*") {
        (Part::Neither, block_comment(rest))
    } else if starts("\"") {
        (Part::Prose, quoted(rest, '"'))
    } else if !in_word && (starts("b\"") || starts("c\"")) {
        (
            Part::Prose,
            1 + quoted(rest.get(1..).unwrap_or_default(), '"'),
        )
    } else if let Some(length) = (!in_word).then(|| raw_string(rest)).flatten() {
        (Part::Prose, length)
    } else if let Some(length) = starts("'").then(|| character(rest)).flatten() {
        (Part::Neither, length)
    } else {
        (Part::Code, 1)
    }
}

/// Length of a block comment; they nest.
fn block_comment(rest: &[char]) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while let Some(here) = rest.get(at) {
        match (here, rest.get(at + 1)) {
            ('/', Some('*')) => {
                depth += 1;
                at += 2;
            }
            ('*', Some('/')) => {
                depth = depth.saturating_sub(1);
                at += 2;
                if depth == 0 {
                    return at;
                }
            }
            _ => at += 1,
        }
    }
    at
}

/// Length of a literal that starts and ends with `quote`, escapes skipped.
fn quoted(rest: &[char], quote: char) -> usize {
    let mut at = 1;
    while let Some(letter) = rest.get(at) {
        at += 1;
        if *letter == '\\' {
            at += 1;
        } else if *letter == quote {
            return at;
        }
    }
    rest.len()
}

/// Length of `r"…"`, `r#"…"#`, `br#"…"#`, if one starts here.
fn raw_string(rest: &[char]) -> Option<usize> {
    let prefix = match (rest.first(), rest.get(1)) {
        (Some('r'), _) => 1,
        (Some('b' | 'c'), Some('r')) => 2,
        _ => return None,
    };
    let hashes = rest.iter().skip(prefix).take_while(|c| **c == '#').count();
    if rest.get(prefix + hashes) != Some(&'"') {
        return None;
    }
    let body = prefix + hashes + 1;
    let ends = |at: &usize| {
        rest.get(*at) == Some(&'"')
            && rest
                .iter()
                .skip(at + 1)
                .take(hashes)
                .filter(|c| **c == '#')
                .count()
                == hashes
    };
    let end = (body..rest.len())
        .find(ends)
        .map_or(rest.len(), |end| end + 1 + hashes);
    Some(end)
}

/// Length of a character literal, if it is one and not a lifetime.
fn character(rest: &[char]) -> Option<usize> {
    match (rest.get(1), rest.get(2)) {
        (Some('\\'), _) => Some(quoted(rest, '\'')),
        (Some(_), Some('\'')) => Some(3),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_code_and_prose_apart() {
        let text =
            "/// Doc {.\nfn a<'x>(b: &'x str) { // note }\n    let c = ('{', '\\'', \"}\");\n}\n";
        let lexed = Lexed::new(text);
        assert_eq!(
            lexed.code,
            "          \nfn a<'x>(b: &'x str) {          \n    let c = (   ,     ,    );\n}\n"
        );
        assert!(lexed.prose.starts_with("/// Doc {.\n"));
        assert!(lexed.prose.contains("\"}\"") && !lexed.prose.contains("note"));
        assert_eq!(lexed.prose.lines().count(), text.lines().count());
    }

    #[test]
    fn raw_strings_and_nested_comments_end_where_they_end() {
        let lexed = Lexed::new("a(r#\"x\"{\"#) /* { /* */ { */ b(br\"{\") r#fn");
        assert_eq!(
            lexed.code.split_whitespace().collect::<String>(),
            "a()b()r#fn"
        );
        assert!(lexed.prose.contains("r#\"x\"{\"#"));
    }

    #[test]
    fn an_open_literal_ends_with_the_file() {
        for text in ["\"abc", "/* x", "r#\"x\"", "'\\", "b\"", "'"] {
            assert_eq!(
                Lexed::new(text).code.chars().count(),
                text.chars().count(),
                "{text}"
            );
        }
    }
}
