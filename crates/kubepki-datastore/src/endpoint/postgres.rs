//! `postgres://`: a PostgreSQL URL as kine and its driver (pgx) read it.

use std::fmt;
use std::path::PathBuf;

use kubepki::datastore::DatastoreError;
use zeroize::Zeroizing;

use super::text::{self, Address};
use super::tls::{self, ClientFiles, Roots, Tls};

/// A PostgreSQL server and what to say to it.
///
/// What `sslmode` means here; kine sets `verify-full` where one of K3s's three TLS files is given
/// and the URL has no `sslmode` of its own:
///
/// | `sslmode` | here |
/// |---|---|
/// | none, `prefer`, `allow` | TLS without a check if the server has it, else plain text |
/// | `disable` | plain text; refused where a TLS file is given |
/// | `require` | TLS without a check; with a CA file the same as `verify-ca` |
/// | `verify-ca`, `verify-full` | TLS; chain **and host name** are checked |
///
/// Over a socket there is no TLS, as with K3s's driver. `verify-ca` is stricter here than in K3s:
/// the client library believes the well-known public CAs besides the given one, and without the
/// host name any of their customers could pose as the server.
#[derive(Clone, PartialEq, Eq)]
pub struct Postgres {
    pub(crate) address: Address,
    pub(crate) user: String,
    pub(crate) password: Option<Zeroizing<String>>,
    pub(crate) database: String,
    pub(crate) ssl_mode: Option<SslMode>,
    pub(crate) root_cert: Option<PathBuf>,
    pub(crate) cert: Option<PathBuf>,
    pub(crate) key: Option<PathBuf>,
    /// `search_path` and others, set at the start of the session.
    pub(crate) parameters: Vec<(String, String)>,
}

/// The values of `sslmode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SslMode {
    Disable,
    Allow,
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

impl SslMode {
    const ALL: [(Self, &str); 6] = [
        (Self::Disable, "disable"),
        (Self::Allow, "allow"),
        (Self::Prefer, "prefer"),
        (Self::Require, "require"),
        (Self::VerifyCa, "verify-ca"),
        (Self::VerifyFull, "verify-full"),
    ];

    fn name(self) -> &'static str {
        Self::ALL
            .iter()
            .find(|it| it.0 == self)
            .map_or("", |it| it.1)
    }
}

/// What a URL and K3s's files come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PostgresTls {
    /// Plain text.
    Off,
    /// TLS if there is any, unchecked.
    Preferred(Option<ClientFiles>),
    /// TLS, unchecked.
    Unchecked(Option<ClientFiles>),
    /// TLS, chain and name checked.
    Checked(Roots, Option<ClientFiles>),
}

impl Postgres {
    /// Merges K3s's TLS files as kine does: what the URL says comes first.
    pub(crate) fn tls(&self, files: &Tls) -> Result<PostgresTls, DatastoreError> {
        let endpoint = self.to_string();
        let root = self.root_cert.clone().or_else(|| files.ca_file.clone());
        let cert = self.cert.clone().or_else(|| files.cert_file.clone());
        let key = self.key.clone().or_else(|| files.key_file.clone());
        let any = root.is_some() || cert.is_some() || key.is_some();
        let mode = match self.ssl_mode {
            Some(mode) => mode,
            None if !files.is_empty() => SslMode::VerifyFull,
            None => SslMode::Prefer,
        };
        // As pgx and libpq do: what goes through a socket never leaves the machine.
        if matches!(self.address, Address::Unix(..)) {
            return Ok(PostgresTls::Off);
        }
        if mode == SslMode::Disable && any {
            return Err(tls::refused(
                &endpoint,
                "sslmode=disable contradicts the TLS files that are given with it, and would \
                 send the password in plain text: leave one of them out"
                    .to_owned(),
            ));
        }
        let client = ClientFiles::both(cert, key, &endpoint)?;
        let checked = |root: Option<PathBuf>, client| {
            PostgresTls::Checked(root.map_or(Roots::System, Roots::File), client)
        };
        Ok(match mode {
            SslMode::Disable => PostgresTls::Off,
            SslMode::Allow | SslMode::Prefer => PostgresTls::Preferred(client),
            SslMode::Require if root.is_none() => PostgresTls::Unchecked(client),
            SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => checked(root, client),
        })
    }
}

impl fmt::Display for Postgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let password = if self.password.is_some() { ":***" } else { "" };
        let Self {
            user,
            address,
            database,
            ..
        } = self;
        write!(f, "postgres://{user}{password}@{address}/{database}")?;
        match self.ssl_mode {
            Some(mode) => write!(f, "?sslmode={}", mode.name()),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Postgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Postgres({self})")
    }
}

