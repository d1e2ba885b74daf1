//! Containers are looked at and restarted; ports are dialled; Docker is missing or refuses.

use std::time::Duration;

use kubepki::host::HostError;
use kubepki::machine::{Containers as _, Machine as _, Machines as _};
use kubepki_remote::docker::OWNER_LABEL;
use kubepki_remote::machine::{HostSpec, LocalReach, RemoteMachines};
use testkit::rke::{Container, Host, Network, TOOLS_IMAGE, USER};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::world::{World, chain, spec};

pub fn container(name: &str, script: &str) -> Container {
    Container {
        name: name.to_owned(),
        image: TOOLS_IMAGE.to_owned(),
        command: ["sh", "-c", script].map(str::to_owned).to_vec(),
        ..Container::default()
    }
}

#[tokio::test]
async fn a_container_is_restarted_and_seen_anew() {
    let network = Network::start();
    let host = Host::start(&network, "h1", 11);
    let world = World::over_ssh(&host, USER);
    let machine = &world.machine;
    assert_eq!(machine.container("kubelet").await.unwrap(), None);
    let error = machine
        .restart("kubelet", Duration::from_secs(1))
        .await
        .unwrap_err();
    assert!(chain(&error).contains("404"), "{}", chain(&error));
    assert_eq!(world.heard("Restarting"), 1);

    let script = "trap 'exit 0' TERM; while :; do sleep 0.1; done";
    host.docker().run(&container("kubelet", script));
    let before = machine.container("kubelet").await.unwrap().unwrap();
    assert!(before.running);
    assert_eq!(before.image, TOOLS_IMAGE);
    assert_eq!(before.arguments, ["sh", "-c", script]);
    machine
        .restart("kubelet", Duration::from_secs(30))
        .await
        .unwrap();
    let after = machine.container("kubelet").await.unwrap().unwrap();
    assert!(after.running && before.started < after.started);
    assert_eq!(world.heard("attempt: 1"), 2);
    assert_eq!(world.heard("attempt: 2"), 0);
}

/// Docker dies in the middle of a restart, and comes back: the next try finds it.
#[tokio::test]
async fn a_restart_outlives_docker() {
    let network = Network::start();
    let host = Host::start(&network, "h1", 11);
    let world = World::over_ssh(&host, USER);
    // It takes its time to stop, so that Docker dies while it waits.
    let script = "trap 'sleep 2; exit' TERM; while :; do sleep 0.1; done";
    host.docker().run(&container("kube-proxy", script));
    let before = world
        .machine
        .container("kube-proxy")
        .await
        .unwrap()
        .unwrap();
    let restart = world.machine.restart("kube-proxy", Duration::from_secs(3));
    let kill = tokio::task::spawn_blocking({
        let started = std::sync::Arc::clone(&world.heard);
        move || {
            while started
                .lock()
                .unwrap()
                .iter()
                .all(|it| !it.contains("Restarting"))
            {
                std::thread::sleep(Duration::from_millis(5));
            }
            std::thread::sleep(Duration::from_millis(300));
            host.kill_dockerd();
            host.start_dockerd();
            host
        }
    });
    let (done, host) = tokio::join!(restart, kill);
    assert!(world.heard("RestartFailed") >= 1, "{:?}", world.heard);
    // Three tries, a second apart: a slow machine has Docker back after the last.
    if done.is_err() {
        assert!(world.heard("attempt: 3") >= 1, "{:?}", world.heard);
        let again = world.machine.restart("kube-proxy", Duration::from_secs(3));
        again.await.unwrap();
    }
    let after = world
        .machine
        .container("kube-proxy")
        .await
        .unwrap()
        .unwrap();
    assert!(after.running && before.started < after.started);
    drop(host);
}

#[tokio::test]
async fn a_port_of_the_host_is_dialled() {
    let network = Network::start();
    let host = Host::start(&network, "h1", 11);
    let world = World::over_ssh(&host, USER);
    // Loopback of that machine, not of this one: its sshd greets there.
    let mut stream = world.machine.dial("127.0.0.1:22").await.unwrap();
    let mut greeting = [0; 7];
    stream.read_exact(&mut greeting).await.unwrap();
    assert_eq!(&greeting, b"SSH-2.0");
    for bad in ["127.0.0.1:1", "127.0.0.1", "nowhere"] {
        let error = world.machine.dial(bad).await.err().unwrap();
        assert!(matches!(error, HostError::Remote { .. }), "{bad}: {error}");
    }
}

