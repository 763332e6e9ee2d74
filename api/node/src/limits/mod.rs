//! The limits on requests: by address, by account, and by either for kinds of operations that cost more. The edge,
//! operations and `caller.rs` ask here, each for its layer, before the request costs anything that the layer guards;
//! commands, for what they spend ([`CommandQuotas`]).
//!
//! Each node counts for itself. On routes where somebody may be guessing all nodes also count together, in Postgres; when
//! that does not answer at once, a node's own count stands. Refusals are recorded, folded (`tally.rs`).

mod buckets;
mod tally;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use fulexo_commands::context::{self, Context};
use fulexo_commands::{CommandQuotas, Commands, QuotaHolder, SharedQuotaDecision};
use fulexo_database::chain;
use fulexo_domain::event::Actor;
use fulexo_domain::rate_limit::{self, Admission, QuotaExceeded, RateLimit, RateLimitLayer, RateLimits, RouteGroup};
use fulexo_domain::values::AccountId;
use tokio::time::{sleep, timeout};

use self::buckets::Buckets;
pub use self::buckets::RequestSource;
use self::tally::Tally;
use crate::clock;
use crate::http::problem::Problem;
use crate::http::request_id::RequestId;
use crate::http::standing::{Standing, whole_seconds};

/// The time limit of the shared count. It is long enough that nobody makes a node count alone by keeping it busy.
const PATIENCE: Duration = Duration::from_secs(2);
/// The time for which a shared count that did not answer is left alone, so that not every login waits for it.
const PAUSE: TimeDelta = TimeDelta::seconds(5);
/// The time between two looks at the tally.
const LOOK: Duration = Duration::from_millis(500);

/// The limits of one node.
pub struct Limits {
    counts: Arc<Counts>,
    commands: Arc<Commands>,
    /// The time until which the shared count is left alone, in microseconds of this process.
    alone_until: AtomicI64,
}

/// The counts that one node keeps by itself.
pub struct Counts {
    quotas: RateLimits,
    buckets: Buckets,
    tally: Tally,
    began: Instant,
}

impl Limits {
    /// The limits over what this node counts.
    #[must_use]
    pub fn new(counts: Arc<Counts>, commands: Arc<Commands>) -> Self {
        Self { counts, commands, alone_until: AtomicI64::new(0) }
    }

    /// Counts a request of this address.
    ///
    /// # Errors
    /// 429.
    pub fn address(&self, address: IpAddr) -> Result<Standing, Problem> {
        Ok(Standing(self.counts.admit(RateLimit::Address, RequestSource::of(address), 1)?))
    }

    /// Counts a request of this address on such a route.
    ///
    /// # Errors
    /// 429.
    pub async fn route(&self, route: RouteGroup, address: IpAddr) -> Result<Standing, Problem> {
        let (limit, origin) = (RateLimit::Route(route), RequestSource::of(address));
        // Its own count first: what it refuses costs the database nothing.
        let standing = self.counts.admit(limit, origin, 1)?;
        if !route.is_shared() || self.counts.now() < self.alone_until.load(Ordering::Relaxed) {
            return Ok(Standing(standing));
        }
        match timeout(PATIENCE, self.commands.count_request(route, origin.as_bytes(), standing.quota)).await {
            Ok(Ok(SharedQuotaDecision::Admitted { remaining })) => {
                Ok(Standing(rate_limit::QuotaStatus { remaining: remaining.min(standing.remaining), ..standing }))
            }
            Ok(Ok(SharedQuotaDecision::Refused { retry_after })) => {
                let standing = rate_limit::QuotaStatus { remaining: 0, ..standing };
                Err(self.counts.refuse(standing, origin, retry_after).into())
            }
            unanswered => {
                let until = self.counts.now().saturating_add(PAUSE.num_microseconds().unwrap_or_default());
                self.alone_until.store(until, Ordering::Relaxed);
                let error = match unanswered {
                    Ok(Err(error)) => chain(&error).to_string(),
                    Ok(Ok(_)) | Err(_) => "no answer in time".to_owned(),
                };
                tracing::warn!(%error, route = route.as_str(), "requests are counted by this node alone for a while");
                Ok(Standing(standing))
            }
        }
    }

