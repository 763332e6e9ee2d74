//! `fulexo replay`: the read models made again from the log alone, up to a position, and compared with what the live tables
//! say of that position; and every snapshot, of whatever position, with what its stream had come to.

use std::time::{Duration, Instant};

use clap::Args;
use fulexo_domain::copy::hex;
use fulexo_projections::as_of::AsOf;
use fulexo_projections::feed::Replay as Log;
use fulexo_projections::replay::{Checksum, Scratch, Table, live_checksum};
use fulexo_projections::snapshots;
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, PgConnection, PgPool};
use tokio::time::{sleep, timeout};

use super::output::Output;
use super::progress::Progress;
use super::target::Target;
use super::{Failure, block_on};
use crate::app::{connect, reason};
use crate::clock;

/// How long read models that are behind are waited for.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Args)]
pub struct Replay {
    /// The last event to replay: its position, or a time (RFC 3339) [default: the last one there is].
    #[arg(long, value_name = "WHEN")]
    until: Option<AsOf>,
    #[command(flatten)]
    target: Target,
}

impl Replay {
    pub fn run(self) -> Result<(), Failure> {
        let url = self.target.database_url()?;
        let started = Instant::now();
        block_on(async {
            let pool = connect(&url, 4).await?;
            let as_of = self.until.unwrap_or(AsOf::Time(clock::now()));
            let moment = as_of.resolve(&pool, clock::now()).await.map_err(|error| format!("--until {error}"))?;
            seen(&pool, moment.position).await?;
            let mut scratch = Scratch::create(own_connection(&pool).await?)
                .await
                .map_err(|error| format!("there can be no tables of its own: {}", reason(&error)))?;
            let events = moment.last().map_or(0, |last| last + 1);
            let mut bar = Progress::new("replay".to_owned(), 0);
            let mut log = Log::over(&pool, 0..events);
            let mut done = 0;
            loop {
                let batch = log.next().await.map_err(|error| format!("the log cannot be replayed: {error}"))?;
                let Some(batch) = batch else { break };
                scratch.apply(&batch).await?;
                done += batch.len() as u64;
                bar.show(done, events);
            }
            bar.end();
            let seconds = started.elapsed().as_secs_f64();
            let mut out = Output::new();
            match moment.last() {
                Some(last) => out.line(format_args!("{events} events in {seconds:.1} s, up to position {last}"))?,
                None => out.line("nothing had been recorded by then")?,
            }
            compare(&pool, scratch, moment.position, &mut out).await
        })
    }
}

async fn compare(pool: &PgPool, mut scratch: Scratch, position: i64, out: &mut Output) -> Result<(), Failure> {
    let mut live = own_connection(pool).await?;
    let mut different = Vec::new();
    out.line(format_args!(
        "{:<16} {:>10}  {:<16}  {:>10}  {:<16}",
        "table", "replayed", "checksum", "live", "checksum"
    ))?;
    for table in Table::ALL {
        let replayed = scratch.checksum(table, position).await?;
        let by_ranges = live_checksum(&mut live, table, position).await?;
        let verdict = if replayed == by_ranges { "agree" } else { "differs" };
        out.line(format_args!(
            "{:<16} {:>10}  {:<16}  {:>10}  {:<16}  {verdict}",
            table.as_str(),
            replayed.rows,
            short(&replayed),
            by_ranges.rows,
            short(&by_ranges)
        ))?;
        if replayed != by_ranges {
            different.push(table.as_str());
        }
    }
    let snapshots = snapshots::compare(&mut live)
        .await
        .map_err(|error| format!("the snapshots cannot be compared with the log: {error}"))?;
    let snapshots::Compared { agree, differ, unused, .. } = &snapshots;
    out.line(format_args!("snapshots: {agree} agree, {differ} differ, {unused} unused"))?;
    for stream in &snapshots.different {
        out.line(format_args!("the snapshot of {} {} differs", stream.category.as_str(), stream.id))?;
    }
    let mut failures = Vec::new();
    if !different.is_empty() {
        let tables = different.join(", ");
        failures.push(format!(
            "{tables}: what the log says differs from what readers see; `fulexo rebuild` goes by the log"
        ));
    }
    if snapshots.differ > 0 {
        failures.push(
            "snapshots differ from the log: commands decide on what never happened; delete these rows of log.snapshot, \
             and they are made again"
                .to_owned(),
        );
    }
    if failures.is_empty() {
        return out.line("the tables say of this position what the log says");
    }
    Err(Failure::Failed(failures.join("; ")))
}

/// Until the read models have seen the position.
pub(super) async fn seen(pool: &PgPool, position: i64) -> Result<(), Failure> {
    let waiting = async {
        while let Some(name) = behind(pool, position).await? {
            tracing::debug!(projection = name, "behind");
            sleep(Duration::from_millis(100)).await;
        }
        Ok::<_, sqlx::Error>(())
    };
    match timeout(PATIENCE, waiting).await {
        Ok(seen) => Ok(seen?),
        Err(_) => {
            let name = behind(pool, position).await?.unwrap_or_default();
            Err(Failure::Failed(format!(
                "{name} has not seen position {position} yet: `fulexo serve` keeps read models up with the log"
            )))
        }
    }
}

/// A read model that has not seen the position.
async fn behind(pool: &PgPool, position: i64) -> Result<Option<String>, sqlx::Error> {
    sqlx::query_scalar!("select name from projection.checkpoint where position <= $1 order by name limit 1", position)
        .fetch_optional(pool)
        .await
}

/// A connection that nobody else uses, without the bounds that requests work under.
async fn own_connection(pool: &PgPool) -> Result<PgConnection, sqlx::Error> {
    let options: PgConnectOptions = pool.connect_options().as_ref().clone();
    let mut connection = PgConnection::connect_with(&options).await?;
    sqlx::query("set statement_timeout = 0").execute(&mut connection).await?;
    sqlx::query("set idle_in_transaction_session_timeout = 0").execute(&mut connection).await?;
    Ok(connection)
}

/// The beginning of a digest.
fn short(checksum: &Checksum) -> String {
    hex(checksum.digest.get(..8).unwrap_or_default())
}
