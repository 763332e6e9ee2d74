//! The state of a stream, as commands read it: the folded state of the aggregate, and some facts of its history. A
//! snapshot stores it at any version. A later read continues from there, so that the cost of a load does not depend on
//! the length of the stream.
//!
//! The text of a snapshot is canonical JSON, like a leaf. A change of the fold or of the text needs another
//! [`Snapshot::FORMAT`], because this build does not read other formats.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::Aggregate;
use crate::account::{Account, AccountEvent, AccountState, PasswordChangeCause};
use crate::event::{Category, Event, RecordedEvent};
use crate::policy::{Policy, PolicyEvent, SecurityPolicy};
use crate::role::{Role, RoleState};
use crate::session::{Session, SessionState};
use crate::values::RoleName;

/// The folded state of a stream.
pub trait Snapshot: Default + Serialize + DeserializeOwned + Send + Sync {
    /// The category of the stream.
    const CATEGORY: Category;
    /// The number of the format, increased with each change of the fold or of the text.
    const FORMAT: i16;

    /// Applies the next event of the stream.
    #[must_use]
    fn apply(self, recorded: RecordedEvent) -> Self;

    /// Returns the snapshot as text.
    ///
    /// # Errors
    /// Those of the serializer.
    fn to_text(&self) -> Result<String, serde_json::Error> {
        // A JSON value has its keys in order.
        Ok(serde_json::to_value(self)?.to_string())
    }

    /// Reads a snapshot from its text.
    ///
    /// # Errors
    /// Any text that this build would not have written.
    fn from_text(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }
}

/// The snapshot of an account.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccountSnapshot {
    /// The state of the aggregate.
    pub state: AccountState,
    /// The position of the last event with the sealed profile.
    pub profile_position: Option<u64>,
    /// The time at which the password was set or last changed.
    pub password_set_at: Option<DateTime<Utc>>,
    /// The events that its standing follows from.
    pub causes: StandingCauses,
}

/// The positions of the events that the standing of an account follows from, each the last of its kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StandingCauses {
    /// The suspension in force.
    pub suspension: Option<u64>,
    /// The expiry of the password in force.
    pub password_expiry: Option<u64>,
    /// The setting of the password in force.
    pub password: Option<u64>,
    /// The report of an intrusion, since which nobody knows the password.
    pub intrusion_report: Option<u64>,
    /// The removal of the second factor; `None` while there is one, or never was.
    pub second_factor_removal: Option<u64>,
}

impl StandingCauses {
    fn apply(&mut self, position: u64, event: &AccountEvent) {
        match event {
            AccountEvent::Registered {} => self.password = Some(position),
            AccountEvent::PasswordChanged { how: PasswordChangeCause::Rehash } => {}
            AccountEvent::PasswordChanged { how } => {
                self.password = Some(position);
                self.password_expiry = None;
                self.intrusion_report = (*how == PasswordChangeCause::Reported).then_some(position);
            }
            AccountEvent::PasswordExpired {} => self.password_expiry = Some(position),
            AccountEvent::SecondFactorEnabled { .. } => self.second_factor_removal = None,
            AccountEvent::SecondFactorDisabled { .. } => self.second_factor_removal = Some(position),
            AccountEvent::Suspended {} => self.suspension = Some(position),
            AccountEvent::Reinstated {} => self.suspension = None,
            AccountEvent::ProfileChanged {}
            | AccountEvent::SecondFactorEnrolmentStarted {}
            | AccountEvent::RecoveryCodesIssued { .. }
            | AccountEvent::RecoveryCodeUsed { .. }
            | AccountEvent::RoleGranted { .. }
            | AccountEvent::RoleRevoked { .. }
            | AccountEvent::EmailVerified {}
            | AccountEvent::SessionsRevoked { .. }
            | AccountEvent::ErasureStarted { .. }
            | AccountEvent::ErasureWithdrawn {}
            | AccountEvent::ErasureCompleted { .. } => {}
            AccountEvent::Erased { .. } => *self = Self::default(),
        }
    }
}

