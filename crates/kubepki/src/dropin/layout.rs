//! Where things lie, and how the operator wrote it.

use std::path::{Component, Path, PathBuf};

use crate::catalogue::Side;

/// A data directory under two names: as given, which messages show as K3s's do, and with links
/// resolved, which plans are made for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    shown: PathBuf,
    root: PathBuf,
}

impl Layout {
    /// The data directory that was given as `shown` and is really at `root`.
    pub fn new(shown: &Path, root: PathBuf) -> Self {
        Self {
            shown: clean(shown),
            root,
        }
    }

    /// The real data directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The real path of `path` under the directory of `side`.
    pub(super) fn real(&self, side: Side, path: &Path) -> PathBuf {
        below(&self.root, side, path)
    }

    /// The same as the operator would write it.
    pub(super) fn shown(&self, side: Side, path: &Path) -> PathBuf {
        below(&self.shown, side, path)
    }

    /// A real path as the operator would write it.
    pub(super) fn show(&self, path: &Path) -> PathBuf {
        match path.strip_prefix(&self.root) {
            Ok(below) => self.shown.join(below),
            Err(_) => path.to_owned(),
        }
    }
}

/// Joining an empty path would leave a separator at the end, which K3s does not print.
fn below(base: &Path, side: Side, path: &Path) -> PathBuf {
    [Path::new(folder(side)), path]
        .into_iter()
        .filter(|part| !part.as_os_str().is_empty())
        .fold(base.to_owned(), |base, part| base.join(part))
}

fn folder(side: Side) -> &'static str {
    match side {
        Side::Server => "server",
        Side::Agent => "agent",
        Side::Admin => "",
    }
}

/// Without `.`, doubled separators and resolvable `..`, as Go's `filepath.Join` leaves a path.
fn clean(path: &Path) -> PathBuf {
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir
                if matches!(clean.components().next_back(), Some(Component::Normal(_))) =>
            {
                clean.pop();
            }
            Component::ParentDir if clean.has_root() => {}
            other => clean.push(other),
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cleaned_as_go_does() {
        for (given, server) in [
            ("/var/lib/rancher/k3s/", "/var/lib/rancher/k3s/server"),
            ("/a//b/./c/../d", "/a/b/d/server"),
            ("/../a", "/a/server"),
            ("./k3s", "k3s/server"),
            ("../k3s", "../k3s/server"),
            ("a/../../k3s", "../k3s/server"),
            (".", "server"),
        ] {
            let layout = Layout::new(Path::new(given), PathBuf::from("/real"));
            let shown = layout.shown(Side::Server, Path::new(""));
            assert_eq!(shown.as_os_str(), server, "{given}");
        }
    }
}
