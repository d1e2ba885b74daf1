//! How calls to a supervisor fail, in words that say what to do.

use std::error::Error;
use std::time::Duration;

use rustls::CertificateError;

/// A call to the supervisor failed. Messages never hold the password.
#[derive(Debug, thiserror::Error)]
pub enum SupervisorError {
    /// The URL is none of a supervisor.
    #[error("{url:?} is no URL of a K3s server: {problem}; write https://<server>:6443")]
    Url {
        /// What was given.
        url: String,
        /// What is wrong with it.
        problem: String,
    },
    /// It does not answer, or its certificate does not stand under its own CA bundle.
    #[error("cannot reach the K3s server {url}")]
    Unreachable {
        /// Its URL.
        url: String,
        /// Why.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// Its certificate does not stand under the CA that is trusted here.
    #[error(
        "{url} shows a certificate of another CA than the one that this node has: it is another \
         cluster's, or its CA was replaced without a cross-certificate; nothing secret was sent"
    )]
    OtherIssuer {
        /// Its URL.
        url: String,
        /// Why.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// Its CA is not the one that another server of this run showed, which was taken on trust.
    #[error(
        "{url} shows a CA with the hash {seen}, and the server that was trusted on first use {held}: \
         they are not of one cluster; nothing secret was sent"
    )]
    OtherThanFirst {
        /// Its URL.
        url: String,
        /// The hash of what it shows.
        seen: String,
        /// The hash of what the other one showed.
        held: String,
    },
    /// Its CA is not the one in the token.
    #[error(
        "token CA hash does not match the Cluster CA certificate hash: {pinned} != {seen}: {url} \
         is another cluster's, or its CA was rotated since the token was written; nothing secret \
         was sent"
    )]
    OtherAuthority {
        /// Its URL.
        url: String,
        /// The hash in the token.
        pinned: String,
        /// The hash of what it shows.
        seen: String,
    },
    /// It shows no CA with a key that the token pins.
    #[error(
        "the token pins the CA keys {pinned}, and {url} shows {seen}: this is another cluster, or \
         its CA was replaced and the old one has left its bundle; nothing secret was sent"
    )]
    OtherKeys {
        /// Its URL.
        url: String,
        /// The keys in the token.
        pinned: String,
        /// The keys of what it shows.
        seen: String,
    },
    /// It shows a CA that the token pins, and has no certificate under it.
    #[error(
        "{url} shows a CA that the token pins, and cannot prove that it is its own: what it \
         showed does not lead to that CA; nothing secret was sent"
    )]
    Unproven {
        /// Its URL.
        url: String,
        /// Why.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// A token without a hash, and no leave to trust what is seen.
    #[error(
        "the token names no CA hash, so nothing tells whether {url} is the right server; it shows \
         {seen}: give the full token, or say --trust-on-first-use"
    )]
    Unpinned {
        /// Its URL.
        url: String,
        /// The hash of what it shows.
        seen: String,
    },
    /// What it shows as its CA bundle is none.
    #[error("what {url}/cacerts shows is no CA bundle")]
    Bundle {
        /// Its URL.
        url: String,
        /// Why.
        #[source]
        source: pki::Error,
    },
    /// A token that servers cannot use.
    #[error("the token cannot be used to reach {url}")]
    Token {
        /// Its URL.
        url: String,
        /// Why.
        #[source]
        source: kubepki::token::TokenError,
    },
    /// An answer that says no to a node.
    #[error("{url} answered {status} to {call}: {message}{}", node_advice(*status, message))]
    NodeRefused {
        /// Its URL.
        url: String,
        /// Method and path.
        call: String,
        /// The status code.
        status: u16,
        /// What it said.
        message: String,
        /// How long it asks to be left alone.
        retry_after: Option<Duration>,
    },
    /// An answer that says no.
    #[error("{url} answered {status} to {call}: {message}{}", advice(*status, message))]
    Refused {
        /// Its URL.
        url: String,
        /// Method and path.
        call: String,
        /// The status code.
        status: u16,
        /// What it said.
        message: String,
        /// How long it asks to be left alone.
        retry_after: Option<Duration>,
    },
}

