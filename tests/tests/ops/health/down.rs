//! The service, PostgreSQL, NATS, and several of them down: the rest is said all the same, and in time.

use std::collections::BTreeMap;
use std::future::pending;
use std::time::{Duration, Instant};

use fulexo_tests::{Program, eventually};
use tokio::task::block_in_place;

use super::super::tls_servers::listen;
use super::{Checked, Ground, set};

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_killed_or_hangs_is_named_until_it_runs_again() {
    let ground = Ground::start().await;
    let mut env = ground.database.env();
    env.extend([("FULEXO_PORT".to_owned(), "0".to_owned()), ("FULEXO_NODE_NAME".to_owned(), "second".to_owned())]);
    let start = || {
        let mut program = block_in_place(|| Program::start(&["serve"], &env));
        block_in_place(|| program.says("listening on "));
        program
    };
    let leases = async |wanted: i64| {
        let held = "select count(*) from projection.node where clock_timestamp() - renewed_at < interval '2.1 seconds'";
        eventually("the leases are as they should be", async || {
            sqlx::query_scalar::<_, i64>(held).fetch_one(&ground.pool).await.unwrap() == wanted
        })
        .await;
    };
    let mut second = start();
    leases(2).await;
    assert_eq!(ground.check(&[]).findings(), set([]));
    second.signal("STOP");
    leases(1).await;
    let hung = ground.check(&[]);
    assert_eq!((hung.status, hung.findings()), (1, set(["nodes.down second"])), "{:#}", hung.report);
    second.kill();
    assert_eq!(ground.check(&[]).findings(), set(["nodes.down second"]));
    // From elsewhere the other nodes say so.
    let url = format!("https://localhost:{}", ground.node().port());
    eventually("the other node says so, too", async || {
        ground.check_with(&BTreeMap::new(), &["--url", &url]).findings() == set(["nodes.down second"])
    })
    .await;

    let _second = start();
    leases(2).await;
    let again = ground.check(&[]);
    assert_eq!(again.findings(), set([]), "{:#}", again.report);
    assert_eq!(again.facts("nodes")["summary"], "2 of 2 hold a lease, 1 restarted after a crash");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_service_down_the_database_is_asked() {
    let mut ground = Ground::start().await;
    let (port, url) = (ground.node().port(), ground.env["DATABASE_URL"].clone());
    ground.stop().await;
    let checked = ground.check(&[]);
    let own = format!("service.down https://127.0.0.1:{port}");
    assert_eq!((checked.status, checked.findings()), (1, set([own.as_str(), "nodes.none service"])));
    let passed = ["passed"].into();
    assert_eq!(checked.results_but(&["service", "nodes", "sources"]), passed, "{:#}", checked.report);
    assert_eq!(checked.result("sources"), "not_checked");
    assert_eq!(checked.facts("read_models")["source"], "database");

    // And the database, too.
    let both = ground.check_with(&ground.with("DATABASE_URL", &moved(&url, 1)), &[]);
    assert_eq!((both.status, both.findings()), (1, set([own.as_str(), "postgres.down database"])), "{:#}", both.report);
    for check in ["nodes", "read_models", "tree", "checkpoint", "keys", "lockdown", "incidents"] {
        assert!(both.reason(check).contains("PostgreSQL is down"), "{check}: {:#}", both.report);
    }
    for check in ["nats", "certificate", "backup"] {
        assert_eq!(both.result(check), "passed", "{check}: {:#}", both.report);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_postgresql_down_for_this_machine_the_service_is_asked() {
    let ground = Ground::start().await;
    let url = ground.env["DATABASE_URL"].clone();
    let checked = ground.check_with(&ground.with("DATABASE_URL", &moved(&url, 1)), &[]);
    assert_eq!((checked.status, checked.findings()), (1, set(["postgres.down database"])), "{:#}", checked.report);
    for check in ["nodes", "read_models", "tree", "checkpoint", "keys"] {
        assert_eq!(checked.result(check), "passed", "{check}: {:#}", checked.report);
    }
    assert_eq!(checked.facts("read_models")["source"], "service");
    // One that refuses is not down, and what it says has no password.
    let refused = ground.check_with(&ground.with("DATABASE_URL", &url.replace("fulexo:", "nobody:")), &[]);
    assert_eq!((refused.status, refused.findings()), (3, set([])), "{:#}", refused.report);
    assert!(refused.reason("postgres").contains("refuses the connection"), "{:#}", refused.report);
    let misused = ground.with("DATABASE_URL", "mysql://fulexo");
    assert_eq!(Program::run(&["health-check"], &misused).status.code(), Some(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_accept_and_never_answer_are_not_waited_for() {
    let ground = Ground::start().await;
    let silent = listen(|stream| async move {
        let _stream = stream;
        pending::<()>().await;
    })
    .await;
    let database = moved(&ground.env["DATABASE_URL"], silent.port);
    let mut env = ground.with("DATABASE_URL", &database);
    let began = Instant::now();
    let hung = Program::run(&["health-check", "--json"], &env);
    println!("health-check with a PostgreSQL that never answers: {:?}", began.elapsed());
    assert!(Checked::of(&hung).findings().contains("postgres.down database"), "{}", hung.said);

    env.insert("NATS_URL".to_owned(), format!("nats://127.0.0.1:{}", silent.port));
    let url = format!("http://127.0.0.1:{}", silent.port);
    let began = Instant::now();
    let urls = ["--url", &url, "--url", &format!("{url}/b"), "--without", "certificate"];
    let ended = Program::run(&[&["health-check", "--json"][..], &urls].concat(), &env);
    let took = began.elapsed();
    println!("health-check with nothing that answers: {took:?}");
    // Generous: without a bound it would never end.
    assert!(took < Duration::from_secs(60), "{took:?}");
    let findings = Checked::of(&ended).findings();
    let (first, second) = (format!("service.down {url}"), format!("service.down {url}/b"));
    let server = format!("nats.down 127.0.0.1:{}", silent.port);
    let wanted = set([&first, &second, &server, "postgres.down database"]);
    assert_eq!(findings, wanted, "{}", ended.said);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_nats_down_the_servers_and_the_nodes_that_miss_them_are_named() {
    let ground = Ground::start().await;
    let nats = ground.with("NATS_URL", "nats://fulexo:hunter2@127.0.0.1:1");
    let checked = ground.check_with(&nats, &[]);
    assert_eq!((checked.status, checked.findings()), (1, set(["nats.down 127.0.0.1:1"])), "{:#}", checked.report);
    assert!(!checked.report.to_string().contains("hunter2"), "{:#}", checked.report);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_on_a_table_is_not_waited_for_and_the_service_is_asked() {
    let ground = Ground::start().await;
    let mut holder = ground.pool.acquire().await.unwrap();
    sqlx::raw_sql("begin; lock table vault.key_epoch in access exclusive mode").execute(&mut *holder).await.unwrap();
    let checked = ground.check(&[]);
    sqlx::raw_sql("rollback").execute(&mut *holder).await.unwrap();
    assert_eq!((checked.status, checked.findings()), (3, set([])), "{:#}", checked.report);
    assert!(checked.reason("postgres").contains("holds a lock"), "{:#}", checked.report);
    assert_eq!((checked.result("tree"), &checked.facts("tree")["source"]), ("passed", &"service".into()));
}

/// Returns the URL with another port.
fn moved(url: &str, port: u16) -> String {
    fulexo_tests::postgres_wire::through(url, port)
}
