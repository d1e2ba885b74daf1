//! `bootstrap diff`.

use std::fmt::Write as _;
use std::path::Path;

use kubepki::bootstrap::{Comparison, Line, Standing, Verdict, compare};
use serde::Serialize;

use super::table::columns;
use super::{DiffArgs, disk};
use crate::args::PlanFormat;
use crate::datastore::{Access, find};
use crate::error::{CliError, Exit};
use crate::k3s::Settings;
use crate::output;
use crate::world::World;

#[derive(Debug, Serialize)]
struct Answer<'a> {
    datastore: &'a str,
    key: &'a str,
    server: &'a Path,
    verdict: Verdict,
    /// What K3s would say before it gives up.
    k3s_words: Option<String>,
    #[serde(flatten)]
    comparison: &'a Comparison,
}

pub(super) async fn run(world: &World, args: &DiffArgs) -> Result<Exit, CliError> {
    let settings = Settings::load(&world.host, &args.site).await?;
    let disk = disk(world, &settings).await?;
    let found = find(&world.host, &args.datastore, &settings, Access::Read).await?;
    let comparison = compare(&found.opened.bundle, &disk);
    let answer = Answer {
        datastore: &found.connected.place,
        key: &found.opened.record.key,
        server: &disk.server,
        verdict: comparison.verdict(),
        k3s_words: comparison.k3s_words(&disk.server),
        comparison: &comparison,
    };
    match args.output {
        PlanFormat::Text => output::data(&output::harmless(&text(&answer)))?,
        PlanFormat::Json => output::data(&(serde_json::to_string_pretty(&answer)? + "\n"))?,
    }
    Ok(exit(&comparison))
}

/// 4 where K3s would not start, 3 where anything differs.
pub(super) fn exit(comparison: &Comparison) -> Exit {
    match comparison.verdict() {
        Verdict::Dies => Exit::Broken,
        Verdict::WriteAll | Verdict::Update => Exit::Due,
        Verdict::Same if comparison.differs() => Exit::Due,
        Verdict::Same => Exit::Fine,
    }
}

/// What K3s's next start makes of it.
pub(super) fn verdict(comparison: &Comparison) -> String {
    match comparison.verdict() {
        Verdict::Same => "K3s's next start changes nothing".to_owned(),
        Verdict::Update => "K3s's next start writes every file from the datastore".to_owned(),
        Verdict::WriteAll => format!(
            "K3s's next start writes every file from the datastore, because nothing is in {}",
            comparison.wiped.join(", ")
        ),
        Verdict::Dies => "K3s would not start; `kubepki reconcile --keep datastore` or `--keep \
                          disk` settles it"
            .to_owned(),
    }
}

fn text(answer: &Answer<'_>) -> String {
    let mut text = format!(
        "Datastore {}, key {}\nDisk {}\n",
        answer.datastore,
        answer.key,
        answer.server.display()
    );
    let row = |line: &Line| {
        let side = |seen: &Option<kubepki::bootstrap::Seen>| {
            seen.as_ref()
                .map_or_else(|| "-".to_owned(), |it| it.time.clone())
        };
        let (datastore, disk) = (side(&line.datastore), side(&line.disk));
        let standing = line.standing.words().to_owned();
        vec![line.path.display().to_string(), standing, datastore, disk]
    };
    let rows: Vec<Vec<String>> = answer.comparison.lines.iter().map(row).collect();
    text.push_str(&columns(&["FILE", "STANDING", "DATASTORE", "DISK"], &rows));
    let differs = |line: &&Line| !matches!(line.standing, Standing::Same);
    for line in answer.comparison.lines.iter().filter(differs) {
        let _ = writeln!(text, "{}", line.path.display());
        for (side, seen) in [("datastore", &line.datastore), ("disk", &line.disk)] {
            if let Some(seen) = seen {
                let _ = writeln!(text, "  {side}: {}", seen.words);
            }
        }
    }
    let _ = writeln!(text, "{}", verdict(answer.comparison));
    if let Some(words) = &answer.k3s_words {
        let _ = writeln!(text, "It would say: {words}");
    }
    text
}
