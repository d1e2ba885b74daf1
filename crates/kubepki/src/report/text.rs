//! A report in lines.

use std::fmt::Write;

use pki::DAY;

use super::table::CLUSTER;
use super::{CertificateEntry, FindingEntry, Part, Report};

/// The report in one line for each certificate, then one for each finding with what mends it.
pub fn render(report: &Report, all: bool) -> String {
    let mut out = heading(report);
    for entry in &report.certificates {
        let shown = matches!(
            entry.part,
            Part::Leaf | Part::Authority | Part::OuterAuthority
        );
        if all || shown {
            let _ = writeln!(out, "{}", line(entry));
        }
    }
    out.push_str(&findings(report));
    out
}

fn line(entry: &CertificateEntry) -> String {
    let mut text = printable(&entry.path);
    if let Some(inside) = &entry.inside {
        let _ = write!(text, " ({})", printable(inside));
    }
    if entry.position > 0 {
        let _ = write!(text, " [{}]", entry.position);
    }
    let _ = write!(text, ": {}", printable(&entry.subject));
    if !entry.usages.is_empty() {
        let _ = write!(text, " ({})", entry.usages.join(", "));
    }
    if let Some(what) = entry.what {
        let _ = write!(text, ", {what}");
    }
    let (ends, left) = (&entry.not_after, period(entry.remaining_seconds));
    let _ = write!(text, ": {}, ends {ends} ({left})", entry.status.name());
    text
}

/// Which tree, in one line.
pub(super) fn heading(report: &Report) -> String {
    let node = report.node.as_deref().unwrap_or("unknown node");
    let product = match report.role {
        CLUSTER => "Kubernetes",
        _ => "K3s",
    };
    format!(
        "{}: {} {}, {product} {}, at {}\n",
        printable(&report.data_dir),
        report.role,
        printable(node),
        report.release,
        report.at
    )
}

/// Each finding in a line of its own with the whole path, for `grep`; then the numbers.
fn findings(report: &Report) -> String {
    let mut out = String::new();
    for finding in &report.findings {
        let _ = write!(out, "{}: {}: ", finding.severity, printable(&finding.path));
        if let Some(subject) = &finding.subject {
            let _ = write!(out, "{}: ", printable(subject));
        }
        let _ = writeln!(out, "{}", printable(&finding.message));
        push_mends(&mut out, finding);
    }
    let _ = writeln!(out, "{}", summary(report));
    out
}

/// Findings for people: what is the same of many files is said once, lines are broken, paths
/// start at the data directory. Commands are never broken.
pub(super) fn grouped_findings(report: &Report) -> String {
    let mut groups: Vec<(&FindingEntry, Vec<String>)> = Vec::new();
    for finding in &report.findings {
        let path = printable(below(&report.data_dir, &finding.path));
        let same = groups.iter_mut().find(|(first, _)| {
            first.severity == finding.severity
                && first.message == finding.message
                && first.mends == finding.mends
        });
        match same {
            Some((_, paths)) => paths.push(path),
            None => groups.push((finding, vec![path])),
        }
    }
    let mut out = String::new();
    for (finding, paths) in groups {
        let (severity, message) = (finding.severity, printable(&finding.message));
        let line = match (paths.as_slice(), &finding.subject) {
            ([path], Some(subject)) => {
                format!("{severity}: {path}: {}: {message}", printable(subject))
            }
            ([path], None) => format!("{severity}: {path}: {message}"),
            (paths, _) => format!(
                "{severity}: {} files: {message}: {}",
                paths.len(),
                paths.join(", ")
            ),
        };
        let _ = writeln!(out, "{}", wrapped(&line, "    "));
        push_mends(&mut out, finding);
    }
    let _ = writeln!(out, "{}", summary(report));
    out
}

fn push_mends(out: &mut String, finding: &FindingEntry) {
    if let Some(mends) = &finding.mends {
        let _ = writeln!(out, "  -> {}", printable(mends));
    }
}

