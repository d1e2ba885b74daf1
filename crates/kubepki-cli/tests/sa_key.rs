//! `kubepki sa-key`: tokens of old and new keys verify, the new one signs, nothing else changes.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "tests fail by panicking, and lay out their own files"
)]

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use kubepki::bootstrap::{Bundle, Field, Passphrase, open};
use kubepki::datastore::Datastore as _;
use kubepki_datastore::{Access, SqliteStore};
use serde_json::Value;
use testkit::{CrashPoint, DiffOptions, Fixture, Run, Tree, Victim};

const KUBEPKI: &str = env!("CARGO_BIN_EXE_kubepki");
const TOKEN: &str = "fixture-token-0123456789abcdef";
const KEY: &str = "server/tls/service.key";
const CURRENT: &str = "server/tls/service.current.key";

/// A stopped server, datastore and all.
struct Server {
    fixture: Fixture,
}

impl Server {
    fn new(name: &str) -> Self {
        let fixture = Fixture::new(name);
        Self { fixture }
    }

    fn data(&self) -> PathBuf {
        self.fixture.data_dir()
    }

    fn scratch(&self, name: &str) -> String {
        self.fixture.scratch(name).to_str().unwrap().to_owned()
    }

    fn args(&self, args: &[&str]) -> Vec<String> {
        let data = self.data();
        let site = ["--still-for", "0", "--data-dir", data.to_str().unwrap()];
        let looks = args.get(1) == Some(&"list");
        let site = if looks { &site[2..] } else { &site };
        // After `--` there are ids only.
        let (command, more) = args.split_at(args.len().min(2));
        let all = command.iter().chain(site).chain(more);
        all.map(|it| (*it).to_owned()).collect()
    }

    fn run(&self, args: &[&str]) -> Run {
        testkit::run(KUBEPKI, &self.args(args), b"")
    }

    #[track_caller]
    fn ends(&self, args: &[&str], code: i32) -> Run {
        let run = self.run(args);
        assert_eq!(run.code, Some(code), "{args:?}: {}", run.text());
        run
    }

    fn list(&self) -> Value {
        let run = self.ends(&["sa-key", "list", "-o", "json"], 0);
        fs::write(self.scratch("keys.json"), &run.stdout).unwrap();
        serde_json::from_slice(&run.stdout).unwrap()
    }

    fn kids(&self) -> Vec<String> {
        let kid = |key: &Value| key["kid"].as_str().unwrap().to_owned();
        self.list()["keys"]
            .as_array()
            .unwrap()
            .iter()
            .map(kid)
            .collect()
    }

    /// A token signed with the first key of `file`, and the key's id.
    fn sign(&self, file: &str) -> String {
        let file = self.data().join(file);
        let run = jwt(&["sign", file.to_str().unwrap()]);
        assert!(run.success(), "{}", run.text());
        String::from_utf8(run.stdout).unwrap().trim().to_owned()
    }

    /// The id of the key that verifies a token, if one does.
    fn verify(&self, token: &str) -> Option<String> {
        self.list();
        let run = jwt(&["verify", &self.scratch("keys.json"), token]);
        let kid = String::from_utf8(run.stdout.clone()).unwrap();
        run.success().then(|| kid.trim().to_owned())
    }

    fn bytes(&self, path: &str) -> Vec<u8> {
        fs::read(self.data().join(path)).unwrap()
    }

    fn bundle(&self) -> Bundle {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        // A copy: whoever opens the datastore leaves files beside it for a while.
        let seen = tempfile::tempdir().unwrap();
        copy(&self.data().join("server/db"), &seen.path().join("db"));
        let path = seen.path().join("db/state.db");
        let store = runtime
            .block_on(SqliteStore::open(&path, Access::Read))
            .unwrap();
        let live = runtime.block_on(store.list("/bootstrap")).unwrap();
        assert_eq!(live.len(), 1, "{live:?}");
        let passphrase = Passphrase::new(TOKEN.to_owned());
        Bundle::parse(&open(&live[0].value, &passphrase).unwrap()).unwrap()
    }

    fn tree(&self) -> Tree {
        Tree::snapshot(self.data())
    }

