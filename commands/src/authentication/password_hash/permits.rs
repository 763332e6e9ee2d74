//! The permits of the hashing pool, and the shares of their holders.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

use fulexo_domain::values::AccountId;

/// The number of permits. Beyond it, callers get 503. All of them mean two or three seconds of work per thread at cost
/// 10.
pub const PERMITS: usize = 256;
/// The maximum number of permits per address, and per account.
pub const PERMITS_PER_HOLDER: usize = PERMITS / 8;

/// The holder of permits. Personal data: no `Debug`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct PermitHolder {
    /// The client's address, or its IPv6 network; `None` within this process.
    pub network: Option<IpAddr>,
    /// The account, once its owner is authenticated: a stranger takes nothing from its share.
    pub account: Option<AccountId>,
}

/// The permits of a pool, and their holders.
#[derive(Default)]
pub(super) struct HashingPermits(Mutex<PermitCounts>);

#[derive(Default)]
struct PermitCounts {
    all: usize,
    /// The counts of holders with at least one permit, so that the map has at most twice as many entries as there are
    /// permits.
    of: HashMap<PermitHolder, usize>,
}

/// A permit to use the pool. Its holder will be served, one job after another. It is released when its last copy is
/// dropped.
#[derive(Clone)]
pub struct HashingPermit(Arc<PermitSlot>);

struct PermitSlot {
    permits: Arc<HashingPermits>,
    holder: PermitHolder,
}

impl PermitHolder {
    /// This process itself. Only the size of the pool limits it.
    pub const INTERNAL: Self = Self { network: None, account: None };

    /// Returns the holder at an address. A holder of one address of a /64 holds them all.
    #[must_use]
    pub fn at(address: Option<IpAddr>, account: Option<AccountId>) -> Self {
        let network = address.map(|address| match address.to_canonical() {
            IpAddr::V4(address) => IpAddr::V4(address),
            IpAddr::V6(address) => {
                let [a, b, c, d, ..] = address.segments();
                IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
            }
        });
        Self { network, account }
    }

    /// Returns the address and the account, each of which has its own share.
    fn shares(self) -> impl Iterator<Item = Self> {
        let network = self.network.map(|network| Self { network: Some(network), account: None });
        let account = self.account.map(|account| Self { network: None, account: Some(account) });
        network.into_iter().chain(account)
    }
}

impl HashingPermits {
    /// Takes a permit. Returns `None` if none is free, or if a share is used up.
    pub fn take(self: &Arc<Self>, holder: PermitHolder) -> Option<HashingPermit> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if held.all >= PERMITS
            || holder.shares().any(|share| held.of.get(&share).is_some_and(|held| *held >= PERMITS_PER_HOLDER))
        {
            return None;
        }
        held.all += 1;
        for share in holder.shares() {
            *held.of.entry(share).or_default() += 1;
        }
        Some(HashingPermit(Arc::new(PermitSlot { permits: Arc::clone(self), holder })))
    }

    /// Returns the number of permits that an address or an account holds.
    pub fn held(&self, holder: PermitHolder) -> usize {
        let held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        holder.shares().map(|share| held.of.get(&share).copied().unwrap_or_default()).max().unwrap_or(held.all)
    }
}

impl HashingPermit {
    /// Returns the origin under which the job queues.
    pub(super) fn origin(&self) -> PermitHolder {
        PermitHolder { account: None, ..self.0.holder }
    }
}

impl Drop for PermitSlot {
    fn drop(&mut self) {
        let mut held = self.permits.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.all -= 1;
        for share in self.holder.shares() {
            if let Some(of) = held.of.get_mut(&share) {
                *of -= 1;
                if *of == 0 {
                    held.of.remove(&share);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    fn at(address: &str) -> PermitHolder {
        PermitHolder::at(Some(address.parse().unwrap()), None)
    }

    fn of(account: u128, address: &str) -> PermitHolder {
        PermitHolder { account: Some(AccountId(Uuid::from_u128(account))), ..at(address) }
    }

    fn fill(permits: &Arc<HashingPermits>, holder: PermitHolder) -> Vec<HashingPermit> {
        std::iter::from_fn(|| permits.take(holder)).collect()
    }

    #[test]
    fn neighbours_in_one_64_are_one_holder_and_a_mapped_address_is_the_mapped_one() {
        assert!(at("2001:db8:1:2::1") == at("2001:db8:1:2:ffff::1"));
        assert!(at("2001:db8:1:2::1") != at("2001:db8:1:3::1"));
        assert!(at("::ffff:192.0.2.1") == at("192.0.2.1"));
    }

    #[test]
    fn an_address_gets_an_eighth_and_leaves_the_rest_to_others() {
        let permits = Arc::new(HashingPermits::default());
        let first = fill(&permits, at("2001:db8::1"));
        assert_eq!(first.len(), PERMITS_PER_HOLDER);
        assert!(permits.take(at("2001:db8::2")).is_none(), "its neighbour is the same holder");
        let others: Vec<Vec<HashingPermit>> = (1..8).map(|n| fill(&permits, at(&format!("192.0.2.{n}")))).collect();
        assert!(others.iter().all(|held| held.len() == PERMITS_PER_HOLDER));
        assert!(
            permits.take(at("192.0.2.77")).is_none() && permits.take(PermitHolder::INTERNAL).is_none(),
            "the pool is full"
        );
        drop(first);
        assert_eq!(
            fill(&permits, PermitHolder::INTERNAL).len(),
            PERMITS_PER_HOLDER,
            "what is within is bounded by the pool alone"
        );
    }

    #[test]
    fn an_account_gets_an_eighth_from_all_its_addresses() {
        let permits = Arc::new(HashingPermits::default());
        let held: Vec<HashingPermit> =
            (0..PERMITS_PER_HOLDER).map(|n| permits.take(of(1, &format!("192.0.2.{n}"))).unwrap()).collect();
        assert!(permits.take(of(1, "192.0.2.99")).is_none());
        assert!(permits.take(of(2, "192.0.2.99")).is_some());
        assert!(permits.take(at("192.0.2.99")).is_some(), "strangers take nothing from an account");
        drop(held);
        assert!(permits.take(of(1, "192.0.2.99")).is_some());
    }

    proptest! {
        /// The counts are right after any sequence of takes and releases, and zero at the end.
        #[test]
        fn counts_match_the_permits_taken(
            acts in proptest::collection::vec((0_u8..12, 0_u128..6, any::<bool>()), 1..600),
        ) {
            let permits = Arc::new(HashingPermits::default());
            let mut taken: Vec<(PermitHolder, HashingPermit)> = Vec::new();
            for (network, account, takes) in acts {
                let holder = of(account, &format!("192.0.2.{network}"));
                if takes {
                    let held = |share: PermitHolder| taken.iter().filter(|(by, _)| by.shares().any(|of| of == share)).count();
                    let has_room = taken.len() < PERMITS && holder.shares().all(|share| held(share) < PERMITS_PER_HOLDER);
                    let permit = permits.take(holder);
                    prop_assert_eq!(permit.is_some(), has_room);
                    taken.extend(permit.map(|permit| (holder, permit)));
                } else {
                    taken.pop();
                }
                prop_assert!(permits.held(holder) <= PERMITS_PER_HOLDER);
            }
            drop(taken);
            prop_assert!(permits.0.lock().unwrap().of.is_empty() && permits.held(PermitHolder::INTERNAL) == 0);
        }
    }
}
