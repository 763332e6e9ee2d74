//! Where each read model stands, for whoever runs the service: from the database alone, whichever nodes run.

use chrono::{DateTime, Utc};
use sqlx::PgPool;

use crate::feed;
use crate::read_models::Projection;

/// Where one stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ViewStatus {
    /// Which.
    pub projection: Projection,
    /// The version that readers see.
    pub version: u32,
    /// Every event below it is visible.
    pub position: u64,
    /// The number of events in the log.
    pub log_size: u64,
    /// The node that applied the last batch.
    pub owner: Option<String>,
    /// Why it does not move, when it does not.
    pub stopped_because: Option<String>,
    /// A new version that is being built, or was when something interrupted it.
    pub build: Option<Building>,
    /// The version that a roll back brings back, and when it was replaced.
    pub previous: Option<(u32, DateTime<Utc>)>,
}

/// A version that is not live yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Building {
    /// Its number.
    pub version: u32,
    /// Every event below it is applied.
    pub position: u64,
    /// Whether somebody is at it.
    pub is_under_way: bool,
}

/// Where all of them stand, as of one moment.
///
/// # Errors
/// The database.
pub async fn statuses(pool: &PgPool) -> Result<Vec<ViewStatus>, sqlx::Error> {
    let mut transaction = pool.begin().await?;
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
        statuses.push(ViewStatus {
            projection,
            version: row.version.unsigned_abs(),
            position: row.position.unsigned_abs(),
            log_size,
            owner: row.owner,
            stopped_because: row.stopped_because,
            build: row.build_version.zip(row.build_position).map(|(version, position)| Building {
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
