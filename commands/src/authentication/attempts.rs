//! Attempts, from counting to refusal. An attempt is counted before it is evaluated, so that neither parallel guesses
//! nor several nodes get more guesses evaluated than the policy allows. It counts first on the counter of its device,
//! or of the address if the device is unknown, and then on the account's counter over all devices. Each count is one
//! statement, so that no lock is held between the two. If the second counter refuses, the count on the first is taken
//! back. In this order, an attempt that is locked out does not fill the account's counter, and so cannot lock out other
//! devices.
//!
//! A counter may be full of attempts that are still in flight, and whose results are not known yet. A further attempt
//! then waits for them, on any node, and is refused as `too_many_concurrent` if they take too long.
//!
//! Every check of a password or code goes through this module: login, second factor, step-up, change of password.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, TimeDelta, Utc};
use fulexo_database::chain;
use fulexo_domain::Aggregate;
use fulexo_domain::account::AccountError;
use fulexo_domain::authentication::{
    Attempt, AttemptCount, AttemptOutcome, Authentication, AuthenticationEvent, Factor,
};
use fulexo_domain::lockout::{AttemptReservation, COUNTER_RETENTION};
use fulexo_domain::password::Password;
use fulexo_domain::policy::LockoutPolicy;
use fulexo_domain::values::AccountId;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::PgPool;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use uuid::Uuid;

use crate::authentication::attempt_queues::InFlightAttempt;
use crate::authentication::credentials::{self, StoredCredentials};
use crate::authentication::password_hash::HashingPermit;
use crate::context::{Context, network_facts};
use crate::error::CommandError;
use crate::execute;
use crate::idempotency::IdempotencyKey;
use crate::mail::outbox;
use crate::unit_of_work::UnitOfWork;
use crate::vault::Vault;
use crate::vault::write::VaultWrite;
use crate::write_side::WriteSide;

/// The age up to which the last acknowledged commit shows that the database acknowledges commits, and the time to wait
/// for one.
const HEARTBEAT_LIMIT: Duration = Duration::from_secs(2);

/// The time that an attempt waits for others in flight.
const MAX_WAIT: Duration = Duration::from_secs(2);

/// The maximum interval between checks for attempts in flight on other nodes.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// The age at which an unsettled attempt is abandoned: its node is gone.
const ABANDONED: TimeDelta = TimeDelta::seconds(30);

/// The time during which recording a counted attempt is retried.
const RETRY_PERIOD: Duration = Duration::from_secs(30);

/// The counter that an attempt belongs to.
#[derive(Clone, Copy)]
pub(crate) enum AttemptScope<'a> {
    /// A normalised address, and the account that holds it, if there is one.
    Address(&'a str, Option<AccountId>),
    /// An account that is known before the attempt.
    Account(AccountId),
    /// A device that the account knows or has a session on. Strangers cannot lock out its owner.
    Device(AccountId, Uuid),
}

/// The HMACs of the keys of an attempt's two counters.
#[derive(Clone, Copy)]
struct AttemptKeys {
    /// The HMAC of the key of the counter of its device, or of what was typed in.
    own: [u8; 32],
    /// The HMAC of the key of the counter over all devices.
    account: [u8; 32],
}

/// A counter, and the account whose attempts it counts, if there is one.
#[derive(Clone, Copy)]
struct CounterId {
    key_hash: [u8; 32],
    account: Option<AccountId>,
    factor: Factor,
}

/// A counted attempt.
pub(crate) struct CountedAttempt {
    keys: AttemptKeys,
    pub factor: Factor,
    /// The device's name in the log, if the attempt counts on a device.
    device: Option<String>,
    /// The time at which it was counted.
    at: DateTime<Utc>,
    own: CounterReading,
    account: CounterReading,
    /// Open if both counters are.
    pub lockout: AttemptReservation,
    /// `true` if only attempts in flight prevent its evaluation.
    is_pending: bool,
    /// Wakes waiting attempts when this one ends.
    in_flight: Vec<InFlightAttempt>,
}

/// The state of a counter after it counted or refused an attempt.
#[derive(Clone, Copy)]
struct CounterReading {
    lockout: AttemptReservation,
    locks: u32,
    /// `true` if attempts in flight are among those that fill it.
    is_pending: bool,
}

