//! The source of the log for projections.

/// The source of the log for projections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FeedSource {
    /// The log in PostgreSQL.
    Postgres,
    /// The copy in JetStream, and PostgreSQL for gaps.
    JetStream,
}
