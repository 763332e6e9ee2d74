//! How many requests are let in: quotas, the bucket that holds to them, and the fact that some were refused.
//!
//! A bucket leaks: full, it lets a whole quota in at once, and from then on one request each `window / requests`. Its
//! state is one time, when it will be full again, so that memory and database keep it alike (the generic cell rate
//! algorithm, ITU-T I.371). Times are microseconds on any one clock.
//!
//! Who is counted, and where, is not here.

use std::num::NonZeroU32;

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

/// So many requests in so long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    requests: NonZeroU32,
    window: TimeDelta,
}

/// What a bucket says to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// It is let in.
    Admitted {
        /// When the bucket will be full again, this request counted.
        full_at: i64,
    },
    /// It is not, and does not count.
    Refused {
        /// When there will be room for one, from now.
        retry_after: TimeDelta,
    },
}

impl Quota {
    /// The shortest window: below it, times are lost in rounding.
    pub const SHORTEST: TimeDelta = TimeDelta::seconds(1);
    /// The longest window: a day.
    pub const LONGEST: TimeDelta = TimeDelta::days(1);
    /// Most requests in a window.
    pub const MOST: u32 = 1_000_000;

    /// 1 to 1,000,000 requests in a second to a day.
    #[must_use]
    pub fn new(requests: u32, window: TimeDelta) -> Option<Self> {
        let requests = NonZeroU32::new(requests).filter(|requests| requests.get() <= Self::MOST)?;
        (Self::SHORTEST..=Self::LONGEST).contains(&window).then_some(Self { requests, window })
    }

    const fn of(requests: u32, window: TimeDelta) -> Self {
        match NonZeroU32::new(requests) {
            Some(requests) => Self { requests, window },
            None => Self { requests: NonZeroU32::MIN, window },
        }
    }

    /// Most requests at once.
    #[must_use]
    pub const fn requests(self) -> u32 {
        self.requests.get()
    }

    /// The time over which an empty bucket fills.
    #[must_use]
    pub const fn window(self) -> TimeDelta {
        self.window
    }

    /// The time in which one request comes back, in microseconds.
    #[must_use]
    pub fn interval(self) -> i64 {
        self.window.num_microseconds().unwrap_or(i64::MAX) / i64::from(self.requests.get())
    }

    /// How far ahead of now a bucket may be full again: a whole quota of intervals.
    #[must_use]
    pub fn tolerance(self) -> i64 {
        self.interval().saturating_mul(i64::from(self.requests.get()))
    }

    /// Whether one more request is let in by a bucket that will be full at `full_at`.
    #[must_use]
    pub fn admit(self, full_at: i64, now: i64) -> Admission {
        self.admit_several(full_at, now, 1)
    }

    /// The same of several at once, all or none. More than the quota are as many as the quota: they need a full bucket.
    #[must_use]
    pub fn admit_several(self, full_at: i64, now: i64, count: u32) -> Admission {
        let taken = self.interval().saturating_mul(i64::from(count.min(self.requests())));
        let full_at = full_at.max(now).saturating_add(taken);
        let excess = full_at.saturating_sub(now).saturating_sub(self.tolerance());
        if excess <= 0 {
            Admission::Admitted { full_at }
        } else {
            Admission::Refused { retry_after: TimeDelta::microseconds(excess) }
        }
    }

    /// How many requests there is room for, of a bucket that will be full at `full_at`.
    #[must_use]
    pub fn remaining(self, full_at: i64, now: i64) -> u32 {
        let used = full_at.saturating_sub(now).max(0);
        let free = self.tolerance().saturating_sub(used).max(0) / self.interval().max(1);
        u32::try_from(free).unwrap_or(u32::MAX).min(self.requests())
    }
}

/// What is counted apart from everything else: kinds of operations, and what they spend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RouteGroup {
    /// Logging in by a password.
    Login,
    /// Registering.
    Register,
    /// Refreshing tokens.
    Refresh,
    /// Presenting a second factor.
    SecondFactor,
    /// Whatever sends mail to somebody, or takes a token that was mailed.
    Recovery,
    /// Changing what one is called.
    Profile,
    /// Proving oneself by a password, to step up or to change it.
    Password,
    /// Making, changing and removing credentials: second factors, recovery codes, API keys, a verified address.
    Credentials,
    /// Ending sessions of one's own.
    Sessions,
    /// Refreshing tokens of one account.
    AccountRefresh,
    /// Whatever changes other accounts, roles, the policy, or who gets in.
    Administration,
    /// Hashes of passwords for an address, whatever computes them.
    Hashes,
    /// Hashes of passwords for an account.
    AccountHashes,
}

impl RouteGroup {
    /// Every one.
    pub const ALL: [Self; 13] = [
        Self::Login,
        Self::Register,
        Self::Refresh,
        Self::SecondFactor,
        Self::Recovery,
        Self::Profile,
        Self::Password,
        Self::Credentials,
        Self::Sessions,
        Self::AccountRefresh,
        Self::Administration,
        Self::Hashes,
        Self::AccountHashes,
    ];

