//! What every process has loaded at each moment.

use pki::verify::{Options, verify};
use pki::{
    Authority, Certificate, LeafRequest, PrivateKey, Purpose, San, Serial, UnixTime, Validity,
};

use super::lines::{Moment, Rotation, Served, State, Who};
use super::{End, Promise, Refusal, Stack, connects};
use crate::bootstrap::{Bundle, Field};
use crate::ca::CaName;

/// Why nothing can be promised.
#[derive(Debug, thiserror::Error)]
pub enum PromiseError {
    /// A CA or its key is in neither set.
    #[error("{} ({field}) is missing, so nothing can be said of its connections", field.path().display())]
    Missing {
        /// Which file.
        field: Field,
    },
    /// It cannot be read, or cannot sign.
    #[error("{} ({field}) cannot be used", field.path().display())]
    Unusable {
        /// Which file.
        field: Field,
        /// Why.
        source: pki::Error,
    },
}

/// The host by which every leaf is asked for.
const HOST: &str = "kubernetes";

/// Both states of everything that presents or trusts a certificate.
pub(super) struct World {
    old: Loaded,
    new: Loaded,
}

/// What processes have loaded that started with one set.
struct Loaded {
    root: Vec<Certificate>,
    server_ca: Vec<Certificate>,
    client_ca: Vec<Certificate>,
    header_ca: Vec<Certificate>,
    peer_ca: Vec<Certificate>,
    etcd_ca: Vec<Certificate>,
    api_server: Vec<Certificate>,
    kubelet: Vec<Certificate>,
    client: Vec<Certificate>,
    node: Vec<Certificate>,
    proxy: Vec<Certificate>,
    peer: Vec<Certificate>,
    etcd_server: Vec<Certificate>,
    etcd_client: Vec<Certificate>,
}

impl World {
    pub(super) fn new(rotation: &Rotation<'_>) -> Result<Self, PromiseError> {
        let &Rotation {
            old,
            new,
            before,
            served,
            now,
        } = rotation;
        Ok(Self {
            old: Loaded::new(&[old], before, now)?,
            new: Loaded::new(&[new, old], served, now)?,
        })
    }

    /// The first refusal among the servers that there are.
    pub(super) fn breaks(
        &self,
        who: Who,
        moment: Moment,
        stack: Stack,
        now: UnixTime,
    ) -> Option<Refusal> {
        let pairs = moment
            .servers()
            .iter()
            .flat_map(|&state| self.pairs(who, moment, state));
        pairs
            .map(|(server, client)| {
                let server = End {
                    stack: Stack::Go,
                    ..server
                };
                connects(&server, &End { stack, ..client }, HOST, now)
            })
            .find_map(|promise| match promise {
                Promise::Connects => None,
                Promise::Fails(refusal) => Some(refusal),
            })
    }

    /// Server and client of such a connection, with cluster servers in `state`.
    fn pairs(&self, who: Who, moment: Moment, state: State) -> Vec<(End<'_>, End<'_>)> {
        let at = match state {
            State::Old => &self.old,
            State::New => &self.new,
        };
        let api = end(&at.api_server, &at.client_ca);
        let calling = end(&at.client, &at.server_ca);
        let (old, new) = (&self.old, &self.new);
        let every = || {
            moment.servers().iter().map(|other| match other {
                State::Old => old,
                State::New => new,
            })
        };
        match who {
            Who::OldKubeconfig => vec![(api, end(&old.client, &old.server_ca))],
            Who::NewKubeconfig => vec![(api, end(&new.client, &new.server_ca))],
            Who::NewRootAlone => vec![(api, end(&new.client, &new.root))],
            Who::OldPod => vec![(end(&at.api_server, &[]), end(&[], &old.server_ca))],
            Who::OldAgent => vec![(api, end(&old.node, &old.server_ca))],
            Who::NewAgent => vec![(api, end(&new.node, &new.server_ca))],
            Who::ToOldKubelet => vec![(end(&old.kubelet, &old.client_ca), calling)],
            Who::ToNewKubelet => vec![(end(&new.kubelet, &new.client_ca), calling)],
            Who::EtcdPeers => every()
                .map(|other| (end(&other.peer, &other.peer_ca), end(&at.peer, &at.peer_ca)))
                .collect(),
            Who::EtcdClients => every()
                .map(|other| {
                    let member = end(&other.etcd_server, &other.etcd_ca);
                    (member, end(&at.etcd_client, &at.etcd_ca))
                })
                .collect(),
            Who::Extensions => {
                // Their own certificates are none of the cluster's.
                let extension = end(&at.api_server, &old.header_ca);
                vec![(extension, end(&at.proxy, &at.server_ca))]
            }
        }
    }
}

