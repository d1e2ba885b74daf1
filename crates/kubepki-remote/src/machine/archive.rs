//! Reading a directory out of the archive that Docker makes of it.

use std::collections::BTreeMap;
use std::io::{self, Read as _};
use std::path::Component;

use kubepki::host::{Attributes, Entry, EntryKind};
use zeroize::Zeroizing;

/// The regular files directly in the archive's top folder. Folders, links and devices are passed
/// over.
///
/// # Errors
///
/// When the archive is broken, or holds something else than a directory.
pub(super) fn files(archive: &[u8]) -> io::Result<BTreeMap<String, Entry>> {
    let mut files = BTreeMap::new();
    for (index, entry) in tar::Archive::new(archive).entries()?.enumerate() {
        let mut entry = entry?;
        let header = entry.header();
        let kind = header.entry_type();
        if index == 0 && !kind.is_dir() {
            return Err(io::Error::other("it is not a directory"));
        }
        if !kind.is_file() {
            continue;
        }
        let owner = |id: u64| u32::try_from(id).ok();
        let attributes = Attributes {
            mode: header.mode()? & 0o7777,
            uid: owner(header.uid()?),
            gid: owner(header.gid()?),
            mtime: i64::try_from(header.mtime()?).ok().map(|it| (it, 0)),
            acl: None,
            label: None,
        };
        let Some(name) = direct(&entry.path()?) else {
            continue;
        };
        let size = usize::try_from(entry.size()).unwrap_or(usize::MAX);
        let mut bytes = Zeroizing::new(Vec::with_capacity(size.min(archive.len())));
        entry.read_to_end(&mut bytes)?;
        files.insert(
            name,
            Entry {
                kind: EntryKind::File(bytes),
                attributes,
            },
        );
    }
    Ok(files)
}

/// The name of what lies directly in the archive's top folder.
fn direct(path: &std::path::Path) -> Option<String> {
    let mut parts = path
        .components()
        .filter(|it| *it != Component::CurDir)
        .collect::<Vec<_>>();
    let name = parts.pop()?;
    let name = name.as_os_str().to_str()?;
    // `ssl/name`: Docker puts the folder's own name first.
    (parts.len() == 1 && !name.starts_with(".kubepki")).then(|| name.to_owned())
}
