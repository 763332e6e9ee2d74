//! Roles and permissions.

use std::collections::BTreeMap;

use fulexo_domain::permission::{Permission, Permissions, built_in_permissions, built_in_roles};
use fulexo_domain::values::{InvalidValue, Reason, RoleName};
use fulexo_node::answer::{CommandResponse, EnforcementResource, query_failed};
use fulexo_node::caller::{Bearer, BearerOrKey, app, context};
use fulexo_node::http::{JsonBody, Problem};
use fulexo_node::state::App;
use fulexo_projections::access;
use fulexo_projections::as_of::Moment;
use fulexo_projections::read_models::Projection;
use fulexo_projections::read_models::{counts, roles};
use poem::Request;
use poem_openapi::param::{Header, Path, Query};
use poem_openapi::payload::Json;
use poem_openapi::{Object, OpenApi};

use super::as_of::{self, AsOfResource};
use super::input::{Input, ReasonRequest};
use super::tag::Tag;

pub struct Roles;

/// A role.
#[derive(Object)]
#[oai(rename = "Role")]
struct RoleResource {
    role: String,
    /// The permissions of the role.
    permissions: Vec<String>,
    /// `true` if the role is built in and cannot be changed.
    built_in: bool,
    /// `true` if the role was retired. It has no permissions, and its name cannot be used again.
    retired: bool,
    /// The number of accounts that have the role.
    holders: u64,
}

/// All roles.
#[derive(Object)]
struct RoleList {
    items: Vec<RoleResource>,
    /// The moment of this state. Present if the query has `as_of`.
    #[oai(skip_serializing_if_is_none)]
    as_of: Option<AsOfResource>,
}

/// A permission with its description.
#[derive(Object)]
struct PermissionDescription {
    permission: String,
    /// The calls that the permission allows.
    description: String,
}

/// All permissions.
#[derive(Object)]
struct PermissionList {
    items: Vec<PermissionDescription>,
}

/// The definition of a role.
#[derive(Object)]
#[oai(deny_unknown_fields)]
struct RoleRequest {
    /// The permissions of the role. List all permissions with `GET /v1/permissions`.
    #[oai(validator(max_items = 100))]
    permissions: Vec<String>,
    /// The reason, 1 to 500 characters. It is sealed alongside the event.
    reason: String,
}

/// A defined role and its enforcement.
#[derive(Object)]
struct DefinedRole {
    role: String,
    permissions: Vec<String>,
    #[oai(flatten)]
    enforced: EnforcementResource,
}

#[OpenApi(prefix_path = "/v1", tag = "Tag::Roles")]
impl Roles {
    /// List roles
    ///
    /// Needs the permission `roles.read`. Returns the built-in roles, then the roles that administrators defined. Reads the
    /// current state, never an older one, unless the query has `as_of`. A built-in role has the permissions of this release,
    /// also in the past.
    #[oai(path = "/roles", method = "get", operation_id = "list_roles")]
    async fn list(
        &self,
        request: &Request,
        caller: BearerOrKey,
        /// The moment to read: a position of the log, or a time (RFC 3339). The state is the one after that event, or after the
        /// last event recorded by that time.
        as_of: Query<Option<String>>,
    ) -> Result<Json<RoleList>, Problem> {
        caller.0.require(Permission::RolesRead)?;
        let app = app(request)?;
        let moment = as_of::moment(app, as_of.0.as_deref(), &[Projection::Roles]).await?;
        let (defined, holders) = match moment {
            Some(moment) => as_it_was(app, moment).await,
            None => as_it_is(app).await,
        }
        .map_err(query_failed)?;
        let mut items: Vec<RoleResource> = built_in_roles().map(RoleResource::built_in).collect();
        items.extend(defined);
        for role in &mut items {
            role.holders = holders.get(&role.role).copied().unwrap_or_default();
        }
        Ok(Json(RoleList { items, as_of: moment.map(AsOfResource::from) }))
    }

    /// List permissions
    ///
    /// Needs the permission `roles.read`. Returns every permission with its description.
    #[oai(path = "/permissions", method = "get", operation_id = "list_permissions")]
    async fn permissions(&self, caller: BearerOrKey) -> Result<Json<PermissionList>, Problem> {
        caller.0.require(Permission::RolesRead)?;
        let items = Permission::ALL.into_iter().map(|permission| PermissionDescription {
            permission: permission.as_str().to_owned(),
            description: permission.description().to_owned(),
        });
        Ok(Json(PermissionList { items: items.collect() }))
    }

