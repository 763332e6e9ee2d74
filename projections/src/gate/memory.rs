//! What a gate remembers, and how events change it. Events may be told twice, and out of order when two nodes append at
//! once. Whether any of it may be relied on is the gate's to know.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use chrono::{DateTime, TimeDelta, Utc};
use fulexo_domain::account::AccountEvent;
use fulexo_domain::api_key::ApiKeyEvent;
use fulexo_domain::event::{Actor, Event, Recorded};
use fulexo_domain::lockdown::{LockdownEvent, Scope};
use fulexo_domain::permission::{CustomRoles, Permissions};
use fulexo_domain::policy::Policy;
use fulexo_domain::role::RoleEvent;
use fulexo_domain::session::SessionEvent;
use fulexo_domain::values::{AccountId, ApiKeyId, Epoch, RoleName, SessionId};
use uuid::Uuid;

use super::elevation::{Elevation, SecondFactorMark};

/// Most changes kept; about 20 MB.
pub(super) const MOST: usize = 100_000;

/// What a gate knows.
pub(super) struct Memory {
    /// The history that all of this is from.
    pub epoch: Epoch,
    /// Whether the database has another one by now: then nothing here is true of it.
    pub is_replaced: bool,
    /// Every event below it is known here.
    pub applied: u64,
    /// The event before that.
    pub last: Option<Uuid>,
    pub lease_ends: Option<Instant>,
    /// Tokens issued below it may miss changes that were forgotten.
    pub horizon: u64,
    /// Where sessions ended.
    pub ended: HashMap<SessionId, u64>,
    pub elevated: HashMap<SessionId, Elevation>,
    /// Until then there may be elevations that were forgotten in favour of younger changes, or what made them worthless.
    pub elevations_lost_until: Option<DateTime<Utc>>,
    pub accounts: HashMap<AccountId, AccountChanges>,
    pub custom: CustomRoles,
    /// The last change of each custom role.
    pub custom_changed: HashMap<RoleName, u64>,
    pub keys: HashMap<ApiKeyId, Key>,
    pub revoked_keys: HashSet<ApiKeyId>,
    pub policy: Arc<Policy>,
    /// What a lockdown closes, and which event says so.
    pub lockdown: (Option<Scope>, u64),
    /// What was remembered when, oldest first.
    pub ages: BTreeMap<u64, (DateTime<Utc>, Subject)>,
}

/// An API key in use.
#[derive(Debug, Clone, Copy)]
pub(super) struct Key {
    pub permissions: Permissions,
    pub expires_at: DateTime<Utc>,
    /// The account that made it.
    pub maker: Option<AccountId>,
    /// Whether that is suspended, and which event says so. It stays here however long ago that was.
    pub maker_suspended: (u64, bool),
}

/// What changed about an account.
#[derive(Default)]
pub(super) struct AccountChanges {
    /// All roles held at a position: what a starting node learnt from the tables.
    pub base: Option<(u64, BTreeSet<RoleName>)>,
    /// The last event that ended its sessions, all that began before it but one.
    pub sessions: Option<(u64, Option<SessionId>)>,
    /// Whether all use of it is stopped, and which event says so.
    pub suspended: (u64, bool),
    pub second_factor: SecondFactorMark,
    /// The last change of each role: granted or not.
    changes: BTreeMap<RoleName, (u64, bool)>,
    latest: u64,
}

/// What a change is about.
#[derive(Clone, Copy)]
pub(super) enum Subject {
    Session(SessionId),
    Elevation(SessionId),
    Account(AccountId),
    Key(ApiKeyId),
}

impl AccountChanges {
    /// Whether a token of this session that was issued at this position is of one that was ended with all others. No token
    /// is issued after that but to a session that began after it, or was kept.
    pub fn revoked(&self, session: SessionId, position: u64) -> bool {
        self.sessions.is_some_and(|(from, kept)| position < from && kept != Some(session))
    }

