//! Memory and tables judge alike: random histories of granted and revoked access, told to gates in any order and more
//! than once, and written to the tables in theirs; all of them judge every token that was issued on the way the same.

use std::sync::Arc;

use chrono::TimeDelta;
use fulexo_commands::log::{AppendOutcome, AppendRequest, EventLog, ExpectedVersion, LogHooks};
use fulexo_domain::account::{AccountEvent, Initiator};
use fulexo_domain::api_key::ApiKeyEvent;
use fulexo_domain::authentication::AuthenticationMethod;
use fulexo_domain::event::{Actor, Event, RecordedEvent};
use fulexo_domain::permission::{CustomRoles, Permission};
use fulexo_domain::policy::{ActivePolicy, Policy};
use fulexo_domain::session::{RevocationCause, SessionEvent};
use fulexo_domain::values::{AccountId, ApiKeyId, ApiKeyName, RoleName, SessionId};
use fulexo_node::clock;
use fulexo_projections::access;
use fulexo_projections::gate::{ApiKeyVerdict, Gate, SessionVerdict, TokenClaims, session_permissions};
use fulexo_tests::{Database, Dice, draft, operator};
use sqlx::PgPool;
use tokio::sync::oneshot;
use uuid::Uuid;

use crate::gate::far_off;

/// The content of a token.
#[derive(Debug, Clone)]
struct Token {
    account: AccountId,
    session: SessionId,
    position: u64,
    roles: Vec<RoleName>,
    second_factor: bool,
}

struct World {
    dice: Dice,
    pool: PgPool,
    log: EventLog,
    accounts: Vec<Uuid>,
    sessions: Vec<(Uuid, Uuid)>,
    keys: Vec<Uuid>,
    tokens: Vec<Token>,
    events: Vec<Arc<RecordedEvent>>,
}

impl World {
    fn account(&mut self) -> Uuid {
        let index = self.dice.index(self.accounts.len());
        *self.accounts.get(index).unwrap()
    }

    /// Returns any session, of that account if it has one.
    fn session_of(&mut self, account: Uuid) -> Option<SessionId> {
        let own: Vec<Uuid> =
            self.sessions.iter().filter(|(_, of)| *of == account).map(|(session, _)| *session).collect();
        (!own.is_empty()).then(|| SessionId(self.dice.pick(&own)))
    }

    /// Records only what commands would record: a session is kept, or elevated, if it is valid, and begins if the
    /// account is in use.
    async fn happen(&mut self) {
        let account = self.account();
        let session = self.session_of(account);
        let good = match session {
            Some(session) => access::session_access(&self.pool, AccountId(account), session).await.unwrap().is_live,
            None => false,
        };
        let suspended: bool = sqlx::query_scalar("select suspended from access.account where account_id = $1")
            .bind(account)
            .fetch_one(&self.pool)
            .await
            .unwrap();
        let role = RoleName::parse(self.dice.pick(&["auditor", "admin", "support"])).unwrap();
        let methods = match self.dice.roll(3) {
            0 => vec![AuthenticationMethod::Password],
            _ => vec![AuthenticationMethod::Password, AuthenticationMethod::OneTime],
        };
        let kept = session.filter(|_| good && self.dice.roll(2) == 0);
        let at = clock::now();
        let event: (Uuid, Event) = match self.dice.roll(13) {
            0..4 if !suspended => {
                let session = operator().new_id();
                self.sessions.push((session, account));
                let started = SessionEvent::Started {
                    account: AccountId(account),
                    methods,
                    fingerprint: "x".to_owned(),
                    idle_expires_at: at + TimeDelta::days(1),
                    expires_at: at + TimeDelta::days(2),
                };
                (session, started.into())
            }
            4 if good => (session.unwrap().0, SessionEvent::Revoked { by: RevocationCause::Owner }.into()),
            5 if good => {
                let until = at + TimeDelta::minutes(10);
                (session.unwrap().0, SessionEvent::Elevated { methods, until, restored: false }.into())
            }
            6 => (account, AccountEvent::SessionsRevoked { by: RevocationCause::Owner, except_session: kept }.into()),
            7 if suspended => (account, AccountEvent::Reinstated {}.into()),
            7 => (account, AccountEvent::Suspended {}.into()),
            8 => (account, AccountEvent::SecondFactorEnabled { session: kept }.into()),
            9 => (account, AccountEvent::SecondFactorDisabled { by: Initiator::Owner }.into()),
            10 => (account, AccountEvent::RoleGranted { role }.into()),
            11 => (account, AccountEvent::RoleRevoked { role }.into()),
            12 if !suspended => {
                let key = operator().new_id();
                self.keys.push(key);
                let created = ApiKeyEvent::Created {
                    name: ApiKeyName::parse("gateway").unwrap(),
                    permissions: vec![Permission::AuditRead],
                    expires_at: at + TimeDelta::days(1),
                };
                (key, created.into())
            }
            _ => (operator().new_id(), SessionEvent::Expired {}.into()),
        };
        self.record(event, account).await;
        self.issue().await;
    }

    async fn record(&mut self, (stream, event): (Uuid, Event), account: Uuid) {
        let mut draft = draft(event, stream);
        draft.actor = Actor::Account { id: account };
        let (mut request, stream) = (AppendRequest::default(), draft.stream);
        let prepared = draft.encode().unwrap();
        request.events.push(prepared.clone());
        request.expected.push((stream, ExpectedVersion::Any));
        let AppendOutcome::New(receipt) = self.log.append(request).await.unwrap() else { panic!("not new") };
        let recorded = prepared.recorded_event(receipt.position.unwrap(), clock::now(), 1);
        self.events.push(Arc::new(recorded));
    }

