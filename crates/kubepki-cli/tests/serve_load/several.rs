//! Three servers on one datastore: one is killed, one is cut off, and the CAs are rotated while
//! strangers and agents talk to all of them.

use std::path::{Path, PathBuf};

use tempfile::TempDir;
use testkit::Etcd;
use testkit::server::{Postgres, Wire};
use testkit::stacks::Stacks;

use crate::agents::{Agents, Got, Happened};
use crate::crowd::{assert_seamless, during};
use crate::disk::{is_by, root_alone, signer};
use crate::server::{Serving, kubepki, until};

/// Servers of a new cluster, in a folder of their own.
struct Cluster {
    folder: TempDir,
    /// Between each server and the datastore.
    wires: Vec<Wire>,
    endpoint: Box<dyn Fn(u16) -> String>,
}

impl Cluster {
    fn new(datastore: u16, endpoint: Box<dyn Fn(u16) -> String>) -> Self {
        Self {
            folder: TempDir::new().unwrap(),
            wires: (0..3).map(|_| Wire::to(datastore)).collect(),
            endpoint,
        }
    }

    fn data_dir(&self, number: usize) -> PathBuf {
        self.folder.path().join(format!("s{number}"))
    }

    fn path(&self, below: &str) -> PathBuf {
        self.folder.path().join(below)
    }

    fn read(&self, number: usize, below: &str) -> String {
        let path = self.data_dir(number).join("server").join(below);
        std::fs::read_to_string(path).unwrap()
    }

    /// The datastore as server `number` reaches it.
    fn endpoint(&self, number: usize) -> String {
        (self.endpoint)(self.wires[number].port())
    }

    #[track_caller]
    fn start(&self, number: usize, port: u16) -> Serving {
        let (endpoint, name) = (self.endpoint(number), format!("s{number}"));
        let mut words = vec!["--node-name", &name, "--datastore-endpoint", &endpoint];
        let token = self.data_dir(0).join("server/token").display().to_string();
        if number > 0 {
            words.extend(["--token-file", &token]);
        }
        Serving::start(&self.data_dir(number), port, &words)
    }

    /// Stages a cross-signed set beside server 0; its CA files.
    fn stage(&self) -> (String, String) {
        let [set, offline] = ["set", "offline"].map(|it| self.path(it).display().to_string());
        let words = ["ca", "stage", "--cross-signed", "--out", &set];
        let words = [&words[..], &["--offline", &offline]].concat();
        kubepki(&self.data_dir(0), &words, 0);
        let read = |name: &str| std::fs::read_to_string(self.path("set/tls").join(name)).unwrap();
        (read("server-ca.crt"), read("client-ca.crt"))
    }

    /// Puts the staged set in force through server 0.
    fn rotate(&self, port: u16) -> String {
        let set = self.path("set").display().to_string();
        let kubeconfig = self.path("kubeconfig").display().to_string();
        let through = format!("--through-server=https://127.0.0.1:{port}");
        let words = ["rotate-ca", "--path", &set, &through, "--yes"];
        let words = [&words[..], &["--kubeconfig", &kubeconfig]].concat();
        kubepki(&self.data_dir(0), &words, 0).text()
    }
}

/// What happens to server 2 while the CAs are rotated.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Fine,
    CutOff,
}

/// Server 1 is to come back where it was.
fn start(cluster: &Cluster) -> Vec<Serving> {
    let ports = [(0, 0), (1, testkit::free_port()), (2, 0)];
    let start = |(number, port)| cluster.start(number, port);
    ports.into_iter().map(start).collect()
}

