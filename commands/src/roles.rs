//! Roles: granted and revoked with a reason, in force at once, also for tokens that were issued before.

use fulexo_domain::account::{Account, AccountCommand};
use fulexo_domain::event::{Category, Field};
use fulexo_domain::permission::{Permissions, permissions_of};
use fulexo_domain::values::{AccountId, Reason, RoleName};

use crate::context::Context;
use crate::error::CommandError;
use crate::execute::Idempotency;
use crate::log::LogStore;
use crate::vault::Personal;
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
    /// [`CommandError::Account`] when the account is unknown or does not hold the role.
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
        let personal = Personal::default().with(Field::Reason, Some(reason.as_str()));
        let sealing = self.vault.subject_key(account).await?.map(|key| (key, personal));
        let store = LogStore::<Account>::new(self.log.clone(), Category::Account, context.clone(), self.policy.version)
            .about(account, sealing)
            .remembering(idempotency.map(|idempotency| idempotency.record(&())).transpose()?);
        let position = self.execute(&store, account.0, command).await?;
        Ok(Done { value: (), position })
    }
}