impl CounterReading {
    const FIRST: Self =
        Self { lockout: AttemptReservation::Granted { number: 1, lock_expired: false }, locks: 0, is_pending: false };

    const fn lock_expired(self) -> bool {
        matches!(self.lockout, AttemptReservation::Granted { lock_expired: true, .. })
    }

    const fn counted(self) -> AttemptCount {
        let number = match self.lockout {
            AttemptReservation::Granted { number, .. } => number,
            AttemptReservation::Locked => 0,
        };
        AttemptCount { number, locks: self.locks }
    }
}

impl CountedAttempt {
    /// Returns the verdict on an attempt that failed.
    pub fn verdict(&self, stored: Option<&StoredCredentials>) -> AttemptOutcome {
        match (stored, self.lockout) {
            (_, AttemptReservation::Locked) if self.is_pending => AttemptOutcome::TooManyConcurrent,
            (_, AttemptReservation::Locked) => AttemptOutcome::Locked,
            (None, AttemptReservation::Granted { .. }) => AttemptOutcome::UnknownAccount,
            (Some(_), AttemptReservation::Granted { .. }) => {
                AttemptOutcome::Incorrect { own: self.own.counted(), account: self.account.counted() }
            }
        }
    }

    /// Returns an attempt that is refused without being counted.
    pub fn uncounted(factor: Factor) -> Self {
        Self::first(AttemptKeys { own: [0; 32], account: [0; 32] }, factor, None, DateTime::UNIX_EPOCH)
    }

    fn first(keys: AttemptKeys, factor: Factor, device: Option<String>, at: DateTime<Utc>) -> Self {
        let (own, account) = (CounterReading::FIRST, CounterReading::FIRST);
        let (lockout, is_pending, in_flight) = (own.lockout, false, Vec::new());
        Self { keys, factor, device, at, own, account, lockout, is_pending, in_flight }
    }

    /// Returns the write of a successful attempt: it resets its own counter, and takes this attempt, but no other, back
    /// from the counter over all devices.
    pub const fn success_write(&self) -> VaultWrite {
        let Self { keys: AttemptKeys { own: key_hash, account: account_key }, factor, at, .. } = *self;
        VaultWrite::SuccessfulAttempt { key_hash, account_key, factor: factor.as_str(), at }
    }

    /// Returns the write of a failed attempt, or `None` if it was not evaluated.
    const fn failure_write(&self) -> Option<VaultWrite> {
        let Self { keys: AttemptKeys { own: key_hash, account: account_key }, factor, at, .. } = *self;
        match self.lockout {
            AttemptReservation::Granted { .. } => {
                Some(VaultWrite::FailedAttempt { key_hash, account_key, factor: factor.as_str(), at })
            }
            AttemptReservation::Locked => None,
        }
    }
}

/// Retries an action while the service is overloaded or the database unavailable, for half a minute.
async fn retry_while_unavailable<T, F>(act: impl Fn() -> F) -> Result<T, CommandError>
where
    F: Future<Output = Result<T, CommandError>>,
{
    let (began, mut pause) = (Instant::now(), Duration::from_millis(20));
    loop {
        match act().await {
            Err(CommandError::Overloaded | CommandError::Unavailable(_)) if began.elapsed() < RETRY_PERIOD => {
                sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(1));
            }
            done => return done,
        }
    }
}

pub(crate) fn interval(span: chrono::TimeDelta) -> sqlx::postgres::types::PgInterval {
    let microseconds = span.num_microseconds().unwrap_or(i64::MAX);
    sqlx::postgres::types::PgInterval { months: 0, days: 0, microseconds }
}

fn counter_key(vault: &Vault, subject: AttemptScope<'_>) -> [u8; 32] {
    match subject {
        AttemptScope::Address(address, _) => vault.digest("attempt", &[address.as_bytes()]),
        AttemptScope::Account(account) => vault.digest("attempt/account", &[account.0.as_bytes()]),
        AttemptScope::Device(account, device) => {
            vault.digest("attempt/device", &[account.0.as_bytes(), device.as_bytes()])
        }
    }
}

