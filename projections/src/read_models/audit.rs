//! The audit read model: the index that auditors search. The events found are shown from their leaves.

use std::ops::Range;

use chrono::{DateTime, Utc};
use fulexo_domain::event::{Category, RecordedEvent, Stream as EventStream};
use fulexo_domain::leaf;
use fulexo_domain::values::AddressDigest;
use sqlx::{FromRow, PgConnection, PgPool, Postgres, QueryBuilder};
use uuid::Uuid;

use crate::page::{Page, Paging};
use crate::to_i64;

/// An event as recorded in the log.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct AuditEntry {
    /// The event's position.
    pub position: i64,
    /// The exact bytes of the leaf, for `domain::leaf::read`.
    pub leaf: Vec<u8>,
    /// The hash recorded with the leaf.
    pub leaf_hash: Vec<u8>,
}

/// The filter of a search. All given conditions must match.
#[derive(Debug, Clone, Default)]
pub struct AuditFilter {
    /// The exact type, for example `account.role_granted`.
    pub event_type: Option<&'static str>,
    /// The category, for example `session`.
    pub category: Option<&'static str>,
    /// The person that the event concerns.
    pub subject: Option<Uuid>,
    /// The actor that caused the event.
    pub actor: Option<Uuid>,
    /// The request that caused the event.
    pub correlation: Option<Uuid>,
    /// The session that the event is one of, or whose login it belongs to.
    pub session: Option<Uuid>,
    /// The request that began `session`, for [`Self::admits`]: see [`Self::resolved`]. A search looks it up by itself.
    pub session_login: Option<Uuid>,
    /// The API key that the event concerns, or that caused it.
    pub api_key: Option<Uuid>,
    /// An id that the event has as any of its own: event, stream, subject, actor, correlation.
    pub id: Option<Uuid>,
    /// The digest of an address that is sealed alongside the event. Only a search asks for it: see [`Self::admits`].
    pub address: Option<AddressDigest>,
    /// Recorded at or after this time.
    pub from: Option<DateTime<Utc>>,
    /// Recorded before this time.
    pub to: Option<DateTime<Utc>>,
    /// After this position.
    pub after: Option<i64>,
    /// Up to this position.
    pub until: Option<i64>,
}

/// A place where an id is looked for. Each has an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum IdPlace {
    /// A column of the read model.
    Column(&'static str),
    /// The stream of the event, of this category or of any.
    Stream(Option<Category>),
    /// The request that began the session with this id.
    SessionStart,
}

/// A column of `log.sealed`, and the digest that it must have. Each such column has an index that orders the positions of a
/// digest, and names each event once.
type SealedCondition = (&'static str, AddressDigest);

/// The properties of an event that filters ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexedEvent {
    /// The event's position.
    pub position: u64,
    /// Its id.
    pub id: Uuid,
    /// Its type.
    pub event_type: &'static str,
    /// The category of its stream.
    pub category: &'static str,
    /// The id of its stream.
    pub stream: Uuid,
    /// The person that it concerns.
    pub subject: Option<Uuid>,
    /// The actor that caused it.
    pub actor: Option<Uuid>,
    /// The request that caused it.
    pub correlation: Uuid,
    /// The time at which it was recorded.
    pub recorded_at: DateTime<Utc>,
}

/// The columns of `log.sealed` that have digests of addresses.
const SEALED: [&str; 2] = ["ip_digest", "email_digest"];

impl AuditFilter {
    /// The filter with what [`Self::admits`] must know of the session that it names, read from the log.
    ///
    /// # Errors
    /// [`sqlx::Error`], also if the leaf of the session's start cannot be read.
    pub async fn resolved(self, pool: &PgPool) -> Result<Self, sqlx::Error> {
        let Some(session) = self.session else { return Ok(self) };
        let stream = EventStream { category: Category::Session, id: session };
        let start = at_version(&mut *pool.acquire().await?, stream, 1).await?;
        let read = |start: AuditEntry| leaf::read(start.position.unsigned_abs(), &start.leaf).map(|it| it.correlation);
        let login = start.map(read).transpose().map_err(|error| sqlx::Error::Decode(Box::new(error)))?;
        Ok(Self { session_login: login, ..self })
    }

    /// `true` if a search with this filter finds the event: what [`statement`] asks the index, asked of one event. A filter by
    /// session must be [`resolved`](Self::resolved), or it does not admit the login that began the session. A filter by address
    /// admits no event: the addresses of an event are not among what is known of it here.
    #[must_use]
    pub fn admits(&self, event: &IndexedEvent) -> bool {
        let Self { event_type, category, subject, actor, correlation, session, session_login, api_key, id, .. } = self;
        let Self { address, from, to, after, until, .. } = self;
        let position = to_i64(event.position);
        let is_of = |category: Category, id| event.category == category.as_str() && event.stream == id;
        address.is_none()
            && session.is_none_or(|id| is_of(Category::Session, id) || *session_login == Some(event.correlation))
            && api_key.is_none_or(|id| is_of(Category::ApiKey, id) || event.actor == Some(id))
            && id.is_none_or(|id| {
                [event.id, event.stream, event.correlation].contains(&id)
                    || [event.subject, event.actor].contains(&Some(id))
            })
            && event_type.is_none_or(|wanted| wanted == event.event_type)
            && category.is_none_or(|wanted| wanted == event.category)
            && subject.is_none_or(|wanted| Some(wanted) == event.subject)
            && actor.is_none_or(|wanted| Some(wanted) == event.actor)
            && correlation.is_none_or(|wanted| wanted == event.correlation)
            && from.is_none_or(|from| event.recorded_at >= from)
            && to.is_none_or(|to| event.recorded_at < to)
            && after.is_none_or(|after| position > after)
            && until.is_none_or(|until| position <= until)
    }

