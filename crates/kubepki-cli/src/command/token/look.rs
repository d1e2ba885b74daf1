//! `token show`, `token check`, `token create`.

use std::fmt::Write as _;
use std::path::Path;

use kubepki::bootstrap::{KEY_PREFIX, Passphrase, open};
use kubepki::catalogue::{Release, ReleaseError};
use kubepki::datastore::Datastore;
use kubepki::init::{NODE, SERVER};
use kubepki::inventory::DetectedRelease;
use kubepki::token::{
    self, NewPassword, Opinion, PinnedKey, Proves, Rule, Token, hashes, kubernetes, made, pins_of,
};
use pki::{Certificate, Digest};
use serde_json::json;
use zeroize::Zeroizing;

use super::made::{encryption, summary, unusable};
use super::{CheckArgs, CreateArgs, ShowArgs, read_text, remarks, server, staged_authority};
use crate::args::PlanFormat;
use crate::datastore::{self, Access};
use crate::error::{CliError, Exit};
use crate::k3s::Settings;
use crate::output;
use crate::world::{Node, World};

/// The tokens of servers and agents, secrets and all.
struct Pair {
    hash: Option<Digest>,
    /// The keys that a pin set would have.
    keys: Vec<Digest>,
    server: Zeroizing<String>,
    agent: Zeroizing<String>,
}

impl Pair {
    fn full(&self, user: &str, password: &Zeroizing<String>) -> Option<Zeroizing<String>> {
        let token = Token::new(self.hash?, user, password.clone());
        Some(token.to_text())
    }

    fn print(&self, format: PlanFormat) -> Result<(), CliError> {
        let both = [
            ("server", SERVER.0, &self.server),
            ("agent", NODE.0, &self.agent),
        ];
        let mut text = Zeroizing::new(String::new());
        match format {
            PlanFormat::Text => {
                for (who, user, password) in both {
                    if let Some(full) = self.full(user, password) {
                        let _ = writeln!(text, "{who:<7}{}", *full);
                    }
                    let _ = writeln!(text, "{who:<7}{}", **password);
                }
            }
            PlanFormat::Json => {
                let one = |user, password: &Zeroizing<String>| {
                    let full = self.full(user, password);
                    json!({"full": full.as_deref(), "password": password.as_str()})
                };
                let value = json!({
                    "caHash": self.hash.map(|hash| hash.to_string()),
                    "caKeys": self.keys.iter().map(Digest::to_string).collect::<Vec<_>>(),
                    "server": one(SERVER.0, &self.server),
                    "agent": one(NODE.0, &self.agent),
                });
                text = Zeroizing::new(serde_json::to_string_pretty(&value)? + "\n");
            }
        }
        output::data(&text)
    }
}

/// `kubepki token show`.
pub(super) async fn show(world: &World, args: &ShowArgs) -> Result<Exit, CliError> {
    let node = Node::open(world, &args.site, None, None).await?;
    let found = server(world, &node).await?;
    let (authority, hash) = match &args.path {
        None => (found.files.authority()?.to_vec(), found.known.present()),
        Some(path) => {
            let file = staged_authority(&world.host, path).await?;
            let hash = hashes(&file, world.now())?.by(found.rule);
            (file, hash)
        }
    };
    let keys = pins_of(&Certificate::all_from_pem(&authority)?, world.now());
    let shown: Vec<String> = keys.iter().map(Digest::to_string).collect();
    let pair = Pair {
        hash: Some(hash),
        keys,
        server: found.files.server_password()?,
        agent: found.files.agent_password()?,
    };
    pair.print(args.output)?;
    for remark in remarks(&authority, found.rule, world.now())? {
        output::talk(&format!("Note: {remark}."));
    }
    if pair.server == pair.agent {
        output::talk("Note: agents have no password of their own: theirs is the servers'.");
    }
    output::talk(&format!(
        "Pin sets (`kubepki token create --role agent`) pin the CA keys {}; they outlive a rotation.",
        shown.join(", ")
    ));
    output::talk(
        "A full token pins the cluster's CA; with the password alone a node trusts the first CA \
         that answers it.",
    );
    Ok(Exit::Fine)
}