    #[track_caller]
    fn assert_is(&self, before: &Tree, changed: &[&str]) {
        let mut options = DiffOptions::exact()
            .without_directory_mtimes()
            .ignoring("kubepki")
            .ignoring("server/db");
        for path in changed {
            options = options.content_may_differ(path);
        }
        Tree::assert_equal(before, &self.tree(), &options);
    }
}

fn jwt(args: &[&str]) -> Run {
    testkit::run(
        testkit::go_program(include_str!("common/jwt.go")),
        args,
        b"",
    )
}

#[test]
fn tokens_of_old_and_new_keys_verify_and_the_new_one_signs() {
    let server = Server::new("k3s-1.36-sqlite");
    let before = server.tree();
    let (old_file, old) = (server.bytes(KEY), server.bundle());
    let first = server.kids();
    let old_token = server.sign(CURRENT);
    assert_eq!(server.verify(&old_token).as_ref(), Some(&first[0]));

    let run = server.ends(&["sa-key", "rotate", "--yes"], 0);
    assert!(
        run.text().contains("Restart the servers only"),
        "{}",
        run.text()
    );
    let (second_file, second) = (server.bytes(KEY), server.tree());
    server.ends(&["sa-key", "rotate", "--yes", "--key", "p256"], 0);
    let kids = server.kids();
    assert_eq!((kids.len(), &kids[2]), (3, &first[0]));
    assert!(
        server.bytes(KEY).ends_with(&old_file),
        "old keys stay octet for octet"
    );
    for file in [KEY, CURRENT] {
        assert_eq!(server.verify(&server.sign(file)).as_ref(), Some(&kids[0]));
    }
    assert_eq!(server.verify(&old_token).as_ref(), Some(&first[0]));
    assert_eq!(server.list()["currentInStep"], true);
    server.assert_is(&before, &[KEY, CURRENT]);

    let new = server.bundle();
    for (field, file) in &old.files {
        match field {
            Field::ServiceKey => {
                assert!(new.content(*field) == Some(server.bytes(KEY).as_slice()));
                let disk = fs::metadata(server.data().join(KEY)).unwrap();
                assert_eq!(disk.mtime(), new.files[field].stamp.seconds);
            }
            _ => assert_eq!(new.files[field], *file, "{field}"),
        }
    }
    // The last rotation taken back, in the datastore too.
    server.ends(&["undo", "--yes"], 0);
    server.assert_is(&second, &[]);
    assert!(server.bundle().content(Field::ServiceKey) == Some(second_file.as_slice()));
}

#[test]
fn a_staged_set_holds_the_file_and_nothing_else() {
    let server = Server::new("k3s-1.36-sqlite");
    let before = server.tree();
    let staged = server.scratch("staged");
    let run = server.ends(&["sa-key", "rotate", "--stage", &staged], 0);
    assert!(run.text().contains("rotate-ca --path"), "{}", run.text());
    Tree::assert_equal(&before, &server.tree(), &DiffOptions::exact());
    let tree = Tree::snapshot(&staged);
    assert_eq!(tree.files().collect::<Vec<_>>(), ["tls/service.key"]);
    assert_eq!(tree.get("tls/service.key").unwrap().mode & 0o777, 0o600);
    let file = fs::read(Path::new(&staged).join("tls/service.key")).unwrap();
    assert!(file.ends_with(&server.bytes(KEY)) && file.len() > server.bytes(KEY).len());
    // Never twice, never into the live tree.
    server.ends(&["sa-key", "rotate", "--stage", &staged], 5);
    let live = server.data().join("server");
    let run = server.ends(&["sa-key", "rotate", "--stage", live.to_str().unwrap()], 5);
    assert!(run.text().contains("live"), "{}", run.text());
}

