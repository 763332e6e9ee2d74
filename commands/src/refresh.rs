//! Refresh: rotation, and the discovery of copies. Tokens are made in `sessions`.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use fulexo_domain::Aggregate;
use fulexo_domain::event::Category;
use fulexo_domain::policy::FingerprintPolicy;
use fulexo_domain::rate_limit::Route;
use fulexo_domain::session::{Live, Session, SessionCommand, SessionError, SessionState};
use fulexo_domain::values::{AccountId, SessionId};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::context::Context;
use crate::error::CommandError;
use crate::execute::{Committed, Idempotency, TRIES};
use crate::log::Expected;
use crate::login::network_facts;
use crate::rate_limit::Payer;
use crate::refresh_token::{Presented, device_of_token};
use crate::sessions::Tokens;
use crate::{Commands, Done};

/// What a refresh came to, as the log remembers it for the same idempotency key.
#[derive(Serialize, Deserialize)]
enum Outcome {
    Refused,
    /// To this generation.
    Refreshed(u32),
}

/// Who refreshes, as far as that is seen.
struct Seen {
    fingerprint: String,
    /// The device of the session, where its token came along.
    device: Option<Uuid>,
}

impl Commands {
    /// The session that a refresh token names, be it authentic or not.
    #[must_use]
    pub fn named_session(refresh_token: &str) -> Option<SessionId> {
        Presented::parse(refresh_token).map(|presented| presented.session)
    }

    /// The session that a refresh token was issued for, and whose it is, as long as it has not ended. Whether the token was
    /// spent is not asked.
    ///
    /// # Errors
    /// The database.
    pub async fn session_of(&self, refresh_token: &str) -> Result<Option<(AccountId, SessionId)>, CommandError> {
        let Some(presented) = Presented::parse(refresh_token) else { return Ok(None) };
        let Some(root) = self.refresh_root(presented.session).await? else { return Ok(None) };
        let is_authentic = presented.is_authentic(&self.vault, &root.secret);
        Ok(is_authentic.then_some((root.account, presented.session)))
    }

    /// Exchanges a refresh token for new tokens. A token that was spent before ends the session: somebody else
    /// holds a copy. The one just spent is answered with its successor for a few seconds (two tabs, a lost answer). From
    /// somewhere that looks different, the policy decides; within these seconds it holds the session at most.
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
        self.spend(Route::AccountRefresh, Payer::Account(root.account), 1)?;
        // A client that says which device it is must be the one that logged in, be it known to the account still or not.
        let device = device.map(|token| device_of_token(&self.vault, root.account, token).unwrap_or_default());
        let fingerprint = self.fingerprint(context, device.unwrap_or(root.device));
        let seen = Seen { fingerprint, device: device.filter(|device| *device == root.device) };
        let idempotency = Idempotency::of(&self.vault, context, "refresh", &[token.as_bytes()]);
        match self.before_with_age(idempotency.as_ref()).await? {
            // Too long ago: a spent token like any other.
            Some((Outcome::Refreshed(_), false)) | None => {}
            Some((Outcome::Refreshed(generation), true)) => {
                // Once the session has moved on, this is a spent token like any other, whatever key comes with it; and
                // so it is for whoever looks different.
                if !self.admission_of(root.account).await?.admitted {
                    return Err(CommandError::LockedDown);
                }
                if self.is_seen_again(context, session, &seen).await?
                    && let Some(done) = self.issue_again(context, session, generation, None).await?
                {
                    return Ok(done);
                }
            }
            Some((Outcome::Refused, _)) => return Err(CommandError::InvalidCredentials),
        }

        let policy = self.current_policy().await?;
        for _ in 0..TRIES {
            let loaded = self.load_session(session).await?;
            let SessionState::Live(live) = &loaded.state else { return Err(CommandError::InvalidCredentials) };
            let looks_alike = self.looks_alike(context, live, &seen).await?;
            let command = SessionCommand::Refresh {
                generation: presented.generation,
                fingerprint: if looks_alike { live.fingerprint.clone() } else { seen.fingerprint.clone() },
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
                // The session is good as long as the account is as it was: whatever takes its sessions away changes it.
                unit.expect(Category::Account, live.account.0, Expected::Exact(loaded.account_version));
            }
            unit.record(session.0, Some(live.account), events)?;
            let outcome = refreshed.map_or(Outcome::Refused, |live| Outcome::Refreshed(live.generation));
            // A spent token that comes with a known key is decided anew, and what it comes to is not remembered.
            let is_rotated = refreshed.is_some_and(|refreshed| refreshed.generation != live.generation);
            let remembered = idempotency.as_ref().filter(|_| is_rotated);
            match self.commit(unit, remembered, outcome).await {
                Ok(Committed::New(Outcome::Refreshed(_), receipt)) => {
                    let position = receipt.position.unwrap_or_default();
                    let live = refreshed.ok_or(CommandError::InvalidCredentials)?;
                    let value = self.issue_live(context, session, live, &loaded, position, &root.secret).await?;
                    return Ok(Done { value, position: Some(position) });
                }
                // Somebody presented the same, with the same key, a moment ago.
                Ok(Committed::Before(Outcome::Refreshed(_)))
                    if !self.is_seen_again(context, session, &seen).await? => {}
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

    /// Whether an outcome from before may be answered once more.
    async fn is_seen_again(&self, context: &Context, session: SessionId, seen: &Seen) -> Result<bool, CommandError> {
        if self.current_policy().await?.sessions.fingerprint == FingerprintPolicy::Record {
            return Ok(true);
        }
        match &self.load_session(session).await?.state {
            SessionState::Live(live) => self.looks_alike(context, live, seen).await,
            SessionState::None | SessionState::Ended => Ok(false),
        }
    }

    /// Whether it is the same browser family on the same device. The token of a device that the account knows says more than
    /// what a browser says of itself.
    async fn looks_alike(&self, context: &Context, live: &Live, seen: &Seen) -> Result<bool, CommandError> {
        if live.fingerprint == seen.fingerprint {
            return Ok(true);
        }
        match seen.device {
            Some(device) => self.knows_device(context, live.account, device).await,
            None => Ok(false),
        }
    }

    /// Who somebody seems to be, without saying who: a keyed digest of the browser family and the device. Languages are
    /// preferences, which a browser may vary or withhold (RFC 9110, section 12.5.4).
    pub(crate) fn fingerprint(&self, context: &Context, device: Uuid) -> String {
        let family = user_agent_family(context.origin.user_agent.as_deref().unwrap_or_default());
        let digest = self.vault.digest("fingerprint", &[family.as_bytes(), device.as_bytes()]);
        URL_SAFE_NO_PAD.encode(digest)
    }
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
