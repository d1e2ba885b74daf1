//! `sqlite://`: a path, seen from K3s's server directory.

use std::fmt;
use std::path::{Path, PathBuf};

use super::text;

/// K3s's SQLite file.
#[derive(Clone, PartialEq, Eq)]
pub struct SqliteFile {
    path: PathBuf,
}

impl Default for SqliteFile {
    /// `db/state.db`, which K3s takes when told nothing.
    fn default() -> Self {
        Self {
            path: PathBuf::from("db/state.db"),
        }
    }
}

impl SqliteFile {
    /// Where it is, `server_dir` being K3s's `<data-dir>/server`: K3s works in that directory.
    pub fn path_below(&self, server_dir: &Path) -> PathBuf {
        server_dir.join(&self.path)
    }
}

impl fmt::Display for SqliteFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sqlite://{}", self.path.display())
    }
}

impl fmt::Debug for SqliteFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SqliteFile({})", self.path.display())
    }
}

/// What follows `sqlite://`. The driver's options (`_journal`, `cache`, …) say how K3s works with
/// the file, not where it is; what matters of them is kept anyway (the journal mode is the file's).
pub(super) fn parse(rest: &str) -> Result<SqliteFile, String> {
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    let options = text::query_pairs(query)?;
    if path == ":memory:" || options.contains(&("mode".to_owned(), "memory".to_owned())) {
        return Err("a database in memory ends with the server and cannot be opened".to_owned());
    }
    // SQLite's URI form, which the driver hands on.
    let path = match path.strip_prefix("file:") {
        None => path.to_owned(),
        Some(uri) => {
            let path = match uri.strip_prefix("//") {
                Some(with_host) => match with_host.strip_prefix("localhost") {
                    Some(path) => path,
                    None => with_host,
                },
                None => uri,
            };
            text::unescape(path, false).ok_or("the path has a broken %-escape")?
        }
    };
    if path.is_empty() {
        return Ok(SqliteFile::default());
    }
    if path.ends_with('/') {
        return Err("the path ends with /: name the file".to_owned());
    }
    let path = Path::new(&path);
    Ok(SqliteFile {
        path: path.strip_prefix("./").unwrap_or(path).to_owned(),
    })
}
