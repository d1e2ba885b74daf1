//! K3s's bootstrap data: what every server of a cluster shares, encrypted with the token in the
//! datastore (K3s `pkg/bootstrap`, `pkg/cluster`; reference section 4).
//!
//! ```text
//! datastore value --open(passphrase)--> JSON --Bundle::parse--> Bundle: field -> content, time
//! ```

mod bundle;
mod field;
mod read;
mod seal;

pub use bundle::{Bundle, BundleError, SharedFile, Stamp};
pub use field::Field;
pub use read::{ReadError, read_directory};
pub use seal::{KEY_PREFIX, Passphrase, SealError, is_lock, open, seal};
