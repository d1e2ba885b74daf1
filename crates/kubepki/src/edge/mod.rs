//! Clock, randomness and keys, by argument: the doors through which the world enters pure code.

mod clock;
pub mod directory;
mod entropy;
pub mod file;
mod keys;

pub use clock::{Clock, FixedClock, SystemClock};
pub use entropy::{Entropy, FreshKeys, KeySource, SystemEntropy};
pub use keys::{KeyStock, generate_all};
