//! The environment of a node.

/// The environment of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Environment {
    /// Production: only RS256, and plain HTTP only behind a declared proxy.
    Production,
    /// Development: HS256 is accepted, too.
    Development,
}
