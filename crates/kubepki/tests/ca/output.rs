//! Sets on disk: whole or not at all, private, and never in a live directory.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use kubepki::bootstrap::{Bundle, read_directory};
use kubepki::ca::{
    CaError, Change, CrossRoots, Outer, Places, Pool, StagedSet, read_note, refuse_live, write,
};
use kubepki::host::LocalHost;
use pki::PrivateKey;

use crate::lab::{NOW, default_cluster, staged};

fn crossed() -> (Bundle, StagedSet) {
    let live = default_cluster(3650);
    let set = staged(
        &live,
        Change::CrossSigned(CrossRoots::AsNow),
        Pool::default(),
    )
    .unwrap();
    (live, set)
}

fn places<'a>(out: &'a Path, offline: &'a Path, data_dirs: &'a [PathBuf]) -> Places<'a> {
    Places {
        out,
        offline: Some(offline),
        data_dirs,
        keep_on_node: false,
        passphrase: None,
    }
}

#[tokio::test]
async fn what_is_written_is_read_again_and_is_private() {
    let folder = tempfile::tempdir().unwrap();
    let (out, offline) = (folder.path().join("out"), folder.path().join("off"));
    let (_, set) = crossed();
    let safe = write(&set, &places(&out, &offline, &[])).unwrap();
    assert_eq!(read_directory(&LocalHost, &out).await.unwrap(), set.bundle);
    let note = read_note(&LocalHost, &out).await.unwrap().unwrap();
    assert_eq!(
        (note.kind.as_str(), note.token_hash),
        ("cross-signed", set.hash.after.to_string())
    );
    assert_eq!(safe.len(), 10);
    let mut files = 0;
    for path in walk(folder.path()) {
        let metadata = fs::symlink_metadata(&path).unwrap();
        let mode = metadata.permissions().mode() & 0o7777;
        assert_eq!(
            mode,
            if metadata.is_dir() { 0o700 } else { 0o600 },
            "{}",
            path.display()
        );
        files += usize::from(metadata.is_file());
    }
    assert_eq!(files, 11 + 1 + 10);
    let mtime = fs::metadata(out.join("tls/server-ca.crt")).unwrap().mtime();
    assert_eq!(mtime, NOW.as_secs());
    // A second set does not mix with the first.
    let error = write(&set, &places(&out, &folder.path().join("other"), &[])).unwrap_err();
    assert!(matches!(error, CaError::NotEmpty { .. }), "{error}");
    assert!(!folder.path().join("other").exists());
}

fn walk(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(walk(&path));
        }
        found.push(path);
    }
    found
}

#[test]
fn keys_for_the_safe_are_encrypted_where_a_passphrase_is_given() {
    let folder = tempfile::tempdir().unwrap();
    let (out, offline) = (folder.path().join("out"), folder.path().join("off"));
    let live = default_cluster(3650);
    let set = staged(&live, Change::NewRoot(Outer::New), Pool::default()).unwrap();
    let places = Places {
        passphrase: Some(b"correct horse"),
        ..places(&out, &offline, &[])
    };
    write(&set, &places).unwrap();
    let bytes = fs::read(offline.join("root-ca.key")).unwrap();
    assert_eq!(
        PrivateKey::from_pem(&bytes).err(),
        Some(pki::Error::PassphraseNeeded)
    );
    let key = PrivateKey::from_encrypted_pem(&bytes, b"correct horse").unwrap();
    let plain = set
        .offline
        .iter()
        .find(|it| it.name == "root-ca.key")
        .unwrap();
    assert_eq!(
        key.spki_der(),
        PrivateKey::from_pem(&plain.content).unwrap().spki_der()
    );
    let path = offline.join("root-ca.key");
    let args = ["pkey", "-passin", "pass:correct horse", "-noout", "-in"];
    testkit::openssl_ok(&[&args[..], &[path.to_str().unwrap()]].concat(), b"");
    // In a pool: with the passphrase, without, with a wrong one.
    let mut pool = Pool::default();
    pool.add(&path, &bytes, Some(b"correct horse")).unwrap();
    let said = |passphrase| {
        let error = Pool::default().add(&path, &bytes, passphrase).unwrap_err();
        kubepki::error_chain(&error)
    };
    assert!(said(None).contains("needs a passphrase"));
    assert!(said(Some(b"wrong".as_slice())).contains("does not decrypt"));
}

#[test]
fn what_belongs_offline_needs_a_place_outside() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    fs::create_dir_all(data.join("server/tls/etcd")).unwrap();
    fs::create_dir_all(data.join("kubepki")).unwrap();
    let (_, set) = crossed();
    let out = data.join("kubepki/staged");
    let data_dirs = [data.clone()];
    let on_node = data.join("off");
    let error = write(&set, &places(&out, &on_node, &data_dirs))
        .unwrap_err()
        .to_string();
    assert!(error.contains("--keep-on-node"), "{error}");
    let inside = out.join("off");
    let error = write(&set, &places(&out, &inside, &[]))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("does not exist") || error.contains("lie in each other"),
        "{error}"
    );
    let nowhere = Places {
        offline: None,
        ..places(&out, &on_node, &data_dirs)
    };
    let error = write(&set, &nowhere).unwrap_err().to_string();
    assert!(error.contains("--offline"), "{error}");
    assert!(!out.exists() && !on_node.exists());
    let asked = Places {
        keep_on_node: true,
        ..places(&out, &on_node, &data_dirs)
    };
    write(&set, &asked).unwrap();
    assert!(out.join("tls/service.key").exists() && on_node.join("client-root.key").exists());
}

