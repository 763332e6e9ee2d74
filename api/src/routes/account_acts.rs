//! What administrators do to accounts: roles, suspension, locks, factors, sessions. What takes access away answers once it is
//! in force.

use fulexo_commands::{CommandError, CommandOutcome};
use fulexo_domain::account::AccountError;
use fulexo_domain::permission::Permission;
use fulexo_domain::values::{AccountId, Reason, RoleName};
use fulexo_node::answer::{Enforced, NoContent, Recorded};
use fulexo_node::caller::{Bearer, BearerOrKey, app, context};
use fulexo_node::http::{JsonBody, Problem};
use poem::Request;
use poem_openapi::param::{Header, Path, Query};
use poem_openapi::{Object, OpenApi};
use uuid::Uuid;

use super::input::{Because, Input, act};
use super::tag::Tag;

pub struct AccountActs;

#[derive(Object)]
#[oai(deny_unknown_fields)]
struct Grant {
    role: String,
    /// Why; sealed beside the log.
    reason: String,
}

#[derive(Object)]
struct SignedOut {
    /// How many sessions were ended.
    revoked: u64,
    #[oai(flatten)]
    enforced: Enforced,
}

#[OpenApi(prefix_path = "/v1/accounts", tag = "Tag::Accounts")]
impl AccountActs {
    /// Grant a role
    ///
    /// It is in force at once, also for tokens issued before. Needs `roles.grant`, every permission of the role, and a
    /// login within the last ten minutes.
    #[oai(path = "/:account_id/roles", method = "post", operation_id = "grant_role")]
    async fn grant_role(
        &self,
        request: &Request,
        caller: Bearer,
        account_id: Path<Uuid>,
        body: JsonBody<Grant>,
        #[oai(name = "Idempotency-Key")] idempotency_key: Header<Option<String>>,
    ) -> Result<NoContent, Problem> {
        let caller = caller.0;
        caller.require(Permission::RolesGrant)?;
        caller.require_elevated()?;
        let body = body.read()?;
        let mut input = Input::default();
        let role = input.parse("/role", RoleName::parse(&body.role));
        let reason = input.parse("/reason", Reason::parse(&body.reason));
        let (Some(role), Some(reason)) = (role, reason) else { return Err(input.refused()) };
        let context = context(request, caller.actor(), idempotency_key.0)?;
        let account = AccountId(account_id.0);
        let commands = &app(request)?.commands;
        Ok(commands.grant_role(&context, caller.permissions, account, role, reason).await?.into())
    }

    /// Revoke a role
    ///
    /// It is gone at once, also for tokens issued before. Needs `roles.grant`, every permission of the role, and a login
    /// within the last ten minutes.
    #[oai(path = "/:account_id/roles/:role", method = "delete", operation_id = "revoke_role")]
    async fn revoke_role(
        &self,
        request: &Request,
        caller: Bearer,
        account_id: Path<Uuid>,
        role: Path<String>,
        body: JsonBody<Option<Because>>,
        /// Why, for clients that cannot send a body with DELETE. Whatever stands between keeps URLs in its logs.
        reason: Query<Option<String>>,
        #[oai(name = "Idempotency-Key")] idempotency_key: Header<Option<String>>,
    ) -> Result<Recorded<Enforced>, Problem> {
        let caller = caller.0;
        caller.require(Permission::RolesGrant)?;
        caller.require_elevated()?;
        let given = body.read()?.map(|because| because.reason).or(reason.0).unwrap_or_default();
        let mut input = Input::default();
        let role = input.parse("/role", RoleName::parse(&role.0));
        let reason = input.parse("/reason", Reason::parse(&given));
        let (Some(role), Some(reason)) = (role, reason) else { return Err(input.refused()) };
        let context = context(request, caller.actor(), idempotency_key.0)?;
        let account = AccountId(account_id.0);
        let app = app(request)?;
        app.enforced(app.commands.revoke_role(&context, caller.permissions, account, role, reason).await?).await
    }

    /// Suspend an account
    ///
    /// Nobody logs in, and every session ends.
    /// Needs `accounts.manage`.
    #[oai(path = "/:account_id/suspend", method = "post", operation_id = "suspend_account")]
    async fn suspend(
        &self,
        request: &Request,
        caller: Bearer,
        account_id: Path<Uuid>,
        body: JsonBody<Because>,
        #[oai(name = "Idempotency-Key")] idempotency_key: Header<Option<String>>,
    ) -> Result<Recorded<Enforced>, Problem> {
        let (context, reason) = act(request, &caller.0, Permission::AccountsManage, body, idempotency_key.0)?;
        let (app, account) = (app(request)?, AccountId(account_id.0));
        match app.commands.suspend(&context, caller.0.permissions, account, reason).await {
            // Whoever did it before may have got no answer: it is in force by the time that this one is told.
            Err(error @ CommandError::Account(AccountError::AlreadySuspended)) => {
                app.enforced(CommandOutcome { value: (), position: None }).await?;
                Err(error.into())
            }
            suspended => app.enforced(suspended?).await,
        }
    }