    /// The number of conditions that have an index.
    fn indexed(&self) -> usize {
        let ids = [self.subject, self.actor, self.correlation].into_iter().flatten().count();
        // These are looked for in several places.
        let several = 2 * [self.session, self.api_key, self.id].into_iter().flatten().count();
        let several = several + 2 * usize::from(self.address.is_some());
        ids + several + usize::from(self.event_type.is_some()) + usize::from(self.category.is_some())
    }

    /// `true` if any condition is given.
    #[must_use]
    pub fn is_given(&self) -> bool {
        self.indexed() > 0 || self.from.is_some() || self.to.is_some()
    }

    /// The conditions on sealed data: an event must meet one of these.
    fn sealed_conditions(&self) -> Vec<Option<SealedCondition>> {
        self.address.map_or_else(|| vec![None], |digest| SEALED.map(|column| Some((column, digest))).to_vec())
    }

    /// The conditions on ids: an event must meet all of one of these lists.
    fn id_conditions(&self) -> Vec<Vec<(IdPlace, Uuid)>> {
        use IdPlace::{Column, SessionStart, Stream};
        const OWN: [IdPlace; 5] =
            [Column("event_id"), Stream(None), Column("subject_id"), Column("actor_id"), Column("correlation_id")];
        let conditions: [(Option<Uuid>, &[IdPlace]); 6] = [
            (self.subject, &[Column("subject_id")]),
            (self.actor, &[Column("actor_id")]),
            (self.correlation, &[Column("correlation_id")]),
            (self.session, &[Stream(Some(Category::Session)), SessionStart]),
            (self.api_key, &[Stream(Some(Category::ApiKey)), Column("actor_id")]),
            (self.id, &OWN),
        ];
        let mut lists = vec![Vec::new()];
        for (id, places) in conditions {
            let Some(id) = id else { continue };
            let with = |list: &Vec<_>, place: &IdPlace| list.iter().copied().chain([(*place, id)]).collect();
            lists = lists.iter().flat_map(|list| places.iter().map(move |place| with(list, place))).collect();
        }
        lists
    }
}

/// A page of events, in the order of the log or in reverse.
///
/// # Errors
/// [`sqlx::Error`].
pub async fn list(
    pool: &PgPool,
    filter: &AuditFilter,
    paging: &Paging<i64>,
) -> Result<Page<AuditEntry, i64>, sqlx::Error> {
    // With several conditions, their values decide which index has the fewest events, so each such search is planned
    // separately.
    let entries: Vec<AuditEntry> =
        statement(filter, paging).build_query_as().persistent(filter.indexed() < 2).fetch_all(pool).await?;
    Ok(Page::from_rows(entries, paging.limit, |entry| entry.position))
}

/// Builds the statement of a search from its filter. Times are translated into positions first: times in the log never
/// decrease, and each index orders the positions of a value.
#[must_use]
pub fn statement(filter: &AuditFilter, paging: &Paging<i64>) -> QueryBuilder<Postgres> {
    let mut sql = QueryBuilder::new("select a.position, e.leaf, e.leaf_hash from (");
    // An id or an address in several places is several searches: each has an index that orders its positions.
    let sealed = filter.sealed_conditions();
    let lists = filter.id_conditions();
    let searches: Vec<_> = lists.iter().flat_map(|ids| sealed.iter().map(move |sealed| (ids, *sealed))).collect();
    let is_union = searches.len() > 1;
    for (nth, (ids, sealed)) in searches.into_iter().enumerate() {
        if is_union {
            sql.push(if nth == 0 { "select position from ((" } else { ") union (" });
        }
        search(&mut sql, filter, ids, sealed, paging);
    }
    let order = paging.order.sql();
    if is_union {
        sql.push(")) u order by position ").push(order).push(" limit ").push(paging.fetch_limit());
    }
    // An event that the index has and the log has lost is an error, not one event fewer.
    sql.push(") a left join log.event e on e.position = a.position order by a.position ").push(order);
    sql
}

