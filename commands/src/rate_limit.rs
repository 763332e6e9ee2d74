//! Limits that hold across nodes, what commands spend themselves, and the record of what was refused by any.
//!
//! The shared count is one row a bucket in Postgres: the rows are what `fulexo_domain::rate_limit` keeps in a node's
//! memory, judged by the same rule in one statement. Which requests are counted, and what is done when the database does
//! not answer, is the edge's business.

use chrono::{DateTime, TimeDelta, Utc};
use fulexo_bcrypt::MOST_LANES;
use fulexo_domain::event::{Actor, Field};
use fulexo_domain::rate_limit::{Layer, Quota, RateLimitEvent, Route};
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

/// What the shared count says to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SharedQuotaDecision {
    /// It is let in, and there is room for so many more.
    Admitted {
        /// Requests.
        remaining: u32,
    },
    /// It is not.
    Refused {
        /// When there will be room.
        retry_after: TimeDelta,
    },
}

/// Requests that were refused, of one origin, within one window.
pub struct RateLimitViolation {
    /// Whose requests were counted together.
    pub layer: Layer,
    /// On which routes; none: on all.
    pub route: Option<Route>,
    /// Who sent them, where that is known.
    pub actor: Actor,
    /// From which address or network. Personal data.
    pub origin: Option<String>,
    /// The first of them.
    pub began_at: DateTime<Utc>,
    /// The end of the window.
    pub ended_at: DateTime<Utc>,
    /// How many.
    pub count: u64,
}

/// Most violations in one append.
const BATCH: usize = 256;

impl RateLimitViolation {
    const fn event(&self) -> RateLimitEvent {
        RateLimitEvent::Violated {
            layer: self.layer,
            route: self.route,
            began_at: self.began_at,
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
    route: Route,
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

/// A place in the hashing pool, and one hash of the budgets of the address and the account that ask.
pub(crate) fn place(side: &WriteSide, context: &Context) -> Result<HashingPermit, CommandError> {
    let place = take_place(&side.hasher, context)?;
    spend_hashes(side, context, 1)?;
    Ok(place)
}

/// So many hashes of the budgets, and as many places as are hashed side by side: what is hashed one after another
/// needs no further ones.
pub(crate) fn places(side: &WriteSide, context: &Context, hashes: usize) -> Result<Vec<HashingPermit>, CommandError> {
    let places = (0..hashes.min(MOST_LANES)).map(|_| take_place(&side.hasher, context)).collect::<Result<_, _>>()?;
    spend_hashes(side, context, u32::try_from(hashes).unwrap_or(u32::MAX))?;
    Ok(places)
}

fn take_place(hasher: &PasswordHasher, context: &Context) -> Result<HashingPermit, CommandError> {
    let party = PermitHolder::at(context.origin.ip, context.account());
    hasher.place(party).map_err(|_| CommandError::Overloaded)
}

fn spend_hashes(side: &WriteSide, context: &Context, hashes: u32) -> Result<(), CommandError> {
    if let Some(address) = context.origin.ip {
        spend(side, Route::Hashes, QuotaHolder::Address(address), hashes)?;
    }
    match context.account() {
        Some(account) => spend(side, Route::AccountHashes, QuotaHolder::Account(account), hashes),
        None => Ok(()),
    }
}

pub(crate) fn spend(side: &WriteSide, route: Route, payer: QuotaHolder, count: u32) -> Result<(), CommandError> {
    let Some(quotas) = &side.quotas else { return Ok(()) };
    quotas.spend(route, payer, count).map_err(|spent| CommandError::QuotaSpent(Box::new(spent)))
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
                let personal = PersonalData::default().with(Field::Ip, violation.origin.as_deref());
                unit = unit.sealing(Some((key.clone(), personal)));
                unit.record(Uuid::nil(), subject(*actor), [violation.event()])?;
            }
            execute::commit(side, unit, None, ()).await?;
        }
    }
    Ok(())
}
