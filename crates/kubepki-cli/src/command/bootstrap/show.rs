//! `bootstrap show`.

use std::fmt::Write as _;

use kubepki::bootstrap::{Field, Opened, Seen, describe};
use serde::Serialize;

use super::table::columns;
use super::{ListFormat, ShowArgs};
use crate::datastore::{Access, Connected, find};
use crate::error::{CliError, Exit};
use crate::k3s::Settings;
use crate::output;
use crate::world::World;

/// The data as they are shown: nothing in it is secret.
#[derive(Debug, Serialize)]
struct Shown<'a> {
    datastore: &'a str,
    found: &'a str,
    key: &'a str,
    revision: i64,
    /// Where the token was found that opens it.
    token: &'a str,
    /// The hash that join tokens pin.
    token_hash: Option<String>,
    files: Vec<File>,
    notes: &'a [String],
}

#[derive(Debug, Serialize)]
struct File {
    name: String,
    /// Under the server directory; `None` for an entry that this program does not know.
    path: Option<&'static std::path::Path>,
    #[serde(flatten)]
    seen: Seen,
}

pub(super) async fn run(world: &World, args: &ShowArgs) -> Result<Exit, CliError> {
    let settings = Settings::load(&world.host, &args.site).await?;
    let found = find(&world.host, &args.datastore, &settings, Access::Read).await?;
    let shown = shown(world, &found.connected, &found.opened);
    let text = match args.output {
        ListFormat::Table => table(&shown),
        ListFormat::Text => text(&shown),
        ListFormat::Json => serde_json::to_string_pretty(&shown)? + "\n",
    };
    let text = match args.output {
        ListFormat::Json => text,
        ListFormat::Table | ListFormat::Text => output::harmless(&text).into_owned(),
    };
    output::data(&text)?;
    Ok(Exit::Fine)
}

fn shown<'a>(world: &World, connected: &'a Connected, opened: &'a Opened) -> Shown<'a> {
    let known = opened.bundle.files.iter().map(|(field, file)| File {
        name: field.name().to_owned(),
        path: Some(field.path()),
        seen: describe(*field, file),
    });
    let others = opened.bundle.others.iter().map(|(name, file)| File {
        name: name.clone(),
        path: None,
        seen: Seen {
            time: file.stamp.to_string(),
            size: file.content.len(),
            sha256: None,
            words: "not known".to_owned(),
        },
    });
    let server_ca = opened.bundle.content(Field::ServerCa);
    let token_hash =
        server_ca.and_then(|file| kubepki::token::authority_hash(file, world.now()).ok());
    Shown {
        datastore: &connected.place,
        found: &connected.from,
        key: &opened.record.key,
        revision: opened.record.revision,
        token: &opened.origin,
        token_hash: token_hash.map(|hash| hash.to_string()),
        files: known.chain(others).collect(),
        notes: &opened.notes,
    }
}

fn heading(shown: &Shown<'_>) -> String {
    let mut text = format!(
        "Datastore {} ({})\nKey {} at revision {}, opened with the token from {}\n",
        shown.datastore, shown.found, shown.key, shown.revision, shown.token
    );
    if let Some(hash) = &shown.token_hash {
        let _ = writeln!(text, "Join tokens pin {hash}");
    }
    text
}

fn notes(text: &mut String, shown: &Shown<'_>) {
    for note in shown.notes {
        let _ = writeln!(text, "Note: {note}");
    }
}

fn table(shown: &Shown<'_>) -> String {
    let row = |file: &File| {
        vec![
            file.name.clone(),
            file.seen.time.clone(),
            file.seen.size.to_string(),
            file.seen.words.clone(),
        ]
    };
    let rows: Vec<Vec<String>> = shown.files.iter().map(row).collect();
    let mut text = heading(shown);
    text.push_str(&columns(&["FILE", "TIME", "BYTES", "WHAT"], &rows));
    notes(&mut text, shown);
    text
}

fn text(shown: &Shown<'_>) -> String {
    let mut text = heading(shown);
    for file in &shown.files {
        let path = file.path.map(|it| format!(" ({})", it.display()));
        let _ = writeln!(text, "{}{}", file.name, path.unwrap_or_default());
        let _ = writeln!(text, "  {}", file.seen.words);
        let _ = writeln!(text, "  {} bytes of {}", file.seen.size, file.seen.time);
        if let Some(sha256) = &file.seen.sha256 {
            let _ = writeln!(text, "  SHA-256 {sha256}");
        }
    }
    notes(&mut text, shown);
    text
}
