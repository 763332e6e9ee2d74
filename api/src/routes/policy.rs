//! The security policy: the policy in force, its changes, and the preview of a proposed lockout policy.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use fulexo_domain::permission::Permission;
use fulexo_domain::policy::{
    ApiKeyPolicy, ErasurePolicy, FingerprintPolicy, LockoutPolicy, PasswordPolicy, Policy, SecondFactorPolicy,
    SessionPolicy,
};
use fulexo_domain::preview::{Attack, AttemptTotals, LockoutComparison, LockoutTarget, PreviewReport};
use fulexo_domain::values::Reason;
use fulexo_node::answer::{CommandResponse, EnforcementResource, query_failed};
use fulexo_node::caller::{Bearer, BearerOrKey, app, context};
use fulexo_node::clock;
use fulexo_node::http::problem::FieldError;
use fulexo_node::http::{JsonBody, Problem};
use fulexo_node::timestamp::Timestamp;
use fulexo_projections::access;
use fulexo_projections::feed::FeedError;
use fulexo_projections::preview::replay_attempts;
use poem::Request;
use poem_openapi::param::Header;
use poem_openapi::payload::Json;
use poem_openapi::{Enum, Object, OpenApi};
use uuid::Uuid;

use super::input::Input;
use super::tag::Tag;

pub struct Policies;

/// The lockout policy: the limits of failed attempts and the length of locks.
#[derive(Object)]
#[oai(deny_unknown_fields, rename = "LockoutPolicy")]
struct LockoutPolicyResource {
    /// `true` if failed attempts lead to a lock.
    enabled: bool,
    /// The number of failed attempts within one window that locks, 1 to 100. A known device has a counter of its own.
    threshold: u32,
    /// The number of failed attempts of an account within one window, over all devices, that locks all devices for
    /// `duration_seconds`, 1 to 1,000. A value below `threshold` counts as `threshold`.
    #[oai(default = "account_threshold")]
    account_threshold: u32,
    /// The window in which failed attempts add up, in seconds, 60 to 86,400.
    window_seconds: u32,
    /// The length of the first lock, in seconds, 60 to 86,400. Each further lock in a row lasts twice as long.
    duration_seconds: u32,
    /// The maximum length of a lock, in seconds, `duration_seconds` to 604,800.
    max_duration_seconds: u32,
}

/// The session policy: lifetimes, elevation and limits.
#[derive(Object)]
#[oai(deny_unknown_fields, rename = "SessionPolicy")]
struct SessionPolicyResource {
    /// The time without a refresh after which a session expires, in seconds, 300 to 7,776,000.
    idle_timeout_seconds: u32,
    /// The maximum lifetime of a session, in seconds, `idle_timeout_seconds` to 31,536,000.
    absolute_timeout_seconds: u32,
    /// The time in which the last spent refresh token still returns its successor, in seconds, 0 to 60.
    refresh_grace_seconds: u32,
    /// The time in which sensitive calls are allowed after a login or a step-up, in seconds, 60 to 3,600.
    elevation_seconds: u32,
    /// The consequence of a refresh from another browser or device.
    fingerprint: FingerprintAction,
    /// The maximum number of active sessions per account, 1 to 1,000. A further login revokes the oldest session.
    #[oai(default = "max_per_account")]
    max_per_account: u32,
}

fn max_per_account() -> u32 {
    Policy::default().sessions.max_per_account
}

/// The consequence of a refresh from another browser or device: `record` only records an event, `require_step_up` refuses
/// every other call until a step-up, `revoke` revokes the session.
#[derive(Enum, Clone, Copy)]
#[oai(rename_all = "snake_case")]
enum FingerprintAction {
    /// Records an event.
    Record,
    /// Refuses every other call until a step-up.
    RequireStepUp,
    /// Revokes the session.
    Revoke,
}

/// The password policy: history and maximum age.
#[derive(Object)]
#[oai(deny_unknown_fields, rename = "PasswordPolicy")]
struct PasswordPolicyResource {
    /// The number of last passwords that cannot be reused, including the current one, 1 to 24.
    history: u32,
    /// The age, in days, after which a login requires a password change, 1 to 3,650. `null` for no limit.
    max_age_days: Option<u32>,
}

