//! The change that an administrative event made: the fields that it set, before and after. Nothing of it is recorded: it
//! follows from the event, and for some events from the one before it in its stream. A sealed field is never among them.
//!
//! Decisions guarantee most values of before: an account that is suspended was not (`Account::handle_command`). The tests
//! compare every change with the folded states.

use std::borrow::Cow;

use serde_json::{Value, json};

use crate::account::{AccountEvent, Initiator};
use crate::api_key::ApiKeyEvent;
use crate::audit::AuditTrailEvent;
use crate::authentication::{AuthenticationEvent, UnlockCause};
use crate::event::Event;
use crate::leaf;
use crate::lockdown::LockdownEvent;
use crate::permission::Permission;
use crate::policy::{
    ApiKeyPolicy, ErasurePolicy, FingerprintPolicy, LockoutPolicy, PasswordPolicy, Policy, PolicyEvent,
    SecondFactorPolicy, SessionPolicy,
};
use crate::role::RoleEvent;
use crate::session::{RevocationCause, SessionEvent};
use crate::values::RoleName;

/// A field that an event changed.
#[derive(Debug, Clone, PartialEq)]
pub struct FieldChange {
    /// The name of the field, as in the API's resource; a member of an object or of a list follows a dot. Permanent.
    pub field: Cow<'static, str>,
    /// Its value before the event; null if it had none.
    pub before: Value,
    /// Its value after the event; null if it has none.
    pub after: Value,
}

impl FieldChange {
    fn new(field: impl Into<Cow<'static, str>>, before: impl Into<Value>, after: impl Into<Value>) -> Self {
        Self { field: field.into(), before: before.into(), after: after.into() }
    }
}

/// `true` if the change of the event follows from the event and from the one before it in its stream, if there is one.
#[must_use]
pub const fn needs_previous(event: &Event) -> bool {
    matches!(
        event,
        Event::Lockdown(_) | Event::Role(RoleEvent::Retired { .. }) | Event::ApiKey(ApiKeyEvent::Revoked {})
    )
}

/// The change that the event made. Empty if what it changed is sealed, or not kept as a setting. `None` if administrators
/// cause no such event, or if it does not follow from the previous event, which is then not one that this domain recorded.
#[must_use]
pub fn administrative_change(event: &Event, previous: Option<&Event>) -> Option<Vec<FieldChange>> {
    let mut change = fields_set(event, previous)?;
    // A role without permissions loses none when it is retired.
    change.retain(|field| field.before != field.after);
    Some(change)
}

fn fields_set(event: &Event, previous: Option<&Event>) -> Option<Vec<FieldChange>> {
    Some(match event {
        Event::Account(event) => return account_change(event),
        Event::Authentication(event) => return authentication_change(event),
        Event::Session(event) => return session_change(event),
        Event::Role(RoleEvent::Defined { role: _, permissions }) => vec![
            FieldChange::new("status", Value::Null, "defined"),
            FieldChange::new("permissions", Value::Null, names(permissions)),
        ],
        Event::Role(RoleEvent::PermissionsChanged { role: _, before, after }) => {
            vec![FieldChange::new("permissions", names(before), names(after))]
        }
        Event::Role(RoleEvent::Retired { role: _ }) => {
            let Some(Event::Role(
                RoleEvent::Defined { permissions: before, .. } | RoleEvent::PermissionsChanged { after: before, .. },
            )) = previous
            else {
                return None;
            };
            vec![
                FieldChange::new("status", "defined", "retired"),
                FieldChange::new("permissions", names(before), json!([])),
            ]
        }
        Event::Policy(PolicyEvent::Changed { before, after }) => policy_change(before, after),
        Event::ApiKey(ApiKeyEvent::Created { name, permissions, expires_at }) => vec![
            FieldChange::new("status", Value::Null, "live"),
            FieldChange::new("name", Value::Null, name.as_str()),
            FieldChange::new("permissions", Value::Null, names(permissions)),
            FieldChange::new("expires_at", Value::Null, leaf::format_time(*expires_at)),
        ],
        Event::ApiKey(ApiKeyEvent::Revoked {}) => {
            let Some(Event::ApiKey(ApiKeyEvent::Created { permissions: before, .. })) = previous else { return None };
            vec![
                FieldChange::new("status", "live", "revoked"),
                FieldChange::new("permissions", names(before), json!([])),
            ]
        }
        Event::Lockdown(event) => {
            let before = match previous {
                Some(Event::Lockdown(before)) => lockdown_scope(before),
                None => Value::Null,
                Some(_) => return None,
            };
            vec![FieldChange::new("scope", before, lockdown_scope(event))]
        }
        // The event itself is the fact: it names the fields that were disclosed.
        Event::Audit(AuditTrailEvent::Unsealed { .. }) => Vec::new(),
        // They change nothing.
        Event::Audit(AuditTrailEvent::AddressSearched { .. } | AuditTrailEvent::Exported { .. }) => return None,
        // The type of the event is the phase, and what else it says is further back in the stream.
        Event::Incident(_) => return None,
        // An operator's, which say themselves what they concern.
        Event::Key(_) | Event::Backup(_) | Event::RateLimit(_) | Event::Checkpoint(_) => return None,
    })
}

