//! The audit trail: the events of the log, as their leaves have them.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Utc};
use fulexo_domain::event::Category;
use fulexo_domain::leaf;
use fulexo_domain::permission::Permission;
use fulexo_domain::values::InvalidValue;
use fulexo_projections::audit::{self, Entry};
use fulexo_projections::projection::Projection;
use poem::Request;
use poem_openapi::param::{Header, Path, Query};
use poem_openapi::payload::Json;
use poem_openapi::types::Any;
use poem_openapi::{Object, OpenApi};
use uuid::Uuid;

use super::Tag;
use super::as_of::{PastPaging, Shown};
use super::input::{Input, read_position};
use crate::answer::query_failed;
use crate::caller::{BearerOrKey, app};
use crate::http::Problem;

pub struct Audit;

/// An event, as its leaf has it.
#[derive(Object)]
pub struct AuditEvent {
    /// 0, 1, 2… in commit order without gaps; also the index of its leaf.
    position: u64,
    id: Uuid,
    /// `<category>.<fact>`.
    #[oai(rename = "type")]
    event_type: String,
    category: String,
    /// The aggregate's id.
    stream: Uuid,
    /// Its number in the stream, from 1.
    version: u64,
    /// The account that it is about.
    subject: Option<Uuid>,
    actor: AuditActor,
    /// When it was recorded.
    time: DateTime<Utc>,
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
    /// List events, in the order of the log.
    ///
    /// Everything that is given must match. Needs `audit.read`.
    #[oai(path = "/events", method = "get", operation_id = "list_audit_events")]
    async fn list(
        &self,
        request: &Request,
        caller: BearerOrKey,
        /// Events behind this position.
        after: Query<Option<u64>>,
        /// Exact type, for example `account.role_granted`.
        #[oai(name = "type")]
        event_type: Query<Option<String>>,
        /// `account`, `authentication`, `session`, `role`, `policy` or `api_key`.
        category: Query<Option<String>>,
        /// The account that they are about.
        subject: Query<Option<Uuid>>,
        /// The account that made them happen.
        actor: Query<Option<Uuid>>,
        /// The request that led to them.
        correlation: Query<Option<Uuid>>,
        /// Recorded at or after this time (RFC 3339).
        from: Query<Option<DateTime<Utc>>>,
        /// Recorded before this time (RFC 3339).
        to: Query<Option<DateTime<Utc>>>,
        /// `next_cursor` of the page before; takes precedence over `after`.
        cursor: Query<Option<String>>,
        /// A position of the log, or a time (RFC 3339): events up to that one, or up to the last one recorded by then.
        as_of: Query<Option<String>>,
        /// Most items, 1 to 200; 50 if not given.
        limit: Query<Option<u16>>,
        #[oai(name = "Log-Min-Position")] min_position: Header<Option<u64>>,
    ) -> Result<Json<AuditPage>, Problem> {
        caller.0.require(Permission::AuditRead)?;
        let app = app(request)?;
        let mut input = Input::default();
        let sound_type = |text: String| {
            if is_event_type(&text) { Ok(text) } else { Err(InvalidValue("must be a type such as session.started")) }
        };
        let known_category = |text: String| {
            let known = Category::ALL.iter().any(|category| category.as_str() == text);
            if known {
                Ok(text)
            } else {
                Err(InvalidValue("must be account, authentication, session, role, policy or api_key"))
            }
        };
        let after = after.0.map(|after| i64::try_from(after).map_err(|_| InvalidValue("must be at most 2^63 - 1")));
        let after = input.parse_optional("/after", after);
        let mut filter = audit::Filter {
            event_type: input.parse_optional("/type", event_type.0.map(sound_type)),
            category: input.parse_optional("/category", category.0.map(known_category)),
            subject: subject.0,
            actor: actor.0,
            correlation: correlation.0,
            from: from.0,
            to: to.0,
            until: None,
        };
        input.check()?;
        app.caught_up(Projection::Audit, min_position.0).await?;
        let past = PastPaging::of(app, Projection::Audit, as_of.0, cursor.0, limit.0, read_position).await?;
        let past = past.searching(app, filter.is_given()).await?;
        filter.until = past.moment.map(|moment| moment.position);
        let after = past.paging.after.or(after);
        let page = audit::list(&app.pool, filter, after, past.paging.limit).await.map_err(query_failed)?;
        let items = page.items.iter().map(AuditEvent::read).collect::<Result<_, _>>()?;
        Ok(Json(AuditPage { items, next_cursor: past.next(page.next), as_of: past.shown() }))
    }

    /// Get an event, with the exact bytes of its leaf.
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

fn is_event_type(text: &str) -> bool {
    text.len() <= 100 && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_' || byte == b'.')
}

impl AuditEvent {
    /// Reads what a leaf says.
    ///
    /// # Errors
    /// 500 for a leaf that cannot be read.
    pub fn read(entry: &Entry) -> Result<Self, Problem> {
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
            event_type: raw.r#type.to_owned(),
            category: raw.category.as_str().to_owned(),
            stream: raw.stream,
            version: raw.version,
            subject: raw.subject,
            actor: AuditActor { kind: raw.actor.kind().to_owned(), id: raw.actor.id() },
            time: raw.time,
            correlation: raw.correlation,
            causation: raw.causation,
            policy_version: raw.policy_version,
            schema_version: raw.schema_version,
            data: Any(serde_json::from_str(raw.data.get()).map_err(Problem::internal)?),
            sealed: sealed.collect(),
        })
    }
}
