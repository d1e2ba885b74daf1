//! A command that is killed, and what must hold once it is done.

use std::collections::BTreeSet;
use std::path::PathBuf;

use kubepki::bootstrap::Field;
use kubepki::plan::{Step, Target};
use testkit::{CrashPoint, DiffOptions, Tree};

use crate::moments::{Left, line};
use crate::scene::{NEW, OLD, Scene};

/// What is done.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    Token,
    ServiceKey,
    /// The CAs of the set in this directory.
    Authorities(PathBuf),
}

pub struct Change<'a> {
    pub scene: &'a Scene,
    pub kind: Kind,
    pub args: Vec<String>,
    finished: Tree,
    /// The files whose content differs from run to run.
    random: BTreeSet<String>,
    /// All system calls of a run.
    pub points: Vec<CrashPoint>,
    pub steps: u32,
    /// The numbers of those that write to the datastore.
    pub rows: Vec<usize>,
}

impl<'a> Change<'a> {
    /// Runs it once without a kill.
    pub fn new(scene: &'a Scene, kind: Kind) -> Self {
        let words: &[&str] = match &kind {
            Kind::Token => &["token", "rotate", "--yes", "--new-token-file"],
            Kind::ServiceKey => &["sa-key", "rotate", "--yes", "--key", "p256"],
            Kind::Authorities(_) => &["rotate-ca", "--yes", "--path"],
        };
        let path = match &kind {
            Kind::Token => Some(scene.scratch("new-token")),
            Kind::ServiceKey => None,
            Kind::Authorities(set) => Some(set.clone()),
        };
        let words = words.iter().map(|it| (*it).to_owned());
        let path = path.map(|it| it.to_str().unwrap().to_owned());
        let args: Vec<String> = words.chain(path).collect();
        let given: Vec<&str> = args.iter().map(String::as_str).collect();
        scene.put_back("base");
        let points = scene.victim(&given).crash_points();
        let finished = scene.tree();
        let plan = scene.state().plans().unwrap().remove(0);
        let plan = scene.state().load_plan(&plan).unwrap();
        let is_row = |step: &&Step| matches!(step.target, Target::DatastoreKey { .. });
        let rows = plan.steps.iter().filter(is_row);
        let rows = rows.map(|step| usize::try_from(step.number).unwrap());
        let random = match &kind {
            Kind::Token => BTreeSet::new(),
            _ => changed(&scene.original, &finished),
        };
        let change = Self {
            scene,
            kind,
            args,
            finished,
            random,
            points,
            rows: rows.collect(),
            steps: plan.steps.len().try_into().unwrap(),
        };
        change.assert_finished("a run without a kill");
        change
    }

    pub fn given(&self) -> Vec<&str> {
        self.args.iter().map(String::as_str).collect()
    }

