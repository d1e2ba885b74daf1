//! K3s's datastores: SQLite, PostgreSQL and MySQL as kine keeps them, and etcd.
//!
//! ```text
//! text of --datastore-endpoint --Endpoint::parse--> Endpoint --open--> Store (Datastore + Archive)
//! ```

mod alive;
mod bolt;
pub mod endpoint;
pub mod etcd;
mod open;
pub mod sql;

pub use alive::is_moving;
pub use endpoint::{Endpoint, Tls};
pub use open::{Access, Store, open};
pub use sql::{MysqlStore, PostgresStore, SqliteStore, make_table, new_sqlite};
