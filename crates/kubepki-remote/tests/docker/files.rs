//! Files: read, deployed, kept, removed; by SFTP, by Docker, and locally.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use kubepki::host::HostError;
use kubepki::machine::{Deployment, Machine as _};
use kubepki::plan::PlanId;
use kubepki_remote::machine::{HostSpec, LocalReach};
use testkit::rke::{Host, Network, USER};

use crate::world::{SSL, World, chain, deployment, file, keep, socket, spec, text};

/// Every way to a host's files does the same.
#[tokio::test]
async fn a_set_is_put_in_place_and_the_old_one_kept() {
    let network = Network::start();
    let hosts = Host::start_all(&network, &[("h1", 11), ("h2", 12), ("h3", 13)]);
    let worlds = [
        (World::over_ssh(&hosts[0], "root"), "FilesDirect"),
        (World::over_ssh(&hosts[1], USER), "FilesByDocker"),
        (World::by_local_docker(&hosts[2]), "FilesByDocker"),
    ];
    for (host, (world, way)) in hosts.iter().zip(&worlds) {
        deploys(host, world).await;
        assert_eq!(world.heard(way), 1, "{:?}", world.heard);
    }
}

async fn deploys(host: &Host, world: &World) {
    let machine = &world.machine;
    let nothing = machine.read_directory(Path::new(SSL)).await.unwrap();
    assert_eq!(nothing, None);
    machine.lock("p1").await.unwrap();
    let first = deployment(
        "p1-01",
        [
            ("kube-ca.pem", Some(file("ca\n", 0o644, 0))),
            (
                "kube-etcd-10-0-0-1-key.pem",
                Some(file("key\n", 0o600, 52034)),
            ),
            ("kubecfg-kube-proxy.yaml", Some(file("config", 0o600, 0))),
        ],
    );
    machine.deploy(&first).await.unwrap();
    assert_eq!(host.must("stat", &["-c", "%a %u", SSL]), "755 0\n");
    let read = world.read(SSL).await;
    for (name, entry) in &first.files {
        let (found, wanted) = (&read[name], entry.as_ref().unwrap());
        assert_eq!(found.bytes(), wanted.bytes(), "{name}");
        assert_eq!(found.attributes.mode, wanted.attributes.mode, "{name}");
        assert_eq!(found.attributes.uid, wanted.attributes.uid, "{name}");
        assert_eq!(found.attributes.gid, wanted.attributes.gid, "{name}");
        // None was asked for: the time of the deployment.
        let (mtime, _) = found.attributes.mtime.unwrap();
        assert!(mtime > 1_700_000_000, "{name}: {mtime}");
    }
    assert_eq!(read.len(), 3);
    // Nothing was there, and that is written down.
    assert!(
        world
            .names(&keep("p1-01").display().to_string())
            .await
            .is_empty()
    );
    let absent = text(host, "/etc/kubernetes/.kubepki/p1-01/old.absent");
    assert_eq!(absent.lines().count(), 3, "{absent}");

    deploys_again(host, world).await;
}

