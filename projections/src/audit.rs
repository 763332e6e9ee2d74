//! The audit read model: the index that auditors search by. What it finds is shown from the leaves themselves.

use chrono::{DateTime, Utc};
use fulexo_domain::event::Recorded;
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use crate::page::Page;
use crate::to_i64;

/// An event as it stands in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its position.
    pub position: i64,
    /// Its exact bytes; `domain::leaf::read` reads them.
    pub leaf: Vec<u8>,
    /// The hash that was recorded with it.
    pub leaf_hash: Vec<u8>,
}

/// What to search for. Everything that is given must match.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Exact type, for example `account.role_granted`.
    pub event_type: Option<String>,
    /// Category, for example `session`.
    pub category: Option<String>,
    /// Whom it is about.
    pub subject: Option<Uuid>,
    /// Who made it happen.
    pub actor: Option<Uuid>,
    /// The request that led to it.
    pub correlation: Option<Uuid>,
    /// Recorded at or after.
    pub from: Option<DateTime<Utc>>,
    /// Recorded before.
    pub to: Option<DateTime<Utc>>,
    /// Up to this position.
    pub until: Option<i64>,
}

impl Filter {
    /// `true` if anything is searched for.
    #[must_use]
    pub const fn is_given(&self) -> bool {
        let Self { event_type, category, subject, actor, correlation, from, to, until: _ } = self;
        event_type.is_some()
            || category.is_some()
            || subject.is_some()
            || actor.is_some()
            || correlation.is_some()
            || from.is_some()
            || to.is_some()
    }
}

/// Events in the order of the log, after a position or from the beginning.
///
/// # Errors
/// The database.
pub async fn list(pool: &PgPool, filter: Filter, after: Option<i64>, limit: u16) -> Result<Page<Entry>, sqlx::Error> {
    let rows = sqlx::query_as!(
        Entry,
        "select e.position, e.leaf, e.leaf_hash from read.audit a join log.event e on e.position = a.position
         where a.position > $1
           and ($2::text is null or a.event_type = $2)
           and ($3::text is null or a.category = $3)
           and ($4::uuid is null or a.subject_id = $4)
           and ($5::uuid is null or a.actor_id = $5)
           and ($6::uuid is null or a.correlation_id = $6)
           and ($7::timestamptz is null or a.recorded_at >= $7)
           and ($8::timestamptz is null or a.recorded_at < $8)
           and a.position <= $9
         order by a.position limit $10",
        after.unwrap_or(-1),
        filter.event_type,
        filter.category,
        filter.subject,
        filter.actor,
        filter.correlation,
        filter.from,
        filter.to,
        filter.until.unwrap_or(i64::MAX),
        Page::<Entry>::fetch(limit)
    )
    .fetch_all(pool)
    .await?;
    Ok(Page::of(rows, limit, |entry| entry.position.to_string()))
}

/// One event, straight from the log.
///
/// # Errors
/// The database.
pub async fn get(pool: &PgPool, position: i64) -> Result<Option<Entry>, sqlx::Error> {
    sqlx::query_as!(Entry, "select position, leaf, leaf_hash from log.event where position = $1", position)
        .fetch_optional(pool)
        .await
}

/// One statement a batch.
pub(crate) async fn apply(connection: &mut PgConnection, events: &[Recorded]) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "insert into audit
         select unnest($1::bigint[]), unnest($2::text[]), unnest($3::text[]), unnest($4::uuid[]), unnest($5::uuid[]),
                unnest($6::uuid[]), unnest($7::timestamptz[])",
        &events.iter().map(|event| to_i64(event.position)).collect::<Vec<_>>(),
        &events.iter().map(|event| &*event.event_type).collect::<Vec<_>>() as &[&str],
        &events.iter().map(|event| event.stream.category.as_str()).collect::<Vec<_>>() as &[&str],
        &events.iter().map(|event| event.subject).collect::<Vec<_>>() as &[Option<Uuid>],
        &events.iter().map(|event| event.actor.id()).collect::<Vec<_>>() as &[Option<Uuid>],
        &events.iter().map(|event| event.correlation).collect::<Vec<_>>(),
        &events.iter().map(|event| event.recorded_at).collect::<Vec<_>>()
    )
    .execute(connection)
    .await?;
    Ok(())
}