/// The snapshot of a session.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionSnapshot {
    /// The state of the aggregate.
    pub state: SessionState,
    /// The start of the session.
    pub started_at: Option<DateTime<Utc>>,
}

/// The snapshot of a custom role.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoleSnapshot {
    /// The state of the aggregate.
    pub state: RoleState,
}

/// The snapshot of the security policy.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicySnapshot {
    /// The state of the aggregate; `None` while the initial policy is in force.
    pub state: Option<Policy>,
    /// The positions of the events since which roles require a second factor. The initial policy has none.
    pub required_since: BTreeMap<RoleName, u64>,
    /// The position of the event that last changed the maximum age of passwords.
    pub max_age_since: Option<u64>,
}

impl Snapshot for AccountSnapshot {
    const CATEGORY: Category = Category::Account;
    const FORMAT: i16 = 3;

    fn apply(mut self, recorded: RecordedEvent) -> Self {
        let Event::Account(event) = recorded.event else { return self };
        self.causes.apply(recorded.position, &event);
        match &event {
            AccountEvent::Registered {} => {
                self.profile_position = Some(recorded.position);
                self.password_set_at = Some(recorded.recorded_at);
            }
            AccountEvent::ProfileChanged {} => self.profile_position = Some(recorded.position),
            AccountEvent::PasswordChanged {
                how:
                    PasswordChangeCause::Owner
                    | PasswordChangeCause::Expired
                    | PasswordChangeCause::Reset
                    | PasswordChangeCause::Reported,
            } => self.password_set_at = Some(recorded.recorded_at),
            AccountEvent::PasswordChanged { how: PasswordChangeCause::Rehash }
            | AccountEvent::PasswordExpired {}
            | AccountEvent::SecondFactorEnrolmentStarted {}
            | AccountEvent::SecondFactorEnabled { .. }
            | AccountEvent::SecondFactorDisabled { .. }
            | AccountEvent::RecoveryCodesIssued { .. }
            | AccountEvent::RecoveryCodeUsed { .. }
            | AccountEvent::RoleGranted { .. }
            | AccountEvent::RoleRevoked { .. }
            | AccountEvent::EmailVerified {}
            | AccountEvent::Suspended {}
            | AccountEvent::Reinstated {}
            | AccountEvent::SessionsRevoked { .. }
            | AccountEvent::ErasureStarted { .. }
            | AccountEvent::ErasureWithdrawn {}
            | AccountEvent::ErasureCompleted { .. } => {}
            AccountEvent::Erased { .. } => self.profile_position = None,
        }
        self.state = Account::apply_event(self.state, event);
        self
    }
}

impl Snapshot for SessionSnapshot {
    const CATEGORY: Category = Category::Session;
    const FORMAT: i16 = 2;

    fn apply(mut self, recorded: RecordedEvent) -> Self {
        let Event::Session(event) = recorded.event else { return self };
        self.started_at = self.started_at.or(Some(recorded.recorded_at));
        self.state = Session::apply_event(self.state, event);
        self
    }
}

impl Snapshot for RoleSnapshot {
    const CATEGORY: Category = Category::Role;
    const FORMAT: i16 = 1;

    fn apply(self, recorded: RecordedEvent) -> Self {
        let Event::Role(event) = recorded.event else { return self };
        Self { state: Role::apply_event(self.state, event) }
    }
}

impl Snapshot for PolicySnapshot {
    const CATEGORY: Category = Category::Policy;
    const FORMAT: i16 = 3;

    fn apply(mut self, recorded: RecordedEvent) -> Self {
        let Event::Policy(event) = recorded.event else { return self };
        let PolicyEvent::Changed { before, after } = &event;
        let (before, after) = (&**before, &**after);
        let required = &after.second_factor.required_for;
        self.required_since.retain(|role, _| required.contains(role));
        for role in required.difference(&before.second_factor.required_for) {
            self.required_since.insert(role.clone(), recorded.position);
        }
        if before.passwords.max_age_days != after.passwords.max_age_days {
            self.max_age_since = Some(recorded.position);
        }
        self.state = SecurityPolicy::apply_event(self.state, event);
        self
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;
    use crate::account::{AccountCommand, Initiator};
    use crate::authentication::AuthenticationMethod;
    use crate::event::{Actor, Stream};
    use crate::permission::{Permission, Permissions};
    use crate::policy::{ChangePolicy, FingerprintPolicy};
    use crate::role::RoleCommand;
    use crate::session::{RevocationCause, SessionCommand};
    use crate::values::AccountId;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::seconds(seconds) + TimeDelta::microseconds(seconds * 7 % 1_000_000)
    }

