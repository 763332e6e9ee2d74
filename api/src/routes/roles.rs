//! Roles and permissions: what may be granted, and what it allows.

use std::collections::BTreeMap;

use fulexo_domain::permission::{Permission, Permissions, built_in, built_in_roles};
use fulexo_domain::values::{InvalidValue, Reason, RoleName};
use fulexo_node::answer::{Enforced, Recorded, query_failed};
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

use super::as_of::{self, Shown};
use super::input::{Because, Input};
use super::tag::Tag;

pub struct Roles;

#[derive(Object)]
struct Role {
    role: String,
    /// What its holders may do.
    permissions: Vec<String>,
    /// Whether it is nobody's to change.
    built_in: bool,
    /// Whether it was retired: it allows nothing, and its name is never used again.
    retired: bool,
    /// How many accounts hold it.
    holders: u64,
}

#[derive(Object)]
struct RoleList {
    items: Vec<Role>,
    /// Of which moment this is, where one was asked for.
    #[oai(skip_serializing_if_is_none)]
    as_of: Option<Shown>,
}

#[derive(Object)]
struct PermissionEntry {
    permission: String,
    /// What it allows.
    description: String,
}

#[derive(Object)]
struct PermissionList {
    items: Vec<PermissionEntry>,
}

#[derive(Object)]
#[oai(deny_unknown_fields)]
struct RoleDefinition {
    /// What its holders may do; `GET /v1/permissions` lists what there is.
    #[oai(validator(max_items = 100))]
    permissions: Vec<String>,
    /// Why; sealed beside the log.
    reason: String,
}

#[derive(Object)]
struct DefinedRole {
    role: String,
    permissions: Vec<String>,
    #[oai(flatten)]
    enforced: Enforced,
}

#[OpenApi(prefix_path = "/v1", tag = "Tag::Roles")]
impl Roles {
    /// List roles
    ///
    /// Those built in, then those that administrators defined.
    /// Never behind the log. What is built in allows what this release gives it, also in the past. Needs `roles.read`.
    #[oai(path = "/roles", method = "get", operation_id = "list_roles")]
    async fn list(
        &self,
        request: &Request,
        caller: BearerOrKey,
        /// A position of the log, or a time (RFC 3339): the state after that event, or after the last one recorded by then.
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
        let mut items: Vec<Role> = built_in_roles().map(Role::built_in).collect();
        items.extend(defined);
        for role in &mut items {
            role.holders = holders.get(&role.role).copied().unwrap_or_default();
        }
        Ok(Json(RoleList { items, as_of: moment.map(Shown::from) }))
    }

    /// List permissions
    ///
    /// Needs `roles.read`.
    #[oai(path = "/permissions", method = "get", operation_id = "list_permissions")]
    async fn permissions(&self, caller: BearerOrKey) -> Result<Json<PermissionList>, Problem> {
        caller.0.require(Permission::RolesRead)?;
        let items = Permission::ALL.into_iter().map(|permission| PermissionEntry {
            permission: permission.as_str().to_owned(),
            description: permission.describe().to_owned(),
        });
        Ok(Json(PermissionList { items: items.collect() }))
    }

    /// Define a role or change what it allows
    ///
    /// It is in force at once, for all who hold it. Needs `roles.manage`, every permission that the role has or is to
    /// have, and a login within the last ten minutes. A built-in role is not changed, a retired one not brought back.
    #[oai(path = "/roles/:role", method = "put", operation_id = "define_role")]
    async fn define(
        &self,
        request: &Request,
        caller: Bearer,
        role: Path<String>,
        body: JsonBody<RoleDefinition>,
        #[oai(name = "Idempotency-Key")] idempotency_key: Header<Option<String>>,
    ) -> Result<Recorded<DefinedRole>, Problem> {
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

    /// Retire a role that nobody holds
    ///
    /// Its name is never used again. Needs `roles.manage`, every permission of the role, and a login within the last ten
    /// minutes.
    #[oai(path = "/roles/:role", method = "delete", operation_id = "retire_role")]
    async fn retire(
        &self,
        request: &Request,
        caller: Bearer,
        role: Path<String>,
        body: JsonBody<Because>,
        #[oai(name = "Idempotency-Key")] idempotency_key: Header<Option<String>>,
    ) -> Result<Recorded<Enforced>, Problem> {
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

impl Role {
    fn built_in(role: RoleName) -> Self {
        let permissions = names(built_in(&role).unwrap_or_default());
        Self { built_in: true, ..Self::defined(role.into(), permissions, false) }
    }

    /// Its holders are still to be counted.
    const fn defined(role: String, permissions: Vec<String>, retired: bool) -> Self {
        Self { role, permissions, built_in: false, retired, holders: 0 }
    }
}

/// The roles that administrators defined, and how many hold each role.
type Defined = (Vec<Role>, BTreeMap<String, u64>);

async fn as_it_is(app: &App) -> Result<Defined, sqlx::Error> {
    let mut connection = app.pool.acquire().await?;
    let defined = access::custom_roles(&mut connection).await?.into_iter();
    let defined = defined.map(|role| Role::defined(role.role.into(), names(role.permissions), role.retired));
    Ok((defined.collect(), access::holders(&mut connection).await?))
}

async fn as_it_was(app: &App, moment: Moment) -> Result<Defined, sqlx::Error> {
    let defined = roles::defined(&app.pool, moment.position).await?.into_iter();
    let defined = defined.map(|role| Role::defined(role.role, role.permissions, role.retired));
    Ok((defined.collect(), counts::holders(&app.pool, moment.position).await?))
}

/// Permissions by name, each one that is none named.
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

/// The names that clients see.
pub fn names(permissions: Permissions) -> Vec<String> {
    permissions.iter().map(|permission| permission.as_str().to_owned()).collect()
}
