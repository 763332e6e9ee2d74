//! Snapshots held against the log: what each says its stream had come to, and what the events until then come to.

use fulexo_domain::event::{Category, Stream};
use fulexo_domain::leaf;
use fulexo_domain::record::{AccountRecord, PolicyRecord, Record, RoleRecord, SessionRecord};
use futures_util::TryStreamExt;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::feed::FeedError;

/// Snapshots looked at before the next ones are read.
const PAGE: i64 = 1_000;

/// What came of a comparison.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Compared {
    /// How many say what the log says.
    pub agree: u64,
    /// How many are of no use: in another build's format, or of an event that this log does not have in that place.
    pub unused: u64,
    /// How many say something else.
    pub differ: u64,
    /// The first of those.
    pub different: Vec<Stream>,
}

/// Streams that differ and are named.
const NAMED: usize = 100;

struct Row {
    stream_id: Uuid,
    category: String,
    format: i16,
    version: i64,
    state: String,
    is_used: bool,
}

/// Compares every snapshot there is.
///
/// # Errors
/// The database, or a leaf that this build cannot read.
pub async fn compare(connection: &mut PgConnection) -> Result<Compared, FeedError> {
    let mut compared = Compared::default();
    let mut last = (Uuid::nil(), String::new(), i16::MIN);
    loop {
        let rows = sqlx::query_as!(
            Row,
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
            PAGE
        )
        .fetch_all(&mut *connection)
        .await?;
        let Some(end) = rows.last() else { return Ok(compared) };
        last = (end.stream_id, end.category.clone(), end.format);
        for row in rows {
            match says(connection, &row).await? {
                None => compared.unused += 1,
                Some((_, says)) if says == row.state => compared.agree += 1,
                Some((stream, _)) => {
                    compared.differ += 1;
                    if compared.different.len() < NAMED {
                        compared.different.push(stream);
                    }
                }
            }
        }
    }
}

/// What the log says in the place of a snapshot; `None` where nobody goes by it.
async fn says(connection: &mut PgConnection, row: &Row) -> Result<Option<(Stream, String)>, FeedError> {
    let Some(category) = Category::ALL.into_iter().find(|category| category.as_str() == row.category) else {
        return Ok(None);
    };
    if !row.is_used {
        return Ok(None);
    }
    let stream = Stream { category, id: row.stream_id };
    let folded = match category {
        Category::Account => fold::<AccountRecord>(connection, row).await?,
        Category::Session => fold::<SessionRecord>(connection, row).await?,
        Category::Role => fold::<RoleRecord>(connection, row).await?,
        Category::Policy => fold::<PolicyRecord>(connection, row).await?,
        Category::Authentication | Category::ApiKey | Category::RateLimit | Category::Lockdown => None,
    };
    Ok(folded.map(|folded| (stream, folded)))
}

async fn fold<R: Record>(connection: &mut PgConnection, row: &Row) -> Result<Option<String>, FeedError> {
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
    let mut record = R::default();
    while let Some(event) = events.try_next().await? {
        record = record.after(leaf::decode(event.position.unsigned_abs(), &event.leaf)?);
    }
    // One that cannot be written says nothing, which differs from whatever is there.
    Ok(Some(record.to_text().unwrap_or_default()))
}
