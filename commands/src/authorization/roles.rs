//! Roles: built in, or defined by administrators; granted and revoked with a reason. Changes are in force at once, also
//! for tokens issued earlier.
//!
//! Every decision has the versions of the streams that it read (accounts, roles) as preconditions: of a concurrent
//! grant and demotion, one conflicts and is decided again.

use std::collections::BTreeSet;

use fulexo_domain::Aggregate;
use fulexo_domain::account::{Account, AccountCommand, AccountError, AccountState};
use fulexo_domain::event::{Actor, Category, Stream};
use fulexo_domain::permission::{Permission, Permissions, built_in_permissions, built_in_roles};
use fulexo_domain::role::{Role, RoleCommand, RoleState};
use fulexo_domain::snapshot::RoleSnapshot;
use fulexo_domain::values::{AccountId, Reason, RoleName};
use sqlx::PgPool;

use crate::context::Context;
use crate::error::CommandError;
use crate::execute::{self, CommandOutcome, CommitOutcome, TRIES};
use crate::idempotency::IdempotencyKey;
use crate::log::{EventLog, ExpectedVersion, Receipt};
use crate::log_store::LogStore;
use crate::reason;
use crate::unit_of_work::UnitOfWork;
use crate::write_side::WriteSide;

/// The maximum number of roles, including retired ones.
const MAX_ROLES: i64 = 500;

/// The expected versions of the streams that a decision depends on.
pub(crate) type Preconditions = Vec<(Stream, ExpectedVersion)>;

/// Returns `true` for a built-in role that may grant roles. At least one account in use must hold one.
fn grants_roles(role: &RoleName) -> bool {
    built_in_permissions(role).is_some_and(|permissions| permissions.contains(Permission::RolesGrant))
}

const fn account_stream(account: AccountId) -> Stream {
    Stream { category: Category::Account, id: account.0 }
}

pub(crate) async fn grant_role(
    side: &WriteSide,
    context: &Context,
    own: Permissions,
    account: AccountId,
    role: RoleName,
    reason: Reason,
) -> Result<CommandOutcome<()>, CommandError> {
    let command = AccountCommand::GrantRole { role: role.clone() };
    change_roles(side, context, own, account, ("grant_role", command), &role, reason).await
}

pub(crate) async fn revoke_role(
    side: &WriteSide,
    context: &Context,
    own: Permissions,
    account: AccountId,
    role: RoleName,
    reason: Reason,
) -> Result<CommandOutcome<()>, CommandError> {
    let command = AccountCommand::RevokeRole { role: role.clone() };
    change_roles(side, context, own, account, ("revoke_role", command), &role, reason).await
}

async fn change_roles(
    side: &WriteSide,
    context: &Context,
    own: Permissions,
    account: AccountId,
    (operation, command): (&str, AccountCommand),
    role: &RoleName,
    reason: Reason,
) -> Result<CommandOutcome<()>, CommandError> {
    let content = [account.0.as_bytes().as_slice(), role.as_str().as_bytes(), reason.as_str().as_bytes()];
    let idempotency = IdempotencyKey::of(&side.vault, context, operation, &content);
    execute::run_once(&side.log, idempotency.as_ref(), async {
        let sealing = reason::sealing_for_account(&side.vault, account, &reason).await?;
        let remembered = idempotency.as_ref().map(|idempotency| idempotency.record(&())).transpose()?;
        for _ in 0..TRIES {
            let expected = role_change_preconditions(side, context, own, account, &command, role).await?;
            let version = side.policy().version;
            let store = LogStore::<Account>::new(side.log.clone(), Category::Account, context.clone(), version)
                .with_subject(account, sealing.clone())
                .with_command_record(remembered.clone())
                .with_preconditions(expected);
            let state = side.account_state(account).await?;
            match execute::execute(&store, account.0, state, command.clone()).await {
                Ok(position) => return Ok(CommitOutcome::New((), Receipt { events: Vec::new(), position })),
                // Conflict: decide again on the new state.
                Err(CommandError::Conflict) => {}
                Err(error) => {
                    let refused = execute::stored_outcome_or(&side.log, idempotency.as_ref(), error);
                    return refused.await.map(CommitOutcome::Replayed);
                }
            }
        }
        Err(CommandError::Conflict)
    })
    .await
}

