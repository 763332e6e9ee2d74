//! The audit trail as it grows: server-sent events (<https://html.spec.whatwg.org/multipage/server-sent-events.html>). Decides
//! who may open a stream and where it begins; `live_events.rs` sends.

use std::time::Duration;

use fulexo_commands::{CommandError, EventCopy};
use fulexo_domain::audit::CopyForm;
use fulexo_domain::permission::Permission;
use fulexo_domain::values::InvalidValue;
use fulexo_node::answer::query_failed;
use fulexo_node::caller::{BearerOrKey, app};
use fulexo_node::http::Problem;
use fulexo_node::http::problem::Code;
use fulexo_node::state::App;
use fulexo_node::streams::{MOST_OF_CALLER, MOST_OF_NODE, NoPlace};
use fulexo_node::vocabulary::{Categories, EventTypes, Word};
use poem::{Body, IntoResponse, Request, Response};
use poem_openapi::param::{Header, Query};
use poem_openapi::payload::Payload;
use poem_openapi::registry::MetaSchemaRef;
use poem_openapi::types::Type;
use poem_openapi::{ApiResponse, OpenApi};
use uuid::Uuid;

use super::audit_filter::{AddressParameter, FilterParameters, copy_filter};
use super::health::unless_replaced;
use super::input::Input;
use super::live_events::LiveEvents;
use super::tag::Tag;

pub struct AuditStream;

/// The blocks of a stream.
struct EventBlocks(Body);

/// A stream of events.
#[derive(ApiResponse)]
enum EventStreamResponse {
    /// The events, each with its position as `id` and the event as `data`, in the JSON of `GET /v1/audit/events`. The stream
    /// ends when the caller may no longer read events, or when the node stops.
    #[oai(status = 200)]
    Open(
        EventBlocks,
        /// `no`: a proxy must pass each event on at once.
        #[oai(header = "X-Accel-Buffering")]
        String,
    ),
}

impl Payload for EventBlocks {
    const CONTENT_TYPE: &'static str = "text/event-stream";

    fn schema_ref() -> MetaSchemaRef {
        String::schema_ref()
    }
}

impl IntoResponse for EventBlocks {
    fn into_response(self) -> Response {
        self.0.with_content_type(Self::CONTENT_TYPE).into_response()
    }
}

#[OpenApi(prefix_path = "/v1/audit", tag = "Tag::Audit")]
impl AuditStream {
    /// Stream events
    ///
    /// Needs the permission `audit.read`. Returns events as server-sent events, in the order of the log, each once, as they are
    /// recorded. Filters are combined with AND. A client that reconnects with the `Last-Event-ID` that it saw last misses none.
    /// Blocks that have an id and no data move this position past events that the filters exclude.
    ///
    /// The stream is an event itself, `audit.exported`: once an hour at each node, and again if it begins earlier in the log.
    ///
    /// Answers 429 `too_many_streams` to a caller with 5 streams at this node, and 503 `overloaded` if the node has 200.
    #[oai(path = "/stream", method = "get", operation_id = "stream_audit_events")]
    async fn stream(
        &self,
        request: &Request,
        caller: BearerOrKey,
        /// A filter for events with a greater position. Without it, and without `Last-Event-ID`, the stream begins with events
        /// that are recorded from now on.
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
        /// A filter for events of this session, which must have begun, and of the login that began it.
        session: Query<Option<Uuid>>,
        /// A filter for events that concern this API key, or that it caused.
        api_key: Query<Option<Uuid>>,
        /// A filter for events that have this id: as their own, or as that of their stream, subject, actor or correlation.
        id: Query<Option<Uuid>>,
        /// A filter for events that have this address sealed alongside them, by the digest that `POST /v1/audit/addresses` answers.
        /// Needs the permission `audit.unseal`, too.
        address: Query<Option<AddressParameter>>,
        /// The id of the last event received, instead of `after`. Browsers send it when they reconnect.
        #[oai(name = "Last-Event-ID")]
        last_event_id: Header<Option<u64>>,
    ) -> Result<EventStreamResponse, Problem> {
        caller.0.require(Permission::AuditRead)?;
        let app = app(request)?;
        unless_replaced(app)?;
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
        let needs = parameters.needs();
        caller.0.require_all(needs)?;
        let filter = parameters.filter().resolved(&app.pool).await.map_err(query_failed)?;
        let named = [("/Last-Event-ID", last_event_id.0), ("/after", after.0)];
        let named = named.into_iter().find_map(|(pointer, position)| Some((pointer, position?)));
        let first = first_position(app, named).await?;
        let place = app.streams.places.take(caller.0.actor.id().unwrap_or_default()).map_err(refused)?;
        let (form, recorded) = (CopyForm::Stream, copy_filter(&filter));
        app.record_copy(request, &caller.0, EventCopy { form, first, last: None, filter: recorded }).await?;
        // From now on is from behind this record on.
        let next = if named.is_some() { first } else { first_position(app, None).await? };
        let live = LiveEvents::new(app, caller.0, needs, filter, next, place)?;
        Ok(EventStreamResponse::Open(EventBlocks(live.start()), "no".to_owned()))
    }
}

/// The position of the first event that the stream may have: the one after the position that is named, or the end of the log.
///
/// # Errors
/// 400 for a position beyond the end of the log.
async fn first_position(app: &App, named: Option<(&str, u64)>) -> Result<u64, Problem> {
    let Some((pointer, position)) = named else {
        return Ok(app.commands.log().size().await.map_err(CommandError::from)?);
    };
    let mut input = Input::default();
    // Another node may have recorded it a moment ago. The database knows.
    let is_known =
        position < *app.head.borrow() || position < app.commands.log().size().await.map_err(CommandError::from)?;
    let known = if is_known { Ok(()) } else { Err(InvalidValue("is beyond the end of the log")) };
    input.parse(pointer, known);
    input.check()?;
    Ok(position + 1)
}

fn refused(bound: NoPlace) -> Problem {
    match bound {
        NoPlace::OfCaller => Problem::rate_limited(Duration::from_secs(5)).with_code(Code::TOO_MANY_STREAMS).with_detail(
            format!("You have {MOST_OF_CALLER} streams at this node, the most of one account or API key. Close one first."),
        ),
        NoPlace::OfNode => Problem::overloaded(Duration::from_secs(10)).with_detail(format!(
            "This node has {MOST_OF_NODE} streams, the most that it may have. Try again after Retry-After, or at another node."
        )),
    }
}
