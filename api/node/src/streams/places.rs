//! The places of open streams: so many of each caller, so many in all. A place is given back when it is dropped, whichever
//! way its stream ends.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use uuid::Uuid;

/// The places of a node.
pub struct StreamPlaces {
    most_of_caller: usize,
    most: usize,
    taken: Arc<Mutex<TakenPlaces>>,
}

#[derive(Default)]
struct TakenPlaces {
    /// The number of places of each caller that has any.
    of: HashMap<Uuid, usize>,
    all: usize,
}

/// The place of one stream.
pub struct StreamPlace {
    taken: Arc<Mutex<TakenPlaces>>,
    caller: Uuid,
}

/// The bound that is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoPlace {
    /// The caller has as many streams as one may have.
    OfCaller,
    /// The node has as many streams as it may have.
    OfNode,
}

impl StreamPlaces {
    /// So many places of a caller, and so many of all.
    #[must_use]
    pub fn new(most_of_caller: usize, most: usize) -> Self {
        Self { most_of_caller, most, taken: Arc::default() }
    }

    /// Takes a place for this account or API key.
    ///
    /// # Errors
    /// [`NoPlace`]. The bound of the caller counts first: it says what the caller can do.
    pub fn take(&self, caller: Uuid) -> Result<StreamPlace, NoPlace> {
        let mut taken = lock(&self.taken);
        let held = taken.of.get(&caller).copied().unwrap_or_default();
        if held >= self.most_of_caller {
            return Err(NoPlace::OfCaller);
        }
        if taken.all >= self.most {
            return Err(NoPlace::OfNode);
        }
        taken.of.insert(caller, held + 1);
        taken.all += 1;
        Ok(StreamPlace { taken: Arc::clone(&self.taken), caller })
    }

    /// The number of places that are taken.
    #[must_use]
    pub fn taken(&self) -> usize {
        lock(&self.taken).all
    }
}

impl Drop for StreamPlace {
    fn drop(&mut self) {
        let mut taken = lock(&self.taken);
        taken.all = taken.all.saturating_sub(1);
        let left = taken.of.get(&self.caller).copied().unwrap_or_default().saturating_sub(1);
        if left == 0 {
            taken.of.remove(&self.caller);
        } else {
            taken.of.insert(self.caller, left);
        }
    }
}

fn lock(taken: &Mutex<TakenPlaces>) -> MutexGuard<'_, TakenPlaces> {
    taken.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_has_its_share_and_all_have_theirs_and_a_place_comes_back() {
        let places = StreamPlaces::new(2, 3);
        let [ann, bob] = [Uuid::from_u128(1), Uuid::from_u128(2)];
        let own = [places.take(ann).unwrap(), places.take(ann).unwrap()];
        assert_eq!(places.take(ann).err(), Some(NoPlace::OfCaller));
        let other = places.take(bob).unwrap();
        assert_eq!(places.take(bob).err(), Some(NoPlace::OfNode));
        assert_eq!(places.taken(), 3);
        drop(own);
        let again = [places.take(bob).unwrap(), places.take(ann).unwrap()];
        assert_eq!(places.taken(), 3);
        drop((other, again));
        assert_eq!(places.taken(), 0);
        assert!(lock(&places.taken).of.is_empty(), "a caller without streams leaves nothing behind");
    }

    #[test]
    fn threads_that_come_and_go_never_exceed_the_bounds_and_leave_nothing() {
        let places = StreamPlaces::new(3, 8);
        std::thread::scope(|scope| {
            for caller in 0..6_u128 {
                let places = &places;
                scope.spawn(move || {
                    for _ in 0..5_000 {
                        let held: Vec<_> = (0..4).map(|_| places.take(Uuid::from_u128(caller))).collect();
                        assert!(held.iter().filter(|place| place.is_ok()).count() <= 3);
                        assert!(places.taken() <= 8);
                    }
                });
            }
        });
        assert_eq!(places.taken(), 0);
    }
}
