//! `kubepki token rewrite` on a node that has the token everywhere.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "tests fail by panicking, and lay out their own files"
)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use pki::Certificate;
use testkit::{DiffOptions, Fixture, Run, Tree};

const KUBEPKI: &str = env!("CARGO_BIN_EXE_kubepki");
const SECRET: &str = "fixture-token-0123456789abcdef";
/// What another cluster pins.
const STRANGE: &str = "5555555555555555555555555555555555555555555555555555555555555555";
/// What this one pinned before, as only the operator knows.
const FORMER: &str = "7777777777777777777777777777777777777777777777777777777777777777";

/// A node's file system below a temporary directory: the data directory of a fixture, and files
/// that hold the token of the CA that it had before.
struct Place {
    fixture: Fixture,
    /// Every file with tokens and what it must become.
    files: BTreeMap<&'static str, (String, String)>,
    new: String,
}

/// The default CA's single file, which the cross-signed bundle ends with.
fn former_hash(data: &Path) -> String {
    let bundle = fs::read_to_string(data.join("server/tls/server-ca.crt")).unwrap();
    let last = bundle.rfind("-----BEGIN").unwrap();
    testkit::sha256(bundle.get(last..).unwrap().as_bytes())
}

/// Texts with `OLD` and `SCRIPT` (hashes of this cluster), `STRANGE`, `FORMER` and `NEW`.
const FILES: [(&str, &str, u32); 18] = [
    (
        "etc/rancher/k3s/config.yaml",
        "# token: K10OLD::server:PW\nwrite-kubeconfig-mode: \"0644\"   # note\n\
         token: K10OLD::server:PW # the servers'\nagent-token: 'K10OLD::node:PW'\n\
         token-file: /etc/k3s-token\nserver: https://a.example:6443\n",
        0o600,
    ),
    (
        "etc/rancher/k3s/config.yaml.d/10.yaml",
        "\"token\" :   \"K10OLD::server:PW\"\r\n",
        0o640,
    ),
    (
        "etc/rancher/k3s/config.yaml.d/20.YML",
        "agent-token-file: /opt/agents/token\n",
        0o644,
    ),
    (
        "etc/rancher/k3s/config.yaml.d/notes.txt",
        "token: K10OLD::server:PW\n",
        0o644,
    ),
    ("etc/k3s-token", "K10OLD::server:PW", 0o400),
    ("opt/agents/token", "\nK10SCRIPT::node:PW\r\n\r\n", 0o600),
    (
        "etc/systemd/system/k3s.service",
        "[Unit]\nDescription=K3s\n[Service]\nEnvironmentFile=-/etc/default/%N\n\
         EnvironmentFile=-/etc/systemd/system/%N.service.env\n\
         ExecStart=/usr/local/bin/k3s \\\n    server \\\n\t'--token' \\\n\t'K10OLD::server:PW' \\\n\
         \t\"--agent-token=K10OLD::node:PW\" \\\n\t--config /etc/elsewhere/k3s.yaml\n",
        0o644,
    ),
    (
        "etc/systemd/system/k3s.service.d/10-token.conf",
        "[Service]\n# K10OLD::server:PW\nEnvironment=\"K3S_TOKEN=K10OLD::server:PW\" A=b\n\
         Environment=K3S_TOKEN_FILE=/etc/third-token\n",
        0o644,
    ),
    (
        "etc/systemd/system/k3s.service.env",
        "K3S_TOKEN='K10OLD::server:PW'\nX=1\n",
        0o600,
    ),
    (
        "etc/systemd/system/k3s-agent.service",
        "[Service]\nExecStart=/usr/local/bin/k3s agent --server https://x --token K10OLD::node:PW\n",
        0o644,
    ),
    (
        "etc/systemd/system/k3s-agent.service.env",
        "K3S_TOKEN=\"K10OLD::abc123.0123456789abcdef\"\n",
        0o600,
    ),
    ("etc/default/k3s", "export K3S_TOKEN=K10OLD:::PW\n", 0o600),
    (
        "etc/elsewhere/k3s.yaml",
        "{\"token\": \"K10OLD::server:PW\", \"debug\": true}\n",
        0o600,
    ),
    ("etc/third-token", "K10NEW::server:PW\n", 0o600),
    (
        "etc/init.d/k3s",
        "command_args=\"server --token K10STRANGE::server:PW\"\n",
        0o755,
    ),
    (
        "etc/rancher/k3s/k3s.env",
        "K3S_TOKEN=K10FORMER::server:PW\n",
        0o600,
    ),
    ("etc/conf.d/other", "K3S_TOKEN=K10OLD::server:PW\n", 0o600),
    ("etc/conf.d/k3s", "# nothing\n", 0o600),
];

