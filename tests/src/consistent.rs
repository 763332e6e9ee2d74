//! The agreement that must hold once nothing is under way any more, after any abort, kill or race: the log, the vault,
//! the tables that gate requests, the read models and each node's memory say the same.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use chrono::{DateTime, Utc};
use fulexo_commands::access_token::TokenGrant;
use fulexo_domain::Aggregate;
use fulexo_domain::account::{Account, AccountEvent, AccountState, PasswordChangeCause};
use fulexo_domain::api_key::ApiKeyEvent;
use fulexo_domain::audit::AuditTrailEvent;
use fulexo_domain::authentication::{
    AuthenticationEvent, Factor, FailureReason, LockScope, MAX_KNOWN_DEVICES, UnlockCause,
};
use fulexo_domain::event::{Event, RecordedEvent};
use fulexo_domain::lockdown::LockdownEvent;
use fulexo_domain::policy::PolicyEvent;
use fulexo_domain::role::{Role, RoleState};
use fulexo_domain::session::{Session, SessionState};
use fulexo_domain::values::{AccountId, RoleName, SessionId};
use fulexo_node::clock;
use fulexo_projections::feed::LogReader;
use fulexo_projections::replay::{ReadModelTable, ScratchTables, live_checksum};
use sqlx::{Connection, PgConnection, PgPool};
use uuid::Uuid;

use crate::client::Client;
use crate::cluster::Database;
use crate::looking::{eventually, superuser};
use crate::node::Node;
use crate::operator;

/// The number of sessions that are tried at each node, the youngest first.
const TRIED: usize = 60;

/// Panics if anything disagrees with the log. Nothing may be under way, and no test may have written past the service;
/// nothing may be older than the shortest window of a lockout.
pub async fn consistent(database: &Database, nodes: &[Node]) {
    consistent_after_kills(database, nodes, 0).await;
}

/// Does the same after processes were killed while at most `lost` attempts were counted and not recorded yet.
pub async fn consistent_after_kills(database: &Database, nodes: &[Node], lost: usize) {
    let pool = superuser(database).await;
    all_is_read(&pool, nodes).await;
    let log = Log::read(database).await;
    log.streams_agree(&pool).await;
    log.sessions_agree(&pool).await;
    log.accounts_agree(&pool).await;
    log.roles_agree(&pool).await;
    log.rules_agree(&pool).await;
    log.attempts_agree(&pool, lost).await;
    log.devices_agree(&pool).await;
    log.mails_agree(&pool).await;
    log.copies_agree(&pool).await;
    // Without a node nobody keeps them up to date.
    if !nodes.is_empty() {
        log.read_models_agree(database).await;
    }
    for node in nodes {
        log.is_what_a_node_believes(node).await;
    }
    pool.close().await;
}

/// Waits until every read model, and every node, has seen the end of the log.
async fn all_is_read(pool: &PgPool, nodes: &[Node]) {
    eventually("all of the log is read", async || {
        let statement = "select position from log.head union all select position from projection.checkpoint";
        let positions: Vec<i64> = sqlx::query_scalar(statement).fetch_all(pool).await.unwrap();
        let head = positions[0];
        (nodes.is_empty() || positions.iter().all(|position| *position == head))
            && nodes.iter().all(|node| node.app().gate.applied() == head.unsigned_abs())
    })
    .await;
}

/// The log, folded.
struct Log {
    events: Vec<RecordedEvent>,
    accounts: BTreeMap<Uuid, AccountState>,
    /// The sessions, in the order of their beginning.
    sessions: Vec<(Uuid, SessionState)>,
    roles: BTreeMap<String, RoleState>,
}

impl Log {
    async fn read(database: &Database) -> Self {
        let pool = database.pool().await;
        let size: i64 = sqlx::query_scalar("select position from log.head").fetch_one(&pool).await.unwrap();
        let mut replay = LogReader::over(&pool, 0..size.unsigned_abs());
        let mut events = Vec::new();
        while let Some(batch) = replay.next().await.unwrap() {
            events.extend(batch);
        }
        pool.close().await;
        Self::of(events)
    }

