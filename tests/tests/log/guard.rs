//! Append-only for everybody: by role, and by triggers that no role gets around.

use fulexo_commands::log::AppendRequest;
use fulexo_domain::account::AccountEvent;
use fulexo_domain::leaf;
use fulexo_node::clock;
use fulexo_tests::Database;
use futures_util::future::join_all;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use uuid::Uuid;

use crate::audit::{audit, audit_from};
use crate::writing::{Running, change, claim, in_one_batch, is_new, new_id, observation, one, prepared};

/// Returns Postgres's refusal of a statement: SQLSTATE and message.
async fn refusal(connection: &mut PgConnection, statement: &str) -> Option<(String, String)> {
    let error = sqlx::query(AssertSqlSafe(statement)).execute(connection).await.err()?;
    let error = error.as_database_error().unwrap_or_else(|| panic!("{statement}: {error}"));
    Some((error.code().unwrap_or_default().into_owned(), error.message().to_owned()))
}

async fn is_denied(connection: &mut PgConnection, who: &str, statement: &str) -> String {
    match refusal(connection, statement).await {
        Some((code, message)) if code == "42501" => message,
        other => panic!("{who}: {statement}: {other:?}"),
    }
}

/// Returns each user, its connection after a first statement, and a flag: `true` if only the trigger refuses it.
async fn everybody(database: &Database) -> Vec<(&'static str, PgConnection, bool)> {
    let mut everybody = Vec::new();
    for (who, url, first, has_rights) in [
        ("the application", database.url(), "select", false),
        ("the owner", database.owner_url(), "select", true),
        ("a superuser", database.superuser_url(), "select", true),
        ("a replica", database.superuser_url(), "set session_replication_role = replica", true),
    ] {
        let mut connection = PgConnection::connect(&url).await.unwrap();
        sqlx::query(first).execute(&mut connection).await.unwrap();
        everybody.push((who, connection, has_rights));
    }
    everybody
}

