//! The access gate in a node's memory: a request is judged without a database read.
//!
//! A token says what was true at the log position in it. The gate remembers what has changed since: sessions ended
//! and roles granted or revoked, for as long as a token that does not know of it may live. That is bounded by the
//! changes of about an hour, not by the number of sessions; beyond a cap it forgets the oldest and sends tokens
//! older than that to the database.
//!
//! A node judges from memory only while it holds a lease (`nodes`). One that was paused or cut off finds its lease gone and
//! asks the database.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use fulexo_domain::account::AccountEvent;
use fulexo_domain::api_key::ApiKeyEvent;
use fulexo_domain::event::{Event, Recorded};
use fulexo_domain::lockdown::{LockdownEvent, Scope};
use fulexo_domain::permission::{CustomRoles, Permission, Permissions, permissions_of_all};
use fulexo_domain::policy::{InForce, Policy, PolicyEvent};
use fulexo_domain::role::RoleEvent;
use fulexo_domain::session::SessionEvent;
use fulexo_domain::values::{AccountId, ApiKeyId, RoleName, SessionId};
use sqlx::PgPool;

use crate::{access, feed};

/// How long a renewal is good for, from when it began.
pub const LEASE: Duration = Duration::from_secs(2);
/// Most changes kept; about 20 MB.
const MOST: usize = 100_000;

/// What a token claims, as far as the gate cares.
#[derive(Debug, Clone, Copy)]
pub struct Claim<'a> {
    /// Whose it is.
    pub account: AccountId,
    /// The session it belongs to.
    pub session: SessionId,
    /// The log's position when it was issued.
    pub position: u64,
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
        /// Its last elevation by step-up; `None` if there was none lately.
        elevated: Option<Elevation>,
        /// How long a session is elevated after its login.
        elevation: TimeDelta,
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
    inner: RwLock<Inner>,
    policy: Arc<InForce>,
    /// How long a change matters: the life of an access token, and some.
    memory: TimeDelta,
}

struct Inner {
    /// Every event below it is known here.
    applied: u64,
    lease_ends: Option<Instant>,
    /// Tokens issued below it may miss changes that were forgotten.
    horizon: u64,
    ended: HashMap<SessionId, Change>,
    elevated: HashMap<SessionId, Elevation>,
    roles: HashMap<AccountId, RoleChanges>,
    custom: CustomRoles,
    /// The last change of each custom role.
    custom_changed: HashMap<RoleName, u64>,
    keys: HashMap<ApiKeyId, (Permissions, DateTime<Utc>)>,
    revoked_keys: HashSet<ApiKeyId>,
    policy: Arc<Policy>,
    /// What a lockdown closes, and which event says so.
    lockdown: (Option<Scope>, u64),
    /// What was remembered when, oldest first.
    ages: BTreeMap<u64, (DateTime<Utc>, Subject)>,
}

#[derive(Clone, Copy)]
struct Change {
    position: u64,
}

/// A step-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Elevation {
    /// Where in the log.
    pub position: u64,
    /// Until when sensitive calls are allowed.
    pub until: DateTime<Utc>,
    /// Where its owner last proved themselves while it was held: tokens that are held, and older, no longer are.
    pub released: Option<u64>,
}

#[derive(Default)]
struct RoleChanges {
    /// All roles held at a position: what a starting node learnt from the tables.
    base: Option<(u64, BTreeSet<RoleName>)>,
    /// The last change of each role: granted or not.
    changes: BTreeMap<RoleName, (u64, bool)>,
    latest: u64,
}

#[derive(Clone, Copy)]
enum Subject {
    Session(SessionId),
    Elevation(SessionId),
    Account(AccountId),
    Key(ApiKeyId),
}

