//! `kubeconfig`: copies that people carry about.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use kubepki::apply::plan_id;
use kubepki::host::{Attributes, Entry, EntryKind, Host};
use kubepki::inventory::{Facts, Found, Observed, ObservedRow, Role, observe_kubeconfig};
use kubepki::kubeconfig::{
    Candidate, Copy, CopyState, CreateError, KEY_ALGORITHM, NewCopy, create, find_copies,
};
use kubepki::plan::{Request, StaleCopy, plan_copies};
use pki::{Authority, Certificate, PrivateKey, Serial};
use serde_json::json;

use super::change::{carry_out, refuse_unfinished};
use crate::args::{
    ChangeArgs, KubeconfigCommand, KubeconfigCreateArgs, KubeconfigListArgs, KubeconfigRenewArgs,
    PlanFormat, RestartArgs,
};
use crate::error::{CliError, Exit};
use crate::output;
use crate::world::{Node, World};

/// `kubepki kubeconfig …`.
///
/// # Errors
///
/// When the node has no client CA, or the command fails.
pub async fn run(command: &KubeconfigCommand) -> Result<Exit, CliError> {
    match command {
        KubeconfigCommand::List(args) => list(args).await,
        KubeconfigCommand::Renew(args) => renew(args).await,
        KubeconfigCommand::Create(args) => make(args).await,
    }
}

async fn list(args: &KubeconfigListArgs) -> Result<Exit, CliError> {
    let world = World::real();
    let node = Node::open(&world, &args.site, None, None).await?;
    let copies = find(&world, &node, &args.files).await?;
    let old = copies.iter().any(|copy| copy.state.wants_renewal());
    match args.output {
        PlanFormat::Text => {
            let lines: String = copies.iter().map(line).collect();
            output::data(&output::harmless(&lines))?;
        }
        PlanFormat::Json => {
            let list: Vec<_> = copies.iter().map(as_json).collect();
            output::data(&(serde_json::to_string_pretty(&list)? + "\n"))?;
        }
    }
    if old {
        let files: String = args
            .files
            .iter()
            .map(|file| format!(" {}", file.display()))
            .collect();
        output::talk(&format!(
            "Refresh the old ones with: kubepki kubeconfig renew{files}"
        ));
    }
    Ok(copies.iter().map(ending).max().unwrap_or(Exit::Fine))
}

/// How a listing with this copy ends, at best.
fn ending(copy: &Copy) -> Exit {
    match copy.state {
        CopyState::Due => Exit::Due,
        CopyState::Expired | CopyState::FromFormerAuthority | CopyState::Unreadable(_) => {
            Exit::Broken
        }
        _ => Exit::Fine,
    }
}

async fn renew(args: &KubeconfigRenewArgs) -> Result<Exit, CliError> {
    let world = World::real();
    let node = Node::open(&world, &args.site, None, None).await?;
    refuse_unfinished(&node.state)?;
    let copies = find(&world, &node, &args.files).await?;
    for copy in &copies {
        if let CopyState::Unreadable(why) = &copy.state {
            let text = format!("{} cannot be read: {why}", copy.path.display());
            match args.files.is_empty() {
                true => output::talk(&text),
                false => return Err(CliError::message(text)),
            }
        }
    }
    let mut files: Vec<(Copy, Observed)> = Vec::new();
    for copy in copies.into_iter().filter(|copy| copy.state.wants_renewal()) {
        if files.iter().any(|(other, _)| other.path == copy.path) {
            // One step replaces a file once; the next run sees to its other users.
            output::talk(&format!(
                "{}: user {} is left for another run of this command",
                copy.path.display(),
                copy.entry
            ));
            continue;
        }
        let observed = observe_kubeconfig(&world.host, copy.path.clone()).await;
        files.push((copy, observed));
    }
    let present = node.inventory.authority("server-ca");
    let stale: Vec<StaleCopy<'_>> = files
        .iter()
        .map(|(copy, file)| StaleCopy {
            copy,
            file,
            trusts_server: trusts(file, present),
        })
        .collect();
    let request = Request {
        id: plan_id(world.now(), "kubeconfig", &world.entropy)?,
        title: format!("renew {} kubeconfig(s)", stale.len()),
        inventory: &node.inventory,
        wishes: &node.wishes,
        policy: node.policy,
        now: world.now(),
        hypothetical: false,
        entropy: &world.entropy,
    };
    let plan = plan_copies(&request, &stale)?;
    let change = ChangeArgs {
        ask: args.ask.clone(),
        restart: RestartArgs::default(),
    };
    carry_out(&world, &node, plan, &change).await
}

