//! `token list`: tokens with a record in the cluster's datastore, ours and Kubernetes' own.

use std::fmt::Write as _;

use kubepki::token::kubernetes::{self, BootstrapToken, Expiration, Found, Unfit};
use kubepki::token::made::{self, End, Entry, Made, Role, Shape};
use pki::UnixTime;
use serde_json::{Value, json};

use super::ListArgs;
use super::made::{datastore, encryption, uses};
use crate::args::PlanFormat;
use crate::datastore::{Access, reached};
use crate::error::{CliError, Exit};
use crate::output;
use crate::world::World;

/// `kubepki token list`.
pub(super) async fn list(world: &World, args: &ListArgs) -> Result<Exit, CliError> {
    let connected = datastore(world, &args.endpoint, &args.site, Access::Read).await?;
    let store = connected.store.as_ref();
    let (mut entries, damaged) = made::list(store).await.map_err(reached)?;
    entries.sort_by_key(|entry| (entry.made.created(), entry.id.clone()));
    let keys = encryption(world, &args.site).await?;
    let secrets = kubernetes::list(store, &keys).await.map_err(reached)?;
    let now = world.now();
    match args.output {
        PlanFormat::Text => output::data(&output::harmless(&table(&entries, &secrets, now)))?,
        PlanFormat::Json => {
            let own = entries.iter().map(|entry| shown(entry, now));
            let theirs = secrets.iter().map(|found| shown_secret(found, now));
            let all: Vec<Value> = own.chain(theirs).collect();
            output::data(&(serde_json::to_string_pretty(&all)? + "\n"))?;
        }
    }
    for error in &damaged {
        output::talk(&format!("Note: {}", kubepki::error_chain(error)));
    }
    let ignored = secrets.iter().filter(|it| it.token.is_err()).count();
    if ignored > 0 {
        output::talk(&format!(
            "Note: {ignored} of {} Secrets of bootstrap tokens cannot be read: servers ignore them.",
            secrets.len()
        ));
    }
    Ok(match damaged.is_empty() {
        true => Exit::Fine,
        false => Exit::Broken,
    })
}

fn role(made: &Made) -> &'static str {
    match made.role {
        Role::Agent => "agent",
        Role::Server => "server",
    }
}

fn form(made: &Made) -> &'static str {
    match made.form {
        Shape::Pins => "pins",
        Shape::Bootstrap => "bootstrap",
        Shape::K10 => "k10",
    }
}

/// `good`, or how it ended.
fn state(made: &Made, now: UnixTime) -> &'static str {
    match made.end(now) {
        None => "good",
        Some(End::Expired(_)) => "expired",
        Some(End::Revoked(_)) => "revoked",
        Some(End::UsedUp(_)) => "used up",
    }
}

/// How Kubernetes' rules find a token, in a word, and the reason.
fn state_of(token: &BootstrapToken, now: UnixTime) -> (&'static str, Option<String>) {
    let unfit = token.unfit(now);
    let word = match unfit {
        None => "good",
        Some(Unfit::Expired(_)) => "expired",
        Some(Unfit::Deleted) => "deleted",
        Some(_) => "unfit",
    };
    (word, unfit.map(|unfit| format!("it {unfit}")))
}

/// Everything but the secret's hash.
pub(super) fn shown(entry: &Entry, now: UnixTime) -> Value {
    let made = &entry.made;
    let end = made.end(now);
    let nodes = made.nodes.iter().map(|it| {
        let at = UnixTime::from_secs(it.at).to_string();
        json!({"node": it.node, "at": at})
    });
    json!({
        "id": entry.id,
        "role": role(made),
        "form": form(made),
        "state": state(made, now),
        "ended": end.map(|end| end.since().to_string()),
        "created": made.created().to_string(),
        "expires": made.expires().map(|end| end.to_string()),
        "uses": made.uses,
        "used": made.nodes.len(),
        "nodes": nodes.collect::<Vec<_>>(),
        "node": made.node,
        "description": made.description,
        "keeper": "kubepki",
    })
}

