//! Logging in: one attempt is counted, one hash is computed, one decision is recorded. Whoever is refused learns
//! nothing from the answer, its size or its time.
//!
//! ```text
//! password --right--> second factor? --yes--> challenge --code right--+
//!                          | no                                       v
//!                          +--------------> password to change? --> enrolment due? --> session
//! ```
//! Where one of the questions is answered by yes, the login leads to that step alone (`challenge`).

use chrono::{DateTime, TimeDelta, Utc};
use fulexo_domain::Aggregate;
use fulexo_domain::account::{Account, AccountCommand, AccountState};
use fulexo_domain::authentication::{AuthenticationEvent, Factor, Method, Verdict};
use fulexo_domain::event::{Actor, Category, Field};
use fulexo_domain::password::Password;
use fulexo_domain::session::{Session, SessionCommand, SessionEvent, SessionState};
use fulexo_domain::values::{AccountId, EmailAddress, SessionId};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::attempts::{Reserved, Subject};
use crate::challenge::{Challenge, Challenged, Purpose};
use crate::context::Context;
use crate::error::CommandError;
use crate::execute::{Committed, Idempotency, TRIES, Unit};
use crate::log::Expected;
use crate::password_hash::{Place, Verifier};
use crate::refresh_token::device_token;
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

/// What a login gives.
pub enum LoggedIn {
    /// A session began.
    Session(Tokens),
    /// One step is left, or another comes first.
    Challenge(Challenged),
}

/// An account that was found, with all that a login needs of it.
pub(crate) struct Found {
    pub account: AccountId,
    /// The account's version that the verifier belongs to.
    pub version: u64,
    pub key: SubjectKey,
    pub verifier: Verifier,
    /// The sealed seed of its second factor, when it has one.
    pub seed: Option<Vec<u8>>,
}

/// Factors that were right, on their way to a session.
pub(crate) struct Presented<'a> {
    pub methods: Vec<Method>,
    pub device: Uuid,
    pub known_device: bool,
    pub attempt: &'a Reserved,
    /// The password's verifier at the configured cost, where that changed.
    pub rehashed: Option<Vec<u8>>,
    /// The seed that a code was right for; it must still be the account's.
    pub seed: Option<Vec<u8>>,
    /// The recovery code that stood in for one, as it is stored.
    pub recovery: Option<[u8; 32]>,
}

/// What a login came to, as the log remembers it for the same idempotency key.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub(crate) enum Outcome {
    Refused,
    /// With a digest of the factors that it was given under.
    Challenged(Challenge, [u8; 32]),
    Started {
        account: AccountId,
        session: SessionId,
        device: Uuid,
        /// A digest of the factors that it was earned by.
        factors: [u8; 32],
    },
}

/// The step that a login leads to.
enum Next {
    Begin,
    Challenge(Purpose),
}

impl Commands {
    /// Logs in: starts a session, or says which step is left.
    ///
    /// # Errors
    /// [`CommandError::InvalidCredentials`] for every refusal, which is recorded with its reason;
    /// [`CommandError::LockedDown`] in its place during a lockdown; [`CommandError::Overloaded`] before anything is
    /// counted, when too many wait for a hash.
    pub async fn login(&self, context: &Context, credentials: Credentials) -> Result<Done<LoggedIn>, CommandError> {
        self.as_during_lockdown(self.log_in(context, credentials).await).await
    }

