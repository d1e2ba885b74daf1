//! A cluster on machines of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::components;
use super::docker::{self, Start};
use super::guard::must;
use super::host::Host;
use super::layout::{Layout, Node, Role, Spec};
use super::network::Network;

/// Machines, an operator's folder with `cluster.yml`, and what runs on the machines.
///
/// First [`prepare`](Self::prepare); then certificates come onto the machines, from a state file
/// or by hand; then [`start`](Self::start).
#[derive(Debug)]
pub struct Cluster {
    pub(super) hosts: Vec<Host>,
    pub(super) layout: Layout,
    operator: tempfile::TempDir,
}

/// How a call of the API is to go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// This status.
    Status(u16),
    /// No answer, ever.
    Hang,
    /// The connection is closed in place of an answer.
    Close,
}

/// When every container of a cluster was started, by node and container.
pub type Starts = BTreeMap<(String, String), Start>;

/// A call that a component made, or a change that somebody made through the API
/// (component `requests`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// The node that it was made on.
    pub node: String,
    /// `kubelet`.
    pub component: String,
    /// UTC, RFC 3339 with nanoseconds: sorts as text.
    pub at: String,
    /// `new` for a connection of its own, `kept` for one that lasts; for requests the method.
    pub way: String,
    /// `https://127.0.0.1:6443`; for requests the path.
    pub address: String,
    /// `ok`; `certificate` if one side refused the other's; `connection` if nobody was there;
    /// `status` if the answer was another than 200.
    pub outcome: String,
    /// What the error says.
    pub words: String,
}

impl Cluster {
    /// Starts the machines, without certificates or containers, and writes `cluster.yml`.
    pub fn prepare(spec: &Spec) -> Self {
        let network = if spec.recorded {
            Network::recorded()
        } else {
            Network::start()
        };
        let machines: Vec<_> = spec.nodes.iter().map(|it| (it.0.as_str(), it.1)).collect();
        let hosts = Host::start_all(&network, &machines);
        let layout = Layout::new(spec, &network);
        let operator =
            tempfile::tempdir().unwrap_or_else(|error| panic!("no temporary folder: {error}"));
        let cluster = Self {
            hosts,
            layout,
            operator,
        };
        let text = cluster.layout.cluster_yml(spec, &network.ssh_key());
        write(&cluster.cluster_yml(), &text);
        let known: String = cluster.hosts.iter().map(Host::known_hosts_line).collect();
        write(&cluster.known_hosts(), &known);
        cluster
    }

    /// The operator's folder.
    pub fn folder(&self) -> &Path {
        self.operator.path()
    }

    /// `cluster.yml` in it.
    pub fn cluster_yml(&self) -> PathBuf {
        self.folder().join("cluster.yml")
    }

    /// A `known_hosts` file in it, with every machine's key.
    pub fn known_hosts(&self) -> PathBuf {
        self.folder().join("known_hosts")
    }

    /// The machines, in the order of the nodes.
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// The nodes.
    pub fn nodes(&self) -> &[Node] {
        &self.layout.nodes
    }

    /// The machine of that name.
    #[track_caller]
    pub fn host(&self, name: &str) -> &Host {
        let found = self.hosts.iter().find(|it| it.name() == name);
        found.unwrap_or_else(|| panic!("no machine is called {name}"))
    }

    /// Takes over fixture `rke-1.6-live` (for [`Spec::recorded`]): its `cluster.yml`, state file
    /// and kubeconfig lie in the operator's folder, with these machines' addresses, and its
    /// certificates on the machines.
    pub fn adopt(&self, fixture: &crate::Fixture) {
        let key = self.hosts.first().map(|it| it.network().ssh_key());
        for name in ["cluster.yml", "cluster.rkestate"] {
            let text = fixture.extra_text(name);
            let text = self.layout.adopted(&text, &key.clone().unwrap_or_default());
            let path = self.folder().join(name);
            write(&path, &text);
            must("chmod", &["600", &path.to_string_lossy()]);
        }
        let state = self.folder().join("cluster.rkestate");
        self.deploy_state(&state);
        // The recorded file is of the last run; the state is of the first.
        let text = fs::read(&state).unwrap_or_default();
        let state: Value = serde_json::from_slice(&text).unwrap_or_default();
        let admin = state.pointer("/currentState/certificatesBundle/kube-admin/config");
        let admin = admin.and_then(Value::as_str);
        let path = self.folder().join("kube_config_cluster.yml");
        write(
            &path,
            admin.unwrap_or_else(|| panic!("the state has no administrator")),
        );
        must("chmod", &["600", &path.to_string_lossy()]);
    }

