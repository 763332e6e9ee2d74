//! A client that resumes sees each event once, whatever happens in between.

use std::sync::Arc;

use fulexo_commands::log::{AppendOutcome, AppendRequest};
use fulexo_domain::event::Actor;
use fulexo_domain::leaf::EventDraft;
use fulexo_tests::{Database, EventSource, Node, draft, history, leaves, lengthen, log_size, there};
use futures_util::future::join_all;
use serde_json::Value;
use uuid::Uuid;

use super::{STREAM, append, failed, listed, open, positions, rehashed, shown};

const HISTORY: usize = 100_000;

/// Returns the positions of all failures after the first event.
async fn positions_of_failures(database: &Database) -> Vec<u64> {
    let all = (0..).zip(leaves(database).await).skip(1);
    all.filter(|(_, leaf)| leaf["type"] == "authentication.failed").map(|(position, _)| position).collect()
}

/// Records an event; returns its position.
async fn record(node: &Node, event: EventDraft) -> u64 {
    let request = AppendRequest { events: vec![event.encode().unwrap()], ..AppendRequest::default() };
    let AppendOutcome::New(receipt) = node.app().commands.log().append(request).await.unwrap() else { unreachable!() };
    receipt.position.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_resumes_sees_each_event_once_over_restarts_and_a_long_history() {
    let database = Arc::new(Database::create().await);
    let node = Node::join(&database).await;
    let (auditor, ann) = (node.auditor().await, node.customer().await);
    node.stop().await;
    history::fill(&database, HISTORY).await;
    let path = format!("{STREAM}?type=authentication.failed");
    let (mut seen, mut last) = (Vec::new(), 0);
    for round in 0..4 {
        let node = Node::join(&database).await;
        let mut source = there(&node, &auditor).resume(&path, last).await.unwrap();
        let reading = async {
            for _ in 0..2_000 {
                seen.push(source.event().await.unwrap());
            }
        };
        let appending = async {
            for _ in 0..20 {
                lengthen(&node, ann.account, ann.account, failed(), 1).await;
                append(&node, ann.account, 1).await;
            }
        };
        tokio::join!(reading, appending);
        if round == 3 {
            let last = positions_of_failures(&database).await.pop();
            while positions(&seen).pop() != last {
                seen.push(source.event().await.unwrap());
            }
            node.stop().await;
        } else {
            // It stops in the middle of the stream.
            let ((), rest) = tokio::join!(node.stop(), source.rest());
            seen.extend(rest);
        }
        last = source.last_event_id.unwrap();
    }
    let wanted = positions_of_failures(&database).await;
    assert!(wanted.len() > HISTORY / 10, "{}", wanted.len());
    assert_eq!(positions(&seen), wanted);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_that_finds_nothing_moves_the_resume_point_over_a_long_history_at_once() {
    let database = Arc::new(Database::create().await);
    history::fill(&database, HISTORY).await;
    let node = Node::join(&database).await;
    let (auditor, ann) = (node.auditor().await, node.customer().await);
    let wanted = Uuid::from_u128(7);
    let end = log_size(&node).await;
    shown(&node, end).await;
    let path = format!("{STREAM}?correlation={wanted}&category=account");
    let mut source = auditor.resume(&path, 0).await.unwrap();
    let mut blocks = 0;
    while source.last_event_id.is_none_or(|last| last < end - 1) {
        assert_eq!(source.block().await.unwrap().data, None);
        blocks += 1;
    }
    assert!((3..20).contains(&blocks), "{blocks} blocks for {HISTORY} events");
    let last = source.last_event_id.unwrap();
    drop(source);
    append(&node, ann.account, 5).await;
    let mut event = draft(rehashed(), ann.account);
    event.correlation = wanted;
    let position = record(&node, event).await;
    let mut source = auditor.resume(&path, last).await.unwrap();
    assert_eq!(source.event().await.unwrap()["position"], position);
    node.stop().await;
}

/// Reads up to this position, which is of an event that the filter admits.
async fn up_to(mut source: EventSource, last: u64) -> Vec<Value> {
    let mut events = Vec::new();
    while events.last().is_none_or(|event: &Value| event["position"] != last) {
        events.push(source.event().await.unwrap());
    }
    events
}

#[tokio::test(flavor = "multi_thread")]
async fn of_sixty_four_who_append_no_event_is_left_out_or_repeated_whatever_the_filter() {
    const WRITERS: usize = 64;
    let database = Arc::new(Database::create().await);
    let nodes = [Node::join(&database).await, Node::join(&database).await];
    let auditors = [nodes[0].auditor().await, nodes[0].auditor().await];
    let (ann, bob) = (nodes[0].customer().await, nodes[0].customer().await);
    let begin = log_size(&nodes[0]).await - 1;
    let filters = [
        String::new(),
        "&type=authentication.failed".to_owned(),
        "&category=account".to_owned(),
        format!("&subject={}", ann.account),
        format!("&actor={}&category=authentication", ann.account),
    ];
    let mut sources = Vec::new();
    for (node, auditor) in nodes.iter().zip(&auditors) {
        for filter in &filters {
            sources.push(open(&there(node, auditor), &format!("?after={begin}{filter}")).await);
        }
    }
    let written = join_all((0..WRITERS).map(|writer| {
        let (node, subject) = (&nodes[writer % 2], if writer % 3 == 0 { ann.account } else { bob.account });
        async move {
            for number in 0..20 {
                let stream = Uuid::from_u128(1_000 + writer as u128);
                let mut event = if number % 2 == 0 { draft(rehashed(), stream) } else { draft(failed(), stream) };
                event.subject = Some(subject);
                event.actor = Actor::Account { id: if number % 3 == 0 { Uuid::from_u128(5) } else { subject } };
                record(node, event).await;
            }
        }
    }));
    written.await;
    // The last event of all, which every filter admits but for those of the category `account`.
    let mut last = Vec::new();
    for event in [draft(rehashed(), ann.account), draft(failed(), ann.account)] {
        let mut event = event;
        event.actor = Actor::Account { id: ann.account };
        last.push(record(&nodes[0], event).await);
    }
    let ends = sources.into_iter().enumerate().map(|(index, source)| {
        up_to(source, if filters[index % filters.len()] == "&category=account" { last[0] } else { last[1] })
    });
    for (index, events) in join_all(ends).await.into_iter().enumerate() {
        let filter = &filters[index % filters.len()];
        let list = listed(&auditors[0].seeing(last[1]), &format!("&after={begin}{filter}")).await;
        assert!(list.len() > 100, "{filter}: {}", list.len());
        assert_eq!(events, list, "{filter}");
    }
    for node in nodes {
        node.stop().await;
    }
}
