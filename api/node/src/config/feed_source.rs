//! The place where projections read the log.

/// Where projections read the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FeedSource {
    /// From Postgres.
    Postgres,
    /// From its copy in JetStream, and from Postgres where that has gaps.
    JetStream,
}
