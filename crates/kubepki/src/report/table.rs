//! A report as a table of at most a hundred columns, its findings below.

use std::fmt::Write;

use comfy_table::{ContentArrangement, Table, presets};
use pki::DAY;

use super::{CertificateEntry, Part, Report, Status, text};

/// [`Report::role`] of an RKE cluster.
pub(super) const CLUSTER: &str = "cluster";

/// Columns that a table takes at most.
const WIDTH: u16 = 100;

/// The report as a table: leaves and signing CAs, whatever is not well, and the number of
/// certificates that follow (`+3`); with `all` every certificate in a line of its own.
pub fn render(report: &Report, all: bool) -> String {
    if report.role == CLUSTER {
        return of_cluster(report, all);
    }
    let mut table = empty("SUBJECT");
    for (index, entry) in report.certificates.iter().enumerate() {
        if !all && !is_shown(entry) {
            continue;
        }
        let hidden = match all {
            true => 0,
            false => followers(report, index),
        };
        table.add_row([
            name(report, entry, hidden),
            text::printable(common_name(&entry.subject)),
            ends(entry),
            text::period(entry.remaining_seconds),
            entry.status.name().to_owned(),
        ]);
    }
    finished(report, table)
}

fn empty(second: &str) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_width(WIDTH)
        .set_header(["CERTIFICATE", second, "ENDS", "LEFT", "STATUS"]);
    table
}

fn finished(report: &Report, mut table: Table) -> String {
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let mut out = text::heading(report);
    for line in table.lines() {
        let _ = writeln!(out, "{}", line.trim_end());
    }
    out.push_str(&text::grouped_findings(report));
    out
}

/// State file and hosts side by side: one line for what is the same in several places.
fn of_cluster(report: &Report, all: bool) -> String {
    let mut lines: Vec<(String, &CertificateEntry, Vec<&str>)> = Vec::new();
    for (index, entry) in report.certificates.iter().enumerate() {
        if !all && !is_shown(entry) {
            continue;
        }
        let hidden = match all {
            true => 0,
            false => followers(report, index),
        };
        let (place, file) = placed(&entry.path);
        let name = numbered(file.to_owned(), entry, hidden);
        let same = lines.iter_mut().find(|(known, first, _)| {
            *known == name && first.fingerprint == entry.fingerprint && first.status == entry.status
        });
        match same {
            Some((_, _, places)) => places.push(place),
            None => lines.push((name, entry, vec![place])),
        }
    }
    let mut table = empty("WHERE");
    for (name, entry, places) in lines {
        table.add_row([
            text::printable(&name),
            text::printable(&places.join(", ")),
            ends(entry),
            text::period(entry.remaining_seconds),
            entry.status.name().to_owned(),
        ]);
    }
    finished(report, table)
}

/// Where a cluster's certificate lies, and its entry: `cluster.rkestate:kube-ca`,
/// `10.0.0.1:/etc/kubernetes/ssl/kube-ca.pem`.
fn placed(path: &str) -> (&str, &str) {
    // An address may have colons of its own.
    let found = path.split_once(":/").or_else(|| path.split_once(':'));
    let (place, rest) = found.unwrap_or(("", path));
    let file = rest.rsplit('/').next().unwrap_or(rest);
    (place, file.strip_suffix(".pem").unwrap_or(file))
}

/// The day; with the minute where that matters.
fn ends(entry: &CertificateEntry) -> String {
    let exact = &entry.not_after;
    let near = entry.remaining_seconds.abs() < 3 * DAY;
    let (length, zone) = if near { (16, "Z") } else { (10, "") };
    format!("{}{zone}", exact.get(..length).unwrap_or(exact))
}

fn is_shown(entry: &CertificateEntry) -> bool {
    match entry.part {
        Part::Leaf | Part::Authority => true,
        Part::OuterAuthority => entry.status != Status::Ok,
        Part::Chain | Part::Copy | Part::Stray => false,
    }
}

/// How many certificates of the same file follow entry `index` unseen.
fn followers(report: &Report, index: usize) -> usize {
    let Some(entry) = report.certificates.get(index) else {
        return 0;
    };
    report
        .certificates
        .iter()
        .skip(index.saturating_add(1))
        .take_while(|next| {
            next.path == entry.path && next.inside == entry.inside && next.position > 0
        })
        .filter(|next| !is_shown(next))
        .count()
}

fn name(report: &Report, entry: &CertificateEntry, hidden: usize) -> String {
    let file = text::below(&report.data_dir, &entry.path);
    let name = match (entry.row, &entry.inside) {
        (Some(row), None) => row.to_owned(),
        (Some(row), Some(inside)) => format!("{row} ({inside})"),
        (None, _) => file.to_owned(),
    };
    text::printable(&numbered(name, entry, hidden))
}

/// With what follows unseen, or its place in the file.
fn numbered(mut name: String, entry: &CertificateEntry, hidden: usize) -> String {
    match (entry.position, hidden) {
        (0, 0) => {}
        (0, hidden) => {
            let _ = write!(name, " +{hidden}");
        }
        (position, _) => {
            let _ = write!(name, " [{position}]");
        }
    }
    name
}

/// `CN` of a subject as Go prints it, or the whole when there is none.
fn common_name(subject: &str) -> &str {
    let from = subject
        .split(',')
        .find_map(|part| part.strip_prefix("CN="))
        .filter(|name| !name.ends_with('\\'));
    from.unwrap_or(subject)
}
