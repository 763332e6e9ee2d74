//! A log of years in seconds: mixed events of many accounts, written past the append function. The same in every run,
//! and true to how streams interleave; the vault and the gate's tables hold nothing of it.

use chrono::{DateTime, TimeDelta, Utc};
use fulexo_domain::account::{AccountEvent, Initiator};
use fulexo_domain::authentication::{AuthenticationEvent, AuthenticationMethod, Factor, FailureReason};
use fulexo_domain::event::{Actor, Category, Event, SealedDigest, Stream};
use fulexo_domain::leaf::{self, EventDraft};
use fulexo_domain::sealed_field::SealedField;
use fulexo_domain::session::{RevocationCause, SessionEvent};
use fulexo_domain::values::{AccountId, RoleName, SessionId};
use sqlx::{Connection, PgConnection};
use uuid::{Builder, Uuid};

use crate::cluster::Database;
use crate::dice::Dice;

/// Rows in one statement.
const BATCH: usize = 10_000;

/// Writes this many events at the end of the log: about one in twenty registers an account; the rest are logins that
/// succeed and fail, sessions that are refreshed, end or expire, and roles, factors, locks and suspensions that come
/// and go.
pub async fn fill(database: &Database, events: usize) {
    let mut connection = PgConnection::connect(&database.superuser_url()).await.unwrap();
    sqlx::query("alter table log.event_0 disable trigger append_only").execute(&mut connection).await.unwrap();
    let position: i64 = sqlx::query_scalar("select position from log.head").fetch_one(&mut connection).await.unwrap();
    let mut history = History::new(events, position.unsigned_abs());
    let mut written = 0;
    while written < events {
        let rows = history.next((events - written).min(BATCH));
        let head = position + i64::try_from(written).unwrap();
        written += rows.leaves.len();
        sqlx::query(
            "insert into log.event_0
             select $1 + u.n - 1, u.stream_id, u.category, u.version, u.leaf, u.leaf_hash
             from unnest($2::uuid[], $3::text[], $4::bigint[], $5::bytea[], $6::bytea[])
                 with ordinality u (stream_id, category, version, leaf, leaf_hash, n)",
        )
        .bind(head)
        .bind(rows.streams)
        .bind(rows.categories)
        .bind(rows.versions)
        .bind(rows.leaves)
        .bind(rows.hashes)
        .execute(&mut connection)
        .await
        .unwrap();
    }
    for statement in [
        "alter table log.event_0 enable always trigger append_only",
        "update log.head set position = (select max(position) + 1 from log.event), recorded_at = now()",
        // Autovacuum does this in a log that grew over years.
        "analyze log.event_0",
    ] {
        sqlx::query(statement).execute(&mut connection).await.unwrap();
    }
}

#[derive(Default)]
struct Rows {
    streams: Vec<Uuid>,
    categories: Vec<&'static str>,
    versions: Vec<i64>,
    leaves: Vec<Vec<u8>>,
    hashes: Vec<Vec<u8>>,
}

struct Account {
    id: Uuid,
    version: u64,
    attempts: u64,
    has_role: bool,
    is_suspended: bool,
    has_factor: bool,
}

struct Live {
    id: Uuid,
    account: Uuid,
    version: u64,
    generation: u32,
    /// The time that it lasts unused, and its end.
    idle: TimeDelta,
    idle_expires_at: DateTime<Utc>,
}

struct History {
    dice: Dice,
    now: DateTime<Utc>,
    accounts: Vec<Account>,
    /// The number of accounts that register in all.
    population: usize,
    sessions: Vec<Live>,
    ready: Vec<(Stream, u64, Event)>,
}

impl History {
    fn new(events: usize, seed: u64) -> Self {
        Self {
            dice: Dice(seed),
            now: DateTime::UNIX_EPOCH + TimeDelta::days(20_000),
            accounts: Vec::new(),
            population: (events / 40).max(1),
            sessions: Vec::new(),
            ready: Vec::new(),
        }
    }