    /// The name in events, headers and configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Login => "login",
            Self::Register => "register",
            Self::Refresh => "refresh",
            Self::SecondFactor => "second_factor",
            Self::Recovery => "recovery",
            Self::Profile => "profile",
            Self::Password => "password",
            Self::Credentials => "credentials",
            Self::Sessions => "sessions",
            Self::AccountRefresh => "account_refresh",
            Self::Administration => "administration",
            Self::Hashes => "hashes",
            Self::AccountHashes => "account_hashes",
        }
    }

    /// Whose requests count together.
    #[must_use]
    pub const fn layer(self) -> RateLimitLayer {
        match self {
            Self::Login | Self::Register | Self::Refresh | Self::SecondFactor | Self::Recovery | Self::Hashes => {
                RateLimitLayer::Address
            }
            Self::Profile
            | Self::Password
            | Self::Credentials
            | Self::Sessions
            | Self::AccountRefresh
            | Self::Administration
            | Self::AccountHashes => RateLimitLayer::Account,
        }
    }

    /// Whether all nodes count together. A refresh token cannot be guessed, somebody known guesses nothing that their
    /// attempts are not counted for, and a node's own count bounds its cost.
    #[must_use]
    pub const fn is_shared(self) -> bool {
        match self {
            Self::Login | Self::Register | Self::SecondFactor | Self::Recovery => true,
            Self::Refresh
            | Self::Profile
            | Self::Password
            | Self::Credentials
            | Self::Sessions
            | Self::AccountRefresh
            | Self::Administration
            | Self::Hashes
            | Self::AccountHashes => false,
        }
    }

    const fn default_quota(self) -> Quota {
        const MINUTE: TimeDelta = TimeDelta::minutes(1);
        const HOUR: TimeDelta = TimeDelta::hours(1);
        match self {
            Self::Login | Self::SecondFactor | Self::Password => Quota::of(30, MINUTE),
            Self::Register | Self::Recovery => Quota::of(10, MINUTE),
            Self::Refresh | Self::Sessions | Self::Hashes => Quota::of(120, MINUTE),
            Self::AccountRefresh | Self::AccountHashes => Quota::of(60, MINUTE),
            Self::Administration => Quota::of(300, MINUTE),
            Self::Profile => Quota::of(20, HOUR),
            Self::Credentials => Quota::of(60, HOUR),
        }
    }
}

/// Whose requests a limit counts together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RateLimit {
    /// All of an address.
    Address,
    /// Those of an address, or of an account, of such a kind.
    Route(RouteGroup),
    /// All of an account, or of an API key.
    Account,
}

impl RateLimit {
    /// Every one.
    pub fn all() -> impl Iterator<Item = Self> {
        [Self::Address, Self::Account].into_iter().chain(RouteGroup::ALL.into_iter().map(Self::Route))
    }

    /// The name in headers and configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Address => "address",
            Self::Route(route) => route.as_str(),
            Self::Account => "account",
        }
    }

    /// Whose requests count together, and of which kind; none: all.
    #[must_use]
    pub const fn counts(self) -> (RateLimitLayer, Option<RouteGroup>) {
        match self {
            Self::Address => (RateLimitLayer::Address, None),
            Self::Route(route) => (route.layer(), Some(route)),
            Self::Account => (RateLimitLayer::Account, None),
        }
    }

    const fn default_quota(self) -> Quota {
        match self {
            Self::Address | Self::Account => Quota::of(1_200, TimeDelta::minutes(1)),
            Self::Route(route) => route.default_quota(),
        }
    }
}

/// The quota of each limit.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RateLimits {
    /// Where it is not the default.
    set: Vec<(RateLimit, Quota)>,
}

impl RateLimits {
    /// The quota of a limit.
    #[must_use]
    pub fn quota(&self, limit: RateLimit) -> Quota {
        let set = self.set.iter().rev().find(|(of, _)| *of == limit);
        set.map_or(limit.default_quota(), |(_, quota)| *quota)
    }

    /// Another quota for a limit.
    pub fn set(&mut self, limit: RateLimit, quota: Quota) {
        self.set.push((limit, quota));
    }
}

/// Where somebody stands with a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuotaStatus {
    /// The limit.
    pub limit: RateLimit,
    /// Its quota.
    pub quota: Quota,
    /// How many requests there is room for.
    pub remaining: u32,
    /// Until the bucket is full.
    pub reset: TimeDelta,
}

/// A quota is spent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuotaExceeded {
    /// Which, and where its bucket stands.
    pub standing: QuotaStatus,
    /// When there will be room.
    pub retry_after: TimeDelta,
}

/// What happened at a limit. Sealed: the address, where it is one's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RateLimitEvent {
    /// Requests were refused: one event for all of one origin in a window, at one node.
    #[serde(rename = "rate_limit.violated")]
    Violated {
        /// Whose requests are counted together.
        layer: RateLimitLayer,
        /// On which routes; none: on all.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        route: Option<RouteGroup>,
        /// The first of them.
        #[serde(with = "crate::leaf::micros")]
        began_at: DateTime<Utc>,
        /// The end of the window.
        #[serde(with = "crate::leaf::micros")]
        ended_at: DateTime<Utc>,
        /// How many were refused.
        count: u64,
    },
}

