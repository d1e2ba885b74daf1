//! What a plan's executor reaches beyond this machine.

use kubepki::apply::Cluster;
use kubepki::bootstrap::{Candidates, Passphrase};
use kubepki::host::Host;
use kubepki::plan::Plan;
use kubepki_datastore::Access;

use super::{Connected, EndpointArgs, candidates, open, refuse_living};
use crate::args::SiteArgs;
use crate::error::CliError;
use crate::k3s::Settings;

/// An open datastore and every passphrase at hand.
#[derive(Debug)]
pub struct Reach {
    connected: Connected,
    passphrases: Vec<Passphrase>,
}

impl Reach {
    /// The same for writing: see [`Connected::for_writing`].
    ///
    /// # Errors
    ///
    /// When it cannot be written or reached again.
    pub async fn for_writing(self) -> Result<Self, CliError> {
        let Self {
            connected,
            passphrases,
        } = self;
        let connected = connected.for_writing().await?;
        Ok(Self {
            connected,
            passphrases,
        })
    }

    /// From what was opened already.
    pub fn new(connected: Connected, candidates: &Candidates) -> Self {
        let all = candidates.iter().map(|it| it.passphrase.clone());
        let passphrases = all.collect();
        Self {
            connected,
            passphrases,
        }
    }

    /// The datastore that `plan` writes, open for reading, if it writes one and no server lives on
    /// it.
    ///
    /// # Errors
    ///
    /// When it cannot be found or written.
    pub async fn of_plan(
        host: &dyn Host,
        args: &EndpointArgs,
        site: &SiteArgs,
        plan: &Plan,
    ) -> Result<Option<Self>, CliError> {
        if plan.datastore.is_none() {
            return Ok(None);
        }
        let settings = Settings::load(host, site).await?;
        let candidates = candidates(host, args, &settings).await?;
        let connected = open(host, args, &settings, Access::Read).await?;
        connected.refuse_read_only()?;
        refuse_living(&connected, args, &settings).await?;
        Ok(Some(Self::new(connected, &candidates)))
    }

    /// As the executor wants it.
    pub fn cluster(&self) -> Cluster<'_> {
        self.connected.cluster(&self.passphrases)
    }
}