/// Which of them K3s does not read.
const FOREIGN: [&str; 2] = [
    "etc/rancher/k3s/config.yaml.d/notes.txt",
    "etc/conf.d/other",
];

impl Place {
    fn new() -> Self {
        let fixture = Fixture::without_datastore("k3s-1.36-default-rotated");
        let root = fixture.scratch("node");
        let data = root.join("var/lib/rancher");
        fs::create_dir_all(&data).unwrap();
        fs::rename(fixture.data_dir(), data.join("k3s")).unwrap();
        let data = data.join("k3s");
        let token = fs::read_to_string(data.join("server/token")).unwrap();
        let new = token.get(3..67).unwrap().to_owned();
        let printed = fs::read_to_string(fixture.extra("script-printed-tokens.txt")).unwrap();
        let script = printed
            .split("K10")
            .nth(1)
            .unwrap()
            .get(..64)
            .unwrap()
            .to_owned();
        let old = former_hash(&data);
        let mut files = BTreeMap::new();
        for (path, text, mode) in FILES {
            let common = text
                .replace("STRANGE", STRANGE)
                .replace("FORMER", FORMER)
                .replace("PW", SECRET)
                .replace("NEW", &new);
            let before = common.replace("OLD", &old).replace("SCRIPT", &script);
            let after = match FOREIGN.contains(&path) {
                true => before.clone(),
                // Comments keep what they say.
                false => {
                    let line = |line: &str| match line.trim_start().starts_with('#') {
                        true => line.replace("OLD", &old),
                        false => line.replace("OLD", &new).replace("SCRIPT", &new),
                    };
                    common.split('\n').map(line).collect::<Vec<_>>().join("\n")
                }
            };
            write(&root.join(path), &before, mode);
            files.insert(path, (before, after));
        }
        Self {
            fixture,
            files,
            new,
        }
    }

    fn root(&self) -> PathBuf {
        self.fixture.scratch("node")
    }

    fn run(&self, args: &[&str]) -> Run {
        let root = self.root();
        let mut all = vec!["token", "rewrite", "--root", root.to_str().unwrap()];
        all.extend(args);
        testkit::run(KUBEPKI, &all, b"")
    }

    /// Every file is as it was, or as it must become.
    fn assert_files(&self, changed: bool) {
        for (path, (before, after)) in &self.files {
            let found = fs::read_to_string(self.root().join(path)).unwrap();
            let expected = if changed { after } else { before };
            assert_eq!(&found, expected, "{path}");
        }
    }

    fn tree(&self) -> Tree {
        Tree::snapshot(self.root())
    }
}