#[test]
fn old_keys_go_only_when_no_token_of_them_can_be_alive() {
    let server = Server::new("k3s-1.36-sqlite");
    let old_token = server.sign(CURRENT);
    server.ends(&["sa-key", "rotate", "--yes"], 0);
    let kids = server.kids();
    let old = &kids[1];

    // One id in 64 begins with a dash.
    let run = server.ends(&["sa-key", "drop", "--yes", "--", &kids[0]], 5);
    assert!(run.text().contains("signs new tokens"), "{}", run.text());
    let run = server.ends(&["sa-key", "drop", "--yes", "nobody"], 2);
    assert!(run.text().contains("no key nobody"), "{}", run.text());
    let run = server.ends(&["sa-key", "drop", "--yes", "-nobody"], 2);
    assert!(run.text().contains("'-- -n"), "{}", run.text());
    let run = server.ends(&["sa-key", "drop", "--yes", "--", "-nobody"], 2);
    assert!(run.text().contains("no key -nobody"), "{}", run.text());

    let secrets = server.scratch("secrets.json");
    fs::write(&secrets, r#"{"kind":"List","items":[]}"#).unwrap();
    // The journal knows that the key signed until a moment ago.
    let run = server.ends(
        &[
            "sa-key",
            "drop",
            "--yes",
            "--old",
            "--older-than",
            "400d",
            "--secrets",
            &secrets,
        ],
        5,
    );
    assert!(run.text().contains("accepted until"), "{}", run.text());
    let run = server.ends(&["sa-key", "drop", "--yes", &old[..12]], 5);
    assert!(
        run.text().contains("tokens in Secrets never end"),
        "{}",
        run.text()
    );
    assert_eq!(server.kids(), kids);

    let run = server.ends(
        &["sa-key", "drop", "--yes", "--old", "--tokens-may-break"],
        0,
    );
    assert!(
        run.text().contains("overridden by --tokens-may-break"),
        "{}",
        run.text()
    );
    assert_eq!(server.kids(), kids[..1]);
    assert_eq!(server.verify(&old_token), None);
    assert!(server.bundle().content(Field::ServiceKey) == Some(server.bytes(KEY).as_slice()));
    server.ends(&["undo", "--yes"], 0);
    assert_eq!(server.verify(&old_token).as_ref(), Some(old));
}

#[test]
fn what_is_known_of_tokens_lets_a_key_go() {
    // The journal of this tree knows nothing: K3s's script rotated the key.
    let server = Server::new("k3s-1.36-default-rotated");
    let kids = server.kids();
    assert_eq!(kids.len(), 2);
    let args = |more: &[&'static str]| {
        let mut all = vec!["sa-key", "drop", "--yes", "--old"];
        all.extend(more);
        all.into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let run = |args: Vec<String>| {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        server.run(&args)
    };
    let unknown = run(args(&[]));
    assert!(
        unknown.text().contains("since when it signs no more"),
        "{}",
        unknown.text()
    );

    let secrets = server.scratch("secrets.json");
    let token = jwt(&["sign", server.data().join(KEY).to_str().unwrap()]);
    let token = String::from_utf8(token.stdout).unwrap();
    let encoded = testkit::run("base64", &["-w0"], token.trim().as_bytes()).stdout;
    let legacy = |token: &str| {
        format!(
            r#"{{"kind":"List","items":[{{"kind":"Secret","type":"kubernetes.io/service-account-token",
                "metadata":{{"namespace":"kube-system","name":"robot"}},"data":{{"token":"{token}"}}}}]}}"#
        )
    };
    // A token that does not tell its key may be of any.
    fs::write(&secrets, legacy("bm90LWEtand0")).unwrap();
    let mut more = args(&["--older-than", "400d", "--secrets"]);
    more.push(secrets.clone());
    let refused = run(more.clone());
    assert_eq!(refused.code, Some(5), "{}", refused.text());
    assert!(
        refused.text().contains("kube-system/robot"),
        "{}",
        refused.text()
    );
    // One of the signing key does no harm.
    fs::write(&secrets, legacy(std::str::from_utf8(&encoded).unwrap())).unwrap();
    let done = run(more);
    assert!(done.success(), "{}", done.text());
    assert_eq!(server.kids(), kids[..1]);
}

