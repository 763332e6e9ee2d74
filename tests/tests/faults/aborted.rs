//! Clients that leave in the middle: only their waiting ends, never the command.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use fulexo_database::begin;
use fulexo_tests::spec::{Operation, operations};
use fulexo_tests::{
    Database, Dice, Leave, Mailbox, Node, PASSWORD, Program, consistent, consistent_after_kills, eventually, free_port,
    leaves, operator, superuser,
};
use futures_util::future::join_all;
use hyper::Method;
use serde_json::{Value, json};
use sqlx::PgPool;
use tokio::task::{JoinSet, block_in_place};
use tokio::time::sleep;

use crate::TURN;
use crate::cast::Cast;

/// Starts a node whose hashes take long enough to leave in the middle of one, and whose mail goes to this mailbox.
async fn slow_node(database: &Arc<Database>, mailbox: &Mailbox) -> Node {
    let mut env = database.env();
    env.extend(mailbox.env());
    env.insert("FULEXO_BCRYPT_COST".to_owned(), "10".to_owned());
    Node::with(database, env).await
}

/// Waits until this many wrong guesses are counted, and maybe not evaluated yet: a client that leaves before that may
/// never have been heard.
async fn counted(pool: &PgPool, guesses: i32) {
    let counted = "select cardinality(recent) >= $1 or locked_until is not null from vault.attempt";
    eventually("it is counted", async || {
        let counted = sqlx::query_scalar::<_, bool>(counted).bind(guesses).fetch_optional(pool).await;
        counted.unwrap() == Some(true)
    })
    .await;
}

