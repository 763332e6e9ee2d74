//! How sessions end before their time: one of the caller's own, all others, all of an account.

use fulexo_domain::Aggregate;
use fulexo_domain::event::Category;
use fulexo_domain::session::{RevokedBy, Session, SessionCommand, SessionError, SessionEvent, SessionState};
use fulexo_domain::values::{AccountId, SessionId};
use uuid::Uuid;

use crate::context::Context;
use crate::error::CommandError;
use crate::execute::{Committed, Idempotency, TRIES, Unit};
use crate::log::Expected;
use crate::{Commands, Done};

/// Sessions that end in one append.
const AT_ONCE: i64 = 100;
/// Appends of one sweep at most.
const SWEEPS: usize = 1_000;

impl Commands {
    /// Ends one of the caller's own sessions.
    ///
    /// # Errors
    /// [`SessionError::Ended`] when there is no such session, or it is somebody else's.
    pub async fn end_own_session(
        &self,
        context: &Context,
        account: AccountId,
        session: SessionId,
    ) -> Result<Done<()>, CommandError> {
        for _ in 0..TRIES {
            let loaded = self.load_session(session).await?;
            match &loaded.state {
                SessionState::Live(live) if live.account == account => {}
                // Ended by somebody else in the meantime, or never the caller's: the latter must look like nothing.
                SessionState::Ended if self.session_belongs_to(session, account).await? => {
                    return Ok(Done { value: (), position: Some(loaded.last_position) });
                }
                SessionState::Live(_) | SessionState::Ended | SessionState::None => {
                    return Err(SessionError::Ended.into());
                }
            }
            let command = SessionCommand::Revoke { by: RevokedBy::Owner };
            let events = Session::handle_command(&loaded.state, command)?;
            let mut unit = self.unit(context);
            unit.expect(Category::Session, session.0, Expected::Exact(loaded.version));
            unit.record(session.0, Some(account), events)?;
            match self.commit(unit, None, ()).await {
                Ok(Committed::New((), receipt)) => return Ok(Done { value: (), position: receipt.position }),
                Ok(Committed::Before(())) => return Ok(Done { value: (), position: None }),
                Err(CommandError::Contended) => {}
                Err(error) => return Err(error),
            }
        }
        Err(CommandError::Contended)
    }

    /// Ends every other session of the caller.
    ///
    /// # Errors
    /// See [`CommandError`].
    pub async fn end_other_sessions(
        &self,
        context: &Context,
        account: AccountId,
        but: SessionId,
    ) -> Result<Done<usize>, CommandError> {
        self.sweep_once(context, "end_other_sessions", account, Some(but), RevokedBy::Owner).await
    }

    /// A sweep that is not made again under the same idempotency key: what began since is none of its business.
    pub(crate) async fn sweep_once(
        &self,
        context: &Context,
        operation: &str,
        account: AccountId,
        but: Option<SessionId>,
        by: RevokedBy,
    ) -> Result<Done<usize>, CommandError> {
        let kept = but.map_or(Uuid::nil(), |but| but.0);
        let content = [account.0.as_bytes().as_slice(), kept.as_bytes()];
        let idempotency = Idempotency::of(&self.vault, context, operation, &content);
        if let Some(value) = self.before(idempotency.as_ref()).await? {
            return self.done_before(value).await;
        }
        let done = self.sweep_sessions(context, account, but, by).await?;
        if idempotency.is_some() {
            // After the sweep, which is several appends: whoever asks again before that ends what is left.
            let unit = self.unit(context);
            if let Committed::Before(value) = self.commit(unit, idempotency.as_ref(), done.value).await? {
                return Ok(Done { value, ..done });
            }
        }
        Ok(done)
    }

    /// Ends every session of an account but one, a batch at a time until none is left.
    pub(crate) async fn sweep_sessions(
        &self,
        context: &Context,
        account: AccountId,
        but: Option<SessionId>,
        by: RevokedBy,
    ) -> Result<Done<usize>, CommandError> {
        let mut done = Done { value: 0, position: None };
        // Sessions that are started meanwhile, rightly, would keep it going for ever.
        for _ in 0..SWEEPS {
            let mut unit = self.unit(context);
            let ended = self.end_in(&mut unit, account, but, by).await?;
            if ended == 0 {
                break;
            }
            if let Committed::New((), receipt) = self.commit(unit, None, ()).await? {
                done.position = receipt.position.or(done.position);
                done.value += ended;
            }
        }
        Ok(done)
    }

    /// Ends what is left of an account's sessions after a change that ends them all; not again after one made before.
    pub(crate) async fn then_sign_out(
        &self,
        context: &Context,
        account: AccountId,
        by: RevokedBy,
        decided: Committed<()>,
    ) -> Result<Done<()>, CommandError> {
        let Committed::New((), receipt) = decided else { return self.done_before(()).await };
        let swept = self.sweep_sessions(context, account, None, by).await?;
        Ok(Done { value: (), position: swept.position.or(receipt.position) })
    }

    /// Adds the end of live sessions to an append, of as many as go into one; answers of how many.
    pub(crate) async fn end_in(
        &self,
        unit: &mut Unit<'_>,
        account: AccountId,
        but: Option<SessionId>,
        by: RevokedBy,
    ) -> Result<usize, CommandError> {
        let live = sqlx::query_scalar!(
            "select session_id from access.session
             where account_id = $1 and ended_at is null and session_id is distinct from $2
             limit $3",
            account.0,
            but.map(|but| but.0),
            AT_ONCE
        )
        .fetch_all(&self.pool)
        .await?;
        for session in &live {
            // Ending one that has ended in the meantime is harmless, so no version is asked for.
            unit.expect(Category::Session, *session, Expected::Any);
            unit.record(*session, Some(account), [SessionEvent::Revoked { by }])?;
        }
        Ok(live.len())
    }

    async fn session_belongs_to(&self, session: SessionId, account: AccountId) -> Result<bool, CommandError> {
        let owner = sqlx::query_scalar!("select account_id from access.session where session_id = $1", session.0)
            .fetch_optional(&self.pool)
            .await?;
        Ok(owner == Some(account.0))
    }
}
