//! Lockdowns, started and lifted with a reason. During a lockdown, only its responders are admitted.

use fulexo_domain::Aggregate;
use fulexo_domain::event::{Category, Stream};
use fulexo_domain::lockdown::{Lockdown, LockdownCommand, LockdownEvent, LockdownScope};
use fulexo_domain::permission::{Permission, Permissions};
use fulexo_domain::values::{AccountId, InvalidValue, Reason, RoleName};
use sqlx::PgPool;
use uuid::Uuid;

use crate::authorization::roles;
use crate::context::Context;
use crate::error::CommandError;
use crate::execute::{self, CommandOutcome};
use crate::idempotency::IdempotencyKey;
use crate::log::ExpectedVersion;
use crate::reason;
use crate::unit_of_work::UnitOfWork;
use crate::write_side::WriteSide;

/// The scope of a lockdown that another build recorded.
#[derive(Debug, thiserror::Error)]
#[error("this build does not know the scope of the lockdown")]
struct UnknownScope(#[source] InvalidValue);

/// The single stream of lockdowns.
const STREAM: Stream = Stream { category: Category::Lockdown, id: Uuid::nil() };

/// The admission of a caller, at a version of the lockdown's stream.
#[derive(Clone, Copy)]
pub(crate) struct LockdownAdmission {
    /// `true` if the caller is admitted.
    pub admitted: bool,
    version: u64,
}

impl LockdownAdmission {
    /// Requires that no lockdown has started since.
    pub fn expect_unchanged(self, unit: &mut UnitOfWork<'_>) {
        unit.expect(STREAM.category, STREAM.id, ExpectedVersion::Exact(self.version));
    }
}

pub(crate) async fn start_lockdown(
    side: &WriteSide,
    context: &Context,
    scope: LockdownScope,
    reason: Reason,
) -> Result<CommandOutcome<()>, CommandError> {
    change_lockdown(side, context, LockdownCommand::Start(scope), scope.as_str(), reason).await
}

pub(crate) async fn tighten_lockdown(
    side: &WriteSide,
    context: &Context,
    scope: LockdownScope,
    reason: Reason,
) -> Result<CommandOutcome<()>, CommandError> {
    change_lockdown(side, context, LockdownCommand::Tighten(scope), scope.as_str(), reason).await
}

pub(crate) async fn lift_lockdown(
    side: &WriteSide,
    context: &Context,
    reason: Reason,
) -> Result<CommandOutcome<()>, CommandError> {
    change_lockdown(side, context, LockdownCommand::Lift, "", reason).await
}

async fn change_lockdown(
    side: &WriteSide,
    context: &Context,
    command: LockdownCommand,
    scope: &str,
    reason: Reason,
) -> Result<CommandOutcome<()>, CommandError> {
    let content = [scope.as_bytes(), reason.as_str().as_bytes()];
    let idempotency = IdempotencyKey::of(&side.vault, context, "change_lockdown", &content);
    execute::run_once(&side.log, idempotency.as_ref(), async {
        let sealing = reason::sealing_for_actor(&side.vault, context, &reason).await?;
        execute::decide(side, idempotency.as_ref(), async || {
            let (state, version) = read_lockdown(&side.pool).await?;
            let events: Vec<LockdownEvent> = Lockdown::handle_command(&state, command)?;
            let mut unit = side.unit_of_work(context).sealing(sealing.clone());
            roles::require_granter(side, &mut unit, context, Permissions::of(&[Permission::LockdownManage])).await?;
            unit.expect(STREAM.category, STREAM.id, ExpectedVersion::Exact(version));
            unit.record(STREAM.id, None, events)?;
            Ok((unit, ()))
        })
        .await
    })
    .await
}

/// Decides whether a holder of these roles is admitted now. Asks the database: the call is rare, and a node that is
/// behind must not admit a caller whom the others exclude.
pub(crate) async fn admission(
    side: &WriteSide,
    roles: impl IntoIterator<Item = &RoleName>,
) -> Result<LockdownAdmission, CommandError> {
    let (scope, version) = read_lockdown(&side.pool).await?;
    let mut admitted = scope.is_none();
    for role in roles {
        if admitted {
            break;
        }
        let permissions = roles::find_role(&side.log, role).await?.map(|(permissions, _)| permissions);
        admitted = permissions.is_some_and(|permissions| permissions.contains(Permission::LockdownManage));
    }
    Ok(LockdownAdmission { admitted, version })
}

/// Decides whether an account is admitted now.
pub(crate) async fn admission_of(side: &WriteSide, account: AccountId) -> Result<LockdownAdmission, CommandError> {
    let (scope, version) = read_lockdown(&side.pool).await?;
    if scope.is_none() {
        return Ok(LockdownAdmission { admitted: true, version });
    }
    admission(side, &side.account_state(account).await?.0.roles).await
}

/// Replaces a refusal with [`CommandError::LockedDown`] during a lockdown, so that the caller does not learn whether
/// the credentials were right.
pub(crate) async fn mask_refusal<T>(pool: &PgPool, done: Result<T, CommandError>) -> Result<T, CommandError> {
    match done {
        Err(CommandError::InvalidCredentials) if read_lockdown(pool).await?.0.is_some() => {
            Err(CommandError::LockedDown)
        }
        done => done,
    }
}

/// Returns the position of the event that last started, changed or lifted a lockdown.
pub(crate) async fn last_change(pool: &PgPool) -> Result<Option<u64>, CommandError> {
    let position = sqlx::query_scalar!("select position from access.lockdown").fetch_optional(pool).await?;
    Ok(position.map(i64::unsigned_abs))
}

async fn read_lockdown(pool: &PgPool) -> Result<(Option<LockdownScope>, u64), CommandError> {
    let row = sqlx::query!("select scope, version from access.lockdown").fetch_optional(pool).await?;
    let Some(row) = row else { return Ok((None, 0)) };
    let scope = row.scope.as_deref().map(LockdownScope::parse).transpose();
    let scope = scope.map_err(|error| CommandError::internal(UnknownScope(error)))?;
    Ok((scope, row.version.unsigned_abs()))
}
