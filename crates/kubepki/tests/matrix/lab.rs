//! Sets of CAs, leaves under them, and connections.

use std::path::Path;

use kubepki::bootstrap::{Bundle, read_directory};
use kubepki::ca::promise::{End, Promise, Served, Stack, connects};
use kubepki::ca::{Algorithms, CaName, Change, Make, Pool, StageRequest, StagedSet, stage};
use kubepki::edge::{Clock, FreshKeys, SystemClock, SystemEntropy};
use kubepki::host::LocalHost;
use pki::{
    Authority, Certificate, DAY, KeyAlgorithm, LeafRequest, PrivateKey, Purpose, San, Serial,
    UnixTime, Validity,
};
use testkit::Fixture;
use testkit::stacks::{self, Identity, Stacks};

/// The name by which servers are called.
pub const HOST: &str = "kubernetes";

pub fn now() -> UnixTime {
    SystemClock.now()
}

/// The CAs of a server that K3s wrote, with its offline keys where it has any.
pub fn in_force(fixture: &str) -> (Bundle, Pool) {
    let fixture = Fixture::without_datastore(fixture);
    let server = fixture.data_dir().join("server");
    let mut pool = Pool::default();
    for name in ["root-ca", "intermediate-ca"] {
        for kind in ["pem", "key"] {
            let path = server.join(format!("tls/{name}.{kind}"));
            if let Ok(text) = std::fs::read(&path) {
                pool.add(&path, &text, None).unwrap();
            }
        }
    }
    (read(&server), pool)
}

/// A set that lies beside a server.
pub fn read(directory: &Path) -> Bundle {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let mut set = runtime
        .block_on(read_directory(&LocalHost, directory))
        .unwrap();
    set.files.retain(|field, _| field.is_rotatable());
    set
}

/// What `ca stage` makes of it.
pub fn staged(live: &Bundle, pool: Pool, change: Change) -> StagedSet {
    stage(StageRequest {
        live,
        change,
        pool,
        algorithms: Algorithms::default(),
        make: Make {
            now: now(),
            entropy: &SystemEntropy,
            keys: &FreshKeys,
        },
    })
    .unwrap()
}

/// A CA's file.
pub fn file(set: &Bundle, ca: CaName) -> Vec<Certificate> {
    Certificate::all_from_pem(set.content(ca.field()).unwrap()).unwrap()
}

/// A leaf with what follows it, and its key.
#[derive(Clone)]
pub struct Leaf {
    pub chain: Vec<Certificate>,
    pub key: String,
}

impl Leaf {
    /// A new leaf of that set's CA, for servers and clients alike.
    pub fn of(set: &Bundle, ca: CaName, served: Served) -> Self {
        let file = file(set, ca);
        let key = PrivateKey::from_pem(set.content(ca.key_field()).unwrap()).unwrap();
        let authority = Authority::new(file[0].clone(), key).unwrap();
        let (leaf, key) = Self::bare(&authority);
        Self {
            chain: served.behind(leaf, &file),
            key,
        }
    }

    /// The leaf alone.
    pub fn bare(authority: &Authority) -> (Certificate, String) {
        let key = PrivateKey::generate(KeyAlgorithm::P256).unwrap();
        let period = Validity {
            not_before: now().plus(-60),
            not_after: now().plus(30 * DAY),
        };
        let leaf = authority
            .issue(&LeafRequest {
                organizations: &[],
                common_name: HOST,
                sans: &[San::from_text(HOST)],
                purposes: &[Purpose::ServerAuth, Purpose::ClientAuth],
                spki_der: key.spki_der(),
                serial: Serial::random(pki::random).unwrap(),
                validity: period.clamped_to(authority.certificate().validity()),
            })
            .unwrap();
        let key = key.to_pem().unwrap().to_string();
        (leaf, key)
    }
}

pub fn pem(certificates: &[Certificate]) -> String {
    certificates.iter().map(Certificate::to_pem).collect()
}

/// One end, as both the promise and the real program are told of it.
#[derive(Clone, Copy)]
pub struct Loaded<'a> {
    pub name: &'a str,
    pub shows: Option<&'a Leaf>,
    pub trusts: &'a [Certificate],
}

impl Loaded<'_> {
    fn end(&self, stack: Stack) -> End<'_> {
        End {
            stack,
            presents: self.shows.map_or(&[], |leaf| leaf.chain.as_slice()),
            trusts: self.trusts,
        }
    }
}

pub fn promised(
    (server_stack, server): (Stack, &Loaded<'_>),
    (client_stack, client): (Stack, &Loaded<'_>),
) -> Promise {
    let (server, client) = (server.end(server_stack), client.end(client_stack));
    connects(&server, &client, HOST, now())
}

/// Connects every client to the server, each with each of its libraries, and tells where what
/// happened is not what was promised. Counts connections in `made`.
pub fn deviations(
    stacks: &Stacks,
    (server_stack, server): (Stack, &Loaded<'_>),
    clients: &[Loaded<'_>],
    client_stacks: &[Stack],
    made: &mut usize,
) -> Vec<String> {
    let mut found = Vec::new();
    let leaf = server.shows.unwrap();
    let (chain, trust) = (pem(&leaf.chain), pem(server.trusts));
    let identity = Identity {
        chain: &chain,
        key: &leaf.key,
    };
    let asks = (!server.trusts.is_empty()).then_some(trust.as_str());
    let running = stacks.serve(real(server_stack), identity, asks);
    for client in clients {
        let trust = pem(client.trusts);
        let chain = client.shows.map(|leaf| pem(&leaf.chain));
        let identity = client.shows.zip(chain.as_deref()).map(|(leaf, chain)| {
            let key = leaf.key.as_str();
            Identity { chain, key }
        });
        for &stack in client_stacks {
            // gnutls-cli itself, not the library, loads no longer chain of its own.
            if stack == Stack::GnuTls && client.shows.is_some_and(|leaf| leaf.chain.len() > 6) {
                continue;
            }
            let promise = promised((server_stack, server), (stack, client));
            let real = stacks.connect(real(stack), running.port(), HOST, &trust, identity);
            *made += 1;
            if promise.connects() != real.is_ok() {
                found.push(format!(
                    "{stack} client ({}), {server_stack} server ({}): promised {promise:?}, \
                     happened {real:?}",
                    client.name, server.name
                ));
            }
        }
    }
    found
}

pub fn real(stack: Stack) -> stacks::Stack {
    match stack {
        Stack::Go => stacks::Stack::Go,
        Stack::Rustls => stacks::Stack::Rustls,
        Stack::OpenSsl => stacks::Stack::OpenSsl,
        Stack::GnuTls => stacks::Stack::GnuTls,
        Stack::Java => stacks::Stack::Java,
    }
}