    fn of(events: Vec<RecordedEvent>) -> Self {
        let (mut accounts, mut roles) = (BTreeMap::<Uuid, AccountState>::new(), BTreeMap::new());
        let (mut sessions, mut places) = (Vec::new(), HashMap::new());
        for recorded in &events {
            let id = recorded.stream.id;
            match &recorded.event {
                Event::Account(event) => {
                    let state = accounts.entry(id).or_default();
                    *state = Account::apply_event(std::mem::take(state), event.clone());
                }
                Event::Session(event) => {
                    let place = *places.entry(id).or_insert(sessions.len());
                    if place == sessions.len() {
                        sessions.push((id, SessionState::None));
                    }
                    let state = std::mem::replace(&mut sessions[place].1, SessionState::None);
                    sessions[place].1 = Session::apply_event(state, event.clone());
                }
                Event::Role(event) => {
                    let name = match event {
                        fulexo_domain::role::RoleEvent::Defined { role, .. }
                        | fulexo_domain::role::RoleEvent::PermissionsChanged { role, .. }
                        | fulexo_domain::role::RoleEvent::Retired { role } => role.to_string(),
                    };
                    let state = roles.entry(name).or_insert(RoleState::None);
                    *state = Role::apply_event(*state, event.clone());
                }
                Event::Authentication(_)
                | Event::Policy(_)
                | Event::ApiKey(_)
                | Event::RateLimit(_)
                | Event::Lockdown(_)
                | Event::Checkpoint(_)
                | Event::Audit(_)
                | Event::Key(_)
                | Event::Backup(_)
                | Event::Incident(_) => {}
            }
        }
        Self { events, accounts, sessions, roles }
    }

    async fn streams_agree(&self, pool: &PgPool) {
        let mut versions: BTreeMap<(String, Uuid), i64> = BTreeMap::new();
        for event in &self.events {
            let stream = (event.stream.category.as_str().to_owned(), event.stream.id);
            *versions.entry(stream).or_default() += 1;
        }
        let rows: Vec<(String, Uuid, i64)> = all(pool, "select category, stream_id, version from log.stream").await;
        let known = rows.into_iter().map(|(category, id, version)| ((category, id), version)).collect();
        assert_eq!(versions, known, "log.stream");
    }

    fn live(&self) -> BTreeSet<(Uuid, Uuid)> {
        let live = self.sessions.iter().filter_map(|(id, state)| match state {
            SessionState::Live(live) => Some((*id, live.account.0)),
            SessionState::None | SessionState::Ended => None,
        });
        live.collect()
    }

    /// Panics unless exactly the live sessions have refresh tokens that work.
    async fn sessions_agree(&self, pool: &PgPool) {
        let rows = "select session_id, account_id from access.session where ended_at is null";
        assert_eq!(self.live(), all(pool, rows).await.into_iter().collect(), "access.session");
        let rows = "select session_id, account_id from vault.refresh_root";
        assert_eq!(self.live(), all(pool, rows).await.into_iter().collect(), "vault.refresh_root");
    }

    async fn accounts_agree(&self, pool: &PgPool) {
        let registered = || self.accounts.iter().filter(|(_, state)| state.registered);
        let ids = |wanted: &dyn Fn(&AccountState) -> bool| -> BTreeSet<Uuid> {
            registered().filter(|(_, state)| wanted(state)).map(|(id, _)| *id).collect()
        };
        for (statement, wanted) in [
            ("select subject_id from vault.subject_key", ids(&|_| true)),
            ("select subject_id from vault.subject_key where wrapped is not null", ids(&|state| !state.erased)),
            ("select account_id from vault.erasure", ids(&|state| state.erased)),
            (
                "select account_id from access.account where erasure_due is not null",
                ids(&|state| state.erasure_due.is_some()),
            ),
            ("select stream_id from log.unique_key where scope = 'email'", ids(&|state| !state.erased)),
            ("select account_id from vault.credential where kind = 'password'", ids(&|state| !state.erased)),
            ("select account_id from vault.credential where kind = 'totp'", ids(&|state| state.second_factor_enabled)),
            (
                "select account_id from vault.credential where kind = 'totp_pending'",
                ids(&|state| state.enrolment_pending),
            ),
        ] {
            let rows: Vec<(Uuid,)> = all(pool, statement).await;
            assert_eq!(rows.into_iter().map(|(id,)| id).collect::<BTreeSet<_>>(), wanted, "{statement}");
        }
        let codes: Vec<(Uuid, i64)> =
            all(pool, "select account_id, count(*) from vault.recovery_code group by account_id").await;
        let left = registered().filter(|(_, state)| state.recovery_codes > 0);
        let left = left.map(|(id, state)| (*id, i64::from(state.recovery_codes))).collect::<BTreeMap<_, _>>();
        assert_eq!(codes.into_iter().collect::<BTreeMap<_, _>>(), left, "vault.recovery_code");
        // The history holds all of them but the current one, as far as the policy keeps them.
        let mut changes: BTreeMap<Uuid, i64> = BTreeMap::new();
        for recorded in &self.events {
            if let Event::Account(AccountEvent::PasswordChanged { how }) = &recorded.event
                && *how != PasswordChangeCause::Rehash
            {
                *changes.entry(recorded.stream.id).or_default() += 1;
            }
        }
        let kept: Vec<(Uuid, i64)> =
            all(pool, "select account_id, count(*) from vault.password_history group by account_id").await;
        for (account, kept) in kept {
            assert!(kept <= changes.get(&account).copied().unwrap_or(0), "passwords of {account} nobody set");
        }
    }

