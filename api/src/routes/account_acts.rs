//! Changes of accounts by administrators: roles, suspension, locks, second factors and sessions. A change that takes access
//! away answers when every node enforces it.

use fulexo_commands::{CommandError, CommandOutcome};
use fulexo_domain::account::AccountError;
use fulexo_domain::permission::Permission;
use fulexo_domain::values::{AccountId, Reason, RoleName};
use fulexo_node::answer::{CommandResponse, EnforcementResource, NoContent};
use fulexo_node::caller::{Bearer, BearerOrKey, app, context};
use fulexo_node::http::{JsonBody, Problem};
use poem::Request;
use poem_openapi::param::{Header, Path, Query};
use poem_openapi::{Object, OpenApi};
use uuid::Uuid;

use super::input::{Input, ReasonRequest, act};
use super::tag::Tag;

pub struct AccountActions;

/// A grant of a role.
#[derive(Object)]
#[oai(deny_unknown_fields)]
struct GrantRequest {
    role: String,
    /// The reason, 1 to 500 characters. It is sealed alongside the event.
    reason: String,
}

/// The result of a revocation of all sessions of an account.
#[derive(Object)]
struct RevokedAccountSessions {
    /// The number of revoked sessions.
    revoked: u64,
    #[oai(flatten)]
    enforced: EnforcementResource,
}

#[OpenApi(prefix_path = "/v1/accounts", tag = "Tag::Accounts")]
impl AccountActions {
    /// Grant a role
    ///
    /// Needs the permission `roles.grant`, every permission of the role, and an elevated session. Grants the role to the
    /// account, effective immediately, also for access tokens issued before. Returns when a signed checkpoint covers the grant, or
    /// after 2 seconds.
    #[oai(path = "/:account_id/roles", method = "post", operation_id = "grant_role")]
    async fn grant_role(
        &self,
        request: &Request,
        caller: Bearer,
        account_id: Path<Uuid>,
        body: JsonBody<GrantRequest>,
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
        let app = app(request)?;
        let done = app.commands.grant_role(&context, caller.permissions, account, role, reason).await?;
        let covered = app.checkpoint_over(&done).await;
        Ok(NoContent::from(done).with_checkpoint(covered))
    }

