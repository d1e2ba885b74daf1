//! The state file, `cluster.rkestate`: read from any RKE of 0.2 to 1.8, written as RKE writes it.

use std::fmt;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::json::{self, Json, JsonError};
use super::{Bundle, Entry};

/// The largest state file that is read, in bytes. A thousand nodes take 20 MB.
pub const LIMIT: usize = 64 << 20;

/// Keys of the file, in RKE's order (`cluster/state.go`).
const HALVES: [&str; 2] = ["desiredState", "currentState"];
/// Keys of either state, in RKE's order.
const SECTIONS: [&str; 3] = ["rkeConfig", "certificatesBundle", "encryptionConfig"];
const CONFIG: &str = "rkeConfig";
const BUNDLE: &str = "certificatesBundle";
const ENCRYPTION: &str = "encryptionConfig";

/// Which of the two states.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Half {
    /// What is to be.
    Desired,
    /// What is known to be on the hosts.
    Current,
}

impl Half {
    /// Its key in the file.
    pub fn key(self) -> &'static str {
        match self {
            Self::Desired => "desiredState",
            Self::Current => "currentState",
        }
    }
}

/// A state file that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StateFileError {
    /// Nothing in it.
    #[error("the state file is empty; restore it from a backup or with `rke util get-state-file`")]
    Empty,
    /// Larger than any state.
    #[error("the state file has {size} bytes; at most {LIMIT} are read")]
    TooLarge {
        /// Its size in bytes.
        size: usize,
    },
    /// Not JSON.
    #[error("the state file is not JSON; restore it from a backup")]
    Json(#[from] JsonError),
    /// JSON of another shape.
    #[error("{place} in the state file is {found}, not {wanted}")]
    Shape {
        /// `currentState.certificatesBundle.kube-ca.keyPEM`; `the value` for the whole.
        place: String,
        /// What is there.
        found: &'static str,
        /// What belongs there.
        wanted: &'static str,
    },
}

/// A state file. Keys and values that are not known here stay as they are.
#[derive(Clone, PartialEq, Eq)]
pub struct State {
    root: Json,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = |half| {
            self.section(half, BUNDLE)
                .and_then(Json::pairs)
                .map_or(0, <[_]>::len)
        };
        let (desired, current) = (count(Half::Desired), count(Half::Current));
        write!(f, "State({desired} entries desired, {current} current)")
    }
}

impl Default for State {
    fn default() -> Self {
        Self::empty()
    }
}

impl State {
    /// A state without anything in it.
    pub fn empty() -> Self {
        let halves = HALVES.map(|key| (key.to_owned(), Json::Object(Vec::new())));
        Self {
            root: Json::Object(halves.into()),
        }
    }

    /// Reads a state file, or the copy of it in the cluster.
    ///
    /// # Errors
    ///
    /// What is not JSON, with line and column, and what RKE could not read either: a bundle that
    /// is no object, a certificate that is no text.
    pub fn parse(bytes: &[u8]) -> Result<Self, StateFileError> {
        if bytes.len() > LIMIT {
            return Err(StateFileError::TooLarge { size: bytes.len() });
        }
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Err(StateFileError::Empty);
        }
        let root = json::parse(bytes)?;
        check(&root)?;
        Ok(Self { root })
    }

    /// The file's bytes: two spaces of indent, no LF at the end.
    pub fn render(&self) -> Zeroizing<Vec<u8>> {
        self.root.pretty()
    }

    /// The same on one line, for the copy in the cluster.
    pub fn render_compact(&self) -> Zeroizing<Vec<u8>> {
        self.root.compact()
    }

    /// The entry called `name`.
    pub fn entry(&self, half: Half, name: &str) -> Option<Entry> {
        let bundle = self.section(half, BUNDLE)?;
        bundle.get(name).map(Entry::from_json)
    }

    /// Every entry.
    pub fn bundle(&self, half: Half) -> Bundle {
        let pairs = self.section(half, BUNDLE).and_then(Json::pairs);
        pairs
            .unwrap_or_default()
            .iter()
            .filter(|(_, value)| *value != Json::Null)
            .map(|(name, value)| (name.clone(), Entry::from_json(value)))
            .collect()
    }

    /// The cluster's configuration as RKE stored it, defaults filled in. It may hold SSH keys and
    /// passwords. RKE refuses to rotate where `currentState` has none.
    pub fn rke_config(&self, half: Half) -> Option<&Json> {
        self.section(half, CONFIG)
    }

    /// Text of the EncryptionConfiguration; secret.
    pub fn encryption_config(&self, half: Half) -> Option<&str> {
        self.section(half, ENCRYPTION).and_then(Json::as_text)
    }

    /// Puts entries into `desiredState`, in place of those of the same names.
    pub fn set_desired(&mut self, entries: impl IntoIterator<Item = Entry>) {
        self.edit_bundle(Half::Desired, |bundle| {
            for entry in entries {
                let mut value = match bundle.remove(&entry.name) {
                    Some(Json::Object(pairs)) => Json::Object(pairs),
                    _ => Json::Object(Vec::new()),
                };
                entry.write_into(&mut value);
                insert_sorted(bundle, &entry.name, value);
            }
        });
    }

    /// Removes entries from `desiredState`.
    pub fn remove_desired<'a>(&mut self, names: impl IntoIterator<Item = &'a str>) {
        self.edit_bundle(Half::Desired, |bundle| {
            for name in names {
                bundle.remove(name);
            }
        });
    }

    /// Makes the entries of `desiredState` those of `currentState`: where a rotation begins, so
    /// that what an earlier run left there is not taken for wanted.
    pub fn desire_current(&mut self) {
        let current = self.section(Half::Current, BUNDLE).cloned();
        self.edit_half(Half::Desired, |half| match current {
            Some(bundle) => half.set(BUNDLE, bundle, &SECTIONS),
            None => {
                half.remove(BUNDLE);
            }
        });
    }

    /// Moves the named entries from `desiredState` to `currentState`; one that `desiredState`
    /// does not have is removed.
    pub fn promote<'a>(&mut self, names: impl IntoIterator<Item = &'a str>) {
        let desired = self.section(Half::Desired, BUNDLE);
        let moved: Vec<_> = names
            .into_iter()
            .map(|name| (name, desired.and_then(|bundle| bundle.get(name)).cloned()))
            .collect();
        self.edit_bundle(Half::Current, |bundle| {
            for (name, value) in moved {
                match value {
                    Some(value) => {
                        bundle.remove(name);
                        insert_sorted(bundle, name, value);
                    }
                    None => {
                        bundle.remove(name);
                    }
                }
            }
        });
    }

    /// Copies `rkeConfig` and `encryptionConfig` from `desiredState` to `currentState`, each if
    /// it is there.
    ///
    /// Only for a run that carried that configuration out: where an `rke up` failed half-way the
    /// two differ, and `currentState` says what is true.
    pub fn promote_config(&mut self) {
        for section in [CONFIG, ENCRYPTION] {
            if let Some(value) = self.section(Half::Desired, section).cloned() {
                self.edit_half(Half::Current, |state| state.set(section, value, &SECTIONS));
            }
        }
    }

    /// Replaces the text of the EncryptionConfiguration.
    pub fn set_encryption_config(&mut self, half: Half, text: &str) {
        self.edit_half(half, |state| {
            state.set(ENCRYPTION, Json::text(text), &SECTIONS)
        });
    }

    /// Replaces the stored configuration.
    pub fn set_rke_config(&mut self, half: Half, config: Json) {
        self.edit_half(half, |state| state.set(CONFIG, config, &SECTIONS));
    }

    fn section(&self, half: Half, section: &str) -> Option<&Json> {
        self.root.get(half.key())?.get(section)
    }

    fn edit_half(&mut self, half: Half, change: impl FnOnce(&mut Json)) {
        self.root.edit(half.key(), &HALVES, change);
    }

    fn edit_bundle(&mut self, half: Half, change: impl FnOnce(&mut Json)) {
        self.edit_half(half, |state| state.edit(BUNDLE, &SECTIONS, change));
    }
}

