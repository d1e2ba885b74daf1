//! Which services a command is about.

use std::path::Path;

use super::error::DropinError;
use super::layout::Layout;
use super::log::{Level, Line};
use super::read::follow;
use crate::catalogue::{Flavour, Service, Side};
use crate::host::Host;

/// The services of one run.
#[derive(Debug)]
pub struct Selection {
    /// In the catalogue's order, each once.
    pub services: Vec<&'static Service>,
    /// Whether nothing was named and these are all that the node has.
    pub all: bool,
    /// What K3s says about it.
    pub lines: Vec<Line>,
}

/// The services that `named` names, each value one name or several joined by commas; without any,
/// those of the node: a data directory with a `server` in it has all, one without the agent's.
///
/// `doing` is `checking` or `rotating`.
///
/// # Errors
///
/// [`DropinError::UnknownService`] with everything that was not recognised, and
/// [`DropinError::File`] when it cannot be seen which node this is, or the server's token cannot
/// be read: K3s reads it first, and so says early that it needs root.
pub async fn select(
    host: &dyn Host,
    flavour: &'static Flavour,
    layout: &Layout,
    named: &[String],
    doing: &str,
) -> Result<Selection, DropinError> {
    read_token(host, layout).await?;
    let names: Vec<&str> = named
        .iter()
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .collect();
    if !names.is_empty() {
        return by_name(flavour, &names);
    }
    let server = layout.real(Side::Server, Path::new(""));
    let found = follow(host, &server).await.map_err(|error| {
        DropinError::file("stat", &layout.shown(Side::Server, Path::new("")), &error)
    })?;
    let (side, line) = match found {
        Some(_) => (
            Side::Server,
            format!("Server detected, {doing} agent and server certificates"),
        ),
        None => (
            Side::Agent,
            format!("Agent detected, {doing} agent certificates"),
        ),
    };
    let belongs = |service: &&Service| side == Side::Server || service.side == side;
    let services = flavour.services.iter().filter(belongs).collect();
    Ok(Selection {
        services,
        all: true,
        lines: vec![Line::new(Level::Info, line)],
    })
}

fn by_name(flavour: &'static Flavour, names: &[&str]) -> Result<Selection, DropinError> {
    let mut unknown: Vec<String> = Vec::new();
    for name in names {
        if flavour.service(name).is_none() && !unknown.iter().any(|known| known == name) {
            unknown.push((*name).to_owned());
        }
    }
    if !unknown.is_empty() {
        let known: Vec<_> = flavour
            .services
            .iter()
            .map(|service| service.name)
            .collect();
        return Err(DropinError::UnknownService {
            names: unknown,
            known: known.join(", "),
        });
    }
    let named = |service: &&Service| names.contains(&service.name);
    let services = flavour.services.iter().filter(named).collect();
    Ok(Selection {
        services,
        all: false,
        lines: Vec::new(),
    })
}

/// The token itself is of no use here: only that it can be read, or is not there.
async fn read_token(host: &dyn Host, layout: &Layout) -> Result<(), DropinError> {
    let token = Path::new("token");
    match follow(host, &layout.real(Side::Server, token)).await {
        Ok(_) => Ok(()),
        Err(error) => Err(DropinError::file(
            "open",
            &layout.shown(Side::Server, token),
            &error,
        )),
    }
}
