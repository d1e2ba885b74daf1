//! What can go wrong, in RKE's words where it is the same thing: scripts look for them.

use std::path::PathBuf;

use super::HostKeyError;

/// A host could not be reached over SSH, or not be used.
///
/// Texts never hold a key, a passphrase or what a command read. Where RKE says the same, the text
/// is RKE's, its `Error: …` at the end included (hosts/tunnel.go, hosts/dialer.go).
#[derive(Debug, thiserror::Error)]
pub enum SshError {
    /// A private key's file cannot be read.
    #[error("Error while reading SSH key file: open {}: {reason}", path.display())]
    KeyFile {
        /// Which.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A certificate's file cannot be read.
    #[error("Error while reading SSH certificate file: open {}: {reason}", path.display())]
    CertificateFile {
        /// Which.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A passphrase's file cannot be read or holds none.
    #[error("cannot read the passphrase in {}: {reason}", path.display())]
    PassphraseFile {
        /// Which.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// What was given is no private key, or no key was given at all.
    #[error(
        "Unable to access node with address [{host}] using SSH. Please check if the configured key \
         or specified key file is a valid SSH Private Key. Error: ssh: no key found in {origin}\
         {detail}"
    )]
    NoKey {
        /// `address:port`.
        host: String,
        /// Where the key came from.
        origin: String,
        /// What is wrong with it, after ": "; may be empty.
        detail: String,
    },
    /// The key is encrypted and no passphrase was given.
    #[error(
        "Unable to access node with address [{host}] using SSH. The private key {origin} is \
         encrypted: name a file that holds its passphrase, or use ssh-agent (`ssh_agent_auth: \
         true` in the configuration file, or --ssh-agent-auth). Error: ssh: cannot decode \
         encrypted private keys"
    )]
    KeyEncrypted {
        /// `address:port`.
        host: String,
        /// Where the key came from.
        origin: String,
    },
    /// The passphrase does not open the key.
    #[error(
        "Unable to access node with address [{host}] using SSH. The passphrase does not open the \
         private key {origin}: check the passphrase file, of which one line end at the end is not \
         part of the passphrase"
    )]
    WrongPassphrase {
        /// `address:port`.
        host: String,
        /// Where the key came from.
        origin: String,
    },
    /// The certificate cannot be used with the key.
    #[error("Unable to parse SSH certificate: {reason}")]
    Certificate {
        /// Why.
        reason: String,
    },
    /// ssh-agent cannot be asked.
    #[error("Cannot connect to SSH Auth socket {:?}: {reason}", socket.display().to_string())]
    Agent {
        /// Its socket.
        socket: PathBuf,
        /// Why.
        reason: String,
    },
    /// The host refused every key.
    #[error(
        "Unable to access node with address [{host}] using SSH. Please check if you are able to \
         SSH to the node using the specified SSH Private Key and if you have configured the \
         correct SSH username. Error: ssh: handshake failed: ssh: unable to authenticate user \
         {user:?}, attempted methods [none publickey] with {tried}, no supported methods remain"
    )]
    Refused {
        /// `address:port`.
        host: String,
        /// The user's name.
        user: String,
        /// The keys that were shown: kind and fingerprint of each.
        tried: String,
    },
    /// Nobody answered in time.
    #[error(
        "Unable to access node with address [{host}] using SSH. Please check if the node is up and \
         is accepting SSH connections or check network policies and firewall rules. Error: \
         {what}: operation timed out after {seconds} s"
    )]
    TimedOut {
        /// `address:port`.
        host: String,
        /// What was being done.
        what: &'static str,
        /// For how long.
        seconds: u64,
    },
    /// The connection could not be made.
    #[error("Failed to dial ssh using address [{host}]: {reason}")]
    Dial {
        /// `address:port`.
        host: String,
        /// Why.
        reason: String,
    },
    /// The host's key is not the one that is known, or none is.
    #[error(transparent)]
    HostKey(#[from] HostKeyError),
    /// The bastion could not be reached or refused us.
    #[error("Failed to connect to the bastion host [{bastion}]: {reason}")]
    Bastion {
        /// Its `address:port`.
        bastion: String,
        /// Why; a host key's fault, too.
        reason: Box<SshError>,
    },
    /// The bastion cannot reach the host.
    #[error("Failed to connect to the host [{host}]: the bastion host [{bastion}] says: {reason}")]
    BehindBastion {
        /// The host's `address:port`.
        host: String,
        /// The bastion's.
        bastion: String,
        /// What it said.
        reason: String,
    },
    /// The connection broke. Every later call on the session says the same.
    #[error("the SSH connection to [{host}] is broken: {reason}; connect again")]
    Broken {
        /// `address:port`.
        host: String,
        /// Why.
        reason: String,
    },
    /// A Unix socket on the host cannot be used.
    #[error("{}", socket_text(socket, host, fault))]
    Socket {
        /// `address:port`.
        host: String,
        /// The socket's path.
        socket: String,
        /// What is the matter, as far as it could be found out.
        fault: SocketFault,
    },
    /// A TCP port cannot be reached from the host.
    #[error("Failed to dial to {target} from host [{host}]: {reason}")]
    Tcp {
        /// `address:port`.
        host: String,
        /// The port's host and number.
        target: String,
        /// What sshd said.
        reason: String,
    },
    /// A command could not be started, or its result is not known.
    #[error("cannot run {program} on host [{host}]: {reason}")]
    Exec {
        /// `address:port`.
        host: String,
        /// Its name, without arguments.
        program: String,
        /// Why.
        reason: String,
    },
    /// A command ran past its time.
    #[error(
        "{program} on host [{host}] did not end within {seconds} s; it was asked to end, and may \
         run on"
    )]
    ExecTimedOut {
        /// `address:port`.
        host: String,
        /// Its name, without arguments.
        program: String,
        /// The limit.
        seconds: u64,
    },
    /// The host's file service cannot be used.
    #[error("no SFTP on host [{host}]: {reason}")]
    Sftp {
        /// `address:port`.
        host: String,
        /// Why, and what to do.
        reason: String,
    },
}

