//! The old keys are in wrong hands: CAs, service-account keys and tokens go at once.

use std::path::{Path, PathBuf};

use kubepki::bootstrap::{Bundle, Field, Passphrase, open};
use kubepki::datastore::{Datastore as _, Record};
use kubepki::init::Passwd;
use kubepki_datastore::{Access, SqliteStore};
use pki::{Certificate, PrivateKey};
use testkit::{CrashPoint, DiffOptions, NodeKind, Tree, Victim};

use crate::common::KUBEPKI;
use crate::direct::{assert_in_force, assert_nothing_left};
use crate::lab::Server;

const OLD: &str = "fixture-token-0123456789abcdef";

/// A set under new roots, staged for `server`.
fn staged(server: &Server) -> PathBuf {
    let set = server.fixture.scratch("set");
    let offline = server.fixture.scratch("offline").display().to_string();
    let out = set.display().to_string();
    let words = ["ca", "stage", "--compromised", "--out", &out];
    server.ends(&[&words[..], &["--offline", &offline]].concat(), 0);
    set
}

/// The live keys below `/bootstrap`, read from a copy.
fn live(server: &Server) -> Vec<Record> {
    let seen = tempfile::tempdir().unwrap();
    let from = server.server().join("db");
    let from = from.to_str().unwrap();
    testkit::run("cp", &["-a", from, seen.path().to_str().unwrap()], b"");
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_all().build().unwrap();
    let path = seen.path().join("db/state.db");
    runtime.block_on(async {
        let store = SqliteStore::open(&path, Access::Read).await.unwrap();
        store.list("/bootstrap").await.unwrap()
    })
}

fn password(server: &Server, user: &str) -> String {
    let passwd = Passwd::parse(&server.read("cred/passwd")).unwrap();
    passwd.password(user).unwrap().to_string()
}

/// The one live key opens with the password in force, and is what lies on disk.
#[track_caller]
fn assert_one_key(server: &Server) -> Bundle {
    let live = live(server);
    assert_eq!(live.len(), 1, "{live:?}");
    let new = Passphrase::new(password(server, "server"));
    assert_eq!(live[0].key, new.key_name());
    assert!(open(&live[0].value, &Passphrase::new(OLD.to_owned())).is_err());
    let bundle = Bundle::parse(&open(&live[0].value, &new).unwrap()).unwrap();
    for (field, file) in &bundle.files {
        let there = std::fs::read(field.under(&server.server())).unwrap();
        assert!(*file.content == there, "{field}");
    }
    bundle
}

/// Nothing outside the datastore and the state directory knows of `old` CAs, keys or tokens.
#[track_caller]
fn assert_gone(server: &Server, old: &[(Field, Vec<u8>)], passwords: &[&str]) {
    let mut traces: Vec<String> = passwords.iter().map(|it| (*it).to_owned()).collect();
    for (field, content) in old {
        let text = String::from_utf8(content.clone()).unwrap();
        let blocks = text.split("-----BEGIN ").skip(1);
        for block in blocks {
            let body = block.lines().nth(1).unwrap();
            // Every EC key begins alike: its middle tells.
            let body = match field.is_secret() {
                true => block.lines().nth(2).unwrap(),
                false => body,
            };
            traces.push(body.to_owned());
        }
    }
    let tree = Tree::snapshot(server.fixture.data_dir());
    let mut seen = 0;
    for (path, node) in tree.nodes() {
        let NodeKind::File { .. } = node.kind else {
            continue;
        };
        if path.starts_with("server/db") || path.starts_with("kubepki") {
            continue;
        }
        let text = std::fs::read(server.fixture.data_dir().join(path)).unwrap();
        let text = String::from_utf8_lossy(&text);
        for trace in &traces {
            assert!(!text.contains(trace.as_str()), "{path} holds {trace}");
        }
        seen += 1;
    }
    assert!(seen > 40, "{seen} files");
}

