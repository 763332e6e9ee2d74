//! Step-up: whoever is logged in proves themselves once more, and may make sensitive calls for a while. Guesses are
//! counted with those of logins from the same device, under the same lock.

use chrono::{DateTime, Utc};
use fulexo_domain::Aggregate;
use fulexo_domain::account::{Account, AccountCommand, AccountError};
use fulexo_domain::authentication::{Factor, Method, Verdict};
use fulexo_domain::event::Category;
use fulexo_domain::password::Password;
use fulexo_domain::session::{Session, SessionCommand, SessionEvent};
use fulexo_domain::values::{AccountId, SessionId, TypedCode};

use crate::attempts::{Reserved, Subject};
use crate::context::Context;
use crate::error::CommandError;
use crate::execute::Idempotency;
use crate::log::Expected;
use crate::login::Found;
use crate::second_factor::Spent;
use crate::vault::write::VaultWrite;
use crate::{Commands, Done};

/// What somebody proves themselves with.
pub enum Evidence {
    /// The password.
    Password(Password),
    /// A code of the second factor, or a recovery code.
    Code(TypedCode),
}

impl Commands {
    /// Elevates the session; answers until when. `held` is whether the token that asks is held: then its session no
    /// longer is.
    ///
    /// # Errors
    /// [`CommandError::InvalidCredentials`] when the evidence is wrong, which counts as a failed attempt;
    /// [`CommandError::CodeRequired`] for the password of an account that has a second factor, which is not evaluated.
    pub async fn step_up(
        &self,
        context: &Context,
        account: AccountId,
        session: SessionId,
        held: bool,
        evidence: Evidence,
    ) -> Result<Done<DateTime<Utc>>, CommandError> {
        let (kind, secret): (&[u8], &[u8]) = match &evidence {
            Evidence::Password(password) => (b"password", password.expose().as_bytes()),
            Evidence::Code(code) => (b"code", code.as_str().as_bytes()),
        };
        let content = [session.0.as_bytes().as_slice(), kind, secret];
        let idempotency = Idempotency::of(&self.vault, context, "step_up", &content);
        if let Some(until) = self.before(idempotency.as_ref()).await? {
            return self.done_before(until).await;
        }
        let (found, attempt, spent) = self.confirm(context, account, session, evidence).await?;
        let method = match attempt.factor {
            Factor::Password => Method::Password,
            Factor::SecondFactor => Method::OneTime,
        };
        let decided = self.decide(idempotency.as_ref(), || async {
            let (state, version) = self.with_same_password(&found).await?;
            if state.suspended {
                return Err(AccountError::Suspended.into());
            }
            if state.second_factor && spent.is_none() {
                return Err(CommandError::CodeRequired);
            }
            if let Some(spent) = &spent {
                self.still_a_factor(account, &spent.seed, spent.recovery).await?;
            }
            let loaded = self.load_session(session).await?;
            let policy = self.policy().sessions.clone();
            let command = SessionCommand::Elevate { methods: vec![method], held, at: context.now, policy };
            let events = Session::handle_command(&loaded.state, command)?;
            let Some(SessionEvent::Elevated { until, .. }) = events.first() else {
                return Err(CommandError::Internal("a step-up that elevates nothing".into()));
            };
            let until = *until;
            let mut unit = self.unit(context);
            unit.expect(Category::Account, account.0, Expected::Exact(version));
            unit.expect(Category::Session, session.0, Expected::Exact(loaded.version));
            unit.vault(attempt.clear());
            if let Some(hash) = spent.as_ref().and_then(|spent| spent.recovery) {
                unit.vault(VaultWrite::SpendRecoveryCode { account, hash });
                let used = Account::handle_command(&state, AccountCommand::UseRecoveryCode)?;
                unit.record(account.0, Some(account), used)?;
            }
            let confirmed = self.decide_attempt(&attempt, Verdict::Confirmed, context.now);
            unit.record(account.0, Some(account), confirmed)?;
            unit.record(session.0, Some(account), events)?;
            Ok((unit, until))
        });
        self.done(self.concluded(context, &found, &attempt, decided.await).await?).await
    }

    async fn confirm(
        &self,
        context: &Context,
        account: AccountId,
        session: SessionId,
        evidence: Evidence,
    ) -> Result<(Found, Reserved, Option<Spent>), CommandError> {
        let device = self.device_of(session).await?;
        match evidence {
            Evidence::Password(_) if self.account_state(account).await?.0.second_factor => {
                Err(CommandError::CodeRequired)
            }
            Evidence::Password(password) => {
                let place = self.place(context)?;
                let (found, attempt) = self.prove(context, account, device, password, place).await?;
                Ok((found, attempt, None))
            }
            Evidence::Code(code) => {
                let found = self.find(account).await?.ok_or(CommandError::InvalidCredentials)?;
                let subject = Subject::Device(account, device);
                let attempt = self.reserve_attempt(subject, Factor::SecondFactor, context.now).await?;
                let spent = self.spend_code(&found, &code, &attempt, context.now).await;
                match self.settled(&attempt, spent).await? {
                    Some(spent) => Ok((found, attempt, Some(spent))),
                    None => Err(self.refused(context, &found, attempt.verdict(Some(&found)), &attempt).await?),
                }
            }
        }
    }
}
