//! The audit trail: the events of the log and their leaves.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::DateTime;
use fulexo_commands::vault::{AddressDigests, PersonalData};
use fulexo_domain::leaf;
use fulexo_domain::permission::Permission;
use fulexo_domain::sealed_field::SealedField;
use fulexo_domain::values::InvalidValue;
use fulexo_node::answer::{CommandResponse, QueryResponse, query_failed};
use fulexo_node::caller::{Bearer, BearerOrKey, app};
use fulexo_node::http::{JsonBody, Problem};
use fulexo_node::timestamp::Timestamp;
use fulexo_node::vocabulary::{Categories, EventTypes, Orders, Word};
use fulexo_projections::read_models::Projection;
use fulexo_projections::read_models::audit::{self, AuditEntry, IndexedEvent};
use poem::Request;
use poem_openapi::param::{Header, Path, Query};
use poem_openapi::payload::Json;
use poem_openapi::types::Any;
use poem_openapi::{Object, OpenApi};
use uuid::Uuid;

use super::as_of::{AsOfPaging, AsOfResource};
use super::audit_change::{FieldChangeResource, change_of};
use super::audit_filter::{AddressParameter, FilterParameters, digest_text};
use super::input::{Input, Limit, PageQuery, ReasonRequest, act, read_position};
use super::tag::Tag;

pub struct Audit;

/// An event of the log.
#[derive(Object)]
pub struct AuditEvent {
    /// The position in the log: 0, 1, 2… in commit order, without gaps. It is also the index of the leaf.
    position: u64,
    /// The id of the event.
    id: Uuid,
    /// The type of the event, `<category>.<fact>`.
    #[oai(rename = "type")]
    event_type: Word<EventTypes>,
    category: Word<Categories>,
    /// The id of the stream, which is the id of its aggregate.
    stream: Uuid,
    /// The number of the event in its stream, from 1.
    version: u64,
    /// The id of the account that the event concerns.
    subject: Option<Uuid>,
    actor: ActorResource,
    /// The time at which the event was recorded.
    time: Timestamp,
    /// The id of the request that caused the event.
    correlation: Uuid,
    /// The id of the event that caused this event.
    causation: Option<Uuid>,
    /// The version of the policy under which the event was decided.
    policy_version: u32,
    /// The version of the schema of `data`.
    schema_version: u32,
    /// The data of the event. Its members depend on the type.
    data: Any<serde_json::Value>,
    /// The sealed fields of the event.
    sealed: Vec<SealedFields>,
}

/// The actor that caused an event.
#[derive(Object)]
#[oai(rename = "Actor")]
pub struct ActorResource {
    /// The kind of actor: `account`, `api_key`, `anonymous`, `operator` or `system`.
    pub kind: String,
    /// The id of the account or of the API key. `null` for other kinds.
    pub id: Option<Uuid>,
}

/// The sealed fields of an event that share a data key.
#[derive(Object)]
struct SealedFields {
    /// The names of the sealed fields.
    fields: Vec<String>,
    /// The SHA-256 digest of nonce and ciphertext, in base64url.
    digest: String,
    /// The commitment to the data key, in base64url.
    commitment: String,
}

/// A page of events.
#[derive(Object)]
pub struct AuditPage {
    pub items: Vec<AuditEvent>,
    pub next_cursor: Option<String>,
    /// The moment of this state. Present if the query has `as_of`.
    #[oai(skip_serializing_if_is_none)]
    pub as_of: Option<AsOfResource>,
}

/// An event with its leaf.
#[derive(Object)]
struct AuditEventWithLeaf {
    #[oai(flatten)]
    event: AuditEvent,
    /// The leaf: the exact bytes that were hashed, in base64url.
    leaf: String,
    /// The leaf hash on record: SHA-256(0x00 ‖ leaf), RFC 6962, section 2.1, in base64url.
    leaf_hash: String,
    /// The fields that the event changed, before and after. Empty if what it changed is sealed, or not kept as a setting. `null`
    /// for events that administrators do not cause.
    change: Option<Vec<FieldChangeResource>>,
}

/// The personal data of an event, opened.
#[derive(Object)]
struct UnsealedEvent {
    /// The position of the event.
    position: u64,
    /// The personal data.
    fields: UnsealedFields,
    /// The digest of the IP address among the fields, for the filter `address` of `GET /v1/audit/events`.
    #[oai(skip_serializing_if_is_none)]
    ip_digest: Option<String>,
    /// The digest of the e-mail address among the fields.
    #[oai(skip_serializing_if_is_none)]
    email_digest: Option<String>,
    /// The size of a signed checkpoint that covers the record of this disclosure. `null` if none did within 2 seconds, or nothing
    /// signs the log.
    checkpoint_size: Option<u64>,
    /// The size of the newest checkpoint that as many witnesses have cosigned as the policy asks for, at the time of the response.
    /// `null` if no witnesses are asked, or too few have cosigned one.
    anchored_size: Option<u64>,
}

