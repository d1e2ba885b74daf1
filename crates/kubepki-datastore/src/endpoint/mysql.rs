//! `mysql://`: a DSN of Go's MySQL driver, `user:password@tcp(host:port)/database?tls=…`.

use std::fmt;
use std::path::PathBuf;

use kubepki::datastore::DatastoreError;
use zeroize::Zeroizing;

use super::text::{self, Address};
use super::tls::{self, ClientFiles, Roots, Tls};

/// A MySQL or MariaDB server and what to say to it.
///
/// What `tls` means here; K3s's three TLS files win over it, as in kine:
///
/// | given | here |
/// |---|---|
/// | none, `false` | plain text; TLS without a check if the server wants the password encrypted |
/// | `preferred` | TLS without a check if the server has it, else plain text |
/// | `skip-verify` | TLS without a check |
/// | `true` | TLS; chain (system's CAs) and host name are checked |
/// | a TLS file | TLS; chain (of the CA file, else the system's) and host name are checked |
///
/// The client library believes the well-known public CAs besides these; the host name must fit in
/// any case. Over a socket TLS cannot be checked and is refused.
#[derive(Clone, PartialEq, Eq)]
pub struct Mysql {
    /// `None` where the DSN is empty: kine then chooses between two.
    address: Option<Address>,
    pub(crate) user: String,
    pub(crate) password: Option<Zeroizing<String>>,
    pub(crate) database: String,
    mode: Mode,
    /// Whether the password may be sent as it is where the server asks for that.
    pub(crate) cleartext: bool,
}

/// The values of `tls`.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Mode {
    Off,
    Preferred,
    SkipVerify,
    Verify,
    /// A configuration that a Go program registers under a name; K3s has `kine` only.
    Named(String),
}

/// What a DSN and K3s's files come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum MysqlTls {
    /// Plain text.
    Off,
    /// TLS if there is any, unchecked.
    Preferred,
    /// TLS, unchecked.
    Unchecked,
    /// TLS, chain and name checked.
    Checked(Roots, Option<ClientFiles>),
}

const DEFAULT_PORT: u16 = 3306;

impl Mysql {
    /// Where to connect to: kine's default depends on whether TLS is wanted.
    pub(crate) fn address(&self, files: &Tls) -> Address {
        self.address
            .clone()
            .unwrap_or_else(|| match files.is_empty() {
                true => Address::Unix(PathBuf::from("/var/run/mysqld/mysqld.sock"), 0),
                false => Address::Tcp("127.0.0.1".to_owned(), DEFAULT_PORT),
            })
    }

    /// Merges K3s's TLS files as kine does.
    pub(crate) fn tls(&self, files: &Tls) -> Result<MysqlTls, DatastoreError> {
        let endpoint = self.to_string();
        let client = ClientFiles::both(files.cert_file.clone(), files.key_file.clone(), &endpoint)?;
        let mode = match &self.mode {
            _ if !files.is_empty() => {
                let roots = files.ca_file.clone().map_or(Roots::System, Roots::File);
                MysqlTls::Checked(roots, client)
            }
            Mode::Off => MysqlTls::Off,
            Mode::Preferred => MysqlTls::Preferred,
            Mode::SkipVerify => MysqlTls::Unchecked,
            Mode::Verify => MysqlTls::Checked(Roots::System, None),
            Mode::Named(name) => {
                let problem = format!(
                    "tls={name} names a configuration that K3s does not have: give the CA with \
                     --datastore-cafile, or write tls=true, skip-verify or false"
                );
                return Err(tls::refused(&endpoint, problem));
            }
        };
        let socket = matches!(self.address(files), Address::Unix(..));
        if socket && matches!(mode, MysqlTls::Checked(..)) {
            let problem = "over a socket there is no host name to check: write tcp(<host>:<port>), \
                           or leave the TLS options out";
            return Err(tls::refused(&endpoint, problem.to_owned()));
        }
        Ok(mode)
    }
}