fn count(events: &[Value], name: &str) -> usize {
    events.iter().filter(|event| event["type"] == name).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_logins_whose_clients_leave_are_recorded_and_lock_as_any_others_do() {
    let _turn = TURN.lock().await;
    for how in [Leave::Close, Leave::Reset] {
        let (database, mailbox) = (Arc::new(Database::create().await), Mailbox::create());
        let node = slow_node(&database, &mailbox).await;
        let (admin, (email, account)) = (node.admin().await, node.register(&["customer"]).await);
        let wrong = json!({"email": email, "password": "Wrong-Guess-1-Battery!"}).to_string();
        let pool = superuser(&database).await;
        for guess in 1..=5 {
            let request = (Method::POST, "/v1/auth/login", Some("application/json"), wrong.as_str());
            node.anonymous().send_and_leave(how, counted(&pool, guess), request).await;
        }
        eventually("what was counted is recorded", async || {
            let events = leaves(&database).await;
            (count(&events, "authentication.failed"), count(&events, "authentication.locked_out")) == (5, 1)
        })
        .await;
        let right = json!({"email": email, "password": PASSWORD});
        assert_eq!(node.anonymous().post("/v1/auth/login", right).await.status, 401, "{how:?}");
        let last = fulexo_tests::log_size(&node).await - 1;
        let shown = admin.seeing(last).get(&format!("/v1/accounts/{account}")).await;
        assert_eq!(shown.json["locked"], json!(true), "{shown:?}");
        mailbox.expect(&email, "not-me").await;
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_told_to_stop_records_what_clients_that_left_have_begun() {
    let _turn = TURN.lock().await;
    let (database, mailbox) = (Arc::new(Database::create().await), Mailbox::create());
    let node = slow_node(&database, &mailbox).await;
    let (email, _) = node.register(&["customer"]).await;
    let wrong = json!({"email": email, "password": "Wrong-Guess-1-Battery!"}).to_string();
    let pool = superuser(&database).await;
    let guesses = (0..5).map(|_| async {
        let request = (Method::POST, "/v1/auth/login", Some("application/json"), wrong.as_str());
        node.anonymous().send_and_leave(Leave::Close, counted(&pool, 5), request).await;
    });
    join_all(guesses).await;
    node.stop().await;
    let events = leaves(&database).await;
    assert_eq!((count(&events, "authentication.failed"), count(&events, "authentication.locked_out")), (5, 1));
    consistent(&database, &[]).await;
}

/// Cancels a statement that waits for a lock, as the database does in trouble.
async fn break_off(pool: &PgPool) {
    eventually("it waits for the lock, and is broken off", async || {
        let waiting = "select bool_or(pg_cancel_backend(pid)) from pg_stat_activity
             where datname = current_database() and wait_event_type = 'Lock' and query like '%vault.%'";
        sqlx::query_scalar::<_, Option<bool>>(waiting).fetch_one(pool).await.unwrap() == Some(true)
    })
    .await;
}

async fn counts(pool: &PgPool) -> Vec<i32> {
    let counts = "select cardinality(recent) from vault.attempt order by 1";
    sqlx::query_scalar(counts).fetch_all(pool).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_could_not_be_counted_everywhere_is_counted_nowhere() {
    let _turn = TURN.lock().await;
    let (database, mailbox) = (Arc::new(Database::create().await), Mailbox::create());
    let node = slow_node(&database, &mailbox).await;
    let (email, _) = node.register(&["customer"]).await;
    let wrong = json!({"email": email, "password": "Wrong-Guess-1-Battery!"});
    let guess = async || node.anonymous().post("/v1/auth/login", wrong.clone()).await;
    assert_eq!(guess().await.status, 401);
    let pool = superuser(&database).await;
    assert_eq!(counts(&pool).await, [1, 1], "that of the address, and that over all devices");
    let mut held = begin(&pool).await.unwrap();
    let over_all = "select from vault.attempt where account_id is not null for update";
    assert_eq!(sqlx::query(over_all).execute(&mut *held).await.unwrap().rows_affected(), 1);
    let (answer, ()) = tokio::join!(guess(), break_off(&pool));
    held.rollback().await.unwrap();
    assert_eq!(answer.status, 503, "{answer:?}");
    assert_eq!(counts(&pool).await, [1, 1]);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guess_is_recorded_although_the_database_fails_between_it_and_its_record() {
    let _turn = TURN.lock().await;
    let (database, mailbox) = (Arc::new(Database::create().await), Mailbox::create());
    let node = slow_node(&database, &mailbox).await;
    let guess = json!({"email": "nobody@example.com", "password": "Wrong-Guess-1-Battery!"});
    let guess = async || node.anonymous().post("/v1/auth/login", guess.clone()).await;
    for _ in 0..4 {
        assert_eq!(guess().await.status, 401);
    }
    let pool = superuser(&database).await;
    let mut held = begin(&pool).await.unwrap();
    // It locks the key under which a guess at nobody's password is sealed.
    sqlx::query("lock table vault.period_key in access exclusive mode").execute(&mut *held).await.unwrap();
    let fail = async {
        break_off(&pool).await;
        held.rollback().await.unwrap();
    };
    let (answer, ()) = tokio::join!(guess(), fail);
    assert_eq!(answer.status, 401, "{answer:?}");
    assert_eq!(count(&leaves(&database).await, "authentication.failed"), 5);
    node.stop().await;
    consistent(&database, &[]).await;
}

/// The number of operations in one storm, each of them an unsafe one of the document.
const ACTS: usize = 600;
const CLIENTS: u64 = 6;

fn commands() -> Vec<Operation> {
    operations().into_iter().filter(|operation| !operation.method.is_safe()).collect()
}

/// Plays each operation in its turn, at one node or another, until the storm is over.
async fn storm(
    cast: Arc<Cast>,
    urls: Vec<String>,
    acts: Arc<AtomicUsize>,
    seed: u64,
) -> BTreeMap<String, BTreeSet<u16>> {
    let (mut dice, commands, mut answered) = (Dice(seed), commands(), BTreeMap::<String, BTreeSet<u16>>::new());
    loop {
        let turn = acts.fetch_add(1, Ordering::Relaxed);
        if turn >= ACTS {
            return answered;
        }
        let operation = &commands[turn % commands.len()];
        let url = urls[dice.index(urls.len())].clone();
        let status = cast.play(operation, &url, &mut dice).await;
        answered.entry(operation.id.clone()).or_default().extend(status);
        if turn.is_multiple_of(8) {
            cast.restore(&url, &mut dice).await;
        }
        if operation.id == "impose_lockdown" {
            cast.lift(&url).await;
        }
    }
}

fn seed() -> u64 {
    let seed = std::env::var("FULEXO_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| u64::from(operator().now.timestamp_subsec_nanos()));
    println!("FULEXO_TEST_SEED={seed}");
    seed
}

async fn weather(cast: &Arc<Cast>, urls: &[String], seed: u64) -> BTreeMap<String, BTreeSet<u16>> {
    let acts = Arc::new(AtomicUsize::new(0));
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        clients.spawn(storm(Arc::clone(cast), urls.to_vec(), Arc::clone(&acts), seed.wrapping_add(client)));
    }
    let mut answered = BTreeMap::<String, BTreeSet<u16>>::new();
    for (operation, statuses) in clients.join_all().await.into_iter().flatten() {
        answered.entry(operation).or_default().extend(statuses);
    }
    answered
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_aborted_at_whatever_moment_log_vault_tables_and_nodes_agree() {
    let _turn = TURN.lock().await;
    let seed = seed();
    let (database, mailbox) = (Arc::new(Database::create().await), Mailbox::create());
    let mut env = database.env();
    env.extend(mailbox.env());
    env.insert("FULEXO_BCRYPT_COST".to_owned(), "7".to_owned());
    let nodes = [Node::with(&database, env.clone()).await, Node::with(&database, env).await];
    let admin = nodes[0].admin().await;
    let cast = Cast::gather(&nodes[0].url, admin, mailbox, 5).await;
    let urls = nodes.iter().map(|node| node.url.clone()).collect::<Vec<_>>();
    let answered = weather(&cast, &urls, seed).await;
    let mut happened = BTreeMap::<String, usize>::new();
    for event in leaves(&database).await {
        *happened.entry(event["type"].as_str().unwrap().to_owned()).or_default() += 1;
    }
    println!("{answered:?}, {happened:?}");
    assert!(happened.len() > 15, "a storm in which hardly anything happens");
    assert_eq!(answered.len(), commands().len(), "every operation was played");
    for node in &nodes {
        assert_eq!(node.app().tasks.ended(Duration::from_secs(60)).await, 0, "no command is left");
    }
    consistent(&database, &nodes).await;
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_killed_at_whatever_moment_what_is_recorded_is_whole() {
    let _turn = TURN.lock().await;
    let seed = seed();
    let (database, mailbox) = (Arc::new(Database::create().await), Mailbox::create());
    let mut env = database.env();
    env.extend(mailbox.env());
    env.insert("FULEXO_BCRYPT_COST".to_owned(), "7".to_owned());
    env.insert("FULEXO_PORT".to_owned(), free_port().to_string());
    env.insert("FULEXO_NODE_NAME".to_owned(), "killed".to_owned());
    let node = Node::join(&database).await;
    let admin = node.admin().await;
    let (mut dice, start) = (Dice(seed), || {
        block_in_place(|| {
            let mut program = Program::start(&["serve"], &env);
            let url = program.says("listening on ");
            (program, url)
        })
    });
    let (mut program, url) = start();
    let cast = Cast::gather(&url, admin, mailbox, 5).await;
    const KILLS: usize = 4;
    for kill in 0..KILLS {
        let storm = tokio::spawn({
            let (cast, url) = (Arc::clone(&cast), url.clone());
            async move { weather(&cast, &[url], seed.wrapping_add(kill as u64 * 100)).await }
        });
        // The kill comes at a moment of the storm that chance decides.
        sleep(Duration::from_millis(dice.between(300, 1_500).unsigned_abs())).await;
        block_in_place(|| program.kill());
        (program, _) = start();
        storm.await.unwrap();
    }
    assert!(block_in_place(|| program.stop("TERM")).status.success());
    // Each request under way at a kill may have counted one attempt.
    consistent_after_kills(&database, std::slice::from_ref(&node), KILLS * usize::try_from(CLIENTS).unwrap() * 2).await;
    node.stop().await;
}
