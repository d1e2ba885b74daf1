//! What is: a dated, possibly incomplete view of one node's files.
//!
//! A file that cannot be read is an entry, not a failure: an operator with half a node left
//! needs the other half shown. Private keys are reduced to facts here; no secret byte stays in
//! an [`Inventory`].

mod collect;
mod detect;
mod embedded;
mod foresee;
mod site;

use std::path::{Path, PathBuf};

use pki::{Certificate, Digest, KeyAlgorithm, San, UnixTime};

use crate::catalogue::{Flavour, Row};
use crate::plan::Fingerprint;

pub use collect::{collect, observe_kubeconfig};
pub use detect::DetectedRelease;
pub use site::{DEFAULT_DATA_DIR, Role, Site, SiteError};

/// Everything known of a node's PKI files at one moment.
#[derive(Clone, Debug)]
pub struct Inventory {
    /// Where it was looked.
    pub site: Site,
    /// When.
    pub at: UnixTime,
    /// The distribution.
    pub flavour: &'static Flavour,
    /// Every row of the catalogue that this kind of node can have, found or not.
    pub rows: Vec<ObservedRow>,
    /// The directories that the rows' files lie in, below the data directory, outer ones first.
    pub directories: Vec<Observed>,
    /// PEM files among the rows' files that no row names: root keys left behind, a script's
    /// working files.
    pub strays: Vec<Observed>,
    /// Which release wrote it, as far as files tell.
    pub release: DetectedRelease,
}

/// A row and its files.
#[derive(Clone, Debug)]
pub struct ObservedRow {
    /// The row.
    pub row: &'static Row,
    /// Its certificate, or its only file.
    pub file: Observed,
    /// Its private key, where that is a second file.
    pub key: Option<Observed>,
}

/// One path and what is there.
#[derive(Clone, Debug)]
pub struct Observed {
    /// Absolute path.
    pub path: PathBuf,
    /// What is there.
    pub found: Found,
}

/// What is at a path.
#[derive(Clone, Debug)]
pub enum Found {
    /// Nothing.
    Absent,
    /// Something that cannot be read, and why.
    Unreadable(String),
    /// An entry.
    Present(Box<Present>),
}

/// An entry by digest and by facts.
#[derive(Clone, Debug)]
pub struct Present {
    /// Kind, digest, attributes.
    pub fingerprint: Fingerprint,
    /// What it says.
    pub facts: Facts,
}

/// What a file's content says, without its secrets.
#[derive(Clone, Debug)]
pub enum Facts {
    /// Certificates in file order.
    Certificates(Vec<Certificate>),
    /// Private keys in file order.
    Keys(Vec<KeyFacts>),
    /// A kubeconfig's users and clusters that inline certificates.
    Kubeconfig(KubeconfigFacts),
    /// The dynamic listener's Secret.
    Listener(ListenerFacts),
    /// A join token: the CA hash that it pins, lower-case hex; `None` for one that pins none.
    Token(Option<String>),
    /// A link and its target.
    Link(PathBuf),
    /// A directory where a file should be.
    Directory,
    /// Not looked into.
    Opaque,
    /// Not what it should be.
    Malformed(String),
}

/// A private key without the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyFacts {
    /// SHA-256 of its SubjectPublicKeyInfo.
    pub spki: Digest,
    /// Kind and size.
    pub algorithm: KeyAlgorithm,
}

/// What a kubeconfig inlines.
#[derive(Clone, Debug, Default)]
pub struct KubeconfigFacts {
    /// Users with an inlined certificate.
    pub users: Vec<InlineUser>,
    /// CA bundles, by cluster name.
    pub authorities: Vec<(String, Vec<Certificate>)>,
    /// `server` URLs, by cluster name.
    pub servers: Vec<(String, String)>,
    /// Files that it points to.
    pub references: Vec<PathBuf>,
}

/// A kubeconfig user whose certificate is inlined.
#[derive(Clone, Debug)]
pub struct InlineUser {
    /// The user entry's name.
    pub name: String,
    /// Its certificates, leaf first.
    pub certificates: Vec<Certificate>,
    /// Its key, if that is inlined too.
    pub key: Option<KeyFacts>,
}

/// What the dynamic listener's Secret says.
#[derive(Clone, Debug)]
pub struct ListenerFacts {
    /// Leaf first.
    pub certificates: Vec<Certificate>,
    /// Its key.
    pub key: Option<KeyFacts>,
    /// The SANs of its annotations: what K3s will ask for next time.
    pub sans: Vec<San>,
    /// The fingerprint annotation.
    pub fingerprint: Option<String>,
    /// Whether it is marked as never to be changed.
    pub is_static: bool,
}