fn account_change(event: &AccountEvent) -> Option<Vec<FieldChange>> {
    let role =
        |role: &RoleName, before: bool| vec![FieldChange::new(format!("roles.{}", role.as_str()), before, !before)];
    Some(match event {
        AccountEvent::Registered {} => vec![FieldChange::new("registered", false, true)],
        // What changed is sealed.
        AccountEvent::ProfileChanged {} => Vec::new(),
        AccountEvent::PasswordExpired {} => vec![FieldChange::new("password_expired", false, true)],
        AccountEvent::SecondFactorDisabled { by: Initiator::Admin } => {
            vec![FieldChange::new("second_factor", true, false)]
        }
        AccountEvent::RoleGranted { role: granted } => role(granted, false),
        AccountEvent::RoleRevoked { role: revoked } => role(revoked, true),
        AccountEvent::Suspended {} => vec![FieldChange::new("suspended", false, true)],
        AccountEvent::Reinstated {} => vec![FieldChange::new("suspended", true, false)],
        AccountEvent::Erased { by: Initiator::Admin } => vec![FieldChange::new("erased", false, true)],
        // The sessions themselves follow in `session.revoked`.
        AccountEvent::SessionsRevoked { by, except_session: _ } => return is_administrative(*by).then(Vec::new),
        // These are the owner's.
        AccountEvent::PasswordChanged { .. }
        | AccountEvent::SecondFactorEnrolmentStarted {}
        | AccountEvent::SecondFactorEnabled { .. }
        | AccountEvent::SecondFactorDisabled { by: Initiator::Owner }
        | AccountEvent::RecoveryCodesIssued { .. }
        | AccountEvent::RecoveryCodeUsed { .. }
        | AccountEvent::EmailVerified {}
        | AccountEvent::ErasureStarted { .. }
        | AccountEvent::ErasureWithdrawn {}
        | AccountEvent::Erased { by: Initiator::Owner }
        | AccountEvent::ErasureCompleted { .. } => return None,
    })
}

fn authentication_change(event: &AuthenticationEvent) -> Option<Vec<FieldChange>> {
    match event {
        // The counters that it resets are not kept in the log.
        AuthenticationEvent::LockLifted { by: UnlockCause::Admin, .. } => Some(Vec::new()),
        AuthenticationEvent::LockLifted { by: UnlockCause::Expired | UnlockCause::Reset, .. }
        | AuthenticationEvent::Succeeded { .. }
        | AuthenticationEvent::SecondFactorRequired { .. }
        | AuthenticationEvent::PasswordChangeRequired { .. }
        | AuthenticationEvent::Confirmed { .. }
        | AuthenticationEvent::Failed { .. }
        | AuthenticationEvent::LockedOut { .. }
        | AuthenticationEvent::PasswordResetRequested {}
        | AuthenticationEvent::PasswordResetRefused { .. }
        | AuthenticationEvent::NewDeviceSeen { .. }
        | AuthenticationEvent::DeviceForgotten { .. } => None,
    }
}

