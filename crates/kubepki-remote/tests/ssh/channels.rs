//! Sockets and ports through a connection.

use std::path::{Path, PathBuf};

use kubepki_remote::ssh::{Session, SocketFault, SshError};
use testkit::SshdOptions;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, UnixListener};

use super::common::{Lab, TIMEOUTS, mode, output, with_ada};

/// Sends back what it gets, to everybody.
async fn echo(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let count = stream.read(&mut buffer).await.unwrap_or(0);
        if count == 0 || stream.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}

fn echo_socket(path: &Path) {
    let listener = UnixListener::bind(path).unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(echo(stream));
        }
    });
}

/// Sends `bytes` and reads as many back, both at once.
async fn there_and_back(stream: impl AsyncRead + AsyncWrite, bytes: &[u8]) -> Vec<u8> {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let write = async {
        writer.write_all(bytes).await.unwrap();
        writer.shutdown().await.unwrap();
    };
    let mut back = Vec::new();
    let read = async { reader.read_to_end(&mut back).await.unwrap() };
    tokio::join!(write, read);
    back
}

fn pattern(seed: usize, length: usize) -> Vec<u8> {
    (0..length)
        .map(|at| ((at * 31 + seed) % 251) as u8)
        .collect()
}

fn is_a_stream<T: AsyncRead + AsyncWrite + Unpin + Send + 'static>(stream: T) -> T {
    stream
}

#[tokio::test]
async fn many_channels_share_a_connection() {
    let lab = Lab::new();
    let session = lab.connect().await;
    let socket = lab.path("echo");
    echo_socket(&socket);
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let number = port.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = port.accept().await {
            tokio::spawn(echo(stream));
        }
    });
    let tasks = (0..24).map(|seed| {
        let (session, socket) = (session.clone(), socket.clone());
        tokio::spawn(async move {
            let bytes = pattern(seed, 700_000);
            let back = if seed % 2 == 0 {
                let stream = session.open_unix(socket.to_str().unwrap()).await.unwrap();
                there_and_back(is_a_stream(stream), &bytes).await
            } else {
                let stream = session.open_tcp("127.0.0.1", number).await.unwrap();
                there_and_back(is_a_stream(stream), &bytes).await
            };
            assert!(back == bytes, "{seed}");
        })
    });
    let tasks: Vec<_> = tasks.collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(lab.server.log().matches("Accepted publickey").count(), 1);
}

/// Docker's log of a container that nobody follows must not stop its restart.
#[tokio::test]
async fn a_stream_that_is_not_read_holds_up_no_other() {
    let lab = Lab::new();
    let session = lab.connect().await;
    let path = lab.path("flood");
    let listener = UnixListener::bind(&path).unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        // As much as fits into every buffer on the way.
        let _ = stream.write_all(&vec![7; 64 * 1024 * 1024]).await;
    });
    let mut unread = session.open_unix(path.to_str().unwrap()).await.unwrap();
    unread.write_all(b"go").await.unwrap();
    let mut first = [0; 1];
    unread.read_exact(&mut first).await.unwrap();
    drop(unread);
    let slow = lab.path("slow");
    let listener = UnixListener::bind(&slow).unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(&vec![7; 1024 * 1024]).await.unwrap();
        std::future::pending::<()>().await;
    });
    let unread = session.open_unix(slow.to_str().unwrap()).await.unwrap();
    for _ in 0..20 {
        assert_eq!(
            output(&session, &["echo", "still here"]).await,
            "still here\n"
        );
    }
    drop(unread);
}

async fn fault(session: &Session, path: &Path) -> (SocketFault, String) {
    let error = session.open_unix(path.to_str().unwrap()).await.unwrap_err();
    let text = error.to_string();
    match error {
        SshError::Socket { fault, .. } => (fault, text),
        other => panic!("{other:?}"),
    }
}

struct Sockets {
    good: PathBuf,
    denied: PathBuf,
    dead: PathBuf,
    file: PathBuf,
}

