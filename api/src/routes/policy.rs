//! The security policy: what is in force, how it is changed, and what another one would have done.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use fulexo_domain::permission::Permission;
use fulexo_domain::policy::{
    ApiKeyPolicy, FingerprintPolicy, LockoutPolicy, PasswordPolicy, Policy, SecondFactorPolicy, SessionPolicy,
};
use fulexo_domain::preview::{Attack, Found, Outcome, Target, Totals};
use fulexo_domain::values::Reason;
use fulexo_node::answer::{Enforced, Recorded, query_failed};
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

/// When an account is locked, and for how long.
#[derive(Object)]
#[oai(deny_unknown_fields)]
struct LockoutFigures {
    /// Whether guesses are limited at all.
    enabled: bool,
    /// Failures within one window that lock; 1 to 100.
    threshold: u32,
    /// Failures of an account within one window, on all devices together, that lock all of them for `duration_seconds`; 1 to
    /// 1,000, and below `threshold` as that.
    #[oai(default = "account_threshold")]
    account_threshold: u32,
    /// Failures further apart than this do not add up; 60 to 86,400.
    window_seconds: u32,
    /// The length of the first lock; 60 to 86,400.
    duration_seconds: u32,
    /// Each lock in a row doubles the last, up to this; at most 604,800.
    longest_seconds: u32,
}

/// How long sessions live, and what they need.
#[derive(Object)]
#[oai(deny_unknown_fields)]
struct SessionFigures {
    /// Unused for so long, a session ends; 300 to 7,776,000.
    idle_seconds: u32,
    /// A session ends then in any case; at most 31,536,000.
    absolute_seconds: u32,
    /// How long the refresh token just spent still answers with its successor; 0 to 60.
    refresh_grace_seconds: u32,
    /// How long sensitive calls are allowed after a login or a step-up; 60 to 3,600.
    elevation_seconds: u32,
    /// Consequence of a refresh from another browser or device than before.
    fingerprint: FingerprintAction,
    /// Sessions of an account at once: where one more begins, the oldest ends; 1 to 1,000.
    #[oai(default = "most_live")]
    most_live: u32,
}

fn most_live() -> u32 {
    Policy::default().sessions.most_live
}

/// What a refresh from somewhere that looks different leads to.
#[derive(Enum, Clone, Copy)]
#[oai(rename_all = "snake_case")]
enum FingerprintAction {
    /// It is recorded, and nothing else.
    Record,
    /// The session is of no use until its owner has proved themselves by a step-up.
    RequireStepUp,
    /// The session ends.
    Revoke,
}

/// What holds of passwords beside their strength.
#[derive(Object)]
#[oai(deny_unknown_fields)]
struct PasswordFigures {
    /// How many previous passwords may not come back, the current one included; 1 to 24.
    history: u32,
    /// An older password is changed at the next login; none: it may grow old. 1 to 3,650.
    max_age_days: Option<u32>,
}

/// Who needs a second factor.
#[derive(Object)]
#[oai(deny_unknown_fields)]
struct SecondFactorFigures {
    /// These roles allow nothing in a session without a second factor, and a login of their holders leads to its
    /// enrolment.
    #[oai(validator(max_items = 50))]
    required_for: Vec<String>,
}

/// How far API keys are on their own.
#[derive(Object)]
#[oai(deny_unknown_fields)]
struct ApiKeyFigures {
    /// Whether a key is refused while the account that made it is suspended.
    end_with_suspension: bool,
}

impl Default for ApiKeyFigures {
    fn default() -> Self {
        Self { end_with_suspension: ApiKeyPolicy::default().end_with_suspension }
    }
}

#[derive(Object)]
struct PolicyInForce {
    /// Counts changes; every event names the version that it was decided under.
    version: u32,
    lockout: LockoutFigures,
    sessions: SessionFigures,
    passwords: PasswordFigures,
    second_factor: SecondFactorFigures,
    api_keys: ApiKeyFigures,
}

/// The policy that is in force now, and where.
#[derive(Object)]
struct ChangedPolicy {
    #[oai(flatten)]
    policy: PolicyInForce,
    #[oai(flatten)]
    enforced: Enforced,
}

#[derive(Object)]
#[oai(deny_unknown_fields)]
struct PolicyProposal {
    /// The version that this one was made from; if given, it must be the one in force.
    version: Option<u32>,
    lockout: LockoutFigures,
    sessions: SessionFigures,
    passwords: PasswordFigures,
    second_factor: SecondFactorFigures,
    #[oai(default)]
    api_keys: ApiKeyFigures,
    /// Why; sealed beside the log.
    reason: String,
}

#[derive(Object)]
#[oai(deny_unknown_fields)]
struct PreviewRequest {
    /// The lockout policy to try.
    lockout: LockoutFigures,
    /// How many days back; 1 to 90, 30 if not given.
    days: Option<u32>,
}

