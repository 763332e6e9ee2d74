//! Limits that hold across nodes, the hashing permits and quotas that commands take, and the record of refusals.
//!
//! The shared count is one row per bucket in Postgres. `fulexo_domain::rate_limit` keeps the same values in a node's
//! memory; the same rule, as one statement, judges the rows. The edge chooses the requests to count, and the answer
//! when the database does not respond.

use chrono::{DateTime, TimeDelta, Utc};
use fulexo_bcrypt::MAX_LANES;
use fulexo_domain::event::Actor;
use fulexo_domain::rate_limit::{Quota, RateLimitEvent, RateLimitLayer, RouteGroup};
use fulexo_domain::sealed_field::SealedField;
use fulexo_domain::values::AccountId;
use sqlx::postgres::types::PgInterval;
use uuid::Uuid;

use crate::authentication::password_hash::{HashingPermit, PasswordHasher, PermitHolder};
use crate::context::Context;
use crate::error::CommandError;
use crate::execute;
use crate::quotas::QuotaHolder;
use crate::vault::PersonalData;
use crate::write_side::WriteSide;

/// The decision of the shared count on one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SharedQuotaDecision {
    /// The request is admitted.
    Admitted {
        /// The number of further requests that would be admitted now.
        remaining: u32,
    },
    /// The request is refused.
    Refused {
        /// The time until a request is admitted again.
        retry_after: TimeDelta,
    },
}

/// The refused requests of one origin within one window.
pub struct RateLimitViolation {
    /// The layer whose limit they exceeded.
    pub layer: RateLimitLayer,
    /// The routes that the limit covers; `None` for all.
    pub route: Option<RouteGroup>,
    /// The actor that sent them, as far as it is known.
    pub actor: Actor,
    /// The address or network that they came from. Personal data.
    pub origin: Option<String>,
    /// The time of the first one.
    pub began_at: DateTime<Utc>,
    /// The end of the window.
    pub ended_at: DateTime<Utc>,
    /// The number of requests.
    pub count: u64,
}

/// The maximum number of violations per append.
const BATCH: usize = 256;

impl RateLimitViolation {
    const fn event(&self) -> RateLimitEvent {
        RateLimitEvent::Violated {
            layer: self.layer,
            route: self.route,
            started_at: self.began_at,
            ended_at: self.ended_at,
            count: self.count,
        }
    }
}

const fn subject(actor: Actor) -> Option<AccountId> {
    match actor {
        Actor::Account { id } => Some(AccountId(id)),
        Actor::ApiKey { .. } | Actor::Anonymous | Actor::Operator | Actor::System => None,
    }
}

const fn microseconds(microseconds: i64) -> PgInterval {
    PgInterval { months: 0, days: 0, microseconds }
}

pub(crate) async fn count_request(
    side: &WriteSide,
    route: RouteGroup,
    origin: &[u8],
    quota: Quota,
) -> Result<SharedQuotaDecision, sqlx::Error> {
    let key_hash = side.vault.digest("rate-limit", &[route.as_str().as_bytes(), origin]);
    let (interval, tolerance) = (quota.interval(), quota.tolerance());
    // Quota::admit, in one statement.
    let row = sqlx::query!(
        r#"insert into vault.rate_limit as r (key_hash, full_at, admitted)
           values ($1, clock_timestamp() + $2, true)
           on conflict on constraint rate_limit_pkey do update
           set (full_at, admitted) = (
               select case when judged.admitted then n.next else r.full_at end, judged.admitted
               from (select c.now, greatest(r.full_at, c.now) + $2 as next
                     from (select clock_timestamp() as now) c) n,
                    lateral (select n.next <= n.now + $3::interval as admitted) judged)
           returning admitted, (extract(epoch from full_at - clock_timestamp()) * 1000000)::bigint as "ahead!""#,
        key_hash.as_slice(),
        microseconds(interval),
        microseconds(tolerance)
    )
    .fetch_one(&side.pool)
    .await?;
    Ok(if row.admitted {
        SharedQuotaDecision::Admitted { remaining: quota.remaining(row.ahead, 0) }
    } else {
        let wait = row.ahead.saturating_add(interval).saturating_sub(tolerance).max(0);
        SharedQuotaDecision::Refused { retry_after: TimeDelta::microseconds(wait) }
    })
}

/// Takes one hashing permit, and spends one hash of the quotas of the caller's address and account.
pub(crate) fn hashing_permit(side: &WriteSide, context: &Context) -> Result<HashingPermit, CommandError> {
    let permit = acquire_permit(&side.hasher, context)?;
    spend_hashes(side, context, 1)?;
    Ok(permit)
}

/// Spends `hashes` of the quotas, and takes as many permits as are hashed in parallel. Hashes that run one after
/// another share permits.
pub(crate) fn hashing_permits(
    side: &WriteSide,
    context: &Context,
    hashes: usize,
) -> Result<Vec<HashingPermit>, CommandError> {
    let permits =
        (0..hashes.min(MAX_LANES)).map(|_| acquire_permit(&side.hasher, context)).collect::<Result<_, _>>()?;
    spend_hashes(side, context, u32::try_from(hashes).unwrap_or(u32::MAX))?;
    Ok(permits)
}

fn acquire_permit(hasher: &PasswordHasher, context: &Context) -> Result<HashingPermit, CommandError> {
    let holder = PermitHolder::at(context.origin.ip, context.account());
    Ok(hasher.permit(holder)?)
}

fn spend_hashes(side: &WriteSide, context: &Context, hashes: u32) -> Result<(), CommandError> {
    if let Some(address) = context.origin.ip {
        spend(side, RouteGroup::Hashes, QuotaHolder::Address(address), hashes)?;
    }
    match context.account() {
        Some(account) => spend(side, RouteGroup::AccountHashes, QuotaHolder::Account(account), hashes),
        None => Ok(()),
    }
}

pub(crate) fn spend(side: &WriteSide, route: RouteGroup, payer: QuotaHolder, count: u32) -> Result<(), CommandError> {
    let Some(quotas) = &side.quotas else { return Ok(()) };
    quotas.spend(route, payer, count).map_err(|spent| CommandError::QuotaExceeded(Box::new(spent)))
}

pub(crate) async fn record_violations(
    side: &WriteSide,
    context: &Context,
    violations: &[RateLimitViolation],
) -> Result<(), CommandError> {
    let key = side.vault.period_key(context.now).await?;
    // An append has one actor.
    for group in violations.chunk_by(|one, next| one.actor == next.actor) {
        for batch in group.chunks(BATCH) {
            let Some(RateLimitViolation { actor, .. }) = batch.first() else { continue };
            let context = Context { actor: *actor, ..context.clone() };
            let mut unit = side.unit_of_work(&context);
            for violation in batch {
                let personal = PersonalData::default().with(SealedField::Ip, violation.origin.as_deref());
                unit = unit.sealing(Some((key.clone(), personal)));
                unit.record(Uuid::nil(), subject(*actor), [violation.event()])?;
            }
            execute::commit(side, unit, None, ()).await?;
        }
    }
    Ok(())
}