#[tokio::test]
async fn who_is_out_of_reach_and_who_refuses() {
    let network = Network::start();
    let host = Host::start(&network, "h1", 11);
    // Docker is down.
    let world = World::over_ssh(&host, USER);
    assert_eq!(world.machine.container("etcd").await.unwrap(), None);
    host.kill_dockerd();
    let error = world.machine.container("etcd").await.unwrap_err();
    let said = chain(&error);
    assert!(matches!(error, HostError::Remote { .. }), "{said}");
    assert!(
        said.contains("Unable to access the service on /var/run/docker.sock"),
        "{said}"
    );
    host.start_dockerd();
    assert_eq!(world.machine.container("etcd").await.unwrap(), None);
    // No socket at all.
    let other = World::by(HostSpec {
        docker_socket: "/var/run/other.sock".to_owned(),
        ..spec(&host, USER)
    });
    // A host whose Docker was never reached counts as away, unlike one whose Docker went away
    // while it was connected: there is nothing yet that could be half done.
    let error = other.machine.connect().await.unwrap_err();
    let said = chain(&error);
    assert!(matches!(error, HostError::Unreachable { .. }), "{said}");
    assert!(said.contains("there is no /var/run/other.sock"), "{said}");
    host.kill_dockerd();
    let error = World::over_ssh(&host, USER).machine.connect().await;
    let error = error.unwrap_err();
    let said = chain(&error);
    assert!(matches!(error, HostError::Unreachable { .. }), "{said}");
    assert!(
        said.contains("Unable to access the service on /var/run/docker.sock"),
        "{said}"
    );
    host.start_dockerd();
    // The user may not.
    host.must("chmod", &["600", "/var/run/docker.sock"]);
    let other = World::over_ssh(&host, USER);
    let error = other.machine.connect().await.unwrap_err();
    let said = chain(&error);
    assert!(matches!(error, HostError::Remote { .. }), "{said}");
    assert!(
        said.contains("Unable to access the Docker socket (/var/run/docker.sock)"),
        "{said}"
    );
    host.must("chmod", &["660", "/var/run/docker.sock"]);
    // The SSH server is gone, then back.
    host.kill_sshd();
    let error = world.machine.container("etcd").await.unwrap_err();
    assert!(
        matches!(error, HostError::Unreachable { .. }),
        "{}",
        chain(&error)
    );
    host.start_sshd();
    assert_eq!(world.machine.container("etcd").await.unwrap(), None);
    // A connection that broke while nobody looked is made anew without a word of failure.
    host.kill_sshd();
    host.start_sshd();
    assert_eq!(world.machine.container("etcd").await.unwrap(), None);
    let machines = RemoteMachines::new([spec(&host, USER)], 2, std::sync::Arc::new(|_, _| {}));
    assert!(machines.machine(&host.address().to_string()).await.is_ok());
    let error = machines.machine("10.0.0.9").await.err().unwrap();
    assert!(
        error.to_string().contains("not a node of cluster.yml"),
        "{error}"
    );
}

/// What a killed reader left goes with the next look, unless somebody else's plan made it or it is
/// young.
#[tokio::test]
async fn what_readers_left_is_removed() {
    let network = Network::start();
    let host = Host::start(&network, "h1", 11);
    let world = World::over_ssh(&host, USER);
    let docker = host.docker();
    for (name, owner) in [("left", "read"), ("kept", "plan")] {
        let body = serde_json::json!({
            "Image": TOOLS_IMAGE, "Cmd": ["true"], "Labels": { OWNER_LABEL: owner },
        });
        let path = format!("/containers/create?name={name}");
        let body = body.to_string();
        let answer = docker.call("POST", &path, "application/json", body.as_bytes());
        assert_eq!(answer.unwrap().0, 201);
    }
    world.read("/etc/kubernetes").await;
    let names = || docker.names().unwrap();
    assert!(names().contains(&"left".to_owned()), "{:?}", names());
    let engine = world.machine.docker().await.unwrap();
    let now = engine.system().await.unwrap().now.unwrap();
    engine.remove_helpers("read", now.plus(60)).await.unwrap();
    assert_eq!(names(), ["kept"]);
}

/// No Docker for Windows runs here: what one says of itself is said by hand.
#[tokio::test]
async fn windows_is_refused() {
    let network = Network::start();
    let host = Host::start(&network, "h1", 11);
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("docker.sock");
    let listener = tokio::net::UnixListener::bind(&socket).unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            let body = r#"{"ApiVersion":"1.41","Version":"20.10.24","OSType":"windows"}"#;
            let answer = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
                 Connection: close\r\n\r\n{body}",
                body.len()
            );
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    let world = World::by(HostSpec {
        docker_socket: socket.display().to_string(),
        reach: std::sync::Arc::new(LocalReach::default()),
        ..spec(&host, "nobody")
    });
    let error = world.machine.connect().await.unwrap_err();
    let said = chain(&error);
    assert!(matches!(error, HostError::Remote { .. }), "{said}");
    assert!(said.contains("is a Windows node"), "{said}");
}