/// The same members for a Secret of Kubernetes, and what only those have.
fn shown_secret(found: &Found, now: UnixTime) -> Value {
    let token = found.token.as_ref().ok();
    let (state, problem) = match &found.token {
        Ok(token) => state_of(token, now),
        Err(error) => ("unreadable", Some(error.to_string())),
    };
    let expires = token.and_then(expires);
    json!({
        "id": found.id,
        "role": "agent",
        "form": "bootstrap",
        "state": state,
        "ended": expires.filter(|end| now >= *end).map(|end| end.to_string()),
        "created": null,
        "expires": expires.map(|end| end.to_string()),
        "uses": null,
        "used": null,
        "nodes": [],
        "node": null,
        "description": token.and_then(|it| it.description.as_deref()),
        "keeper": "kubernetes",
        "secret": format!("kube-system/bootstrap-token-{}", found.id),
        "usages": token.map(|it| &it.usages),
        "extraGroups": token.map(|it| &it.extra_groups),
        "problem": problem,
    })
}

fn expires(token: &BootstrapToken) -> Option<UnixTime> {
    match token.expiration {
        Expiration::At(end) => Some(end),
        Expiration::Never | Expiration::Unreadable => None,
    }
}

/// A line of the table.
struct Row<'a> {
    id: &'a str,
    role: &'a str,
    form: &'a str,
    state: &'a str,
    made: String,
    expires: String,
    uses: String,
    node: &'a str,
    description: String,
}

fn table(entries: &[Entry], secrets: &[Found], now: UnixTime) -> String {
    let mut text = format!(
        "{:<6}  {:<6}  {:<9}  {:<10}  {:<20}  {:<20}  {:<7}  {:<12}  DESCRIPTION\n",
        "ID", "ROLE", "FORM", "STATE", "MADE", "EXPIRES", "USES", "NODE"
    );
    let own = entries.iter().map(|entry| row(entry, now));
    let theirs = secrets.iter().map(|found| row_of_secret(found, now));
    for row in own.chain(theirs) {
        let _ = writeln!(
            text,
            "{:<6}  {:<6}  {:<9}  {:<10}  {:<20}  {:<20}  {:<7}  {:<12}  {}",
            row.id,
            row.role,
            row.form,
            row.state,
            row.made,
            row.expires,
            row.uses,
            row.node,
            row.description,
        );
    }
    text
}

fn row(entry: &Entry, now: UnixTime) -> Row<'_> {
    let made = &entry.made;
    let expires = made.expires().map(|end| end.to_string());
    Row {
        id: &entry.id,
        role: role(made),
        form: form(made),
        state: state(made, now),
        made: made.created().to_string(),
        expires: expires.unwrap_or_else(|| "never".to_owned()),
        uses: uses(made),
        node: made.node.as_deref().unwrap_or("-"),
        description: made.description.clone().unwrap_or_else(|| "-".to_owned()),
    }
}

fn row_of_secret(found: &Found, now: UnixTime) -> Row<'_> {
    let (state, expires, description) = match &found.token {
        Err(error) => ("unreadable", "-".to_owned(), error.to_string()),
        Ok(token) => {
            let (state, problem) = state_of(token, now);
            let expires = match token.expiration {
                Expiration::Never => "never".to_owned(),
                Expiration::At(end) => end.to_string(),
                Expiration::Unreadable => "unreadable".to_owned(),
            };
            let usages = match token.usages.is_empty() {
                true => "Kubernetes' own, for nothing".to_owned(),
                false => format!("Kubernetes' own, for {}", token.usages.join(", ")),
            };
            let parts = [Some(usages), problem, token.description.clone()];
            let parts: Vec<String> = parts.into_iter().flatten().collect();
            (state, expires, parts.join("; "))
        }
    };
    Row {
        id: &found.id,
        role: "agent",
        form: "bootstrap",
        state,
        made: "-".to_owned(),
        expires,
        uses: "-".to_owned(),
        node: "-",
        description,
    }
}
