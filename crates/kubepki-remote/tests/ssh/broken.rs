//! Connections that break: no call hangs, and each says why.

use std::time::Duration;

use kubepki::host::Host as _;
use kubepki_remote::ssh::{Session, SshError, Timeouts};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::common::{Lab, TIMEOUTS, argv, output};
use super::files::file;

/// Every kind of call on a dead connection.
async fn all_say_broken(session: &Session) {
    let broken = |error: SshError| {
        assert!(matches!(error, SshError::Broken { .. }), "{error:?}");
        assert!(error.is_unreachable());
        assert!(error.to_string().ends_with("; connect again"), "{error}");
    };
    for _ in 0..2 {
        broken(session.open_unix("/run/docker.sock").await.unwrap_err());
        broken(session.open_tcp("127.0.0.1", 1).await.unwrap_err());
        broken(session.sftp().await.unwrap_err());
        broken(
            session
                .exec(&argv(&["true"]), b"", TIMEOUTS.request)
                .await
                .unwrap_err(),
        );
    }
}

#[tokio::test]
async fn a_killed_session_is_noticed_by_everybody() {
    let lab = Lab::new();
    let session = lab.connect().await;
    let files = session.sftp().await.unwrap();
    let path = lab.path("echo");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let mut stream = session.open_unix(path.to_str().unwrap()).await.unwrap();
    let (mut other_end, _) = listener.accept().await.unwrap();
    other_end.write_all(b"!").await.unwrap();
    let mut one = [0; 1];
    stream.read_exact(&mut one).await.unwrap();
    let waiting = {
        let session = session.clone();
        let words = argv(&["sleep", "1000"]);
        tokio::spawn(async move { session.exec(&words, b"", Duration::from_secs(900)).await })
    };
    // The command runs before its session is killed.
    while !output(&session, &["sh", "-c", "ps -A -o args | cat"])
        .await
        .contains("sleep 1000")
    {}
    lab.server.kill_sessions();

    let error = waiting.await.unwrap().unwrap_err();
    assert!(matches!(error, SshError::Exec { .. }), "{error:?}");
    assert!(
        error.to_string().contains("the connection broke"),
        "{error}"
    );
    // Not an end of file: Docker's answer would look complete.
    let error = stream.read(&mut one).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    assert!(error.to_string().contains("is broken"), "{error}");
    let error = loop {
        if let Err(error) = stream.write_all(&[0; 1024]).await {
            break error;
        }
    };
    assert!(error.to_string().contains("is broken"), "{error}");
    all_say_broken(&session).await;
    for _ in 0..2 {
        let error = files.read("/etc/passwd".as_ref()).await.unwrap_err();
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert!(source.contains("is broken"), "{source}");
    }
    // Connecting again is the caller's, and works.
    assert_eq!(
        output(&lab.connect().await, &["echo", "again"]).await,
        "again\n"
    );
}

#[tokio::test]
async fn a_transfer_that_breaks_off_changes_nothing() {
    let lab = Lab::new();
    let path = lab.path("key");
    super::common::write(&path, b"old");
    let mut broke = 0;
    for wait in [0, 1, 3, 10, 30] {
        let files = lab.connect().await.sftp().await.unwrap();
        let new = file(&vec![b'n'; 15_000_000], 0o600);
        let put = async {
            let done = files.put(&path, &new).await;
            done.is_ok()
        };
        let kill = async {
            tokio::time::sleep(Duration::from_millis(wait)).await;
            lab.server.kill_sessions();
        };
        let (done, ()) = tokio::join!(put, kill);
        let now = std::fs::metadata(&path).unwrap().len();
        assert!(now == 3 || now == 15_000_000, "{now}");
        assert!(!done || now == 15_000_000);
        if now == 3 {
            broke += 1;
        }
        super::common::write(&path, b"old");
    }
    assert!(broke > 0);
    let files = lab.connect().await.sftp().await.unwrap();
    files.put(&path, &file(b"new", 0o600)).await.unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"new");
    let left = files.list(lab.folder.path()).await.unwrap().unwrap();
    assert!(
        !left.iter().any(|name| name.ends_with(".kubepki-tmp")),
        "{left:?}"
    );
}

fn signal(lab: &Lab, signal: &str) {
    for pid in lab.server.sessions() {
        testkit::run("kill", &[signal, &pid.to_string()], b"");
    }
}

/// The host hangs: it is there, and says nothing.
#[tokio::test]
async fn a_host_that_falls_silent_is_given_up() {
    let lab = Lab::new();
    let quick = Timeouts {
        request: Duration::from_secs(2),
        keep_alive: Duration::from_millis(2500),
        ..TIMEOUTS
    };
    let session = Session::connect(&lab.endpoint(), &lab.host_keys(), quick)
        .await
        .unwrap();
    let files = session.sftp().await.unwrap();
    signal(&lab, "-STOP");
    let error = session.open_tcp("127.0.0.1", 1).await.unwrap_err();
    assert!(matches!(error, SshError::TimedOut { .. }), "{error:?}");
    let read = files.read("/etc/passwd".as_ref()).await.unwrap_err();
    assert!(std::error::Error::source(&read).is_some());
    // A write that nobody takes: keep-alives cannot be sent behind it.
    let stuck = files
        .put(&lab.path("key"), &file(&vec![0; 15_000_000], 0o600))
        .await;
    assert!(stuck.is_err());
    let command = session
        .exec(&argv(&["true"]), b"", Duration::from_secs(600))
        .await
        .unwrap_err();
    assert!(command.is_unreachable(), "{command:?}");
    let error = loop {
        match session.open_tcp("127.0.0.1", 1).await.unwrap_err() {
            SshError::TimedOut { .. } => {}
            other => break other,
        }
    };
    assert!(matches!(&error, SshError::Broken { .. }), "{error:?}");
    assert!(
        error.to_string().contains("does not answer any more"),
        "{error}"
    );
    all_say_broken(&session).await;
    signal(&lab, "-CONT");
}

#[tokio::test]
async fn closing_ends_what_is_on_the_connection() {
    let lab = Lab::new();
    let session = lab.connect().await;
    let files = session.sftp().await.unwrap();
    session.close().await;
    let ended = async {
        while session.open_tcp("127.0.0.1", 1).await.is_ok_and(|_| true) {}
        files.read("/etc/passwd".as_ref()).await
    };
    assert!(ended.await.is_err());
    let error = session
        .exec(&argv(&["true"]), b"", TIMEOUTS.request)
        .await
        .unwrap_err();
    assert!(error.is_unreachable(), "{error:?}");
}

/// Dropping is closing, also while a command runs.
#[tokio::test]
async fn a_dropped_session_leaves_nothing_on_the_host() {
    let lab = Lab::new();
    let session = lab.connect().await;
    let clone = session.clone();
    let files = clone.sftp().await.unwrap();
    drop(session);
    drop(clone);
    assert!(files.read("/etc/passwd".as_ref()).await.unwrap().is_some());
    assert!(!lab.server.sessions().is_empty());
    drop(files);
    for _ in 0..400 {
        if lab.server.sessions().is_empty() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("the connection stays open");
}
