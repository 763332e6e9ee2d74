//! The log in order and without gaps, or an error: a reader that applies what a feed returns misses nothing.
//!
//! There are two feeds. [`PostgresFeed`] reads the log itself. [`JetStreamFeed`] returns what the copy in JetStream has
//! delivered to this node, and reads the log itself where that has gaps or is not authentic.

mod jetstream;
mod postgres;
mod read;

pub use self::jetstream::{FeedCounts, FeedListener, JetStreamFeed, MessageVerifier};
pub(crate) use self::postgres::LogEventRow;
pub use self::postgres::{LogReader, PostgresFeed, read, size};
pub use self::read::{Feed, FeedError, ReadFuture};
