//! The second factor: TOTP (RFC 6238), with recovery codes in its place. Set up by its owner, asked for by every login
//! from then on, taken away by its owner or, when it is lost, by an administrator.
//!
//! A code is spent before anything else happens, by one statement that only one of several can win: it is accepted
//! once, at however many nodes it is presented. A recovery code is spent with the event that says so: of two that present
//! it at once, one finds the account changed, and then the code gone.

use chrono::{DateTime, Utc};
use fulexo_domain::Aggregate;
use fulexo_domain::account::{Account, AccountCommand, AccountError, AccountState, DisabledBy};
use fulexo_domain::authentication::{AuthenticationEvent, Factor, LiftedBy, Method, Verdict};
use fulexo_domain::event::Category;
use fulexo_domain::lockout::Lockout;
use fulexo_domain::permission::Permissions;
use fulexo_domain::session::{RevokedBy, Session, SessionCommand};
use fulexo_domain::values::{AccountId, Reason, SessionId, TypedCode};
use serde::{Deserialize, Serialize};
use totp_rs::{Builder, Totp};
use zeroize::Zeroizing;

use crate::attempts::{Reserved, Subject};
use crate::challenge::Purpose;
use crate::context::Context;
use crate::error::CommandError;
use crate::execute::{Idempotency, Unit};
use crate::log::Expected;
use crate::login::{Found, LoggedIn, Outcome, Presented};
use crate::vault::crypto::random_bytes;
use crate::vault::write::VaultWrite;
use crate::{Commands, Done};

/// Recovery codes in a set.
const RECOVERY_CODES: u32 = 10;
/// What authenticator apps show beside the account's name.
const ISSUER: &str = "Fulexo";

/// A second factor that is being set up; it counts once a code of it was right. No `Debug`; wiped when dropped.
pub struct Enrolment {
    /// The seed in base32 (RFC 4648), for typing in.
    pub secret: Zeroizing<String>,
    /// The same as an `otpauth` URI, for scanning.
    pub otpauth_uri: Zeroizing<String>,
}

/// Recovery codes, shown once. No `Debug`; wiped when dropped.
pub struct RecoveryCodes(pub Vec<Zeroizing<String>>);

/// A code that was right; one of the authenticator is spent.
pub(crate) struct Spent {
    /// A recovery code, as it is stored, which is spent with what it leads to.
    pub recovery: Option<[u8; 32]>,
    /// The seed as it is stored: whoever goes on must find the same.
    pub seed: Vec<u8>,
}

/// What recovery codes are made of: with it and the service key they are made again for the same idempotency key.
#[derive(Serialize, Deserialize)]
struct Batch([u8; 16]);

impl Commands {
    /// Begins to set up a second factor, the first or another one. The one in use stays until a code of the new one was
    /// right.
    ///
    /// # Errors
    /// [`CommandError::Account`] when the account is unknown.
    pub async fn start_enrolment(
        &self,
        context: &Context,
        account: AccountId,
    ) -> Result<Done<Enrolment>, CommandError> {
        let idempotency = Idempotency::of(&self.vault, context, "start_enrolment", &[account.0.as_bytes()]);
        if let Some(shown) = self.disclosed_before(context, idempotency.as_ref()).await? {
            let enrolment = self.pending(account, &shown).await?;
            return self.done_before(enrolment).await;
        }
        let decided = self.decide(idempotency.as_ref(), async || {
            let (state, version) = self.account_state(account).await?;
            let events = Account::handle_command(&state, AccountCommand::StartEnrolment)?;
            let key = self.vault.subject_key(account).await?.ok_or(AccountError::Unknown)?;
            let seed = key.seal("totp", Zeroizing::new(random_bytes::<20>()?).as_slice())?;
            let shown = self.seed_digest(&seed);
            let mut unit = self.unit(context);
            unit.expect(Category::Account, account.0, Expected::Exact(version));
            unit.vault(VaultWrite::PendingSeed { account, seed });
            unit.record(account.0, Some(account), events)?;
            Ok((unit, self.disclosing(context, shown).await?))
        });
        let Done { value: shown, position } = self.done_disclosing(context, decided.await?).await?;
        Ok(Done { value: self.pending(account, &shown).await?, position })
    }

