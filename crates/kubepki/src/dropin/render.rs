//! A check in K3s's four output formats.

use std::fmt::Write as _;
use std::str::FromStr;

use super::check::{CertificateLine, CheckReport, Status};
use super::error::DropinError;
use super::log::{Level, Line, printable};
use super::{go, humanize, yaml};

/// `--output`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Log lines.
    Text,
    /// Aligned columns.
    Table,
    /// One line of JSON.
    Json,
    /// YAML.
    Yaml,
}

impl FromStr for Format {
    type Err = DropinError;

    fn from_str(text: &str) -> Result<Self, DropinError> {
        match text {
            "text" => Ok(Self::Text),
            "table" => Ok(Self::Table),
            "json" => Ok(Self::Json),
            "yaml" => Ok(Self::Yaml),
            _ => Err(DropinError::OutputFormat {
                format: text.to_owned(),
            }),
        }
    }
}

/// What goes where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendered {
    /// For standard output.
    pub stdout: String,
    /// For the log.
    pub lines: Vec<Line>,
}

/// `report` as `format` has it.
pub fn render(report: &CheckReport, format: Format) -> Rendered {
    let stdout = match format {
        Format::Text => {
            let lines = report
                .certificates
                .iter()
                .map(|line| text(line, report.window_days));
            return Rendered {
                stdout: String::new(),
                lines: lines.collect(),
            };
        }
        Format::Table => table(&report.certificates),
        Format::Json => json(&report.certificates),
        Format::Yaml => yaml(&report.certificates),
    };
    Rendered {
        stdout,
        lines: Vec::new(),
    }
}

fn text(line: &CertificateLine, window_days: i64) -> Line {
    let (level, verdict) = match line.status {
        Status::NotYetValid => (Level::Error, "is not valid before".to_owned()),
        Status::Expired => (Level::Error, "expired at".to_owned()),
        Status::Warning => (
            Level::Warning,
            format!("will expire within {window_days} days at"),
        ),
        Status::Ok => (Level::Info, "is ok, expires at".to_owned()),
    };
    let CertificateLine {
        filename,
        subject,
        usages,
        expiry,
        ..
    } = line;
    let usages = usages.join(",");
    let text = format!("{filename}: certificate {subject} ({usages}) {verdict} {expiry}");
    Line::new(level, text)
}

/// Columns as wide as their widest cell and three spaces, the last one ragged: Go's tabwriter.
fn table(certificates: &[CertificateLine]) -> String {
    const HEADER: [&str; 6] = [
        "FILENAME",
        "SUBJECT",
        "USAGES",
        "EXPIRES",
        "RESIDUAL TIME",
        "STATUS",
    ];
    let header = HEADER.map(str::to_owned);
    let dashes = HEADER.map(|name| "-".repeat(name.len()));
    let rows = certificates.iter().map(|line| {
        [
            // A tab or line feed in a name would break the columns, an escape the terminal.
            printable(&line.filename),
            printable(&line.subject),
            line.usages.join(","),
            go::table_time(line.expiry),
            humanize::distance(line.residual),
            line.status.word().to_owned(),
        ]
    });
    let rows: Vec<_> = [header, dashes].into_iter().chain(rows).collect();
    let mut widths = [0; 6];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut table = String::from("\n");
    for [cells @ .., last] in &rows {
        for (cell, width) in cells.iter().zip(widths) {
            // Writing to a String cannot fail.
            let _ = write!(table, "{cell:<width$}   ");
        }
        table.push_str(last);
        table.push('\n');
    }
    table
}

fn json(certificates: &[CertificateLine]) -> String {
    let objects: Vec<_> = certificates.iter().map(json_object).collect();
    match objects.is_empty() {
        // A nil slice.
        true => "{\"Certificates\":null}\n".to_owned(),
        false => format!("{{\"Certificates\":[{}]}}\n", objects.join(",")),
    }
}

fn json_object(line: &CertificateLine) -> String {
    let usages: Vec<_> = line
        .usages
        .iter()
        .map(|usage| go::json_string(usage))
        .collect();
    format!(
        "{{\"Filename\":{},\"Subject\":{},\"Issuer\":{},\"Usages\":[{}],\"ExpiryTime\":\"{}\",\
         \"ResidualTime\":{},\"Status\":{}}}",
        go::json_string(&line.filename),
        go::json_string(&line.subject),
        go::json_string(&line.issuer),
        usages.join(","),
        line.expiry,
        line.residual,
        go::json_string(line.status.word()),
    )
}

fn yaml(certificates: &[CertificateLine]) -> String {
    if certificates.is_empty() {
        return "certificates: []\n".to_owned();
    }
    let mut yaml = String::from("certificates:\n");
    for line in certificates {
        let usages: String = line
            .usages
            .iter()
            .map(|usage| format!("  - {usage}\n"))
            .collect();
        // Writing to a String cannot fail.
        let _ = write!(
            yaml,
            "- filename: {}\n  subject: {}\n  issuer: {}\n  usages:\n{usages}  expirytime: {}\n  \
             residualtime: {}\n  status: {}\n",
            yaml::scalar(&line.filename),
            yaml::scalar(&line.subject),
            yaml::scalar(&line.issuer),
            line.expiry,
            yaml::scalar(&go::duration(line.residual)),
            line.status.word(),
        );
    }
    yaml
}