async fn make(args: &KubeconfigCreateArgs) -> Result<Exit, CliError> {
    let world = World::real();
    let node = Node::open(&world, &args.site, None, None).await?;
    let masters = args.groups.iter().any(|group| group == "system:masters");
    if masters && args.allow_system {
        output::confirm(
            "system:masters bypasses RBAC, and this certificate cannot be revoked. Really?",
            args.yes,
        )?;
    }
    let authority = client_authority(&world, &node).await?;
    let chain: String = node
        .inventory
        .authority("client-ca")
        .iter()
        .map(Certificate::to_pem)
        .collect();
    let bundle: String = node
        .inventory
        .authority("server-ca")
        .iter()
        .map(Certificate::to_pem)
        .collect();
    let server = server(&node, args.server.as_deref())?;
    let wanted = NewCopy {
        user: &args.user,
        groups: &args.groups,
        ttl: args.ttl,
        allow_masters: args.allow_system,
        server: &server,
        name: "default",
        server_authority: &bundle,
        chain: &chain,
    };
    let key = PrivateKey::generate(KEY_ALGORITHM)?;
    let serial = Serial::random(pki::random)?;
    let made = create(&wanted, &authority, &key, serial, world.now()).map_err(refusal)?;
    write_new(&world, &args.out, &made.text).await?;
    output::talk(&format!(
        "{} ends {}; it cannot be revoked before.",
        made.certificate.subject(),
        made.certificate.validity().not_after
    ));
    Ok(Exit::Fine)
}

/// A user or group that is not to be had without a word is a refusal, not a failure.
fn refusal(error: CreateError) -> CliError {
    match error {
        CreateError::Masters | CreateError::Reserved { .. } => CliError::refused(error.to_string()),
        error => error.into(),
    }
}

/// The client CA with its key.
async fn client_authority(world: &World, node: &Node) -> Result<Authority, CliError> {
    let observed = client_ca(node)?;
    let certificate = observed.file.first_certificate().cloned();
    let certificate = certificate.ok_or_else(no_client_ca)?;
    let path = observed
        .key
        .as_ref()
        .map(|key| key.path.clone())
        .unwrap_or_default();
    let entry = world.host.read(&path).await?;
    let key = entry
        .as_ref()
        .and_then(Entry::bytes)
        .ok_or_else(|| CliError::message(format!("{} is not there", path.display())))?;
    Ok(Authority::new(certificate, PrivateKey::from_pem(key)?)?)
}

/// The client CA's files, with a certificate in them.
fn client_ca(node: &Node) -> Result<&ObservedRow, CliError> {
    let observed = node
        .inventory
        .row("client-ca")
        .filter(|_| node.inventory.site.role == Role::Server)
        .ok_or_else(no_client_ca)?;
    let detail = match &observed.file.found {
        Found::Present(present) => match &present.facts {
            Facts::Certificates(_) => return Ok(observed),
            Facts::Malformed(detail) => format!("is not what it should be: {detail}"),
            _ => "is not a file of certificates".to_owned(),
        },
        Found::Unreadable(why) => format!("cannot be read: {why}"),
        Found::Absent => "is missing".to_owned(),
    };
    let path = observed.file.path.display();
    Err(CliError::message(format!("{path} {detail}")).hint("put back a backup of the CA"))
}

fn no_client_ca() -> CliError {
    CliError::message("this node has no client CA: run this on a server")
}

async fn write_new(world: &World, out: &Path, text: &[u8]) -> Result<(), CliError> {
    if out == Path::new("-") {
        return output::data(std::str::from_utf8(text)?);
    }
    if world.host.read(out).await?.is_some() {
        return Err(CliError::refused(format!(
            "{} exists already",
            out.display()
        )));
    }
    let kind = EntryKind::File(text.to_vec().into());
    let entry = Entry {
        kind,
        attributes: Attributes::new(0o600),
    };
    Ok(world.host.put(out, &entry).await?)
}

/// The API server's URL: what was said, or the admin kubeconfig's.
fn server(node: &Node, said: Option<&str>) -> Result<String, CliError> {
    if let Some(said) = said {
        return Ok(said.to_owned());
    }
    let facts = node
        .inventory
        .row("admin-kubeconfig")
        .and_then(|observed| observed.file.present())
        .map(|present| &present.facts);
    match facts {
        Some(Facts::Kubeconfig(facts)) => facts.servers.first().map(|(_, url)| url.clone()),
        _ => None,
    }
    .ok_or_else(|| {
        CliError::message("the API server's URL is not known").hint("give it with --server")
    })
}