impl Gate {
    /// Learns from the tables what has changed within the life of an access token.
    ///
    /// # Errors
    /// The database.
    pub async fn open(
        pool: &PgPool,
        token_lifetime: TimeDelta,
        policy: Arc<InForce>,
        now: DateTime<Utc>,
    ) -> Result<Self, sqlx::Error> {
        // Tokens are accepted a minute past their end; recorded times may lag behind the clock by as much again.
        let memory = token_lifetime + TimeDelta::minutes(2);
        let mut transaction = pool.begin().await?;
        // One snapshot: what is read below is the state at this very position.
        sqlx::query!("set transaction isolation level repeatable read, read only").execute(&mut *transaction).await?;
        let applied = feed::size(&mut transaction).await?;
        let ended = sqlx::query!(
            r#"select session_id, ended_position as "position!", ended_at as "at!" from access.session
               where ended_at > $1 order by ended_at desc limit $2"#,
            now - memory,
            i64::try_from(MOST).unwrap_or(i64::MAX)
        )
        .fetch_all(&mut *transaction)
        .await?;
        let changed = sqlx::query!(
            r#"select a.account_id, a.changed_position, a.changed_at,
                      array(select g.role from access.role_grant g where g.account_id = a.account_id) as "roles!"
               from access.account a where a.changed_at > $1 order by a.changed_at desc limit $2"#,
            now - memory,
            i64::try_from(MOST).unwrap_or(i64::MAX)
        )
        .fetch_all(&mut *transaction)
        .await?;
        let elevated = sqlx::query!(
            r#"select session_id, elevated_until as "until!", elevated_position as "position!", released_position
               from access.session
               where elevated_until > $1 and ended_at is null order by elevated_until desc limit $2"#,
            now - memory,
            i64::try_from(MOST).unwrap_or(i64::MAX)
        )
        .fetch_all(&mut *transaction)
        .await?;
        let custom = access::custom_roles(&mut transaction).await?;
        let changed_policy = access::policy(&mut transaction).await?;
        let lockdown = access::lockdown(&mut transaction).await?;
        let keys = sqlx::query!(
            "select key_id, permissions, expires_at from access.api_key where revoked_at is null and expires_at > $1",
            now
        )
        .fetch_all(&mut *transaction)
        .await?;
        transaction.commit().await?;

        if let Some((_, changed)) = changed_policy {
            policy.learn(&changed);
        }
        let mut inner = Inner {
            policy: policy.get(),
            lockdown: lockdown.map_or((None, 0), |lockdown| (lockdown.scope, lockdown.position)),
            applied,
            lease_ends: None,
            horizon: 0,
            ended: HashMap::new(),
            elevated: HashMap::new(),
            roles: HashMap::new(),
            custom_changed: custom.iter().map(|role| (role.role.clone(), role.position)).collect(),
            custom: custom.into_iter().filter(|role| !role.retired).map(|role| (role.role, role.permissions)).collect(),
            keys: keys
                .into_iter()
                .map(|key| (ApiKeyId(key.key_id), (access::permissions(&key.permissions), key.expires_at)))
                .collect(),
            revoked_keys: HashSet::new(),
            ages: BTreeMap::new(),
        };
        // A full answer means that there may be more: what is older than the oldest row is not known here.
        let bound =
            |oldest: Option<i64>, rows: usize| if rows < MOST { 0 } else { oldest.map_or(0, i64::unsigned_abs) };
        inner.horizon = bound(ended.last().map(|row| row.position), ended.len())
            .max(bound(changed.last().map(|row| row.changed_position), changed.len()));
        for row in ended {
            inner.remember(row.position.unsigned_abs(), row.at, Subject::Session(SessionId(row.session_id)));
        }
        for row in changed {
            let (account, position) = (AccountId(row.account_id), row.changed_position.unsigned_abs());
            let roles = row.roles.iter().filter_map(|role| RoleName::parse(role).ok()).collect();
            inner.remember(position, row.changed_at, Subject::Account(account));
            inner.roles.entry(account).or_default().base = Some((position, roles));
        }
        for row in elevated {
            let released = row.released_position.map(i64::unsigned_abs);
            let elevation = Elevation { position: row.position.unsigned_abs(), until: row.until, released };
            inner.elevated.insert(SessionId(row.session_id), elevation);
            inner.ages.entry(elevation.position).or_insert((now, Subject::Elevation(SessionId(row.session_id))));
        }
        inner.trim(now - memory);
        Ok(Self { inner: RwLock::new(inner), policy, memory })
    }

