//! Tests of the lines that a request leaves in the log.

use std::io;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time;

use super::*;

/// All that this process logs. One subscriber for all tests: with one for each, tracing's process-wide memory of
/// who listens to what makes them lose lines to each other.
#[derive(Clone, Default)]
struct CapturedLog(Arc<Mutex<Vec<u8>>>);

impl io::Write for CapturedLog {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl CapturedLog {
    fn start() -> &'static Self {
        static LOG: OnceLock<CapturedLog> = OnceLock::new();
        LOG.get_or_init(|| {
            let log = Self::default();
            let writer = log.clone();
            let subscriber = tracing_subscriber::fmt().json().with_writer(move || writer.clone()).finish();
            tracing::subscriber::set_global_default(subscriber).expect("another test has set a subscriber");
            log
        })
    }

    fn lines(&self, of: impl Fn(&Value) -> bool) -> Vec<Value> {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
        lines.filter(|line: &Value| of(line)).collect()
    }

    fn about(&self, answer: &TestResponse) -> Vec<Value> {
        let id = answer.header("request-id").unwrap();
        self.lines(|line| line["fields"]["request_id"] == id || line["span"]["request_id"] == id)
    }
}

#[tokio::test]
async fn a_request_leaves_one_line_without_url_query_or_address() {
    let log = CapturedLog::start();
    let answer = server().await.get(&format!("{PART}?limit=7&token=secret")).await;
    let lines = log.about(&answer);
    assert_eq!(lines.len(), 1, "{lines:?}");
    let fields = &lines[0]["fields"];
    assert_eq!(fields["operation"], "get_part");
    assert_eq!(fields["method"], "GET");
    assert_eq!(fields["status"], 400, "it has no parameter of this name");
    assert!(fields["duration_ms"].as_f64().unwrap() > 0.0);
    let text = lines[0].to_string();
    assert!(!text.contains("secret") && !text.contains("/v1/") && !text.contains("127.0.0.1"), "{text}");
}

#[tokio::test]
async fn the_cause_of_a_failure_is_logged_once_in_the_requests_span() {
    let log = CapturedLog::start();
    for how in ["internal", "foreign"] {
        let answer = server().await.get(&format!("/v1/fail/{how}")).await;
        let lines = log.about(&answer);
        assert_eq!(lines.len(), 2, "{how}: {lines:?}");
        assert_eq!(lines[0]["fields"]["error"], "database db-prod is gone");
        assert_eq!(lines[0]["span"]["operation"], "fail");
        assert_eq!(lines[1]["fields"]["status"], 500);
    }
}

#[tokio::test]
async fn what_matched_nothing_or_ran_out_of_time_is_logged_as_such() {
    let log = CapturedLog::start();
    let edge = EdgeOptions { request_timeout: Duration::from_millis(50), ..EdgeOptions::default() };
    let server = start(edge, ListenerOptions::default()).await;
    let line = |answer: TestResponse| {
        let fields = &log.about(&answer)[0]["fields"];
        format!("{} {} {}", fields["method"], fields["operation"], fields["status"])
    };
    assert_eq!(line(server.get("/v1/nothing").await), r#""GET" "unmatched" 404"#);
    assert_eq!(line(server.get("/v1/fail/slow").await), r#""GET" "fail" 503"#);
    assert_eq!(line(server.send("POST", "/docs", &[], "").await), r#""POST" "get_docs" 405"#);
    assert_eq!(line(server.send("SECRET", "/docs", &[], "").await), r#""other" "unmatched" 501"#);
}

#[tokio::test]
async fn a_client_that_hangs_up_leaves_its_line_too() {
    let log = CapturedLog::start();
    let server = server().await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(b"GET /v1/hang HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    server.hangs().await;
    drop(stream);
    let mut lines = Vec::new();
    for _ in 0..1_000 {
        time::sleep(Duration::from_millis(10)).await;
        lines = log.lines(|line| line["fields"]["operation"] == "hang");
        if !lines.is_empty() {
            break;
        }
    }
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert_eq!(lines[0]["fields"]["aborted"], true);
}