async fn find(world: &World, node: &Node, named: &[PathBuf]) -> Result<Vec<Copy>, CliError> {
    let authorities = client_ca(node)?.file.certificates();
    let files = if named.is_empty() {
        usual_places()
    } else {
        named.to_vec()
    };
    let (mut read, mut unread) = (Vec::new(), Vec::new());
    for path in files {
        let path = std::path::absolute(path)?;
        match world.host.read(&path).await {
            Ok(Some(entry)) if entry.bytes().is_some() => read.push((path, entry)),
            Ok(Some(_)) if named.is_empty() => {}
            Ok(Some(_)) => {
                let why = "it is a link or directory; name the kubeconfig itself";
                unread.push((path, why.to_owned()));
            }
            Ok(None) if named.is_empty() => {}
            Ok(None) => unread.push((path, "it is not there".to_owned())),
            Err(error) if named.is_empty() => output::talk(&kubepki::error_chain(&error)),
            Err(error) => unread.push((path, kubepki::error_chain(&error))),
        }
    }
    let candidates: Vec<Candidate<'_>> = read
        .iter()
        .filter_map(|(path, entry)| {
            Some(Candidate {
                path,
                bytes: entry.bytes()?,
            })
        })
        .collect();
    let mut found = find_copies(&candidates, authorities, world.now(), node.policy.window);
    found.extend(unread.into_iter().map(|(path, why)| Copy {
        path,
        entry: String::new(),
        identity: None,
        state: CopyState::Unreadable(why),
    }));
    Ok(found)
}

/// `$KUBECONFIG` and `.kube/config` of every home directory.
fn usual_places() -> Vec<PathBuf> {
    let mut places: Vec<PathBuf> = std::env::var_os("KUBECONFIG")
        .map(|list| std::env::split_paths(&list).collect())
        .unwrap_or_default();
    let mut homes = vec![PathBuf::from("/root")];
    homes.extend(std::env::var_os("HOME").map(PathBuf::from));
    if let Ok(entries) = std::fs::read_dir("/home") {
        homes.extend(entries.flatten().map(|entry| entry.path()));
    }
    homes.sort();
    homes.dedup();
    places.extend(homes.into_iter().map(|home| home.join(".kube/config")));
    places
}

fn trusts(file: &Observed, present: &[Certificate]) -> bool {
    match file.present().map(|present| &present.facts) {
        Some(Facts::Kubeconfig(facts)) => {
            facts.authorities.is_empty()
                || facts
                    .authorities
                    .iter()
                    .any(|(_, bundle)| bundle == present)
        }
        _ => true,
    }
}

fn line(copy: &Copy) -> String {
    let mut text = format!("{}", copy.path.display());
    if !copy.entry.is_empty() {
        let _ = write!(text, " user {}", copy.entry);
    }
    if let Some(identity) = &copy.identity {
        let _ = write!(text, " ({}), ends {}", identity.user, identity.not_after);
        if !identity.key_matches {
            text.push_str(", its key is another's");
        }
    }
    let _ = writeln!(text, ": {}", state(&copy.state));
    text
}

fn state(state: &CopyState) -> String {
    match state {
        CopyState::Current => "current".to_owned(),
        CopyState::Due => "due".to_owned(),
        CopyState::Expired => "expired".to_owned(),
        CopyState::FromFormerAuthority => "from a former CA of this cluster".to_owned(),
        CopyState::UnknownAuthority => {
            "from a CA of the same name with another key: made before the CA was replaced"
                .to_owned()
        }
        CopyState::Foreign => "another cluster's".to_owned(),
        CopyState::References => "points to files".to_owned(),
        CopyState::WithoutCertificate => "has no certificate".to_owned(),
        CopyState::Unreadable(why) => format!("cannot be read: {why}"),
    }
}

fn as_json(copy: &Copy) -> serde_json::Value {
    json!({
        "path": copy.path,
        "entry": copy.entry,
        "user": copy.identity.as_ref().map(|identity| &identity.user),
        "groups": copy.identity.as_ref().map(|identity| &identity.groups),
        "notAfter": copy.identity.as_ref().map(|identity| identity.not_after.to_string()),
        "keyMatches": copy.identity.as_ref().map(|identity| identity.key_matches),
        "state": state(&copy.state),
        "renew": copy.state.wants_renewal(),
    })
}
