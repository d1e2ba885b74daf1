//! How a K3s node is configured, as far as certificates are concerned.
//!
//! K3s takes a flag first, then `config.yaml.d`, `config.yaml`, the environment, its default. The
//! pieces of text are read by pure functions into [`Layer`]s; [`K3sConfig::merge`] lays them over
//! each other, and every value remembers where it was written. [`discover()`] finds the pieces on a
//! host.

mod agents;
mod config;
mod connection;
mod discover;
mod flags;
mod layer;
mod unit;

pub use agents::{ForAgents, PortRange};
pub use config::{ConfigError, DatastoreKind, Found, K3sConfig};
pub use connection::Connection;
pub use discover::{Places, discover, discover_connection};
pub use flags::{FlagLine, flag_lines};
pub use layer::{Layer, Setting};
pub use unit::{Unit, environment_file};

#[cfg(test)]
mod tests;