    fn seed_digest(&self, sealed: &[u8]) -> [u8; 32] {
        self.vault.digest("pending-seed", &[sealed])
    }

    /// The enrolment under way, as long as it is the one that was shown.
    async fn pending(&self, account: AccountId, shown: &[u8; 32]) -> Result<Enrolment, CommandError> {
        let sealed = self.seed(account, "totp_pending").await?.ok_or(AccountError::NotEnrolling)?;
        if self.seed_digest(&sealed) != *shown {
            return Err(CommandError::OutcomeExpired);
        }
        let key = self.vault.subject_key(account).await?.ok_or(AccountError::Unknown)?;
        self.enrolment(account, &key.open("totp", &sealed)?).await
    }

    async fn enrolment(&self, account: AccountId, seed: &[u8]) -> Result<Enrolment, CommandError> {
        let profile = self.profile(account).await?.ok_or(AccountError::Unknown)?;
        let totp = totp(seed, profile.email.as_str())?;
        let otpauth_uri = totp.to_url().map_err(|error| CommandError::Internal(error.to_string()))?;
        Ok(Enrolment { secret: Zeroizing::new(totp.secret().to_base32()), otpauth_uri: Zeroizing::new(otpauth_uri) })
    }

    /// A code of the second factor that is being set up: from now on it counts, and the session in which it was presented
    /// is one with a second factor; one that it replaces counts no longer in any other. Answers with recovery codes.
    ///
    /// # Errors
    /// [`CommandError::WrongCode`]; [`CommandError::Account`] when none is being set up.
    pub async fn confirm_enrolment(
        &self,
        context: &Context,
        account: AccountId,
        session: Option<SessionId>,
        code: &TypedCode,
    ) -> Result<Done<RecoveryCodes>, CommandError> {
        let content = [account.0.as_bytes().as_slice(), code.as_str().as_bytes()];
        let idempotency = Idempotency::of(&self.vault, context, "confirm_enrolment", &content);
        if let Some(batch) = self.disclosed_before(context, idempotency.as_ref()).await? {
            return self.done_before(self.recovery_codes(account, &batch)).await;
        }
        let sealed = self.seed(account, "totp_pending").await?.ok_or(AccountError::NotEnrolling)?;
        let key = self.vault.subject_key(account).await?.ok_or(AccountError::Unknown)?;
        let step = step_of(&key.open("totp", &sealed)?, code, context.now)?.ok_or(CommandError::WrongCode)?;
        if !self.spend_step(account, &sealed, step).await? {
            return Err(CommandError::WrongCode);
        }
        let decided = self.decide(idempotency.as_ref(), async || {
            let (state, version) = self.account_state(account).await?;
            if self.seed(account, "totp_pending").await?.as_ref() != Some(&sealed) {
                return Err(CommandError::WrongCode);
            }
            let command = AccountCommand::ConfirmEnrolment { codes: RECOVERY_CODES, session };
            let events = Account::handle_command(&state, command)?;
            let batch = Batch(random_bytes()?);
            let codes = self.recovery_codes(account, &batch);
            let mut unit = self.unit(context);
            unit.expect(Category::Account, account.0, Expected::Exact(version));
            unit.vault(VaultWrite::ConfirmSeed { account });
            unit.vault(self.store(account, &codes));
            unit.record(account.0, Some(account), events)?;
            if let Some(session) = session {
                let loaded = self.load_session(session).await?;
                let (methods, policy) = (vec![Method::OneTime], self.policy().sessions.clone());
                let command = SessionCommand::Elevate { methods, held: false, at: context.now, policy };
                unit.expect(Category::Session, session.0, Expected::Exact(loaded.version));
                unit.record(session.0, Some(account), Session::handle_command(&loaded.state, command)?)?;
            }
            // Under the factor as this very append leaves it.
            Ok((unit, self.disclosing_with_seed(context, batch, &sealed).await?))
        });
        let done = self.done_disclosing(context, decided.await?).await?;
        Ok(done.map(|batch| self.recovery_codes(account, &batch)))
    }

