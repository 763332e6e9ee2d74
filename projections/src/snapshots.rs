//! Compares snapshots with the log: the state that each stores, and the state that its events produce.

use fulexo_domain::event::{Category, Stream};
use fulexo_domain::leaf;
use fulexo_domain::snapshot::{AccountSnapshot, PolicySnapshot, RoleSnapshot, SessionSnapshot, Snapshot};
use futures_util::TryStreamExt;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::feed::FeedError;

/// The number of snapshots per read.
const PAGE_SIZE: i64 = 1_000;

/// The result of comparing all snapshots with the log.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SnapshotComparison {
    /// The number of snapshots that match the log.
    pub matching: u64,
    /// The number of unusable snapshots: in the format of another build, or of an event that this log does not have
    /// there.
    pub unused: u64,
    /// The number of snapshots that differ from the log.
    pub differing: u64,
    /// The streams of the first of these.
    pub examples: Vec<Stream>,
}

/// The maximum number of differing streams to name.
const MAX_EXAMPLES: usize = 100;

struct SnapshotRow {
    stream_id: Uuid,
    category: String,
    format: i16,
    version: i64,
    state: String,
    is_used: bool,
}

/// Compares every snapshot with the log.
///
/// # Errors
/// [`FeedError`]: the database failed, or this build cannot read a leaf.
pub async fn compare(connection: &mut PgConnection) -> Result<SnapshotComparison, FeedError> {
    let mut compared = SnapshotComparison::default();
    let mut last = (Uuid::nil(), String::new(), i16::MIN);
    loop {
        let rows = sqlx::query_as!(
            SnapshotRow,
            r#"select s.stream_id, s.category, s.format, s.version, s.state,
                      exists (select from log.event e
                              where e.stream_id = s.stream_id and e.category = s.category and e.version = s.version
                                  and e.leaf_hash = s.leaf_hash) as "is_used!"
               from log.snapshot s
               where (s.stream_id, s.category, s.format) > ($1, $2, $3)
               order by s.stream_id, s.category, s.format limit $4"#,
            last.0,
            last.1,
            last.2,
            PAGE_SIZE
        )
        .fetch_all(&mut *connection)
        .await?;
        let Some(end) = rows.last() else { return Ok(compared) };
        last = (end.stream_id, end.category.clone(), end.format);
        for row in rows {
            match expected_state(connection, &row).await? {
                None => compared.unused += 1,
                Some((_, expected)) if expected == row.state => compared.matching += 1,
                Some((stream, _)) => {
                    compared.differing += 1;
                    if compared.examples.len() < MAX_EXAMPLES {
                        compared.examples.push(stream);
                    }
                }
            }
        }
    }
}

/// The state that the log gives for a snapshot; `None` if the snapshot is unusable.
async fn expected_state(
    connection: &mut PgConnection,
    row: &SnapshotRow,
) -> Result<Option<(Stream, String)>, FeedError> {
    let Some(category) = Category::ALL.into_iter().find(|category| category.as_str() == row.category) else {
        return Ok(None);
    };
    if !row.is_used {
        return Ok(None);
    }
    let stream = Stream { category, id: row.stream_id };
    let folded = match category {
        Category::Account => fold::<AccountSnapshot>(connection, row).await?,
        Category::Session => fold::<SessionSnapshot>(connection, row).await?,
        Category::Role => fold::<RoleSnapshot>(connection, row).await?,
        Category::Policy => fold::<PolicySnapshot>(connection, row).await?,
        Category::Authentication
        | Category::ApiKey
        | Category::RateLimit
        | Category::Lockdown
        | Category::Checkpoint
        | Category::Audit
        | Category::Key
        | Category::Incident
        | Category::Backup => None,
    };
    Ok(folded.map(|folded| (stream, folded)))
}

async fn fold<R: Snapshot>(connection: &mut PgConnection, row: &SnapshotRow) -> Result<Option<String>, FeedError> {
    if row.format != R::FORMAT {
        return Ok(None);
    }
    let mut events = sqlx::query!(
        "select position, leaf from log.event
         where stream_id = $1 and category = $2 and version <= $3 order by version",
        row.stream_id,
        row.category,
        row.version
    )
    .fetch(connection);
    let mut snapshot = R::default();
    while let Some(event) = events.try_next().await? {
        snapshot = snapshot.apply(leaf::decode(event.position.unsigned_abs(), &event.leaf)?);
    }
    // A state that cannot be serialised becomes an empty text, which differs from every snapshot.
    Ok(Some(snapshot.to_text().unwrap_or_default()))
}
