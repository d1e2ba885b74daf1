//! `history`: what was planned, done, interrupted and taken back.

use std::fmt::Write as _;

use kubepki::apply::{Past, Standing, history};
use kubepki::plan::PlanId;
use serde_json::json;

use super::change::print_plan;
use crate::args::{HistoryArgs, PlanFormat};
use crate::error::{CliError, Exit};
use crate::output;
use crate::world::{Node, World};

/// `kubepki history`.
///
/// # Errors
///
/// When the state directory cannot be read.
pub async fn run(args: &HistoryArgs) -> Result<Exit, CliError> {
    let world = World::real();
    let node = Node::open(&world, &args.site, None, None).await?;
    if let Some(id) = &args.forget {
        return forget(&node, id, args.yes);
    }
    if let Some(id) = &args.id {
        let plan = node.state.load_plan(&PlanId(id.clone()))?;
        print_plan(&plan, None, args.output)?;
        return Ok(Exit::Fine);
    }
    let past = history(&node.state)?;
    match args.output {
        PlanFormat::Text if past.is_empty() => output::talk("Nothing was planned here yet."),
        PlanFormat::Text => output::data(&past.iter().map(line).collect::<String>())?,
        PlanFormat::Json => {
            let list: Vec<_> = past.iter().map(as_json).collect();
            output::data(&(serde_json::to_string_pretty(&list)? + "\n"))?;
        }
    }
    Ok(Exit::Fine)
}

fn forget(node: &Node, id: &str, yes: bool) -> Result<Exit, CliError> {
    let id = PlanId(id.to_owned());
    let plan = node.state.load_plan(&id)?;
    let question = format!(
        "Forget {id} ({}) with its backups? It cannot be undone afterwards.",
        plan.title
    );
    output::confirm(&question, yes)?;
    node.state.lock()?.forget(&id)?;
    output::talk(&format!("{id} is forgotten."));
    Ok(Exit::Fine)
}

fn line(past: &Past) -> String {
    let when = past
        .created
        .map_or_else(|| "?".to_owned(), |at| at.to_string());
    let mut text = format!("{when}  {}  {}  {} steps", past.id, past.title, past.steps);
    let _ = writeln!(text, "  {}", standing(past));
    text
}

fn standing(past: &Past) -> String {
    match (&past.standing, &past.undone_by) {
        (Standing::Finished, Some(by)) => format!("done, taken back by {by}"),
        (Standing::Finished, None) => "done".to_owned(),
        (Standing::Planned, _) => "planned".to_owned(),
        (Standing::Abandoned, _) => "given up".to_owned(),
        (Standing::Unreadable(why), _) => format!("cannot be read: {why}"),
        (
            Standing::Interrupted {
                step,
                waiting: true,
                ..
            },
            _,
        ) => {
            format!("waits at step {step}: kubepki resume")
        }
        (Standing::Interrupted { step, failure, .. }, _) => {
            let why = failure
                .as_ref()
                .map_or_else(String::new, |why| format!(" ({why})"));
            format!("interrupted at step {step}{why}: kubepki resume, or kubepki undo")
        }
    }
}

fn as_json(past: &Past) -> serde_json::Value {
    json!({
        "id": past.id.to_string(),
        "title": past.title,
        "created": past.created.map(|at| at.to_string()),
        "last": past.last.map(|at| at.to_string()),
        "steps": past.steps,
        "undoes": past.undoes.as_ref().map(ToString::to_string),
        "undoneBy": past.undone_by.as_ref().map(ToString::to_string),
        "standing": standing(past),
    })
}