fn write(path: &Path, text: &str, mode: u32) {
    use std::os::unix::fs::PermissionsExt as _;

    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Everything but contents and times of files must be the same.
fn assert_only_contents_differ(before: &Tree, after: &Tree) {
    const STATE: &str = "var/lib/rancher/k3s/kubepki";
    let mut options = DiffOptions::exact()
        .without_directory_mtimes()
        .ignoring(STATE);
    for (path, ..) in FILES {
        options = options.content_may_differ(path);
    }
    Tree::assert_equal(before, after, &options);
}

#[test]
fn only_the_hash_changes_and_undo_restores() {
    let place = Place::new();
    place.assert_files(false);
    let agents = place.root().join("etc/systemd/system/k3s.service.env");
    testkit::run(
        "setfacl",
        &["-m", "u:1234:r", agents.to_str().unwrap()],
        b"",
    );
    testkit::run("chown", &["1234:4321", agents.to_str().unwrap()], b"");
    let before = place.tree();

    let dry = place.run(&["--dry-run"]);
    assert!(dry.success() || dry.code == Some(7), "{}", dry.text());
    Tree::assert_equal(&before, &place.tree(), &DiffOptions::exact());
    assert!(!dry.text().contains(SECRET), "{}", dry.text());
    assert!(
        dry.text().contains("/etc/rancher/k3s/config.yaml:3 "),
        "{}",
        dry.text()
    );
    assert!(
        dry.text()
            .contains(&format!("+ token K10{}::server:***", place.new)),
        "{}",
        dry.text()
    );
    assert!(dry.text().contains("in a comment"), "{}", dry.text());

    let run = place.run(&["--yes"]);
    // A token of somebody else is left, and said so.
    assert_eq!(run.code, Some(7), "{}", run.text());
    assert!(!run.text().contains(SECRET), "{}", run.text());
    place.assert_files(true);
    assert_only_contents_differ(&before, &place.tree());

    // What the operator vouches for is rewritten too.
    let run = place.run(&["--yes", "--from-hash", FORMER]);
    assert_eq!(run.code, Some(7), "{}", run.text());
    let env = fs::read_to_string(place.root().join("etc/rancher/k3s/k3s.env")).unwrap();
    assert_eq!(
        env,
        format!("K3S_TOKEN=K10{}::server:{SECRET}\n", place.new)
    );

    let data = place.root().join("var/lib/rancher/k3s");
    for _ in 0..2 {
        let args = ["undo", "--yes", "--data-dir", data.to_str().unwrap()];
        let run = testkit::run(KUBEPKI, &args, b"");
        assert!(run.success(), "{}", run.text());
    }
    place.assert_files(false);
    let exact = DiffOptions::exact()
        .without_directory_mtimes()
        .ignoring("var/lib/rancher/k3s/kubepki");
    Tree::assert_equal(&before, &place.tree(), &exact);
}

#[test]
fn plans_and_journals_hold_no_secret() {
    let place = Place::new();
    let run = place.run(&["--yes"]);
    assert_eq!(run.code, Some(7), "{}", run.text());
    let state = place.root().join("var/lib/rancher/k3s/kubepki");
    for folder in ["plans", "journal"] {
        for entry in fs::read_dir(state.join(folder)).unwrap() {
            let text = fs::read_to_string(entry.unwrap().path()).unwrap();
            assert!(!text.contains(SECRET) && !text.contains(&SECRET[..16]));
        }
    }
    assert!(fs::read_dir(state.join("staging")).map_or(0, Iterator::count) == 0);
}

#[test]
fn links_stay_below_the_root() {
    let place = Place::new();
    let config = place.root().join("etc/rancher/k3s/config.yaml");
    let text = fs::read_to_string(&config).unwrap();
    // The file lies elsewhere, by an absolute link; what it leads to on this machine is a trap.
    let outside = tempfile::tempdir().unwrap();
    let trap = outside.path().join("k3s-config.yaml");
    write(&trap, &text, 0o600);
    let inside = place.root().join(trap.strip_prefix("/").unwrap());
    write(&inside, &text, 0o600);
    fs::remove_file(&config).unwrap();
    std::os::unix::fs::symlink(&trap, &config).unwrap();
    // A token file that climbs out ends at the root.
    let climbing = place.root().join("etc/k3s-token");
    fs::remove_file(&climbing).unwrap();
    std::os::unix::fs::symlink("../../../../../../etc/real-token", &climbing).unwrap();
    let real = place.root().join("etc/real-token");
    write(&real, &place.files["etc/k3s-token"].0, 0o600);

    let run = place.run(&["--yes"]);
    assert_eq!(run.code, Some(7), "{}", run.text());
    assert_eq!(fs::read_to_string(&trap).unwrap(), text);
    assert_eq!(
        fs::read_to_string(&inside).unwrap(),
        place.files["etc/rancher/k3s/config.yaml"].1
    );
    assert!(fs::symlink_metadata(&config).unwrap().is_symlink());
    assert_eq!(
        fs::read_to_string(&real).unwrap(),
        place.files["etc/k3s-token"].1
    );
}

#[test]
fn k3s_own_links_mean_the_token_beside_them() {
    let place = Place::new();
    let data = place.root().join("var/lib/rancher/k3s/server");
    // In an unpacked tree this one leads to the live data directory.
    let link = data.join("node-token");
    let live = tempfile::tempdir().unwrap();
    let live = live.path().join("server/token");
    let old = place.files["etc/k3s-token"].0.clone();
    write(&live, &old, 0o600);
    let _ = fs::remove_file(&link);
    std::os::unix::fs::symlink(&live, &link).unwrap();
    write(&data.join("token"), &old, 0o600);
    let named = "/var/lib/rancher/k3s/server/node-token";
    let run = place.run(&["--yes", "--file", named]);
    assert_eq!(run.code, Some(7), "{}", run.text());
    assert_eq!(fs::read_to_string(&live).unwrap(), old);
    let own = fs::read_to_string(data.join("token")).unwrap();
    assert!(own.starts_with(&format!("K10{}::", place.new)));
}

#[test]
fn what_cannot_be_read_stops_it_before_anything_is_changed() {
    type Spoil<'a> = (&'a str, &'a dyn Fn(&Path), &'a str);
    let cases: [Spoil<'_>; 5] = [
        (
            "etc/rancher/k3s/config.yaml",
            &|path| write(path, "token: [unclosed\n", 0o600),
            "line",
        ),
        (
            "etc/k3s-token",
            &|path| {
                fs::remove_file(path).unwrap();
                fs::create_dir(path).unwrap();
            },
            "no file",
        ),
        (
            "etc/systemd/system/k3s.service.env",
            &|path| {
                fs::File::options()
                    .write(true)
                    .open(path)
                    .unwrap()
                    .set_len(64 << 20)
                    .unwrap()
            },
            "67108864 bytes",
        ),
        (
            "etc/rancher/k3s/config.yaml.d/10.yaml",
            &|path| write(path, "token: \"K10\\x30\\x30::server:x\"\n", 0o600),
            "escapes",
        ),
        (
            "etc/third-token",
            &|path| {
                fs::remove_file(path).unwrap();
                testkit::run("mkfifo", &[path], b"");
            },
            "pipe",
        ),
    ];
    for (path, spoil, words) in cases {
        let place = Place::new();
        spoil(&place.root().join(path));
        let before = place.tree();
        let run = place.run(&["--yes"]);
        assert_eq!(run.code, Some(1), "{path}: {}", run.text());
        assert!(run.text().contains(words), "{path}: {}", run.text());
        Tree::assert_equal(&before, &place.tree(), &DiffOptions::exact());
    }
    let place = Place::new();
    for wrong in ["abc", &"g".repeat(64)] {
        assert_eq!(place.run(&["--to-hash", wrong]).code, Some(2));
    }
    let run = place.run(&["--yes", "--file", "/etc/absent"]);
    assert!(run.text().contains("no such file"), "{}", run.text());
}