/// Server 1 is killed under load and comes back after the rotation.
fn rotate_under_load(cluster: &Cluster, fate: Fate) {
    let mut servers = start(cluster);
    let ports: Vec<u16> = servers.iter().map(|it| it.port).collect();
    let (old, old_clients) = (
        cluster.read(0, "tls/server-ca.crt"),
        cluster.read(0, "tls/client-ca.crt"),
    );
    assert_eq!(cluster.read(2, "tls/client-ca.crt"), old_clients);
    let (new, new_clients) = cluster.stage();
    let new_root = root_alone(&new, &old);
    let bundle = cluster.path("old.crt");
    std::fs::write(&bundle, &old).unwrap();
    let passwd = cluster.read(0, "cred/passwd");
    let user = format!("node:{}", passwd.split(',').next().unwrap());
    let bundles = [("old", old_clients.as_str()), ("new", &new_clients)];
    let serving = [("old", old.as_str()), ("new", &new)];
    let agents = Agents::start(&cluster.data_dir(0), 3, &ports, &old, (&bundles, &serving));
    let stacks = Stacks::start();
    let living = [ports[0], ports[2]];
    let mut stale = 0;
    let tallies = during(&stacks, &living, |crowd| {
        crowd.join("the old bundle", &old);
        crowd.hold(&old);
        agents.until("any server issues", 0, |got| {
            (0..3).all(|server| got.iter().any(|it| it.server == server))
        });
        agents.rounds(3, 13);
        servers.remove(1).kill();
        agents.rounds(3, 5);
        if fate == Fate::CutOff {
            cluster.wires[2].cut();
        }
        crowd.join("the new bundle", &new);
        crowd.rounds(1);
        cluster.rotate(ports[0]);
        until("server 0 tells the new bundle", || {
            servers[0].curl(&bundle, "/cacerts").1 == new
        });
        let back = cluster.start(1, ports[1]);
        assert_eq!(back.curl(&bundle, "/cacerts").1, new);
        servers.insert(1, back);
        let third = &servers[2];
        if fate == Fate::CutOff {
            stale = assert_cut_off(third, (&user, &bundle), &agents);
            cluster.wires[2].mend();
        }
        until("server 2 tells the new bundle", || {
            third.curl(&bundle, "/cacerts").1 == new
        });
        crowd.join("the new root alone", &new_root);
        crowd.rounds(3);
        let from = agents.seen();
        agents.until("every server issues under the new CA", from, |got| {
            let by_new =
                |it: &&Got| it.path == "client-kubelet" && is_by(it, &signer(&new_clients));
            (0..3).all(|server| got.iter().filter(by_new).any(|it| it.server == server))
        });
    });
    let late = agents.got(stale);
    let happened = agents.stop();
    assert_seamless(&tallies);
    happened.assert_nothing_lost();
    if fate == Fate::CutOff {
        let authorities = [signer(&new_clients), signer(&new)];
        let is_new = |it: &Got| authorities.iter().any(|ca| is_by(it, ca));
        let stale = late.iter().find(|it| it.server == 2 && !is_new(it));
        assert!(stale.is_none(), "{stale:?}");
    }
    assert_all_recorded(cluster, servers, &happened);
}

/// The server that is cut off says so, and issues nothing once what was under way is done. Answers
/// how many certificates the agents had by then.
fn assert_cut_off(third: &Serving, (user, bundle): (&str, &Path), agents: &Agents) -> usize {
    let ready = || third.curl_as(user, bundle, "/v1-k3s/readyz");
    until("the server that is cut off says so", || ready().0 == "503");
    let why = ready().1;
    assert!(why.contains("datastore"), "{why}");
    let metrics = third.curl(bundle, "/metrics").1;
    assert!(metrics.contains("datastore"), "{metrics}");
    agents.rounds(3, 5);
    let from = agents.seen();
    agents.rounds(3, 9);
    assert!(agents.got(from).iter().all(|it| it.server != 2));
    from
}

/// What agents received stands in the servers' logs, once those have ended.
fn assert_all_recorded(cluster: &Cluster, servers: Vec<Serving>, happened: &Happened) {
    servers.into_iter().for_each(Serving::stop);
    let logs: Vec<(PathBuf, String)> = (0..3)
        .map(|number| (cluster.data_dir(number), cluster.endpoint(number)))
        .collect();
    let words: Vec<[&str; 2]> = logs
        .iter()
        .map(|(_, endpoint)| ["--datastore-endpoint", endpoint.as_str()])
        .collect();
    let logs: Vec<_> = logs
        .iter()
        .zip(&words)
        .map(|((data_dir, _), words)| (data_dir.as_path(), &words[..]))
        .collect();
    happened.assert_recorded(&logs);
}

#[test]
fn three_servers_on_postgresql_one_killed_and_one_cut_off() {
    let server = Postgres::start(false);
    let port = server.port();
    let endpoint = server.endpoint("kubernetes");
    let named = move |own: u16| endpoint.replace(&format!(":{port}/"), &format!(":{own}/"));
    let cluster = Cluster::new(port, Box::new(named));
    rotate_under_load(&cluster, Fate::CutOff);
}

#[test]
fn three_servers_on_etcd_one_killed() {
    let etcd = Etcd::plain();
    let url = etcd.url(0);
    let port = url.rsplit(':').next().unwrap().parse().unwrap();
    let cluster = Cluster::new(port, Box::new(|own| format!("http://127.0.0.1:{own}")));
    rotate_under_load(&cluster, Fate::Fine);
}
