//! What a token is good for.

use std::fmt;

use super::{Credential, Known, ServerFiles, ServerFilesError, Token, Whose};

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
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "a full token",
            Self::Password => "a password alone",
            Self::WithoutHash => "a token without a CA hash",
            Self::FullBootstrap => "a full bootstrap token",
            Self::Bootstrap => "a bootstrap token without a CA hash",
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
    /// It is a bootstrap token: only the Kubernetes API knows whether it is good.
    Unknown,
}

impl fmt::Display for Proves {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Server => "the servers' password (agents have another one)",
            Self::Agent => "the agents' password; servers cannot join with it",
            Self::Both => "the password of servers and agents",
            Self::Nothing => "no password of this cluster",
            Self::Unknown => "a bootstrap token's secret, which only the Kubernetes API knows",
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
    /// What its secret proves.
    pub proves: Proves,
}

impl Opinion {
    /// Whether a node can join with it now.
    pub fn is_accepted(&self) -> bool {
        let pinned = self.pinned.as_ref();
        self.proves != Proves::Nothing
            && pinned.is_none_or(|(_, whose)| *whose == Some(Whose::Present))
    }

    /// Whether a node can join with it once the staged set has taken effect whose server CA has
    /// the hash `staged`.
    pub fn will_be_accepted(&self, staged: pki::Digest) -> bool {
        let pinned = self.pinned.as_ref();
        self.proves != Proves::Nothing && pinned.is_none_or(|(hash, _)| *hash == staged.to_string())
    }
}

impl Token {
    /// How it is written.
    pub fn form(&self) -> Form {
        match (&self.credential, &self.authority) {
            (Credential::Bootstrap { .. }, Some(_)) => Form::FullBootstrap,
            (Credential::Bootstrap { .. }, None) => Form::Bootstrap,
            (Credential::Password { .. }, Some(_)) => Form::Full,
            (Credential::Password { user, .. }, None) if user.is_empty() => Form::Password,
            (Credential::Password { .. }, None) => Form::WithoutHash,
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
    Ok(Opinion {
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