#[test]
fn an_agent_is_prepared_for_a_staged_set() {
    let fixture = Fixture::without_datastore("k3s-1.36-agent-only");
    let root = fixture.scratch("node");
    let data = root.join("var/lib/rancher/k3s");
    fs::create_dir_all(data.parent().unwrap()).unwrap();
    fs::rename(fixture.data_dir(), &data).unwrap();
    let present = fs::read(data.join("agent/server-ca.crt")).unwrap();
    let env = root.join("etc/systemd/system/k3s-agent.service.env");
    let text = format!(
        "K3S_TOKEN='K10{}::node:{SECRET}'\n",
        testkit::sha256(&present)
    );
    write(&env, &text, 0o600);
    let other = Fixture::without_datastore("k3s-1.36-custom-ca");
    let staged = other.extra("staged-same-root");
    let args = |yes: &'static str| {
        [
            "token",
            "rewrite",
            yes,
            "--root",
            root.to_str().unwrap(),
            "--path",
            staged.to_str().unwrap(),
        ]
        .map(str::to_owned)
    };
    let run = testkit::run(KUBEPKI, &args("--yes"), b"");
    assert!(run.success(), "{}", run.text());
    let token = fs::read_to_string(other.data_dir().join("server/token")).unwrap();
    let expected = text.replace(&testkit::sha256(&present), token.get(3..67).unwrap());
    assert_eq!(fs::read_to_string(&env).unwrap(), expected);
    // Once more: nothing is left to do.
    let run = testkit::run(KUBEPKI, &args("--yes"), b"");
    assert!(
        run.success() && run.text().contains("Nothing to rewrite"),
        "{}",
        run.text()
    );
}

