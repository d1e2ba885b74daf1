//! A node, the plan for it, and what it is compared with.

use std::path::PathBuf;

use kubepki::apply::{ApplyError, Outcome};
use kubepki::edge::file::replace;
use kubepki::error_chain;
use kubepki::host::{Attributes, LocalHost};
use kubepki::plan::*;
use kubepki::state::Locked;
use testkit::Tree;

use crate::node::{Node, executor, scratch};

/// A node, how it was, and the plan for it.
pub struct Case {
    _folder: tempfile::TempDir,
    pub kept: PathBuf,
    pub node: Node,
    pub original: Tree,
    pub plan: Plan,
}

impl Case {
    pub async fn new() -> Self {
        let folder = scratch();
        let node = Node::at(folder.path());
        node.make();
        let kept = folder.path().join("kept");
        node.keep(&kept);
        let (original, plan) = (node.tree(), node.plan().await);
        Self {
            _folder: folder,
            kept,
            node,
            original,
            plan,
        }
    }

    pub fn lock(&self) -> Locked {
        self.node.state().lock().unwrap()
    }

    pub async fn apply_all(&self, plan: &Plan) -> Tree {
        let state = self.lock();
        finished(executor(&LocalHost, &state).apply(plan).await);
        self.node.tree()
    }

    pub fn one_step(&self, target: Target, action: Action) -> Plan {
        let before = match target {
            Target::File { .. } => Before::Absent,
            _ => Before::Any,
        };
        let reason = String::new();
        self.node.plan_of(
            "one",
            vec![Step {
                number: 1,
                target,
                before,
                action,
                reason,
            }],
        )
    }

    pub fn unit(&self, script: &str, proof: Vec<Proof>) -> Plan {
        let target = Target::Unit {
            host: "local".to_owned(),
            name: "k3s.service".to_owned(),
        };
        let command = Some(["/bin/sh", "-c", script].map(str::to_owned).to_vec());
        self.one_step(target, Action::Restart { command, proof })
    }

    pub fn manual(&self, probe: Vec<Proof>) -> Plan {
        let target = Target::Manual {
            host: "local".to_owned(),
        };
        self.one_step(
            target,
            Action::Manual {
                instruction: "restart it".to_owned(),
                probe,
            },
        )
    }

    pub fn write(&self, name: &str, bytes: &[u8]) {
        replace(&self.node.path(name), bytes, &Attributes::new(0o644)).unwrap();
    }
}

#[track_caller]
pub fn finished(outcome: Result<Outcome, ApplyError>) {
    match outcome {
        Ok(Outcome::Finished { untidy: None, .. }) => {}
        Ok(other) => panic!("{other:?}"),
        Err(error) => panic!("{}", error_chain(&error)),
    }
}
