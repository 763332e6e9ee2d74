//! The judgement of a login whose factors are right: the obstacles between it and a session, in the order in which it
//! meets them. A login stops at the first one; the standing of an account names them all.
//!
//! Locks are not among them: a locked factor is never evaluated (`lockout`).

use chrono::{DateTime, TimeDelta, Utc};

use crate::account::AccountState;
use crate::policy::Policy;

/// The facts by which a login is judged.
#[derive(Debug, Clone, Copy)]
pub struct LoginFacts<'a> {
    /// The account.
    pub account: &'a AccountState,
    /// The time at which the password was set.
    pub password_set_at: DateTime<Utc>,
    /// `true` if no lockdown is in force, or the account may respond to it.
    pub is_admitted: bool,
    /// `true` if a code of the second factor was presented.
    pub has_code: bool,
    /// The policy in force.
    pub policy: &'a Policy,
    /// The current time.
    pub now: DateTime<Utc>,
}

/// An obstacle between the right factors and a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoginObstacle {
    /// The account is suspended. The login is refused.
    Suspended,
    /// A lockdown excludes the account. The login is refused.
    LockedDown,
    /// The login continues with a code of the second factor.
    CodeMissing,
    /// An administrator expired the password. The login continues with a change of it.
    PasswordExpired,
    /// The password is older than the policy allows. The login continues with a change of it.
    PasswordOutdated {
        /// The time at which it reached that age.
        since: DateTime<Utc>,
    },
    /// A role of the account requires a second factor, and there is none. The login continues with an enrolment.
    EnrolmentMissing,
}

impl<'a> LoginFacts<'a> {
    /// The obstacles, in order.
    pub fn obstacles(self) -> impl Iterator<Item = LoginObstacle> + use<'a> {
        let Self { account, is_admitted, has_code, .. } = self;
        let outdated_since = self.password_outdated_since();
        [
            account.suspended.then_some(LoginObstacle::Suspended),
            (!is_admitted).then_some(LoginObstacle::LockedDown),
            (account.second_factor_enabled && !has_code).then_some(LoginObstacle::CodeMissing),
            account.password_expired.then_some(LoginObstacle::PasswordExpired),
            outdated_since.map(|since| LoginObstacle::PasswordOutdated { since }),
            self.lacks_required_factor().then_some(LoginObstacle::EnrolmentMissing),
        ]
        .into_iter()
        .flatten()
    }

    /// The time at which the password became older than the policy allows, if it is.
    fn password_outdated_since(self) -> Option<DateTime<Utc>> {
        let age = TimeDelta::days(i64::from(self.policy.passwords.max_age_days?));
        (self.now - self.password_set_at > age).then(|| self.password_set_at + age)
    }

    fn lacks_required_factor(self) -> bool {
        let required = &self.policy.second_factor.required_for;
        !self.account.second_factor_enabled && self.account.roles.iter().any(|role| required.contains(role))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::values::RoleName;

    fn at(days: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::days(days)
    }

    fn obstacles(account: &AccountState, policy: &Policy, is_admitted: bool, has_code: bool) -> Vec<LoginObstacle> {
        LoginFacts { account, password_set_at: at(0), is_admitted, has_code, policy, now: at(31) }.obstacles().collect()
    }

    fn strict() -> Policy {
        let mut policy = Policy::default();
        policy.passwords.max_age_days = Some(30);
        policy.second_factor.required_for.insert(RoleName::parse("auditor").unwrap());
        policy
    }

    #[test]
    fn an_account_without_obstacles_logs_in() {
        let account = AccountState { registered: true, ..AccountState::default() };
        assert_eq!(obstacles(&account, &Policy::default(), true, false), []);
    }

    #[test]
    fn all_obstacles_are_named_in_the_order_in_which_a_login_meets_them() {
        let account = AccountState {
            registered: true,
            suspended: true,
            password_expired: true,
            roles: [RoleName::parse("auditor").unwrap()].into(),
            ..AccountState::default()
        };
        let outdated = LoginObstacle::PasswordOutdated { since: at(30) };
        let (expired, missing) = (LoginObstacle::PasswordExpired, LoginObstacle::EnrolmentMissing);
        assert_eq!(
            obstacles(&account, &strict(), false, false),
            [LoginObstacle::Suspended, LoginObstacle::LockedDown, expired, outdated, missing]
        );
        let enrolled = AccountState { second_factor_enabled: true, suspended: false, ..account };
        assert_eq!(obstacles(&enrolled, &strict(), true, false), [LoginObstacle::CodeMissing, expired, outdated]);
        assert_eq!(obstacles(&enrolled, &strict(), true, true), [expired, outdated]);
    }

    #[test]
    fn a_password_of_exactly_the_maximum_age_is_not_outdated() {
        let account = AccountState { registered: true, ..AccountState::default() };
        let policy = strict();
        let facts = LoginFacts {
            account: &account,
            password_set_at: at(0),
            is_admitted: true,
            has_code: false,
            policy: &policy,
            now: at(30),
        };
        assert_eq!(facts.obstacles().next(), None);
        let later = LoginFacts { now: at(30) + TimeDelta::microseconds(1), ..facts };
        assert_eq!(later.obstacles().next(), Some(LoginObstacle::PasswordOutdated { since: at(30) }));
    }
}
