//! Step-up: a logged-in caller proves their identity again, and may then make sensitive calls for a while. Failures
//! count with those of logins from the same device, under the same lockout.

use chrono::{DateTime, Utc};
use fulexo_domain::Aggregate;
use fulexo_domain::account::{Account, AccountCommand, AccountError};
use fulexo_domain::authentication::{AttemptOutcome, AuthenticationMethod, Factor};
use fulexo_domain::event::Category;
use fulexo_domain::password::Password;
use fulexo_domain::session::{Session, SessionCommand, SessionEvent};
use fulexo_domain::values::{AccountId, CodeInput, SessionId};

use crate::authentication::attempts::{self, AttemptScope, CountedAttempt};
use crate::authentication::codes::{self, VerifiedCode};
use crate::authentication::credentials::{self, StoredCredentials};
use crate::context::Context;
use crate::error::CommandError;
use crate::execute::{self, CommandOutcome};
use crate::idempotency::IdempotencyKey;
use crate::log::ExpectedVersion;
use crate::rate_limit;
use crate::sessions::tokens;
use crate::vault::write::VaultWrite;
use crate::write_side::WriteSide;

/// The evidence of a step-up.
pub enum Evidence {
    /// The password.
    Password(Password),
    /// A code of the second factor, or a recovery code.
    Code(CodeInput),
}

pub(crate) async fn step_up(
    side: &WriteSide,
    context: &Context,
    account: AccountId,
    session: SessionId,
    step_up_required: bool,
    evidence: Evidence,
) -> Result<CommandOutcome<DateTime<Utc>>, CommandError> {
    let (kind, secret): (&[u8], &[u8]) = match &evidence {
        Evidence::Password(password) => (b"password", password.expose().as_bytes()),
        Evidence::Code(code) => (b"code", code.as_str().as_bytes()),
    };
    let content = [session.0.as_bytes().as_slice(), kind, secret];
    let idempotency = IdempotencyKey::of(&side.vault, context, "step_up", &content);
    execute::run_once(&side.log, idempotency.as_ref(), async {
        let (stored, attempt, spent) = verify_evidence(side, context, account, session, evidence).await?;
        let method = match attempt.factor {
            Factor::Password => AuthenticationMethod::Password,
            Factor::SecondFactor => AuthenticationMethod::OneTime,
        };
        let decided = execute::decide(side, idempotency.as_ref(), || async {
            let (state, version) = credentials::state_with_same_password(side, &stored).await?;
            if state.suspended {
                return Err(AccountError::Suspended.into());
            }
            if state.second_factor_enabled && spent.is_none() {
                return Err(CommandError::CodeRequired);
            }
            if let Some(spent) = &spent {
                codes::require_current_factor(&side.pool, account, &spent.seed, spent.recovery).await?;
            }
            let loaded = tokens::load_session(side, session).await?;
            let policy = side.policy().sessions.clone();
            let command = SessionCommand::Elevate { methods: vec![method], step_up_required, at: context.now, policy };
            let events = Session::handle_command(&loaded.state, command)?;
            let Some(SessionEvent::Elevated { until, .. }) = events.first() else {
                return Err(CommandError::internal("the step-up did not elevate the session"));
            };
            let until = *until;
            let mut unit = side.unit_of_work(context);
            unit.expect(Category::Account, account.0, ExpectedVersion::Exact(version));
            unit.expect(Category::Session, session.0, ExpectedVersion::Exact(loaded.version));
            unit.vault(attempt.success_write());
            if let Some(hash) = spent.as_ref().and_then(|spent| spent.recovery) {
                unit.vault(VaultWrite::SpendRecoveryCode { account, hash });
                let used = Account::handle_command(&state, AccountCommand::UseRecoveryCode)?;
                unit.record(account.0, Some(account), used)?;
            }
            let confirmed = attempts::decide_attempt(side, &attempt, AttemptOutcome::Confirmed, context.now);
            unit.record(account.0, Some(account), confirmed)?;
            unit.record(session.0, Some(account), events)?;
            Ok((unit, until))
        });
        attempts::conclude(side, context, &stored, &attempt, decided.await).await
    })
    .await
}

async fn verify_evidence(
    side: &WriteSide,
    context: &Context,
    account: AccountId,
    session: SessionId,
    evidence: Evidence,
) -> Result<(StoredCredentials, CountedAttempt, Option<VerifiedCode>), CommandError> {
    let device = tokens::device_of(&side.pool, session).await?;
    match evidence {
        Evidence::Password(_) if side.account_state(account).await?.0.second_factor_enabled => {
            Err(CommandError::CodeRequired)
        }
        Evidence::Password(password) => {
            let permit = rate_limit::hashing_permit(side, context)?;
            let (stored, attempt) = attempts::verify_password(side, context, account, device, password, permit).await?;
            Ok((stored, attempt, None))
        }
        Evidence::Code(code) => {
            let stored = credentials::find(side, account).await?.ok_or(CommandError::InvalidCredentials)?;
            let subject = AttemptScope::Device(account, device);
            let attempt = attempts::reserve_attempt(side, subject, Factor::SecondFactor, context.now).await?;
            let spent = codes::verify_code(side, &stored, &code, &attempt, context.now).await;
            match attempts::take_back_on_error(&side.pool, &attempt, spent).await? {
                Some(spent) => Ok((stored, attempt, Some(spent))),
                None => {
                    Err(attempts::record_and_refuse(side, context, &stored, attempt.verdict(Some(&stored)), &attempt)
                        .await?)
                }
            }
        }
    }
}