    /// Replaces the recovery codes.
    ///
    /// # Errors
    /// [`CommandError::Account`] when there is no second factor that they could stand in for.
    pub async fn issue_recovery_codes(
        &self,
        context: &Context,
        account: AccountId,
    ) -> Result<Done<RecoveryCodes>, CommandError> {
        let idempotency = Idempotency::of(&self.vault, context, "issue_recovery_codes", &[account.0.as_bytes()]);
        if let Some(batch) = self.disclosed_before(context, idempotency.as_ref()).await? {
            return self.done_before(self.recovery_codes(account, &batch)).await;
        }
        let decided = self.decide(idempotency.as_ref(), async || {
            let (state, version) = self.account_state(account).await?;
            let command = AccountCommand::IssueRecoveryCodes { count: RECOVERY_CODES };
            let events = Account::handle_command(&state, command)?;
            let batch = Batch(random_bytes()?);
            let codes = self.recovery_codes(account, &batch);
            let mut unit = self.unit(context);
            unit.expect(Category::Account, account.0, Expected::Exact(version));
            unit.vault(self.store(account, &codes));
            unit.record(account.0, Some(account), events)?;
            Ok((unit, self.disclosing(context, batch).await?))
        });
        let done = self.done_disclosing(context, decided.await?).await?;
        Ok(done.map(|batch| self.recovery_codes(account, &batch)))
    }

    /// Its owner takes the second factor away.
    ///
    /// # Errors
    /// [`CommandError::SecondFactorRequired`] when a role of the account requires one.
    pub async fn disable_second_factor(&self, context: &Context, account: AccountId) -> Result<Done<()>, CommandError> {
        let idempotency = Idempotency::of(&self.vault, context, "disable_second_factor", &[account.0.as_bytes()]);
        if self.before::<()>(idempotency.as_ref()).await?.is_some() {
            return self.done_before(()).await;
        }
        let decided = self.decide(idempotency.as_ref(), || async {
            let (state, version) = self.account_state(account).await?;
            if self.requires_second_factor(&state).await? {
                return Err(CommandError::SecondFactorRequired);
            }
            let mut unit = self.unit(context);
            self.take_away(&mut unit, account, &state, version, DisabledBy::Owner).await?;
            Ok((unit, ()))
        });
        self.done(decided.await?).await
    }

    /// An administrator takes away a second factor that its owner has lost. Every session of the account ends, and a
    /// lock on its codes with them.
    ///
    /// # Errors
    /// [`CommandError::Account`] when there is none; [`CommandError::GrantExceedsOwn`] when the account may do more than
    /// whoever asks.
    pub async fn reset_second_factor(
        &self,
        context: &Context,
        own: Permissions,
        account: AccountId,
        reason: Reason,
    ) -> Result<Done<()>, CommandError> {
        let idempotency = self.bound(context, "reset_second_factor", account.0, &reason);
        if self.before::<()>(idempotency.as_ref()).await?.is_some() {
            return self.done_before(()).await;
        }
        let sealing = self.sealing(account, &reason).await?;
        let decided = self.decide(idempotency.as_ref(), async || {
            let (state, version) = self.account_state(account).await?;
            if context.account() == Some(account) && self.requires_second_factor(&state).await? {
                return Err(CommandError::SecondFactorRequired);
            }
            let mut unit = self.unit(context).sealing(sealing.clone());
            self.rest_on_rank(&mut unit, context, own, account, &state).await?;
            self.take_away(&mut unit, account, &state, version, DisabledBy::Admin).await?;
            self.revoke_sessions(&mut unit, account, &state, None, RevokedBy::SecondFactorReset).await?;
            Ok((unit, ()))
        });
        self.done(decided.await?).await
    }

