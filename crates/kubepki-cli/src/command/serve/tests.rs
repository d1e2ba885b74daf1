//! A server's whole life in one process: its clock is moved, everything else is real.