    fn recorded(version: u64, event: impl Into<Event>) -> RecordedEvent {
        let event = event.into();
        RecordedEvent {
            position: version * 3,
            id: Uuid::nil(),
            stream: Stream { category: event.category(), id: Uuid::nil() },
            version,
            subject: None,
            actor: Actor::System,
            correlation: Uuid::nil(),
            causation: None,
            policy_version: 1,
            recorded_at: at(version.cast_signed()),
            event_type: "".into(),
            event,
            sealed: vec![],
        }
    }

    fn role(name: &str) -> RoleName {
        RoleName::parse(name).unwrap()
    }

    /// The events of these commands, without those of refused commands.
    fn history<A: Aggregate<Event: Clone + Into<Event>>>(commands: Vec<A::Command>) -> Vec<RecordedEvent> {
        history_of::<A>(commands, |_, command| command)
    }

    fn history_of<A: Aggregate<Event: Clone + Into<Event>>>(
        commands: Vec<A::Command>,
        as_it_stands: fn(&A::State, A::Command) -> A::Command,
    ) -> Vec<RecordedEvent> {
        let (mut state, mut events) = (A::State::default(), Vec::new());
        for command in commands {
            let command = as_it_stands(&state, command);
            for event in A::handle_command(&state, command).unwrap_or_default() {
                state = A::apply_event(state, event.clone());
                events.push(recorded(events.len() as u64 + 1, event));
            }
        }
        events
    }

    fn fold<R: Snapshot>(start: R, events: &[RecordedEvent]) -> R {
        events.iter().cloned().fold(start, R::apply)
    }

    /// Checks that a snapshot stored and read at any version leads to the same result.
    fn check_every_version<R: Snapshot + PartialEq + std::fmt::Debug>(
        events: &[RecordedEvent],
    ) -> Result<(), TestCaseError> {
        let whole = fold(R::default(), events);
        for cut in 0..=events.len() {
            let (before, tail) = events.split_at(cut);
            let text = fold(R::default(), before).to_text().unwrap();
            let read = R::from_text(&text).unwrap();
            prop_assert_eq!(&text, &read.to_text().unwrap());
            prop_assert_eq!(&whole, &fold(read, tail), "cut after {} of {}", cut, events.len());
        }
        Ok(())
    }

    fn account_command() -> impl Strategy<Value = AccountCommand> {
        use PasswordChangeCause::{Expired, Owner, Rehash, Reported, Reset};
        let how = prop::sample::select(vec![Owner, Expired, Rehash, Reset, Reported]);
        let by = prop::sample::select(vec![Initiator::Owner, Initiator::Admin]);
        let name = || prop::sample::select(vec!["admin", "auditor", "support"]).prop_map(role);
        prop_oneof![
            Just(AccountCommand::Register { roles: vec![role("customer")] }),
            Just(AccountCommand::ChangeProfile),
            how.prop_map(|how| AccountCommand::ChangePassword { how }),
            Just(AccountCommand::ExpirePassword),
            Just(AccountCommand::StartEnrolment),
            (0..20_u32).prop_map(|codes| AccountCommand::ConfirmEnrolment { codes, session: None }),
            by.prop_map(|by| AccountCommand::DisableSecondFactor { by }),
            (0..20_u32).prop_map(|count| AccountCommand::IssueRecoveryCodes { count }),
            Just(AccountCommand::UseRecoveryCode),
            name().prop_map(|role| AccountCommand::GrantRole { role }),
            name().prop_map(|role| AccountCommand::RevokeRole { role }),
            Just(AccountCommand::VerifyEmail),
            Just(AccountCommand::Suspend),
            Just(AccountCommand::Reinstate),
        ]
    }

