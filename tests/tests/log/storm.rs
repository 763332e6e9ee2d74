//! Everything at once: many writers, every kind of refusal, connections cut at COMMIT, and a reader who watches.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use fulexo_commands::log::{AppendError, AppendOutcome, AppendRequest, EventLog, ExpectedVersion};
use fulexo_domain::event::RecordedEvent;
use fulexo_projections::feed;
use fulexo_tests::Database;
use sqlx::PgPool;
use uuid::Uuid;

use crate::audit::audit;
use crate::proxy::{Fate, Message, Proxy};
use crate::writing::{
    Answer, Running, account, attempts_of, change, claim, command, ids, key, new_id, observation, one, one_on,
    prepared, refresh_root, session_stream, started,
};

const WRITERS: u64 = 64;
const APPENDS: u64 = 313;
/// The number of COMMITs of which one is cut.
const CUT_EVERY: usize = 10;

/// The facts that a writer knows.
#[derive(Default)]
struct Ledger {
    /// The acknowledged events, as they were recorded.
    recorded: Vec<Arc<RecordedEvent>>,
    /// The events that were not acknowledged as new; none of them is in the log.
    refused: Vec<Uuid>,
    commands: BTreeMap<Vec<u8>, String>,
    claims: BTreeMap<Vec<u8>, Uuid>,
    roots: BTreeSet<Uuid>,
    rejected: usize,
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_happens_the_log_holds_what_it_acknowledged_once_and_nothing_else() {
    let database = Database::create().await;
    let cuts = Arc::new([AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0)]);
    let proxy = Proxy::start(&database.url(), cutting(Arc::clone(&cuts))).await;
    let log = Running::start(&proxy.url(&database.url())).await;
    let is_over = Arc::new(AtomicBool::new(false));
    let reader = tokio::spawn(watch(database.pool().await, Arc::clone(&is_over)));

    let writers: Vec<_> = (0..WRITERS).map(|number| tokio::spawn(Writer::new(number, log.log.clone()).run())).collect();
    let mut all = Ledger::default();
    for writer in writers {
        all.add(writer.await.unwrap());
    }
    is_over.store(true, Ordering::Relaxed);
    let watched = reader.await.unwrap();
    log.stop().await;

    let events = audit(&database).await;
    assert!(events == watched, "what was read once is what is read now");
    all.recorded.sort_by_key(|event| event.position);
    assert!(events.iter().eq(all.recorded.iter().map(AsRef::as_ref)), "the log holds what was acknowledged, as it was");
    let found: BTreeSet<Uuid> = events.iter().map(|event| event.id).collect();
    assert!(all.refused.iter().all(|id| !found.contains(id)), "nothing that was refused is in the log");
    assert_eq!(all.commands, commands(&database).await);
    assert_eq!(all.claims, claims(&database).await);
    assert_eq!(all.roots, roots(&database).await);

    assert!(all.rejected > 100, "{} requests were rejected", all.rejected);
    assert!(cuts.iter().all(|cuts| cuts.load(Ordering::Relaxed) >= 5), "{cuts:?}");
}

/// Cuts the wire at every tenth COMMIT, in turn before it, at once after it, and before its answer.
fn cutting(cuts: Arc<[AtomicUsize; 3]>) -> impl Fn(Message<'_>) -> Fate {
    let commits = AtomicUsize::new(1);
    move |message| {
        let number = if message.commits { commits.fetch_add(1, Ordering::Relaxed) } else { 1 };
        if number % CUT_EVERY != 0 {
            return Fate::Passes;
        }
        let way = (number / CUT_EVERY) % 3;
        cuts[way].fetch_add(1, Ordering::Relaxed);
        [Fate::NeverArrives, Fate::ArrivesUnanswered, Fate::AnswerIsLost][way]
    }
}

/// Reads from its last position on, as projections do, until the writers are done: never a gap, never less than the
/// size.
async fn watch(pool: PgPool, is_over: Arc<AtomicBool>) -> Vec<RecordedEvent> {
    let mut events: Vec<RecordedEvent> = Vec::new();
    let mut connection = pool.acquire().await.unwrap();
    loop {
        let was_over = is_over.load(Ordering::Relaxed);
        let size = feed::size(&mut connection).await.unwrap();
        let more = feed::read(&mut connection, events.len() as u64, u32::MAX).await.unwrap();
        events.extend(more);
        assert!(events.len() as u64 >= size, "{} events could be read of {size}", events.len());
        if was_over {
            return events;
        }
    }
}

