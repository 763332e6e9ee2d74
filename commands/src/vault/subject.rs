//! Data keys: one per person, and one per calendar month for data that belongs to nobody. A person's key is destroyed
//! when the person is forgotten.

use chrono::{DateTime, Datelike, NaiveDate, Utc};
use fulexo_domain::values::AccountId;
use uuid::Uuid;

use super::address_key::AddressKey;
use super::crypto::{SealedValue, SymmetricKey, UnsealError};
use super::key_hierarchy::{Vault, VaultError};

/// A data key with its owner. Sealed values are bound to both.
#[derive(Clone)]
pub struct DataKey {
    pub(super) owner: DataKeyOwner,
    pub(super) key: SymmetricKey,
    /// The key of the digests by which what this key seals is found. It is the same for all owners.
    pub(super) addresses: AddressKey,
}

/// The owner of a data key.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum DataKeyOwner {
    /// A person.
    Subject(Uuid),
    /// A month, by its first day.
    Period(NaiveDate),
}

/// A wrapped key, to be written in the transaction of the event that needs it.
pub struct WrappedKey {
    pub(crate) subject_id: Uuid,
    pub(crate) wrapped: Vec<u8>,
    pub(crate) kek_id: String,
}

impl DataKeyOwner {
    /// Returns the context that the wrapped key is bound to.
    pub(super) fn wrapping_context(self) -> Vec<u8> {
        self.context("data-key")
    }

    fn context(self, purpose: &str) -> Vec<u8> {
        match self {
            Self::Subject(id) => format!("fulexo/{purpose}/1/subject/{id}"),
            Self::Period(month) => format!("fulexo/{purpose}/1/period/{month}"),
        }
        .into_bytes()
    }
}

impl DataKey {
    /// Returns `true` if the key belongs to this account.
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
    fn data_key(&self, owner: DataKeyOwner, key: SymmetricKey) -> DataKey {
        DataKey { owner, key, addresses: self.address_key().clone() }
    }

    /// Draws a key for a person who has none yet. Writes nothing: the wrapped key is part of the append.
    pub(crate) fn new_subject_key(&self, account: AccountId) -> Result<(DataKey, WrappedKey), VaultError> {
        let kek = self.primary()?;
        let subject_key = self.data_key(DataKeyOwner::Subject(account.0), SymmetricKey::random()?);
        let wrapped = kek.key.wrap(&subject_key.owner.wrapping_context(), &subject_key.key)?;
        Ok((subject_key, WrappedKey { subject_id: account.0, wrapped, kek_id: kek.id }))
    }

    /// Returns the key of a person, or `None` if the person was forgotten or never known.
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
        let key = self.unwrap_data_key(kek_id, &owner.wrapping_context(), wrapped, "subject keys")?;
        Ok(self.data_key(owner, key))
    }

    /// Returns the key of the month of `now`. The first call of a month draws it.
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
            let wrapped = kek.key.wrap(&owner.wrapping_context(), &SymmetricKey::random()?)?;
            // The first insert wins, and all nodes read its key.
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
        let key = self.unwrap_data_key(&row.kek_id, &owner.wrapping_context(), &row.wrapped, "period keys")?;
        Ok(self.data_key(owner, key))
    }

    pub(crate) fn open_period_key(
        &self,
        month: NaiveDate,
        kek_id: &str,
        wrapped: &[u8],
    ) -> Result<DataKey, VaultError> {
        let owner = DataKeyOwner::Period(month);
        let key = self.unwrap_data_key(kek_id, &owner.wrapping_context(), wrapped, "period keys")?;
        Ok(self.data_key(owner, key))
    }
}
