//! Servers under load: strangers' TLS libraries that shake hands with `kubepki serve`, and agents
//! that ask it for certificates, while CAs are rotated, servers killed and datastores cut off.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "tests fail by panicking, and start programs themselves"
)]

mod agents;
mod crowd;
mod disk;
mod server;
mod several;