/// Some files are replaced, one is removed, one is new.
async fn deploys_again(host: &Host, world: &World) {
    let machine = &world.machine;
    let second = deployment(
        "p1-02",
        [
            ("kube-ca.pem", Some(file("new ca\n", 0o600, 0))),
            ("kube-etcd-10-0-0-1-key.pem", None),
            ("kube-node.pem", Some(file("node\n", 0o600, 0))),
        ],
    );
    // Twice: as after a crash. What was kept stays what it was.
    machine.deploy(&second).await.unwrap();
    machine.deploy(&second).await.unwrap();
    let names = ["kube-ca.pem", "kube-node.pem", "kubecfg-kube-proxy.yaml"];
    assert_eq!(world.names(SSL).await, names);
    assert_eq!(text(host, "/etc/kubernetes/ssl/kube-ca.pem"), "new ca\n");
    let kept = world.read(&keep("p1-02").display().to_string()).await;
    let names: Vec<_> = kept.keys().map(String::as_str).collect();
    assert_eq!(names, ["kube-ca.pem", "kube-etcd-10-0-0-1-key.pem"]);
    assert_eq!(kept["kube-ca.pem"].bytes(), Some(&b"ca\n"[..]));
    assert_eq!(kept["kube-ca.pem"].attributes.mode, 0o644);
    let key = &kept["kube-etcd-10-0-0-1-key.pem"];
    assert_eq!(
        (key.bytes(), key.attributes.uid),
        (Some(&b"key\n"[..]), Some(52034))
    );
    let absent = text(host, "/etc/kubernetes/.kubepki/p1-02/old.absent");
    assert_eq!(absent, "kube-node.pem\n");
    let modes = ["", "/p1-02", "/p1-02/old"].map(|it| {
        host.must(
            "stat",
            &["-c", "%a", &format!("/etc/kubernetes/.kubepki{it}")],
        )
    });
    assert_eq!(modes, ["700\n", "700\n", "700\n"]);
    // No stage, no temporary file is left.
    let left = host.must(
        "find",
        &[
            "/etc/kubernetes",
            "-name",
            "*.new*",
            "-o",
            "-name",
            ".kubepki-*",
        ],
    );
    assert_eq!(left, "");
    machine.unlock("p1").await.unwrap();
    assert_eq!(host.docker().names().unwrap(), Vec::<String>::new());
}

#[tokio::test]
async fn sets_of_five_plans_stay() {
    let network = Network::start();
    let host = Host::start(&network, "h1", 11);
    let world = World::over_ssh(&host, "root");
    for plan in 1..=7 {
        for step in ["01", "02"] {
            let text = format!("{plan} {step}");
            let set = format!("p{plan}-{step}");
            let files = [("kube-ca.pem", Some(file(&text, 0o600, 0)))];
            world
                .machine
                .deploy(&deployment(&set, files))
                .await
                .unwrap();
            // `ls -t` knows them apart by time.
            host.must(
                "touch",
                &[
                    "-d",
                    &format!("2026-01-0{plan}T00:00:{step}Z"),
                    &format!("/etc/kubernetes/.kubepki/{set}"),
                ],
            );
        }
    }
    let left = host.must("ls", &["/etc/kubernetes/.kubepki"]);
    let left: Vec<_> = left.lines().filter(|it| *it != "lock").collect();
    // The seventh's first set was made when the second was the sixth.
    let wanted = [
        "p3-01", "p3-02", "p4-01", "p4-02", "p5-01", "p5-02", "p6-01", "p6-02", "p7-01", "p7-02",
    ];
    assert_eq!(left, wanted);
    forgotten(&host, &world).await;
}

/// What a plan has kept goes when it is forgotten, whoever asks; that of others stays.
async fn forgotten(host: &Host, root: &World) {
    const SETS: &str = "/etc/kubernetes/.kubepki";
    // A plan whose name begins alike.
    host.must("mkdir", &["-p", &format!("{SETS}/p5-x-01/old")]);
    let other = World::over_ssh(host, USER);
    for (world, plan) in [(root, "p5"), (&other, "p6")] {
        world.machine.lock("owner").await.unwrap();
        for _ in 0..2 {
            let plan = PlanId(plan.to_owned());
            world.machine.forget(&plan).await.unwrap();
        }
        world.machine.unlock("owner").await.unwrap();
    }
    let left = host.must("ls", &[SETS]);
    let left: Vec<_> = left.lines().filter(|it| *it != "lock").collect();
    let wanted = [
        "p3-01", "p3-02", "p4-01", "p4-02", "p5-x-01", "p7-01", "p7-02",
    ];
    assert_eq!(left, wanted);
}

