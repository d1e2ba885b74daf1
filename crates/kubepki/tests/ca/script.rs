//! The drop-in replacements against what K3s's own scripts were seen to do. Every difference
//! stands in `script_differences.txt`, with its reason at the top.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use kubepki::bootstrap::read_directory;
use kubepki::ca::script::{Surroundings, Transcript, generate_custom, rotate_default};
use kubepki::ca::{CaError, CaName};
use kubepki::edge::FreshKeys;
use kubepki::host::LocalHost;
use pki::{Certificate, DAY, PrivateKey, pem, public_key_algorithm};
use testkit::{Fixture, line_diff};

use crate::lab::{NOW, assert_seamless, certificates, keys, make};

const REASONS: &str = "\
What our drop-ins do otherwise than K3s's scripts (-: theirs, +: ours). Moments are written T.

1. profile: cRLSign, and no keyEncipherment, which means nothing for a CA; one hour back, but
   never before and never beyond the issuer. A root names no key above itself.
2. client-ca.crt and the like after a cross-signing: the cross-certificate stands before the
   self-signed root, or every OpenSSL client with the old CA fails.
3. *.key: mode 600 each.
4. Standard output: which program it was; the tokens are the right ones, the agents' for `node`;
   what must go offline after a cross-signing too. Standard error: nothing of OpenSSL's.
5. Not in this list, because the script was not seen there: a tree in which K3s has run is not
   overwritten; a root, intermediate or key that does not fit is refused before anything changes.
";

#[tokio::test]
async fn every_recorded_input() {
    let recordings = testkit::fixture("k3s-1.36-script-recordings");
    let mut report = REASONS.to_owned();
    for input in [
        "nothing",
        "root-only",
        "root-and-intermediate",
        "root-without-key",
        "intermediate-without-key",
    ] {
        let recorded = recordings.extra(input);
        let folder = tempfile::tempdir().unwrap();
        let tls = folder.path().join("server/tls");
        fs::create_dir_all(&tls).unwrap();
        let given: &[&str] = match input {
            "nothing" => &[],
            "root-only" => &["root-ca.pem", "root-ca.key"],
            "root-and-intermediate" => {
                &["root-ca.pem", "intermediate-ca.pem", "intermediate-ca.key"]
            }
            "root-without-key" => &["root-ca.pem"],
            _ => &["root-ca.pem", "intermediate-ca.pem"],
        };
        for name in given {
            copy(&recorded.join("server/tls").join(name), &tls.join(name));
        }
        let said = run_custom(folder.path()).await.unwrap();
        let theirs = Seen::recorded(&recorded);
        let ours = Seen::made(folder.path(), &said);
        write!(
            report,
            "\n== {input}\n{}",
            line_diff(&theirs.text(), &ours.text())
        )
        .unwrap();
    }
    write!(report, "\n== cross-signed\n{}", cross_signed().await).unwrap();
    testkit::assert_golden("tests/ca/script_differences.txt", &report);
}

async fn cross_signed() -> String {
    let (fixture, folder) = before_the_script();
    let said = run_default(folder.path()).await.unwrap();
    let rotated = fixture.data_dir().join("server/rotate-ca");
    let mut theirs = Seen::of(&rotated);
    // Its standard output was recorded in part.
    theirs.stdout = fixture.extra_text("script-printed-tokens.txt");
    theirs.code = 0;
    let mut ours = Seen::of(&folder.path().join("server/rotate-ca"));
    ours.stdout = anonymous(&text(&said), folder.path());
    for seen in [&mut theirs, &mut ours] {
        seen.stdout = seen
            .stdout
            .lines()
            .filter(|line| line.contains("token:") || line.starts_with("\t "))
            .map(|line| format!("{}\n", without_hash(line)))
            .collect();
    }
    line_diff(&theirs.text(), &ours.text())
}

