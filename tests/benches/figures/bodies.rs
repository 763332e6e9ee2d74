//! The server's work for the worst bodies of 64 KiB, from nobody, against a plain one: the sender of a body chooses its
//! shape.

use std::time::Duration;

use tokio::runtime::Runtime;

use crate::{load, logins, table};

const SIZE: usize = 64 * 1024;
const ROUNDS: usize = 3;
const ROUND: Duration = Duration::from_secs(1);
/// The worst body may take at most this many times as long as a plain one.
const MOST: f64 = 10.0;

pub fn run(runtime: &Runtime) {
    let node = runtime.block_on(logins::node());
    // Each is refused by its schema, so that nothing but reading is measured.
    let plain = format!(r#"{{"email":"{}"}}"#, "x".repeat(SIZE - 12));
    let (long, half) = ("k".repeat(SIZE / 2 - 8), SIZE / 2 - 8);
    let shapes = [
        ("a long name, elements", format!(r#"{{"{long}":[{}0]}}"#, "0,".repeat(half / 2 - 2))),
        ("a long name, duplicates", format!(r#"{{"{long}":{{{}"":0}}}}"#, r#""":0,"#.repeat(half / 5 - 2))),
        ("elements", format!("[{}[]]", "[],".repeat(SIZE / 3 - 2))),
        ("duplicates", format!(r#"{{{}"email":0}}"#, r#""email":0,"#.repeat(SIZE / 10 - 8))),
        ("escapes", format!(r#"{{"email":"{}"}}"#, r"\u0061".repeat(SIZE / 6 - 8))),
        ("depth", format!(r#"{{"x":{}0{}}}"#, "[".repeat(half), "]".repeat(half))),
        ("digits", format!(r#"{{"email":0.{}1}}"#, "0".repeat(SIZE - 24))),
    ];
    let took = |body: &str| {
        let request = load::request("POST", "/v1/auth/login", None, Some(body));
        table::median(runtime.block_on(load::drive(&node.url, 1, ROUND, vec![request], 400)).latencies)
    };
    let mut plainly = Vec::new();
    let mut worst = vec![Vec::new(); shapes.len()];
    for _ in 0..ROUNDS {
        plainly.push(took(&plain));
        for (rounds, (_, body)) in worst.iter_mut().zip(&shapes) {
            rounds.push(took(body));
        }
    }
    let plainly = table::median(plainly);
    table::head("a body of 64 KiB from nobody, milliseconds, median", "shape", "plain");
    for (rounds, (name, _)) in worst.into_iter().zip(&shapes) {
        table::line_at_most(name, table::median(rounds), plainly, MOST);
    }
    runtime.block_on(node.stop());
}
