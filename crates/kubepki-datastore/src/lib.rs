//! K3s's datastores: SQLite, PostgreSQL and MySQL as kine keeps them, and etcd.

mod bolt;
pub mod etcd;
