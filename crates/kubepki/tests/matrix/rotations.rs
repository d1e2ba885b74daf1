//! Rotations from every kind of CA to every kind of successor: old and new servers and clients in
//! every combination that restarts in any order can bring about.

use kubepki::bootstrap::{Bundle, Field};
use kubepki::ca::promise::{Moment, Pace, Rotation, Served, Stack, Who, blast_radius, promise_for};
use kubepki::ca::{CaName, Change, CrossRoots, Outer};
use pki::Certificate;
use testkit::Fixture;
use testkit::stacks::Stacks;

use super::lab::{Leaf, Loaded, deviations, file, in_force, now, read, staged};

const DEFAULT: &str = "k3s-1.36-sqlite";
const CUSTOM: &str = "k3s-1.36-custom-ca";
const ROTATED: &str = "k3s-1.36-default-rotated";

fn set(fixture: &str, change: Change) -> (Bundle, Bundle) {
    let (old, pool) = in_force(fixture);
    let new = staged(&old, pool, change).bundle;
    (old, new)
}

/// Leaves in use are K3s's, the new ones are written beforehand.
const K3S_THEN_OURS: (Served, Served) = (Served::WholeFile, Served::Trimmed);

fn cross() -> Change {
    Change::CrossSigned(CrossRoots::AsNow)
}

/// A rotation of one of the five CAs, or of the two that a server and its clients use.
struct Pair<'a> {
    old: &'a Bundle,
    new: &'a Bundle,
    servers: CaName,
    clients: CaName,
}