    async fn take_away(
        &self,
        unit: &mut Unit<'_>,
        account: AccountId,
        state: &AccountState,
        version: u64,
        by: DisabledBy,
    ) -> Result<(), CommandError> {
        let events = Account::handle_command(state, AccountCommand::DisableSecondFactor { by })?;
        unit.expect(Category::Account, account.0, Expected::Exact(version));
        unit.vault(VaultWrite::ForgetSecondFactor { account });
        unit.record(account.0, Some(account), events)?;
        // What was counted against its codes goes with it. Of the address nothing is asked.
        if self.counted(account, "").await?.contains(&Factor::SecondFactor) {
            let (factor, by) = (Factor::SecondFactor, LiftedBy::Reset);
            let lifted = AuthenticationEvent::LockLifted { factor, by, device: None, scope: None };
            unit.record(account.0, Some(account), [lifted])?;
        }
        Ok(())
    }

    /// The second step of a login: a code of the second factor, or a recovery code.
    ///
    /// # Errors
    /// [`CommandError::InvalidCredentials`], whatever is wrong; [`CommandError::LockedDown`] in its place during a
    /// lockdown.
    pub async fn second_factor(
        &self,
        context: &Context,
        challenge_token: &str,
        code: &TypedCode,
    ) -> Result<Done<LoggedIn>, CommandError> {
        self.as_during_lockdown(self.second_step(context, challenge_token, code).await).await
    }

    async fn second_step(
        &self,
        context: &Context,
        challenge_token: &str,
        code: &TypedCode,
    ) -> Result<Done<LoggedIn>, CommandError> {
        let content = [challenge_token.as_bytes(), code.as_str().as_bytes()];
        let idempotency = Idempotency::of(&self.vault, context, "second_factor", &content);
        if let Some((outcome, is_recent)) = self.before_with_age::<Outcome>(idempotency.as_ref()).await? {
            return self.answer(context, outcome, is_recent).await;
        }
        let (challenge, found) = self.challenged(challenge_token, Purpose::SecondFactor).await?;
        let account = challenge.account;
        // It may have been forgotten since, and then never comes back.
        let known = challenge.known_device && self.knows_device(context, account, challenge.device).await?;
        let (device, subject) = match known {
            true => (challenge.device, Subject::Device(account, challenge.device)),
            false => (context.new_id(), Subject::Account(account)),
        };
        if challenge.has_expired(context.now) {
            let attempt = Reserved::uncounted(Factor::SecondFactor);
            return self.refuse(context, Some(&found), Verdict::ExpiredChallenge, &attempt, idempotency.as_ref()).await;
        }
        let attempt = self.reserve_attempt(subject, Factor::SecondFactor, context.now).await?;
        let spent = self.settled(&attempt, self.spend_code(&found, code, &attempt, context.now).await).await?;
        let Some(Spent { recovery, seed }) = spent else {
            let verdict = attempt.verdict(Some(&found));
            return self.refuse(context, Some(&found), verdict, &attempt, idempotency.as_ref()).await;
        };
        let presented = Presented {
            methods: vec![Method::Password, Method::OneTime],
            device,
            known_device: known,
            attempt: &attempt,
            rehashed: None,
            seed: Some(seed),
            recovery,
        };
        self.proceed(context, &found, &presented, idempotency.as_ref()).await
    }

