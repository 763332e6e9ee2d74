//! The queues in which attempts wait for earlier ones that are in flight: one per counter, on this node. Only the head
//! of a queue polls the database, in order of arrival, so that waiting is cheap. The queues count nothing themselves.

use fulexo_domain::authentication::Factor;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{MutexGuard, Notify};

/// The maximum length of one queue. An address holds no more hashing permits than that.
const MAX_PER_QUEUE: usize = 32;
/// The maximum number of attempts in all queues: half of the hashing permits.
const MAX_TOTAL: usize = 128;

/// A counter, by the HMAC of its key and its factor.
type CounterKey = ([u8; 32], Factor);

/// The queues of this node.
#[derive(Default)]
pub(crate) struct AttemptQueues(Mutex<HashMap<CounterKey, (usize, Arc<AttemptQueue>)>>);

#[derive(Default)]
struct AttemptQueue {
    turn: tokio::sync::Mutex<()>,
    settled: Notify,
}

/// A place in a queue. Dropping it leaves the queue.
pub(crate) struct QueueTicket {
    queues: Arc<AttemptQueues>,
    key: CounterKey,
    queue: Arc<AttemptQueue>,
}

/// An attempt in flight. Dropping it wakes the attempt that waits for it.
pub(crate) struct InFlightAttempt {
    queues: Arc<AttemptQueues>,
    key: CounterKey,
}

impl AttemptQueues {
    /// Joins the queue of a counter. Returns `None` if there is no room.
    pub fn enter(self: &Arc<Self>, key_hash: [u8; 32], factor: Factor) -> Option<QueueTicket> {
        let key = (key_hash, factor);
        let mut queues = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = queues.values().map(|(waiting, _)| waiting).sum();
        let (waiting, queue) = queues.entry(key).or_default();
        if all >= MAX_TOTAL || *waiting >= MAX_PER_QUEUE {
            if *waiting == 0 {
                queues.remove(&key);
            }
            return None;
        }
        *waiting += 1;
        Some(QueueTicket { queues: Arc::clone(self), key, queue: Arc::clone(queue) })
    }

    /// Marks an attempt as in flight until the returned value is dropped.
    pub fn mark_in_flight(self: &Arc<Self>, key_hash: [u8; 32], factor: Factor) -> InFlightAttempt {
        InFlightAttempt { queues: Arc::clone(self), key: (key_hash, factor) }
    }
}

impl QueueTicket {
    /// Waits until this attempt is at the head of the queue.
    pub async fn turn(&self) -> MutexGuard<'_, ()> {
        self.queue.turn.lock().await
    }

    /// Waits until an attempt of this node has settled. Only the head of the queue calls this.
    pub async fn settled(&self) {
        self.queue.settled.notified().await;
    }
}

impl Drop for QueueTicket {
    fn drop(&mut self) {
        let mut queues = self.queues.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut entry) = queues.entry(self.key) {
            let (waiting, _) = entry.get_mut();
            *waiting -= 1;
            if *waiting == 0 {
                entry.remove();
            }
        }
    }
}

impl Drop for InFlightAttempt {
    fn drop(&mut self) {
        let queues = self.queues.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, queue)) = queues.get(&self.key) {
            // If no attempt waits now, the next one receives the notification.
            queue.settled.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn enter(queues: &Arc<AttemptQueues>, number: u8) -> Option<QueueTicket> {
        queues.enter([number; 32], Factor::Password)
    }

    fn fill(queues: &Arc<AttemptQueues>, number: u8) -> Vec<QueueTicket> {
        std::iter::from_fn(|| enter(queues, number)).collect()
    }

    #[test]
    fn a_queue_is_bounded_and_so_are_all_together() {
        let queues = Arc::new(AttemptQueues::default());
        let held: Vec<Vec<QueueTicket>> = (0..4).map(|number| fill(&queues, number)).collect();
        assert!(held.iter().all(|held| held.len() == MAX_PER_QUEUE));
        assert!(enter(&queues, 9).is_none(), "all are taken");
        assert_eq!(queues.0.lock().unwrap().len(), 4, "nothing is kept of a refused attempt");
        drop(held);
        assert!(queues.0.lock().unwrap().is_empty(), "nothing is kept of queues that are over");
        assert!(enter(&queues, 9).is_some());
    }

    #[tokio::test]
    async fn a_turn_ends_with_its_holder_and_a_settled_attempt_wakes_the_next() {
        let queues = Arc::new(AttemptQueues::default());
        let (first, second) = (enter(&queues, 1).unwrap(), enter(&queues, 1).unwrap());
        let turn = first.turn().await;
        assert!(second.queue.turn.try_lock().is_err());
        drop(queues.mark_in_flight([1; 32], Factor::Password));
        first.settled().await;
        drop(turn);
        assert!(second.queue.turn.try_lock().is_ok());
    }
}
