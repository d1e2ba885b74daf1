//! A replacement is whole or does not happen.

use std::path::{Path, PathBuf};

use kubepki::host::{Entry, EntryKind, Host as _, HostError};
use testkit::SshdOptions;

use super::common::{Lab, tool, write};
use super::files::file;

const SERVER: &str = "/usr/lib/openssh/sftp-server";

/// The order of system calls, as strace sees the server make them.
#[tokio::test]
async fn a_file_is_on_the_disk_before_it_has_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("calls");
    let calls = "openat,fchmod,fchown,write,pwrite64,fsync,rename,unlink";
    let lab = Lab::with(SshdOptions {
        lines: vec![format!(
            "Subsystem sftp strace -y -e trace={calls} -o {} {SERVER}",
            log.display()
        )],
        ..SshdOptions::default()
    });
    let files = lab.connect().await.sftp().await.unwrap();
    let path = lab.path("key.pem");
    write(&path, b"old");
    let mut entry = file(&[b'k'; 100_000], 0o640);
    entry.attributes.gid = Some(4242);
    files.put(&path, &entry).await.unwrap();
    drop(files);
    let beside = lab.path(".key.pem.kubepki-tmp");
    let text = std::fs::read_to_string(&log).unwrap();
    let folder_name = lab.folder.path().display().to_string();
    let mine: Vec<_> = text
        .lines()
        .filter(|line| line.contains(&folder_name))
        .collect();
    let at = |what: &str| {
        let found = mine.iter().position(|line| line.contains(what));
        found.unwrap_or_else(|| panic!("no {what}: {mine:#?}"))
    };
    let beside = beside.display();
    let born = at(&format!("\"{beside}\", O_WRONLY|O_CREAT|O_EXCL"));
    assert!(mine[born].contains(", 0600)"), "{}", mine[born]);
    let owned = at("fchown(");
    let guarded = at("fchmod(");
    let written = at("write");
    let synced = at("fsync(");
    let renamed = at("rename(");
    let folder_synced = mine
        .iter()
        .rposition(|line| line.contains("fsync("))
        .unwrap();
    let order = [
        born,
        owned,
        guarded,
        written,
        synced,
        renamed,
        folder_synced,
    ];
    assert!(
        order.is_sorted() && folder_synced > renamed,
        "{order:?}: {mine:#?}"
    );
    assert!(mine[renamed].contains(&format!("\"{beside}\", \"{}\"", path.display())));
    assert!(
        mine[folder_synced].contains(&format!("<{folder_name}>")),
        "{}",
        mine[folder_synced]
    );
}

/// A server that is killed at its n-th system call of a kind, for every n: the file is the old or
/// the new one, and the next attempt succeeds.
#[tokio::test]
async fn a_crash_leaves_the_old_or_the_new_file() {
    let folder = tempfile::tempdir().unwrap();
    let (old, new) = (vec![b'o'; 70_000], vec![b'n'; 90_000]);
    let mut ends = [0, 0];
    for call in ["openat", "fchmod", "write", "fsync", "rename"] {
        for nth in 1..=30 {
            let script = folder.path().join(format!("{call}-{nth}"));
            let inject = format!("inject={call}:signal=KILL:when={nth}");
            // Only calls on our files count: the ones at the start are the loader's.
            let paths = format!(
                "-P {0}/key -P {0}/.key.kubepki-tmp -P {0}",
                folder.path().display()
            );
            let strace = format!("strace -f -qq -o /dev/null {paths} -e {inject} {SERVER}");
            write(&script, format!("#!/bin/sh\nexec {strace}\n").as_bytes());
            super::common::mode(&script, 0o755);
            let lab = Lab::with(SshdOptions {
                lines: vec![format!("Subsystem sftp {}", script.display())],
                ..SshdOptions::default()
            });
            let path = folder.path().join("key");
            write(&path, &old);
            let files = lab.connect().await.sftp().await.unwrap();
            let done = files.put(&path, &file(&new, 0o600)).await;
            let now = std::fs::read(&path).unwrap();
            assert!(now == old || now == new, "{call} {nth}");
            if done.is_ok() {
                assert!(now == new, "{call} {nth}");
                break;
            }
            ends[usize::from(now == new)] += 1;
            // The server is started anew on the same connection; now it does not get so far.
            write(&script, format!("#!/bin/sh\nexec {SERVER}\n").as_bytes());
            files.put(&path, &file(&new, 0o600)).await.unwrap();
            assert!(std::fs::read(&path).unwrap() == new);
            assert!(!folder.path().join(".key.kubepki-tmp").exists());
            assert!(nth < 30, "{call} never ends");
        }
    }
    assert!(ends[0] >= 5 && ends[1] >= 1, "{ends:?}");
}

/// A small file system of a test's own.
struct Small(PathBuf);

impl Small {
    fn mount(at: &Path) -> Self {
        std::fs::create_dir(at).unwrap();
        tool(
            "mount",
            &[
                "-t",
                "tmpfs",
                "-o",
                "size=1m,mode=755",
                "tmpfs",
                at.to_str().unwrap(),
            ],
        );
        Self(at.to_owned())
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        testkit::run("umount", &["-l", self.0.to_str().unwrap()], b"");
    }
}

#[tokio::test]
async fn a_full_disk_is_told_and_leaves_the_old_file() {
    let lab = Lab::new();
    let small = Small::mount(&lab.path("small"));
    let files = lab.connect().await.sftp().await.unwrap();
    let path = small.0.join("key");
    files.put(&path, &file(b"old", 0o600)).await.unwrap();
    let fill = small.0.join("fill");
    tool(
        "sh",
        &[
            "-c",
            "head -c 2000000 /dev/zero >\"$1\" 2>/dev/null || true",
            "sh",
            fill.to_str().unwrap(),
        ],
    );
    let error = files
        .put(&path, &file(&[b'n'; 50_000], 0o600))
        .await
        .unwrap_err();
    let HostError::File { source, .. } = &error else {
        panic!("{error:?}");
    };
    assert_eq!(source.kind(), std::io::ErrorKind::StorageFull, "{error:?}");
    assert!(source.to_string().contains("no space left"), "{source}");
    assert_eq!(std::fs::read(&path).unwrap(), b"old");
    assert_eq!(
        files.list(&small.0).await.unwrap().unwrap(),
        ["fill", "key"]
    );
    files.remove(&fill).await.unwrap();
    files.put(&path, &file(b"new", 0o600)).await.unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"new");
}

/// Many files at once through one channel, with the keys exchanged anew every megabyte.
#[tokio::test]
async fn many_big_files_at_once_arrive_whole() {
    let lab = Lab::with(SshdOptions {
        lines: vec!["RekeyLimit 1M".to_owned()],
        ..SshdOptions::default()
    });
    let files = lab.connect().await.sftp().await.unwrap();
    let files = std::sync::Arc::new(files);
    let tasks = (0..8_u8).map(|number| {
        let (files, path) = (files.clone(), lab.path(&format!("big-{number}")));
        tokio::spawn(async move {
            let bytes: Vec<_> = (0..4_000_000_u32)
                .map(|at| (at % 241) as u8 ^ number)
                .collect();
            files.put(&path, &file(&bytes, 0o600)).await.unwrap();
            let read: Entry = files.read(&path).await.unwrap().unwrap();
            assert!(
                matches!(&read.kind, EntryKind::File(read) if **read == bytes),
                "{number}"
            );
            assert!(std::fs::read(&path).unwrap() == bytes, "{number}");
        })
    });
    let tasks: Vec<_> = tasks.collect();
    for task in tasks {
        task.await.unwrap();
    }
}