    async fn roles_agree(&self, pool: &PgPool) {
        let held: BTreeSet<(Uuid, String)> = self
            .accounts
            .iter()
            .flat_map(|(id, state)| state.roles.iter().map(|role| (*id, role.to_string())))
            .collect();
        let rows = all(pool, "select account_id, role from access.role_grant").await;
        assert_eq!(held, rows.into_iter().collect(), "access.role_grant");
        let rows: Vec<(String, Vec<String>, bool)> =
            all(pool, "select role, permissions, retired from access.role").await;
        let known: BTreeMap<String, RoleState> = rows
            .into_iter()
            .map(|(role, permissions, retired)| {
                let parsed = permissions.iter().map(|name| fulexo_domain::permission::Permission::parse(name).unwrap());
                let permissions = fulexo_domain::permission::Permissions::of(&parsed.collect::<Vec<_>>());
                (role, if retired { RoleState::Retired } else { RoleState::Defined(permissions) })
            })
            .collect();
        assert_eq!(self.roles, known, "access.role");
        for (_, role) in held {
            assert_ne!(self.roles.get(&role), Some(&RoleState::Retired), "{role} is retired, and held");
        }
    }

    /// Panics if the policy, the lockdown or the API keys disagree with the log.
    async fn rules_agree(&self, pool: &PgPool) {
        let (mut policy, mut lockdown) = (None, None);
        let (mut keys, mut revoked) = (BTreeSet::new(), BTreeSet::new());
        for recorded in &self.events {
            match &recorded.event {
                Event::Policy(PolicyEvent::Changed { after, .. }) => policy = Some(after.as_ref().clone()),
                Event::Lockdown(LockdownEvent::Started { scope }) => lockdown = Some(scope.as_str().to_owned()),
                Event::Lockdown(LockdownEvent::Lifted {}) => lockdown = None,
                Event::ApiKey(ApiKeyEvent::Created { .. }) => {
                    keys.insert(recorded.stream.id);
                }
                Event::ApiKey(ApiKeyEvent::Revoked {}) => {
                    revoked.insert(recorded.stream.id);
                }
                Event::Account(_)
                | Event::Authentication(_)
                | Event::Session(_)
                | Event::Role(_)
                | Event::RateLimit(_)
                | Event::Checkpoint(_)
                | Event::Audit(_)
                | Event::Key(_)
                | Event::Backup(_)
                | Event::Incident(_) => {}
            }
        }
        let rows: Vec<(String,)> = all(pool, "select policy from access.policy").await;
        let known = rows.first().map(|(text,)| serde_json::from_str(text).unwrap());
        assert_eq!(policy, known, "access.policy");
        let rows: Vec<(Option<String>,)> = all(pool, "select scope from access.lockdown").await;
        assert_eq!(lockdown, rows.into_iter().next().and_then(|(scope,)| scope), "access.lockdown");
        let rows: Vec<(Uuid, bool)> = all(pool, "select key_id, revoked_at is not null from access.api_key").await;
        let known = rows.into_iter().collect::<BTreeSet<_>>();
        assert_eq!(
            keys.iter().map(|key| (*key, revoked.contains(key))).collect::<BTreeSet<_>>(),
            known,
            "access.api_key"
        );
    }