    /// Issues a token for every valid session, as a refresh would.
    async fn issue(&mut self) {
        let rows: Vec<(Uuid, Uuid, bool, Vec<String>)> = sqlx::query_as(
            "select session_id, account_id, second_factor,
                    array(select role from access.role_grant g where g.account_id = s.account_id)
             from access.live_session s",
        )
        .fetch_all(&self.pool)
        .await
        .unwrap();
        let position = self.events.last().unwrap().position;
        for (session, account, second_factor, roles) in rows {
            if self.dice.roll(6) == 0 {
                let roles = roles.iter().map(|role| RoleName::parse(role).unwrap()).collect();
                let (account, session) = (AccountId(account), SessionId(session));
                self.tokens.push(Token { account, session, position, roles, second_factor });
            }
        }
    }

    /// Tells a gate of the last events, in any order, some twice, and then as the follower does.
    fn tell(&mut self, gate: &Gate, last: usize) {
        let from = self.events.len().saturating_sub(last);
        let mut told: Vec<Arc<RecordedEvent>> = self.events.iter().skip(from).cloned().collect();
        for _ in 0..last {
            let index = self.dice.index(self.events.len());
            told.push(Arc::clone(self.events.get(index).unwrap()));
        }
        for index in (1..told.len()).rev() {
            let other = self.dice.index(index + 1);
            told.swap(index, other);
        }
        // A gate that began later is not told of earlier events.
        let known = gate.applied();
        told.retain(|event| event.position >= known.saturating_sub(1));
        for event in told {
            gate.observe(&[event]);
        }
        let rest: Vec<_> = self.events.iter().filter(|event| event.position >= gate.applied()).cloned().collect();
        gate.observe(&rest);
        gate.renew_lease(far_off());
    }

    async fn compare(&self, gate: &Gate, seed: u64) {
        let policy = Policy::default();
        for token in &self.tokens {
            let standing = access::session_access(&self.pool, token.account, token.session).await.unwrap();
            let verdict = gate.judge(TokenClaims {
                account: token.account,
                session: token.session,
                position: token.position,
                epoch: gate.epoch(),
                roles: &token.roles,
                second_factor: token.second_factor,
            });
            let by_tables = standing.is_live.then(|| {
                let counts = token.second_factor && standing.second_factor.is_valid_for(token.session, token.position);
                let permissions = session_permissions(&standing.roles, &CustomRoles::new(), &policy, counts);
                let elevated =
                    standing.second_factor.session_elevation(token.session, counts, standing.step_up, &policy.sessions);
                (standing.roles.clone(), permissions, counts, elevated)
            });
            let by_memory = match verdict {
                SessionVerdict::Current { roles, permissions, second_factor, elevated } => {
                    let roles = roles.unwrap_or_else(|| token.roles.iter().cloned().collect());
                    Some((roles, permissions, second_factor, elevated))
                }
                SessionVerdict::Ended => None,
                verdict => panic!("seed {seed}: {verdict:?}"),
            };
            assert_eq!(by_memory, by_tables, "seed {seed}: {token:?}");
        }
        let now = clock::now();
        for key in self.keys.iter().map(|key| ApiKeyId(*key)) {
            let standing = access::api_key_access(&self.pool, key, now).await.unwrap().unwrap();
            let verdict = gate.judge_api_key(key, now);
            assert_eq!(
                matches!(verdict, ApiKeyVerdict::Ended),
                standing.creator_suspended,
                "seed {seed}: {key:?} {verdict:?}"
            );
        }
    }
}

async fn gate(pool: &PgPool) -> Gate {
    Gate::open(pool, TimeDelta::hours(1), Arc::new(ActivePolicy::new(Policy::default())), operator().now).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_and_tables_judge_every_token_of_a_random_history_alike() {
    let database = Database::create().await;
    let pool = database.pool().await;
    let hooks =
        LogHooks { gate: access::apply, gates: access::concerns, on_commit: Arc::new(|_| {}), clock: clock::now };
    let (log, sequencer) = EventLog::new(pool.clone(), hooks);
    let (_stop, stopped) = oneshot::channel();
    tokio::spawn(sequencer.run(stopped));
    let (mut events, mut judged) = (Vec::new(), 0);
    for seed in 0..4 {
        let mut world = World {
            dice: Dice(seed),
            pool: pool.clone(),
            log: log.clone(),
            accounts: Vec::new(),
            sessions: Vec::new(),
            keys: Vec::new(),
            tokens: Vec::new(),
            events: std::mem::take(&mut events),
        };
        let from_the_start = gate(&pool).await;
        let mut gates = vec![from_the_start];
        for _ in 0..3 {
            let account = operator().new_id();
            world.accounts.push(account);
            world.record((account, AccountEvent::Registered {}.into()), account).await;
        }
        for step in 0..120 {
            world.happen().await;
            if step % 20 == 13 {
                for gate in &gates {
                    world.tell(gate, 25);
                    world.compare(gate, seed).await;
                }
                gates.push(gate(&pool).await);
                world.tell(gates.last().unwrap(), 1);
                world.compare(gates.last().unwrap(), seed).await;
            }
        }
        judged += world.tokens.len();
        sqlx::query("delete from access.session").execute(&pool).await.unwrap();
        events = world.events;
    }
    assert!(judged > 200, "{judged}");
}
