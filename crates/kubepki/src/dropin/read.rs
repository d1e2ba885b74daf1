//! Reading as K3s reads: through links.

use std::path::{Path, PathBuf};

use crate::host::{Entry, EntryKind, Host, HostError};

/// Linux gives up after as many.
const LINKS: usize = 40;

/// What `path` leads to, and where that is; `None` when it leads nowhere.
///
/// # Errors
///
/// When the host cannot read, or the links go in a circle.
pub(super) async fn follow(
    host: &dyn Host,
    path: &Path,
) -> Result<Option<(PathBuf, Entry)>, HostError> {
    let mut place = path.to_owned();
    for _ in 0..=LINKS {
        let Some(entry) = host.read(&place).await? else {
            return Ok(None);
        };
        let EntryKind::Link(target) = &entry.kind else {
            return Ok(Some((place, entry)));
        };
        // An absolute target replaces the whole path.
        place = place.parent().unwrap_or(Path::new("/")).join(target);
    }
    let source = std::io::Error::from_raw_os_error(rustix::io::Errno::LOOP.raw_os_error());
    Err(HostError::File {
        action: "read",
        path: path.to_owned(),
        source,
    })
}
