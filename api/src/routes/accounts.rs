//! Accounts, for administrators: which there are, and new ones. What is done to them is in `account_acts`.

use chrono::{DateTime, Utc};
use fulexo_commands::{CommandError, Profile, ProvisioningRequest};
use fulexo_domain::account::AccountError;
use fulexo_domain::permission::Permission;
use fulexo_domain::values::{AccountId, DisplayName, EmailAddress, RoleName};
use fulexo_node::answer::{Recorded, Viewed, query_failed};
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

use super::as_of::{self, PastPaging, Shown};
use super::input::{Input, Limit, Wanted, read_id};
use super::me::{ChangedProfile, ProfileChange};
use super::tag::Tag;

pub struct Accounts;

#[derive(Object)]
struct Account {
    account_id: Uuid,
    /// Missing when the account's owner was forgotten.
    email: Option<String>,
    display_name: Option<String>,
    roles: Vec<String>,
    registered_at: Timestamp,
    password_changed_at: Timestamp,
    last_login_at: Option<Timestamp>,
    /// Whether logins are refused for now, after too many failures.
    locked: bool,
    /// When that ends by itself.
    locked_until: Option<Timestamp>,
    /// Whether an administrator has stopped all use of it.
    suspended: bool,
    /// Whether the password must be changed before anything else.
    password_expired: bool,
    /// Whether a login asks for a second factor.
    second_factor: bool,
    /// Recovery codes left.
    recovery_codes: u32,
    /// Whether mail to its address reached its owner.
    email_verified: bool,
}

#[derive(Object)]
struct AccountPage {
    items: Vec<Account>,
    next_cursor: Option<String>,
    /// Of which moment this is, where one was asked for.
    #[oai(skip_serializing_if_is_none)]
    as_of: Option<Shown>,
}

#[derive(Object)]
struct AccountAsOf {
    #[oai(flatten)]
    account: Account,
    /// Of which moment this is, where one was asked for.
    #[oai(skip_serializing_if_is_none)]
    as_of: Option<Shown>,
}

#[derive(Object)]
#[oai(deny_unknown_fields)]
struct AccountCreation {
    /// Where the account's owner can be reached; unique, without regard to case.
    email: String,
    /// How the owner is called; 1 to 100 characters.
    display_name: Option<String>,
    /// Roles from the first moment; `customer` if not given.
    #[oai(validator(max_items = 50))]
    roles: Option<Vec<String>>,
}

#[derive(Object)]
struct CreatedAccount {
    account_id: Uuid,
    email: String,
    display_name: Option<String>,
    roles: Vec<String>,
    /// Good for the first login, which demands another one; shown this once.
    initial_password: String,
}

