//! Machines of an RKE cluster start, answer, fail and go.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "tests fail by panicking"
)]

use testkit::rke::{Container, Host, Network, TOOLS_IMAGE, USER};

fn sleeper(name: &str) -> Container {
    let script = "trap exit TERM; sleep 100000 & wait";
    Container {
        name: name.to_owned(),
        image: TOOLS_IMAGE.to_owned(),
        command: ["sh", "-c", script].map(str::to_owned).to_vec(),
        binds: vec!["/etc/kubernetes:/etc/kubernetes".to_owned()],
        ..Container::default()
    }
}

#[test]
fn two_machines_start_and_a_container_restarts() {
    let network = Network::start();
    let hosts = Host::start_all(&network, &[("h1", 11), ("h2", 12)]);
    for host in &hosts {
        host.docker().run(&sleeper("kubelet"));
        assert_eq!(host.docker().names().unwrap(), ["kubelet"]);
        let before = host.docker().started("kubelet").unwrap();
        host.docker().restart("kubelet");
        let after = host.docker().started("kubelet").unwrap();
        assert!(before.at < after.at);
        assert!(after.running);
    }
}

fn ssh(host: &Host, user: &str, command: &str) -> testkit::Run {
    let folder = tempfile::tempdir().unwrap();
    let known = folder.path().join("known");
    std::fs::write(&known, host.known_hosts_line()).unwrap();
    let arguments = [
        format!("-oUserKnownHostsFile={}", known.display()),
        "-oStrictHostKeyChecking=yes".to_owned(),
        "-oIdentitiesOnly=yes".to_owned(),
        "-oConnectTimeout=5".to_owned(),
        format!("-i{}", host.network().ssh_key().display()),
        format!("{user}@{}", host.address()),
        command.to_owned(),
    ];
    testkit::run("ssh", &arguments, b"")
}

#[test]
fn users_come_in_over_ssh() {
    let network = Network::start();
    let host = Host::start(&network, "cp1", 11);
    let root = ssh(&host, "root", "hostname && id -un && ls -A /etc/kubernetes");
    assert_eq!(root.text(), "cp1\nroot\n");
    let user = ssh(
        &host,
        USER,
        "id -un && test -w /var/run/docker.sock && ! touch /etc/kubernetes/x",
    );
    assert!(user.success(), "{}", user.text());
    host.kill_sshd();
    assert_eq!(ssh(&host, "root", "true").code, Some(255));
    host.start_sshd();
    assert!(ssh(&host, "root", "true").success());
    host.cut_network();
    assert_eq!(ssh(&host, "root", "true").code, Some(255));
    host.join_network();
    assert!(ssh(&host, "root", "true").success());
    host.change_host_key();
    assert!(ssh(&host, "root", "true").success());
}

#[test]
fn what_breaks_comes_back() {
    let network = Network::start();
    let host = Host::start(&network, "cp1", 11);
    let docker = host.docker();
    docker.run(&sleeper("etcd"));
    let first = docker.started("etcd").unwrap();
    host.kill_container("etcd");
    let second = wait(|| {
        docker
            .started("etcd")
            .filter(|it| it.running && it.at > first.at)
    });
    assert_eq!(second.restarts, 1);
    host.kill_dockerd();
    assert!(!docker.answers());
    assert_eq!(docker.names(), None);
    host.start_dockerd();
    wait(|| {
        docker
            .started("etcd")
            .filter(|it| it.running && it.at > second.at)
    });
    let file = host.path("/etc/kubernetes/ssl");
    host.must("mkdir", &["/etc/kubernetes/ssl"]);
    assert!(file.is_dir());
    host.power_off();
    assert!(file.is_dir());
    host.power_on();
    let docker = host.docker();
    wait(|| {
        docker
            .started("etcd")
            .filter(|it| it.running && it.at > second.at)
    });
    host.limit_disk(8192);
    let full = host.run(
        "dd",
        &[
            "if=/dev/zero",
            "of=/etc/kubernetes/ssl/x",
            "bs=4096",
            "count=3",
        ],
    );
    assert!(full.text().contains("No space left"), "{}", full.text());
    host.unlimit_disk();
    host.must(
        "dd",
        &[
            "if=/dev/zero",
            "of=/etc/kubernetes/ssl/x",
            "bs=4096",
            "count=3",
        ],
    );
}

