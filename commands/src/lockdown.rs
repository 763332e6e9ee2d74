//! A lockdown, started and lifted with a reason: while it lasts, only those who respond get in.

use fulexo_domain::Aggregate;
use fulexo_domain::event::{Category, Stream};
use fulexo_domain::lockdown::{Lockdown, LockdownCommand, LockdownEvent, Scope};
use fulexo_domain::permission::{Permission, Permissions};
use fulexo_domain::values::{AccountId, Reason, RoleName};
use uuid::Uuid;

use crate::context::Context;
use crate::error::CommandError;
use crate::execute::{Idempotency, Unit};
use crate::log::Expected;
use crate::{Commands, Done};

/// There is one stream.
const STREAM: Stream = Stream { category: Category::Lockdown, id: Uuid::nil() };

/// Whether somebody gets in, as of this version of the lockdown's stream.
#[derive(Clone, Copy)]
pub(crate) struct Admission {
    /// Whether they do.
    pub admitted: bool,
    version: u64,
}

impl Admission {
    /// What is appended holds only if no lockdown was started meanwhile.
    pub fn rest(self, unit: &mut Unit<'_>) {
        unit.expect(STREAM.category, STREAM.id, Expected::Exact(self.version));
    }
}

impl Commands {
    /// Closes the service, as far as `scope` says, to everybody who may not manage lockdowns.
    ///
    /// # Errors
    /// [`CommandError::Lockdown`] when there is one of this scope; [`CommandError::GrantExceedsOwn`].
    pub async fn start_lockdown(
        &self,
        context: &Context,
        scope: Scope,
        reason: Reason,
    ) -> Result<Done<()>, CommandError> {
        self.change_lockdown(context, LockdownCommand::Start(scope), scope.as_str(), reason).await
    }

    /// Opens it again.
    ///
    /// # Errors
    /// [`CommandError::Lockdown`] when there is none; [`CommandError::GrantExceedsOwn`].
    pub async fn lift_lockdown(&self, context: &Context, reason: Reason) -> Result<Done<()>, CommandError> {
        self.change_lockdown(context, LockdownCommand::Lift, "", reason).await
    }

    async fn change_lockdown(
        &self,
        context: &Context,
        command: LockdownCommand,
        scope: &str,
        reason: Reason,
    ) -> Result<Done<()>, CommandError> {
        let content = [scope.as_bytes(), reason.as_str().as_bytes()];
        let idempotency = Idempotency::of(&self.vault, context, "change_lockdown", &content);
        if self.before::<()>(idempotency.as_ref()).await?.is_some() {
            return self.done_before(()).await;
        }
        let sealing = self.own_sealing(context, &reason).await?;
        let decided = self.decide(idempotency.as_ref(), async || {
            let (state, version) = self.lockdown().await?;
            let events: Vec<LockdownEvent> = Lockdown::handle_command(&state, command)?;
            let mut unit = self.unit(context).sealing(sealing.clone());
            self.rest_on_granter(&mut unit, context, Permissions::of(&[Permission::LockdownManage])).await?;
            unit.expect(STREAM.category, STREAM.id, Expected::Exact(version));
            unit.record(STREAM.id, None, events)?;
            Ok((unit, ()))
        });
        self.done(decided.await?).await
    }

    /// Whether somebody who holds these roles gets in now. Asks the database: it is asked seldom, and a node that is behind
    /// must not let in whom the others keep out.
    pub(crate) async fn admission(
        &self,
        roles: impl IntoIterator<Item = &RoleName>,
    ) -> Result<Admission, CommandError> {
        let (scope, version) = self.lockdown().await?;
        let mut admitted = scope.is_none();
        for role in roles {
            if admitted {
                break;
            }
            let permissions = self.role(role).await?.map(|(permissions, _)| permissions);
            admitted = permissions.is_some_and(|permissions| permissions.contains(Permission::LockdownManage));
        }
        Ok(Admission { admitted, version })
    }

    /// The same, of an account.
    pub(crate) async fn admission_of(&self, account: AccountId) -> Result<Admission, CommandError> {
        let (scope, version) = self.lockdown().await?;
        if scope.is_none() {
            return Ok(Admission { admitted: true, version });
        }
        self.admission(&self.account_state(account).await?.0.roles).await
    }

    /// During a lockdown whoever is refused is told of it, and nothing else: neither that something was wrong nor that it
    /// was right.
    pub(crate) async fn as_during_lockdown<T>(&self, done: Result<T, CommandError>) -> Result<T, CommandError> {
        match done {
            Err(CommandError::InvalidCredentials) if self.lockdown().await?.0.is_some() => {
                Err(CommandError::LockedDown)
            }
            done => done,
        }
    }

    async fn lockdown(&self) -> Result<(Option<Scope>, u64), CommandError> {
        let row = sqlx::query!("select scope, version from access.lockdown").fetch_optional(&self.pool).await?;
        let Some(row) = row else { return Ok((None, 0)) };
        let unknown = |_| CommandError::Internal("a lockdown of a scope that this build does not know".to_owned());
        let scope = row.scope.as_deref().map(Scope::parse).transpose().map_err(unknown)?;
        Ok((scope, row.version.unsigned_abs()))
    }
}
