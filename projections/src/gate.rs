//! The access gate in a node's memory: it judges a request without a database read.
//!
//! A token states what was true at the log position in it. The gate remembers the changes since then: ended sessions
//! (one, or all of an account), suspended accounts, removed second factors, granted and revoked roles. It keeps each
//! change for as long as a token issued before the change may live. Memory is therefore bounded by the changes of about
//! an hour, not by the number of sessions. Beyond a cap the gate forgets the oldest changes. The database judges every
//! token older than a change that the gate forgot or never learned.
//!
//! A node judges from memory only while it holds a lease (`nodes`). A node that was paused or cut off has lost its
//! lease and asks the database.

mod elevation;
mod memory;
mod open;

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use fulexo_domain::event::{Event, RecordedEvent};
use fulexo_domain::lockdown::LockdownScope;
use fulexo_domain::permission::{CustomRoles, Permission, Permissions, effective_permissions};
use fulexo_domain::policy::{ActivePolicy, Policy, PolicyEvent};
use fulexo_domain::values::{AccountId, ApiKeyId, Epoch, RoleName, SessionId};
use uuid::Uuid;

pub use self::elevation::{Elevation, SecondFactorValidity, SessionElevation};
use self::memory::GateMemory;

/// The lifetime of a lease, from the start of its renewal.
pub const LEASE: Duration = Duration::from_secs(2);
/// The claims of an access token that the gate judges.
#[derive(Debug, Clone, Copy)]
pub struct TokenClaims<'a> {
    /// The token's account.
    pub account: AccountId,
    /// The token's session.
    pub session: SessionId,
    /// The log position at which the token was issued.
    pub position: u64,
    /// The epoch of the log that the position refers to.
    pub epoch: Epoch,
    /// The account's roles when the token was issued.
    pub roles: &'a [RoleName],
    /// `true` if the session's owner presented a second factor.
    pub second_factor: bool,
}

/// The gate's verdict on an access token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionVerdict {
    /// The session is live.
    Current {
        /// The account's current roles, if they differ from the token's.
        roles: Option<BTreeSet<RoleName>>,
        /// The permissions that these roles grant in this session.
        permissions: Permissions,
        /// `true` if a second factor that is still valid was presented in this session.
        second_factor: bool,
        /// The grounds on which the session may make sensitive calls.
        elevated: SessionElevation,
    },
    /// The session has ended.
    Ended,
    /// The session is live, but a lockdown excludes its owner.
    LockedDown,
    /// The gate cannot tell: ask the database.
    Unknown,
}

/// The gate's verdict on an API key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ApiKeyVerdict {
    /// The key is active: its permissions and its expiry.
    Current(Permissions, DateTime<Utc>),
    /// The key is revoked or expired.
    Ended,
    /// The key is active, but a lockdown excludes it.
    LockedDown,
    /// The gate cannot tell: ask the database.
    Unknown,
}

/// The gate holds no lease: ask the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoLease;

/// `true` if the lockdown excludes a caller with these permissions.
#[must_use]
pub fn locked_out(lockdown: Option<LockdownScope>, permissions: Permissions) -> bool {
    lockdown == Some(LockdownScope::All) && !permissions.contains(Permission::LockdownManage)
}

/// The permissions that these roles grant in a session. In a session without a second factor, a role that requires one
/// grants nothing.
#[must_use]
pub fn session_permissions<'a>(
    roles: impl IntoIterator<Item = &'a RoleName>,
    custom: &CustomRoles,
    policy: &Policy,
    second_factor: bool,
) -> Permissions {
    let required = &policy.second_factor.required_for;
    effective_permissions(roles.into_iter().filter(|role| second_factor || !required.contains(*role)), custom)
}

/// The recent changes of authority, all custom roles, all API keys, and the policy.
pub struct Gate {
    memory: RwLock<GateMemory>,
    policy: Arc<ActivePolicy>,
    /// The time for which the gate remembers a change: the life of an access token, and a margin.
    relevant_for: TimeDelta,
}

impl Gate {
    /// Judges an API key whose secret was verified.
    #[must_use]
    pub fn judge_api_key(&self, key: ApiKeyId, now: DateTime<Utc>) -> ApiKeyVerdict {
        let memory = self.read();
        if memory.revoked_keys.contains(&key) && !memory.is_replaced {
            return ApiKeyVerdict::Ended;
        }
        if !memory.holds_lease() {
            return ApiKeyVerdict::Unknown;
        }
        match memory.keys.get(&key) {
            Some(key) if now < key.expires_at => {
                if key.creator_suspended.1 && memory.policy.api_keys.suspend_with_creator {
                    return ApiKeyVerdict::Ended;
                }
                if locked_out(memory.lockdown.0, key.permissions) {
                    return ApiKeyVerdict::LockedDown;
                }
                ApiKeyVerdict::Current(key.permissions, key.expires_at)
            }
            Some(_) => ApiKeyVerdict::Ended,
            // The key's secret is authentic, so the key was created, perhaps a moment ago on another node.
            None => ApiKeyVerdict::Unknown,
        }
    }

