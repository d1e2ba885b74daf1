//! K3s's rules at start, as a table (reference sections 4.5, 4.6).

use std::fs;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use kubepki::bootstrap::{
    Bundle, Disk, Field, Files, SharedFile, Stamp, Standing, Verdict, compare, files,
};
use kubepki::host::LocalHost;
use kubepki::plan::{Action, Before, Content, Target};
use kubepki::reconcile::{Decision, Keep, ReconcileError, decide};
use proptest::prelude::*;
use tempfile::TempDir;

/// The time of the data, in seconds.
const THEN: i64 = 1_700_000_000;

fn data() -> Bundle {
    let file = |field: Field| SharedFile {
        stamp: Stamp {
            seconds: THEN,
            nanoseconds: 500_000_000,
        },
        content: field.name().as_bytes().to_vec().into(),
    };
    let files = Field::ALL.into_iter().filter(|field| !field.is_optional());
    Bundle {
        files: files.map(|field| (field, file(field))).collect(),
        ..Bundle::default()
    }
}

/// A server directory that holds the data, older by an hour.
fn server() -> TempDir {
    let server = tempfile::tempdir().unwrap();
    for directory in ["cred", "tls", "tls/etcd"] {
        fs::create_dir(server.path().join(directory)).unwrap();
    }
    for (field, file) in data().files {
        put(server.path(), field, &file.content, -3600);
    }
    server
}

/// Writes a file whose time is `later` seconds after the data's whole second.
fn put(server: &Path, field: Field, content: &[u8], later: i64) {
    let path = field.under(server);
    fs::write(&path, content).unwrap();
    let seconds = u64::try_from(THEN + later).unwrap();
    let file = fs::File::options().write(true).open(path).unwrap();
    file.set_modified(UNIX_EPOCH + Duration::from_secs(seconds))
        .unwrap();
}

fn look(server: &Path) -> Disk {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    runtime
        .unwrap()
        .block_on(Disk::look(&LocalHost, server))
        .unwrap()
}

type Spoil = fn(&Path);

/// What is done to the server, and what each word of the operator leads to.
struct Case {
    name: &'static str,
    spoil: Spoil,
    verdict: Verdict,
    /// Without a word, `--keep datastore`, `--keep disk`; `None` for a refusal.
    decisions: [Option<Decision>; 3],
}

const WRITE: Option<Decision> = Some(Decision::WriteAll);
const LEAVE: Option<Decision> = Some(Decision::Leave);
const SAVE: Option<Decision> = Some(Decision::SaveDisk);

const CASES: [Case; 13] = [
    Case {
        name: "the same",
        spoil: |_| {},
        verdict: Verdict::Same,
        decisions: [LEAVE, LEAVE, LEAVE],
    },
    Case {
        name: "the same and newer",
        spoil: |server| put(server, Field::ServerCa, b"ServerCA", 9_999),
        verdict: Verdict::Same,
        decisions: [LEAVE, LEAVE, LEAVE],
    },
    Case {
        name: "different and older",
        spoil: |server| put(server, Field::ServerCa, b"x", -1),
        verdict: Verdict::Update,
        decisions: [WRITE, WRITE, SAVE],
    },
    Case {
        name: "different, newer by two seconds",
        spoil: |server| put(server, Field::ServerCa, b"x", 2),
        verdict: Verdict::Update,
        decisions: [WRITE, WRITE, SAVE],
    },
    Case {
        name: "different, newer by three seconds",
        spoil: |server| put(server, Field::ServerCa, b"x", 3),
        verdict: Verdict::Dies,
        decisions: [None, WRITE, SAVE],
    },
    Case {
        name: "one newer, one missing",
        spoil: |server| {
            put(server, Field::ServerCa, b"x", 3);
            fs::remove_file(Field::ClientCa.under(server)).unwrap();
        },
        verdict: Verdict::Dies,
        decisions: [None, WRITE, SAVE],
    },
    Case {
        name: "a file is missing",
        spoil: |server| fs::remove_file(Field::PasswdFile.under(server)).unwrap(),
        verdict: Verdict::Update,
        decisions: [WRITE, WRITE, SAVE],
    },
    Case {
        name: "something that the data lack",
        spoil: |server| put(server, Field::EncryptionConfig, b"{}", 9_999),
        verdict: Verdict::Same,
        decisions: [LEAVE, LEAVE, LEAVE],
    },
    Case {
        name: "tls/etcd is missing, and something is newer",
        spoil: |server| {
            put(server, Field::ServerCa, b"x", 3);
            fs::remove_dir_all(server.join("tls/etcd")).unwrap();
        },
        verdict: Verdict::WriteAll,
        decisions: [WRITE, WRITE, None],
    },
    Case {
        name: "tls/etcd is empty",
        spoil: |server| {
            fs::remove_dir_all(server.join("tls/etcd")).unwrap();
            fs::create_dir(server.join("tls/etcd")).unwrap();
        },
        verdict: Verdict::WriteAll,
        decisions: [WRITE, WRITE, None],
    },
    Case {
        name: "tls is empty",
        spoil: |server| {
            fs::remove_dir_all(server.join("tls")).unwrap();
            fs::create_dir(server.join("tls")).unwrap();
        },
        verdict: Verdict::WriteAll,
        decisions: [WRITE, WRITE, None],
    },
    Case {
        name: "cred is missing",
        spoil: |server| fs::remove_dir_all(server.join("cred")).unwrap(),
        verdict: Verdict::WriteAll,
        decisions: [WRITE, WRITE, None],
    },
    Case {
        name: "nothing is there",
        spoil: |server| fs::remove_dir_all(server).unwrap(),
        verdict: Verdict::WriteAll,
        decisions: [WRITE, WRITE, None],
    },
];

