//! The cluster's CAs.

pub mod verify;