/// `kubepki token create`.
pub(super) async fn create(world: &World, args: &CreateArgs) -> Result<Exit, CliError> {
    let password = NewPassword::random(&world.entropy)?;
    let release = match &args.site.k3s_version {
        Some(text) => DetectedRelease::Known(
            text.parse::<Release>()
                .map_err(|error: ReleaseError| CliError::usage(error.to_string()))?,
        ),
        None => DetectedRelease::Unknown,
    };
    let mut keys = Vec::new();
    let hash = match &args.path {
        None => None,
        Some(path) => {
            let file = staged_authority(&world.host, path).await?;
            keys = pins_of(&Certificate::all_from_pem(&file)?, world.now());
            let rule = Rule::of(release);
            for remark in remarks(&file, rule, world.now())? {
                output::talk(&format!("Note: {remark}."));
            }
            Some(hashes(&file, world.now())?.by(rule))
        }
    };
    let pair = Pair {
        hash,
        keys,
        server: password.expose().clone(),
        agent: password.expose().clone(),
    };
    match (args.output, hash) {
        // Ready for a token file.
        (PlanFormat::Text, None) => {
            let line = Zeroizing::new(format!("{}\n", password.expose().as_str()));
            output::data(&line)?;
        }
        _ => pair.print(args.output)?,
    }
    Ok(Exit::Fine)
}

/// `kubepki token check`.
pub(super) async fn check(world: &World, args: &CheckArgs) -> Result<Exit, CliError> {
    let place = match args.endpoint.endpoint.token_files.as_slice() {
        [] => Path::new("-"),
        [one] => one,
        _ => return Err(CliError::usage("one token is checked at a time")),
    };
    let bytes = read_text("--token-file", place)?;
    let token = match token::read_token(&bytes) {
        Ok(token) => token,
        Err(error) => {
            return Err(CliError {
                exit: Exit::Broken,
                ..CliError::message(kubepki::error_chain(&error))
            });
        }
    };
    let node = Node::open(world, &args.site, None, None).await?;
    let mut found = server(world, &node).await?;
    let staged = match &args.path {
        None => None,
        Some(path) => {
            let file = staged_authority(&world.host, path).await?;
            Some(found.known.add_staged(&file, world.now())?)
        }
    };
    let opinion = token::check(&token, &found.known, &found.files)?;
    let stored = match args.datastore {
        false => None,
        true => Some(stored(world, args, &token).await?),
    };
    let survives = staged.map(|staged| opinion.will_be_accepted(staged));
    match args.output {
        PlanFormat::Text => output::data(&words(&token, &opinion, survives, stored.as_ref()))?,
        PlanFormat::Json => output::data(&as_json(&opinion, survives, stored.as_ref())?)?,
    }
    for remark in remarks(found.files.authority()?, found.rule, world.now())? {
        output::talk(&format!("Note: {remark}."));
    }
    let lives = stored.is_none_or(|it| it.lives(opinion.proves));
    Ok(match (opinion.is_accepted() && lives, survives) {
        (false, _) => Exit::Broken,
        (true, Some(false)) => Exit::Due,
        (true, _) => Exit::Fine,
    })
}

/// What the datastore says of a token.
enum Stored {
    /// Whether its password opens the bootstrap data.
    Opens(bool),
    /// It has a record: what it allows, and its end.
    Made(String, Option<String>),
    /// Kubernetes keeps it: what it allows, and why it is good for nothing.
    Kubernetes(String, Option<String>),
    /// It has an id, and no record of ours, or the record of another secret.
    NotMade,
}

impl Stored {
    /// Whether servers take a token that proves that much, as far as the datastore decides.
    fn lives(&self, proves: Proves) -> bool {
        match self {
            Self::Made(_, end) | Self::Kubernetes(_, end) => end.is_none(),
            // A password may have the shape of a made token.
            Self::NotMade => proves != Proves::Unknown,
            Self::Opens(_) => true,
        }
    }

    fn words(&self) -> (&'static str, String) {
        match self {
            Self::Opens(true) => ("bootstrap data", "opens them".to_owned()),
            Self::Opens(false) => ("bootstrap data", "does not open them".to_owned()),
            Self::Made(what, None) => ("record", what.clone()),
            Self::Made(what, Some(end)) => ("record", format!("it {end} ({what})")),
            Self::Kubernetes(what, None) => ("record", what.clone()),
            Self::Kubernetes(what, Some(why)) => ("record", format!("{why} ({what})")),
            Self::NotMade => (
                "record",
                "none with this id and secret, of ours or of Kubernetes".to_owned(),
            ),
        }
    }
}