    /// Counts a request of somebody known, of these kinds.
    ///
    /// # Errors
    /// 429.
    pub fn account(&self, actor: Actor, routes: &[RouteGroup]) -> Result<(), Problem> {
        let origin = match actor {
            Actor::Account { id } => RequestSource::Account(id),
            Actor::ApiKey { id } => RequestSource::ApiKey(id),
            Actor::Anonymous | Actor::Operator | Actor::System => return Ok(()),
        };
        for limit in [RateLimit::Account].into_iter().chain(routes.iter().copied().map(RateLimit::Route)) {
            self.counts.admit(limit, origin, 1)?;
        }
        Ok(())
    }

    /// Records what was refused, as windows end; until it is dropped.
    pub async fn run(self: Arc<Self>) {
        loop {
            sleep(LOOK).await;
            self.record(clock::now()).await;
        }
    }

    /// Records what was refused in windows that end by `until`.
    pub async fn record(&self, until: DateTime<Utc>) {
        let violations = self.counts.tally.take(until);
        if violations.is_empty() {
            return;
        }
        let context = Context {
            actor: Actor::System,
            correlation: RequestId::draw().0,
            now: clock::now(),
            origin: context::RequestOrigin::default(),
            idempotency_key: None,
        };
        if let Err(error) = self.commands.record_violations(&context, &violations).await {
            let refused: u64 = violations.iter().map(|violation| violation.count).sum();
            tracing::error!(error = %chain(&error), refused, "refused requests could not be recorded");
        }
    }
}

impl Counts {
    /// The counts over these quotas.
    #[must_use]
    pub fn new(quotas: RateLimits) -> Self {
        Self { quotas, buckets: Buckets::default(), tally: Tally::default(), began: Instant::now() }
    }

    fn admit(
        &self,
        limit: RateLimit,
        origin: RequestSource,
        count: u32,
    ) -> Result<rate_limit::QuotaStatus, QuotaExceeded> {
        let (quota, now) = (self.quotas.quota(limit), self.now());
        let (admission, full_at) = self.buckets.admit(limit, origin, quota, count, now);
        let reset = TimeDelta::microseconds(full_at.saturating_sub(now).max(0));
        let standing = rate_limit::QuotaStatus { limit, quota, remaining: quota.remaining(full_at, now), reset };
        match admission {
            Admission::Admitted { .. } => Ok(standing),
            Admission::Refused { retry_after } => Err(self.refuse(standing, origin, retry_after)),
        }
    }

    fn refuse(
        &self,
        standing: rate_limit::QuotaStatus,
        origin: RequestSource,
        retry_after: TimeDelta,
    ) -> QuotaExceeded {
        self.tally.count(standing.limit, origin, standing.quota, clock::now());
        QuotaExceeded { status: standing, retry_after }
    }

    /// Microseconds of this process.
    fn now(&self) -> i64 {
        i64::try_from(self.began.elapsed().as_micros()).unwrap_or(i64::MAX)
    }
}

impl CommandQuotas for Counts {
    fn spend(&self, route: RouteGroup, payer: QuotaHolder, count: u32) -> Result<(), QuotaExceeded> {
        let origin = match payer {
            QuotaHolder::Address(address) => RequestSource::of(address),
            QuotaHolder::Account(AccountId(id)) => RequestSource::Account(id),
        };
        self.admit(RateLimit::Route(route), origin, count).map(|_| ())
    }
}

impl From<QuotaExceeded> for Problem {
    fn from(QuotaExceeded { status: standing, retry_after }: QuotaExceeded) -> Self {
        let rate_limit::QuotaStatus { limit, quota, .. } = standing;
        let (name, seconds) = (limit.as_str(), whole_seconds(quota.window()));
        let of = match limit.scope().0 {
            RateLimitLayer::Address => "your address",
            RateLimitLayer::Account => "your account",
        };
        Self::rate_limited(retry_after.to_std().unwrap_or_default())
            .with_quota(name)
            .with_detail(format!(
                "The quota `{name}` of {of} is exhausted: {} requests in {seconds} seconds. Wait as long as Retry-After says.",
                quota.requests()
            ))
            .with_standing(Standing(standing))
    }
}