    /// Define a role or change its permissions
    ///
    /// Needs the permission `roles.manage`, every permission that the role has or will have, and an elevated session. Defines
    /// the role, or replaces its permissions for every account that has it. Returns when every node enforces the change.
    ///
    /// Answers 409 `built_in_role` or `role_retired` if the name belongs to a built-in or a retired role.
    #[oai(path = "/roles/:role", method = "put", operation_id = "define_role")]
    async fn define(
        &self,
        request: &Request,
        caller: Bearer,
        role: Path<String>,
        body: JsonBody<RoleRequest>,
        #[oai(name = "Idempotency-Key")] idempotency_key: Header<Option<String>>,
    ) -> Result<CommandResponse<DefinedRole>, Problem> {
        let caller = caller.0;
        caller.require(Permission::RolesManage)?;
        caller.require_elevated()?;
        let body = body.read()?;
        let mut input = Input::default();
        let role = input.parse("/role", RoleName::parse(&role.0));
        let permissions = parse_permissions(&mut input, &body.permissions);
        let reason = input.parse("/reason", Reason::parse(&body.reason));
        let (Some(role), Some(permissions), Some(reason)) = (role, permissions, reason) else {
            return Err(input.refused());
        };
        let context = context(request, caller.actor(), idempotency_key.0)?;
        let app = app(request)?;
        let done = app.commands.define_role(&context, caller.permissions, role.clone(), permissions, reason).await?;
        let permissions = names(permissions);
        app.enforced_with(done, |(), enforced| DefinedRole { role: role.into(), permissions, enforced }).await
    }

    /// Retire an unused role
    ///
    /// Needs the permission `roles.manage`, every permission of the role, and an elevated session. Retires the role. Its name
    /// cannot be used again. Returns when every node enforces the change.
    ///
    /// Answers 409 `role_in_use` if an account has the role.
    #[oai(path = "/roles/:role", method = "delete", operation_id = "retire_role")]
    async fn retire(
        &self,
        request: &Request,
        caller: Bearer,
        role: Path<String>,
        body: JsonBody<ReasonRequest>,
        #[oai(name = "Idempotency-Key")] idempotency_key: Header<Option<String>>,
    ) -> Result<CommandResponse<EnforcementResource>, Problem> {
        let caller = caller.0;
        caller.require(Permission::RolesManage)?;
        caller.require_elevated()?;
        let body = body.read()?;
        let mut input = Input::default();
        let role = input.parse("/role", RoleName::parse(&role.0));
        let reason = input.parse("/reason", Reason::parse(&body.reason));
        let (Some(role), Some(reason)) = (role, reason) else { return Err(input.refused()) };
        let context = context(request, caller.actor(), idempotency_key.0)?;
        let app = app(request)?;
        app.enforced(app.commands.retire_role(&context, caller.permissions, role, reason).await?).await
    }
}

impl RoleResource {
    fn built_in(role: RoleName) -> Self {
        let permissions = names(built_in_permissions(&role).unwrap_or_default());
        Self { built_in: true, ..Self::defined(role.into(), permissions, false) }
    }

    /// Creates a role without its number of holders.
    const fn defined(role: String, permissions: Vec<String>, retired: bool) -> Self {
        Self { role, permissions, built_in: false, retired, holders: 0 }
    }
}

/// The roles that administrators defined, and the number of holders of each role.
type RolesAndHolders = (Vec<RoleResource>, BTreeMap<String, u64>);

async fn as_it_is(app: &App) -> Result<RolesAndHolders, sqlx::Error> {
    let mut connection = app.pool.acquire().await?;
    let defined = access::custom_roles(&mut connection).await?.into_iter();
    let defined = defined.map(|role| RoleResource::defined(role.role.into(), names(role.permissions), role.retired));
    Ok((defined.collect(), access::holders(&mut connection).await?))
}

async fn as_it_was(app: &App, moment: Moment) -> Result<RolesAndHolders, sqlx::Error> {
    let defined = roles::defined(&app.pool, moment.position).await?.into_iter();
    let defined = defined.map(|role| RoleResource::defined(role.role, role.permissions, role.retired));
    Ok((defined.collect(), counts::holders(&app.pool, moment.position).await?))
}

/// Parses permissions by name. Records a fault for each unknown name.
pub fn parse_permissions(input: &mut Input, given: &[String]) -> Option<Permissions> {
    if given.len() > Permission::ALL.len() {
        let error = InvalidValue("must not name a permission twice");
        return input.parse("/permissions", Err(error));
    }
    let parsed: Vec<Option<Permission>> = given
        .iter()
        .enumerate()
        .map(|(index, name)| input.parse(&format!("/permissions/{index}"), Permission::parse(name)))
        .collect();
    parsed.into_iter().collect::<Option<Vec<_>>>().map(|permissions| Permissions::of(&permissions))
}

/// Returns the names of the permissions in the API.
pub fn names(permissions: Permissions) -> Vec<String> {
    permissions.iter().map(|permission| permission.as_str().to_owned()).collect()
}
