//! Who gets in, and what those hear who do not.

use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use kubepki_remote::ssh::{Credentials, Endpoint, PrivateKey, Session, SshError, Timeouts};
use testkit::{SshKey, SshKeyType, SshdOptions};
use zeroize::Zeroizing;

use super::common::{Lab, TIMEOUTS, credentials, output, tool, write};

const KINDS: [SshKeyType; 3] = [SshKeyType::Ed25519, SshKeyType::Ecdsa, SshKeyType::Rsa];

#[tokio::test]
async fn keys_of_every_kind_get_in() {
    let lab = Lab::new();
    for kind in KINDS {
        let key = SshKey::make(lab.folder.path(), "kind", kind, "");
        lab.server.authorize(std::slice::from_ref(&key.public));
        let mut endpoint = lab.endpoint();
        endpoint.keys = credentials(&key.path);
        let session = lab.try_connect(&endpoint).await.unwrap();
        assert_eq!(output(&session, &["id", "-un"]).await, "root\n");
        assert_eq!(session.accepted(), []);
        let name = "Accepted publickey for root from 127.0.0.1 port";
        let log = lab.server.log();
        assert!(
            log.contains(name) && log.contains(&key.fingerprint()),
            "{log}"
        );
    }
    // An RSA key never signs with SHA-1.
    assert!(
        !lab.server.log().contains("ssh-rsa "),
        "{}",
        lab.server.log()
    );
}

/// A P-256 key whose scalar begins with zeros, in OpenSSH's own writing: without them.
fn short_key(folder: &Path, cipher: &str, passphrase: &str) -> SshKey {
    let path = folder.join("short");
    let name = path.to_str().unwrap();
    // ECPrivateKey of RFC 5915 without the public key: OpenSSL computes it.
    let scalar = tool("openssl", &["rand", "-hex", "30"]);
    let sec1 = format!(
        "303102010104200000{}a00a06082a8648ce3d030107",
        scalar.trim()
    );
    let sec1: Vec<u8> = (0..sec1.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&sec1[at..at + 2], 16).unwrap())
        .collect();
    write(&path, &sec1);
    tool(
        "openssl",
        &["ec", "-inform", "DER", "-in", name, "-out", name],
    );
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    let encrypt = ["-q", "-p", "-P", "", "-N", passphrase, "-Z", cipher];
    tool(
        "ssh-keygen",
        &[&encrypt[..], &["-C", "short", "-f", name]].concat(),
    );
    let public = tool("ssh-keygen", &["-y", "-P", passphrase, "-f", name]);
    write(&path.with_extension("pub"), public.as_bytes());
    SshKey {
        kind: SshKeyType::Ecdsa,
        path,
        public: public.trim_end().to_owned(),
    }
}