/// Why sshd did not let us have a Unix socket. sshd itself says hardly more than "no".
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SocketFault {
    /// sshd could not connect, and a look at the host found nothing more.
    ConnectFailed,
    /// Nothing is at the path.
    Missing,
    /// It is there, and the user may not use it.
    Denied,
    /// The user may use it, but nobody listens, as far as the kernel tells: what made it is not
    /// running.
    NotListening,
    /// sshd forbids forwarding to sockets. OpenSSH 9 does not say so: it is found by a look at a
    /// socket that is listened on and open to the user.
    Prohibited {
        /// The reason that sshd gave, in Go's words: RKE prints those.
        said: &'static str,
    },
    /// Anything else that sshd said.
    Other(String),
}

fn socket_text(socket: &str, host: &str, fault: &SocketFault) -> String {
    let unavailable = |why: &str| {
        format!(
            "Unable to access the service on {socket}. The service might be still starting up. \
             Error: ssh: rejected: connect failed (open failed){why}"
        )
    };
    match fault {
        SocketFault::ConnectFailed => unavailable(""),
        SocketFault::Missing => unavailable(&format!("; there is no {socket} on host [{host}]")),
        SocketFault::NotListening => unavailable(&format!(
            "; nobody seems to listen on {socket} on host [{host}]. If somebody does, set \
                 AllowStreamLocalForwarding yes in the host's sshd_config"
        )),
        SocketFault::Denied => prohibited(
            socket,
            "ssh: rejected: connect failed (open failed); permission denied: the user is not in \
             the socket's group",
        ),
        SocketFault::Prohibited { said } => prohibited(
            socket,
            &format!(
                "ssh: rejected: {said} (open failed); set AllowStreamLocalForwarding yes in the \
                 host's sshd_config"
            ),
        ),
        SocketFault::Other(said) => format!("Failed to dial to {socket}: {said}"),
    }
}

fn prohibited(socket: &str, error: &str) -> String {
    format!(
        "Unable to access the Docker socket ({socket}). Please check if the configured user can \
         execute `docker ps` on the node, and if the SSH server version is at least version 6.7 or \
         higher. If you are using RedHat/CentOS, you can't use the user `root`. Please refer to \
         the documentation for more instructions. Error: {error}"
    )
}

impl SshError {
    /// Whether the host could not be reached at all: down, cut off, or its connection broke. A
    /// refused key, a changed host key or a forbidden socket is not that: somebody has to act.
    pub fn is_unreachable(&self) -> bool {
        match self {
            Self::TimedOut { .. }
            | Self::Dial { .. }
            | Self::BehindBastion { .. }
            | Self::Broken { .. } => true,
            Self::Bastion { reason, .. } => reason.is_unreachable(),
            _ => false,
        }
    }
}
