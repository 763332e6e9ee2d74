//! Attempts are counted before they are evaluated, in one statement, so that neither parallel guesses nor several
//! nodes get more of them evaluated than the policy allows.

use chrono::{DateTime, Utc};
use fulexo_domain::authentication::Factor;
use fulexo_domain::lockout::{Lockout, judge};

use crate::Commands;
use crate::error::CommandError;

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
