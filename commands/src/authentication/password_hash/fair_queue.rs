//! A queue in which origins take turns: an origin with many waiting items delays each other origin by one item per
//! turn.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

/// An item of the queue.
pub(super) trait QueueItem {
    /// Neighbours of one kind may be taken together.
    type BatchKind: PartialEq;

    /// Returns its kind.
    fn kind(&self) -> Self::BatchKind;

    /// Returns the maximum number of its kind in one batch.
    fn most_at_once(&self) -> usize;

    /// Returns `true` if a caller still waits for it.
    fn is_wanted(&self) -> bool;
}

/// The waiting items, by origin.
pub(super) struct FairQueue<O, T> {
    waiting: HashMap<O, VecDeque<T>>,
    /// The origins with waiting items, each once; the first is next.
    order: VecDeque<O>,
}

impl<O, T> Default for FairQueue<O, T> {
    fn default() -> Self {
        Self { waiting: HashMap::new(), order: VecDeque::new() }
    }
}

impl<O: Copy + Eq + Hash, T: QueueItem> FairQueue<O, T> {
    /// Adds an item after the others of its origin.
    pub fn push(&mut self, origin: O, item: T) {
        let waiting = self.waiting.entry(origin).or_default();
        if waiting.is_empty() {
            self.order.push_back(origin);
        }
        waiting.push_back(item);
    }

    /// Returns the origin of all waiting items, if there is exactly one.
    pub fn only(&self) -> Option<O> {
        self.order.front().copied().filter(|_| self.order.len() == 1)
    }

    /// Returns the number of waiting items.
    pub fn len(&self) -> usize {
        self.waiting.values().map(VecDeque::len).sum()
    }

    /// Drops the items that no caller waits for any more.
    pub fn forget_unwanted(&mut self) {
        self.waiting.retain(|_, waiting| {
            waiting.retain(T::is_wanted);
            !waiting.is_empty()
        });
        self.order.retain(|origin| self.waiting.contains_key(origin));
    }

    /// Takes up to `share` items of one kind, the origins in turn, and at most `of_one` items per origin.
    pub fn take(&mut self, share: usize, of_one: usize) -> Vec<T> {
        let mut taken: Vec<T> = Vec::new();
        let mut by: HashMap<O, usize> = HashMap::new();
        while let Some(origin) = self.order.front().copied() {
            let Some(waiting) = self.waiting.get_mut(&origin) else { break };
            let fits = match (taken.first(), waiting.front()) {
                (Some(first), Some(next)) => {
                    first.kind() == next.kind() && taken.len() < share.min(first.most_at_once())
                }
                (None, Some(_)) => true,
                (_, None) => false,
            };
            let count = by.entry(origin).or_default();
            if !fits || *count >= of_one {
                break;
            }
            *count += 1;
            taken.extend(waiting.pop_front());
            self.order.pop_front();
            if waiting.is_empty() {
                self.waiting.remove(&origin);
            } else {
                self.order.push_back(origin);
            }
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, PartialEq)]
    struct TestItem {
        origin: u8,
        number: usize,
        kind: u8,
        unwanted: bool,
    }

    impl QueueItem for TestItem {
        type BatchKind = u8;

        fn kind(&self) -> u8 {
            self.kind
        }

        fn most_at_once(&self) -> usize {
            6
        }

        fn is_wanted(&self) -> bool {
            !self.unwanted
        }
    }

    fn item(origin: u8, number: usize) -> TestItem {
        TestItem { origin, number, kind: 0, unwanted: false }
    }

    #[test]
    fn a_newcomer_is_served_at_the_next_turn() {
        let mut turns = FairQueue::default();
        (0..200).for_each(|number| turns.push(1, item(1, number)));
        turns.push(2, item(2, 0));
        let origins: Vec<u8> = turns.take(6, 3).iter().map(|item| item.origin).collect();
        assert_eq!(origins, [1, 2, 1, 1]);
        assert_eq!(turns.len(), 197);
    }

    #[test]
    fn alone_an_origin_is_given_as_much_as_one_may_have() {
        let mut turns = FairQueue::default();
        (0..9).for_each(|number| turns.push(1, item(1, number)));
        assert_eq!([turns.take(6, 3).len(), turns.take(2, 3).len(), turns.take(1, 3).len()], [3, 2, 1]);
    }

    #[derive(Debug, Clone)]
    enum QueueOperation {
        Push { origin: u8, kind: u8, unwanted: bool },
        Take { share: usize },
    }

    fn acts() -> impl Strategy<Value = Vec<QueueOperation>> {
        // One origin sends more than all others together.
        let origin = prop_oneof![3 => Just(0_u8), 2 => 1_u8..6];
        let kind = prop_oneof![9 => Just(0_u8), 1 => 1_u8..3];
        let push = (origin, kind, proptest::bool::weighted(0.1))
            .prop_map(|(origin, kind, unwanted)| QueueOperation::Push { origin, kind, unwanted });
        let act = prop_oneof![4 => push, 1 => (1_usize..8).prop_map(|share| QueueOperation::Take { share })];
        proptest::collection::vec(act, 1..400)
    }

    proptest! {
        /// While an item of an origin waits, no other origin is served twice. Items of one origin are served in order.
        /// No item is lost, no unwanted item is served, and no batch mixes kinds or exceeds a bound.
        #[test]
        fn no_origin_waits_behind_more_than_its_turn(acts in acts()) {
            let mut turns = FairQueue::default();
            let mut waiting: HashMap<u8, VecDeque<usize>> = HashMap::new();
            // For each waiting origin: the services of every other origin since its own last one, or since it began to wait.
            let mut passed: HashMap<u8, HashMap<u8, usize>> = HashMap::new();
            let takes = acts.len();
            let acts = acts.into_iter().chain((0..takes).map(|_| QueueOperation::Take { share: 6 }));
            for (number, act) in acts.enumerate() {
                match act {
                    QueueOperation::Push { origin, kind, unwanted } => {
                        turns.push(origin, TestItem { origin, number, kind, unwanted });
                        if !unwanted {
                            waiting.entry(origin).or_default().push_back(number);
                        }
                    }
                    QueueOperation::Take { share } => {
                        turns.forget_unwanted();
                        let taken = turns.take(share, 3);
                        prop_assert_eq!(taken.is_empty(), waiting.is_empty());
                        prop_assert!(taken.len() <= share.min(6));
                        prop_assert!(taken.iter().all(|item| item.kind == taken[0].kind && !item.unwanted));
                        for item in taken {
                            let mine = waiting.get_mut(&item.origin).unwrap();
                            prop_assert_eq!(mine.pop_front(), Some(item.number));
                            if mine.is_empty() {
                                waiting.remove(&item.origin);
                            }
                            passed.remove(&item.origin);
                            for other in waiting.keys().filter(|other| **other != item.origin) {
                                let times = passed.entry(*other).or_default().entry(item.origin).or_default();
                                *times += 1;
                                prop_assert!(*times == 1, "{} was served {} times before {}", item.origin, times, other);
                            }
                        }
                    }
                }
            }
            prop_assert_eq!(turns.len(), 0);
            prop_assert!(turns.waiting.is_empty() && turns.order.is_empty());
        }
    }
}
