//! The export of the audit trail: MB/s over HTTP of each format against `copy` of the same leaves from the same database, and the
//! growth of a node, `fulexo serve` in its own process, during an export of a million events. `BENCH_EVENTS` sets their number.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fulexo_tests::{Client, Database, PASSWORD, Program, history};
use serde_json::json;
use tokio::runtime::Runtime;
use tokio::time::sleep;

use crate::{memory, table};

const ROUNDS: usize = 3;
/// The most growth, in MiB.
const WANTED: f64 = 48.0;

pub fn run(runtime: &Runtime) {
    let events = std::env::var("BENCH_EVENTS").ok().and_then(|text| text.parse().ok()).unwrap_or(1_000_000);
    memory::build();
    let (database, program, auditor) = runtime.block_on(start(events));
    let before = memory::resident(program.pid());
    let mut most = before;
    table::head(&format!("MB/s of an export of {} events", table::number(events as f64)), "over HTTP", "bare copy");
    for format in ["ndjson", "ocsf", "leaves"] {
        let (mut ours, mut bare) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let began = Instant::now();
            let bytes = export(&auditor, format, || most = most.max(memory::resident(program.pid())));
            ours.push(bytes as f64 / 1e6 / began.elapsed().as_secs_f64());
            bare.push(copy(&database));
        }
        table::line(format, table::median(ours), table::median(bare), None);
    }
    let verdict = if most - before <= WANTED { "" } else { ": SHORT" };
    println!("  growth of the node, MiB      {:>16}   wanted: under {WANTED}{verdict}", table::number(most - before));
}

/// Starts a node on a log of so many events; returns it once its index has all of them, with an auditor.
async fn start(events: usize) -> (Arc<Database>, Program, Client) {
    let database = Arc::new(Database::create().await);
    history::fill(&database, events).await;
    let mut env = database.env();
    env.insert("FULEXO_PORT".into(), "0".into());
    // The first account may be an auditor: a second factor is asked for in production.
    let registered = Program::run(&["register", "--email", "auditor@example.com", "--role", "auditor", "--json"], &env);
    assert!(registered.status.success(), "{}", registered.errors);
    let printed: serde_json::Value = serde_json::from_str(&registered.said).unwrap_or_default();
    let password = printed["password"].as_str().unwrap_or(PASSWORD).to_owned();
    let mut program = Program::start(&["serve"], &env);
    let url = program.says("listening on ");
    let mut auditor = Client::new(&url);
    let answer = auditor.post("/v1/auth/login", json!({"email": "auditor@example.com", "password": password})).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    auditor.log_in_with(&answer);
    while auditor.get("/v1/audit/events?limit=1").await.position() + 1 < events as u64 {
        sleep(Duration::from_millis(500)).await;
    }
    (database, program, auditor)
}

/// Reads an export to its end, and looks now and then. Returns its bytes, with the framing of HTTP.
fn export(auditor: &Client, format: &str, mut look: impl FnMut()) -> usize {
    let authority = auditor.url.split_once("://").expect("a URL").1;
    let mut stream = TcpStream::connect(authority).unwrap();
    let token = auditor.access_token.as_deref().unwrap_or_default();
    write!(
        stream,
        "GET /v1/audit/export?format={format} HTTP/1.1\r\nHost: {authority}\r\nAuthorization: Bearer {token}\r\n\
         Connection: close\r\n\r\n"
    )
    .unwrap();
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    reader.read_line(&mut head).unwrap();
    assert!(head.contains(" 200 "), "{head}");
    let (mut bytes, mut looked, mut buffer) = (0, 0, vec![0; 64 * 1_024]);
    let mut last = Vec::new();
    while let read @ 1.. = reader.read(&mut buffer).unwrap() {
        bytes += read;
        last = buffer[..read].to_vec();
        if bytes - looked > 16 * 1_024 * 1_024 {
            looked = bytes;
            look();
        }
    }
    assert!(last.ends_with(b"0\r\n\r\n"), "the export is not whole");
    bytes
}

/// MB/s of the leaves, as the database's own client takes them.
fn copy(database: &Database) -> f64 {
    let began = Instant::now();
    let copied = std::process::Command::new("psql")
        .args(["--quiet", "--no-psqlrc", "--dbname", &database.url()])
        .args(["--command", "copy (select leaf from log.event order by position) to stdout (format binary)"])
        .output()
        .unwrap();
    assert!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
    copied.stdout.len() as f64 / 1e6 / began.elapsed().as_secs_f64()
}
