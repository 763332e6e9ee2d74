//! Sessions after login: refresh, with rotation and the discovery of copies; sign-out of one or of all others.

use chrono::{DateTime, Utc};
use fulexo_domain::Aggregate;
use fulexo_domain::authentication::Method;
use fulexo_domain::event::{Category, Recorded, Stream};
use fulexo_domain::policy::FingerprintPolicy;
use fulexo_domain::session::{Live, RevokedBy, Session, SessionCommand, SessionError, SessionEvent, SessionState};
use fulexo_domain::values::{AccountId, RoleName, SessionId};
use serde::{Deserialize, Serialize};
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::context::Context;
use crate::error::CommandError;
use crate::execute::{Committed, Idempotency, TRIES, Unit};
use crate::log::Expected;
use crate::login::network_facts;
use crate::refresh_token::{Presented, csrf_token, known_device, refresh_token};
use crate::token::Grant;
use crate::vault::crypto::equal;
use crate::{Commands, Done};

/// What a client is given to prove who it is from now on. No `Debug`; wiped when dropped.
pub struct Tokens {
    /// A JWT, good for [`Tokens::expires_in`] seconds.
    pub access_token: Zeroizing<String>,
    /// Good for one use.
    pub refresh_token: Zeroizing<String>,
    /// Seconds.
    pub expires_in: i64,
    /// The session.
    pub session: SessionId,
    /// By which this device is known at the next login; after a login alone.
    pub device_token: Option<Zeroizing<String>>,
}

/// Sessions that end in one append.
const AT_ONCE: i64 = 100;
/// Appends of one sweep at most.
const SWEEPS: usize = 1_000;

/// A change that ends all sessions of an account that it finds, as the log remembers it for the same idempotency key.
#[derive(Serialize, Deserialize)]
pub(crate) struct SignedOut {
    pub account: AccountId,
    /// What the account's stream was at before; none if the change did nothing to the account.
    pub version: u64,
}

/// All that tokens are made of.
pub(crate) struct Issue {
    pub account: AccountId,
    pub session: SessionId,
    pub generation: u32,
    pub authenticated_at: DateTime<Utc>,
    pub methods: Vec<Method>,
    /// Whether its owner must prove themselves first.
    pub held: bool,
    pub roles: Vec<RoleName>,
    pub position: u64,
    pub session_ends_at: DateTime<Utc>,
}

/// What the vault keeps of a live session.
struct Root {
    account: AccountId,
    device: Uuid,
    /// What its refresh tokens are derived from.
    secret: Zeroizing<Vec<u8>>,
}

/// A session as the log has it.
pub(crate) struct Loaded {
    pub state: SessionState,
    pub version: u64,
    pub started_at: DateTime<Utc>,
    pub last_position: u64,
}

/// What a refresh came to, as the log remembers it for the same idempotency key.
#[derive(Serialize, Deserialize)]
enum Outcome {
    Refused,
    /// To this generation.
    Refreshed(u32),
}

impl Commands {
    /// What the page of a session in cookie mode is told, to say it with whatever changes something.
    #[must_use]
    pub fn csrf_token(&self, session: SessionId) -> String {
        csrf_token(&self.vault, session)
    }

    /// Whether this is what the page of the session was told.
    #[must_use]
    pub fn is_csrf_token(&self, session: SessionId, presented: &[u8]) -> bool {
        equal(self.csrf_token(session).as_bytes(), presented)
    }

    /// The session that a refresh token names, be it authentic or not.
    #[must_use]
    pub fn named_session(refresh_token: &str) -> Option<SessionId> {
        Presented::parse(refresh_token).map(|presented| presented.session)
    }

