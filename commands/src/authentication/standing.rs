//! The standing of an account: every reason for which a login with the right factors would not lead to a session now, in
//! the order in which a login meets them, each with the event that it follows from.
//!
//! A login is judged by the counters of its attempts and by [`LoginFacts`]; the standing asks the same of the same facts.
//! It changes and counts nothing. It is for staff: the owner's own answers never tell reasons apart.

use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, Utc};
use fulexo_domain::account::AccountError;
use fulexo_domain::authentication::Factor;
use fulexo_domain::event::RecordedEvent;
use fulexo_domain::lockout::{AttemptBarrier, AttemptCounter};
use fulexo_domain::login::{LoginFacts, LoginObstacle};
use fulexo_domain::policy::{LockoutPolicy, Policy};
use fulexo_domain::snapshot::{AccountSnapshot, PolicySnapshot};
use fulexo_domain::values::AccountId;
use sqlx::PgPool;
use uuid::Uuid;

use crate::accounts::profile;
use crate::authentication::attempts::{self, AttemptScope};
use crate::authentication::{credentials, devices};
use crate::authorization::lockdown;
use crate::error::CommandError;
use crate::write_side::WriteSide;

/// The standing of an account.
pub struct LoginStanding {
    /// The reasons on a device that the account does not know. Without any, a login there starts a session.
    pub reasons: Vec<StandingReason>,
    /// The devices that the account knows, at most ten.
    pub known_devices: Vec<DeviceStanding>,
    /// The version of the policy in force.
    pub policy_version: u32,
    /// The time of the judgement.
    pub judged_at: DateTime<Utc>,
}

/// The standing of an account on a device that it knows.
pub struct DeviceStanding {
    /// The name of the device in the log.
    pub device: String,
    /// The reasons on this device. Without any, a login there starts a session.
    pub reasons: Vec<StandingReason>,
}

/// A reason for which a login does not lead to a session.
pub struct StandingReason {
    /// The kind of reason.
    pub kind: StandingKind,
    /// The time since which it holds, if an event or the policy says so.
    pub since: Option<DateTime<Utc>>,
    /// The time at which it ends by itself, if it does.
    pub until: Option<DateTime<Utc>>,
    /// The id and the position of the event that it follows from, if there is one.
    pub event: Option<(Uuid, u64)>,
    /// The version of the policy that it was decided under.
    pub policy_version: u32,
}

/// The kind of a reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StandingKind {
    /// The account has no password, or the key to its data was destroyed.
    CredentialsDestroyed,
    /// A factor is locked after failed attempts.
    Locked(Factor, CounterReach),
    /// The window has as many attempts as the policy allows now, and none caused a lock.
    AttemptsSpent(Factor, CounterReach),
    /// Attempts in progress fill the window. Their results are not known yet.
    AttemptsInProgress(Factor, CounterReach),
    /// The owner reported an intrusion, since which nobody knows the password.
    PasswordUnknown,
    /// The account is suspended.
    Suspended,
    /// A lockdown excludes the account.
    LockedDown,
    /// An administrator expired the password.
    PasswordExpired,
    /// The password is older than the policy allows.
    PasswordOutdated,
    /// A role requires a second factor, and the account has none.
    EnrolmentMissing,
}

/// The devices whose attempts a counter counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CounterReach {
    /// This known device.
    Device,
    /// All devices that the account does not know.
    UnknownDevices,
    /// All devices of the account.
    AllDevices,
}

/// A reason whose events are still to be read.
struct FoundReason {
    kind: StandingKind,
    since: Option<DateTime<Utc>>,
    until: Option<DateTime<Utc>>,
    /// The position of the event that it follows from.
    cause: Option<u64>,
    /// The position of an event that is its cause instead if it is later than `since`.
    later_cause: Option<u64>,
    /// `true` if each login decides it anew, under the policy in force.
    is_judged_now: bool,
}

/// A row of a counter.
struct CounterRow {
    key_hash: Vec<u8>,
    factor: String,
    recent: Vec<DateTime<Utc>>,
    pending: Vec<DateTime<Utc>>,
    window_ends_at: DateTime<Utc>,
    locked_until: Option<DateTime<Utc>>,
    locked_by: Option<i64>,
    locks: i32,
}

/// The facts of an account, read once for all its devices.
struct AccountFacts {
    account: AccountId,
    snapshot: AccountSnapshot,
    /// The normalised address; `None` if the key to it was destroyed.
    address: Option<String>,
    has_credentials: bool,
    is_admitted: bool,
    lockdown: Option<u64>,
    policy: Policy,
    policy_changes: PolicySnapshot,
    grants: BTreeMap<String, u64>,
    now: DateTime<Utc>,
}

