//! The kind of place that a node runs in.

/// Where the service runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Environment {
    /// RS256 alone, no plain HTTP but behind a declared proxy.
    Production,
    /// HS256 will do.
    Development,
}
