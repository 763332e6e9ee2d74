//! Sessions of all accounts, for administrators.

use fulexo_commands::CommandError;
use fulexo_domain::permission::Permission;
use fulexo_domain::sealed_field::SealedField;
use fulexo_domain::values::{AccountId, Reason, SessionId};
use fulexo_node::answer::{CommandResponse, EnforcementResource, QueryResponse, query_failed};
use fulexo_node::caller::{BearerOrKey, app, context};
use fulexo_node::clock;
use fulexo_node::http::{JsonBody, Problem};
use fulexo_node::state::App;
use fulexo_node::timestamp::Timestamp;
use fulexo_node::vocabulary::{Orders, Word};
use fulexo_projections::as_of::Moment;
use fulexo_projections::page::{Page, Paging};
use fulexo_projections::read_models::Projection;
use fulexo_projections::read_models::sessions;
use poem::Request;
use poem_openapi::param::{Header, Path, Query};
use poem_openapi::{Object, OpenApi};
use uuid::Uuid;

use super::as_of::{AsOfPaging, AsOfResource};
use super::input::{Input, Limit, PageQuery, ReasonRequest, read_id};
use super::tag::Tag;

pub struct Sessions;

/// A session.
#[derive(Object)]
#[oai(rename = "Session")]
struct SessionResource {
    session_id: Uuid,
    account_id: Uuid,
    started_at: Timestamp,
    /// The time of the last refresh, or of the start if there was no refresh. Other calls do not change it.
    last_seen_at: Timestamp,
    /// The IP address of the last refresh.
    last_seen_ip: Option<String>,
    /// The `User-Agent` of the last refresh.
    last_seen_user_agent: Option<String>,
    idle_expires_at: Timestamp,
    /// The time at which the session expires in any case.
    expires_at: Timestamp,
    /// The authentication methods of the session (RFC 8176).
    methods: Vec<String>,
    /// The IP address of the login.
    ip: Option<String>,
    /// The `User-Agent` of the login.
    user_agent: Option<String>,
    ended_at: Option<Timestamp>,
    /// The cause of the end: `owner`, `admin`, `reuse`, `password_change`, `suspension`, `second_factor_reset`,
    /// `password_expired`, `fingerprint_mismatch`, `session_limit` or `expiry`.
    ended_by: Option<String>,
}

/// A page of sessions.
#[derive(Object)]
struct SessionPage {
    items: Vec<SessionResource>,
    next_cursor: Option<String>,
    /// The moment of this state. Present if the query has `as_of`.
    #[oai(skip_serializing_if_is_none)]
    as_of: Option<AsOfResource>,
}

#[OpenApi(prefix_path = "/v1/sessions", tag = "Tag::Sessions")]
impl Sessions {
    /// List sessions
    ///
    /// Needs the permission `sessions.read`. Returns sessions by time of start. Filters are combined with AND.
    #[oai(path = "/", method = "get", operation_id = "list_sessions")]
    async fn list(
        &self,
        request: &Request,
        caller: BearerOrKey,
        /// A filter for the sessions of this account.
        account_id: Query<Option<Uuid>>,
        /// A filter for sessions that are active (`true`) or have ended (`false`).
        live: Query<Option<bool>>,
        /// The `next_cursor` of the previous page.
        cursor: Query<Option<String>>,
        /// The moment to read: a position of the log, or a time (RFC 3339). The state is the one after that event, or after the
        /// last event recorded by that time.
        as_of: Query<Option<String>>,
        /// The maximum number of items, 1 to 200. The default is 50.
        limit: Query<Option<Limit>>,
        /// The direction: `asc`, oldest first, or `desc`. The default is `asc`.
        order: Query<Option<Word<Orders>>>,
        #[oai(name = "Log-Min-Position")] min_position: Header<Option<u64>>,
    ) -> Result<QueryResponse<SessionPage>, Problem> {
        caller.0.require(Permission::SessionsRead)?;
        let app = app(request)?;
        let view = app.caught_up(Projection::Sessions, min_position.0).await?;
        let wanted = PageQuery { limit: limit.0, order: order.0, cursor: cursor.0 };
        let past = AsOfPaging::of(app, &[Projection::Sessions], as_of.0, wanted, read_id).await?;
        let past = past.searching(app, account_id.0.is_some() || live.0.is_some()).await?;
        let filter = sessions::SessionFilter { account: account_id.0.map(AccountId), live: live.0 };
        let page = with_origins(app, &filter, &past.paging, past.moment).await?;
        let items = page.items.into_iter().map(|(session, [began, last_seen])| SessionResource {
            ip: began.ip,
            user_agent: began.user_agent,
            last_seen_ip: last_seen.ip,
            last_seen_user_agent: last_seen.user_agent,
            session_id: session.session_id,
            account_id: session.account_id,
            started_at: session.started_at.into(),
            last_seen_at: session.last_seen_at.into(),
            idle_expires_at: session.idle_expires_at.into(),
            expires_at: session.expires_at.into(),
            methods: session.methods.to_vec(),
            ended_at: session.ended_at.map(Timestamp),
            ended_by: session.ended_by,
        });
        Ok(view.of(SessionPage { items: items.collect(), next_cursor: past.next(page.next), as_of: past.shown() }))
    }