/// The fields that were sealed alongside an event. One that the event does not have, or that was destroyed, is absent.
#[derive(Object)]
struct UnsealedFields {
    /// The id of the device.
    #[oai(skip_serializing_if_is_none)]
    device: Option<String>,
    /// The display name.
    #[oai(skip_serializing_if_is_none)]
    display_name: Option<String>,
    /// The e-mail address.
    #[oai(skip_serializing_if_is_none)]
    email: Option<String>,
    /// The IP address of the client.
    #[oai(skip_serializing_if_is_none)]
    ip: Option<String>,
    /// The lessons of an incident.
    #[oai(skip_serializing_if_is_none)]
    lessons: Option<String>,
    /// The note on an incident.
    #[oai(skip_serializing_if_is_none)]
    note: Option<String>,
    /// The reason that was given.
    #[oai(skip_serializing_if_is_none)]
    reason: Option<String>,
    /// The summary of an incident.
    #[oai(skip_serializing_if_is_none)]
    summary: Option<String>,
    /// The user agent of the client.
    #[oai(skip_serializing_if_is_none)]
    user_agent: Option<String>,
}

#[OpenApi(prefix_path = "/v1/audit", tag = "Tag::Audit")]
impl Audit {
    /// List events
    ///
    /// Needs the permission `audit.read`. Returns events in the order of the log. Filters are combined with AND.
    #[oai(path = "/events", method = "get", operation_id = "list_audit_events")]
    async fn list(
        &self,
        request: &Request,
        caller: BearerOrKey,
        /// A filter for events with a greater position.
        after: Query<Option<u64>>,
        /// A filter for events of this type.
        #[oai(name = "type")]
        event_type: Query<Option<Word<EventTypes>>>,
        /// A filter for events of this category.
        category: Query<Option<Word<Categories>>>,
        /// A filter for events that concern this account.
        subject: Query<Option<Uuid>>,
        /// A filter for events that this account or API key caused.
        actor: Query<Option<Uuid>>,
        /// A filter for events that this request caused.
        correlation: Query<Option<Uuid>>,
        /// A filter for events of this session, and of the login that began it.
        session: Query<Option<Uuid>>,
        /// A filter for events that concern this API key, or that it caused.
        api_key: Query<Option<Uuid>>,
        /// A filter for events that have this id: as their own, or as that of their stream, subject, actor or correlation.
        id: Query<Option<Uuid>>,
        /// A filter for events that have this address sealed alongside them, by the digest that `POST /v1/audit/addresses` answers.
        /// Needs the permission `audit.unseal`, too.
        address: Query<Option<AddressParameter>>,
        /// A filter for events recorded at or after this time (RFC 3339).
        from: Query<Option<Timestamp>>,
        /// A filter for events recorded before this time (RFC 3339).
        to: Query<Option<Timestamp>>,
        /// The `next_cursor` of the previous page.
        cursor: Query<Option<String>>,
        /// The moment to read: a position of the log, or a time (RFC 3339). The list ends with that event, or with the last
        /// event recorded by that time.
        as_of: Query<Option<String>>,
        /// The maximum number of items, 1 to 200. The default is 50.
        limit: Query<Option<Limit>>,
        /// The direction: `asc`, oldest first, or `desc`. The default is `asc`.
        order: Query<Option<Word<Orders>>>,
        #[oai(name = "Log-Min-Position")] min_position: Header<Option<u64>>,
    ) -> Result<QueryResponse<AuditPage>, Problem> {
        caller.0.require(Permission::AuditRead)?;
        let app = app(request)?;
        let mut input = Input::default();
        let after = after.0.map(|after| i64::try_from(after).map_err(|_| InvalidValue("must be at most 2^63 - 1")));
        let parameters = FilterParameters {
            event_type: event_type.0,
            category: category.0,
            subject: subject.0,
            actor: actor.0,
            correlation: correlation.0,
            session: session.0,
            api_key: api_key.0,
            id: id.0,
            address: address.0,
        };
        caller.0.require_all(parameters.needs())?;
        let mut filter = audit::AuditFilter {
            from: from.0.map(DateTime::from),
            to: to.0.map(DateTime::from),
            after: input.parse_optional("/after", after),
            ..parameters.filter()
        };
        input.check()?;
        let view = app.caught_up(Projection::Audit, min_position.0).await?;
        let wanted = PageQuery { limit: limit.0, order: order.0, cursor: cursor.0 };
        let past = AsOfPaging::of(app, &[Projection::Audit], as_of.0, wanted, read_position).await?;
        let past = past.searching(app, filter.is_given()).await?;
        filter.until = past.moment.map(|moment| moment.position);
        let page = audit::list(&app.pool, &filter, &past.paging).await.map_err(query_failed)?;
        let items = page.items.iter().map(AuditEvent::read).collect::<Result<_, _>>()?;
        Ok(view.of(AuditPage { items, next_cursor: past.next(page.next), as_of: past.shown() }))
    }

