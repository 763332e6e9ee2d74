//! The access gate in a node's memory: a request is judged without a database read.
//!
//! A token says what was true at the log position in it. The gate remembers what has changed since: sessions ended, one
//! or all of an account, accounts suspended, second factors taken away, roles granted or revoked, for as long as a token that does not know of it may live. That is bounded by the
//! changes of about an hour, not by the number of sessions; beyond a cap it forgets the oldest. Whatever it has forgotten,
//! or never learnt, tokens older than that are for the database.
//!
//! A node judges from memory only while it holds a lease (`nodes`). One that was paused or cut off finds its lease gone and
//! asks the database.

mod elevation;
mod memory;
mod open;

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use fulexo_domain::event::{Event, Recorded};
use fulexo_domain::lockdown::Scope;
use fulexo_domain::permission::{CustomRoles, Permission, Permissions, permissions_of_all};
use fulexo_domain::policy::{InForce, Policy, PolicyEvent};
use fulexo_domain::values::{AccountId, ApiKeyId, Epoch, RoleName, SessionId};
use uuid::Uuid;

pub use self::elevation::{Elevation, SecondFactorMark, SessionElevation};
use self::memory::Memory;

/// How long a renewal is good for, from when it began.
pub const LEASE: Duration = Duration::from_secs(2);
/// What a token claims, as far as the gate cares.
#[derive(Debug, Clone, Copy)]
pub struct Claim<'a> {
    /// Whose it is.
    pub account: AccountId,
    /// The session it belongs to.
    pub session: SessionId,
    /// The log's position when it was issued.
    pub position: u64,
    /// In which history of the log.
    pub epoch: Epoch,
    /// The roles held then.
    pub roles: &'a [RoleName],
    /// Whether the session's owner presented a second factor.
    pub second_factor: bool,
}

/// What the gate says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The session lives.
    Current {
        /// Roles held now, where they are not those that the token names.
        roles: Option<BTreeSet<RoleName>>,
        /// What they allow together in this session.
        permissions: Permissions,
        /// Whether a second factor was presented in it that still counts.
        second_factor: bool,
        /// Grounds on which it may make sensitive calls.
        elevated: SessionElevation,
    },
    /// The session has ended.
    Ended,
    /// The session lives, and a lockdown keeps its owner out.
    LockedDown,
    /// The gate cannot know: ask the database.
    Unknown,
}

/// What the gate says of an API key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyVerdict {
    /// In use: what it may do, and until when.
    Current(Permissions, DateTime<Utc>),
    /// Revoked or expired.
    Ended,
    /// In use, and a lockdown keeps it out.
    LockedDown,
    /// The gate cannot know: ask the database.
    Unknown,
}

/// The gate cannot know: ask the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unknown;

/// Whether a lockdown keeps out whoever may do this.
#[must_use]
pub fn keeps_out(lockdown: Option<Scope>, permissions: Permissions) -> bool {
    lockdown == Some(Scope::All) && !permissions.contains(Permission::LockdownManage)
}

/// What these roles allow in a session: those that require a second factor allow nothing in a session without one.
#[must_use]
pub fn permissions_in<'a>(
    roles: impl IntoIterator<Item = &'a RoleName>,
    custom: &CustomRoles,
    policy: &Policy,
    second_factor: bool,
) -> Permissions {
    let required = &policy.second_factor.required_for;
    permissions_of_all(roles.into_iter().filter(|role| second_factor || !required.contains(*role)), custom)
}

/// Recent changes of who may do what; all custom roles, all API keys, the policy.
pub struct Gate {
    memory: RwLock<Memory>,
    policy: Arc<InForce>,
    /// How long a change matters: the life of an access token, and some.
    relevant_for: TimeDelta,
}

impl Gate {
    /// What an API key may do, if it is in use; `Unknown` where the database must be asked.
    #[must_use]
    pub fn judge_key(&self, key: ApiKeyId, now: DateTime<Utc>) -> KeyVerdict {
        let memory = self.read();
        if memory.revoked_keys.contains(&key) && !memory.is_replaced {
            return KeyVerdict::Ended;
        }
        if !memory.holds_lease() {
            return KeyVerdict::Unknown;
        }
        match memory.keys.get(&key) {
            Some(key) if now < key.expires_at => {
                if key.maker_suspended.1 && memory.policy.api_keys.end_with_suspension {
                    return KeyVerdict::Ended;
                }
                if keeps_out(memory.lockdown.0, key.permissions) {
                    return KeyVerdict::LockedDown;
                }
                KeyVerdict::Current(key.permissions, key.expires_at)
            }
            Some(_) => KeyVerdict::Ended,
            // Its secret is authentic, so it was made somewhere, maybe a moment ago.
            None => KeyVerdict::Unknown,
        }
    }

