//! The lockdown, which refuses everybody except incident responders.

use fulexo_commands::CommandError;
use fulexo_domain::lockdown::LockdownScope;
use fulexo_domain::permission::Permission;
use fulexo_domain::sealed_field::SealedField;
use fulexo_domain::values::Reason;
use fulexo_node::answer::{CommandResponse, EnforcementResource, query_failed};
use fulexo_node::caller::{Bearer, BearerOrKey, app, context};
use fulexo_node::http::{JsonBody, Problem};
use fulexo_node::timestamp::Timestamp;
use fulexo_projections::access;
use poem::Request;
use poem_openapi::param::Header;
use poem_openapi::payload::Json;
use poem_openapi::{Object, OpenApi};

use super::input::{Input, ReasonRequest, act};
use super::tag::Tag;

pub struct Lockdowns;

/// A lockdown to impose.
#[derive(Object)]
#[oai(deny_unknown_fields)]
struct LockdownRequest {
    /// The scope. `logins` refuses logins, refreshes and registrations; active sessions continue. `all` also refuses every
    /// request of active sessions and API keys.
    scope: String,
    /// The reason, 1 to 500 characters. It is sealed alongside the event.
    reason: String,
}

/// The lockdown.
#[derive(Object)]
#[oai(rename = "Lockdown")]
struct LockdownResource {
    /// `true` if a lockdown is in force.
    active: bool,
    /// The scope: `logins` or `all`. `null` if no lockdown is in force.
    scope: Option<String>,
    /// The time at which the lockdown was imposed, changed or lifted.
    changed_at: Option<Timestamp>,
    /// The position of that event in the log.
    position: Option<u64>,
    reason: Option<String>,
}

#[OpenApi(prefix_path = "/v1/lockdown", tag = "Tag::Incidents")]
impl Lockdowns {
    /// Get the lockdown
    ///
    /// Needs the permission `lockdown.manage`. Returns the lockdown that is in force, or the last one. Reads the current state,
    /// never an older one.
    #[oai(path = "/", method = "get", operation_id = "get_lockdown")]
    async fn show(&self, request: &Request, caller: BearerOrKey) -> Result<Json<LockdownResource>, Problem> {
        caller.0.require(Permission::LockdownManage)?;
        let app = app(request)?;
        let mut connection = app.pool.acquire().await.map_err(query_failed)?;
        let row = access::lockdown(&mut connection).await.map_err(query_failed)?;
        let Some(row) = row else {
            return Ok(Json(LockdownResource {
                active: false,
                scope: None,
                changed_at: None,
                position: None,
                reason: None,
            }));
        };
        let position = i64::try_from(row.position).unwrap_or(i64::MAX);
        let facts = app.commands.vault().open_personal(&[position]).await.map_err(CommandError::from)?;
        let reason = facts.get(&position).and_then(|facts| facts.get(SealedField::Reason)).map(str::to_owned);
        Ok(Json(LockdownResource {
            active: row.scope.is_some(),
            scope: row.scope.map(|scope| scope.as_str().to_owned()),
            changed_at: Some(row.changed_at.into()),
            position: Some(row.position),
            reason,
        }))
    }

    /// Impose a lockdown or change its scope
    ///
    /// Needs the permission `lockdown.manage` and an elevated session. Calls without this permission are answered 503
    /// `locked_down`; refused logins are answered alike, regardless of their fault. A lockdown ends no session and no API key:
    /// they work again when it is lifted. Returns when every node enforces the change.
    ///
    /// Answers 409 `lockdown_active` if a lockdown of this scope is in force.
    #[oai(path = "/", method = "post", operation_id = "impose_lockdown")]
    async fn start(
        &self,
        request: &Request,
        caller: Bearer,
        body: JsonBody<LockdownRequest>,
        #[oai(name = "Idempotency-Key")] idempotency_key: Header<Option<String>>,
    ) -> Result<CommandResponse<EnforcementResource>, Problem> {
        let caller = caller.0;
        caller.require(Permission::LockdownManage)?;
        caller.require_elevated()?;
        let body = body.read()?;
        let mut input = Input::default();
        let scope = input.parse("/scope", LockdownScope::parse(&body.scope));
        let reason = input.parse("/reason", Reason::parse(&body.reason));
        let (Some(scope), Some(reason)) = (scope, reason) else { return Err(input.refused()) };
        let context = context(request, caller.actor(), idempotency_key.0)?;
        let app = app(request)?;
        app.enforced(app.commands.start_lockdown(&context, scope, reason).await?).await
    }

    /// Lift the lockdown
    ///
    /// Needs the permission `lockdown.manage` and an elevated session. Lifts the lockdown. Returns when every node enforces the
    /// change.
    ///
    /// Answers 409 `no_lockdown` if no lockdown is in force.
    #[oai(path = "/", method = "delete", operation_id = "lift_lockdown")]
    async fn lift(
        &self,
        request: &Request,
        caller: Bearer,
        body: JsonBody<ReasonRequest>,
        #[oai(name = "Idempotency-Key")] idempotency_key: Header<Option<String>>,
    ) -> Result<CommandResponse<EnforcementResource>, Problem> {
        let (context, reason) = act(request, &caller.0, Permission::LockdownManage, body, idempotency_key.0)?;
        let app = app(request)?;
        app.enforced(app.commands.lift_lockdown(&context, reason).await?).await
    }
}
