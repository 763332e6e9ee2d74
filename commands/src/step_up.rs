//! Step-up: whoever is logged in proves themselves once more, and may make sensitive calls for a while. Guesses count as
//! those at login do, under the same lock.

use chrono::{DateTime, Utc};
use fulexo_domain::Aggregate;
use fulexo_domain::authentication::Method;
use fulexo_domain::event::Category;
use fulexo_domain::password::Password;
use fulexo_domain::session::{Session, SessionCommand, SessionEvent};
use fulexo_domain::values::{AccountId, SessionId};

use crate::attempts::Proof;
use crate::context::Context;
use crate::error::CommandError;
use crate::execute::{Committed, TRIES, Unit};
use crate::log::Expected;
use crate::vault::write::VaultWrite;
use crate::{Commands, Done};

impl Commands {
    /// Elevates the session; answers until when.
    ///
    /// # Errors
    /// [`CommandError::InvalidCredentials`] when the password is wrong, which counts as a failed attempt.
    pub async fn step_up(
        &self,
        context: &Context,
        account: AccountId,
        session: SessionId,
        password: Password,
    ) -> Result<Done<DateTime<Utc>>, CommandError> {
        let Proof { profile, found, attempt } = self.prove(context, account, password).await?;
        for _ in 0..TRIES {
            let (state, version) = self.with_same_password(&profile.email, &found).await?;
            if state.suspended {
                return Err(CommandError::InvalidCredentials);
            }
            let loaded = self.load_session(session).await?;
            let command = SessionCommand::Elevate {
                methods: vec![Method::Password],
                at: context.now,
                policy: self.policy.sessions.clone(),
            };
            let events = Session::handle_command(&loaded.state, command)?;
            let Some(SessionEvent::Elevated { until, .. }) = events.first() else {
                return Err(CommandError::Internal("a step-up that elevates nothing".into()));
            };
            let until = *until;
            let mut unit = Unit::new(context, self.policy.version);
            unit.expect(Category::Account, account.0, Expected::Exact(version));
            unit.expect(Category::Session, session.0, Expected::Exact(loaded.version));
            unit.vault(VaultWrite::ClearAttempts { key_hash: attempt.key_hash, factor: attempt.factor });
            unit.record(session.0, Some(account), events)?;
            match self.commit(unit, None, ()).await {
                Ok(Committed::New((), receipt)) => {
                    return Ok(Done { value: until, position: receipt.position });
                }
                Ok(Committed::Before(())) => return self.done_before(until).await,
                Err(CommandError::Contended) => {}
                Err(error) => return Err(error),
            }
        }
        Err(CommandError::Contended)
    }
}
