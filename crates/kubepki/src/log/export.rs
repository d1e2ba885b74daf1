//! Records for people and for other programs.

use comfy_table::{ContentArrangement, Table, presets};

use super::Entry;

/// The first line of a CSV export (RFC 4180), with its end.
pub const CSV_HEADER: &str = "seq,time,server,endpoint,user,credential,peer,node,subject,sans,\
                              spki_sha256,serial,not_after,hash\r\n";

/// A record as a line of CSV, with its end; several SANs with blanks between them. A value that a
/// spreadsheet would take for a formula gets an apostrophe in front.
pub fn csv_line(entry: &Entry) -> String {
    let issued = &entry.issued;
    let values = [
        entry.seq.to_string(),
        issued.time.to_string(),
        issued.server.clone(),
        issued.endpoint.clone(),
        issued.user.clone(),
        issued.credential.clone(),
        issued.peer.map(|it| it.to_string()).unwrap_or_default(),
        issued.node.clone().unwrap_or_default(),
        issued.subject.clone(),
        issued.sans.join(" "),
        issued.spki.clone(),
        issued.serial.clone(),
        issued.not_after.to_string(),
        entry.hash.to_string(),
    ];
    let fields: Vec<String> = values.iter().map(|value| field(value)).collect();
    format!("{}\r\n", fields.join(","))
}

fn field(value: &str) -> String {
    let guard = match value.starts_with(['=', '+', '-', '@', '\t', '\r']) {
        true => "'",
        false => "",
    };
    match value.contains([',', '"', '\r', '\n']) || !guard.is_empty() {
        true => format!("\"{guard}{}\"", value.replace('"', "\"\"")),
        false => value.to_owned(),
    }
}

/// Records as a table, oldest first.
pub fn table<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> String {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header([
            "RECORD", "TIME", "NODE", "SUBJECT", "SERIAL", "ENDS", "ASKED BY", "FROM",
        ]);
    for Entry { seq, issued, .. } in entries {
        let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        table.add_row([
            seq.to_string(),
            issued.time.to_string(),
            or_none(issued.node.clone()),
            issued.subject.clone(),
            issued.serial.clone(),
            issued.not_after.to_string(),
            match issued.is_own() {
                true if issued.is_found() => format!("{}, for {}", issued.user, issued.endpoint),
                true => format!("the server itself, for {}", issued.endpoint),
                false => format!("{} ({})", issued.user, issued.credential),
            },
            match issued.is_own() {
                true => "local".to_owned(),
                false => or_none(issued.peer.map(|it| it.to_string())),
            },
        ]);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let lines = table.lines();
    lines.map(|line| format!("{}\n", line.trim_end())).collect()
}

#[cfg(test)]
mod tests {
    use super::field;

    #[test]
    fn values_of_csv_are_quoted_where_they_must_be() {
        assert_eq!(field("CN=a"), "CN=a");
        assert_eq!(field("CN=a,O=b"), "\"CN=a,O=b\"");
        assert_eq!(field("a\"b"), "\"a\"\"b\"");
        assert_eq!(field("=1+1"), "\"'=1+1\"");
    }
}