    /// Spends a code, or finds a recovery code, if it is right; of a locked account nothing is evaluated.
    pub(crate) async fn spend_code(
        &self,
        found: &Found,
        code: &TypedCode,
        attempt: &Reserved,
        now: DateTime<Utc>,
    ) -> Result<Option<Spent>, CommandError> {
        if attempt.lockout == Lockout::Locked {
            return Ok(None);
        }
        let Some(seed) = found.seed.clone() else { return Ok(None) };
        let recovery = is_recovery_code(code).then(|| self.recovery_hash(found.account, code));
        let right = match recovery {
            Some(hash) => self.has_recovery_code(found.account, hash).await?,
            None => match step_of(&found.key.open("totp", &seed)?, code, now)? {
                Some(step) => self.spend_step(found.account, &seed, step).await?,
                None => false,
            },
        };
        Ok(right.then_some(Spent { recovery, seed }))
    }

    async fn has_recovery_code(&self, account: AccountId, hash: [u8; 32]) -> Result<bool, CommandError> {
        let has = sqlx::query_scalar!(
            r#"select exists (
                   select from vault.recovery_code where account_id = $1 and code_hash = $2) as "has!""#,
            account.0,
            hash.as_slice()
        );
        Ok(has.fetch_one(&self.pool).await?)
    }

    /// Whether a code that was right is still one of the account's factor: the seed is the same, and the recovery code not
    /// spent. To be asked once the account's version is known that the append rests on.
    pub(crate) async fn still_a_factor(
        &self,
        account: AccountId,
        seed: &[u8],
        recovery: Option<[u8; 32]>,
    ) -> Result<(), CommandError> {
        let is_same = self.seed(account, "totp").await?.as_deref() == Some(seed);
        let is_left = match recovery {
            Some(hash) => self.has_recovery_code(account, hash).await?,
            None => true,
        };
        if is_same && is_left { Ok(()) } else { Err(CommandError::InvalidCredentials) }
    }

    /// Only one of those who present a code of this step, or of an earlier one, of the same seed wins.
    async fn spend_step(&self, account: AccountId, seed: &[u8], step: u64) -> Result<bool, CommandError> {
        let spent = sqlx::query!(
            "update vault.credential set last_step = $3
             where account_id = $1 and kind in ('totp', 'totp_pending') and verifier = $2
               and (last_step is null or last_step < $3)",
            account.0,
            seed,
            i64::try_from(step).unwrap_or(i64::MAX)
        )
        .execute(&self.pool)
        .await?;
        Ok(spent.rows_affected() == 1)
    }

    /// A sealed seed, in use or pending.
    pub(crate) async fn seed(&self, account: AccountId, kind: &str) -> Result<Option<Vec<u8>>, CommandError> {
        let seed = sqlx::query_scalar!(
            "select verifier from vault.credential where account_id = $1 and kind = $2",
            account.0,
            kind
        )
        .fetch_optional(&self.pool)
        .await?;
        Ok(seed)
    }

    /// Whether one of its roles allows nothing without a second factor.
    pub(crate) async fn requires_second_factor(&self, state: &AccountState) -> Result<bool, CommandError> {
        let policy = self.current_policy().await?;
        Ok(state.roles.iter().any(|role| policy.second_factor.required_for.contains(role)))
    }

    fn recovery_codes(&self, account: AccountId, batch: &Batch) -> RecoveryCodes {
        let code = |number: u32| {
            let parts: [&[u8]; 3] = [account.0.as_bytes(), &batch.0, &number.to_be_bytes()];
            Zeroizing::new(written(&self.vault.digest("recovery-code", &parts)))
        };
        RecoveryCodes((0..RECOVERY_CODES).map(code).collect())
    }

    fn store(&self, account: AccountId, codes: &RecoveryCodes) -> VaultWrite {
        let hashes = codes.0.iter().map(|code| self.recovery_hash(account, &TypedCode::new(code)).to_vec());
        VaultWrite::RecoveryCodes { account, hashes: hashes.collect() }
    }

    fn recovery_hash(&self, account: AccountId, code: &TypedCode) -> [u8; 32] {
        self.vault.digest("recovery-code/stored", &[account.0.as_bytes(), code.as_str().as_bytes()])
    }
}

