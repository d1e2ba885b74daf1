//! This machine.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustix::fs::{Mode, OFlags};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use zeroize::Zeroizing;

use super::{Attributes, Entry, EntryKind, Host, HostError, Output};
use crate::edge::file;

/// The machine that this program runs on.
///
/// File operations block the calling task: they are few and small, and a worker thread for each
/// would only hide the order in which they happen.
#[derive(Clone, Copy, Debug, Default)]
pub struct LocalHost;

/// Files larger than this many bytes are not read. The largest file of a cluster's PKI is a
/// trust bundle of some hundred kilobytes.
pub const READ_LIMIT: u64 = 16 * 1024 * 1024;

#[async_trait]
impl Host for LocalHost {
    async fn read(&self, path: &Path) -> Result<Option<Entry>, HostError> {
        read(path)
    }

    async fn put(&self, path: &Path, entry: &Entry) -> Result<(), HostError> {
        let done = match &entry.kind {
            EntryKind::File(bytes) => file::replace(path, bytes, &entry.attributes),
            EntryKind::Directory => file::make_directory(path, &entry.attributes),
            EntryKind::Link(target) => file::replace_link(path, target, &entry.attributes),
        };
        done.map_err(|source| failed("write", path, source))
    }

    async fn remove(&self, path: &Path) -> Result<(), HostError> {
        file::remove(path).map_err(|source| failed("remove", path, source))
    }

    async fn list(&self, path: &Path) -> Result<Option<Vec<String>>, HostError> {
        list(path).map_err(|source| failed("list", path, source))
    }

    async fn run(&self, argv: &[String], timeout: Duration) -> Result<Output, HostError> {
        run(argv, timeout).await
    }
}

fn read(path: &Path) -> Result<Option<Entry>, HostError> {
    let failed = |source| failed("read", path, source);
    let metadata = match std::fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    if metadata.is_symlink() {
        let target = std::fs::read_link(path).map_err(failed)?;
        let attributes = attributes(path, &metadata).map_err(failed)?;
        return Ok(Some(Entry {
            kind: EntryKind::Link(target),
            attributes,
        }));
    }
    if metadata.is_dir() {
        let attributes = attributes(path, &metadata).map_err(failed)?;
        return Ok(Some(Entry {
            kind: EntryKind::Directory,
            attributes,
        }));
    }
    if !metadata.is_file() {
        return Err(HostError::Special {
            path: path.to_owned(),
        });
    }
    // Between looking and opening the file may have become something else: never follow a link,
    // never wait for a pipe's writer.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let opened = rustix::fs::open(path, flags, Mode::empty());
    let opened = File::from(opened.map_err(|error| failed(error.into()))?);
    let metadata = opened.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(HostError::Special {
            path: path.to_owned(),
        });
    }
    let bytes = read_to_limit(opened, metadata.len()).map_err(failed)?;
    let size = metadata.len().max(bytes.len() as u64);
    if size > READ_LIMIT {
        return Err(HostError::TooLarge {
            path: path.to_owned(),
            size,
            limit: READ_LIMIT,
        });
    }
    let attributes = attributes(path, &metadata).map_err(failed)?;
    Ok(Some(Entry {
        kind: EntryKind::File(bytes),
        attributes,
    }))
}

