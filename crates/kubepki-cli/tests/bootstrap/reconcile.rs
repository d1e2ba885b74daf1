//! The recorded data in real servers.