impl Observed {
    /// The entry, if there is one that could be read.
    pub fn present(&self) -> Option<&Present> {
        match &self.found {
            Found::Present(present) => Some(present),
            Found::Absent | Found::Unreadable(_) => None,
        }
    }

    /// Whether nothing is there.
    pub fn is_absent(&self) -> bool {
        matches!(self.found, Found::Absent)
    }

    /// Certificates in file order; inlined ones too. Empty for anything else.
    pub fn certificates(&self) -> &[Certificate] {
        match self.present().map(|present| &present.facts) {
            Some(Facts::Certificates(certificates)) => certificates,
            Some(Facts::Listener(listener)) => &listener.certificates,
            _ => &[],
        }
    }

    /// The first certificate: a leaf, or the CA that signs.
    pub fn first_certificate(&self) -> Option<&Certificate> {
        self.certificates().first()
    }

    /// Private keys in file order; the listener's inlined one too. Empty for anything else.
    pub fn keys(&self) -> &[KeyFacts] {
        match self.present().map(|present| &present.facts) {
            Some(Facts::Keys(keys)) => keys,
            Some(Facts::Listener(listener)) => listener.key.as_slice(),
            _ => &[],
        }
    }
}

impl Inventory {
    /// What was found of the row `id`.
    pub fn row(&self, id: &str) -> Option<&ObservedRow> {
        self.rows.iter().find(|observed| observed.row.id == id)
    }

    /// What was found at `path`.
    pub fn observed(&self, path: &Path) -> Option<&Observed> {
        self.rows
            .iter()
            .flat_map(|row| [Some(&row.file), row.key.as_ref()])
            .flatten()
            .chain(&self.strays)
            .find(|observed| observed.path == path)
    }

    /// The directory on the way to `path` that is a link out of the data directory, and where it
    /// leads. Such a link is followed, as K3s does, and told.
    pub fn foreign_directory(&self, path: &Path) -> Option<(&Path, &Path)> {
        self.foreign_directories()
            .find(|(directory, _)| path.starts_with(directory))
    }

    /// Every directory that is a link out of the data directory, and where it leads.
    pub fn foreign_directories(&self) -> impl Iterator<Item = (&Path, &Path)> {
        self.directories.iter().filter_map(|directory| {
            let Facts::Link(target) = &directory.present()?.facts else {
                return None;
            };
            let outside = self.site.is_outside(&directory.path, target);
            outside.then_some((directory.path.as_path(), target.as_path()))
        })
    }

    /// Every certificate of CA `authority`'s file, the signing one first.
    pub fn authority(&self, authority: &str) -> &[Certificate] {
        self.row(authority)
            .map_or(&[], |observed| observed.file.certificates())
    }

    /// The listener's facts, if it has any.
    pub fn listener(&self) -> Option<&ListenerFacts> {
        self.rows
            .iter()
            .find_map(|observed| match observed.file.present()?.facts {
                Facts::Listener(ref listener) => Some(listener),
                _ => None,
            })
    }

    /// The node's name: what the kubelet's certificates call it, else the name that K3s writes
    /// after `localhost` into etcd's certificate (reference section 1.5).
    pub fn node_name(&self) -> Option<String> {
        let kubelet = self
            .row("agent/client-kubelet")
            .and_then(|o| o.file.first_certificate());
        if let Some(certificate) = kubelet
            && let Some(name) = certificate
                .subject()
                .common_name()
                .and_then(|cn| cn.strip_prefix("system:node:"))
        {
            return Some(name.to_owned());
        }
        let first = |row: &str| self.row(row)?.file.first_certificate();
        // `--tls-san` comes before `localhost`, the short form of the node's name after it.
        let other = |san: &San| match san {
            San::Dns(name) if name != "localhost" => Some(name.clone()),
            _ => None,
        };
        if let Some(serving) = first("agent/serving-kubelet")
            && let Some(name) = serving.sans().iter().find_map(other)
        {
            return Some(name);
        }
        let localhost = |san: &&San| !matches!(san, San::Dns(name) if name == "localhost");
        let mut sans = first("etcd-peer-server-client")?.sans().iter();
        sans.by_ref().find(|san| !localhost(san))?;
        sans.find_map(other)
    }

    /// `path` as the recorded files mean it, under the data directory that is looked at.
    pub fn resolve(&self, path: &Path) -> PathBuf {
        self.site.resolve(path)
    }
}
