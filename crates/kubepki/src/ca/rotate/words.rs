//! What is said of a rotation before it is done: who is touched by it, and what comes next.

use super::{Here, Request, Restarts, Tokens, Way, overlaid, tokens as new_tokens};
use crate::ca::promise::{Pace, Rotation, Served, blast_radius, promise_for};
use crate::ca::verify::{Continuity, Intent, Verdict};
use crate::check::Severity;

/// Whether servers take the set up while they serve.
fn is_live(request: &Request<'_>) -> bool {
    request.restarts.here == Here::Live
}

/// The plan's title.
pub(super) fn title(request: &Request<'_>) -> String {
    let what = match (request.intent, request.verdict.reach()) {
        (Intent::Compromised, _) => "replace every CA and service-account key after a compromise",
        (_, Continuity::Unchanged) => "rotate the service-account keys",
        (_, Continuity::SameRoot) => "rotate the CAs under the same root",
        (_, Continuity::CrossSigned) => "rotate the CAs to a cross-signed root",
        (_, Continuity::NewRoot | Continuity::First) => "rotate the CAs to a new root",
    };
    what.to_owned()
}

/// Everything, most important first. `agents_too`: where tokens are replaced, whether agents join
/// with the servers'.
pub(super) fn notes(request: &Request<'_>, agents_too: bool) -> Vec<String> {
    let verdict = request.verdict;
    let mut notes: Vec<String> = Vec::new();
    let refusals = verdict.refusals().map(|finding| {
        format!(
            "forced, although {} {} ({})",
            finding.field, finding.message, finding.rule
        )
    });
    notes.extend(refusals);
    notes.push(reach(request));
    if verdict.reach() != Continuity::Unchanged {
        notes.extend(promises(request));
        notes.extend(fleet(request));
    }
    match request.tokens {
        Tokens::New(_) => notes.extend(new_tokens::notes(request, agents_too)),
        Tokens::Replaced => {
            notes.extend(new_tokens::notes_of_replaced());
            notes.push(tokens(verdict));
        }
        Tokens::Stay => notes.push(tokens(verdict)),
    }
    notes.extend(service_keys(verdict));
    notes.extend(afterwards(request));
    notes.extend(taking_back(request));
    let warnings = verdict
        .findings
        .iter()
        .filter(|it| matches!(it.severity, Severity::Warning | Severity::Due))
        // Said above.
        .filter(|it| it.rule != "token-hash")
        .map(|it| format!("Warning: {} {}", it.field, it.message));
    notes.extend(warnings);
    notes
}

/// The blast radius in one sentence.
fn reach(request: &Request<'_>) -> String {
    match (request.intent, request.verdict.reach()) {
        (Intent::Compromised, _) => "blast radius: everything. No old CA, key or certificate is \
                                     trusted afterwards: every node has to be joined again with \
                                     the new token, every pod restarted, every kubeconfig replaced"
            .to_owned(),
        (_, Continuity::Unchanged) => "blast radius: servers only. CAs, agents, kubeconfigs and \
                                       join tokens stay as they are"
            .to_owned(),
        (_, Continuity::SameRoot) => "blast radius: the root stays, so nothing has to be joined \
                                      again: nodes, pods and kubeconfigs go on working"
            .to_owned(),
        (_, Continuity::CrossSigned) => "blast radius: the old CAs vouch for the new root, so \
                                         nodes, pods and kubeconfigs that hold the old ones go on \
                                         working; full join tokens change"
            .to_owned(),
        (_, Continuity::NewRoot | Continuity::First) => format!(
            "blast radius: nobody trusts the new root yet. Every agent, every kubeconfig and every \
             pod that holds the old CA is refused from {} until it has the new one",
            match is_live(request) {
                true => "the moment on in which servers put it in force",
                false => "the restart of the servers",
            }
        ),
    }
}

