//! The standing of an account, for staff: the reasons for which its owner does not get in, and the remedies. The owner's own
//! answers tell no reasons apart.

use fulexo_commands::{CounterReach, StandingKind, StandingReason};
use fulexo_domain::authentication::Factor;
use fulexo_domain::permission::Permission;
use fulexo_domain::values::AccountId;
use fulexo_node::caller::{BearerOrKey, app};
use fulexo_node::clock;
use fulexo_node::http::Problem;
use fulexo_node::timestamp::Timestamp;
use poem::Request;
use poem_openapi::param::Path;
use poem_openapi::payload::Json;
use poem_openapi::{Enum, Object, OpenApi};
use uuid::Uuid;

use super::tag::Tag;

pub struct AccountStandings;

/// The standing of an account: the reasons for which a login with the right password and code does not start a session.
#[derive(Object)]
struct AccountStanding {
    /// The id of the account.
    account_id: Uuid,
    /// `true` if a login with the right password and code starts a session on a device that the account does not know.
    can_log_in: bool,
    /// The reasons on such a device, in the order in which a login meets them. A login stops at the first one. Empty if
    /// `can_log_in` is `true`.
    reasons: Vec<StandingReasonResource>,
    /// The devices that the account knows, at most 10. Each has locks of its own.
    known_devices: Vec<DeviceStandingResource>,
    /// The version of the policy in force.
    policy_version: u32,
    /// The time of this judgement.
    judged_at: Timestamp,
}

/// The standing of an account on a device that it knows.
#[derive(Object)]
#[oai(rename = "DeviceStanding")]
struct DeviceStandingResource {
    /// The name of the device in events (`device`).
    device: String,
    /// `true` if a login with the right password and code starts a session on this device.
    can_log_in: bool,
    /// The reasons on this device, in the order in which a login meets them.
    reasons: Vec<StandingReasonResource>,
}

/// A reason for which a login does not start a session.
#[derive(Object)]
#[oai(rename = "StandingReason")]
struct StandingReasonResource {
    /// The kind of reason. The words are permanent.
    code: StandingCode,
    /// The effect on a login.
    effect: StandingEffect,
    /// The factor that is not evaluated: `password` or `second_factor`. `null` for reasons other than `locked`, `attempts_spent`
    /// and `attempts_in_progress`.
    factor: Option<String>,
    /// The devices on which the factor is not evaluated: `this` known one, all `unknown` ones, or `all`. `null` for the same
    /// reasons.
    devices: Option<String>,
    /// The time since which the reason holds. `null` if no event says so.
    since: Option<Timestamp>,
    /// The time at which the reason ends by itself. `null` if it does not, or not at a certain time.
    until: Option<Timestamp>,
    /// The id of the event that the reason follows from. `null` if there is none.
    event_id: Option<Uuid>,
    /// The position of that event in the log.
    position: Option<u64>,
    /// The version of the policy under which it was decided: that of the event, or the policy in force for what each login
    /// decides anew.
    policy_version: u32,
    /// The ways to end it.
    remedies: Vec<StandingRemedy>,
}

/// A way to end a reason.
#[derive(Object)]
struct StandingRemedy {
    /// The kind of remedy. The words are permanent.
    code: RemedyCode,
    /// The party that can act.
    by: RemedyBy,
    /// The method and the path of the operation. `null` for `wait`.
    operation: Option<String>,
}