#[tokio::test]
async fn what_is_no_file_is_passed_over_or_refused() {
    let network = Network::start();
    let hosts = Host::start_all(&network, &[("h1", 11), ("h2", 12)]);
    let users = ["root", USER];
    for (host, user) in hosts.iter().zip(users) {
        let world = World::over_ssh(host, user);
        let script = "mkdir -p /etc/kubernetes/ssl/sub.pem && cd /etc/kubernetes/ssl && echo a >a.pem && \
            echo inner >sub.pem/inner && ln -s a.pem link.pem && mkfifo pipe.pem && \
            echo secret >.kubepki-probe";
        host.must("sh", &["-c", script]);
        assert_eq!(world.names(SSL).await, ["a.pem"], "{user}");
        // A link is replaced by a file; what it led to stays.
        let files = [("link.pem", Some(file("new", 0o600, 0)))];
        world
            .machine
            .deploy(&deployment("p1-01", files))
            .await
            .unwrap();
        assert_eq!(world.names(SSL).await, ["a.pem", "link.pem"]);
        assert_eq!(text(host, "/etc/kubernetes/ssl/a.pem"), "a\n");
        let kept = world.read(&keep("p1-01").display().to_string()).await;
        assert_eq!(kept["link.pem"].bytes(), Some(&b"a\n"[..]));
        // A folder is in the way: nothing is done at all.
        let files = [
            ("a.pem", Some(file("new", 0o600, 0))),
            ("sub.pem", Some(file("new", 0o600, 0))),
        ];
        let error = world
            .machine
            .deploy(&deployment("p1-02", files))
            .await
            .unwrap_err();
        let said = chain(&error);
        assert!(
            said.contains("/etc/kubernetes/ssl/sub.pem is a directory"),
            "{said}"
        );
        assert_eq!(text(host, "/etc/kubernetes/ssl/a.pem"), "a\n");
        let error = world
            .machine
            .read_directory(Path::new("/etc/kubernetes/ssl/a.pem"))
            .await;
        assert!(matches!(error, Ok(None) | Err(_)), "{user}");
        // Far more than a directory of certificates.
        host.must(
            "sh",
            &[
                "-c",
                "head -c 40000000 /dev/zero >/etc/kubernetes/ssl/huge.pem",
            ],
        );
        let error = world
            .machine
            .read_directory(Path::new(SSL))
            .await
            .unwrap_err();
        assert!(chain(&error).contains("bytes"), "{}", chain(&error));
    }
}

#[tokio::test]
async fn names_that_could_do_harm_are_refused() {
    let network = Network::start();
    let host = Host::start(&network, "h1", 11);
    let world = World::over_ssh(&host, USER);
    for name in [
        "", ".x", "-rf", "a b", "a\nb", "../x", "a/b", "manifest", "$(id)", "ä",
    ] {
        let set = deployment("p1-01", [(name, Some(file("x", 0o600, 0)))]);
        let error = world.machine.deploy(&set).await.unwrap_err();
        assert!(
            error.to_string().contains("is not a name"),
            "{name}: {error}"
        );
    }
    let set = deployment("p1-01", [("a", Some(file("x", 0o600, 0)))]);
    let elsewhere = [
        Deployment {
            directory: PathBuf::from("ssl"),
            ..set.clone()
        },
        Deployment {
            directory: PathBuf::from("/etc/kubernetes/../x"),
            ..set.clone()
        },
        Deployment {
            keep: PathBuf::from("/etc/kubernetes/old"),
            ..set.clone()
        },
        Deployment {
            directory: PathBuf::from("/var/lib/x"),
            ..set.clone()
        },
    ];
    for set in elsewhere {
        let error = world.machine.deploy(&set).await.unwrap_err();
        assert!(matches!(error, HostError::Remote { .. }), "{error}");
    }
    assert_eq!(host.must("ls", &["-A", "/etc/kubernetes"]), "");
}

/// A full disk: the old set stays as it is, and the error says what is the matter.
#[tokio::test]
async fn a_full_disk_loses_nothing() {
    let network = Network::start();
    let hosts = Host::start_all(&network, &[("h1", 11), ("h2", 12)]);
    tokio::join!(fills_up(&hosts[0], "root"), fills_up(&hosts[1], USER));
}

