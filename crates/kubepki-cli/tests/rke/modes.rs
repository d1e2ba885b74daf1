//! Other ways to rotate: saved plans, old roots that stay, keys in wrong hands, all at once.

use kubepki::rke::{Half, names};
use testkit::rke::Spec;

use crate::rotate::ALL;
use crate::scene::{Places, Scene, text};

#[test]
fn other_ways_to_rotate() {
    let scene = Scene::start(&Spec::three());
    saved_plans(&scene);
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
    std::fs::write(&file, held).unwrap();
    scene.assert_untouched(&before);
    let fresh = saved(scene);
    scene.ok(&["apply", &fresh, "--yes"]);
    scene.assert_restarted(&before.starts, &scene.everywhere(&["kube-proxy"]));
    scene.assert_whole();
    let history = scene.ok(&["history"]).text();
    assert!(history.contains(&fresh), "{history}");
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
    scene.ok(&["rotate", "--yes", "--parallel-restarts"]);
    scene.assert_restarted(&before, &scene.everywhere(ALL));
    scene.assert_whole();
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
