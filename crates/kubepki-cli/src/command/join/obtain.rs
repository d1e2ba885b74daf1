//! The exchange with one server: CA files, then a certificate for each request. Nothing is
//! written; what comes out is whole or an error.

use kubepki::agent::{Node, Trust, Wanted, kubeconfigs, wanted};
use kubepki::edge::KeySource as _;
use kubepki_remote::{AgentConnection, NodeProof};
use pki::{Certificate, CertificateRequest, KeyAlgorithm, Name, PrivateKey, UnixTime};
use zeroize::Zeroizing;

use super::files::Files;
use super::{NodeArgs, refusal, window};
use crate::error::{CliError, Exit};
use crate::output;
use crate::world::World;

/// A node's files as they shall be: name below `agent/`, bytes.
pub struct Obtained {
    pub files: Vec<(String, Zeroizing<Vec<u8>>)>,
    /// What the certificates are, for people.
    pub said: Vec<String>,
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
    let mut obtained = Obtained {
        files: vec![
            ("client-ca.crt".to_owned(), client_text),
            ("server-ca.crt".to_owned(), server_text),
        ],
        said: Vec::new(),
    };
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
        let accepted = wanted.accept(&answer, &key, &trust, world.now());
        let text = accepted.map_err(|error| CliError {
            exit: Exit::Refused,
            message: format!(
                "what {connection:?} answered to {} is not taken: {}",
                wanted.endpoint(),
                kubepki::error_chain(&error)
            ),
            hint: None,
        })?;
        let end = end_of(&text).map_or_else(String::new, |end| format!(", until {end}"));
        obtained
            .said
            .push(format!("{certificate_file} is new (the former {why}){end}"));
        let key_text = Zeroizing::new(key.to_pem()?.as_bytes().to_vec());
        let key_file = format!("{}.key", wanted.row.path);
        obtained.files.push((key_file, key_text));
        let text = Zeroizing::new(text.into_bytes());
        obtained.files.push((certificate_file, text));
    }
    obtained.files.extend(configs(args, files));
    Ok(obtained)
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