    /// Exchanges a refresh token for new tokens. A token that was spent before ends the session: somebody else
    /// holds a copy. The one just spent is answered with its successor for a few seconds (two tabs, a lost answer). From
    /// somewhere that looks different, the policy decides.
    ///
    /// # Errors
    /// [`CommandError::InvalidCredentials`], whatever is wrong with the token; [`CommandError::LockedDown`] for one that is
    /// good, during a lockdown.
    pub async fn refresh(
        &self,
        context: &Context,
        token: &str,
        device: Option<&str>,
    ) -> Result<Done<Tokens>, CommandError> {
        let presented = Presented::parse(token).ok_or(CommandError::InvalidCredentials)?;
        let session = presented.session;
        let root = self.refresh_root(session).await?.ok_or(CommandError::InvalidCredentials)?;
        if !presented.is_authentic(&self.vault, &root.secret) {
            return Err(CommandError::InvalidCredentials);
        }
        // A client that says which device it is must be the one that logged in.
        let device =
            device.map_or(root.device, |token| known_device(&self.vault, root.account, token).unwrap_or_default());
        let fingerprint = self.fingerprint(context, device);
        let idempotency = Idempotency::of(&self.vault, context, "refresh", &[token.as_bytes()]);
        match self.before(idempotency.as_ref()).await? {
            Some(Outcome::Refreshed(generation)) => {
                // Once the session has moved on, this is a spent token like any other, whatever key comes with it; and
                // so it is for whoever looks different.
                if !self.admission_of(root.account).await?.admitted {
                    return Err(CommandError::LockedDown);
                }
                if self.looks_like(session, &fingerprint).await?
                    && let Some(done) = self.issue_again(context, session, generation, None).await?
                {
                    return Ok(done);
                }
            }
            Some(Outcome::Refused) => return Err(CommandError::InvalidCredentials),
            None => {}
        }

        let policy = self.current_policy().await?;
        for _ in 0..TRIES {
            let loaded = self.load_session(session).await?;
            let SessionState::Live(live) = &loaded.state else { return Err(CommandError::InvalidCredentials) };
            let command = SessionCommand::Refresh {
                generation: presented.generation,
                fingerprint: fingerprint.clone(),
                at: context.now,
                policy: policy.sessions.clone(),
            };
            let events = match Session::handle_command(&loaded.state, command) {
                Ok(events) => events,
                Err(SessionError::Ended | SessionError::AlreadyStarted) => {
                    return Err(CommandError::InvalidCredentials);
                }
            };
            let after = events.iter().cloned().fold(loaded.state.clone(), Session::apply_event);
            let refreshed = match &after {
                SessionState::Live(live) => Some(live),
                SessionState::None | SessionState::Ended => None,
            };
            let admission = self.admission_of(live.account).await?;
            if refreshed.is_some() && !admission.admitted {
                return Err(CommandError::LockedDown);
            }
            if events.is_empty() {
                let position = loaded.last_position;
                let value = self.issue_live(context, session, live, &loaded, position, &root.secret).await?;
                return Ok(Done { value, position: Some(position) });
            }

            let acting = context.acting_as(live.account);
            let sealing = self.vault.subject_key(live.account).await?.map(|key| (key, network_facts(context)));
            let mut unit = self.unit(&acting).sealing(sealing);
            unit.expect(Category::Session, session.0, Expected::Exact(loaded.version));
            if refreshed.is_some() {
                admission.rest(&mut unit);
            }
            unit.record(session.0, Some(live.account), events)?;
            let outcome = refreshed.map_or(Outcome::Refused, |live| Outcome::Refreshed(live.generation));
            // A spent token that comes with a known key is decided anew, and what it comes to is not remembered.
            let remembered = idempotency.as_ref().filter(|_| refreshed.is_some());
            match self.commit(unit, remembered, outcome).await {
                Ok(Committed::New(Outcome::Refreshed(_), receipt)) => {
                    let position = receipt.position.unwrap_or_default();
                    let live = refreshed.ok_or(CommandError::InvalidCredentials)?;
                    let value = self.issue_live(context, session, live, &loaded, position, &root.secret).await?;
                    return Ok(Done { value, position: Some(position) });
                }
                // Somebody presented the same, with the same key, a moment ago.
                Ok(Committed::Before(Outcome::Refreshed(_))) if !self.looks_like(session, &fingerprint).await? => {}
                Ok(Committed::Before(Outcome::Refreshed(generation))) => {
                    let again = self.issue_again(context, session, generation, None).await?;
                    return again.ok_or(CommandError::InvalidCredentials);
                }
                Ok(Committed::New(Outcome::Refused, _) | Committed::Before(Outcome::Refused)) => {
                    return Err(CommandError::InvalidCredentials);
                }
                // Another tab was faster; what it did decides what this one gets.
                Err(CommandError::Contended) => {}
                Err(error) => return Err(error),
            }
        }
        Err(CommandError::Contended)
    }

    async fn looks_like(&self, session: SessionId, fingerprint: &str) -> Result<bool, CommandError> {
        let indifferent = self.current_policy().await?.sessions.fingerprint == FingerprintPolicy::Record;
        let loaded = self.load_session(session).await?;
        Ok(indifferent || matches!(&loaded.state, SessionState::Live(live) if live.fingerprint == fingerprint))
    }

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
        // The change itself; where it changed nothing about the account (a password that had expired before), no session
        // starts before something else does. A login that was under way when it was made found the account changed.
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

    /// The answer to a command that was made before under the same idempotency key: tokens of the generation that it
    /// gave, as long as that is the current one.
    pub(crate) async fn issue_again(
        &self,
        context: &Context,
        session: SessionId,
        generation: u32,
        device_token: Option<String>,
    ) -> Result<Option<Done<Tokens>>, CommandError> {
        let Some(root) = self.refresh_root(session).await? else { return Ok(None) };
        let loaded = self.load_session(session).await?;
        let SessionState::Live(live) = &loaded.state else { return Ok(None) };
        if live.generation != generation {
            return Ok(None);
        }
        let position = loaded.last_position;
        let mut value = self.issue_live(context, session, live, &loaded, position, &root.secret).await?;
        value.device_token = device_token.map(Zeroizing::new);
        Ok(Some(Done { value, position: Some(position) }))
    }

