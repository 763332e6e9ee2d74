//! The worst bodies that strangers can send: they cost the service no memory.

use std::fs;

use fulexo_tests::{Client, Database, Program};
use poem::http::Method;
use tokio::task::block_in_place;

/// The bytes of a body.
const SIZE: usize = 64 * 1024;
/// The number of times that each shape is sent.
const TIMES: usize = 8;
/// The most that a process may grow by meanwhile; one body used to cost 250 MiB.
const GROWTH: u64 = 64 * 1024;

#[tokio::test(flavor = "multi_thread")]
async fn bodies_of_any_shape_from_nobody_cost_no_memory() {
    let mut env = Database::create().await.env();
    env.insert("FULEXO_PORT".into(), "0".into());
    let mut program = block_in_place(|| Program::start(&["serve"], &env));
    let url = block_in_place(|| program.says("listening on "));
    let client = Client::new(&url);
    let plain = format!(r#"{{"email":"nobody@example.com","password":"{}"}}"#, "x".repeat(SIZE / 2));
    for path in ["/v1/policy", "/v1/auth/login"] {
        send(&client, path, &plain).await;
    }
    let before = most_memory(program.pid());
    let long = "k".repeat(SIZE / 2 - 8);
    let half = SIZE / 2 - 8;
    let shapes = [
        format!(r#"{{"{long}":[{}0]}}"#, "0,".repeat(half / 2 - 2)),
        format!(r#"{{"{long}":{{{}"":0}}}}"#, r#""":0,"#.repeat(half / 5 - 2)),
        format!(r#"{{"email":{{{}"":0}}}}"#, r#""":0,"#.repeat(SIZE / 5 - 8)),
        format!("[{}[]]", "[],".repeat(SIZE / 3 - 2)),
        format!(r#"{{{}"email":0}}"#, r#""email":0,"#.repeat(SIZE / 10 - 8)),
        format!(r#"{{"second_factor":{{"required_for":[{}0]}}}}"#, "0,".repeat(SIZE / 2 - 40)),
    ];
    for shape in &shapes {
        assert!(shape.len() <= SIZE, "{}", shape.len());
        for path in ["/v1/policy", "/v1/auth/login"] {
            for _ in 0..TIMES {
                send(&client, path, shape).await;
            }
        }
    }
    let grown = most_memory(program.pid()) - before;
    assert!(grown < GROWTH, "{grown} KiB");
}

async fn send(client: &Client, path: &str, body: &str) {
    let method = if path == "/v1/policy" { Method::PUT } else { Method::POST };
    let answer = client.send(method, path, Some("application/json"), body).await;
    assert!([400, 401].contains(&answer.status), "{answer:?}");
}

/// Returns the most memory that a process has had so far, in KiB.
fn most_memory(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}