#[tokio::test]
async fn a_key_with_a_short_scalar_gets_in() {
    let lab = Lab::new();
    for (cipher, passphrase) in [
        ("aes256-ctr", ""),
        ("aes256-ctr", "open sesame"),
        ("aes256-gcm@openssh.com", "open sesame"),
        ("chacha20-poly1305@openssh.com", "open sesame"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let key = short_key(folder.path(), cipher, passphrase);
        lab.server.authorize(std::slice::from_ref(&key.public));
        let mut endpoint = lab.endpoint();
        let private = PrivateKey::from_file(&key.path).unwrap();
        let with = |passphrase: &str| match passphrase {
            "" => private.clone(),
            some => private
                .clone()
                .with_passphrase(Zeroizing::new(some.to_owned())),
        };
        endpoint.keys.key = Some(with(passphrase));
        let session = lab.try_connect(&endpoint).await;
        assert!(session.is_ok(), "{cipher} {passphrase:?}: {session:?}");
        if !passphrase.is_empty() {
            endpoint.keys.key = Some(with("sesame"));
            let error = lab.try_connect(&endpoint).await.unwrap_err();
            assert!(
                matches!(error, SshError::WrongPassphrase { .. }),
                "{error:?}"
            );
        }
    }
}

/// `ssh-keygen -m PEM` writes what old keys look like: PKCS#1 and SEC 1, encrypted with AES-128.
#[tokio::test]
async fn old_formats_are_read() {
    let lab = Lab::new();
    for (kind, format, passphrase) in [
        (SshKeyType::Rsa, "PEM", ""),
        (SshKeyType::Rsa, "PEM", "sesame"),
        (SshKeyType::Rsa, "PKCS8", ""),
        (SshKeyType::Rsa, "PKCS8", "sesame"),
        (SshKeyType::Ecdsa, "PEM", ""),
        (SshKeyType::Ecdsa, "PKCS8", ""),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let key = SshKey::make(folder.path(), "old", kind, "");
        let path = key.path.to_str().unwrap();
        tool(
            "ssh-keygen",
            &[
                "-q", "-p", "-P", "", "-N", passphrase, "-m", format, "-f", path,
            ],
        );
        lab.server.authorize(std::slice::from_ref(&key.public));
        let mut endpoint = lab.endpoint();
        let mut private = PrivateKey::from_file(&key.path).unwrap();
        if !passphrase.is_empty() {
            private = private.with_passphrase(Zeroizing::new(passphrase.to_owned()));
        }
        endpoint.keys.key = Some(private);
        let session = lab.try_connect(&endpoint).await;
        assert!(
            session.is_ok(),
            "{kind:?} {format} {passphrase}: {session:?}"
        );
    }
}

#[tokio::test]
async fn an_encrypted_key_needs_its_passphrase() {
    let lab = Lab::new();
    let key = SshKey::make(
        lab.folder.path(),
        "locked",
        SshKeyType::Ed25519,
        "open sesame",
    );
    lab.server.authorize(std::slice::from_ref(&key.public));
    let mut endpoint = lab.endpoint();

    endpoint.keys = credentials(&key.path);
    let error = lab.try_connect(&endpoint).await.unwrap_err();
    assert!(matches!(error, SshError::KeyEncrypted { .. }), "{error:?}");
    assert!(
        error.to_string().contains("ssh_agent_auth: true"),
        "{error}"
    );
    assert!(
        error
            .to_string()
            .contains("cannot decode encrypted private keys")
    );

    let file = lab.path("passphrase");
    let with_file = |content: &str| {
        write(&file, content.as_bytes());
        PrivateKey::from_file(&key.path)
            .unwrap()
            .with_passphrase_file(&file)
    };
    for wrong in ["sesame", "open sesame\n\n", "open sesame "] {
        endpoint.keys.key = Some(with_file(wrong).unwrap());
        let error = lab.try_connect(&endpoint).await.unwrap_err();
        assert!(
            matches!(error, SshError::WrongPassphrase { .. }),
            "{error:?}"
        );
        assert!(!format!("{error} {error:?} {endpoint:?}").contains("sesame"));
    }
    for right in ["open sesame", "open sesame\n", "open sesame\r\n"] {
        endpoint.keys.key = Some(with_file(right).unwrap());
        assert!(lab.try_connect(&endpoint).await.is_ok(), "{right:?}");
    }
    let empty = with_file("\n").unwrap_err();
    assert!(matches!(empty, SshError::PassphraseFile { .. }), "{empty}");
}

#[tokio::test]
async fn a_certificate_gets_in_where_its_key_alone_does_not() {
    let folder = tempfile::tempdir().unwrap();
    let ca = SshKey::make(folder.path(), "ca", SshKeyType::Ed25519, "");
    let ca_public = ca.path.with_extension("pub");
    let lab = Lab::with(SshdOptions {
        lines: vec![format!("TrustedUserCAKeys {}", ca_public.display())],
        ..SshdOptions::default()
    });
    let sign = |key: &SshKey, more: &[&str]| -> PathBuf {
        let public = key.path.with_extension("pub");
        let mut arguments = vec!["-q", "-s", ca.path.to_str().unwrap(), "-I", "test"];
        arguments.extend(["-n", "root"]);
        arguments.extend(more);
        arguments.push(public.to_str().unwrap());
        tool("ssh-keygen", &arguments);
        PathBuf::from(format!("{}-cert.pub", key.path.display()))
    };
    let mut endpoint = lab.endpoint();
    for kind in KINDS {
        let key = SshKey::make(lab.folder.path(), "certified", kind, "");
        let private = PrivateKey::from_file(&key.path).unwrap();
        endpoint.keys.key = Some(private.clone());
        let alone = lab.try_connect(&endpoint).await.unwrap_err();
        assert!(matches!(alone, SshError::Refused { .. }), "{alone}");
        let certificate = sign(&key, &[]);
        endpoint.keys.key = Some(private.clone().with_certificate_file(&certificate).unwrap());
        assert!(
            lab.try_connect(&endpoint).await.is_ok(),
            "{kind:?}: {}",
            lab.server.log()
        );

        // One that has ended, one for hosts, one for another key.
        let ended = sign(&key, &["-V", "-2h:-1h"]);
        endpoint.keys.key = Some(private.clone().with_certificate_file(&ended).unwrap());
        let error = lab.try_connect(&endpoint).await.unwrap_err();
        assert!(error.to_string().contains("a certificate for"), "{error}");
        let host = sign(&key, &["-h"]);
        endpoint.keys.key = Some(private.with_certificate_file(&host).unwrap());
        let error = lab.try_connect(&endpoint).await.unwrap_err();
        assert!(matches!(error, SshError::Certificate { .. }), "{error}");
        let other = PrivateKey::from_file(&lab.user.path).unwrap();
        let other = other.with_certificate_file(&sign(&key, &[])).unwrap();
        endpoint.keys.key = Some(other);
        let error = lab.try_connect(&endpoint).await.unwrap_err();
        assert!(
            error.to_string().contains("not for the configured one"),
            "{error}"
        );
    }
    endpoint.keys.key = lab
        .keys()
        .key
        .map(|key| key.with_certificate("ssh-ed25519 AAAA"));
    let error = lab.try_connect(&endpoint).await.unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("Unable to parse SSH certificate: "),
        "{error}"
    );
}

