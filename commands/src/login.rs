//! Logging in: one attempt is counted, one hash is computed, one decision is recorded. Whoever is refused learns
//! nothing from the answer, its size or its time.

use fulexo_domain::Aggregate;
use fulexo_domain::account::AccountState;
use fulexo_domain::authentication::{Factor, Method, Verdict};
use fulexo_domain::event::{Actor, Category, Field};
use fulexo_domain::password::Password;
use fulexo_domain::session::{Session, SessionCommand, SessionEvent, SessionState};
use fulexo_domain::values::{AccountId, EmailAddress, SessionId};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::attempts::Reserved;
use crate::context::Context;
use crate::error::CommandError;
use crate::execute::{Committed, Idempotency, TRIES, Unit};
use crate::log::Expected;
use crate::password_hash::Verifier;
use crate::refresh_token::{device_token, known_device};
use crate::sessions::{Issue, Tokens};
use crate::vault::crypto::random_bytes;
use crate::vault::write::VaultWrite;
use crate::vault::{Personal, SubjectKey};
use crate::{Commands, Done};

/// What somebody presents to log in.
pub struct Credentials {
    /// Who they say they are.
    pub email: EmailAddress,
    /// What they say proves it.
    pub password: Password,
    /// What this device was given at an earlier login.
    pub device_token: Option<String>,
}

/// An account found by its address, with all that a login needs of it.
pub(crate) struct Found {
    pub account: AccountId,
    /// The account's version that the verifier belongs to.
    pub version: u64,
    pub key: SubjectKey,
    pub verifier: Verifier,
}

/// What a login came to, as the log remembers it for the same idempotency key.
#[derive(Serialize, Deserialize)]
enum Outcome {
    Refused,
    Started { account: AccountId, session: SessionId, device: Uuid },
}

impl Commands {
    /// Logs in and starts a session.
    ///
    /// # Errors
    /// [`CommandError::InvalidCredentials`] for every refusal, which is recorded with its reason;
    /// [`CommandError::Overloaded`] before anything is counted, when too many wait for a hash.
    pub async fn login(&self, context: &Context, credentials: Credentials) -> Result<Done<Tokens>, CommandError> {
        let email = credentials.email.normalised();
        let device_token = credentials.device_token.as_deref().unwrap_or_default();
        let content = [email.as_bytes(), credentials.password.expose().as_bytes(), device_token.as_bytes()];
        let idempotency = Idempotency::of(&self.vault, context, "login", &content);
        if let Some(outcome) = self.before(idempotency.as_ref()).await? {
            return self.answer(context, outcome).await;
        }

        let place = self.hasher.place().map_err(|_| CommandError::Overloaded)?;
        let found = self.find_by_email(&credentials.email).await?;
        let device = found.as_ref().and_then(|found| known_device(&self.vault, found.account, device_token));
        // A device that has logged in before is counted by itself: strangers cannot lock its owner out.
        let subject = device.map_or_else(|| email.clone(), |device| format!("device/{device}"));
        let attempt = self.reserve_attempt(&subject, Factor::Password, context.now).await?;
        let evaluated = self.evaluate(credentials.password.clone(), found.as_ref(), &attempt, place).await?;
        match (found, evaluated) {
            (Some(found), true) => self.succeed(context, &found, &credentials, &attempt, idempotency).await,
            (found, _) => {
                let verdict = attempt.verdict(found.as_ref());
                self.refuse(context, found.as_ref(), verdict, &attempt, idempotency.as_ref()).await
            }
        }
    }

    async fn refuse(
        &self,
        context: &Context,
        found: Option<&Found>,
        verdict: Verdict,
        attempt: &Reserved,
        idempotency: Option<&Idempotency>,
    ) -> Result<Done<Tokens>, CommandError> {
        let unit = self.refusal(context, found, verdict, attempt).await?;
        self.commit(unit, idempotency, Outcome::Refused).await?;
        Err(CommandError::InvalidCredentials)
    }