/// Returns the statements on a table of events that nobody may run. Each would succeed, were it not refused.
fn changes(table: &str, free_position: u64) -> [String; 4] {
    [
        format!(
            "insert into {table} select (jsonb_populate_record(e, '{{\"position\": {free_position}}}')).*
             from log.event e limit 1"
        ),
        format!("update {table} set category = 'session'"),
        format!("delete from {table}"),
        format!("truncate {table}"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_changes_an_event_and_nobody_adds_one_by_hand() {
    let database = Database::create().await;
    assert!(
        in_one_batch(&database.url(), (0..3).map(|_| one(new_id(), observation())).collect()).await.iter().all(is_new)
    );
    let before = audit(&database).await;
    for (who, mut connection, has_rights) in everybody(&database).await {
        for (table, free) in [("log.event", 3), ("log.event_0", 3), ("log.event_1", 10_000_000)] {
            for statement in changes(table, free) {
                let message = is_denied(&mut connection, who, &statement).await;
                assert_eq!(message.contains("append-only"), has_rights, "{who}: {statement}: {message}");
            }
        }
    }
    assert_eq!(audit(&database).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_application_writes_to_no_table_of_the_log_by_itself() {
    let database = Database::create().await;
    let mut application = PgConnection::connect(&database.url()).await.unwrap();
    for (table, column) in [
        ("log.head", "position"),
        ("log.stream", "version"),
        ("log.sealed", "ciphertext"),
        ("log.command", "result"),
        ("log.unique_key", "stream_id"),
    ] {
        for statement in [
            format!("insert into {table} select * from {table}"),
            format!("update {table} set {column} = {column}"),
            format!("truncate {table}"),
        ] {
            is_denied(&mut application, "the application", &statement).await;
        }
    }
    for table in ["log.head", "log.stream", "log.unique_key"] {
        is_denied(&mut application, "the application", &format!("delete from {table}")).await;
    }
    // Nobody's address but that of an erased account is released.
    let held = one(new_id(), AccountEvent::Registered {}.into());
    let holder = held.events[0].draft().stream.id;
    in_one_batch(&database.url(), vec![AppendRequest { claims: vec![claim(1, holder)], ..held }]).await;
    is_denied(&mut application, "the application", &format!("select log.release_keys('{holder}')")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_becomes_the_sequencer() {
    let database = Database::create().await;
    for (who, url) in [("the application", database.url()), ("the owner", database.owner_url())] {
        let mut connection = PgConnection::connect(&url).await.unwrap();
        for statement in ["set role fulexo_sequencer", "set session authorization fulexo_sequencer"] {
            is_denied(&mut connection, who, statement).await;
        }
    }
    let mut application = PgConnection::connect(&database.url()).await.unwrap();
    is_denied(&mut application, "the application", "grant fulexo_sequencer to current_user").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leaf_that_does_not_have_its_hash_is_refused() {
    let database = Database::create().await;
    let mut application = PgConnection::connect(&database.url()).await.unwrap();
    let (id, now) = (new_id(), clock::now());
    let leaf = prepared(id, change()).leaf(now, 1);
    let right = leaf::hash(&leaf).to_vec();
    let mut wrong = right.clone();
    wrong[31] ^= 1;
    let mut outcomes = Vec::new();
    for hash in [wrong, right] {
        let appended = sqlx::query(
            "select log.try_append(
                foretold_categories => '{account}', foretold_streams => array[$2], foretold_versions => '{0}',
                first_time => $1, last_time => $1, categories => '{account}', streams => array[$2],
                versions => '{1}', leaves => array[$3], leaf_hashes => array[$4],
                sealed_events => '{}', sealed_ordinals => '{}', sealed_subjects => '{}', sealed_periods => '{}',
                sealed_nonces => '{}', sealed_ciphertexts => '{}',
                sealed_ip_digests => '{}', sealed_email_digests => '{}',
                claimed_scopes => '{}', claimed_keys => '{}', claimed_by => '{}',
                new_command_ids => '{}', command_hashes => '{}', command_results => '{}',
                command_accounts => '{}')",
        )
        .bind(now)
        .bind(id)
        .bind(&leaf)
        .bind(hash)
        .execute(&mut application)
        .await;
        let refused = appended.err().map(|error| error.as_database_error().unwrap().constraint().unwrap().to_owned());
        outcomes.push(refused);
    }
    assert_eq!(outcomes, [Some("event_leaf_hash".to_owned()), None]);
    assert_eq!(audit(&database).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn appends_cross_into_a_new_partition_which_is_guarded_like_the_others() {
    const LAST_OF_THE_SECOND: u64 = 19_999_999;
    let database = Database::create().await;
    let mut superuser = PgConnection::connect(&database.superuser_url()).await.unwrap();
    sqlx::query("update log.head set position = $1")
        .bind(i64::try_from(LAST_OF_THE_SECOND - 1).unwrap())
        .execute(&mut superuser)
        .await
        .unwrap();

    // Nodes that start at the same time do this.
    let pool = database.pool().await;
    let extended = join_all((0..8).map(|_| sqlx::query_scalar::<_, i32>("select log.extend()").fetch_one(&pool))).await;
    assert_eq!(extended.into_iter().map(Result::unwrap).sum::<i32>(), 1, "the third one is made, once");

    let log = Running::start(&database.url()).await;
    let events = (0..5).map(|_| prepared(Uuid::nil(), observation())).collect();
    assert!(is_new(&log.log.append(AppendRequest { events, ..AppendRequest::default() }).await));
    assert!(is_new(&log.log.append(one(Uuid::nil(), observation())).await));
    log.stop().await;
    let before = audit_from(&database, LAST_OF_THE_SECOND - 1).await;
    let sizes: (i64, i64) =
        sqlx::query_as("select (select count(*) from log.event_1), (select count(*) from log.event_2)")
            .fetch_one(&mut superuser)
            .await
            .unwrap();
    assert_eq!(sizes, (2, 4));

    for (who, mut connection, _) in everybody(&database).await {
        for statement in changes("log.event_2", LAST_OF_THE_SECOND + 5) {
            is_denied(&mut connection, who, &statement).await;
        }
    }
    assert_eq!(audit_from(&database, LAST_OF_THE_SECOND - 1).await, before);
}
