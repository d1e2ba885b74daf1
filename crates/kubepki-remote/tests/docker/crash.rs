//! A deployment that ends at any point is done again and ends whole.

use std::time::Duration;

use kubepki::machine::{Containers as _, Deployment, Machine as _};
use kubepki_remote::docker::LOCK_NAME;
use testkit::rke::{Host, Network, USER};

use crate::containers::container;
use crate::world::{SSL, World, chain, deployment, file, keep};

const COUNT: usize = 12;

fn set(name: &str, word: &str) -> Deployment {
    let mut set = deployment(name, []);
    for index in 0..COUNT {
        let entry = file(&format!("{word} {index}"), 0o600, 0);
        set.files.insert(format!("kube-{index}.pem"), Some(entry));
    }
    set
}

/// Every file is whole: of the old set or of the new one.
async fn is_whole(world: &World, directory: &str, words: &[&str]) {
    let read = world.read(directory).await;
    assert_eq!(read.len(), COUNT);
    for (name, entry) in &read {
        let text = String::from_utf8_lossy(entry.bytes().unwrap()).into_owned();
        let index = name.trim_start_matches("kube-").trim_end_matches(".pem");
        let fits = words.iter().any(|word| text == format!("{word} {index}"));
        assert!(fits, "{name}: {text}");
    }
}

/// The future is dropped after ever more time: what a killed program leaves behind. Another
/// program of the same plan goes on.
#[tokio::test]
async fn a_program_that_ends_anywhere_is_followed_by_another() {
    let network = Network::start();
    let hosts = Host::start_all(&network, &[("h1", 11), ("h2", 12)]);
    tokio::join!(
        programs_end(&hosts[0], "root"),
        programs_end(&hosts[1], USER)
    );
}

async fn programs_end(host: &Host, user: &str) {
    let first = World::over_ssh(host, user);
    first.machine.deploy(&set("p0-01", "old")).await.unwrap();
    let mut word = "old".to_owned();
    let mut cut = 0;
    for step in 1..13_u64 {
        let (name, next) = (format!("p{step}-01"), format!("new{step}"));
        let fresh = set(&name, &next);
        let killed = World::over_ssh(host, user);
        killed.machine.lock(&format!("p{step}")).await.unwrap();
        let limit = Duration::from_millis(step * 20);
        let ended = tokio::time::timeout(limit, killed.machine.deploy(&fresh)).await;
        cut += usize::from(ended.is_err());
        drop(killed);
        let world = World::over_ssh(host, user);
        is_whole(&world, SSL, &[&word, &next]).await;
        world.machine.lock(&format!("p{step}")).await.unwrap();
        world.machine.deploy(&fresh).await.unwrap();
        is_whole(&world, SSL, &[&next]).await;
        is_whole(&world, &keep(&name).display().to_string(), &[&word]).await;
        world.machine.unlock(&format!("p{step}")).await.unwrap();
        word = next;
    }
    assert!(cut > 0, "{user}: {cut}");
}

/// The engine is killed in the middle, or the whole machine loses power.
#[tokio::test]
async fn a_host_that_dies_in_the_middle_is_whole_in_the_end() {
    let network = Network::start();
    let mut hosts = Host::start_all(&network, &[("h1", 11), ("h2", 12)]).into_iter();
    let loses_power = dies(hosts.next().unwrap(), [25, 75, 125], |machine| {
        machine.power_off();
        machine.power_on();
    });
    let loses_docker = dies(hosts.next().unwrap(), [50, 100, 150], |machine| {
        machine.kill_dockerd();
        machine.start_dockerd();
    });
    let (power, docker) = tokio::join!(loses_power, loses_docker);
    assert!(power + docker > 0, "it never hit");
}