/// The tree as it was before K3s's second script ran on it.
fn before_the_script() -> (Fixture, tempfile::TempDir) {
    let fixture = Fixture::without_datastore("k3s-1.36-default-rotated");
    let from = fixture.data_dir().join("server/rotate-ca/tls");
    let folder = tempfile::tempdir().unwrap();
    let server = folder.path().join("server");
    fs::create_dir_all(server.join("tls/etcd")).unwrap();
    for ca in CaName::ALL {
        for (old, new) in [("root-old.pem", "ca.crt"), ("root-old.key", "ca.key")] {
            let name = |kind: &str| format!("{}-{kind}", ca.label());
            copy(&from.join(name(old)), &server.join("tls").join(name(new)));
        }
    }
    let service = fs::read(from.join("service.key")).unwrap();
    let second = PrivateKey::all_from_pem(&service).unwrap().remove(1);
    put(
        &server.join("tls/service.key"),
        second.to_pem().unwrap().as_bytes(),
    );
    let hash = "0".repeat(64);
    put(
        &server.join("token"),
        format!("K10{hash}::server:fixture-token-0123456789abcdef\n").as_bytes(),
    );
    std::os::unix::fs::symlink(
        "/var/lib/rancher/k3s/server/token",
        server.join("agent-token"),
    )
    .unwrap();
    (fixture, folder)
}

fn without_hash(line: &str) -> String {
    match (line.find("K10"), line.find("::")) {
        (Some(from), Some(to)) => format!("{}K10HASH{}", &line[..from], &line[to..]),
        _ => line.to_owned(),
    }
}

async fn run_custom(data_dir: &Path) -> Result<Transcript, CaError> {
    let around = Surroundings::new(None, Some(data_dir.to_owned()));
    generate_custom(&LocalHost, &around, &make(&FreshKeys, NOW)).await
}

async fn run_default(data_dir: &Path) -> Result<Transcript, CaError> {
    let around = Surroundings::new(None, Some(data_dir.to_owned()));
    rotate_default(&LocalHost, &around, &make(&FreshKeys, NOW)).await
}

fn text(transcript: &Transcript) -> String {
    transcript
        .lines
        .iter()
        .map(|line| format!("{}\n", **line))
        .collect()
}

fn copy(from: &Path, to: &Path) {
    let mode = fs::metadata(from).unwrap().permissions().mode() & 0o7777;
    put(to, &fs::read(from).unwrap());
    fs::set_permissions(to, fs::Permissions::from_mode(mode)).unwrap();
}

fn put(path: &Path, bytes: &[u8]) {
    let attributes = kubepki::host::Attributes::new(0o600);
    kubepki::edge::file::replace(path, bytes, &attributes).unwrap();
}

fn anonymous(text: &str, data_dir: &Path) -> String {
    let version = format!("kubepki {}", env!("CARGO_PKG_VERSION"));
    text.replace(data_dir.to_str().unwrap(), "DATA_DIR")
        .replace(&version, "kubepki VERSION")
}

/// What a run left and said.
#[derive(Debug)]
struct Seen {
    code: u8,
    stdout: String,
    files: Vec<String>,
}

impl Seen {
    fn recorded(folder: &Path) -> Self {
        Self {
            code: fs::read_to_string(folder.join("exit"))
                .unwrap()
                .trim()
                .parse()
                .unwrap(),
            stdout: fs::read_to_string(folder.join("stdout")).unwrap(),
            ..Self::of(&folder.join("server"))
        }
    }

    fn made(data_dir: &Path, said: &Transcript) -> Self {
        Self {
            code: said.code,
            stdout: anonymous(&text(said), data_dir),
            ..Self::of(&data_dir.join("server"))
        }
    }

    fn of(folder: &Path) -> Self {
        let mut files = Vec::new();
        let mut profiles = BTreeSet::new();
        describe(folder, &folder.join("tls"), &mut files, &mut profiles);
        files.extend(profiles);
        Self {
            code: 0,
            stdout: String::new(),
            files,
        }
    }

    fn text(&self) -> String {
        let files: String = self.files.iter().map(|line| format!("{line}\n")).collect();
        let stdout: String = self.stdout.lines().map(|it| format!("> {it}\n")).collect();
        format!("exit {}\n{stdout}{files}", self.code)
    }
}

