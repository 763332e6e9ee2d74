//! Accounts, for administrators: queries, creation and profile changes. `account_acts` has the other changes.

use chrono::{DateTime, Utc};
use fulexo_commands::{CommandError, Profile, ProvisioningRequest};
use fulexo_domain::account::AccountError;
use fulexo_domain::permission::Permission;
use fulexo_domain::values::{AccountId, DisplayName, EmailAddress, RoleName};
use fulexo_node::answer::{CommandResponse, QueryResponse, query_failed};
use fulexo_node::caller::{Bearer, BearerOrKey, app, context};
use fulexo_node::clock;
use fulexo_node::http::problem::FieldError;
use fulexo_node::http::{JsonBody, Problem};
use fulexo_node::state::App;
use fulexo_node::timestamp::Timestamp;
use fulexo_node::vocabulary::{Orders, Word};
use fulexo_projections::read_models::Projection;
use fulexo_projections::read_models::accounts;
use poem::Request;
use poem_openapi::param::{Header, Path, Query};
use poem_openapi::{Object, OpenApi};
use uuid::Uuid;

use super::as_of::{self, AsOfPaging, AsOfResource};
use super::input::{Input, Limit, PageQuery, read_id};
use super::me::{ProfileRequest, ProfileResource};
use super::tag::Tag;

pub struct Accounts;

/// An account.
#[derive(Object)]
#[oai(rename = "Account")]
struct AccountResource {
    account_id: Uuid,
    /// The e-mail address. `null` if the account was erased.
    email: Option<String>,
    display_name: Option<String>,
    roles: Vec<String>,
    registered_at: Timestamp,
    password_changed_at: Timestamp,
    last_login_at: Option<Timestamp>,
    /// `true` if logins are refused after too many failed attempts.
    locked: bool,
    /// The time at which the lock lifts by itself.
    locked_until: Option<Timestamp>,
    /// `true` if an administrator has suspended the account.
    suspended: bool,
    /// `true` if the next login requires a password change.
    password_expired: bool,
    /// `true` if a login requires a second factor.
    second_factor: bool,
    /// The number of unused recovery codes.
    recovery_codes: u32,
    /// `true` if the owner has confirmed the e-mail address.
    email_verified: bool,
    /// The time from which on the account is erased, if its owner has asked for that.
    erasure_due_at: Option<Timestamp>,
    /// `true` if the account was erased.
    erased: bool,
}

/// A page of accounts.
#[derive(Object)]
struct AccountPage {
    items: Vec<AccountResource>,
    next_cursor: Option<String>,
    /// The moment of this state. Present if the query has `as_of`.
    #[oai(skip_serializing_if_is_none)]
    as_of: Option<AsOfResource>,
}

/// An account, now or at a moment.
#[derive(Object)]
struct AccountAsOf {
    #[oai(flatten)]
    account: AccountResource,
    /// The moment of this state. Present if the query has `as_of`.
    #[oai(skip_serializing_if_is_none)]
    as_of: Option<AsOfResource>,
}

/// An account to create.
#[derive(Object)]
#[oai(deny_unknown_fields)]
struct AccountRequest {
    /// The account's e-mail address: unique, compared without regard to case.
    email: String,
    /// The display name, 1 to 100 characters.
    display_name: Option<String>,
    /// The first roles, at most 50. The default is `customer`.
    #[oai(validator(max_items = 50))]
    roles: Option<Vec<String>>,
}

/// A created account.
#[derive(Object)]
struct CreatedAccount {
    account_id: Uuid,
    email: String,
    display_name: Option<String>,
    roles: Vec<String>,
    /// The initial password. The first login requires a change of it. It is shown only in this response.
    initial_password: String,
}

