//! The audit read model: the index that auditors search by. What it finds is shown from the leaves themselves.

use chrono::{DateTime, Utc};
use fulexo_domain::event::Recorded;
use sqlx::{FromRow, PgConnection, PgPool, Postgres, QueryBuilder};
use uuid::Uuid;

use crate::page::{Page, Paging};
use crate::to_i64;

/// An event as it stands in the log.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
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
    pub event_type: Option<&'static str>,
    /// Category, for example `session`.
    pub category: Option<&'static str>,
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
    /// After this position.
    pub after: Option<i64>,
    /// Up to this position.
    pub until: Option<i64>,
}

impl Filter {
    /// How many of the filters have an index.
    fn indexed(&self) -> usize {
        let ids = [self.subject, self.actor, self.correlation].into_iter().flatten().count();
        ids + usize::from(self.event_type.is_some()) + usize::from(self.category.is_some())
    }

    /// `true` if anything is searched for.
    #[must_use]
    pub const fn is_given(&self) -> bool {
        let Self { event_type, category, subject, actor, correlation, from, to, after: _, until: _ } = self;
        event_type.is_some()
            || category.is_some()
            || subject.is_some()
            || actor.is_some()
            || correlation.is_some()
            || from.is_some()
            || to.is_some()
    }
}

/// Events in the order of the log, or against it.
///
/// # Errors
/// The database.
pub async fn list(pool: &PgPool, filter: &Filter, paging: &Paging<i64>) -> Result<Page<Entry, i64>, sqlx::Error> {
    // With several filters it depends on their values which of their indexes has fewer events: each such search is planned
    // for itself.
    let entries: Vec<Entry> =
        statement(filter, paging).build_query_as().persistent(filter.indexed() < 2).fetch_all(pool).await?;
    Ok(Page::of(entries, paging.limit, |entry| entry.position))
}

/// The statement of a search, made from the filters that are given. Times become positions first, since the log's times never
/// go back, and each index has the positions of its values in order.
#[must_use]
pub fn statement(filter: &Filter, paging: &Paging<i64>) -> QueryBuilder<Postgres> {
    let Filter { event_type, category, subject, actor, correlation, from, to, after, until } = filter;
    let mut sql = QueryBuilder::new(
        "select e.position, e.leaf, e.leaf_hash from (select a.position from read.audit a where true",
    );
    if let Some(event_type) = event_type {
        sql.push(" and a.event_type = ").push_bind(*event_type);
    }
    if let Some(category) = category {
        sql.push(" and a.category = ").push_bind(*category);
    }
    for (column, id) in [("subject_id", subject), ("actor_id", actor), ("correlation_id", correlation)] {
        if let Some(id) = id {
            sql.push(" and a.").push(column).push(" = ").push_bind(*id);
        }
    }
    if let Some(from) = from {
        sql.push(" and a.position >= (select position from read.audit where recorded_at >= ").push_bind(*from);
        sql.push(" order by recorded_at, position limit 1)");
    }
    if let Some(to) = to {
        sql.push(" and a.position <= (select position from read.audit where recorded_at < ").push_bind(*to);
        sql.push(" order by recorded_at desc, position desc limit 1)");
    }
    if let Some(after) = after {
        sql.push(" and a.position > ").push_bind(*after);
    }
    if let Some(until) = until {
        sql.push(" and a.position <= ").push_bind(*until);
    }
    if let Some(after) = paging.after {
        sql.push(" and a.position").push(paging.order.beyond()).push_bind(after);
    }
    let order = paging.order.sql();
    sql.push(" order by a.position ").push(order).push(" limit ").push(paging.fetch());
    sql.push(") a join log.event e on e.position = a.position order by a.position ").push(order);
    sql
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