/// Pin sets stand in the files of `kubepki join` and `kubepki serve`.
#[test]
fn pin_sets_are_told_of_and_get_the_new_key_where_they_need_it() {
    let place = Place::new();
    let data = place.root().join("var/lib/rancher/k3s");
    let bundle = fs::read(data.join("server/tls/server-ca.crt")).unwrap();
    let present = Certificate::all_from_pem(&bundle).unwrap();
    let roots = present.iter().filter(|it| it.is_self_issued());
    let own: Vec<String> = roots.map(|it| it.spki_sha256().to_string()).collect();
    let other = Fixture::without_datastore("k3s-1.36-custom-ca");
    let staged = other.data_dir().join("server");
    let staged_file = fs::read(staged.join("tls/server-ca.crt")).unwrap();
    let staged_root = Certificate::all_from_pem(&staged_file).unwrap();
    let staged_root = staged_root.last().unwrap().spki_sha256().to_string();
    let credential = "abc123.0123456789abcdef0123456789abcdef";
    let (old, new) = (own.last().unwrap(), own.first().unwrap());
    assert!(old != new);
    let path = place.root().join("etc/agents-token");
    let rewrite = |more: &[&str]| {
        let all = [&["--yes", "--file", "/etc/agents-token"], more].concat();
        place.run(&all)
    };
    let says = |run: &Run, word: &str| {
        let text = run.text();
        assert!(text.contains(word) && !text.contains(credential), "{text}");
    };
    write(&path, &format!("K10P1.{old}::{credential}\n"), 0o600);
    // The old root's key leads to the new one, which it has cross-signed.
    says(&rewrite(&["--dry-run"]), "good as it is");
    // Under another root it must be told of that one.
    let staged = staged.to_str().unwrap();
    let run = rewrite(&["--path", staged]);
    assert_eq!(run.code, Some(7), "the strangers of before: {}", run.text());
    says(&run, "the CA's is added");
    let expected = format!("K10P1.{old}+{staged_root}::{credential}\n");
    assert_eq!(fs::read_to_string(&path).unwrap(), expected);
    // Once more: it is good now, and a plan in JSON says so.
    let run = rewrite(&["--path", staged, "-o", "json"]);
    says(&run, "good as it is");
    let plan: serde_json::Value = serde_json::from_slice(&run.stdout).unwrap();
    let notes = plan["notes"].to_string();
    assert!(notes.contains("/etc/agents-token:1"), "{notes}");
    assert_eq!(plan["steps"].as_array().map(Vec::len), Some(0));
    // A stranger's pins, and pins where only a hash is named.
    let stranger = "ab".repeat(32);
    write(&path, &format!("K10P1.{stranger}::{credential}\n"), 0o600);
    let run = rewrite(&["--dry-run"]);
    assert_eq!(run.code, Some(7), "{}", run.text());
    says(&run, "not known to be this cluster's");
    says(
        &rewrite(&["--dry-run", "--to-hash", STRANGE]),
        "a hash tells no key",
    );
}
