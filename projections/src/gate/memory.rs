//! The gate's memory, and how events change it. An event may arrive twice, or out of order when two nodes append at
//! once. This file does not decide whether the memory may be relied on: the gate does.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use chrono::{DateTime, TimeDelta, Utc};
use fulexo_domain::account::AccountEvent;
use fulexo_domain::api_key::ApiKeyEvent;
use fulexo_domain::event::{Actor, Event, RecordedEvent};
use fulexo_domain::lockdown::{LockdownEvent, LockdownScope};
use fulexo_domain::permission::{CustomRoles, Permissions};
use fulexo_domain::policy::Policy;
use fulexo_domain::role::RoleEvent;
use fulexo_domain::session::SessionEvent;
use fulexo_domain::values::{AccountId, ApiKeyId, Epoch, RoleName, SessionId};
use uuid::Uuid;

use super::elevation::{Elevation, SecondFactorValidity};

/// The maximum number of remembered changes; about 20 MB.
pub(super) const MAX_CHANGES: usize = 100_000;

/// The state from which a gate judges.
pub(super) struct GateMemory {
    /// The epoch of the log that this state derives from.
    pub epoch: Epoch,
    /// `true` if the database now has another epoch: then nothing here holds.
    pub is_replaced: bool,
    /// Every event below this position has been applied.
    pub applied: u64,
    /// The id of the last event before `applied`.
    pub last: Option<Uuid>,
    pub lease_ends: Option<Instant>,
    /// Tokens issued below this position may predate changes that the gate has forgotten.
    pub horizon: u64,
    /// The position at which each session ended.
    pub ended: HashMap<SessionId, u64>,
    pub elevations: HashMap<SessionId, Elevation>,
    /// Until this time the gate may have forgotten elevations that still hold, or changes that invalidated them.
    pub elevations_incomplete_until: Option<DateTime<Utc>>,
    pub accounts: HashMap<AccountId, AccountChanges>,
    pub custom: CustomRoles,
    /// The last change of each custom role.
    pub custom_changed: HashMap<RoleName, u64>,
    pub keys: HashMap<ApiKeyId, ActiveApiKey>,
    pub revoked_keys: HashSet<ApiKeyId>,
    pub policy: Arc<Policy>,
    /// The scope of the lockdown, and the position of the event that set it.
    pub lockdown: (Option<LockdownScope>, u64),
    /// The remembered changes by position, oldest first, each with its time.
    pub ages: BTreeMap<u64, (DateTime<Utc>, ChangeSubject)>,
}

/// An API key that is neither revoked nor expired.
#[derive(Debug, Clone, Copy)]
pub(super) struct ActiveApiKey {
    pub permissions: Permissions,
    pub expires_at: DateTime<Utc>,
    /// The account that created it.
    pub creator: Option<AccountId>,
    /// The position of the creator's last suspension or reinstatement, and `true` if suspended. It does not age.
    pub creator_suspended: (u64, bool),
}

/// The remembered changes of an account.
#[derive(Default)]
pub(super) struct AccountChanges {
    /// All roles held at a position, as a starting node read them from the tables.
    pub base_roles: Option<(u64, BTreeSet<RoleName>)>,
    /// The last event that ended all sessions begun before it, and the one session that it kept.
    pub sessions_revoked: Option<(u64, Option<SessionId>)>,
    /// The position of the last suspension or reinstatement, and `true` if suspended.
    pub suspended: (u64, bool),
    pub second_factor: SecondFactorValidity,
    /// The last change of each role, and `true` if it was granted.
    role_changes: BTreeMap<RoleName, (u64, bool)>,
    latest: u64,
}

/// The subject of a change.
#[derive(Clone, Copy)]
pub(super) enum ChangeSubject {
    Session(SessionId),
    Elevation(SessionId),
    Account(AccountId),
    Key(ApiKeyId),
}

impl AccountChanges {
    /// `true` if the session was ended together with all others of its account. After that event, tokens are issued
    /// only to sessions that began later and to the session that was kept.
    pub fn revoked(&self, session: SessionId, position: u64) -> bool {
        self.sessions_revoked.is_some_and(|(from, kept)| position < from && kept != Some(session))
    }

    // An event may arrive twice, or out of order when two nodes append at once: each of these keeps the latest.

    fn revoke(&mut self, position: u64, except_session: Option<SessionId>) {
        if self.sessions_revoked.is_none_or(|(from, _)| position >= from) {
            self.sessions_revoked = Some((position, except_session));
        }
    }

    fn suspend(&mut self, position: u64, suspended: bool) {
        if position >= self.suspended.0 {
            self.suspended = (position, suspended);
        }
    }

    fn change_second_factor(&mut self, validity: SecondFactorValidity) {
        if validity.valid_from >= self.second_factor.valid_from {
            self.second_factor = validity;
        }
    }