/// Returns the key of the counter over all devices. An address without an account has a counter of its own here, so
/// that both cases take the same time.
fn all_devices_key(vault: &Vault, subject: AttemptScope<'_>) -> [u8; 32] {
    match subject {
        AttemptScope::Address(address, None) => vault.digest("attempt/nobody", &[address.as_bytes()]),
        AttemptScope::Address(_, Some(account)) | AttemptScope::Account(account) | AttemptScope::Device(account, _) => {
            vault.digest("attempt/all-devices", &[account.0.as_bytes()])
        }
    }
}

/// Returns the keys of the two counters of an attempt: its own, and the one over all devices.
pub(crate) fn counter_keys(vault: &Vault, subject: AttemptScope<'_>) -> [[u8; 32]; 2] {
    [counter_key(vault, subject), all_devices_key(vault, subject)]
}

/// Returns `true` if one of these attempts may still be evaluated: its node is not gone.
pub(crate) fn are_in_progress(pending: &[DateTime<Utc>], now: DateTime<Utc>) -> bool {
    pending.iter().any(|at| *at > now - ABANDONED)
}

/// Returns the name of a device in the log: a digest that reveals nothing, and is the same for every attempt.
pub(crate) fn device_name(vault: &Vault, account: AccountId, device: Uuid) -> String {
    let digest = vault.digest("device-name", &[account.0.as_bytes(), device.as_bytes()]);
    URL_SAFE_NO_PAD.encode(digest.split_at(16).0)
}

/// Counts an attempt on its own counter and on the account's, unless it may not be evaluated. Waits up to [`MAX_WAIT`]
/// for others in flight.
pub(crate) async fn reserve_attempt(
    side: &WriteSide,
    subject: AttemptScope<'_>,
    factor: Factor,
    now: DateTime<Utc>,
) -> Result<CountedAttempt, CommandError> {
    let [own, account] = counter_keys(&side.vault, subject);
    let keys = AttemptKeys { own, account };
    let (owner, account, device) = match subject {
        AttemptScope::Address(_, account) => (None, account, None),
        AttemptScope::Account(account) => (Some(account), Some(account), None),
        AttemptScope::Device(account, device) => {
            (Some(account), Some(account), Some(device_name(&side.vault, account, device)))
        }
    };
    require_commit_heartbeat(side).await?;
    let policy = &side.current_policy().await?.lockout;
    if !policy.enabled {
        return Ok(CountedAttempt::first(keys, factor, device, now));
    }
    let deadline = Instant::now() + MAX_WAIT;
    let counter = CounterId { key_hash: keys.own, account: owner, factor };
    let own = count_in_turn(side, counter, now, policy, deadline).await?;
    let mut reserved = CountedAttempt {
        own,
        lockout: own.lockout,
        is_pending: own.is_pending,
        ..CountedAttempt::first(keys, factor, device, now)
    };
    if own.lockout != AttemptReservation::Locked {
        reserved.in_flight.push(side.queues.attempts.mark_in_flight(keys.own, factor));
        let counter = CounterId { key_hash: keys.account, account, factor };
        let account = count_in_turn(side, counter, now, &policy.for_account(), deadline).await;
        if account.as_ref().map_or(true, |account| account.lockout == AttemptReservation::Locked) {
            retry_while_unavailable(|| take_back(&side.pool, &keys.own, factor, now)).await?;
            reserved.lockout = AttemptReservation::Locked;
        } else {
            reserved.in_flight.push(side.queues.attempts.mark_in_flight(keys.account, factor));
        }
        reserved.account = account?;
        reserved.is_pending = reserved.account.is_pending;
    }
    Ok(reserved)
}

/// Counts an attempt after those queued before it. While attempts in flight fill the counter, it waits for them until
/// the deadline. If its queue is full, it does not wait.
async fn count_in_turn(
    side: &WriteSide,
    counter: CounterId,
    now: DateTime<Utc>,
    policy: &LockoutPolicy,
    deadline: Instant,
) -> Result<CounterReading, CommandError> {
    let Some(queued) = side.queues.attempts.enter(counter.key_hash, counter.factor) else {
        return count(&side.pool, counter, now, policy).await;
    };
    let turn = timeout_at(deadline, queued.turn()).await;
    let mut pause = Duration::from_millis(10);
    loop {
        let count = count(&side.pool, counter, now, policy).await?;
        if !count.is_pending || turn.is_err() || Instant::now() >= deadline {
            return Ok(count);
        }
        // Attempts of this node notify the queue; those of other nodes are polled.
        let _ = timeout_at(deadline.min(Instant::now() + pause), queued.settled()).await;
        pause = (pause * 2).min(POLL_INTERVAL);
    }
}

