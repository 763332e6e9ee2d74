//! The keys of the vault, wrapped again with the key in use: a batch at a time, while everybody else reads and writes. A row
//! names the key that wraps it, so that an interrupted run continues where it was.
//!
//! A row is changed only if it still has the value that was read, so that a key that was destroyed meanwhile stays destroyed.
//! Rows that somebody else holds are left for the next round: nobody waits for this work for longer than a batch takes.

use fulexo_domain::key::KeyLabel;
use uuid::Uuid;

use super::key_hierarchy::{SERVICE_CONTEXT, Vault, VaultError};
use super::subject::DataKeyOwner;

/// The number of rows in a batch.
const BATCH: i64 = 500;

/// A batch that was wrapped again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RewrappedBatch {
    /// The number of rows that were changed.
    pub rows: u64,
    /// The last person of the batch; `None` if there was none after the one before.
    pub last: Option<Uuid>,
}

impl Vault {
    /// Wraps the next data keys of persons that the key `from` wraps with the one in use, those after `after` in the order of
    /// ids.
    ///
    /// # Errors
    /// [`VaultError::WrongKey`] if a row does not open under the key that it names. That batch is then as before.
    pub async fn rewrap_subjects(&self, from: &KeyLabel, after: Uuid) -> Result<RewrappedBatch, VaultError> {
        let to = self.primary()?;
        let rows = sqlx::query!(
            r#"select subject_id, wrapped as "wrapped!" from vault.subject_key
               where wrapped_by = $1 and subject_id > $2 order by subject_id limit $3"#,
            from.as_str(),
            after,
            BATCH
        )
        .fetch_all(&self.pool)
        .await?;
        let last = rows.last().map(|row| row.subject_id);
        let (mut subjects, mut old, mut fresh) = (Vec::new(), Vec::new(), Vec::new());
        for row in rows {
            let context = DataKeyOwner::Subject(row.subject_id).wrapping_context();
            let key = self.unwrap_data_key(from.as_str(), &context, &row.wrapped, "subject keys")?;
            subjects.push(row.subject_id);
            old.push(row.wrapped);
            fresh.push(to.key.wrap(&context, &key)?);
        }
        let changed = sqlx::query!(
            "with unchanged as (
                 select k.subject_id, n.fresh
                 from unnest($1::uuid[], $2::bytea[], $3::bytea[]) n (subject_id, old, fresh)
                 join vault.subject_key k on k.subject_id = n.subject_id and k.wrapped = n.old
                 order by k.subject_id for update of k skip locked)
             update vault.subject_key k set wrapped = u.fresh, kek_id = $4
             from unchanged u where k.subject_id = u.subject_id",
            &subjects,
            &old,
            &fresh,
            to.id
        )
        .execute(&self.pool)
        .await?;
        Ok(RewrappedBatch { rows: changed.rows_affected(), last })
    }

    /// Wraps the keys of months, and the service key, as far as the key `from` wraps them, with the one in use. Returns their
    /// number.
    ///
    /// # Errors
    /// As [`Vault::rewrap_subjects`].
    pub async fn rewrap_others(&self, from: &KeyLabel) -> Result<u64, VaultError> {
        let to = self.primary()?;
        let mut changed = 0;
        let months = sqlx::query!("select period, wrapped from vault.period_key where kek_id = $1", from.as_str());
        for row in months.fetch_all(&self.pool).await? {
            let context = DataKeyOwner::Period(row.period).wrapping_context();
            let key = self.unwrap_data_key(from.as_str(), &context, &row.wrapped, "period keys")?;
            let done = sqlx::query!(
                "update vault.period_key set wrapped = $3, kek_id = $4 where period = $1 and wrapped = $2",
                row.period,
                row.wrapped,
                to.key.wrap(&context, &key)?,
                to.id
            )
            .execute(&self.pool)
            .await?;
            changed += done.rows_affected();
        }
        let service = sqlx::query!("select purpose, wrapped from vault.service_key where kek_id = $1", from.as_str());
        for row in service.fetch_all(&self.pool).await? {
            let key = self.unwrap_data_key(from.as_str(), SERVICE_CONTEXT, &row.wrapped, "service key")?;
            let done = sqlx::query!(
                "update vault.service_key set wrapped = $3, kek_id = $4 where purpose = $1 and wrapped = $2",
                row.purpose,
                row.wrapped,
                to.key.wrap(SERVICE_CONTEXT, &key)?,
                to.id
            )
            .execute(&self.pool)
            .await?;
            changed += done.rows_affected();
        }
        Ok(changed)
    }
}
