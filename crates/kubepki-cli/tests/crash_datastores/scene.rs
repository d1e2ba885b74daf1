//! A stopped server with its datastore, which can be kept and put back whole.

use std::cell::Cell;
use std::path::{Path, PathBuf};

use kubepki::apply::unfinished;
use kubepki::bootstrap::{Bundle, Field, KEY_PREFIX, Passphrase, open};
use kubepki::state::StateDir;
use kubepki_datastore::Access;
use tempfile::TempDir;
use testkit::{DiffOptions, Fixture, Run, Tree, Victim};

use crate::place::{Place, connect};

pub const KUBEPKI: &str = env!("CARGO_BIN_EXE_kubepki");
/// The token of the fixtures.
pub const OLD: &str = "fixture-token-0123456789abcdef";
pub const NEW: &str = "another-token-fedcba9876543210";

pub struct Scene {
    folder: TempDir,
    pub place: Place,
    /// The files at first, without datastore and state directory.
    pub original: Tree,
    /// The bootstrap data at first.
    pub bundle: Bundle,
    looks: Cell<usize>,
}

impl Scene {
    /// The fixture `name` as K3s's next start leaves it, with its rows where `place` puts them.
    pub fn new(name: &str, place: impl FnOnce(&Fixture) -> Place) -> Self {
        let fixture = Fixture::new(name);
        let folder = scratch();
        let mut scene = Self {
            original: Tree::snapshot(folder.path()),
            folder,
            place: place(&fixture),
            bundle: Bundle::default(),
            looks: Cell::new(0),
        };
        std::fs::create_dir(scene.live()).unwrap();
        copy(&fixture.data_dir(), &scene.data());
        copy(&fixture.admin_kubeconfig(), &scene.live().join("k3s.yaml"));
        let staged = fixture.extra("staged-same-root");
        if staged.exists() {
            copy(&staged, &scene.scratch("set"));
        }
        std::fs::write(scene.scratch("new-token"), NEW).unwrap();
        if scene.place.endpoint().is_some() {
            remove(&scene.data().join("server/db"));
        }
        // Some of these clusters had their CAs rotated and were not restarted since.
        let settle = ["reconcile", "--yes", "--keep", "datastore"];
        scene.ends(&settle, 0);
        remove(&scene.data().join("kubepki"));
        let (runtime, store) = connect(&scene, Access::Read);
        let records = runtime.block_on(store.list(KEY_PREFIX)).unwrap();
        drop(store);
        if let Place::Etcd(_, first) = &mut scene.place {
            *first = records;
        }
        scene.original = scene.tree();
        scene.bundle = scene.opened(OLD, "at first");
        scene.keep("base");
        scene
    }