    /// Panics unless the holders of copies are those that the log names.
    async fn copies_agree(&self, pool: &PgPool) {
        let mut holders: BTreeMap<(String, Uuid), (i64, Option<i64>)> = BTreeMap::new();
        for recorded in &self.events {
            let Event::Audit(AuditTrailEvent::Exported { form, last, .. }) = &recorded.event else { continue };
            if form.is_of_others() {
                let holder = (recorded.actor.kind().to_owned(), recorded.actor.id().unwrap());
                let last = last.map(|last| i64::try_from(last).unwrap());
                let entry = holders.entry(holder).or_insert((0, last));
                // The one that goes on has no end.
                *entry = (entry.0 + 1, entry.1.zip(last).map(|(one, other)| one.max(other)));
            }
        }
        let rows: Vec<(String, Uuid, i64, Option<i64>)> =
            all(pool, "select kind, holder_id, copies, last_position from log.copy_holder").await;
        let known = rows.into_iter().map(|(kind, id, copies, last)| ((kind, id), (copies, last))).collect();
        assert_eq!(holders, known, "log.copy_holder");
    }

    /// Panics if a counted attempt is not recorded, or a lock was not announced. The tables may count less than the log
    /// records: a correct attempt at the same time cleared it.
    async fn attempts_agree(&self, pool: &PgPool, lost: usize) {
        let mut counters: BTreeMap<Counted, (i64, BTreeSet<DateTime<Utc>>)> = BTreeMap::new();
        for recorded in &self.events {
            let Event::Authentication(event) = &recorded.event else { continue };
            let account = recorded.stream.id;
            match event {
                AuthenticationEvent::Failed { factor, reason, device } => {
                    let is_counted = match reason {
                        FailureReason::UnknownAccount
                        | FailureReason::WrongPassword
                        | FailureReason::WrongCode
                        | FailureReason::Suspended => true,
                        FailureReason::Locked
                        | FailureReason::TooManyConcurrent
                        | FailureReason::ExpiredChallenge
                        | FailureReason::Lockdown => false,
                    };
                    if is_counted {
                        counters.entry(counted(account, *factor, device.as_ref())).or_default().0 += 1;
                        // It counts once more over all devices.
                        counters.entry(over_all(account, *factor)).or_default().0 += 1;
                    }
                }
                AuthenticationEvent::LockedOut { factor, until, device, scope, .. } => {
                    let counter = match scope {
                        Some(LockScope::Account) => over_all(account, *factor),
                        None => counted(account, *factor, device.as_ref()),
                    };
                    counters.entry(counter).or_default().1.insert(*until);
                }
                AuthenticationEvent::LockLifted { factor, by: UnlockCause::Admin | UnlockCause::Reset, .. } => {
                    for (_, counter) in
                        counters.iter_mut().filter(|((of, which, _), _)| *of == account && which == factor.as_str())
                    {
                        *counter = (0, BTreeSet::new());
                    }
                }
                AuthenticationEvent::LockLifted { by: UnlockCause::Expired, .. }
                | AuthenticationEvent::Succeeded { .. }
                | AuthenticationEvent::SecondFactorRequired { .. }
                | AuthenticationEvent::PasswordChangeRequired { .. }
                | AuthenticationEvent::Confirmed { .. }
                | AuthenticationEvent::PasswordResetRequested {}
                | AuthenticationEvent::PasswordResetRefused { .. }
                | AuthenticationEvent::NewDeviceSeen { .. }
                | AuthenticationEvent::DeviceForgotten { .. } => {}
            }
        }
        let mut recorded: BTreeMap<Group, (i64, BTreeSet<DateTime<Utc>>)> = BTreeMap::new();
        for ((account, factor, by_address), (count, until)) in counters {
            // Nobody can say which address a row belongs to.
            let group = recorded.entry((if by_address { Uuid::nil() } else { account }, factor)).or_default();
            group.0 += count;
            group.1.extend(until);
        }
        let rows: Vec<Row> =
            all(pool, "select account_id, factor, cardinality(recent)::bigint, locked_until from vault.attempt").await;
        let (mut counted, mut more) = (BTreeMap::<(Uuid, String), i64>::new(), 0);
        for (account, factor, count, until) in rows {
            let group = (account.unwrap_or_default(), factor);
            *counted.entry(group.clone()).or_default() += count;
            if let Some(until) = until {
                let announced = recorded.get(&group).is_some_and(|(_, untils)| untils.contains(&until));
                assert!(announced, "{group:?} is locked until {until}, and no event says so");
            }
        }
        for (group, count) in &counted {
            more += (count - recorded.get(group).map_or(0, |(count, _)| *count)).max(0);
        }
        // Each counts on its own counter, and over all devices.
        let lost = 2 * i64::try_from(lost).unwrap();
        assert!(
            more <= lost,
            "{more} attempts are counted and not recorded: counted {counted:?}, recorded {recorded:?}"
        );
    }

