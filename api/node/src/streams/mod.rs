//! The shared parts of a node's open event streams: their places, the events that all of them are sent, and the turns in which
//! they ask the database, so that they leave its connections to others. It reads nothing itself.

mod copy_records;
mod places;
mod recent;

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{Semaphore, watch};

pub use self::copy_records::CopyRecords;
pub use self::places::{NoPlace, StreamPlace, StreamPlaces};
pub use self::recent::{KEPT, Looked, PAGE, RecentEvent, RecentEvents};

/// The most streams of one account or API key at a time.
pub const MOST_OF_CALLER: usize = 5;
/// The most streams of a node at a time.
pub const MOST_OF_NODE: usize = 200;

/// The most exports of a node at a time. Each keeps a page of at most 256 leaves in memory.
pub const MAX_EXPORTS: usize = 8;
/// The most exports of one account or API key at a time.
pub const MAX_EXPORTS_OF_CALLER: usize = 2;
/// The most exports of people's own data under way at a node, each of another person.
pub const MAX_OWN_EXPORTS: usize = 4;

/// The open streams of a node.
pub struct EventStreams {
    /// The places of open streams.
    pub places: StreamPlaces,
    /// The events recorded last, which one stream reads for all.
    pub recent: RecentEvents,
    /// Streams that read the past at a time.
    pub reading: Semaphore,
    /// Streams whose caller the tables judge at a time: others are judged there, too.
    pub judging: Semaphore,
    sent: AtomicU64,
    closing: watch::Sender<bool>,
}

impl Default for EventStreams {
    fn default() -> Self {
        Self {
            places: StreamPlaces::new(MOST_OF_CALLER, MOST_OF_NODE),
            recent: RecentEvents::default(),
            reading: Semaphore::new(1),
            judging: Semaphore::new(1),
            sent: AtomicU64::new(0),
            closing: watch::Sender::new(false),
        }
    }
}

impl EventStreams {
    /// Ends every stream, and each one that is opened from now on: the node begins to stop.
    pub fn close(&self) {
        self.closing.send_replace(true);
    }

    /// Returns once the streams are to end.
    pub async fn closed(&self) {
        // The sender lives as long as `self`.
        let _ = self.closing.subscribe().wait_for(|closing| *closing).await;
    }

    /// Counts events that were sent.
    pub fn count_sent(&self, events: u64) {
        self.sent.fetch_add(events, Ordering::Relaxed);
    }

    /// The number of events that streams have been sent since the start.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}