/// Checks that a change of roles is permitted, and returns its preconditions: the role's definition, the caller's
/// permissions, and an administrator who remains.
async fn role_change_preconditions(
    side: &WriteSide,
    context: &Context,
    own: Permissions,
    account: AccountId,
    command: &AccountCommand,
    role: &RoleName,
) -> Result<Preconditions, CommandError> {
    let grants = matches!(command, AccountCommand::GrantRole { .. });
    let (permissions, mut expected) = match find_role(&side.log, role).await? {
        Some((permissions, preconditions)) => (permissions, preconditions),
        None if grants => return Err(AccountError::RoleNotFound.into()),
        // The role was retired during a concurrent grant. It grants nothing and may be revoked.
        None => (Permissions::NONE, Vec::new()),
    };
    if !own.covers(permissions) {
        return Err(CommandError::GrantExceedsOwn);
    }
    let needed = permissions.union(Permissions::of(&[Permission::RolesGrant]));
    expected.extend(granter_preconditions(side, context, needed).await?);
    if !grants && grants_roles(role) && side.account_state(account).await?.0.roles.contains(role) {
        expected.push(other_administrator(side, account).await?);
    }
    Ok(expected)
}

pub(crate) async fn define_role(
    side: &WriteSide,
    context: &Context,
    own: Permissions,
    role: RoleName,
    permissions: Permissions,
    reason: Reason,
) -> Result<CommandOutcome<()>, CommandError> {
    let names: Vec<&str> = permissions.iter().map(Permission::as_str).collect();
    let listed = names.join(" ");
    let command = RoleCommand::Define { role: role.clone(), permissions };
    change_role(side, context, own, &role, command, ("define_role", &listed), reason).await
}

pub(crate) async fn retire_role(
    side: &WriteSide,
    context: &Context,
    own: Permissions,
    role: RoleName,
    reason: Reason,
) -> Result<CommandOutcome<()>, CommandError> {
    let command = RoleCommand::Retire { role: role.clone() };
    change_role(side, context, own, &role, command, ("retire_role", ""), reason).await
}

async fn change_role(
    side: &WriteSide,
    context: &Context,
    own: Permissions,
    role: &RoleName,
    command: RoleCommand,
    (operation, listed): (&str, &str),
    reason: Reason,
) -> Result<CommandOutcome<()>, CommandError> {
    let content = [role.as_str().as_bytes(), listed.as_bytes(), reason.as_str().as_bytes()];
    let idempotency = IdempotencyKey::of(&side.vault, context, operation, &content);
    execute::run_once(&side.log, idempotency.as_ref(), async {
        let sealing = reason::sealing_for_actor(&side.vault, context, &reason).await?;
        execute::decide(side, idempotency.as_ref(), || async {
            let (state, version) = role_state(&side.log, role).await?;
            let events = Role::handle_command(&state, command.clone())?;
            let before = if let RoleState::Defined(before) = state { before } else { Permissions::NONE };
            let after = match &command {
                RoleCommand::Define { permissions, .. } => *permissions,
                RoleCommand::Retire { .. } => Permissions::NONE,
            };
            let touched = before.union(after);
            if !own.covers(touched) {
                return Err(CommandError::GrantExceedsOwn);
            }
            match &command {
                RoleCommand::Define { .. } if state == RoleState::None => require_room_for_role(&side.pool).await?,
                RoleCommand::Retire { .. } if is_held(&side.pool, role).await? => return Err(CommandError::RoleInUse),
                RoleCommand::Define { .. } | RoleCommand::Retire { .. } => {}
            }
            let mut unit = side.unit_of_work(context).sealing(sealing.clone());
            let needed = touched.union(Permissions::of(&[Permission::RolesManage]));
            require_granter(side, &mut unit, context, needed).await?;
            unit.expect(Category::Role, role.stream_id(), ExpectedVersion::Exact(version));
            unit.record(role.stream_id(), None, events)?;
            Ok((unit, ()))
        })
        .await
    })
    .await
}

