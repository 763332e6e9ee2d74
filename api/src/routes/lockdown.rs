//! The lockdown: while an incident is contained, only those who respond get in.

use fulexo_commands::CommandError;
use fulexo_domain::event::Field;
use fulexo_domain::lockdown::Scope;
use fulexo_domain::permission::Permission;
use fulexo_domain::values::Reason;
use fulexo_node::answer::{Enforced, Recorded, query_failed};
use fulexo_node::caller::{Bearer, BearerOrKey, app, context};
use fulexo_node::http::{JsonBody, Problem};
use fulexo_node::timestamp::Timestamp;
use fulexo_projections::access;
use poem::Request;
use poem_openapi::param::Header;
use poem_openapi::payload::Json;
use poem_openapi::{Object, OpenApi};

use super::input::{Because, Input, act};
use super::tag::Tag;

pub struct Lockdowns;

#[derive(Object)]
#[oai(deny_unknown_fields)]
struct LockdownRequest {
    /// `logins`: nobody logs in, refreshes or registers; who is in stays in. `all`: in addition, requests of those who are
    /// in are refused, and those of API keys.
    scope: String,
    /// Why; kept sealed.
    reason: String,
}

#[derive(Object)]
struct Lockdown {
    active: bool,
    /// `logins` or `all`, while it is active.
    scope: Option<String>,
    /// When it was started, last changed or lifted.
    changed_at: Option<Timestamp>,
    /// The event that says so, in the audit trail.
    position: Option<u64>,
    reason: Option<String>,
}

#[OpenApi(prefix_path = "/v1/lockdown", tag = "Tag::Incidents")]
impl Lockdowns {
    /// Get the lockdown
    ///
    /// Needs `lockdown.manage`.
    #[oai(path = "/", method = "get", operation_id = "get_lockdown")]
    async fn show(&self, request: &Request, caller: BearerOrKey) -> Result<Json<Lockdown>, Problem> {
        caller.0.require(Permission::LockdownManage)?;
        let app = app(request)?;
        let mut connection = app.pool.acquire().await.map_err(query_failed)?;
        let row = access::lockdown(&mut connection).await.map_err(query_failed)?;
        let Some(row) = row else {
            return Ok(Json(Lockdown { active: false, scope: None, changed_at: None, position: None, reason: None }));
        };
        let position = i64::try_from(row.position).unwrap_or(i64::MAX);
        let facts = app.commands.vault().open_personal(&[position]).await.map_err(CommandError::from)?;
        let reason = facts.get(&position).and_then(|facts| facts.get(Field::Reason)).map(str::to_owned);
        Ok(Json(Lockdown {
            active: row.scope.is_some(),
            scope: row.scope.map(|scope| scope.as_str().to_owned()),
            changed_at: Some(row.changed_at.into()),
            position: Some(row.position),
            reason,
        }))
    }

    /// Impose a lockdown or change its scope
    ///
    /// In force at once: everybody without `lockdown.manage` is answered 503 `locked_down`, and a refused login says no
    /// more than that, whatever was wrong with it. Ends nothing: when it is lifted, sessions and keys work as before. Needs
    /// `lockdown.manage`, and a login within the last ten minutes. 409 `lockdown_active` when there is one of this scope.
    #[oai(path = "/", method = "post", operation_id = "impose_lockdown")]
    async fn start(
        &self,
        request: &Request,
        caller: Bearer,
        body: JsonBody<LockdownRequest>,
        #[oai(name = "Idempotency-Key")] idempotency_key: Header<Option<String>>,
    ) -> Result<Recorded<Enforced>, Problem> {
        let caller = caller.0;
        caller.require(Permission::LockdownManage)?;
        caller.require_elevated()?;
        let body = body.read()?;
        let mut input = Input::default();
        let scope = input.parse("/scope", Scope::parse(&body.scope));
        let reason = input.parse("/reason", Reason::parse(&body.reason));
        let (Some(scope), Some(reason)) = (scope, reason) else { return Err(input.refused()) };
        let context = context(request, caller.actor(), idempotency_key.0)?;
        let app = app(request)?;
        app.enforced(app.commands.start_lockdown(&context, scope, reason).await?).await
    }

    /// Lift the lockdown
    ///
    /// Needs `lockdown.manage`, and a login within the last ten minutes. 409 `no_lockdown` when there is none.
    #[oai(path = "/", method = "delete", operation_id = "lift_lockdown")]
    async fn lift(
        &self,
        request: &Request,
        caller: Bearer,
        body: JsonBody<Because>,
        #[oai(name = "Idempotency-Key")] idempotency_key: Header<Option<String>>,
    ) -> Result<Recorded<Enforced>, Problem> {
        let (context, reason) = act(request, &caller.0, Permission::LockdownManage, body, idempotency_key.0)?;
        let app = app(request)?;
        app.enforced(app.commands.lift_lockdown(&context, reason).await?).await
    }
}