/// Each of `after` milliseconds into a deployment the host dies; how many deployments failed.
async fn dies(host: Host, after: [u64; 3], kill: fn(&Host)) -> usize {
    let world = World::over_ssh(&host, USER);
    world.machine.deploy(&set("p0-01", "old")).await.unwrap();
    let mut word = "old".to_owned();
    let mut host = Some(host);
    let mut failed = 0;
    for after in after {
        let (plan, next) = (format!("p{after}"), format!("new{after}"));
        let fresh = set(&format!("{plan}-01"), &next);
        world.machine.lock(&plan).await.unwrap();
        let machine = host.take().unwrap();
        let killed = tokio::task::spawn_blocking(move || {
            std::thread::sleep(Duration::from_millis(after));
            kill(&machine);
            machine
        });
        let (done, back) = tokio::join!(world.machine.deploy(&fresh), killed);
        failed += usize::from(done.is_err());
        host = Some(back.unwrap());
        is_whole(&world, SSL, &[&word, &next]).await;
        world.machine.lock(&plan).await.unwrap();
        world.machine.deploy(&fresh).await.unwrap();
        is_whole(&world, SSL, &[&next]).await;
        let kept = keep(&format!("{plan}-01")).display().to_string();
        is_whole(&world, &kept, &[&word]).await;
        world.machine.unlock(&plan).await.unwrap();
        word = next;
    }
    failed
}

/// In place of `runc` (first copied to `/run/runc.real`): when it is to start a container for the
/// first time, Docker is killed and the container is not started.
const TRAP: &str = r#"runc=$(command -v runc)
cp "$runc" /run/runc.real
cat >/run/runc <<'END'
#!/bin/sh
case " $* " in *" start "*)
    if rm /run/trap 2>/dev/null; then
        pkill -KILL -x dockerd
        exit 137
    fi
esac
exec /run/runc.real "$@"
END
chmod 755 /run/runc
mount --bind /run/runc "$runc"
: >/run/trap"#;

/// What containerd keeps of a container whose Docker was killed while it started it: no start gets
/// past it, and the command in the error clears it away.
#[tokio::test]
async fn what_is_left_of_a_container_is_cleared_as_the_error_says() {
    let network = Network::start();
    let host = Host::start(&network, "h1", 11);
    let script = "trap 'exit 0' TERM; while :; do sleep 0.1; done";
    host.docker().run(&container("kubelet", script));
    host.must("sh", &["-ec", TRAP]);
    let asked = "/containers/kubelet/restart?t=1";
    let broken = host.docker().call("POST", asked, "text/plain", b"");
    assert!(broken.is_err(), "{broken:?}");
    host.kill_dockerd();
    host.start_dockerd();

    let world = World::over_ssh(&host, USER);
    let patience = Duration::from_secs(1);
    let error = world.machine.restart("kubelet", patience).await;
    let said = chain(&error.unwrap_err());
    assert!(said.contains("id already in use"), "{said}");
    let (_, command) = said.split_once("as root on the host run `").unwrap();
    let (command, _) = command.split_once('`').unwrap();
    host.must("sh", &["-c", command]);
    world.machine.restart("kubelet", patience).await.unwrap();
    let after = world.machine.container("kubelet").await.unwrap().unwrap();
    assert!(after.running);
}

/// The same of our own container, which is the lock: a new one is made.
#[tokio::test]
async fn a_lock_that_docker_lost_sight_of_is_taken() {
    let network = Network::start();
    let host = Host::start(&network, "h1", 11);
    let world = World::over_ssh(&host, USER);
    host.must("sh", &["-ec", TRAP]);
    world.machine.lock("p1").await.unwrap_err();
    host.kill_dockerd();
    host.start_dockerd();
    let before = host.docker().inspect(LOCK_NAME).unwrap();
    let path = format!("/containers/{LOCK_NAME}/start");
    let answer = host.docker().call("POST", &path, "text/plain", b"");
    let said = String::from_utf8(answer.unwrap().1).unwrap();
    assert!(said.contains("id already in use"), "{said}");

    let world = World::over_ssh(&host, USER);
    world.machine.lock("p1").await.unwrap();
    let after = host.docker().inspect(LOCK_NAME).unwrap();
    assert_ne!(before["Id"], after["Id"]);
    world.machine.deploy(&set("p1-01", "new")).await.unwrap();
    is_whole(&world, SSL, &["new"]).await;
    world.machine.unlock("p1").await.unwrap();
    assert_eq!(host.docker().names().unwrap(), Vec::<String>::new());
}
