//! Reports as Prometheus text (exposition format 0.0.4).
//!
//! All samples of a metric have to stand together, so the many come first and as the trees are
//! read; the few of each tree wait until the end.

use std::fmt::Write;

use super::Report;
use crate::check::Severity;

/// Metrics of any number of trees.
#[derive(Debug, Default)]
pub struct Metrics {
    begun: bool,
    findings: String,
    timestamps: String,
    readable: String,
}

const NOT_AFTER: &str = "kubepki_certificate_not_after_seconds";
const FINDINGS: &str = "kubepki_findings";
const TIMESTAMP: &str = "kubepki_check_timestamp_seconds";
const READABLE: &str = "kubepki_tree_readable";

impl Metrics {
    /// The samples of one tree that can be written at once.
    pub fn tree(&mut self, report: &Report) -> String {
        let mut out = self.head();
        let data_dir = label(&report.data_dir);
        for entry in &report.certificates {
            let _ = writeln!(
                out,
                "{NOT_AFTER}{{data_dir={data_dir},path={},position=\"{}\",inside={},row={},\
                 part=\"{}\",subject={},usages={}}} {}",
                label(&entry.path),
                entry.position,
                label(entry.inside.as_deref().unwrap_or_default()),
                label(entry.row.unwrap_or_default()),
                part(entry.part),
                label(&entry.subject),
                label(&entry.usages.join(",")),
                entry.validity.not_after.as_secs()
            );
        }
        for severity in Severity::ALL {
            let _ = writeln!(
                self.findings,
                "{FINDINGS}{{data_dir={data_dir},severity=\"{severity}\"}} {}",
                report.summary.of(severity)
            );
        }
        let _ = writeln!(
            self.timestamps,
            "{TIMESTAMP}{{data_dir={data_dir}}} {}",
            report.at_seconds
        );
        let _ = writeln!(self.readable, "{READABLE}{{data_dir={data_dir}}} 1");
        out
    }

    /// A tree that could not be read.
    pub fn unreadable(&mut self, data_dir: &str) {
        let _ = writeln!(
            self.readable,
            "{READABLE}{{data_dir={}}} 0",
            label(data_dir)
        );
    }

    /// What has been kept back.
    pub fn end(mut self) -> String {
        let mut out = self.head();
        for (name, help, samples) in [
            (
                FINDINGS,
                "Findings of kubepki check, by severity.",
                &self.findings,
            ),
            (
                TIMESTAMP,
                "The moment that was checked, in seconds since 1970.",
                &self.timestamps,
            ),
            (
                READABLE,
                "Whether the data directory could be read.",
                &self.readable,
            ),
        ] {
            if !samples.is_empty() {
                let _ = write!(out, "# HELP {name} {help}\n# TYPE {name} gauge\n{samples}");
            }
        }
        out
    }

    fn head(&mut self) -> String {
        if std::mem::replace(&mut self.begun, true) {
            return String::new();
        }
        format!(
            "# HELP {NOT_AFTER} Last second of a certificate, in seconds since 1970.\n\
             # TYPE {NOT_AFTER} gauge\n"
        )
    }
}

fn part(part: super::Part) -> &'static str {
    match part {
        super::Part::Leaf => "leaf",
        super::Part::Chain => "chain",
        super::Part::Authority => "authority",
        super::Part::OuterAuthority => "outer-authority",
        super::Part::Copy => "copy",
        super::Part::Stray => "stray",
    }
}

/// A label's value in quotes: backslash, quote and line feed are escaped, nothing else may be.
fn label(value: &str) -> String {
    let mut out = String::with_capacity(value.len().saturating_add(2));
    out.push('"');
    for c in value.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped() {
        assert_eq!(label("a\\b\"c\nd"), r#""a\\b\"c\nd""#);
        assert_eq!(label("CN=ü,O=x"), "\"CN=ü,O=x\"");
    }
}
