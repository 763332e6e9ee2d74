//! The last backup and the last one that was verified, from the index of the audit trail and the leaves of the log. Has no table: a
//! question about two types of events is answered by the index.

use chrono::{DateTime, Utc};
use fulexo_domain::event::Event;
use fulexo_domain::leaf;
use sqlx::{PgConnection, PgPool};

/// The most verifications that are looked through for one without findings.
const MAX_VERIFICATIONS: i64 = 100;

/// The times of the last events of backups.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BackupTimes {
    /// The time at which the last backup was recorded as taken.
    pub taken: Option<DateTime<Utc>>,
    /// The time at which the last verification was recorded that restored a backup and found nothing.
    pub verified: Option<DateTime<Utc>>,
}

/// Reads the times.
///
/// # Errors
/// [`sqlx::Error`].
pub async fn times(pool: &PgPool) -> Result<BackupTimes, sqlx::Error> {
    let connection = &mut *pool.acquire().await?;
    let taken = sqlx::query_scalar!(
        "select recorded_at from read.audit where event_type = 'backup.taken' order by position desc limit 1"
    );
    let taken = taken.fetch_optional(&mut *connection).await?;
    Ok(BackupTimes { taken, verified: verified(connection).await? })
}

async fn verified(connection: &mut PgConnection) -> Result<Option<DateTime<Utc>>, sqlx::Error> {
    let positions = sqlx::query_scalar!(
        "select position from read.audit where event_type = 'backup.verified' order by position desc limit $1",
        MAX_VERIFICATIONS
    );
    let positions = positions.fetch_all(&mut *connection).await?;
    // One at a time: the first one is the answer as a rule.
    for position in positions {
        let leaf = sqlx::query_scalar!("select leaf from log.event where position = $1", position);
        let leaf = leaf.fetch_optional(&mut *connection).await?;
        // A leaf of a newer version says nothing here.
        let recorded = leaf.and_then(|leaf| leaf::decode(position.unsigned_abs(), &leaf).ok());
        if let Some(recorded) = recorded
            && matches!(&recorded.event, Event::Backup(event) if event.is_proof())
        {
            return Ok(Some(recorded.recorded_at));
        }
    }
    Ok(None)
}
