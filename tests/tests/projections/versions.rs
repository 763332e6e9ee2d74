//! A new version of a view replaces the old one, and is replaced by it, and nobody who reads or writes notices.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

use fulexo_database::begin_on;
use fulexo_projections::read_models::Projection;
use fulexo_projections::rebuild::{
    RebuildError, RebuildOptions, RebuildProgress, RebuildReport, RollbackReport, rebuild, roll_back,
};
use fulexo_projections::status::{BuildStatus, statuses};
use fulexo_tests::{Client, Database, Node, history, poison};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio::sync::Notify;

use crate::{caught_up, eventually, health, log_size, rebuilt, superuser};

async fn rolled_back(database: &Database, projection: Projection) -> Result<RollbackReport, RebuildError> {
    roll_back(&database.pool().await, projection, |_, _| {}).await
}

/// Panics unless a list shows everybody who was there before it was asked for.
async fn sees_all(reader: &Client, path: &str, known: &BTreeSet<String>) {
    let answer = reader.get(path).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let missing = known.iter().find(|id| !answer.text.contains(id.as_str()));
    assert_eq!(missing, None, "{path}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_reader_sees_an_empty_or_a_half_view_while_versions_change_places() {
    let node = Node::start().await;
    let admin = node.admin().await;
    let is_over = AtomicBool::new(false);
    let (mut accounts, mut sessions) = (BTreeSet::new(), BTreeSet::new());
    let reads = async {
        let mut rounds = 0;
        while !is_over.load(Ordering::Relaxed) {
            // A list has 200 items at most.
            if accounts.len() < 150 {
                let ann = node.customer().await;
                accounts.insert(ann.account.to_string());
                sessions.insert(ann.session.to_string());
            }
            let reader = admin.seeing(log_size(&node).await - 1);
            let ((), ()) = tokio::join!(
                sees_all(&reader, "/v1/accounts?limit=200", &accounts),
                sees_all(&reader, "/v1/sessions?limit=200", &sessions)
            );
            rounds += 1;
        }
        rounds
    };
    let changes = async {
        for _ in 0..3 {
            for projection in Projection::ALL {
                let rebuilt = rebuilt(&node.database, projection).await.unwrap();
                assert!(rebuilt.comparison.is_same(), "{rebuilt:?}");
                let back = rolled_back(&node.database, projection).await.unwrap();
                assert_eq!((back.kept_version, back.version + 1), (rebuilt.version, rebuilt.version), "{projection:?}");
                let forth = rolled_back(&node.database, projection).await.unwrap();
                assert_eq!((forth.version, forth.kept_version), (back.kept_version, back.version), "{projection:?}");
            }
        }
        is_over.store(true, Ordering::Relaxed);
    };
    let (rounds, ()) = tokio::join!(reads, changes);
    assert!(rounds > 0);
    caught_up(&node, &admin).await;
    let mut superuser = superuser(&node.database).await;
    let (events, last): (i64, i64) =
        sqlx::query_as("select count(*), max(position) from read.audit").fetch_one(&mut superuser).await.unwrap();
    assert_eq!((events, last + 1), (last + 1, log_size(&node).await.cast_signed()), "no gap, and nothing twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_altered_is_counted_and_named() {
    let node = Node::start().await;
    let (ann, bob, admin) = (node.customer().await, node.customer().await, node.admin().await);
    caught_up(&node, &admin).await;
    let mut superuser = superuser(&node.database).await;
    for (statement, id) in [
        ("update read.account set suspended = true where account_id = $1", ann.account),
        ("delete from read.account where account_id = $1", bob.account),
        (
            "insert into read.account select (jsonb_populate_record(a, jsonb_build_object('account_id', gen_random_uuid()))).*
             from read.account a where a.account_id = $1",
            ann.account,
        ),
        (
            "update read.account_past set suspended = true where account_id = $1
             and since = (select min(since) from read.account_past where account_id = $1)",
            ann.account,
        ),
    ] {
        let done = sqlx::query(statement).bind(id).execute(&mut superuser).await.unwrap();
        assert_eq!(done.rows_affected(), 1, "{statement}");
    }
    let found = rebuilt(&node.database, Projection::Accounts).await.unwrap().comparison;
    assert_eq!((found.differing, found.examples.len()), (4, 4), "{found:?}");
    for id in [ann.account, bob.account] {
        assert!(found.examples.contains(&format!("account {id}")), "{found:?}");
    }
    let of_the_past = format!("account_past {} ", ann.account);
    assert!(found.examples.iter().any(|example| example.starts_with(&of_the_past)), "{found:?}");
    let shown = admin.get(&format!("/v1/accounts/{}", bob.account)).await;
    assert_eq!(shown.status, 200, "the log's word stands: {shown:?}");
    rolled_back(&node.database, Projection::Accounts).await.unwrap();
    let shown = admin.get(&format!("/v1/accounts/{}", bob.account)).await;
    assert_eq!(shown.status, 404, "what was there before is back: {shown:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_is_brought_back_has_missed_nothing_and_is_followed() {
    let node = Node::start().await;
    let admin = node.admin().await;
    caught_up(&node, &admin).await;
    let nothing = rolled_back(&node.database, Projection::Sessions).await;
    assert!(matches!(nothing, Err(RebuildError::NoPreviousVersion(Projection::Sessions))), "{nothing:?}");
    assert_eq!(rebuilt(&node.database, Projection::Sessions).await.unwrap().version, 2);
    let meanwhile = node.customer().await;
    caught_up(&node, &admin).await;
    let back = rolled_back(&node.database, Projection::Sessions).await.unwrap();
    assert_eq!((back.version, back.kept_version, back.position), (1, 2, log_size(&node).await));
    let after = node.customer().await;
    let sessions = admin.seeing(log_size(&node).await - 1).get("/v1/sessions").await;
    for client in [&meanwhile, &after] {
        assert!(sessions.text.contains(&client.session.to_string()), "{sessions:?}");
    }
    eventually("health names the version", async || health(&node).await["projections"][1]["version"] == 1).await;
    let third = rebuilt(&node.database, Projection::Sessions).await.unwrap();
    assert!(third.comparison.is_same() && third.version == 3, "no version has the number of another: {third:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_reader_delays_a_switch_and_nobody_else_and_two_rebuilds_do_not_meet() {
    let node = Node::start().await;
    let admin = node.admin().await;
    let mut connection = superuser(&node.database).await;
    let mut reader = begin_on(&mut connection).await.unwrap();
    sqlx::query("lock table read.account in access share mode").execute(&mut *reader).await.unwrap();
    let pool = node.database.pool().await;
    let waits = Notify::new();
    let first = async {
        let options = RebuildOptions { program: "the tests".into(), restart: false };
        let tell = |_, news| {
            if news == RebuildProgress::WaitingForReaders {
                waits.notify_one();
            }
        };
        let mut outcomes = rebuild(&pool, &[Projection::Accounts], &options, tell).await.unwrap();
        outcomes.pop().unwrap().1.unwrap()
    };
    let meanwhile = async {
        waits.notified().await;
        let second = rebuilt(&node.database, Projection::Accounts).await;
        assert!(matches!(second, Err(RebuildError::AlreadyRunning(Projection::Accounts))), "{second:?}");
        let back = rolled_back(&node.database, Projection::Accounts).await;
        assert!(matches!(back, Err(RebuildError::AlreadyRunning(Projection::Accounts))), "{back:?}");
        let build = statuses(&pool).await.unwrap().remove(0).build;
        assert!(matches!(build, Some(BuildStatus { version: 2, is_under_way: true, .. })), "{build:?}");
        node.customer().await;
        let answer = admin.seeing(log_size(&node).await - 1).get("/v1/accounts").await;
        assert_eq!(answer.status, 200, "the view is read, and followed: {answer:?}");
        reader.rollback().await.unwrap();
    };
    let (rebuilt, ()) = tokio::join!(first, meanwhile);
    assert!(rebuilt.comparison.is_same(), "{rebuilt:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_waits_for_a_process_that_died_and_whose_statement_the_server_still_ends() {
    let node = Node::start().await;
    node.admin().await;
    let mut dead = superuser(&node.database).await;
    let lock = "select pg_advisory_lock(hashtextextended('projection.build accounts', 0))";
    sqlx::query(lock).execute(&mut dead).await.unwrap();
    let process = tokio::spawn(async move {
        sqlx::query("select pg_sleep(8)").execute(&mut dead).await.unwrap();
    });
    let pool = node.database.pool().await;
    eventually("the statement runs", async || {
        let running = "select count(*) from pg_stat_activity where query = 'select pg_sleep(8)' and state = 'active'";
        sqlx::query_scalar::<_, i64>(running).fetch_one(&mut superuser(&node.database).await).await.unwrap() == 1
    })
    .await;
    process.abort();
    assert!(statuses(&pool).await.unwrap().remove(0).build.is_none());
    let rebuilt = rebuilt(&node.database, Projection::Accounts).await.unwrap();
    assert!(rebuilt.comparison.is_same(), "{rebuilt:?}");
}

/// Rebuilds the audit index until this is told, and is dropped; returns the first thing that was told.
async fn interrupted(
    database: &Database,
    options: &RebuildOptions,
    at: impl Fn(&RebuildProgress) -> bool,
) -> RebuildProgress {
    let pool = database.pool().await;
    let reached = Notify::new();
    let mut begun = None;
    let tell = |_, news| {
        if at(&news) {
            reached.notify_one();
        }
        begun.get_or_insert(news);
    };
    tokio::select! {
        outcomes = rebuild(&pool, &[Projection::Audit], options, tell) => panic!("it ended: {outcomes:?}"),
        () = reached.notified() => {}
    }
    begun.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_rebuild_is_resumed_by_the_same_program_alone() {
    let database = Database::create().await;
    history::fill(&database, 60_000).await;
    let options = |program: &str, restart| RebuildOptions { program: program.to_owned(), restart };
    let has_begun = |news: &RebuildProgress| matches!(news, RebuildProgress::Started { .. });
    let a_batch_is_in = |news: &RebuildProgress| matches!(news, RebuildProgress::Advanced { position: 1.. });
    let begun = interrupted(&database, &options("one", false), a_batch_is_in).await;
    assert_eq!(begun, RebuildProgress::Started { version: 2, position: 0, discarded: false });
    let pool = database.pool().await;
    let status = statuses(&pool).await.unwrap().pop().unwrap();
    assert_eq!((status.version, status.position, status.previous), (1, 0, None), "nothing is switched");
    let begun = interrupted(&database, &options("one", false), has_begun).await;
    assert!(
        matches!(begun, RebuildProgress::Started { version: 2, position: 20_000.., discarded: false }),
        "{begun:?}"
    );
    let begun = interrupted(&database, &options("another", false), a_batch_is_in).await;
    assert_eq!(begun, RebuildProgress::Started { version: 2, position: 0, discarded: true });
    let begun = interrupted(&database, &options("another", true), a_batch_is_in).await;
    assert_eq!(begun, RebuildProgress::Started { version: 2, position: 0, discarded: true });

    let mut outcomes = rebuild(&pool, &[Projection::Audit], &options("another", false), |_, _| {}).await.unwrap();
    let rebuilt = outcomes.pop().unwrap().1.unwrap();
    assert_eq!((rebuilt.version, rebuilt.events), (2, 60_000));
    let (rows, last): (i64, i64) = sqlx::query_as("select count(*), max(position) from read.audit")
        .fetch_one(&mut superuser(&database).await)
        .await
        .unwrap();
    assert_eq!((rows, last), (60_000, 59_999), "each event once");
    assert_eq!(statuses(&pool).await.unwrap().pop().unwrap().build, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_cannot_be_read_stops_a_rebuild_and_nothing_is_switched() {
    let node = Node::start().await;
    let admin = node.admin().await;
    let position = poison(&node.database).await;
    for projection in Projection::ALL {
        let stopped = rebuilt(&node.database, projection).await;
        let Err(RebuildError::Feed(error)) = stopped else { panic!("{stopped:?}") };
        assert_eq!(error.position(), Some(position), "{error}");
    }
    for status in statuses(&node.database.pool().await).await.unwrap() {
        assert_eq!((status.version, status.previous), (1, None), "{status:?}");
    }
    assert!(admin.get("/v1/accounts").await.text.contains(&admin.account.to_string()), "it is still read");
}

/// Returns everything that a table of the live views is made of, except its rows.
async fn anatomy(connection: &mut PgConnection) -> Vec<String> {
    sqlx::query_scalar(
        "select format('%s %s %s', c.relname, c.relacl::text, c.reloptions::text)
         from pg_class c where c.relnamespace = 'read'::regnamespace and c.relkind = 'r'
         union all
         select format('%s %s %s %s %s', a.attrelid::regclass, a.attnum, a.attname, format_type(a.atttypid, a.atttypmod),
                       a.attnotnull)
         from pg_attribute a join pg_class c on c.oid = a.attrelid
         where c.relnamespace = 'read'::regnamespace and c.relkind = 'r' and a.attnum > 0
         union all
         select pg_get_indexdef(i.indexrelid) from pg_index i join pg_class c on c.oid = i.indrelid
         where c.relnamespace = 'read'::regnamespace
         union all
         select format('%s %s %s', n.conrelid::regclass, n.conname, pg_get_constraintdef(n.oid)) from pg_constraint n
         where n.connamespace = 'read'::regnamespace
         order by 1",
    )
    .fetch_all(connection)
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_version_has_every_index_constraint_and_grant_that_the_one_before_had() {
    let database = Database::create().await;
    let mut superuser = superuser(&database).await;
    // No migration does this today, but one may do it tomorrow.
    for statement in [
        "alter table read.session set (fillfactor = 70)",
        "alter table read.session add constraint session_start_counts check (started_position >= 0)",
        "create unique index session_position on read.session (started_position)",
    ] {
        sqlx::query(statement).execute(&mut superuser).await.unwrap();
    }
    let before = anatomy(&mut superuser).await;
    assert!(before.len() > 40, "{before:?}");
    for projection in Projection::ALL {
        rebuilt(&database, projection).await.unwrap();
    }
    assert_eq!(anatomy(&mut superuser).await, before);
    for projection in Projection::ALL {
        rolled_back(&database, projection).await.unwrap();
    }
    assert_eq!(anatomy(&mut superuser).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_database_and_the_program_agree_on_the_tables_of_each_view() {
    let database = Database::create().await;
    let mut superuser = superuser(&database).await;
    let mut all = BTreeSet::new();
    for projection in Projection::ALL {
        let mut tables: Vec<String> = sqlx::query_scalar("select projection.relations($1)")
            .bind(projection.as_str())
            .fetch_all(&mut superuser)
            .await
            .unwrap();
        tables.sort_unstable();
        let mut expected = projection.tables().to_vec();
        expected.sort_unstable();
        assert_eq!(tables, expected, "{projection:?}");
        all.extend(tables);
    }
    let there: Vec<String> = sqlx::query_scalar("select tablename::text from pg_tables where schemaname = 'read'")
        .fetch_all(&mut superuser)
        .await
        .unwrap();
    assert_eq!(all, there.into_iter().collect(), "a table of no view, or of a view that is not listed");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_application_moves_tables_of_known_views_alone_and_in_order() {
    let database = Database::create().await;
    let mut application = PgConnection::connect(&database.url()).await.unwrap();
    let refused = async |connection: &mut PgConnection, statement: &str| {
        let outcome = sqlx::query(AssertSqlSafe(statement)).execute(connection).await;
        let error = outcome.map(|done| panic!("{statement}: {done:?}")).unwrap_err();
        error.as_database_error().unwrap().code().unwrap().into_owned()
    };
    for function in
        ["begin_build($$NAME$$, '')", "discard_build($$NAME$$)", "finish_build($$NAME$$)", "relations($$NAME$$)"]
    {
        for name in ["", "account", "ACCOUNTS", "accounts; drop table read.account", "../read", "pg_class"] {
            let statement = format!("select projection.{}", function.replace("NAME", name));
            assert_eq!(refused(&mut application, &statement).await, "22023", "{statement}");
        }
    }
    // Nothing is built, half built, or kept.
    for statement in ["select projection.switch_build('accounts')", "select projection.switch_back('accounts')"] {
        assert_eq!(refused(&mut application, statement).await, "55000", "{statement}");
    }
    sqlx::query("select projection.begin_build('accounts', 'x')").execute(&mut application).await.unwrap();
    assert_eq!(refused(&mut application, "select projection.switch_build('accounts')").await, "55000");
    assert_eq!(refused(&mut application, "select projection.begin_build('accounts', 'x')").await, "42P07");
    sqlx::query("update projection.checkpoint set position = 5 where name = 'accounts'")
        .execute(&mut application)
        .await
        .unwrap();
    sqlx::query("select projection.finish_build('accounts')").execute(&mut application).await.unwrap();
    let behind = refused(&mut application, "select projection.switch_build('accounts')").await;
    assert_eq!(behind, "55000", "readers would be taken back");
    for statement in [
        "select projection.index_in('read', 'read.account_pkey'::regclass, 'account')",
        "create table read_next.mine ()",
        "create table read.mine ()",
        "drop table read.account",
        "drop table read_next.account",
        "alter table read.account set schema read_previous",
        "insert into projection.relation values ('event', 'accounts')",
        "insert into projection.build (name, version, program) values ('x', 1, 'x')",
        "update projection.build set indexed = true",
        "update projection.build set version = 9",
        "insert into projection.previous values ('accounts', 1, 0)",
        "create schema read_more",
    ] {
        assert_eq!(refused(&mut application, statement).await, "42501", "{statement}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_has_one_owner_and_another_node_takes_over() {
    let database = std::sync::Arc::new(Database::create().await);
    let named = |name: &str| {
        let mut env = database.env();
        env.insert("FULEXO_NODE_NAME".into(), name.to_owned());
        env
    };
    let (one, other) = (Node::with(&database, named("one")).await, Node::with(&database, named("other")).await);
    let admin = one.admin().await;
    for _ in 0..20 {
        one.register(&["customer"]).await;
    }
    caught_up(&one, &admin).await;
    caught_up(&other, &Client { url: other.url.clone(), ..admin.clone() }).await;
    for node in [&one, &other] {
        for view in health(node).await["projections"].as_array().unwrap() {
            assert!(view["owner"] == "one" || view["owner"] == "other", "{view}");
        }
    }
    one.stop().await;
    other.register(&["customer"]).await;
    caught_up(&other, &Client { url: other.url.clone(), ..admin }).await;
    for status in statuses(&database.pool().await).await.unwrap() {
        assert_eq!(status.owner.as_deref(), Some("other"), "{status:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn several_views_are_rebuilt_in_one_reading_and_one_that_cannot_be_does_not_hold_up_the_others() {
    let node = Node::start().await;
    let admin = node.admin().await;
    caught_up(&node, &admin).await;
    let mut superuser = superuser(&node.database).await;
    // The copy of the table has it too.
    let obstacle = "alter table read.session add constraint obstacle check (false) not valid";
    sqlx::query(obstacle).execute(&mut superuser).await.unwrap();
    let options = RebuildOptions { program: "the tests".into(), restart: false };
    let outcomes = rebuild(&node.database.pool().await, &Projection::ALL, &options, |_, _| {}).await.unwrap();
    assert_eq!(outcomes.len(), Projection::ALL.len());
    for (projection, outcome) in outcomes {
        match outcome {
            Ok(RebuildReport { comparison, version: 2, .. }) => {
                assert!(projection != Projection::Sessions && comparison.is_same(), "{projection:?}");
            }
            other => assert!(projection == Projection::Sessions && other.is_err(), "{projection:?}: {other:?}"),
        }
    }
    assert_eq!(statuses(&node.database.pool().await).await.unwrap().remove(1).version, 1);
}