/// Who connects when, by library.
fn promises(request: &Request<'_>) -> Vec<String> {
    let old = match request.way {
        Way::Direct { opened, .. } => &opened.bundle,
        Way::Through { .. } => &request.disk.bundle,
    };
    let new = overlaid(old, request.staged, request.now);
    let rotation = Rotation {
        old,
        new: &new,
        // The worse of the two; K3s itself writes nothing else.
        before: Served::WholeFile,
        served: match request.way {
            Way::Through { .. } if !is_live(request) => Served::WholeFile,
            _ => Served::Trimmed,
        },
        now: request.now,
    };
    // Of a set with a CA missing nothing can be promised, and verify has said so.
    let pace = match is_live(request) {
        true => Pace::Live,
        false => Pace::Restarts,
    };
    promise_for(&rotation).map_or_else(|_| Vec::new(), |lines| blast_radius(&lines, pace))
}

/// The same in numbers, where the Kubernetes API answers.
fn fleet(request: &Request<'_>) -> Vec<String> {
    let Some(fleet) = request.fleet else {
        return vec!["the Kubernetes API did not tell which nodes and pods there are".to_owned()];
    };
    let names = |nodes: Vec<&str>| match nodes.is_empty() {
        true => "none".to_owned(),
        false => nodes.join(", "),
    };
    let servers = names(fleet.servers().map(|node| node.name.as_str()).collect());
    let agents = names(fleet.agents().map(|node| node.name.as_str()).collect());
    let mut said = vec![match is_live(request) {
        true => format!(
            "servers that run `kubepki serve` take the CAs up by themselves, those that run K3s \
             ({servers}) are restarted; then agents {agents} fetch the new bundle"
        ),
        false => format!("to be restarted: servers {servers}; then agents {agents}"),
    }];
    if request.verdict.reach() >= Continuity::NewRoot {
        said.push(format!(
            "{} pods in {} namespaces hold the old CA and have to be restarted last",
            fleet.pod_count(),
            fleet.pods.len()
        ));
    }
    if request.intent == Intent::Compromised && !fleet.lasting_tokens.is_empty() {
        said.push(format!(
            "service-account tokens in Secrets end with the old key; make them anew: {}",
            fleet.lasting_tokens.join(", ")
        ));
    }
    said
}

fn tokens(verdict: &Verdict) -> String {
    match (verdict.hash_before, verdict.hash_after) {
        (Some(before), Some(after)) if before != after => format!(
            "join tokens change from K10{before}::… to K10{after}::…: replace them wherever a full \
             token is configured, with `kubepki token rewrite` on each node"
        ),
        _ => "join tokens stay as they are".to_owned(),
    }
}

fn service_keys(verdict: &Verdict) -> Option<String> {
    let keys = &verdict.service_keys;
    (keys.staged && keys.signer_changes()).then(|| {
        format!(
            "tokens of service accounts are signed with a new key; {} keys verify",
            keys.after.iter().filter(|key| key.seen).count()
        )
    })
}

/// How a server takes new CAs up with the right chains.
pub(super) const BY_RECONCILE: &str =
    "`systemctl stop k3s`, `kubepki reconcile`, `systemctl start k3s`";

/// Whether it matters to anybody what stands behind the leaves.
pub(super) fn needs_chains(verdict: &Verdict) -> bool {
    verdict.reach() == Continuity::CrossSigned
}

/// What happens on servers of our own.
const LIVE: &str = "every `kubepki serve` puts the set in force while it serves, within seconds, and \
                    no connection ends; requests for certificates wait for that. One that runs with \
                    `--take-up restart`, and every K3s server, takes it up when it is restarted; \
                    until then a K3s server may save nothing: `k3s token rotate` and `k3s \
                    secrets-encrypt` would put the old CAs back";

