//! Right passwords at once: an attempt waits for those under way ahead of it, and no longer than it may.

use std::sync::Arc;
use std::time::{Duration, Instant};

use fulexo_tests::{Answer, Client, Database, Node, PASSWORD};
use futures_util::future::join_all;
use serde_json::{Value, json};

use super::{leaves, log_in, log_size, superuser};

/// The reasons of the refusals in the log from this position on.
async fn reasons(node: &Node, from: u64) -> Vec<Value> {
    let leaves = leaves(&node.database).await.into_iter().skip(usize::try_from(from).unwrap());
    let failed = leaves.filter(|leaf| leaf["type"] == "authentication.failed");
    failed.map(|leaf| leaf["data"]["reason"].clone()).collect()
}

/// Fills the existing counters with attempts that began this long ago and are under way at some node.
async fn fill(node: &Node, age: &str) {
    let statement = format!(
        "update vault.attempt set pending = array_fill(now() - interval '{age}', array[5]),
                recent = array_fill(now() - interval '{age}', array[5])"
    );
    let filled = sqlx::query(sqlx::AssertSqlSafe(statement)).execute(&superuser(&node.database).await).await.unwrap();
    assert_eq!(filled.rows_affected(), 2, "of the address, and over all devices");
}

/// Returns a client after a failed login that gave this address a counter.
async fn counted(node: &Node, email: &str) -> Client {
    let nobody = node.anonymous();
    assert_eq!(log_in(&nobody, email, "not-the-Passw0rd!").await.status, 401);
    nobody
}

async fn timed(login: impl Future<Output = Answer>) -> (u16, Duration) {
    let began = Instant::now();
    (login.await.status, began.elapsed())
}

/// On a busy machine those are refused that have waited for as long as they may.
#[tokio::test(flavor = "multi_thread")]
async fn sixteen_right_passwords_at_once_log_in_or_have_waited_two_seconds() {
    let database = Arc::new(Database::create().await);
    let nodes = [Node::join(&database).await, Node::join(&database).await];
    let (email, _) = nodes[0].register(&["customer"]).await;
    for clients in [vec![nodes[0].anonymous()], nodes.each_ref().map(Node::anonymous).into()] {
        let before = log_size(&nodes[0]).await;
        let logins = (0..16).map(|number| timed(log_in(&clients[number % clients.len()], &email, PASSWORD)));
        let answers = join_all(logins).await;
        let (let_in, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(|(status, _)| *status == 200);
        assert!(let_in.len() >= 5, "at {} nodes: {refused:?}", clients.len());
        let waited = |(status, took): &(u16, Duration)| *status == 401 && *took >= Duration::from_secs(2);
        assert!(refused.iter().all(waited), "at {} nodes: {refused:?}", clients.len());
        assert_eq!(reasons(&nodes[0], before).await, vec!["too_many_concurrent"; refused.len()]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_sixteen_right_passwords_at_once_at_step_up_none_is_wrong() {
    let node = Node::start().await;
    let ann = node.customer().await;
    let steps = join_all((0..16).map(|_| ann.post("/v1/auth/step-up", json!({"password": PASSWORD})))).await;
    assert!(steps.iter().any(|answer| answer.status == 200));
    for answer in steps {
        // Of those that change one session at once, some may be told to try again; none is told that it was wrong.
        assert!(answer.status == 200 || answer.code() == "contended", "{answer:?}");
    }
    assert!(reasons(&node, 0).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_attempts_that_do_not_settle_one_waits_two_seconds_and_is_refused_as_pending() {
    let node = Node::start().await;
    let (email, _) = node.register(&["customer"]).await;
    for email in [email.as_str(), "nobody@example.com"] {
        sqlx::query("delete from vault.attempt").execute(&superuser(&node.database).await).await.unwrap();
        let nobody = counted(&node, email).await;
        fill(&node, "1 second").await;
        let before = log_size(&node).await;
        let (status, took) = timed(log_in(&nobody, email, PASSWORD)).await;
        assert_eq!(status, 401);
        assert!(took >= Duration::from_secs(2) && took < Duration::from_secs(30), "{email}: {took:?}");
        assert_eq!(reasons(&node, before).await, ["too_many_concurrent"], "{email}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_waits_gets_in_when_those_of_another_node_were_right_and_is_locked_out_when_they_were_wrong() {
    let node = Node::start().await;
    for (settle, status, refused) in [
        ("recent = '{}', pending = '{}'", 200, &[][..]),
        ("recent = '{}', pending = '{}', locks = 1, locked_until = now() + interval '1 hour'", 401, &["locked"]),
        ("pending = '{}'", 401, &["locked"]),
    ] {
        sqlx::query("delete from vault.attempt").execute(&superuser(&node.database).await).await.unwrap();
        let (email, _) = node.register(&["customer"]).await;
        let nobody = counted(&node, &email).await;
        fill(&node, "0 seconds").await;
        let before = log_size(&node).await;
        let superuser = superuser(&node.database).await;
        let (answer, ()) = tokio::join!(log_in(&nobody, &email, PASSWORD), async {
            // The login waits for those in flight first. If it comes later, it finds them settled, and ends the same
            // way.
            tokio::time::sleep(Duration::from_millis(300)).await;
            let settled = format!("update vault.attempt set {settle}");
            sqlx::query(sqlx::AssertSqlSafe(settled)).execute(&superuser).await.unwrap();
        });
        assert_eq!(answer.status, status, "{settle}: {answer:?}");
        assert_eq!(reasons(&node, before).await, refused, "{settle}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn attempts_of_a_node_that_died_are_not_waited_for() {
    let node = Node::start().await;
    let mut quickest = Duration::MAX;
    // Any one may be slow on a busy machine, and all would be if they waited.
    for _ in 0..5 {
        sqlx::query("delete from vault.attempt").execute(&superuser(&node.database).await).await.unwrap();
        let (email, _) = node.register(&["customer"]).await;
        let nobody = counted(&node, &email).await;
        fill(&node, "31 seconds").await;
        let before = log_size(&node).await;
        let (status, took) = timed(log_in(&nobody, &email, PASSWORD)).await;
        assert_eq!(status, 401);
        assert_eq!(reasons(&node, before).await, ["locked"]);
        quickest = quickest.min(took);
    }
    assert!(quickest < Duration::from_secs(2), "{quickest:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_under_way_once_all_is_answered() {
    let node = Node::start().await;
    let (email, _) = node.register(&["customer"]).await;
    let nobody = node.anonymous();
    let passwords = [PASSWORD, "wrong", "also wrong", PASSWORD, "not-the-Passw0rd!"];
    let logins = passwords.iter().cycle().take(15).map(|password| log_in(&nobody, &email, password));
    let others = (0..4).map(|_| log_in(&nobody, "nobody@example.com", PASSWORD));
    tokio::join!(join_all(logins), join_all(others));
    let statement = "select count(*) from vault.attempt where pending <> '{}'";
    let pending: i64 = sqlx::query_scalar(statement).fetch_one(&superuser(&node.database).await).await.unwrap();
    assert_eq!(pending, 0);
}
