//! A host's files, beside what the local file system says of them.

use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use kubepki::host::{Attributes, Entry, EntryKind, Host as _, HostError, LocalHost};
use kubepki_remote::ssh::SftpHost;
use testkit::SshdOptions;
use zeroize::Zeroizing;

use super::common::{Lab, argv, mode, tool, with_ada, write};

async fn files(lab: &Lab) -> SftpHost {
    lab.connect().await.sftp().await.unwrap()
}

pub fn file(bytes: &[u8], mode: u32) -> Entry {
    Entry {
        kind: EntryKind::File(Zeroizing::new(bytes.to_vec())),
        attributes: Attributes::new(mode),
    }
}

/// The local file system's answer, as far as SFTP can know it.
async fn local(path: &Path) -> Option<Entry> {
    let mut entry = LocalHost.read(path).await.unwrap()?;
    entry.attributes.mtime = entry.attributes.mtime.map(|(seconds, _)| (seconds, 0));
    entry.attributes.acl = None;
    Some(entry)
}

#[tokio::test]
async fn what_is_there_is_read_as_the_local_host_reads_it() {
    let lab = Lab::new();
    let files = files(&lab).await;
    let plain = lab.path("plain");
    write(&plain, b"content\0\xff");
    mode(&plain, 0o4751);
    std::os::unix::fs::chown(&plain, Some(4242), Some(4343)).unwrap();
    tool("touch", &["-d", "@1000000000.5", plain.to_str().unwrap()]);
    let link = lab.path("link");
    std::os::unix::fs::symlink("../else where/ü", &link).unwrap();
    let empty = lab.path("empty");
    write(&empty, b"");
    let big = lab.path("big");
    let sixteen: Vec<u8> = (0..16 * 1024 * 1024_u32)
        .map(|at| (at % 253) as u8)
        .collect();
    write(&big, &sixteen);
    let odd = lab.path("odd name\n'\"*");
    write(&odd, b"odd");
    for path in [
        &plain,
        &link,
        &empty,
        &big,
        &odd,
        &lab.folder.path().to_owned(),
    ] {
        let seen = files.read(path).await.unwrap();
        assert!(
            seen.is_some() && seen == local(path).await,
            "{path:?}: {seen:?}"
        );
    }
    assert_eq!(files.read(&lab.path("missing")).await.unwrap(), None);
    assert_eq!(files.read(&lab.path("missing/below")).await.unwrap(), None);
    let names = files.list(lab.folder.path()).await.unwrap();
    assert_eq!(names, LocalHost.list(lab.folder.path()).await.unwrap());
    assert_eq!(files.list(&lab.path("missing")).await.unwrap(), None);
}

#[tokio::test]
async fn what_is_no_file_or_too_large_is_refused() {
    let lab = Lab::new();
    let files = files(&lab).await;
    let pipe = lab.path("pipe");
    tool("mkfifo", &[pipe.to_str().unwrap()]);
    let socket = lab.path("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    for special in [&pipe, &socket, &PathBuf::from("/dev/null")] {
        let error = files.read(special).await.unwrap_err();
        assert!(matches!(error, HostError::Special { .. }), "{error}");
    }
    let large = lab.path("large");
    tool("truncate", &["-s", "16777217", large.to_str().unwrap()]);
    let error = files.read(&large).await.unwrap_err();
    assert!(
        matches!(
            error,
            HostError::TooLarge {
                size: 16_777_217,
                ..
            }
        ),
        "{error}"
    );
    // Its size is 0 and it never ends.
    let endless = files.read(Path::new("/proc/self/pagemap")).await;
    assert!(endless.is_err() || endless.unwrap().is_some());

    for bad in ["relative", "", "./x"] {
        let error = files.read(Path::new(bad)).await.unwrap_err();
        assert!(matches!(error, HostError::File { .. }), "{error}");
    }
    let not_utf8 = Path::new(std::ffi::OsStr::from_bytes(b"/tmp/\xff"));
    assert!(files.read(not_utf8).await.is_err());
    write(
        &lab.folder.path().join(std::ffi::OsStr::from_bytes(b"\xff")),
        b"",
    );
    let error = files.list(lab.folder.path()).await.unwrap_err();
    assert!(source(&error).contains("not UTF-8"), "{error:?}");
    // A file where a folder should be.
    let error = files.list(&large).await.unwrap_err();
    assert!(
        matches!(error, HostError::File { action: "list", .. }),
        "{error}"
    );
    // All of that was said in one channel, which still works.
    assert!(
        files
            .read(Path::new("/etc/passwd"))
            .await
            .unwrap()
            .is_some()
    );
}

