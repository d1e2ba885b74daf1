//! Whether a cluster's components are well.

use std::collections::BTreeSet;
use std::time::Instant;

use super::cluster::Cluster;
use super::guard;
use super::host::Host;
use super::layout::{Node, Role};

impl Cluster {
    /// RKE's health checks (rke.md section 5.8), asked on each node itself; an entry for each that
    /// fails: node, component, why.
    pub fn unhealthy(&self) -> Vec<(String, String, String)> {
        // All hosts at once: most of the time somebody is waited for.
        std::thread::scope(|scope| {
            let hosts = self.hosts.iter().zip(&self.layout.nodes);
            let asked = hosts.map(|(host, node)| scope.spawn(|| self.unhealthy_on(host, node)));
            let asked: Vec<_> = asked.collect();
            let answers = asked.into_iter().map(std::thread::ScopedJoinHandle::join);
            answers
                .flat_map(|it| it.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
                .collect()
        })
    }

    /// One program asks them all: to start one for each costs more than what they are asked.
    fn unhealthy_on(&self, host: &Host, node: &Node) -> Vec<(String, String, String)> {
        let ssl = self.layout.on_host("/etc/kubernetes/ssl");
        let checks = checks(node);
        let mut arguments = Vec::new();
        for (_, url, pair) in &checks {
            if !arguments.is_empty() {
                arguments.push("--next".to_owned());
            }
            let asked = ["-sSk", "--max-time", "5", "-w", WELL, url];
            arguments.extend(asked.map(str::to_owned));
            if !pair.is_empty() {
                let pair = format!("{ssl}/{pair}");
                let files = [format!("{pair}.pem"), format!("{pair}-key.pem")];
                let [cert, key] = files;
                arguments.extend(["--cert".to_owned(), cert, "--key".to_owned(), key]);
            }
        }
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let run = host.run("curl", &arguments);
        let said = String::from_utf8_lossy(&run.stdout);
        let mut answers = said.split(END);
        let mut found = Vec::new();
        for (component, _, _) in checks {
            let answer = answers.next().unwrap_or_default();
            let well = component != "etcd" || answer.contains(r#""health":"true""#);
            if !answer.ends_with(" 0 200 ") || !well {
                let why = match answer {
                    "" => run.text(),
                    answer => answer.to_owned(),
                };
                found.push((node.name.clone(), component.to_owned(), why));
            }
        }
        found
    }

    /// Waits until nothing is unhealthy.
    #[track_caller]
    pub fn wait_healthy(&self) {
        let start = Instant::now();
        loop {
            let unhealthy = self.unhealthy();
            if unhealthy.is_empty() {
                return;
            }
            if start.elapsed() > guard::PATIENCE {
                let logs = unhealthy.iter().map(|(node, component, _)| {
                    let docker = self.host(node).docker();
                    let state = docker.inspect(component);
                    let state = state.and_then(|it| Some(it.pointer("/State")?.to_string()));
                    let logs = docker.logs(component);
                    let logs = String::from_utf8_lossy(&logs);
                    format!("{node} {component}: {state:?}\n{logs}\n")
                });
                let logs: String = logs.collect();
                let nodes: BTreeSet<&String> = unhealthy.iter().map(|it| &it.0).collect();
                let engines = nodes.into_iter().map(|it| self.host(it).engine_log(40));
                panic!("{unhealthy:#?}\n{logs}\n{}", engines.collect::<String>());
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    }
}

/// What curl says of an answer, after its text: its own exit code, the status, what went wrong.
const WELL: &str = " %{exitcode} %{http_code} %{errormsg}\x1e";

/// The end of an answer.
const END: char = '\x1e';

/// Component, URL, and the pair to present: on the node itself.
fn checks(node: &Node) -> Vec<(&'static str, String, &'static str)> {
    let mut all = vec![
        ("kubelet", "http://localhost:10248/healthz".to_owned(), ""),
        (
            "kube-proxy",
            "http://localhost:10256/healthz".to_owned(),
            "",
        ),
    ];
    if node.has(Role::ControlPlane) {
        all.extend([
            (
                "kube-apiserver",
                "https://localhost:6443/healthz".to_owned(),
                "kube-apiserver",
            ),
            (
                "kube-controller-manager",
                "https://localhost:10257/healthz".to_owned(),
                "",
            ),
            (
                "kube-scheduler",
                "https://localhost:10259/healthz".to_owned(),
                "",
            ),
        ]);
    } else {
        all.push((
            "nginx-proxy",
            "https://localhost:6443/healthz".to_owned(),
            "kube-node",
        ));
    }
    if node.has(Role::Etcd) {
        all.push((
            "etcd",
            format!("https://{}:2379/health", node.address),
            "kube-node",
        ));
    }
    all
}
