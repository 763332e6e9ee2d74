//! The bounds of a test, and the halt of a probe.

use std::time::Duration;

/// The bounds of a test.
#[derive(Clone, Copy, Debug)]
pub struct TestBounds {
    /// The most requests in all.
    pub requests: u32,
    /// The most requests per second.
    pub rate: u32,
    /// The most time that the probes take. Cleaning up has a minute more.
    pub time: Duration,
}

/// A probe could not go on.
#[derive(Clone, Debug)]
pub struct Halt(pub String);
