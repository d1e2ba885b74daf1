//! Other ways to rotate: saved plans, old roots that stay, keys in wrong hands, all at once.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use kubepki::rke::{Half, names};
use testkit::rke::Spec;

use crate::rotate::ALL;
use crate::scene::{Places, Scene, text};

#[test]
fn other_ways_to_rotate() {
    let scene = Scene::start(&Spec::calm());
    saved_plans(&scene);
    lost_state(&scene);
    names_from_cluster_yml(&scene);
    all_at_once(&scene);
    old_roots_stay(&scene);
    wrong_hands(&scene);
}

/// A plan is saved, grows stale, is made again and carried out.
fn saved_plans(scene: &Scene) {
    let service = ["--service", "kube-proxy"];
    let before = scene.snapshot();
    scene.ok(&[&["rotate", "--dry-run"], &service[..]].concat());
    scene.assert_untouched(&before);
    let saved = |scene: &Scene| {
        let run = scene.ok(&["plan", "--service", "kube-proxy"]).text();
        let (_, id) = run.split_once("kubepki apply ").unwrap();
        id.split_whitespace().next().unwrap().to_owned()
    };
    let stale = saved(scene);
    scene.assert_untouched(&before);
    let file = scene.cluster.ssl("w1").join("kube-proxy.pem");
    let held = std::fs::read(&file).unwrap();
    std::fs::write(&file, "other\n").unwrap();
    let run = scene.ends(&["apply", &stale, "--yes"], 5);
    assert!(run.text().contains("kube-proxy.pem"), "{}", run.text());
    let w1 = scene.cluster.host("w1").address().to_string();
    let broken = format!("broken: {w1}:/etc/kubernetes/ssl/kube-proxy.pem: is not what it should");
    scene.finds(4, &[&broken]);
    std::fs::write(&file, held).unwrap();
    // Nobody knows what a program read that was started before its file was written.
    scene.finds(3, &[&older(&w1, "kube-proxy", "kube-proxy.pem")]);
    scene.assert_untouched(&before);
    let fresh = saved(scene);
    scene.ok(&["apply", &fresh, "--yes"]);
    scene.assert_restarted(&before.starts, &scene.everywhere(&["kube-proxy"]));
    scene.assert_whole();
    scene.ok(&["check"]);
    let history = scene.ok(&["history"]).text();
    assert!(history.contains(&fresh), "{history}");
}

impl Scene {
    /// `check` must end with `code` and have a line for each of these, which has its parts (`…`
    /// between them) in that order; all that it said.
    #[track_caller]
    pub fn finds(&self, code: i32, lines: &[&str]) -> String {
        let said = self.ends(&["check", "-o", "text"], code).text();
        for wanted in lines {
            let fits = |line: &&str| {
                let mut rest = *line;
                wanted.split(" … ").all(|part| {
                    let found = rest.split_once(part);
                    rest = found.map_or("", |(_, after)| after);
                    found.is_some()
                })
            };
            assert!(said.lines().any(|line| fits(&line)), "{wanted}: {said}");
        }
        said
    }
}

fn older(host: &str, component: &str, file: &str) -> String {
    format!(
        "due: {host}: {component}: was started … before files that it reads were written: … {file}"
    )
}

/// A state file that is gone comes back from the cluster's copy, and from what hosts have.
fn lost_state(scene: &Scene) {
    let (lost, path) = (scene.state(), scene.state_file());
    let bytes = std::fs::read(&path).unwrap();
    let config = ["--cluster", text(&scene.config), "--yes"];
    let pull = [&["state", "pull"], &config[..]].concat();
    std::fs::remove_file(&path).unwrap();
    for _ in 0..2 {
        // The second time it is there.
        let run = scene.run_bare(&pull);
        assert!(run.success(), "{}", run.text());
        assert!(std::fs::read(&path).unwrap() == bytes);
        let mode = std::fs::metadata(&path).unwrap().permissions();
        assert_eq!(mode.mode() & 0o7777, 0o600);
    }
    std::fs::remove_file(&path).unwrap();
    let before = (scene.cluster.starts(), scene.on_hosts());
    let cp2 = scene.cluster.host("cp2").address().to_string();
    scene.ok(&["state", "rebuild", "--yes", "--from-host", &cp2]);
    assert!((scene.cluster.starts(), scene.on_hosts()) == before);
    let rebuilt = scene.state();
    for half in [Half::Current, Half::Desired] {
        let (mut was, mut is) = (lost.bundle(half), rebuilt.bundle(half));
        // Only the state has the administrator's.
        let pair = [was.remove(names::KUBE_ADMIN), is.remove(names::KUBE_ADMIN)];
        let [was_admin, is_admin] = pair.map(|it| it.unwrap().key_pem);
        assert!(was_admin != is_admin);
        assert_eq!(
            was.keys().collect::<Vec<_>>(),
            is.keys().collect::<Vec<_>>()
        );
        for (name, entry) in &was {
            assert!(entry.certificate_pem == is[name].certificate_pem, "{name}");
            assert!(entry.key_pem == is[name].key_pem, "{name}");
            assert!(entry.config == is[name].config, "{name}");
        }
    }
    scene.ok(&["check"]);
    scene.ok(&["rotate", "--yes", "--service", "kube-scheduler"]);
    scene.assert_whole();
}