/// The kind of a reason: `credentials_destroyed`, the account has no password, or the key to its data was destroyed; `locked`, a
/// factor is locked after failed attempts; `attempts_spent`, as many attempts as the policy allows are counted, and none caused a
/// lock; `attempts_in_progress`, attempts in progress are as many as the policy allows; `password_unknown`, the owner reported an
/// intrusion, and nobody knows the password since; `suspended`, an administrator suspended the account; `lockdown`, a lockdown is
/// in force, and the account may not respond to it; `password_expired`, an administrator expired the password;
/// `password_outdated`, the password is older than the policy allows; `second_factor_missing`, a role requires a second factor,
/// and the account has none.
#[derive(Enum, Clone, Copy)]
#[oai(rename_all = "snake_case")]
enum StandingCode {
    /// The account has no password, or the key to its data was destroyed.
    CredentialsDestroyed,
    /// The factor is locked after failed attempts.
    Locked,
    /// As many attempts as the policy allows are counted, and none of them caused a lock.
    AttemptsSpent,
    /// Attempts in progress are as many as the policy allows.
    AttemptsInProgress,
    /// The owner reported an intrusion. Nobody knows the password since.
    PasswordUnknown,
    /// An administrator suspended the account.
    Suspended,
    /// A lockdown is in force, and the account may not respond to it.
    Lockdown,
    /// An administrator expired the password.
    PasswordExpired,
    /// The password is older than the policy allows.
    PasswordOutdated,
    /// A role requires a second factor, and the account has none.
    SecondFactorMissing,
}

/// The effect of a reason on a login: `refused`, or `step_required` if the login continues with another step.
#[derive(Enum, Clone, Copy)]
#[oai(rename_all = "snake_case")]
enum StandingEffect {
    /// The login is refused.
    Refused,
    /// The login continues with another step.
    StepRequired,
}

/// The kind of a remedy. `change_password` and `enrol_second_factor` take the challenge of the next login.
#[derive(Enum, Clone, Copy)]
#[oai(rename_all = "snake_case")]
enum RemedyCode {
    /// Wait until it ends by itself.
    Wait,
    /// Unlock the account.
    Unlock,
    /// Reset the password by e-mail.
    ResetPassword,
    /// Reinstate the account.
    Reinstate,
    /// Lift the lockdown.
    LiftLockdown,
    /// Change the password with the challenge of the next login.
    ChangePassword,
    /// Enrol a second factor with the challenge of the next login.
    EnrolSecondFactor,
}

/// The party that can end a reason: `staff` with the permission of the operation, the `owner` of the account, or `time`.
#[derive(Enum, Clone, Copy)]
#[oai(rename_all = "snake_case")]
enum RemedyBy {
    /// Nobody: time ends it.
    Time,
    /// A member of staff with the permission.
    Staff,
    /// The owner of the account.
    Owner,
}

#[OpenApi(prefix_path = "/v1/accounts", tag = "Tag::Accounts")]
impl AccountStandings {
    /// Get an account's standing
    ///
    /// Needs the permission `accounts.read`. Returns every reason for which a login to the account does not start a session now,
    /// with the event that it follows from and its remedies. Judges by the same rules as a login, by the current state and never
    /// an older one. Counts no attempt and records nothing.
    ///
    /// The answers to the owner stay the same for all reasons: do not forward these to a person whose identity you have not
    /// verified.
    #[oai(path = "/:account_id/standing", method = "get", operation_id = "get_account_standing")]
    async fn get(
        &self,
        request: &Request,
        caller: BearerOrKey,
        account_id: Path<Uuid>,
    ) -> Result<Json<AccountStanding>, Problem> {
        caller.0.require(Permission::AccountsRead)?;
        let account = AccountId(account_id.0);
        let app = app(request)?;
        let standing = app.commands.login_standing(account, clock::now()).await?;
        let shown = |reasons: Vec<StandingReason>| -> Vec<StandingReasonResource> {
            reasons
                .iter()
                .map(|reason| StandingReasonResource::of(account, app.commands.sends_mail(), reason))
                .collect()
        };
        let known_devices = standing.known_devices.into_iter().map(|known| DeviceStandingResource {
            device: known.device,
            can_log_in: known.reasons.is_empty(),
            reasons: shown(known.reasons),
        });
        Ok(Json(AccountStanding {
            account_id: account_id.0,
            can_log_in: standing.reasons.is_empty(),
            known_devices: known_devices.collect(),
            reasons: shown(standing.reasons),
            policy_version: standing.policy_version,
            judged_at: standing.judged_at.into(),
        }))
    }
}

