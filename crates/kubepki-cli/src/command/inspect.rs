//! `inspect`: what a file is, in words.

use std::io::Read;
use std::path::Path;

use kubepki::inspect::inspect;
use zeroize::Zeroizing;

use crate::args::{InspectArgs, PlanFormat};
use crate::error::{CliError, Exit};
use crate::output;
use crate::world::{World, moment};

/// More than any file of a PKI; a mistyped disk image is not read into memory.
const LIMIT: u64 = 16 << 20;

/// `kubepki inspect`.
///
/// # Errors
///
/// When the file cannot be read or is nothing that this program knows.
pub fn run(args: &InspectArgs) -> Result<Exit, CliError> {
    let now = match &args.at {
        Some(at) => moment(at)?,
        None => World::real().now(),
    };
    let bytes = read(&args.file)?;
    let inspection = inspect(&bytes, now)
        .map_err(|error| CliError::message(format!("{}: {error}", args.file.display())))?;
    if inspection.items.is_empty() {
        let why = inspection.notes.join("; ");
        return Err(CliError::message(format!("{}: {why}", args.file.display())));
    }
    match args.output {
        PlanFormat::Text => output::data(&inspection.to_text())?,
        PlanFormat::Json => output::data(&(serde_json::to_string_pretty(&inspection)? + "\n"))?,
    }
    Ok(Exit::Fine)
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, CliError> {
    let shown = path.display();
    let failed = |error| CliError::message(format!("cannot read {shown}: {error}"));
    let mut bytes = Zeroizing::new(Vec::new());
    let count = if path == Path::new("-") {
        std::io::stdin()
            .lock()
            .take(LIMIT + 1)
            .read_to_end(&mut bytes)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(LIMIT + 1).read_to_end(&mut bytes))
    };
    match count.map_err(failed)? {
        count if count as u64 > LIMIT => Err(CliError::message(format!(
            "{shown} is larger than {LIMIT} bytes"
        ))),
        _ => Ok(bytes),
    }
}