    fn next(&mut self, most: usize) -> Rows {
        let mut rows = Rows::default();
        while rows.leaves.len() < most {
            while self.ready.is_empty() {
                self.now += TimeDelta::milliseconds(700);
                self.happen();
                self.ready.reverse();
            }
            let (stream, version, event) = self.ready.pop().unwrap();
            let leaf = self.leaf(stream, version, event);
            rows.streams.push(stream.id);
            rows.categories.push(stream.category.as_str());
            rows.versions.push(i64::try_from(version).unwrap());
            rows.hashes.push(leaf::hash(&leaf).to_vec());
            rows.leaves.push(leaf);
        }
        rows
    }

    /// Returns an id as ids are made: the time, then chance.
    fn id(&mut self) -> Uuid {
        let mut random = [0; 10];
        random[..8].copy_from_slice(&self.dice.roll(u64::MAX).to_le_bytes());
        let millis = u64::try_from(self.now.timestamp_millis()).unwrap();
        Builder::from_unix_timestamp_millis(millis, &random).into_uuid()
    }

    fn happen(&mut self) {
        let roll = self.dice.roll(100);
        if self.accounts.is_empty() || (roll < 5 && self.accounts.len() < self.population) {
            return self.register();
        }
        let account = self.dice.index(self.accounts.len());
        match roll {
            0..20 => self.fail(account),
            20..45 => self.log_in(account),
            45..47 => self.change_role(account),
            47 => match self.dice.roll(4) {
                0 => self.suspend_or_reinstate(account),
                1 => self.change_factor(account),
                2 => self.lock(account),
                _ => self.sign_out(account),
            },
            _ if self.sessions.is_empty() => self.log_in(account),
            48..85 => self.refresh(),
            _ => self.end(),
        }
    }

    fn push(&mut self, category: Category, id: Uuid, version: u64, event: impl Into<Event>) {
        self.ready.push((Stream { category, id }, version, event.into()));
    }

    fn register(&mut self) {
        let id = self.id();
        self.accounts.push(Account {
            id,
            version: 2,
            attempts: 0,
            has_role: false,
            is_suspended: false,
            has_factor: false,
        });
        self.push(Category::Account, id, 1, AccountEvent::Registered {});
        let role = RoleName::parse("customer").unwrap();
        self.push(Category::Account, id, 2, AccountEvent::RoleGranted { role });
    }

    fn attempted(&mut self, account: usize) -> (Uuid, u64) {
        let account = self.accounts.get_mut(account).unwrap();
        account.attempts += 1;
        (account.id, account.attempts)
    }

    fn fail(&mut self, account: usize) {
        let (id, version) = self.attempted(account);
        let failed = AuthenticationEvent::Failed {
            factor: Factor::Password,
            reason: FailureReason::WrongPassword,
            device: None,
        };
        self.push(Category::Authentication, id, version, failed);
    }

    fn log_in(&mut self, account: usize) {
        let (id, version) = self.attempted(account);
        let session = self.id();
        let methods = vec![AuthenticationMethod::Password];
        // One in four is at a desk that many use.
        let idle = if self.dice.roll(4) == 0 { TimeDelta::minutes(15) } else { TimeDelta::days(7) };
        let idle_expires_at = self.now + idle;
        let succeeded = AuthenticationEvent::Succeeded {
            methods: methods.clone(),
            session: SessionId(session),
            device: None,
            trusted_device: None,
        };
        self.push(Category::Authentication, id, version, succeeded);
        let started = SessionEvent::Started {
            account: AccountId(id),
            methods,
            fingerprint: "HfC2gwCPAjzSjvIyXPz2KmoM9a6Lb8fVvBtLDsRwRFo".into(),
            idle_expires_at,
            expires_at: self.now + TimeDelta::days(30),
        };
        self.push(Category::Session, session, 1, started);
        self.sessions.push(Live { id: session, account: id, version: 1, generation: 1, idle, idle_expires_at });
    }