    /// The token in force afterwards.
    pub fn token(&self) -> &'static str {
        match self.kind {
            Kind::Token => NEW,
            _ => OLD,
        }
    }

    /// Kills it at each of the `chosen` moments, and resumes what is left in one copy and undoes
    /// it in another. Answers where the kills left it; looks longer for what `must` be among them.
    pub fn survives(&self, must: &BTreeSet<Left>, chosen: &[CrashPoint]) -> BTreeSet<Left> {
        let (mut left, mut kills) = (BTreeSet::new(), 0);
        for (number, point) in chosen.iter().enumerate() {
            if self.kill(point) {
                kills += 1;
                left.insert(Left::of(self.scene, &[]));
                self.mend(point, number);
            }
        }
        let missed: Vec<Left> = must.difference(&left).copied().collect();
        for missed in missed {
            if self.hunt(missed) {
                kills += 1;
                left.insert(missed);
            }
        }
        let (name, what) = (self.scene.place.name(), &self.args[..2]);
        println!(
            "{name}: {what:?} has {} steps, {} moments; killed at {kills}, left {} ways, each \
             resumed and undone",
            self.steps,
            self.points.len(),
            left.len()
        );
        assert!(
            kills * 10 >= chosen.len() * 8,
            "{kills} of {}",
            chosen.len()
        );
        left
    }

    /// How often the program wakes itself by a `write` is chance where threads work for it: looks
    /// around the line of the journal before which it would be left so.
    fn hunt(&self, wanted: Left) -> bool {
        let number = match wanted {
            Left::Before(step) => 2 * step,
            Left::Done(step) => 2 * step + 1,
            _ => return false,
        };
        let Some(line) = line(&self.points, number) else {
            return false;
        };
        for _ in 0..5 {
            for nth in line.nth.saturating_sub(4)..=line.nth + 4 {
                let point = CrashPoint {
                    nth,
                    ..line.clone()
                };
                if self.kill(&point) && Left::of(self.scene, &[]) == wanted {
                    self.mend(&point, 0);
                    return true;
                }
            }
        }
        false
    }

    /// What a kill left is resumed in one copy and undone in another; every so manieth time that
    /// is killed too, and begun again.
    fn mend(&self, point: &CrashPoint, number: usize) {
        let at = self.at(point);
        let known = Left::of(self.scene, &[]);
        let copies = self.scene.place.can_copy();
        if copies {
            self.scene.keep("killed");
        }
        let at = format!("{at}, {known:?}, resumed");
        self.resume(known, number % 4 == 1, &at);
        match copies {
            true => self.scene.put_back("killed"),
            // How often it looks whether an answer is there is chance.
            false if !self.kill(point) => return,
            false => {}
        }
        let known = Left::of(self.scene, &[]);
        let at = format!("{at} and in another copy {known:?}, undone");
        self.undo(known, number % 4 == 3, &at);
    }

    fn at(&self, point: &CrashPoint) -> String {
        let name = self.scene.place.name();
        let CrashPoint { call, nth, seen } = point;
        format!("{name}: {}: {call} number {nth} ({seen})", self.args[0])
    }

    fn kill(&self, point: &CrashPoint) -> bool {
        self.scene.put_back("base");
        self.scene.victim(&self.given()).crash_if_reached(point)
    }

    pub fn resume(&self, known: Left, stumbles: bool, at: &str) {
        if stumbles {
            self.kill_mender(&["resume"], 2);
        }
        let resumed = self.scene.run(&["resume"]);
        assert!(resumed.success(), "{at}: {}", resumed.text());
        match known {
            Left::Unbegun => self.scene.assert_original(at),
            _ => self.assert_finished(at),
        }
    }

    pub fn undo(&self, known: Left, stumbles: bool, at: &str) {
        let stumbled = stumbles && self.kill_mender(&["undo", "--yes"], 3);
        let again = stumbled && self.scene.run(&["resume"]).text().contains("undo:");
        if !again {
            let undo = self.scene.run(&["undo", "--yes"]);
            // It was not begun, or its undo was killed at its own last line.
            let nothing = undo.text().contains("nothing to take back");
            let nothing = nothing && (known == Left::Unbegun || stumbled);
            assert!(undo.success() || nothing, "{at}: {}", undo.text());
        }
        self.scene.assert_original(at);
    }

    /// Kills what mends at its `nth` line in a journal, if it comes so far.
    fn kill_mender(&self, args: &[&str], nth: usize) -> bool {
        let point = CrashPoint {
            call: "fdatasync".to_owned(),
            nth,
            seen: "a journal".to_owned(),
        };
        let victim = self.scene.victim(args);
        victim.kill_within(&point)
    }

    /// Files and rows are as a run without a kill leaves them, but for new keys and dates.
    #[track_caller]
    pub fn assert_finished(&self, at: &str) {
        let mut options = DiffOptions::exact().without_directory_mtimes();
        for path in changed(&self.scene.original, &self.finished) {
            options = match self.random.contains(&path) {
                true => options.content_may_differ(&path),
                false => options.mtime_may_differ(&path),
            };
        }
        let now = self.scene.tree();
        let differences = Tree::diff(&self.finished, &now, &options);
        assert!(differences.is_empty(), "{at}:\n{}", differences.join("\n"));
        let news = changed(&self.scene.original, &now);
        assert_eq!(news, changed(&self.scene.original, &self.finished), "{at}");
        let bundle = self.scene.opened(self.token(), at);
        for (field, file) in &self.scene.bundle.files {
            let now = bundle.content(*field).unwrap();
            let expected = match &self.kind {
                Kind::Token if *field == Field::PasswdFile => {
                    let text = String::from_utf8(file.content.to_vec()).unwrap();
                    assert!(String::from_utf8_lossy(now).contains(NEW), "{at}");
                    assert!(!String::from_utf8_lossy(now).contains(OLD), "{at}");
                    assert!(text.contains(OLD));
                    continue;
                }
                Kind::ServiceKey if *field == Field::ServiceKey => {
                    let signs = self.scene.file("tls/service.current.key");
                    assert!(now.starts_with(&signs), "{at}: another key signs");
                    assert!(now.ends_with(&file.content), "{at}: old keys are lost");
                    assert!(now.len() > file.content.len(), "{at}: no new key");
                    continue;
                }
                Kind::Authorities(set) if field.is_rotatable() => {
                    std::fs::read(field.under(set)).unwrap()
                }
                _ => file.content.to_vec(),
            };
            assert!(now == expected, "{at}: {field}");
        }
        self.scene.assert_in_step(&bundle, at);
        self.scene.assert_settled(at);
        let token = String::from_utf8(self.scene.file("token")).unwrap();
        let whole = format!(":{}\n", self.token());
        assert!(token.ends_with(&whole), "{at}");
        if matches!(self.kind, Kind::Authorities(_)) {
            self.assert_leaves(at);
        }
    }

    /// Every leaf verifies under the CAs in force; K3s's next start has nothing to do.
    fn assert_leaves(&self, at: &str) {
        let tls = self.scene.data().join("server/tls");
        for (authority, leaves) in LEAVES {
            let authority = tls.join(authority).to_str().unwrap().to_owned();
            let mut args = vec!["verify".to_owned(), "-CAfile".to_owned(), authority];
            let leaves = leaves.iter().map(|leaf| tls.join(leaf));
            args.extend(leaves.map(|leaf| leaf.to_str().unwrap().to_owned()));
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            let run = testkit::openssl(&args, b"");
            assert!(run.success(), "{at}: {}", run.text());
        }
        if self.scene.looks_closely() {
            let start = self.scene.run(&["reconcile", "--dry-run"]);
            let idle = start.code == Some(0) && start.text().contains("Nothing to do.");
            assert!(idle, "{at}: {}", start.text());
        }
    }
}