#[test]
fn nothing_stays() {
    let network = Network::start();
    let hosts = Host::start_all(&network, &[("h1", 11), ("h2", 12)]);
    for host in &hosts {
        host.docker().run(&sleeper("kubelet"));
    }
    let spaces: Vec<_> = hosts.iter().map(space).collect();
    // OpenSSH server, Docker engine, containerd, container, …
    assert!(spaces.iter().all(|it| inhabitants(it) > 4), "{spaces:?}");
    let groups: Vec<_> = hosts.iter().map(group).collect();
    assert!(
        groups.iter().all(|it| exists_below("/sys/fs/cgroup", it)),
        "{groups:?}"
    );
    let own = network.address(254).to_string();
    assert!(addresses().contains(&own));
    // One by one: the number of a space that is gone may be given again.
    for (host, space) in hosts.into_iter().zip(&spaces) {
        drop(host);
        wait(|| (inhabitants(space) == 0).then_some(()));
    }
    drop(network);
    assert!(!addresses().contains(&own));
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap();
    assert!(!mounts.contains("kubepki-rke-"), "{mounts}");
    for group in groups {
        wait(|| (!exists_below("/sys/fs/cgroup", &group)).then_some(()));
    }
}

/// Runs itself in another process, which is killed.
#[test]
fn a_killed_test_leaves_nothing() {
    if let Some(path) = std::env::var_os("KUBEPKI_TESTKIT_VICTIM") {
        let network = Network::start();
        let host = Host::start(&network, "h1", 11);
        host.docker().run(&sleeper("kubelet"));
        let told = format!("{}\n{}\n", space(&host), network.ssh_key().display());
        std::fs::write(path, told).unwrap();
        loop {
            std::thread::park();
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let told = folder.path().join("told");
    let mut victim = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_killed_test_leaves_nothing"])
        .env("KUBEPKI_TESTKIT_VICTIM", &told)
        .spawn()
        .unwrap();
    let text = wait(|| {
        std::fs::read_to_string(&told)
            .ok()
            .filter(|it| it.ends_with('\n'))
    });
    let (space, key) = text.trim().split_once('\n').unwrap();
    assert!(inhabitants(space) > 4);
    assert!(std::path::Path::new(key).exists());
    victim.kill().unwrap();
    victim.wait().unwrap();
    wait(|| (inhabitants(space) == 0).then_some(()));
    wait(|| (!std::path::Path::new(key).exists()).then_some(()));
}

/// The network namespace that all on a machine share, containers too.
fn space(host: &Host) -> String {
    host.must("readlink", &["/proc/self/ns/net"])
        .trim()
        .to_owned()
}

/// The control group of its containers.
fn group(host: &Host) -> String {
    let inspected = host.docker().inspect("kubelet").unwrap();
    let pid = inspected.pointer("/State/Pid").unwrap();
    let groups = host.must("cat", &[&format!("/proc/{pid}/cgroup")]);
    let start = groups.find("kubepki-rke-").unwrap();
    groups
        .get(start..)
        .unwrap()
        .split('/')
        .next()
        .unwrap()
        .to_owned()
}

/// Whether it is there, in the old order of control groups or in the new.
fn exists_below(root: &str, group: &str) -> bool {
    let root = std::path::Path::new(root);
    let orders = std::fs::read_dir(root).unwrap().flatten();
    let mut places = orders
        .map(|it| it.path().join(group))
        .chain([root.join(group)]);
    places.any(|it| it.is_dir())
}

/// How many processes are in it.
fn inhabitants(space: &str) -> usize {
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    let links = all.filter_map(|it| std::fs::read_link(it.path().join("ns/net")).ok());
    links.filter(|it| it.as_os_str() == space).count()
}

/// The addresses of this machine.
fn addresses() -> String {
    testkit::run("ip", &["-o", "addr"], b"").text()
}

fn wait<T>(mut ready: impl FnMut() -> Option<T>) -> T {
    let start = std::time::Instant::now();
    loop {
        if let Some(it) = ready() {
            return it;
        }
        assert!(start.elapsed() < std::time::Duration::from_secs(60));
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}