    async fn log_in(&self, context: &Context, credentials: Credentials) -> Result<Done<LoggedIn>, CommandError> {
        let email = credentials.email.normalised();
        let token = credentials.device_token.as_deref().unwrap_or_default();
        let content = [email.as_bytes(), credentials.password.expose().as_bytes(), token.as_bytes()];
        let idempotency = Idempotency::of(&self.vault, context, "login", &content);
        if let Some((outcome, is_recent)) = self.before_with_age(idempotency.as_ref()).await? {
            return self.answer(context, outcome, is_recent).await;
        }

        let place = self.place(context)?;
        let found = self.find_by_email(&credentials.email).await?;
        let account = found.as_ref().map(|found| found.account);
        let known = match account {
            Some(account) => self.known_device(context, account, token).await?.map(|device| (account, device)),
            None => None,
        };
        let subject =
            known.map_or(Subject::Address(&email, account), |(account, device)| Subject::Device(account, device));
        let attempt = self.reserve_attempt(subject, Factor::Password, context.now).await?;
        let right = self.evaluate(credentials.password.clone(), found.as_ref(), &attempt, place.clone()).await?;
        let Some(found) = found.as_ref().filter(|_| right) else {
            let verdict = attempt.verdict(found.as_ref());
            return self.refuse(context, found.as_ref(), verdict, &attempt, idempotency.as_ref()).await;
        };
        let rehashed = if self.hasher.is_outdated(&found.verifier) {
            match self.settled(&attempt, self.rehash(found, credentials.password, place).await).await {
                Ok(verifier) => Some(verifier),
                // The next login tries again.
                Err(CommandError::Overloaded) => None,
                Err(error) => return Err(error),
            }
        } else {
            None
        };
        let presented = Presented {
            methods: vec![Method::Password],
            device: known.map_or_else(|| context.new_id(), |(_, device)| device),
            known_device: known.is_some(),
            attempt: &attempt,
            rehashed,
            seed: None,
            recovery: None,
        };
        self.proceed(context, found, &presented, idempotency.as_ref()).await
    }

    pub(crate) async fn refuse(
        &self,
        context: &Context,
        found: Option<&Found>,
        verdict: Verdict,
        attempt: &Reserved,
        idempotency: Option<&Idempotency>,
    ) -> Result<Done<LoggedIn>, CommandError> {
        self.record_refusal(context, found, verdict, attempt, idempotency, &Outcome::Refused).await?;
        Err(CommandError::InvalidCredentials)
    }

    /// From factors that were right to a session, or to the step that is left.
    pub(crate) async fn proceed(
        &self,
        context: &Context,
        found: &Found,
        presented: &Presented<'_>,
        idempotency: Option<&Idempotency>,
    ) -> Result<Done<LoggedIn>, CommandError> {
        let done = self.decide_login(context, found, presented, idempotency).await;
        self.settled(presented.attempt, done).await
    }

    async fn decide_login(
        &self,
        context: &Context,
        found: &Found,
        presented: &Presented<'_>,
        idempotency: Option<&Idempotency>,
    ) -> Result<Done<LoggedIn>, CommandError> {
        let context = &context.acting_as(found.account);
        let anonymous = &Context { actor: Actor::Anonymous, ..context.clone() };
        for _ in 0..TRIES {
            let (state, version) = match self.still_right(found, presented).await {
                // Right a moment ago, and wrong by now.
                Err(CommandError::InvalidCredentials) => {
                    let verdict = presented.attempt.verdict(Some(found));
                    return self.refuse(anonymous, Some(found), verdict, presented.attempt, idempotency).await;
                }
                state => state?,
            };
            if state.suspended {
                return self.refuse(anonymous, Some(found), Verdict::Suspended, presented.attempt, idempotency).await;
            }
            let admission = self.admission(&state.roles).await?;
            if !admission.admitted {
                let mut unit = self.refusal(anonymous, Some(found), Verdict::Lockdown, presented.attempt).await?;
                // Nobody is to be locked out, when it is over, for having been right while it lasted.
                unit.vault(presented.attempt.clear());
                self.commit(unit, None, ()).await?;
                return Err(CommandError::InvalidCredentials);
            }
            let personal = network_facts(context).with(Field::Device, Some(&presented.device.to_string()));
            let mut unit = self.unit(context).sealing(Some((found.key.clone(), personal)));
            // All was right for the account as it is at this version, and maybe not at a later one.
            unit.expect(Category::Account, found.account.0, Expected::Exact(version));
            admission.rest(&mut unit);
            unit.vault(presented.attempt.clear());
            if let Some(verifier) = &presented.rehashed {
                unit.vault(VaultWrite::Rehash { account: found.account, verifier: verifier.clone() });
            }
            if let Some(hash) = presented.recovery {
                unit.vault(VaultWrite::SpendRecoveryCode { account: found.account, hash });
                let used = Account::handle_command(&state, AccountCommand::UseRecoveryCode)?;
                unit.record(found.account.0, Some(found.account), used)?;
            }
            let next = self.next(&state, found.account, presented, context.now).await?;
            let done = match next {
                Next::Begin => self.begin(context, unit, found, presented, state, idempotency).await,
                Next::Challenge(purpose) => self.hold(context, unit, found, presented, purpose, idempotency).await,
            };
            match done {
                Err(CommandError::Contended) => {}
                done => return done,
            }
        }
        Err(CommandError::Contended)
    }

