//! The status of each read model, for operators. It comes from the database alone, whichever nodes run.

use chrono::{DateTime, Utc};
use fulexo_database::begin;
use sqlx::PgPool;

use crate::feed;
use crate::read_models::Projection;

/// The status of a read model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadModelStatus {
    /// The read model.
    pub projection: Projection,
    /// The live version.
    pub version: u32,
    /// Every event below this position is visible.
    pub position: u64,
    /// The number of events in the log.
    pub log_size: u64,
    /// The name of the node that applied the last batch.
    pub owner: Option<String>,
    /// The reason for which the projection has stopped, if it has.
    pub stopped_because: Option<String>,
    /// The build of a new version, running or interrupted.
    pub build: Option<BuildStatus>,
    /// The version that a rollback restores, and the time at which it was replaced.
    pub previous: Option<(u32, DateTime<Utc>)>,
}

/// The status of a build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BuildStatus {
    /// The version being built.
    pub version: u32,
    /// Every event below this position is applied.
    pub position: u64,
    /// `true` if a process is working on it.
    pub is_under_way: bool,
}

/// The status of every read model, from one snapshot.
///
/// # Errors
/// [`sqlx::Error`].
pub async fn statuses(pool: &PgPool) -> Result<Vec<ReadModelStatus>, sqlx::Error> {
    let mut transaction = begin(pool).await?;
    sqlx::query!("set transaction isolation level repeatable read, read only").execute(&mut *transaction).await?;
    let log_size = feed::size(&mut transaction).await?;
    let mut statuses = Vec::new();
    for projection in Projection::ALL {
        let row = sqlx::query!(
            r#"select c.version, c.position, c.owner, c.stopped_because,
                      b.version as "build_version?", b.position as "build_position?",
                      p.version as "previous_version?", p.replaced_at as "replaced_at?",
                      -- The 64 bits of the key, in two halves.
                      exists (
                          select from pg_locks l
                          where l.locktype = 'advisory' and l.granted and l.objsubid = 1
                            and l.database = (select d.oid from pg_database d where d.datname = current_database())
                            and (l.classid::bigint << 32 | l.objid::bigint)
                                = hashtextextended('projection.build ' || c.name, 0)
                      ) as "is_under_way!"
               from projection.checkpoint c
               left join projection.build b on b.name = c.name
               left join projection.previous p on p.name = c.name
               where c.name = $1"#,
            projection.as_str()
        )
        .fetch_one(&mut *transaction)
        .await?;
        statuses.push(ReadModelStatus {
            projection,
            version: row.version.unsigned_abs(),
            position: row.position.unsigned_abs(),
            log_size,
            owner: row.owner,
            stopped_because: row.stopped_because,
            build: row.build_version.zip(row.build_position).map(|(version, position)| BuildStatus {
                version: version.unsigned_abs(),
                position: position.unsigned_abs(),
                is_under_way: row.is_under_way,
            }),
            previous: row.previous_version.map(i32::unsigned_abs).zip(row.replaced_at),
        });
    }
    transaction.commit().await?;
    Ok(statuses)
}