/// What a process of each state has loaded.
struct Material {
    server: Vec<(&'static str, Leaf)>,
    client: Vec<(&'static str, Leaf)>,
    server_trust: [Vec<Certificate>; 2],
    client_trust: [Vec<Certificate>; 3],
}

const TRUSTS: [&str; 3] = ["old", "new", "new root alone"];

impl Pair<'_> {
    fn material(&self) -> Material {
        let leaves = |ca| {
            let mut made = vec![
                ("old", Leaf::of(self.old, ca, Served::WholeFile)),
                ("new", Leaf::of(self.new, ca, Served::Trimmed)),
                (
                    "new as K3s serves it",
                    Leaf::of(self.new, ca, Served::WholeFile),
                ),
            ];
            let ours = Leaf::of(self.old, ca, Served::Trimmed);
            if ours.chain.len() < made[0].1.chain.len() {
                made.push(("old as we serve it", ours));
            }
            made
        };
        let new = file(self.new, self.servers);
        // The root under which the new CA stands, which is the first one of its file.
        let root = new
            .iter()
            .find(|ca| ca.is_self_issued())
            .cloned()
            .into_iter();
        Material {
            server: leaves(self.servers),
            client: leaves(self.clients),
            server_trust: [file(self.old, self.clients), file(self.new, self.clients)],
            client_trust: [file(self.old, self.servers), new, root.collect()],
        }
    }

    /// Every server against every client with each of `stacks`, and then with servers of every
    /// library.
    fn deviations(&self, stacks: &Stacks, of: &[Stack]) -> (Vec<String>, usize) {
        let material = self.material();
        let mut clients = Vec::new();
        for (trust, trusts) in TRUSTS.iter().zip(&material.client_trust) {
            for (state, shows) in &material.client {
                clients.push((format!("{state}, trusting {trust}"), shows, trusts));
            }
        }
        let clients: Vec<Loaded<'_>> = clients
            .iter()
            .map(|(name, shows, trusts)| Loaded {
                name,
                shows: Some(shows),
                trusts,
            })
            .collect();
        let (mut found, mut made) = (Vec::new(), 0);
        // A server's certificate and its trust come from one restart.
        let trusts_of = |state: &str| &material.server_trust[usize::from(state.starts_with("new"))];
        for (name, shows) in &material.server {
            let server = Loaded {
                name,
                shows: Some(shows),
                trusts: trusts_of(name),
            };
            let server = (Stack::Go, &server);
            found.extend(deviations(stacks, server, &clients, of, &mut made));
        }
        let knowing: Vec<Certificate> = material.client_trust.concat();
        let clients: Vec<Loaded<'_>> = material
            .client
            .iter()
            .map(|(name, shows)| Loaded {
                name,
                shows: Some(shows),
                trusts: &knowing,
            })
            .collect();
        for stack in of.iter().copied().filter(|stack| *stack != Stack::Go) {
            for (name, shows) in material.server.iter().take(2) {
                let server = Loaded {
                    name,
                    shows: Some(shows),
                    trusts: trusts_of(name),
                };
                let go = [Stack::Go];
                found.extend(deviations(
                    stacks,
                    (stack, &server),
                    &clients,
                    &go,
                    &mut made,
                ));
            }
        }
        (found, made)
    }
}

/// Holds every cell of a rotation to its promise: all libraries for API server and clients, Go for
/// what only Kubernetes' own parts use.
fn hold(old: &Bundle, new: &Bundle) -> usize {
    let stacks = Stacks::start();
    let mut all = (Vec::new(), 0);
    for (servers, clients, of) in [
        (CaName::Server, CaName::Client, &Stack::ALL[..]),
        (CaName::EtcdPeer, CaName::EtcdPeer, &[Stack::Go]),
        (CaName::EtcdServer, CaName::EtcdServer, &[Stack::Go]),
        (CaName::Server, CaName::RequestHeader, &[Stack::Go]),
    ] {
        let pair = Pair {
            old,
            new,
            servers,
            clients,
        };
        let (found, made) = pair.deviations(&stacks, of);
        all.0.extend(found);
        all.1 += made;
    }
    assert!(
        all.0.is_empty(),
        "{} of {}:\n{}",
        all.0.len(),
        all.1,
        all.0.join("\n")
    );
    all.1
}

/// The kinds of connection that a plan says will break, with the libraries.
fn broken(old: &Bundle, new: &Bundle, (before, served): (Served, Served)) -> Vec<(Who, Stack)> {
    let rotation = Rotation {
        old,
        new,
        before,
        served,
        now: now(),
    };
    let lines = promise_for(&rotation).unwrap();
    let early = lines
        .iter()
        .filter(|line| line.moment < Moment::FirstServer);
    assert!(early.clone().all(|line| line.breaks.is_none()), "{early:?}");
    let mut broken: Vec<(Who, Stack)> = lines
        .iter()
        .filter(|line| line.breaks.is_some() && line.who != Who::NewRootAlone)
        .map(|line| (line.who, line.stack))
        .collect();
    broken.sort_unstable();
    broken.dedup();
    broken
}

/// Nobody is promised to break, and every promise is kept.
fn seamless(fixture: &str, change: Change) {
    let (old, new) = set(fixture, change);
    assert_eq!(broken(&old, &new, K3S_THEN_OURS), []);
    assert!(hold(&old, &new) > 150);
}

/// Everybody who holds the old CA breaks, as promised.
fn cut(fixture: &str, change: Change) {
    let (old, new) = set(fixture, change);
    let broken = broken(&old, &new, K3S_THEN_OURS);
    for who in [Who::OldKubeconfig, Who::OldPod] {
        for stack in Stack::ALL {
            assert!(broken.contains(&(who, stack)), "{who} {stack}: {broken:?}");
        }
    }
    assert!(broken.contains(&(Who::OldAgent, Stack::Go)), "{broken:?}");
    assert!(broken.contains(&(Who::EtcdPeers, Stack::Go)), "{broken:?}");
    hold(&old, &new);
}

#[test]
fn default_cross_signed() {
    seamless(DEFAULT, cross());
}

#[test]
fn default_cross_signed_with_one_root() {
    seamless(DEFAULT, Change::CrossSigned(CrossRoots::Common(Outer::New)));
}

#[test]
fn custom_same_root() {
    seamless(CUSTOM, Change::SameRoot);
}

#[test]
fn custom_cross_signed() {
    seamless(CUSTOM, cross());
}

/// The root's and the intermediate's keys are in a safe: the CA on the server vouches.
#[test]
fn custom_cross_signed_without_the_root() {
    let (old, _) = in_force(CUSTOM);
    let (_, pool) = in_force(CUSTOM);
    let certificates_only = kubepki::ca::Pool {
        keys: Vec::new(),
        ..pool
    };
    let new = staged(&old, certificates_only, cross()).bundle;
    assert_eq!(broken(&old, &new, K3S_THEN_OURS), []);
    hold(&old, &new);
}

#[test]
fn rotated_cross_signed() {
    seamless(ROTATED, cross());
}

#[test]
fn rotated_same_root() {
    seamless(ROTATED, Change::SameRoot);
}

#[test]
fn rotated_twice_by_us() {
    let (first, pool) = in_force(DEFAULT);
    let old = staged(&first, pool, cross());
    let mut pool = kubepki::ca::Pool::default();
    for file in &old.offline {
        pool.add(std::path::Path::new(&file.name), &file.content, None)
            .unwrap();
    }
    let new = staged(&old.bundle, pool, cross()).bundle;
    let ours = (Served::Trimmed, Served::Trimmed);
    assert_eq!(broken(&old.bundle, &new, ours), []);
    // A file with both roots is too much for GnuTLS once it knows only one of them; only until
    // the last server is restarted.
    let gnutls = (Who::NewKubeconfig, Stack::GnuTls);
    assert_eq!(broken(&old.bundle, &new, K3S_THEN_OURS), [gnutls]);
    hold(&old.bundle, &new);
}

#[test]
fn default_new_root() {
    cut(DEFAULT, Change::NewRoot(Outer::New));
}

#[test]
fn custom_new_root() {
    cut(CUSTOM, Change::NewRoot(Outer::New));
}

#[test]
fn rotated_new_root() {
    cut(ROTATED, Change::NewRoot(Outer::New));
}

#[test]
fn default_compromised() {
    cut(DEFAULT, Change::Compromised(Outer::New));
}

#[test]
fn custom_compromised() {
    cut(CUSTOM, Change::Compromised(Outer::New));
}

/// The set that K3s's own script made, and the CAs that were in force when it ran.
fn of_the_script() -> (Bundle, Bundle) {
    let fixture = Fixture::without_datastore(ROTATED);
    let staged = fixture.data_dir().join("server/rotate-ca");
    let script = read(&staged);
    let mut old = script.clone();
    for (field, key) in Field::AUTHORITIES {
        let stem = field.path().to_str().unwrap().trim_end_matches("-ca.crt");
        for (field, kind) in [(field, "pem"), (key, "key")] {
            let path = staged.join(format!("{stem}-root-old.{kind}"));
            old.files.get_mut(&field).unwrap().content = std::fs::read(path).unwrap().into();
        }
    }
    (old, script)
}

/// The control: served as K3s serves it, that set shuts out OpenSSL's clients with the old CA, as
/// the plan says, and nobody else.
#[test]
fn the_order_of_k3s_breaks_openssl() {
    let (old, script) = of_the_script();
    let openssl = |who| (who, Stack::OpenSsl);
    let expected = [openssl(Who::OldKubeconfig), openssl(Who::OldPod)];
    assert_eq!(
        broken(&old, &script, (Served::WholeFile, Served::WholeFile)),
        expected
    );
    // The same CAs with leaves of ours: nobody breaks.
    assert_eq!(broken(&old, &script, K3S_THEN_OURS), []);
    hold(&old, &script);
}

#[test]
fn what_a_plan_says_of_it() {
    let mut told = String::new();
    let sets = [
        ("cross-signed", set(DEFAULT, cross())),
        ("cross-signed by K3s's script", of_the_script()),
        ("same root", set(CUSTOM, Change::SameRoot)),
        ("new root", set(DEFAULT, Change::NewRoot(Outer::New))),
        ("compromised", set(CUSTOM, Change::Compromised(Outer::New))),
    ];
    for (title, (old, new)) in &sets {
        for (served, how) in [
            (Served::Trimmed, "leaves written beforehand"),
            (Served::WholeFile, "leaves made by K3s"),
        ] {
            let rotation = Rotation {
                old,
                new,
                before: Served::WholeFile,
                served,
                now: now(),
            };
            let sentences = blast_radius(&promise_for(&rotation).unwrap(), Pace::Restarts);
            told += &format!("== {title}, {how}\n{}\n\n", sentences.join("\n"));
        }
    }
    testkit::assert_golden("tests/golden/matrix/blast-radius.txt", &steady(&told));
}

/// Without what differs from run to run: fingerprints, times in names, serial numbers.
fn steady(text: &str) -> String {
    let mut out = String::new();
    for word in text.split_inclusive([' ', '\n']) {
        match word.find('@') {
            Some(at) => {
                out.push_str(&word[..=at]);
                let digits = |letter: char| letter.is_ascii_digit();
                out.push_str(word[at + 1..].trim_start_matches(digits));
            }
            None => out.push_str(word),
        }
    }
    out
}
