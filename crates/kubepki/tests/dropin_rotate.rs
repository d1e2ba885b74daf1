//! The plan of `k3s certificate rotate` against what K3s v1.36.3 did on the same trees.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use kubepki::catalogue::K3S;
use kubepki::dropin::{
    DropinError, Layout, Level, Line, LineStyle, Rotation, RotationRequest, rotate_plan, select,
};
use kubepki::error_chain;
use kubepki::host::{Entry, EntryKind, Host, LocalHost};
use kubepki::plan::{Action, Before, Content, FingerprintKind, Plan, PlanId, Target};
use pki::UnixTime;
use testkit::{DiffOptions, Fixture, Tree};

const DATA: &str = "/var/lib/rancher/k3s";
const NOW: UnixTime = UnixTime::from_secs(1_795_332_595);

/// Every run of `rotate-recordings` that K3s does as it should, and its `--service`.
const CASES: &[(&str, &str)] = &[
    ("all", ""),
    ("admin", "admin"),
    ("api-server", "api-server"),
    ("auth-proxy", "auth-proxy"),
    ("cloud-controller", "cloud-controller"),
    ("controller-manager", "controller-manager"),
    ("etcd", "etcd"),
    ("k3s-controller", "k3s-controller"),
    ("k3s-server", "k3s-server"),
    ("kube-proxy", "kube-proxy"),
    ("kubelet", "kubelet"),
    ("nonsense", "nonsense"),
    ("scheduler", "scheduler"),
    ("supervisor", "supervisor"),
    ("agent-only-admin", "admin"),
    ("agent-only-all", ""),
    ("agent-only-k3s-server", "k3s-server"),
    ("agent-only-kubelet", "kubelet"),
];

async fn rotation(
    root: &Path,
    service: &str,
    now: UnixTime,
) -> (Vec<Line>, Result<Rotation, DropinError>) {
    let layout = Layout::new(Path::new(DATA), root.to_owned());
    let named: Vec<String> = match service {
        "" => Vec::new(),
        service => vec![service.to_owned()],
    };
    let selection = match select(&LocalHost, &K3S, &layout, &named, "rotating").await {
        Ok(selection) => selection,
        Err(error) => return (Vec::new(), Err(error)),
    };
    let request = RotationRequest {
        id: PlanId(format!("{}-rotate-0001", now.as_secs())),
        node: "k3s-fixture".to_owned(),
        now,
    };
    let rotation = rotate_plan(&LocalHost, &K3S, &layout, &selection, request).await;
    (selection.lines, rotation)
}

/// Takes every step, its condition checked: what the engine does, without a journal.
async fn take(plan: &Plan) {
    for (index, step) in plan.steps.iter().enumerate() {
        assert_eq!(step.number as usize, index + 1);
        let Target::File { host, path } = &step.target else {
            panic!("{step:?}")
        };
        assert_eq!(host, "local");
        assert!(path.starts_with(&plan.root), "{path:?}");
        let found = LocalHost.read(path).await.unwrap();
        match (&step.before, &found) {
            (Before::Absent, None) => {}
            (Before::Present(before), Some(found)) => {
                assert_eq!(before.attributes.mode, found.attributes.mode);
                let same = match (&before.kind, &found.kind) {
                    (FingerprintKind::File(sha256), EntryKind::File(bytes)) => {
                        *sha256 == testkit::sha256(bytes)
                    }
                    (FingerprintKind::Link(to), EntryKind::Link(target)) => to == target,
                    (FingerprintKind::Directory, EntryKind::Directory) => true,
                    _ => false,
                };
                assert!(same, "{step:?}");
            }
            _ => panic!("{step:?} finds {found:?}"),
        }
        match &step.action {
            Action::Remove => LocalHost.remove(path).await.unwrap(),
            Action::Put {
                attributes,
                content,
            } => {
                let kind = match content {
                    Content::Directory => EntryKind::Directory,
                    Content::Link(target) => EntryKind::Link(target.clone()),
                    Content::Text(text) => EntryKind::File(text.clone().into_bytes().into()),
                    Content::CopyOf { path, sha256 } => {
                        let entry = LocalHost.read(path).await.unwrap().unwrap();
                        assert_eq!(*sha256, testkit::sha256(entry.bytes().unwrap()));
                        entry.kind
                    }
                    other => panic!("{other:?}"),
                };
                let entry = Entry {
                    kind,
                    attributes: attributes.clone(),
                };
                LocalHost.put(path, &entry).await.unwrap();
            }
            other => panic!("{other:?}"),
        }
    }
}

