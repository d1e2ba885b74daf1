//! The datastore does not answer at the start: what needs none is served, nothing is issued, and
//! the start goes on once it answers.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use kubepki::datastore::{Datastore, DatastoreError, Record};
use kubepki::edge::Clock;
use kubepki::log::Issued;
use kubepki_serve::health::{Part, State};
use kubepki_serve::issuance::{IssuanceLog, LogError, Position};
use kubepki_serve::listener::{Wanted, prepare};
use kubepki_serve::tls::Listened;
use kubepki_serve::tree::Tree;
use tokio::sync::watch;

use super::records::Records;
use super::start::{init_args, listen, made_state, named, refuse_k3s, served};
use super::{ServeArgs, Wired, bind, service, tell, tell_systemd, wanted};
use crate::command::init;
use crate::datastore::{Access, open};
use crate::error::{CliError, Exit};
use crate::k3s::Settings;
use crate::serving::Alone;
use crate::world::{Node, World};

/// Between two attempts.
const PAUSE: Duration = Duration::from_secs(3);
/// For one attempt.
const ATTEMPT: Duration = Duration::from_secs(10);

/// Serves what needs no datastore until that answers. Answers the arguments to go on with, or
/// `None` when the process is told to end. Where there is nothing to serve yet, or the datastore
/// answers, it goes on at once.
///
/// # Errors
///
/// As a start fails.
pub(super) async fn wait(
    clock: &Arc<dyn Clock>,
    args: &ServeArgs,
    records: &Arc<Records>,
    stop: &watch::Receiver<bool>,
) -> Result<Option<ServeArgs>, CliError> {
    let world = World::real();
    let settings = Settings::load(&world.host, &args.site).await?;
    let Some(why) = away(args, &settings).await else {
        return Ok(Some(args.clone()));
    };
    refuse_k3s(&settings)?;
    // A tree of K3s's may never have had one.
    let mut alone = Alone::take(&made_state(args, &settings)?)?;
    let found = Node::open(&world, &args.site, None, None).await.ok();
    let spec = init::spec(&named(init_args(args), found.as_ref()), &settings)?;
    let mut told = served(args, &spec, &settings)?;
    let strictness = args.strictness();
    let server = settings.data_dir.join("server");
    let tree = Tree::load(&server, strictness).map_err(|e| CliError::failed(&e))?;
    let listener = bind(listen(args, &spec, &settings)).await?;
    let listening = listener.local_addr()?;
    told.port = listening.port();
    // Other CAs may be the cluster's by now.
    let port = {
        let wanted = Wanted {
            is_sure: false,
            ..wanted(
                (told.sans.as_slice(), args.term(spec.leaf_lifetime)),
                clock.now(),
                records,
            )
        };
        prepare(&tree, &wanted).map_err(|error| CliError::failed(&error))?
    };
    let wired = Wired {
        served: told,
        term: args.term(spec.leaf_lifetime),
        store: Arc::new(Away),
        log: Arc::new(Away),
        own: Arc::clone(records),
    };
    let service = Arc::new(service(tree, wired, strictness, Arc::clone(clock))?);
    let fields = vec![("address", listening.to_string())];
    tell("serving without the datastore", fields);
    service.note(Part::Datastore, State::Down(why));
    let server = super::server(service, Arc::new(Listened::new(port.certified)))?;
    alone.at(listening)?;
    tell_systemd("READY=1");
    let (enough, mut until) = watch::channel(false);
    let serving = tokio::spawn(server.run(listener, async move {
        let _ = until.wait_for(|it| *it).await.map(drop);
    }));
    let goes_on = answers(args, &settings, stop.clone()).await;
    let _ = enough.send(true);
    serving.await??;
    let message = match goes_on {
        true => "the datastore answers: the start goes on",
        false => "stopped",
    };
    tell(message, Vec::new());
    Ok(goes_on.then(|| ServeArgs {
        https_listen_port: Some(listening.port()),
        ..args.clone()
    }))
}

/// Waits until the datastore answers, or until the process is told to end: false.
async fn answers(args: &ServeArgs, settings: &Settings, mut stop: watch::Receiver<bool>) -> bool {
    loop {
        tokio::select! {
            _ = stop.wait_for(|it| *it) => return false,
            () = tokio::time::sleep(PAUSE) => {}
        }
        if away(args, settings).await.is_none() {
            return true;
        }
    }
}

/// Why the datastore cannot be asked, where it is another program's and there is something to
/// serve without it.
pub(super) async fn away(args: &ServeArgs, settings: &Settings) -> Option<String> {
    let named = args.endpoint.datastore_endpoint.is_some();
    let named = named || settings.connection.endpoint.is_some();
    let authority = settings.data_dir.join("server/tls/server-ca.crt");
    if !named || !authority.exists() {
        return None;
    }
    let world = World::real();
    let opening = open(&world.host, &args.endpoint, settings, Access::Read);
    match tokio::time::timeout(ATTEMPT, opening).await {
        Ok(Ok(_)) => None,
        // What was said wrong does not come right by waiting.
        Ok(Err(error)) if error.exit != Exit::Failed => None,
        Ok(Err(error)) => Some(error.message),
        Err(_) => Some("the datastore does not answer".to_owned()),
    }
}

/// What is not there.
#[derive(Debug)]
struct Away;

fn unreachable() -> DatastoreError {
    DatastoreError::Unreachable {
        endpoint: "of the cluster".to_owned(),
        problem: "it has not answered since the start".to_owned(),
        source: None,
    }
}

#[async_trait]
impl Datastore for Away {
    async fn get(&self, _: &str) -> Result<Option<Record>, DatastoreError> {
        Err(unreachable())
    }

    async fn list(&self, _: &str) -> Result<Vec<Record>, DatastoreError> {
        Err(unreachable())
    }

    async fn create(&self, _: &str, _: &[u8]) -> Result<i64, DatastoreError> {
        Err(unreachable())
    }

    async fn update(&self, _: &str, _: i64, _: &[u8]) -> Result<i64, DatastoreError> {
        Err(unreachable())
    }

    async fn delete(&self, _: &str, _: i64) -> Result<Option<i64>, DatastoreError> {
        Err(unreachable())
    }
}

#[async_trait]
impl IssuanceLog for Away {
    async fn append(&self, _: Issued) -> Result<Position, LogError> {
        Err(LogError {
            reason: "the datastore has to tell first how far it went".to_owned(),
        })
    }
}
