//! What a plan tells of a rotation before it is done: who keeps working, and who does not.

use std::fmt;

use pki::{
    Authority, Certificate, LeafRequest, PrivateKey, Purpose, San, Serial, UnixTime, Validity,
};

use super::{End, Promise, Refusal, Stack, connects};
use crate::bootstrap::{Bundle, Field};
use crate::ca::CaName;
use crate::plan::served_chain;

/// What follows a leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Served {
    /// The CA and its cross-certificates, nothing self-signed: leaves that this program writes.
    Trimmed,
    /// The CA's whole file in its order: leaves that K3s makes itself.
    WholeFile,
}

impl Served {
    /// What is presented: `leaf`, and behind it what `authority`'s file gives.
    pub fn behind(self, leaf: Certificate, authority: &[Certificate]) -> Vec<Certificate> {
        let mut chain = vec![leaf];
        match self {
            Self::Trimmed => chain.extend(served_chain(authority).into_iter().cloned()),
            Self::WholeFile => chain.extend_from_slice(authority),
        }
        chain
    }
}

/// A change of CAs.
#[derive(Clone, Copy, Debug)]
pub struct Rotation<'a> {
    /// The set in force; all five CAs with their keys.
    pub old: &'a Bundle,
    /// The set that is to be; what it leaves out stays.
    pub new: &'a Bundle,
    /// What follows the new leaves of servers and kubeconfigs; kubelets' are always K3s's.
    pub served: Served,
    /// When.
    pub now: UnixTime,
}

/// A moment of a rotation. Nobody knows of the new CAs before the first restart, so committing
/// them alone breaks nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Moment {
    /// Nothing is done.
    Before,
    /// The datastore has the new set; every process has the old one.
    Committed,
    /// Some servers run with the new set, some with the old one.
    FirstServer,
    /// All servers run with the new set.
    AllServers,
    /// So do all agents.
    Agents,
}

impl Moment {
    /// All of them, in order.
    pub const ALL: [Self; 5] = [
        Self::Before,
        Self::Committed,
        Self::FirstServer,
        Self::AllServers,
        Self::Agents,
    ];

    /// Which servers there are: with the old set, with the new one.
    fn servers(self) -> &'static [State] {
        match self {
            Self::Before | Self::Committed => &[State::Old],
            Self::FirstServer => &[State::Old, State::New],
            Self::AllServers | Self::Agents => &[State::New],
        }
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Before => "before anything is done",
            Self::Committed => "the new CAs are in the datastore",
            Self::FirstServer => "the first server is restarted",
            Self::AllServers => "all servers are restarted",
            Self::Agents => "all agents are restarted",
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Old,
    New,
}

/// A kind of connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Who {
    /// A copy of the kubeconfig from before, to the API server.
    OldKubeconfig,
    /// The kubeconfig that a restarted server wrote.
    NewKubeconfig,
    /// A pod that still holds the CA from before, with its service-account token.
    OldPod,
    /// An agent that was not restarted, to servers.
    OldAgent,
    /// An agent that was restarted.
    NewAgent,
    /// The API server to the kubelet of an agent that was not restarted.
    ToOldKubelet,
    /// The API server to the kubelet of a restarted agent.
    ToNewKubelet,
    /// Members of etcd among each other.
    EtcdPeers,
    /// Servers to etcd members on other servers.
    EtcdClients,
    /// The API server to extension API servers that hold the request-header CA from before.
    Extensions,
}

impl Who {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::OldKubeconfig,
        Self::NewKubeconfig,
        Self::OldPod,
        Self::OldAgent,
        Self::NewAgent,
        Self::ToOldKubelet,
        Self::ToNewKubelet,
        Self::EtcdPeers,
        Self::EtcdClients,
        Self::Extensions,
    ];

    /// Which libraries such clients use; the parts of a cluster are Go programs.
    fn stacks(self) -> &'static [Stack] {
        match self {
            Self::OldKubeconfig | Self::NewKubeconfig | Self::OldPod => &Stack::ALL,
            _ => &[Stack::Go],
        }
    }

    /// Whether there are any at that moment.
    fn exists(self, moment: Moment) -> bool {
        match self {
            Self::NewKubeconfig | Self::NewAgent | Self::ToNewKubelet => {
                moment >= Moment::FirstServer
            }
            Self::OldAgent | Self::ToOldKubelet => moment < Moment::Agents,
            _ => true,
        }
    }

    fn remedy(self) -> &'static str {
        match self {
            Self::OldKubeconfig => "hand out the new kubeconfig",
            Self::NewKubeconfig | Self::NewAgent | Self::ToNewKubelet => "finish the restarts",
            Self::OldPod => "restart the pods",
            Self::OldAgent | Self::ToOldKubelet => {
                "restart K3s there, with the new token if its token has a CA hash"
            }
            Self::EtcdPeers | Self::EtcdClients => "restart the other servers at once",
            Self::Extensions => "they read the new CA within a minute, else restart them",
        }
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OldKubeconfig => "kubeconfigs from before",
            Self::NewKubeconfig => "new kubeconfigs",
            Self::OldPod => "pods that hold the CA from before",
            Self::OldAgent => "agents that are not restarted yet",
            Self::NewAgent => "restarted agents",
            Self::ToOldKubelet => "the API server to kubelets that are not restarted yet",
            Self::ToNewKubelet => "the API server to restarted kubelets",
            Self::EtcdPeers => "etcd members among each other",
            Self::EtcdClients => "servers to etcd on other servers",
            Self::Extensions => "the API server to extension API servers",
        })
    }
}