    /// Revoke a role
    ///
    /// Needs the permission `roles.grant`, every permission of the role, and an elevated session. Revokes the role from the
    /// account, also for access tokens issued before. Returns when every node enforces the change.
    ///
    /// Answers 409 `last_admin` if no other account could grant roles.
    #[oai(path = "/:account_id/roles/:role", method = "delete", operation_id = "revoke_role")]
    async fn revoke_role(
        &self,
        request: &Request,
        caller: Bearer,
        account_id: Path<Uuid>,
        role: Path<String>,
        body: JsonBody<Option<ReasonRequest>>,
        /// The reason, for clients that cannot send a body with DELETE. Prefer the body: proxies log URLs.
        reason: Query<Option<String>>,
        #[oai(name = "Idempotency-Key")] idempotency_key: Header<Option<String>>,
    ) -> Result<CommandResponse<EnforcementResource>, Problem> {
        let caller = caller.0;
        caller.require(Permission::RolesGrant)?;
        caller.require_elevated()?;
        let given = body.read()?.map(|given| given.reason).or(reason.0).unwrap_or_default();
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
    /// Needs the permission `accounts.manage`, every permission of the account, and an elevated session. Refuses logins to the
    /// account and revokes every session. Returns when every node enforces the change.
    ///
    /// Answers 409 `last_admin` if no other account could grant roles.
    #[oai(path = "/:account_id/suspend", method = "post", operation_id = "suspend_account")]
    async fn suspend(
        &self,
        request: &Request,
        caller: Bearer,
        account_id: Path<Uuid>,
        body: JsonBody<ReasonRequest>,
        #[oai(name = "Idempotency-Key")] idempotency_key: Header<Option<String>>,
    ) -> Result<CommandResponse<EnforcementResource>, Problem> {
        let (context, reason) = act(request, &caller.0, Permission::AccountsManage, body, idempotency_key.0)?;
        let (app, account) = (app(request)?, AccountId(account_id.0));
        match app.commands.suspend(&context, caller.0.permissions, account, reason).await {
            // The first caller may have received no response. This refusal waits for the nodes, too.
            Err(error @ CommandError::Account(AccountError::AlreadySuspended)) => {
                app.enforced(CommandOutcome { value: (), position: None }).await?;
                Err(error.into())
            }
            suspended => app.enforced(suspended?).await,
        }
    }

    /// Reinstate a suspended account
    ///
    /// Needs the permission `accounts.manage`, every permission of the account, and an elevated session. Lifts the suspension:
    /// logins are accepted again. Revoked sessions stay revoked. Returns when every node enforces the change.
    #[oai(path = "/:account_id/reinstate", method = "post", operation_id = "reinstate_account")]
    async fn reinstate(
        &self,
        request: &Request,
        caller: Bearer,
        account_id: Path<Uuid>,
        body: JsonBody<ReasonRequest>,
        #[oai(name = "Idempotency-Key")] idempotency_key: Header<Option<String>>,
    ) -> Result<CommandResponse<EnforcementResource>, Problem> {
        let (context, reason) = act(request, &caller.0, Permission::AccountsManage, body, idempotency_key.0)?;
        let (app, account) = (app(request)?, AccountId(account_id.0));
        app.enforced(app.commands.reinstate(&context, caller.0.permissions, account, reason).await?).await
    }

    /// Unlock an account
    ///
    /// Needs the permission `accounts.manage` and an elevated session. Lifts the locks of the password and of the second factor
    /// and resets their counters of failed attempts. Returns when every node enforces the change.
    #[oai(path = "/:account_id/unlock", method = "post", operation_id = "unlock_account")]
    async fn unlock(
        &self,
        request: &Request,
        caller: Bearer,
        account_id: Path<Uuid>,
        body: JsonBody<ReasonRequest>,
        #[oai(name = "Idempotency-Key")] idempotency_key: Header<Option<String>>,
    ) -> Result<CommandResponse<EnforcementResource>, Problem> {
        let (context, reason) = act(request, &caller.0, Permission::AccountsManage, body, idempotency_key.0)?;
        let app = app(request)?;
        app.enforced(app.commands.unlock(&context, AccountId(account_id.0), reason).await?).await
    }

    /// Require a password change at next login
    ///
    /// Needs the permission `accounts.manage`, every permission of the account, and an elevated session. Expires the password
    /// and revokes every session. The next login returns status `password_change_required`. Returns when every node enforces
    /// the change.
    #[oai(path = "/:account_id/expire-password", method = "post", operation_id = "expire_account_password")]
    async fn expire_password(
        &self,
        request: &Request,
        caller: Bearer,
        account_id: Path<Uuid>,
        body: JsonBody<ReasonRequest>,
        #[oai(name = "Idempotency-Key")] idempotency_key: Header<Option<String>>,
    ) -> Result<CommandResponse<EnforcementResource>, Problem> {
        let (context, reason) = act(request, &caller.0, Permission::AccountsManage, body, idempotency_key.0)?;
        let (app, account) = (app(request)?, AccountId(account_id.0));
        app.enforced(app.commands.expire_password(&context, caller.0.permissions, account, reason).await?).await
    }

    /// Reset an account's second factor
    ///
    /// Needs the permission `accounts.manage`, every permission of the account, and an elevated session. Removes the second
    /// factor and its recovery codes, and revokes every session. Returns when every node enforces the change.
    #[oai(path = "/:account_id/reset-second-factor", method = "post", operation_id = "reset_account_second_factor")]
    async fn reset_second_factor(
        &self,
        request: &Request,
        caller: Bearer,
        account_id: Path<Uuid>,
        body: JsonBody<ReasonRequest>,
        #[oai(name = "Idempotency-Key")] idempotency_key: Header<Option<String>>,
    ) -> Result<CommandResponse<EnforcementResource>, Problem> {
        let (context, reason) = act(request, &caller.0, Permission::AccountsManage, body, idempotency_key.0)?;
        let (app, account) = (app(request)?, AccountId(account_id.0));
        app.enforced(app.commands.reset_second_factor(&context, caller.0.permissions, account, reason).await?).await
    }

    /// Revoke all sessions of an account
    ///
    /// Needs the permission `sessions.revoke`. Ends every session of the account. Returns their number when every node enforces
    /// the change.
    #[oai(path = "/:account_id/sessions/revoke", method = "post", operation_id = "revoke_account_sessions")]
    async fn revoke_sessions(
        &self,
        request: &Request,
        caller: BearerOrKey,
        account_id: Path<Uuid>,
        #[oai(name = "Idempotency-Key")] idempotency_key: Header<Option<String>>,
    ) -> Result<CommandResponse<RevokedAccountSessions>, Problem> {
        caller.0.require(Permission::SessionsRevoke)?;
        let context = context(request, caller.0.actor, idempotency_key.0)?;
        let app = app(request)?;
        let done = app.commands.end_all_sessions(&context, AccountId(account_id.0)).await?;
        app.enforced_with(done, |revoked, enforced| RevokedAccountSessions { revoked: revoked as u64, enforced }).await
    }
}
