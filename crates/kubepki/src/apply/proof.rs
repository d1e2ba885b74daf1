//! Looking from outside whether a change has taken hold.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use pki::Certificate;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::Executor;
use super::leaves::Workshop;
use super::witness::Witness;
use crate::error_chain;
use crate::host::{Entry, Host};
use crate::journal::LeafRecord;
use crate::machine::Machines;
use crate::plan::{LeafId, Plan, Proof};

/// Looks at proofs: from this machine, and through the hosts of the cluster.
#[derive(Debug)]
pub(super) struct Eyes<'a> {
    /// Where client certificates come from.
    pub(super) workshop: Workshop<'a>,
    pub(super) machines: Option<&'a dyn Machines>,
    /// What was put in place so far.
    pub(super) leaves: BTreeMap<LeafId, LeafRecord>,
    /// For one look.
    pub(super) timeout: Duration,
}

impl Executor<'_> {
    pub(super) fn eyes<'b>(
        &'b self,
        plan: &'b Plan,
        leaves: BTreeMap<LeafId, LeafRecord>,
    ) -> Eyes<'b> {
        Eyes {
            workshop: self.workshop(plan),
            machines: self.machines,
            leaves,
            timeout: self.patience.look,
        }
    }
}

impl Eyes<'_> {
    /// Which of `proofs` do not hold, and what was seen instead, a sentence each.
    pub(super) async fn unmet<'p>(
        &self,
        proofs: impl IntoIterator<Item = &'p Proof>,
    ) -> Vec<String> {
        let mut unmet = Vec::new();
        for proof in proofs {
            if let Err(seen) = look(proof, self).await {
                unmet.push(seen);
            }
        }
        unmet
    }

    /// Whether what is served is a leaf of the plan.
    fn is_leaf(&self, leaf: &LeafId, served: &str, at: &str) -> Result<(), String> {
        let record = self.leaves.get(leaf);
        match record.and_then(|record| record.certificate.as_deref()) {
            Some(wanted) if wanted == served => Ok(()),
            _ => Err(format!(
                "{at} serves another certificate (SHA-256 {served})"
            )),
        }
    }
}

async fn look(proof: &Proof, eyes: &Eyes<'_>) -> Result<(), String> {
    let (host, timeout) = (eyes.workshop.host, eyes.timeout);
    match proof {
        Proof::Serves { address, leaf } => {
            let (_, served) = served(address, timeout).await?;
            eyes.is_leaf(leaf, &served, address)
        }
        Proof::ServesOther { address, sha256 } => {
            let (_, served) = served(address, timeout).await?;
            is_other(sha256, &served, address)
        }
        Proof::Listens { address } => match connect(address, timeout).await {
            Ok(_) => Ok(()),
            Err(error) => Err(format!("{address} does not accept connections: {error}")),
        },
        Proof::Silent { address } => silent(address, timeout).await,
        Proof::Active { unit } => {
            let argv = ["systemctl", "is-active", unit].map(str::to_owned);
            let output = host
                .run(&argv, timeout)
                .await
                .map_err(|error| error_chain(&error))?;
            if output.code == Some(0) {
                return Ok(());
            }
            Err(format!(
                "{unit} is {}",
                String::from_utf8_lossy(&output.stdout).trim()
            ))
        }
        Proof::ServesUnder { address, authority } => {
            let (served, _) = served(address, timeout).await?;
            signed_by(&served, authority).map_err(|why| format!("{address} {why}"))
        }
        Proof::Holds { path, sha256 } => {
            let at = path.display();
            let entry = host.read(path).await.map_err(|error| error_chain(&error))?;
            match entry.as_ref().and_then(Entry::bytes) {
                Some(bytes) if pki::sha256(bytes).to_string() == *sha256 => Ok(()),
                Some(_) => Err(format!("{at} holds something else")),
                None => Err(format!("{at} is not there")),
            }
        }
        Proof::FileRenewed { path, sha256 } => renewed(host, path, sha256.as_ref()).await,
        Proof::ServesAt { .. }
        | Proof::ServesOtherAt { .. }
        | Proof::ServesExactly { .. }
        | Proof::Healthy { .. }
        | Proof::Accepts { .. }
        | Proof::Quorum { .. } => look_from_host(proof, eyes).await,
    }
}

/// Looks at what is seen from a host of the cluster.
async fn look_from_host(proof: &Proof, eyes: &Eyes<'_>) -> Result<(), String> {
    match proof {
        Proof::ServesAt {
            host,
            address,
            leaf,
        } => {
            let served = eyes.served_at(host, address).await?;
            eyes.is_leaf(leaf, &served, &format!("{address} on {host}"))
        }
        Proof::ServesOtherAt {
            host,
            address,
            sha256,
        } => {
            let served = eyes.served_at(host, address).await?;
            is_other(sha256, &served, &format!("{address} on {host}"))
        }
        Proof::ServesExactly {
            host,
            address,
            sha256,
            ..
        } => {
            let served = eyes.served_at(host, address).await?;
            is_exactly(sha256, &served, &format!("{address} on {host}"))
        }
        Proof::Healthy {
            host,
            url,
            client,
            member,
        } => {
            let (client, member) = (client.as_ref(), member.as_ref());
            eyes.healthy(host, url, client, member).await
        }
        Proof::Accepts { host, url, client } => eyes.accepts(host, url, client).await,
        Proof::Quorum {
            members,
            needed,
            client,
        } => eyes.quorum(members, *needed, client).await,
        // The others are seen from this machine.
        _ => Err("this is not seen from a host".to_owned()),
    }
}

