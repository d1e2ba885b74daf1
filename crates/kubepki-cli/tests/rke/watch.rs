//! Who may look at a private key, and whether there was one to see.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use testkit::Secrets;
use testkit::rke::Watch;

use crate::scene::Scene;

/// Looks at engines, and at the arguments and environments of all processes on this machine and
/// the hosts, which are processes of this machine.
pub struct Lookout<'a> {
    scene: &'a Scene,
    secrets: Secrets,
    engines: Watch,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
    processes: Arc<Mutex<BTreeSet<Vec<u8>>>>,
}

impl<'a> Lookout<'a> {
    /// Begins.
    pub fn new(scene: &'a Scene) -> Self {
        let (stop, processes) = (Arc::<AtomicBool>::default(), Arc::default());
        let (ended, seen) = (stop.clone(), Arc::clone(&processes));
        let thread = std::thread::spawn(move || {
            let mut known = BTreeMap::new();
            while !ended.load(Ordering::SeqCst) {
                look(&mut known, &seen);
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        let mut lookout = Self {
            scene,
            secrets: Secrets::default(),
            engines: scene.cluster.watch(),
            stop,
            thread: Some(thread),
            processes,
        };
        lookout.learn();
        lookout
    }

    /// Remembers the keys that lie on the hosts and in the operator's folder now.
    pub fn learn(&mut self) {
        for node in self.scene.cluster.nodes() {
            self.secrets.add_below(self.scene.cluster.ssl(&node.name));
        }
        let folder = tempfile::tempdir().unwrap();
        for half in [kubepki::rke::Half::Current, kubepki::rke::Half::Desired] {
            for entry in self.scene.state().bundle(half).values() {
                let path = folder.path().join(format!("{}-{}", half.key(), entry.name));
                std::fs::write(path, entry.key_pem.as_bytes()).unwrap();
            }
        }
        self.secrets.add_below(folder.path());
        self.secrets.add_below(self.scene.config.parent().unwrap());
    }

    /// Fails if a private key was to be seen where it must not be.
    #[track_caller]
    pub fn finish(mut self) {
        self.learn();
        self.stop.store(true, Ordering::SeqCst);
        self.thread.take().unwrap().join().unwrap();
        let seen = self.engines.finish(&self.scene.cluster);
        assert_eq!(seen.missed, []);
        for it in &seen.shown {
            let what = format!("{} of {}", it.what, it.node);
            self.secrets.assert_absent(&what, &it.text);
        }
        let processes = self.processes.lock().unwrap();
        // What ran was seen: the program itself among them.
        let ours = |it: &&Vec<u8>| it.windows(7).any(|word| word == b"kubepki");
        assert!(processes.iter().any(|it| ours(&it)));
        for it in processes.iter() {
            self.secrets.assert_absent("a process", it);
        }
        self.secrets
            .assert_absent("what the program said", self.scene.said());
        let secret = |path: &std::path::Path| {
            // Backups and staged keys, 0600.
            ["backups", "staging"]
                .iter()
                .any(|it| path.iter().any(|part| part == *it))
        };
        self.secrets
            .assert_absent_below(self.scene.state_dir(), secret);
    }
}

/// A process that was seen.
#[derive(Default)]
struct Known {
    /// With an environment, for both come at once; or nothing if it has none.
    arguments: Option<Vec<u8>>,
    /// How often it was there.
    times: u32,
}

impl Known {
    /// Whether to look at it this time. What is young may yet become another program, and so may
    /// what has shown no environment; the others, and kernel threads, which never have one, are
    /// looked at now and then.
    fn is_due(&self, number: u32) -> bool {
        const YOUNG: u32 = 50;
        const NOW_AND_THEN: u32 = 10;
        self.times < YOUNG || self.times.wrapping_add(number).is_multiple_of(NOW_AND_THEN)
    }
}

fn look(known: &mut BTreeMap<u32, Known>, seen: &Mutex<BTreeSet<Vec<u8>>>) {
    let mut alive = BTreeSet::new();
    for process in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Ok(number) = process.file_name().to_string_lossy().parse::<u32>() else {
            continue;
        };
        alive.insert(number);
        let it = known.entry(number).or_default();
        it.times += 1;
        if !it.is_due(number) {
            continue;
        }
        let read = |file: &str| std::fs::read(process.path().join(file)).unwrap_or_default();
        let arguments = read("cmdline");
        if it.arguments.as_ref() == Some(&arguments) {
            continue;
        }
        let environment = read("environ");
        it.arguments = (!environment.is_empty()).then(|| arguments.clone());
        let mut seen = seen.lock().unwrap();
        let texts = [arguments, environment].into_iter();
        seen.extend(texts.filter(|it| !it.is_empty()));
    }
    known.retain(|number, _| alive.contains(number));
}
