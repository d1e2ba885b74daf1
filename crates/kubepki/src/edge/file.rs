//! Writing files on this machine so that a crash leaves either the old or the new one.
