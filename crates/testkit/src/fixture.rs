//! Copies of what real clusters wrote.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use flate2::read::GzDecoder;
use tar::{Archive, Entry, EntryType};
use tempfile::TempDir;

/// An archive of `fixtures/`, unpacked into a folder of its own that goes with the value.
///
/// Modes and modification times are as the cluster wrote them; owners too when the test runs as
/// root. `server/` and `agent/` lie in [`data_dir`](Self::data_dir), which holds nothing else, as
/// on a real node; everything beside them in the archive is reached through
/// [`extra`](Self::extra).
#[derive(Debug)]
pub struct Fixture {
    name: String,
    root: TempDir,
}

/// Unpacks `fixtures/<name>.tar.gz` whole: [`Fixture::new`].
pub fn fixture(name: &str) -> Fixture {
    Fixture::new(name)
}

impl Fixture {
    /// Unpacks `fixtures/<name>.tar.gz`.
    pub fn new(name: &str) -> Self {
        Self::unpack(name, |_| true)
    }

    /// The same without `server/db`: most tests need no datastore, and etcd's takes 77 MB.
    pub fn without_datastore(name: &str) -> Self {
        Self::unpack(name, |path| !path.starts_with("server/db"))
    }

    /// The archive's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// K3s's data directory: `server/` and `agent/`.
    pub fn data_dir(&self) -> PathBuf {
        let path = self.root.path().join("data");
        assert!(
            path.is_dir(),
            "{} holds neither server/ nor agent/",
            self.name
        );
        path
    }

    /// The kubeconfig that K3s wrote for the administrator.
    pub fn admin_kubeconfig(&self) -> PathBuf {
        // K3s calls it k3s.yaml; the older archives keep it under another name.
        ["k3s.yaml", "kubeconfig.yaml"]
            .iter()
            .map(|name| self.extra(name))
            .find(|path| path.exists())
            .unwrap_or_else(|| panic!("{} has no kubeconfig of an administrator", self.name))
    }

    /// Something that lies beside the data directory in the archive: `check/check.json`,
    /// `bootstrap.json`, `staged-same-root`.
    pub fn extra(&self, path: &str) -> PathBuf {
        self.root.path().join("extra").join(path)
    }

    /// The text of a file beside the data directory.
    pub fn extra_text(&self, path: &str) -> String {
        let path = self.extra(path);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// The temporary folder itself: state directories and other scratch go here.
    pub fn scratch(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn unpack(name: &str, wanted: impl Fn(&Path) -> bool) -> Self {
        let archive = crate::repository()
            .join("fixtures")
            .join(format!("{name}.tar.gz"));
        let root = TempDir::new().unwrap_or_else(|error| panic!("no temporary folder: {error}"));
        unpack_into(&archive, name, root.path(), wanted)
            .unwrap_or_else(|error| panic!("cannot unpack {}: {error}", archive.display()));
        Self {
            name: name.to_owned(),
            root,
        }
    }
}

fn unpack_into(
    archive: &Path,
    name: &str,
    root: &Path,
    wanted: impl Fn(&Path) -> bool,
) -> std::io::Result<()> {
    let as_root = fs::metadata("/proc/self").is_ok_and(|us| {
        use std::os::unix::fs::MetadataExt;
        us.uid() == 0
    });
    let mut archive = Archive::new(GzDecoder::new(File::open(archive)?));
    archive.set_preserve_permissions(true);
    archive.set_preserve_mtime(true);
    archive.set_preserve_ownerships(as_root);
    // Later files would touch a directory's time, and a mode without `w` would keep them out.
    let mut directories = Vec::new();
    for entry in archive.entries()? {
        let mut entry = entry?;
        let inside = inside(&entry.path()?, name);
        if inside.as_os_str().is_empty() || !wanted(&inside) {
            continue;
        }
        let tree = if inside.starts_with("server") || inside.starts_with("agent") {
            root.join("data")
        } else {
            root.join("extra")
        };
        make_tree(&tree)?;
        let path = tree.join(&inside);
        entry.unpack(&path)?;
        if entry.header().entry_type() == EntryType::Directory {
            directories.push((path, mtime(&entry)?));
        }
    }
    for (path, mtime) in directories.into_iter().rev() {
        File::open(&path)?.set_modified(UNIX_EPOCH + Duration::from_secs(mtime))?;
    }
    Ok(())
}

/// Makes `data` or `extra` with the mode that the recordings show for a data directory.
fn make_tree(path: &Path) -> std::io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    fs::create_dir(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
}

/// `path` without the archive's own folder and without anything that could lead out of it.
fn inside(path: &Path, name: &str) -> PathBuf {
    let plain: PathBuf = path
        .components()
        .filter(|part| matches!(part, Component::Normal(_)))
        .collect();
    match plain.strip_prefix(name) {
        Ok(rest) => rest.to_owned(),
        Err(_) => plain,
    }
}

fn mtime<R: std::io::Read>(entry: &Entry<'_, R>) -> std::io::Result<u64> {
    entry.header().mtime()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_modes_links_and_times() {
        use std::os::unix::fs::MetadataExt;

        let fixture = Fixture::new("k3s-1.36-sqlite");
        let key = fs::metadata(fixture.data_dir().join("server/tls/client-admin.key")).unwrap();
        assert_eq!(key.mode() & 0o7777, 0o600);
        let tls = fs::metadata(fixture.data_dir().join("server/tls")).unwrap();
        assert_eq!(tls.mode() & 0o7777, 0o700);
        assert!(
            tls.mtime() < 1_795_400_000,
            "a directory's time is the archive's, not now"
        );
        let link = fs::read_link(fixture.data_dir().join("server/node-token")).unwrap();
        assert_eq!(link, Path::new("/var/lib/rancher/k3s/server/token"));
        assert!(fixture.data_dir().join("server/db/state.db").exists());
        assert!(fixture.extra("check").is_dir());
    }

    #[test]
    fn old_and_new_layouts_look_the_same() {
        for name in [
            "k3s-1.21-sqlite",
            "k3s-1.21-custom-ca",
            "k3s-1.36-etcd-embedded",
        ] {
            let fixture = Fixture::without_datastore(name);
            assert!(
                fixture
                    .data_dir()
                    .join("server/tls/server-ca.crt")
                    .is_file(),
                "{name}"
            );
            assert!(!fixture.data_dir().join("server/db").exists(), "{name}");
            assert!(fixture.admin_kubeconfig().is_file(), "{name}");
        }
        assert!(
            Fixture::new("k3s-1.36-agent-only")
                .data_dir()
                .join("agent")
                .is_dir()
        );
    }

    #[test]
    fn the_folder_goes_with_the_value() {
        let fixture = Fixture::new("k3s-1.36-agent-only");
        let path = fixture.data_dir();
        drop(fixture);
        assert!(!path.exists());
    }

    #[test]
    fn nothing_leads_out_of_the_folder() {
        assert_eq!(
            inside(Path::new("/x/../../etc/passwd"), "x"),
            Path::new("etc/passwd")
        );
    }
}
