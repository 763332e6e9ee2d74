//! Every verb that prints, with nobody reading: it ends as usual, and says nothing about it.

use std::collections::BTreeMap;

use fulexo_tests::{Client, Database, Program, history};
use tokio::task::block_in_place;

/// Returns the variables of a node on a database with a history that every view has seen.
async fn start() -> BTreeMap<String, String> {
    let database = Database::create().await;
    history::fill(&database, 2_000).await;
    let mut env = database.env();
    env.insert("DATABASE_OWNER_URL".to_owned(), database.owner_url());
    let ended = Program::run(&["rebuild", "--all"], &env);
    assert_eq!(ended.status.code(), Some(0), "{}", ended.errors);
    env
}

#[tokio::test(flavor = "multi_thread")]
async fn no_verb_fails_or_says_anything_where_nobody_reads() {
    let env = start().await;
    for verb in [
        "--help",
        "help rebuild",
        "--version",
        "openapi",
        "completions bash",
        "replay --json",
        "as-of 1999 metrics --json",
        "projections",
        "projections --json",
        "events --no-follow --from 0",
        "events --no-follow --from 0 --json",
        // Follows the log until somebody stops it, or nobody reads.
        "events --from 0",
        "as-of 1999 accounts",
        "as-of 1999 accounts --json",
        "as-of 1999 sessions",
        "as-of 1999 roles",
        "as-of 1999 grants",
        "as-of 1999 metrics",
        "replay",
        "rebuild audit",
        "rebuild --rollback audit",
        "migrate",
        "register --email operator@example.com --role admin",
        "lockdown logins --reason drill",
        "lockdown off --reason drill",
    ] {
        let arguments: Vec<&str> = verb.split(' ').collect();
        let ended = block_in_place(|| Program::start_unread(&arguments, &env).wait());
        assert_eq!(ended.status.code(), Some(0), "{verb}: {}", ended.errors);
        assert!(!ended.errors.contains("panicked") && !ended.errors.contains("ipe"), "{verb}: {}", ended.errors);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_keeps_its_exit_code_where_nobody_reads_why() {
    let nothing = BTreeMap::new();
    for (verb, code) in [("events --data-dir /nonexistent", 1), ("serve", 2), ("rebuild", 2), ("no-such-verb", 2)] {
        let arguments: Vec<&str> = verb.split(' ').collect();
        let ended = block_in_place(|| Program::start_unheard(&arguments, &nothing).wait());
        assert_eq!(ended.status.code(), Some(code), "{verb}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_nobody_listens_to_serves_all_the_same() {
    let mut env = Database::create().await.env();
    let port = fulexo_tests::free_port();
    env.insert("FULEXO_PORT".into(), port.to_string());
    let mut program = block_in_place(|| Program::start_unheard(&["serve"], &env));
    let client = Client::new(&format!("http://127.0.0.1:{port}"));
    fulexo_tests::eventually("it serves", async || {
        client
            .try_send(poem::http::Method::GET, "/health/live", None, "")
            .await
            .is_ok_and(|answer| answer.status == 200)
    })
    .await;
    assert_eq!(block_in_place(|| program.stop("TERM")).status.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_written_is_an_error() {
    let full = || std::fs::File::options().write(true).open("/dev/full").unwrap();
    let ended = block_in_place(|| Program::start_into(&["openapi"], &BTreeMap::new(), full().into()).wait());
    assert_eq!(ended.status.code(), Some(1));
    assert!(ended.errors.contains("cannot write to standard output: No space left on device"), "{}", ended.errors);
}
