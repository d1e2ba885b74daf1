//! The restarts that make new CAs take hold, each with what shows that it was done.

use std::net::IpAddr;

use pki::Certificate;

use super::{Request, Way};
use crate::bootstrap::Field;
use crate::ca::verify::Continuity;
use crate::fleet::Node;
use crate::plan::{Action, Before, Proof, Step, Target};

/// The port of every kubelet.
const KUBELET: u16 = 10250;

/// Servers one after the other, this one first, then agents.
pub(super) fn steps(request: &Request<'_>) -> Vec<Step> {
    let Some(authority) = new_authority(request) else {
        // Nothing that a stranger could see changes.
        return Vec::new();
    };
    let port = request.spec.https_port;
    let here = &request.spec.node.name;
    let verb = match request.way {
        Way::Direct { .. } => "start",
        Way::Through { .. } => "restart",
    };
    let mut steps = vec![manual(
        here,
        format!("{verb} K3s on this server ({here})"),
        vec![under(format!("127.0.0.1:{port}"), &authority)],
        "this server serves certificates of the new CA",
    )];
    let Some(fleet) = request.fleet else {
        return steps;
    };
    for node in fleet.servers().filter(|node| node.name != *here) {
        steps.push(manual(
            &node.name,
            format!("{verb} K3s on the server {}", node.name),
            probes(node, port, &authority),
            "a server that goes on with the old CAs writes them back when it saves anything",
        ));
    }
    for node in fleet.agents() {
        steps.push(manual(
            &node.name,
            format!("restart K3s on the agent {}", node.name),
            probes(node, KUBELET, &authority),
            "it fetches the new CAs and certificates under them",
        ));
    }
    steps
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

fn manual(host: &str, instruction: String, probe: Vec<Proof>, reason: &str) -> Step {
    Step {
        number: 0,
        target: Target::Manual {
            host: host.to_owned(),
        },
        before: Before::Any,
        action: Action::Manual { instruction, probe },
        reason: reason.to_owned(),
    }
}
