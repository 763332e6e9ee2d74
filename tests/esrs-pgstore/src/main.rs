//! Measures how many events a second the stock esrs `PgStore` appends, as the reference for Fulexo's benches.
//! It does not tune the store, load aggregates, run event handlers or measure anything of Fulexo's own.
//!
//! `DATABASE_URL=postgres://... esrs-pgstore [CALLERS] [SECONDS] [CONNECTIONS]`, by default `1,16,64,256 3 32`.
//! Prints one line `callers<TAB>appends_per_second` for each number of callers, and nothing else on stdout.
//! Replaces the table `esrs_pgstore_bench_events` and leaves the last one behind.

use std::convert::Infallible;
use std::env;
use std::error::Error;
use std::num::{NonZeroU32, NonZeroU64};
use std::time::{Duration, Instant};

use esrs::store::EventStore;
use esrs::store::postgres::{PgStore, PgStoreBuilder, PgStoreError};
use esrs::{Aggregate, AggregateState};
use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions, PgSslMode};
use tokio::task::JoinSet;

/// Uncounted run before each measurement, in which every connection prepares its statements.
const WARM_UP: Duration = Duration::from_millis(500);

/// Events appended to one aggregate before its caller starts the next.
const EVENTS_PER_AGGREGATE: u32 = 10;

type Failure = Box<dyn Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let settings = Settings::read()?;
    for callers in &settings.callers {
        let rate = appends_per_second(&settings, *callers).await?;
        println!("{callers}\t{rate:.0}");
    }
    Ok(())
}

struct Settings {
    database: PgConnectOptions,
    callers: Vec<NonZeroU32>,
    seconds: NonZeroU64,
    connections: NonZeroU32,
}

impl Settings {
    fn read() -> Result<Self, Failure> {
        let url = env::var("DATABASE_URL").map_err(|_| "DATABASE_URL is not set")?;
        let mut arguments = env::args().skip(1);
        let mut next = |default: &str| arguments.next().unwrap_or_else(|| default.to_owned());
        let settings = Self {
            // esrs compiles TLS in; without this, a server that offers it would have its cost measured too.
            database: url.parse::<PgConnectOptions>()?.ssl_mode(PgSslMode::Disable),
            callers: next("1,16,64,256").split(',').map(str::parse).collect::<Result<_, _>>()?,
            seconds: next("3").parse()?,
            connections: next("32").parse()?,
        };
        match arguments.next() {
            Some(surplus) => Err(format!("unexpected argument {surplus:?}").into()),
            None => Ok(settings),
        }
    }
}

/// Starts from an empty table and a new pool, so that the order of the measurements does not matter.
async fn appends_per_second(settings: &Settings, callers: NonZeroU32) -> Result<f64, Failure> {
    let pool = PgPoolOptions::new()
        .max_connections(settings.connections.get())
        .connect_with(settings.database.clone())
        .await?;
    let drop_table = format!("drop table if exists {}_events", Attempts::NAME);
    sqlx::query(&drop_table).execute(&pool).await?;
    let store: PgStore<Attempts> = PgStoreBuilder::new(pool.clone()).try_build().await?;
    open_connections(&pool, callers.min(settings.connections)).await?;

    let opens = Instant::now() + WARM_UP;
    let window = Window { opens, closes: opens + Duration::from_secs(settings.seconds.get()) };
    let mut tasks = JoinSet::new();
    for caller in 0..callers.get() {
        tasks.spawn(append_until_closed(store.clone(), caller, window));
    }
    let mut appended = 0;
    while let Some(counted) = tasks.join_next().await {
        appended += counted??;
    }
    pool.close().await;
    Ok(f64::from(appended) / window.closes.duration_since(window.opens).as_secs_f64())
}

/// Starting a backend takes longer than many appends; held together, none of them is handed out twice.
async fn open_connections(pool: &PgPool, count: NonZeroU32) -> Result<(), sqlx::Error> {
    let mut held = Vec::new();
    for _ in 0..count.get() {
        held.push(pool.acquire().await?);
    }
    Ok(())
}

#[derive(Clone, Copy)]
struct Window {
    opens: Instant,
    closes: Instant,
}

/// Counts the appends that complete within the window: all callers are busy throughout it, none starts or stops.
async fn append_until_closed(store: PgStore<Attempts>, caller: u32, window: Window) -> Result<u32, PgStoreError> {
    let mut appended = 0;
    let mut nth = 0;
    loop {
        let mut state = AggregateState::<u32>::new();
        for _ in 0..EVENTS_PER_AGGREGATE {
            nth += 1;
            let command = FailLogin { subject: state.id().to_string(), caller, nth };
            let Ok(events) = Attempts::handle_command(state.inner(), command);
            let stored = store.persist(&mut state, events).await?;
            state = state.apply_store_events(stored, Attempts::apply_event);

            let now = Instant::now();
            if now >= window.closes {
                return Ok(appended);
            }
            if now >= window.opens {
                appended += 1;
            }
        }
    }
}

/// The login attempts of one account; the state is how many failed.
struct Attempts;

struct FailLogin {
    subject: String,
    caller: u32,
    nth: u32,
}

/// About 300 bytes as JSON, the size of a failed login in Fulexo's log.
#[derive(Serialize, Deserialize)]
enum Attempt {
    AuthenticationFailed { reason: String, method: String, subject: String, policy_version: u32, sealed: Sealed },
}

/// Stands for the digests of what Fulexo seals; only their size matters here.
#[derive(Serialize, Deserialize)]
struct Sealed {
    key: String,
    ip: String,
    user_agent: String,
}

impl Aggregate for Attempts {
    const NAME: &'static str = "esrs_pgstore_bench";
    type State = u32;
    type Command = FailLogin;
    type Event = Attempt;
    type Error = Infallible;

    fn handle_command(_failed: &u32, command: FailLogin) -> Result<Vec<Attempt>, Infallible> {
        let FailLogin { subject, caller, nth } = command;
        Ok(vec![Attempt::AuthenticationFailed {
            reason: "wrong_password".to_owned(),
            method: "password".to_owned(),
            subject,
            policy_version: 7,
            sealed: Sealed {
                key: "2026-01".to_owned(),
                ip: format!("{caller:021x}{nth:022x}"),
                user_agent: format!("{nth:022x}{caller:021x}"),
            },
        }])
    }

    fn apply_event(failed: u32, event: Attempt) -> u32 {
        match event {
            Attempt::AuthenticationFailed { .. } => failed + 1,
        }
    }
}