    /// Makes most refresh tokens current ones; otherwise every session would end at once.
    fn with_current_token(state: &SessionState, command: SessionCommand) -> SessionCommand {
        match (command, state) {
            (SessionCommand::Refresh { generation, fingerprint, at, policy }, SessionState::Live(live)) => {
                let generation = if generation < 19 { live.generation } else { generation };
                SessionCommand::Refresh { generation, fingerprint, at, policy }
            }
            (command, _) => command,
        }
    }

    fn session_command() -> impl Strategy<Value = SessionCommand> {
        use FingerprintPolicy::{Record, RequireStepUp, Revoke};
        let action = prop::sample::select(vec![Record, Record, RequireStepUp, Revoke]);
        let who = prop::sample::select(vec!["a", "a", "a", "b"]);
        (0..30_u8, 1..20_u32, 0..5_000_i64, action, who, any::<bool>()).prop_map(
            |(kind, generation, seconds, fingerprint, who, step_up_required)| {
                let policy = crate::policy::SessionPolicy { fingerprint, ..Policy::default().sessions };
                let methods =
                    vec![if step_up_required { AuthenticationMethod::OneTime } else { AuthenticationMethod::Password }];
                let (account, fingerprint) = (AccountId(Uuid::nil()), who.to_owned());
                match kind {
                    0 => SessionCommand::Revoke { by: RevocationCause::Owner },
                    1 | 2 => SessionCommand::Elevate { methods, step_up_required, at: at(seconds), policy },
                    3..24 => SessionCommand::Refresh { generation, fingerprint, at: at(seconds), policy },
                    _ => SessionCommand::Start { account, methods, fingerprint, at: at(0), policy },
                }
            },
        )
    }

    fn role_command() -> impl Strategy<Value = RoleCommand> {
        let some = prop::sample::subsequence(Permission::ALL.to_vec(), 0..5);
        (0..30_u8, some).prop_map(|(kind, permissions)| match kind {
            0 => RoleCommand::Retire { role: role("support") },
            _ => RoleCommand::Define { role: role("support"), permissions: Permissions::of(&permissions) },
        })
    }

    fn policy_command() -> impl Strategy<Value = ChangePolicy> {
        (3..10_u32).prop_map(|threshold| {
            let mut proposed = Policy::default();
            proposed.lockout.threshold = threshold;
            proposed.second_factor.required_for.insert(role("admin"));
            ChangePolicy { initial: Policy::default(), expected_version: None, proposed }
        })
    }

    proptest! {
        #[test]
        fn a_snapshot_may_be_taken_at_any_version(
            accounts in prop::collection::vec(account_command(), 0..60),
            sessions in prop::collection::vec(session_command(), 0..60),
            roles in prop::collection::vec(role_command(), 0..20),
            policies in prop::collection::vec(policy_command(), 0..20),
        ) {
            let register = AccountCommand::Register { roles: vec![] };
            let accounts = std::iter::once(register).chain(accounts).collect();
            check_every_version::<AccountSnapshot>(&history::<Account>(accounts))?;
            check_every_version::<SessionSnapshot>(&history_of::<Session>(sessions, with_current_token))?;
            check_every_version::<RoleSnapshot>(&history::<Role>(roles))?;
            check_every_version::<PolicySnapshot>(&history::<SecurityPolicy>(policies))?;
        }
    }

    #[test]
    fn the_password_is_as_old_as_its_last_change_by_somebody() {
        let changed = |how| AccountEvent::PasswordChanged { how };
        let events = [
            recorded(1, AccountEvent::Registered {}),
            recorded(2, changed(PasswordChangeCause::Owner)),
            recorded(3, AccountEvent::ProfileChanged {}),
            recorded(4, changed(PasswordChangeCause::Rehash)),
        ];
        let record = fold(AccountSnapshot::default(), &events);
        assert_eq!((record.profile_position, record.password_set_at), (Some(9), Some(at(2))));
    }