/// Each CA's file and leaves of it, below `server/tls`.
const LEAVES: [(&str, &[&str]); 5] = [
    (
        "client-ca.crt",
        &[
            "client-admin.crt",
            "client-supervisor.crt",
            "client-controller.crt",
            "client-scheduler.crt",
            "client-kube-apiserver.crt",
            "client-k3s-cloud-controller.crt",
            "../../agent/client-kubelet.crt",
            "../../agent/client-kube-proxy.crt",
            "../../agent/client-k3s-controller.crt",
        ],
    ),
    (
        "server-ca.crt",
        &[
            "serving-kube-apiserver.crt",
            "kube-scheduler/kube-scheduler.crt",
            "kube-controller-manager/kube-controller-manager.crt",
            "../../agent/serving-kubelet.crt",
        ],
    ),
    ("request-header-ca.crt", &["client-auth-proxy.crt"]),
    (
        "etcd/server-ca.crt",
        &["etcd/client.crt", "etcd/server-client.crt"],
    ),
    ("etcd/peer-ca.crt", &["etcd/peer-server-client.crt"]),
];

/// The files that differ in content, or are there in one only.
fn changed(before: &Tree, after: &Tree) -> BTreeSet<String> {
    let paths = before.nodes().chain(after.nodes());
    paths
        .filter(|(path, _)| {
            let kind = |tree: &Tree| tree.get(path).map(|node| node.kind.clone());
            kind(before) != kind(after)
        })
        .map(|(path, _)| path.to_owned())
        .collect()
}
