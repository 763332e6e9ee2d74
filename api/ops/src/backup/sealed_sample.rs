//! A sample of what is sealed alongside events in a restored database: what has to open, if its keys are worth anything.

use sqlx::PgConnection;

use super::error::BackupError;

/// The number of events at each end of the log.
const EACH: i64 = 100;
/// Data of an erased person has no key any more. The key of a month is destroyed with time, so that one that is not there says
/// nothing.
const DUE: &str =
    "(s.subject_id is not null and not exists (select from vault.erasure e where e.account_id = s.subject_id)
     or exists (select from vault.period_key k where k.period = s.period))";

/// The newest and the oldest events with sealed data that has to open.
pub struct SealedSample {
    /// Their positions, in order.
    pub positions: Vec<i64>,
    /// The positions among them whose data has lost its key.
    pub lost: Vec<i64>,
}

/// Draws the sample.
///
/// # Errors
/// [`BackupError::Database`].
pub async fn sealed_sample(connection: &mut PgConnection) -> Result<SealedSample, BackupError> {
    let mut positions: Vec<i64> = Vec::new();
    for order in ["desc", "asc"] {
        let sql = format!(
            "select s.position from log.sealed s where {DUE} group by s.position order by s.position {order} limit {EACH}"
        );
        let found: Vec<i64> = sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).fetch_all(&mut *connection).await?;
        positions.extend(found);
    }
    positions.sort_unstable();
    positions.dedup();
    let sql = format!(
        "select distinct s.position from log.sealed s left join vault.subject_key k on k.subject_id = s.subject_id
         where s.position = any($1) and s.subject_id is not null and k.wrapped is null and {DUE} order by s.position"
    );
    let lost = sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).bind(&positions).fetch_all(&mut *connection).await?;
    Ok(SealedSample { positions, lost })
}
