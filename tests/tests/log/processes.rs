//! Nodes that append at once, in one process and in several: one log, one order, one clock.

use std::collections::BTreeSet;
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use fulexo_commands::log::{AppendError, AppendOutcome, AppendRequest, EventLog, ExpectedVersion};
use fulexo_node::clock;
use fulexo_tests::Database;
use futures_util::future::join_all;
use tokio::time::timeout;
use uuid::Uuid;

use crate::audit::audit;
use crate::proxy::{Fate, Message, Proxy, first_commit};
use crate::writing::{
    Running, account, attempts_of, change, claim, command, ids, is_new, new_id, observation, one, one_on, prepared,
    refresh_root,
};

const WRITERS: usize = 16;
const APPENDS: usize = 150;
/// The variable that tells the other process the URL of the database.
const DATABASE: &str = "LOG_TEST_DATABASE_URL";

/// The outcomes of the events of one node.
#[derive(Default)]
struct Ledger {
    appended: BTreeSet<Uuid>,
    refused: BTreeSet<Uuid>,
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_in_several_processes_append_to_one_log_in_one_order() {
    let database = Database::create().await;
    let proxy = Proxy::start(&database.url(), every_tenth_commit_is_cut()).await;
    let is_over = Arc::new(AtomicBool::new(false));
    let steady = tokio::spawn(node(database.url(), clock::now, Arc::clone(&is_over)));
    let unsteady = tokio::spawn(node(proxy.url(&database.url()), unsteady_clock, Arc::clone(&is_over)));
    let elsewhere = run_elsewhere(database.url()).await;
    is_over.store(true, Ordering::Relaxed);
    let ledgers = [steady.await.unwrap(), unsteady.await.unwrap(), elsewhere];

    let events = audit(&database).await;
    let node_of = |id: &Uuid| ledgers.iter().position(|ledger| ledger.appended.contains(id));
    let nodes: Vec<usize> = events.iter().map(|event| node_of(&event.id).expect("it was acknowledged")).collect();
    assert_eq!(events.len(), ledgers.iter().map(|ledger| ledger.appended.len()).sum::<usize>());
    assert!(events.iter().all(|event| ledgers.iter().all(|ledger| !ledger.refused.contains(&event.id))));

    assert!(ledgers.iter().all(|ledger| ledger.appended.len() >= WRITERS * APPENDS / 2));
    assert!(ledgers.iter().all(|ledger| ledger.refused.len() > WRITERS), "there were conflicts");
    let turns = nodes.windows(2).filter(|pair| pair[0] != pair[1]).count();
    assert!(turns > 100, "they took {turns} turns");
}

/// The outcome of the batch does not matter: the other node waits for its end, not for the next batch.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_lets_the_lock_go_with_the_end_of_its_batch() {
    let database = Database::create().await;
    let other = Running::start(&database.url()).await;
    let taken = new_id();
    let command = || AppendRequest { command: Some(command(1, 1, "done")), ..one(new_id(), change()) };
    let login = || AppendRequest {
        vault: vec![refresh_root(taken, taken)],
        ..one_on(new_id(), change(), ExpectedVersion::New)
    };
    for request in [login(), command()] {
        assert!(is_new(&other.log.append(request).await));
    }
    let refused = [
        ("a conflict", one_on(taken, change(), ExpectedVersion::Exact(9))),
        ("a duplicate", command()),
        ("refused by the vault", login()),
        (
            "refused at once",
            AppendRequest {
                claims: vec![claim(1, taken), claim(1, taken)],
                ..one_on(taken, change(), ExpectedVersion::New)
            },
        ),
        (
            "refused in a transaction",
            AppendRequest { claims: vec![claim(1, taken), claim(1, taken)], ..one(taken, change()) },
        ),
    ];
    for (what, request) in refused {
        let node = Running::start(&database.url()).await;
        assert!(!is_new(&node.log.append(request).await), "{what}");
        is_free(&database, &other, what).await;
        node.stop().await;
    }
    let proxy = Proxy::start(&database.url(), first_commit(Fate::AnswerIsLost)).await;
    let node = Running::start(&proxy.url(&database.url())).await;
    assert!(is_new(&node.log.append(one(taken, change())).await));
    is_free(&database, &other, "committed, as the log says").await;
    node.stop().await;
    other.stop().await;
}

/// A machine that vanished, or hung: the others wait for seconds, not for as long as a connection may be silent.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_held_up_before_its_commit_does_not_hold_up_the_others_and_appends_once_when_it_goes_on() {
    let database = Database::create().await;
    let proxy = Proxy::start(&database.url(), first_commit(Fate::IsHeld)).await;
    let held = Running::start(&proxy.url(&database.url())).await;
    let other = Running::start(&database.url()).await;
    let stream = new_id();
    let login = one_on(stream, change(), ExpectedVersion::New);
    let login = AppendRequest { vault: vec![refresh_root(stream, stream)], ..login };
    let id = ids(&login);
    let log = held.log.clone();
    let answer = tokio::spawn(async move { log.append(login).await });
    proxy.late.held().await;
    // It has the lock of the log. Connections in general may be silent for a minute.
    let append = other.log.append(one(new_id(), change()));
    let appended = timeout(Duration::from_secs(40), append).await;
    assert!(appended.is_ok_and(|answer| is_new(&answer)), "the lock is held");

    proxy.late.release();
    let answer = answer.await.unwrap();
    assert!(is_new(&answer), "{answer:?}");
    let found = audit(&database).await.iter().filter(|event| id.contains(&event.id)).count();
    assert_eq!(found, 1);
    held.stop().await;
    other.stop().await;
}