fn session_change(event: &SessionEvent) -> Option<Vec<FieldChange>> {
    match event {
        SessionEvent::Revoked { by } => is_administrative(*by).then(|| vec![FieldChange::new("live", true, false)]),
        SessionEvent::Started { .. }
        | SessionEvent::Refreshed { .. }
        | SessionEvent::FingerprintMismatched { .. }
        | SessionEvent::RefreshReused { .. }
        | SessionEvent::Elevated { .. }
        | SessionEvent::Expired {} => None,
    }
}

/// `true` if an act of an administrator ends sessions for this cause.
const fn is_administrative(by: RevocationCause) -> bool {
    match by {
        RevocationCause::Admin
        | RevocationCause::Suspension
        | RevocationCause::SecondFactorReset
        | RevocationCause::PasswordExpired => true,
        RevocationCause::Owner
        | RevocationCause::Reuse
        | RevocationCause::PasswordChange
        | RevocationCause::FingerprintMismatch
        | RevocationCause::SessionLimit
        // The event that erased the account says who wanted it.
        | RevocationCause::Erasure => false,
    }
}

fn names(permissions: &[Permission]) -> Value {
    permissions.iter().map(|permission| permission.as_str()).collect()
}

fn lockdown_scope(event: &LockdownEvent) -> Value {
    match event {
        LockdownEvent::Started { scope } => scope.as_str().into(),
        LockdownEvent::Lifted {} => Value::Null,
    }
}

fn policy_change(before: &Policy, after: &Policy) -> Vec<FieldChange> {
    let pairs = figures(before).into_iter().zip(figures(after));
    pairs.map(|((field, before), (_, after))| FieldChange::new(field, before, after)).collect()
}

