//! One server whose CAs change on its disk, file by file, and then in its datastore.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use kubepki::bootstrap::{Bundle, read_directory};
use kubepki::ca::promise::{Moment, Rotation, Served, Who, promise_for};
use kubepki::datastore::Datastore as _;
use kubepki::edge::{Clock as _, SystemClock};
use kubepki::host::LocalHost;
use kubepki_datastore::{Access, SqliteStore};
use pki::Certificate;
use testkit::Fixture;
use testkit::stacks::Stacks;

use crate::agents::{Agents, Got, Happened};
use crate::crowd::{STACKS, assert_seamless, during};
use crate::server::{Serving, kubepki};

/// What a server reads again while it serves.
const READ: [&str; 5] = [
    "tls/client-ca.crt",
    "tls/client-ca.key",
    "tls/dynamic-cert.json",
    "tls/server-ca.crt",
    "tls/server-ca.key",
];

/// A server's tree, and the same tree after a rotation.
struct Two {
    before: Fixture,
    after: Fixture,
    /// What `rotate-ca` said.
    said: String,
}

impl Two {
    fn new(change: &str, more: &[&str]) -> Self {
        let name = "k3s-1.36-sqlite";
        let (before, after) = (Fixture::new(name), Fixture::new(name));
        let [set, offline, kubeconfig] = [
            after.scratch("set"),
            after.scratch("offline"),
            after.admin_kubeconfig(),
        ]
        .map(|path| path.display().to_string());
        let data_dir = after.data_dir();
        let stage = ["ca", "stage", change, "--out", &set, "--offline", &offline];
        kubepki(&data_dir, &stage, 0);
        let rotate = ["rotate-ca", "--path", &set, "--direct", "--yes"];
        let rest = ["--still-for", "0", "--kubeconfig", &kubeconfig];
        let run = kubepki(&data_dir, &[&rotate[..], &rest, more].concat(), 0);
        Self {
            before,
            after,
            said: run.text(),
        }
    }

    fn old(&self, below: &str) -> String {
        read(&self.before, below)
    }

    fn new_one(&self, below: &str) -> String {
        read(&self.after, below)
    }

    /// Puts one file of the rotated tree into the served one, as a whole.
    fn bring(&self, below: &str) {
        let from = self.after.data_dir().join("server").join(below);
        let to = self.before.data_dir().join("server").join(below);
        let scratch = to.with_extension("new");
        std::fs::copy(from, &scratch).unwrap();
        std::fs::rename(scratch, to).unwrap();
    }

    /// Puts the rotated CAs into the served tree's datastore: they are the cluster's from then on.
    fn settle(&self) {
        let open = |of: &Fixture, access| {
            let file = of.data_dir().join("server/db/state.db");
            async move { SqliteStore::open(&file, access).await.unwrap() }
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let (from, to) = (
                open(&self.after, Access::Read).await,
                open(&self.before, Access::Write).await,
            );
            let all = from.list("/bootstrap/").await.unwrap();
            let new = all.iter().find(|it| !it.value.is_empty()).unwrap();
            let old = to.get(&new.key).await.unwrap().unwrap();
            to.update(&new.key, old.revision, &new.value).await.unwrap();
        });
    }

    /// Which of the libraries a client with the CA from before can no longer use, as a plan says.
    fn announced(&self) -> BTreeSet<String> {
        let [old, new] = [&self.before, &self.after].map(|fixture| set(&fixture.data_dir()));
        let rotation = Rotation {
            old: &old,
            new: &new,
            before: Served::WholeFile,
            served: Served::Trimmed,
            now: SystemClock.now(),
        };
        let lines = promise_for(&rotation).unwrap();
        let lines = lines.iter().filter(|line| {
            line.who == Who::OldKubeconfig
                && line.moment == Moment::AllServers
                && line.breaks.is_some()
        });
        lines.map(|line| line.stack.to_string()).collect()
    }
}

fn read(of: &Fixture, below: &str) -> String {
    std::fs::read_to_string(of.data_dir().join("server").join(below)).unwrap()
}

fn set(data_dir: &Path) -> Bundle {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let server: PathBuf = data_dir.join("server");
    let mut set = runtime
        .block_on(read_directory(&LocalHost, &server))
        .unwrap();
    set.files.retain(|field, _| field.is_rotatable());
    set
}

/// The root of `bundle` that `known` does not hold.
pub fn root_alone(bundle: &str, known: &str) -> String {
    let known = Certificate::all_from_pem(known.as_bytes()).unwrap();
    let all = Certificate::all_from_pem(bundle.as_bytes()).unwrap();
    let mut roots = all.iter().filter(|it| it.is_self_issued());
    let new = roots.find(|it| known.iter().all(|old| old.der() != it.der()));
    new.unwrap().to_pem()
}

/// The CA that signs, by its file.
pub fn signer(bundle: &str) -> Certificate {
    Certificate::all_from_pem(bundle.as_bytes())
        .unwrap()
        .remove(0)
}

pub fn is_by(got: &Got, authority: &Certificate) -> bool {
    got.leaf.verify_signature(authority.spki_der()).is_ok()
}