/// SHA-1, six digits, 30 seconds, one step of skew: what every authenticator app speaks.
fn totp(seed: &[u8], account_name: &str) -> Result<Totp, CommandError> {
    let built = Builder::new()
        .with_secret(seed.to_vec())
        .with_skew(1)
        .with_issuer(Some(ISSUER))
        .with_account_name(account_name)
        .build();
    built.map_err(|error| CommandError::Internal(format!("a seed is no TOTP seed: {error}")))
}

/// The time step that a code is right for, now or one step off.
fn step_of(seed: &[u8], code: &TypedCode, now: DateTime<Utc>) -> Result<Option<u64>, CommandError> {
    let code = code.as_str();
    let sound = code.len() == 6 && code.bytes().all(|byte| byte.is_ascii_digit());
    let now = u64::try_from(now.timestamp()).unwrap_or(0);
    Ok(if sound { totp(seed, "account")?.check(code, now) } else { None })
}

/// Crockford's alphabet: no letter that is taken for a digit.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// Fifty bits, as `xxxxx-xxxxx`.
fn written(digest: &[u8; 32]) -> String {
    let letter = |byte: &u8| ALPHABET.get(usize::from(byte % 32)).copied().map_or('0', char::from);
    let (first, rest) = digest.split_at(5);
    let second = rest.iter().take(5).map(letter);
    first.iter().map(letter).chain(['-']).chain(second).collect()
}

/// Whether what was typed has the form of a recovery code.
fn is_recovery_code(code: &TypedCode) -> bool {
    let code = code.as_str();
    code.len() == 10 && code.bytes().all(|byte| ALPHABET.contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(seconds, 0).unwrap()
    }

    #[test]
    fn codes_are_those_of_rfc_6238() {
        // Appendix B, SHA-1, the last six of its eight digits.
        let seed = b"12345678901234567890";
        let vectors = [
            (59, "287082"),
            (1_111_111_109, "081804"),
            (1_111_111_111, "050471"),
            (1_234_567_890, "005924"),
            (2_000_000_000, "279037"),
            (20_000_000_000, "353130"),
        ];
        for (seconds, code) in vectors {
            assert_eq!(
                step_of(seed, &TypedCode::new(code), at(seconds)).unwrap(),
                Some(seconds.unsigned_abs() / 30),
                "{seconds}"
            );
        }
    }

    #[test]
    fn a_code_is_good_one_step_early_or_late_and_no_more() {
        let seed = b"12345678901234567890";
        let step = |seconds| step_of(seed, &TypedCode::new("081804"), at(seconds)).unwrap();
        let own = Some(1_111_111_109 / 30);
        // Its step is 1,111,111,080 to 1,111,111,109.
        assert_eq!([1_111_111_050, 1_111_111_080, 1_111_111_139].map(step), [own; 3]);
        assert_eq!([1_111_111_049, 1_111_111_140].map(step), [None; 2]);
    }

    #[test]
    fn nothing_but_six_digits_is_a_code() {
        let seed = b"12345678901234567890";
        for code in ["", "28708", "2870820", "+87082", " 87082", "28708a"] {
            assert_eq!(step_of(seed, &TypedCode::new(code), at(59)).unwrap(), None, "{code}");
        }
    }

    #[test]
    fn a_recovery_code_is_read_as_people_write_it() {
        let code = written(&[7; 32]);
        assert_eq!((code.len(), code.as_str()), (11, "77777-77777"));
        for text in ["abcde-fghjk", "ABCDEFGHJK", " abcde fghjk ", "ab-cd-ef-gh-jk", "abcde–fghjk"] {
            let typed = TypedCode::new(text);
            assert!(is_recovery_code(&typed) && typed.as_str() == "abcdefghjk", "{text}");
        }
        for text in ["", "abcde-fghj", "abcde-fghjkm", "abcde-fghji", "123456", &"a".repeat(1_000)] {
            assert!(!is_recovery_code(&TypedCode::new(text)), "{text}");
        }
    }
}
