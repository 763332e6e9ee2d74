//! Roles: granted and revoked with a reason, in force at once, also for tokens that were issued before.

use fulexo_domain::account::{Account, AccountCommand};
use fulexo_domain::event::{Category, Stream};
use fulexo_domain::permission::{Permission, Permissions, built_in_roles, permissions_of, permissions_of_all};
use fulexo_domain::values::{AccountId, Reason, RoleName};

use crate::context::Context;
use crate::error::CommandError;
use crate::execute::{Idempotency, TRIES};
use crate::log::{Expected, LogStore};
use crate::{Commands, Done};

impl Commands {
    /// Grants a role. `own` is what the granter may do: nobody grants what they do not hold.
    ///
    /// # Errors
    /// [`CommandError::Account`] when the account, or the role, is unknown or the role is held already;
    /// [`CommandError::GrantExceedsOwn`].
    pub async fn grant_role(
        &self,
        context: &Context,
        own: Permissions,
        account: AccountId,
        role: RoleName,
        reason: Reason,
    ) -> Result<Done<()>, CommandError> {
        if permissions_of(&role).is_some_and(|granted| !own.covers(granted)) {
            return Err(CommandError::GrantExceedsOwn);
        }
        let command = AccountCommand::GrantRole { role: role.clone() };
        self.change_roles(context, account, ("grant_role", command), role.as_str(), reason).await
    }

    /// Takes a role away.
    ///
    /// # Errors
    /// [`CommandError::Account`] when the account is unknown or does not hold the role;
    /// [`CommandError::LastAdministrator`] when nobody would be left who may grant roles.
    pub async fn revoke_role(
        &self,
        context: &Context,
        account: AccountId,
        role: RoleName,
        reason: Reason,
    ) -> Result<Done<()>, CommandError> {
        let command = AccountCommand::RevokeRole { role: role.clone() };
        self.change_roles(context, account, ("revoke_role", command), role.as_str(), reason).await
    }

    async fn change_roles(
        &self,
        context: &Context,
        account: AccountId,
        (operation, command): (&str, AccountCommand),
        role: &str,
        reason: Reason,
    ) -> Result<Done<()>, CommandError> {
        let content = [account.0.as_bytes().as_slice(), role.as_bytes(), reason.as_str().as_bytes()];
        let idempotency = Idempotency::of(&self.vault, context, operation, &content);
        if self.before::<()>(idempotency.as_ref()).await?.is_some() {
            return self.done_before(()).await;
        }
        let sealing = self.sealing(account, &reason).await?;
        let remembered = idempotency.map(|idempotency| idempotency.record(&())).transpose()?;
        for _ in 0..TRIES {
            let expected = self.what_it_rests_on(context, account, &command).await?;
            let store =
                LogStore::<Account>::new(self.log.clone(), Category::Account, context.clone(), self.policy.version)
                    .about(account, sealing.clone())
                    .remembering(remembered.clone())
                    .expecting(expected);
            match self.execute(&store, account.0, command.clone()).await {
                Ok(position) => return Ok(Done { value: (), position }),
                // Somebody else was faster: decide again on what they left.
                Err(CommandError::Contended) => {}
                Err(error) => return Err(error),
            }
        }
        Err(CommandError::Contended)
    }

    /// The accounts, at their versions, that make a change of roles right: whoever makes it still may, and somebody who
    /// may grant roles is left when it is done.
    async fn what_it_rests_on(
        &self,
        context: &Context,
        account: AccountId,
        command: &AccountCommand,
    ) -> Result<Vec<(Stream, Expected)>, CommandError> {
        let mut expected = Vec::new();
        if let Some(granter) = context.account().filter(|granter| *granter != account) {
            let (state, version) = self.account_state(granter).await?;
            let held = permissions_of_all(&state.roles);
            let granted = match command {
                AccountCommand::GrantRole { role } => permissions_of(role).unwrap_or_default(),
                AccountCommand::RevokeRole { .. }
                | AccountCommand::Register { .. }
                | AccountCommand::ChangePassword { .. }
                | AccountCommand::Suspend
                | AccountCommand::Reinstate => Permissions::NONE,
            };
            if state.suspended || !held.contains(Permission::RolesGrant) || !held.covers(granted) {
                return Err(CommandError::GrantExceedsOwn);
            }
            expected.push((stream(granter), Expected::Exact(version)));
        }
        if let AccountCommand::RevokeRole { role } = command
            && gives_roles(role)
            && self.account_state(account).await?.0.roles.contains(role)
        {
            expected.push(self.other_administrator(account).await?);
        }
        Ok(expected)
    }

    /// Somebody else who may grant roles and whose account is in use, as they are now. Whatever takes that away from an
    /// account rests on them: of two that are taken away at once, one finds the other changed.
    pub(crate) async fn other_administrator(&self, but: AccountId) -> Result<(Stream, Expected), CommandError> {
        let granting: Vec<String> = built_in_roles().filter(gives_roles).map(String::from).collect();
        let holders = sqlx::query_scalar!(
            "select distinct account_id from access.role_grant where role = any($1) and account_id <> $2 limit 100",
            &granting,
            but.0
        )
        .fetch_all(&self.pool)
        .await?;
        for holder in holders.into_iter().map(AccountId) {
            let (state, version) = self.account_state(holder).await?;
            if !state.suspended && permissions_of_all(&state.roles).contains(Permission::RolesGrant) {
                return Ok((stream(holder), Expected::Exact(version)));
            }
        }
        Err(CommandError::LastAdministrator)
    }
}

/// Whether a role lets its holder grant roles.
pub(crate) fn gives_roles(role: &RoleName) -> bool {
    permissions_of(role).is_some_and(|permissions| permissions.contains(Permission::RolesGrant))
}

const fn stream(account: AccountId) -> Stream {
    Stream { category: Category::Account, id: account.0 }
}