async fn require_room_for_role(pool: &PgPool) -> Result<(), CommandError> {
    let count = sqlx::query_scalar!(r#"select count(*) as "count!" from access.role"#).fetch_one(pool).await?;
    if count < MAX_ROLES { Ok(()) } else { Err(CommandError::LimitReached) }
}

async fn is_held(pool: &PgPool, role: &RoleName) -> Result<bool, CommandError> {
    let held = sqlx::query_scalar!(
        r#"select exists (select from access.role_grant where role = $1) as "held!""#,
        role.as_str()
    )
    .fetch_one(pool)
    .await?;
    Ok(held)
}

async fn role_state(log: &EventLog, role: &RoleName) -> Result<(RoleState, u64), CommandError> {
    let loaded = log.snapshot::<RoleSnapshot>(role.stream_id()).await?;
    Ok((loaded.snapshot.state, loaded.version))
}

/// Returns a role's permissions, and the preconditions under which it has them, or `None` if the role does not exist.
pub(crate) async fn find_role(
    log: &EventLog,
    role: &RoleName,
) -> Result<Option<(Permissions, Preconditions)>, CommandError> {
    if let Some(permissions) = built_in_permissions(role) {
        return Ok(Some((permissions, Vec::new())));
    }
    let (state, version) = role_state(log, role).await?;
    let stream = Stream { category: Category::Role, id: role.stream_id() };
    match state {
        RoleState::Defined(permissions) => Ok(Some((permissions, vec![(stream, ExpectedVersion::Exact(version))]))),
        RoleState::None | RoleState::Retired => Ok(None),
    }
}

/// Returns the combined permissions of these roles, and the preconditions under which they have them.
async fn permissions_of(
    log: &EventLog,
    roles: &BTreeSet<RoleName>,
) -> Result<(Permissions, Preconditions), CommandError> {
    let (mut allowed, mut preconditions) = (Permissions::NONE, Vec::new());
    for role in roles {
        if let Some((permissions, on)) = find_role(log, role).await? {
            allowed = allowed.union(permissions);
            preconditions.extend(on);
        }
    }
    Ok((allowed, preconditions))
}

/// Checks that the caller still holds these permissions, and returns the preconditions: the versions of their account
/// and of its roles.
async fn granter_preconditions(
    side: &WriteSide,
    context: &Context,
    needed: Permissions,
) -> Result<Preconditions, CommandError> {
    let granter = match context.actor {
        Actor::Account { id } => AccountId(id),
        Actor::Operator | Actor::System => return Ok(Vec::new()),
        Actor::ApiKey { .. } | Actor::Anonymous => return Err(CommandError::GrantExceedsOwn),
    };
    let (state, version) = side.account_state(granter).await?;
    let (held, mut preconditions) = permissions_of(&side.log, &state.roles).await?;
    if state.suspended || !held.covers(needed) {
        return Err(CommandError::GrantExceedsOwn);
    }
    preconditions.push((account_stream(granter), ExpectedVersion::Exact(version)));
    Ok(preconditions)
}

pub(crate) async fn require_granter(
    side: &WriteSide,
    unit: &mut UnitOfWork<'_>,
    context: &Context,
    needed: Permissions,
) -> Result<(), CommandError> {
    for (stream, expected) in granter_preconditions(side, context, needed).await? {
        unit.expect(stream.category, stream.id, expected);
    }
    Ok(())
}

/// Checks that the caller holds every permission of the account that they suspend or reset, and adds the preconditions.
pub(crate) async fn require_rank(
    side: &WriteSide,
    unit: &mut UnitOfWork<'_>,
    context: &Context,
    own: Permissions,
    account: AccountId,
    state: &AccountState,
) -> Result<(), CommandError> {
    require_rank_and(side, unit, context, (own, Permission::AccountsManage), account, state).await
}

/// Does the same for another permission than `accounts.manage`.
pub(crate) async fn require_rank_and(
    side: &WriteSide,
    unit: &mut UnitOfWork<'_>,
    context: &Context,
    (own, permission): (Permissions, Permission),
    account: AccountId,
    state: &AccountState,
) -> Result<(), CommandError> {
    let mut needed = Permissions::of(&[permission]);
    if context.account() != Some(account) {
        let (held, preconditions) = permissions_of(&side.log, &state.roles).await?;
        if !own.covers(held) {
            return Err(CommandError::GrantExceedsOwn);
        }
        for (stream, expected) in preconditions {
            unit.expect(stream.category, stream.id, expected);
        }
        needed = needed.union(held);
    }
    require_granter(side, unit, context, needed).await
}

/// Requires another administrator, if this account is one that is about to stop being one.
pub(crate) async fn keep_an_administrator(
    side: &WriteSide,
    unit: &mut UnitOfWork<'_>,
    account: AccountId,
    state: &AccountState,
) -> Result<(), CommandError> {
    if state.roles.iter().any(grants_roles) {
        let (other, expected) = other_administrator(side, account).await?;
        unit.expect(other.category, other.id, expected);
    }
    Ok(())
}

/// Finds another account in use that holds a built-in role which may grant roles. Returns its expected version as a
/// precondition of removing an administrator: of two concurrent removals, one conflicts.
async fn other_administrator(side: &WriteSide, but: AccountId) -> Result<(Stream, ExpectedVersion), CommandError> {
    let granting: Vec<String> = built_in_roles().filter(grants_roles).map(String::from).collect();
    let holders = sqlx::query_scalar!(
        "select distinct account_id from access.role_grant where role = any($1) and account_id <> $2 limit 100",
        &granting,
        but.0
    )
    .fetch_all(&side.pool)
    .await?;
    for holder in holders.into_iter().map(AccountId) {
        let (state, version) = side.account_state(holder).await?;
        if !state.suspended && state.roles.iter().any(grants_roles) {
            return Ok((account_stream(holder), ExpectedVersion::Exact(version)));
        }
    }
    Err(CommandError::LastAdministrator)
}