/// The second-factor policy.
#[derive(Object)]
#[oai(deny_unknown_fields, rename = "SecondFactorPolicy")]
struct SecondFactorPolicyResource {
    /// The roles that require a second factor, at most 50. They have no permissions in a session without one, and a login of
    /// their holders leads to the enrolment of one.
    #[oai(validator(max_items = 50))]
    required_for: Vec<String>,
}

/// The API key policy.
#[derive(Object)]
#[oai(deny_unknown_fields, rename = "ApiKeyPolicy")]
struct ApiKeyPolicyResource {
    /// `true` if a key is refused while the account that created it is suspended.
    suspend_with_creator: bool,
}

impl Default for ApiKeyPolicyResource {
    fn default() -> Self {
        Self { suspend_with_creator: ApiKeyPolicy::default().suspend_with_creator }
    }
}

/// The erasure policy.
#[derive(Object)]
#[oai(deny_unknown_fields, rename = "ErasurePolicy")]
struct ErasurePolicyResource {
    /// The time in which owners can withdraw the erasure that they asked for, in days, 0 to 30.
    withdrawal_days: u32,
}

impl Default for ErasurePolicyResource {
    fn default() -> Self {
        Self { withdrawal_days: ErasurePolicy::default().withdrawal_days }
    }
}

/// The security policy.
#[derive(Object)]
#[oai(rename = "Policy")]
struct PolicyResource {
    /// The version of the policy, from 1. Every event names the version under which it was decided.
    version: u32,
    lockout: LockoutPolicyResource,
    sessions: SessionPolicyResource,
    passwords: PasswordPolicyResource,
    /// The second-factor policy.
    second_factor: SecondFactorPolicyResource,
    api_keys: ApiKeyPolicyResource,
    /// The erasure policy.
    erasure: ErasurePolicyResource,
}

/// A changed policy and its enforcement.
#[derive(Object)]
struct ChangedPolicy {
    #[oai(flatten)]
    policy: PolicyResource,
    #[oai(flatten)]
    enforced: EnforcementResource,
}

/// A policy to put in force.
#[derive(Object)]
#[oai(deny_unknown_fields)]
struct PolicyRequest {
    /// The version of the policy that the proposal replaces. If you send it, it must be the version in force.
    version: Option<u32>,
    lockout: LockoutPolicyResource,
    sessions: SessionPolicyResource,
    passwords: PasswordPolicyResource,
    /// The second-factor policy.
    second_factor: SecondFactorPolicyResource,
    #[oai(default)]
    api_keys: ApiKeyPolicyResource,
    /// The erasure policy.
    #[oai(default)]
    erasure: ErasurePolicyResource,
    /// The reason, 1 to 500 characters. It is sealed alongside the event.
    reason: String,
}

/// A lockout policy to preview.
#[derive(Object)]
#[oai(deny_unknown_fields)]
struct PreviewRequest {
    /// The lockout policy to preview.
    lockout: LockoutPolicyResource,
    /// The number of days to replay, 1 to 90. The default is 30.
    days: Option<u32>,
}

/// Totals over all attempts.
#[derive(Object)]
struct PreviewTotals {
    /// The number of locks.
    locks: u64,
    /// The number of attempts whose password or code was verified.
    evaluated: u64,
    /// The number of attempts that were refused without verification.
    refused: u64,
}

/// A counter of failed attempts.
#[derive(Object)]
struct PreviewTarget {
    account_id: Uuid,
    /// The factor: `password` or `second_factor`.
    factor: String,
    /// The known device of the counter, as events name it. `null` for the counter that all unknown devices share.
    device: Option<String>,
    /// `true` if the counter covers all devices of the account, known or not.
    all_devices: bool,
}

/// A lock under the proposed policy.
#[derive(Object)]
struct PreviewLock {
    /// The start of the lock.
    at: Timestamp,
    /// The end of the lock.
    until: Timestamp,
    /// The number of the lock in its row, from 1.
    nth: u32,
}