/// Every setting of a policy, under its name in `GET /v1/policy`.
fn figures(policy: &Policy) -> [(&'static str, Value); 18] {
    let Policy {
        version,
        lockout: LockoutPolicy { enabled, threshold, account_threshold, window, duration, max_duration },
        sessions:
            SessionPolicy { idle_timeout, absolute_timeout, refresh_grace, elevation, fingerprint, max_per_account },
        passwords: PasswordPolicy { history, max_age_days },
        second_factor: SecondFactorPolicy { required_for },
        api_keys: ApiKeyPolicy { suspend_with_creator },
        erasure: ErasurePolicy { withdrawal_days },
    } = policy;
    let fingerprint = match fingerprint {
        FingerprintPolicy::Record => "record",
        FingerprintPolicy::RequireStepUp => "require_step_up",
        FingerprintPolicy::Revoke => "revoke",
    };
    [
        ("version", (*version).into()),
        ("lockout.enabled", (*enabled).into()),
        ("lockout.threshold", (*threshold).into()),
        ("lockout.account_threshold", (*account_threshold).into()),
        ("lockout.window_seconds", window.num_seconds().into()),
        ("lockout.duration_seconds", duration.num_seconds().into()),
        ("lockout.max_duration_seconds", max_duration.num_seconds().into()),
        ("sessions.idle_timeout_seconds", idle_timeout.num_seconds().into()),
        ("sessions.absolute_timeout_seconds", absolute_timeout.num_seconds().into()),
        ("sessions.refresh_grace_seconds", refresh_grace.num_seconds().into()),
        ("sessions.elevation_seconds", elevation.num_seconds().into()),
        ("sessions.fingerprint", fingerprint.into()),
        ("sessions.max_per_account", (*max_per_account).into()),
        ("passwords.history", (*history).into()),
        ("passwords.max_age_days", (*max_age_days).into()),
        ("second_factor.required_for", required_for.iter().map(|role| role.as_str()).collect()),
        ("api_keys.suspend_with_creator", (*suspend_with_creator).into()),
        ("erasure.withdrawal_days", (*withdrawal_days).into()),
    ]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use chrono::DateTime;
    use proptest::prelude::*;

    use super::*;
    use crate::Aggregate;
    use crate::account::{Account, AccountCommand, AccountState, PasswordChangeCause};
    use crate::api_key::{ApiKey, ApiKeyCommand};
    use crate::lockdown::{Lockdown, LockdownCommand, LockdownScope};
    use crate::permission::Permissions;
    use crate::policy::{ChangePolicy, SecurityPolicy};
    use crate::role::{Role, RoleCommand, RoleState};
    use crate::values::ApiKeyName;

    /// The fields of a state that changes are about.
    type Fields = BTreeMap<String, Value>;

    fn fields(pairs: impl IntoIterator<Item = (&'static str, Value)>) -> Fields {
        pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    fn account_fields(state: &AccountState) -> Fields {
        let mut found = fields([
            ("registered", state.registered.into()),
            ("suspended", state.suspended.into()),
            ("password_expired", state.password_expired.into()),
            ("second_factor", state.second_factor_enabled.into()),
        ]);
        found.extend(ROLES.map(|name| (format!("roles.{name}"), state.roles.contains(&role(name)).into())));
        found
    }

    fn role_fields(state: &RoleState) -> Fields {
        let (status, permissions) = match state {
            RoleState::None => (Value::Null, Value::Null),
            RoleState::Defined(permissions) => ("defined".into(), names(&permissions.iter().collect::<Vec<_>>())),
            RoleState::Retired => ("retired".into(), json!([])),
        };
        fields([("status", status), ("permissions", permissions)])
    }

    const ROLES: [&str; 3] = ["admin", "auditor", "support"];

    fn role(name: &str) -> RoleName {
        RoleName::parse(name).unwrap()
    }

    /// Checks that the change of each event is exactly the difference between the states before and after it, for all
    /// events that have one; and that it starts where the change before it ended.
    fn check<A>(commands: Vec<A::Command>, fields: impl Fn(&A::State) -> Fields) -> Result<usize, TestCaseError>
    where
        A: Aggregate<Event: Clone + Into<Event>>,
    {
        let (mut state, mut previous, mut checked) = (A::State::default(), None, 0);
        for command in commands {
            for event in A::handle_command(&state, command).unwrap_or_default() {
                let before = fields(&state);
                state = A::apply_event(state, event.clone());
                let (after, event): (_, Event) = (fields(&state), event.into());
                let known = previous.as_ref().filter(|_| needs_previous(&event));
                if let Some(change) = administrative_change(&event, known) {
                    let told: BTreeMap<String, (Value, Value)> =
                        change.into_iter().map(|it| (it.field.into_owned(), (it.before, it.after))).collect();
                    let differing = before.iter().filter(|(name, value)| after[*name] != **value);
                    let expected: BTreeMap<String, (Value, Value)> =
                        differing.map(|(name, value)| (name.clone(), (value.clone(), after[name].clone()))).collect();
                    prop_assert_eq!(told, expected, "{:?} after {:?}", event, previous);
                    checked += 1;
                }
                previous = Some(event);
            }
        }
        Ok(checked)
    }

    fn account_command() -> impl Strategy<Value = AccountCommand> {
        let name = || prop::sample::select(ROLES.to_vec()).prop_map(role);
        let how = prop::sample::select(vec![PasswordChangeCause::Owner, PasswordChangeCause::Rehash]);
        let by = prop::sample::select(vec![Initiator::Owner, Initiator::Admin]);
        prop_oneof![
            name().prop_map(|role| AccountCommand::GrantRole { role }),
            name().prop_map(|role| AccountCommand::RevokeRole { role }),
            how.prop_map(|how| AccountCommand::ChangePassword { how }),
            by.prop_map(|by| AccountCommand::DisableSecondFactor { by }),
            Just(AccountCommand::ChangeProfile),
            Just(AccountCommand::ExpirePassword),
            Just(AccountCommand::StartEnrolment),
            Just(AccountCommand::ConfirmEnrolment { codes: 10, session: None }),
            Just(AccountCommand::Suspend),
            Just(AccountCommand::Reinstate),
            Just(AccountCommand::RevokeSessions { by: RevocationCause::Admin, except_session: None }),
        ]
    }

    fn role_command() -> impl Strategy<Value = RoleCommand> {
        let some = prop::sample::subsequence(Permission::ALL.to_vec(), 0..5);
        (0..10_u8, some).prop_map(|(kind, permissions)| match kind {
            0 => RoleCommand::Retire { role: role("support") },
            _ => RoleCommand::Define { role: role("support"), permissions: Permissions::of(&permissions) },
        })
    }

    fn policy_command() -> impl Strategy<Value = ChangePolicy> {
        (3..6_u32, prop::option::of(30..33_u32), any::<bool>(), any::<bool>()).prop_map(
            |(threshold, max_age_days, required, suspend_with_creator)| {
                let mut proposed = Policy::default();
                proposed.lockout.threshold = threshold;
                proposed.passwords.max_age_days = max_age_days;
                proposed.second_factor.required_for = required.then(|| role("auditor")).into_iter().collect();
                proposed.api_keys.suspend_with_creator = suspend_with_creator;
                ChangePolicy { initial: Policy::default(), expected_version: None, proposed }
            },
        )
    }

    fn lockdown_command() -> impl Strategy<Value = LockdownCommand> {
        prop::sample::select(vec![
            LockdownCommand::Start(LockdownScope::Logins),
            LockdownCommand::Start(LockdownScope::All),
            LockdownCommand::Tighten(LockdownScope::Logins),
            LockdownCommand::Lift,
        ])
    }

    proptest! {
        #[test]
        fn a_change_is_the_difference_between_the_states_that_the_events_fold_to(
            accounts in prop::collection::vec(account_command(), 0..60),
            roles in prop::collection::vec(role_command(), 0..20),
            policies in prop::collection::vec(policy_command(), 0..20),
            lockdowns in prop::collection::vec(lockdown_command(), 0..20),
        ) {
            let registered = AccountCommand::Register { roles: vec![role("support")] };
            let accounts = std::iter::once(registered).chain(accounts).collect();
            prop_assert!(check::<Account>(accounts, account_fields)? >= 2);
            check::<Role>(roles, role_fields)?;
            let figures = |state: &Option<Policy>| fields(figures(&state.clone().unwrap_or_default()));
            check::<SecurityPolicy>(policies, figures)?;
            check::<Lockdown>(lockdowns, |scope: &Option<LockdownScope>| {
                fields([("scope", scope.map_or(Value::Null, |scope| scope.as_str().into()))])
            })?;
        }
    }

    #[test]
    fn a_key_has_its_scope_until_it_is_revoked() {
        let create = ApiKeyCommand::Create {
            name: ApiKeyName::parse("billing").unwrap(),
            permissions: Permissions::of(&[Permission::AuditRead]),
            expires_at: DateTime::UNIX_EPOCH,
        };
        let created: Event = ApiKey::handle_command(&Default::default(), create).unwrap().remove(0).into();
        let expected = vec![
            FieldChange::new("status", Value::Null, "live"),
            FieldChange::new("name", Value::Null, "billing"),
            FieldChange::new("permissions", Value::Null, json!(["audit.read"])),
            FieldChange::new("expires_at", Value::Null, "1970-01-01T00:00:00.000000Z"),
        ];
        assert_eq!(administrative_change(&created, None), Some(expected));
        let revoked = ApiKeyEvent::Revoked {}.into();
        let expected = vec![
            FieldChange::new("status", "live", "revoked"),
            FieldChange::new("permissions", json!(["audit.read"]), json!([])),
        ];
        assert_eq!(administrative_change(&revoked, Some(&created)), Some(expected));
        assert_eq!(administrative_change(&revoked, None), None, "nothing is made up");
    }
}