fn advice(status: u16, message: &str) -> String {
    if let Some((_, id)) = message.split_once("error ID ") {
        return format!("; K3s wrote the reason to its own log, look there for {id}");
    }
    match status {
        401 => "; the password in the token is not this server's, or K3s is still starting",
        403 => "; the token is an agent's, a server's is needed",
        404 | 405 => "; this K3s is older than the call (rotate-ca came with v1.26.2)",
        503 => "; K3s is starting, try again in a moment",
        _ => "",
    }
    .to_owned()
}

fn node_advice(status: u16, message: &str) -> &'static str {
    match status {
        400 => "; the node's name and its certificate must agree",
        401 => {
            "; the password in the token is not this server's, the token has ended, or the node's \
             certificate is of another cluster"
        }
        403 if message.contains("unable to verify") => {
            "; another node has this name and another password (choose --node-name, or delete the \
             Secret <node>.node-password.k3s in kube-system; at `kubepki serve`: `kubepki node \
             forget`)"
        }
        403 if message.contains("the servers") => "; choose another --node-name or --node-ip",
        403 if message.to_lowercase().contains("forbidden") => {
            "; the credential is no agent's: give a token for agents"
        }
        404 | 405 => "; this is no K3s server, or an old one",
        429 | 503 => "; it is starting or busy, try again in a moment",
        _ => "",
    }
}

impl SupervisorError {
    /// Whether the same call may be answered otherwise in a moment: the server is away, starting
    /// or busy. Then how long it asks to be left alone, if it does.
    pub fn passing(&self) -> Option<Option<Duration>> {
        match self {
            Self::Unreachable { source, .. } if certificate_fault(source.as_ref()).is_none() => {
                Some(None)
            }
            Self::Refused {
                status: 429 | 503,
                retry_after,
                ..
            }
            | Self::NodeRefused {
                status: 429 | 503,
                retry_after,
                ..
            } => Some(*retry_after),
            _ => None,
        }
    }

    /// The same, where a server was to prove itself by a CA that is known already.
    pub(crate) fn against_known_authority(self) -> Self {
        match self {
            Self::Unreachable { url, source } if is_other_issuer(source.as_ref()) => {
                Self::OtherIssuer { url, source }
            }
            error => error,
        }
    }
}

/// Whether a handshake failed because the server's certificate leads to no CA that is trusted.
fn is_other_issuer(error: &(dyn Error + 'static)) -> bool {
    matches!(
        certificate_fault(error),
        Some(CertificateError::UnknownIssuer | CertificateError::BadSignature)
    )
}

/// What a handshake failed of, if it is the server's certificate.
fn certificate_fault<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a CertificateError> {
    let mut next = Some(error);
    while let Some(error) = next {
        // I/O errors leave out the one inside when they are asked for their source.
        let inner = error.downcast_ref::<std::io::Error>();
        let inner = inner.and_then(std::io::Error::get_ref);
        let found = match inner {
            Some(inner) => inner.downcast_ref(),
            None => error.downcast_ref(),
        };
        if let Some(rustls::Error::InvalidCertificate(fault)) = found {
            return Some(fault);
        }
        next = match inner {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_of_a_node_has_its_own_way_out() {
        for (message, way) in [
            (
                "unable to verify password for node a: hash does not match",
                "choose --node-name",
            ),
            (
                "the name a belongs to the servers: no node that joins can have it",
                "--node-ip",
            ),
            ("forbidden", "a token for agents"),
            ("the token is for another node than a", ""),
        ] {
            let advice = node_advice(403, message);
            assert!(
                advice.contains(way) && advice.is_empty() == way.is_empty(),
                "{advice}"
            );
        }
    }

    #[test]
    fn a_certificate_of_another_issuer_is_found_in_what_i_o_says() {
        let of = |fault| {
            let tls = rustls::Error::InvalidCertificate(fault);
            let wrapped = std::io::Error::other(std::io::Error::other(tls));
            SupervisorError::Unreachable {
                url: String::new(),
                source: wrapped.into(),
            }
        };
        let error = of(CertificateError::UnknownIssuer);
        assert_eq!(error.passing(), None);
        let told = error.against_known_authority();
        assert!(matches!(told, SupervisorError::OtherIssuer { .. }));
        let told = of(CertificateError::Expired).against_known_authority();
        assert!(matches!(told, SupervisorError::Unreachable { .. }));
        assert_eq!(told.passing(), None);
        let away = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        let away = SupervisorError::Unreachable {
            url: String::new(),
            source: away.into(),
        };
        assert_eq!(away.passing(), Some(None));
    }
}
