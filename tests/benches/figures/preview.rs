//! Attempts per second that a policy preview replays, over HTTP, next to the bare replay of the same log.

use std::sync::Arc;
use std::time::{Duration, Instant};

use fulexo_projections::feed;
use fulexo_tests::{Database, Node};
use serde_json::json;
use sqlx::PgPool;
use tokio::runtime::Runtime;

use crate::{appends, table};

const ATTEMPTS: u64 = 1_000_000;
const ROUNDS: usize = 3;

pub fn run(runtime: &Runtime) {
    runtime.block_on(async {
        let database = Arc::new(Database::create().await);
        appends::fill(&database, ATTEMPTS).await;
        let node = Node::join(&database).await;
        let admin = node.admin().await;
        let size = feed::size(&mut database.pool().await.acquire().await.unwrap()).await.unwrap();
        // The read models catch up first, so that they are not measured too.
        let admin = admin.seeing(size - 1);
        let body = json!({"days": 1, "lockout": {
            "enabled": true, "threshold": 3, "window_seconds": 900, "duration_seconds": 900, "max_duration_seconds": 86_400}});
        while admin.get("/v1/me/events?limit=1").await.status != 200 {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        let pool = database.pool().await;
        let (mut previewed, mut bare, mut attempts) = (Vec::new(), Vec::new(), 0.0);
        for _ in 0..ROUNDS {
            let started = Instant::now();
            let answer = admin.post("/v1/policy/preview", body.clone()).await;
            let took = started.elapsed().as_secs_f64();
            assert_eq!((answer.status, answer.code()), (200, ""));
            attempts = answer.json["attempts"].as_f64().unwrap();
            assert!(attempts >= ATTEMPTS as f64, "{attempts}");
            previewed.push(attempts / took);
            bare.push(replay(&pool, size).await);
        }
        table::head("policy preview, attempts/s over HTTP", "fulexo", "bare replay");
        let name = format!("{} attempts", table::number(attempts));
        table::line(&name, table::median(previewed), table::median(bare), None);
        pool.close().await;
        node.stop().await;
    });
}

async fn replay(pool: &PgPool, size: u64) -> f64 {
    let started = Instant::now();
    let mut replay = feed::LogReader::over(pool, 0..size);
    while replay.next().await.unwrap().is_some() {}
    size as f64 / started.elapsed().as_secs_f64()
}
