//! `fulexo serve`: killed under load, and told nonsense.

use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use fulexo_dev_servers::Nats;
use fulexo_domain::account::AccountEvent;
use fulexo_domain::event::{Event, RecordedEvent};
use fulexo_domain::session::SessionEvent;
use fulexo_projections::read_models::Projection;
use fulexo_projections::rebuild::{RebuildOptions, rebuild};
use fulexo_tests::{Answer, Client, Database, Ended, PASSWORD, Program, own_dir};
use poem::http::Method;
use serde_json::{Value, json};
use sqlx::PgPool;
use tokio::sync::watch;
use tokio::task::block_in_place;
use tokio::time::timeout;
use uuid::Uuid;

use crate::audit::audit;

const KILLS: usize = 20;
const CLIENTS: usize = 16;
/// The number of answers between two kills.
const ANSWERS: u64 = 60;

#[tokio::test(flavor = "multi_thread")]
async fn twenty_kills_under_load_lose_nothing_that_was_acknowledged_and_repeat_nothing() {
    let database = Database::create().await;
    let mut env = database.env();
    env.insert("FULEXO_PORT".into(), "0".into());
    let (place, place_known) = watch::channel(String::new());
    let (answers, mut answered) = watch::channel(0_u64);
    let (answers, is_over) = (Arc::new(answers), Arc::new(AtomicBool::new(false)));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let load = Load { place: place_known.clone(), answers: Arc::clone(&answers), number };
            tokio::spawn(load.run(Arc::clone(&is_over)))
        })
        .collect();

    let mut program = None;
    for kill in 0..=KILLS {
        let mut started = block_in_place(|| Program::start(&["serve"], &env));
        let url = block_in_place(|| started.says("listening on "));
        let wanted = *answered.borrow_and_update() + ANSWERS;
        place.send_replace(url);
        let enough = timeout(Duration::from_secs(60), answered.wait_for(|answers| *answers >= wanted)).await;
        assert!(enough.is_ok(), "the service answers after {kill} kills");
        if kill < KILLS {
            started.kill();
        } else {
            program = Some(started);
        }
    }
    is_over.store(true, Ordering::Relaxed);
    let (mut accounts, mut sessions) = (BTreeSet::new(), BTreeSet::new());
    for client in clients {
        let known = client.await.unwrap();
        accounts.extend(known.iter().map(|(account, _)| *account));
        sessions.extend(known.iter().map(|(_, session)| *session));
    }
    let pool = database.pool().await;
    until_caught_up(&pool).await;
    let ended = block_in_place(|| program.unwrap().stop("TERM"));
    assert!(ended.status.success(), "{}", ended.errors);

    let events = audit(&database).await;
    assert_eq!(
        streams(&events, |event| matches!(event, Event::Account(AccountEvent::Registered {}))),
        (accounts, true)
    );
    assert_eq!(
        streams(&events, |event| matches!(event, Event::Session(SessionEvent::Started { .. }))),
        (sessions, true)
    );
    for projection in Projection::ALL {
        let options = RebuildOptions { program: "the tests".to_owned(), restart: false };
        let outcomes = rebuild(&pool, &[projection], &options, |_, _| {}).await.unwrap();
        let rebuilt = outcomes.into_iter().next().unwrap().1.unwrap();
        assert!(rebuilt.comparison.is_same() && rebuilt.comparison.position > 0, "{projection:?}: {rebuilt:?}");
    }
}

/// Returns the streams that have such an event; the flag is `true` if each has exactly one.
fn streams(events: &[RecordedEvent], is_such: impl Fn(&Event) -> bool) -> (BTreeSet<Uuid>, bool) {
    let all: Vec<Uuid> = events.iter().filter(|event| is_such(&event.event)).map(|event| event.stream.id).collect();
    let distinct: BTreeSet<Uuid> = all.iter().copied().collect();
    let is_one_each = distinct.len() == all.len();
    (distinct, is_one_each)
}

async fn until_caught_up(pool: &PgPool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let behind: Vec<(String, Option<String>)> = sqlx::query_as(
            "select name, stopped_because from projection.checkpoint where position <> (select position from log.head)",
        )
        .fetch_all(pool)
        .await
        .unwrap();
        if behind.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "{behind:?}");
    }
}

/// A user who registers and logs in, repeatedly, and asks again after every missing answer.
struct Load {
    /// The URL on which the service listens now.
    place: watch::Receiver<String>,
    answers: Arc<watch::Sender<u64>>,
    number: usize,
}

impl Load {
    /// Returns accounts and sessions, as far as they were acknowledged.
    async fn run(mut self, is_over: Arc<AtomicBool>) -> Vec<(Uuid, Uuid)> {
        let mut known = Vec::new();
        while !is_over.load(Ordering::Relaxed) {
            let email = format!("client-{}-{}@example.com", self.number, known.len());
            let body = json!({"email": email, "password": PASSWORD});
            let registered = self.ask("/v1/auth/register", &body, &format!("register {email}"), 201).await;
            let login = self.ask("/v1/auth/login", &body, &format!("login {email}"), 200).await;
            let id = |answer: &Answer, name: &str| answer.json[name].as_str().unwrap().parse().unwrap();
            known.push((id(&registered, "account_id"), id(&login, "session_id")));
        }
        known
    }

