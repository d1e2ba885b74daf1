//! The restarts that make new CAs take hold, each with what shows that it was done.

use std::net::IpAddr;

use pki::Certificate;

use super::words::{BY_RECONCILE, needs_chains};
use super::{Here, Request, Way};
use crate::bootstrap::Field;
use crate::ca::verify::Continuity;
use crate::fleet::Node;
use crate::plan::{Action, Before, Proof, Step, Target};

/// The servers' unit.
const UNIT: &str = "k3s.service";
/// The port of every kubelet.
const KUBELET: u16 = 10250;

/// Servers one after the other, this one first, then agents.
pub(super) fn steps(request: &Request<'_>) -> Vec<Step> {
    let authority = new_authority(request);
    let mut steps: Vec<Step> = here(request, authority.as_deref()).into_iter().collect();
    let (Some(authority), true) = (authority, request.restarts.others) else {
        // Where the server CA stays, nothing that could be seen from here changes.
        return steps;
    };
    let Some(fleet) = request.fleet else {
        return steps;
    };
    let (port, own) = (request.spec.https_port, &request.spec.node.name);
    // What nothing could show to be done is told in the notes alone.
    let seen = |node: &&Node| !node.addresses.is_empty();
    let servers = fleet.servers().filter(|node| node.name != *own);
    for node in servers.filter(seen) {
        steps.push(manual(
            act(request, &format!("the server {}", node.name)),
            probes(node, port, &authority),
            "a server that goes on with the old CAs writes them back when it saves anything",
        ));
    }
    for node in fleet.agents().filter(seen) {
        steps.push(manual(
            format!("restart K3s on the agent {}", node.name),
            probes(node, KUBELET, &authority),
            "it fetches the new CAs and certificates under them",
        ));
    }
    steps
}

/// What a person does on a server.
fn act(request: &Request<'_>, server: &str) -> String {
    match request.way {
        Way::Direct { .. } => format!("start K3s on {server}"),
        Way::Through { .. } if needs_chains(request.verdict) => {
            format!("restart K3s on {server} like this: {BY_RECONCILE}")
        }
        Way::Through { .. } => format!("restart K3s on {server}"),
    }
}

/// The stop of this running server, where its files are made ready before its start.
pub(super) fn stop(request: &Request<'_>) -> Option<Step> {
    let Here::Driven { stop, .. } = &request.restarts.here else {
        return None;
    };
    request.restarts.here.can_stop().then(|| Step {
        number: 0,
        target: Target::Unit {
            host: "local".to_owned(),
            name: UNIT.to_owned(),
        },
        before: Before::Any,
        action: Action::Stop {
            command: stop.clone(),
            proof: vec![Proof::Silent {
                address: format!("127.0.0.1:{}", request.spec.https_port),
            }],
        },
        reason: "files are made ready while K3s does not run".to_owned(),
    })
}

/// The restart of this server, if it is a step.
fn here(request: &Request<'_>, authority: Option<&str>) -> Option<Step> {
    let address = format!("127.0.0.1:{}", request.spec.https_port);
    let serves = match authority {
        Some(authority) => under(address, authority),
        None => Proof::Listens { address },
    };
    match &request.restarts.here {
        Here::Told | Here::Live => None,
        Here::Watched => authority.map(|_| {
            let node = &request.spec.node.name;
            let instruction = act(request, &format!("this server ({node})"));
            let reason = "this server serves certificates of the new CA";
            manual(instruction, vec![serves], reason)
        }),
        Here::Driven { command, .. } => {
            let unit = UNIT.to_owned();
            let mut proof = Vec::new();
            if command.is_none() {
                proof.push(Proof::Active { unit: unit.clone() });
            }
            proof.push(serves);
            let command = command.clone();
            Some(Step {
                number: 0,
                target: Target::Unit {
                    host: "local".to_owned(),
                    name: unit,
                },
                before: Before::Any,
                action: Action::Restart { command, proof },
                reason: "K3s takes CAs up at its start".to_owned(),
            })
        }
    }
}

/// PEM of the new server CA; `None` where that does not change.
fn new_authority(request: &Request<'_>) -> Option<String> {
    if request.verdict.continuity(Field::ServerCa) == Continuity::Unchanged {
        return None;
    }
    let content = request.staged.content(Field::ServerCa)?;
    let certificates = Certificate::all_from_pem(content).ok()?;
    certificates.first().map(Certificate::to_pem)
}

fn probes(node: &Node, port: u16, authority: &str) -> Vec<Proof> {
    let first = node.addresses.first();
    let address = first.map(|address| match address.parse::<IpAddr>() {
        Ok(IpAddr::V6(address)) => format!("[{address}]:{port}"),
        _ => format!("{address}:{port}"),
    });
    address.map(|it| under(it, authority)).into_iter().collect()
}

fn under(address: String, authority: &str) -> Proof {
    let authority = authority.to_owned();
    Proof::ServesUnder { address, authority }
}

/// The probe is made from here, wherever it is that a person acts.
fn manual(instruction: String, probe: Vec<Proof>, reason: &str) -> Step {
    Step {
        number: 0,
        target: Target::Manual {
            host: "local".to_owned(),
        },
        before: Before::Any,
        action: Action::Manual { instruction, probe },
        reason: reason.to_owned(),
    }
}