    /// Revoke a session
    ///
    /// Needs the permission `sessions.revoke`. A reason is optional. Ends the session; its tokens are refused from then on.
    /// Returns when every node enforces the change.
    #[oai(path = "/:session_id", method = "delete", operation_id = "revoke_session")]
    async fn end(
        &self,
        request: &Request,
        caller: BearerOrKey,
        session_id: Path<Uuid>,
        body: JsonBody<Option<ReasonRequest>>,
        #[oai(name = "Idempotency-Key")] idempotency_key: Header<Option<String>>,
    ) -> Result<CommandResponse<EnforcementResource>, Problem> {
        caller.0.require(Permission::SessionsRevoke)?;
        let mut input = Input::default();
        let reason = input.parse_optional("/reason", body.read()?.map(|given| Reason::parse(&given.reason)));
        input.check()?;
        let context = context(request, caller.0.actor, idempotency_key.0)?;
        let app = app(request)?;
        app.enforced(app.commands.end_session(&context, SessionId(session_id.0), reason).await?).await
    }
}

/// The origin of a login or a refresh. A member is `None` if it is unknown or was erased.
#[derive(Default)]
pub struct SessionOrigin {
    pub ip: Option<String>,
    pub user_agent: Option<String>,
}

/// Returns a page of sessions, each with the sealed origins of its login and of its last refresh, now or at a moment.
pub async fn with_origins(
    app: &App,
    filter: &sessions::SessionFilter,
    paging: &Paging<Uuid>,
    moment: Option<Moment>,
) -> Result<Page<(sessions::SessionRow, [SessionOrigin; 2]), Uuid>, Problem> {
    let page = match moment {
        Some(moment) => sessions::list_as_of(&app.pool, filter, paging, moment).await,
        None => sessions::list(&app.pool, filter, paging, clock::now()).await,
    };
    let page = page.map_err(query_failed)?;
    let positions = |session: &sessions::SessionRow| [session.started_position, session.last_seen_position];
    let mut sealed: Vec<i64> = page.items.iter().flat_map(positions).collect();
    sealed.sort_unstable();
    sealed.dedup();
    let facts = app.commands.vault().open_personal(&sealed).await.map_err(CommandError::from)?;
    let origin = |position| {
        let facts = facts.get(&position)?;
        let text = |field| facts.get(field).map(str::to_owned);
        Some(SessionOrigin { ip: text(SealedField::Ip), user_agent: text(SealedField::UserAgent) })
    };
    let items = page.items.into_iter().map(|session| {
        let origins = positions(&session).map(|position| origin(position).unwrap_or_default());
        (session, origins)
    });
    Ok(Page { items: items.collect(), next: page.next })
}
