//! Real servers on loopback, for one test each; they stop when the value goes.

mod etcd;

pub use etcd::{Etcd, EtcdMember, TlsFiles};
