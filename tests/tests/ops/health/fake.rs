//! Services that are not sound, or not Fulexo: what they say is judged, bounded, and compared with the database.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::super::tls_servers::{Listening, listen};
use super::{Checked, Ground, set};
use fulexo_tests::Program;

/// The readiness of a service with which all is well.
pub const READY: &str = r#"{"status": "ok", "log_size": 3, "dependencies": [{"name": "postgres", "status": "ok"},
    {"name": "nats", "status": "ok"}], "projections": [{"name": "roles", "status": "ok", "version": 1, "owner": null,
    "position": 3, "lag": 0, "stopped": false}], "gate": {"status": "ok", "applied": 3, "lag": 0, "stopped": false},
    "relay": {"status": "ok", "here": true, "stream": "s", "position": 3, "lag": 0, "stopped": false},
    "tree": {"status": "ok", "size": 3, "lag": 0, "stopped": false},
    "checkpoint": {"status": "off", "size": 0, "lag": 3, "published_at": null, "refused": false},
    "anchor": {"status": "ok", "size": 3, "lag": 0, "anchored_at": null,
    "witnesses": [{"name": "w", "status": "ok", "size": 3, "cosigned_at": null}]},
    "keys": [{"kind": "signing", "age": 1, "due": false, "leaving": 0}], "nodes": [{"name": "a", "status": "ok"}]}"#;

/// Returns a whole answer.
pub fn answer(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len())
}

/// Serves these answers: of `/health/ready`, and of `/metrics`.
async fn service(ready: String, metrics: &str) -> Listening {
    let (ready, metrics) = (Arc::new(ready), Arc::new(answer("200 OK", metrics)));
    listen(move |mut stream| {
        let (ready, metrics) = (Arc::clone(&ready), Arc::clone(&metrics));
        async move {
            let mut asked = [0; 4096];
            let length = stream.read(&mut asked).await.unwrap_or_default();
            let asked = String::from_utf8_lossy(&asked[..length]).into_owned();
            let strange = answer("404 Not Found", "");
            let text = match asked.split(' ').nth(1) {
                Some("/health/ready") => &*ready,
                Some("/metrics") => &*metrics,
                _ => &strange,
            };
            let _ = stream.write_all(text.as_bytes()).await;
            let _ = stream.shutdown().await;
        }
    })
    .await
}

fn asked(servers: &[&Listening]) -> Checked {
    let urls: Vec<String> = servers.iter().map(|it| format!("http://127.0.0.1:{}", it.port)).collect();
    let mut arguments = vec!["health-check", "--json", "--timeout", "60"];
    arguments.extend(urls.iter().flat_map(|url| ["--url", url]));
    Checked::of(&Program::run(&arguments, &BTreeMap::new()))
}

