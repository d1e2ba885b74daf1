//! What a plan tells of a rotation before it is done: who keeps working, and who does not.

use std::collections::BTreeMap;
use std::fmt;

use pki::{Certificate, UnixTime};

use super::world::{PromiseError, World};
use super::{Refusal, Refused, Stack};
use crate::bootstrap::Bundle;
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
    /// What follows the leaves in use; where nobody knows, K3s's whole file is the worse case.
    pub before: Served,
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
    pub(super) fn servers(self) -> &'static [State] {
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

/// Which set a process has loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
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
    /// A client that was given the new server CA's root and nothing else.
    NewRootAlone,
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
    pub const ALL: [Self; 11] = [
        Self::OldKubeconfig,
        Self::NewKubeconfig,
        Self::NewRootAlone,
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
            Self::OldKubeconfig | Self::NewKubeconfig | Self::NewRootAlone | Self::OldPod => {
                &Stack::ALL
            }
            _ => &[Stack::Go],
        }
    }

    /// Whether there are any at that moment.
    fn exists(self, moment: Moment) -> bool {
        match self {
            Self::NewKubeconfig | Self::NewRootAlone | Self::NewAgent | Self::ToNewKubelet => {
                moment >= Moment::FirstServer
            }
            Self::OldAgent | Self::ToOldKubelet => moment < Moment::Agents,
            _ => true,
        }
    }

    /// What helps where it is broken for good.
    fn remedy(self) -> &'static str {
        match self {
            Self::OldKubeconfig => "hand out the new one",
            Self::NewRootAlone => "give them the whole CA file",
            Self::OldPod => "restart them",
            Self::Extensions => "they read the new CA within a minute, else restart them",
            _ => "restart K3s on both ends",
        }
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OldKubeconfig => "kubeconfigs from before",
            Self::NewKubeconfig => "new kubeconfigs",
            Self::NewRootAlone => "clients that are given the new root and nothing else",
            Self::OldPod => "pods that hold the CA from before",
            Self::OldAgent => "agents that are not restarted yet",
            Self::NewAgent => "restarted agents",
            Self::ToOldKubelet => "the API server to their kubelets",
            Self::ToNewKubelet => "the API server to kubelets of restarted agents",
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

/// How servers come to new CAs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// One is restarted after the other.
    Restarts,
    /// All at once, while they serve.
    Live,
}

/// How long a kind of connection does not work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Span {
    Never,
    Already,
    WhileMixed,
    UntilRestarted,
    Lasting,
}

impl Span {
    fn of(who: Who, broken: &[Moment]) -> Self {
        match (broken.first(), broken.last()) {
            (None, _) | (_, None) => Self::Never,
            (Some(Moment::Before | Moment::Committed), _) => Self::Already,
            (_, Some(Moment::FirstServer)) => Self::WhileMixed,
            _ if !who.exists(Moment::Agents) => Self::UntilRestarted,
            _ => Self::Lasting,
        }
    }

    fn headline(self, pace: Pace) -> &'static str {
        match (self, pace) {
            (Self::Never, _) => "keep working at every moment",
            (Self::Already, _) => "do not work now either",
            (Self::WhileMixed, Pace::Live) => {
                "do not work for the moment in which some servers have taken the CAs up and others \
                 have not"
            }
            (Self::UntilRestarted, Pace::Live) => {
                "do not work from the moment on in which the first server takes the CAs up, until \
                 the new bundle was fetched there (`kubepki node renew`) or K3s is restarted (with \
                 the new token, if its token has a CA hash)"
            }
            (Self::Lasting, Pace::Live) => {
                "do not work from the moment on in which the first server takes the CAs up"
            }
            (Self::WhileMixed, Pace::Restarts) => {
                "do not work while some servers are restarted and others are not, so restart \
                 them at once"
            }
            (Self::UntilRestarted, Pace::Restarts) => {
                "do not work from the first restarted server on, until K3s there is restarted too \
                 (with the new token, if its token has a CA hash)"
            }
            (Self::Lasting, Pace::Restarts) => "do not work from the first restarted server on",
        }
    }
}

/// The lines as few sentences: what keeps working, and what does not, how long, and what helps.
pub fn blast_radius(lines: &[Line], pace: Pace) -> Vec<String> {
    let mut told: BTreeMap<Span, Vec<String>> = BTreeMap::new();
    for who in Who::ALL {
        let mut groups: Vec<(Span, Vec<Stack>, String)> = Vec::new();
        for &stack in who.stacks() {
            let own = || {
                let mine = lines
                    .iter()
                    .filter(move |l| l.who == who && l.stack == stack);
                mine.filter_map(|line| Some((line.moment, line.breaks.as_ref()?)))
            };
            let moments: Vec<Moment> = own().map(|(moment, _)| moment).collect();
            let span = Span::of(who, &moments);
            // Why there is no path goes without saying; that one is overlooked does not.
            let astray = own().find_map(|(_, refusal)| match &refusal.reason {
                reason @ Refused::Astray { .. } => Some(format!(": {reason}")),
                _ => None,
            });
            let astray = astray.unwrap_or_default();
            match groups.iter_mut().find(|it| it.0 == span && it.2 == astray) {
                Some((_, stacks, _)) => stacks.push(stack),
                None => groups.push((span, vec![stack], astray)),
            }
        }
        for (span, stacks, astray) in groups {
            let names: Vec<String> = stacks.iter().map(Stack::to_string).collect();
            let mut item = who.to_string();
            if stacks.len() < who.stacks().len() {
                item = format!("{item} with {}", names.join(", "));
            }
            if span == Span::Lasting {
                item = format!("{item} ({})", who.remedy());
            }
            told.entry(span).or_default().push(item + &astray);
        }
    }
    let told = told.into_iter();
    told.map(|(span, items)| format!("{}: {}", span.headline(pace), items.join("; ")))
        .collect()
}
