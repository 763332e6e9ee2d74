//! Sessions of all accounts, for administrators.

use fulexo_commands::CommandError;
use fulexo_domain::event::Field;
use fulexo_domain::permission::Permission;
use fulexo_domain::values::{AccountId, Reason, SessionId};
use fulexo_node::answer::{Enforced, Recorded, Viewed, query_failed};
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

use super::as_of::{PastPaging, Shown};
use super::input::{Because, Input, Limit, Wanted, read_id};
use super::tag::Tag;

pub struct Sessions;

#[derive(Object)]
struct Session {
    session_id: Uuid,
    account_id: Uuid,
    started_at: Timestamp,
    /// When its tokens were last refreshed; at first, when it started. What is done with an access token is not noted.
    last_seen_at: Timestamp,
    /// From where that was.
    last_seen_ip: Option<String>,
    /// With what.
    last_seen_user_agent: Option<String>,
    idle_expires_at: Timestamp,
    expires_at: Timestamp,
    /// How its owner logged in (RFC 8176).
    methods: Vec<String>,
    /// From where it was started.
    ip: Option<String>,
    /// With what.
    user_agent: Option<String>,
    ended_at: Option<Timestamp>,
    /// `owner`, `admin`, `reuse`, `password_change`, `suspension`, `second_factor_reset`, `password_expired`,
    /// `fingerprint`, `limit` or `expiry`.
    ended_by: Option<String>,
}

#[derive(Object)]
struct SessionPage {
    items: Vec<Session>,
    next_cursor: Option<String>,
    /// Of which moment this is, where one was asked for.
    #[oai(skip_serializing_if_is_none)]
    as_of: Option<Shown>,
}

#[OpenApi(prefix_path = "/v1/sessions", tag = "Tag::Sessions")]
impl Sessions {
    /// List sessions
    ///
    /// In the order of their start.
    /// Needs `sessions.read`.
    #[oai(path = "/", method = "get", operation_id = "list_sessions")]
    async fn list(
        &self,
        request: &Request,
        caller: BearerOrKey,
        /// Sessions of this account.
        account_id: Query<Option<Uuid>>,
        /// Sessions that are in use, or that are not.
        live: Query<Option<bool>>,
        /// `next_cursor` of the page before.
        cursor: Query<Option<String>>,
        /// A position of the log, or a time (RFC 3339): the state after that event, or after the last one recorded by then.
        as_of: Query<Option<String>>,
        /// Most items, 1 to 200; 50 if not given.
        limit: Query<Option<Limit>>,
        /// `asc`, oldest first, if not given, or `desc`.
        order: Query<Option<Word<Orders>>>,
        #[oai(name = "Log-Min-Position")] min_position: Header<Option<u64>>,
    ) -> Result<Viewed<SessionPage>, Problem> {
        caller.0.require(Permission::SessionsRead)?;
        let app = app(request)?;
        let view = app.caught_up(Projection::Sessions, min_position.0).await?;
        let wanted = Wanted { limit: limit.0, order: order.0, cursor: cursor.0 };
        let past = PastPaging::of(app, &[Projection::Sessions], as_of.0, wanted, read_id).await?;
        let past = past.searching(app, account_id.0.is_some() || live.0.is_some()).await?;
        let filter = sessions::SessionFilter { account: account_id.0.map(AccountId), live: live.0 };
        let page = with_origins(app, &filter, &past.paging, past.moment).await?;
        let items = page.items.into_iter().map(|(session, [began, last_seen])| Session {
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
    /// Its tokens are refused from then on. A reason may be given. Needs `sessions.revoke`.
    #[oai(path = "/:session_id", method = "delete", operation_id = "revoke_session")]
    async fn end(
        &self,
        request: &Request,
        caller: BearerOrKey,
        session_id: Path<Uuid>,
        body: JsonBody<Option<Because>>,
        #[oai(name = "Idempotency-Key")] idempotency_key: Header<Option<String>>,
    ) -> Result<Recorded<Enforced>, Problem> {
        caller.0.require(Permission::SessionsRevoke)?;
        let mut input = Input::default();
        let reason = input.parse_optional("/reason", body.read()?.map(|because| Reason::parse(&because.reason)));
        input.check()?;
        let context = context(request, caller.0.actor, idempotency_key.0)?;
        let app = app(request)?;
        app.enforced(app.commands.end_session(&context, SessionId(session_id.0), reason).await?).await
    }
}

/// From where a session was started or refreshed, as far as it is known and not forgotten.
#[derive(Default)]
pub struct Origin {
    pub ip: Option<String>,
    pub user_agent: Option<String>,
}

/// A page of sessions, each with what is sealed beside its start and its last refresh; as they were at a moment, or are.
pub async fn with_origins(
    app: &App,
    filter: &sessions::SessionFilter,
    paging: &Paging<Uuid>,
    moment: Option<Moment>,
) -> Result<Page<(sessions::SessionRow, [Origin; 2]), Uuid>, Problem> {
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
        Some(Origin { ip: text(Field::Ip), user_agent: text(Field::UserAgent) })
    };
    let items = page.items.into_iter().map(|session| {
        let origins = positions(&session).map(|position| origin(position).unwrap_or_default());
        (session, origins)
    });
    Ok(Page { items: items.collect(), next: page.next })
}
