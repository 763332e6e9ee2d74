//! The connection breaks when a batch may have been committed, so that nobody was told: the log itself says.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use fulexo_commands::log::{AppendError, AppendRequest, EventLog, ExpectedVersion};
use fulexo_tests::Database;
use tokio::sync::oneshot;
use uuid::Uuid;

use crate::audit::audit;
use crate::proxy::{Fate, Message, Proxy, first_commit};
use crate::waiting::until_waiting;
use crate::writing::{
    change, claim, command, hooks, ids, in_one_batch, is_new, new_id, observation, one, one_on, refresh_root, started,
};

/// The three ways into the log: one statement that commits by itself; a transaction, if secrets change too; the lock
/// first, if the version of a stream is not known.
const WAYS: [fn() -> Vec<AppendRequest>; 3] = [one_statement, with_secrets, unforeseen];

/// Returns requests that would be refused, or be in the log twice, if they were made again.
fn one_statement() -> Vec<AppendRequest> {
    let (stream, holder) = (new_id(), new_id());
    let unique = holder.as_u128();
    vec![
        one_on(stream, observation(), ExpectedVersion::New),
        one_on(stream, observation(), ExpectedVersion::Any),
        AppendRequest { claims: vec![claim(unique, holder)], ..one_on(holder, change(), ExpectedVersion::New) },
        AppendRequest { command: Some(command(unique, 1, "done")), ..one_on(holder, change(), ExpectedVersion::Any) },
    ]
}

fn with_secrets() -> Vec<AppendRequest> {
    let (session, holder) = (new_id(), new_id());
    let login = one_on(session, started(holder), ExpectedVersion::New);
    let mut requests = vec![AppendRequest { vault: vec![refresh_root(session, holder)], ..login }];
    requests.extend(one_statement());
    requests
}

fn unforeseen() -> Vec<AppendRequest> {
    let mut requests = vec![one(new_id(), observation())];
    requests.extend(with_secrets());
    requests
}

/// Appends over the wire; each request must be acknowledged as new. Returns the ids of the events.
async fn append(database: &Database, proxy: &Proxy, requests: Vec<AppendRequest>) -> Vec<Uuid> {
    let wanted = requests.iter().flat_map(ids).collect();
    let answers = in_one_batch(&proxy.url(&database.url()), requests).await;
    assert!(answers.iter().all(is_new), "{answers:?}");
    wanted
}

/// Panics unless the log holds these, each once, and nothing else.
async fn holds(database: &Database, wanted: Vec<Uuid>) {
    let wanted: BTreeSet<Uuid> = wanted.into_iter().collect();
    let found: BTreeSet<Uuid> = audit(database).await.iter().map(|event| event.id).collect();
    assert_eq!(found, wanted);
}