/// What comes next, where it is not a step.
fn afterwards(request: &Request<'_>) -> Vec<String> {
    let mut said = Vec::new();
    if is_live(request) {
        said.push(LIVE.to_owned());
    } else if let Way::Through { .. } = request.way {
        said.push(
            "until every server is restarted none may save anything: `k3s token rotate` and \
             `k3s secrets-encrypt` would put the old CAs back"
                .to_owned(),
        );
        if needs_chains(request.verdict) {
            let here = &request.restarts.here;
            let servers = match here.can_stop() {
                true => "every other server",
                false => "each server",
            };
            said.push(format!(
                "a server that is only restarted makes its certificates itself and serves its \
                 whole CA file behind them, which OpenSSL clients with the old CA refuse where a \
                 root stands before the cross-certificate. So on {servers}: {BY_RECONCILE}; \
                 reconcile takes the CAs from the datastore and makes every certificate ready with \
                 the chain that all of them follow, and K3s keeps those"
            ));
            if matches!(here, Here::Driven { .. }) && !here.can_stop() {
                said.push(
                    "the restart that is a step of this plan does without: run `kubepki rotate \
                     --service api-server,k3s-server --restart` on this server right after it"
                        .to_owned(),
                );
            }
        }
    }
    if request.intent == Intent::Compromised {
        said.extend(request.exposures.iter().map(|it| {
            format!(
                "keys can still be decrypted in {} with the token from {}",
                it.place, it.token
            )
        }));
        said.extend(
            request
                .copies
                .iter()
                .map(|place| format!("keys of before also lie in {place}")),
        );
        said.push(
            "look further in etcd snapshots and copies of the datastore that were taken elsewhere; \
             `kubepki bootstrap verify --token-file OLD` lists what the datastore and the \
             snapshots beside it keep"
                .to_owned(),
        );
    }
    said
}

fn taking_back(request: &Request<'_>) -> Option<String> {
    if request.intent == Intent::Compromised {
        return None;
    }
    Some(match request.verdict.reach() {
        Continuity::Unchanged => "undo puts the former keys back; once the new key has signed \
                                  tokens, undo makes those invalid"
            .to_owned(),
        _ if is_live(request) => format!(
            "`kubepki undo` puts the former CAs in force again while the servers serve: whoever has \
             joined meanwhile and knows the new root alone is shut out then. `kubepki rotate-ca \
             --back {}` goes on trusting both",
            request.id
        ),
        Continuity::NewRoot | Continuity::First => {
            "undo puts the former CAs back, safely only before the first restart: afterwards \
             whoever has only the new root is shut out"
                .to_owned()
        }
        _ => format!(
            "undo puts the former CAs back: before the first restart nobody notices. Afterwards \
             `kubepki rotate-ca --back {}` does, safely as long as nothing has joined that knows \
             the new root alone; servers have to be restarted again",
            request.id
        ),
    })
}

const AFTER_LIVE: &str = "This server has put them in force, and every other `kubepki serve` does so \
                          by itself (`/v1-k3s/readyz` says so where one cannot), this one too, \
                          unless it runs with `--take-up restart`: that one restarts, as a K3s \
                          server does. Then every agent gets the new bundle: `kubepki node renew`, or \
                          a restart of K3s.";

/// What the operator does once the plan is done.
pub fn closing(verdict: &Verdict, way: Way<'_>, restarts: &Restarts) -> String {
    let verb = match way {
        Way::Direct { .. } => "Start",
        Way::Through { .. } => "Restart",
    };
    let (servers, this) = match restarts.here {
        Here::Live => return AFTER_LIVE.to_owned(),
        Here::Told => ("every server", "the servers only"),
        Here::Watched | Here::Driven { .. } => ("every other server", "the other servers only"),
    };
    match verdict.reach() {
        Continuity::Unchanged => {
            format!("{verb} K3s on {this}, one after the other; agents need nothing.")
        }
        _ if restarts.others => "Every restart was seen.".to_owned(),
        Continuity::NewRoot | Continuity::First => format!(
            "{verb} K3s on {servers} at once, then on every agent with the new token, then \
             restart all pods."
        ),
        _ if matches!(way, Way::Through { .. }) && needs_chains(verdict) => format!(
            "On {servers}, one after the other: {BY_RECONCILE}. Then restart K3s on every agent."
        ),
        _ => format!("{verb} K3s on {servers}, one after the other, then on every agent."),
    }
}