/// Counts an attempt, unless it may not be evaluated.
async fn count(
    pool: &PgPool,
    CounterId { key_hash, account, factor }: CounterId,
    now: DateTime<Utc>,
    policy: &LockoutPolicy,
) -> Result<CounterReading, CommandError> {
    // `reserve` of the domain's `AttemptCounter`, as one statement. The tests compare the two.
    let row = sqlx::query!(
        "insert into vault.attempt as a
             (key_hash, factor, account_id, recent, pending, number, lock_expired, window_ends_at, locks)
         values ($1, $2, $3, array[$4::timestamptz], array[$4::timestamptz], 1, false, $4 + $5, 0)
         on conflict on constraint attempt_pkey do update
         set (recent, pending, number, lock_expired, locked_until, locks, window_ends_at) = (
             select case when held then a.recent when filled then kept else kept || $4::timestamptz end,
                    case when held or filled then under_way else under_way || $4::timestamptz end,
                    case when held or filled then null else cardinality(kept) + 1 end,
                    a.locked_until is not null and not held and not forgotten,
                    case when held then a.locked_until end,
                    case when forgotten then 0 else a.locks end,
                    $4 + $5
             from (select a.locked_until is not null and a.locked_until > $4 as held,
                          $4 >= greatest(a.window_ends_at, a.locked_until) + $7::interval as forgotten,
                          case when a.locked_until is null
                               then array(select t from unnest(a.recent) t where t > $4 - $5)
                               else array[]::timestamptz[] end as kept,
                          array(select t from unnest(a.pending) t where t > $4 - $8::interval) as under_way) now,
                  lateral (select cardinality(kept) >= $6 as filled) judged)
         returning number, lock_expired, locks,
                   number is null and locked_until is null and pending <> '{}' as \"is_pending!\"",
        key_hash.as_slice(),
        factor.as_str(),
        account.map(|account| account.0),
        now,
        interval(policy.window),
        i32::try_from(policy.threshold).unwrap_or(i32::MAX),
        interval(COUNTER_RETENTION),
        interval(ABANDONED)
    )
    .fetch_one(pool)
    .await?;
    let lockout = match row.number {
        Some(number) => AttemptReservation::Granted { number: number.unsigned_abs(), lock_expired: row.lock_expired },
        None => AttemptReservation::Locked,
    };
    Ok(CounterReading { lockout, locks: row.locks.unsigned_abs(), is_pending: row.is_pending })
}

