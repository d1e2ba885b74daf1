//! `token create --role`, `token revoke`: tokens that `kubepki serve` takes, made and taken back in
//! the cluster's datastore while it serves.

use std::fmt::Write as _;

use kubepki::agent;
use kubepki::datastore::{Datastore, DatastoreError};
use kubepki::host::Host as _;
use kubepki::init::{NODE, SERVER};
use kubepki::token::Token;
use kubepki::token::kubernetes::{self, Encryption};
use kubepki::token::made::{
    self, LONG, LONGEST_DESCRIPTION, MOST_USES, Made, MadeError, Role, SHORT, Secret, Shape, Wanted,
};
use kubepki::token::{MOST_PINS, hashes, pins_of};
use pki::{Certificate, Digest, UnixTime};
use serde_json::Value;
use zeroize::Zeroizing;

use super::list::shown;
use super::{CreateArgs, RevokeArgs, RoleArg, ShapeArg, server, staged_authority};
use crate::args::{PlanFormat, SiteArgs};
use crate::datastore::{Access, Connected, EndpointArgs, open, reached};
use crate::error::{CliError, Exit};
use crate::k3s::Settings;
use crate::output;
use crate::world::{Node, World};

/// Seconds for which a token is good unless told otherwise: K3s's 24 hours.
pub(super) const TTL: i64 = 24 * 3600;
/// A token that shall be good for longer than this many seconds shall be good for ever.
const LONGEST_TTL: i64 = 10 * 365 * pki::DAY;

/// `kubepki token create --role …`.
pub(super) async fn create(
    world: &World,
    args: &CreateArgs,
    role: RoleArg,
) -> Result<Exit, CliError> {
    let wanted = wanted(args, role, world.now())?;
    let length = match wanted.shape {
        Shape::Bootstrap => SHORT,
        Shape::Pins | Shape::K10 => LONG,
    };
    let secret = Secret::random(&world.entropy, length)?;
    let token = written(world, args, &wanted, &secret).await?;
    let record = Made::new(&secret, &wanted);
    let connected = datastore(world, &args.endpoint, &args.site, Access::Write).await?;
    let store = connected.store.as_ref();
    let entry = match made::create(store, &secret, &record).await {
        Err(MadeError::Datastore(DatastoreError::Conflict { .. })) => {
            return Err(CliError::message(
                "the id that was made is taken; the same command again makes another",
            ));
        }
        created => created.map_err(unusable)?,
    };
    if let Err(error) = made::forget_ended(store, world.now()).await {
        let why = kubepki::error_chain(&error);
        output::talk(&format!("Note: old records were not removed: {why}"));
    }
    let text = token.to_text();
    match args.output {
        PlanFormat::Text => output::data(&Zeroizing::new(format!("{}\n", *text)))?,
        PlanFormat::Json => {
            let mut shown = shown(&entry, world.now());
            if let Value::Object(members) = &mut shown {
                members.insert("token".to_owned(), text.as_str().into());
            }
            let line = Zeroizing::new(serde_json::to_string_pretty(&shown)? + "\n");
            output::data(&line)?;
        }
    }
    output::talk(&format!(
        "The token {} is in force: {} (in {}).",
        entry.id,
        summary(&entry.made),
        connected.place
    ));
    if wanted.shape == Shape::Pins {
        output::talk(
            "It is for `kubepki join`: K3s's own agents refuse it and send nothing; they take \
             --form k10 or bootstrap.",
        );
    }
    Ok(Exit::Fine)
}

