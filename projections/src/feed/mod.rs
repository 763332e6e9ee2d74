//! The log in order, contiguous or not at all: whoever applies what it gives has missed nothing.
//!
//! Two feeds. [`PostgresFeed`] reads the log itself. [`JetStreamFeed`] hands over what the copy in JetStream has brought
//! to this node, and reads the log itself wherever that is not contiguous, or not believed.

mod jetstream;
mod postgres;
mod reading;

pub use self::jetstream::{Counts, IsGenuine, JetStreamFeed, Listener};
pub(crate) use self::postgres::Row;
pub use self::postgres::{PostgresFeed, Replay, read, size};
pub use self::reading::{Feed, FeedError, Reading};
