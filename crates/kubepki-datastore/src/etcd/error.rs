//! What goes wrong between etcd and us, in words.

use std::error::Error;
use std::fmt;

use tonic::{Code, Status};

/// An answer that etcd did not give, or that says no. Holds no value and no credentials.
#[derive(Debug)]
pub(super) struct RpcError {
    /// The member that was asked, without its password.
    pub(super) member: String,
    pub(super) kind: Kind,
}

#[derive(Debug)]
pub(super) enum Kind {
    /// The connection broke, or the time is up; the server may have done what it was asked.
    Broken(String),
    /// The server answered no: nothing was done.
    Refused(Code, String),
    /// The answer makes no sense.
    Nonsense(&'static str),
}

impl RpcError {
    pub(super) fn from_status(member: &str, status: &Status) -> Self {
        let text = match problem(status) {
            Some(found) => found,
            None => status.message().to_owned(),
        };
        let refused = matches!(
            status.code(),
            Code::InvalidArgument
                | Code::NotFound
                | Code::AlreadyExists
                | Code::PermissionDenied
                | Code::ResourceExhausted
                | Code::FailedPrecondition
                | Code::OutOfRange
                | Code::Unimplemented
                | Code::Unauthenticated
        );
        let kind = if refused && status.source().is_none() {
            Kind::Refused(status.code(), hint(status.message()).unwrap_or(text))
        } else {
            Kind::Broken(text)
        };
        Self {
            member: member.to_owned(),
            kind,
        }
    }

    /// Whether another attempt over a new connection makes sense.
    pub(super) fn is_broken(&self) -> bool {
        matches!(self.kind, Kind::Broken(_))
    }

    /// Whether the wanted revision is no longer there.
    pub(super) fn is_compacted(&self) -> bool {
        matches!(&self.kind, Kind::Refused(Code::OutOfRange, _))
    }

    /// What went wrong, without the member's name.
    pub(super) fn words(self) -> String {
        match self.kind {
            Kind::Broken(text) | Kind::Refused(_, text) => text,
            Kind::Nonsense(text) => format!("its answer {text}"),
        }
    }

    /// The same for the first question over TLS. With TLS 1.3 a server looks at our certificate
    /// after we take the handshake for done; its alert may be lost with the connection.
    pub(super) fn words_after_handshake(self) -> String {
        let words = self.words();
        let gone = ["closed", "reset", "broken pipe", "stream"];
        if gone.iter().any(|it| words.contains(it)) {
            return format!("{MISTRUST}: {words} right after the TLS handshake");
        }
        words
    }

    /// Whether etcd asks to authenticate anew: its tokens last five minutes.
    pub(super) fn is_stale_login(&self) -> bool {
        matches!(&self.kind, Kind::Refused(Code::Unauthenticated, _))
    }
}

impl fmt::Display for RpcError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let member = &self.member;
        match &self.kind {
            Kind::Broken(text) => write!(f, "the connection to etcd at {member} failed: {text}"),
            Kind::Refused(_, text) => write!(f, "etcd at {member} refused: {text}"),
            Kind::Nonsense(text) => write!(f, "the answer of etcd at {member} {text}"),
        }
    }
}

impl Error for RpcError {}

/// A write that failed, and what is known about it.
#[derive(Debug)]
pub(super) struct WriteError(pub(super) RpcError);

impl fmt::Display for WriteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(error) = self;
        match &error.kind {
            Kind::Broken(_) | Kind::Nonsense(_) => write!(
                f,
                "{error}; it is not known whether it was written: read the key again before going on"
            ),
            Kind::Refused(..) => write!(f, "{error}; nothing was written"),
        }
    }
}

impl Error for WriteError {}