fn source(error: &HostError) -> String {
    std::error::Error::source(error).unwrap().to_string()
}

#[tokio::test]
async fn what_is_put_is_there_with_its_attributes() {
    let lab = Lab::new();
    let files = files(&lab).await;
    let path = lab.path("file");
    let mut entry = file(b"first", 0o640);
    entry.attributes.uid = Some(4242);
    entry.attributes.gid = Some(4343);
    entry.attributes.mtime = Some((1_234_567_890, 0));
    files.put(&path, &entry).await.unwrap();
    assert_eq!(local(&path).await, Some(entry.clone()));
    // Over what is there, whatever it is; set-id bits survive the change of owner.
    entry.attributes.mode = 0o6711;
    entry.kind = EntryKind::File(Zeroizing::new(vec![7; 3_000_001]));
    files.put(&path, &entry).await.unwrap();
    assert!(local(&path).await == Some(entry.clone()));
    let link = Entry {
        kind: EntryKind::Link("to/nowhere".into()),
        attributes: Attributes {
            uid: Some(4242),
            gid: Some(4343),
            mtime: Some((1_000_000_000, 0)),
            ..Attributes::new(0o777)
        },
    };
    files.put(&path, &link).await.unwrap();
    assert_eq!(local(&path).await, Some(link));
    // A link is replaced, not followed.
    let outside = lab.path("outside");
    write(&outside, b"outside");
    let through = lab.path("through");
    std::os::unix::fs::symlink(&outside, &through).unwrap();
    files.put(&through, &file(b"inside", 0o600)).await.unwrap();
    assert_eq!(std::fs::read(&outside).unwrap(), b"outside");
    assert!(!std::fs::symlink_metadata(&through).unwrap().is_symlink());

    let folder = lab.path("folder");
    let mut directory = Entry {
        kind: EntryKind::Directory,
        attributes: Attributes::new(0o710),
    };
    for mode in [0o710, 0o2750] {
        directory.attributes.mode = mode;
        directory.attributes.gid = Some(4343);
        files.put(&folder, &directory).await.unwrap();
        let made = local(&folder).await.unwrap().attributes;
        assert_eq!((made.mode, made.uid, made.gid), (mode, Some(0), Some(4343)));
    }
    assert_eq!(
        files.list(lab.folder.path()).await.unwrap(),
        LocalHost.list(lab.folder.path()).await.unwrap()
    );
    let left = files.list(lab.folder.path()).await.unwrap().unwrap();
    assert!(
        !left.iter().any(|name| name.ends_with(".kubepki-tmp")),
        "{left:?}"
    );
}

#[tokio::test]
async fn what_cannot_be_put_is_refused_and_changes_nothing() {
    let lab = Lab::new();
    let files = files(&lab).await;
    let path = lab.path("file");
    write(&path, b"old");
    let put = async |path: &Path, entry: &Entry| {
        let error = files.put(path, entry).await.unwrap_err();
        source(&error)
    };
    let mut entry = file(b"new", 0o600);
    entry.attributes.acl = Some("AgAAAA==".to_owned());
    assert!(put(&path, &entry).await.contains("ACL"));
    entry = file(b"new", 0o600);
    entry.attributes.label = Some("c3lzdGVt".to_owned());
    assert!(put(&path, &entry).await.contains("SELinux"));
    for seconds in [-1, 1 << 33] {
        entry = file(b"new", 0o600);
        entry.attributes.mtime = Some((seconds, 0));
        assert!(put(&path, &entry).await.contains("1970"));
    }
    entry = file(b"new", 0o600);
    assert!(
        put(&lab.path("no/such/folder"), &entry)
            .await
            .contains("no such file")
    );
    assert!(
        put(Path::new("/"), &entry)
            .await
            .contains("ends in no name")
    );
    assert!(!put(lab.folder.path(), &entry).await.is_empty());
    let directory = Entry {
        kind: EntryKind::Directory,
        attributes: Attributes::new(0o700),
    };
    assert!(put(&path, &directory).await.contains("no directory"));
    assert_eq!(std::fs::read(&path).unwrap(), b"old");
}

