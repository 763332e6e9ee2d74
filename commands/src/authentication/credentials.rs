//! The stored credentials of accounts, found by address or id, and the values derived from them.

use fulexo_domain::account::AccountState;
use fulexo_domain::password::Password;
use fulexo_domain::snapshot::AccountSnapshot;
use fulexo_domain::values::{AccountId, EmailAddress};
use sqlx::PgPool;
use uuid::Uuid;

use crate::authentication::password_hash::{HashingPermit, PasswordHasher, Verifier};
use crate::error::CommandError;
use crate::log::LoadedStream;
use crate::vault::{DataKey, Vault};
use crate::write_side::WriteSide;

/// The stored credentials of an account, as a login needs them.
pub(crate) struct StoredCredentials {
    pub account: AccountId,
    /// The account's version at which the verifier was read.
    pub version: u64,
    pub key: DataKey,
    pub verifier: Verifier,
    /// The sealed seed of its second factor, if it has one.
    pub seed: Option<Vec<u8>>,
}

struct CredentialsRow {
    account: Uuid,
    version: i64,
    verifier: Vec<u8>,
    wrapped: Vec<u8>,
    kek_id: String,
    seed: Option<Vec<u8>>,
}

pub(crate) fn read_verifier(key: &DataKey, sealed: &[u8]) -> Result<Verifier, CommandError> {
    let bytes = key.open_verifier("password", sealed)?;
    // The error would contain the bytes.
    let text = String::from_utf8(bytes.to_vec()).map_err(|_| CommandError::internal("a verifier is not text"))?;
    Ok(Verifier::new(text))
}

/// Hashes a new password.
pub(crate) async fn hash_password(
    hasher: &PasswordHasher,
    password: Password,
    permit: HashingPermit,
) -> Result<Verifier, CommandError> {
    Ok(hasher.hash(password, permit).await?)
}

/// Returns a digest of the verifier and the sealed seed of an account.
pub(crate) fn factors_digest(vault: &Vault, verifier: &Verifier, seed: Option<&[u8]>) -> [u8; 32] {
    vault.digest("factors", &[verifier.expose().as_bytes(), seed.unwrap_or_default()])
}

pub(crate) fn factors_digest_of(vault: &Vault, stored: &StoredCredentials) -> [u8; 32] {
    factors_digest(vault, &stored.verifier, stored.seed.as_deref())
}

/// Finds the credentials of the account that holds this address.
pub(crate) async fn find_by_email(
    side: &WriteSide,
    email: &EmailAddress,
) -> Result<Option<StoredCredentials>, CommandError> {
    let hash = email_hash(&side.vault, email);
    let row = sqlx::query_as!(
        CredentialsRow,
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
    .fetch_optional(&side.pool)
    .await?;
    row.map(|row| open_credentials(&side.vault, row)).transpose()
}

/// Finds the credentials of an account.
pub(crate) async fn find(side: &WriteSide, account: AccountId) -> Result<Option<StoredCredentials>, CommandError> {
    let row = sqlx::query_as!(
        CredentialsRow,
        r#"select c.account_id as account, s.version, c.verifier, sk.wrapped as "wrapped!", sk.kek_id,
                  t.verifier as "seed?"
           from vault.credential c
           join log.stream s on s.stream_id = c.account_id and s.category = 'account'
           join vault.subject_key sk on sk.subject_id = c.account_id and sk.wrapped is not null
           left join vault.credential t on t.account_id = c.account_id and t.kind = 'totp'
           where c.account_id = $1 and c.kind = 'password'"#,
        account.0
    )
    .fetch_optional(&side.pool)
    .await?;
    row.map(|row| open_credentials(&side.vault, row)).transpose()
}

fn open_credentials(vault: &Vault, row: CredentialsRow) -> Result<StoredCredentials, CommandError> {
    let key = vault.open_subject_key(row.account, &row.kek_id, &row.wrapped)?;
    let verifier = read_verifier(&key, &row.verifier)?;
    let (account, version) = (AccountId(row.account), row.version.unsigned_abs());
    Ok(StoredCredentials { account, version, key, verifier, seed: row.seed })
}

/// Returns the current state and version of an account, if its password is still the verified one.
pub(crate) async fn state_with_same_password(
    side: &WriteSide,
    verified: &StoredCredentials,
) -> Result<(AccountState, u64), CommandError> {
    let loaded = account_with_same_password(side, verified).await?;
    Ok((loaded.snapshot.state, loaded.version))
}

/// Returns an account as the log has it, if its password is still the verified one. Hashing takes time, and the password
/// may have been changed meanwhile.
pub(crate) async fn account_with_same_password(
    side: &WriteSide,
    verified: &StoredCredentials,
) -> Result<LoadedStream<AccountSnapshot>, CommandError> {
    let loaded = side.account(verified.account).await?;
    if loaded.version != verified.version {
        let now = find(side, verified.account).await?;
        if now.is_none_or(|now| now.verifier.expose() != verified.verifier.expose()) {
            return Err(CommandError::InvalidCredentials);
        }
    }
    Ok(loaded)
}

pub(crate) fn email_hash(vault: &Vault, email: &EmailAddress) -> [u8; 32] {
    vault.digest("unique/email", &[email.normalised().as_bytes()])
}

/// Returns a sealed seed, in use or pending.
pub(crate) async fn sealed_seed(
    pool: &PgPool,
    account: AccountId,
    kind: &str,
) -> Result<Option<Vec<u8>>, CommandError> {
    let seed = sqlx::query_scalar!(
        "select verifier from vault.credential where account_id = $1 and kind = $2",
        account.0,
        kind
    )
    .fetch_optional(pool)
    .await?;
    Ok(seed)
}
