//! `fulexo rebuild` and `fulexo projections`: killed, interrupted, resumed, told of differences.

use std::collections::BTreeMap;

use fulexo_database::begin;
use fulexo_tests::{Database, eventually, history, superuser};
use serde_json::Value;
use sqlx::PgPool;
use tokio::task::block_in_place;

use fulexo_tests::Program;

/// The events of three batches.
const EVENTS: usize = 60_000;

/// Creates a database with a history that no view has seen; returns the one variable that these verbs need, too.
async fn start() -> (Database, BTreeMap<String, String>, PgPool) {
    let database = Database::create().await;
    history::fill(&database, EVENTS).await;
    let env = BTreeMap::from([("DATABASE_URL".to_owned(), database.url())]);
    let superuser = superuser(&database).await;
    (database, env, superuser)
}

/// Returns the entry of one projection in `fulexo projections --json`.
fn standing(env: &BTreeMap<String, String>, name: &str) -> Value {
    let text = block_in_place(|| Program::start(&["projections", "--json"], env).says("["));
    let standings: Vec<Value> = serde_json::from_str(&format!("[{text}")).unwrap();
    standings.into_iter().find(|standing| standing["name"] == name).unwrap()
}

/// Begins to rebuild the audit index. The rebuild says so, and does not end before `meanwhile` is done: it cannot
/// switch while somebody reads the live index.
async fn half_way<T>(
    env: &BTreeMap<String, String>,
    superuser: &PgPool,
    beginning: &str,
    meanwhile: impl FnOnce(Program) -> T,
) -> T {
    let mut reading = begin(superuser).await.unwrap();
    sqlx::query("lock table read.audit in access share mode").execute(&mut *reading).await.unwrap();
    let program = Program::start(&["rebuild", "audit"], env);
    block_in_place(|| program.warns(beginning));
    let is_at_it = "select exists (select from projection.build where name = 'audit' and position > 0)
                       and exists (select from pg_locks where locktype = 'advisory'
                                   and database = (select oid from pg_database where datname = current_database()))";
    eventually("a batch is in", async || sqlx::query_scalar::<_, bool>(is_at_it).fetch_one(superuser).await.unwrap())
        .await;
    let result = block_in_place(|| meanwhile(program));
    reading.rollback().await.unwrap();
    result
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_that_was_killed_is_resumed_and_one_that_was_interrupted_says_that_it_will_be() {
    let (_database, env, superuser) = start().await;
    half_way(&env, &superuser, "audit: building version 2\n", |mut program| {
        let build = standing(&env, "audit")["build"].clone();
        assert_eq!((&build["version"], &build["under_way"]), (&2.into(), &true.into()), "{build}");
        program.kill();
    })
    .await;
    eventually("its connection is found dead", async || standing(&env, "audit")["build"]["under_way"] == false).await;
    let killed = standing(&env, "audit");
    assert_eq!((&killed["version"], &killed["position"]), (&1.into(), &0.into()), "nothing is switched: {killed}");

    let resumes = "audit: resuming version 2 from position ";
    let interrupted = half_way(&env, &superuser, resumes, |mut program| program.stop("INT")).await;
    assert_eq!(interrupted.status.code(), Some(1), "{}", interrupted.errors);
    assert!(interrupted.errors.contains("the next `fulexo rebuild` resumes from here"), "{}", interrupted.errors);

    let ended = Program::run(&["rebuild", "audit"], &env);
    assert_eq!(ended.status.code(), Some(0), "{}", ended.errors);
    assert!(ended.errors.contains(resumes), "{}", ended.errors);
    let counts = "select count(*), count(distinct position), max(position) from read.audit";
    let rows: (i64, i64, i64) = sqlx::query_as(counts).fetch_one(&superuser).await.unwrap();
    let events = i64::try_from(EVENTS).unwrap();
    assert_eq!(rows, (events, events, events - 1), "each event once");
    let standing = standing(&env, "audit");
    assert_eq!((&standing["version"], &standing["lag"], &standing["build"]), (&2.into(), &0.into(), &Value::Null));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_tells_what_differs_and_a_rollback_brings_it_back() {
    let (_database, env, superuser) = start().await;
    let first = Program::run(&["rebuild", "--all"], &env);
    assert_eq!(first.status.code(), Some(0), "{}", first.errors);
    let statement = "update read.account set suspended = true
                     where account_id = (select min(account_id::text)::uuid from read.account) returning account_id::text";
    let altered: String = sqlx::query_scalar(statement).fetch_one(&superuser).await.unwrap();

    let second = Program::run(&["rebuild", "accounts", "sessions"], &env);
    assert_eq!(second.status.code(), Some(1), "{}", second.errors);
    let told =
        format!("1 row differs at position 60,000, for example account {altered}. To restore the previous version");
    assert!(second.errors.contains(&told), "{}", second.errors);
    // With so many events, COPY writes them, and their pasts in several rounds; a replay writes by arrays.
    let replayed = Program::run(&["replay"], &env);
    assert_eq!(replayed.status.code(), Some(0), "{}", replayed.errors);
    let versions = ["accounts", "sessions", "audit"].map(|name| standing(&env, name)["version"].clone());
    assert_eq!(versions, [3, 3, 2], "of one reading the others are switched all the same");
    let suspended = "select suspended from read.account where account_id = $1::uuid";
    let is_suspended =
        async || sqlx::query_scalar::<_, bool>(suspended).bind(&altered).fetch_one(&superuser).await.unwrap();
    assert!(!is_suspended().await);

    let mut back = Program::start(&["rebuild", "--rollback", "accounts"], &env);
    assert_eq!(
        block_in_place(|| back.says("accounts: ")),
        "version 2 is live again, at position 60,000; version 3 is kept"
    );
    assert!(is_suspended().await);
    let line = block_in_place(|| Program::start(&["projections"], &env).says("accounts "));
    let cells: Vec<&str> = line.split_whitespace().collect();
    assert_eq!(cells, ["2", "60,000", "0", "-", "3", "ok"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_is_told_which_and_how() {
    let env = BTreeMap::from([("DATABASE_URL".to_owned(), "postgres://nobody@127.0.0.1:1/nothing".to_owned())]);
    for arguments in [
        &["rebuild"][..],
        &["rebuild", "everything"],
        &["rebuild", "--all", "accounts"],
        &["rebuild", "--rollback", "accounts", "--all"],
        &["rebuild", "--rollback", "accounts", "--restart"],
    ] {
        let ended = Program::run(arguments, &env);
        assert_eq!(ended.status.code(), Some(2), "{arguments:?}: {}", ended.errors);
    }
}