/// Files of a backup are 0600; K3s keeps each mode, and gives an agent's keys 0644.
fn with_named_differences(listing: &str) -> String {
    let mend = |line: &str| match line.contains("/tls-") {
        true => format!("{}\n", line.replacen("f 644 ", "f 600 ", 1)),
        false => format!("{line}\n"),
    };
    listing.lines().map(mend).collect()
}

/// Lines of a log without their time, those for services sorted: K3s's come at random.
fn messages(log: &str) -> Vec<String> {
    let mut lines: Vec<String> = log
        .lines()
        .map(|line| line.split_once("Z\" ").unwrap().1.to_owned())
        .collect();
    let is_service = |line: &String| line.contains("Rotating certificates for");
    if let Some(first) = lines.iter().position(is_service) {
        let count = lines.iter().filter(|line| is_service(line)).count();
        let services = lines.get_mut(first..first + count).unwrap();
        assert!(services.iter().all(is_service));
        services.sort();
    }
    lines
}

fn printed(lines: &[Line], error: Option<&DropinError>) -> String {
    let fatal =
        error.map(|error| Line::new(Level::Fatal, format!("Error: {}", error_chain(error))));
    lines
        .iter()
        .filter(|line| line.level > Level::Debug)
        .chain(&fatal)
        .map(|line| line.render(NOW, LineStyle::Fields { offset: 0 }))
        .collect()
}

#[tokio::test]
async fn every_recording_is_met() {
    let recordings = Fixture::new("k3s-1.36-rotate-recordings");
    for (case, service) in CASES {
        let recorded = |what| recordings.extra_text(&format!("{case}.{what}"));
        let agent_only = case.starts_with("agent-only-");
        let tree = if agent_only {
            "k3s-1.36-agent-only"
        } else {
            "k3s-1.36-sqlite"
        };
        let fixture = Fixture::without_datastore(tree);
        let before = if agent_only {
            "agent-only-before.txt"
        } else {
            "before.txt"
        };
        let root = fixture.data_dir();
        assert_eq!(
            Tree::snapshot(&root).listing(),
            recordings.extra_text(before),
            "{case}"
        );

        let stderr = recorded("stderr");
        // Where there is a backup, its name says when K3s made it.
        let backup = stderr
            .split("/tls-")
            .nth(1)
            .and_then(|rest| rest.split(',').next());
        let now = backup.map_or(NOW, |seconds| UnixTime::from_secs(seconds.parse().unwrap()));
        let (mut lines, rotation) = rotation(&root, service, now).await;
        if let Ok(rotation) = &rotation {
            take(&rotation.plan).await;
            lines.extend(rotation.lines.clone());
        }
        let after = with_named_differences(&recorded("after.txt"));
        assert_eq!(Tree::snapshot(&root).listing(), after, "{case}");
        assert_eq!(recorded("stdout"), "", "{case}");
        let error = rotation.as_ref().err();
        let ours = messages(&printed(&lines, error));
        let mut theirs = messages(&stderr);
        if *case == "nonsense" {
            // K3s's own words, then the list of services.
            let known = "; known services: api-server, admin, auth-proxy, cloud-controller, \
                controller-manager, etcd, scheduler, supervisor, k3s-server, kube-proxy, kubelet, \
                k3s-controller\"";
            theirs = theirs
                .iter()
                .map(|line| line.trim_end_matches('"').to_owned() + known)
                .collect();
        }
        assert_eq!(ours, theirs, "{case}");
        assert_eq!(
            recorded("exit").trim(),
            if error.is_some() { "1" } else { "0" },
            "{case}"
        );
    }
}

