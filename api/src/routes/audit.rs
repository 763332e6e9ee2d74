//! The audit trail: the events of the log, as their leaves have them.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::DateTime;
use fulexo_domain::leaf;
use fulexo_domain::permission::Permission;
use fulexo_domain::values::InvalidValue;
use fulexo_node::answer::{Viewed, query_failed};
use fulexo_node::caller::{BearerOrKey, app};
use fulexo_node::http::Problem;
use fulexo_node::timestamp::Timestamp;
use fulexo_node::vocabulary::{Categories, EventTypes, Orders, Word};
use fulexo_projections::read_models::Projection;
use fulexo_projections::read_models::audit::{self, AuditEntry};
use poem::Request;
use poem_openapi::param::{Header, Path, Query};
use poem_openapi::payload::Json;
use poem_openapi::types::Any;
use poem_openapi::{Object, OpenApi};
use uuid::Uuid;

use super::as_of::{PastPaging, Shown};
use super::input::{Input, Limit, Wanted, read_position};
use super::tag::Tag;

pub struct Audit;

/// An event, as its leaf has it.
#[derive(Object)]
pub struct AuditEvent {
    /// 0, 1, 2… in commit order without gaps; also the index of its leaf.
    position: u64,
    id: Uuid,
    /// `<category>.<fact>`.
    #[oai(rename = "type")]
    event_type: Word<EventTypes>,
    category: Word<Categories>,
    /// The aggregate's id.
    stream: Uuid,
    /// Its number in the stream, from 1.
    version: u64,
    /// The account that it is about.
    subject: Option<Uuid>,
    actor: AuditActor,
    /// When it was recorded.
    time: Timestamp,
    /// The request that led to it.
    correlation: Uuid,
    /// The event that led to it.
    causation: Option<Uuid>,
    /// The policy that it was decided under.
    policy_version: u32,
    /// The version of `data`'s schema.
    schema_version: u32,
    /// What happened, in the words of its type.
    data: Any<serde_json::Value>,
    /// What was sealed beside it.
    sealed: Vec<AuditSealed>,
}

#[derive(Object)]
struct AuditActor {
    /// `account`, `api_key`, `anonymous`, `operator` or `system`.
    kind: String,
    id: Option<Uuid>,
}

#[derive(Object)]
struct AuditSealed {
    /// Names of the facts.
    fields: Vec<String>,
    /// SHA-256 of nonce and ciphertext, base64url.
    digest: String,
    /// Commitment to the data key, base64url.
    commitment: String,
}

/// Events, and how to get the next ones.
#[derive(Object)]
pub struct AuditPage {
    pub items: Vec<AuditEvent>,
    pub next_cursor: Option<String>,
    /// Of which moment this is, where one was asked for.
    #[oai(skip_serializing_if_is_none)]
    pub as_of: Option<Shown>,
}

#[derive(Object)]
struct AuditEventWithLeaf {
    #[oai(flatten)]
    event: AuditEvent,
    /// The exact bytes that were hashed, base64url.
    leaf: String,
    /// The hash recorded with it: SHA-256(0x00 ‖ leaf), RFC 6962, section 2.1; base64url.
    leaf_hash: String,
}