    /// Reinstate a suspended account
    ///
    /// Needs `accounts.manage`.
    #[oai(path = "/:account_id/reinstate", method = "post", operation_id = "reinstate_account")]
    async fn reinstate(
        &self,
        request: &Request,
        caller: Bearer,
        account_id: Path<Uuid>,
        body: JsonBody<Because>,
        #[oai(name = "Idempotency-Key")] idempotency_key: Header<Option<String>>,
    ) -> Result<Recorded<Enforced>, Problem> {
        let (context, reason) = act(request, &caller.0, Permission::AccountsManage, body, idempotency_key.0)?;
        let (app, account) = (app(request)?, AccountId(account_id.0));
        app.enforced(app.commands.reinstate(&context, caller.0.permissions, account, reason).await?).await
    }

    /// Unlock an account
    ///
    /// Needs `accounts.manage`.
    #[oai(path = "/:account_id/unlock", method = "post", operation_id = "unlock_account")]
    async fn unlock(
        &self,
        request: &Request,
        caller: Bearer,
        account_id: Path<Uuid>,
        body: JsonBody<Because>,
        #[oai(name = "Idempotency-Key")] idempotency_key: Header<Option<String>>,
    ) -> Result<Recorded<Enforced>, Problem> {
        let (context, reason) = act(request, &caller.0, Permission::AccountsManage, body, idempotency_key.0)?;
        let app = app(request)?;
        app.enforced(app.commands.unlock(&context, AccountId(account_id.0), reason).await?).await
    }

    /// Require a password change at next login
    ///
    /// Every session ends, and the next login leads to the change alone. Needs `accounts.manage`, every permission of
    /// the account, and a login within the last ten minutes.
    #[oai(path = "/:account_id/expire-password", method = "post", operation_id = "expire_account_password")]
    async fn expire_password(
        &self,
        request: &Request,
        caller: Bearer,
        account_id: Path<Uuid>,
        body: JsonBody<Because>,
        #[oai(name = "Idempotency-Key")] idempotency_key: Header<Option<String>>,
    ) -> Result<Recorded<Enforced>, Problem> {
        let (context, reason) = act(request, &caller.0, Permission::AccountsManage, body, idempotency_key.0)?;
        let (app, account) = (app(request)?, AccountId(account_id.0));
        app.enforced(app.commands.expire_password(&context, caller.0.permissions, account, reason).await?).await
    }

    /// Reset an account's second factor
    ///
    /// Every session ends. Needs `accounts.manage`, every permission of the account, and a login within the last ten
    /// minutes.
    #[oai(path = "/:account_id/reset-second-factor", method = "post", operation_id = "reset_account_second_factor")]
    async fn reset_second_factor(
        &self,
        request: &Request,
        caller: Bearer,
        account_id: Path<Uuid>,
        body: JsonBody<Because>,
        #[oai(name = "Idempotency-Key")] idempotency_key: Header<Option<String>>,
    ) -> Result<Recorded<Enforced>, Problem> {
        let (context, reason) = act(request, &caller.0, Permission::AccountsManage, body, idempotency_key.0)?;
        let (app, account) = (app(request)?, AccountId(account_id.0));
        app.enforced(app.commands.reset_second_factor(&context, caller.0.permissions, account, reason).await?).await
    }

    /// Revoke all sessions of an account
    ///
    /// Needs `sessions.revoke`.
    #[oai(path = "/:account_id/sessions/revoke", method = "post", operation_id = "revoke_account_sessions")]
    async fn revoke_sessions(
        &self,
        request: &Request,
        caller: BearerOrKey,
        account_id: Path<Uuid>,
        #[oai(name = "Idempotency-Key")] idempotency_key: Header<Option<String>>,
    ) -> Result<Recorded<SignedOut>, Problem> {
        caller.0.require(Permission::SessionsRevoke)?;
        let context = context(request, caller.0.actor, idempotency_key.0)?;
        let app = app(request)?;
        let done = app.commands.end_all_sessions(&context, AccountId(account_id.0)).await?;
        app.enforced_with(done, |revoked, enforced| SignedOut { revoked: revoked as u64, enforced }).await
    }
}