fn describe(root: &Path, folder: &Path, lines: &mut Vec<String>, profiles: &mut BTreeSet<String>) {
    let mut paths: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|it| it.unwrap().path())
        .collect();
    paths.sort();
    for path in paths {
        let metadata = fs::metadata(&path).unwrap();
        let name = path.strip_prefix(root).unwrap().display();
        lines.push(format!("{name} {:o}", metadata.mode() & 0o7777));
        if metadata.is_dir() {
            describe(root, &path, lines, profiles);
            continue;
        }
        let bytes = fs::read(&path).unwrap();
        for block in pem::blocks(&bytes) {
            let one = pem::encode(&block.label, &block.der);
            lines.push(match block.label.as_str() {
                "CERTIFICATE" => {
                    let found = Certificate::from_der(&block.der).unwrap();
                    profiles.insert(profile(&found));
                    certificate(&found)
                }
                label => {
                    let key = PrivateKey::from_pem(one.as_bytes()).unwrap();
                    format!("    {label} {}", key.algorithm())
                }
            });
        }
    }
}

fn certificate(found: &Certificate) -> String {
    let name = |name: &pki::Name| {
        let text = name.to_string();
        text.split_once('@')
            .map_or(text.clone(), |(stem, _)| format!("{stem}@T"))
    };
    format!(
        "    {} by {}, {}",
        name(found.subject()),
        name(found.issuer()),
        public_key_algorithm(found.spki_der()).unwrap(),
    )
}

fn profile(found: &Certificate) -> String {
    let days = found
        .validity()
        .not_after
        .since(found.validity().not_before)
        / DAY;
    let kind = match found.is_self_issued() {
        true => "self-signed",
        false => "issued",
    };
    let parent = found
        .authority_key_identifier()
        .map_or("no key named", |_| "key named");
    let usage = found.key_usage().unwrap();
    format!("profile: {kind}, {parent}, {days} days, {usage}")
}

#[tokio::test]
async fn the_printed_tokens_are_right_and_the_set_is_seamless() {
    let (_fixture, folder) = before_the_script();
    let server = folder.path().join("server");
    let live = read_directory(&LocalHost, &server).await.unwrap();
    let said = text(&run_default(folder.path()).await.unwrap());
    let staging = server.join("rotate-ca");
    let next = read_directory(&LocalHost, &staging).await.unwrap();
    let file = certificates(&next, CaName::Server);
    // certs[2] is the self-signed root now; the hash is of its DER, as K3s's rule has it.
    let hash = file[2].fingerprint();
    let wanted = |user: &str| format!("K10{hash}::{user}:fixture-token-0123456789abcdef");
    assert!(
        said.contains(&format!("Updated server token:    {}\n", wanted("server"))),
        "{said}"
    );
    assert!(
        said.contains(&format!("Updated agent token:     {}\n", wanted("node"))),
        "{said}"
    );
    for ca in CaName::ALL {
        assert_eq!(keys(&next, ca.key_field()).len(), 2);
    }
    let set = crate::lab::staged(
        &live,
        kubepki::ca::Change::ServiceKeyOnly,
        kubepki::ca::Pool::default(),
    );
    let mut set = set.unwrap();
    set.bundle = next.clone();
    assert_seamless(&live, &set, NOW);

    // A second run, on the first one's outcome, as after `rotate-ca` and a restart.
    for (field, shared) in &next.files {
        put(&field.under(&server), &shared.content);
    }
    run_default(folder.path()).await.unwrap();
    let third = read_directory(&LocalHost, &staging).await.unwrap();
    set.bundle = third.clone();
    assert_seamless(&next, &set, NOW);
    let again = certificates(&third, CaName::Server);
    assert_eq!((again.len(), &again[3]), (4, &file[2]));
    assert_eq!(keys(&third, kubepki::bootstrap::Field::ServiceKey).len(), 3);
}

#[tokio::test]
async fn what_the_second_script_stops_at() {
    let (_fixture, folder) = before_the_script();
    let tls = folder.path().join("server/tls");
    fs::remove_file(tls.join("etcd/peer-ca.crt")).unwrap();
    let said = run_default(folder.path()).await.unwrap();
    assert_eq!(said.code, 1);
    assert!(text(&said).ends_with("Current etcd/peer CA cert does not exist; cannot continue\n"));
    assert!(!folder.path().join("server/rotate-ca").exists());

    let (_fixture, folder) = before_the_script();
    fs::remove_file(folder.path().join("server/tls/service.key")).unwrap();
    let error = run_default(folder.path()).await.unwrap_err().to_string();
    assert!(error.contains("service.key does not exist"), "{error}");
    assert!(!folder.path().join("server/rotate-ca").exists());

    // A company's CAs: the script would sign with the wrong certificate.
    let custom = Fixture::without_datastore("k3s-1.36-custom-ca");
    let error = run_default(&custom.data_dir())
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("ca stage --cross-signed"), "{error}");
    assert!(!custom.data_dir().join("server/rotate-ca").exists());
}

