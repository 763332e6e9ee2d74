//! The buckets of one node, in memory: bounded however many addresses there are, and without a lock that all share.
//!
//! A bucket that is full again says nothing and is dropped where room is needed. If there is no room even so, newcomers
//! share one bucket: a flood from everywhere is then held as if it came from one place.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use fulexo_domain::rate_limit::{Admission, Quota, RateLimit};
use uuid::Uuid;

/// An origin of requests, which are counted together. Personal data: no `Debug`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RequestSource {
    /// An IPv4 address.
    V4([u8; 4]),
    /// A network of IPv6: the holder of one address of a /64 has them all.
    V6([u8; 8]),
    /// An account.
    Account(Uuid),
    /// An API key.
    ApiKey(Uuid),
    /// All origins that there is no room to tell apart.
    Crowd,
}

impl RequestSource {
    /// The origin of an address.
    pub fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address.octets()),
            IpAddr::V6(address) => {
                let [a, b, c, d, e, f, g, h, ..] = address.octets();
                Self::V6([a, b, c, d, e, f, g, h])
            }
        }
    }

    /// Returns the bytes that tell it from others of its kind.
    pub const fn as_bytes(&self) -> &[u8] {
        match self {
            Self::V4(octets) => octets,
            Self::V6(octets) => octets,
            Self::Account(id) | Self::ApiKey(id) => id.as_bytes(),
            Self::Crowd => &[],
        }
    }
}

/// Buckets, spread over shards by a keyed hash that nobody outside can aim at.
pub struct Buckets {
    shards: Box<[Mutex<Shard>]>,
    hasher: RandomState,
}

#[derive(Default)]
struct Shard {
    /// The time at which each bucket will be full again, in microseconds of this process.
    full_at: HashMap<(RateLimit, RequestSource), i64>,
    /// The time of the last look for room.
    swept_at: Option<i64>,
}

const SHARDS: usize = 64;
/// Buckets of a shard: some 65,000 in all, and 5 MiB.
const MOST: usize = 1_024;
/// The pause between two looks for room, in microseconds.
const PAUSE: i64 = 1_000_000;

impl Default for Buckets {
    fn default() -> Self {
        Self { shards: (0..SHARDS).map(|_| Mutex::default()).collect(), hasher: RandomState::new() }
    }
}

impl Buckets {
    /// Counts so many requests, all or none, and says until when their bucket will not be full.
    pub fn admit(
        &self,
        limit: RateLimit,
        origin: RequestSource,
        quota: Quota,
        count: u32,
        now: i64,
    ) -> (Admission, i64) {
        let hash = self.hasher.hash_one((limit, origin));
        let index = usize::try_from(hash % SHARDS as u64).unwrap_or_default();
        let Some(shard) = self.shards.get(index) else {
            return (Admission::Refused { retry_after: quota.window() }, now);
        };
        let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
        let key = shard.place_for((limit, origin), now);
        let full_at = shard.full_at.entry(key).or_insert(now);
        let admission = quota.admit_several(*full_at, now, count);
        if let Admission::Admitted { full_at: then } = admission {
            *full_at = then;
        }
        (admission, *full_at)
    }
}

impl Shard {
    fn place_for(&mut self, key: (RateLimit, RequestSource), now: i64) -> (RateLimit, RequestSource) {
        if self.full_at.len() < MOST || self.full_at.contains_key(&key) {
            return key;
        }
        if self.swept_at.is_none_or(|swept_at| swept_at + PAUSE <= now) {
            self.swept_at = Some(now);
            self.full_at.retain(|_, full_at| *full_at > now);
        }
        if self.full_at.len() < MOST { key } else { (key.0, RequestSource::Crowd) }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use chrono::TimeDelta;

    use super::*;

    fn admitted(buckets: &Buckets, origin: RequestSource, now: i64) -> bool {
        let quota = Quota::new(2, TimeDelta::seconds(2)).unwrap();
        matches!(buckets.admit(RateLimit::Address, origin, quota, 1, now).0, Admission::Admitted { .. })
    }

    fn size(buckets: &Buckets) -> usize {
        buckets.shards.iter().map(|shard| shard.lock().unwrap().full_at.len()).sum()
    }

    #[test]
    fn neighbours_in_one_64_are_one_origin_and_a_mapped_address_is_the_mapped_one() {
        let of = |text: &str| RequestSource::of(text.parse().unwrap());
        assert!(of("2001:db8:1:2::1") == of("2001:db8:1:2:ffff:ffff:ffff:ffff"));
        assert!(of("2001:db8:1:2::1") != of("2001:db8:1:3::1"));
        assert!(of("::ffff:192.0.2.1") == of("192.0.2.1"));
        assert!(of("192.0.2.1") != of("192.0.2.2"));
    }

    #[test]
    fn a_million_addresses_take_bounded_room_and_leave_those_known_before_alone() {
        let buckets = Buckets::default();
        let known = RequestSource::V4([192, 0, 2, 1]);
        assert!(admitted(&buckets, known, 0));
        for number in 0..1_000_000_u64 {
            admitted(&buckets, RequestSource::V6(number.to_be_bytes()), 0);
        }
        // Each shard has one crowd in addition to the buckets that it holds.
        assert!(size(&buckets) <= SHARDS * (MOST + 1), "{}", size(&buckets));
        assert!(admitted(&buckets, known, 0));
        assert!(!admitted(&buckets, known, 0));
        let newcomers = (0..1_000_u64)
            .filter(|number| admitted(&buckets, RequestSource::V6(((number + 1) << 32).to_be_bytes()), 0));
        assert_eq!(newcomers.count(), 0, "the crowds of a flood are empty");
    }

    #[test]
    fn once_a_flood_has_passed_there_is_room_again() {
        let buckets = Buckets::default();
        for number in 0..200_000_u64 {
            admitted(&buckets, RequestSource::V6(number.to_be_bytes()), 0);
        }
        let newcomers = (0..1_000_u64).map(|number| RequestSource::V6(((number + 1) << 32).to_be_bytes()));
        assert!(newcomers.clone().all(|newcomer| admitted(&buckets, newcomer, 3_000_000)));
        assert!(size(&buckets) <= 2_000 + 1_000 + SHARDS * MOST);
    }

    #[test]
    fn threads_that_race_for_one_bucket_get_no_more_in_than_its_quota() {
        for threads in 2_u32..8 {
            let (buckets, quota) = (Buckets::default(), Quota::new(70, TimeDelta::hours(1)).unwrap());
            let (origin, count) = (RequestSource::V4([192, 0, 2, 1]), AtomicU32::new(0));
            let send = || {
                for _ in 0..50 {
                    if matches!(buckets.admit(RateLimit::Address, origin, quota, 1, 0).0, Admission::Admitted { .. }) {
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                }
            };
            std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(send))));
            assert_eq!(count.into_inner(), 70);
        }
    }
}
