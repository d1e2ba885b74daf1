//! The exchange with one server: CA files, then a certificate for each request. Nothing is
//! written; what comes out is whole or an error.

use std::collections::BTreeMap;

use kubepki::agent::{Accepted, AnswerError, Node, Trust, Wanted, kubeconfigs, wanted};
use kubepki::edge::KeySource as _;
use kubepki::kubeconfig::Kubeconfig;
use kubepki_remote::{AgentConnection, NodeProof, SupervisorError};
use pki::{Certificate, CertificateRequest, KeyAlgorithm, Name, PrivateKey, UnixTime};
use zeroize::Zeroizing;

use super::files::Files;
use super::login::Login;
use super::turn::Failure;
use super::{LOAD_BALANCER, NodeArgs, window};
use crate::error::{CliError, Exit};
use crate::output;
use crate::world::World;

/// A node's files as they shall be.
#[derive(Default)]
pub struct Obtained {
    pub files: Vec<Obtainee>,
    /// What stays as it is, for people.
    pub said: Vec<String>,
}

/// A file as it shall be.
pub struct Obtainee {
    /// Its name below `agent/`.
    pub name: String,
    /// All of it.
    pub bytes: Zeroizing<Vec<u8>>,
    /// Why it is written, if it differs from what is there.
    pub reason: String,
}

impl Obtained {
    fn file(&mut self, name: String, bytes: Zeroizing<Vec<u8>>, reason: &str) {
        self.files.push(Obtainee {
            name,
            bytes,
            reason: reason.to_owned(),
        });
    }
}

/// What is wanted, by whom and how.
pub struct Asking<'a> {
    pub world: &'a World,
    pub args: &'a NodeArgs,
    pub files: &'a Files,
    pub node: &'a Node,
    /// The node's password; none where it was lost.
    pub password: Option<&'a str>,
    pub login: &'a Login<'a>,
}

/// Certificates that servers gave before one of them failed. They are issued and recorded there:
/// they are not asked for twice.
#[derive(Default)]
pub struct Kept(BTreeMap<&'static str, Leaf>);

/// A certificate that was accepted.
struct Leaf {
    key: Zeroizing<Vec<u8>>,
    text: Zeroizing<Vec<u8>>,
    /// Whose key it is.
    origin: &'static str,
    reason: String,
}

/// Asks for everything that is missing or due.
pub async fn obtain(
    asking: &Asking<'_>,
    connection: &AgentConnection,
    kept: &mut Kept,
) -> Result<Obtained, Failure> {
    let Asking {
        world, args, files, ..
    } = asking;
    let (client, client_text) = bundle(asking, connection, "client-ca.crt").await?;
    let (server, server_text) = bundle(asking, connection, "server-ca.crt").await?;
    let trust = Trust { client, server };
    let mut obtained = Obtained::default();
    let shown = "what the server shows";
    obtained.file("client-ca.crt".to_owned(), client_text, shown);
    obtained.file("server-ca.crt".to_owned(), server_text, shown);
    for wanted in wanted(asking.node) {
        let certificate_file = format!("{}.crt", wanted.row.path);
        if !kept.is_good(&wanted, &trust, world.now()) {
            let key = key(world, files, &wanted)?;
            let present = files.read(&certificate_file);
            let due = wanted.due(present, &key, &trust, window(args), world.now());
            let Some(why) = due else {
                obtained.said.push(format!("{certificate_file} stays"));
                continue;
            };
            let leaf = ask(asking, connection, &wanted, key, &trust, &why).await?;
            kept.0.insert(wanted.row.path, leaf);
        }
        if let Some(leaf) = kept.0.get(wanted.row.path) {
            let key_file = format!("{}.key", wanted.row.path);
            obtained.file(key_file, leaf.key.clone(), leaf.origin);
            obtained.file(certificate_file, leaf.text.clone(), &leaf.reason);
        }
    }
    for (name, text) in configs(asking) {
        obtained.file(name, text, "leads to the certificates");
    }
    Ok(obtained)
}

impl Kept {
    /// Whether there is one, and it stands under what this server shows too.
    fn is_good(&self, wanted: &Wanted, trust: &Trust, now: UnixTime) -> bool {
        let Some(leaf) = self.0.get(wanted.row.path) else {
            return false;
        };
        PrivateKey::from_pem(&leaf.key)
            .is_ok_and(|key| wanted.accept(&leaf.text, &key, false, trust, now).is_ok())
    }
}

/// Asks for one certificate.
async fn ask(
    asking: &Asking<'_>,
    connection: &AgentConnection,
    wanted: &Wanted,
    key: PrivateKey,
    trust: &Trust,
    why: &str,
) -> Result<Leaf, Failure> {
    // K3s looks at them for the kubelet's two only; a strict server gives nobody a certificate
    // that is bound to no node.
    let proof = NodeProof {
        name: asking.node.name(),
        password: asking.password,
        addresses: match wanted.carries_addresses() {
            true => asking.node.addresses(),
            false => &[],
        },
    };
    let empty = Name::from_der(EMPTY).map_err(CliError::from)?;
    let csr = CertificateRequest::new(&empty, &[], &key).map_err(CliError::from)?;
    let endpoint = wanted.endpoint();
    let answer = connection.certificate(&endpoint, &proof, &csr).await;
    let answer = answer.map_err(|error| asking.refused(&error))?;
    let now = asking.world.now();
    let accepted = wanted.accept(&answer, &key, asking.args.take_shared_keys, trust, now);
    let Accepted { text, shared_key } =
        accepted.map_err(|error| not_taken(connection, wanted, &error))?;
    let end = end_of(&text).map_or_else(String::new, |end| format!(", until {end}"));
    let origin = match shared_key {
        Some(_) => "the server's key, which all nodes share",
        None => "the node's own key",
    };
    let key = shared_key.unwrap_or(key).to_pem().map_err(CliError::from)?;
    Ok(Leaf {
        key: Zeroizing::new(key.as_bytes().to_vec()),
        text: Zeroizing::new(text.into_bytes()),
        origin,
        reason: format!("the former {why}{end}"),
    })
}

impl Asking<'_> {
    /// A server said no to a request for a certificate.
    fn refused(&self, error: &SupervisorError) -> Failure {
        let mut failure = self.login.failure(error);
        let by_password = matches!(
            error,
            SupervisorError::NodeRefused {
                status: 400..=403,
                ..
            }
        );
        if self.password.is_none() && by_password {
            failure.error.hint = Some(format!(
                "{} is missing, so no password was sent: put it back from a copy, or name it with \
                 --node-password-file; where it is lost, free the node's name (`kubepki node \
                 forget`; with K3s the Secret {}.node-password.k3s) and `kubepki join` with a token",
                self.files.password_file.display(),
                self.node.name()
            ));
        }
        failure
    }
}