/// `release` of the domain's counter, as one statement.
async fn take_back(pool: &PgPool, key_hash: &[u8; 32], factor: Factor, at: DateTime<Utc>) -> Result<(), CommandError> {
    sqlx::query!(
        "update vault.attempt
         set recent = vault.without(recent, $3), pending = vault.without(pending, $3)
         where key_hash = $1 and factor = $2 and array_position(recent, $3) is not null",
        key_hash.as_slice(),
        factor.as_str(),
        at
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// Refuses attempts while the database acknowledges no commit, for example because a standby is away. Such attempts
/// would count without being answered, and lock out a user who retries.
async fn require_commit_heartbeat(side: &WriteSide) -> Result<(), CommandError> {
    let mut commits = side.commit_heartbeat.subscribe();
    let heartbeat = commits.wait_for(|at| at.is_none_or(|at| at.elapsed() < HEARTBEAT_LIMIT));
    // There is no cause but the time that has passed.
    timeout(HEARTBEAT_LIMIT, heartbeat).await.map(|_| ()).map_err(|_| CommandError::Unavailable(None))
}

/// Returns `true` if the password is right. Computes one hash in any case, and never evaluates the password of a locked
/// account.
pub(crate) async fn evaluate(
    side: &WriteSide,
    password: Password,
    stored: Option<&StoredCredentials>,
    attempt: &CountedAttempt,
    permit: HashingPermit,
) -> Result<bool, CommandError> {
    let verifier = match attempt.lockout {
        AttemptReservation::Granted { .. } => stored.map(|stored| stored.verifier.clone()),
        AttemptReservation::Locked => None,
    };
    let evaluated = side.hasher.verify(password, verifier, permit).await.map_err(CommandError::from);
    take_back_on_error(&side.pool, attempt, evaluated).await
}

/// Takes an attempt back if it ended for a reason of ours: it was not evaluated, or was right. A wrong attempt stays
/// counted even if its record fails, so that no guess is free.
pub(crate) async fn take_back_on_error<T>(
    pool: &PgPool,
    attempt: &CountedAttempt,
    done: Result<T, CommandError>,
) -> Result<T, CommandError> {
    // These two are recorded as attempts.
    let is_recorded =
        |error: &CommandError| matches!(error, CommandError::InvalidCredentials | CommandError::Password(_));
    if let Err(error) = &done
        && !is_recorded(error)
        && let Err(error) = retry_while_unavailable(|| give_back(pool, attempt)).await
    {
        tracing::warn!(error = %chain(&error), "an attempt could not be taken back and stays counted until its window has passed");
    }
    done
}

async fn give_back(pool: &PgPool, attempt: &CountedAttempt) -> Result<(), CommandError> {
    take_back(pool, &attempt.keys.own, attempt.factor, attempt.at).await?;
    take_back(pool, &attempt.keys.account, attempt.factor, attempt.at).await
}

/// Concludes an attempt whose factor was right. If the factor was no longer right at the decision, or the account was
/// suspended in the meantime, the refusal is recorded.
pub(crate) async fn conclude<T>(
    side: &WriteSide,
    context: &Context,
    stored: &StoredCredentials,
    attempt: &CountedAttempt,
    done: Result<T, CommandError>,
) -> Result<T, CommandError> {
    let verdict = if matches!(done, Err(CommandError::InvalidCredentials)) {
        attempt.verdict(Some(stored))
    } else if matches!(done, Err(CommandError::Account(AccountError::Suspended))) {
        AttemptOutcome::Suspended
    } else {
        return take_back_on_error(&side.pool, attempt, done).await;
    };
    Err(record_and_refuse(side, context, stored, verdict, attempt).await?)
}

/// Returns the unit of work that records a refusal, and the lockout that may follow.
pub(crate) async fn refusal<'a>(
    side: &WriteSide,
    context: &'a Context,
    stored: Option<&StoredCredentials>,
    verdict: AttemptOutcome,
    attempt: &CountedAttempt,
) -> Result<UnitOfWork<'a>, CommandError> {
    // Data that belongs to no account is sealed under the key of the month.
    let key = match stored {
        Some(stored) => stored.key.clone(),
        None => side.vault.period_key(context.now).await?,
    };
    let mut unit = side.unit_of_work(context).sealing(Some((key, network_facts(context))));
    if let Some(judged) = attempt.failure_write() {
        unit.vault(judged);
    }
    let events = decide_attempt(side, attempt, verdict, context.now);
    let account = stored.map(|stored| stored.account);
    let ids =
        unit.record_with_ids(account.map_or(Uuid::nil(), |account| account.0), account, events.iter().cloned())?;
    for (decided, event) in events.iter().zip(ids) {
        if let AuthenticationEvent::LockedOut { until, nth, scope, .. } = decided {
            let key_hash = if scope.is_some() { attempt.keys.account } else { attempt.keys.own };
            let factor = attempt.factor.as_str();
            unit.vault(VaultWrite::Lock { key_hash, factor, until: *until, nth: *nth, event });
        }
    }
    Ok(unit)
}

/// Records a refusal of a caller who is logged in, or has a pending login. Returns the error to answer with.
pub(crate) async fn record_and_refuse(
    side: &WriteSide,
    context: &Context,
    stored: &StoredCredentials,
    verdict: AttemptOutcome,
    attempt: &CountedAttempt,
) -> Result<CommandError, CommandError> {
    record_refusal(side, context, Some(stored), verdict, attempt, None, &()).await?;
    Ok(CommandError::InvalidCredentials)
}

