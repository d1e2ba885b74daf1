//! This machine.

/// This machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct LocalHost;
