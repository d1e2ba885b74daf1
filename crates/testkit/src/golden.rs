//! Texts that a person has read and found right, kept beside the tests.

use std::fs;
use std::path::Path;

/// Lines of agreement shown around a difference.
const CONTEXT: usize = 2;

/// Beyond this many lines on either side the comparison stays at what it finds first.
const MOST_LINES: usize = 3_000;

/// Fails unless the file `path` (relative to the crate under test) holds exactly `text`.
///
/// `KUBEPKI_BLESS=1` writes the file instead; read the change before you commit it.
#[track_caller]
pub fn assert_golden(path: impl AsRef<Path>, text: &str) {
    let path = path.as_ref();
    if std::env::var_os("KUBEPKI_BLESS").is_some_and(|value| value == "1") {
        bless(path, text);
        return;
    }
    let golden = fs::read_to_string(path).unwrap_or_else(|error| {
        panic!(
            "{}: {error}; KUBEPKI_BLESS=1 writes it:\n{text}",
            path.display()
        )
    });
    assert!(
        golden == text,
        "{} (-) is not what came out (+); KUBEPKI_BLESS=1 rewrites it:\n{}",
        path.display(),
        line_diff(&golden, text)
    );
}

#[expect(
    clippy::disallowed_methods,
    reason = "a golden file holds no secret and git keeps the old"
)]
fn bless(path: &Path, text: &str) {
    let parent = path.parent().unwrap_or(Path::new("."));
    let written = fs::create_dir_all(parent).and_then(|()| fs::write(path, text));
    if let Err(error) = written {
        panic!("cannot write {}: {error}", path.display());
    }
}

/// What turns `old` into `new`: `-` and `+` lines with two lines around them.
pub fn line_diff(old: &str, new: &str) -> String {
    let old: Vec<&str> = old.split_inclusive('\n').collect();
    let new: Vec<&str> = new.split_inclusive('\n').collect();
    let script = if old.len().max(new.len()) > MOST_LINES {
        first_difference(&old, &new)
    } else {
        script(&old, &new)
    };
    render(&script)
}

/// One line of a comparison: in both (` `), only old (`-`), only new (`+`).
type Line<'a> = (char, &'a str);

/// The shortest script, by the longest common subsequence.
fn script<'a>(old: &[&'a str], new: &[&'a str]) -> Vec<Line<'a>> {
    let width = new.len() + 1;
    // common[i * width + j]: length of the longest common part of old[i..] and new[j..].
    let mut common = vec![0_u32; (old.len() + 1) * width];
    let at = |common: &[u32], i: usize, j: usize| common.get(i * width + j).copied().unwrap_or(0);
    for (i, left) in old.iter().enumerate().rev() {
        for (j, right) in new.iter().enumerate().rev() {
            let length = if left == right {
                at(&common, i + 1, j + 1) + 1
            } else {
                at(&common, i + 1, j).max(at(&common, i, j + 1))
            };
            if let Some(cell) = common.get_mut(i * width + j) {
                *cell = length;
            }
        }
    }
    let (mut i, mut j) = (0, 0);
    let mut lines = Vec::new();
    loop {
        match (old.get(i), new.get(j)) {
            (Some(left), Some(right)) if left == right => {
                lines.push((' ', *left));
                (i, j) = (i + 1, j + 1);
            }
            (Some(left), right)
                if right.is_none() || at(&common, i + 1, j) >= at(&common, i, j + 1) =>
            {
                lines.push(('-', *left));
                i += 1;
            }
            (_, Some(right)) => {
                lines.push(('+', *right));
                j += 1;
            }
            (_, None) => return lines,
        }
    }
}

fn first_difference<'a>(old: &[&'a str], new: &[&'a str]) -> Vec<Line<'a>> {
    let same = old
        .iter()
        .zip(new)
        .take_while(|(left, right)| left == right)
        .count();
    let mut lines: Vec<Line<'a>> = old.iter().take(same).map(|line| (' ', *line)).collect();
    lines.extend(old.iter().skip(same).take(1).map(|line| ('-', *line)));
    lines.extend(new.iter().skip(same).take(1).map(|line| ('+', *line)));
    lines
}

fn render(script: &[Line<'_>]) -> String {
    let changed = |at: usize| script.get(at).is_some_and(|(sign, _)| *sign != ' ');
    let mut text = String::new();
    let mut gap = false;
    for (at, (sign, line)) in script.iter().enumerate() {
        let near = (at.saturating_sub(CONTEXT)..=at + CONTEXT).any(changed);
        if !near {
            gap = true;
            continue;
        }
        if gap {
            text.push_str("  …\n");
            gap = false;
        }
        text.push(*sign);
        text.push_str(line);
        if !line.ends_with('\n') {
            text.push_str(" (no newline at the end)\n");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_only_what_differs_and_its_neighbours() {
        let old = "1\n2\n3\n4\n5\n6\n7\n8\n";
        let new = "1\n2\n3\n4\nfive\n6\n7\n8\n9\n";
        assert_eq!(
            line_diff(old, new),
            "  …\n 3\n 4\n-5\n+five\n 6\n 7\n 8\n+9\n"
        );
        assert_eq!(line_diff(old, old), "");
        assert_eq!(line_diff("a\n", "a"), "-a\n+a (no newline at the end)\n");
    }

    #[test]
    fn long_texts_show_the_first_difference() {
        let old = "same\n".repeat(MOST_LINES + 5);
        let new = format!("{old}more\n");
        assert_eq!(line_diff(&old, &new), "  …\n same\n same\n+more\n");
    }

    #[test]
    #[should_panic(expected = "is not what came out")]
    fn a_difference_fails() {
        assert_golden("Cargo.toml", "[package]\n");
    }
}