fn end<'a>(presents: &'a [Certificate], trusts: &'a [Certificate]) -> End<'a> {
    End {
        stack: Stack::Go,
        presents,
        trusts,
    }
}

impl Loaded {
    /// From the first of `sets` that has the file in question.
    fn new(sets: &[&Bundle], served: Served, now: UnixTime) -> Result<Self, PromiseError> {
        let file = |ca: CaName| certificates(sets, ca);
        let leaf = |ca: CaName, served: Served, purposes: &[Purpose]| {
            leaf_chain(sets, ca, served, purposes, now)
        };
        let (server, client) = ([Purpose::ServerAuth], [Purpose::ClientAuth]);
        let both = [Purpose::ServerAuth, Purpose::ClientAuth];
        Ok(Self {
            root: root(file(CaName::Server)?, now),
            server_ca: file(CaName::Server)?,
            client_ca: file(CaName::Client)?,
            header_ca: file(CaName::RequestHeader)?,
            peer_ca: file(CaName::EtcdPeer)?,
            etcd_ca: file(CaName::EtcdServer)?,
            api_server: leaf(CaName::Server, served, &server)?,
            kubelet: leaf(CaName::Server, Served::WholeFile, &server)?,
            client: leaf(CaName::Client, served, &client)?,
            node: leaf(CaName::Client, Served::WholeFile, &client)?,
            proxy: leaf(CaName::RequestHeader, served, &client)?,
            peer: leaf(CaName::EtcdPeer, served, &both)?,
            etcd_server: leaf(CaName::EtcdServer, served, &both)?,
            etcd_client: leaf(CaName::EtcdServer, served, &client)?,
        })
    }
}

fn content<'a>(sets: &[&'a Bundle], field: Field) -> Result<&'a [u8], PromiseError> {
    let mut found = sets.iter().filter_map(|set| set.content(field));
    found
        .find(|bytes| !bytes.is_empty())
        .ok_or(PromiseError::Missing { field })
}

fn certificates(sets: &[&Bundle], ca: CaName) -> Result<Vec<Certificate>, PromiseError> {
    let field = ca.field();
    Certificate::all_from_pem(content(sets, field)?)
        .map_err(|source| PromiseError::Unusable { field, source })
}

/// A leaf of `ca` with what follows it, made for the occasion: its key is the CA's own, as nobody
/// ever uses it.
fn leaf_chain(
    sets: &[&Bundle],
    ca: CaName,
    served: Served,
    purposes: &[Purpose],
    now: UnixTime,
) -> Result<Vec<Certificate>, PromiseError> {
    let file = certificates(sets, ca)?;
    let field = ca.key_field();
    let unusable = |source| PromiseError::Unusable { field, source };
    let key = PrivateKey::from_pem(content(sets, field)?).map_err(unusable)?;
    let missing = PromiseError::Missing { field: ca.field() };
    let authority = Authority::new(file.first().cloned().ok_or(missing)?, key).map_err(unusable)?;
    let day = Validity {
        not_before: now.plus(-60),
        not_after: now.plus(pki::DAY),
    };
    let request = LeafRequest {
        organizations: &[],
        common_name: HOST,
        sans: &[San::Dns(HOST.to_owned())],
        purposes,
        spki_der: authority.certificate().spki_der(),
        serial: Serial::from_hex("01").map_err(unusable)?,
        validity: day.clamped_to(authority.certificate().validity()),
    };
    let leaf = authority.issue(&request).map_err(unusable)?;
    Ok(served.behind(leaf, &file))
}

/// The root that the CA leads to, and if it leads to several the nearest.
fn root(file: Vec<Certificate>, now: UnixTime) -> Vec<Certificate> {
    let roots: Vec<Certificate> = file
        .iter()
        .filter(|ca| ca.is_self_issued())
        .cloned()
        .collect();
    let paths = file.first().map(|ca| {
        verify(
            ca,
            &file,
            &roots,
            &Options::at(now).purposes(&[Purpose::Any]),
        )
    });
    let paths = paths.and_then(Result::ok).unwrap_or_default();
    let nearest = paths.first().and_then(|path| path.root());
    nearest.cloned().into_iter().collect()
}