#[test]
fn keys_that_k3s_cannot_use_are_named() {
    let server = Server::new("k3s-1.36-sqlite");
    let good = server.bytes(KEY);
    let key = |args: &[&str]| testkit::openssl_ok(args, b"").stdout;
    let ed25519 = key(&["genpkey", "-algorithm", "ed25519"]);
    let wrapped = key(&[
        "genpkey",
        "-algorithm",
        "EC",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
    ]);
    let encrypted = key(&[
        "genpkey",
        "-algorithm",
        "EC",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-aes-256-cbc",
        "-pass",
        "pass:hunter2",
    ]);
    let with_parameters = key(&["ecparam", "-name", "prime256v1", "-genkey"]);
    let both = |first: &[u8], second: &[u8]| [first, second].concat();
    let cases = [
        (ed25519.clone(), 4, "its first key is ed25519"),
        (encrypted.clone(), 4, "it is encrypted"),
        (b"nothing\n".to_vec(), 4, "no private key"),
        (Vec::new(), 4, "no private key"),
        (wrapped.clone(), 4, "the API server does not see it"),
        (vec![b'x'; 2 << 20], 4, "bytes are no service.key"),
        (both(&good, &ed25519), 0, "an Ed25519 key"),
        (both(&good, &wrapped), 0, "passes over"),
        (both(&good, &encrypted), 0, "unused: it is encrypted"),
        (both(&with_parameters, &good), 0, "p256     signs"),
    ];
    for (file, code, words) in cases {
        fs::write(server.data().join(KEY), &file).unwrap();
        let run = server.run(&["sa-key", "list"]);
        assert_eq!(run.code, Some(code), "{words}: {}", run.text());
        assert!(run.text().contains(words), "{words}: {}", run.text());
        if code != 0 && !words.contains("not see") {
            let before = server.tree();
            let run = server.run(&["sa-key", "rotate", "--yes"]);
            assert_eq!(run.code, Some(4), "{}", run.text());
            Tree::assert_equal(&before, &server.tree(), &DiffOptions::exact());
        }
    }
    // Disk and datastore disagree: which one counts is not ours to say.
    let run = server.ends(&["sa-key", "rotate", "--yes"], 5);
    assert!(
        run.text().contains("is not what the bootstrap data hold"),
        "{}",
        run.text()
    );
    let run = server.ends(&["sa-key", "rotate", "--yes", "--key", "ed25519"], 2);
    assert!(run.text().contains("rsa2048"), "{}", run.text());
}

/// A copy of everything below `from`, times and owners too.
fn copy(from: &Path, to: &Path) {
    testkit::run("rm", &["-rf".as_ref(), to.as_os_str()], b"");
    let run = testkit::run(
        "cp",
        &["-a".as_ref(), from.as_os_str(), to.as_os_str()],
        b"",
    );
    assert!(run.success(), "{}", run.text());
}

#[test]
fn a_kill_anywhere_ends_with_the_old_or_the_new_keys() {
    let server = Server::new("k3s-1.36-sqlite");
    let copies = tempfile::tempdir().unwrap();
    let (base, saved) = (copies.path().join("base"), copies.path().join("saved"));
    copy(&server.data(), &base);
    let before = server.tree();
    let old = server.bytes(KEY);
    let args = server.args(&["sa-key", "rotate", "--yes", "--key", "p256"]);
    let victim = Victim::new(KUBEPKI, args).alone();
    let points: Vec<CrashPoint> = victim.crash_points();
    let whole = |at: &str| {
        let file = server.bytes(KEY);
        assert!(file.ends_with(&old), "{at}");
        assert!(
            server.bundle().content(Field::ServiceKey) == Some(file.as_slice()),
            "{at}"
        );
        assert_eq!(server.list()["currentInStep"], true, "{at}");
        file != old
    };
    let mut interrupted = 0;
    // Each step makes about a dozen such calls; the engine's own tests go through all of them.
    for point in points.into_iter().step_by(3) {
        let at = format!("{} number {} ({})", point.call, point.nth, point.seen);
        copy(&base, &server.data());
        if !victim.crash_if_reached(&point) {
            continue;
        }
        copy(&server.data(), &saved);
        let resumed = server.ends(&["resume"], 0);
        whole(&at);
        interrupted += usize::from(!resumed.text().contains("Nothing is interrupted"));
        copy(&saved, &server.data());
        let undone = server.run(&["undo", "--yes"]);
        let nothing = undone.text().contains("nothing to take back");
        assert!(undone.success() || nothing, "{at}: {}", undone.text());
        if undone.success() {
            assert!(!whole(&at), "{at}");
            server.assert_is(&before, &[]);
        }
    }
    assert!(
        interrupted > 10,
        "only {interrupted} kills left something to resume"
    );
}
