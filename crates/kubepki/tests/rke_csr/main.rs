//! Requests, a company's CA, and the judgement of what it sends back.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "tests fail by panicking"
)]

mod directory;
mod generate;
mod lab;
mod status;
mod verify;
mod wrong;
