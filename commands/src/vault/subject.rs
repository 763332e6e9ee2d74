//! Data keys: one a person, one a calendar month. A person's key is destroyed when the person is forgotten.

use chrono::{DateTime, Datelike, NaiveDate, Utc};
use fulexo_domain::values::AccountId;
use uuid::Uuid;

use super::crypto::{SealedValue, SymmetricKey, UnsealError};
use super::key_hierarchy::{Vault, VaultError};

/// A person's data key, with its owner: whatever it seals is bound to both.
#[derive(Clone)]
pub struct DataKey {
    pub(super) owner: DataKeyOwner,
    pub(super) key: SymmetricKey,
}

/// Whose key it is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum DataKeyOwner {
    /// A person.
    Subject(Uuid),
    /// A month, by its first day.
    Period(NaiveDate),
}

/// A key on its way into the database, written in the transaction of the event that needs it.
pub struct WrappedKey {
    pub(crate) subject_id: Uuid,
    pub(crate) wrapped: Vec<u8>,
    pub(crate) kek_id: String,
}

impl DataKeyOwner {
    fn context(self, purpose: &str) -> Vec<u8> {
        match self {
            Self::Subject(id) => format!("fulexo/{purpose}/1/subject/{id}"),
            Self::Period(month) => format!("fulexo/{purpose}/1/period/{month}"),
        }
        .into_bytes()
    }
}

impl DataKey {
    /// Whether it is this person's.
    pub(crate) fn is_of(&self, account: AccountId) -> bool {
        self.owner == DataKeyOwner::Subject(account.0)
    }

    /// Seals a verifier of this person.
    pub(crate) fn seal_verifier(&self, kind: &str, verifier: &str) -> Result<Vec<u8>, VaultError> {
        self.seal(kind, verifier.as_bytes())
    }

    /// Seals a secret of this person.
    pub(crate) fn seal(&self, kind: &str, secret: &[u8]) -> Result<Vec<u8>, VaultError> {
        Ok(self.key.seal(&self.verifier_context(kind), secret)?.to_bytes())
    }

    /// Reverses [`DataKey::seal`].
    pub(crate) fn open(&self, kind: &str, sealed: &[u8]) -> Result<zeroize::Zeroizing<Vec<u8>>, UnsealError> {
        self.open_verifier(kind, sealed)
    }

    /// Reverses [`DataKey::seal_verifier`].
    pub(crate) fn open_verifier(&self, kind: &str, sealed: &[u8]) -> Result<zeroize::Zeroizing<Vec<u8>>, UnsealError> {
        self.key.open(&self.verifier_context(kind), &SealedValue::from_bytes(sealed).ok_or(UnsealError)?)
    }

    fn verifier_context(&self, kind: &str) -> Vec<u8> {
        self.owner.context(&format!("verifier/{kind}"))
    }
}

impl Vault {
    /// Draws a key for a person who has none yet. Nothing is written: the wrapped key goes with the append.
    pub(crate) fn new_subject_key(&self, account: AccountId) -> Result<(DataKey, WrappedKey), VaultError> {
        let kek = self.primary()?;
        let subject_key = DataKey { owner: DataKeyOwner::Subject(account.0), key: SymmetricKey::random()? };
        let wrapped = kek.key.wrap(&subject_key.owner.context("data-key"), &subject_key.key)?;
        Ok((subject_key, WrappedKey { subject_id: account.0, wrapped, kek_id: kek.id.clone() }))
    }

    /// The key of a person; `None` when the person was forgotten or never known.
    pub(crate) async fn subject_key(&self, account: AccountId) -> Result<Option<DataKey>, VaultError> {
        let row = sqlx::query!("select wrapped, kek_id from vault.subject_key where subject_id = $1", account.0)
            .fetch_optional(&self.pool)
            .await?;
        row.and_then(|row| Some((row.wrapped?, row.kek_id)))
            .map(|(wrapped, kek_id)| self.open_subject_key(account.0, &kek_id, &wrapped))
            .transpose()
    }

    pub(crate) fn open_subject_key(&self, subject: Uuid, kek_id: &str, wrapped: &[u8]) -> Result<DataKey, VaultError> {
        let owner = DataKeyOwner::Subject(subject);
        let key = self.unwrap_data_key(kek_id, &owner.context("data-key"), wrapped, "subject keys")?;
        Ok(DataKey { owner, key })
    }

    /// The key of the month of `now`, drawn the first time it is asked for.
    pub(crate) async fn period_key(&self, now: DateTime<Utc>) -> Result<DataKey, VaultError> {
        let date = now.date_naive();
        let month = date.with_day(1).unwrap_or(date);
        let owner = DataKeyOwner::Period(month);
        let find = || {
            sqlx::query!("select wrapped, kek_id from vault.period_key where period = $1", month)
                .fetch_optional(&self.pool)
        };
        let row = if let Some(row) = find().await? {
            row
        } else {
            let kek = self.primary()?;
            let wrapped = kek.key.wrap(&owner.context("data-key"), &SymmetricKey::random()?)?;
            // Whoever inserts first draws the key of the month; all read it.
            sqlx::query!(
                "insert into vault.period_key (period, wrapped, kek_id) values ($1, $2, $3)
                 on conflict on constraint period_key_pkey do nothing",
                month,
                wrapped,
                kek.id
            )
            .execute(&self.pool)
            .await?;
            find().await?.ok_or(sqlx::Error::RowNotFound)?
        };
        let key = self.unwrap_data_key(&row.kek_id, &owner.context("data-key"), &row.wrapped, "period keys")?;
        Ok(DataKey { owner, key })
    }

    pub(crate) fn open_period_key(
        &self,
        month: NaiveDate,
        kek_id: &str,
        wrapped: &[u8],
    ) -> Result<DataKey, VaultError> {
        let owner = DataKeyOwner::Period(month);
        let key = self.unwrap_data_key(kek_id, &owner.context("data-key"), wrapped, "period keys")?;
        Ok(DataKey { owner, key })
    }
}