/// A real ssh-agent that ends with its value.
struct Agent {
    process: Child,
    socket: PathBuf,
}

impl Agent {
    #[expect(
        clippy::disallowed_methods,
        reason = "a door of the tests to other programs"
    )]
    fn start(folder: &Path) -> Self {
        let socket = folder.join("agent");
        let process = Command::new("ssh-agent")
            .args(["-D", "-a"])
            .arg(&socket)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        while std::os::unix::net::UnixStream::connect(&socket).is_err() {
            std::thread::sleep(Duration::from_millis(5));
        }
        Self { process, socket }
    }

    fn add(&self, key: &Path) {
        let script = "SSH_AUTH_SOCK=$1 ssh-add -q \"$2\"";
        let (socket, key) = (self.socket.to_str().unwrap(), key.to_str().unwrap());
        tool("sh", &["-c", script, "sh", socket, key]);
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test]
async fn an_agent_is_asked_for_all_its_keys() {
    let lab = Lab::new();
    let agent = Agent::start(lab.folder.path());
    let mut endpoint = lab.endpoint();
    // The agent is the only way, as in RKE: the key that would do is not tried.
    endpoint.keys.agent = Some(agent.socket.clone());
    let empty = lab.try_connect(&endpoint).await.unwrap_err();
    assert!(empty.to_string().contains("ssh-add"), "{empty}");

    for kind in KINDS {
        let stranger = SshKey::make(lab.folder.path(), "stranger", kind, "");
        agent.add(&stranger.path);
    }
    let refused = lab.try_connect(&endpoint).await.unwrap_err();
    assert!(matches!(refused, SshError::Refused { .. }), "{refused}");
    for kind in KINDS {
        let key = SshKey::make(lab.folder.path(), "friend", kind, "");
        agent.add(&key.path);
        lab.server.authorize(std::slice::from_ref(&key.public));
        assert!(
            lab.try_connect(&endpoint).await.is_ok(),
            "{kind:?}: {}",
            lab.server.log()
        );
    }

    endpoint.keys.agent = Some(lab.path("no-agent"));
    let missing = lab.try_connect(&endpoint).await.unwrap_err().to_string();
    let socket = lab.path("no-agent");
    let expected = format!(
        "Cannot connect to SSH Auth socket {:?}: dial unix {}: connect: no such file or directory",
        socket.display().to_string(),
        socket.display()
    );
    assert_eq!(missing, expected);
}

#[tokio::test]
async fn wrong_user_and_wrong_key_are_refused_with_what_was_shown() {
    let lab = Lab::new();
    let mut endpoint = lab.endpoint();
    endpoint.user = "nobody-knows".to_owned();
    let error = lab.try_connect(&endpoint).await.unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, SshError::Refused { .. }), "{text}");
    assert!(!error.is_unreachable());
    let start = format!(
        "Unable to access node with address [{}] using SSH. Please check if you are able to SSH to \
         the node using the specified SSH Private Key and if you have configured the correct SSH \
         username. Error: ssh: handshake failed: ssh: unable to authenticate",
        endpoint.name()
    );
    assert!(text.starts_with(&start), "{text}");
    assert!(text.ends_with("no supported methods remain"), "{text}");
    assert!(
        text.contains("nobody-knows") && text.contains(&lab.user.fingerprint()),
        "{text}"
    );

    let stranger = SshKey::make(lab.folder.path(), "stranger", SshKeyType::Rsa, "");
    let mut endpoint = lab.endpoint();
    endpoint.keys = credentials(&stranger.path);
    let error = lab.try_connect(&endpoint).await.unwrap_err();
    assert!(
        error.to_string().contains(&stranger.fingerprint()),
        "{error}"
    );
}