#[tokio::test]
async fn removing_takes_files_links_and_empty_folders() {
    let lab = Lab::new();
    let files = files(&lab).await;
    let folder = lab.path("folder");
    std::fs::create_dir(&folder).unwrap();
    let inner = folder.join("file");
    write(&inner, b"");
    let link = lab.path("link");
    std::os::unix::fs::symlink(&folder, &link).unwrap();
    files.remove(&link).await.unwrap();
    assert!(inner.exists() && !link.exists());
    let error = files.remove(&folder).await.unwrap_err();
    assert!(source(&error).contains("not empty"), "{error:?}");
    for path in [&inner, &folder, &folder, &inner] {
        files.remove(path).await.unwrap();
        assert!(!path.exists());
    }
}

#[tokio::test]
async fn a_user_without_rights_is_told_so() {
    let folder = tempfile::tempdir().unwrap();
    let lab = Lab::with(with_ada(folder.path()));
    mode(lab.folder.path(), 0o755);
    let mut endpoint = lab.endpoint();
    endpoint.user = "ada".to_owned();
    let session = lab.try_connect(&endpoint).await.unwrap();
    let files = session.sftp().await.unwrap();
    let secret = lab.path("secret");
    write(&secret, b"key");
    mode(&secret, 0o600);
    for error in [
        files.read(&secret).await.unwrap_err(),
        files.put(&secret, &file(b"mine", 0o600)).await.unwrap_err(),
        files.remove(&secret).await.unwrap_err(),
    ] {
        assert!(source(&error).contains("permission denied"), "{error:?}");
    }
    // Nor can she give a file away; then there is none.
    let own = lab.path("own");
    std::fs::create_dir(&own).unwrap();
    std::os::unix::fs::chown(&own, Some(4242), Some(4242)).unwrap();
    let mut entry = file(b"mine", 0o600);
    files.put(&own.join("mine"), &entry).await.unwrap();
    entry.attributes.uid = Some(0);
    assert!(files.put(&own.join("given"), &entry).await.is_err());
    assert_eq!(files.list(&own).await.unwrap().unwrap(), ["mine"]);
    assert_eq!(std::fs::read(&secret).unwrap(), b"key");
}

#[tokio::test]
async fn commands_are_the_session_s() {
    let lab = Lab::new();
    let files = files(&lab).await;
    let limit = std::time::Duration::from_secs(20);
    let done = files
        .run(&argv(&["sh", "-c", "echo $0; exit 4", "a b"]), limit)
        .await
        .unwrap();
    assert_eq!(
        (done.code, done.stdout.as_slice()),
        (Some(4), b"a b\n".as_slice())
    );
    let short = std::time::Duration::from_secs(1);
    let error = files
        .run(&argv(&["sleep", "100"]), short)
        .await
        .unwrap_err();
    assert!(
        matches!(error, HostError::Timeout { seconds: 1, .. }),
        "{error}"
    );
    let error = files.run(&[], limit).await.unwrap_err();
    assert!(matches!(error, HostError::Run { .. }), "{error}");
}

#[tokio::test]
async fn a_host_without_sftp_is_told() {
    let lab = Lab::with(SshdOptions {
        lines: vec!["Subsystem sftp /nonexistent/sftp-server".to_owned()],
        ..SshdOptions::default()
    });
    let error = lab.connect().await.sftp().await.unwrap_err();
    assert!(
        error.to_string().starts_with("no SFTP on host ["),
        "{error}"
    );
    let noisy = Lab::with(SshdOptions {
        lines: vec!["Subsystem sftp echo Welcome to this machine".to_owned()],
        ..SshdOptions::default()
    });
    let error = noisy.connect().await.sftp().await.unwrap_err();
    assert!(
        error.to_string().contains("a login script that prints"),
        "{error}"
    );
}