#[tokio::test]
async fn a_tree_in_which_k3s_ran_is_not_overwritten() {
    let fixture = Fixture::without_datastore("k3s-1.36-sqlite");
    let before = testkit::Tree::snapshot(fixture.data_dir());
    let error = run_custom(&fixture.data_dir())
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("DATA_DIR") && error.contains("belongs to a cluster"),
        "{error}"
    );
    assert_eq!(before, testkit::Tree::snapshot(fixture.data_dir()));
    // By a link too.
    let folder = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(
        fixture.data_dir().join("server"),
        folder.path().join("server"),
    )
    .unwrap();
    assert!(run_custom(folder.path()).await.is_err());
    assert_eq!(before, testkit::Tree::snapshot(fixture.data_dir()));

    let (_fixture, folder) = before_the_script();
    let server = folder.path().join("server");
    std::os::unix::fs::symlink("tls", server.join("rotate-ca")).unwrap();
    let error = run_default(folder.path()).await.unwrap_err().to_string();
    assert!(error.contains("live tls"), "{error}");
}

#[tokio::test]
async fn inputs_of_the_first_script_that_do_not_fit() {
    let recordings = testkit::fixture("k3s-1.36-script-recordings");
    let from = recordings.extra("root-and-intermediate/server/tls");
    let other = recordings.extra("root-only/server/tls");
    let cases = [
        (
            "intermediate-ca.key",
            other.join("intermediate-ca.key"),
            "does not belong",
        ),
        (
            "root-ca.pem",
            recordings.extra("nothing/server/tls/root-ca.pem"),
            "does not lead to the root",
        ),
        (
            "intermediate-ca.pem",
            from.join("root-ca.pem"),
            "does not belong",
        ),
    ];
    for (name, wrong, words) in cases {
        let folder = tempfile::tempdir().unwrap();
        let tls = folder.path().join("server/tls");
        fs::create_dir_all(&tls).unwrap();
        for given in ["root-ca.pem", "intermediate-ca.pem", "intermediate-ca.key"] {
            copy(&from.join(given), &tls.join(given));
        }
        copy(&wrong, &tls.join(name));
        let before = testkit::Tree::snapshot(folder.path());
        let error = kubepki::error_chain(&run_custom(folder.path()).await.unwrap_err());
        assert!(error.contains(words), "{error}");
        assert_eq!(before, testkit::Tree::snapshot(folder.path()));
    }
}

#[tokio::test]
async fn a_second_run_of_the_first_script_keeps_root_and_intermediate() {
    let folder = tempfile::tempdir().unwrap();
    let around = Surroundings::new(Some("rke2".to_owned()), Some(folder.path().to_owned()));
    let keys = crate::lab::Keys;
    generate_custom(&LocalHost, &around, &make(&keys, NOW))
        .await
        .unwrap();
    let server = folder.path().join("server");
    let first = read_directory(&LocalHost, &server).await.unwrap();
    let said = generate_custom(&LocalHost, &around, &make(&keys, NOW.plus(60)))
        .await
        .unwrap();
    assert!(text(&said).contains("Generating additional Kubernetes"));
    let second = read_directory(&LocalHost, &server).await.unwrap();
    let (old, new) = (
        certificates(&first, CaName::Server),
        certificates(&second, CaName::Server),
    );
    assert_eq!(old[1..], new[1..]);
    assert_ne!(old[0], new[0]);
    assert!(
        new[0]
            .subject()
            .to_string()
            .starts_with("CN=rke2-server-ca@")
    );
    assert_eq!(
        crate::lab::keys(&second, kubepki::bootstrap::Field::ServiceKey).len(),
        2
    );
}