/// One of the writers: its own stream, one that it shares with others, and a stream of pseudo-random numbers.
struct Writer {
    log: EventLog,
    number: u64,
    random: u64,
    own: Uuid,
    version: u64,
    /// The version that the shared stream was last known to have.
    shared_version: u64,
    known: Ledger,
}

impl Writer {
    fn new(number: u64, log: EventLog) -> Self {
        Self { log, number, random: number, own: new_id(), version: 0, shared_version: 0, known: Ledger::default() }
    }

    async fn run(mut self) -> Ledger {
        for turn in 0..APPENDS {
            match self.below(100) {
                0..40 => self.own().await,
                40..50 => self.shared().await,
                50..60 => self.shared_at_a_version().await,
                60..66 => self.at_a_wrong_version().await,
                66..74 => self.command_sent_twice_at_once(turn).await,
                74..79 => self.command_repeated().await,
                79..82 => self.key_of_another_command().await,
                82..88 => self.claim().await,
                88..93 => self.login().await,
                93..99 => self.several_events().await,
                _ => self.rejected().await,
            }
        }
        self.known
    }

    async fn own(&mut self) {
        let expected = if self.version == 0 { ExpectedVersion::New } else { ExpectedVersion::Exact(self.version) };
        let request = one_on(self.own, observation(), expected);
        self.is_new(request).await;
        self.version += 1;
    }

    async fn shared(&mut self) {
        let request = one_on(shared(self.number), change(), ExpectedVersion::Any);
        self.is_new(request).await;
    }

    async fn shared_at_a_version(&mut self) {
        let request = one_on(shared(self.number), change(), ExpectedVersion::Exact(self.shared_version));
        match self.append(request).await {
            Ok(AppendOutcome::New(_)) => self.shared_version += 1,
            Err(AppendError::Conflict { stream, actual }) if stream == account(shared(self.number)) => {
                assert_ne!(actual, self.shared_version);
                self.shared_version = actual;
            }
            other => panic!("{other:?}"),
        }
    }

    async fn at_a_wrong_version(&mut self) {
        let request = one_on(self.own, observation(), ExpectedVersion::Exact(self.version + 1));
        let answer = self.append(request).await;
        assert_eq!(answer, Err(AppendError::Conflict { stream: attempts_of(self.own), actual: self.version }));
    }

    /// Sends a command twice at once, as an impatient client does.
    async fn command_sent_twice_at_once(&mut self, turn: u64) {
        let id = u128::from(self.number * APPENDS + turn);
        let [first, second] = ["one", "two"].map(|result| AppendRequest {
            command: Some(command(id, 1, result)),
            ..one(shared(self.number), change())
        });
        let [first_ids, second_ids] = [ids(&first), ids(&second)];
        let (first, second) = tokio::join!(self.log.append(first), self.log.append(second));
        let (new, new_ids, other_ids, duplicate, result) = match (first, second) {
            (Ok(new @ AppendOutcome::New(_)), other) => (new, first_ids, second_ids, other, "one"),
            (other, Ok(new @ AppendOutcome::New(_))) => (new, second_ids, first_ids, other, "two"),
            other => panic!("{other:?}"),
        };
        assert_eq!(duplicate, Ok(AppendOutcome::Duplicate { result: result.into() }));
        self.known.take_down(&Ok(new), new_ids);
        self.known.take_down(&duplicate, other_ids);
        self.known.commands.insert(key(id).to_vec(), result.into());
    }

    async fn command_repeated(&mut self) {
        let Some((id, result)) = self.known.commands.iter().next_back() else { return };
        let record = fulexo_commands::log::CommandRecord {
            id: id.as_slice().try_into().unwrap(),
            request_hash: [1; 32],
            result: "three".into(),
            account: None,
        };
        let wanted = Ok(AppendOutcome::Duplicate { result: result.clone() });
        let answer = self.append(AppendRequest { command: Some(record), ..one(self.own, change()) }).await;
        assert_eq!(answer, wanted);
    }

    async fn key_of_another_command(&mut self) {
        let Some(id) = self.known.commands.keys().next() else { return };
        let record = fulexo_commands::log::CommandRecord {
            id: id.as_slice().try_into().unwrap(),
            request_hash: [2; 32],
            result: "four".into(),
            account: None,
        };
        let answer = self.append(AppendRequest { command: Some(record), ..one(self.own, change()) }).await;
        assert_eq!(answer, Err(AppendError::IdempotencyKeyReused));
    }

