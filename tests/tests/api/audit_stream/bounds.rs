//! The bounds of streams: places, connections to the database, memory, and time at a stop.

use std::sync::Arc;
use std::time::{Duration, Instant};

use fulexo_node::streams::{MOST_OF_CALLER, MOST_OF_NODE};
use fulexo_tests::{Database, Dice, Leave, Node, eventually, history};
use futures_util::future::join_all;
use hyper::Method;
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use super::{STREAM, append, log_size, open, refused, service, shown};

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_has_five_streams_and_a_node_two_hundred() {
    let node = Node::start().await;
    let (admin, auditor) = (node.admin().await, node.auditor().await);
    let mut own = Vec::new();
    for _ in 0..MOST_OF_CALLER {
        own.push(open(&auditor, "").await);
    }
    let answer = refused(&auditor, "").await;
    assert_eq!((answer.status, answer.code(), answer.header("retry-after")), (429, "too_many_streams", Some("5")));
    // Another session of the account is the same caller; a key is another.
    let again = node.log_in(&auditor.email, auditor.account).await;
    assert_eq!(refused(&again, "").await.code(), "too_many_streams");
    let (service, _) = service(&admin).await;
    let of_service = open(&service, "").await;
    assert_eq!(node.app().streams.places.taken(), MOST_OF_CALLER + 1);
    assert!(node.anonymous().get("/metrics").await.text.contains("\nfulexo_streams 6\n"));

    own.pop();
    let places = &node.app().streams.places;
    eventually("the place is free", async || places.taken() == MOST_OF_CALLER).await;
    own.push(open(&auditor, "").await);

    let mut others = Vec::new();
    for caller in 0..(MOST_OF_NODE - MOST_OF_CALLER - 1) as u128 {
        others.push(places.take(Uuid::from_u128(caller)).unwrap());
    }
    let answer = refused(&service, "").await;
    assert_eq!((answer.status, answer.code(), answer.header("retry-after")), (503, "overloaded", Some("10")));
    assert_eq!(refused(&auditor, "").await.code(), "too_many_streams", "which the caller can do something about");
    assert_eq!(admin.get("/v1/audit/events").await.status, 200, "other requests are not counted");
    drop((own, of_service, others));
    eventually("all places are free", async || places.taken() == 0).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_clients_that_leave_at_whatever_moment_leave_no_place_taken() {
    let node = Node::start().await;
    let (auditor, ann) = (node.auditor().await, node.customer().await);
    append(&node, ann.account, 2_000).await;
    let visits = (0..4_u64).map(|visitor| {
        let auditor = auditor.clone();
        async move {
            let mut dice = Dice(visitor);
            for _ in 0..250 {
                let path = format!("{STREAM}?after={}", dice.roll(2_000));
                let leave = if dice.roll(2) == 0 { Leave::Close } else { Leave::Reset };
                // Before the head, in the middle of events, or at the end of the log.
                let moment = sleep(Duration::from_micros(dice.roll(4_000)));
                auditor.send_and_leave(leave, moment, (Method::GET, &path, None, "")).await;
            }
        }
    });
    join_all(visits).await;
    eventually("all places are free", async || node.app().streams.places.taken() == 0).await;
    assert_eq!(node.app().streams.places.take(Uuid::nil()).err(), None);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_do_not_read_hold_neither_connections_nor_the_log_in_memory() {
    const HISTORY: usize = 60_000;
    let database = Arc::new(Database::create().await);
    history::fill(&database, HISTORY).await;
    let node = Node::join(&database).await;
    let auditor = node.auditor().await;
    let app = node.app();
    shown(&node, HISTORY as u64).await;
    let mut unread = Vec::new();
    for _ in 0..2 {
        unread.push(open(&auditor, "?after=0").await);
        unread.push(auditor.stream_over_http_2(&format!("{STREAM}?after=0")).await.unwrap());
    }
    let streams = unread.len() as u64;
    eventually("nothing more is sent", async || {
        let sent = app.streams.sent();
        sleep(Duration::from_secs(2)).await;
        sent > 0 && app.streams.sent() == sent
    })
    .await;
    // What is on its way is in the buffers of sockets and windows: some megabytes of sixty.
    let sent = app.streams.sent();
    assert!(sent < streams * HISTORY as u64 / 2, "{sent} events were sent to {streams} clients that read none");
    eventually("all connections are idle", async || app.pool.num_idle() == usize::try_from(app.pool.size()).unwrap())
        .await;
    assert_eq!(app.streams.reading.available_permits(), 1);
    for path in ["/v1/audit/events?type=account.suspended", "/v1/audit/events?order=desc", "/v1/accounts"] {
        let answer = auditor.get(path).await;
        assert!([200, 403].contains(&answer.status), "{answer:?}");
    }
    let mut reader = open(&auditor, "?after=0").await;
    for position in 1..1_000 {
        assert_eq!(reader.event().await.unwrap()["position"], position);
    }
    drop(unread);
    drop(reader);
    eventually("the places are free", async || app.streams.places.taken() == 0).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_read_the_past_leave_turns_to_others_who_ask_for_much() {
    let node = Node::start().await;
    let (auditor, ann) = (node.auditor().await, node.customer().await);
    append(&node, ann.account, 5_000).await;
    // The end of the log is read for all, by whoever comes first, and needs no turn.
    shown(&node, log_size(&node).await).await;
    // Whoever asks for much holds all that there is for that.
    let mut held = vec![node.app().look_back().await.unwrap()];
    while let Ok(Ok(leave)) = timeout(Duration::from_millis(50), node.app().look_back()).await {
        held.push(leave);
    }
    let mut source = open(&auditor, "?after=0&category=account").await;
    assert_eq!(source.block().await.unwrap().id, Some(0));
    assert!(timeout(Duration::from_secs(4), source.block()).await.is_err(), "the stream waits with the others");
    assert_eq!(auditor.get("/v1/audit/events").await.status, 200);
    drop(held);
    assert!(source.event().await.is_some(), "and goes on, without having ended");
    node.stop().await;
}

/// The grace of the listener is 30 seconds, which requests under way may take. A stop that takes 25 has waited for the streams:
/// without them it takes less than one, and ten times that on a slow machine.
const STOP: Duration = Duration::from_secs(25);

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_does_not_wait_for_streams_whether_or_not_they_are_read() {
    let node = Node::start().await;
    let (auditor, ann) = (node.auditor().await, node.customer().await);
    append(&node, ann.account, 20_000).await;
    let unread =
        [open(&auditor, "?after=0").await, auditor.stream_over_http_2(&format!("{STREAM}?after=0")).await.unwrap()];
    // The last one, so that no stream is recorded while it is open.
    let mut over_http_2 = auditor.stream_over_http_2(&format!("{STREAM}?type=account.suspended")).await.unwrap();
    let mut read = open(&auditor, "").await;
    let app = Arc::clone(node.app());
    eventually("the buffers are full", async || {
        let sent = app.streams.sent();
        sleep(Duration::from_secs(1)).await;
        sent > 0 && app.streams.sent() == sent
    })
    .await;
    let began = Instant::now();
    let ((), rest, rest_over_http_2) = tokio::join!(node.stop(), read.rest(), over_http_2.rest());
    assert!(began.elapsed() < STOP, "{:?}", began.elapsed());
    assert_eq!((rest.len(), rest_over_http_2.len()), (0, 0));
    assert_eq!(app.streams.places.taken(), 0);
    drop(unread);
}
