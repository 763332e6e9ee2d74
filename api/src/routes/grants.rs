//! Who may do what, and who could: roles in the hands of accounts.

use fulexo_domain::permission::{Permission, built_in};
use fulexo_domain::values::{AccountId, RoleName};
use fulexo_node::answer::{Viewed, query_failed};
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

use super::as_of::{PastPaging, Shown};
use super::input::{Input, Limit, Wanted};
use super::roles::names;
use super::tag::Tag;

pub struct Grants;

#[derive(Object)]
struct RoleGrant {
    account_id: Uuid,
    role: String,
    granted_at: Timestamp,
    /// The event that granted it.
    granted_position: u64,
    granted_by: Granter,
    /// What the role allows, or allowed then. What is built in allows what this release gives it.
    permissions: Vec<String>,
}

#[derive(Object)]
struct Granter {
    /// `account`, `api_key`, `anonymous`, `operator` or `system`.
    kind: String,
    id: Option<Uuid>,
}

#[derive(Object)]
struct RoleGrantPage {
    items: Vec<RoleGrant>,
    next_cursor: Option<String>,
    /// Of which moment this is, where one was asked for.
    #[oai(skip_serializing_if_is_none)]
    as_of: Option<Shown>,
}

#[OpenApi(prefix_path = "/v1/grants", tag = "Tag::Roles")]
impl Grants {
    /// List grants
    ///
    /// Each with its holder, when and by whom it was granted, and what it allows; by account, then by role.
    /// Needs `roles.read`.
    #[oai(path = "/", method = "get", operation_id = "list_grants")]
    async fn list(
        &self,
        request: &Request,
        caller: BearerOrKey,
        /// What this account holds.
        account_id: Query<Option<Uuid>>,
        /// Who holds this role.
        role: Query<Option<String>>,
        /// `next_cursor` of the page before.
        cursor: Query<Option<String>>,
        /// A position of the log, or a time (RFC 3339): the state after that event, or after the last one recorded by then.
        as_of: Query<Option<String>>,
        /// Most items, 1 to 200; 50 if not given.
        limit: Query<Option<Limit>>,
        /// `asc`, oldest first, if not given, or `desc`.
        order: Query<Option<Word<Orders>>>,
        #[oai(name = "Log-Min-Position")] min_position: Header<Option<u64>>,
    ) -> Result<Viewed<RoleGrantPage>, Problem> {
        caller.0.require(Permission::RolesRead)?;
        let app = app(request)?;
        let mut input = Input::default();
        let role = input.parse_optional("/role", role.0.as_deref().map(RoleName::parse));
        input.check()?;
        let view = app.caught_up(Projection::Roles, min_position.0).await?;
        let wanted = Wanted { limit: limit.0, order: order.0, cursor: cursor.0 };
        let past = PastPaging::of(app, &[Projection::Roles], as_of.0, wanted, key).await?;
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
    fn of(held: roles::GrantWithPermissions) -> Self {
        let built_in = || RoleName::parse(&held.role).ok().and_then(|role| built_in(&role)).unwrap_or_default();
        Self {
            permissions: held.permissions.unwrap_or_else(|| names(built_in())),
            account_id: held.account_id,
            role: held.role,
            granted_at: held.granted_at.into(),
            granted_position: held.since.unsigned_abs(),
            granted_by: Granter { kind: held.granted_by_kind, id: held.granted_by },
        }
    }
}

/// `<account>:<role>`.
fn key(text: &str) -> Option<(Uuid, String)> {
    let (account, role) = text.split_once(':')?;
    Some((account.parse().ok()?, RoleName::parse(role).ok()?.into()))
}
