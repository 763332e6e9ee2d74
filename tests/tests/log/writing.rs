//! A running log, and requests to append to it.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use fulexo_commands::log::{
    AppendError, AppendOutcome, AppendRequest, CommandRecord, EventLog, ExpectedVersion, KeyClaim, LogHooks, Sequencer,
};
use fulexo_commands::vault::write::VaultWrite;
use fulexo_domain::account::{AccountEvent, PasswordChangeCause};
use fulexo_domain::authentication::{AuthenticationEvent, AuthenticationMethod, Factor, FailureReason};
use fulexo_domain::event::{Category, Event, Stream};
use fulexo_domain::leaf::LeafTemplate;
use fulexo_domain::session::SessionEvent;
use fulexo_domain::values::{AccountId, SessionId};
use fulexo_node::clock;
use fulexo_projections::access;
use fulexo_tests::{draft, operator};
use futures_util::future::{join_all, poll_immediate};
use sqlx::PgPool;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use uuid::Uuid;

pub type Answer = Result<AppendOutcome, AppendError>;

/// A log and its sequencer.
pub struct Running {
    pub log: EventLog,
    pub pool: PgPool,
    stop: oneshot::Sender<()>,
    sequencer: JoinHandle<()>,
}

impl Running {
    pub async fn start(url: &str) -> Self {
        Self::with_clock(url, clock::now).await
    }

    pub async fn with_clock(url: &str, clock: fn() -> DateTime<Utc>) -> Self {
        let pool = fulexo_node::database::connect(url, 4).await.unwrap();
        let (log, sequencer) = EventLog::new(pool.clone(), LogHooks { clock, ..hooks() });
        let (stop, stopped) = oneshot::channel();
        Self { log, pool, stop, sequencer: tokio::spawn(sequencer.run(stopped)) }
    }

    pub async fn stop(self) {
        self.stop.send(()).unwrap();
        self.sequencer.await.unwrap();
        self.pool.close().await;
    }
}

/// Appends these in one batch: they all wait before the sequencer starts.
pub async fn in_one_batch(url: &str, requests: Vec<AppendRequest>) -> Vec<Answer> {
    let pool = fulexo_node::database::connect(url, 4).await.unwrap();
    let (log, sequencer) = EventLog::new(pool.clone(), hooks());
    let mut answers: Vec<_> = requests.into_iter().map(|request| Box::pin(log.append(request))).collect();
    for answer in &mut answers {
        assert_eq!(poll_immediate(answer).await, None, "it waits for the sequencer");
    }
    let (_stop, stopped) = oneshot::channel();
    let sequencer = tokio::spawn(sequencer.run(stopped));
    let answers = join_all(answers).await;
    drop(log);
    sequencer.await.unwrap();
    pool.close().await;
    answers
}

/// Commits the requests that wait.
pub async fn drain(sequencer: Sequencer) {
    let (stop, stopped) = oneshot::channel();
    stop.send(()).unwrap();
    sequencer.run(stopped).await;
}

pub fn hooks() -> LogHooks {
    LogHooks { gate: access::apply, gates: access::concerns, on_commit: Arc::new(|_| {}), clock: clock::now }
}

pub fn new_id() -> Uuid {
    operator().new_id()
}

pub fn attempts_of(account: Uuid) -> Stream {
    Stream { category: Category::Authentication, id: account }
}

pub fn account(id: Uuid) -> Stream {
    Stream { category: Category::Account, id }
}

pub fn session_stream(id: Uuid) -> Stream {
    Stream { category: Category::Session, id }
}

/// Returns an event that only notes that somebody tried.
pub fn observation() -> Event {
    AuthenticationEvent::Failed { factor: Factor::Password, reason: FailureReason::WrongPassword, device: None }.into()
}

/// Returns an event that changes something.
pub fn change() -> Event {
    AccountEvent::PasswordChanged { how: PasswordChangeCause::Owner }.into()
}

pub fn started(account: Uuid) -> Event {
    SessionEvent::Started {
        account: AccountId(account),
        methods: vec![AuthenticationMethod::Password],
        fingerprint: String::new(),
        idle_expires_at: clock::now(),
        expires_at: clock::now(),
    }
    .into()
}

pub fn refresh_root(session: Uuid, account: Uuid) -> VaultWrite {
    let (session, account) = (SessionId(session), AccountId(account));
    VaultWrite::RefreshRoot { session, account, device: Uuid::nil(), root: [7; 32], expires_at: clock::now() }
}

pub fn prepared(stream: Uuid, event: Event) -> LeafTemplate {
    draft(event, stream).encode().unwrap()
}

/// Returns a request of one event, in any state of its stream.
pub fn one(stream: Uuid, event: Event) -> AppendRequest {
    AppendRequest { events: vec![prepared(stream, event)], ..AppendRequest::default() }
}

/// Returns a request of one event, on a stream in this state.
pub fn one_on(stream: Uuid, event: Event, expected: ExpectedVersion) -> AppendRequest {
    let request = one(stream, event);
    AppendRequest { expected: vec![(request.events[0].draft().stream, expected)], ..request }
}

pub fn command(id: u128, request_hash: u8, result: &str) -> CommandRecord {
    CommandRecord { id: key(id), request_hash: [request_hash; 32], result: result.to_owned(), account: None }
}

pub fn claim(value: u128, holder: Uuid) -> KeyClaim {
    KeyClaim { scope: "email", hash: key(value), holder }
}

pub fn key(number: u128) -> [u8; 32] {
    let mut key = [0; 32];
    key[..16].copy_from_slice(&number.to_be_bytes());
    key
}

pub fn ids(request: &AppendRequest) -> Vec<Uuid> {
    request.events.iter().map(|event| event.draft().id).collect()
}

/// Returns the ids that an append put into the log; none if it was refused or had been made before.
pub fn appended(answer: &Answer) -> Vec<Uuid> {
    match answer {
        Ok(AppendOutcome::New(receipt)) => receipt.events.iter().map(|event| event.id).collect(),
        Ok(AppendOutcome::Duplicate { .. }) | Err(_) => vec![],
    }
}

pub fn is_new(answer: &Answer) -> bool {
    matches!(answer, Ok(AppendOutcome::New(_)))
}
