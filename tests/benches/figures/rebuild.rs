//! Events per second when read models are rebuilt from a long log, all in one pass: from nothing, and alongside live
//! ones with which they are compared; each with its indexes, and switched. Next to bare reading and decoding.
//!
//! Set `FULEXO_BENCH_EVENTS=200000` for a shorter log.

use std::sync::Arc;
use std::time::Instant;

use fulexo_projections::feed;
use fulexo_projections::read_models::Projection;
use fulexo_projections::rebuild::{RebuildOptions, rebuild};
use fulexo_tests::{Database, history};
use sqlx::PgPool;
use tokio::runtime::Runtime;

use crate::table;

const EVENTS: usize = 2_000_000;
const ROUNDS: usize = 3;
const PROJECTIONS: [Projection; 3] = [Projection::Accounts, Projection::Sessions, Projection::Metrics];

pub fn run(runtime: &Runtime) {
    let events = std::env::var("FULEXO_BENCH_EVENTS").ok().and_then(|events| events.parse().ok()).unwrap_or(EVENTS);
    runtime.block_on(async {
        let database = Arc::new(Database::create().await);
        history::fill(&database, events).await;
        let pool = database.pool().await;
        let (mut anew, mut beside, mut bare) = (Vec::new(), Vec::new(), Vec::new());
        bare.push(replay(&pool).await);
        anew.push(rebuilt(&pool, &PROJECTIONS).await);
        for _ in 0..ROUNDS {
            bare.push(replay(&pool).await);
            beside.push(rebuilt(&pool, &PROJECTIONS).await);
        }
        table::head(
            &format!("rebuild of {} events, events/s", table::number(events as f64)),
            "rebuilt",
            "read and decoded",
        );
        let bare = table::median(bare);
        let names = PROJECTIONS.map(Projection::as_str).join(", ");
        table::line(&format!("{names}: from nothing"), table::median(anew), bare, None);
        let rate = table::median(beside);
        table::line(&format!("{names}: compared"), rate, bare, None);
        println!("  wanted: at least 150,000 events/s{}", if rate < 150_000.0 { ": SHORT" } else { "" });
        let all = rebuilt(&pool, &Projection::ALL).await;
        table::line("all, the audit index too", all, bare, None);
        pool.close().await;
    });
}

async fn rebuilt(pool: &PgPool, projections: &[Projection]) -> f64 {
    let options = RebuildOptions { program: "the bench".into(), restart: true };
    let started = Instant::now();
    let show = std::env::var_os("FULEXO_BENCH_STAGES").is_some();
    let tell = |projection: Projection, news| {
        if show {
            eprintln!("{:8.2} s  {:<10} {news:?}", started.elapsed().as_secs_f64(), projection.as_str());
        }
    };
    let outcomes = rebuild(pool, projections, &options, tell).await.unwrap();
    let took = started.elapsed().as_secs_f64();
    let slowest = outcomes.into_iter().map(|(_, outcome)| {
        let rebuilt = outcome.unwrap();
        assert!(rebuilt.comparison.is_same(), "{rebuilt:?}");
        rebuilt.events as f64 / took
    });
    let slowest = slowest.fold(f64::INFINITY, f64::min);
    assert!(slowest.is_finite());
    slowest
}

async fn replay(pool: &PgPool) -> f64 {
    let started = Instant::now();
    let size = feed::size(&mut pool.acquire().await.unwrap()).await.unwrap();
    let mut replay = feed::LogReader::over(pool, 0..size);
    let mut events = 0;
    while let Some(batch) = replay.next().await.unwrap() {
        events += batch.len() as u64;
    }
    assert_eq!(events, size);
    events as f64 / started.elapsed().as_secs_f64()
}
