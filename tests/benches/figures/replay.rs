//! Events per second when the log is read from the beginning: read, hash verified, decoded; next to the bare read.

use std::sync::Arc;
use std::time::Instant;

use fulexo_projections::feed;
use fulexo_tests::Database;
use sqlx::PgPool;
use tokio::runtime::Runtime;

use crate::{appends, table};

const EVENTS: u64 = 300_000;
const ROUNDS: usize = 3;

pub fn run(runtime: &Runtime) {
    runtime.block_on(async {
        let database = Arc::new(Database::create().await);
        appends::fill(&database, EVENTS).await;
        let pool = database.pool().await;
        let (mut replayed, mut bare) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            replayed.push(replay(&pool).await);
            bare.push(bare_read(&pool).await);
        }
        table::head("replay, events/s", "verified, decoded", "bare read");
        let rate = table::median(replayed);
        table::line(&format!("{} events", table::number(EVENTS as f64)), rate, table::median(bare), None);
        println!("  wanted: at least 300,000 events/s{}", if rate < 300_000.0 { ": SHORT" } else { "" });
        pool.close().await;
    });
}

async fn replay(pool: &PgPool) -> f64 {
    let started = Instant::now();
    let size = feed::size(&mut pool.acquire().await.unwrap()).await.unwrap();
    let mut replay = feed::LogReader::over(pool, 0..size);
    let mut events = 0;
    while let Some(batch) = replay.next().await.unwrap() {
        events += batch.len() as u64;
    }
    assert!(events >= EVENTS);
    events as f64 / started.elapsed().as_secs_f64()
}

async fn bare_read(pool: &PgPool) -> f64 {
    let started = Instant::now();
    let (mut events, mut from) = (0_usize, 0_i64);
    loop {
        let rows: Vec<(i64, Vec<u8>)> = sqlx::query_as(
            "select position, leaf from log.event where position >= $1 and position < $1 + 5000 order by position",
        )
        .bind(from)
        .fetch_all(pool)
        .await
        .unwrap();
        if rows.is_empty() {
            return events as f64 / started.elapsed().as_secs_f64();
        }
        events += rows.len();
        from += 5_000;
    }
}
