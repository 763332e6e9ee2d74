//! `GET /v1/auth/session` per second over HTTP, against a bare poem handler on poem's own server that gives the same
//! bytes. Ours verifies the token, asks the gate in memory and writes every security header; it reads no database.

use std::time::Duration;

use poem::listener::{Acceptor, Listener, TcpListener};
use poem::{Route, Server, get, handler};
use tokio::runtime::Runtime;

use crate::{load, logins, table};

const CLIENTS: usize = 64;
const ROUNDS: usize = 5;
const ROUND: Duration = Duration::from_secs(2);

pub fn run(runtime: &Runtime) {
    let (node, token) = runtime.block_on(async {
        let node = logins::node().await;
        let token = node.customer().await.access_token.unwrap();
        (node, token)
    });
    let bare = runtime.block_on(bare());
    let asked = vec![load::request("GET", "/v1/auth/session", Some(&token), None)];
    let (mut ours, mut theirs, mut slow, mut slow_theirs) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let round = runtime.block_on(load::drive(&node.url, CLIENTS, ROUND, asked.clone(), 200));
        slow.push(round.percentile(0.99));
        ours.push(round.rate);
        let round = runtime.block_on(load::drive(&bare, CLIENTS, ROUND, asked.clone(), 200));
        slow_theirs.push(round.percentile(0.99));
        theirs.push(round.rate);
    }
    table::head("GET /v1/auth/session, 64 connections", "fulexo", "bare poem");
    table::line("requests/s", table::median(ours), table::median(theirs), Some(0.6));
    table::line("p99, milliseconds", table::median(slow), table::median(slow_theirs), None);
    runtime.block_on(node.stop());
}

#[handler]
fn same_bytes() -> poem::Response {
    let body = r#"{"account_id":"01a20bd1-3417-7f00-9f01-d0130ddd8a60","elevated_until":"2026-11-24T04:39:49+00:00","expires_at":"2026-11-24T05:29:49+00:00","step_up_required":false,"methods":["pwd"],"permissions":[],"roles":["customer"],"session_id":"01a20bd1-34a0-7f7e-8b7d-2cbd682be1c9"}"#;
    poem::Response::builder().content_type("application/json").body(body)
}

async fn bare() -> String {
    let acceptor = TcpListener::bind("127.0.0.1:0").into_acceptor().await.unwrap();
    let port = acceptor.local_addr()[0].as_socket_addr().unwrap().port();
    tokio::spawn(Server::new_with_acceptor(acceptor).run(Route::new().at("/v1/auth/session", get(same_bytes))));
    format!("http://127.0.0.1:{port}")
}