pub(crate) async fn standing(
    side: &WriteSide,
    account: AccountId,
    now: DateTime<Utc>,
) -> Result<LoginStanding, CommandError> {
    let facts = read_facts(side, account, now).await?;
    let devices = devices::known_device_ids(&side.pool, account, now).await?;
    let doors: Vec<Option<Uuid>> = [None].into_iter().chain(devices.iter().copied().map(Some)).collect();
    let counters = read_counters(side, &facts, &doors).await?;
    let reasons: Vec<Vec<FoundReason>> = doors.iter().map(|device| reasons(side, &facts, &counters, *device)).collect();
    let causes = reasons.iter().flatten().flat_map(|reason| [reason.cause, reason.later_cause]);
    let events = side.log.events_at(&causes.flatten().collect::<Vec<_>>()).await?;
    let policy_version = facts.policy.version;
    let mut judged = reasons
        .into_iter()
        .map(|reasons| reasons.into_iter().map(|reason| reason.explained(&events, policy_version)).collect::<Vec<_>>());
    let reasons = judged.next().unwrap_or_default();
    let name = |device| attempts::device_name(&side.vault, account, device);
    let known_devices = devices.into_iter().zip(judged);
    let known_devices =
        known_devices.map(|(device, reasons)| DeviceStanding { device: name(device), reasons }).collect();
    Ok(LoginStanding { reasons, known_devices, policy_version, judged_at: now })
}

async fn read_facts(side: &WriteSide, account: AccountId, now: DateTime<Utc>) -> Result<AccountFacts, CommandError> {
    let policy = side.current_policy().await?;
    let snapshot = side.account(account).await?.snapshot;
    if !snapshot.state.registered {
        return Err(AccountError::NotFound.into());
    }
    let profile = profile::profile_in(&side.vault, &snapshot).await?;
    let is_admitted = lockdown::admission(side, &snapshot.state.roles).await?.admitted;
    Ok(AccountFacts {
        account,
        address: profile.map(|profile| profile.email.normalised()),
        has_credentials: credentials::find(side, account).await?.is_some(),
        is_admitted,
        lockdown: lockdown::last_change(&side.pool).await?,
        policy: Policy::clone(&policy),
        policy_changes: side.log.snapshot::<PolicySnapshot>(Uuid::nil()).await?.snapshot,
        grants: read_grants(&side.pool, account).await?,
        snapshot,
        now,
    })
}

/// Returns the position of the grant of each role that the account has.
async fn read_grants(pool: &PgPool, account: AccountId) -> Result<BTreeMap<String, u64>, CommandError> {
    let rows = sqlx::query!("select role, position from access.role_grant where account_id = $1", account.0);
    let rows = rows.fetch_all(pool).await?;
    Ok(rows.into_iter().map(|row| (row.role, row.position.unsigned_abs())).collect())
}

/// Returns the counters that attempts through these doors count on, by key and factor.
async fn read_counters(
    side: &WriteSide,
    facts: &AccountFacts,
    doors: &[Option<Uuid>],
) -> Result<HashMap<(Vec<u8>, String), CounterRow>, CommandError> {
    let scopes = doors.iter().flat_map(|device| {
        let factors = [Factor::Password, Factor::SecondFactor].into_iter();
        factors.filter_map(|factor| facts.scope(*device, factor))
    });
    let keys: Vec<Vec<u8>> =
        scopes.flat_map(|scope| attempts::counter_keys(&side.vault, scope).map(|key| key.to_vec())).collect();
    let rows = sqlx::query_as!(
        CounterRow,
        "select key_hash, factor, recent, pending, window_ends_at, locked_until, locked_by, locks
         from vault.attempt where key_hash = any($1)",
        &keys
    );
    let rows = rows.fetch_all(&side.pool).await?;
    Ok(rows.into_iter().map(|row| ((row.key_hash.clone(), row.factor.clone()), row)).collect())
}

/// Returns the reasons on a known device, or on one that is not known, in the order in which a login meets them.
fn reasons(
    side: &WriteSide,
    facts: &AccountFacts,
    counters: &HashMap<(Vec<u8>, String), CounterRow>,
    device: Option<Uuid>,
) -> Vec<FoundReason> {
    let locks = |factor: Factor| {
        let policy = &facts.policy.lockout;
        let own = if device.is_some() { CounterReach::Device } else { CounterReach::UnknownDevices };
        let keys = facts.scope(device, factor).map(|scope| attempts::counter_keys(&side.vault, scope));
        let counted = keys.map(|[own_key, all]| {
            [(own_key, own, policy.clone()), (all, CounterReach::AllDevices, policy.for_account())]
        });
        counted.into_iter().flatten().filter_map(move |(key, reach, policy)| {
            let row = counters.get(&(key.to_vec(), factor.as_str().to_owned()))?;
            row.reason(factor, reach, facts.now, &policy)
        })
    };
    let mut found = Vec::new();
    if !facts.has_credentials {
        found.push(FoundReason::of(StandingKind::CredentialsDestroyed, None));
    }
    found.extend(locks(Factor::Password));
    if let Some(position) = facts.snapshot.causes.intrusion_report {
        found.push(FoundReason::of(StandingKind::PasswordUnknown, Some(position)));
    }
    for obstacle in facts.login_facts().obstacles() {
        match obstacle {
            // The owner has the codes. They are refused as long as their counters are.
            LoginObstacle::CodeMissing => found.extend(locks(Factor::SecondFactor)),
            obstacle => found.extend(facts.reason(obstacle)),
        }
    }
    found
}