/// What etcd's own words mean for the reader.
fn hint(message: &str) -> Option<String> {
    let message = message.trim_start_matches("etcdserver: ");
    let hint = match message {
        "mvcc: database space exceeded" => {
            "its database is full (NOSPACE alarm): compact and defragment it, then disarm the alarm"
        }
        "user name is empty" => {
            "it has authentication on and wants a user: https://user:password@host:port, or a \
             client certificate whose common name is a user"
        }
        "permission denied" => "this user may not use K3s's bootstrap keys: permission denied",
        "authentication failed, invalid user ID or password" => "wrong user or password",
        "authentication is not enabled" => {
            "a user and password are given, but etcd has no authentication on: leave them out"
        }
        _ => return None,
    };
    Some(hint.to_owned())
}

/// The causes of `error` that say something new, the decisive one in words.
pub(super) fn problem(error: &(dyn Error + 'static)) -> Option<String> {
    let mut causes = Vec::new();
    let mut next = error.source();
    while let Some(cause) = next {
        if let Some(words) = tls_problem(cause) {
            return Some(words);
        }
        let text = cause.to_string();
        // The alert that follows a handshake of TLS 1.3 comes as text only.
        if let Some((_, alert)) = text.split_once("received fatal alert: ") {
            return Some(alert_words(alert));
        }
        if text == "Timeout expired" {
            return Some("no answer within 10 s".to_owned());
        }
        if text == "tls handshake eof" {
            return Some(format!("it ended the connection {NO_TLS}"));
        }
        if !causes.contains(&text) && text != "transport error" {
            causes.push(text);
        }
        next = cause.source();
    }
    // The innermost cause says most; the others are layers of the library.
    causes.pop()
}

/// Why no connection was made. What speaks no TLS answers its first message in words and hangs up,
/// and the words may be lost with the connection.
pub(super) fn not_connected(error: &(dyn Error + 'static), https: bool) -> String {
    let text = problem(error).unwrap_or_else(|| error.to_string());
    match https && text.contains("reset by peer") {
        true => format!("{text} {NO_TLS}"),
        false => text,
    }
}

const NO_TLS: &str = "in the TLS handshake: perhaps it speaks http:// there";

/// What rustls found, if `cause` is or holds its error.
fn tls_problem(cause: &(dyn Error + 'static)) -> Option<String> {
    use rustls::{CertificateError as Bad, Error as Tls};

    let inner = cause
        .downcast_ref::<std::io::Error>()
        .and_then(std::io::Error::get_ref)
        .and_then(|inner| inner.downcast_ref::<Tls>());
    let error = cause.downcast_ref::<Tls>().or(inner)?;
    let words = match error {
        Tls::InvalidCertificate(bad) => match bad {
            Bad::UnknownIssuer => {
                "its certificate does not come from a CA that is trusted, or its chain is \
                 incomplete: --datastore-cafile names the CAs, else the system's count"
                    .to_owned()
            }
            Bad::NotValidForName | Bad::NotValidForNameContext { .. } => {
                format!("its certificate is for another name or address ({bad})")
            }
            Bad::Expired | Bad::ExpiredContext { .. } => {
                format!("its certificate has ended ({bad})")
            }
            Bad::NotValidYet | Bad::NotValidYetContext { .. } => {
                format!("its certificate is not valid yet ({bad})")
            }
            other => format!("its certificate is not accepted ({other})"),
        },
        Tls::AlertReceived(alert) => alert_words(&format!("{alert:?}")),
        Tls::InvalidMessage(_) => {
            format!("it does not speak TLS there: perhaps http:// ({error})")
        }
        other => other.to_string(),
    };
    Some(words)
}

const MISTRUST: &str = "it does not accept our client certificate, or misses one";

/// What the server has against us.
fn alert_words(alert: &str) -> String {
    match alert {
        "CertificateRequired" => "it wants a client certificate: give one with its key".to_owned(),
        "BadCertificate"
        | "UnknownCA"
        | "CertificateExpired"
        | "CertificateUnknown"
        | "UnsupportedCertificate" => {
            format!("{MISTRUST} ({alert})")
        }
        other => format!("it ended the TLS handshake ({other})"),
    }
}