/// The locks of one counter.
#[derive(Object)]
struct PreviewAccount {
    #[oai(flatten)]
    target: PreviewTarget,
    /// The number of locks on record.
    locks_recorded: u64,
    /// The number of locks under the proposed policy.
    locks_proposed: u64,
    /// The first 20 locks under the proposed policy.
    locks: Vec<PreviewLock>,
    /// The number of correct attempts that the proposed policy would have refused, most likely made by the owner.
    correct_refused: u64,
}

/// An attack: at least ten refused attempts on one counter, each less than an hour after the last.
#[derive(Object)]
struct PreviewAttack {
    #[oai(flatten)]
    target: PreviewTarget,
    /// The time of the first attempt.
    started_at: Timestamp,
    /// The time of the last attempt.
    ended_at: Timestamp,
    /// The number of attempts.
    attempts: u64,
    /// The number of attempts that were verified.
    evaluated_recorded: u64,
    /// The number of attempts that the proposed policy would have verified.
    evaluated_proposed: u64,
    /// The time of the first lock under the proposed policy. `null` if it would not have stopped the attack.
    stopped_at: Option<Timestamp>,
}

/// The effects of a proposed lockout policy on recorded attempts.
#[derive(Object)]
struct PolicyPreview {
    /// The start of the replayed period.
    from: Timestamp,
    /// The end of the replayed period.
    to: Timestamp,
    /// The number of replayed attempts. An attempt that was refused without verification counts as wrong.
    attempts: u64,
    /// The totals on record.
    recorded: PreviewTotals,
    /// The totals under the proposed policy.
    proposed: PreviewTotals,
    /// The counters with a lock, at most 200, those with the most locks first.
    accounts: Vec<PreviewAccount>,
    /// The attacks, at most 200, the longest first.
    attacks: Vec<PreviewAttack>,
    /// `true` if there were more accounts or attacks than are listed.
    truncated: bool,
}

/// The most days that a preview replays.
const MOST_DAYS: u32 = 90;
/// The most attempts that a preview replays: about ten seconds of work.
const MOST_ATTEMPTS: u64 = 5_000_000;
/// The most accounts, and the most attacks, that a preview lists.
const LISTED: usize = 200;

#[OpenApi(prefix_path = "/v1/policy", tag = "Tag::Policy")]
impl Policies {
    /// Get the policy
    ///
    /// Needs the permission `policy.read`. Returns the policy in force. Reads the current state, never an older one.
    #[oai(path = "/", method = "get", operation_id = "get_policy")]
    async fn get(&self, request: &Request, caller: BearerOrKey) -> Result<Json<PolicyResource>, Problem> {
        caller.0.require(Permission::PolicyRead)?;
        let app = app(request)?;
        let mut connection = app.pool.acquire().await.map_err(query_failed)?;
        let changed = access::policy(&mut connection).await.map_err(query_failed)?;
        Ok(Json(PolicyResource::of(changed.map_or_else(|| app.first_policy.clone(), |(_, policy)| policy))))
    }

    /// Change the policy
    ///
    /// Needs the permission `policy.change` and an elevated session. Replaces the policy; earlier decisions stand. A stricter
    /// policy also applies to active sessions. Returns the policy when every node enforces it.
    ///
    /// Answers 409 `policy_replaced` if `version` is not the version in force.
    #[oai(path = "/", method = "put", operation_id = "change_policy")]
    async fn change(
        &self,
        request: &Request,
        caller: Bearer,
        body: JsonBody<PolicyRequest>,
        #[oai(name = "Idempotency-Key")] idempotency_key: Header<Option<String>>,
    ) -> Result<CommandResponse<ChangedPolicy>, Problem> {
        let caller = caller.0;
        caller.require(Permission::PolicyChange)?;
        caller.require_elevated()?;
        let PolicyRequest { version, lockout, sessions, passwords, second_factor, api_keys, erasure, reason } =
            body.read()?;
        let mut input = Input::default();
        let reason = input.parse("/reason", Reason::parse(&reason));
        let required_for = input.parse_roles("/second_factor/required_for", &second_factor.required_for);
        let Some(reason) = reason else { return Err(input.refused()) };
        input.check()?;
        let proposed = Policy {
            version: 0,
            lockout: lockout.read(),
            sessions: sessions.read(),
            passwords: PasswordPolicy { history: passwords.history, max_age_days: passwords.max_age_days },
            second_factor: SecondFactorPolicy { required_for: required_for.into_iter().collect() },
            api_keys: ApiKeyPolicy { suspend_with_creator: api_keys.suspend_with_creator },
            erasure: ErasurePolicy { withdrawal_days: erasure.withdrawal_days },
        };
        let context = context(request, caller.actor(), idempotency_key.0)?;
        let app = app(request)?;
        match app.commands.change_policy(&context, version, proposed, reason).await {
            Ok(done) => {
                let body = |policy, enforced| ChangedPolicy { policy: PolicyResource::of(policy), enforced };
                app.enforced_with(done, body).await
            }
            Err(fulexo_commands::CommandError::Role(_)) => Err(Problem::invalid_input(vec![FieldError::new(
                "/second_factor/required_for",
                "must name existing roles; list roles with GET /v1/roles",
            )])),
            Err(error) => Err(error.into()),
        }
    }