    /// Panics if the known devices of an account do not follow from the log, in the order of their last use; each by
    /// the session that began there last.
    async fn devices_agree(&self, pool: &PgPool) {
        let mut known: BTreeMap<Uuid, Vec<(&str, Uuid)>> = BTreeMap::new();
        for recorded in &self.events {
            let Some(account) = recorded.subject else { continue };
            let devices = known.entry(account).or_default();
            match &recorded.event {
                Event::Account(event) if event.forgets_devices() => devices.clear(),
                Event::Authentication(AuthenticationEvent::Succeeded { session, device, trusted_device, .. }) => {
                    let was_known = devices.iter().position(|(name, _)| device.as_deref() == Some(*name));
                    if let Some(name) = trusted_device {
                        devices.insert(0, (name.as_str(), session.0));
                    } else if let Some(index) = was_known {
                        let (name, _) = devices.remove(index);
                        devices.insert(0, (name, session.0));
                    }
                    devices.truncate(usize::try_from(MAX_KNOWN_DEVICES).unwrap());
                }
                Event::Authentication(AuthenticationEvent::DeviceForgotten { device }) => {
                    devices.retain(|(name, _)| name != device);
                }
                _ => {}
            }
        }
        let rows: Vec<(Uuid, Uuid)> =
            all(pool, "select account_id, last_session from vault.known_device order by account_id, used desc").await;
        let known: Vec<(Uuid, Uuid)> = known
            .into_iter()
            .flat_map(|(account, devices)| devices.into_iter().map(move |(_, session)| (account, session)))
            .collect();
        assert_eq!(rows, known, "vault.known_device");
    }

    /// Panics unless each event that is mailed about has a mail, up to the bound of its kind, and there is no other
    /// mail. About links requested to verify an address, the log knows nothing but the bound.
    async fn mails_agree(&self, pool: &PgPool) {
        let mut wanted: BTreeMap<(Uuid, &str), i64> = BTreeMap::new();
        let mut with_a_factor = BTreeSet::new();
        // What a command that was under way still wrote about them is deleted soon.
        let mut erased = BTreeSet::new();
        for recorded in &self.events {
            let Some(account) = recorded.subject.filter(|account| !erased.contains(account)) else { continue };
            let kind = match &recorded.event {
                Event::Account(AccountEvent::Erased { .. }) => {
                    wanted.retain(|(of, _), _| *of != account);
                    erased.insert(account);
                    continue;
                }
                Event::Account(AccountEvent::ErasureStarted { .. }) => "erasure_started",
                Event::Account(AccountEvent::PasswordChanged { how }) => match how {
                    PasswordChangeCause::Owner | PasswordChangeCause::Expired | PasswordChangeCause::Reset => {
                        "password_changed"
                    }
                    PasswordChangeCause::Reported => "intrusion_reported",
                    PasswordChangeCause::Rehash => continue,
                },
                Event::Account(AccountEvent::SecondFactorEnabled { .. }) => {
                    with_a_factor.insert(recorded.correlation);
                    "second_factor_enabled"
                }
                Event::Account(AccountEvent::SecondFactorDisabled { .. }) => "second_factor_disabled",
                Event::Account(AccountEvent::RecoveryCodesIssued { .. })
                    if !with_a_factor.contains(&recorded.correlation) =>
                {
                    "recovery_codes_issued"
                }
                Event::Authentication(AuthenticationEvent::PasswordResetRequested {}) => "password_reset",
                Event::Authentication(AuthenticationEvent::NewDeviceSeen { .. }) => "new_device",
                Event::Authentication(AuthenticationEvent::LockedOut { .. }) => "locked_out",
                _ => continue,
            };
            *wanted.entry((account, kind)).or_default() += 1;
        }
        let rows: Vec<(Uuid, String, i64)> =
            all(pool, "select account_id, kind, count(*) from vault.mail group by account_id, kind").await;
        let verifications = rows.iter().filter(|(_, kind, _)| kind == "email_verification");
        for (account, _, count) in verifications {
            assert!(*count <= most("email_verification"), "{count} links to verify the address of {account}");
        }
        let mails: BTreeMap<(Uuid, &str), i64> = rows
            .iter()
            .filter(|(account, kind, _)| kind != "email_verification" && !erased.contains(account))
            .map(|(account, kind, count)| ((*account, kind.as_str()), *count))
            .collect();
        // If no mail is sent at all, there is none.
        if !rows.is_empty() {
            let wanted = wanted.into_iter().map(|((account, kind), count)| ((account, kind), count.min(most(kind))));
            assert_eq!(mails, wanted.collect(), "vault.mail");
        }
    }