/// Reads at most one byte more than [`READ_LIMIT`], without reallocating for a file of `size`
/// bytes: a buffer that moves leaves a copy of a key behind.
fn read_to_limit(file: File, size: u64) -> io::Result<Zeroizing<Vec<u8>>> {
    let capacity = usize::try_from(size.min(READ_LIMIT))
        .unwrap_or(0)
        .saturating_add(1);
    let mut bytes = Zeroizing::new(Vec::with_capacity(capacity));
    file.take(READ_LIMIT + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn attributes(path: &Path, metadata: &Metadata) -> io::Result<Attributes> {
    let link = metadata.is_symlink();
    let mtime_nanoseconds = u32::try_from(metadata.mtime_nsec()).unwrap_or(0);
    Ok(Attributes {
        mode: if link {
            0o777
        } else {
            metadata.mode() & 0o7777
        },
        uid: Some(metadata.uid()),
        gid: Some(metadata.gid()),
        mtime: Some((metadata.mtime(), mtime_nanoseconds)),
        acl: if link {
            None
        } else {
            xattr_of(path, file::POSIX_ACL)?
        },
        label: xattr_of(path, file::SELINUX)?,
    })
}

fn xattr_of(path: &Path, name: &str) -> io::Result<Option<String>> {
    Ok(file::unsupported_is_none(xattr::get(path, name))?.map(|value| STANDARD.encode(value)))
}

fn list(path: &Path) -> io::Result<Option<Vec<String>>> {
    let entries = match std::fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry?.file_name().into_string().map_err(|name| {
            let text = format!("the file name {} is not UTF-8", name.display());
            io::Error::new(io::ErrorKind::InvalidData, text)
        })?;
        names.push(name);
    }
    names.sort_unstable();
    Ok(Some(names))
}

async fn run(argv: &[String], timeout: Duration) -> Result<Output, HostError> {
    let Some((program, arguments)) = argv.split_first() else {
        let source = io::Error::new(io::ErrorKind::InvalidInput, "the command is empty");
        return Err(HostError::Run {
            program: String::new(),
            source,
        });
    };
    let failed = |source| HostError::Run {
        program: program.clone(),
        source,
    };
    let mut child = command(program, arguments).spawn().map_err(failed)?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let ended = tokio::time::timeout(timeout, async {
        let mut drained = std::pin::pin!(async {
            tokio::join!(drain(stdout, &mut out), drain(stderr, &mut err));
        });
        let mut open = true;
        let status = loop {
            tokio::select! {
                status = child.wait() => break status,
                () = &mut drained, if open => open = false,
            }
        };
        if open {
            // A daemon that the command left behind may hold the pipes for ever.
            let _ = tokio::time::timeout(AFTER_EXIT, drained).await;
        }
        status
    })
    .await;
    match ended {
        Ok(status) => {
            let code = status.map_err(failed)?.code();
            Ok(Output {
                code,
                stdout: out,
                stderr: err,
            })
        }
        Err(_) => {
            stop(&mut child).await;
            Err(HostError::Timeout {
                program: program.clone(),
                seconds: timeout.as_secs(),
            })
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "this host is where processes are run"
)]
fn command(program: &str, arguments: &[String]) -> Command {
    let mut command = std::process::Command::new(program);
    command.args(arguments).env_clear().process_group(0);
    for name in ["PATH", "HOME", "LANG"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut command = Command::from(command);
    command.kill_on_drop(true);
    command
}

/// Reads until the end, the limit, or an error; the rest of a talkative command is dropped.
async fn drain(pipe: Option<impl AsyncRead + Unpin>, into: &mut Vec<u8>) {
    let Some(mut pipe) = pipe else { return };
    let mut chunk = [0_u8; 4096];
    while let Ok(read @ 1..) = pipe.read(&mut chunk).await {
        if into.len() < OUTPUT_LIMIT {
            into.extend(chunk.iter().take(read));
        }
    }
}

/// Kills the child with everything that it started, and reaps it.
async fn stop(child: &mut Child) {
    if let Some(pid) = child
        .id()
        .and_then(|id| rustix::process::Pid::from_raw(id.cast_signed()))
    {
        // It may have ended in this moment, which is as good.
        let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
    }
    let _ = child.kill().await;
}

fn failed(action: &'static str, path: &Path, source: io::Error) -> HostError {
    HostError::File {
        action,
        path: path.to_owned(),
        source,
    }
}

/// How long a command's pipes are read after it has ended.
const AFTER_EXIT: Duration = Duration::from_millis(200);
/// How much of a command's output is kept, per stream, in bytes.
const OUTPUT_LIMIT: usize = 1024 * 1024;

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn argv(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[tokio::test]
    async fn what_is_put_is_read_back() {
        let directory = tempfile::tempdir().unwrap();
        let uid = rustix::process::getuid().as_raw();
        let gid = rustix::process::getgid().as_raw();
        let attributes = |mode| Attributes {
            uid: Some(uid),
            gid: Some(gid),
            mtime: Some((1_600_000_000, 5)),
            ..Attributes::new(mode)
        };
        let entries = [
            (
                "file",
                EntryKind::File(Zeroizing::new(b"bytes".to_vec())),
                0o604,
            ),
            ("directory", EntryKind::Directory, 0o750),
            (
                "link",
                EntryKind::Link(PathBuf::from("../elsewhere")),
                0o777,
            ),
        ];
        for (name, kind, mode) in entries {
            let path = directory.path().join(name);
            assert_eq!(LocalHost.read(&path).await.unwrap(), None);
            let entry = Entry {
                kind,
                attributes: attributes(mode),
            };
            LocalHost.put(&path, &entry).await.unwrap();
            assert_eq!(LocalHost.read(&path).await.unwrap(), Some(entry));
        }
        let names = LocalHost.list(directory.path()).await.unwrap();
        assert_eq!(names, Some(argv(&["directory", "file", "link"])));
        assert_eq!(
            LocalHost
                .list(&directory.path().join("none"))
                .await
                .unwrap(),
            None
        );
        LocalHost
            .remove(&directory.path().join("link"))
            .await
            .unwrap();
        assert_eq!(
            LocalHost
                .read(&directory.path().join("link"))
                .await
                .unwrap(),
            None
        );
    }

    #[tokio::test]
    async fn refuses_special_and_large_files() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let error = LocalHost.read(&socket).await.unwrap_err();
        assert!(matches!(error, HostError::Special { .. }), "{error}");

        let large = directory.path().join("large");
        file::replace(&large, b"", &Attributes::new(0o600)).unwrap();
        let opened = std::fs::OpenOptions::new()
            .write(true)
            .open(&large)
            .unwrap();
        opened.set_len(READ_LIMIT + 1).unwrap();
        let error = LocalHost.read(&large).await.unwrap_err();
        assert!(matches!(error, HostError::TooLarge { .. }), "{error}");
        opened.set_len(READ_LIMIT).unwrap();
        assert!(LocalHost.read(&large).await.unwrap().is_some());
    }

    #[tokio::test]
    async fn runs_without_our_environment_and_reports_the_exit_code() {
        let script = "env | cut -d= -f1 | sort | tr '\\n' ' '; echo bad >&2; exit 3";
        let limit = Duration::from_secs(20);
        let output = LocalHost
            .run(&argv(&["/bin/sh", "-c", script]), limit)
            .await
            .unwrap();
        assert_eq!(output.code, Some(3));
        let names = String::from_utf8(output.stdout).unwrap();
        for name in names.split_whitespace() {
            // The shell itself sets the last four.
            let known = ["PATH", "HOME", "LANG", "PWD", "SHLVL", "_", "OLDPWD"];
            assert!(known.contains(&name), "{name} reached the child");
        }
        assert_eq!(output.stderr, b"bad\n");
    }

    #[tokio::test]
    async fn a_command_that_hangs_is_killed_with_its_children() {
        let directory = tempfile::tempdir().unwrap();
        let pid_file = directory.path().join("pid");
        let script = format!("sleep 600 & echo $! > {}; wait", pid_file.display());
        let limit = Duration::from_secs(5);
        let error = LocalHost
            .run(&argv(&["/bin/sh", "-c", &script]), limit)
            .await
            .unwrap_err();
        assert!(matches!(error, HostError::Timeout { .. }), "{error}");
        let pid: i32 = std::fs::read_to_string(&pid_file)
            .unwrap()
            .trim()
            .parse()
            .unwrap();
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        // The orphan is reaped by init, which takes a moment.
        for _ in 0..200 {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
            if stat.map_or(true, |stat| stat.contains(") Z ")) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the command's child lives on");
    }

    #[tokio::test]
    async fn a_daemon_left_behind_does_not_hold_the_command() {
        let script = "sleep 60 & echo started";
        let limit = Duration::from_secs(50);
        let output = LocalHost
            .run(&argv(&["/bin/sh", "-c", script]), limit)
            .await
            .unwrap();
        assert_eq!(output.stdout, b"started\n");
        let missing = LocalHost
            .run(&argv(&["/nonexistent/program"]), limit)
            .await
            .unwrap_err();
        assert!(matches!(missing, HostError::Run { .. }), "{missing}");
    }
}
