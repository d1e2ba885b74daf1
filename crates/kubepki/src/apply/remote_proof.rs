//! Proofs that are seen from a host of the cluster: addresses that only it reaches, clients that
//! only its servers know.

use std::io;
use std::path::Path;
use std::time::Duration;

use super::hosts::{each, never_reached};
use super::http::{Answer, Identity, Url, get, secure};
use super::leaves::staged_name;
use super::proof::Eyes;
use crate::error_chain;
use crate::host::HostError;
use crate::plan::{Credential, LeafId};
use crate::rke::{Half, State};

impl Eyes<'_> {
    /// The digest of what a server shows to one of the hosts.
    pub(super) async fn served_at(&self, host: &str, address: &str) -> Result<String, String> {
        let name = address.rsplit_once(':').map_or(address, |(name, _)| name);
        let bare = name.strip_prefix('[').and_then(|it| it.strip_suffix(']'));
        let look = async {
            let stream = self.dial(host, address).await?;
            let (seen, connected) = secure(stream, bare.unwrap_or(name), None).await;
            match (seen, connected) {
                (Some(der), _) => Ok(der),
                (None, Ok(_)) => Err("the server proved no key".to_owned()),
                (None, Err(error)) => Err(error.to_string()),
            }
        };
        let seen = limited(self.timeout, look).await;
        let der = seen
            .map_err(|error| format!("{address} on {host} completes no TLS handshake: {error}"))?;
        Ok(pki::sha256(&der).to_string())
    }

    /// Whether a URL answers with 200, and with the member that it must have.
    pub(super) async fn healthy(
        &self,
        host: &str,
        url: &str,
        client: Option<&Credential>,
        member: Option<&(String, String)>,
    ) -> Result<(), String> {
        let answer = self.ask(host, url, client).await?;
        let at = format!("{url} on {host}");
        if answer.status != 200 {
            return Err(format!("{at} answers with status {}", answer.status));
        }
        let Some((name, wanted)) = member else {
            return Ok(());
        };
        let json: serde_json::Value = serde_json::from_slice(&answer.body)
            .map_err(|_| format!("{at} answers with something else than JSON"))?;
        let found = json.get(name).map(|value| match value.as_str() {
            Some(text) => text.to_owned(),
            None => value.to_string(),
        });
        match found {
            Some(found) if found == *wanted => Ok(()),
            Some(found) => Err(format!("{at} says that {name} is {found}")),
            None => Err(format!("{at} does not say {name}")),
        }
    }

    /// Whether a server takes a client certificate.
    pub(super) async fn accepts(
        &self,
        host: &str,
        url: &str,
        client: &Credential,
    ) -> Result<(), String> {
        let answer = self.ask(host, url, Some(client)).await?;
        match answer.status {
            401 => Err(format!(
                "{url} on {host} does not take the client certificate of {}",
                name(client)
            )),
            _ => Ok(()),
        }
    }

    /// Whether enough members of an etcd cluster are healthy.
    pub(super) async fn quorum(
        &self,
        members: &[(String, String)],
        needed: u32,
        client: &Credential,
    ) -> Result<(), String> {
        let healthy = ("health".to_owned(), "true".to_owned());
        let ask = |(host, url): &(String, String)| {
            let (host, url, healthy) = (host.clone(), url.clone(), healthy.clone());
            async move {
                self.healthy(&host, &url, Some(client), Some(&healthy))
                    .await
            }
        };
        let answers = each(members, ask).await;
        let well = answers.iter().filter(|answer| answer.is_ok()).count();
        if u32::try_from(well).is_ok_and(|well| well >= needed) {
            return Ok(());
        }
        let ill: Vec<String> = answers.into_iter().filter_map(Result::err).collect();
        Err(format!(
            "{well} of {} etcd members are healthy, {needed} must be: {}",
            members.len(),
            ill.join("; ")
        ))
    }

    async fn ask(
        &self,
        host: &str,
        url: &str,
        client: Option<&Credential>,
    ) -> Result<Answer, String> {
        let parsed = Url::parse(url).map_err(|why| format!("{url:?} is no URL: {why}"))?;
        let identity = match client {
            Some(client) => Some(self.identity(client).await?),
            None => None,
        };
        let ask = async {
            let stream = self.dial(host, &parsed.address).await?;
            let answer = get(stream, &parsed, identity.as_ref()).await;
            answer.map_err(|error| error.to_string())
        };
        let answer = limited(self.timeout, ask).await;
        answer.map_err(|error| format!("{url} on {host} does not answer: {error}"))
    }

    async fn dial(
        &self,
        host: &str,
        address: &str,
    ) -> Result<Box<dyn crate::machine::Stream>, String> {
        let reached = async {
            match self.machines {
                Some(machines) => machines.machine(host).await?.dial(address).await,
                None => Err(never_reached(host)),
            }
        };
        reached
            .await
            .map_err(|error: HostError| error_chain(&error))
    }

    /// The client certificate and key that a credential means.
    async fn identity(&self, credential: &Credential) -> Result<Identity, String> {
        match credential {
            Credential::Leaf(leaf) => self.leaf_identity(leaf).await,
            Credential::RkeState { path, entry } => {
                self.state_identity(path, Half::Current, entry).await
            }
            Credential::RkeDesired { path, entry } => {
                self.state_identity(path, Half::Desired, entry).await
            }
        }
    }

    /// An entry of the state file, as it is now.
    async fn state_identity(
        &self,
        path: &Path,
        half: Half,
        entry: &str,
    ) -> Result<Identity, String> {
        let at = path.display();
        let read = self.workshop.file(path).await;
        let bytes = read.map_err(|error| error_chain(&error))?;
        let state =
            State::parse(&bytes).map_err(|error| format!("{at}: {}", error_chain(&error)))?;
        let found = state.entry(half, entry);
        let found = found.filter(|it| !it.certificate_pem.is_empty() && !it.key_pem.is_empty());
        let half = half.key();
        let found =
            found.ok_or_else(|| format!("{at} has no certificate and key of {entry} in {half}"))?;
        Ok(Identity {
            chain: found.certificate_pem.into_bytes(),
            key: found.key_pem.as_bytes().to_vec().into(),
        })
    }

    async fn leaf_identity(&self, leaf: &LeafId) -> Result<Identity, String> {
        let workshop = &self.workshop;
        let staged = workshop
            .state
            .read_staged(&workshop.plan.id, &staged_name(leaf, "crt"));
        if staged.map_err(|error| error_chain(&error))?.is_none() {
            return Err(format!("the client certificate {leaf} is not made yet"));
        }
        let words = |error| format!("the client certificate {leaf}: {}", error_chain(&error));
        let issued = workshop.certificate(leaf).await.map_err(words)?;
        let key = workshop.key(leaf).await.map_err(words)?;
        let key = key.to_pem().map_err(|error| error_chain(&error))?;
        Ok(Identity {
            chain: issued.chain.into_bytes(),
            key: key.as_bytes().to_vec().into(),
        })
    }
}

fn name(credential: &Credential) -> String {
    match credential {
        Credential::Leaf(leaf) => leaf.to_string(),
        Credential::RkeState { entry, .. } | Credential::RkeDesired { entry, .. } => entry.clone(),
    }
}

async fn limited<T>(
    timeout: Duration,
    work: impl Future<Output = Result<T, String>>,
) -> Result<T, String> {
    match tokio::time::timeout(timeout, work).await {
        Ok(done) => done,
        Err(_) => Err(io::Error::from(io::ErrorKind::TimedOut).to_string()),
    }
}
