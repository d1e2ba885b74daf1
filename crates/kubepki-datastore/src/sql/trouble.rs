//! What the client library's errors mean, in words that say what to do.

use std::fmt;
use std::io;
use std::time::Duration;

use kubepki::datastore::DatastoreError;
use sqlx::error::ErrorKind;

/// Which database this is, for errors: the endpoint without its password.
#[derive(Clone)]
pub(super) struct Place {
    pub(super) endpoint: String,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.endpoint)
    }
}

/// What an error inside a transaction means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The unique index on name and `prev_revision`: another writer replaced the row first.
    LostRace,
    /// A taken id, a deadlock, a serialisation failure: nothing to do with our key.
    Collision,
    /// Everything else.
    Other,
}

/// PostgreSQL, MySQL and SQLite have codes of their own for the same things.
fn code(error: &sqlx::Error) -> Option<String> {
    let database = error.as_database_error()?;
    if let Some(mysql) = database.try_downcast_ref::<sqlx::mysql::MySqlDatabaseError>() {
        return Some(mysql.number().to_string());
    }
    database.code().map(|code| code.into_owned())
}

/// An error of a question, or of a write before its commit.
pub(super) fn of_question(place: &Place, action: &str, error: sqlx::Error) -> DatastoreError {
    let malformed = |problem: String| DatastoreError::Malformed {
        place: place.to_string(),
        problem,
    };
    match &error {
        sqlx::Error::ColumnDecode { index, source } => {
            let column = index.trim_matches('"');
            return malformed(format!(
                "column {column} of the table kine is not of the kind that K3s makes: {source}"
            ));
        }
        sqlx::Error::Database(database) => {
            let code = code(&error).unwrap_or_default();
            let message = database.message();
            match code.as_str() {
                "42P01" | "1146" => return malformed(NO_TABLE.to_owned()),
                "42703" | "1054" => {
                    return malformed(format!("its table kine is not K3s's: {message}"));
                }
                "42501" | "1142" | "1143" => {
                    return DatastoreError::Unreachable {
                        endpoint: place.endpoint.clone(),
                        problem: "the user may not do this with the table kine: use K3s's own \
                                  account"
                            .to_owned(),
                        source: Some(Box::new(error)),
                    };
                }
                _ => {}
            }
            if let Some(error) = of_sqlite(place, message, &code) {
                return error;
            }
        }
        _ => {}
    }
    DatastoreError::Failed {
        action: action.to_owned(),
        source: Box::new(error),
    }
}

/// `SQLITE_CANTOPEN`.
pub(super) const CANNOT_OPEN: i32 = 14;
/// `SQLITE_READONLY`.
pub(super) const READ_ONLY: i32 = 8;

const NO_TABLE: &str = "it has no table kine: K3s never started on it, or this is not the \
                        database that K3s uses";

fn of_sqlite(place: &Place, message: &str, code: &str) -> Option<DatastoreError> {
    let kind = code.parse::<i32>().map_or(0, |code| code & 0xff);
    if kind == READ_ONLY {
        return Some(DatastoreError::ReadOnly {
            place: place.to_string(),
            way_out: "the file, or its directory, cannot be written by this user: run as root, \
                      on a file system that is mounted for writing"
                .to_owned(),
        });
    }
    if kind == CANNOT_OPEN {
        return Some(DatastoreError::Unreachable {
            endpoint: place.endpoint.clone(),
            problem: "the file may not be opened by this user, or SQLite cannot make what it \
                      needs beside it: run as root, or copy the file and its -wal to another \
                      directory"
                .to_owned(),
            source: None,
        });
    }
    let problem = match code {
        "1" if message.starts_with("no such table") => NO_TABLE.to_owned(),
        "1" if message.starts_with("no such column") => {
            format!("its table kine is not K3s's: {message}")
        }
        "26" => "the file is not an SQLite database".to_owned(),
        "11" | "267" | "523" | "779" => {
            "the file is damaged; restore it from a backup, or repair it with sqlite3's .recover"
                .to_owned()
        }
        _ => return None,
    };
    Some(DatastoreError::Malformed {
        place: place.to_string(),
        problem,
    })
}

/// An error of the attempt to connect; `roots` names whose certificates are believed.
pub(super) fn of_connecting(place: &Place, roots: &str, error: sqlx::Error) -> DatastoreError {
    let problem = match &error {
        sqlx::Error::Io(it) => of_tls(it.get_ref(), roots).unwrap_or_else(|| of_io(it)),
        sqlx::Error::Tls(it) if it.to_string().contains("does not support TLS") => {
            "TLS is asked for and the server has none; nothing was sent in plain text".to_owned()
        }
        sqlx::Error::Tls(it) => {
            of_tls(Some(it.as_ref()), roots).unwrap_or_else(|| format!("no TLS: {it}"))
        }
        sqlx::Error::Database(database) => {
            of_refusal(&code(&error).unwrap_or_default(), database.message())
        }
        _ if wants_rsa(&error) => {
            "it wants the password encrypted (caching_sha2_password) and has \
                                   no TLS: turn its TLS on, or give the user the plugin \
                                   mysql_native_password"
                .to_owned()
        }
        other => format!("it answers in a way that is not understood: {other}"),
    };
    DatastoreError::Unreachable {
        endpoint: place.endpoint.clone(),
        problem,
        source: Some(Box::new(error)),
    }
}

