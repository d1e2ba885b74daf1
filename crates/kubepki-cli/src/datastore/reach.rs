//! What a plan's executor reaches beyond this machine.

use std::path::Path;

use kubepki::apply::{Caller, Cluster};
use kubepki::bootstrap::{Candidates, Passphrase};
use kubepki::ca::rotate::calls_supervisor;
use kubepki::host::Host;
use kubepki::plan::{Plan, Target};
use kubepki::token::Token;
use kubepki_datastore::Access;
use kubepki_remote::Supervisor;
use pki::UnixTime;

use super::{Connected, EndpointArgs, candidates, open, refuse_living, refuse_strangers, text};
use crate::args::SiteArgs;
use crate::command::serve::is_own;
use crate::error::CliError;
use crate::k3s::Settings;

/// An open datastore with every passphrase at hand, and a server that can be called.
#[derive(Debug, Default)]
pub struct Reach {
    connected: Option<Connected>,
    passphrases: Vec<Passphrase>,
    supervisor: Option<Supervisor>,
}

impl Reach {
    /// The same for writing: see [`Connected::for_writing`].
    ///
    /// # Errors
    ///
    /// When it cannot be written or reached again.
    pub async fn for_writing(self) -> Result<Self, CliError> {
        let connected = match self.connected {
            Some(connected) => Some(connected.for_writing().await?),
            None => None,
        };
        Ok(Self { connected, ..self })
    }

    /// From what was opened already.
    pub fn new(connected: Connected, candidates: &Candidates) -> Self {
        let all = candidates.iter().map(|it| it.passphrase.clone());
        Self {
            connected: Some(connected),
            passphrases: all.collect(),
            supervisor: None,
        }
    }

    /// The datastore that `plan` writes from step `from` on, open for reading, if it writes one and
    /// no server lives on it; the server that it calls.
    ///
    /// # Errors
    ///
    /// When it cannot be found or written, or the server is not the one that the token pins.
    pub async fn of_plan(
        host: &dyn Host,
        args: &EndpointArgs,
        site: &SiteArgs,
        plan: &Plan,
        from: u32,
        now: UnixTime,
    ) -> Result<Self, CliError> {
        let left = |wanted: fn(&Target) -> bool| {
            let mut steps = plan.steps.iter().filter(|step| step.number >= from);
            steps.any(|step| wanted(&step.target))
        };
        let settings = Settings::load(host, site).await?;
        let mut reach = Self::default();
        if plan.datastore.is_some() && left(|it| matches!(it, Target::DatastoreKey { .. })) {
            let candidates = candidates(host, args, &settings).await?;
            let connected = open(host, args, &settings, Access::Read).await?;
            connected.refuse_read_only()?;
            match own_state(site, plan) {
                Some(state) => refuse_strangers(&connected, args, &settings, state).await?,
                None => refuse_living(&connected, args, &settings).await?,
            }
            reach = Self::new(connected, &candidates);
        }
        if let Some(base) = calls_supervisor(plan)
            && left(|it| matches!(it, Target::Http { .. }))
        {
            let server = settings.data_dir.join("server");
            reach.supervisor = Some(supervisor(host, &server, &base, now).await?);
        }
        Ok(reach)
    }

    /// The datastore as the executor wants it.
    pub fn cluster(&self) -> Option<Cluster<'_>> {
        let connected = self.connected.as_ref();
        connected.map(|connected| connected.cluster(&self.passphrases))
    }

    /// The server as the executor wants it.
    pub fn caller(&self) -> Option<&dyn Caller> {
        self.supervisor.as_ref().map(|it| it as &dyn Caller)
    }
}

/// The supervisor at `base`, held to the token of this server.
///
/// # Errors
///
/// Without a token, or when the server does not prove itself.
pub async fn supervisor(
    host: &dyn Host,
    server: &Path,
    base: &str,
    now: UnixTime,
) -> Result<Supervisor, CliError> {
    let path = server.join("token");
    let Some(text) = text(host, &path).await? else {
        return Err(CliError::message(format!(
            "token must not be empty: {} is not there",
            path.display()
        )));
    };
    let token = Token::parse(&text)
        .map_err(|error| CliError::message(format!("{}: {error}", path.display())))?;
    Ok(Supervisor::connect(base, &token, false, now).await?)
}

/// Where the server serves that made a plan by itself, or the one that this takes back: such a plan is taken back under the server's
/// own lock, and it follows.
fn own_state<'a>(site: &'a SiteArgs, plan: &Plan) -> Option<&'a Path> {
    let state = site.state_dir.as_deref().and_then(Path::parent);
    state.filter(|_| is_own(plan.undoes.as_ref().unwrap_or(&plan.id)))
}