/// What becomes of one kind of connection at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// When.
    pub moment: Moment,
    /// Which connections.
    pub who: Who,
    /// The library of the client.
    pub stack: Stack,
    /// Why it fails with at least one of the servers that there are; `None`: it works.
    pub breaks: Option<Refusal>,
}

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

/// One line for each moment, kind of connection and library.
///
/// Leaves are issued for the occasion and thrown away: the promise is about CAs.
///
/// # Errors
///
/// [`PromiseError`] when a CA of the sets is not there or cannot sign.
pub fn promise_for(rotation: &Rotation<'_>) -> Result<Vec<Line>, PromiseError> {
    let world = World::new(rotation)?;
    let mut lines = Vec::new();
    for moment in Moment::ALL {
        for who in Who::ALL.into_iter().filter(|who| who.exists(moment)) {
            for &stack in who.stacks() {
                let breaks = world.breaks(who, moment, stack, rotation.now);
                lines.push(Line {
                    moment,
                    who,
                    stack,
                    breaks,
                });
            }
        }
    }
    Ok(lines)
}

/// The lines as few sentences: what keeps working in one, and one for each thing that breaks.
pub fn blast_radius(lines: &[Line]) -> Vec<String> {
    let mut sentences = Vec::new();
    let mut fine = Vec::new();
    for who in Who::ALL {
        let of = |stack: Stack| {
            let mine = lines
                .iter()
                .filter(move |l| l.who == who && l.stack == stack);
            mine.filter(|line| line.breaks.is_some())
                .map(|line| line.moment)
                .collect::<Vec<_>>()
        };
        let mut groups: Vec<(Vec<Moment>, Vec<Stack>)> = Vec::new();
        for &stack in who.stacks() {
            let broken = of(stack);
            match groups.iter_mut().find(|(moments, _)| *moments == broken) {
                Some((_, stacks)) => stacks.push(stack),
                None => groups.push((broken, vec![stack])),
            }
        }
        for (moments, stacks) in groups {
            let all = stacks.len() == who.stacks().len();
            let names: Vec<String> = stacks.iter().map(Stack::to_string).collect();
            let subject = match all {
                true => who.to_string(),
                false => format!("{who} with {}", names.join(", ")),
            };
            let Some(&first) = moments.first() else {
                fine.push(subject);
                continue;
            };
            let told = |line: &&Line| line.who == who && line.moment == first;
            let refusal = lines
                .iter()
                .filter(told)
                .filter(|line| stacks.contains(&line.stack))
                .find_map(|line| line.breaks.as_ref());
            let why = refusal.map(Refusal::to_string).unwrap_or_default();
            let lasting = moments.last() == Some(&Moment::Agents);
            let until = match (lasting, moments.last()) {
                (true, _) | (_, None) => String::new(),
                (false, Some(last)) => format!(", no more after \"{last}\""),
            };
            sentences.push(format!(
                "{subject} break once {first}{until}; {}. Why: {why}",
                who.remedy()
            ));
        }
    }
    if !fine.is_empty() {
        sentences.insert(0, format!("keep working all along: {}", fine.join("; ")));
    }
    sentences
}

/// Both states of everything that presents or trusts a certificate.
struct World {
    old: Loaded,
    new: Loaded,
}

/// What processes have loaded that started with one set.
struct Loaded {
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
    fn new(rotation: &Rotation<'_>) -> Result<Self, PromiseError> {
        let &Rotation {
            old,
            new,
            served,
            now,
        } = rotation;
        Ok(Self {
            old: Loaded::new(&[old], Served::Trimmed, now)?,
            new: Loaded::new(&[new, old], served, now)?,
        })
    }

    /// The first refusal among the servers that there are.
    fn breaks(&self, who: Who, moment: Moment, stack: Stack, now: UnixTime) -> Option<Refusal> {
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
