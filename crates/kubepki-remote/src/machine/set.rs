//! What a deployment needs on its host: names that are safe, a folder to stage in, a script.

use std::path::{Path, PathBuf};

use kubepki::host::{Attributes, Entry, EntryKind};
use kubepki::machine::Deployment;
use zeroize::Zeroizing;

/// Puts a staged set in place. Its arguments are those of [`Set::arguments`].
const SCRIPT: &str = include_str!("deploy.sh");

/// What goes before [`SCRIPT`] where the files to stage come as its input; the fifth argument is
/// [`Set::base`]. A killed program leaves an archive without its last file, the manifest.
const UNPACK: &str = r#"command -v tar >/dev/null || exit 91
umask 077
[ -d "$5" ] || (umask 022 && mkdir -p "$5") || exit 92
tar -xpf - -C "$5" || exit 92
"#;

/// The exit code of a host without `tar`: nothing was done.
pub(super) const NO_TAR: i32 = 91;

/// The exit code when the files could not be unpacked: nothing is in place yet.
pub(super) const NOT_UNPACKED: i32 = 92;

/// The folder under which all kept and staged sets lie.
pub(super) const SETS: &str = ".kubepki";

/// The list of what is to be done, beside the staged files.
const MANIFEST: &str = "manifest";

/// Directories of certificates are far smaller.
pub(super) const READ_LIMIT: usize = 32 * 1024 * 1024;

/// A deployment, checked, with the paths that it uses.
pub(super) struct Set<'a> {
    deployment: &'a Deployment,
    pub(super) stage: PathBuf,
    sets: PathBuf,
}

impl<'a> Set<'a> {
    /// Refuses what the script could not do safely; the text says what.
    pub(super) fn new(deployment: &'a Deployment) -> Result<Self, String> {
        let keep = &deployment.keep;
        for path in [&deployment.directory, keep] {
            if !is_plain(path) {
                return Err(format!("{} is not a path to put files in", path.display()));
            }
        }
        if let Some(name) = deployment.files.keys().find(|it| !is_name(it)) {
            return Err(format!("{name:?} is not a name for a file of certificates"));
        }
        let mut above = keep.ancestors().skip(1);
        let sets = above.find(|it| it.file_name().is_some_and(|name| name == SETS));
        let Some((sets, name)) = sets.zip(keep.file_name()) else {
            return Err(format!(
                "{} does not lie under a folder {SETS}",
                keep.display()
            ));
        };
        // A name of its own for each try: what a killed program still writes is never ours.
        let mut nonce = [0; 8];
        aws_lc_rs::rand::fill(&mut nonce).map_err(|_| "there is no randomness".to_owned())?;
        let mut stage = name.to_owned();
        stage.push(format!(".new-{:016x}", u64::from_ne_bytes(nonce)));
        Ok(Self {
            deployment,
            stage: keep.with_file_name(stage),
            sets: sets.to_owned(),
        })
    }

    /// The plan that the set belongs to, as the name of its folder says.
    pub(super) fn plan(&self) -> String {
        let below = self.deployment.keep.strip_prefix(&self.sets).ok();
        let set = below.and_then(|it| it.components().next());
        let set = set.map(|it| it.as_os_str().to_string_lossy().into_owned());
        let set = set.unwrap_or_default();
        match set.rsplit_once('-') {
            Some((plan, _)) => plan.to_owned(),
            None => set,
        }
    }

    /// The folders to make before anything is staged, outermost first.
    pub(super) fn folders(&self) -> Vec<&Path> {
        let mut folders: Vec<&Path> = self
            .stage
            .ancestors()
            .take_while(|it| it.starts_with(&self.sets))
            .collect();
        folders.reverse();
        folders
    }

    /// Where the files belong.
    pub(super) fn directory(&self) -> &Path {
        &self.deployment.directory
    }

    /// What the staged files take on a disk, in KiB.
    pub(super) fn kibibytes(&self) -> u64 {
        let files = self.deployment.files.values().flatten();
        let sizes = files.map(|it| it.bytes().map_or(0, <[u8]>::len) as u64);
        sizes.map(|it| it.div_ceil(4096) * 4 + 4).sum()
    }

    /// The folder that [`Self::folders`] lie in: `/etc/kubernetes`.
    pub(super) fn base(&self) -> &Path {
        self.sets.parent().unwrap_or(Path::new("/"))
    }

    /// What is staged: the new files, and the manifest last.
    pub(super) fn staged(&self) -> impl Iterator<Item = (&str, Entry)> {
        let files = self.deployment.files.iter();
        let files = files.filter_map(|(name, entry)| Some((name.as_str(), entry.clone()?)));
        let manifest = Entry {
            kind: EntryKind::File(Zeroizing::new(self.manifest().into_bytes())),
            attributes: Attributes::new(0o600),
        };
        files.chain([(MANIFEST, manifest)])
    }

    fn manifest(&self) -> String {
        let line = |(name, entry): (&String, &Option<Entry>)| {
            let verb = match entry {
                None => "remove",
                Some(entry) if entry.attributes.mtime.is_none() => "date",
                Some(_) => "put",
            };
            format!("{verb} {name}\n")
        };
        self.deployment.files.iter().map(line).collect()
    }

    /// The command that puts the staged files in place; `prefix` comes before each path.
    pub(super) fn command(&self, prefix: &Path) -> Vec<String> {
        let paths = [
            self.deployment.directory.as_path(),
            &self.deployment.keep,
            &self.stage,
            &self.sets,
        ];
        let shell = ["sh", "-c", SCRIPT, "kubepki"].map(str::to_owned);
        let paths = paths.map(|it| under(prefix, it).display().to_string());
        shell.into_iter().chain(paths).collect()
    }

