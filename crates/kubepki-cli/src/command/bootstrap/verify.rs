//! `bootstrap verify`.

use std::fmt::Write as _;
use std::path::Path;

use kubepki::bootstrap::{
    Audit, Comparison, Exposure, Field, Flaw, KEY_PREFIX, audit, compare, still_open,
};
use kubepki::datastore::{Archive as _, Datastore as _, Former};
use kubepki::host::Host as _;
use kubepki_datastore::etcd::EtcdFile;
use serde::Serialize;

use super::compare::{exit, verdict};
use super::{VerifyArgs, disk};
use crate::args::PlanFormat;
use crate::datastore::{Access, Connected, find, reached};
use crate::error::{CliError, Exit};
use crate::k3s::Settings;
use crate::output;
use crate::world::World;

#[derive(Debug, Serialize)]
struct Answer {
    datastore: String,
    key: String,
    revision: i64,
    files: usize,
    findings: Vec<Audit>,
    /// Against this server's disk; `None` where it has none of the files.
    disk: Option<Comparison>,
    /// Former values that a token at hand still opens.
    still_open: Vec<Exposure>,
    notes: Vec<String>,
}

pub(super) async fn run(world: &World, args: &VerifyArgs) -> Result<Exit, CliError> {
    let settings = Settings::load(&world.host, &args.site).await?;
    let disk = disk(world, &settings).await?;
    let found = find(&world.host, &args.datastore, &settings, Access::Read).await?;
    let bundle = &found.opened.bundle;
    let blank = disk.bundle.files.is_empty();
    let mut notes = found.opened.notes.clone();
    let former = former(world, &settings, &found.connected, &mut notes).await?;
    let answer = Answer {
        datastore: found.connected.place.clone(),
        key: found.opened.record.key.clone(),
        revision: found.opened.record.revision,
        files: bundle.files.len() + bundle.others.len(),
        findings: audit(bundle, world.now()),
        disk: (!blank).then(|| compare(bundle, &disk)),
        still_open: still_open(&former, &found.candidates, bundle),
        notes,
    };
    let own = found.opened.key();
    match args.output {
        PlanFormat::Text => output::data(&output::harmless(&text(&answer, bundle, &own)))?,
        PlanFormat::Json => output::data(&(serde_json::to_string_pretty(&answer)? + "\n"))?,
    }
    Ok(worst(&answer, &own))
}

/// What the datastore and the snapshots beside it still hold of former values.
///
/// # Errors
///
/// When the datastore does not tell; a snapshot that cannot be read is a note.
pub async fn former(
    world: &World,
    settings: &Settings,
    connected: &Connected,
    notes: &mut Vec<String>,
) -> Result<Vec<Former>, CliError> {
    let mut former = connected.store.former(KEY_PREFIX).await.map_err(reached)?;
    let directory = settings.data_dir.join("server/db/snapshots");
    for name in world.host.list(&directory).await?.unwrap_or_default() {
        let path = directory.join(name);
        match snapshot(&path).await {
            Ok(found) => former.extend(found),
            Err(error) => notes.push(format!("a snapshot was not looked into: {error}")),
        }
    }
    Ok(former)
}

/// Everything in a snapshot, its present values too.
async fn snapshot(path: &Path) -> Result<Vec<Former>, kubepki::datastore::DatastoreError> {
    let file = EtcdFile::open(path)?;
    let mut all = file.former(KEY_PREFIX).await?;
    for record in file.list(KEY_PREFIX).await? {
        all.push(Former {
            key: record.key,
            value: record.value,
            revision: Some(record.revision),
            place: format!("snapshot {}", path.display()),
        });
    }
    Ok(all)
}

/// Values that open with another token than the present one, and hold keys that are in force.
fn exposed<'a>(answer: &'a Answer, own: &str) -> impl Iterator<Item = &'a Exposure> {
    let own = own.to_owned();
    let open = answer.still_open.iter();
    open.filter(move |it| it.in_force && it.key != own)
}

fn worst(answer: &Answer, own: &str) -> Exit {
    let mut worst = answer.disk.as_ref().map_or(Exit::Fine, exit);
    for finding in &answer.findings {
        worst = worst.max(match finding.flaw {
            Flaw::Note => Exit::Due,
            Flaw::Broken => Exit::Broken,
        });
    }
    if exposed(answer, own).next().is_some() {
        worst = worst.max(Exit::Due);
    }
    worst
}

fn text(answer: &Answer, bundle: &kubepki::bootstrap::Bundle, own: &str) -> String {
    let mut text = format!(
        "Datastore {}\nKey {} at revision {} opens\n",
        answer.datastore, answer.key, answer.revision
    );
    for field in bundle.files.keys() {
        let mine = answer.findings.iter().filter(|it| it.name == field.name());
        let problems: Vec<&str> = mine.map(|it| it.problem.as_str()).collect();
        let state = match problems.is_empty() {
            true => "fine".to_owned(),
            false => problems.join("; "),
        };
        let _ = writeln!(text, "  {field}: {state}");
    }
    for name in bundle.others.keys() {
        let _ = writeln!(text, "  {name}: not known");
    }
    let has = |name: &str| bundle.files.keys().any(|field| field.name() == name);
    for finding in answer.findings.iter().filter(|it| !has(it.name)) {
        let _ = writeln!(text, "  {}: {}", finding.name, finding.problem);
    }
    match &answer.disk {
        Some(comparison) => {
            let same = match comparison.differs() {
                true => "differs from",
                false => "is the same as",
            };
            let _ = writeln!(
                text,
                "The disk {same} the datastore: {}",
                verdict(comparison)
            );
        }
        None => text.push_str("This disk holds none of the files\n"),
    }
    told(&mut text, answer, own);
    for note in &answer.notes {
        let _ = writeln!(text, "Note: {note}");
    }
    text
}

/// What former values still open.
fn told(text: &mut String, answer: &Answer, own: &str) {
    let present = answer.still_open.iter().filter(|it| it.key == own).count();
    if present != 0 {
        let values = if present == 1 { "value" } else { "values" };
        let _ = writeln!(
            text,
            "{present} former {values} open with the present token"
        );
    }
    for it in answer.still_open.iter().filter(|it| it.key != own) {
        let what = match it.in_force {
            true => "keys that are in force",
            false => "former keys",
        };
        let _ = writeln!(
            text,
            "The token from {} still opens {what} in {}",
            it.token, it.place
        );
    }
    let service = Field::ServiceKey.name();
    if exposed(answer, own).next().is_some() {
        let _ = writeln!(
            text,
            "Whoever has that token has the CA keys and {service}: rotate the CAs, or let the \
             datastore forget (compaction, new snapshots)"
        );
    }
}