/// What the arguments ask for.
fn wanted(args: &CreateArgs, role: RoleArg, now: UnixTime) -> Result<Wanted, CliError> {
    let ttl = args.ttl.unwrap_or(TTL);
    if ttl > LONGEST_TTL {
        return Err(CliError::usage(
            "--ttl: longer than ten years; 0 is for a token without an end",
        ));
    }
    if let Some(uses) = args.uses
        && !(1..=MOST_USES).contains(&uses)
    {
        return Err(CliError::usage(format!(
            "--uses {uses}: 1 to {MOST_USES} nodes can be counted; without --uses any number may \
             come"
        )));
    }
    let role = match role {
        RoleArg::Agent => Role::Agent,
        RoleArg::Server => Role::Server,
    };
    if role == Role::Server && (args.uses.is_some() || args.node.is_some()) {
        return Err(CliError::usage(
            "--uses and --node count and name the nodes that join: a server's token lets none in, \
             and whoever replaces the servers' password with it needs it no second time; give it a \
             short --ttl, and revoke it",
        ));
    }
    let shape = match args.form.unwrap_or(ShapeArg::Pins) {
        ShapeArg::Pins => Shape::Pins,
        ShapeArg::Bootstrap => Shape::Bootstrap,
        ShapeArg::K10 => Shape::K10,
    };
    if role == Role::Server && shape == Shape::Bootstrap {
        return Err(CliError::usage(
            "--form bootstrap is for agents: K3s takes no bootstrap token for a server",
        ));
    }
    if shape != Shape::Pins && !args.pin.is_empty() {
        return Err(CliError::usage("--pin is for --form pins"));
    }
    let node = args.node.as_deref().map(|name| {
        let node = agent::Node::new(name, Vec::new());
        node.map(|it| it.name().to_owned())
            .map_err(|error| CliError::usage(format!("--node: {error}")))
    });
    let description = args.description.clone();
    if let Some(text) = &description
        && (text.len() > LONGEST_DESCRIPTION || text.chars().any(char::is_control))
    {
        return Err(CliError::usage(format!(
            "--description: one line of at most {LONGEST_DESCRIPTION} bytes"
        )));
    }
    Ok(Wanted {
        role,
        shape,
        now,
        expires: (ttl > 0).then(|| now.plus(ttl)),
        uses: args.uses,
        node: node.transpose()?,
        description,
    })
}

/// The token's text: with the CA in force, and with the staged one beside it or in its place.
async fn written(
    world: &World,
    args: &CreateArgs,
    wanted: &Wanted,
    secret: &Secret,
) -> Result<Token, CliError> {
    let node = Node::open(world, &args.site, None, None).await?;
    let found = server(world, &node).await?;
    let staged = match &args.path {
        Some(path) => Some(staged_authority(&world.host, path).await?),
        None => None,
    };
    let (id, now) = (secret.id(), world.now());
    if wanted.shape == Shape::Pins {
        let mut keys = pins_of(&Certificate::all_from_pem(found.files.authority()?)?, now);
        if let Some(file) = &staged {
            keys.extend(pins_of(&Certificate::all_from_pem(file)?, now));
        }
        keys.extend(args.pin.iter().copied());
        let mut different: Vec<Digest> = Vec::new();
        for key in keys {
            if !different.contains(&key) {
                different.push(key);
            }
        }
        if different.len() > MOST_PINS {
            return Err(CliError::usage(format!(
                "{} keys would be pinned, {MOST_PINS} at most: the server CA's bundle, --path and \
                 --pin together hold too many",
                different.len()
            )));
        }
        let token = Token::pinning(&different, id, secret.expose());
        return token.map_err(|error| CliError::failed(&error));
    }
    let hash = match &staged {
        Some(file) => hashes(file, now)?.by(found.rule),
        None => found.known.present(),
    };
    if wanted.shape == Shape::Bootstrap {
        let token = Token::bootstrap(hash, id, secret.expose());
        return token.ok_or_else(|| CliError::message("the bootstrap token has a wrong shape"));
    }
    let user = match wanted.role {
        Role::Agent => NODE.0,
        Role::Server => SERVER.0,
    };
    let password = Zeroizing::new(format!("{id}.{}", secret.expose()));
    Ok(Token::new(hash, user, password))
}