    /// Judges a token that is otherwise valid.
    #[must_use]
    pub fn judge(&self, claims: TokenClaims<'_>) -> SessionVerdict {
        let memory = self.read();
        if memory.is_replaced || claims.epoch != memory.epoch {
            return SessionVerdict::Unknown;
        }
        let account = memory.accounts.get(&claims.account);
        let revoked = account.is_some_and(|account| account.revoked(claims.session, claims.position));
        if revoked || memory.ended.contains_key(&claims.session) {
            // This holds at any age of the memory: an ended session stays ended.
            return SessionVerdict::Ended;
        }
        // A token with a position that this node has not reached comes from a node that is ahead.
        if !memory.holds_lease() || claims.position < memory.horizon || claims.position >= memory.applied {
            return SessionVerdict::Unknown;
        }
        let step_up = memory.elevations.get(&claims.session).copied();
        if step_up.is_none() && memory.elevations_incomplete_until.is_some() {
            return SessionVerdict::Unknown;
        }
        if account.is_some_and(|account| account.suspended.1) {
            return SessionVerdict::Ended;
        }
        let validity = account.map_or_else(SecondFactorValidity::default, |account| account.second_factor);
        let second_factor = claims.second_factor && validity.is_valid_for(claims.session, claims.position);
        let roles = account.map(|known| known.roles_since(claims.roles, claims.position));
        let held: &mut dyn Iterator<Item = &RoleName> = match &roles {
            Some(roles) => &mut roles.iter(),
            None => &mut claims.roles.iter(),
        };
        let permissions = session_permissions(held, &memory.custom, &memory.policy, second_factor);
        if locked_out(memory.lockdown.0, permissions) {
            return SessionVerdict::LockedDown;
        }
        let elevated = validity.session_elevation(claims.session, second_factor, step_up, &memory.policy.sessions);
        SessionVerdict::Current { roles, permissions, second_factor, elevated }
    }

    /// The scope of the lockdown in force, if there is one.
    ///
    /// # Errors [`NoLease`]: the gate cannot tell.
    pub fn lockdown(&self) -> Result<Option<LockdownScope>, NoLease> {
        let memory = self.read();
        if memory.holds_lease() { Ok(memory.lockdown.0) } else { Err(NoLease) }
    }

    /// Applies events that were committed on this node, before their caller is answered.
    pub fn observe(&self, events: &[impl AsRef<RecordedEvent>]) {
        let mut memory = self.write();
        let mut last = None;
        for event in events {
            let recorded = event.as_ref();
            // Another node may have appended in between. Then the follower fills the gap before `applied` advances.
            if recorded.position == memory.applied {
                memory.applied += 1;
                memory.last = Some(recorded.id);
            }
            memory.apply(recorded);
            if let Event::Policy(PolicyEvent::Changed { after, .. }) = &recorded.event {
                self.policy.update(after);
                memory.policy = self.policy.get();
            }
            last = Some(recorded.recorded_at);
        }
        if let Some(last) = last {
            memory.trim(last, self.relevant_for);
        }
    }

    /// The position that follows the last event of the gapless prefix that the gate has applied.
    #[must_use]
    pub fn applied(&self) -> u64 {
        self.read().applied
    }

    /// `applied`, and the id of the event before it.
    pub(crate) fn applied_end(&self) -> (u64, Option<Uuid>) {
        let memory = self.read();
        (memory.applied, memory.last)
    }

    /// Renews the lease. The renewal that began at `asked` was committed, the log's head was read after that, and the
    /// gate has applied everything up to it (`nodes`).
    pub fn renew_lease(&self, asked: Instant) {
        let mut memory = self.write();
        if !memory.is_replaced {
            memory.lease_ends = Some(asked + LEASE);
        }
    }

    /// The epoch of the log that this gate follows.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.read().epoch
    }

    /// `true` if the database was restored while this node ran. The gate then holds no lease and never gets another
    /// one.
    #[must_use]
    pub fn is_replaced(&self) -> bool {
        self.read().is_replaced
    }

    /// Marks the log as replaced: its history differs from the one that this gate follows.
    pub(crate) fn mark_log_replaced(&self) {
        let mut memory = self.write();
        if !memory.is_replaced {
            tracing::error!("the log was replaced by another history: this node must be restarted");
        }
        memory.is_replaced = true;
        memory.lease_ends = None;
    }

    /// Gives up the lease.
    pub fn drop_lease(&self) {
        self.write().lease_ends = None;
    }

    /// The end of the current or of the last lease.
    #[must_use]
    pub fn lease_ends(&self) -> Option<Instant> {
        self.read().lease_ends
    }

    /// `true` if the gate judges from memory.
    #[must_use]
    pub fn holds_lease(&self) -> bool {
        self.read().holds_lease()
    }

    fn read(&self) -> RwLockReadGuard<'_, GateMemory> {
        self.memory.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, GateMemory> {
        self.memory.write().unwrap_or_else(PoisonError::into_inner)
    }
}