/// Sums over all attempts.
#[derive(Object)]
struct PreviewTotals {
    /// Locks.
    locks: u64,
    /// Attempts whose password or code was looked at.
    evaluated: u64,
    /// Attempts that were refused unseen.
    refused: u64,
}

/// What would have been locked.
#[derive(Object)]
struct PreviewTarget {
    account_id: Uuid,
    /// `password` or `second_factor`.
    factor: String,
    /// The device that has a counter of its own, as events name it; none: what is not a known device has one together.
    device: Option<String>,
    /// Whether it is what counts over all devices of the account, known or not.
    all_devices: bool,
}

#[derive(Object)]
struct PreviewLock {
    at: Timestamp,
    until: Timestamp,
    /// Which in a row, from 1.
    nth: u32,
}

#[derive(Object)]
struct PreviewedAccount {
    #[oai(flatten)]
    target: PreviewTarget,
    /// How often it was locked.
    locks_recorded: u64,
    /// How often it would have been.
    locks_proposed: u64,
    /// The first twenty of those.
    locks: Vec<PreviewLock>,
    /// Right attempts that a lock would have refused: most likely the owner's.
    right_refused: u64,
}

/// A run of at least ten refused attempts, none an hour from the last.
#[derive(Object)]
struct PreviewedAttack {
    #[oai(flatten)]
    target: PreviewTarget,
    started_at: Timestamp,
    ended_at: Timestamp,
    attempts: u64,
    /// How many of them were evaluated.
    evaluated_recorded: u64,
    /// How many would have been.
    evaluated_proposed: u64,
    /// When the proposed policy would have stopped it first; none: never.
    stopped_at: Option<Timestamp>,
}

#[derive(Object)]
struct PolicyPreview {
    from: Timestamp,
    to: Timestamp,
    /// Attempts replayed. One that was refused unseen counts as wrong, for nobody knows better.
    attempts: u64,
    /// As they were decided.
    recorded: PreviewTotals,
    /// As the proposed policy would have decided them.
    proposed: PreviewTotals,
    /// What was or would have been locked, most often first; at most 200.
    accounts: Vec<PreviewedAccount>,
    /// Attacks, the longest first; at most 200.
    attacks: Vec<PreviewedAttack>,
    /// Whether there was more than is listed.
    truncated: bool,
}

/// Most days that a preview goes back.
const MOST_DAYS: u32 = 90;
/// Most attempts that a preview replays: some ten seconds of work.
const MOST_ATTEMPTS: u64 = 5_000_000;
/// Most accounts, and attacks, that a preview lists.
const LISTED: usize = 200;

#[OpenApi(prefix_path = "/v1/policy", tag = "Tag::Policy")]
impl Policies {
    /// Get the policy in force
    ///
    /// Never behind the log. Needs `policy.read`.
    #[oai(path = "/", method = "get", operation_id = "get_policy")]
    async fn get(&self, request: &Request, caller: BearerOrKey) -> Result<Json<PolicyInForce>, Problem> {
        caller.0.require(Permission::PolicyRead)?;
        let app = app(request)?;
        let mut connection = app.pool.acquire().await.map_err(query_failed)?;
        let changed = access::policy(&mut connection).await.map_err(query_failed)?;
        Ok(Json(PolicyInForce::of(changed.map_or_else(|| app.first_policy.clone(), |(_, policy)| policy))))
    }

    /// Change the policy
    ///
    /// The answer comes once every node decides under it: it may take rights from sessions that are live. What was decided
    /// before stays. Needs `policy.change` and a login within the last ten minutes.
    #[oai(path = "/", method = "put", operation_id = "change_policy")]
    async fn change(
        &self,
        request: &Request,
        caller: Bearer,
        body: JsonBody<PolicyProposal>,
        #[oai(name = "Idempotency-Key")] idempotency_key: Header<Option<String>>,
    ) -> Result<Recorded<ChangedPolicy>, Problem> {
        let caller = caller.0;
        caller.require(Permission::PolicyChange)?;
        caller.require_elevated()?;
        let PolicyProposal { version, lockout, sessions, passwords, second_factor, api_keys, reason } = body.read()?;
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
            api_keys: ApiKeyPolicy { end_with_suspension: api_keys.end_with_suspension },
        };
        let context = context(request, caller.actor(), idempotency_key.0)?;
        let app = app(request)?;
        match app.commands.change_policy(&context, version, proposed, reason).await {
            Ok(done) => {
                let body = |policy, enforced| ChangedPolicy { policy: PolicyInForce::of(policy), enforced };
                app.enforced_with(done, body).await
            }
            Err(fulexo_commands::CommandError::Role(_)) => Err(Problem::invalid_input(vec![FieldError::new(
                "/second_factor/required_for",
                "must name roles that exist",
            )])),
            Err(error) => Err(error.into()),
        }
    }

    /// Preview a lockout policy
    ///
    /// Tells what it would have done to the attempts of the last days.
    /// The recorded attempts are replayed under it, out of the log itself: which accounts would have been locked when,
    /// which attacks it would have stopped, and whom it would have refused wrongly. Nothing is recorded, and it is never
    /// behind the log. One preview at a time on each node. Needs `policy.read`.
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
            lockout.out_of_bounds().into_iter().map(|found| FieldError::new(found.pointer, found.bounds)).collect();
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
            let detail =
                format!("there are more than {MOST_ATTEMPTS} attempts, or too many accounts at once, in so many days");
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

