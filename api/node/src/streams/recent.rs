//! The events recorded last, each rendered once: whoever of the streams at the end of the log comes first reads them for
//! all, so that an event is read and rendered once however many are sent it. Bounded; a stream that falls behind reads the
//! past by itself.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex as Lock, MutexGuard, PoisonError};

use fulexo_projections::read_models::audit::IndexedEvent;
use hyper::body::Bytes;
use tokio::sync::Mutex;

/// The most events that are read, or handed out, at a time.
pub const PAGE: u16 = 200;
/// The most events that are kept. A stream that is no further from the end reads on for all.
pub const KEPT: u64 = 2_048;
/// The most bytes that are kept.
const MOST_BYTES: usize = 4 << 20;

/// An event as streams send it.
#[derive(Debug)]
pub struct RecentEvent {
    /// The properties that filters ask for.
    pub indexed: IndexedEvent,
    /// The bytes that are sent.
    pub frame: Bytes,
}

/// The end of the log, as far as a stream has read it.
#[derive(Default)]
pub struct RecentEvents {
    kept: Lock<KeptEvents>,
    /// Held by the one who reads.
    reading: Mutex<()>,
}

/// Events without gaps, up to the one before `next`.
#[derive(Default)]
struct KeptEvents {
    events: VecDeque<Arc<RecentEvent>>,
    next: u64,
    bytes: usize,
}

/// The result of a look at a position.
pub enum Looked {
    /// The event at the position, and those after it: a page at most.
    Here(Vec<Arc<RecentEvent>>),
    /// It is not read yet.
    NotYet,
    /// It is not kept any more.
    Gone,
}

impl RecentEvents {
    /// Looks for the event at this position.
    pub fn look(&self, position: u64) -> Looked {
        let kept = self.kept();
        if position >= kept.next {
            return Looked::NotYet;
        }
        let first = kept.next.saturating_sub(kept.events.len() as u64);
        match position.checked_sub(first).map(usize::try_from) {
            Some(Ok(index)) => {
                Looked::Here(kept.events.range(index..).take(usize::from(PAGE)).map(Arc::clone).collect())
            }
            Some(Err(_)) | None => Looked::Gone,
        }
    }

    /// Has the event at `position`, and those after it, read by `read` from the position that it is given, unless another
    /// stream has read it meanwhile. Events behind a gap are left for later.
    ///
    /// # Errors
    /// Those of `read`.
    pub async fn read_on<F, E>(&self, position: u64, read: impl FnOnce(u64) -> F + Send) -> Result<(), E>
    where
        F: Future<Output = Result<Vec<RecentEvent>, E>> + Send,
    {
        let _one = self.reading.lock().await;
        let from = {
            let mut kept = self.kept();
            if position < kept.next {
                return Ok(());
            }
            // Nobody has read for a while, and nobody will ask for what is in between.
            if position - kept.next > u64::from(PAGE) {
                *kept = KeptEvents { next: position, ..KeptEvents::default() };
            }
            kept.next
        };
        let events = read(from).await?;
        let mut kept = self.kept();
        for event in events {
            if event.indexed.position != kept.next {
                break;
            }
            kept.push(event);
        }
        Ok(())
    }

    fn kept(&self) -> MutexGuard<'_, KeptEvents> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl KeptEvents {
    fn push(&mut self, event: RecentEvent) {
        self.bytes += event.frame.len();
        self.next += 1;
        self.events.push_back(Arc::new(event));
        while self.events.len() as u64 > KEPT || self.bytes > MOST_BYTES {
            let Some(oldest) = self.events.pop_front() else { return };
            self.bytes = self.bytes.saturating_sub(oldest.frame.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use chrono::DateTime;
    use uuid::Uuid;

    use super::*;

    fn event(position: u64, size: usize) -> RecentEvent {
        let indexed = IndexedEvent {
            position,
            id: Uuid::nil(),
            event_type: "session.started",
            category: "session",
            stream: Uuid::nil(),
            subject: None,
            actor: None,
            correlation: Uuid::nil(),
            recorded_at: DateTime::UNIX_EPOCH,
        };
        RecentEvent { indexed, frame: vec![0; size].into() }
    }

    async fn read_on(recent: &RecentEvents, position: u64, events: impl IntoIterator<Item = u64> + Send, size: usize) {
        let events: Vec<_> = events.into_iter().map(|position| event(position, size)).collect();
        let Ok(()) = recent.read_on(position, async |_| Ok::<_, Infallible>(events)).await;
    }

    fn seen(recent: &RecentEvents, position: u64) -> Option<Vec<u64>> {
        match recent.look(position) {
            Looked::Here(events) => Some(events.iter().map(|event| event.indexed.position).collect()),
            Looked::NotYet | Looked::Gone => None,
        }
    }

    #[tokio::test]
    async fn what_one_has_read_the_others_find() {
        let recent = RecentEvents::default();
        assert!(matches!(recent.look(1_000), Looked::NotYet));
        read_on(&recent, 1_000, 1_000..1_003, 1).await;
        assert_eq!(seen(&recent, 1_001), Some(vec![1_001, 1_002]));
        assert!(matches!(recent.look(999), Looked::Gone) && matches!(recent.look(1_003), Looked::NotYet));
        let again = recent.read_on(1_002, async |_| -> Result<Vec<RecentEvent>, &str> { Err("it was read again") });
        assert_eq!(again.await, Ok(()));
    }

    #[tokio::test]
    async fn a_stream_a_little_ahead_has_the_others_read_what_is_in_between() {
        let recent = RecentEvents::default();
        read_on(&recent, 1_000, 1_000..1_003, 1).await;
        let Ok(()) = recent
            .read_on(1_010, async |from| Ok::<_, Infallible>((from..1_012).map(|nth| event(nth, 1)).collect()))
            .await;
        assert_eq!(seen(&recent, 1_002).map(|seen| seen.len()), Some(10));
    }

    #[tokio::test]
    async fn nothing_behind_a_gap_is_kept() {
        let recent = RecentEvents::default();
        read_on(&recent, 5_000, [5_000, 5_001, 5_003], 1).await;
        assert_eq!(seen(&recent, 5_000), Some(vec![5_000, 5_001]));
        assert!(matches!(recent.look(5_003), Looked::NotYet));
        read_on(&recent, 5_002, [5_003], 1).await;
        assert!(matches!(recent.look(5_002), Looked::NotYet));
    }

    #[tokio::test]
    async fn neither_many_events_nor_large_ones_are_kept_without_bound() {
        let recent = RecentEvents::default();
        read_on(&recent, 0, 0..10_000, 10).await;
        assert_eq!(recent.kept().events.len() as u64, KEPT);
        assert!(matches!(recent.look(0), Looked::Gone) && seen(&recent, 9_999).is_some());
        read_on(&recent, 10_000, 10_000..10_300, 65_536).await;
        let kept = recent.kept();
        assert!(kept.bytes <= MOST_BYTES, "{}", kept.bytes);
        assert_eq!(kept.bytes, kept.events.iter().map(|event| event.frame.len()).sum::<usize>());
    }
}