async fn fills_up(host: &Host, user: &str) {
    let world = World::over_ssh(host, user);
    let old = [
        ("a.pem", Some(file("old a", 0o600, 0))),
        ("b.pem", Some(file("old b", 0o600, 0))),
    ];
    world
        .machine
        .deploy(&deployment("p1-01", old))
        .await
        .unwrap();
    let large = "x".repeat(9000);
    let fresh = deployment(
        "p2-01",
        [
            ("a.pem", Some(file(&large, 0o600, 0))),
            ("b.pem", Some(file(&large, 0o600, 0))),
        ],
    );
    // From no room at all, page by page, until there is enough.
    let mut refused = 0;
    for pages in 0..40 {
        host.limit_disk(pages * 4096);
        let done = world.machine.deploy(&fresh).await;
        let now = world.read(SSL).await;
        let texts: Vec<_> = now.values().map(|it| it.bytes().unwrap().len()).collect();
        match done {
            Ok(()) => {
                assert_eq!(texts, [9000, 9000]);
                break;
            }
            Err(error) => {
                refused += 1;
                assert_eq!(texts, [5, 5], "{user}, {pages} pages");
                let said = chain(&error).to_lowercase();
                assert!(said.contains("space"), "{user}, {pages} pages: {said}");
            }
        }
    }
    assert!(refused > 1, "{user}");
    host.unlimit_disk();
    let kept = world.read(&keep("p2-01").display().to_string()).await;
    assert_eq!(kept["a.pem"].bytes(), Some(&b"old a"[..]));
    assert_eq!(kept["b.pem"].bytes(), Some(&b"old b"[..]));
}

/// The machine that the program runs on, with a prefix, directly.
#[tokio::test]
async fn this_machine_is_a_host_too() {
    let network = Network::start();
    let host = Host::start(&network, "h1", 11);
    let folder = tempfile::tempdir().unwrap();
    let world = World::by(HostSpec {
        docker_socket: socket(&host),
        prefix_path: folder.path().display().to_string(),
        reach: Arc::new(LocalReach::default()),
        ..spec(&host, "nobody")
    });
    std::fs::create_dir_all(folder.path().join("etc/kubernetes")).unwrap();
    let set = deployment("p1-01", [("kube-ca.pem", Some(file("ca", 0o640, 7)))]);
    world.machine.deploy(&set).await.unwrap();
    assert_eq!(world.heard("FilesDirect"), 1);
    let path = folder.path().join("etc/kubernetes/ssl/kube-ca.pem");
    assert_eq!(std::fs::read_to_string(path).unwrap(), "ca");
    let read = world.read(SSL).await;
    assert_eq!(read["kube-ca.pem"].attributes.mode, 0o640);
    assert_eq!(read["kube-ca.pem"].attributes.uid, Some(7));
}

#[tokio::test]
async fn a_prefix_comes_before_every_path() {
    let network = Network::start();
    let hosts = Host::start_all(&network, &[("h1", 11), ("h2", 12)]);
    for (host, user) in hosts.iter().zip(["root", USER]) {
        host.must("mkdir", &["-p", "/opt/rke/etc/kubernetes"]);
        let world = World::by(HostSpec {
            prefix_path: "/opt/rke".to_owned(),
            ..spec(host, user)
        });
        let set = deployment("p1-01", [("kube-ca.pem", Some(file("ca", 0o600, 0)))]);
        world.machine.deploy(&set).await.unwrap();
        assert_eq!(text(host, "/opt/rke/etc/kubernetes/ssl/kube-ca.pem"), "ca");
        assert_eq!(world.names(SSL).await, ["kube-ca.pem"]);
        assert_eq!(host.must("ls", &["-A", "/etc/kubernetes"]), "");
    }
}

/// Docker reads the system's name from os-release; where that is Container Linux's, `/etc` is not
/// for us.
#[tokio::test]
async fn the_prefix_follows_from_the_system() {
    let network = Network::start();
    let host = Host::start(&network, "h1", 11);
    let name = "PRETTY_NAME=\"Flatcar Container Linux by Kinvolk 3975.2.0\"";
    host.must("sh", &["-c", &format!("echo '{name}' > /run/os-release")]);
    host.must("mount", &["--bind", "/run/os-release", "/etc/os-release"]);
    host.must("mkdir", &["-p", "/opt/rke/etc/kubernetes"]);
    for user in ["root", USER] {
        let world = World::over_ssh(&host, user);
        let set = deployment(
            &format!("{user}-01"),
            [("kube-ca.pem", Some(file(user, 0o600, 0)))],
        );
        world.machine.deploy(&set).await.unwrap();
        assert_eq!(text(&host, "/opt/rke/etc/kubernetes/ssl/kube-ca.pem"), user);
        assert_eq!(host.must("ls", &["-A", "/etc/kubernetes"]), "");
    }
}