    async fn claim(&mut self) {
        let value = u128::from(self.below(400));
        let holder = new_id();
        match self.append(AppendRequest { claims: vec![claim(value, holder)], ..one(holder, change()) }).await {
            Ok(AppendOutcome::New(_)) => {
                self.known.claims.insert(key(value).to_vec(), holder);
            }
            Err(AppendError::KeyTaken { scope: "email" }) => {}
            other => panic!("{other:?}"),
        }
    }

    async fn login(&mut self) {
        let session = new_id();
        let request = AppendRequest {
            events: vec![prepared(self.own, observation()), prepared(session, started(self.own))],
            expected: vec![
                (attempts_of(self.own), ExpectedVersion::Exact(self.version)),
                (session_stream(session), ExpectedVersion::New),
            ],
            vault: vec![refresh_root(session, self.own)],
            ..AppendRequest::default()
        };
        self.is_new(request).await;
        self.version += 1;
        self.known.roots.insert(session);
    }

    async fn several_events(&mut self) {
        let streams = [self.own, shared(self.number), shared(self.number + 1), self.own];
        let events = streams.map(|stream| prepared(stream, if stream == self.own { observation() } else { change() }));
        self.is_new(AppendRequest { events: events.into(), ..AppendRequest::default() }).await;
        self.version += 2;
    }

    /// Appends a request that the vault, the access tables or the append function refuses.
    async fn rejected(&mut self) {
        let Some(taken) = self.known.roots.first().copied() else { return };
        let (request, reason) = match self.below(3) {
            0 => (
                AppendRequest { vault: vec![refresh_root(taken, taken)], ..one(self.own, change()) },
                "refresh_root_pkey",
            ),
            1 => (one_on(taken, started(self.own), ExpectedVersion::Exact(1)), "session_pkey"),
            _ => {
                let claims = vec![claim(u128::MAX, taken), claim(u128::MAX, taken)];
                (AppendRequest { claims, ..one(self.own, change()) }, "unique_key_pkey")
            }
        };
        match self.append(request).await {
            Err(AppendError::Rejected(words)) => assert!(words.to_string().contains(reason), "{words}"),
            other => panic!("{other:?}"),
        }
        self.known.rejected += 1;
    }

    async fn is_new(&mut self, request: AppendRequest) {
        let answer = self.append(request).await;
        assert!(matches!(answer, Ok(AppendOutcome::New(_))), "{answer:?}");
    }

    async fn append(&mut self, request: AppendRequest) -> Answer {
        let ids = ids(&request);
        let answer = self.log.append(request).await;
        self.known.take_down(&answer, ids);
        answer
    }

    /// Returns the next number below `bound` (SplitMix64): the same numbers in each run.
    fn below(&mut self, bound: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.random ^ (self.random >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}

/// Returns one of a few streams that many write to.
fn shared(number: u64) -> Uuid {
    Uuid::from_u128(u128::from(number % 8))
}

impl Ledger {
    fn take_down(&mut self, answer: &Answer, ids: Vec<Uuid>) {
        match answer {
            Ok(AppendOutcome::New(receipt)) => {
                let acknowledged: Vec<Uuid> = receipt.events.iter().map(|event| event.id).collect();
                assert_eq!(acknowledged, ids, "the receipt names the events of the request");
                assert_eq!(receipt.position, receipt.events.last().map(|event| event.position));
                self.recorded.extend(receipt.events.iter().cloned());
            }
            Ok(AppendOutcome::Duplicate { .. }) | Err(_) => self.refused.extend(ids),
        }
    }

    fn add(&mut self, other: Self) {
        self.recorded.extend(other.recorded);
        self.refused.extend(other.refused);
        self.commands.extend(other.commands);
        for (key, holder) in other.claims {
            assert_eq!(self.claims.insert(key, holder), None, "a key was given to two");
        }
        self.roots.extend(other.roots);
        self.rejected += other.rejected;
    }
}

async fn commands(database: &Database) -> BTreeMap<Vec<u8>, String> {
    let sql = "select command_id, result from log.command";
    sqlx::query_as(sql).fetch_all(&database.pool().await).await.unwrap().into_iter().collect()
}

async fn claims(database: &Database) -> BTreeMap<Vec<u8>, Uuid> {
    let sql = "select key_hash, stream_id from log.unique_key";
    sqlx::query_as(sql).fetch_all(&database.pool().await).await.unwrap().into_iter().collect()
}

async fn roots(database: &Database) -> BTreeSet<Uuid> {
    let sql = "select session_id from vault.refresh_root";
    sqlx::query_scalar(sql).fetch_all(&database.pool().await).await.unwrap().into_iter().collect()
}
