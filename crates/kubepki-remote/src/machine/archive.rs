//! Reading a directory out of the archive that Docker makes of it.

use std::collections::BTreeMap;
use std::io::{self, Read as _};
use std::path::{Component, Path};

use kubepki::host::{Attributes, Entry, EntryKind};
use zeroize::Zeroizing;

/// The regular files directly in the archive's top folder. Folders, links and devices are passed
/// over.
///
/// # Errors
///
/// When the archive is broken, or holds something else than a directory.
pub(super) fn files(archive: &[u8]) -> io::Result<BTreeMap<String, Entry>> {
    let mut files: BTreeMap<String, Entry> = BTreeMap::new();
    let mut top = 0;
    for (index, entry) in tar::Archive::new(archive).entries()?.enumerate() {
        let mut entry = entry?;
        let header = entry.header();
        let kind = header.entry_type();
        if index == 0 {
            if !kind.is_dir() {
                return Err(io::Error::other("it is not a directory"));
            }
            top = parts(&entry.path()?).count();
        }
        if kind.is_hard_link() {
            // Another name of a file that came before.
            let first = entry.link_name()?.and_then(|it| direct(&it, top));
            let first = first.and_then(|first| files.get(&first).cloned());
            let name = direct(&entry.path()?, top);
            files.extend(name.zip(first));
            continue;
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
        let Some(name) = direct(&entry.path()?, top) else {
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

/// The name of what lies directly in the archive's top folder, whose own path has `top` parts:
/// none or one, as Docker's version has it.
fn direct(path: &Path, top: usize) -> Option<String> {
    let name = parts(path).last()?.as_os_str().to_str()?;
    let ours = name.starts_with(".kubepki");
    (parts(path).count() == top + 1 && !ours).then(|| name.to_owned())
}

fn parts(path: &Path) -> impl Iterator<Item = Component<'_>> {
    path.components().filter(|it| *it != Component::CurDir)
}
