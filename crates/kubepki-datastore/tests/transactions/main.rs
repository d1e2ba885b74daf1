//! Plans that write to real datastores: carried out, cut off, outrun, resumed, taken back.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

mod carry_out;
mod cut;
mod places;
mod proxy;
mod refuse;
mod scene;