async fn is_free(database: &Database, node: &Running, after: &str) {
    let open: i64 = sqlx::query_scalar("select count(*) from pg_stat_activity where state like 'idle in transaction%' and datname = current_database()")
        .fetch_one(&database.pool().await)
        .await
        .unwrap();
    assert_eq!(open, 0, "a transaction is open: {after}");
    let append = node.log.append(one(new_id(), change()));
    let appended = timeout(Duration::from_secs(60), append).await;
    assert!(appended.is_ok_and(|answer| is_new(&answer)), "the lock is held: {after}");
}

/// The node of the other process.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "run by nodes_in_several_processes_append_to_one_log_in_one_order, with a database"]
async fn the_node_in_the_other_process() {
    let Ok(url) = std::env::var(DATABASE) else { return };
    let ledger = node(url, slow_clock, Arc::new(AtomicBool::new(true))).await;
    for (word, ids) in [("appended", &ledger.appended), ("refused", &ledger.refused)] {
        for id in ids {
            eprintln!("{word} {id}");
        }
    }
}

async fn run_elsewhere(url: String) -> Ledger {
    let run = move || {
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "processes::the_node_in_the_other_process", "--ignored", "--nocapture"])
            .env(DATABASE, url)
            .output()
            .unwrap()
    };
    let Output { status, stderr, .. } = tokio::task::spawn_blocking(run).await.unwrap();
    let text = String::from_utf8(stderr).unwrap();
    assert!(status.success(), "{text}");
    let all = |word: &str| text.lines().filter_map(|line| line.strip_prefix(word)?.trim().parse().ok()).collect();
    Ledger { appended: all("appended"), refused: all("refused") }
}

/// Appends until the test is over.
async fn node(url: String, clock: fn() -> DateTime<Utc>, is_over: Arc<AtomicBool>) -> Ledger {
    let log = Running::with_clock(&url, clock).await;
    let writers = (0..WRITERS).map(|number| tokio::spawn(write(log.log.clone(), number, Arc::clone(&is_over))));
    let mut all = Ledger::default();
    for ledger in join_all(writers).await {
        let ledger = ledger.unwrap();
        all.appended.extend(ledger.appended);
        all.refused.extend(ledger.refused);
    }
    log.stop().await;
    all
}

/// Appends to its own stream and to one that writers in all nodes share, at versions and at any.
async fn write(log: EventLog, number: usize, is_over: Arc<AtomicBool>) -> Ledger {
    let mut ledger = Ledger::default();
    let (own, shared) = (new_id(), Uuid::from_u128(number as u128 % 4));
    let (mut version, mut known) = (0, 0);
    for turn in 0.. {
        if turn >= APPENDS && is_over.load(Ordering::Relaxed) {
            break;
        }
        let request = match turn % 3 {
            0 => AppendRequest {
                events: vec![prepared(own, observation()), prepared(shared, change())],
                expected: vec![(attempts_of(own), ExpectedVersion::Exact(version))],
                ..AppendRequest::default()
            },
            1 => one_on(shared, change(), ExpectedVersion::Exact(known)),
            _ => one_on(shared, change(), ExpectedVersion::Any),
        };
        let ids = ids(&request);
        match log.append(request).await {
            Ok(AppendOutcome::New(receipt)) => {
                version += u64::from(turn % 3 == 0);
                known = receipt.events.last().map_or(known, |event| event.version);
                ledger.appended.extend(ids);
            }
            Err(AppendError::Conflict { stream, actual }) if turn % 3 == 1 && stream == account(shared) => {
                assert_ne!(actual, known);
                known = actual;
                ledger.refused.extend(ids);
            }
            other => panic!("{other:?}"),
        }
    }
    ledger
}

fn every_tenth_commit_is_cut() -> impl Fn(Message<'_>) -> Fate {
    let commits = AtomicUsize::new(1);
    move |message| {
        let number = if message.commits { commits.fetch_add(1, Ordering::Relaxed) } else { 1 };
        match (number % 10, number % 20) {
            (0, 0) => Fate::NeverArrives,
            (0, _) => Fate::AnswerIsLost,
            _ => Fate::Passes,
        }
    }
}

/// Returns the time, five minutes late.
fn slow_clock() -> DateTime<Utc> {
    clock::now() - TimeDelta::minutes(5)
}

/// Returns the time, now early, now late.
fn unsteady_clock() -> DateTime<Utc> {
    static ASKED: AtomicI64 = AtomicI64::new(0);
    clock::now() + TimeDelta::seconds(3 - ASKED.fetch_add(1, Ordering::Relaxed) % 7)
}
