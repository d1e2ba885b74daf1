//! K3s's `--datastore-endpoint` and its TLS files (K3s `pkg/cli/cmds/server.go`; kine
//! `pkg/endpoint` and its drivers).

mod mysql;
mod postgres;
#[cfg(test)]
mod properties;
mod sqlite;
#[cfg(test)]
mod tests;
mod text;
mod tls;

use std::fmt;

use kubepki::datastore::DatastoreError;

pub use mysql::Mysql;
pub(crate) use mysql::MysqlTls;
pub use postgres::Postgres;
pub(crate) use postgres::PostgresTls;
pub use sqlite::SqliteFile;
pub(crate) use text::Address;
pub(crate) use tls::Roots;
pub use tls::Tls;

/// Where a K3s server keeps its data.
///
/// Shown, it is without its password, in plans and errors too.
#[derive(Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// A file: no endpoint, `sqlite`, `sqlite://…`.
    Sqlite(SqliteFile),
    /// `postgres://…`, `postgresql://…`.
    Postgres(Postgres),
    /// `mysql://…`, MariaDB's too.
    Mysql(Mysql),
    /// `http://…` or `https://…`, several with commas between them.
    Etcd {
        /// The members' URLs as they were given.
        urls: Vec<String>,
    },
}

impl Endpoint {
    /// Reads an endpoint as K3s does; an empty one is K3s's own SQLite file. (With
    /// `--cluster-init` or `--server` K3s has its embedded etcd instead: the caller knows.)
    ///
    /// # Errors
    ///
    /// [`DatastoreError::Endpoint`], which never repeats a password.
    pub fn parse(text: &str) -> Result<Self, DatastoreError> {
        let text = text.trim();
        let refused = |problem: String| DatastoreError::Endpoint {
            endpoint: text::veiled(text),
            problem,
        };
        if text.chars().any(char::is_control) {
            return Err(refused(
                "it holds a line end or another control character".to_owned(),
            ));
        }
        let Some((scheme, rest)) = text.split_once("://") else {
            return match text {
                "" | "sqlite" => Ok(Self::Sqlite(SqliteFile::default())),
                _ => Err(refused(
                    "it has no ://, so that K3s would use its SQLite file; write sqlite://, \
                     postgres://, mysql:// or https://"
                        .to_owned(),
                )),
            };
        };
        match scheme {
            "sqlite" => sqlite::parse(rest).map(Self::Sqlite),
            "postgres" | "postgresql" => postgres::parse(rest).map(Self::Postgres),
            "mysql" => mysql::parse(rest).map(Self::Mysql),
            "http" | "https" => etcd(text),
            _ => Err(unsupported(scheme)),
        }
        .map_err(refused)
    }

    /// Itself for people, without its password.
    pub fn describe(&self) -> String {
        self.to_string()
    }
}

fn etcd(text: &str) -> Result<Endpoint, String> {
    let urls: Vec<String> = text.split(',').map(|url| url.trim().to_owned()).collect();
    let bad = urls.iter().any(|url| {
        let rest = url
            .strip_prefix("https://")
            .or_else(|| url.strip_prefix("http://"));
        rest.is_none_or(str::is_empty)
    });
    if bad {
        return Err(
            "every etcd member needs https://<host>:<port>, with commas between them".to_owned(),
        );
    }
    Ok(Endpoint::Etcd { urls })
}

fn unsupported(scheme: &str) -> String {
    let what = match scheme {
        "nats" | "jetstream" => "NATS is not supported",
        "dqlite" => "Dqlite left K3s long ago and is not supported",
        "t4" => "T4 is not supported",
        "unix" | "unixs" => "a kine that runs by itself is not supported",
        _ => "its scheme is not one of K3s's",
    };
    format!("{what}; sqlite, postgres, mysql, http and https (etcd) are")
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(file) => file.fmt(f),
            Self::Postgres(address) => address.fmt(f),
            Self::Mysql(address) => address.fmt(f),
            Self::Etcd { urls } => {
                for (index, url) in urls.iter().enumerate() {
                    let comma = if index == 0 { "" } else { "," };
                    write!(f, "{comma}{}", text::without_user(url))?;
                }
                Ok(())
            }
        }
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Endpoint({self})")
    }
}