impl fmt::Display for Mysql {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let password = if self.password.is_some() { ":***" } else { "" };
        write!(f, "mysql://{}{password}@", self.user)?;
        match &self.address {
            Some(Address::Unix(path, _)) => write!(f, "unix({})", path.display()),
            Some(address) => write!(f, "tcp({address})"),
            None => f.write_str("localhost"),
        }?;
        write!(f, "/{}", self.database)
    }
}

impl fmt::Debug for Mysql {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mysql({self})")
    }
}

/// What follows `mysql://`.
pub(super) fn parse(rest: &str) -> Result<Mysql, String> {
    let mut mysql = Mysql {
        address: None,
        user: "root".to_owned(),
        password: None,
        database: "kubernetes".to_owned(),
        mode: Mode::Off,
        cleartext: false,
    };
    if rest.is_empty() {
        return Ok(mysql);
    }
    // The last / separates: passwords and socket paths may hold others, option values may not.
    let (server, after) = rest.rsplit_once('/').ok_or(
        "the / before the database is missing: <user>:<password>@tcp(<host>:<port>)/<database>",
    )?;
    let (database, query) = after.split_once('?').unwrap_or((after, ""));
    let database = text::unescape(database, false).ok_or("the database has a broken %-escape")?;
    if !database.is_empty() {
        mysql.database = database;
    }
    let (account, network) = match server.rsplit_once('@') {
        Some((account, network)) => (account, network),
        None => ("", server),
    };
    let (user, password) = match account.split_once(':') {
        Some((user, password)) => (user, Some(password)),
        None => (account, None),
    };
    // The driver sends an empty name, which servers take for an anonymous account.
    mysql.user = user.to_owned();
    let password = password.filter(|it| !it.is_empty());
    mysql.password = password.map(|it| Zeroizing::new(it.to_owned()));
    mysql.address = Some(address(network)?);
    options(&mut mysql, query)?;
    Ok(mysql)
}

fn address(network: &str) -> Result<Address, String> {
    let (protocol, inside) = match network.split_once('(') {
        None => (network, None),
        Some((protocol, rest)) => {
            let inside = rest.strip_suffix(')').ok_or(
                "the ) after the address is missing; a / in an option's value must be %2F",
            )?;
            (protocol, Some(inside))
        }
    };
    match (protocol, inside.unwrap_or_default()) {
        ("unix", "") => Ok(Address::Unix(PathBuf::from("/tmp/mysql.sock"), 0)),
        ("unix", path) => Ok(Address::Unix(PathBuf::from(path), 0)),
        ("" | "tcp", "") => Ok(Address::Tcp("127.0.0.1".to_owned(), DEFAULT_PORT)),
        ("" | "tcp" | "tcp4" | "tcp6", inside) => {
            let (host, port) = text::host_and_port(inside, DEFAULT_PORT)?;
            let host = if host.is_empty() {
                "127.0.0.1".to_owned()
            } else {
                host
            };
            Ok(Address::Tcp(host, port))
        }
        // Not repeated: without a / too few, the password can stand here.
        _ => Err("the address is neither tcp(<host>:<port>) nor unix(<path>)".to_owned()),
    }
}

fn options(mysql: &mut Mysql, query: &str) -> Result<(), String> {
    for (name, value) in text::query_pairs(query)? {
        match name.as_str() {
            "tls" => {
                mysql.mode = match value.as_str() {
                    "1" | "true" | "TRUE" | "True" => Mode::Verify,
                    "0" | "false" | "FALSE" | "False" | "" => Mode::Off,
                    other => match other.to_ascii_lowercase().as_str() {
                        "skip-verify" => Mode::SkipVerify,
                        "preferred" => Mode::Preferred,
                        _ if is_word(other) => Mode::Named(other.to_owned()),
                        _ => return Err("the option tls has no value that there is".to_owned()),
                    },
                };
            }
            "allowCleartextPasswords" => mysql.cleartext = matches!(value.as_str(), "1" | "true"),
            // The rest tunes the Go driver or its session and does not change what is stored.
            _ => {}
        }
    }
    Ok(())
}

fn is_word(text: &str) -> bool {
    text.chars()
        .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}
