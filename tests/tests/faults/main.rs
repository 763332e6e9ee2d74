//! Three nodes, three NATS servers, one Postgres, under load: each of them killed, held up or cut off in turn. In every
//! case nobody is let in after it was acknowledged that they are out, and nothing is lost or done twice.

#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]

mod aborted;
mod cast;
mod checker;
mod ground;
mod load;

use std::time::{Duration, Instant};

use fulexo_tests::{Client, PASSWORD};
use hyper::Method;
use serde_json::json;
use tokio::sync::Mutex;
use tokio::time::sleep;
use uuid::Uuid;

use crate::checker::{all_is_there_once_and_every_view_agrees, nobody_was_let_in_after_the_acknowledgement};
use crate::ground::{Ground, NODES};
use crate::load::Load;

/// One test at a time: each takes the whole machine.
static TURN: Mutex<()> = Mutex::const_new(());

/// Panics unless every node was asked often enough for the checker to mean something.
fn assert_tried(refused: &std::collections::BTreeMap<usize, usize>) {
    for node in 0..NODES {
        assert!(refused.get(&node).is_some_and(|count| *count >= 20), "{refused:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_killed_one_after_another_let_nobody_in_and_lose_nothing() {
    let _turn = TURN.lock().await;
    let mut ground = Ground::start(1).await;
    let admin = ground.admin().await;
    let load = Load::start(&ground.urls(), &admin).await;
    for node in 0..NODES {
        ground.kill_node(node);
        load.goes_on(10).await;
        ground.start_node(node);
        load.goes_on(10).await;
    }
    let record = load.stop().await;
    assert_tried(&nobody_was_let_in_after_the_acknowledgement(&record));
    all_is_there_once_and_every_view_agrees(&ground, &record, &[admin.session]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_held_up_for_ten_seconds_serves_no_right_that_was_taken_meanwhile() {
    let _turn = TURN.lock().await;
    let ground = Ground::start(3).await;
    let admin = ground.admin().await;
    let load = Load::start(&ground.urls(), &admin).await;
    let held_up = ground.hold_up(1).await;
    let named = async {
        // Its last lease has run out by then.
        sleep(Duration::from_secs(4)).await;
        let here = Client { url: ground.urls()[0].clone(), ..admin.clone() };
        let body = json!({"email": "person-0@example.com", "password": PASSWORD});
        let login = Client::new(&here.url).post("/v1/auth/login", body).await;
        assert_eq!(login.status, 200, "{login:?}");
        let session: Uuid = login.json["session_id"].as_str().unwrap().parse().unwrap();
        let ended = here.delete(&format!("/v1/sessions/{session}")).await;
        assert_eq!(ended.status, 200, "{ended:?}");
        assert!(ended.json["down"].as_array().unwrap().contains(&json!("node-1")), "{ended:?}");
        session
    };
    // This is as long as the claim says.
    let (session, ()) = tokio::join!(named, sleep(Duration::from_secs(10)));
    let resumed = Instant::now();
    ground.resume(1);
    load.goes_on(20).await;
    let record = load.stop().await;
    assert_tried(&nobody_was_let_in_after_the_acknowledgement(&record));
    // This includes requests that it had just received when it was suspended.
    let waited = record.decisions.lock().unwrap().iter().any(|decision| {
        let waited_from = decision.sent.max(held_up);
        decision.node == 1 && decision.answered > resumed && resumed - waited_from > Duration::from_secs(5)
    });
    assert!(waited, "requests waited at the node while it was held up");
    all_is_there_once_and_every_view_agrees(&ground, &record, &[admin.session, session]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nats_killed_server_by_server_and_then_whole_is_only_slower() {
    let _turn = TURN.lock().await;
    let ground = Ground::start(3).await;
    let admin = ground.admin().await;
    let load = Load::start(&ground.urls(), &admin).await;
    for server in 0..3 {
        ground.nats.kill(server);
        load.goes_on(10).await;
        tokio::task::block_in_place(|| ground.nats.start_again(server));
        load.goes_on(5).await;
    }
    (0..3).for_each(|server| ground.nats.kill(server));
    load.goes_on(10).await;
    tokio::task::block_in_place(|| (0..3).for_each(|server| ground.nats.start_again(server)));
    ground.nats.wait_for_jetstream().await;
    load.goes_on(5).await;
    let record = load.stop().await;
    assert_tried(&nobody_was_let_in_after_the_acknowledgement(&record));
    all_is_there_once_and_every_view_agrees(&ground, &record, &[admin.session]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_cut_off_from_nats_enforces_like_the_others() {
    let _turn = TURN.lock().await;
    let ground = Ground::start(3).await;
    let admin = ground.admin().await;
    let load = Load::start(&ground.urls(), &admin).await;
    ground.cut_nats(2, true);
    load.goes_on(20).await;
    ground.cut_nats(2, false);
    load.goes_on(5).await;
    let record = load.stop().await;
    assert_tried(&nobody_was_let_in_after_the_acknowledgement(&record));
    all_is_there_once_and_every_view_agrees(&ground, &record, &[admin.session]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_killed_under_load_loses_nothing_that_was_acknowledged() {
    let _turn = TURN.lock().await;
    let mut ground = Ground::start(1).await;
    let admin = ground.admin().await;
    let load = Load::start(&ground.urls(), &admin).await;
    for down in [Duration::ZERO, Duration::from_secs(3)] {
        ground.kill_postgres(down);
        load.goes_on(10).await;
    }
    let record = load.stop().await;
    assert_tried(&nobody_was_let_in_after_the_acknowledgement(&record));
    all_is_there_once_and_every_view_agrees(&ground, &record, &[admin.session]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_standby_changes_wait_and_one_that_takes_over_has_all_that_was_acknowledged() {
    let _turn = TURN.lock().await;
    let mut ground = Ground::start_with_standby().await;
    let admin = ground.admin().await;
    let insistent = json!({"email": "insistent@example.com", "password": PASSWORD});
    let registered = Client::new(&ground.urls()[0]).post("/v1/auth/register", insistent.clone()).await;
    assert_eq!(registered.status, 201, "{registered:?}");
    let load = Load::start(&ground.urls(), &admin).await;
    ground.stop_standby();
    let change = async {
        let (began, body) = (Instant::now(), json!({"display_name": "Later"}).to_string());
        let answer = admin.send(Method::PATCH, "/v1/me", Some("application/json"), &body).await;
        assert_eq!((answer.status, answer.code()), (503, "timeout"), "{answer:?}");
        assert!(began.elapsed() >= Duration::from_secs(29), "{:?}", began.elapsed());
    };
    let read = async {
        // The last leases have run out by then.
        sleep(Duration::from_secs(4)).await;
        for url in ground.urls() {
            let here = Client { url, ..admin.clone() };
            assert_eq!(here.get("/health/ready").await.json["gate"]["stopped"], json!(true));
            for path in ["/v1/auth/session", "/v1/accounts", "/v1/sessions"] {
                assert_eq!(here.get(path).await.status, 200, "{path}");
            }
            // These are more, in all, than it takes to be locked out.
            for login in (0..2).map(|_| here.post("/v1/auth/login", insistent.clone())) {
                assert_eq!(login.await.status, 503);
            }
        }
    };
    tokio::join!(change, read);
    ground.start_standby();
    load.goes_on(10).await;
    let login = Client::new(&ground.urls()[0]).post("/v1/auth/login", insistent).await;
    assert_eq!(login.status, 200, "who tried in vain is not locked out: {login:?}");
    let insistent: Uuid = login.json["session_id"].as_str().unwrap().parse().unwrap();
    ground.fail_over().await;
    load.goes_on(10).await;
    let record = load.stop().await;
    assert_tried(&nobody_was_let_in_after_the_acknowledgement(&record));
    all_is_there_once_and_every_view_agrees(&ground, &record, &[admin.session, insistent]).await;
}