    /// The account as it is now, as long as all that was presented is still right for it.
    async fn still_right(&self, found: &Found, presented: &Presented<'_>) -> Result<(AccountState, u64), CommandError> {
        let state = self.with_same_password(found).await?;
        if let Some(seed) = &presented.seed {
            self.still_a_factor(found.account, seed, presented.recovery).await?;
        }
        Ok(state)
    }

    async fn next(
        &self,
        state: &AccountState,
        account: AccountId,
        presented: &Presented<'_>,
        now: DateTime<Utc>,
    ) -> Result<Next, CommandError> {
        if state.second_factor && presented.seed.is_none() {
            return Ok(Next::Challenge(Purpose::SecondFactor));
        }
        let policy = self.policy();
        let age = policy.passwords.max_age_days.map(|days| TimeDelta::days(i64::from(days)));
        let outdated = match age {
            Some(age) => now - self.password_set_at(account).await? > age,
            None => false,
        };
        if state.password_expired || outdated {
            return Ok(Next::Challenge(Purpose::PasswordChange));
        }
        let required = &policy.second_factor.required_for;
        if !state.second_factor && state.roles.iter().any(|role| required.contains(role)) {
            return Ok(Next::Challenge(Purpose::Enrolment));
        }
        Ok(Next::Begin)
    }

    async fn hold(
        &self,
        context: &Context,
        mut unit: Unit<'_>,
        found: &Found,
        presented: &Presented<'_>,
        purpose: Purpose,
        idempotency: Option<&Idempotency>,
    ) -> Result<Done<LoggedIn>, CommandError> {
        let account = found.account;
        let verdict = match purpose {
            Purpose::SecondFactor => Verdict::SecondFactorRequired { enrolled: true },
            Purpose::Enrolment => Verdict::SecondFactorRequired { enrolled: false },
            Purpose::PasswordChange => Verdict::PasswordChangeRequired,
        };
        unit.record(account.0, Some(account), self.decide_attempt(presented.attempt, verdict, context.now))?;
        let challenge = Challenge::new(purpose, account, presented.device, presented.known_device, context.now);
        let factors = self.factors_after(found, presented)?;
        match self.commit(unit, idempotency, Outcome::Challenged(challenge, factors)).await? {
            Committed::New(_, receipt) => {
                let value = LoggedIn::Challenge(self.challenge(challenge, &factors, context.now));
                Ok(Done { value, position: receipt.position })
            }
            Committed::Before(outcome) => self.answer(context, outcome, true).await,
        }
    }

    /// A digest of the factors as the append of a login leaves them: its verifier may be another one.
    fn factors_after(&self, found: &Found, presented: &Presented<'_>) -> Result<[u8; 32], CommandError> {
        let sealed = presented.rehashed.as_deref();
        let rehashed = sealed.map(|sealed| read_verifier(&found.key, sealed)).transpose()?;
        Ok(self.factors(rehashed.as_ref().unwrap_or(&found.verifier), found.seed.as_deref()))
    }