/// Whoever holds the old bundle, and whoever holds the new one, shakes hands at every moment;
/// certificates of both CAs open the door; what is issued is good under both bundles.
#[test]
fn cas_are_cross_signed_under_load() {
    let two = Two::new("--cross-signed", &[]);
    assert_eq!(two.announced(), BTreeSet::new());
    let [server_ca, client_ca] = ["tls/server-ca.crt", "tls/client-ca.crt"];
    let (old, new) = (two.old(server_ca), two.new_one(server_ca));
    let (old_clients, new_clients) = (two.old(client_ca), two.new_one(client_ca));
    let new_root = root_alone(&new, &old);
    let clients = [("old", old_clients.as_str()), ("new", &new_clients)];
    let servers = [("old", old.as_str()), ("new", &new), ("root", &new_root)];
    let data_dir = two.before.data_dir();
    let mut server = Serving::start(&data_dir, 0, &[]);
    let ports = [server.port];
    let agents = Agents::start(&data_dir, 2, &ports, &old, (&clients, &servers));
    let stacks = Stacks::start();
    let tallies = during(&stacks, &ports, |crowd| {
        crowd.join("the old bundle", &old);
        crowd.hold(&old);
        crowd.rounds(1);
        agents.rounds(2, 13);
        // The new one is published, and the server looks whenever it can see half of it.
        crowd.join("the new bundle", &new);
        for file in READ {
            two.bring(file);
            server.hang_up();
            crowd.rounds(1);
        }
        two.settle();
        server.hears("and are in force", 0);
        server.hears("another certificate", 0);
        crowd.join("the new root alone", &new_root);
        crowd.rounds(2);
        agents.rounds(2, 13);
    });
    let happened = agents.stop();
    assert_seamless(&tallies);
    let nothing: [String; 0] = [];
    assert_eq!(happened.lost, nothing);
    assert_eq!(happened.retried, nothing);
    // The listener moved once, to the certificate that came with the CAs.
    let listener = "tls/dynamic-cert.json";
    assert!(two.old(listener) == two.new_one(listener));
    server.stop();
    happened.assert_recorded(&[(&data_dir, &[])]);
    for it in &happened.got {
        let is_serving = it.path == "serving-kubelet";
        let authority = match is_serving {
            true => signer(&new),
            false => signer(&new_clients),
        };
        let by_old_ca = !is_by(it, &authority);
        let untrusted: Vec<&str> = it.untrusted.iter().map(String::as_str).collect();
        let expected: &[&str] = if is_serving && by_old_ca {
            &["root"]
        } else {
            &[]
        };
        assert_eq!(untrusted, expected, "{it:?}");
    }
    // Each certificate was used where the other CA was in force.
    let later = |it: &&Got| is_by(it, &signer(&new_clients)) && it.path == "client-kubelet";
    for way in ["token", "first", "last"] {
        assert!(
            happened.got.iter().filter(later).any(|it| it.by == way),
            "{way}"
        );
    }
}

/// A new root that nobody was given: exactly those break who were said to, and the others are
/// answered all the same.
#[test]
fn a_new_root_breaks_whom_it_was_said_to() {
    let two = Two::new("--new-root", &["--force"]);
    let announced = two.announced();
    assert!(
        two.said
            .contains("kubeconfigs from before (hand out the new one)"),
        "{}",
        two.said
    );
    let [server_ca, client_ca] = ["tls/server-ca.crt", "tls/client-ca.crt"];
    let (old, new) = (two.old(server_ca), two.new_one(server_ca));
    let clients = [("old", two.old(client_ca)), ("new", two.new_one(client_ca))];
    let clients = clients
        .each_ref()
        .map(|(name, text)| (*name, text.as_str()));
    let data_dir = two.before.data_dir();
    let mut server = Serving::start(&data_dir, 0, &[]);
    let ports = [server.port];
    // Agents that were given both roots; their certificates are of the CA that goes.
    let both = format!("{old}{new}");
    let agents = Agents::start(&data_dir, 2, &ports, &both, (&clients, &[]));
    let stacks = Stacks::start();
    let mut before = None;
    let tallies = during(&stacks, &ports, |crowd| {
        crowd.join("the old bundle", &old);
        crowd.hold(&old);
        crowd.rounds(1);
        agents.rounds(2, 13);
        for file in READ {
            two.bring(file);
        }
        let so_far = crowd.tallies();
        assert_seamless(&so_far);
        two.settle();
        server.hears("another certificate", 0);
        before = Some(crowd.tallies());
        crowd.join("the new bundle", &new);
        crowd.rounds(2);
        let from = agents.seen();
        agents.until("agents go on by their token", from, |got| got.len() > 24);
    });
    let happened = agents.stop();
    let broken = |name: &String| !tallies[name].failed.is_empty();
    for stack in STACKS {
        let name = format!("{stack} with the old bundle");
        assert_eq!(
            broken(&name),
            announced.contains(&stack.to_string()),
            "{name}"
        );
        // A handshake may have been under way when the listener moved, none later.
        let met = tallies[&name].good - before.as_ref().unwrap()[&name].good;
        assert!(met <= 1, "{name}: {met}");
    }
    let others = tallies
        .into_iter()
        .filter(|(name, _)| !name.contains("the old bundle"));
    assert_seamless(&others.collect());
    assert_only_certificates_were_refused(&happened);
    server.stop();
    happened.assert_recorded(&[(&data_dir, &[])]);
}

/// Nobody is held up for what others showed.
fn assert_only_certificates_were_refused(happened: &Happened) {
    let of_tokens = |it: &&String| it.contains(r#""by":"token""#);
    assert_eq!(happened.retried.iter().find(of_tokens), None);
    assert!(!happened.lost.is_empty());
    for lost in &happened.lost {
        assert!(
            !lost.contains(r#""by":"token""#) && lost.contains("401"),
            "{lost}"
        );
    }
}