/// Records a refusal. Retries on a busy node, as long as nothing can have been recorded.
pub(crate) async fn record_refusal<O: Clone + Serialize + DeserializeOwned>(
    side: &WriteSide,
    context: &Context,
    stored: Option<&StoredCredentials>,
    verdict: AttemptOutcome,
    attempt: &CountedAttempt,
    idempotency: Option<&IdempotencyKey>,
    outcome: &O,
) -> Result<(), CommandError> {
    let recorded = retry_while_unavailable(|| async {
        let mut unit = refusal(side, context, stored, verdict.clone(), attempt).await?;
        outbox::add_mails(side, &mut unit).await?;
        match execute::commit(side, unit, idempotency, outcome.clone()).await {
            Err(CommandError::Overloaded) => Err(CommandError::Overloaded),
            recorded => Ok(recorded),
        }
    });
    recorded.await.and_then(|recorded| recorded.map(drop)).inspect_err(|error| {
        tracing::warn!(error = %chain(error), "the refusal of an attempt may not have been recorded");
    })
}

pub(crate) fn decide_attempt(
    side: &WriteSide,
    attempt: &CountedAttempt,
    verdict: AttemptOutcome,
    at: DateTime<Utc>,
) -> Vec<AuthenticationEvent> {
    let Ok(events) = Authentication::handle_command(
        &(),
        Attempt {
            factor: attempt.factor,
            device: attempt.device.clone(),
            lock_expired: attempt.own.lock_expired(),
            account_lock_expired: attempt.account.lock_expired(),
            outcome: verdict,
            at,
            policy: side.policy().lockout.clone(),
        },
    );
    events
}

/// Verifies the password of a caller who is logged in on this device.
///
/// # Errors
/// [`CommandError::InvalidCredentials`] if the password is wrong or not evaluated. The refusal is recorded.
pub(crate) async fn verify_password(
    side: &WriteSide,
    context: &Context,
    account: AccountId,
    device: Uuid,
    password: Password,
    permit: HashingPermit,
) -> Result<(StoredCredentials, CountedAttempt), CommandError> {
    let stored = credentials::find(side, account).await?.ok_or(CommandError::InvalidCredentials)?;
    let attempt = reserve_attempt(side, AttemptScope::Device(account, device), Factor::Password, context.now).await?;
    if evaluate(side, password, Some(&stored), &attempt, permit).await? {
        Ok((stored, attempt))
    } else {
        Err(record_and_refuse(side, context, &stored, attempt.verdict(Some(&stored)), &attempt).await?)
    }
}

/// Returns the factors with counted attempts: on the account's address, on the account, and on its devices.
pub(crate) async fn counted_factors(
    side: &WriteSide,
    account: AccountId,
    address: &str,
) -> Result<Vec<Factor>, CommandError> {
    let key_hash = counter_key(&side.vault, AttemptScope::Address(address, Some(account)));
    let counted = sqlx::query_scalar!(
        "select distinct factor from vault.attempt
         where (key_hash = $1 or account_id = $2) and (recent <> '{}' or locked_until is not null)",
        key_hash.as_slice(),
        account.0
    )
    .fetch_all(&side.pool)
    .await?;
    let factors = [Factor::Password, Factor::SecondFactor].into_iter();
    Ok(factors.filter(|factor| counted.iter().any(|name| name == factor.as_str())).collect())
}

/// Returns the key of the counter of an address.
pub(crate) fn address_key(vault: &Vault, address: &str) -> [u8; 32] {
    counter_key(vault, AttemptScope::Address(address, None))
}

/// Returns the write that resets the counter of an address, so that attempts from before its registration do not count.
pub(crate) fn forget_address(vault: &Vault, address: &str) -> VaultWrite {
    VaultWrite::ClearAttempts { key_hash: address_key(vault, address), factor: Factor::Password.as_str() }
}

/// Returns the write that forgets the attempts on an account's password.
pub(crate) fn forget_passwords(vault: &Vault, account: AccountId, address: &str) -> VaultWrite {
    let factor = Some(Factor::Password.as_str());
    let key_hash = counter_key(vault, AttemptScope::Address(address, Some(account)));
    VaultWrite::ForgetAttempts { account, key_hash, factor }
}

/// Returns the write that forgets all attempts on an account.
pub(crate) fn forget_all(vault: &Vault, account: AccountId, address: &str) -> VaultWrite {
    let key_hash = counter_key(vault, AttemptScope::Address(address, Some(account)));
    VaultWrite::ForgetAttempts { account, key_hash, factor: None }
}