    /// What an API key may do, if it is in use; `Unknown` where the database must be asked.
    #[must_use]
    pub fn judge_key(&self, key: ApiKeyId, now: DateTime<Utc>) -> KeyVerdict {
        let inner = self.read();
        if inner.revoked_keys.contains(&key) {
            return KeyVerdict::Ended;
        }
        if inner.lease_ends.is_none_or(|ends| Instant::now() >= ends) {
            return KeyVerdict::Unknown;
        }
        match inner.keys.get(&key) {
            Some((permissions, expires_at)) if now < *expires_at => {
                if keeps_out(inner.lockdown.0, *permissions) {
                    return KeyVerdict::LockedDown;
                }
                KeyVerdict::Current(*permissions, *expires_at)
            }
            Some(_) => KeyVerdict::Ended,
            // Its secret is authentic, so it was made somewhere, maybe a moment ago.
            None => KeyVerdict::Unknown,
        }
    }

    /// Judges a token that is otherwise valid.
    #[must_use]
    pub fn judge(&self, claim: Claim<'_>) -> Verdict {
        let inner = self.read();
        if inner.ended.contains_key(&claim.session) {
            // True however old the memory is: what has ended stays ended.
            return Verdict::Ended;
        }
        let holds_lease = inner.lease_ends.is_some_and(|ends| Instant::now() < ends);
        // A position beyond the log is of another history: the database was restored from before the token.
        if !holds_lease || claim.position < inner.horizon || claim.position >= inner.applied {
            return Verdict::Unknown;
        }
        let roles = inner.roles.get(&claim.account).map(|known| known.over(claim.roles, claim.position));
        let held: &mut dyn Iterator<Item = &RoleName> = match &roles {
            Some(roles) => &mut roles.iter(),
            None => &mut claim.roles.iter(),
        };
        let permissions = permissions_in(held, &inner.custom, &inner.policy, claim.second_factor);
        if keeps_out(inner.lockdown.0, permissions) {
            return Verdict::LockedDown;
        }
        Verdict::Current {
            permissions,
            elevated: inner.elevated.get(&claim.session).copied(),
            elevation: inner.policy.sessions.elevation,
            roles,
        }
    }

    /// What a lockdown closes; `Err` where the database must be asked.
    ///
    /// # Errors
    /// The gate cannot know.
    pub fn lockdown(&self) -> Result<Option<Scope>, Unknown> {
        let inner = self.read();
        let holds_lease = inner.lease_ends.is_some_and(|ends| Instant::now() < ends);
        if holds_lease { Ok(inner.lockdown.0) } else { Err(Unknown) }
    }

    /// Learns of events that were committed here, at once: before whoever asked for them is answered.
    pub fn observe(&self, events: &[impl AsRef<Recorded>]) {
        let mut inner = self.write();
        let mut last = None;
        for event in events {
            let recorded = event.as_ref();
            // Other nodes may have appended in between: then the follower fills the gap before the mark moves.
            if recorded.position == inner.applied {
                inner.applied += 1;
            }
            inner.apply(recorded);
            if let Event::Policy(PolicyEvent::Changed { after, .. }) = &recorded.event {
                self.policy.learn(after);
                inner.policy = self.policy.get();
            }
            last = Some(recorded.recorded_at);
        }
        if let Some(last) = last {
            inner.trim(last - self.memory);
        }
    }