    fn refresh(&mut self) {
        let (index, now) = (self.dice.index(self.sessions.len()), self.now);
        let live = self.sessions.get_mut(index).unwrap();
        if live.idle_expires_at <= now {
            // It expired, and no event says so.
            self.sessions.swap_remove(index);
            return;
        }
        live.idle_expires_at = now + live.idle;
        live.version += 1;
        live.generation += 1;
        let (id, version, generation, idle_expires_at) = (live.id, live.version, live.generation, live.idle_expires_at);
        let refreshed =
            SessionEvent::Refreshed { generation, grace_until: now + TimeDelta::seconds(10), idle_expires_at };
        self.push(Category::Session, id, version, refreshed);
    }

    fn end(&mut self) {
        let index = self.dice.index(self.sessions.len());
        let live = self.sessions.swap_remove(index);
        self.push(Category::Session, live.id, live.version + 1, SessionEvent::Revoked { by: RevocationCause::Owner });
    }

    fn suspend_or_reinstate(&mut self, account: usize) {
        let account = self.accounts.get_mut(account).unwrap();
        account.version += 1;
        account.is_suspended = !account.is_suspended;
        let event = if account.is_suspended { AccountEvent::Suspended {} } else { AccountEvent::Reinstated {} };
        let (id, version) = (account.id, account.version);
        self.push(Category::Account, id, version, event);
    }

    fn change_factor(&mut self, account: usize) {
        let account = self.accounts.get_mut(account).unwrap();
        account.version += 1;
        account.has_factor = !account.has_factor;
        let event = if account.has_factor {
            AccountEvent::SecondFactorEnabled { session: None }
        } else {
            AccountEvent::SecondFactorDisabled { by: Initiator::Owner }
        };
        let (id, version) = (account.id, account.version);
        self.push(Category::Account, id, version, event);
    }

    fn lock(&mut self, account: usize) {
        let (id, version) = self.attempted(account);
        let until = self.now + TimeDelta::minutes(15);
        let (factor, device, scope) = (Factor::Password, None, None);
        let locked = AuthenticationEvent::LockedOut { factor, failures: 5, nth: 1, until, device, scope };
        self.push(Category::Authentication, id, version, locked);
    }

    fn change_role(&mut self, account: usize) {
        let role = RoleName::parse("support").unwrap();
        let account = self.accounts.get_mut(account).unwrap();
        account.version += 1;
        let event =
            if account.has_role { AccountEvent::RoleRevoked { role } } else { AccountEvent::RoleGranted { role } };
        account.has_role = !account.has_role;
        let (id, version) = (account.id, account.version);
        self.push(Category::Account, id, version, event);
    }

    /// Ends all sessions of an account, or all but one. The end of each is recorded except for the first: a recorder
    /// that lags.
    fn sign_out(&mut self, account: usize) {
        let account = self.accounts.get_mut(account).unwrap();
        account.version += 1;
        let (id, version) = (account.id, account.version);
        let kept = self.sessions.iter().find(|live| live.account == id).map(|live| live.id);
        let kept = kept.filter(|_| version % 2 == 0);
        let by = RevocationCause::PasswordChange;
        self.push(
            Category::Account,
            id,
            version,
            AccountEvent::SessionsRevoked { by, except_session: kept.map(SessionId) },
        );
        let over: Vec<Live> =
            self.sessions.extract_if(.., |live| live.account == id && Some(live.id) != kept).collect();
        for live in over.into_iter().skip(1) {
            self.push(Category::Session, live.id, live.version + 1, SessionEvent::Revoked { by });
        }
    }

    fn leaf(&mut self, stream: Stream, version: u64, event: Event) -> Vec<u8> {
        let id = self.id();
        let draft = EventDraft {
            id,
            stream,
            subject: Some(stream.id),
            actor: Actor::Anonymous,
            correlation: id,
            causation: None,
            policy_version: 1,
            event,
            sealed: vec![SealedDigest {
                commitment: "HfC2gwCPAjzSjvIyXPz2KmoM9a6Lb8fVvBtLDsRwRFo".into(),
                digest: "47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU".into(),
                fields: vec![SealedField::Ip, SealedField::UserAgent],
            }],
        };
        draft.encode().unwrap().leaf(self.now, version)
    }
}
