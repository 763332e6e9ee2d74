//! The stream of the audit trail: what it sends and where it begins; in `complete.rs`, that nothing is missing; in `ends.rs`,
//! what ends it; in `bounds.rs`, what it may take.

#![expect(clippy::panic, reason = "tests fail by panicking")]

mod bounds;
mod complete;
mod ends;

use chrono::TimeDelta;
use fulexo_domain::account::{AccountEvent, PasswordChangeCause};
use fulexo_domain::authentication::{AuthenticationEvent, Factor, FailureReason};
use fulexo_node::clock;
use fulexo_projections::read_models::Projection;
use fulexo_tests::{Answer, Client, EventSource, Node, eventually, lengthen, log_size};
use hyper::Method;
use serde_json::{Value, json};
use uuid::Uuid;

const STREAM: &str = "/v1/audit/stream";
const BECAUSE: &str = "it is a test";

/// An event that changes nothing.
fn rehashed() -> AccountEvent {
    AccountEvent::PasswordChanged { how: PasswordChangeCause::Rehash }
}

/// An event that changes next to nothing.
fn failed() -> AuthenticationEvent {
    AuthenticationEvent::Failed { factor: Factor::Password, reason: FailureReason::WrongPassword, device: None }
}

/// Appends so many events about this account.
async fn append(node: &Node, account: Uuid, count: usize) {
    lengthen(node, account, account, rehashed(), count).await;
}

/// A service with a key of this administrator, which may read events; and the path of the key.
async fn service(admin: &Client) -> (Client, String) {
    let key = json!({"name": "siem", "permissions": ["audit.read"], "expires_at": clock::now() + TimeDelta::days(1)});
    let made = admin.post("/v1/api-keys", key).await;
    assert_eq!(made.status, 201, "{made:?}");
    let secret = made.json["secret"].as_str().unwrap().to_owned();
    let path = format!("/v1/api-keys/{}", made.json["api_key_id"].as_str().unwrap());
    (Client { access_token: Some(secret), ..Client::new(&admin.url) }, path)
}

/// Opens a stream.
async fn open(client: &Client, query: &str) -> EventSource {
    client.stream(&format!("{STREAM}{query}")).await.unwrap_or_else(|refused| panic!("{query}: {refused:?}"))
}

/// Returns the refusal to open one.
async fn refused(client: &Client, query: &str) -> Answer {
    match client.stream(&format!("{STREAM}{query}")).await {
        Ok(_) => panic!("{query}: it was opened"),
        Err(refused) => refused,
    }
}

/// Returns all items of the list with this query, page by page.
async fn listed(client: &Client, query: &str) -> Vec<Value> {
    let (mut items, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = client.get(&format!("/v1/audit/events?limit=200{query}{cursor}")).await;
        assert_eq!(page.status, 200, "{page:?}");
        items.extend(page.json["items"].as_array().unwrap().iter().cloned());
        let Some(next) = page.json["next_cursor"].as_str() else { return items };
        cursor = format!("&cursor={next}");
    }
}

/// Waits until the read model shows this many events, as long as it gets on: a long history takes a slow machine minutes.
async fn shown(node: &Node, size: u64) {
    for size in (0..size).step_by(2_000).chain([size]) {
        eventually("the read model gets on", async || node.app().progress.of(Projection::Audit).position >= size).await;
    }
}