    /// The current roles of the owner of a token that was issued with these roles at this position.
    pub fn roles_since(&self, roles: &[RoleName], position: u64) -> BTreeSet<RoleName> {
        let (since, mut held) = match &self.base_roles {
            Some((base, held)) if *base > position => (*base, held.clone()),
            Some(_) | None => (position, roles.iter().cloned().collect()),
        };
        for (role, (changed, granted)) in &self.role_changes {
            match (*changed > since, granted) {
                (true, true) => {
                    held.insert(role.clone());
                }
                (true, false) => {
                    held.remove(role);
                }
                (false, _) => {}
            }
        }
        held
    }
}

impl GateMemory {
    pub fn holds_lease(&self) -> bool {
        self.lease_ends.is_some_and(|ends| Instant::now() < ends)
    }

    pub fn apply(&mut self, recorded: &RecordedEvent) {
        let (position, at) = (recorded.position, recorded.recorded_at);
        match &recorded.event {
            Event::Session(SessionEvent::Revoked { .. } | SessionEvent::Expired {}) => {
                self.remember(position, at, ChangeSubject::Session(SessionId(recorded.stream.id)));
            }
            Event::Account(AccountEvent::RoleGranted { role }) => {
                self.remember_role(position, at, AccountId(recorded.stream.id), role, true);
            }
            Event::Account(AccountEvent::RoleRevoked { role }) => {
                self.remember_role(position, at, AccountId(recorded.stream.id), role, false);
            }
            Event::Account(AccountEvent::SessionsRevoked { except_session, .. }) => {
                self.remember_account(position, at, recorded.stream.id).revoke(position, *except_session);
            }
            Event::Account(
                event @ (AccountEvent::Suspended {} | AccountEvent::Reinstated {} | AccountEvent::Erased { .. }),
            ) => {
                // An erased account is refused as a suspended one is, and nobody reinstates it.
                let (creator, suspended) = (AccountId(recorded.stream.id), *event != AccountEvent::Reinstated {});
                self.remember_account(position, at, recorded.stream.id).suspend(position, suspended);
                for key in self.keys.values_mut().filter(|key| key.creator == Some(creator)) {
                    if position >= key.creator_suspended.0 {
                        key.creator_suspended = (position, suspended);
                    }
                }
            }
            Event::Account(AccountEvent::SecondFactorEnabled { session }) => {
                let validity = SecondFactorValidity { valid_from: position, except_session: *session, enabled: true };
                self.remember_account(position, at, recorded.stream.id).change_second_factor(validity);
            }
            Event::Account(AccountEvent::SecondFactorDisabled { .. }) => {
                let validity = SecondFactorValidity { valid_from: position, except_session: None, enabled: false };
                self.remember_account(position, at, recorded.stream.id).change_second_factor(validity);
            }
            Event::Session(SessionEvent::Elevated { until, restored, .. }) => {
                let session = SessionId(recorded.stream.id);
                self.remember(position, at, ChangeSubject::Elevation(session));
                let fresh = Elevation { position, until: *until, restored: restored.then_some(position) };
                let known = self.elevations.entry(session).or_insert(fresh);
                let restored = known.restored.max(fresh.restored);
                *known = Elevation { restored, ..if position >= known.position { fresh } else { *known } };
            }
            Event::Role(event) => self.change_role(position, event),
            // An event may arrive twice, or out of order when two nodes append at once.
            Event::Lockdown(event) if position >= self.lockdown.1 => {
                self.lockdown = match event {
                    LockdownEvent::Started { scope } => (Some(*scope), position),
                    LockdownEvent::Lifted {} => (None, position),
                };
            }
            Event::ApiKey(event) => {
                let key = ApiKeyId(recorded.stream.id);
                match event {
                    ApiKeyEvent::Created { permissions, expires_at, .. } if !self.revoked_keys.contains(&key) => {
                        self.keys.retain(|_, key| key.expires_at > at);
                        let creator = match recorded.actor {
                            Actor::Account { id } => Some(AccountId(id)),
                            Actor::ApiKey { .. } | Actor::Anonymous | Actor::Operator | Actor::System => None,
                        };
                        // If the event arrives late, its creator may already be suspended.
                        let known = creator.and_then(|creator| self.accounts.get(&creator));
                        let creator_suspended = known.map_or((0, false), |account| account.suspended);
                        let (permissions, expires_at) = (Permissions::of(permissions), *expires_at);
                        self.keys.entry(key).or_insert(ActiveApiKey {
                            permissions,
                            expires_at,
                            creator,
                            creator_suspended,
                        });
                    }
                    ApiKeyEvent::Created { .. } => {}
                    ApiKeyEvent::Revoked {} => {
                        self.keys.remove(&key);
                        self.remember(position, at, ChangeSubject::Key(key));
                    }
                }
            }
            Event::Session(
                SessionEvent::Started { .. }
                | SessionEvent::Refreshed { .. }
                | SessionEvent::RefreshReused { .. }
                | SessionEvent::FingerprintMismatched { .. },
            )
            | Event::Account(
                AccountEvent::Registered {}
                | AccountEvent::ProfileChanged {}
                | AccountEvent::PasswordChanged { .. }
                | AccountEvent::PasswordExpired {}
                | AccountEvent::SecondFactorEnrolmentStarted {}
                | AccountEvent::RecoveryCodesIssued { .. }
                | AccountEvent::RecoveryCodeUsed { .. }
                | AccountEvent::EmailVerified {}
                | AccountEvent::ErasureStarted { .. }
                | AccountEvent::ErasureWithdrawn {}
                | AccountEvent::ErasureCompleted { .. },
            )
            | Event::Authentication(_)
            | Event::Policy(_)
            | Event::RateLimit(_)
            | Event::Lockdown(_)
            | Event::Checkpoint(_)
            | Event::Audit(_)
            | Event::Key(_)
            | Event::Backup(_)
            | Event::Incident(_) => {}
        }
    }