#[OpenApi(prefix_path = "/v1/accounts", tag = "Tag::Accounts")]
impl Accounts {
    /// List accounts
    ///
    /// In the order of their registration.
    /// Needs `accounts.read`.
    #[oai(path = "/", method = "get", operation_id = "list_accounts")]
    async fn list(
        &self,
        request: &Request,
        caller: BearerOrKey,
        /// The account that has exactly this address now, without regard to case.
        email: Query<Option<String>>,
        /// Accounts that hold this role.
        role: Query<Option<String>>,
        /// Accounts that are locked now, or that are not.
        locked: Query<Option<bool>>,
        /// Accounts that are suspended, or that are not.
        suspended: Query<Option<bool>>,
        /// Accounts with a second factor, or without.
        second_factor: Query<Option<bool>>,
        /// `next_cursor` of the page before.
        cursor: Query<Option<String>>,
        /// A position of the log, or a time (RFC 3339): the state after that event, or after the last one recorded by then.
        as_of: Query<Option<String>>,
        /// Most items, 1 to 200; 50 if not given.
        limit: Query<Option<Limit>>,
        /// `asc`, oldest first, if not given, or `desc`.
        order: Query<Option<Word<Orders>>>,
        #[oai(name = "Log-Min-Position")] min_position: Header<Option<u64>>,
    ) -> Result<Viewed<AccountPage>, Problem> {
        caller.0.require(Permission::AccountsRead)?;
        let app = app(request)?;
        let mut input = Input::default();
        let email = input.parse_optional("/email", email.0.as_deref().map(EmailAddress::parse));
        let role = input.parse_optional("/role", role.0.as_deref().map(RoleName::parse));
        input.check()?;
        let view = app.caught_up(Projection::Accounts, min_position.0).await?;
        // Who holds a role is found in another read model.
        let projections: &[_] = match role {
            Some(_) => &[Projection::Accounts, Projection::Roles],
            None => &[Projection::Accounts],
        };
        if role.is_some() {
            app.caught_up(Projection::Roles, min_position.0).await?;
        }
        let wanted = Wanted { limit: limit.0, order: order.0, cursor: cursor.0 };
        let past = PastPaging::of(app, projections, as_of.0, wanted, read_id).await?;
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
    /// Needs `accounts.read`.
    #[oai(path = "/:account_id", method = "get", operation_id = "get_account")]
    async fn get(
        &self,
        request: &Request,
        caller: BearerOrKey,
        account_id: Path<Uuid>,
        /// A position of the log, or a time (RFC 3339): the state after that event, or after the last one recorded by then.
        as_of: Query<Option<String>>,
        #[oai(name = "Log-Min-Position")] min_position: Header<Option<u64>>,
    ) -> Result<Viewed<AccountAsOf>, Problem> {
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
        Ok(view.of(AccountAsOf { account, as_of: moment.map(Shown::from) }))
    }

    /// Create an account
    ///
    /// Its first password is shown this once, and must be changed at the first login. Needs `accounts.manage`, for roles
    /// beside `customer` also `roles.grant` and every permission of them, and a login within the last ten minutes.
    #[oai(path = "/", method = "post", operation_id = "create_account")]
    async fn create(
        &self,
        request: &Request,
        caller: Bearer,
        body: JsonBody<AccountCreation>,
        #[oai(name = "Idempotency-Key")] idempotency_key: Header<Option<String>>,
    ) -> Result<Recorded<CreatedAccount, 201>, Problem> {
        let caller = caller.0;
        caller.require(Permission::AccountsManage)?;
        caller.require_elevated()?;
        let AccountCreation { email, display_name, roles } = body.read()?;
        let mut input = Input::default();
        let email = input.parse("/email", EmailAddress::parse(&email));
        let name = input.parse_optional("/display_name", display_name.as_deref().map(DisplayName::parse));
        let roles = match roles {
            Some(roles) => input.parse_roles("/roles", &roles),
            None => AccountId::first_roles(),
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
            Ok(done) => Ok(Recorded::of(done, |member| CreatedAccount {
                account_id: member.account.0,
                initial_password: member.initial_password.to_string(),
                ..answer
            })),
            Err(CommandError::Account(AccountError::NoSuchRole)) => {
                Err(Problem::invalid_input(vec![FieldError::new("/roles", "must name roles that exist")]))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Change an account's display name
    ///
    /// Needs `accounts.manage` and every permission of the account.
    #[oai(path = "/:account_id", method = "patch", operation_id = "change_account")]
    async fn change(
        &self,
        request: &Request,
        caller: Bearer,
        account_id: Path<Uuid>,
        body: JsonBody<ProfileChange>,
        #[oai(name = "Idempotency-Key")] idempotency_key: Header<Option<String>>,
    ) -> Result<Recorded<ChangedProfile>, Problem> {
        let caller = caller.0;
        caller.require(Permission::AccountsManage)?;
        let body = body.read()?;
        let mut input = Input::default();
        let name = input.parse_optional("/display_name", body.display_name.as_deref().map(DisplayName::parse));
        input.check()?;
        let context = context(request, caller.actor(), idempotency_key.0)?;
        let (commands, account) = (&app(request)?.commands, AccountId(account_id.0));
        let done = commands.change_profile(&context, caller.permissions, account, name).await?;
        Ok(Recorded::of(done, |profile| ChangedProfile::of(account, &profile)))
    }
}

/// The rows with what is sealed beside the log.
async fn named(app: &App, rows: Vec<accounts::AccountRow>, now: DateTime<Utc>) -> Result<Vec<Account>, Problem> {
    let positions: Vec<i64> = rows.iter().map(|row| row.profile_position).collect();
    let profiles = app.commands.vault().open_personal(&positions).await.map_err(CommandError::from)?;
    Ok(rows
        .into_iter()
        .map(|row| {
            let profile = profiles.get(&row.profile_position).and_then(Profile::read);
            let locked_until = row.locked_until.max(row.second_factor_locked_until).filter(|until| *until > now);
            let name = |name: &DisplayName| name.as_str().to_owned();
            Account {
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
            }
        })
        .collect())
}