impl AccountFacts {
    fn login_facts(&self) -> LoginFacts<'_> {
        LoginFacts {
            account: &self.snapshot.state,
            password_set_at: self.snapshot.password_set_at.unwrap_or(DateTime::UNIX_EPOCH),
            is_admitted: self.is_admitted,
            has_code: false,
            policy: &self.policy,
            now: self.now,
        }
    }

    /// Returns the scope that attempts on a device count in.
    fn scope(&self, device: Option<Uuid>, factor: Factor) -> Option<AttemptScope<'_>> {
        match (device, factor) {
            (Some(device), _) => Some(AttemptScope::Device(self.account, device)),
            (None, Factor::Password) => {
                self.address.as_deref().map(|address| AttemptScope::Address(address, Some(self.account)))
            }
            (None, Factor::SecondFactor) => Some(AttemptScope::Account(self.account)),
        }
    }

    fn reason(&self, obstacle: LoginObstacle) -> Option<FoundReason> {
        let causes = &self.snapshot.causes;
        Some(match obstacle {
            LoginObstacle::Suspended => FoundReason::of(StandingKind::Suspended, causes.suspension),
            LoginObstacle::LockedDown => FoundReason::of(StandingKind::LockedDown, self.lockdown),
            LoginObstacle::CodeMissing => return None,
            LoginObstacle::PasswordExpired => FoundReason::of(StandingKind::PasswordExpired, causes.password_expiry),
            LoginObstacle::PasswordOutdated { since } => FoundReason {
                since: Some(since),
                later_cause: self.policy_changes.max_age_since,
                is_judged_now: true,
                ..FoundReason::of(StandingKind::PasswordOutdated, causes.password)
            },
            LoginObstacle::EnrolmentMissing => FoundReason {
                is_judged_now: true,
                ..FoundReason::of(StandingKind::EnrolmentMissing, self.enrolment_cause())
            },
        })
    }

    /// Returns the position of the event since which the account lacks a required factor: the first role that came to
    /// require one by its grant or by the policy, or the removal of the factor after that.
    fn enrolment_cause(&self) -> Option<u64> {
        let required = &self.policy.second_factor.required_for;
        let held = self.snapshot.state.roles.intersection(required);
        let since = held.filter_map(|role| {
            let grant = self.grants.get(role.as_str()).copied();
            grant.max(self.policy_changes.required_since.get(role).copied())
        });
        since.min().max(self.snapshot.causes.second_factor_removal)
    }
}

impl CounterRow {
    fn reason(
        &self,
        factor: Factor,
        reach: CounterReach,
        now: DateTime<Utc>,
        policy: &LockoutPolicy,
    ) -> Option<FoundReason> {
        let counter = AttemptCounter {
            recent: self.recent.clone(),
            locked_until: self.locked_until,
            locks: self.locks.unsigned_abs(),
            window_ends_at: Some(self.window_ends_at),
        };
        Some(match counter.barrier(now, policy)? {
            AttemptBarrier::Locked { until } => FoundReason {
                until: Some(until),
                ..FoundReason::of(StandingKind::Locked(factor, reach), self.locked_by.map(i64::unsigned_abs))
            },
            // A login waits for these, and is refused if they take too long.
            AttemptBarrier::Full { since, .. } if attempts::are_in_progress(&self.pending, now) => FoundReason {
                since: Some(since),
                is_judged_now: true,
                ..FoundReason::of(StandingKind::AttemptsInProgress(factor, reach), None)
            },
            AttemptBarrier::Full { since, until } => FoundReason {
                since: Some(since),
                until: Some(until),
                is_judged_now: true,
                ..FoundReason::of(StandingKind::AttemptsSpent(factor, reach), None)
            },
        })
    }
}

impl FoundReason {
    const fn of(kind: StandingKind, cause: Option<u64>) -> Self {
        Self { kind, since: None, until: None, cause, later_cause: None, is_judged_now: false }
    }

    fn explained(self, events: &HashMap<u64, RecordedEvent>, policy_version: u32) -> StandingReason {
        let event = |position: Option<u64>| events.get(&position?);
        let later = event(self.later_cause).filter(|later| Some(later.recorded_at) > self.since);
        let cause = later.or_else(|| event(self.cause));
        StandingReason {
            kind: self.kind,
            since: later.map(|later| later.recorded_at).or(self.since).or(cause.map(|cause| cause.recorded_at)),
            until: self.until,
            event: cause.map(|cause| (cause.id, cause.position)),
            policy_version: cause.filter(|_| !self.is_judged_now).map_or(policy_version, |cause| cause.policy_version),
        }
    }
}