#[OpenApi(prefix_path = "/v1/accounts", tag = "Tag::Accounts")]
impl Accounts {
    /// List accounts
    ///
    /// Needs the permission `accounts.read`. Returns accounts by time of registration. Filters are combined with AND.
    #[oai(path = "/", method = "get", operation_id = "list_accounts")]
    async fn list(
        &self,
        request: &Request,
        caller: BearerOrKey,
        /// A filter for the account that has this e-mail address now, compared without regard to case.
        email: Query<Option<String>>,
        /// A filter for accounts that have this role.
        role: Query<Option<String>>,
        /// A filter for accounts that are locked (`true`) or not locked (`false`).
        locked: Query<Option<bool>>,
        /// A filter for accounts that are suspended (`true`) or not suspended (`false`).
        suspended: Query<Option<bool>>,
        /// A filter for accounts with (`true`) or without (`false`) a second factor.
        second_factor: Query<Option<bool>>,
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
    ) -> Result<QueryResponse<AccountPage>, Problem> {
        caller.0.require(Permission::AccountsRead)?;
        let app = app(request)?;
        let mut input = Input::default();
        let email = input.parse_optional("/email", email.0.as_deref().map(EmailAddress::parse));
        let role = input.parse_optional("/role", role.0.as_deref().map(RoleName::parse));
        input.check()?;
        let view = app.caught_up(Projection::Accounts, min_position.0).await?;
        // Another read model has the holders of a role.
        let projections: &[_] = match role {
            Some(_) => &[Projection::Accounts, Projection::Roles],
            None => &[Projection::Accounts],
        };
        if role.is_some() {
            app.caught_up(Projection::Roles, min_position.0).await?;
        }
        let wanted = PageQuery { limit: limit.0, order: order.0, cursor: cursor.0 };
        let past = AsOfPaging::of(app, projections, as_of.0, wanted, read_id).await?;
        let is_search = role.is_some() || locked.0.is_some() || suspended.0.is_some() || second_factor.0.is_some();
        let past = past.searching(app, is_search).await?;

        let account = match &email {
            Some(email) => match app.commands.account_of(email).await? {
                Some(account) => Some(account),
                None => return Ok(view.of(AccountPage { items: Vec::new(), next_cursor: None, as_of: past.shown() })),
            },
            None => None,
        };
        let filter = accounts::AccountFilter {
            account,
            role: role.map(String::from),
            locked: locked.0,
            suspended: suspended.0,
            second_factor: second_factor.0,
        };
        let (page, now) = match past.moment {
            Some(moment) => (accounts::list_as_of(&app.pool, &filter, &past.paging, moment).await, moment.time),
            None => {
                let now = clock::now();
                (accounts::list(&app.pool, &filter, &past.paging, now).await, now)
            }
        };
        let page = page.map_err(query_failed)?;
        Ok(view.of(AccountPage {
            items: named(app, page.items, now).await?,
            next_cursor: past.next(page.next),
            as_of: past.shown(),
        }))
    }

    /// Get an account
    ///
    /// Needs the permission `accounts.read`. Returns the account.
    #[oai(path = "/:account_id", method = "get", operation_id = "get_account")]
    async fn get(
        &self,
        request: &Request,
        caller: BearerOrKey,
        account_id: Path<Uuid>,
        /// The moment to read: a position of the log, or a time (RFC 3339). The state is the one after that event, or after the
        /// last event recorded by that time.
        as_of: Query<Option<String>>,
        #[oai(name = "Log-Min-Position")] min_position: Header<Option<u64>>,
    ) -> Result<QueryResponse<AccountAsOf>, Problem> {
        caller.0.require(Permission::AccountsRead)?;
        let app = app(request)?;
        let view = app.caught_up(Projection::Accounts, min_position.0).await?;
        let moment = as_of::moment(app, as_of.0.as_deref(), &[Projection::Accounts]).await?;
        let account = AccountId(account_id.0);
        let row = match moment {
            Some(moment) => accounts::get_as_of(&app.pool, account, moment).await,
            None => accounts::get(&app.pool, account).await,
        };
        let row = row.map_err(query_failed)?.ok_or_else(Problem::not_found)?;
        let mut named = named(app, vec![row], moment.map_or_else(clock::now, |moment| moment.time)).await?;
        let account = named.pop().ok_or_else(Problem::not_found)?;
        Ok(view.of(AccountAsOf { account, as_of: moment.map(AsOfResource::from) }))
    }