fn present(server: &Server) -> Vec<(Field, Vec<u8>)> {
    let fields = Field::ALL.into_iter().filter(|field| field.is_rotatable());
    fields
        .map(|field| {
            let content = std::fs::read(field.under(&server.server())).unwrap();
            (field, content)
        })
        .collect()
}

#[test]
fn nothing_of_the_old_opens_anything_that_lives() {
    let server = Server::new("k3s-1.36-sqlite");
    let set = staged(&server);
    let old = present(&server);
    let old_token = server.read("token");
    let old_key = live(&server).remove(0).key;
    let before = server.tree();
    server.rotate(&set, &["--dry-run", "--compromised"], 0);
    server.assert_untouched(&before);
    let run = server.rotate(&set, &["--compromised"], 0);
    let text = run.text();
    let revision = format!("the old token still opens {old_key} as it was at revision ");
    for words in [
        "`kubepki token show`",
        &revision,
        "old_value",
        "kubepki/backups",
        "k3s token delete",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
    assert!(!text.contains("kubepki undo"), "{text}");
    assert!(!text.contains(&password(&server, "server")), "{text}");

    assert_in_force(&server, &set);
    assert_gone(&server, &old, &[OLD]);
    let bundle = assert_one_key(&server);
    let keys = PrivateKey::all_from_pem(bundle.content(Field::ServiceKey).unwrap()).unwrap();
    assert_eq!(keys.len(), 1);
    assert_eq!(password(&server, "node"), password(&server, "server"));
    let shown = server.ends(&["token", "show"], 0).text();
    let token = server.read("token");
    assert!(shown.contains(token.trim()), "{shown}");
    assert_eq!(old_token.len(), token.len() - 2, "32 digits for 30");
    assert_ne!(old_token[..67], token[..67], "the CA hash");
    assert_nothing_left(&server);

    let lost = server.fixture.scratch("lost");
    std::fs::write(&lost, old_token).unwrap();
    let lost = lost.display().to_string();
    let verified = server.ends(&["bootstrap", "verify", "--token-file", &lost], 0);
    let text = verified.text();
    let exposed = format!("The token from {lost} still opens former keys in row ");
    assert_eq!(text.matches(&exposed).count(), 2, "{text}");
    assert!(text.contains("column old_value"), "{text}");

    // The lock says who had it last.
    let lock = "data/kubepki/lock";
    let after = server.tree().without(lock);
    let run = server.undo(5);
    assert!(run.text().contains("in wrong hands"), "{}", run.text());
    let options = DiffOptions::exact()
        .without_directory_mtimes()
        .ignoring("data/server/db/state.db-shm");
    Tree::assert_equal(&after, &server.tree().without(lock), &options);
    let plans = server.ends(&["history"], 0).text();
    let plan = plans.split_whitespace().find(|it| it.contains("rotate-ca"));
    let run = crate::direct::back(&server, plan.unwrap(), 5);
    assert!(run.text().contains("no way back"), "{}", run.text());
}

#[test]
fn agents_with_a_token_of_their_own_get_another() {
    let server = Server::new("k3s-1.36-encryption-token-rotated");
    let set = staged(&server);
    let old = present(&server);
    let passwords = [password(&server, "server"), password(&server, "node")];
    let run = server.rotate(&set, &["--compromised"], 0);
    let text = run.text();
    assert!(
        text.contains("the agents' own token is replaced too"),
        "{text}"
    );
    assert!(text.contains("secrets-encrypt rotate-keys"), "{text}");
    let [servers, agents] = [password(&server, "server"), password(&server, "node")];
    assert_ne!(servers, agents);
    let hash = server.read("token")[..67].to_owned();
    assert_eq!(server.read("token"), format!("{hash}::server:{servers}\n"));
    assert_eq!(
        server.read("agent-token"),
        format!("{hash}::node:{agents}\n")
    );
    let old_passwords: Vec<&str> = passwords.iter().map(String::as_str).collect();
    assert_gone(&server, &old, &old_passwords);
    assert_one_key(&server);
    assert_nothing_left(&server);
}

#[test]
fn files_that_give_k3s_its_tokens_are_asked_about() {
    let server = Server::new("k3s-1.36-encryption-token-rotated");
    let set = staged(&server);
    let [servers, agents] = [password(&server, "server"), password(&server, "node")];
    let config = server.fixture.scratch("config.yaml");
    let data = server.fixture.data_dir();
    let text = format!(
        "data-dir: {}\ntoken: {servers}\nagent-token: {agents} # theirs\n",
        data.display()
    );
    std::fs::write(&config, &text).unwrap();
    let named = config.display().to_string();
    let before = server.tree();
    let run = server.rotate(&set, &["--compromised", "--k3s-config", &named], 5);
    let text = run.text();
    assert!(
        text.contains("config.yaml: token in line 2, agent-token in line 3"),
        "{text}"
    );
    assert!(text.contains("--rewrite-configs"), "{text}");
    server.assert_untouched(&before);
    let other = ["--rewrite-configs", "--k3s-config", &named];
    let run = server.rotate(&set, &other, 2);
    assert!(run.text().contains("--compromised"), "{}", run.text());
    server.assert_untouched(&before);

    let more = ["--compromised", "--rewrite-configs", "--k3s-config", &named];
    let run = server.rotate(&set, &more, 0);
    let steps = run.text();
    let [created, config_file, token, deleted] = [
        "create datastore key",
        "config.yaml\n",
        "put server/token\n",
        "delete datastore key",
    ]
    .map(|words| steps.find(words).unwrap());
    let order = [created, config_file, token, deleted];
    assert!(order.is_sorted(), "{steps}");
    let [servers, agents] = [password(&server, "server"), password(&server, "node")];
    let expected = format!(
        "data-dir: {}\ntoken: \"{servers}\"\nagent-token: \"{agents}\" # theirs\n",
        data.display()
    );
    assert_eq!(std::fs::read_to_string(&config).unwrap(), expected);
    assert_one_key(&server);
}

/// A kill at moments spread over the whole plan: K3s would find the old state or the new one, and
/// `resume` ends in the new one. There is no way back once something was done.
#[test]
fn a_kill_anywhere_is_resumed_and_never_undone() {
    let server = Server::new("k3s-1.36-sqlite");
    let set = staged(&server);
    let old = present(&server);
    let copies = tempfile::tempdir().unwrap();
    let (base, saved) = (copies.path().join("base"), copies.path().join("saved"));
    let root = server.fixture.scratch("");
    copy(&root, &base);
    let data_dir = server.fixture.data_dir().display().to_string();
    let kubeconfig = server.fixture.admin_kubeconfig().display().to_string();
    let set = set.display().to_string();
    let site = ["--data-dir", &data_dir, "--kubeconfig", &kubeconfig];
    let mut args = vec!["rotate-ca", "--path", &set, "--yes", "--compromised"];
    args.extend(["--still-for", "0"]);
    args.extend(site);
    let victim = Victim::new(KUBEPKI, args.clone()).alone();
    let points: Vec<CrashPoint> = victim.crash_points();
    assert!(points.len() > 400, "{}", points.len());
    let mut interrupted = 0;
    for (number, point) in points.iter().enumerate() {
        // The rows and token files come first and are looked at closely.
        if number % 151 != 0 && !(number < 120 && number % 19 == 0) {
            continue;
        }
        let at = format!("{} number {} ({})", point.call, point.nth, point.seen);
        copy(&base, &root);
        if !victim.crash_if_reached(point) {
            continue;
        }
        // K3s's token opens exactly what it would take up.
        let token = server.read("token");
        let token = token.trim().rsplit_once(':').unwrap().1.to_owned();
        let token = Passphrase::new(token);
        let live = live(&server);
        let opens = live.iter().filter(|it| it.key == token.key_name());
        assert_eq!(opens.count(), 1, "{at}: {live:?}");
        copy(&root, &saved);
        let resumed = server.ends(
            &["resume", "--kubeconfig", &kubeconfig, "--still-for", "0"],
            0,
        );
        if resumed.text().contains("Nothing is interrupted") {
            continue;
        }
        interrupted += 1;
        assert_one_key(&server);
        assert_gone(&server, &old, &[OLD]);
        assert_nothing_left(&server);
        copy(&saved, &root);
        let undone = server.run(&["undo", "--yes", "--still-for", "0"]);
        let refused = undone.text().contains("in wrong hands");
        let given_up = undone.success() && live.len() == 1;
        assert!(refused || given_up, "{at}: {}", undone.text());
    }
    assert!(interrupted > 5, "{interrupted} kills left something to do");
}

fn copy(from: &Path, to: &Path) {
    let (source, target) = (format!("{}/.", from.display()), to.display().to_string());
    testkit::run("rm", &["-rf", &target], b"");
    let run = testkit::run("cp", &["-a", &source, &target], b"");
    assert!(run.success(), "{}", run.text());
}

#[test]
fn a_running_server_is_refused_with_the_way_out() {
    for (fixture, way_out) in [
        ("k3s-1.36-sqlite", "--direct"),
        ("k3s-1.36-etcd-embedded", "k3s token rotate"),
    ] {
        let server = Server::new(fixture);
        let set = staged(&server);
        let before = server.tree();
        let through = ["--compromised", "--through-server=https://127.0.0.1:1"];
        let run = server.rotate(&set, &through, 5);
        assert!(
            run.text().contains("keeps the join tokens"),
            "{}",
            run.text()
        );
        assert!(run.text().contains(way_out), "{}", run.text());
        server.assert_untouched(&before);
    }
}

/// Where the operator has replaced the tokens, the CAs are sent, and what is left is said.
#[test]
fn after_tokens_were_replaced_a_running_server_takes_the_set() {
    let server = Server::new("k3s-1.36-sqlite");
    let set = staged(&server);
    let standing = crate::through::supervisor(&server, true);
    let url = format!("--through-server={}", standing.url());
    let replaced = ["--compromised", "--tokens-replaced", &url];
    // Not believed: the token that is called the old one still opens the data.
    let old = server.fixture.scratch("old-token");
    std::fs::write(&old, OLD).unwrap();
    let old = old.display().to_string();
    let before = server.tree();
    let with_old = [&replaced[..], &["--token-file", &old]].concat();
    let run = server.rotate(&set, &with_old, 5);
    assert!(
        run.text().contains("still opens /bootstrap/"),
        "{}",
        run.text()
    );
    assert!(run.text().contains("k3s token rotate"), "{}", run.text());
    assert!(!run.text().contains(OLD), "{}", run.text());
    server.assert_untouched(&before);
    // Nor does a server whose files are older than the data know the new one.
    let files = ["token", "cred/passwd"].map(|name| server.server().join(name));
    let kept = files
        .each_ref()
        .map(|path| std::fs::read_to_string(path).unwrap());
    for (path, text) in files.iter().zip(&kept) {
        std::fs::write(path, text.replace(OLD, "another")).unwrap();
    }
    let run = server.rotate(&set, &replaced, 5);
    assert!(
        run.text().contains("no token of this server opens"),
        "{}",
        run.text()
    );
    for (path, text) in files.iter().zip(&kept) {
        std::fs::write(path, text).unwrap();
    }
    assert_eq!(crate::through::sent(&standing).len(), 0);
    let run = server.rotate(&set, &[&replaced[..], &["--dry-run"]].concat(), 0);
    assert!(run.text().contains("name the old token"), "{}", run.text());
    std::fs::write(&old, "an-older-one").unwrap();
    let run = server.rotate(&set, &with_old, 0);
    assert!(!run.text().contains("name the old token"), "{}", run.text());
    let text = run.text();
    assert!(text.contains("must be new already"), "{text}");
    assert!(!text.contains("kubepki undo"), "{text}");
    let sent = crate::through::sent(&standing);
    assert_eq!(sent.len(), 1);
    assert_eq!(sent[0].0, "/v1-k3s/cert/cacerts?force=true");
    let ca = sent[0].1.content(Field::ServerCa).unwrap();
    assert!(Certificate::all_from_pem(ca).is_ok());
    server.undo(5);
}
