//! The exchange with one server: CA files, then a certificate for each request. Nothing is
//! written; what comes out is whole or an error.

use kubepki::agent::{Accepted, AnswerError, Node, Trust, Wanted, kubeconfigs, wanted};
use kubepki::edge::KeySource as _;
use kubepki_remote::{AgentConnection, NodeProof};
use pki::{Certificate, CertificateRequest, KeyAlgorithm, Name, PrivateKey, UnixTime};
use zeroize::Zeroizing;

use super::files::Files;
use super::{NodeArgs, refusal, window};
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

/// Asks for everything that is missing or due.
pub async fn obtain(
    world: &World,
    connection: &AgentConnection,
    args: &NodeArgs,
    files: &Files,
    node: &Node,
    password: &str,
) -> Result<Obtained, CliError> {
    let (client, client_text) = bundle(connection, "client-ca.crt").await?;
    let (server, server_text) = bundle(connection, "server-ca.crt").await?;
    let trust = Trust { client, server };
    let mut obtained = Obtained::default();
    let shown = "what the server shows";
    obtained.file("client-ca.crt".to_owned(), client_text, shown);
    obtained.file("server-ca.crt".to_owned(), server_text, shown);
    for wanted in wanted(node) {
        let key = key(world, files, &wanted)?;
        let certificate_file = format!("{}.crt", wanted.row.path);
        let present = files.read(&certificate_file);
        let now = world.now();
        let Some(why) = wanted.due(present, &key, &trust, window(args), now) else {
            obtained.said.push(format!("{certificate_file} stays"));
            continue;
        };
        // K3s looks at them for the kubelet's two only; a strict server gives nobody a certificate
        // that is bound to no node.
        let proof = NodeProof {
            name: node.name(),
            password,
            addresses: match wanted.carries_addresses() {
                true => node.addresses(),
                false => &[],
            },
        };
        let csr = CertificateRequest::new(&Name::from_der(EMPTY)?, &[], &key)?;
        let answer = connection
            .certificate(&wanted.endpoint(), &proof, &csr)
            .await
            .map_err(|error| refusal(&error))?;
        let accepted = wanted.accept(&answer, &key, args.take_shared_keys, &trust, world.now());
        let Accepted { text, shared_key } =
            accepted.map_err(|error| not_taken(connection, &wanted, &error))?;
        let end = end_of(&text).map_or_else(String::new, |end| format!(", until {end}"));
        let origin = match shared_key {
            Some(_) => "the server's key, which all nodes share",
            None => "the node's own key",
        };
        let key = shared_key.unwrap_or(key);
        let key_text = Zeroizing::new(key.to_pem()?.as_bytes().to_vec());
        obtained.file(format!("{}.key", wanted.row.path), key_text, origin);
        let text = Zeroizing::new(text.into_bytes());
        let reason = format!("the former {why}{end}");
        obtained.file(certificate_file, text, &reason);
    }
    for (name, text) in configs(args, files) {
        obtained.file(name, text, "leads to the certificates");
    }
    Ok(obtained)
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

/// The node's kubeconfigs, by file name.
fn configs(args: &NodeArgs, files: &Files) -> Vec<(String, Zeroizing<Vec<u8>>)> {
    let texts = kubeconfigs(&files.directory, &args.kubeconfig_server);
    texts
        .into_iter()
        .filter_map(|(path, text)| {
            let name = path.file_name()?.to_string_lossy().into_owned();
            Some((name, Zeroizing::new(text.into_bytes())))
        })
        .collect()
}

/// A name without parts: K3s's agents leave the subject out, for servers decide it.
const EMPTY: &[u8] = &[0x30, 0];

async fn bundle(
    connection: &AgentConnection,
    name: &str,
) -> Result<(Vec<Certificate>, Zeroizing<Vec<u8>>), CliError> {
    let path = format!("/v1-k3s/{name}");
    let text = connection.get(&path).await;
    let text = text.map_err(|error| refusal(&error))?;
    let certificates = Certificate::all_from_pem(&text).map_err(|error| {
        CliError::message(format!(
            "what {connection:?} shows as {name} is no CA bundle: {error}"
        ))
    })?;
    if !certificates.iter().any(Certificate::is_ca) {
        return Err(CliError::message(format!(
            "what {connection:?} shows as {name} holds no CA"
        )));
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
