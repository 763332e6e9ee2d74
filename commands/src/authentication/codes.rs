//! One-time codes and recovery codes: generation, verification, use.

use chrono::{DateTime, Utc};
use fulexo_domain::lockout::AttemptReservation;
use fulexo_domain::values::{AccountId, CodeInput};
use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use totp_rs::{Builder, Totp};
use zeroize::Zeroizing;

use crate::authentication::attempts::CountedAttempt;
use crate::authentication::credentials::{self, StoredCredentials};
use crate::error::CommandError;
use crate::vault::Vault;
use crate::vault::write::VaultWrite;
use crate::write_side::WriteSide;

/// The number of recovery codes in a set.
pub(crate) const RECOVERY_CODES: u32 = 10;
/// The issuer that authenticator apps show next to the account's name.
const ISSUER: &str = "Fulexo";

/// A set of recovery codes, shown once. No `Debug`; wiped when dropped.
pub struct RecoveryCodes(pub Vec<Zeroizing<String>>);

/// A verified code. A one-time code is used up at this point.
pub(crate) struct VerifiedCode {
    /// The digest of a recovery code, which the append uses up.
    pub recovery: Option<[u8; 32]>,
    /// The sealed seed. The append must find the same one.
    pub seed: Vec<u8>,
}

/// The random value that a set of recovery codes is derived from, together with the service key. A replay derives the
/// same codes again.
#[derive(Serialize, Deserialize)]
pub(crate) struct RecoveryCodeSeed(pub [u8; 16]);

/// Returns the TOTP of a seed: SHA-1, six digits, 30 seconds, one step of skew, as every authenticator app supports.
pub(crate) fn totp(seed: &[u8], account_name: &str) -> Result<Totp, CommandError> {
    let built = Builder::new()
        .with_secret(seed.to_vec())
        .with_skew(1)
        .with_issuer(Some(ISSUER))
        .with_account_name(account_name)
        .build();
    // The error may contain the account's address.
    built.map_err(|_| CommandError::internal("the seed is not a TOTP seed, or the address is not an account name"))
}

/// Returns the time step that a code matches, at most one step from now.
pub(crate) fn matching_step(seed: &[u8], code: &CodeInput, now: DateTime<Utc>) -> Result<Option<u64>, CommandError> {
    let code = code.as_str();
    let sound = code.len() == 6 && code.bytes().all(|byte| byte.is_ascii_digit());
    let now = u64::try_from(now.timestamp()).unwrap_or(0);
    Ok(if sound { totp(seed, "account")?.check(code, now) } else { None })
}

/// Crockford's alphabet, without letters that look like digits.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// Formats 50 bits of a digest as `xxxxx-xxxxx`.
pub(crate) fn format_recovery_code(digest: &[u8; 32]) -> String {
    let letter = |byte: &u8| ALPHABET.get(usize::from(byte % 32)).copied().map_or('0', char::from);
    let (first, rest) = digest.split_at(5);
    let second = rest.iter().take(5).map(letter);
    first.iter().map(letter).chain(['-']).chain(second).collect()
}

/// Returns `true` if the input has the form of a recovery code.
pub(crate) fn is_recovery_code(code: &CodeInput) -> bool {
    let code = code.as_str();
    code.len() == 10 && code.bytes().all(|byte| ALPHABET.contains(&byte))
}

/// Verifies a code. A one-time code is used up; a recovery code is only found. Returns `None` if the code is wrong. The
/// code of a locked account is not evaluated.
pub(crate) async fn verify_code(
    side: &WriteSide,
    stored: &StoredCredentials,
    code: &CodeInput,
    attempt: &CountedAttempt,
    now: DateTime<Utc>,
) -> Result<Option<VerifiedCode>, CommandError> {
    if attempt.lockout == AttemptReservation::Locked {
        return Ok(None);
    }
    let Some(seed) = stored.seed.clone() else { return Ok(None) };
    let recovery = is_recovery_code(code).then(|| recovery_hash(&side.vault, stored.account, code));
    let right = match recovery {
        Some(hash) => has_recovery_code(&side.pool, stored.account, hash).await?,
        None => match matching_step(&stored.key.open("totp", &seed)?, code, now)? {
            Some(step) => use_step(&side.pool, stored.account, &seed, step).await?,
            None => false,
        },
    };
    Ok(right.then_some(VerifiedCode { recovery, seed }))
}