    /// [`Self::command`] that stages [`Self::archive`], its input, before.
    pub(super) fn command_with_files(&self, prefix: &Path) -> Vec<String> {
        let mut command = self.command(prefix);
        if let Some(script) = command.get_mut(2) {
            script.insert_str(0, UNPACK);
        }
        command.push(under(prefix, self.base()).display().to_string());
        command
    }

    /// The command that gives the space of a set back that could not be staged.
    pub(super) fn clean_up(&self, prefix: &Path) -> Vec<String> {
        let stage = under(prefix, &self.stage).display().to_string();
        vec!["rm".to_owned(), "-rf".to_owned(), stage]
    }

    /// Everything to stage as a tar archive that is unpacked in [`Self::base`], owners and modes
    /// with it, so that no file is ever wider than it shall be.
    pub(super) fn archive(&self) -> std::io::Result<Zeroizing<Vec<u8>>> {
        let files: Vec<_> = self.staged().collect();
        // A buffer that moves leaves its bytes behind: two blocks more for each file, and the end.
        let sizes = files
            .iter()
            .map(|(_, it)| it.bytes().map_or(0, <[u8]>::len) + 4096);
        let room = sizes.sum::<usize>() + 16 * 1024;
        let mut archive = Zeroizing::new(Vec::with_capacity(room));
        let mut builder = tar::Builder::new(&mut *archive);
        for folder in self.folders() {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(tar::EntryType::Directory);
            header.set_mode(0o700);
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(0);
            header.set_size(0);
            builder.append_data(&mut header, self.relative(folder), std::io::empty())?;
        }
        for (name, entry) in &files {
            let bytes = entry.bytes().unwrap_or_default();
            let mut header = tar::Header::new_gnu();
            header.set_mode(entry.attributes.mode);
            header.set_uid(u64::from(entry.attributes.uid.unwrap_or(0)));
            header.set_gid(u64::from(entry.attributes.gid.unwrap_or(0)));
            let (mtime, _) = entry.attributes.mtime.unwrap_or_default();
            header.set_mtime(u64::try_from(mtime).unwrap_or(0));
            header.set_size(bytes.len() as u64);
            builder.append_data(&mut header, self.relative(&self.stage.join(name)), bytes)?;
        }
        builder.finish()?;
        drop(builder);
        Ok(archive)
    }

    fn relative(&self, path: &Path) -> PathBuf {
        path.strip_prefix(self.base()).unwrap_or(path).to_owned()
    }
}

/// `path` as the host itself sees it.
pub(super) fn under(prefix: &Path, path: &Path) -> PathBuf {
    prefix.join(path.strip_prefix("/").unwrap_or(path))
}

/// A shell reads names line by line, and our own files begin with a dot.
fn is_name(name: &str) -> bool {
    let letter = |it: u8| it.is_ascii_alphanumeric() || b"._:@+-".contains(&it);
    !name.starts_with(['.', '-'])
        && !name.is_empty()
        && name.len() < 250
        && name != MANIFEST
        && name.bytes().all(letter)
}

fn is_plain(path: &Path) -> bool {
    path.is_absolute()
        && path.to_str().is_some_and(|it| !it.contains(['\n', '\0']))
        && !path
            .components()
            .any(|it| it == std::path::Component::ParentDir)
}

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "tests prepare files of their own"
)]
mod tests {
    use std::fs;

    use super::*;

    fn entry(text: &str) -> Entry {
        Entry {
            kind: EntryKind::File(Zeroizing::new(text.as_bytes().to_vec())),
            attributes: Attributes::new(0o600),
        }
    }

    /// A connection that breaks between two files of the archive is no reason for `tar` to fail:
    /// nothing may be put in place, and above all nothing be kept for what was there.
    #[test]
    fn files_that_did_not_all_arrive_change_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let ssl = folder.path().join("etc/kubernetes/ssl");
        fs::create_dir_all(&ssl).unwrap();
        for name in ["a.pem", "b.pem"] {
            fs::write(ssl.join(name), "old").unwrap();
        }
        let kept = PathBuf::from("/etc/kubernetes/.kubepki/p1-01/old");
        let deployment = Deployment {
            directory: PathBuf::from("/etc/kubernetes/ssl"),
            keep: kept.clone(),
            files: ["a.pem", "b.pem"]
                .map(|name| (name.to_owned(), Some(entry("new"))))
                .into(),
        };
        let set = Set::new(&deployment).unwrap();
        let archive = set.archive().unwrap();
        let deploy = |archive: &[u8]| {
            let command = set.command_with_files(folder.path());
            let words: Vec<&str> = command.iter().map(String::as_str).collect();
            let (program, arguments) = words.split_first().unwrap();
            testkit::run(program, arguments, archive)
        };
        let texts = |folder: &Path| {
            ["a.pem", "b.pem"].map(|name| fs::read_to_string(folder.join(name)).unwrap())
        };
        // The archive ends with the manifest: its head, its text, two blocks of zeros, and more.
        let manifest = "date a.pem\ndate b.pem\n".as_bytes();
        let at = archive
            .windows(manifest.len())
            .position(|it| it == manifest);
        let blocks = at.unwrap() / 512;
        for block in 0..=blocks {
            let run = deploy(archive.get(..block * 512).unwrap());
            assert!(!run.success(), "{block} of {blocks}: {}", run.text());
            assert_eq!(texts(&ssl), ["old", "old"], "{block} of {blocks}");
            assert!(!under(folder.path(), &kept).exists(), "{block} of {blocks}");
        }
        let run = deploy(&archive);
        assert!(run.success(), "{}", run.text());
        assert_eq!(texts(&ssl), ["new", "new"]);
        assert_eq!(texts(&under(folder.path(), &kept)), ["old", "old"]);
    }
}
