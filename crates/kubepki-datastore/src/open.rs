//! From an endpoint to a datastore that answers.

use std::path::Path;

use kubepki::datastore::{Archive, Board, DatastoreError};

use crate::endpoint::{Endpoint, Tls};
use crate::etcd::EtcdStore;
use crate::sql::{MysqlStore, PostgresStore, SqliteStore};

/// What a caller is going to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reading only; the datastore itself is told so, where it can be.
    Read,
    /// Writing too.
    Write,
}

/// A datastore whose past can be looked at: everything that [`open`] opens.
pub trait Store: Archive + Board {}

impl<T: Archive + Board> Store for T {}

/// Connects to `endpoint` and makes sure that K3s keeps its data there.
///
/// `server_dir` is K3s's `<data-dir>/server`, from where its SQLite file is found.
///
/// # Errors
///
/// [`DatastoreError::Endpoint`] for options that contradict each other,
/// [`DatastoreError::Unreachable`] where nobody answers, is trusted or lets us in, and
/// [`DatastoreError::Malformed`] where the table is missing or is not kine's.
pub async fn open(
    endpoint: &Endpoint,
    tls: &Tls,
    server_dir: &Path,
    access: Access,
) -> Result<Box<dyn Store>, DatastoreError> {
    Ok(match endpoint {
        Endpoint::Sqlite(file) => {
            Box::new(SqliteStore::open(&file.path_below(server_dir), access).await?)
        }
        Endpoint::Postgres(address) => {
            Box::new(PostgresStore::connect(address, tls, access).await?)
        }
        Endpoint::Mysql(address) => Box::new(MysqlStore::connect(address, tls, access).await?),
        Endpoint::Etcd { urls } => Box::new(EtcdStore::connect(urls, tls).await?),
    })
}
