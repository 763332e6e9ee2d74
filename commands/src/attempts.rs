//! An attempt, from its count to its refusal. It is counted before it is evaluated, in one statement, so that neither
//! parallel guesses nor several nodes get more of them evaluated than the policy allows.
//!
//! Whoever asks for a password asks here: login, step-up, change of password.

use chrono::{DateTime, Utc};
use fulexo_domain::Aggregate;
use fulexo_domain::authentication::{Attempt, Authentication, AuthenticationEvent, Factor, Verdict};
use fulexo_domain::lockout::{Lockout, judge};
use fulexo_domain::password::Password;
use fulexo_domain::values::AccountId;
use uuid::Uuid;

use crate::Commands;
use crate::accounts::Profile;
use crate::context::Context;
use crate::error::CommandError;
use crate::execute::Unit;
use crate::login::{Found, network_facts};
use crate::password_hash::Place;
use crate::vault::write::VaultWrite;

/// An attempt that was counted.
pub(crate) struct Reserved {
    pub key_hash: [u8; 32],
    pub factor: &'static str,
    /// Its number in the window.
    pub number: u32,
    /// Locks in a row so far.
    pub locks: u32,
    pub lockout: Lockout,
}

/// A right password, and whose it is.
pub(crate) struct Proof {
    pub profile: Profile,
    pub found: Found,
    pub attempt: Reserved,
}

impl Reserved {
    /// What to say of an attempt that was not right.
    pub fn verdict(&self, found: Option<&Found>) -> Verdict {
        match (found, self.lockout) {
            (_, Lockout::Locked { .. }) => Verdict::Locked,
            (None, Lockout::Open) => Verdict::UnknownAccount,
            (Some(_), Lockout::Open) => Verdict::Wrong { failures: self.number, locks: self.locks },
        }
    }
}

pub(crate) const fn name(factor: Factor) -> &'static str {
    match factor {
        Factor::Password => "password",
    }
}

impl Commands {
    /// What attempts on this subject are counted under.
    pub(crate) fn attempt_key(&self, subject: &str) -> [u8; 32] {
        self.vault.digest("attempt", &[subject.as_bytes()])
    }

    /// Counts an attempt on whatever `subject` names, registered or not.
    pub(crate) async fn reserve_attempt(
        &self,
        subject: &str,
        factor: Factor,
        now: DateTime<Utc>,
    ) -> Result<Reserved, CommandError> {
        let key_hash = self.attempt_key(subject);
        let factor = name(factor);
        let policy = &self.policy.lockout;
        // While a lock holds nothing is counted; the first attempt after it, or after the window, starts anew. The
        // count stops one above the threshold: more would say nothing.
        let row = sqlx::query!(
            r#"insert into vault.attempt as a (key_hash, factor, attempts, window_ends_at, locks)
               values ($1, $2, 1, $4, 0)
               on conflict on constraint attempt_pkey do update set
                   attempts = case when a.locked_until > $3 then a.attempts
                                   when a.locked_until is not null or a.window_ends_at <= $3 then 1
                                   else least(a.attempts + 1, $5 + 1) end,
                   window_ends_at = case when a.locked_until > $3 then a.window_ends_at
                                         when a.locked_until is not null or a.window_ends_at <= $3 then $4
                                         else a.window_ends_at end,
                   locked_until = case when a.locked_until > $3 then a.locked_until end
               returning attempts, locked_until, locks"#,
            key_hash.as_slice(),
            factor,
            now,
            now + policy.window,
            i32::try_from(policy.threshold).unwrap_or(i32::MAX - 1)
        )
        .fetch_one(&self.pool)
        .await?;
        let number = row.attempts.unsigned_abs();
        Ok(Reserved {
            key_hash,
            factor,
            number,
            locks: row.locks.unsigned_abs(),
            lockout: judge(number, row.locked_until, now, policy),
        })
    }

    /// Whether the password is right; a hash is computed in any case, and of a locked account it says nothing.
    pub(crate) async fn evaluate(
        &self,
        password: Password,
        found: Option<&Found>,
        attempt: &Reserved,
        place: Place,
    ) -> Result<bool, CommandError> {
        let verifier = match attempt.lockout {
            Lockout::Open => found.map(|found| found.verifier.clone()),
            Lockout::Locked { .. } => None,
        };
        self.hasher.verify(password, verifier, place).await.map_err(|_| CommandError::Overloaded)
    }

    /// The append that records a refusal, and the lock that it may lead to.
    pub(crate) async fn refusal<'a>(
        &self,
        context: &'a Context,
        found: Option<&Found>,
        verdict: Verdict,
        attempt: &Reserved,
    ) -> Result<Unit<'a>, CommandError> {
        // Facts about nobody in particular are sealed under the key of the month.
        let key = match found {
            Some(found) => found.key.clone(),
            None => self.vault.period_key(context.now).await?,
        };
        let mut unit = Unit::new(context, self.policy.version).sealing(Some((key, network_facts(context))));
        let events = self.decide_attempt(verdict, context.now);
        for event in &events {
            if let AuthenticationEvent::LockedOut { until, nth, .. } = event {
                let (key_hash, factor) = (attempt.key_hash, attempt.factor);
                unit.vault(VaultWrite::Lock { key_hash, factor, until: *until, nth: *nth });
            }
        }
        let account = found.map(|found| found.account);
        unit.record(account.map_or(Uuid::nil(), |account| account.0), account, events)?;
        Ok(unit)
    }

    pub(crate) fn decide_attempt(&self, verdict: Verdict, at: DateTime<Utc>) -> Vec<AuthenticationEvent> {
        let attempt = Attempt { factor: Factor::Password, verdict, at, policy: self.policy.lockout.clone() };
        let Ok(events) = Authentication::handle_command(&(), attempt);
        events
    }

    /// Whoever is logged in proves themselves by their password once more.
    ///
    /// # Errors
    /// [`CommandError::InvalidCredentials`] when it is wrong or not evaluated, which is recorded.
    pub(crate) async fn prove(
        &self,
        context: &Context,
        account: AccountId,
        password: Password,
    ) -> Result<Proof, CommandError> {
        let place = self.hasher.place().map_err(|_| CommandError::Overloaded)?;
        let profile = self.profile(account).await?.ok_or(CommandError::InvalidCredentials)?;
        let found = self.find_by_email(&profile.email).await?.ok_or(CommandError::InvalidCredentials)?;
        let attempt = self.reserve_attempt(&profile.email.normalised(), Factor::Password, context.now).await?;
        if !self.evaluate(password, Some(&found), &attempt, place).await? {
            let refusal = self.refusal(context, Some(&found), attempt.verdict(Some(&found)), &attempt).await?;
            self.commit(refusal, None, ()).await?;
            return Err(CommandError::InvalidCredentials);
        }
        Ok(Proof { profile, found, attempt })
    }

    /// It was none, after all: what was counted no longer counts.
    pub(crate) async fn forget_attempts(&self, attempt: &Reserved) -> Result<(), CommandError> {
        sqlx::query!(
            "delete from vault.attempt where key_hash = $1 and factor = $2",
            attempt.key_hash.as_slice(),
            attempt.factor
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }
}
