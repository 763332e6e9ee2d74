//! A load generator: keep-alive connections on loopback, each of which sends its next request when the last one was
//! answered. It is bounded in time, and as cheap as possible, since it shares the cores with what it measures.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use memchr::memmem;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The result of a round.
pub struct Round {
    /// The answers per second.
    pub rate: f64,
    /// Milliseconds from request to answer, unsorted.
    pub latencies: Vec<f64>,
}

impl Round {
    /// Returns the latency below which this share of the answers lies, in milliseconds.
    pub fn percentile(&self, share: f64) -> f64 {
        let mut sorted = self.latencies.clone();
        sorted.sort_by(f64::total_cmp);
        let rank = (share * sorted.len() as f64) as usize;
        sorted.get(rank.min(sorted.len().saturating_sub(1))).copied().unwrap_or_default()
    }
}

/// Returns a request as it is sent over the wire.
pub fn request(method: &str, path: &str, token: Option<&str>, body: Option<&str>) -> Vec<u8> {
    let mut text = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n");
    if let Some(token) = token {
        text.push_str(&format!("Authorization: Bearer {token}\r\n"));
    }
    if let Some(body) = body {
        text.push_str(&format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len()));
    }
    text.push_str("\r\n");
    text.push_str(body.unwrap_or_default());
    text.into_bytes()
}

/// Returns the same request, as forwarded by a proxy that received it from this address.
pub fn forwarded(request: &[u8], address: &str) -> Vec<u8> {
    let head = memmem::find(request, b"\r\n\r\n").expect("the end of the head");
    let forwarded = format!("\r\nX-Forwarded-For: {address}");
    [&request[..head], forwarded.as_bytes(), &request[head..]].concat()
}

/// Sends a request, and reads the status of its answer.
pub async fn send(stream: &mut TcpStream, buffer: &mut Vec<u8>, request: &[u8]) -> u16 {
    try_send(stream, buffer, request).await.unwrap()
}

/// Does the same, if the service may close the connection.
pub async fn try_send(stream: &mut TcpStream, buffer: &mut Vec<u8>, request: &[u8]) -> io::Result<u16> {
    stream.write_all(request).await?;
    read_answer(stream, buffer).await
}

/// Drives `connections` for `time`, after a warm-up of a tenth of it. Each connection takes the requests in turn,
/// beginning at its own number. Every answer must have the status wanted.
pub async fn drive(url: &str, connections: usize, time: Duration, requests: Vec<Vec<u8>>, status: u16) -> Round {
    let authority = url.strip_prefix("http://").expect("http").to_owned();
    let (counting, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let requests = Arc::new(requests);
    let tasks: Vec<_> = (0..connections)
        .map(|number| {
            let (authority, requests) = (authority.clone(), Arc::clone(&requests));
            let (counting, done) = (Arc::clone(&counting), Arc::clone(&done));
            tokio::spawn(async move {
                let mut stream = TcpStream::connect(&authority).await.unwrap();
                stream.set_nodelay(true).unwrap();
                let mut buffer = Vec::with_capacity(16 * 1024);
                let mut latencies = Vec::new();
                for request in requests.iter().cycle().skip(number % requests.len()) {
                    if done.load(Ordering::Relaxed) {
                        break;
                    }
                    let sent = Instant::now();
                    let answered = send(&mut stream, &mut buffer, request).await;
                    assert_eq!(answered, status, "{}", String::from_utf8_lossy(&buffer));
                    if counting.load(Ordering::Relaxed) {
                        latencies.push(sent.elapsed().as_secs_f64() * 1e3);
                    }
                    // A refusal whose request had a body that nobody read is the connection's last answer.
                    if memmem::find(&buffer, b"\r\nconnection: close\r\n").is_some() {
                        stream = TcpStream::connect(&authority).await.unwrap();
                        stream.set_nodelay(true).unwrap();
                    }
                }
                latencies
            })
        })
        .collect();
    tokio::time::sleep(time / 10).await;
    counting.store(true, Ordering::Relaxed);
    let started = Instant::now();
    tokio::time::sleep(time).await;
    let elapsed = started.elapsed().as_secs_f64();
    done.store(true, Ordering::Relaxed);
    let mut latencies = Vec::new();
    for task in tasks {
        latencies.extend(task.await.unwrap());
    }
    Round { rate: latencies.len() as f64 / elapsed, latencies }
}

/// Reads one answer, by its Content-Length. A long head costs the reader no more than a short one: the figure is about
/// the service.
async fn read_answer(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> io::Result<u16> {
    buffer.clear();
    loop {
        if stream.read_buf(buffer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let Some(head) = memmem::find(buffer, b"\r\n\r\n") else { continue };
        // hyper writes names in lower case.
        let length = memmem::find(&buffer[..head], b"\r\ncontent-length: ").map(|at| number(&buffer[at + 18..head]));
        if buffer.len() >= head + 4 + length.unwrap_or(0) {
            return Ok(u16::try_from(number(&buffer[9..12])).unwrap());
        }
    }
}

/// Returns the number in the digits at the beginning.
fn number(text: &[u8]) -> usize {
    let digits = text.iter().take_while(|byte| byte.is_ascii_digit());
    digits.fold(0, |number, digit| number * 10 + usize::from(digit - b'0'))
}