impl StandingReasonResource {
    fn of(account: AccountId, sends_mail: bool, reason: &StandingReason) -> Self {
        let (code, effect, counter) = told(reason.kind);
        Self {
            code,
            effect,
            factor: counter.map(|(factor, _)| factor.as_str().to_owned()),
            devices: counter.map(|(_, reach)| devices(reach).to_owned()),
            since: reason.since.map(Timestamp),
            until: reason.until.map(Timestamp),
            event_id: reason.event.map(|(id, _)| id),
            position: reason.event.map(|(_, position)| position),
            policy_version: reason.policy_version,
            remedies: remedies(account, sends_mail, reason.kind),
        }
    }
}

const fn devices(reach: CounterReach) -> &'static str {
    match reach {
        CounterReach::Device => "this",
        CounterReach::UnknownDevices => "unknown",
        CounterReach::AllDevices => "all",
    }
}

fn told(kind: StandingKind) -> (StandingCode, StandingEffect, Option<(Factor, CounterReach)>) {
    use StandingEffect::{Refused, StepRequired};
    match kind {
        StandingKind::CredentialsDestroyed => (StandingCode::CredentialsDestroyed, Refused, None),
        StandingKind::Locked(factor, reach) => (StandingCode::Locked, Refused, Some((factor, reach))),
        StandingKind::AttemptsSpent(factor, reach) => (StandingCode::AttemptsSpent, Refused, Some((factor, reach))),
        StandingKind::AttemptsInProgress(factor, reach) => {
            (StandingCode::AttemptsInProgress, Refused, Some((factor, reach)))
        }
        StandingKind::PasswordUnknown => (StandingCode::PasswordUnknown, Refused, None),
        StandingKind::Suspended => (StandingCode::Suspended, Refused, None),
        StandingKind::LockedDown => (StandingCode::Lockdown, Refused, None),
        StandingKind::PasswordExpired => (StandingCode::PasswordExpired, StepRequired, None),
        StandingKind::PasswordOutdated => (StandingCode::PasswordOutdated, StepRequired, None),
        StandingKind::EnrolmentMissing => (StandingCode::SecondFactorMissing, StepRequired, None),
    }
}

fn remedies(account: AccountId, sends_mail: bool, kind: StandingKind) -> Vec<StandingRemedy> {
    let of_account = |act: &str| format!("POST /v1/accounts/{}/{act}", account.0);
    let by_staff = |code, operation| StandingRemedy { code, by: RemedyBy::Staff, operation: Some(operation) };
    let by_owner =
        |code, operation: &str| StandingRemedy { code, by: RemedyBy::Owner, operation: Some(operation.to_owned()) };
    let wait = || StandingRemedy { code: RemedyCode::Wait, by: RemedyBy::Time, operation: None };
    match kind {
        StandingKind::CredentialsDestroyed => Vec::new(),
        StandingKind::Locked(..) | StandingKind::AttemptsSpent(..) => {
            vec![by_staff(RemedyCode::Unlock, of_account("unlock")), wait()]
        }
        StandingKind::AttemptsInProgress(..) => vec![wait()],
        // Without mail there is no link to a new password.
        StandingKind::PasswordUnknown if !sends_mail => Vec::new(),
        StandingKind::PasswordUnknown => vec![by_owner(RemedyCode::ResetPassword, "POST /v1/auth/password-reset")],
        StandingKind::Suspended => vec![by_staff(RemedyCode::Reinstate, of_account("reinstate"))],
        StandingKind::LockedDown => vec![by_staff(RemedyCode::LiftLockdown, "DELETE /v1/lockdown".to_owned())],
        StandingKind::PasswordExpired | StandingKind::PasswordOutdated => {
            vec![by_owner(RemedyCode::ChangePassword, "POST /v1/me/password")]
        }
        StandingKind::EnrolmentMissing => {
            vec![by_owner(RemedyCode::EnrolSecondFactor, "POST /v1/me/second-factor/totp")]
        }
    }
}
