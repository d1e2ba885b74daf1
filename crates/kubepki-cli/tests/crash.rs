//! A kill before every system call that changes something, in the middle of a rotation: what is
//! left can be resumed to what was meant, and taken back to what was.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

mod common;

use std::collections::BTreeSet;
use std::path::Path;

use common::leaves::{LEAVES, LISTENER, first, leaf, listener};
use common::{KUBEPKI, Node, STATE, changed};
use kubepki::apply::unfinished;
use kubepki::state::StateDir;
use pki::{Certificate, PrivateKey};
use tempfile::TempDir;
use testkit::{CrashPoint, DiffOptions, Tree, Victim};

/// A node that can be put back to its beginning, and the two trees that a crash may end in.
struct Scene {
    node: Node,
    /// Copies to put it back from: `base`, the beginning, and `saved`, what a crash left.
    copies: TempDir,
    /// What the victim is told, for messages.
    args: Vec<&'static str>,
    original: Tree,
    finished: Tree,
    /// What the rotation changes.
    changed: BTreeSet<String>,
    /// Every certificate that it leaves, without serial number, dates and key.
    words: Vec<String>,
}

impl Scene {
    fn new(fixture: &str, args: &[&'static str]) -> Self {
        let node = Node::new(fixture);
        // Fresh leaves, so that whatever the date is nothing else is due.
        node.ok(&["rotate", "--yes"]);
        testkit::run("rm", &["-r", &node.text_path(STATE)], b"");
        let copies = TempDir::new().unwrap();
        let original = node.tree();
        copy(&node.root(), &copies.path().join("base"));
        node.ok(args);
        let finished = node.tree();
        let changed = changed(&original, &finished);
        let words = words(&node, &changed);
        let scene = Self {
            node,
            copies,
            args: args.to_vec(),
            original,
            finished,
            changed,
            words,
        };
        scene.assert_finished("a run without a crash");
        scene.reset("base");
        scene
    }

    fn victim(&self, args: &[&str]) -> Victim {
        let args = args.iter().map(|arg| (*arg).to_owned());
        Victim::new(KUBEPKI, args.chain(self.node.site())).alone()
    }

    /// Puts everything back as it is in the copy `from`.
    fn reset(&self, from: &str) {
        let from = self.copies.path().join(from);
        copy(&from, &self.node.root());
    }

    fn save(&self) {
        copy(&self.node.root(), &self.copies.path().join("saved"));
    }

    /// Crashes at `point`, resumes; crashes again, undoes. `true` if there was a plan to resume.
    fn crash(&self, victim: &Victim, point: &CrashPoint) -> bool {
        let at = format!("{} number {} ({})", point.call, point.nth, point.seen);
        self.reset("base");
        victim.crash_at(point);
        self.save();
        let renew = self.node.run(&["renew", "--yes"]);
        let interrupted = match renew.code {
            Some(6) => {
                assert!(
                    renew.text().contains("was interrupted"),
                    "{at}: {}",
                    renew.text()
                );
                assert!(
                    renew.text().contains("kubepki resume"),
                    "{at}: {}",
                    renew.text()
                );
                self.ends(&["resume"], 0, &at);
                self.assert_finished(&at);
                self.assert_settled(&at);
                true
            }
            Some(0) => {
                self.assert_either(&at);
                false
            }
            _ => panic!("{at}: {}", renew.text()),
        };
        self.reset("saved");
        let undo = self.node.run(&["undo", "--yes"]);
        // Nothing to take back is the one failure that there may be, and only before the start.
        let unbegun = undo.code == Some(1) && undo.text().contains("nothing to take back");
        assert!(
            undo.success() || (unbegun && !interrupted),
            "{at}: {}",
            undo.text()
        );
        self.assert_original(&at);
        self.assert_settled(&at);
        interrupted
    }

    fn ends(&self, args: &[&str], code: i32, at: &str) {
        let run = self.node.run(args);
        assert_eq!(run.code, Some(code), "{at}: {args:?}: {}", run.text());
    }

    /// The tree of a rotation that no crash disturbed: equal but for keys, serial numbers, dates.
    fn assert_finished(&self, at: &str) {
        let mut options = DiffOptions::exact()
            .without_directory_mtimes()
            .ignoring(STATE);
        for path in &self.changed {
            options = options.content_may_differ(path);
        }
        let differences = Tree::diff(&self.finished, &self.node.tree(), &options);
        assert!(differences.is_empty(), "{at}:\n{}", differences.join("\n"));
        let now = self.node.tree();
        for path in &self.changed {
            assert!(
                self.original.get(path) != now.get(path),
                "{at}: {path} is old"
            );
        }
        assert_eq!(self.words, words(&self.node, &self.changed), "{at}");
        self.assert_closed(at);
    }

    fn assert_original(&self, at: &str) {
        let options = DiffOptions::exact()
            .without_directory_mtimes()
            .ignoring(STATE);
        let differences = Tree::diff(&self.original, &self.node.tree(), &options);
        assert!(differences.is_empty(), "{at}:\n{}", differences.join("\n"));
        self.assert_closed(at);
    }

    /// Where no plan is interrupted, it was either not begun or done.
    fn assert_either(&self, at: &str) {
        if changed(&self.original, &self.node.tree()).is_empty() {
            self.assert_original(at);
        } else {
            self.assert_finished(at);
        }
    }

    /// The state directory is closed to others.
    fn assert_closed(&self, at: &str) {
        for (path, node) in self.node.tree().nodes() {
            if Path::new(path).starts_with(STATE) {
                let expected = match node.kind {
                    testkit::NodeKind::Directory => 0o700,
                    _ => 0o600,
                };
                assert_eq!(node.mode, expected, "{at}: {path}");
            }
        }
    }

    /// Nothing is interrupted, and nothing staged is left. (What a plan staged that was killed
    /// between its last line and its end is left to the next plan's end.)
    fn assert_settled(&self, at: &str) {
        let state = StateDir::new(self.node.path(STATE));
        assert_eq!(unfinished(&state).unwrap(), None, "{at}");
        let staged = self.node.tree();
        let staged = staged
            .files()
            .find(|path| path.starts_with("data/kubepki/staging/"));
        let begun = self.node.path("data/kubepki/journal").is_dir();
        assert!(staged.is_none() || !begun, "{at}: {staged:?} is left");
    }
}

/// What each changed file says, apart from keys, serial numbers and dates; keys must match.
fn words(node: &Node, changed: &BTreeSet<String>) -> Vec<String> {
    let mut words = Vec::new();
    for (pair, ..) in LEAVES {
        let (file, key) = (format!("data/{pair}.crt"), format!("data/{pair}.key"));
        if changed.contains(&file) {
            let pem = std::fs::read(node.path(&file)).unwrap();
            words.push(format!("{file} {}", say(&pem)));
            let key = PrivateKey::from_pem(&std::fs::read(node.path(&key)).unwrap()).unwrap();
            assert_eq!(key.spki_der(), first(&pem).spki_der(), "{file}");
        }
    }
    if changed.contains(&format!("data/{LISTENER}")) {
        let secret = listener(node);
        let key = PrivateKey::from_pem(&secret.key).unwrap();
        let leaf = first(&secret.certificate);
        assert_eq!(key.spki_der(), leaf.spki_der());
        let fingerprint = kubepki::listener::fingerprint(&leaf);
        assert_eq!(secret.fingerprint.as_deref(), Some(fingerprint.as_str()));
        words.push(format!("{:?} {}", secret.sans, say(&secret.certificate)));
    }
    if changed.contains("extra/k3s.yaml") {
        let text = std::fs::read(node.path("extra/k3s.yaml")).unwrap();
        let user = kubepki::kubeconfig::Kubeconfig::parse(&text)
            .unwrap()
            .users
            .swap_remove(0);
        let Some(kubepki::kubeconfig::Placement::Inline(pem)) = user.certificate else {
            panic!("no certificate is inlined");
        };
        let Some(kubepki::kubeconfig::KeyPlacement::Inline(key)) = user.key else {
            panic!("no key is inlined");
        };
        let admin = leaf(node, "data/server/tls/client-admin.crt");
        assert_eq!(first(&pem).der(), admin.der());
        assert_eq!(
            PrivateKey::from_pem(&key).unwrap().spki_der(),
            admin.spki_der()
        );
        words.push(format!("kubeconfig {}", say(&pem)));
    }
    words
}

/// A leaf's to-be-signed part without serial number, dates and key; what follows it, whole.
fn say(pem: &[u8]) -> String {
    let chain = Certificate::all_from_pem(pem).unwrap();
    let leaf = &chain[0];
    let rest: Vec<String> = chain[1..]
        .iter()
        .map(|certificate| certificate.fingerprint().to_string())
        .collect();
    format!(
        "{} {:?} {:?} {:?} {:?} {:?} {} {:?} {rest:?}",
        leaf.subject(),
        leaf.sans(),
        leaf.purposes(),
        leaf.key_usage(),
        leaf.basic_constraints(),
        leaf.authority_key_identifier(),
        leaf.issuer(),
        leaf.validity().not_after.since(leaf.validity().not_before),
    )
}

/// Makes `to` a copy of the folder `from` with modes, owners, times and links.
fn copy(from: &Path, to: &Path) {
    let (from, to) = (from.to_str().unwrap(), to.to_str().unwrap());
    let line = format!("mkdir -p '{to}' && rm -rf '{to}'/* && cp -a '{from}'/* '{to}'");
    let run = testkit::run("sh", &["-c", &line], b"");
    assert!(run.success(), "{line}: {}", run.text());
}

/// Crashes at one of `every` points; says how often there was a plan to resume, and of how many.
fn crash_at_all(scene: &Scene, every: usize) -> (usize, usize) {
    let victim = scene.victim(&scene.args);
    let points = victim.crash_points();
    let chosen = points.iter().step_by(every);
    let count = chosen.len();
    (
        chosen.filter(|point| scene.crash(&victim, point)).count(),
        count,
    )
}

#[test]
fn a_crash_anywhere_can_be_resumed_and_taken_back() {
    let args = ["rotate", "--service", "admin,k3s-server", "--yes"];
    let scene = Scene::new("k3s-1.36-sqlite", &args);
    assert_eq!(scene.changed.len(), 4, "{:?}", scene.changed);
    let (interrupted, points) = crash_at_all(&scene, 1);
    // Before its journal says so a plan is not begun, after its last line it is done; between
    // them are at least intent, temporary file, replacement and end of four steps.
    assert!(
        interrupted > 80 && interrupted < points,
        "{interrupted} of {points}"
    );
}

/// Every so manieth of more than a thousand moments. A step has about 28, which is no multiple, so
/// that each kind of moment is met in some step.
const STRIDE: usize = 17;

#[test]
fn a_crash_in_the_rotation_of_everything_can_be_resumed_and_taken_back() {
    let scene = Scene::new("k3s-1.36-sqlite", &["rotate", "--yes"]);
    assert_eq!(scene.changed.len(), 40, "{:?}", scene.changed);
    let (interrupted, points) = crash_at_all(&scene, STRIDE);
    assert!(
        interrupted > 50 && interrupted < points,
        "{interrupted} of {points}"
    );
}

#[test]
fn a_crash_of_the_undo_can_be_resumed() {
    let args = ["rotate", "--service", "scheduler", "--yes"];
    let scene = Scene::new("k3s-1.36-sqlite", &args);
    scene.node.ok(&args);
    scene.save();
    let victim = scene.victim(&["undo", "--yes"]);
    let mut interrupted = 0;
    let points = victim.crash_points();
    for point in points.iter().step_by(5) {
        let at = format!("{} number {} ({})", point.call, point.nth, point.seen);
        scene.reset("saved");
        victim.crash_at(point);
        let resume = scene.node.run(&["resume"]);
        assert!(resume.success(), "{at}: {}", resume.text());
        if resume.text().contains("Nothing is interrupted") {
            scene.assert_either(&at);
        } else {
            scene.assert_original(&at);
            interrupted += 1;
        }
    }
    assert!(interrupted > 10, "{interrupted} of {}", points.len());
}