impl LockoutFigures {
    fn of(policy: &LockoutPolicy) -> Self {
        Self {
            enabled: policy.enabled,
            threshold: policy.threshold,
            account_threshold: policy.account_threshold,
            window_seconds: seconds(policy.window),
            duration_seconds: seconds(policy.duration),
            longest_seconds: seconds(policy.longest),
        }
    }

    fn read(&self) -> LockoutPolicy {
        LockoutPolicy {
            enabled: self.enabled,
            threshold: self.threshold,
            account_threshold: self.account_threshold,
            window: span(self.window_seconds),
            duration: span(self.duration_seconds),
            longest: span(self.longest_seconds),
        }
    }
}

impl SessionFigures {
    fn of(policy: &SessionPolicy) -> Self {
        Self {
            idle_seconds: seconds(policy.idle_lifetime),
            absolute_seconds: seconds(policy.absolute_lifetime),
            refresh_grace_seconds: seconds(policy.refresh_grace),
            elevation_seconds: seconds(policy.elevation),
            fingerprint: match policy.fingerprint {
                FingerprintPolicy::Record => FingerprintAction::Record,
                FingerprintPolicy::RequireStepUp => FingerprintAction::RequireStepUp,
                FingerprintPolicy::Revoke => FingerprintAction::Revoke,
            },
            most_live: policy.most_live,
        }
    }

    fn read(&self) -> SessionPolicy {
        SessionPolicy {
            idle_lifetime: span(self.idle_seconds),
            absolute_lifetime: span(self.absolute_seconds),
            refresh_grace: span(self.refresh_grace_seconds),
            elevation: span(self.elevation_seconds),
            fingerprint: match self.fingerprint {
                FingerprintAction::Record => FingerprintPolicy::Record,
                FingerprintAction::RequireStepUp => FingerprintPolicy::RequireStepUp,
                FingerprintAction::Revoke => FingerprintPolicy::Revoke,
            },
            most_live: self.most_live,
        }
    }
}

impl PolicyInForce {
    fn of(policy: Policy) -> Self {
        Self {
            version: policy.version,
            lockout: LockoutFigures::of(&policy.lockout),
            sessions: SessionFigures::of(&policy.sessions),
            passwords: PasswordFigures {
                history: policy.passwords.history,
                max_age_days: policy.passwords.max_age_days,
            },
            second_factor: SecondFactorFigures {
                required_for: policy.second_factor.required_for.into_iter().map(String::from).collect(),
            },
            api_keys: ApiKeyFigures { end_with_suspension: policy.api_keys.end_with_suspension },
        }
    }
}

impl PolicyPreview {
    fn of(found: Found, from: DateTime<Utc>, to: DateTime<Utc>) -> Self {
        let totals = |totals: Totals| PreviewTotals {
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
            accounts: found.locked.into_iter().map(PreviewedAccount::of).collect(),
            attacks: found.attacks.into_iter().map(PreviewedAttack::of).collect(),
            truncated: found.truncated,
        }
    }
}

impl PreviewTarget {
    fn of(target: Target) -> Self {
        let Target { account, factor, device, all_devices } = target;
        Self { account_id: account.0, factor: factor.as_str().to_owned(), device, all_devices }
    }
}

impl PreviewedAccount {
    fn of((target, outcome): (Target, Outcome)) -> Self {
        let lock = |lock: fulexo_domain::preview::Locked| PreviewLock {
            at: lock.at.into(),
            until: lock.until.into(),
            nth: lock.nth,
        };
        Self {
            target: PreviewTarget::of(target),
            locks_recorded: outcome.recorded,
            locks_proposed: outcome.total,
            locks: outcome.locks.into_iter().map(lock).collect(),
            right_refused: outcome.right_refused,
        }
    }
}

impl PreviewedAttack {
    fn of(attack: Attack) -> Self {
        Self {
            target: PreviewTarget::of(attack.target),
            started_at: attack.started_at.into(),
            ended_at: attack.ended_at.into(),
            attempts: attack.attempts,
            evaluated_recorded: attack.evaluated_then,
            evaluated_proposed: attack.evaluated,
            stopped_at: attack.stopped_at.map(Timestamp),
        }
    }
}
