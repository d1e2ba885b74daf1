//! Kubeconfigs: what is in one, a user's certificate replaced in place, new ones written.
//!
//! The format is `clientcmd/api/v1.Config` of Kubernetes. A certificate or key is a *placement*
//! here: a path, or base64 of PEM inside the file (which wins when both are given, as in
//! client-go). Files that people have touched keep their comments, order, quoting and line ends:
//! [`replace_user`] edits the text of two or three values and proves afterwards that nothing else
//! changed.

use std::fmt;
use std::path::PathBuf;

use zeroize::Zeroizing;

use crate::yaml::YamlError;

mod copies;
mod edit;
mod parse;
mod render;

pub use copies::{
    Candidate, Copy, CopyState, CreateError, Created, Identity, KEY_ALGORITHM, LONGEST, NewCopy,
    SHORTEST, create, find_copies,
};
pub use edit::replace_user;
pub use render::{Inline, Reference, render_inline, render_reference};

/// A kubeconfig's content, as far as certificates are concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kubeconfig {
    /// The context that is used when none is named.
    pub current_context: Option<String>,
    /// API servers.
    pub clusters: Vec<Cluster>,
    /// Identities.
    pub users: Vec<User>,
    /// Pairs of the two.
    pub contexts: Vec<Context>,
}

/// An API server and how it is verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// Its name in this file.
    pub name: String,
    /// Line of its entry, from 1.
    pub line: usize,
    /// URL.
    pub server: Option<String>,
    /// The trust bundle; `None` means the system's.
    pub authority: Option<Placement>,
    /// The server's certificate is not verified at all.
    pub insecure_skip_tls_verify: bool,
    /// The name to verify instead of the URL's.
    pub tls_server_name: Option<String>,
}

/// An identity and what proves it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Its name in this file.
    pub name: String,
    /// Line of its entry, from 1.
    pub line: usize,
    /// The client certificate, leaf first.
    pub certificate: Option<Placement>,
    /// Its private key.
    pub key: Option<KeyPlacement>,
    /// Ways to log in without a certificate: `token`, `tokenFile`, `exec`, `auth-provider`,
    /// `username`. Only their presence is kept.
    pub other_credentials: Vec<&'static str>,
}

/// A user at a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Context {
    /// Its name in this file.
    pub name: String,
    /// Name of the cluster.
    pub cluster: Option<String>,
    /// Name of the user.
    pub user: Option<String>,
}

/// Where a certificate is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Placement {
    /// In a file; a relative path starts at the kubeconfig's directory.
    File(PathBuf),
    /// In the kubeconfig: the decoded bytes, usually PEM.
    Inline(Vec<u8>),
}

/// Where a private key is; its bytes are wiped and never printed.
#[derive(Clone, PartialEq, Eq)]
pub enum KeyPlacement {
    /// In a file; a relative path starts at the kubeconfig's directory.
    File(PathBuf),
    /// In the kubeconfig: the decoded bytes, usually PEM.
    Inline(Zeroizing<Vec<u8>>),
}

impl fmt::Debug for KeyPlacement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Inline(_) => f.write_str("Inline(***)"),
        }
    }
}

impl Kubeconfig {
    /// Reads a kubeconfig in YAML or JSON; fields that it does not know are passed over.
    ///
    /// # Errors
    ///
    /// Text that is not one YAML document, entries of the wrong shape, a name given twice,
    /// inlined data that is not base64: each with its line.
    pub fn parse(bytes: &[u8]) -> Result<Self, KubeconfigError> {
        parse::parse(bytes)
    }

    /// The user of that name.
    pub fn user(&self, name: &str) -> Option<&User> {
        self.users.iter().find(|user| user.name == name)
    }

    /// The cluster of that name.
    pub fn cluster(&self, name: &str) -> Option<&Cluster> {
        self.clusters.iter().find(|cluster| cluster.name == name)
    }

    /// The clusters at which a user logs in, each once, in order of the contexts.
    pub fn clusters_of(&self, user: &str) -> Vec<&Cluster> {
        let mut found: Vec<&Cluster> = Vec::new();
        for context in self
            .contexts
            .iter()
            .filter(|it| it.user.as_deref() == Some(user))
        {
            if let Some(cluster) = context
                .cluster
                .as_deref()
                .and_then(|name| self.cluster(name))
                && !found.iter().any(|seen| seen.name == cluster.name)
            {
                found.push(cluster);
            }
        }
        found
    }
}

/// A kubeconfig could not be read or safely changed. Lines count from 1.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KubeconfigError {
    /// Not YAML, or not of a kubeconfig's shape.
    #[error("{}{detail}", at(*line))]
    Malformed {
        /// Where; 0 for the whole file.
        line: usize,
        /// What is wrong.
        detail: String,
    },
    /// Inlined data that does not decode.
    #[error("line {line}: {field} of {owner:?} is not base64")]
    NotBase64 {
        /// Where.
        line: usize,
        /// Which value: `client-key-data`.
        field: &'static str,
        /// Name of the user or cluster.
        owner: String,
    },
    /// The file has no such user.
    #[error("no user {user:?} here; there is {}", listed(known))]
    UnknownUser {
        /// The one that was asked for.
        user: String,
        /// Those that are there.
        known: Vec<String>,
    },
    /// There is no inlined value to replace.
    #[error("line {line}: {owner:?} has no inlined {field}: {found}")]
    NotInline {
        /// Where the entry starts.
        line: usize,
        /// Which value.
        field: &'static str,
        /// Name of the user or cluster.
        owner: String,
        /// What is there instead, and what to do.
        found: String,
    },
    /// Changing the value would change other parts of the file, or cannot be done in its place.
    #[error("line {line}: {field} cannot be replaced in place: {reason}; write it out there first")]
    NotEditable {
        /// Where.
        line: usize,
        /// Which value.
        field: &'static str,
        /// Why.
        reason: String,
    },
    /// It is not clear which cluster's trust bundle is meant.
    #[error("{reason}")]
    AuthorityUnclear {
        /// Why, and what to do.
        reason: String,
    },
    /// The certificate, key or CA to put in is no good.
    #[error("the new {what} cannot be used")]
    Material {
        /// "certificate", "private key", "certificate authority".
        what: &'static str,
        /// Why.
        #[source]
        source: pki::Error,
    },
    /// The edited text does not read as it should; nothing was changed.
    #[error("line {line}: the edited kubeconfig would not hold exactly the new values: {detail}")]
    Unproven {
        /// Where the first difference is.
        line: usize,
        /// What differs.
        detail: String,
    },
}

impl From<YamlError> for KubeconfigError {
    fn from(YamlError { line, detail }: YamlError) -> Self {
        Self::Malformed { line, detail }
    }
}

fn at(line: usize) -> String {
    if line == 0 {
        String::new()
    } else {
        format!("line {line}: ")
    }
}

fn listed(names: &[String]) -> String {
    if names.is_empty() {
        return "none".to_owned();
    }
    names
        .iter()
        .map(|name| format!("{name:?}"))
        .collect::<Vec<_>>()
        .join(", ")
}

#[cfg(test)]
mod copies_tests;
#[cfg(test)]
mod tests;
