//! The resident memory of a node, `fulexo serve` in its own process, with 100,000 live sessions and requests from them.
//! `BENCH_SESSIONS` sets their number.

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use fulexo_commands::access_token::{KeyRing, SigningKey, TokenGrant, TokenSettings};
use fulexo_commands::log::{AppendRequest, EventLog, ExpectedVersion, LogHooks};
use fulexo_domain::authentication::AuthenticationMethod;
use fulexo_domain::event::{Actor, Category, Stream};
use fulexo_domain::leaf::EventDraft;
use fulexo_domain::session::SessionEvent;
use fulexo_domain::values::{AccountId, SessionId};
use fulexo_node::clock;
use fulexo_projections::access;
use fulexo_tests::{Database, Program, operator, superuser};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use uuid::Uuid;

use crate::{load, table};

/// The most memory, in MiB.
const WANTED: f64 = 96.0;
/// The number of sessions begun in one append.
const AT_ONCE: usize = 100;
/// The number of sessions that make requests: more than the node remembers tokens.
const ACTIVE: usize = 20_000;
const ROUND: Duration = Duration::from_secs(10);

pub fn run(runtime: &Runtime) {
    let wanted = std::env::var("BENCH_SESSIONS").ok().and_then(|text| text.parse().ok()).unwrap_or(100_000);
    build();
    let (program, url, requests) = runtime.block_on(async {
        let database = Arc::new(Database::create().await);
        let sessions = begin(&database, wanted).await;
        let requests = requests(&database, &sessions[..sessions.len().min(ACTIVE)]).await;
        let mut env = database.env();
        env.insert("FULEXO_PORT".into(), "0".into());
        let mut program = Program::start(&["serve"], &env);
        let url = program.says("listening on ");
        (program, url, requests)
    });
    let idle = resident(program.pid());
    let round = runtime.block_on(load::drive(&url, 64, ROUND, requests, 200));
    let busy = resident(program.pid());
    println!("resident memory of a node with {} live sessions, MiB", table::number(wanted as f64));
    let line = |when: &str, resident: f64| {
        let verdict = if resident <= WANTED { "" } else { ": SHORT" };
        println!("  {when:<28} {:>16}   wanted: under {WANTED}{verdict}", table::number(resident));
    };
    line("after its start", idle);
    line(&format!("after {:>8} requests/s", table::number(round.rate)), busy);
}

/// Builds the program, in the profile of this bench.
pub fn build() {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--locked", "--quiet", "--package", "fulexo-api"]);
    if !cfg!(debug_assertions) {
        cargo.arg("--release");
    }
    assert!(cargo.status().expect("cargo").success(), "the program does not build");
}

/// Begins sessions of as many accounts.
async fn begin(database: &Database, wanted: usize) -> Vec<(AccountId, SessionId)> {
    let pool = database.pool().await;
    let hooks =
        LogHooks { gate: access::apply, gates: access::concerns, on_commit: Arc::new(|_| {}), clock: clock::now };
    let (log, sequencer) = EventLog::new(pool.clone(), hooks);
    let (stop, stopped) = oneshot::channel();
    let sequencer = tokio::spawn(sequencer.run(stopped));
    let mut sessions = Vec::with_capacity(wanted);
    while sessions.len() < wanted {
        let more = AT_ONCE.min(wanted - sessions.len());
        let begun: Vec<_> =
            (0..more).map(|_| (AccountId(operator().new_id()), SessionId(operator().new_id()))).collect();
        log.append(starts(&begun)).await.unwrap();
        sessions.extend(begun);
    }
    let _ = stop.send(());
    sequencer.await.unwrap();
    pool.close().await;
    sessions
}

fn starts(sessions: &[(AccountId, SessionId)]) -> AppendRequest {
    let mut request = AppendRequest::default();
    for (account, session) in sessions {
        let stream = Stream { category: Category::Session, id: session.0 };
        let draft = EventDraft {
            id: operator().new_id(),
            stream,
            subject: Some(account.0),
            actor: Actor::Account { id: account.0 },
            correlation: Uuid::nil(),
            causation: None,
            policy_version: 1,
            event: SessionEvent::Started {
                account: *account,
                methods: vec![AuthenticationMethod::Password],
                fingerprint: "47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU".into(),
                idle_expires_at: clock::now() + TimeDelta::days(7),
                expires_at: clock::now() + TimeDelta::days(30),
            }
            .into(),
            sealed: Vec::new(),
        };
        request.events.push(draft.encode().expect("it fits"));
        request.expected.push((stream, ExpectedVersion::New));
    }
    request
}

/// Returns a request for the current session from each of these sessions, with its own token.
async fn requests(database: &Database, sessions: &[(AccountId, SessionId)]) -> Vec<Vec<u8>> {
    let epoch: Uuid =
        sqlx::query_scalar("select epoch from log.head").fetch_one(&superuser(database).await).await.unwrap();
    let key = SigningKey::hs256(&database.env()["JWT_SECRET"]).unwrap();
    let (issuer, audience) = ("https://api.fulexo.com".to_owned(), "fulexo".to_owned());
    let keys = KeyRing::new(vec![key], TokenSettings { issuer, audience, lifetime: TimeDelta::hours(1) }).unwrap();
    let request = |(account, session): &(AccountId, SessionId)| {
        let grant = TokenGrant {
            account: *account,
            session: *session,
            authenticated_at: clock::now(),
            methods: vec![AuthenticationMethod::Password],
            step_up_required: false,
            roles: Vec::new(),
            position: 0,
            epoch: epoch.into(),
            expires_at: clock::now() + TimeDelta::hours(1),
        };
        let token = keys.sign(grant, operator().new_id(), clock::now()).unwrap();
        load::request("GET", "/v1/auth/session", Some(&token), None)
    };
    sessions.iter().map(request).collect()
}

/// Returns the MiB from `/proc/PID/status` (proc(5)).
pub fn resident(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    let kib: f64 = line.trim().trim_end_matches(" kB").parse().unwrap();
    kib / 1_024.0
}
