//! `k3s certificate check` and `rotate` as K3s spells them: same files, messages and exit codes.
//!
//! Everything here answers to recordings of K3s v1.36.3, byte for byte. Where we differ on
//! purpose it is said at the place: services can be joined by commas and come in a stable order,
//! an unknown one is answered with the list, copied keys are 0600, a linked `tls` is copied and
//! not linked, and a rotation of a tree that does not exist is an error.
//!
//! [`check`] and [`rotate_plan`] read through a [`Host`](crate::host::Host) and return values;
//! printing and applying are the caller's.

mod backup;
mod check;
mod error;
mod go;
mod humanize;
mod layout;
mod log;
mod moment;
mod read;
mod render;
mod rotate;
mod services;
mod yaml;

pub use check::{CertificateLine, CheckReport, Status, WINDOW_DAYS, check};
pub use error::DropinError;
pub use layout::Layout;
pub use log::{Level, Line, LineStyle};
pub use moment::Moment;
pub use render::{Format, Rendered, render};
pub use rotate::{Rotation, RotationRequest, rotate_plan};
pub use services::{Selection, select};