/// The rules of what is found, without the subjects, which name a port.
fn rules(checked: &Checked) -> BTreeSet<String> {
    checked.findings().iter().map(|it| it.split(' ').next().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_service_says_of_itself_is_judged() {
    let sound: Value = serde_json::from_str(READY).unwrap();
    let said = |pointer: &str, value: Value| {
        let mut said = sound.clone();
        *said.pointer_mut(pointer).unwrap() = value;
        said
    };
    for (said, finding) in [
        (sound.clone(), None),
        (said("/gate/stopped", json!(true)), Some("service.no_lease")),
        (
            said("/nodes", json!([{"name": "a", "status": "ok"}, {"name": "b", "status": "degraded"}])),
            Some("nodes.down"),
        ),
        (said("/dependencies/1/status", json!("degraded")), Some("nats.disconnected")),
        (said("/projections/0/stopped", json!(true)), Some("read_models.stopped")),
        (said("/projections/0/lag", json!(20_000)), Some("read_models.lag")),
        (said("/relay/stopped", json!(true)), Some("relay.stopped")),
        (said("/relay/lag", json!(20_000)), Some("relay.lag")),
        (said("/tree/stopped", json!(true)), Some("tree.stopped")),
        (said("/tree/lag", json!(20_000)), Some("tree.lag")),
        (said("/checkpoint/refused", json!(true)), Some("checkpoint.refused")),
        (said("/checkpoint/status", json!("degraded")), Some("checkpoint.late")),
        (said("/anchor/witnesses/0/status", json!("failed")), Some("anchor.contradicted")),
        (said("/anchor/witnesses/0/status", json!("degraded")), Some("anchor.witness_failed")),
        (said("/anchor/status", json!("degraded")), Some("anchor.late")),
        (said("/keys/0/due", json!(true)), Some("keys.due")),
    ] {
        let server = service(answer("200 OK", &said.to_string()), "").await;
        let checked = asked(&[&server]);
        let wanted: BTreeSet<String> = finding.into_iter().map(str::to_owned).collect();
        assert_eq!(rules(&checked), wanted, "{:#}", checked.report);
        assert_eq!(checked.status, if finding.is_some() { 1 } else { 3 });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_is_not_ready_or_none_at_all_is_told_apart() {
    let refusal =
        |code: &str| answer("503 Service Unavailable", &json!({"code": code, "detail": "\u{1b}[2J"}).to_string());
    let deep = "[".repeat(200_000);
    for (said, finding) in [
        (refusal("unavailable"), "service.not_ready"),
        (refusal("log_replaced"), "service.log_replaced"),
        (answer("404 Not Found", "<html>"), "service.strange"),
        (answer("308 Permanent Redirect", ""), "service.strange"),
        (answer("200 OK", "{}"), "service.strange"),
        (answer("200 OK", &deep), "service.strange"),
        (answer("200 OK", &" ".repeat((1 << 20) + 1)), "service.down"),
        (format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "x".repeat(1 << 20)), "service.down"),
        ("SSH-2.0-OpenSSH_9.2\r\n".to_owned(), "service.down"),
        (String::new(), "service.down"),
    ] {
        let server = service(said, "").await;
        let checked = asked(&[&server]);
        assert_eq!((checked.status, rules(&checked)), (1, set([finding])), "{:#}", checked.report);
        let url = format!("http://127.0.0.1:{}", server.port);
        let text = Program::run(&["health-check", "--timeout", "60", "--url", &url], &BTreeMap::new()).said;
        assert!(!text.contains('\u{1b}'), "{text:?}");
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_that_differ_and_a_clock_that_is_wrong_are_named() {
    let metrics = |version: &str| format!("fulexo_build_info{{version=\"{version}\"}} 1\n");
    let one = service(answer("200 OK", READY), &metrics("1.0.0")).await;
    let two = service(answer("200 OK", READY), &metrics("1.1.0")).await;
    assert_eq!(asked(&[&one, &two]).findings(), set(["nodes.versions service"]));

    let late = answer("200 OK", READY).replacen("\r\n", "\r\ndate: Sun, 06 Nov 1994 08:49:37 GMT\r\n", 1);
    let late = service(late, "").await;
    let subject = format!("clocks.differ http://127.0.0.1:{}", late.port);
    assert_eq!(asked(&[&late]).findings(), set([&subject]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_says_something_else_than_the_database_is_found() {
    let ground = Ground::start().await;
    let own = format!("https://localhost:{}", ground.node().port());
    let said = READY.replace("\"log_size\": 3", "\"log_size\": 1000");
    let server = service(answer("200 OK", &said), "").await;
    let url = format!("http://127.0.0.1:{}", server.port);
    let checked = ground.check(&["--url", &own, "--url", &url, "--without", "nodes"]);
    let wanted = set([&format!("sources.disagree {url}")]);
    assert_eq!((checked.status, checked.findings()), (1, wanted), "{:#}", checked.report);
    let text = checked.report.to_string();
    assert!(text.contains("log: the service has 1000 events, and the database"), "{text}");
    assert!(text.contains("nodes: none that the service lists holds a lease in the database"), "{text}");
}