/// Sockets in a folder that `ada` may enter.
fn sockets(folder: &Path) -> Sockets {
    mode(folder, 0o755);
    let [good, denied, dead, file] = ["good", "denied", "dead", "file"].map(|it| folder.join(it));
    echo_socket(&good);
    mode(&good, 0o666);
    echo_socket(&denied);
    mode(&denied, 0o660);
    drop(std::os::unix::net::UnixListener::bind(&dead).unwrap());
    mode(&dead, 0o666);
    super::common::write(&file, b"");
    Sockets {
        good,
        denied,
        dead,
        file,
    }
}

const STARTING: &str =
    "The service might be still starting up. Error: ssh: rejected: connect failed (open failed)";

#[tokio::test]
async fn a_socket_that_cannot_be_used_is_looked_at() {
    let folder = tempfile::tempdir().unwrap();
    let lab = Lab::with(with_ada(folder.path()));
    let sockets = sockets(lab.folder.path());
    let mut endpoint = lab.endpoint();
    endpoint.user = "ada".to_owned();
    let session = lab.try_connect(&endpoint).await.unwrap();
    assert_eq!(output(&session, &["id", "-u"]).await, "4242\n");
    let stream = session
        .open_unix(sockets.good.to_str().unwrap())
        .await
        .unwrap();
    assert_eq!(there_and_back(stream, b"hello").await, b"hello");

    let (found, text) = fault(&session, &sockets.denied).await;
    assert_eq!(found, SocketFault::Denied);
    let start = format!(
        "Unable to access the Docker socket ({}). Please check if the configured user can execute \
         `docker ps` on the node, and if the SSH server version is at least version 6.7 or higher. \
         If you are using RedHat/CentOS, you can't use the user `root`. Please refer to the \
         documentation for more instructions. Error: ",
        sockets.denied.display()
    );
    assert!(
        text.starts_with(&start) && text.contains("permission denied"),
        "{text}"
    );
    let missing = lab.path("missing");
    let (found, text) = fault(&session, &missing).await;
    assert_eq!(found, SocketFault::Missing);
    let start = format!(
        "Unable to access the service on {}. {STARTING}",
        missing.display()
    );
    assert!(text.starts_with(&start), "{text}");
    let (found, text) = fault(&session, &sockets.dead).await;
    assert_eq!(found, SocketFault::NotListening);
    assert!(text.contains(STARTING), "{text}");
    let (found, text) = fault(&session, &sockets.file).await;
    assert_eq!(
        found,
        SocketFault::Other(format!("{} is not a socket", sockets.file.display()))
    );
    assert!(text.starts_with("Failed to dial to "), "{text}");
}

#[tokio::test]
async fn forbidden_forwarding_is_told_apart() {
    let lab = Lab::with(SshdOptions {
        stream_local: false,
        ..SshdOptions::default()
    });
    let sockets = sockets(lab.folder.path());
    let session = lab.connect().await;
    let (found, text) = fault(&session, &sockets.good).await;
    assert!(matches!(found, SocketFault::Prohibited { .. }), "{found:?}");
    assert!(text.contains("AllowStreamLocalForwarding"), "{text}");
    assert!(
        text.starts_with("Unable to access the Docker socket ("),
        "{text}"
    );

    let lab = Lab::with(SshdOptions {
        lines: vec!["AllowTcpForwarding no".to_owned()],
        ..SshdOptions::default()
    });
    let session = lab.connect().await;
    let error = session.open_tcp("127.0.0.1", 1).await.unwrap_err();
    assert!(matches!(error, SshError::Tcp { .. }), "{error:?}");
    assert!(
        error.to_string().contains("administratively prohibited"),
        "{error}"
    );
}

#[tokio::test]
async fn a_port_that_nobody_has_is_told() {
    let lab = Lab::new();
    let session = lab.connect().await;
    let taken = tokio::net::TcpSocket::new_v4().unwrap();
    taken.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let port = taken.local_addr().unwrap().port();
    let error = session
        .open_tcp("127.0.0.1", port)
        .await
        .unwrap_err()
        .to_string();
    let host = session.host();
    let expected = format!(
        "Failed to dial to 127.0.0.1:{port} from host [{host}]: ssh: rejected: connect failed \
         (open failed)"
    );
    assert_eq!(error, expected);
    assert!(
        session
            .exec(&["true".to_owned()], b"", TIMEOUTS.request)
            .await
            .is_ok()
    );
}