/// Puts a pair before the first key that sorts after it, as Go writes maps.
fn insert_sorted(object: &mut Json, key: &str, value: Json) {
    if let Json::Object(pairs) = object {
        let at = pairs.iter().position(|(name, _)| name.as_str() > key);
        pairs.insert(at.unwrap_or(pairs.len()), (key.to_owned(), value));
    }
}

/// Whether what is read here has the shape that RKE reads.
fn check(root: &Json) -> Result<(), StateFileError> {
    object("the value", root)?;
    for half in HALVES {
        let Some(state) = root.get(half) else {
            continue;
        };
        object(half, state)?;
        if let Some(config) = state.get(CONFIG) {
            object(&format!("{half}.{CONFIG}"), config)?;
        }
        if let Some(encryption) = state.get(ENCRYPTION) {
            text(format!("{half}.{ENCRYPTION}"), encryption)?;
        }
        let Some(bundle) = state.get(BUNDLE) else {
            continue;
        };
        object(&format!("{half}.{BUNDLE}"), bundle)?;
        for (name, entry) in bundle.pairs().unwrap_or_default() {
            if *entry == Json::Null {
                continue;
            }
            object(&format!("{half}.{BUNDLE}.{name}"), entry)?;
            for key in super::entry::KEYS {
                if let Some(value) = entry.get(key) {
                    text(format!("{half}.{BUNDLE}.{name}.{key}"), value)?;
                }
            }
        }
    }
    Ok(())
}

fn object(place: &str, value: &Json) -> Result<(), StateFileError> {
    match value {
        Json::Object(_) => Ok(()),
        other => Err(StateFileError::Shape {
            place: place.to_owned(),
            found: other.kind(),
            wanted: "an object",
        }),
    }
}

fn text(place: String, value: &Json) -> Result<(), StateFileError> {
    match value {
        Json::Text(_) => Ok(()),
        other => Err(StateFileError::Shape {
            place,
            found: other.kind(),
            wanted: "text",
        }),
    }
}

/// The files that belong to a `cluster.yml`, named after it as RKE does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// `cluster.yml` itself, as given.
    pub config: PathBuf,
    /// `./cluster.rkestate`: beside it, its last extension replaced.
    pub state: PathBuf,
    /// `./kube_config_cluster.yml`: beside it, extension kept.
    pub kubeconfig: PathBuf,
    /// `./cluster_certs`, where certificates and requests are written and read.
    pub cert_dir: PathBuf,
}

impl Files {
    /// The files of `config`, the value of `--config`. The paths begin with `./` where `config`
    /// has no directory: the log shows them so.
    pub fn of(config: &Path) -> Self {
        let directory = match config.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let base = config.file_name().unwrap_or_default().to_string_lossy();
        // Go's Ext is what follows the last dot, also in `.yml`, whose stem is empty.
        let stem = base.rsplit_once('.').map_or(&*base, |(stem, _)| stem);
        Self {
            config: config.to_owned(),
            state: directory.join(format!("{stem}.rkestate")),
            kubeconfig: directory.join(format!("kube_config_{base}")),
            cert_dir: directory.join(format!("{stem}_certs")),
        }
    }
}
