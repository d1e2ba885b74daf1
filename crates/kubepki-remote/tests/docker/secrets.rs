//! Nothing that Docker tells anybody holds a byte of a key.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use kubepki::machine::Machine as _;
use testkit::rke::{Host, Network, USER};

use crate::world::{World, deployment, file};

#[tokio::test]
async fn docker_never_shows_a_key() {
    let network = Network::start();
    let host = Host::start(&network, "h1", 11);
    let world = World::over_ssh(&host, USER);
    let secret = "c2VjcmV0IGtleSBtYXRlcmlhbA";
    let done = Arc::new(AtomicBool::new(false));
    let docker = host.docker();
    let watcher = std::thread::spawn({
        let done = Arc::clone(&done);
        move || {
            let (mut looks, mut execs) = (0, 0);
            while !done.load(Ordering::SeqCst) {
                for name in docker.names().unwrap_or_default() {
                    let Some(seen) = docker.inspect(&name) else {
                        continue;
                    };
                    looks += 1;
                    assert!(!seen.to_string().contains(secret), "{seen}");
                    assert_eq!(seen["HostConfig"]["Privileged"], false);
                    assert_eq!(seen["HostConfig"]["NetworkMode"], "none");
                    assert_eq!(seen["HostConfig"]["ReadonlyRootfs"], true);
                    let logs = docker.logs(&name);
                    assert!(!String::from_utf8_lossy(&logs).contains(secret));
                    for exec in seen["ExecIDs"].as_array().into_iter().flatten() {
                        let path = format!("/exec/{}/json", exec.as_str().unwrap());
                        let (_, body) = docker.call("GET", &path, "text/plain", b"").unwrap();
                        execs += 1;
                        assert!(!String::from_utf8_lossy(&body).contains(secret));
                    }
                }
            }
            (looks, execs)
        }
    });
    world.machine.lock("p1").await.unwrap();
    for step in 0..10 {
        let text = format!("-----BEGIN PRIVATE KEY-----\n{secret}{step}\n");
        let set = deployment(
            &format!("p1-{step:02}"),
            [("kube-node-key.pem", Some(file(&text, 0o600, 0)))],
        );
        world.machine.deploy(&set).await.unwrap();
    }
    done.store(true, Ordering::SeqCst);
    let (looks, execs) = watcher.join().unwrap();
    assert!(looks > 0 && execs > 0, "{looks} {execs}");
    world.machine.unlock("p1").await.unwrap();
    // Nor the daemon's own log.
    let log = host.must("cat", &["/var/log/dockerd.log"]);
    assert!(!log.contains(secret));
}
