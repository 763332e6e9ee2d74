//! The cost of a request that a rate limit refuses, against one that is served.

use std::sync::Arc;
use std::time::Duration;

use fulexo_tests::{Database, Node, PASSWORD};
use serde_json::json;
use tokio::runtime::Runtime;

use crate::{load, table};

const ROUNDS: usize = 3;
const ROUND: Duration = Duration::from_secs(2);

pub fn run(runtime: &Runtime) {
    let (served, limited, login) = runtime.block_on(async {
        let database = Arc::new(Database::create().await);
        let mut env = database.env();
        env.insert("FULEXO_BCRYPT_COST".into(), "10".into());
        let served = Node::with(&database, env.clone()).await;
        env.insert("FULEXO_RATE_LIMITS".into(), "login=1/1d,address=1000000/1s".into());
        let limited = Node::with(&database, env).await;
        let (email, _) = served.register(&["customer"]).await;
        let body = json!({"email": email, "password": PASSWORD}).to_string();
        let login = vec![load::request("POST", "/v1/auth/login", None, Some(&body))];
        // This is the one request that is let in.
        let first = limited.anonymous().post("/v1/auth/login", json!({"email": email, "password": PASSWORD})).await;
        assert_eq!(first.status, 200);
        (served, limited, login)
    });
    let (mut refusals, mut logins) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let round = runtime.block_on(load::drive(&limited.url, 1, ROUND, login.clone(), 429));
        refusals.push(table::median(round.latencies));
        let round = runtime.block_on(load::drive(&served.url, 1, ROUND, login.clone(), 200));
        logins.push(table::median(round.latencies));
    }
    table::head("a login refused by its rate limit, milliseconds, median", "served", "refused");
    table::line("cheaper by", table::median(logins), table::median(refusals), Some(10.0));
    runtime.block_on(async {
        served.stop().await;
        limited.stop().await;
    });
}