/// Every way to say `server/tls` or something in it.
#[test]
fn live_directories_are_refused_by_any_name() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let tls = data.join("server/tls");
    fs::create_dir_all(tls.join("etcd")).unwrap();
    let link = |to: &Path, name: &str| {
        let link = folder.path().join(name);
        std::os::unix::fs::symlink(to, &link).unwrap();
        link
    };
    let holder = folder.path().join("holder");
    fs::create_dir(&holder).unwrap();
    std::os::unix::fs::symlink(&tls, holder.join("tls")).unwrap();
    let etcd_holder = folder.path().join("etcd-holder");
    fs::create_dir_all(etcd_holder.join("tls")).unwrap();
    std::os::unix::fs::symlink(tls.join("etcd"), etcd_holder.join("tls/etcd")).unwrap();
    let bind = folder.path().join("bind");
    fs::create_dir(&bind).unwrap();
    let (from, to) = (tls.to_str().unwrap(), bind.to_str().unwrap());
    let mounted = testkit::run("mount", &["--bind", from, to], b"");
    assert!(mounted.success(), "{mounted:?}");
    let bad = [
        tls.clone(),
        tls.join("new"),
        tls.join("etcd"),
        tls.join("etcd/new/deeper"),
        tls.join("../tls"),
        tls.join("nowhere/../new"),
        data.join("server"),
        data.join("server/."),
        data.join("server/other/../tls"),
        link(&tls, "to-tls"),
        link(&data, "to-data").join("server/tls/new"),
        link(&data.join("server"), "to-server"),
        link(&tls.join("etcd"), "to-etcd").join("x"),
        holder,
        etcd_holder,
        bind.clone(),
        bind.join("new"),
    ];
    let found: Vec<_> = bad
        .iter()
        .map(|path| (path, refuse_live(path, &data)))
        .collect();
    let good = [
        folder.path().join("out"),
        data.join("kubepki/staged"),
        data.join("server/rotate-ca"),
        data.join("server/tls-new"),
        folder.path().join("not/there/yet"),
    ];
    let fine: Vec<_> = good
        .iter()
        .map(|path| (path, refuse_live(path, &data)))
        .collect();
    let unmounted = testkit::run("umount", &[to], b"");
    assert!(unmounted.success(), "{unmounted:?}");
    for (path, found) in found {
        assert!(
            matches!(found, Err(CaError::LiveDirectory { .. })),
            "{}: {found:?}",
            path.display()
        );
    }
    for (path, found) in fine {
        assert!(found.is_ok(), "{}: {found:?}", path.display());
    }
}

#[test]
fn live_directories_that_are_links_or_not_there_yet() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let tls = data.join("server/tls");
    fs::create_dir_all(&tls).unwrap();
    let link = |to: &Path, name: &str| {
        let link = folder.path().join(name);
        std::os::unix::fs::symlink(to, &link).unwrap();
        link
    };
    let data_link = link(&data, "to-data");
    assert!(refuse_live(&tls, &data_link).is_err());
    let later = folder.path().join("later");
    assert!(refuse_live(&later.join("server/tls"), &later).is_err());
    assert!(refuse_live(&later.join("server/tls/x"), &later).is_err());
    assert!(refuse_live(&later.join("staged"), &later).is_ok());
    // A link that leads nowhere would be followed by whoever writes.
    let dangling = link(&later.join("server/tls"), "dangling");
    assert!(refuse_live(&dangling, &later).is_err());
}

#[test]
fn a_full_disk_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let small = folder.path().join("small");
    fs::create_dir(&small).unwrap();
    let path = small.to_str().unwrap();
    let run = testkit::run(
        "mount",
        &["-t", "tmpfs", "-o", "size=24k", "small", path],
        b"",
    );
    assert!(run.success(), "{run:?}");
    let (_, set) = crossed();
    let out = folder.path().join("out");
    let on_full = write(
        &set,
        &places(&small.join("out"), &folder.path().join("off"), &[]),
    );
    let off_full = write(&set, &places(&out, &small.join("off"), &[]));
    let left = fs::read_dir(&small).unwrap().count();
    let run = testkit::run("umount", &[path], b"");
    assert!(run.success(), "{run:?}");
    let error = kubepki::error_chain(&on_full.unwrap_err());
    assert!(error.contains("No space left"), "{error}");
    assert!(kubepki::error_chain(&off_full.unwrap_err()).contains("No space left"));
    assert_eq!(left, 0);
    assert!(!out.exists());
}

#[test]
fn odd_places_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (_, set) = crossed();
    let offline = folder.path().join("off");
    let say = |out: &Path| {
        let error = write(&set, &places(out, &offline, &[]))
            .unwrap_err()
            .to_string();
        assert!(!offline.exists(), "{error}");
        error
    };
    let file = folder.path().join("file");
    kubepki::edge::file::replace(&file, b"x", &kubepki::host::Attributes::new(0o600)).unwrap();
    assert!(say(&file).contains("is not a directory"));
    assert!(say(&folder.path().join("no/such")).contains("does not exist"));
    let target = folder.path().join("target");
    fs::create_dir(&target).unwrap();
    let link = folder.path().join("link");
    std::os::unix::fs::symlink(&target, &link).unwrap();
    assert!(say(&link).contains("is a link"));
    assert!(say(&offline).contains("lie in each other"));
    // An empty directory will do.
    write(&set, &places(&target, &offline, &[])).unwrap();
}