    /// Preview a lockout policy
    ///
    /// Needs the permission `policy.read`. Changes and records nothing. Replays the recorded attempts of the last days under
    /// the proposed lockout policy. Returns the locks that it would have set, the attacks that it would have stopped, and the
    /// correct attempts that it would have refused.
    ///
    /// Reads the log itself, never an older state. A node runs one preview at a time and answers 503 `overloaded` to others.
    #[oai(path = "/preview", method = "post", operation_id = "preview_policy")]
    async fn preview(
        &self,
        request: &Request,
        caller: Bearer,
        body: JsonBody<PreviewRequest>,
    ) -> Result<Json<PolicyPreview>, Problem> {
        caller.0.require(Permission::PolicyRead)?;
        let app = app(request)?;
        let body = body.read()?;
        let lockout = body.lockout.read();
        let days = body.days.unwrap_or(30);
        let mut found: Vec<FieldError> =
            lockout.bounds_violations().into_iter().map(|found| FieldError::new(found.pointer, found.bounds)).collect();
        if !(1..=MOST_DAYS).contains(&days) {
            found.push(FieldError::new("/days", format!("must be from 1 to {MOST_DAYS}")));
        }
        if !found.is_empty() {
            return Err(Problem::invalid_input(found));
        }
        let Ok(_permit) = app.previews.try_acquire() else { return Err(Problem::overloaded(Duration::from_secs(5))) };
        let to = clock::now();
        let from = to - TimeDelta::days(i64::from(days));
        let found =
            replay_attempts(&app.pool, lockout, from, MOST_ATTEMPTS, LISTED).await.map_err(|error| match error {
                FeedError::Database(error) => query_failed(error),
                error => Problem::internal(error),
            })?;
        let found = found.ok_or_else(|| {
            let detail = format!(
                "must cover fewer attempts: this period has more than {MOST_ATTEMPTS}, or too many accounts at once"
            );
            Problem::invalid_input(vec![FieldError::new("/days", detail)])
        })?;
        Ok(Json(PolicyPreview::of(found, from, to)))
    }
}

fn account_threshold() -> u32 {
    Policy::default().lockout.account_threshold
}

fn seconds(span: TimeDelta) -> u32 {
    u32::try_from(span.num_seconds()).unwrap_or(u32::MAX)
}

fn span(seconds: u32) -> TimeDelta {
    TimeDelta::seconds(i64::from(seconds))
}

impl LockoutPolicyResource {
    fn of(policy: &LockoutPolicy) -> Self {
        Self {
            enabled: policy.enabled,
            threshold: policy.threshold,
            account_threshold: policy.account_threshold,
            window_seconds: seconds(policy.window),
            duration_seconds: seconds(policy.duration),
            max_duration_seconds: seconds(policy.max_duration),
        }
    }

    fn read(&self) -> LockoutPolicy {
        LockoutPolicy {
            enabled: self.enabled,
            threshold: self.threshold,
            account_threshold: self.account_threshold,
            window: span(self.window_seconds),
            duration: span(self.duration_seconds),
            max_duration: span(self.max_duration_seconds),
        }
    }
}