fn is_other(former: &str, served: &str, at: &str) -> Result<(), String> {
    match served == former {
        true => Err(format!(
            "{at} still serves the certificate with SHA-256 {former}"
        )),
        false => Ok(()),
    }
}

fn is_exactly(wanted: &str, served: &str, at: &str) -> Result<(), String> {
    match served == wanted {
        true => Ok(()),
        false => Err(format!(
            "{at} serves another certificate (SHA-256 {served}) than the one that was put there \
             ({wanted})"
        )),
    }
}

/// Whether a file holds a certificate that is not this one.
async fn renewed(host: &dyn Host, path: &Path, sha256: Option<&String>) -> Result<(), String> {
    let at = path.display();
    let entry = host.read(path).await.map_err(|error| error_chain(&error))?;
    let Some(bytes) = entry.as_ref().and_then(Entry::bytes) else {
        return Err(format!("{at} is not there"));
    };
    let certificates =
        Certificate::all_from_pem(bytes).map_err(|error| format!("{at}: {error}"))?;
    match certificates
        .first()
        .map(|first| first.fingerprint().to_string())
    {
        Some(found) if Some(&found) != sha256 => Ok(()),
        _ => Err(format!("{at} holds the certificate of before")),
    }
}

/// Whether connections are refused.
async fn silent(address: &str, timeout: Duration) -> Result<(), String> {
    match connect(address, timeout).await {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        Ok(_) => Err(format!("{address} still answers")),
        Err(error) => Err(format!("{address} cannot be asked: {error}")),
    }
}

/// What is served, in DER, and its SHA-256.
async fn served(address: &str, timeout: Duration) -> Result<(Vec<u8>, String), String> {
    let served = served_certificate(address, timeout).await;
    let der = served.map_err(|error| format!("{address} completes no TLS handshake: {error}"))?;
    let digest = pki::sha256(&der).to_string();
    Ok((der, digest))
}

/// Whether the CA in PEM signed the certificate in DER; else what the certificate says instead.
fn signed_by(der: &[u8], authority: &str) -> Result<(), String> {
    let bad = |error: pki::Error| format!("cannot be held to its CA: {error}");
    let leaf = Certificate::from_der(der).map_err(bad)?;
    let authorities = Certificate::all_from_pem(authority.as_bytes()).map_err(bad)?;
    let [authority] = authorities.as_slice() else {
        return Err("cannot be held to its CA: the plan names not exactly one".to_owned());
    };
    let named = leaf.issuer().der() == authority.subject().der();
    if named && leaf.verify_signature(authority.spki_der()).is_ok() {
        return Ok(());
    }
    let another = if named { ", with another key" } else { "" };
    Err(format!(
        "serves a certificate that {} issued{another}",
        leaf.issuer()
    ))
}

/// The DER of the end-entity certificate that `address` (`host:port`) serves.
///
/// Any chain is taken, for what is served is the question and not whether it is trusted; but the
/// server must prove with its signature that it has the key. A server that then turns us away for
/// want of a client certificate has served all the same.
///
/// # Errors
///
/// When no connection is made or the handshake does not get that far within `timeout`.
pub async fn served_certificate(address: &str, timeout: Duration) -> io::Result<Vec<u8>> {
    let (host, _) = split(address)?;
    let name = ServerName::try_from(host.to_owned())
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    let (config, witness) = Witness::client().map_err(io::Error::other)?;
    let connector = TlsConnector::from(Arc::new(config));
    let handshake = async {
        let stream = connect(address, timeout).await?;
        connector.connect(name, stream).await.map(drop)
    };
    let ended = tokio::time::timeout(timeout, handshake).await;
    let proven = witness.proven();
    match (proven, ended) {
        (Some(der), _) => Ok(der),
        (None, Ok(Ok(()))) => Err(io::Error::other("the server proved no key")),
        (None, Ok(Err(error))) => Err(error),
        (None, Err(_)) => Err(io::ErrorKind::TimedOut.into()),
    }
}

async fn connect(address: &str, timeout: Duration) -> io::Result<TcpStream> {
    let (host, port) = split(address)?;
    match tokio::time::timeout(timeout, TcpStream::connect((host, port))).await {
        Ok(connected) => connected,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// `host:port`, an IPv6 address in brackets.
fn split(address: &str) -> io::Result<(&str, u16)> {
    let parts = address.rsplit_once(':').and_then(|(host, port)| {
        let host = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
            .unwrap_or(host);
        Some((host, port.parse().ok()?))
    });
    parts.ok_or_else(|| {
        let text = format!("{address:?} is not host:port");
        io::Error::new(io::ErrorKind::InvalidInput, text)
    })
}