/// What follows `postgres://`.
pub(super) fn parse(rest: &str) -> Result<Postgres, String> {
    // kine's own default.
    let rest = if rest.is_empty() {
        "postgres:postgres@localhost"
    } else {
        rest
    };
    if rest.contains('#') {
        return Err("# begins a fragment: write it as %23".to_owned());
    }
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (userinfo, host) = match authority.rsplit_once('@') {
        Some((userinfo, host)) => (Some(userinfo), host),
        None => (None, authority),
    };
    if host.contains(',') {
        return Err("several hosts: name the one that takes writes".to_owned());
    }
    let (host, port) = text::host_and_port(host, 5432)?;
    let mut draft = Draft {
        host,
        port,
        ..Draft::default()
    };
    if let Some(userinfo) = userinfo {
        let (user, password) = match userinfo.split_once(':') {
            Some((user, password)) => (user, Some(password)),
            None => (userinfo, None),
        };
        const BROKEN: &str = "user or password has a broken %-escape: write % as %25";
        draft.user = Some(text::unescape(user, false).ok_or(BROKEN)?);
        let password = password.map(|it| text::unescape(it, false).ok_or(BROKEN));
        draft.password = password.transpose()?.map(Zeroizing::new);
    }
    // kine lower-cases the path, since it creates the database without quotes.
    let database = text::unescape(path, false).ok_or("the database has a broken %-escape")?;
    draft.database = database.to_lowercase();
    for (name, value) in text::query_pairs(query)? {
        draft.option(&name, value)?;
    }
    draft.finish()
}

#[derive(Default)]
struct Draft {
    host: String,
    port: u16,
    user: Option<String>,
    password: Option<Zeroizing<String>>,
    database: String,
    ssl_mode: Option<SslMode>,
    root_cert: Option<PathBuf>,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
    parameters: Vec<(String, String)>,
}

impl Draft {
    /// One option of the query; kine takes the first where one is there twice, and the driver
    /// lets options win over the rest of the URL.
    fn option(&mut self, name: &str, value: String) -> Result<(), String> {
        match name {
            "host" => self.host = value,
            "port" => {
                self.port = value
                    .parse()
                    .map_err(|_| "the option port is not a number from 1 to 65535")?;
            }
            "user" => self.user = Some(value),
            "password" => self.password = Some(Zeroizing::new(value)),
            "dbname" | "database" => self.database = value,
            "sslmode" => {
                let known = SslMode::ALL.iter().find(|it| it.1 == value);
                let names: Vec<&str> = SslMode::ALL.iter().map(|it| it.1).collect();
                let (mode, _) =
                    known.ok_or_else(|| format!("sslmode must be one of {}", names.join(", ")))?;
                self.ssl_mode = Some(*mode);
            }
            "sslrootcert" if value == "system" => {}
            "sslrootcert" => self.root_cert = Some(PathBuf::from(value)),
            "sslcert" => self.cert = Some(PathBuf::from(value)),
            "sslkey" => self.key = Some(PathBuf::from(value)),
            "sslpassword" => {
                return Err("an encrypted sslkey is not supported: decrypt it first".to_owned());
            }
            // How pgx itself works; nothing that the server is told.
            "connect_timeout"
            | "sslsni"
            | "sslnegotiation"
            | "sslinline"
            | "passfile"
            | "target_session_attrs"
            | "statement_cache_capacity"
            | "default_query_exec_mode"
            | "description_cache_capacity"
            | "min_read_buffer_size"
            | "krbspn"
            | "krbsrvname"
            | "service"
            | "servicefile"
            | "channel_binding"
            | "fallback_application_name" => {}
            _ => {
                let plain = |c: char| c.is_ascii_alphanumeric() || "_.".contains(c);
                if name.is_empty() || !name.chars().all(plain) {
                    return Err("an option after ? has a name that none may have".to_owned());
                }
                self.parameters.push((name.to_owned(), value));
            }
        }
        Ok(())
    }

    fn finish(self) -> Result<Postgres, String> {
        let address = match self.host.as_str() {
            "" => Address::Tcp("localhost".to_owned(), self.port),
            host if host.starts_with('/') => Address::Unix(PathBuf::from(host), self.port),
            host => Address::Tcp(host.to_owned(), self.port),
        };
        let database = match self.database.as_str() {
            "" => "kubernetes",
            name => name,
        };
        Ok(Postgres {
            address,
            // pgx takes the name of the process's user, and K3s's is root.
            user: self
                .user
                .filter(|it| !it.is_empty())
                .unwrap_or_else(|| "root".to_owned()),
            password: self.password,
            database: database.to_owned(),
            ssl_mode: self.ssl_mode,
            root_cert: self.root_cert,
            cert: self.cert,
            key: self.key,
            parameters: self.parameters,
        })
    }
}