#[tokio::test]
async fn services_joined_by_a_comma_work_where_k3s_refuses() {
    let recordings = Fixture::new("k3s-1.36-rotate-recordings");
    let refused = recordings.extra_text("admin,scheduler.stderr");
    assert!(refused.contains("service admin,scheduler is not recognized"));
    let fixture = Fixture::without_datastore("k3s-1.36-sqlite");
    let root = fixture.data_dir();
    let before = Tree::snapshot(&root);
    let (lines, rotation) = rotation(&root, "scheduler, admin", NOW).await;
    let rotation = rotation.unwrap();
    take(&rotation.plan).await;
    assert_eq!(lines, []);
    let shown: Vec<_> = rotation
        .lines
        .iter()
        .filter(|line| line.level > Level::Debug)
        .collect();
    let words: Vec<_> = shown.iter().map(|line| line.text.as_str()).collect();
    let done = format!(
        "Successfully backed up certificates to {DATA}/server/tls-{}, please restart k3s server \
         or agent to rotate certificates",
        NOW.as_secs()
    );
    let expected = [
        "Rotating certificates for admin",
        "Rotating certificates for scheduler",
        &done,
    ];
    assert_eq!(words, expected);
    let backup = format!("server/tls-{}", NOW.as_secs());
    let after = Tree::snapshot(&root).without(&backup);
    let options = DiffOptions::exact().without_directory_mtimes();
    assert_eq!(
        Tree::diff(&before, &after, &options)
            .iter()
            .map(|line| line
                .split_whitespace()
                .take(2)
                .collect::<Vec<_>>()
                .join(" "))
            .collect::<Vec<_>>(),
        [
            "- server/tls/client-admin.crt",
            "- server/tls/client-admin.key",
            "- server/tls/client-scheduler.crt",
            "- server/tls/client-scheduler.key",
            "- server/tls/kube-scheduler/kube-scheduler.crt",
            "- server/tls/kube-scheduler/kube-scheduler.key",
        ]
    );
}

#[tokio::test]
async fn the_agents_file_wins_in_the_backup() {
    let fixture = Fixture::without_datastore("k3s-1.36-sqlite");
    let root = fixture.data_dir();
    let agents = fs::read(root.join("agent/client-kubelet.key")).unwrap();
    assert_ne!(
        agents,
        fs::read(root.join("server/tls/client-kubelet.key")).unwrap()
    );
    take(&rotation(&root, "kubelet", NOW).await.1.unwrap().plan).await;
    let backup = root.join(format!("server/tls-{}", NOW.as_secs()));
    assert_eq!(fs::read(backup.join("client-kubelet.key")).unwrap(), agents);
}

#[tokio::test]
async fn two_rotations_in_one_second_share_a_backup() {
    let fixture = Fixture::without_datastore("k3s-1.36-sqlite");
    let root = fixture.data_dir();
    let admin = fs::read(root.join("server/tls/client-admin.key")).unwrap();
    take(&rotation(&root, "admin", NOW).await.1.unwrap().plan).await;
    take(
        &rotation(&root, "k3s-server,etcd", NOW)
            .await
            .1
            .unwrap()
            .plan,
    )
    .await;
    let backup = root.join(format!("server/tls-{}", NOW.as_secs()));
    assert_eq!(fs::read(backup.join("client-admin.key")).unwrap(), admin);
    assert!(backup.join("etcd/client.crt").is_file());
    assert!(!root.join("server/tls/etcd/client.crt").exists());
}

#[tokio::test]
async fn a_second_trigger_replaces_the_first() {
    let fixture = Fixture::without_datastore("k3s-1.36-sqlite");
    let root = fixture.data_dir();
    take(&rotation(&root, "k3s-server", NOW).await.1.unwrap().plan).await;
    take(
        &rotation(&root, "k3s-server", NOW.plus(5))
            .await
            .1
            .unwrap()
            .plan,
    )
    .await;
    let trigger = root.join("server/tls/dynamic-cert-regenerate");
    assert_eq!(fs::metadata(&trigger).unwrap().len(), 0);
    assert_eq!(
        fs::metadata(&trigger).unwrap().permissions().mode() & 0o777,
        0o600
    );
}