/// Adds a search for positions that meet all of these conditions.
fn search(
    sql: &mut QueryBuilder<Postgres>,
    filter: &AuditFilter,
    ids: &[(IdPlace, Uuid)],
    sealed: Option<SealedCondition>,
    paging: &Paging<i64>,
) {
    let AuditFilter { event_type, category, from, to, after, until, .. } = filter;
    sql.push("select a.position from read.audit a");
    // Postgres does not derive a bound of one position from that of an equal one.
    let mut positions = vec!["a.position"];
    if let Some((column, digest)) = sealed {
        sql.push(" join log.sealed s on s.position = a.position and s.").push(column).push(" = ");
        sql.push_bind(digest.0.to_vec());
        positions.push("s.position");
    }
    sql.push(" where true");
    if let Some(event_type) = event_type {
        sql.push(" and a.event_type = ").push_bind(*event_type);
    }
    if let Some(category) = category {
        sql.push(" and a.category = ").push_bind(*category);
    }
    for (place, id) in ids {
        match place {
            IdPlace::Column(column) => {
                sql.push(" and a.").push(*column).push(" = ").push_bind(*id);
            }
            IdPlace::Stream(category) => {
                sql.push(" and a.position in (select position from log.event where stream_id = ").push_bind(*id);
                if let Some(category) = category {
                    sql.push(" and category = ").push_bind(category.as_str());
                }
                sql.push(")");
            }
            IdPlace::SessionStart => {
                sql.push(
                    " and a.correlation_id = (select s.correlation_id from read.audit s
                      join log.event e on e.position = s.position where e.version = 1 and e.category = ",
                );
                sql.push_bind(Category::Session.as_str()).push(" and e.stream_id = ").push_bind(*id).push(")");
            }
        }
    }
    for position in positions {
        if let Some(from) = from {
            sql.push(" and ").push(position).push(" >= (select position from read.audit where recorded_at >= ");
            sql.push_bind(*from).push(" order by recorded_at, position limit 1)");
        }
        if let Some(to) = to {
            sql.push(" and ").push(position).push(" <= (select position from read.audit where recorded_at < ");
            sql.push_bind(*to).push(" order by recorded_at desc, position desc limit 1)");
        }
        if let Some(after) = after {
            sql.push(" and ").push(position).push(" > ").push_bind(*after);
        }
        if let Some(until) = until {
            sql.push(" and ").push(position).push(" <= ").push_bind(*until);
        }
        if let Some(after) = paging.after {
            sql.push(" and ").push(position).push(paging.order.after_operator()).push_bind(after);
        }
    }
    sql.push(" order by a.position ").push(paging.order.sql()).push(" limit ").push(paging.fetch_limit());
}

/// The events at these positions that the log has, in its order.
///
/// # Errors
/// [`sqlx::Error`].
pub async fn range(pool: &PgPool, positions: Range<u64>) -> Result<Vec<AuditEntry>, sqlx::Error> {
    let mut entries = sqlx::query_as!(
        AuditEntry,
        "select position, leaf, leaf_hash from log.event where position >= $1 and position < $2",
        to_i64(positions.start),
        to_i64(positions.end)
    )
    .fetch_all(pool)
    .await?;
    // Sorted here for the reason in `feed::read`.
    entries.sort_unstable_by_key(|entry| entry.position);
    Ok(entries)
}

/// The event at a position, read from the log itself.
///
/// # Errors
/// [`sqlx::Error`].
pub async fn get(pool: &PgPool, position: i64) -> Result<Option<AuditEntry>, sqlx::Error> {
    sqlx::query_as!(AuditEntry, "select position, leaf, leaf_hash from log.event where position = $1", position)
        .fetch_optional(pool)
        .await
}

/// The event of a stream at this version, read from the log itself.
///
/// # Errors
/// [`sqlx::Error`].
pub async fn at_version(
    connection: &mut PgConnection,
    stream: EventStream,
    version: u64,
) -> Result<Option<AuditEntry>, sqlx::Error> {
    sqlx::query_as!(
        AuditEntry,
        "select position, leaf, leaf_hash from log.event where stream_id = $1 and category = $2 and version = $3",
        stream.id,
        stream.category.as_str(),
        to_i64(version)
    )
    .fetch_optional(connection)
    .await
}

/// Applies a batch with one statement.
pub(crate) async fn apply(connection: &mut PgConnection, events: &[RecordedEvent]) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "insert into audit
         select unnest($1::bigint[]), unnest($2::text[]), unnest($3::text[]), unnest($4::uuid[]), unnest($5::uuid[]),
                unnest($6::uuid[]), unnest($7::timestamptz[]), unnest($8::uuid[])",
        &events.iter().map(|event| to_i64(event.position)).collect::<Vec<_>>(),
        &events.iter().map(|event| &*event.event_type).collect::<Vec<_>>() as &[&str],
        &events.iter().map(|event| event.stream.category.as_str()).collect::<Vec<_>>() as &[&str],
        &events.iter().map(|event| event.subject).collect::<Vec<_>>() as &[Option<Uuid>],
        &events.iter().map(|event| event.actor.id()).collect::<Vec<_>>() as &[Option<Uuid>],
        &events.iter().map(|event| event.correlation).collect::<Vec<_>>(),
        &events.iter().map(|event| event.recorded_at).collect::<Vec<_>>(),
        &events.iter().map(|event| event.id).collect::<Vec<_>>()
    )
    .execute(connection)
    .await?;
    Ok(())
}