    /// Every event below it is known here.
    #[must_use]
    pub fn applied(&self) -> u64 {
        self.read().applied
    }

    /// A renewal that began at `asked` was committed, the log was asked after that, and everything that it had is known
    /// here (`nodes`).
    pub fn renew_lease(&self, asked: Instant) {
        self.write().lease_ends = Some(asked + LEASE);
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
        self.read().lease_ends.is_some_and(|ends| Instant::now() < ends)
    }

    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.inner.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RoleChanges {
    /// The roles of a token that was issued at this position, and what has changed since.
    fn over(&self, roles: &[RoleName], position: u64) -> BTreeSet<RoleName> {
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

impl Inner {
    fn apply(&mut self, recorded: &Recorded) {
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
                        self.keys.retain(|_, (_, ends)| *ends > at);
                        self.keys.insert(key, (Permissions::of(permissions), *expires_at));
                    }
                    ApiKeyEvent::Created { .. } => {}
                    ApiKeyEvent::Revoked {} => {
                        self.keys.remove(&key);
                        self.remember(position, at, Subject::Key(key));
                    }
                }
            }
            Event::Session(_)
            | Event::Account(_)
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

    fn remember_role(&mut self, position: u64, at: DateTime<Utc>, account: AccountId, role: &RoleName, granted: bool) {
        self.remember(position, at, Subject::Account(account));
        let last = self.roles.entry(account).or_default().changes.entry(role.clone()).or_insert((position, granted));
        // Events may be told twice, and out of order when two nodes append at once.
        if position >= last.0 {
            *last = (position, granted);
        }
    }

    fn remember(&mut self, position: u64, at: DateTime<Utc>, subject: Subject) {
        match subject {
            Subject::Session(session) => {
                self.ended.entry(session).or_insert(Change { position });
            }
            Subject::Elevation(_) => {}
            Subject::Key(key) => {
                self.revoked_keys.insert(key);
            }
            Subject::Account(account) => {
                let changes = self.roles.entry(account).or_default();
                changes.latest = changes.latest.max(position);
            }
        }
        self.ages.insert(position, (at, subject));
    }

    fn trim(&mut self, before: DateTime<Utc>) {
        while let Some(oldest) = self.ages.first_entry() {
            let (position, (at, subject)) = (*oldest.key(), *oldest.get());
            let is_over = self.ages.len() > MOST;
            if at >= before && !is_over {
                return;
            }
            if is_over {
                self.horizon = self.horizon.max(position + 1);
            }
            self.ages.remove(&position);
            match subject {
                Subject::Session(session) => {
                    if self.ended.get(&session).is_some_and(|change| change.position <= position) {
                        self.ended.remove(&session);
                    }
                }
                Subject::Elevation(session) => {
                    if self.elevated.get(&session).is_some_and(|elevation| elevation.position <= position) {
                        self.elevated.remove(&session);
                    }
                }
                // It is in no list of keys: the database is asked.
                Subject::Key(key) => {
                    self.revoked_keys.remove(&key);
                }
                Subject::Account(account) => {
                    if self.roles.get(&account).is_some_and(|changes| changes.latest <= position) {
                        self.roles.remove(&account);
                    }
                }
            }
        }
    }
}

/// Reads what other nodes appended, at most `most` events; `true` when the log had nothing, at some time since the call,
/// that is not known here. It takes no lease.
///
/// # Errors
/// The feed's.
pub async fn catch_up(gate: &Gate, pool: &PgPool, most: u32) -> Result<(bool, u64), feed::FeedError> {
    let mut connection = pool.acquire().await?;
    let size = feed::size(&mut connection).await?;
    let applied = gate.applied();
    if applied < size {
        let events = feed::read(&mut connection, applied, most).await?;
        let events: Vec<Arc<Recorded>> = events.into_iter().map(Arc::new).collect();
        gate.observe(&events);
    }
    Ok((gate.applied() >= size, size))
}
