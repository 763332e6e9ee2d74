//! Refusals, folded: one entry for an origin at a limit from its first refusal to the end of the window, and one
//! event for it then. A flood of refusals is a number, never a flood of events.

use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};

use chrono::{DateTime, Utc};
use fulexo_commands::RateLimitViolation;
use fulexo_domain::event::Actor;
use fulexo_domain::rate_limit::{Quota, RateLimit};

use super::buckets::RequestSource;

/// Most entries at a time; what comes on top is counted without its origin.
const MOST: usize = 1_024;

/// Refusals by limit and origin.
#[derive(Default)]
pub struct Tally(Mutex<HashMap<(RateLimit, RequestSource), Entry>>);

struct Entry {
    began_at: DateTime<Utc>,
    ended_at: DateTime<Utc>,
    count: u64,
}

impl Tally {
    /// Counts one refusal.
    pub fn count(&self, limit: RateLimit, origin: RequestSource, quota: Quota, now: DateTime<Utc>) {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_full = entries.len() >= MOST && !entries.contains_key(&(limit, origin));
        let key = (limit, if is_full { RequestSource::Crowd } else { origin });
        let entry = entries.entry(key).or_insert(Entry { began_at: now, ended_at: now + quota.window(), count: 0 });
        entry.count += 1;
    }

    /// Takes the entries whose window is over by `until`, sorted by origin.
    pub fn take(&self, until: DateTime<Utc>) -> Vec<RateLimitViolation> {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut over: Vec<_> = entries.extract_if(|_, entry| entry.ended_at <= until).collect();
        drop(entries);
        over.sort_by_key(|((_, origin), _)| *origin);
        over.into_iter().map(|((limit, origin), entry)| violation(limit, origin, &entry)).collect()
    }
}

fn violation(limit: RateLimit, origin: RequestSource, entry: &Entry) -> RateLimitViolation {
    let (layer, route) = limit.scope();
    let (actor, origin) = match origin {
        RequestSource::V4(octets) => (Actor::Anonymous, Some(Ipv4Addr::from(octets).to_string())),
        RequestSource::V6([a, b, c, d, e, f, g, h]) => {
            let network = Ipv6Addr::from([a, b, c, d, e, f, g, h, 0, 0, 0, 0, 0, 0, 0, 0]);
            (Actor::Anonymous, Some(format!("{network}/64")))
        }
        RequestSource::Account(id) => (Actor::Account { id }, None),
        RequestSource::ApiKey(id) => (Actor::ApiKey { id }, None),
        RequestSource::Crowd => (Actor::Anonymous, None),
    };
    let Entry { began_at, ended_at, count } = *entry;
    RateLimitViolation { layer, route, actor, origin, began_at, ended_at, count }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;

    #[test]
    fn refusals_of_a_window_are_one_violation_with_their_number() {
        let (tally, now) = (Tally::default(), DateTime::UNIX_EPOCH);
        let quota = Quota::new(5, TimeDelta::minutes(1)).unwrap();
        for second in 0..90 {
            tally.count(RateLimit::Address, RequestSource::V4([192, 0, 2, 1]), quota, now + TimeDelta::seconds(second));
            if second == 59 {
                assert!(tally.take(now + TimeDelta::seconds(59)).is_empty(), "the window is not over");
                let over = tally.take(now + TimeDelta::seconds(60));
                assert_eq!(over.iter().map(|violation| violation.count).collect::<Vec<_>>(), [60]);
                assert_eq!(over[0].origin.as_deref(), Some("192.0.2.1"));
            }
        }
        assert_eq!(tally.take(DateTime::<Utc>::MAX_UTC).iter().map(|violation| violation.count).sum::<u64>(), 30);
    }

    #[test]
    fn whatever_the_number_of_origins_the_number_of_violations_is_bounded_and_no_refusal_is_forgotten() {
        let (tally, quota) = (Tally::default(), Quota::new(5, TimeDelta::minutes(1)).unwrap());
        for number in 0..5_000_u64 {
            tally.count(RateLimit::Address, RequestSource::V6(number.to_be_bytes()), quota, DateTime::UNIX_EPOCH);
        }
        let over = tally.take(DateTime::<Utc>::MAX_UTC);
        assert_eq!(over.len(), MOST + 1);
        assert_eq!(over.iter().map(|violation| violation.count).sum::<u64>(), 5_000);
    }
}