#[test]
fn every_case_is_decided_as_k3s_decides_it() {
    for case in CASES {
        let server = server();
        (case.spoil)(server.path());
        let comparison = compare(&data(), &look(server.path()));
        assert_eq!(comparison.verdict(), case.verdict, "{}", case.name);
        let words = [None, Some(Keep::Datastore), Some(Keep::Disk)];
        for (keep, expected) in words.into_iter().zip(case.decisions) {
            let decided = decide(&comparison, keep, false, server.path()).ok();
            assert_eq!(decided, expected, "{}: {keep:?}", case.name);
        }
        // A cluster reset asks nothing.
        let reset = decide(&comparison, None, true, server.path()).unwrap();
        assert_eq!(reset, Decision::WriteAll, "{}", case.name);
        let dies = comparison.verdict() == Verdict::Dies;
        assert_eq!(comparison.k3s_words(server.path()).is_some(), dies);
    }
}

#[test]
fn a_refusal_names_the_files_in_k3s_own_words() {
    let server = server();
    put(server.path(), Field::ServerCa, b"x", 3);
    put(server.path(), Field::ServiceKey, b"x", 30);
    let comparison = compare(&data(), &look(server.path()));
    let error = decide(&comparison, None, false, Path::new("/srv")).unwrap_err();
    let ReconcileError::Newer { words } = error else {
        panic!("{error}");
    };
    assert_eq!(
        words,
        "/srv/tls/server-ca.crt, /srv/tls/service.key newer than datastore and could cause a \
         cluster outage. Remove the file(s) from disk and restart to be recreated from datastore."
    );
}

#[test]
fn data_without_times_lose_against_any_disk() {
    let server = server();
    put(server.path(), Field::ServerCa, b"x", -THEN);
    let old = data().restamped(Stamp::ZERO);
    let comparison = compare(&old, &look(server.path()));
    assert_eq!(comparison.verdict(), Verdict::Dies);
}

#[test]
fn an_update_writes_every_file_and_a_mode_stays() {
    use std::os::unix::fs::PermissionsExt as _;

    let server = server();
    let kept = Field::ServerCa.under(server.path());
    fs::set_permissions(&kept, fs::Permissions::from_mode(0o644)).unwrap();
    put(server.path(), Field::ClientCaKey, b"x", 0);
    let disk = look(server.path());
    let Files { steps, staged } = files(&data(), &disk, "why");
    assert_eq!(steps.len(), data().files.len());
    for step in &steps {
        let (
            Target::File { path, .. },
            Action::Put {
                attributes,
                content,
            },
        ) = (&step.target, &step.action)
        else {
            panic!("{step:?}");
        };
        assert!(matches!(step.before, Before::Present(_)));
        assert_eq!(attributes.mtime, Some((THEN, 500_000_000)));
        let mode = fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!(attributes.mode, mode, "{}", path.display());
        if matches!(content, Content::Text(_)) {
            assert!(
                path.extension().is_some_and(|it| it == "crt"),
                "a secret by value"
            );
        }
    }
    assert_eq!(
        staged.len(),
        8,
        "five CA keys, service keys, passwords, pre-shared key"
    );
}

proptest! {
    /// Whatever the times: the same bytes never matter, and different ones are K3s's death from
    /// the third second on.
    #[test]
    fn three_seconds(data_at in 0_i64..4_000_000_000, later in -100_i64..100, same: bool) {
        let stamp = |seconds| Stamp { seconds, nanoseconds: 999_999_999 };
        let bundle = |content: &[u8], seconds| Bundle {
            files: [(Field::ServerCa, SharedFile {
                stamp: stamp(seconds),
                content: content.to_vec().into(),
            })].into(),
            ..Bundle::default()
        };
        let disk = Disk {
            server: "/srv".into(),
            bundle: bundle(if same { b"a" } else { b"b" }, data_at + later),
            fingerprints: Default::default(),
            directories: Vec::new(),
            links: Vec::new(),
        };
        let standing = compare(&bundle(b"a", data_at), &disk).lines[0].standing;
        let expected = match (same, later >= 3) {
            (true, _) => Standing::Same,
            (false, true) => Standing::DiskNewer,
            (false, false) => Standing::DatastoreWins,
        };
        prop_assert_eq!(standing, expected);
    }
}