async fn each_is_appended_once_when_the_first_commit(fate: Fate) {
    let database = Database::create().await;
    let mut wanted = Vec::new();
    for requests in WAYS {
        let proxy = Proxy::start(&database.url(), first_commit(fate)).await;
        wanted.extend(append(&database, &proxy, requests()).await);
    }
    holds(&database, wanted).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_append_whose_commit_never_arrives_is_made_again() {
    each_is_appended_once_when_the_first_commit(Fate::NeverArrives).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_append_whose_commit_is_not_answered_is_made_once() {
    each_is_appended_once_when_the_first_commit(Fate::AnswerIsLost).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_append_that_races_with_its_own_commit_is_made_once() {
    each_is_appended_once_when_the_first_commit(Fate::ArrivesUnanswered).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_is_still_under_way_is_waited_for() {
    let database = Database::create().await;
    let mut wanted = Vec::new();
    for requests in WAYS {
        let proxy = Proxy::start(&database.url(), first_commit(Fate::ArrivesLate)).await;
        let released = async {
            until_waiting(&database, 1).await;
            proxy.late.release();
        };
        wanted.extend(tokio::join!(append(&database, &proxy, requests()), released).0);
    }
    holds(&database, wanted).await;
}

/// The server's machine is gone, or a firewall has forgotten the connection: the kernel would try for a quarter of an
/// hour.
#[tokio::test(flavor = "multi_thread")]
async fn an_append_whose_connection_vanishes_is_given_up_and_the_next_one_is_made_on_another() {
    let database = Database::create().await;
    let statements = AtomicUsize::new(0);
    let judge = move |message: Message<'_>| {
        let is_first = message.binds && statements.fetch_add(1, Ordering::Relaxed) == 0;
        if is_first { Fate::IsHeld } else { Fate::Passes }
    };
    let proxy = Proxy::start(&database.url(), judge).await;
    let pool = fulexo_node::database::connect(&proxy.url(&database.url()), 4).await.unwrap();
    let (log, sequencer) = EventLog::new(pool.clone(), hooks());
    let (_stop, stopped) = oneshot::channel();
    let sequencer = tokio::spawn(sequencer.run(stopped));
    let began = Instant::now();
    let lost = log.append(one_on(new_id(), observation(), ExpectedVersion::New)).await;
    assert_eq!(lost, Err(AppendError::Unavailable));
    // A commit may wait for a standby: the time that a caller has must be over.
    assert!(began.elapsed() >= Duration::from_secs(30), "{:?}", began.elapsed());
    let made = one_on(new_id(), observation(), ExpectedVersion::New);
    let wanted = ids(&made);
    assert!(is_new(&log.append(made).await));
    holds(&database, wanted).await;
    drop(log);
    sequencer.await.unwrap();
}

/// A statement that commits by itself may still be on its way when its batch is appended again.
#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_arrives_after_its_batch_was_appended_again_does_nothing() {
    let database = Database::create().await;
    let statements = AtomicUsize::new(0);
    let judge = move |message: Message<'_>| {
        let is_first = message.binds && statements.fetch_add(1, Ordering::Relaxed) == 0;
        if is_first { Fate::ArrivesLate } else { Fate::Passes }
    };
    let proxy = Proxy::start(&database.url(), judge).await;
    let wanted = append(&database, &proxy, one_statement()).await;
    proxy.late.release();
    proxy.late.answered().await;
    holds(&database, wanted).await;
}

/// The statement is on its way; the batch is appended again, but that is not committed; then the statement arrives.
#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_arrives_before_its_batch_is_appended_a_third_time_is_not_overlooked() {
    let database = Database::create().await;
    let step = AtomicUsize::new(0);
    let judge = move |message: Message<'_>| {
        let next = |fate| {
            step.fetch_add(1, Ordering::Relaxed);
            fate
        };
        match step.load(Ordering::Relaxed) {
            0 if message.binds => next(Fate::ArrivesLate),
            1 if message.commits => {
                message.late.release();
                next(Fate::NeverArrives)
            }
            2 if message.binds => Fate::Waits,
            _ => Fate::Passes,
        }
    };
    let proxy = Proxy::start(&database.url(), judge).await;
    let wanted = append(&database, &proxy, one_statement()).await;
    holds(&database, wanted).await;
}

/// The wire is cut at COMMIT, and then once more at the first, second, third… message that follows.
#[tokio::test(flavor = "multi_thread")]
async fn another_cut_while_the_log_is_asked_what_became_of_a_commit_changes_nothing() {
    let database = Database::create().await;
    let mut wanted = Vec::new();
    for requests in [one_statement, unforeseen] {
        for nth in 1.. {
            let since = Arc::new(AtomicUsize::new(0));
            let counted = Arc::clone(&since);
            let judge = move |message: Message<'_>| {
                if counted.load(Ordering::Relaxed) == 0 && !message.commits {
                    return Fate::Passes;
                }
                match counted.fetch_add(1, Ordering::Relaxed) {
                    0 => Fate::AnswerIsLost,
                    number if number == nth => Fate::NeverArrives,
                    _ => Fate::Passes,
                }
            };
            let proxy = Proxy::start(&database.url(), judge).await;
            wanted.extend(append(&database, &proxy, requests()).await);
            if since.load(Ordering::Relaxed) <= nth {
                assert!(nth > 10, "the log was asked in {nth} messages");
                break;
            }
        }
    }
    holds(&database, wanted).await;
}
