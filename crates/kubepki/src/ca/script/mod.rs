//! K3s's two scripts, by their names: the same inputs, files, messages and exit codes.
//!
//! Different on purpose: the cross-certificate stands before the self-signed root, every key is
//! 0600, what must go offline is said at the end, the tokens that are printed are the right ones,
//! a tree in which K3s has run already is not overwritten, and what could not work is refused
//! before anything is written. Certificates have our profile.

mod custom;
mod default;

use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::{CaError, Make};
use crate::host::{Attributes, Entry, EntryKind, Host, is_directory};

pub use custom::generate_custom;
pub use default::rotate_default;

/// What both scripts take from their environment.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// `PRODUCT`: what names begin with.
    pub product: String,
    /// `DATA_DIR`.
    pub data_dir: PathBuf,
}

impl Surroundings {
    /// The scripts' defaults for what is not given.
    pub fn new(product: Option<String>, data_dir: Option<PathBuf>) -> Self {
        let product = product
            .filter(|it| !it.is_empty())
            .unwrap_or_else(|| "k3s".to_owned());
        let data_dir = data_dir.filter(|it| !it.as_os_str().is_empty());
        let data_dir = data_dir.unwrap_or_else(|| Self::usual(&product));
        Self { product, data_dir }
    }

    fn usual(product: &str) -> PathBuf {
        Path::new("/var/lib/rancher").join(product)
    }

    fn is_usual(&self) -> bool {
        self.data_dir == Self::usual(&self.product)
    }
}

/// What a script said, and how it ended.
#[derive(Clone, PartialEq, Eq)]
pub struct Transcript {
    /// Standard output, line by line; it may hold tokens.
    pub lines: Vec<Zeroizing<String>>,
    /// The exit code.
    pub code: u8,
}

impl std::fmt::Debug for Transcript {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Transcript({} lines, exit {})",
            self.lines.len(),
            self.code
        )
    }
}

impl Transcript {
    fn begin() -> Self {
        let mut transcript = Self {
            lines: Vec::new(),
            code: 0,
        };
        transcript.say(concat!("Using kubepki ", env!("CARGO_PKG_VERSION")));
        transcript
    }

    fn say(&mut self, line: impl Into<String>) {
        self.lines.push(Zeroizing::new(line.into()));
    }

    fn abort(mut self, line: impl Into<String>) -> Self {
        self.say(line);
        self.code = 1;
        self
    }
}

/// Files about to be written, in order.
struct Files<'a> {
    host: &'a dyn Host,
    directory: PathBuf,
    files: Vec<(String, Zeroizing<Vec<u8>>, u32)>,
}

/// The scripts' umask is 027, which certificates are written under.
const CERTIFICATE: u32 = 0o640;
const DIRECTORY: u32 = 0o750;
const KEY: u32 = 0o600;

impl<'a> Files<'a> {
    fn new(host: &'a dyn Host, directory: PathBuf) -> Self {
        Self {
            host,
            directory,
            files: Vec::new(),
        }
    }

    fn certificate(&mut self, name: impl Into<String>, content: &[u8]) {
        let content = Zeroizing::new(content.to_vec());
        self.files.push((name.into(), content, CERTIFICATE));
    }

    fn key(&mut self, name: impl Into<String>, content: &[u8]) {
        let content = Zeroizing::new(content.to_vec());
        self.files.push((name.into(), content, KEY));
    }

    /// Makes the directory, its parents and `etcd` in it, then writes every file, each whole.
    async fn write(self) -> Result<(), CaError> {
        make_directories(self.host, &self.directory.join("etcd")).await?;
        for (name, content, mode) in self.files {
            let entry = Entry {
                kind: EntryKind::File(content),
                attributes: Attributes::new(mode),
            };
            self.host.put(&self.directory.join(name), &entry).await?;
        }
        Ok(())
    }
}

/// `mkdir -p` under the scripts' umask.
async fn make_directories(host: &dyn Host, path: &Path) -> Result<(), CaError> {
    let mut missing = Vec::new();
    for directory in path.ancestors() {
        if directory.as_os_str().is_empty() || is_directory(host, directory).await? {
            break;
        }
        missing.push(directory);
    }
    for directory in missing.into_iter().rev() {
        let entry = Entry {
            kind: EntryKind::Directory,
            attributes: Attributes::new(DIRECTORY),
        };
        host.put(directory, &entry).await?;
    }
    Ok(())
}

/// A key's PEM.
fn pem(key: &pki::PrivateKey, what: &str) -> Result<Zeroizing<Vec<u8>>, CaError> {
    let text = key.to_pem().map_err(super::profile::cannot_make(what))?;
    Ok(Zeroizing::new(text.as_bytes().to_vec()))
}

/// `name@<now>`.
fn named(make: &Make<'_>, name: &str) -> Result<pki::Name, CaError> {
    make.name(name, &[])
}
