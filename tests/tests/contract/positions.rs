//! Reading one's own writes: a query that is given a command's position sees what the command did.

use std::sync::Arc;
use std::time::{Duration, Instant};

use fulexo_database::begin;
use fulexo_tests::{Database, Dice, Node, PASSWORD, log_size, superuser};
use futures_util::future::join_all;
use serde_json::json;
use tokio::time::timeout;

use crate::assert_problem;

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_times_a_query_sees_the_command_before_it() {
    let node = Node::start().await;
    let admin = node.admin().await;
    for round in 0..50 {
        let mut ann = node.anonymous();
        let credentials = json!({"email": format!("ann-{round}@example.com"), "password": PASSWORD});
        let registered = ann.post("/v1/auth/register", credentials.clone()).await;
        let path = format!("/v1/accounts/{}", registered.json["account_id"].as_str().unwrap());
        let seen = admin.seeing(registered.position()).get(&path).await;
        assert_eq!((seen.status, &seen.json["email"]), (200, &credentials["email"]), "round {round}: {seen:?}");

        let login = ann.post("/v1/auth/login", credentials).await;
        ann.log_in_with(&login);
        let seen = ann.seeing(login.position()).get("/v1/me/sessions").await;
        assert_eq!(seen.json["items"][0]["session_id"], ann.session.to_string(), "round {round}: {seen:?}");

        let grant = admin.post(&format!("{path}/roles"), json!({"role": "auditor", "reason": "r"})).await;
        let seen = admin.seeing(grant.position()).get(&path).await;
        assert_eq!(seen.json["roles"], json!(["auditor", "customer"]), "round {round}: {seen:?}");

        let logout = ann.post_nothing("/v1/auth/logout").await;
        let seen =
            admin.seeing(logout.position()).get(&format!("/v1/audit/events?after={}", logout.position() - 1)).await;
        assert_eq!(seen.json["items"][0]["type"], "session.revoked", "round {round}: {seen:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_at_another_node_sees_the_command_too() {
    let database = Arc::new(Database::create().await);
    let (here, there) = (Node::join(&database).await, Node::join(&database).await);
    let admin = here.admin().await;
    let elsewhere = fulexo_tests::Client { url: there.url.clone(), ..admin.clone() };
    for _ in 0..20 {
        let (email, account) = here.register(&["customer"]).await;
        let grant =
            admin.post(&format!("/v1/accounts/{account}/roles"), json!({"role": "auditor", "reason": "r"})).await;
        let seen = elsewhere.seeing(grant.position()).get(&format!("/v1/accounts/{account}")).await;
        assert_eq!((&seen.json["email"], &seen.json["roles"]), (&json!(email), &json!(["auditor", "customer"])));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_position_that_a_view_has_not_seen_is_waited_for_and_then_refused() {
    let node = Node::start().await;
    let admin = node.admin().await;
    let paths = ["/v1/me", "/v1/me/sessions", "/v1/me/events", "/v1/accounts", "/v1/sessions", "/v1/audit/events"];
    let superuser = superuser(&node.database).await;
    let mut blocker = begin(&superuser).await.unwrap();
    sqlx::query("lock table projection.checkpoint in exclusive mode").execute(&mut *blocker).await.unwrap();
    node.register(&[]).await;
    let last = log_size(&node).await - 1;
    let ask = async |path| {
        let began = Instant::now();
        (path, admin.seeing(last).get(path).await, began.elapsed())
    };
    for (path, answer, waited) in join_all(paths.into_iter().map(ask)).await {
        assert_problem(&answer, 503, "behind");
        assert!(answer.header("retry-after").is_some_and(|seconds| seconds.parse::<u64>().is_ok()), "{answer:?}");
        assert!(waited > Duration::from_millis(500) && waited < Duration::from_secs(20), "{path}: {waited:?}");
    }
    blocker.rollback().await.unwrap();
    assert_eq!(admin.seeing(last).get("/v1/accounts").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_position_that_the_log_does_not_have_is_bad_input() {
    let node = Node::start().await;
    let admin = node.admin().await;
    let size = log_size(&node).await;
    for path in ["/v1/me", "/v1/me/sessions", "/v1/me/events", "/v1/accounts", "/v1/sessions", "/v1/audit/events"] {
        assert_eq!(admin.seeing(size - 1).get(path).await.status, 200, "{path}");
        for position in [size, 1_000_000, u64::MAX] {
            let answer = admin.seeing(position).get(path).await;
            assert_problem(&answer, 400, "invalid_input");
            assert_eq!(answer.json["errors"][0]["pointer"], "/Log-Min-Position");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiting_query_is_answered_as_soon_as_its_position_is_there() {
    let node = Node::start().await;
    let admin = node.admin().await;
    let superuser = superuser(&node.database).await;
    let mut blocker = begin(&superuser).await.unwrap();
    sqlx::query("lock table projection.checkpoint in exclusive mode").execute(&mut *blocker).await.unwrap();
    let (email, _) = node.register(&["customer"]).await;
    let last = log_size(&node).await - 1;
    let waiting = tokio::spawn(async move { admin.seeing(last).get("/v1/accounts").await });
    // This is time enough for an answer, if it did not wait.
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!waiting.is_finished());
    blocker.rollback().await.unwrap();
    let answer = waiting.await.unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(answer.text.contains(&email), "{answer:?}");
}

/// Without a header, the node that did it waits for its own read models, but not for long. It does not claim to have
/// seen what it has not seen by then, on a busy machine.
#[tokio::test(flavor = "multi_thread")]
async fn a_query_sees_what_its_node_did_before_without_asking_for_it() {
    let node = Node::start().await;
    let admin = node.admin().await;
    let (mut asked, mut seen) = (0, 0);
    for round in 0..50 {
        let (_, account) = node.register(&["customer"]).await;
        let path = format!("/v1/accounts/{account}");
        let grant = admin.post(&format!("{path}/roles"), json!({"role": "auditor", "reason": "r"})).await;
        let id = account.to_string();
        let newest = [
            (path, "/roles", json!(["auditor", "customer"])),
            ("/v1/accounts?role=auditor&order=desc&limit=1".to_owned(), "/items/0/account_id", json!(id)),
            ("/v1/grants?account_id=".to_owned() + &id, "/items/0/role", json!("auditor")),
            (
                "/v1/audit/events?type=account.role_granted&order=desc&limit=1".to_owned(),
                "/items/0/position",
                json!(grant.position()),
            ),
        ];
        for (path, pointer, value) in newest {
            let began = Instant::now();
            let answer = admin.get(&path).await;
            asked += 1;
            if answer.status == 200 && answer.position() >= grant.position() {
                // A second read model holds the holders of a role.
                let by_role = path.contains("role=auditor") && answer.json.pointer(pointer) != Some(&value);
                assert!(by_role || answer.json.pointer(pointer) == Some(&value), "round {round}, {path}: {answer:?}");
                seen += usize::from(!by_role);
            } else {
                assert!(began.elapsed() >= Duration::from_millis(250), "round {round}, {path}: {answer:?}");
            }
        }
    }
    assert!(seen * 2 > asked, "{seen} of {asked} saw it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_that_asks_for_nothing_is_answered_by_a_read_model_that_is_behind_and_told_so() {
    let node = Node::start().await;
    let admin = node.admin().await;
    let before = admin.get("/v1/accounts?order=desc&limit=1").await;
    let superuser = superuser(&node.database).await;
    let mut blocker = begin(&superuser).await.unwrap();
    sqlx::query("lock table projection.checkpoint in exclusive mode").execute(&mut *blocker).await.unwrap();
    let (_, account) = node.register(&[]).await;
    let began = Instant::now();
    let answer = admin.get("/v1/accounts?order=desc&limit=1").await;
    let waited = began.elapsed();
    assert_eq!((answer.status, &answer.json), (200, &before.json), "{answer:?}");
    assert!(answer.position() < log_size(&node).await - 1, "{answer:?}");
    assert!(waited >= Duration::from_millis(250), "{waited:?}");
    blocker.rollback().await.unwrap();
    let answer = admin.seeing(log_size(&node).await - 1).get("/v1/accounts?order=desc&limit=1").await;
    assert_eq!(answer.json["items"][0]["account_id"], account.to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_leave_while_their_queries_wait_take_no_place_with_them() {
    let node = Node::start().await;
    let admin = node.admin().await;
    let superuser = superuser(&node.database).await;
    let mut blocker = begin(&superuser).await.unwrap();
    sqlx::query("lock table projection.checkpoint in exclusive mode").execute(&mut *blocker).await.unwrap();
    node.register(&[]).await;
    let mut dice = Dice(5);
    let mut left = 0;
    // These are more than a node has places for, in waves.
    for _ in 0..12 {
        let patience: Vec<u64> = (0..100).map(|_| dice.roll(300)).collect();
        let queries = patience
            .into_iter()
            .map(|millis| timeout(Duration::from_millis(millis), admin.get("/v1/accounts?order=desc&limit=1")));
        for answer in join_all(queries).await {
            match answer {
                Ok(answer) => assert!([200, 503].contains(&answer.status), "{answer:?}"),
                Err(_) => left += 1,
            }
        }
    }
    assert!(left > 600, "{left} left");
    blocker.rollback().await.unwrap();
    let seen = admin.seeing(log_size(&node).await - 1);
    let all = join_all((0..100).map(|_| seen.get("/v1/accounts?order=desc&limit=1"))).await;
    assert!(all.iter().all(|answer| answer.status == 200), "every place is free: {all:?}");
}