/// `path` from `directory` on, where it lies in there.
pub(super) fn below<'a>(directory: &str, path: &'a str) -> &'a str {
    match path.strip_prefix(directory) {
        Some("") => ".",
        Some(rest) => rest.strip_prefix('/').unwrap_or(path),
        None => path,
    }
}

/// A report's numbers in one line.
pub(super) fn summary(report: &Report) -> String {
    let counts = &report.summary;
    let mut text = format!("{} certificates: ", counts.certificates);
    let parts: Vec<String> = [
        (counts.broken, "broken"),
        (counts.due, "due"),
        (counts.warnings, "warnings"),
    ]
    .into_iter()
    .filter(|(count, _)| *count > 0)
    .map(|(count, name)| format!("{count} {name}"))
    .collect();
    match parts.is_empty() {
        true => text.push_str("nothing to do"),
        false => text.push_str(&parts.join(", ")),
    }
    if let Some(first) = &counts.first_end {
        let _ = write!(text, "; the first ends {first}");
    }
    text
}

/// Seconds as the two largest units that matter: `364d`, `5h 12m`, `-3d`.
pub fn period(seconds: i64) -> String {
    let sign = if seconds < 0 { "-" } else { "" };
    let magnitude = seconds.unsigned_abs();
    let (days, hours, minutes) = (
        magnitude / DAY.unsigned_abs(),
        magnitude / 3_600 % 24,
        magnitude / 60 % 60,
    );
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{sign}{magnitude}s"),
        (0, 0, minutes) => format!("{sign}{minutes}m"),
        (0, hours, minutes) => format!("{sign}{hours}h {minutes}m"),
        (days @ 1..=2, hours, _) => format!("{sign}{days}d {hours}h"),
        (days, _, _) => format!("{sign}{days}d"),
    }
}

/// Columns that a paragraph takes.
const WIDTH: usize = 100;

/// `text` broken at blanks; each further line starts with `indent`. Words longer than a line stay
/// whole.
pub(super) fn wrapped(text: &str, indent: &str) -> String {
    let mut out = String::with_capacity(text.len());
    // Leading blanks belong to the first line.
    let start = text
        .len()
        .saturating_sub(text.trim_start_matches(' ').len());
    let (lead, rest) = text.split_at(start);
    out.push_str(lead);
    let mut column = start;
    for (index, word) in rest.split(' ').enumerate() {
        let length = word.chars().count();
        if index > 0 {
            if column.saturating_add(length) >= WIDTH {
                out.push('\n');
                out.push_str(indent);
                column = indent.len();
            } else {
                out.push(' ');
                column = column.saturating_add(1);
            }
        }
        out.push_str(word);
        column = column.saturating_add(length);
    }
    out
}

/// Text of a file or certificate without what could drive a terminal.
pub fn printable(text: &str) -> String {
    if !text.chars().any(char::is_control) {
        return text.to_owned();
    }
    text.chars()
        .map(|c| match c.is_control() {
            true => c.escape_unicode().to_string(),
            false => c.to_string(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn periods_are_as_exact_as_they_need_be() {
        for (seconds, text) in [
            (0, "0s"),
            (59, "59s"),
            (61, "1m"),
            (3_600, "1h 0m"),
            (86_400, "1d 0h"),
            (3 * 86_400 - 1, "2d 23h"),
            (3 * 86_400, "3d"),
            (31_536_000, "365d"),
            (-86_400 * 4, "-4d"),
            (i64::MIN, "-106751991167300d"),
        ] {
            assert_eq!(period(seconds), text);
        }
    }

    #[test]
    fn lines_break_at_blanks_and_nowhere_else() {
        let text = format!("  {} {} {}", "a".repeat(90), "b".repeat(120), "c");
        let broken = format!("  {}\n  {}\n  c", "a".repeat(90), "b".repeat(120));
        assert_eq!(wrapped(&text, "  "), broken);
        assert_eq!(wrapped("a b", "  "), "a b");
    }

    #[test]
    fn a_hostile_name_cannot_drive_a_terminal() {
        assert_eq!(printable("a\u{1b}[2Jb\n"), "a\\u{1b}[2Jb\\u{a}");
    }
}