/// Whether MySQL asks for a password encrypted with its RSA key.
pub(super) fn wants_rsa(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Configuration(it) if it.to_string().contains("RSA"))
}

fn of_io(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => {
            "nobody listens there: is the database running, and are host and port right?"
        }
        io::ErrorKind::NotFound => {
            "the socket, or the host name, does not exist: is the database running here?"
        }
        io::ErrorKind::PermissionDenied => "the socket may not be used: run as root",
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => {
            "the connection was closed while it was being made: a wrong port, or a server that \
             wants TLS or a client certificate"
        }
        _ => return format!("the connection fails: {error}"),
    }
    .to_owned()
}

/// rustls's verdict, where one is inside.
fn of_tls(
    inner: Option<&(dyn std::error::Error + Send + Sync + 'static)>,
    roots: &str,
) -> Option<String> {
    use rustls::{AlertDescription, CertificateError, Error};

    let error = inner?.downcast_ref::<Error>()?;
    Some(match error {
        Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
            format!("its certificate is not trusted: no CA of {roots} issued it")
        }
        Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => "its certificate is not for this host: use a name that stands in the certificate"
            .to_owned(),
        Error::InvalidCertificate(
            CertificateError::Expired | CertificateError::ExpiredContext { .. },
        ) => "its certificate has expired".to_owned(),
        Error::InvalidCertificate(
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. },
        ) => "its certificate is not valid yet".to_owned(),
        Error::InvalidCertificate(other) => format!("its certificate is refused: {other}"),
        Error::AlertReceived(AlertDescription::CertificateRequired) => {
            "it wants a client certificate: give --datastore-certfile and --datastore-keyfile"
                .to_owned()
        }
        Error::AlertReceived(
            AlertDescription::UnknownCA
            | AlertDescription::BadCertificate
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateExpired
            | AlertDescription::DecryptError,
        ) => "it refuses our client certificate".to_owned(),
        Error::InconsistentKeys(_) => {
            "our client certificate and its key do not belong together".to_owned()
        }
        other => format!("no TLS: {other}"),
    })
}

/// The database's own refusal of a connection.
fn of_refusal(code: &str, message: &str) -> String {
    match code {
        "28P01" => "it refuses user or password".to_owned(),
        "1045" | "1698" => {
            "it refuses user or password, or wants TLS or a client certificate from this user"
                .to_owned()
        }
        "28000" if message.contains("client certificate") => {
            "it wants a client certificate: give --datastore-certfile and --datastore-keyfile"
                .to_owned()
        }
        "28000" => format!("its rules (pg_hba.conf) let us not in: {message}"),
        "3D000" | "1049" => {
            "it has no such database: K3s never started on it, or the endpoint names another"
                .to_owned()
        }
        "1044" | "42501" => "the user may not use this database".to_owned(),
        "53300" | "1040" => "it has no connection left".to_owned(),
        "57P03" => "it is starting or stopping".to_owned(),
        "3159" => "it takes connections under TLS only: set the TLS options".to_owned(),
        _ => format!("it refuses: {message}"),
    }
}

/// Nobody answered in time.
pub(super) fn too_slow(action: String, limit: Duration) -> DatastoreError {
    let text = format!("no answer within {} s", limit.as_secs());
    DatastoreError::Failed {
        action,
        source: Box::new(io::Error::new(io::ErrorKind::TimedOut, text)),
    }
}

/// Nobody answered the attempt to connect.
pub(super) fn no_answer(place: &Place, limit: Duration) -> DatastoreError {
    DatastoreError::Unreachable {
        endpoint: place.endpoint.clone(),
        problem: format!("no answer within {} s", limit.as_secs()),
        source: None,
    }
}

/// Whether a unique index was violated, whichever.
pub(super) fn is_unique_violation(error: &sqlx::Error) -> bool {
    let kind = error.as_database_error().map(|it| it.kind());
    kind.is_some_and(|kind| matches!(kind, ErrorKind::UniqueViolation))
}

/// Whether SQLite's code is one of `codes`, in any of its shades.
pub(super) fn is_sqlite(error: &sqlx::Error, codes: &[i32]) -> bool {
    let code = code(error).and_then(|code| code.parse::<i32>().ok());
    code.is_some_and(|code| codes.contains(&(code & 0xff)))
}

/// Whether the database's code is one of `codes`.
pub(super) fn has_code(error: &sqlx::Error, codes: &[&str]) -> bool {
    code(error).is_some_and(|code| codes.contains(&code.as_str()))
}