    /// Judges a token that is otherwise valid.
    #[must_use]
    pub fn judge(&self, claim: Claim<'_>) -> Verdict {
        let memory = self.read();
        if memory.is_replaced || claim.epoch != memory.epoch {
            return Verdict::Unknown;
        }
        let account = memory.accounts.get(&claim.account);
        let revoked = account.is_some_and(|account| account.revoked(claim.session, claim.position));
        if revoked || memory.ended.contains_key(&claim.session) {
            // True however old the memory is: what has ended stays ended.
            return Verdict::Ended;
        }
        // A position that was not reached yet is of another node, which is ahead.
        if !memory.holds_lease() || claim.position < memory.horizon || claim.position >= memory.applied {
            return Verdict::Unknown;
        }
        let step_up = memory.elevated.get(&claim.session).copied();
        if step_up.is_none() && memory.elevations_lost_until.is_some() {
            return Verdict::Unknown;
        }
        if account.is_some_and(|account| account.suspended.1) {
            return Verdict::Ended;
        }
        let mark = account.map_or_else(SecondFactorMark::default, |account| account.second_factor);
        let second_factor = claim.second_factor && mark.counts(claim.session, claim.position);
        let roles = account.map(|known| known.over(claim.roles, claim.position));
        let held: &mut dyn Iterator<Item = &RoleName> = match &roles {
            Some(roles) => &mut roles.iter(),
            None => &mut claim.roles.iter(),
        };
        let permissions = permissions_in(held, &memory.custom, &memory.policy, second_factor);
        if keeps_out(memory.lockdown.0, permissions) {
            return Verdict::LockedDown;
        }
        let elevated = mark.elevated(claim.session, second_factor, step_up, &memory.policy.sessions);
        Verdict::Current { roles, permissions, second_factor, elevated }
    }

    /// What a lockdown closes; `Err` where the database must be asked.
    ///
    /// # Errors
    /// The gate cannot know.
    pub fn lockdown(&self) -> Result<Option<Scope>, Unknown> {
        let memory = self.read();
        if memory.holds_lease() { Ok(memory.lockdown.0) } else { Err(Unknown) }
    }

    /// Learns of events that were committed here, at once: before whoever asked for them is answered.
    pub fn observe(&self, events: &[impl AsRef<Recorded>]) {
        let mut memory = self.write();
        let mut last = None;
        for event in events {
            let recorded = event.as_ref();
            // Other nodes may have appended in between: then the follower fills the gap before the mark moves.
            if recorded.position == memory.applied {
                memory.applied += 1;
                memory.last = Some(recorded.id);
            }
            memory.apply(recorded);
            if let Event::Policy(PolicyEvent::Changed { after, .. }) = &recorded.event {
                self.policy.learn(after);
                memory.policy = self.policy.get();
            }
            last = Some(recorded.recorded_at);
        }
        if let Some(last) = last {
            memory.trim(last, self.relevant_for);
        }
    }

    /// Every event below it is known here.
    #[must_use]
    pub fn applied(&self) -> u64 {
        self.read().applied
    }

    /// The same, and the event before that.
    pub(crate) fn end(&self) -> (u64, Option<Uuid>) {
        let memory = self.read();
        (memory.applied, memory.last)
    }

    /// A renewal that began at `asked` was committed, the log was asked after that, and everything that it had is known
    /// here (`nodes`).
    pub fn renew_lease(&self, asked: Instant) {
        let mut memory = self.write();
        if !memory.is_replaced {
            memory.lease_ends = Some(asked + LEASE);
        }
    }

    /// The history of the log that this gate knows.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.read().epoch
    }

    /// Whether the database was restored under this node: the gate has no lease any more, and gets none.
    #[must_use]
    pub fn is_replaced(&self) -> bool {
        self.read().is_replaced
    }

    /// The log has another history than this gate.
    pub(crate) fn replaced(&self) {
        let mut memory = self.write();
        if !memory.is_replaced {
            tracing::error!("the log was replaced by another history: this node must be restarted");
        }
        memory.is_replaced = true;
        memory.lease_ends = None;
    }

    /// Gives the lease up.
    pub fn drop_lease(&self) {
        self.write().lease_ends = None;
    }

    /// When the lease ends, or ended.
    #[must_use]
    pub fn lease_ends(&self) -> Option<Instant> {
        self.read().lease_ends
    }

    /// Whether the gate judges from memory.
    #[must_use]
    pub fn holds_lease(&self) -> bool {
        self.read().holds_lease()
    }

    fn read(&self) -> RwLockReadGuard<'_, Memory> {
        self.memory.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Memory> {
        self.memory.write().unwrap_or_else(PoisonError::into_inner)
    }
}