/// `kubepki token revoke`.
pub(super) async fn revoke(world: &World, args: &RevokeArgs) -> Result<Exit, CliError> {
    // Nobody shall have to hide a secret that was pasted in place of an id.
    if !args.ids.iter().all(|id| made::is_id(id)) {
        return Err(CliError::usage(
            "an id is the six characters before the dot; the secret is not needed",
        ));
    }
    let connected = datastore(world, &args.endpoint, &args.site, Access::Write).await?;
    let store = connected.store.as_ref();
    for (done, id) in args.ids.iter().enumerate() {
        let entry = match made::revoke(store, id, world.now()).await {
            Ok(entry) => entry,
            Err(error) => {
                let unknown = matches!(error, MadeError::Unknown { .. });
                let theirs = unknown && is_kubernetes(store, id).await?;
                let refused = match theirs {
                    true => kubernetes_own(id),
                    false => unusable(error),
                };
                let exit = match (unknown, done) {
                    (_, 1..) => Exit::Partial,
                    (true, _) => Exit::Refused,
                    (false, _) => Exit::Failed,
                };
                return Err(CliError { exit, ..refused });
            }
        };
        let end = entry.made.end(world.now());
        let end = end.map_or_else(String::new, |end| end.to_string());
        output::talk(&format!("The token {id} {end}."));
    }
    output::talk("Certificates that nodes got with it stay good until they end.");
    Ok(Exit::Fine)
}

/// Whether Kubernetes keeps a bootstrap token of that id.
async fn is_kubernetes(store: &dyn Datastore, id: &str) -> Result<bool, CliError> {
    let found = kubernetes::find(store, &Encryption::default(), id).await;
    Ok(found.map_err(reached)?.is_some())
}

fn kubernetes_own(id: &str) -> CliError {
    CliError::refused(format!(
        "the token {id} is a bootstrap token of Kubernetes, which alone changes its Secrets"
    ))
    .hint(format!(
        "run `k3s token delete {id}` or `kubectl -n kube-system delete secret bootstrap-token-{id}`: \
         servers refuse it from then on"
    ))
}

/// The cluster's datastore, beside the servers that work with it.
pub(in crate::command) async fn datastore(
    world: &World,
    endpoint: &EndpointArgs,
    site: &SiteArgs,
    access: Access,
) -> Result<Connected, CliError> {
    let settings = Settings::load(&world.host, site).await?;
    let connected = open(&world.host, endpoint, &settings, access).await?;
    if access == Access::Write {
        connected.refuse_read_only()?;
    }
    Ok(connected)
}

/// The keys of Kubernetes' Secrets that lie in the data directory.
pub(super) async fn encryption(world: &World, site: &SiteArgs) -> Result<Encryption, CliError> {
    let settings = Settings::load(&world.host, site).await?;
    let path = settings.data_dir.join("server/cred/encryption-config.json");
    Ok(match world.host.read(&path).await {
        Ok(None) => Encryption::default(),
        Ok(Some(entry)) => match entry.bytes() {
            Some(bytes) => Encryption::of(bytes),
            None => Encryption::unreadable("it is no file".to_owned()),
        },
        Err(error) => Encryption::unreadable(kubepki::error_chain(&error)),
    })
}

pub(super) fn unusable(error: MadeError) -> CliError {
    match error {
        MadeError::Datastore(error) => reached(error),
        error => CliError::failed(&error),
    }
}

pub(super) fn uses(made: &Made) -> String {
    match made.uses {
        None => "-".to_owned(),
        Some(uses) => format!("{}/{uses}", made.nodes.len()),
    }
}

/// What a token allows, in a sentence's part.
pub(super) fn summary(made: &Made) -> String {
    let mut text = match made.role {
        Role::Agent => "agents join with it".to_owned(),
        Role::Server => "it is a server's".to_owned(),
    };
    if let Some(node) = &made.node {
        let _ = write!(text, ", node {node} alone");
    }
    if made.uses.is_some() {
        let _ = write!(text, ", {} uses spent", uses(made));
    }
    let _ = match made.expires() {
        Some(end) => write!(text, ", until {end}"),
        None => write!(text, ", without an end"),
    };
    text
}