/// Whose requests a limit counts together, as events say it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RateLimitLayer {
    /// Those of an address.
    Address,
    /// Those of an account, or of an API key.
    Account,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn quota(requests: u32, seconds: i64) -> Quota {
        Quota::new(requests, TimeDelta::seconds(seconds)).unwrap()
    }

    #[test]
    fn a_full_bucket_lets_a_quota_in_and_then_one_an_interval() {
        let quota = quota(3, 60);
        let (mut full_at, mut left) = (0, Vec::new());
        for _ in 0..3 {
            let Admission::Admitted { full_at: then } = quota.admit(full_at, 0) else { panic!("refused") };
            full_at = then;
            left.push(quota.remaining(full_at, 0));
        }
        assert_eq!(left, [2, 1, 0]);
        assert_eq!(quota.admit(full_at, 0), Admission::Refused { retry_after: TimeDelta::seconds(20) });
        assert!(matches!(quota.admit(full_at, 19_999_999), Admission::Refused { .. }));
        assert!(matches!(quota.admit(full_at, 20_000_000), Admission::Admitted { .. }));
        assert_eq!(quota.remaining(full_at, 60_000_000), 3);
    }

    #[test]
    fn limits_have_names_of_their_own_and_events_name_them_alike() {
        let names: Vec<&str> = RateLimit::all().map(RateLimit::as_str).collect();
        assert!(names.iter().all(|name| names.iter().filter(|other| other == &name).count() == 1), "{names:?}");
        for route in RouteGroup::ALL {
            assert_eq!(serde_json::to_value(route).unwrap(), route.as_str());
        }
    }

    #[test]
    fn a_quota_has_bounds() {
        let with = |requests, seconds| Quota::new(requests, TimeDelta::seconds(seconds)).is_some();
        assert!(with(1, 1) && with(1_000_000, 86_400));
        assert!(!with(0, 60) && !with(1_000_001, 60) && !with(5, 0) && !with(5, 86_401));
    }

    proptest! {
        #[test]
        fn no_pattern_of_requests_gets_more_in_than_the_quota_and_what_came_back(
            requests in 1_u32..20, seconds in 1_i64..120,
            gaps in proptest::collection::vec(0_i64..20_000_000, 1..200),
        ) {
            let quota = quota(requests, seconds);
            let (mut now, mut full_at, mut admitted) = (0, 0, 0_i64);
            for gap in gaps {
                now += gap;
                if let Admission::Admitted { full_at: then } = quota.admit(full_at, now) {
                    full_at = then;
                    admitted += 1;
                }
                prop_assert!(admitted <= i64::from(requests) + now / quota.interval());
                prop_assert!(full_at - now <= quota.tolerance());
            }
        }

        /// Several at once are let in where each alone would be, one after another, and leave the same bucket.
        #[test]
        fn several_at_once_are_as_many_one_by_one(
            requests in 1_u32..20, seconds in 1_i64..120, spent in 0_u32..20, count in 1_u32..20,
        ) {
            let quota = quota(requests, seconds);
            let one_by_one = |from: i64, count: u32| {
                (0..count).try_fold(from, |full_at, _| match quota.admit(full_at, 0) {
                    Admission::Admitted { full_at } => Some(full_at),
                    Admission::Refused { .. } => None,
                })
            };
            let from = one_by_one(0, spent.min(requests)).unwrap();
            match quota.admit_several(from, 0, count) {
                Admission::Admitted { full_at } => prop_assert_eq!(one_by_one(from, count.min(requests)), Some(full_at)),
                Admission::Refused { retry_after } => {
                    prop_assert_eq!(one_by_one(from, count.min(requests)), None);
                    let wait = retry_after.num_microseconds().unwrap();
                    let is_admitted = |now| matches!(quota.admit_several(from, now, count), Admission::Admitted { .. });
                    prop_assert!(is_admitted(wait) && !is_admitted(wait - 1));
                }
            }
        }

        /// Whoever waits as long as they are told is let in; a little earlier they are not.
        #[test]
        fn retry_after_is_exact(requests in 1_u32..20, seconds in 1_i64..120, burst in 0_u32..40) {
            let quota = quota(requests, seconds);
            let mut full_at = 0;
            for _ in 0..burst {
                match quota.admit(full_at, 0) {
                    Admission::Admitted { full_at: then } => full_at = then,
                    Admission::Refused { retry_after } => {
                        let wait = retry_after.num_microseconds().unwrap();
                        let is_admitted = |now| matches!(quota.admit(full_at, now), Admission::Admitted { .. });
                        prop_assert!(is_admitted(wait) && !is_admitted(wait - 1));
                    }
                }
            }
        }
    }
}
