//! How sessions end before their time: one of the caller's own, all others, all of an account.

use fulexo_domain::Aggregate;
use fulexo_domain::event::Category;
use fulexo_domain::session::{RevokedBy, Session, SessionCommand, SessionError, SessionEvent, SessionState};
use fulexo_domain::values::{AccountId, SessionId};
use serde::{Deserialize, Serialize};
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

/// A change that ends all sessions of an account, as the log remembers it for the same idempotency key.
#[derive(Serialize, Deserialize)]
pub(crate) struct SignedOut {
    pub account: AccountId,
    /// What the account's stream was at before it.
    pub version: u64,
}

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
        self.sweep_before(context, account, but, by, None).await
    }

    /// The same, of sessions that were started before this position, if there is one.
    async fn sweep_before(
        &self,
        context: &Context,
        account: AccountId,
        but: Option<SessionId>,
        by: RevokedBy,
        before: Option<i64>,
    ) -> Result<Done<usize>, CommandError> {
        let mut done = Done { value: 0, position: None };
        // Sessions that are started meanwhile, rightly, would keep it going for ever.
        for _ in 0..SWEEPS {
            let mut unit = self.unit(context);
            let ended = self.end_before(&mut unit, account, but, by, before).await?;
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

    /// Ends what is left of the sessions that a change ends, but one; also when it was made before under the same
    /// idempotency key, for the sweep after it may have failed. What was started since is none of its business.
    pub(crate) async fn then_sign_out(
        &self,
        context: &Context,
        but: Option<SessionId>,
        by: RevokedBy,
        decided: Committed<SignedOut>,
    ) -> Result<Done<()>, CommandError> {
        let (SignedOut { account, version }, position) = match decided {
            Committed::New(signed_out, receipt) => (signed_out, receipt.position),
            Committed::Before(signed_out) => (signed_out, self.done_before(()).await?.position),
        };
        // Where the change stands: a login that was under way has started its session before it, or finds the account
        // changed. If it changed nothing about the account (a password that had expired before), no session starts before
        // something else does.
        let changed = sqlx::query_scalar!(
            "select position from log.event where stream_id = $1 and category = 'account' and version = $2",
            account.0,
            i64::try_from(version).unwrap_or(i64::MAX).saturating_add(1)
        )
        .fetch_optional(&self.pool)
        .await?;
        let swept = self.sweep_before(context, account, but, by, changed).await?;
        Ok(Done { value: (), position: swept.position.or(position) })
    }

    /// Adds the end of live sessions to an append, of as many as go into one; answers of how many.
    pub(crate) async fn end_in(
        &self,
        unit: &mut Unit<'_>,
        account: AccountId,
        but: Option<SessionId>,
        by: RevokedBy,
    ) -> Result<usize, CommandError> {
        self.end_before(unit, account, but, by, None).await
    }

    async fn end_before(
        &self,
        unit: &mut Unit<'_>,
        account: AccountId,
        but: Option<SessionId>,
        by: RevokedBy,
        before: Option<i64>,
    ) -> Result<usize, CommandError> {
        let live = sqlx::query_scalar!(
            "select session_id from access.session
             where account_id = $1 and ended_at is null and session_id is distinct from $2
                 and ($4::bigint is null or started_position < $4)
             limit $3",
            account.0,
            but.map(|but| but.0),
            AT_ONCE,
            before
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