    async fn begin(
        &self,
        context: &Context,
        mut unit: Unit<'_>,
        found: &Found,
        presented: &Presented<'_>,
        state: AccountState,
        idempotency: Option<&Idempotency>,
    ) -> Result<Done<LoggedIn>, CommandError> {
        let (account, session) = (found.account, SessionId(context.new_id()));
        let root = random_bytes()?;
        let (device, methods) = (presented.device, presented.methods.clone());
        let policy = self.policy();
        let command = SessionCommand::Start {
            account,
            methods: methods.clone(),
            fingerprint: self.fingerprint(context, device),
            at: context.now,
            policy: policy.sessions.clone(),
        };
        let started = Session::handle_command(&SessionState::None, command)?;
        unit.expect(Category::Session, session.0, Expected::New);
        let mut session_ends_at = context.now;
        for event in &started {
            if let SessionEvent::Started { expires_at, .. } = event {
                session_ends_at = *expires_at;
                unit.vault(VaultWrite::RefreshRoot { session, account, device, root, expires_at: *expires_at });
            }
        }
        let known = presented.known_device;
        unit.vault(VaultWrite::UseDevice { account, device, known, session, at: context.now });
        let trusted = (!known).then(|| self.device_name(account, device));
        let right = Verdict::Right { methods: methods.clone(), session, trusted };
        unit.record(account.0, Some(account), self.decide_attempt(presented.attempt, right, context.now))?;
        unit.record(session.0, Some(account), started)?;
        if !known && self.was_logged_in_to(account).await? {
            unit.record(account.0, Some(account), [AuthenticationEvent::NewDeviceSeen { session }])?;
        }

        let factors = self.factors_after(found, presented)?;
        match self.commit(unit, idempotency, Outcome::Started { account, session, device, factors }).await? {
            Committed::New(_, receipt) => {
                self.end_beyond_limit(context, account).await?;
                let position = receipt.position.unwrap_or_default();
                let issue = Issue {
                    account,
                    session,
                    generation: 1,
                    authenticated_at: context.now,
                    methods,
                    held: false,
                    roles: state.roles.into_iter().collect(),
                    position,
                    session_ends_at,
                };
                let device_token = device_token(&self.vault, account, device);
                let value = LoggedIn::Session(self.issue(context, issue, &root, Some(device_token))?);
                Ok(Done { value, position: Some(position) })
            }
            Committed::Before(outcome) => self.answer(context, outcome, true).await,
        }
    }

    /// The answer to a login that was made before under the same idempotency key. Whoever presented factors that are no
    /// longer right is refused like anybody else.
    pub(crate) async fn answer(
        &self,
        context: &Context,
        outcome: Outcome,
        is_recent: bool,
    ) -> Result<Done<LoggedIn>, CommandError> {
        match outcome {
            Outcome::Refused => Err(CommandError::InvalidCredentials),
            Outcome::Challenged(challenge, factors) => {
                let found = self.find(challenge.account).await?.ok_or(CommandError::InvalidCredentials)?;
                if challenge.has_expired(context.now) || factors != self.factors_of(&found) {
                    return Err(CommandError::InvalidCredentials);
                }
                self.done_before(LoggedIn::Challenge(self.challenge(challenge, &factors, context.now))).await
            }
            Outcome::Started { account, session, device, factors } => {
                let found = self.find(account).await?.ok_or(CommandError::InvalidCredentials)?;
                if factors != self.factors_of(&found) {
                    return Err(CommandError::InvalidCredentials);
                }
                if !is_recent {
                    return Err(CommandError::OutcomeExpired);
                }
                // Whoever began it may not have come so far.
                self.end_beyond_limit(&context.acting_as(account), account).await?;
                let device_token = device_token(&self.vault, account, device);
                let again = self.issue_again(context, session, 1, Some(device_token)).await?;
                let Done { value, position } = again.ok_or(CommandError::InvalidCredentials)?;
                Ok(Done { value: LoggedIn::Session(value), position })
            }
        }
    }