#[tokio::test]
async fn what_is_no_key_is_told_before_anybody_is_called() {
    // Nobody listens there; nobody is called.
    let nowhere = |key: Option<PrivateKey>| Endpoint {
        address: "127.0.0.1".to_owned(),
        port: 1,
        user: "root".to_owned(),
        keys: Credentials { key, agent: None },
        bastion: None,
    };
    let none = kubepki_remote::ssh::HostKeys::default();
    let text = |text: &str| PrivateKey::from_text(Zeroizing::new(text.to_owned()), "ssh_key");
    let broken = "-----BEGIN OPENSSH PRIVATE KEY-----\nc2VjcmV0LWJ5dGVz\n-----END OPENSSH PRIVATE KEY-----\n";
    let cut = "-----BEGIN RSA PRIVATE KEY-----\nc2VjcmV0LWJ5dGVz\n";
    for key in [
        None,
        Some(text("")),
        Some(text("ssh-ed25519 AAAA")),
        Some(text(broken)),
        Some(text(cut)),
    ] {
        let error = Session::connect(&nowhere(key), &none, TIMEOUTS)
            .await
            .unwrap_err();
        assert!(matches!(error, SshError::NoKey { .. }), "{error:?}");
        assert!(
            error
                .to_string()
                .contains("valid SSH Private Key. Error: ssh: no key found")
        );
        assert!(!error.to_string().contains("c2VjcmV0"), "{error}");
        assert!(!error.to_string().contains("secret-bytes"), "{error}");
    }
    let missing = PrivateKey::from_file(Path::new("/nonexistent/id_rsa")).unwrap_err();
    let expected =
        "Error while reading SSH key file: open /nonexistent/id_rsa: no such file or directory";
    assert_eq!(missing.to_string(), expected);
    let certificate = text("")
        .with_certificate_file(Path::new("/nonexistent/cert"))
        .unwrap_err();
    let expected = "Error while reading SSH certificate file: open /nonexistent/cert: no such file or directory";
    assert_eq!(certificate.to_string(), expected);
}

#[tokio::test]
async fn hosts_that_do_not_answer_are_unreachable() {
    let lab = Lab::new();
    let mut endpoint = lab.endpoint();
    let short = Timeouts {
        connect: Duration::from_millis(300),
        ..TIMEOUTS
    };
    let within = async |endpoint: &Endpoint, time: Timeouts| {
        let error = Session::connect(endpoint, &lab.host_keys(), time)
            .await
            .unwrap_err();
        assert!(error.is_unreachable(), "{error:?}");
        error.to_string()
    };

    // A port that nobody has: bound and not listened on.
    let taken = tokio::net::TcpSocket::new_v4().unwrap();
    taken.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    endpoint.port = taken.local_addr().unwrap().port();
    let name = endpoint.name();
    let expected = format!(
        "Failed to dial ssh using address [{name}]: dial tcp {name}: connect: connection refused"
    );
    assert_eq!(within(&endpoint, short).await, expected);

    // One that takes connections and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    endpoint.port = silent.local_addr().unwrap().port();
    let text = within(&endpoint, short).await;
    assert!(
        text.contains("Please check if the node is up and is accepting SSH connections"),
        "{text}"
    );
    assert!(text.contains("operation timed out"), "{text}");

    // One that is no SSH server.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    endpoint.port = listener.local_addr().unwrap().port();
    let server = std::thread::spawn(move || {
        use std::io::Write as _;

        let (mut stream, _) = listener.accept().unwrap();
        let mut greeting = [0; 8];
        stream.read_exact(&mut greeting).unwrap();
        stream
            .write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            .unwrap();
        greeting
    });
    let text = within(&endpoint, TIMEOUTS).await;
    assert!(
        text.starts_with("Failed to dial ssh using address ["),
        "{text}"
    );
    assert_eq!(&server.join().unwrap(), b"SSH-2.0-");

    endpoint.address = "no-such-host.invalid".to_owned();
    let patient = Session::connect(&endpoint, &lab.host_keys(), TIMEOUTS)
        .await
        .unwrap_err();
    assert!(
        patient.to_string().contains("no-such-host.invalid"),
        "{patient}"
    );
}

/// A server with nothing but old algorithms: what it has is said.
#[tokio::test]
async fn no_common_algorithm_is_told_with_the_hosts() {
    let lab = Lab::with(SshdOptions {
        host_keys: vec![SshKeyType::Rsa],
        lines: vec!["HostKeyAlgorithms ssh-rsa".to_owned()],
        ..SshdOptions::default()
    });
    let error = lab
        .try_connect(&lab.endpoint())
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("no common Key algorithm; the host has only ssh-rsa"),
        "{error}"
    );
}