    /// Writes what RKE's deployer writes onto every host, from `currentState` of a state file (or
    /// `desiredState`, where that is all there is). Modes as RKE's: folder 0755, files 0600.
    pub fn deploy_state(&self, state: &Path) {
        let text = fs::read(state).unwrap_or_else(|error| panic!("{}: {error}", state.display()));
        let state: Value = serde_json::from_slice(&text)
            .unwrap_or_else(|error| panic!("{}: {error}", state.display()));
        let bundles = ["/currentState", "/desiredState"]
            .map(|it| state.pointer(&format!("{it}/certificatesBundle")));
        let bundle = bundles.into_iter().flatten().find(|it| it.is_object());
        let bundle = bundle.unwrap_or_else(|| panic!("no certificates in the state file"));
        for node in &self.layout.nodes {
            self.deploy(&node.name, &self.layout.files(node, bundle));
        }
    }

    /// Writes files into a node's `/etc/kubernetes/ssl`.
    pub fn deploy(&self, node: &str, files: &BTreeMap<String, String>) {
        let folder = self.ssl(node);
        fs::create_dir_all(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        for (name, text) in files {
            let path = folder.join(name);
            write(&path, text);
            must("chmod", &["600", &path.to_string_lossy()]);
        }
    }

    /// A node's `/etc/kubernetes/ssl`, as a path that the test can use.
    pub fn ssl(&self, node: &str) -> PathBuf {
        let path = self.layout.on_host("/etc/kubernetes/ssl");
        self.host(node).path(&path)
    }

    /// Starts every component on every node and waits until all are healthy; namespaces `default`
    /// and `kube-system` are there then.
    pub fn start(&self) {
        std::thread::scope(|scope| {
            for (host, node) in self.hosts.iter().zip(&self.layout.nodes) {
                scope.spawn(|| {
                    host.must(
                        "mkdir",
                        &["-p", "/var/log/components", "/var/lib/components"],
                    );
                    let docker = host.docker();
                    for container in components::containers(&self.layout, node) {
                        docker.run(&container);
                    }
                    docker.create(&components::sidekick());
                });
            }
        });
        self.wait_healthy();
        for name in ["default", "kube-system"] {
            let namespace = json!({"metadata": {"name": name}});
            let answer = self.api("POST", "/api/v1/namespaces", Some(&namespace));
            assert!(answer.0 == 201, "namespace {name}: {answer:?}");
        }
    }

    /// One call of the Kubernetes API as its master, through a door that needs no certificate and
    /// knows no faults: status and body. Any control plane that answers does.
    #[track_caller]
    pub fn api(&self, method: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
        let body = body.map(Value::to_string).unwrap_or_default();
        let mut last = None;
        for host in self.control_plane() {
            let socket = host.path("/var/lib/components/api.sock");
            let kind = "application/json";
            match docker::call(&socket, method, path, kind, body.as_bytes()) {
                Ok((status, body)) => {
                    return (status, serde_json::from_slice(&body).unwrap_or_default());
                }
                Err(error) => last = Some(error),
            }
        }
        panic!("{method} {path}: no API server answers: {last:?}");
    }

    /// Puts a pod there that runs and, where `owner` is a kind of controller, comes back with
    /// another uid when it is deleted.
    #[track_caller]
    pub fn add_pod(&self, namespace: &str, name: &str, label: &str, owner: Option<&str>) {
        let (key, value) = label.split_once('=').unwrap_or((label, ""));
        let owners = owner.map(|kind| json!({"kind": kind, "name": name, "controller": true}));
        let pod = json!({
            "metadata": {
                "name": name, "labels": {key: value},
                "ownerReferences": owners.into_iter().collect::<Vec<_>>(),
            },
            "spec": {"containers": [{"name": "main", "image": "example"}]},
            "status": {"phase": "Running"},
        });
        let path = format!("/api/v1/namespaces/{namespace}/pods");
        let answer = self.api("POST", &path, Some(&pod));
        assert!(answer.0 == 201, "pod {name}: {answer:?}");
    }

    /// Every pod: namespace/name and uid.
    #[track_caller]
    pub fn pods(&self) -> BTreeMap<String, String> {
        let (status, list) = self.api("GET", "/api/v1/pods", None);
        assert!(status == 200, "{list}");
        let items = list.get("items").and_then(Value::as_array);
        let items = items.into_iter().flatten();
        items
            .map(|it| {
                let of = |name: &str| {
                    let value = it.pointer(&format!("/metadata/{name}"));
                    value.and_then(Value::as_str).unwrap_or_default()
                };
                (
                    format!("{}/{}", of("namespace"), of("name")),
                    of("uid").to_owned(),
                )
            })
            .collect()
    }

    /// From now on, calls with that method whose unescaped path and query hold `part` (no spaces)
    /// go wrong on every API server.
    pub fn fail_calls(&self, method: &str, part: &str, fault: Fault) {
        let how = match fault {
            Fault::Status(status) => status.to_string(),
            Fault::Hang => "hang".to_owned(),
            Fault::Close => "close".to_owned(),
        };
        for host in self.control_plane() {
            let path = host.path("/var/lib/components/faults");
            let before = fs::read_to_string(&path).unwrap_or_default();
            write(&path, &format!("{before}{method} {part} {how}\n"));
        }
    }

    /// Nothing goes wrong any more.
    pub fn clear_faults(&self) {
        for host in self.control_plane() {
            write(&host.path("/var/lib/components/faults"), "");
        }
    }

    fn control_plane(&self) -> impl Iterator<Item = &Host> {
        let nodes = self.hosts.iter().zip(&self.layout.nodes);
        nodes
            .filter(|(_, node)| node.has(Role::ControlPlane))
            .map(|(host, _)| host)
    }

    /// When every container was started. Fails the test if an engine does not answer.
    #[track_caller]
    pub fn starts(&self) -> Starts {
        let mut found = Starts::new();
        for host in &self.hosts {
            let docker = host.docker();
            let names = docker.names();
            let names = names.unwrap_or_else(|| panic!("no engine answers on {}", host.name()));
            for name in names {
                if let Some(start) = docker.started(&name) {
                    found.insert((host.name().to_owned(), name), start);
                }
            }
        }
        found
    }

    /// What components noted, and what the API was asked to change; in order of time.
    pub fn calls(&self) -> Vec<Call> {
        let mut all = Vec::new();
        for host in &self.hosts {
            let folder = host.path("/var/log/components");
            let files = fs::read_dir(&folder).into_iter().flatten().flatten();
            for path in files.map(|it| it.path()) {
                let component = path.file_stem().unwrap_or_default().to_string_lossy();
                let text = fs::read_to_string(&path).unwrap_or_default();
                all.extend(
                    text.lines()
                        .filter_map(|it| Call::parse(host.name(), &component, it)),
                );
            }
        }
        all.sort_by(|a, b| a.at.cmp(&b.at));
        all
    }

    /// The endpoints of etcd, with commas.
    pub(super) fn endpoints(&self) -> String {
        let members = self.nodes().iter().filter(|it| it.has(Role::Etcd));
        let urls: Vec<_> = members
            .map(|it| format!("https://{}:2379", it.address))
            .collect();
        urls.join(",")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // All at once: each takes a while.
        std::thread::scope(|scope| {
            for host in self.hosts.drain(..) {
                scope.spawn(|| drop(host));
            }
        });
    }
}

/// The containers that were started between two looks, by node and name.
pub fn restarted(before: &Starts, after: &Starts) -> BTreeSet<(String, String)> {
    let fresh = after.iter().filter(|(place, start)| {
        let old = before.get(*place);
        old.is_none_or(|old| old.at != start.at)
    });
    fresh.map(|(place, _)| place.clone()).collect()
}

impl Call {
    fn parse(node: &str, component: &str, line: &str) -> Option<Self> {
        let mut words = line.splitn(6, ' ').map(str::to_owned);
        let at = words.next()?;
        // The component's own name.
        words.next()?;
        Some(Self {
            node: node.to_owned(),
            component: component.to_owned(),
            at,
            way: words.next()?,
            address: words.next()?,
            outcome: words.next()?,
            words: words.next()?,
        })
    }
}

#[expect(clippy::disallowed_methods, reason = "a file of a test's own")]
pub(super) fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}