    async fn ask(&mut self, path: &str, body: &Value, key: &str, wanted: u16) -> Answer {
        loop {
            let url = self.place.wait_for(|url| !url.is_empty()).await.unwrap().clone();
            let client = Client::new(&url).with_header("idempotency-key", key);
            match client.try_send(Method::POST, path, Some("application/json"), &body.to_string()).await {
                Ok(answer) if answer.status == wanted => {
                    self.answers.send_modify(|answers| *answers += 1);
                    return answer;
                }
                Ok(answer) => panic!("{path}: {answer:?}"),
                // It was killed: the next one listens elsewhere.
                Err(_) => {
                    self.place.wait_for(|now| *now != url).await.unwrap();
                }
            }
        }
    }
}

#[test]
fn everything_that_is_wrong_with_the_configuration_is_said_at_once() {
    let wrong = [
        ("DATABASE_URL", "mysql://localhost/hunter1"),
        ("JWT_SECRET", "hunter2"),
        ("ENCRYPTION_KEY", "quiet-Otter7 paints 12 green owl"),
        ("FULEXO_PROT", "8080"),
    ];
    let env: BTreeMap<String, String> = wrong.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let ended = Program::start(&["serve"], &env).wait();
    assert_eq!(ended.status.code(), Some(2), "{}", ended.errors);
    let problems: Vec<&str> = ended.errors.lines().filter_map(|line| line.trim().strip_prefix("- ")).collect();
    for name in ["DATABASE_URL", "JWT_SECRET", "FULEXO_PROT"] {
        assert!(problems.iter().any(|problem| problem.starts_with(name)), "{name}: {}", ended.errors);
    }
    assert_eq!(problems.len(), 3, "{}", ended.errors);
    assert!(!ended.errors.contains("hunter"), "no secret is repeated");
}

/// A connection that another task took while the pools were being filled was waited for, five seconds, and missed.
#[tokio::test(flavor = "multi_thread")]
async fn twelve_starts_in_a_row_miss_no_connection() {
    let mut env = Database::create().await.env();
    env.insert("FULEXO_PORT".into(), "0".into());
    for start in 1..=12 {
        let ended = block_in_place(|| {
            let mut program = Program::start(&["serve"], &env);
            program.says("listening on ");
            program.stop("TERM")
        });
        assert_eq!(ended.status.code(), Some(0), "start {start}: {}", ended.errors);
        assert!(!ended.errors.contains("WARN"), "start {start}: {}", ended.errors);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_port_is_found_before_the_database_is_asked() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let mut env = Database::create().await.env();
    env.insert("DATABASE_URL".into(), "postgresql://nobody@127.0.0.1:1/nothing".into());
    for (arguments, variable) in [(&["serve", "--port", &port][..], "0"), (&["serve"], &port)] {
        env.insert("FULEXO_PORT".into(), variable.into());
        let ended = Program::run(arguments, &env);
        assert_eq!(ended.status.code(), Some(1));
        assert!(ended.errors.contains(&port) && ended.errors.contains("--port 0"), "{}", ended.errors);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_is_told_in_one_line() {
    let mut env = Database::create().await.env();
    env.insert("FULEXO_PORT".into(), "0".into());
    let ended = block_in_place(|| {
        let mut program = Program::start(&["serve"], &env);
        program.says("listening on http://127.0.0.1:");
        program.stop("TERM")
    });
    assert!(!ended.errors.contains("listening") && !ended.errors.contains("socket://"), "{}", ended.errors);
}

#[tokio::test(flavor = "multi_thread")]
async fn trouble_with_nats_is_one_line_that_says_which_server_and_what_it_costs() {
    let mut env = Database::create().await.env();
    env.insert("FULEXO_PORT".into(), "0".into());
    let dir = own_dir();
    let nats = block_in_place(|| Nats::start(&dir)).unwrap();
    let (url, address) = (nats.url(), format!("127.0.0.1:{}", nats.port()));
    let wrong = format!("nats://fulexo:not-the-password@{address}");
    let told = |ended: &Ended, cause: &str| {
        let lines: Vec<&str> = ended.errors.lines().filter(|line| line.to_lowercase().contains("nats")).collect();
        let warned: Vec<_> = lines.iter().filter(|line| line.contains("WARN") || line.contains("ERROR")).collect();
        assert!(warned.len() == 1 && warned[0].contains(&address) && warned[0].contains(cause), "{}", ended.errors);
        assert!(warned[0].contains("every 200 ms") && warned[0].contains("retrying"), "{}", ended.errors);
        lines.len()
    };

    env.insert("NATS_URL".into(), wrong);
    let ended = block_in_place(|| {
        let mut program = Program::start(&["serve"], &env);
        program.says("listening on ");
        program.warns("NATS cannot be used");
        program.stop("TERM")
    });
    assert_eq!(told(&ended, "refuses the credentials"), 1, "{}", ended.errors);

    env.insert("NATS_URL".into(), url);
    drop(nats);
    let ended = block_in_place(|| {
        let mut program = Program::start(&["serve"], &env);
        program.says("listening on ");
        program.warns("NATS cannot be used");
        let _nats = Nats::start(&dir).unwrap();
        program.warns("NATS is connected again");
        program.stop("TERM")
    });
    assert_eq!(told(&ended, "no server answers"), 2, "{}", ended.errors);
}