    /// Create an account
    ///
    /// Needs the permission `accounts.manage` and an elevated session. Roles other than `customer` also need `roles.grant`
    /// and every permission of these roles. Creates the account and returns its initial password, which is not shown again.
    /// The first login requires a password change.
    #[oai(path = "/", method = "post", operation_id = "create_account")]
    async fn create(
        &self,
        request: &Request,
        caller: Bearer,
        body: JsonBody<AccountRequest>,
        #[oai(name = "Idempotency-Key")] idempotency_key: Header<Option<String>>,
    ) -> Result<CommandResponse<CreatedAccount, 201>, Problem> {
        let caller = caller.0;
        caller.require(Permission::AccountsManage)?;
        caller.require_elevated()?;
        let AccountRequest { email, display_name, roles } = body.read()?;
        let mut input = Input::default();
        let email = input.parse("/email", EmailAddress::parse(&email));
        let name = input.parse_optional("/display_name", display_name.as_deref().map(DisplayName::parse));
        let roles = match roles {
            Some(roles) => input.parse_roles("/roles", &roles),
            None => AccountId::initial_roles(),
        };
        let Some(email) = email else { return Err(input.refused()) };
        input.check()?;
        let context = context(request, caller.actor(), idempotency_key.0)?;
        let answer = CreatedAccount {
            account_id: Uuid::nil(),
            email: email.as_str().to_owned(),
            display_name: name.as_ref().map(|name| name.as_str().to_owned()),
            roles: roles.iter().map(ToString::to_string).collect(),
            initial_password: String::new(),
        };
        let new = ProvisioningRequest { email, display_name: name, roles };
        match app(request)?.commands.create_account(&context, caller.permissions, new).await {
            Ok(done) => Ok(CommandResponse::of(done, |member| CreatedAccount {
                account_id: member.account.0,
                initial_password: member.initial_password.to_string(),
                ..answer
            })),
            Err(CommandError::Account(AccountError::RoleNotFound)) => {
                Err(Problem::invalid_input(vec![FieldError::new(
                    "/roles",
                    "must name existing roles; list roles with GET /v1/roles",
                )]))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Change an account's display name
    ///
    /// Needs the permission `accounts.manage` and every permission of the account. Replaces the display name; `null` removes
    /// it. Returns the profile. A request that repeats the current name records no event.
    #[oai(path = "/:account_id", method = "patch", operation_id = "change_account")]
    async fn change(
        &self,
        request: &Request,
        caller: Bearer,
        account_id: Path<Uuid>,
        body: JsonBody<ProfileRequest>,
        #[oai(name = "Idempotency-Key")] idempotency_key: Header<Option<String>>,
    ) -> Result<CommandResponse<ProfileResource>, Problem> {
        let caller = caller.0;
        caller.require(Permission::AccountsManage)?;
        let body = body.read()?;
        let mut input = Input::default();
        let name = input.parse_optional("/display_name", body.display_name.as_deref().map(DisplayName::parse));
        input.check()?;
        let context = context(request, caller.actor(), idempotency_key.0)?;
        let (commands, account) = (&app(request)?.commands, AccountId(account_id.0));
        let done = commands.change_profile(&context, caller.permissions, account, name).await?;
        Ok(CommandResponse::of(done, |profile| ProfileResource::of(account, &profile)))
    }
}

/// Adds the sealed profiles to the rows.
async fn named(
    app: &App,
    rows: Vec<accounts::AccountRow>,
    now: DateTime<Utc>,
) -> Result<Vec<AccountResource>, Problem> {
    let positions: Vec<i64> = rows.iter().map(|row| row.profile_position).collect();
    let profiles = app.commands.vault().open_personal(&positions).await.map_err(CommandError::from)?;
    Ok(rows
        .into_iter()
        .map(|row| {
            let profile = profiles.get(&row.profile_position).and_then(Profile::read);
            let locked_until = row.locked_until.max(row.second_factor_locked_until).filter(|until| *until > now);
            let name = |name: &DisplayName| name.as_str().to_owned();
            AccountResource {
                account_id: row.account_id,
                display_name: profile.as_ref().and_then(|profile| profile.display_name.as_ref().map(name)),
                email: profile.map(|profile| profile.email.as_str().to_owned()),
                roles: row.roles.to_vec(),
                registered_at: row.registered_at.into(),
                password_changed_at: row.password_changed_at.into(),
                last_login_at: row.last_login_at.map(Timestamp),
                locked: locked_until.is_some(),
                locked_until: locked_until.map(Timestamp),
                suspended: row.suspended,
                password_expired: row.password_expired,
                second_factor: row.second_factor,
                recovery_codes: row.recovery_codes.unsigned_abs(),
                email_verified: row.email_verified,
                erasure_due_at: row.erasure_due_at.map(Timestamp),
                erased: row.erased,
            }
        })
        .collect())
}