    /// Panics if the tables that `fulexo replay` compares disagree.
    async fn read_models_agree(&self, database: &Database) {
        let mut replayed = ScratchTables::create(PgConnection::connect(&database.url()).await.unwrap()).await.unwrap();
        replayed.apply(&self.events).await.unwrap();
        let mut live = PgConnection::connect(&database.url()).await.unwrap();
        let last = i64::try_from(self.events.len()).unwrap() - 1;
        for table in ReadModelTable::ALL {
            let (by_replay, by_ranges) =
                (replayed.checksum(table, last).await.unwrap(), live_checksum(&mut live, table, last).await.unwrap());
            assert_eq!(by_replay, by_ranges, "read.{}", table.as_str());
        }
    }

    /// Panics if a node judges a token otherwise than the log judges its session, or gives its holder other roles than
    /// the log says.
    async fn is_what_a_node_believes(&self, node: &Node) {
        let live = self.live();
        let closed = self.events.iter().rev().find_map(|recorded| match &recorded.event {
            Event::Lockdown(event) => Some(matches!(event, LockdownEvent::Started { .. })),
            _ => None,
        });
        for (session, state) in self.sessions.iter().rev().take(TRIED) {
            if *state == SessionState::None {
                continue;
            }
            let account = self.owner(*session);
            let is_live = live.contains(&(*session, account));
            let roles = self.accounts.get(&account).map(|state| &state.roles);
            let grant = TokenGrant {
                account: AccountId(account),
                session: SessionId(*session),
                authenticated_at: clock::now(),
                methods: vec![fulexo_domain::authentication::AuthenticationMethod::Password],
                step_up_required: false,
                roles: roles.into_iter().flatten().cloned().collect::<Vec<RoleName>>(),
                position: self.events.len() as u64 - 1,
                epoch: node.app().gate.epoch(),
                expires_at: clock::now() + chrono::TimeDelta::hours(1),
            };
            let token = node.app().commands.keys().sign(grant, operator().new_id(), clock::now()).unwrap();
            let client = Client { access_token: Some(token), ..node.anonymous() };
            let answer = client.get("/v1/auth/session").await;
            if closed == Some(true) && answer.code() == "locked_down" {
                continue;
            }
            assert_eq!(answer.status, if is_live { 200 } else { 401 }, "{session} at {}: {answer:?}", node.url);
            if is_live {
                let named: BTreeSet<&str> =
                    answer.json["roles"].as_array().unwrap().iter().filter_map(serde_json::Value::as_str).collect();
                let held = roles.into_iter().flatten().map(RoleName::as_str).collect::<BTreeSet<_>>();
                assert_eq!(named, held, "roles in {session} at {}", node.url);
            }
        }
    }

    fn owner(&self, session: Uuid) -> Uuid {
        let started = self.events.iter().find(|recorded| recorded.stream.id == session);
        started.and_then(|recorded| recorded.subject).unwrap_or_default()
    }
}

/// Returns the key of the counter over all devices, known or not.
fn over_all(account: Uuid, factor: Factor) -> Counted {
    (account, factor.as_str().to_owned(), false)
}

/// Account and factor.
type Group = (Uuid, String);
/// A row of `vault.attempt`: account, factor, attempts of this window, end of the lock.
type Row = (Option<Uuid>, String, i64, Option<DateTime<Utc>>);
/// Account, factor, and whether it is counted by the address.
type Counted = (Uuid, String, bool);

fn counted(account: Uuid, factor: Factor, device: Option<&String>) -> Counted {
    (account, factor.as_str().to_owned(), factor == Factor::Password && device.is_none())
}

/// Returns the most mails of a kind in an hour, as SECURITY.md says.
fn most(kind: &str) -> i64 {
    match kind {
        "locked_out" => 1,
        "password_reset" | "email_verification" => 3,
        "new_device" => 10,
        _ => 30,
    }
}

async fn all<T>(pool: &PgPool, statement: &'static str) -> Vec<T>
where
    T: for<'r> sqlx::FromRow<'r, sqlx::postgres::PgRow> + Send + Unpin,
{
    sqlx::query_as(statement).fetch_all(pool).await.unwrap()
}