    pub fn scratch(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn live(&self) -> PathBuf {
        self.scratch("live")
    }

    pub fn data(&self) -> PathBuf {
        self.live().join("data")
    }

    pub fn file(&self, below: &str) -> Vec<u8> {
        let path = self.data().join("server").join(below);
        std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    pub fn state(&self) -> StateDir {
        StateDir::of_data_dir(&self.data())
    }

    pub fn args(&self, args: &[&str]) -> Vec<String> {
        let text = |path: PathBuf| path.to_str().unwrap().to_owned();
        let mut all: Vec<String> = args.iter().map(|it| (*it).to_owned()).collect();
        all.extend(["--data-dir".to_owned(), text(self.data())]);
        all.extend([
            "--kubeconfig".to_owned(),
            text(self.live().join("k3s.yaml")),
        ]);
        if args[0] != "ca" {
            all.extend(["--still-for", "0"].map(str::to_owned));
            let endpoint = self.place.endpoint();
            all.extend(endpoint.map(|it| format!("--datastore-endpoint={it}")));
        }
        all
    }

    pub fn run(&self, args: &[&str]) -> Run {
        testkit::run(KUBEPKI, &self.args(args), b"")
    }

    #[track_caller]
    pub fn ends(&self, args: &[&str], code: i32) -> Run {
        let run = self.run(args);
        assert_eq!(run.code, Some(code), "{args:?}: {}", run.text());
        run
    }

    pub fn victim(&self, args: &[&str]) -> Victim {
        Victim::new(KUBEPKI, self.args(args))
            .alone()
            .at_files_and_network()
    }

    pub fn tree(&self) -> Tree {
        Tree::snapshot(self.live())
            .without("data/kubepki")
            .without("data/server/db")
    }

    /// Keeps files and rows under a name.
    pub fn keep(&self, name: &str) {
        copy(&self.live(), &self.scratch(&format!("kept-{name}")));
        self.place.keep(name);
    }

    /// Puts them back.
    pub fn put_back(&self, name: &str) {
        copy(&self.scratch(&format!("kept-{name}")), &self.live());
        self.place.put_back(name, self);
    }

    /// The one bundle, which must be under the key of `token` and open with it.
    #[track_caller]
    pub fn opened(&self, token: &str, at: &str) -> Bundle {
        let (runtime, store) = connect(self, Access::Read);
        let live = runtime.block_on(store.list(KEY_PREFIX)).unwrap();
        let keys: Vec<&str> = live.iter().map(|it| it.key.as_str()).collect();
        let passphrase = Passphrase::new(token.to_owned());
        assert_eq!(keys, [passphrase.key_name()], "{at}");
        let json = open(&live[0].value, &passphrase).unwrap();
        Bundle::parse(&json).unwrap()
    }

    /// Where the files are not as at first.
    pub fn differences(&self) -> Vec<String> {
        let options = DiffOptions::exact().without_directory_mtimes();
        Tree::diff(&self.original, &self.tree(), &options)
    }

    /// Files and rows are as at first: the same tree, the same bundle under the old token, and K3s
    /// would neither die of it nor change anything.
    #[track_caller]
    pub fn assert_original(&self, at: &str) {
        let differences = self.differences();
        assert!(differences.is_empty(), "{at}:\n{}", differences.join("\n"));
        let bundle = self.opened(OLD, at);
        assert!(bundle.files.keys().eq(self.bundle.files.keys()), "{at}");
        for (field, file) in &self.bundle.files {
            let now = &bundle.files[field];
            assert!(now.content == file.content, "{at}: {field}");
            assert!(now.stamp >= file.stamp, "{at}: {field} is older");
        }
        assert_eq!(bundle.others, self.bundle.others, "{at}");
        self.assert_in_step(&bundle, at);
        self.assert_settled(at);
    }

    /// Every so manieth time the program itself is asked too, which takes its time.
    pub fn looks_closely(&self) -> bool {
        let looks = self.looks.get();
        self.looks.set(looks + 1);
        looks.is_multiple_of(5)
    }

    /// Disk and datastore hold the same.
    #[track_caller]
    pub fn assert_in_step(&self, bundle: &Bundle, at: &str) {
        for field in Field::ALL {
            let path = field.under(&self.data().join("server"));
            let disk = std::fs::read(path).ok();
            assert!(
                disk.as_deref() == bundle.content(field),
                "{at}: {field} differs"
            );
        }
        if self.looks_closely() {
            let diff = self.run(&["bootstrap", "diff"]);
            assert_eq!(diff.code, Some(0), "{at}: {}", diff.text());
        }
    }

    /// Nothing is interrupted, nothing half-written lies about, and what begun plans staged is
    /// gone.
    #[track_caller]
    pub fn assert_settled(&self, at: &str) {
        let state = self.state();
        assert_eq!(unfinished(&state).unwrap(), None, "{at}");
        let everything = Tree::snapshot(self.live());
        let begun: Vec<String> = state
            .plans()
            .unwrap()
            .into_iter()
            .filter(|id| !state.journal(id).unwrap().entries.is_empty())
            .map(|id| format!("data/kubepki/staging/{}/", id.0))
            .collect();
        let staged = |path: &str| begun.iter().any(|folder| path.starts_with(folder));
        let half = |path: &str| path.contains(".kubepki-tmp") && !path.starts_with("data/kubepki/");
        let left = everything.files().find(|it| staged(it) || half(it));
        assert_eq!(left, None, "{at}");
    }
}

/// A folder in memory where there is such a place: these tests sync a lot.
fn scratch() -> TempDir {
    let memory = Path::new("/dev/shm");
    match memory.is_dir().then(|| tempfile::tempdir_in(memory)) {
        Some(Ok(folder)) => folder,
        _ => tempfile::tempdir().unwrap(),
    }
}

fn remove(path: &Path) {
    testkit::run("rm", &["-rf".as_ref(), path.as_os_str()], b"");
}

/// Makes `to` a copy of `from`, times and owners too.
fn copy(from: &Path, to: &Path) {
    remove(to);
    let args = ["-a".as_ref(), from.as_os_str(), to.as_os_str()];
    let run = testkit::run("cp", &args, b"");
    assert!(run.success(), "{}", run.text());
}