impl SessionPolicyResource {
    fn of(policy: &SessionPolicy) -> Self {
        Self {
            idle_timeout_seconds: seconds(policy.idle_timeout),
            absolute_timeout_seconds: seconds(policy.absolute_timeout),
            refresh_grace_seconds: seconds(policy.refresh_grace),
            elevation_seconds: seconds(policy.elevation),
            fingerprint: match policy.fingerprint {
                FingerprintPolicy::Record => FingerprintAction::Record,
                FingerprintPolicy::RequireStepUp => FingerprintAction::RequireStepUp,
                FingerprintPolicy::Revoke => FingerprintAction::Revoke,
            },
            max_per_account: policy.max_per_account,
        }
    }

    fn read(&self) -> SessionPolicy {
        SessionPolicy {
            idle_timeout: span(self.idle_timeout_seconds),
            absolute_timeout: span(self.absolute_timeout_seconds),
            refresh_grace: span(self.refresh_grace_seconds),
            elevation: span(self.elevation_seconds),
            fingerprint: match self.fingerprint {
                FingerprintAction::Record => FingerprintPolicy::Record,
                FingerprintAction::RequireStepUp => FingerprintPolicy::RequireStepUp,
                FingerprintAction::Revoke => FingerprintPolicy::Revoke,
            },
            max_per_account: self.max_per_account,
        }
    }
}

impl PolicyResource {
    fn of(policy: Policy) -> Self {
        Self {
            version: policy.version,
            lockout: LockoutPolicyResource::of(&policy.lockout),
            sessions: SessionPolicyResource::of(&policy.sessions),
            passwords: PasswordPolicyResource {
                history: policy.passwords.history,
                max_age_days: policy.passwords.max_age_days,
            },
            second_factor: SecondFactorPolicyResource {
                required_for: policy.second_factor.required_for.into_iter().map(String::from).collect(),
            },
            api_keys: ApiKeyPolicyResource { suspend_with_creator: policy.api_keys.suspend_with_creator },
            erasure: ErasurePolicyResource { withdrawal_days: policy.erasure.withdrawal_days },
        }
    }
}

impl PolicyPreview {
    fn of(found: PreviewReport, from: DateTime<Utc>, to: DateTime<Utc>) -> Self {
        let totals = |totals: AttemptTotals| PreviewTotals {
            locks: totals.locks,
            evaluated: totals.evaluated,
            refused: totals.refused,
        };
        Self {
            from: from.into(),
            to: to.into(),
            attempts: found.attempts,
            recorded: totals(found.recorded),
            proposed: totals(found.proposed),
            accounts: found.locked.into_iter().map(PreviewAccount::of).collect(),
            attacks: found.attacks.into_iter().map(PreviewAttack::of).collect(),
            truncated: found.truncated,
        }
    }
}

impl PreviewTarget {
    fn of(target: LockoutTarget) -> Self {
        let LockoutTarget { account, factor, device, all_devices } = target;
        Self { account_id: account.0, factor: factor.as_str().to_owned(), device, all_devices }
    }
}

impl PreviewAccount {
    fn of((target, outcome): (LockoutTarget, LockoutComparison)) -> Self {
        let lock = |lock: fulexo_domain::preview::PredictedLockout| PreviewLock {
            at: lock.at.into(),
            until: lock.until.into(),
            nth: lock.nth,
        };
        Self {
            target: PreviewTarget::of(target),
            locks_recorded: outcome.recorded,
            locks_proposed: outcome.total,
            locks: outcome.locks.into_iter().map(lock).collect(),
            correct_refused: outcome.correct_refused,
        }
    }
}

impl PreviewAttack {
    fn of(attack: Attack) -> Self {
        Self {
            target: PreviewTarget::of(attack.target),
            started_at: attack.started_at.into(),
            ended_at: attack.ended_at.into(),
            attempts: attack.attempts,
            evaluated_recorded: attack.evaluated_recorded,
            evaluated_proposed: attack.evaluated,
            stopped_at: attack.stopped_at.map(Timestamp),
        }
    }
}