    fn change_role(&mut self, position: u64, event: &RoleEvent) {
        let (RoleEvent::Defined { role, .. }
        | RoleEvent::PermissionsChanged { role, .. }
        | RoleEvent::Retired { role }) = event;
        let last = self.custom_changed.entry(role.clone()).or_insert(position);
        // An event may arrive twice, or out of order when two nodes append at once.
        if position < *last {
            return;
        }
        *last = position;
        match event {
            RoleEvent::Defined { role, permissions }
            | RoleEvent::PermissionsChanged { role, after: permissions, .. } => {
                self.custom.insert(role.clone(), Permissions::of(permissions));
            }
            RoleEvent::Retired { role } => {
                self.custom.remove(role);
            }
        }
    }

    fn remember_account(&mut self, position: u64, at: DateTime<Utc>, account: Uuid) -> &mut AccountChanges {
        self.remember(position, at, ChangeSubject::Account(AccountId(account)));
        self.accounts.entry(AccountId(account)).or_default()
    }

    fn remember_role(&mut self, position: u64, at: DateTime<Utc>, account: AccountId, role: &RoleName, granted: bool) {
        let changes = &mut self.remember_account(position, at, account.0).role_changes;
        let last = changes.entry(role.clone()).or_insert((position, granted));
        // An event may arrive twice, or out of order when two nodes append at once.
        if position >= last.0 {
            *last = (position, granted);
        }
    }

    pub fn remember(&mut self, position: u64, at: DateTime<Utc>, subject: ChangeSubject) {
        match subject {
            ChangeSubject::Session(session) => {
                self.ended.entry(session).or_insert(position);
            }
            ChangeSubject::Elevation(_) => {}
            ChangeSubject::Key(key) => {
                self.revoked_keys.insert(key);
            }
            ChangeSubject::Account(account) => {
                let changes = self.accounts.entry(account).or_default();
                changes.latest = changes.latest.max(position);
            }
        }
        self.ages.insert(position, (at, subject));
    }

    /// Forgets changes older than `relevant_for`, and the oldest beyond the cap.
    pub fn trim(&mut self, now: DateTime<Utc>, relevant_for: TimeDelta) {
        let before = now - relevant_for;
        self.elevations_incomplete_until = self.elevations_incomplete_until.filter(|until| *until > now);
        while let Some(oldest) = self.ages.first_entry() {
            let (position, (at, subject)) = (*oldest.key(), *oldest.get());
            let is_over = self.ages.len() > MAX_CHANGES;
            if at >= before && !is_over {
                return;
            }
            // The horizon advances even if the change was old enough: its age is the statement of a clock, and the
            // settings of another node may let tokens live longer.
            self.horizon = self.horizon.max(position + 1);
            self.ages.remove(&position);
            match subject {
                ChangeSubject::Session(session) => {
                    if self.ended.get(&session).is_some_and(|ended| *ended <= position) {
                        self.ended.remove(&session);
                    }
                }
                ChangeSubject::Elevation(session) => {
                    if let Entry::Occupied(elevation) = self.elevations.entry(session)
                        && elevation.get().position <= position
                    {
                        // A token issued after a step-up that still holds does not carry it either.
                        let until = Some(elevation.remove().until).filter(|until| *until > now);
                        self.elevations_incomplete_until = self.elevations_incomplete_until.max(until);
                    }
                }
                // No list of active keys has it: the database is asked.
                ChangeSubject::Key(key) => {
                    self.revoked_keys.remove(&key);
                }
                ChangeSubject::Account(account) => {
                    if self.accounts.get(&account).is_some_and(|changes| changes.latest <= position) {
                        self.accounts.remove(&account);
                        let until = Some(at + relevant_for).filter(|until| *until > now);
                        self.elevations_incomplete_until = self.elevations_incomplete_until.max(until);
                    }
                }
            }
        }
    }
}