/// What cluster.yml says more than the state is said, and done on demand.
fn names_from_cluster_yml(scene: &Scene) {
    let config = std::fs::read_to_string(&scene.config).unwrap();
    let more = "authentication:\n  sans: [api.example.org]\n";
    std::fs::write(&scene.config, format!("{config}{more}")).unwrap();
    let serves = |scene: &Scene| {
        let entry = scene.entry(names::KUBE_APISERVER).certificate_pem;
        let asked = ["x509", "-noout", "-checkhost", "api.example.org"];
        let said = testkit::openssl(&asked, entry.as_bytes()).text();
        said.contains("does match")
    };
    let args = ["rotate", "--yes", "--service", "kube-apiserver"];
    let run = scene.ok(&args);
    assert!(run.text().contains("--apply-config"), "{}", run.text());
    assert!(!serves(scene));
    scene.ok(&[&args[..], &["--apply-config"]].concat());
    assert!(serves(scene));
    scene.assert_whole();
}

fn all_at_once(scene: &Scene) {
    let before = scene.cluster.starts();
    let kubelet = kubelet_pair(scene);
    let old = kubelet.each_ref().map(|it| std::fs::read(it).unwrap());
    scene.ok(&["rotate", "--yes", "--parallel-restarts"]);
    scene.assert_restarted(&before, &scene.everywhere(ALL));
    scene.assert_whole();
    by_hand(scene, &kubelet, &old);
}

/// A kubelet's certificate and key on `w1`.
fn kubelet_pair(scene: &Scene) -> [PathBuf; 2] {
    let nodes = scene.cluster.nodes();
    let node = nodes.iter().find(|it| it.name == "w1").unwrap();
    let ssl = scene.cluster.ssl("w1");
    ["", "-key"].map(|end| ssl.join(format!("kube-kubelet-{}{end}.pem", node.id())))
}

/// Somebody puts an old pair back: file, program and state are told apart.
fn by_hand(scene: &Scene, pair: &[PathBuf; 2], old: &[Vec<u8>; 2]) {
    let w1 = scene.cluster.host("w1");
    let new = pair.each_ref().map(|it| std::fs::read(it).unwrap());
    let put = |bytes: &[Vec<u8>; 2]| {
        for (path, bytes) in pair.iter().zip(bytes) {
            std::fs::write(path, bytes).unwrap();
        }
    };
    let restart = || {
        w1.docker().stop("kubelet");
        w1.docker().start("kubelet");
        scene.cluster.wait_healthy();
        // A file of the same second is not told from one that was there before the start: its
        // time comes in whole seconds.
        std::thread::sleep(std::time::Duration::from_millis(1100));
    };
    let address = w1.address();
    let file = pair[0].file_name().unwrap().to_str().unwrap();
    let differs = format!("due: {address}:/etc/kubernetes/ssl/{file}: is another one than the");
    let serves = format!("due: {address}: {address}:10250: … serves another certificate than the");
    let older = older(&address.to_string(), "kubelet", file);
    put(old);
    assert!(!scene.finds(3, &[&differs, &older]).contains(":10250: "));
    restart();
    assert!(!scene.finds(3, &[&differs, &serves]).contains("was started"));
    put(&new);
    assert!(
        !scene
            .finds(3, &[&serves, &older])
            .contains("is another one")
    );
    restart();
    scene.ok(&["check"]);
}

fn old_roots_stay(scene: &Scene) {
    let old = scene.entry(names::KUBE_CA);
    scene.ok(&["rotate-ca", "--yes", "--keep-old"]);
    scene.assert_whole();
    let held = scene.entry(names::KUBE_CA);
    let certificates = held.certificates().unwrap();
    let old = old.certificate().unwrap().unwrap();
    assert!(certificates.len() > 1);
    assert!(certificates.iter().any(|it| it.der() == old.der()));
    assert!(certificates[0].der() != old.der());
}

/// Nothing that the old keys signed is good any more, and there is no way back.
fn wrong_hands(scene: &Scene) {
    let old = scene.state().bundle(Half::Current);
    let stolen = tempfile::tempdir().unwrap();
    let stolen_file = |name: &str, bytes: &[u8]| {
        let path = stolen.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let admin = &old[names::KUBE_ADMIN];
    let cert = stolen_file("cert", admin.certificate_pem.as_bytes());
    let key = stolen_file("key", admin.key_pem.as_bytes());
    let get_in = |scene: &Scene| {
        let url = format!("https://{}:6443/version", scene.cluster.nodes()[0].address);
        let all = ["-sSk", "--cert", text(&cert), "--key", text(&key), &url];
        testkit::run("curl", &all, b"").text()
    };
    assert!(get_in(scene).contains("gitVersion"));
    scene.ok(&["rotate-ca", "--yes", "--compromised"]);
    scene.assert_whole();
    assert!(!get_in(scene).contains("gitVersion"));
    for (name, entry) in scene.state().bundle(Half::Current) {
        assert!(entry.key_pem != old[&name].key_pem, "{name}");
        assert_eq!(entry.certificates().unwrap().len(), 1, "{name}");
    }
    let before = scene.snapshot();
    scene.ends(&["undo", "--yes"], 5);
    scene.assert_restarted(&before.starts, &Places::new());
    scene.assert_untouched(&before);
}
