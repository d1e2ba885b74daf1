//! Nothing grows beyond what one can read: files, functions, the README.

use super::{Problem, Repository};

/// Lines of a Rust file.
const FILE: usize = 500;
/// Lines of a function, from its `fn` to its closing brace.
const FUNCTION: usize = 70;
/// Lines of README.md.
const README: usize = 150;

pub(crate) fn check(repository: &Repository) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (file, lexed) in repository.rust() {
        let lines = file.text.lines().count();
        if lines > FILE {
            let message = format!("{lines} lines; at most {FILE}: split it by what it is about");
            problems.push(file.problem(FILE + 1, "file-length", message));
        }
        for function in functions(&lexed.code) {
            if function.lines > FUNCTION {
                let Function { name, lines, line } = function;
                let message = format!("`{name}` takes {lines} lines; at most {FUNCTION}");
                problems.push(file.problem(line, "function-length", message));
            }
        }
    }
    if let Some(readme) = repository.get("README.md") {
        let lines = readme.text.lines().count();
        if lines > README {
            let message = format!("{lines} lines; at most {README}: the rest belongs into docs/");
            problems.push(readme.problem(README + 1, "readme-length", message));
        }
    }
    problems
}

/// A function with a body.
#[derive(Debug, PartialEq)]
struct Function {
    name: String,
    /// Line of its `fn`, from 1.
    line: usize,
    lines: usize,
}

/// Every function with a body in `code`, nested ones too.
fn functions(code: &str) -> Vec<Function> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("fn ") {
        let (before, rest) = code.split_at(at);
        let in_word = before
            .chars()
            .next_back()
            .is_some_and(|c| c.is_alphanumeric() || c == '_');
        let name: String = rest
            .chars()
            .skip(3)
            .skip_while(|c| *c == ' ')
            .take_while(|c| c.is_alphanumeric() || *c == '_' || *c == '#')
            .collect();
        if in_word || before.ends_with('#') || name.is_empty() {
            continue;
        }
        if let Some(lines) = body_lines(rest) {
            found.push(Function {
                name,
                line: before.matches('\n').count() + 1,
                lines,
            });
        }
    }
    found
}

/// Lines from the start of `rest` to the brace that closes its first body; `None` without one.
fn body_lines(rest: &str) -> Option<usize> {
    let mut braces = 0_usize;
    // `[u8; 4]` in a signature has a semicolon that does not end it.
    let mut brackets = 0_usize;
    let mut lines = 1;
    for letter in rest.chars() {
        match letter {
            '\n' => lines += 1,
            '(' | '[' => brackets += 1,
            ')' | ']' => brackets = brackets.saturating_sub(1),
            ';' if braces == 0 && brackets == 0 => return None,
            '{' => braces += 1,
            '}' => {
                braces = braces.saturating_sub(1);
                if braces == 0 {
                    return Some(lines);
                }
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::{assert_breaks, problems_with};

    const LIB: &str = "crates/a/src/lib.rs";

    #[test]
    fn long_files_are_found() {
        assert_breaks(LIB, &"//! x\n".repeat(FILE + 1), FILE + 1, "file-length");
        assert_eq!(problems_with(LIB, &"//! x\n".repeat(FILE)), []);
    }

    #[test]
    fn long_functions_are_found() {
        let body = |lines| format!("//! x\nfn a() {{\n{}}}\n", "    b();\n".repeat(lines));
        assert_breaks(LIB, &body(FUNCTION - 1), 2, "function-length");
        assert_eq!(problems_with(LIB, &body(FUNCTION - 2)), []);
    }

    #[test]
    fn a_long_readme_is_found() {
        assert_breaks(
            "README.md",
            &"x\n".repeat(README + 1),
            README + 1,
            "readme-length",
        );
    }

    #[test]
    fn functions_are_told_from_types_and_declarations() {
        let code = "trait T { fn a(&self) -> [u8; 4]; fn b(x: fn (u8)) {\n}\n}\n\
                    const C: fn () = d;\nfn e()\nwhere\n    F: X,\n{\n    fn inner() {}\n}\n";
        let names: Vec<_> = functions(code)
            .into_iter()
            .map(|f| (f.name, f.line, f.lines))
            .collect();
        let expected = [("b", 1, 2), ("e", 5, 6), ("inner", 9, 1)];
        assert_eq!(names, expected.map(|(n, a, b)| (n.to_owned(), a, b)));
    }
}
