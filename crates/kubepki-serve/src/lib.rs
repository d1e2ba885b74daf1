//! The server side: a supervisor that K3s agents and tools can talk to.
//!
//! ```text
//! connection --TLS--> peer --HTTP--> request --who--> identity --may--> endpoint --what--> leaf
//!                                                                           |
//!                                                    issuance log <---------+ before the answer
//! ```
//!
//! Who a caller is, what it may ask for and what a request for a certificate gets are pure
//! functions; the HTTP layer only carries their answers.

pub mod accept;
pub mod access;
mod bucket;
pub mod cluster;
pub mod config;
mod date;
pub mod ending;
pub mod forgotten;
pub mod guess;
mod head;
pub mod health;
mod http;
pub mod issuance;
mod issuing;
pub mod leaf;
mod ledger;
pub mod listener;
mod lookups;
pub mod metrics;
pub mod names;
pub mod node;
pub mod notify;
pub mod password;
mod put;
pub mod quiet;
pub mod renewal;
pub mod reserved;
pub mod route;
pub mod service;
mod signs;
pub mod status;
pub mod throttle;
pub mod tls;
pub mod token;
pub mod tree;
mod tunnel;
mod wishes;