#[OpenApi(prefix_path = "/v1/audit", tag = "Tag::Audit")]
impl Audit {
    /// List events
    ///
    /// In the order of the log.
    /// Everything that is given must match. Needs `audit.read`.
    #[oai(path = "/events", method = "get", operation_id = "list_audit_events")]
    async fn list(
        &self,
        request: &Request,
        caller: BearerOrKey,
        /// Events with a greater position.
        after: Query<Option<u64>>,
        /// Events of this type.
        #[oai(name = "type")]
        event_type: Query<Option<Word<EventTypes>>>,
        /// Events of this category.
        category: Query<Option<Word<Categories>>>,
        /// The account that they are about.
        subject: Query<Option<Uuid>>,
        /// The account that made them happen.
        actor: Query<Option<Uuid>>,
        /// The request that led to them.
        correlation: Query<Option<Uuid>>,
        /// Recorded at or after this time (RFC 3339).
        from: Query<Option<Timestamp>>,
        /// Recorded before this time (RFC 3339).
        to: Query<Option<Timestamp>>,
        /// `next_cursor` of the page before.
        cursor: Query<Option<String>>,
        /// A position of the log, or a time (RFC 3339): events up to that one, or up to the last one recorded by then.
        as_of: Query<Option<String>>,
        /// Most items, 1 to 200; 50 if not given.
        limit: Query<Option<Limit>>,
        /// `asc`, oldest first, if not given, or `desc`.
        order: Query<Option<Word<Orders>>>,
        #[oai(name = "Log-Min-Position")] min_position: Header<Option<u64>>,
    ) -> Result<Viewed<AuditPage>, Problem> {
        caller.0.require(Permission::AuditRead)?;
        let app = app(request)?;
        let mut input = Input::default();
        let after = after.0.map(|after| i64::try_from(after).map_err(|_| InvalidValue("must be at most 2^63 - 1")));
        let mut filter = audit::AuditFilter {
            event_type: event_type.0.map(|word| word.0),
            category: category.0.map(|word| word.0),
            subject: subject.0,
            actor: actor.0,
            correlation: correlation.0,
            from: from.0.map(DateTime::from),
            to: to.0.map(DateTime::from),
            after: input.parse_optional("/after", after),
            until: None,
        };
        input.check()?;
        let view = app.caught_up(Projection::Audit, min_position.0).await?;
        let wanted = Wanted { limit: limit.0, order: order.0, cursor: cursor.0 };
        let past = PastPaging::of(app, &[Projection::Audit], as_of.0, wanted, read_position).await?;
        let past = past.searching(app, filter.is_given()).await?;
        filter.until = past.moment.map(|moment| moment.position);
        let page = audit::list(&app.pool, &filter, &past.paging).await.map_err(query_failed)?;
        let items = page.items.iter().map(AuditEvent::read).collect::<Result<_, _>>()?;
        Ok(view.of(AuditPage { items, next_cursor: past.next(page.next), as_of: past.shown() }))
    }

    /// Get an event and the bytes of its leaf
    ///
    /// Needs `audit.read`.
    #[oai(path = "/events/:position", method = "get", operation_id = "get_audit_event")]
    async fn get(
        &self,
        request: &Request,
        caller: BearerOrKey,
        position: Path<u64>,
    ) -> Result<Json<AuditEventWithLeaf>, Problem> {
        caller.0.require(Permission::AuditRead)?;
        let position = i64::try_from(position.0).map_err(|_| Problem::not_found())?;
        let entry = audit::get(&app(request)?.pool, position).await.map_err(query_failed)?;
        let entry = entry.ok_or_else(Problem::not_found)?;
        Ok(Json(AuditEventWithLeaf {
            event: AuditEvent::read(&entry)?,
            leaf: URL_SAFE_NO_PAD.encode(&entry.leaf),
            leaf_hash: URL_SAFE_NO_PAD.encode(&entry.leaf_hash),
        }))
    }
}

impl AuditEvent {
    /// Reads what a leaf says.
    ///
    /// # Errors
    /// 500 for a leaf that cannot be read.
    pub fn read(entry: &AuditEntry) -> Result<Self, Problem> {
        let position = entry.position.unsigned_abs();
        let raw = leaf::read(position, &entry.leaf).map_err(Problem::internal)?;
        let sealed = raw.sealed.into_iter().map(|sealed| AuditSealed {
            fields: sealed.fields.iter().map(|field| field.as_str().to_owned()).collect(),
            digest: sealed.digest,
            commitment: sealed.commitment,
        });
        Ok(Self {
            position,
            id: raw.id,
            event_type: Word::find(raw.r#type).ok_or_else(|| Problem::internal("an event of an unknown type"))?,
            category: Word::find(raw.category.as_str()).ok_or_else(|| Problem::internal("an unknown category"))?,
            stream: raw.stream,
            version: raw.version,
            subject: raw.subject,
            actor: AuditActor { kind: raw.actor.kind().to_owned(), id: raw.actor.id() },
            time: raw.time.into(),
            correlation: raw.correlation,
            causation: raw.causation,
            policy_version: raw.policy_version,
            schema_version: raw.schema_version,
            data: Any(serde_json::from_str(raw.data.get()).map_err(Problem::internal)?),
            sealed: sealed.collect(),
        })
    }
}