    async fn succeed(
        &self,
        context: &Context,
        found: &Found,
        credentials: &Credentials,
        attempt: &Reserved,
        idempotency: Option<Idempotency>,
    ) -> Result<Done<Tokens>, CommandError> {
        let context = &context.acting_as(found.account);
        let presented = credentials.device_token.as_deref();
        let known = presented.and_then(|token| known_device(&self.vault, found.account, token));
        let device = known.unwrap_or_else(|| context.new_id());
        let personal = network_facts(context).with(Field::Device, Some(&device.to_string()));
        let sealing = Some((found.key.clone(), personal));
        let verifier =
            if self.hasher.is_outdated(&found.verifier) { Some(self.rehash(found, credentials).await?) } else { None };

        for _ in 0..TRIES {
            let (state, version) = self.with_same_password(&credentials.email, found).await?;
            if state.suspended {
                let anonymous = &Context { actor: Actor::Anonymous, ..context.clone() };
                let verdict = Verdict::Suspended;
                return self.refuse(anonymous, Some(found), verdict, attempt, idempotency.as_ref()).await;
            }
            let session = SessionId(context.new_id());
            let root = random_bytes()?;
            let methods = vec![Method::Password];
            let started = self.decide_session(context, found.account, device, methods.clone())?;

            let mut unit = Unit::new(context, self.policy.version).sealing(sealing.clone());
            // The password was right for the account as it is at this version, and maybe not at a later one.
            unit.expect(Category::Account, found.account.0, Expected::Exact(version));
            unit.expect(Category::Session, session.0, Expected::New);
            if let Some(verifier) = &verifier {
                unit.vault(VaultWrite::Rehash { account: found.account, verifier: verifier.clone() });
            }
            unit.vault(VaultWrite::ClearAttempts { key_hash: attempt.key_hash, factor: attempt.factor });
            for event in &started {
                if let SessionEvent::Started { expires_at, .. } = event {
                    unit.vault(VaultWrite::RefreshRoot {
                        session,
                        account: found.account,
                        root,
                        expires_at: *expires_at,
                    });
                }
            }
            let right = Verdict::Right { methods: methods.clone(), session };
            unit.record(found.account.0, Some(found.account), self.decide_attempt(right, context.now))?;
            unit.record(session.0, Some(found.account), started)?;

            let outcome = Outcome::Started { account: found.account, session, device };
            match self.commit(unit, idempotency.as_ref(), outcome).await {
                Ok(Committed::New(_, receipt)) => {
                    let position = receipt.position.unwrap_or_default();
                    let issue = Issue {
                        account: found.account,
                        session,
                        generation: 1,
                        authenticated_at: context.now,
                        methods,
                        roles: state.roles.into_iter().collect(),
                        position,
                        session_ends_at: context.now + self.policy.sessions.absolute_lifetime,
                    };
                    let device_token = device_token(&self.vault, found.account, device);
                    let value = self.issue(context, issue, &root, Some(device_token))?;
                    return Ok(Done { value, position: Some(position) });
                }
                Ok(Committed::Before(outcome)) => return self.answer(context, outcome).await,
                Err(CommandError::Contended) => {}
                Err(error) => return Err(error),
            }
        }
        Err(CommandError::Contended)
    }

    /// The answer to a login that was made before under the same idempotency key.
    async fn answer(&self, context: &Context, outcome: Outcome) -> Result<Done<Tokens>, CommandError> {
        match outcome {
            Outcome::Refused => Err(CommandError::InvalidCredentials),
            Outcome::Started { account, session, device } => {
                let device_token = device_token(&self.vault, account, device);
                let again = self.issue_again(context, session, 1, Some(device_token)).await?;
                again.ok_or(CommandError::InvalidCredentials)
            }
        }
    }

    fn decide_session(
        &self,
        context: &Context,
        account: AccountId,
        device: Uuid,
        methods: Vec<Method>,
    ) -> Result<Vec<SessionEvent>, CommandError> {
        let command = SessionCommand::Start {
            account,
            methods,
            fingerprint: self.fingerprint(context, device),
            at: context.now,
            policy: self.policy.sessions.clone(),
        };
        Ok(Session::handle_command(&SessionState::None, command)?)
    }

    /// The password was right, but its verifier was made at another cost.
    async fn rehash(&self, found: &Found, credentials: &Credentials) -> Result<Vec<u8>, CommandError> {
        let place = self.hasher.place().map_err(|_| CommandError::Overloaded)?;
        let verifier =
            self.hasher.hash(credentials.password.clone(), place).await.map_err(|_| CommandError::Overloaded)?;
        Ok(found.key.seal_verifier("password", verifier.expose())?)
    }

    /// The account that holds this address, with its key and verifier.
    pub(crate) async fn find_by_email(&self, email: &EmailAddress) -> Result<Option<Found>, CommandError> {
        let hash = self.email_hash(email);
        let row = sqlx::query!(
            r#"select k.stream_id, s.version, c.verifier, sk.wrapped as "wrapped!", sk.kek_id
               from log.unique_key k
               join log.stream s on s.stream_id = k.stream_id and s.category = 'account'
               join vault.credential c on c.account_id = k.stream_id and c.kind = 'password'
               join vault.subject_key sk on sk.subject_id = k.stream_id and sk.wrapped is not null
               where k.scope = 'email' and k.key_hash = $1"#,
            hash.as_slice()
        )
        .fetch_optional(&self.pool)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let key = self.vault.open_subject_key(row.stream_id, &row.kek_id, &row.wrapped)?;
        let verifier = read_verifier(&key, &row.verifier)?;
        Ok(Some(Found { account: AccountId(row.stream_id), version: row.version.unsigned_abs(), key, verifier }))
    }

    /// The account as it is now, as long as its password is still the one that was verified: hashing takes time, and
    /// the password may have been changed meanwhile.
    pub(crate) async fn with_same_password(
        &self,
        email: &EmailAddress,
        verified: &Found,
    ) -> Result<(AccountState, u64), CommandError> {
        let (state, version) = self.account_state(verified.account).await?;
        if version != verified.version {
            let now = self.find_by_email(email).await?;
            if now.is_none_or(|now| now.verifier.expose() != verified.verifier.expose()) {
                return Err(CommandError::InvalidCredentials);
            }
        }
        Ok((state, version))
    }

    pub(crate) fn email_hash(&self, email: &EmailAddress) -> [u8; 32] {
        self.vault.digest("unique/email", &[email.normalised().as_bytes()])
    }
}

pub(crate) fn read_verifier(key: &SubjectKey, sealed: &[u8]) -> Result<Verifier, CommandError> {
    let bytes = key.open_verifier("password", sealed)?;
    let text =
        String::from_utf8(bytes.to_vec()).map_err(|_| CommandError::Internal("a verifier is not text".into()))?;
    Ok(Verifier::new(text))
}

pub(crate) fn network_facts(context: &Context) -> Personal {
    let ip = context.origin.ip.map(|ip| ip.to_string());
    Personal::default().with(Field::Ip, ip.as_deref()).with(Field::UserAgent, context.origin.user_agent.as_deref())
}
