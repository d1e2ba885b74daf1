//! What a token is good for.

use std::fmt;

use pki::Digest;
use zeroize::Zeroizing;

use super::made::Secret;
use super::{Authority, Credential, Known, ServerFiles, ServerFilesError, Token, Whose};

/// How a token is written (reference section 5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `K10<CA hash>::<user>:<password>`.
    Full,
    /// The password alone: whoever joins with it trusts the first CA that answers.
    Password,
    /// `K10::<user>:<password>`: the same, in more words.
    WithoutHash,
    /// `K10<CA hash>::<id>.<secret>`.
    FullBootstrap,
    /// `<id>.<secret>`.
    Bootstrap,
    /// `K10P1.<pins>::<id>.<secret>`.
    PinSet,
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "a full token",
            Self::Password => "a password alone",
            Self::WithoutHash => "a token without a CA hash",
            Self::FullBootstrap => "a full bootstrap token",
            Self::Bootstrap => "a bootstrap token without a CA hash",
            Self::PinSet => "a token that pins CA keys",
        })
    }
}

/// What the secret half of a token proves to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proves {
    /// It is the servers' password, and agents have another one.
    Server,
    /// It is the agents' password, and servers have another one.
    Agent,
    /// It is the password of both.
    Both,
    /// It is nobody's password here.
    Nothing,
    /// It has an id: only the datastore, or for K3s's own bootstrap tokens the Kubernetes API,
    /// knows whether it is good.
    Unknown,
}

impl fmt::Display for Proves {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Server => "the servers' password (agents have another one)",
            Self::Agent => "the agents' password; servers cannot join with it",
            Self::Both => "the password of servers and agents",
            Self::Nothing => "no password of this cluster",
            Self::Unknown => {
                "a secret with an id, which only the datastore or the Kubernetes API knows"
            }
        })
    }
}

/// What a token is good for on one cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opinion {
    /// How it is written.
    pub form: Form,
    /// Its user, or the id of a bootstrap token; empty where none is written.
    pub user: String,
    /// The CA hash that it pins, as written, and whose that is.
    pub pinned: Option<(String, Option<Whose>)>,
    /// The keys that it pins, and whether they are this cluster's.
    pub keys: Vec<PinnedKey>,
    /// What its secret proves.
    pub proves: Proves,
}

/// A key that a pin set pins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PinnedKey {
    /// SHA-256 of its SubjectPublicKeyInfo (DER).
    pub key: Digest,
    /// Whether the server CA in force is it, or leads to it.
    pub now: bool,
    /// Whether a staged server CA will.
    pub staged: bool,
}

impl Opinion {
    /// Whether a node can join with it now, as far as its CA and password go.
    pub fn is_accepted(&self) -> bool {
        let pinned = self.pinned.as_ref();
        let keys = self.keys.is_empty() || self.keys.iter().any(|it| it.now);
        self.proves != Proves::Nothing
            && keys
            && pinned.is_none_or(|(_, whose)| *whose == Some(Whose::Present))
    }

    /// Whether a node can join with it once the staged set has taken effect whose server CA has
    /// the hash `staged`.
    pub fn will_be_accepted(&self, staged: Digest) -> bool {
        let pinned = self.pinned.as_ref();
        let keys = self.keys.is_empty() || self.keys.iter().any(|it| it.staged);
        self.proves != Proves::Nothing
            && keys
            && pinned.is_none_or(|(hash, _)| *hash == staged.to_string())
    }
}

impl Token {
    /// How it is written.
    pub fn form(&self) -> Form {
        match (&self.credential, &self.authority) {
            (_, Authority::Keys(_)) => Form::PinSet,
            (Credential::Bootstrap { .. }, Authority::Hash(_)) => Form::FullBootstrap,
            (Credential::Bootstrap { .. }, Authority::Any) => Form::Bootstrap,
            (Credential::Password { .. }, Authority::Hash(_)) => Form::Full,
            (Credential::Password { user, .. }, Authority::Any) if user.is_empty() => {
                Form::Password
            }
            (Credential::Password { .. }, Authority::Any) => Form::WithoutHash,
        }
    }

    /// Id and secret, if it is one that `kubepki token create` may have made for a server of ours,
    /// in whichever form.
    pub fn made(&self) -> Option<Secret> {
        match &self.credential {
            Credential::Bootstrap { id, secret } => {
                Secret::parse(&Zeroizing::new(format!("{id}.{}", secret.as_str())))
            }
            Credential::Password { password, .. } => Secret::parse(password),
        }
    }

    /// Its user, or the id of a bootstrap token. Nothing secret.
    pub fn user(&self) -> &str {
        match &self.credential {
            Credential::Password { user, .. } => user,
            Credential::Bootstrap { id, .. } => id,
        }
    }
}

/// Holds a token to what is known of a cluster.
///
/// # Errors
///
/// When the server's files tell no password.
pub fn check(
    token: &Token,
    known: &Known,
    files: &ServerFiles,
) -> Result<Opinion, ServerFilesError> {
    let proves = match &token.credential {
        Credential::Bootstrap { .. } => Proves::Unknown,
        Credential::Password { password, .. } => {
            let servers = *password == files.server_password()?;
            let agents = *password == files.agent_password()?;
            match (servers, agents) {
                (false, false) if token.made().is_some() => Proves::Unknown,
                (true, true) => Proves::Both,
                (true, false) => Proves::Server,
                (false, true) => Proves::Agent,
                (false, false) => Proves::Nothing,
            }
        }
    };
    let pinned = token
        .authority()
        .map(|hash| (hash.to_owned(), known.whose(hash).cloned()));
    let keys = token.pins().iter().map(|key| PinnedKey {
        key: *key,
        now: known.leads_to(*key),
        staged: known.will_lead_to(*key),
    });
    Ok(Opinion {
        keys: keys.collect(),
        form: token.form(),
        user: token.user().to_owned(),
        pinned,
        proves,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_are_told_apart() {
        let hash = "0".repeat(64);
        let form = |text: &str| Token::parse(text).unwrap().form();
        assert_eq!(form("pw"), Form::Password);
        assert_eq!(form("K10::server:pw"), Form::WithoutHash);
        assert_eq!(form(&format!("K10{hash}::node:pw")), Form::Full);
        assert_eq!(form("abc123.0123456789abcdef"), Form::Bootstrap);
        let text = format!("K10{hash}::abc123.0123456789abcdef");
        assert_eq!(form(&text), Form::FullBootstrap);
    }
}
