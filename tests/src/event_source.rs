//! A client of an event stream, which reads as a browser does (<https://html.spec.whatwg.org/multipage/server-sent-events.html>),
//! or not at all.

use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::{http1, http2};
use hyper::header::{HOST, HeaderMap};
use hyper::{Method, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::client::{Answer, Client, read};

/// The longest time that a block is waited for.
const PATIENCE: Duration = Duration::from_secs(120);

/// An open stream. The client leaves when it is dropped.
pub struct EventSource {
    /// The headers of the answer.
    pub headers: HeaderMap,
    /// The id of the last block that had one: where a new stream would resume.
    pub last_event_id: Option<u64>,
    body: Incoming,
    unread: Vec<u8>,
    connection: JoinHandle<()>,
}

/// The content of a block of a stream.
#[derive(Debug, Clone, PartialEq)]
pub struct StreamBlock {
    /// Its id.
    pub id: Option<u64>,
    /// Its data.
    pub data: Option<Value>,
    /// The time after which to reconnect, in milliseconds.
    pub retry: Option<u64>,
}

impl Drop for EventSource {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Client {
    /// Opens a stream over HTTP/1.1.
    ///
    /// # Errors
    /// The refusal.
    pub async fn stream(&self, path: &str) -> Result<EventSource, Answer> {
        let io = TokioIo::new(TcpStream::connect(self.authority()).await.unwrap());
        let (mut sender, connection) = http1::handshake(io).await.unwrap();
        let connection = tokio::spawn(async move { drop(connection.await) });
        let request = self.request(Method::GET, path, None).header(HOST, self.authority());
        let response = sender.send_request(request.body(Empty::<Bytes>::new()).unwrap()).await.unwrap();
        EventSource::of(response, connection).await
    }

    /// Opens a stream over HTTP/2.
    ///
    /// # Errors
    /// The refusal.
    pub async fn stream_over_http_2(&self, path: &str) -> Result<EventSource, Answer> {
        let io = TokioIo::new(TcpStream::connect(self.authority()).await.unwrap());
        let (mut sender, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
        let connection = tokio::spawn(async move { drop(connection.await) });
        let request = self.request(Method::GET, &format!("http://{}{path}", self.authority()), None);
        let response = sender.send_request(request.body(Empty::<Bytes>::new()).unwrap()).await.unwrap();
        EventSource::of(response, connection).await
    }

    /// Opens a stream behind the last event that another one had.
    ///
    /// # Errors
    /// The refusal.
    pub async fn resume(&self, path: &str, last_event_id: u64) -> Result<EventSource, Answer> {
        self.with_header("last-event-id", &last_event_id.to_string()).stream(path).await
    }

    fn authority(&self) -> &str {
        self.url.split_once("://").map_or(&self.url, |(_, authority)| authority)
    }
}

impl EventSource {
    async fn of(response: Response<Incoming>, connection: JoinHandle<()>) -> Result<Self, Answer> {
        if response.status() != 200 {
            return Err(read(response).await.unwrap());
        }
        let (parts, body) = response.into_parts();
        assert_eq!(parts.headers["content-type"], "text/event-stream");
        Ok(Self { headers: parts.headers, last_event_id: None, body, unread: Vec::new(), connection })
    }

    /// Returns the next block, comments included; `None` at the end of the stream, in good order or not.
    pub async fn block(&mut self) -> Option<StreamBlock> {
        loop {
            if let Some(end) = self.unread.windows(2).position(|two| two == b"\n\n") {
                let bytes: Vec<u8> = self.unread.drain(..end + 2).collect();
                let block = parse(std::str::from_utf8(&bytes).unwrap());
                self.last_event_id = block.id.or(self.last_event_id);
                return Some(block);
            }
            let frame = timeout(PATIENCE, self.body.frame()).await.expect("neither a block nor an end");
            // Half a block at the end is nothing.
            self.unread.extend_from_slice(frame?.ok()?.data_ref()?);
        }
    }

    /// Returns the next event; `None` at the end of the stream.
    pub async fn event(&mut self) -> Option<Value> {
        loop {
            let block = self.block().await?;
            if let Some(data) = block.data {
                assert_eq!(block.id, data["position"].as_u64(), "the id is the position");
                return Some(data);
            }
        }
    }

    /// Reads to the end of the stream, and returns the events before it.
    pub async fn rest(&mut self) -> Vec<Value> {
        let mut events = Vec::new();
        while let Some(event) = self.event().await {
            events.push(event);
        }
        events
    }
}

fn parse(text: &str) -> StreamBlock {
    let mut block = StreamBlock { id: None, data: None, retry: None };
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with(':')) {
        let (field, value) = line.split_once(": ").unwrap();
        match field {
            "id" => block.id = Some(value.parse().unwrap()),
            "data" => {
                assert!(block.data.is_none(), "an event is one line");
                block.data = Some(serde_json::from_str(value).unwrap());
            }
            "retry" => block.retry = Some(value.parse().unwrap()),
            other => panic!("a field {other}"),
        }
    }
    block
}