#[tokio::test]
async fn files_are_0600_in_the_backup_whatever_they_were() {
    let fixture = Fixture::without_datastore("k3s-1.36-sqlite");
    let root = fixture.data_dir();
    let key = root.join("server/tls/service.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    take(&rotation(&root, "", NOW).await.1.unwrap().plan).await;
    let backup = root.join(format!("server/tls-{}", NOW.as_secs()));
    let tree = testkit::Tree::snapshot(&backup);
    let open: Vec<&str> = tree
        .files()
        .filter(|path| tree.get(path).unwrap().mode & 0o177 != 0)
        .collect();
    assert_eq!(open, [""; 0]);
    assert!(tree.files().count() > 40);
}

#[tokio::test]
async fn a_linked_tls_is_copied_and_links_in_it_stay_links() {
    let fixture = Fixture::without_datastore("k3s-1.36-sqlite");
    let root = fixture.data_dir();
    let elsewhere = root.join("server/elsewhere");
    move_to(&root.join("server/tls"), &elsewhere);
    symlink("elsewhere", root.join("server/tls")).unwrap();
    symlink("client-ca.crt", elsewhere.join("a-link")).unwrap();
    take(&rotation(&root, "admin", NOW).await.1.unwrap().plan).await;
    let backup = root.join(format!("server/tls-{}", NOW.as_secs()));
    assert!(fs::symlink_metadata(&backup).unwrap().is_dir());
    assert!(backup.join("client-admin.key").is_file());
    assert!(!elsewhere.join("client-admin.key").exists());
    assert_eq!(
        fs::read_link(backup.join("a-link")).unwrap(),
        Path::new("client-ca.crt")
    );
}

#[expect(clippy::disallowed_methods, reason = "a test rearranges its own copy")]
fn move_to(from: &Path, to: &Path) {
    fs::rename(from, to).unwrap();
}

async fn refusal(root: &Path, service: &str) -> String {
    let before = Tree::snapshot(root);
    let error = rotation(root, service, NOW).await.1.unwrap_err();
    Tree::assert_equal(&before, &Tree::snapshot(root), &DiffOptions::exact());
    error_chain(&error)
}

#[tokio::test]
async fn what_cannot_be_backed_up_stops_the_rotation() {
    let fixture = Fixture::without_datastore("k3s-1.36-sqlite");
    let root = fixture.data_dir();
    let socket = root.join("server/tls/socket");
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let real = fs::canonicalize(&root).unwrap().join("server/tls/socket");
    assert_eq!(
        refusal(&root, "admin")
            .await
            .replace(&real.display().to_string(), "REAL")
            .replace(&socket.display().to_string(), "REAL"),
        format!(
            "cannot back up {DATA}/server/tls/socket, so nothing was changed; move it elsewhere \
             and run again: REAL is a socket, pipe or device, not a file"
        )
    );
    drop(listener);
    fs::remove_file(&socket).unwrap();

    let huge = fs::File::options()
        .write(true)
        .create_new(true)
        .open(root.join("server/tls/huge"))
        .unwrap();
    huge.set_len(17 << 20).unwrap();
    assert!(refusal(&root, "admin").await.contains("17825792 bytes"));
}

#[tokio::test]
async fn directories_in_place_of_files_stop_the_rotation() {
    let fixture = Fixture::without_datastore("k3s-1.36-sqlite");
    let root = fixture.data_dir();
    fs::create_dir(root.join("server/tls/client-kube-proxy.crt")).unwrap();
    assert!(refusal(&root, "kube-proxy").await.starts_with(&format!(
        "{DATA}/server/tls/client-kube-proxy.crt is a directory where a file belongs"
    )));
    fs::create_dir(root.join("server/tls/dynamic-cert-regenerate")).unwrap();
    assert!(
        refusal(&root, "k3s-server")
            .await
            .contains("dynamic-cert-regenerate is a directory")
    );
}

#[tokio::test]
async fn a_tree_that_does_not_exist_is_an_error() {
    let empty = tempfile::tempdir().unwrap();
    assert_eq!(
        refusal(empty.path(), "").await,
        format!(
            "neither {DATA}/server nor {DATA}/agent exists; name the data directory with --data-dir"
        )
    );
}

#[tokio::test]
async fn plans_are_written_and_read_back_without_secrets() {
    let fixture = Fixture::without_datastore("k3s-1.36-sqlite");
    let root = fixture.data_dir();
    let plan = rotation(&root, "", NOW).await.1.unwrap().plan;
    let json = serde_json::to_string_pretty(&plan).unwrap();
    assert_eq!(serde_json::from_str::<Plan>(&json).unwrap(), plan);
    assert!(!json.contains("PRIVATE KEY"));
    assert!(!json.contains("fixture-token"));
    assert_eq!(plan.title, "k3s certificate rotate");
}
