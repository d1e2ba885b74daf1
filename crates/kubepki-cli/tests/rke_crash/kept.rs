//! What a cluster was like, whether it can become so again, and whether it is.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use kubepki::rke::{Bundle, Half, State};
use testkit::rke::Spec;

use crate::operator::Journals;
use crate::scene::Scene;

/// What a deployment tries out the folder with.
const PROBE: &str = ".kubepki-probe";

type Files = BTreeMap<(String, String), (u32, Vec<u8>)>;

/// State, kubeconfig and hosts before a plan.
pub struct Before {
    text: Vec<u8>,
    bundle: Bundle,
    kubeconfig: Vec<u8>,
    hosts: Files,
}

/// Which entries and files a plan changes.
#[derive(Debug, PartialEq, Eq)]
pub struct Pattern {
    pub entries: BTreeSet<String>,
    pub files: BTreeSet<(String, String)>,
}

impl Before {
    pub fn now(scene: &Scene) -> Self {
        let text = std::fs::read(scene.state_file()).unwrap();
        Self {
            bundle: State::parse(&text).unwrap().bundle(Half::Current),
            text,
            kubeconfig: std::fs::read(scene.kubeconfig()).unwrap(),
            hosts: scene.on_hosts(),
        }
    }

    /// What is there suffices to go back: the state file as it was, with the CA's key and all
    /// entries, by itself or among the backups; every file of the hosts, in place or kept there;
    /// and no key is in force anywhere that the state does not know.
    #[track_caller]
    pub fn assert_kept(&self, scene: &Scene, at: &str) {
        let text = std::fs::read(scene.state_file()).unwrap();
        let there = text == self.text
            || below(&scene.state_dir().join("backups"))
                .iter()
                .any(|it| std::fs::read(it).is_ok_and(|it| it == self.text));
        assert!(there, "{at}: the former state file is lost");
        let state = State::parse(&text).unwrap_or_else(|error| panic!("{at}: {error}"));
        let halves = [Half::Current, Half::Desired].map(|half| state.bundle(half));
        for (name, entry) in &self.bundle {
            let known = halves.iter().any(|it| it.contains_key(name));
            assert!(known, "{at}: the state has no {name} ({})", entry.name);
        }
        let now = scene.on_hosts();
        for (place, (_, bytes)) in &self.hosts {
            let in_place = now.get(place).is_some_and(|(_, now)| now == bytes);
            let kept = || {
                let sets = scene
                    .cluster
                    .host(&place.0)
                    .path("/etc/kubernetes/.kubepki");
                let all = below(&sets).into_iter();
                let mut kept = all.filter(|it| {
                    it.ends_with(&place.1) && it.parent().is_some_and(|it| it.ends_with("old"))
                });
                kept.any(|it| std::fs::read(it).is_ok_and(|it| it == *bytes))
            };
            assert!(in_place || kept(), "{at}: {place:?} is lost");
        }
        // Killed between the two, the probe is there; it holds names alone, and who comes back
        // removes it.
        let now = now.iter().filter(|(place, _)| place.1 != PROBE);
        for (place, (_, bytes)) in now {
            let known = |bundle: &Bundle| {
                let mut all = bundle.values();
                all.any(|it| {
                    let texts = [
                        it.certificate_pem.as_bytes(),
                        it.key_pem.as_bytes(),
                        it.config.as_bytes(),
                    ];
                    texts.iter().any(|it| it.trim_ascii() == bytes.trim_ascii())
                })
            };
            let well = known(&self.bundle) || halves.iter().any(known);
            assert!(well, "{at}: the state does not know {place:?}");
        }
    }

    /// All is as it was, and in force.
    #[track_caller]
    pub fn assert_back(&self, scene: &Scene, at: &str) {
        let now = scene.on_hosts();
        assert_eq!(differences(&self.hosts, &now), BTreeSet::new(), "{at}");
        let text = std::fs::read(scene.state_file()).unwrap();
        assert!(text == self.text, "{at}: the state file is another");
        let kubeconfig = std::fs::read(scene.kubeconfig()).unwrap();
        assert!(kubeconfig == self.kubeconfig, "{at}: another kubeconfig");
        self.assert_whole(scene, at);
    }

    /// Everything changed that was to change, nothing else, and it is in force.
    #[track_caller]
    pub fn assert_changed(&self, scene: &Scene, pattern: &Pattern, at: &str) {
        assert_eq!(self.pattern(scene), *pattern, "{at}");
        self.assert_whole(scene, at);
    }

    #[track_caller]
    fn assert_whole(&self, scene: &Scene, at: &str) {
        println!("{at}: looking whether all is well");
        scene.assert_whole();
        Journals::now(scene).assert_settled(at);
    }

    /// What changed since.
    pub fn pattern(&self, scene: &Scene) -> Pattern {
        let now = scene.state().bundle(Half::Current);
        let names: BTreeSet<&String> = self.bundle.keys().chain(now.keys()).collect();
        let changed = names
            .into_iter()
            .filter(|name| self.bundle.get(*name) != now.get(*name));
        Pattern {
            entries: changed.cloned().collect(),
            files: differences(&self.hosts, &scene.on_hosts()),
        }
    }
}

/// A cluster that was rotated once: RKE gives nodes files of others, which the first rotation
/// removes. Nobody here counts the calls of its components.
pub fn settled(spec: &Spec) -> Scene {
    let scene = Scene::start(&Spec {
        calm: true,
        ..spec.clone()
    });
    scene.ok(&["rotate", "--yes"]);
    scene
}

/// Sets that were staged on hosts and belong to nobody any more.
pub fn strays(scene: &Scene) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for host in scene.cluster.hosts() {
        let all = below(&host.path("/etc/kubernetes/.kubepki"));
        let stray = |it: &PathBuf| {
            let text = it.to_string_lossy();
            text.contains(".new-") || text.contains(".part/")
        };
        found.extend(all.into_iter().filter(stray));
    }
    found
}

fn differences(before: &Files, now: &Files) -> BTreeSet<(String, String)> {
    let places: BTreeSet<_> = before.keys().chain(now.keys()).collect();
    let changed = places
        .into_iter()
        .filter(|it| before.get(*it) != now.get(*it));
    changed.cloned().collect()
}

/// Every file below a folder, as far as it is there.
pub fn below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        match entry.file_type().is_ok_and(|it| it.is_dir()) {
            true => files.extend(below(&path)),
            false => files.push(path),
        }
    }
    files
}