    async fn issue_live(
        &self,
        context: &Context,
        session: SessionId,
        live: &Live,
        loaded: &Loaded,
        position: u64,
        root: &[u8],
    ) -> Result<Tokens, CommandError> {
        let (account, _) = self.account_state(live.account).await?;
        let issue = Issue {
            account: live.account,
            session,
            generation: live.generation,
            authenticated_at: loaded.started_at,
            methods: live.methods.clone(),
            held: live.held,
            roles: account.roles.into_iter().collect(),
            position,
            session_ends_at: live.expires_at,
        };
        self.issue(context, issue, root, None)
    }

    pub(crate) fn issue(
        &self,
        context: &Context,
        issue: Issue,
        root: &[u8],
        device_token: Option<String>,
    ) -> Result<Tokens, CommandError> {
        let Issue { account, session, generation, authenticated_at, methods, held, roles, position, session_ends_at } =
            issue;
        // No token outlives its session.
        let expires_at = (context.now + self.keys.lifetime()).min(session_ends_at);
        let epoch = self.epoch;
        let grant = Grant { account, session, authenticated_at, methods, held, roles, position, epoch, expires_at };
        let access_token = self
            .keys
            .sign(grant, context.new_id(), context.now)
            .map_err(|error| CommandError::Internal(format!("cannot sign an access token: {error}")))?;
        Ok(Tokens {
            access_token: Zeroizing::new(access_token),
            refresh_token: Zeroizing::new(refresh_token(&self.vault, root, session, generation)),
            expires_in: (expires_at - context.now).num_seconds(),
            session,
            device_token: device_token.map(Zeroizing::new),
        })
    }

    /// Who somebody seems to be, without saying who: a keyed digest of the browser family, the languages, the device.
    pub(crate) fn fingerprint(&self, context: &Context, device: Uuid) -> String {
        use base64::Engine;
        let family = user_agent_family(context.origin.user_agent.as_deref().unwrap_or_default());
        let languages = context.origin.accept_language.as_deref().unwrap_or_default();
        let digest = self.vault.digest("fingerprint", &[family.as_bytes(), languages.as_bytes(), device.as_bytes()]);
        base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(digest)
    }

    async fn refresh_root(&self, session: SessionId) -> Result<Option<Root>, CommandError> {
        let row =
            sqlx::query!("select account_id, device, root from vault.refresh_root where session_id = $1", session.0)
                .fetch_optional(&self.pool)
                .await?;
        Ok(row.map(|row| Root {
            account: AccountId(row.account_id),
            device: row.device,
            secret: Zeroizing::new(row.root),
        }))
    }

    /// The device that a live session was started on.
    pub(crate) async fn device_of(&self, session: SessionId) -> Result<Uuid, CommandError> {
        Ok(self.refresh_root(session).await?.ok_or(SessionError::Ended)?.device)
    }

    async fn session_belongs_to(&self, session: SessionId, account: AccountId) -> Result<bool, CommandError> {
        let owner = sqlx::query_scalar!("select account_id from access.session where session_id = $1", session.0)
            .fetch_optional(&self.pool)
            .await?;
        Ok(owner == Some(account.0))
    }

    pub(crate) async fn load_session(&self, session: SessionId) -> Result<Loaded, CommandError> {
        let events = self.log.load(Stream { category: Category::Session, id: session.0 }).await?;
        let first = events.first().map_or(DateTime::UNIX_EPOCH, |event| event.recorded_at);
        let last = events.last().map_or((0, 0), |event| (event.version, event.position));
        Ok(Loaded { state: fold(events), version: last.0, started_at: first, last_position: last.1 })
    }
}

fn fold(events: Vec<Recorded>) -> SessionState {
    let events = events.into_iter().filter_map(|recorded| recorded.event.try_into().ok());
    events.fold(SessionState::None, Session::apply_event)
}

/// The product that a user agent names, without its version: an update of the browser is not another browser.
fn user_agent_family(user_agent: &str) -> &str {
    const FAMILIES: [&str; 5] = ["Edg", "OPR", "Firefox", "Chrome", "Safari"];
    FAMILIES
        .into_iter()
        .find(|family| user_agent.contains(family))
        .unwrap_or_else(|| user_agent.split(['/', ' ']).next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_update_of_the_browser_is_not_another_browser() {
        let chrome = |version| {
            format!("Mozilla/5.0 (X11) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/{version} Safari/537.36")
        };
        assert_eq!(user_agent_family(&chrome("120.0")), user_agent_family(&chrome("121.0")));
        assert_eq!(user_agent_family("curl/8.1"), "curl");
        assert_eq!(user_agent_family(""), "");
    }
}
