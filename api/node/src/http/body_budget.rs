//! A bound on the bytes of all bodies that a node holds at a time, and on those of one address. They are taken before a
//! body is read, and given back when its request ends.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::problem::Problem;
use crate::limits::RequestSource;

/// One address may hold the whole divided by this: to take everything, by bodies that do not come, takes as many addresses
/// as it takes to have all connections.
const SHARE: usize = 50;

/// The bytes that bodies may hold.
pub(super) struct BodyBudget {
    most: usize,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    all: usize,
    /// The bytes of each address that holds any.
    of: HashMap<RequestSource, usize>,
}

/// Bytes that were taken; given back when dropped.
pub(super) struct TakenBytes {
    budget: Arc<BodyBudget>,
    origin: RequestSource,
    bytes: usize,
}

impl BodyBudget {
    /// A budget of so many bytes in all.
    pub(super) fn of(most: usize) -> Arc<Self> {
        Arc::new(Self { most, held: Mutex::default() })
    }

    /// Takes the most bytes that a body may have.
    ///
    /// # Errors
    /// 503 if there is not as much left, in all or for this address.
    pub(super) fn take(self: &Arc<Self>, address: IpAddr, bytes: usize) -> Result<TakenBytes, Problem> {
        let origin = RequestSource::of(address);
        let mut held = self.held();
        let own = held.of.get(&origin).copied().unwrap_or_default().saturating_add(bytes);
        let all = held.all.saturating_add(bytes);
        if all > self.most || own > self.most / SHARE {
            return Err(Problem::overloaded(Duration::from_secs(1)));
        }
        held.all = all;
        held.of.insert(origin, own);
        Ok(TakenBytes { budget: Arc::clone(self), origin, bytes })
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for TakenBytes {
    fn drop(&mut self) {
        let mut held = self.budget.held();
        held.all = held.all.saturating_sub(self.bytes);
        let own = held.of.get(&self.origin).copied().unwrap_or_default().saturating_sub(self.bytes);
        if own == 0 {
            held.of.remove(&self.origin);
        } else {
            held.of.insert(self.origin, own);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn took(budget: &Arc<BodyBudget>, address: &str, bytes: usize) -> Option<TakenBytes> {
        budget.take(address.parse().unwrap(), bytes).ok()
    }

    #[test]
    fn no_address_holds_more_than_its_share_and_all_together_no_more_than_the_whole() {
        let budget = BodyBudget::of(500);
        let own = took(&budget, "192.0.2.1", 10);
        assert!(own.is_some() && took(&budget, "192.0.2.1", 1).is_none());
        // A /64 is one address.
        let others: Vec<_> = (1..50).map(|n| took(&budget, &format!("2001:db8:0:{n:x}::1"), 10)).collect();
        assert!(others.iter().all(Option::is_some) && took(&budget, "2001:db8:0:1::2", 1).is_none());
        assert!(took(&budget, "198.51.100.1", 1).is_none(), "nothing is left");
        drop(own);
        assert!(took(&budget, "192.0.2.1", 10).is_some());
        drop(others);
        assert!(budget.held().of.is_empty() && budget.held().all == 0);
    }
}