    /// A change of one of these texts needs another format number. Otherwise this build would misread an earlier
    /// snapshot.
    #[test]
    fn the_text_of_a_format_is_stable() {
        let account = fold(
            AccountSnapshot::default(),
            &history::<Account>(vec![
                AccountCommand::Register { roles: vec![role("customer")] },
                AccountCommand::ExpirePassword,
                AccountCommand::StartEnrolment,
                AccountCommand::ConfirmEnrolment { codes: 10, session: None },
                AccountCommand::VerifyEmail,
            ]),
        );
        assert_eq!(
            (AccountSnapshot::FORMAT, account.to_text().unwrap().as_str()),
            (
                3,
                r#"{"causes":{"intrusion_report":null,"password":3,"password_expiry":9,"second_factor_removal":null,"suspension":null},"password_set_at":"1970-01-01T00:00:01.000007Z","profile_position":3,"state":{"email_verified":true,"enrolment_pending":false,"erased":false,"erasure_completed":false,"erasure_due":null,"password_expired":true,"recovery_codes":10,"registered":true,"roles":["customer"],"second_factor_enabled":true,"suspended":false}}"#
            )
        );

        let policy = || Policy::default().sessions;
        let mut commands = vec![
            SessionCommand::Start {
                account: AccountId(Uuid::nil()),
                methods: vec![AuthenticationMethod::Password],
                fingerprint: "a".into(),
                at: at(0),
                policy: policy(),
            },
            SessionCommand::Refresh { generation: 1, fingerprint: "a".into(), at: at(60), policy: policy() },
        ];
        let live = fold(SessionSnapshot::default(), &history::<Session>(commands.clone()));
        assert_eq!(
            (SessionSnapshot::FORMAT, live.to_text().unwrap().as_str()),
            (
                2,
                r#"{"started_at":"1970-01-01T00:00:01.000007Z","state":{"live":{"account":"00000000-0000-0000-0000-000000000000","expires_at":"1970-01-31T00:00:00Z","fingerprint":"a","generation":2,"grace_until":"1970-01-01T00:01:10.000420Z","idle_expires_at":"1970-01-08T00:01:00.000420Z","methods":["pwd"],"step_up_required":false}}}"#
            )
        );
        commands.push(SessionCommand::Revoke { by: RevocationCause::Owner });
        let ended = fold(SessionSnapshot::default(), &history::<Session>(commands));
        assert_eq!(ended.to_text().unwrap(), r#"{"started_at":"1970-01-01T00:00:01.000007Z","state":"ended"}"#);

        let permissions = Permissions::of(&[Permission::AccountsRead, Permission::AuditRead]);
        let mut commands = vec![RoleCommand::Define { role: role("support"), permissions }];
        let defined = fold(RoleSnapshot::default(), &history::<Role>(commands.clone()));
        let text = r#"{"state":{"defined":["accounts.read","audit.read"]}}"#;
        assert_eq!((RoleSnapshot::FORMAT, defined.to_text().unwrap().as_str()), (1, text));
        commands.push(RoleCommand::Retire { role: role("support") });
        let retired = fold(RoleSnapshot::default(), &history::<Role>(commands));
        assert_eq!(retired.to_text().unwrap(), r#"{"state":"retired"}"#);

        assert_eq!(
            (PolicySnapshot::FORMAT, PolicySnapshot::default().to_text().unwrap().as_str()),
            (3, r#"{"max_age_since":null,"required_since":{},"state":null}"#)
        );
    }

    #[test]
    fn a_text_that_this_build_would_not_write_is_refused() {
        assert!(AccountSnapshot::from_text("{}").is_err());
        let known = AccountSnapshot::default().to_text().unwrap();
        assert!(AccountSnapshot::from_text(&known).is_ok());
        assert!(AccountSnapshot::from_text(&known.replace("\"suspended\"", "\"another\"")).is_err());
        assert!(AccountSnapshot::from_text(&known.replace("{\"causes", "{\"more\":1,\"causes")).is_err());
        assert!(SessionSnapshot::from_text(r#"{"started_at":null,"state":"asleep"}"#).is_err());
    }
}
