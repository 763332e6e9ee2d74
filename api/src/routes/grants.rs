//! Role grants: which account has which role, now or at a moment of the past.

use fulexo_domain::permission::{Permission, built_in_permissions};
use fulexo_domain::values::{AccountId, RoleName};
use fulexo_node::answer::{QueryResponse, query_failed};
use fulexo_node::caller::{BearerOrKey, app};
use fulexo_node::http::Problem;
use fulexo_node::timestamp::Timestamp;
use fulexo_node::vocabulary::{Orders, Word};
use fulexo_projections::read_models::Projection;
use fulexo_projections::read_models::roles;
use poem::Request;
use poem_openapi::param::{Header, Query};
use poem_openapi::{Object, OpenApi};
use uuid::Uuid;

use super::as_of::{AsOfPaging, AsOfResource};
use super::audit::ActorResource;
use super::input::{Input, Limit, PageQuery};
use super::roles::names;
use super::tag::Tag;

pub struct Grants;

/// A grant of a role to an account.
#[derive(Object)]
struct RoleGrant {
    account_id: Uuid,
    role: String,
    granted_at: Timestamp,
    /// The position of the event that granted the role.
    granted_position: u64,
    granted_by: ActorResource,
    /// The permissions of the role at that moment. A built-in role has the permissions of this release.
    permissions: Vec<String>,
}

/// A page of role grants.
#[derive(Object)]
struct RoleGrantPage {
    items: Vec<RoleGrant>,
    next_cursor: Option<String>,
    /// The moment of this state. Present if the query has `as_of`.
    #[oai(skip_serializing_if_is_none)]
    as_of: Option<AsOfResource>,
}

#[OpenApi(prefix_path = "/v1/grants", tag = "Tag::Roles")]
impl Grants {
    /// List role grants
    ///
    /// Needs the permission `roles.read`. Returns grants by account, then by role, each with its time, its grantor and the
    /// permissions of the role.
    #[oai(path = "/", method = "get", operation_id = "list_grants")]
    async fn list(
        &self,
        request: &Request,
        caller: BearerOrKey,
        /// A filter for the grants of this account.
        account_id: Query<Option<Uuid>>,
        /// A filter for the grants of this role.
        role: Query<Option<String>>,
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
    ) -> Result<QueryResponse<RoleGrantPage>, Problem> {
        caller.0.require(Permission::RolesRead)?;
        let app = app(request)?;
        let mut input = Input::default();
        let role = input.parse_optional("/role", role.0.as_deref().map(RoleName::parse));
        input.check()?;
        let view = app.caught_up(Projection::Roles, min_position.0).await?;
        let wanted = PageQuery { limit: limit.0, order: order.0, cursor: cursor.0 };
        let past = AsOfPaging::of(app, &[Projection::Roles], as_of.0, wanted, key).await?;
        let filter = roles::GrantFilter { account: account_id.0.map(AccountId), role: role.map(String::from) };
        let position = past.moment.map(|moment| moment.position);
        let page = roles::grants(&app.pool, &filter, &past.paging, position).await.map_err(query_failed)?;
        Ok(view.of(RoleGrantPage {
            items: page.items.into_iter().map(RoleGrant::of).collect(),
            next_cursor: past.next(page.next.map(|(account, role)| format!("{account}:{role}"))),
            as_of: past.shown(),
        }))
    }
}

impl RoleGrant {
    fn of(roles::GrantWithPermissions { grant, permissions }: roles::GrantWithPermissions) -> Self {
        let built_in =
            || RoleName::parse(&grant.role).ok().and_then(|role| built_in_permissions(&role)).unwrap_or_default();
        Self {
            permissions: permissions.unwrap_or_else(|| names(built_in())),
            account_id: grant.account_id,
            role: grant.role,
            granted_at: grant.granted_at.into(),
            granted_position: grant.since.unsigned_abs(),
            granted_by: ActorResource { kind: grant.granted_by_kind, id: grant.granted_by },
        }
    }
}

/// `<account>:<role>`.
fn key(text: &str) -> Option<(Uuid, String)> {
    let (account, role) = text.split_once(':')?;
    Some((account.parse().ok()?, RoleName::parse(role).ok()?.into()))
}