    // Events may be told twice, and out of order when two nodes append at once: in each of these, the latest stands.

    fn revoke(&mut self, position: u64, kept: Option<SessionId>) {
        if self.sessions.is_none_or(|(from, _)| position >= from) {
            self.sessions = Some((position, kept));
        }
    }

    fn suspend(&mut self, position: u64, suspended: bool) {
        if position >= self.suspended.0 {
            self.suspended = (position, suspended);
        }
    }

    fn change_second_factor(&mut self, mark: SecondFactorMark) {
        if mark.from >= self.second_factor.from {
            self.second_factor = mark;
        }
    }

    /// The roles of a token that was issued at this position, and what has changed since.
    pub fn over(&self, roles: &[RoleName], position: u64) -> BTreeSet<RoleName> {
        let (since, mut held) = match &self.base {
            Some((base, held)) if *base > position => (*base, held.clone()),
            Some(_) | None => (position, roles.iter().cloned().collect()),
        };
        for (role, (changed, granted)) in &self.changes {
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

impl Memory {
    pub fn holds_lease(&self) -> bool {
        self.lease_ends.is_some_and(|ends| Instant::now() < ends)
    }

    pub fn apply(&mut self, recorded: &Recorded) {
        let (position, at) = (recorded.position, recorded.recorded_at);
        match &recorded.event {
            Event::Session(SessionEvent::Revoked { .. } | SessionEvent::Expired {}) => {
                self.remember(position, at, Subject::Session(SessionId(recorded.stream.id)));
            }
            Event::Account(AccountEvent::RoleGranted { role }) => {
                self.remember_role(position, at, AccountId(recorded.stream.id), role, true);
            }
            Event::Account(AccountEvent::RoleRevoked { role }) => {
                self.remember_role(position, at, AccountId(recorded.stream.id), role, false);
            }
            Event::Account(AccountEvent::SessionsRevoked { kept, .. }) => {
                self.remember_account(position, at, recorded.stream.id).revoke(position, *kept);
            }
            Event::Account(event @ (AccountEvent::Suspended {} | AccountEvent::Reinstated {})) => {
                let (maker, suspended) = (AccountId(recorded.stream.id), *event == AccountEvent::Suspended {});
                self.remember_account(position, at, recorded.stream.id).suspend(position, suspended);
                for key in self.keys.values_mut().filter(|key| key.maker == Some(maker)) {
                    if position >= key.maker_suspended.0 {
                        key.maker_suspended = (position, suspended);
                    }
                }
            }
            Event::Account(AccountEvent::SecondFactorEnabled { session }) => {
                let mark = SecondFactorMark { from: position, kept: *session, enabled: true };
                self.remember_account(position, at, recorded.stream.id).change_second_factor(mark);
            }
            Event::Account(AccountEvent::SecondFactorDisabled { .. }) => {
                let mark = SecondFactorMark { from: position, kept: None, enabled: false };
                self.remember_account(position, at, recorded.stream.id).change_second_factor(mark);
            }
            Event::Session(SessionEvent::Elevated { until, released, .. }) => {
                let session = SessionId(recorded.stream.id);
                self.remember(position, at, Subject::Elevation(session));
                let fresh = Elevation { position, until: *until, released: released.then_some(position) };
                let known = self.elevated.entry(session).or_insert(fresh);
                let released = known.released.max(fresh.released);
                *known = Elevation { released, ..if position >= known.position { fresh } else { *known } };
            }
            Event::Role(event) => self.change_role(position, event),
            // Events may be told twice, and out of order when two nodes append at once.
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
                        let maker = match recorded.actor {
                            Actor::Account { id } => Some(AccountId(id)),
                            Actor::ApiKey { .. } | Actor::Anonymous | Actor::Operator | Actor::System => None,
                        };
                        // Told late, it may have been made by somebody who is suspended by now.
                        let known = maker.and_then(|maker| self.accounts.get(&maker));
                        let maker_suspended = known.map_or((0, false), |account| account.suspended);
                        let (permissions, expires_at) = (Permissions::of(permissions), *expires_at);
                        self.keys.entry(key).or_insert(Key { permissions, expires_at, maker, maker_suspended });
                    }
                    ApiKeyEvent::Created { .. } => {}
                    ApiKeyEvent::Revoked {} => {
                        self.keys.remove(&key);
                        self.remember(position, at, Subject::Key(key));
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
                | AccountEvent::EmailVerified {},
            )
            | Event::Authentication(_)
            | Event::Policy(_)
            | Event::RateLimit(_)
            | Event::Lockdown(_) => {}
        }
    }

    fn change_role(&mut self, position: u64, event: &RoleEvent) {
        let (RoleEvent::Defined { role, .. }
        | RoleEvent::PermissionsChanged { role, .. }
        | RoleEvent::Retired { role }) = event;
        let last = self.custom_changed.entry(role.clone()).or_insert(position);
        // Events may be told twice, and out of order when two nodes append at once.
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
        self.remember(position, at, Subject::Account(AccountId(account)));
        self.accounts.entry(AccountId(account)).or_default()
    }

    fn remember_role(&mut self, position: u64, at: DateTime<Utc>, account: AccountId, role: &RoleName, granted: bool) {
        let changes = &mut self.remember_account(position, at, account.0).changes;
        let last = changes.entry(role.clone()).or_insert((position, granted));
        // Events may be told twice, and out of order when two nodes append at once.
        if position >= last.0 {
            *last = (position, granted);
        }
    }

    pub fn remember(&mut self, position: u64, at: DateTime<Utc>, subject: Subject) {
        match subject {
            Subject::Session(session) => {
                self.ended.entry(session).or_insert(position);
            }
            Subject::Elevation(_) => {}
            Subject::Key(key) => {
                self.revoked_keys.insert(key);
            }
            Subject::Account(account) => {
                let changes = self.accounts.entry(account).or_default();
                changes.latest = changes.latest.max(position);
            }
        }
        self.ages.insert(position, (at, subject));
    }

    /// Forgets what is older than `relevant_for`, and what is too much.
    pub fn trim(&mut self, now: DateTime<Utc>, relevant_for: TimeDelta) {
        let before = now - relevant_for;
        self.elevations_lost_until = self.elevations_lost_until.filter(|until| *until > now);
        while let Some(oldest) = self.ages.first_entry() {
            let (position, (at, subject)) = (*oldest.key(), *oldest.get());
            let is_over = self.ages.len() > MOST;
            if at >= before && !is_over {
                return;
            }
            // Whatever it is forgotten for: an age is the word of a clock, and tokens may live longer by another node's
            // settings.
            self.horizon = self.horizon.max(position + 1);
            self.ages.remove(&position);
            match subject {
                Subject::Session(session) => {
                    if self.ended.get(&session).is_some_and(|ended| *ended <= position) {
                        self.ended.remove(&session);
                    }
                }
                Subject::Elevation(session) => {
                    if let Entry::Occupied(elevation) = self.elevated.entry(session)
                        && elevation.get().position <= position
                    {
                        // Where it still holds, a token issued after it does not know of it either.
                        let until = Some(elevation.remove().until).filter(|until| *until > now);
                        self.elevations_lost_until = self.elevations_lost_until.max(until);
                    }
                }
                // It is in no list of keys: the database is asked.
                Subject::Key(key) => {
                    self.revoked_keys.remove(&key);
                }
                Subject::Account(account) => {
                    if self.accounts.get(&account).is_some_and(|changes| changes.latest <= position) {
                        self.accounts.remove(&account);
                        let until = Some(at + relevant_for).filter(|until| *until > now);
                        self.elevations_lost_until = self.elevations_lost_until.max(until);
                    }
                }
            }
        }
    }
}