    /// Whether a login ever led to a session, as far as the first thousand attempts tell.
    async fn was_logged_in_to(&self, account: AccountId) -> Result<bool, CommandError> {
        // The first right one is among the first few as a rule, and nothing behind it is read.
        let known = sqlx::query_scalar!(
            r#"select exists (
                   select from (select version, leaf from log.event
                                where stream_id = $1 and category = 'authentication'
                                order by version limit 1000) attempt
                   where position('"type":"authentication.succeeded"'::bytea in leaf) > 0 or version = 1000
               ) as "known!""#,
            account.0
        );
        Ok(known.fetch_one(&self.pool).await?)
    }

    /// The password was right, but its verifier was made at another cost.
    async fn rehash(&self, found: &Found, password: Password, place: Place) -> Result<Vec<u8>, CommandError> {
        let verifier = self.hash_password(password, place).await?;
        Ok(found.key.seal_verifier("password", verifier.expose())?)
    }

    /// The account that holds this address, with its key and verifier.
    pub(crate) async fn find_by_email(&self, email: &EmailAddress) -> Result<Option<Found>, CommandError> {
        let hash = self.email_hash(email);
        let row = sqlx::query_as!(
            FoundRow,
            r#"select k.stream_id as account, s.version, c.verifier, sk.wrapped as "wrapped!", sk.kek_id,
                      t.verifier as "seed?"
               from log.unique_key k
               join log.stream s on s.stream_id = k.stream_id and s.category = 'account'
               join vault.credential c on c.account_id = k.stream_id and c.kind = 'password'
               join vault.subject_key sk on sk.subject_id = k.stream_id and sk.wrapped is not null
               left join vault.credential t on t.account_id = k.stream_id and t.kind = 'totp'
               where k.scope = 'email' and k.key_hash = $1"#,
            hash.as_slice()
        )
        .fetch_optional(&self.pool)
        .await?;
        row.map(|row| self.read_found(row)).transpose()
    }

    /// The same, of an account that is known.
    pub(crate) async fn find(&self, account: AccountId) -> Result<Option<Found>, CommandError> {
        let row = sqlx::query_as!(
            FoundRow,
            r#"select c.account_id as account, s.version, c.verifier, sk.wrapped as "wrapped!", sk.kek_id,
                      t.verifier as "seed?"
               from vault.credential c
               join log.stream s on s.stream_id = c.account_id and s.category = 'account'
               join vault.subject_key sk on sk.subject_id = c.account_id and sk.wrapped is not null
               left join vault.credential t on t.account_id = c.account_id and t.kind = 'totp'
               where c.account_id = $1 and c.kind = 'password'"#,
            account.0
        )
        .fetch_optional(&self.pool)
        .await?;
        row.map(|row| self.read_found(row)).transpose()
    }

    fn read_found(&self, row: FoundRow) -> Result<Found, CommandError> {
        let key = self.vault.open_subject_key(row.account, &row.kek_id, &row.wrapped)?;
        let verifier = read_verifier(&key, &row.verifier)?;
        let (account, version) = (AccountId(row.account), row.version.unsigned_abs());
        Ok(Found { account, version, key, verifier, seed: row.seed })
    }

    /// The account as it is now, as long as its password is still the one that was verified: hashing takes time, and
    /// the password may have been changed meanwhile.
    pub(crate) async fn with_same_password(&self, verified: &Found) -> Result<(AccountState, u64), CommandError> {
        let (state, version) = self.account_state(verified.account).await?;
        if version != verified.version {
            let now = self.find(verified.account).await?;
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

struct FoundRow {
    account: Uuid,
    version: i64,
    verifier: Vec<u8>,
    wrapped: Vec<u8>,
    kek_id: String,
    seed: Option<Vec<u8>>,
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