    /// Get an event with its leaf
    ///
    /// Needs the permission `audit.read`. Returns the event, its exact leaf and the leaf hash on record. For an event that an
    /// administrator caused, also the fields that it changed, before and after. They are worked out from the log now, and are not
    /// part of the leaf.
    #[oai(path = "/events/:position", method = "get", operation_id = "get_audit_event")]
    async fn get(
        &self,
        request: &Request,
        caller: BearerOrKey,
        position: Path<u64>,
    ) -> Result<Json<AuditEventWithLeaf>, Problem> {
        caller.0.require(Permission::AuditRead)?;
        let position = i64::try_from(position.0).map_err(|_| Problem::not_found())?;
        let pool = &app(request)?.pool;
        let entry = audit::get(pool, position).await.map_err(query_failed)?;
        let entry = entry.ok_or_else(Problem::not_found)?;
        let change = change_of(pool, &entry).await?;
        Ok(Json(AuditEventWithLeaf {
            event: AuditEvent::read(&entry)?,
            leaf: URL_SAFE_NO_PAD.encode(&entry.leaf),
            leaf_hash: URL_SAFE_NO_PAD.encode(&entry.leaf_hash),
            change,
        }))
    }

    /// Unseal an event
    ///
    /// Needs the permission `audit.unseal` and an elevated session. Returns the personal data that are sealed alongside the
    /// event. The disclosure is an event itself, `audit.unsealed`, with the actor, the position, the names of the fields and,
    /// sealed, the reason; it is recorded before anything is disclosed, and the person whom the event concerns sees it in
    /// `GET /v1/me/events`.
    ///
    /// Answers 404 if the log has no event at the position, and 409 `nothing_sealed` if nothing is sealed alongside it, or all of
    /// it was destroyed.
    #[oai(path = "/events/:position/unseal", method = "post", operation_id = "unseal_audit_event")]
    async fn unseal(
        &self,
        request: &Request,
        caller: Bearer,
        position: Path<u64>,
        body: JsonBody<ReasonRequest>,
        #[oai(name = "Idempotency-Key")] idempotency_key: Header<Option<String>>,
    ) -> Result<CommandResponse<UnsealedEvent>, Problem> {
        let (context, reason) = act(request, &caller.0, Permission::AuditUnseal, body, idempotency_key.0)?;
        let app = app(request)?;
        let done = app.commands.unseal(&context, position.0, reason).await?;
        let checkpoint_size = app.checkpoint_over(&done).await;
        let response = CommandResponse::of(done, |opened| {
            let AddressDigests { ip, email } = app.commands.address_digests(&opened);
            UnsealedEvent {
                position: position.0,
                fields: UnsealedFields::of(&opened),
                ip_digest: ip.map(digest_text),
                email_digest: email.map(digest_text),
                checkpoint_size,
                anchored_size: app.anchored_size(),
            }
        });
        Ok(response.with_checkpoint(checkpoint_size))
    }
}

impl UnsealedFields {
    fn of(opened: &PersonalData) -> Self {
        let field = |field| opened.get(field).map(str::to_owned);
        Self {
            device: field(SealedField::Device),
            display_name: field(SealedField::DisplayName),
            email: field(SealedField::Email),
            ip: field(SealedField::Ip),
            lessons: field(SealedField::Lessons),
            note: field(SealedField::Note),
            reason: field(SealedField::Reason),
            summary: field(SealedField::Summary),
            user_agent: field(SealedField::UserAgent),
        }
    }
}

impl AuditEvent {
    /// `true` if the event is one of this stream.
    pub fn is_of(&self, stream: Uuid) -> bool {
        self.stream == stream
    }

    /// Decodes the leaf of an entry.
    ///
    /// # Errors
    /// 500 if the leaf cannot be decoded.
    pub fn read(entry: &AuditEntry) -> Result<Self, Problem> {
        let position = entry.position.unsigned_abs();
        let raw = leaf::read(position, &entry.leaf).map_err(Problem::internal)?;
        let sealed = raw.sealed.into_iter().map(|sealed| SealedFields {
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
            actor: ActorResource { kind: raw.actor.kind().to_owned(), id: raw.actor.id() },
            time: raw.time.into(),
            correlation: raw.correlation,
            causation: raw.causation,
            policy_version: raw.policy_version,
            schema_version: raw.schema_version,
            data: Any(serde_json::from_str(raw.data.get()).map_err(Problem::internal)?),
            sealed: sealed.collect(),
        })
    }

    /// The properties that filters ask for.
    pub fn indexed(&self) -> IndexedEvent {
        IndexedEvent {
            position: self.position,
            id: self.id,
            event_type: self.event_type.0,
            category: self.category.0,
            stream: self.stream,
            subject: self.subject,
            actor: self.actor.id,
            correlation: self.correlation,
            recorded_at: self.time.into(),
        }
    }
}