fn not_taken(connection: &AgentConnection, wanted: &Wanted, error: &AnswerError) -> CliError {
    let hint = matches!(error, AnswerError::SentKey).then(|| {
        "upgrade the server; until then --take-shared-keys takes such keys, as K3s's own agents do"
    });
    CliError {
        exit: Exit::Refused,
        message: format!(
            "what {connection:?} answered to {} is not taken: {}",
            wanted.endpoint(),
            kubepki::error_chain(error)
        ),
        hint: hint.map(str::to_owned),
    }
}

/// The node's kubeconfigs, by file name. They lead where the operator says; those that are there
/// lead where they led.
fn configs(asking: &Asking<'_>) -> Vec<(String, Zeroizing<Vec<u8>>)> {
    let directory = &asking.files.directory;
    let named = asking.args.kubeconfig_server.as_deref();
    let mut configs = Vec::new();
    for (path, text) in kubeconfigs(directory, named.unwrap_or(LOAD_BALANCER)) {
        let Some(name) = path.file_name().map(|it| it.to_string_lossy().into_owned()) else {
            continue;
        };
        let kept = match named {
            None => asking.files.read(&name).and_then(server_of),
            Some(_) => None,
        };
        let again = kept.map(|server| kubeconfigs(directory, &server));
        let kept = again.into_iter().flatten().find(|(it, _)| *it == path);
        let text = kept.map_or(text, |(_, text)| text);
        configs.push((name, Zeroizing::new(text.into_bytes())));
    }
    configs
}

/// Where a kubeconfig leads.
fn server_of(text: &[u8]) -> Option<String> {
    let parsed = Kubeconfig::parse(text).ok()?;
    parsed.clusters.into_iter().next()?.server
}

/// A name without parts: K3s's agents leave the subject out, for servers decide it.
const EMPTY: &[u8] = &[0x30, 0];

async fn bundle(
    asking: &Asking<'_>,
    connection: &AgentConnection,
    name: &str,
) -> Result<(Vec<Certificate>, Zeroizing<Vec<u8>>), Failure> {
    let path = format!("/v1-k3s/{name}");
    let text = connection.get(&path).await;
    let text = text.map_err(|error| asking.login.failure(&error))?;
    let certificates = Certificate::all_from_pem(&text).map_err(|error| {
        CliError::message(format!(
            "what {connection:?} shows as {name} is no CA bundle: {error}"
        ))
    })?;
    if !certificates.iter().any(Certificate::is_ca) {
        return Err(
            CliError::message(format!("what {connection:?} shows as {name} holds no CA")).into(),
        );
    }
    Ok((certificates, Zeroizing::new(text)))
}

/// The node's key for a leaf: the present one, or a new one.
fn key(world: &World, files: &Files, wanted: &Wanted) -> Result<PrivateKey, CliError> {
    let name = format!("{}.key", wanted.row.path);
    if let Some(text) = files.read(&name) {
        match PrivateKey::from_pem(text) {
            Ok(key) => return Ok(key),
            Err(error) => output::talk(&format!(
                "Note: {} cannot be read and is replaced: {error}",
                files.directory.join(&name).display()
            )),
        }
    }
    Ok(world.keys.generate(KeyAlgorithm::P256)?)
}

fn end_of(text: &str) -> Option<UnixTime> {
    let chain = Certificate::all_from_pem(text.as_bytes()).ok()?;
    Some(chain.first()?.validity().not_after)
}