async fn has_recovery_code(pool: &PgPool, account: AccountId, hash: [u8; 32]) -> Result<bool, CommandError> {
    let has = sqlx::query_scalar!(
        r#"select exists (
               select from vault.recovery_code where account_id = $1 and code_hash = $2) as "has!""#,
        account.0,
        hash.as_slice()
    );
    Ok(has.fetch_one(pool).await?)
}

/// Checks that a verified code still belongs to the account's factor: the seed is the same, and the recovery code is
/// unused. Call it after reading the account's version that the append expects.
pub(crate) async fn require_current_factor(
    pool: &PgPool,
    account: AccountId,
    seed: &[u8],
    recovery: Option<[u8; 32]>,
) -> Result<(), CommandError> {
    let is_same = credentials::sealed_seed(pool, account, "totp").await?.as_deref() == Some(seed);
    let is_left = match recovery {
        Some(hash) => has_recovery_code(pool, account, hash).await?,
        None => true,
    };
    if is_same && is_left { Ok(()) } else { Err(CommandError::InvalidCredentials) }
}

/// Uses up a time step. Returns `true` for the first caller with this step or a later one, and `false` for all others.
pub(crate) async fn use_step(pool: &PgPool, account: AccountId, seed: &[u8], step: u64) -> Result<bool, CommandError> {
    let spent = sqlx::query!(
        "update vault.credential set last_step = $3
         where account_id = $1 and kind in ('totp', 'totp_pending') and verifier = $2
           and (last_step is null or last_step < $3)",
        account.0,
        seed,
        i64::try_from(step).unwrap_or(i64::MAX)
    )
    .execute(pool)
    .await?;
    Ok(spent.rows_affected() == 1)
}

pub(crate) fn recovery_codes(vault: &Vault, account: AccountId, batch: &RecoveryCodeSeed) -> RecoveryCodes {
    let code = |number: u32| {
        let parts: [&[u8]; 3] = [account.0.as_bytes(), &batch.0, &number.to_be_bytes()];
        Zeroizing::new(format_recovery_code(&vault.digest("recovery-code", &parts)))
    };
    RecoveryCodes((0..RECOVERY_CODES).map(code).collect())
}

pub(crate) fn recovery_codes_write(vault: &Vault, account: AccountId, codes: &RecoveryCodes) -> VaultWrite {
    let hashes = codes.0.iter().map(|code| recovery_hash(vault, account, &CodeInput::new(code)).to_vec());
    VaultWrite::RecoveryCodes { account, hashes: hashes.collect() }
}

fn recovery_hash(vault: &Vault, account: AccountId, code: &CodeInput) -> [u8; 32] {
    vault.digest("recovery-code/stored", &[account.0.as_bytes(), code.as_str().as_bytes()])
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
                matching_step(seed, &CodeInput::new(code), at(seconds)).unwrap(),
                Some(seconds.unsigned_abs() / 30),
                "{seconds}"
            );
        }
    }

    #[test]
    fn a_code_is_good_one_step_early_or_late_and_no_more() {
        let seed = b"12345678901234567890";
        let step = |seconds| matching_step(seed, &CodeInput::new("081804"), at(seconds)).unwrap();
        let own = Some(1_111_111_109 / 30);
        // Its step is 1,111,111,080 to 1,111,111,109.
        assert_eq!([1_111_111_050, 1_111_111_080, 1_111_111_139].map(step), [own; 3]);
        assert_eq!([1_111_111_049, 1_111_111_140].map(step), [None; 2]);
    }

    #[test]
    fn nothing_but_six_digits_is_a_code() {
        let seed = b"12345678901234567890";
        for code in ["", "28708", "2870820", "+87082", " 87082", "28708a"] {
            assert_eq!(matching_step(seed, &CodeInput::new(code), at(59)).unwrap(), None, "{code}");
        }
    }

    #[test]
    fn a_recovery_code_is_read_as_people_write_it() {
        let code = format_recovery_code(&[7; 32]);
        assert_eq!((code.len(), code.as_str()), (11, "77777-77777"));
        for text in ["abcde-fghjk", "ABCDEFGHJK", " abcde fghjk ", "ab-cd-ef-gh-jk", "abcde–fghjk"] {
            let typed = CodeInput::new(text);
            assert!(is_recovery_code(&typed) && typed.as_str() == "abcdefghjk", "{text}");
        }
        for text in ["", "abcde-fghj", "abcde-fghjkm", "abcde-fghji", "123456", &"a".repeat(1_000)] {
            assert!(!is_recovery_code(&CodeInput::new(text)), "{text}");
        }
    }
}