async fn stored(world: &World, args: &CheckArgs, token: &Token) -> Result<Stored, CliError> {
    let settings = Settings::load(&world.host, &args.site).await?;
    let connected = match &args.endpoint.snapshot {
        Some(path) => datastore::snapshot(path, Access::Read).await?,
        None => {
            let endpoint = &args.endpoint.endpoint;
            datastore::open(&world.host, endpoint, &settings, Access::Read).await?
        }
    };
    if let Some(secret) = token.made() {
        let found = made::find(connected.store.as_ref(), secret.id()).await;
        let found = found.map_err(unusable)?;
        return Ok(match found.filter(|entry| entry.made.is_of(&secret)) {
            Some(entry) => {
                let end = entry.made.end(world.now()).map(|end| end.to_string());
                Stored::Made(summary(&entry.made), end)
            }
            None => kubernetes_own(world, args, connected.store.as_ref(), &secret).await?,
        });
    }
    let Ok(password) = token.password() else {
        return Ok(Stored::Opens(false));
    };
    let passphrase = Passphrase::new(password.clone());
    let records = connected.store.list(KEY_PREFIX).await;
    let records = records.map_err(datastore::reached)?;
    let own = records
        .iter()
        .find(|record| record.key == passphrase.key_name());
    let opens = own.is_some_and(|record| open(&record.value, &passphrase).is_ok());
    Ok(Stored::Opens(opens))
}

/// A Secret of that id and secret.
async fn kubernetes_own(
    world: &World,
    args: &CheckArgs,
    store: &dyn Datastore,
    secret: &made::Secret,
) -> Result<Stored, CliError> {
    let keys = encryption(world, &args.site).await?;
    let found = kubernetes::find(store, &keys, secret.id()).await;
    let Some(found) = found.map_err(datastore::reached)? else {
        return Ok(Stored::NotMade);
    };
    let what = "a bootstrap token of Kubernetes: agents join with it".to_owned();
    Ok(match found.token {
        Ok(token) if !token.is_of(secret) => Stored::NotMade,
        Ok(token) => {
            let why = token.unfit(world.now()).map(|unfit| format!("it {unfit}"));
            Stored::Kubernetes(what, why)
        }
        Err(error) => Stored::Kubernetes(what, Some(format!("servers ignore it, for {error}"))),
    })
}

fn words(
    token: &Token,
    opinion: &Opinion,
    survives: Option<bool>,
    stored: Option<&Stored>,
) -> String {
    let mut text = format!("{}: {token}\n", opinion.form);
    let pinned = match &opinion.pinned {
        None if !opinion.keys.is_empty() => keys(opinion),
        None => "no CA: a node that joins with it trusts the first CA that answers".to_owned(),
        Some((_, Some(whose))) => whose.to_string(),
        Some((_, None)) => "a CA that is not known to be this cluster's".to_owned(),
    };
    let _ = writeln!(text, "  pins:     {pinned}");
    let _ = writeln!(text, "  proves:   {}", opinion.proves);
    if let Some(stored) = stored {
        let (what, verdict) = stored.words();
        let _ = writeln!(text, "  {what}: {verdict}");
    }
    let accepted = opinion.is_accepted() && stored.is_none_or(|it| it.lives(opinion.proves));
    let yes = |yes| if yes { "accepted" } else { "refused" };
    let _ = writeln!(text, "  now:      {}", yes(accepted));
    if let Some(survives) = survives {
        let _ = writeln!(text, "  after the staged set: {}", yes(survives));
    }
    text
}

/// Which of the keys are this cluster's.
fn keys(opinion: &Opinion) -> String {
    let of = |key: &PinnedKey| match (key.now, key.staged) {
        (true, true) => "this cluster's CA, now and after the staged set",
        (true, false) => "this cluster's CA",
        (false, true) => "this cluster's CA after the staged set",
        (false, false) => "a CA that is not this cluster's now: former, to come, or another's",
    };
    let lines = opinion.keys.iter();
    let lines: Vec<String> = lines
        .map(|key| format!("key {} of {}", key.key, of(key)))
        .collect();
    lines.join("\n            ")
}

fn as_json(
    opinion: &Opinion,
    survives: Option<bool>,
    stored: Option<&Stored>,
) -> Result<String, CliError> {
    let pinned = opinion.pinned.as_ref();
    let whose = pinned.and_then(|(_, whose)| whose.as_ref());
    let value = json!({
        "form": opinion.form.to_string(),
        "user": opinion.user,
        "caHash": pinned.map(|(hash, _)| hash),
        "caOf": whose.map(ToString::to_string),
        "proves": opinion.proves.to_string(),
        "keys": opinion.keys.iter().map(|key| json!({
            "spkiSha256": key.key.to_string(),
            "now": key.now,
            "afterStagedSet": key.staged,
        })).collect::<Vec<_>>(),
        "opensBootstrapData": match stored {
            Some(Stored::Opens(opens)) => Some(*opens),
            _ => None,
        },
        "record": stored.map(Stored::words).filter(|it| it.0 == "record").map(|it| it.1),
        "accepted": opinion.is_accepted() && stored.is_none_or(|it| it.lives(opinion.proves)),
        "acceptedAfterStagedSet": survives,
    });
    Ok(serde_json::to_string_pretty(&value)? + "\n")
}