fn positions(events: &[Value]) -> Vec<u64> {
    events.iter().map(|event| event["position"].as_u64().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_of_the_stream_is_the_item_of_the_list() {
    let node = Node::start().await;
    let (auditor, ann) = (node.auditor().await, node.customer().await);
    let mut source = open(&auditor, "").await;
    // Behind the record of the stream itself.
    let begin = log_size(&node).await;
    let header = |name: &str| source.headers.get(name).map(|value| value.to_str().unwrap().to_owned());
    assert_eq!(header("cache-control").as_deref(), Some("no-store"));
    assert_eq!(header("x-accel-buffering").as_deref(), Some("no"));
    assert_eq!((header("content-length"), header("content-encoding")), (None, None));

    // Before any event: where to resume, and when.
    let first = source.block().await.unwrap();
    assert_eq!((first.id, first.data, first.retry), (Some(begin - 1), None, Some(2_000)));
    assert_eq!(ann.post("/v1/auth/login", json!({"email": ann.email, "password": "wrong, é ✓"})).await.status, 401);
    append(&node, ann.account, 3).await;
    let end = log_size(&node).await;
    let mut events = Vec::new();
    for _ in begin..end {
        events.push(source.event().await.unwrap());
    }
    let list = listed(&auditor.seeing(end - 1), &format!("&after={}", begin - 1)).await;
    assert_eq!(
        events,
        list[..events.len()],
        "the same JSON, in the same order, from the first event after the call on"
    );
    assert_eq!(source.last_event_id, Some(end - 1));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_begins_after_the_position_that_is_named_and_the_header_counts_first() {
    let node = Node::start().await;
    let (auditor, ann) = (node.auditor().await, node.customer().await);
    append(&node, ann.account, 20).await;
    let end = log_size(&node).await;
    let first =
        async |client: &Client, query: &str| open(client, query).await.event().await.unwrap()["position"].clone();
    assert_eq!(first(&auditor, "?after=3").await, 4);
    assert_eq!(first(&auditor.with_header("last-event-id", "7"), "").await, 8);
    // A browser repeats the URL of the first call when it reconnects.
    assert_eq!(first(&auditor.with_header("last-event-id", "9"), "?after=3").await, 10);
    let mut at_the_end = open(&auditor, &format!("?after={}", end - 1)).await;
    append(&node, ann.account, 1).await;
    assert_eq!(at_the_end.event().await.unwrap()["position"], end);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_position_that_is_none_or_beyond_the_end_is_refused() {
    let node = Node::start().await;
    let auditor = node.auditor().await;
    let end = log_size(&node).await;
    for position in ["x", "", "-1", "1.5", &end.to_string(), "9223372036854775808", "18446744073709551615"] {
        for (client, query, pointer) in [
            (auditor.clone(), format!("?after={position}"), "/after"),
            (auditor.with_header("last-event-id", position), "?after=0".to_owned(), "/Last-Event-ID"),
        ] {
            let answer = refused(&client, &query).await;
            assert_eq!((answer.status, answer.code()), (400, "invalid_input"), "{position:?}: {answer:?}");
            assert_eq!(answer.json["errors"][0]["pointer"], pointer, "{position:?}: {answer:?}");
        }
    }
    for query in ["?type=nope", "?category=x", "?subject=x", "?actor=x", "?correlation=x", "?limit=1"] {
        assert_eq!(refused(&auditor, query).await.status, 400, "{query}");
    }
    assert_eq!(node.app().streams.places.taken(), 0, "a refusal takes no place");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_opened_by_token_by_key_and_by_cookie_and_by_nobody_else() {
    let node = Node::start().await;
    let (admin, auditor, ann) = (node.admin().await, node.auditor().await, node.customer().await);
    let (service, _) = service(&admin).await;
    let token = auditor.access_token.clone().unwrap();
    let browser = node.anonymous().with_header("cookie", &format!("__Host-fulexo-access={token}"));
    for client in [&auditor, &service, &browser] {
        assert_eq!(open(client, "?after=0").await.event().await.unwrap()["position"], 1);
    }
    let mut over_http_2 = auditor.stream_over_http_2(&format!("{STREAM}?after=0")).await.unwrap();
    assert_eq!(over_http_2.event().await.unwrap()["position"], 1);
    assert_eq!(refused(&node.anonymous(), "").await.code(), "unauthenticated");
    assert_eq!(refused(&ann, "").await.json["permission"], "audit.read");
    // A HEAD is answered, and takes nothing.
    let head = auditor.send(Method::HEAD, STREAM, None, "").await;
    assert_eq!((head.status, head.header("content-type")), (200, Some("text/event-stream")));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_without_events_gives_signs_of_life_that_move_the_resume_point_and_outlasts_a_request() {
    let node = Node::start().await;
    let (auditor, ann) = (node.auditor().await, node.customer().await);
    let mut quiet = open(&auditor, &format!("?correlation={}", Uuid::nil())).await;
    let first = quiet.block().await.unwrap();
    append(&node, ann.account, 10).await;
    let end = log_size(&node).await;
    // Each block comes after 15 seconds without one.
    let moved = quiet.block().await.unwrap();
    assert_eq!((moved.id, moved.data), (Some(end - 1), None));
    assert!(first.id < moved.id, "{first:?}");
    // The third comes after the time that a request has for its answer, and a connection for its next request.
    for _ in 0..2 {
        let comment = quiet.block().await.unwrap();
        assert_eq!((comment.id, comment.data, comment.retry), (None, None, None));
    }
    assert_eq!(quiet.last_event_id, Some(end - 1));
    node.stop().await;
}
