//! The transparency log against specifications, vectors and other implementations, and against whatever is sent.

#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]

mod notes;
mod oracles;
mod readers;
mod vectors;
