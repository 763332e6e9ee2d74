//! Rate limits: quotas, the bucket that enforces them, and the event of a violation.
//!
//! A bucket is a leaky bucket. A full bucket admits a whole quota at once, and then one request per `window /
//! requests`. Its state is a single time, at which it will be full again, so that memory and database store it in the
//! same way (the generic cell rate algorithm, ITU-T I.371). Times are in microseconds, of any one clock.
//!
//! The callers choose the origin and the place of a bucket.

use std::num::NonZeroU32;

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

/// A number of requests per window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    requests: NonZeroU32,
    window: TimeDelta,
}

/// The answer of a bucket to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// The request is admitted.
    Admitted {
        /// The time at which the bucket will be full again, after this request.
        full_at: i64,
    },
    /// The request is refused, and does not count.
    Refused {
        /// The time from now until the bucket admits the request.
        retry_after: TimeDelta,
    },
}

impl Quota {
    /// The minimum length of a window. Below it, rounding loses time.
    pub const MIN_WINDOW: TimeDelta = TimeDelta::seconds(1);
    /// The maximum length of a window: a day.
    pub const MAX_WINDOW: TimeDelta = TimeDelta::days(1);
    /// The maximum number of requests per window.
    pub const MAX_REQUESTS: u32 = 1_000_000;

    /// Creates a quota of 1 to 1,000,000 requests per window of a second to a day.
    #[must_use]
    pub fn new(requests: u32, window: TimeDelta) -> Option<Self> {
        let requests = NonZeroU32::new(requests).filter(|requests| requests.get() <= Self::MAX_REQUESTS)?;
        (Self::MIN_WINDOW..=Self::MAX_WINDOW).contains(&window).then_some(Self { requests, window })
    }

    const fn of(requests: u32, window: TimeDelta) -> Self {
        match NonZeroU32::new(requests) {
            Some(requests) => Self { requests, window },
            None => Self { requests: NonZeroU32::MIN, window },
        }
    }

    /// The maximum number of requests at once.
    #[must_use]
    pub const fn requests(self) -> u32 {
        self.requests.get()
    }

    /// The time in which an empty bucket fills.
    #[must_use]
    pub const fn window(self) -> TimeDelta {
        self.window
    }

    /// The time in which the bucket regains one request, in microseconds.
    #[must_use]
    pub fn interval(self) -> i64 {
        self.window.num_microseconds().unwrap_or(i64::MAX) / i64::from(self.requests.get())
    }

    /// The maximum time until a bucket is full again: a whole quota of intervals.
    #[must_use]
    pub fn tolerance(self) -> i64 {
        self.interval().saturating_mul(i64::from(self.requests.get()))
    }

    /// Decides on one more request, for a bucket that will be full at `full_at`.
    #[must_use]
    pub fn admit(self, full_at: i64, now: i64) -> Admission {
        self.admit_several(full_at, now, 1)
    }

    /// Decides on several requests at once: all or none. A number above the quota counts as the quota, which needs a
    /// full bucket.
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

    /// The number of requests that a bucket still admits, if it will be full at `full_at`.
    #[must_use]
    pub fn remaining(self, full_at: i64, now: i64) -> u32 {
        let used = full_at.saturating_sub(now).max(0);
        let free = self.tolerance().saturating_sub(used).max(0) / self.interval().max(1);
        u32::try_from(free).unwrap_or(u32::MAX).min(self.requests())
    }
}

/// A group of operations, or of a resource that they use, with a quota of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RouteGroup {
    /// Logins by password.
    Login,
    /// Registrations.
    Register,
    /// Token refreshes.
    Refresh,
    /// Presentations of a second factor.
    SecondFactor,
    /// Requests that send mail, or that present a mailed token.
    Recovery,
    /// Changes of the profile, and exports of one's own data.
    Profile,
    /// Authentication by password, for a step-up or a password change.
    Password,
    /// Creation, change and removal of credentials: second factors, recovery codes, API keys, a verified address.
    Credentials,
    /// Revocations of the caller's own sessions.
    Sessions,
    /// Token refreshes of one account.
    AccountRefresh,
    /// Changes of other accounts, roles, the policy or a lockdown; exports and streams of the audit trail.
    Administration,
    /// Password hashes for an address, in any operation.
    Hashes,
    /// Password hashes for an account.
    AccountHashes,
}

impl RouteGroup {
    /// All groups.
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

    /// The origin by which requests are counted.
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

    /// `true` if all nodes share the count. The others need no shared count: a refresh token cannot be guessed, the
    /// attempts of a known caller are counted anyway, and the count of a node limits its own cost.
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

/// A limit on the requests of one origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RateLimit {
    /// All requests of an address.
    Address,
    /// The requests of an address, or of an account, in this group.
    Route(RouteGroup),
    /// All requests of an account, or of an API key.
    Account,
}

impl RateLimit {
    /// Returns all limits.
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

    /// The origin by which requests are counted, and their group; `None` for all requests.
    #[must_use]
    pub const fn scope(self) -> (RateLimitLayer, Option<RouteGroup>) {
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

/// The quotas of all limits.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RateLimits {
    /// The quotas that differ from the default.
    set: Vec<(RateLimit, Quota)>,
}

impl RateLimits {
    /// The quota of a limit.
    #[must_use]
    pub fn quota(&self, limit: RateLimit) -> Quota {
        let set = self.set.iter().rev().find(|(of, _)| *of == limit);
        set.map_or(limit.default_quota(), |(_, quota)| *quota)
    }

    /// Sets the quota of a limit.
    pub fn set(&mut self, limit: RateLimit, quota: Quota) {
        self.set.push((limit, quota));
    }
}

/// The state of a limit for one caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuotaStatus {
    /// The limit.
    pub limit: RateLimit,
    /// The quota of the limit.
    pub quota: Quota,
    /// The number of requests left.
    pub remaining: u32,
    /// The time until the bucket is full.
    pub reset: TimeDelta,
}

/// A refusal, because the quota is spent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuotaExceeded {
    /// The state of the limit.
    pub status: QuotaStatus,
    /// The time until the bucket admits the request.
    pub retry_after: TimeDelta,
}

/// An event of a rate limit. Sealed: the address, if the limit counts by address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RateLimitEvent {
    /// Requests were refused: one event per origin, window and node.
    #[serde(rename = "rate_limit.violated")]
    Violated {
        /// The origin by which requests are counted.
        layer: RateLimitLayer,
        /// The group of operations; `None` for all operations.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        route: Option<RouteGroup>,
        /// The time of the first refused request.
        #[serde(with = "crate::leaf::micros")]
        started_at: DateTime<Utc>,
        /// The end of the window.
        #[serde(with = "crate::leaf::micros")]
        ended_at: DateTime<Utc>,
        /// The number of refused requests.
        count: u64,
    },
}

/// The origin by which a limit counts requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RateLimitLayer {
    /// The address.
    Address,
    /// The account, or the API key.
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

        /// Several requests at once are admitted if they would be one after another, and leave the bucket in the same
        /// state.
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

        /// A request after `retry_after` is admitted; one a microsecond earlier is not.
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
