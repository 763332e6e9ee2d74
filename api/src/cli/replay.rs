//! `fulexo replay`: replays the log up to a position into temporary tables and compares them with the live tables at this
//! position. Also compares every snapshot with its stream.

use std::time::{Duration, Instant};

use clap::Args;
use fulexo_database::chain;
use fulexo_domain::jetstream::hex;
use fulexo_node::clock;
use fulexo_node::database::{connect, reason};
use fulexo_projections::as_of::{AsOf, AsOfError, Moment};
use fulexo_projections::feed::LogReader;
use fulexo_projections::replay::{Checksum, ReadModelTable, ScratchTables, live_checksum};
use fulexo_projections::snapshots;
use serde_json::json;
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, PgConnection, PgPool};
use tokio::time::{sleep, timeout};

use super::failure::Failure;
use super::output::Output;
use super::process::block_on;
use super::progress::{Progress, grouped};
use super::table::{Table, TableColumn};
use super::target::Target;

/// The time to wait for a read model that is behind.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Args)]
pub struct ReplayArgs {
    /// Replay up to this event: its position, or a time (RFC 3339) [default: the last event of the log].
    #[arg(long, value_name = "WHEN")]
    until: Option<AsOf>,
    /// Print the result as JSON, for programs.
    #[arg(long)]
    json: bool,
    /// Print whole lines, regardless of the width of the terminal.
    #[arg(long, conflicts_with = "json")]
    wide: bool,
    #[command(flatten)]
    target: Target,
}

impl ReplayArgs {
    pub fn run(self) -> Result<(), Failure> {
        let url = self.target.database_url()?;
        let started = Instant::now();
        block_on(async {
            let pool = connect(&url, 4).await?;
            let as_of = self.until.unwrap_or(AsOf::Time(clock::now()));
            let moment = resolve("--until", as_of, &pool).await?;
            seen(&pool, moment.position).await?;
            let events = moment.last().map_or(0, |last| last + 1);
            let scratch = replay(&pool, events).await?;
            let seconds = started.elapsed().as_secs_f64();
            let mut out = Output::wide(self.wide);
            match moment.last() {
                _ if self.json => {}
                Some(last) => {
                    out.line(format_args!("replayed {events} events up to position {last} in {seconds:.1} s"))?
                }
                None => out.line("no event was recorded by then")?,
            }
            compare(&pool, scratch, moment.position, &mut out, self.json).await
        })
    }
}

/// The columns. The verdict precedes the checksums, which are cut in a narrow terminal.
const COLUMNS: [TableColumn; 6] = [
    TableColumn::Text("table"),
    TableColumn::Number("replayed"),
    TableColumn::Number("live"),
    TableColumn::Text("verdict"),
    TableColumn::Elastic("replayed checksum"),
    TableColumn::Elastic("live checksum"),
];

/// A table as it was replayed, and as it is.
pub(super) struct ComparedTable {
    pub name: &'static str,
    replayed: Checksum,
    live: Checksum,
}

impl ComparedTable {
    pub fn agrees(&self) -> bool {
        self.replayed == self.live
    }
}

/// Replays the first events of the log into temporary tables.
pub(super) async fn replay(pool: &PgPool, events: u64) -> Result<ScratchTables, Failure> {
    let mut scratch = ScratchTables::create(own_connection(pool).await?)
        .await
        .map_err(|error| format!("cannot create temporary tables: {}", reason(&error)))?;
    let mut bar = Progress::new("replay".to_owned(), 0);
    let mut log = LogReader::over(pool, 0..events);
    let mut done = 0;
    loop {
        let batch = log.next().await.map_err(|error| format!("cannot replay the log: {}", chain(&error)))?;
        let Some(batch) = batch else { break };
        scratch.apply(&batch).await?;
        done += batch.len() as u64;
        bar.show(done, events);
    }
    drop(bar);
    Ok(scratch)
}

/// Compares the replayed tables with the live ones as of a position.
pub(super) async fn compare_tables(
    live: &mut PgConnection,
    scratch: &mut ScratchTables,
    position: i64,
) -> Result<Vec<ComparedTable>, Failure> {
    let mut tables = Vec::new();
    for table in ReadModelTable::ALL {
        let replayed = scratch.checksum(table, position).await?;
        let live = live_checksum(live, table, position).await?;
        tables.push(ComparedTable { name: table.as_str(), replayed, live });
    }
    Ok(tables)
}

async fn compare(
    pool: &PgPool,
    mut scratch: ScratchTables,
    position: i64,
    out: &mut Output,
    is_json: bool,
) -> Result<(), Failure> {
    let mut live = own_connection(pool).await?;
    let (mut different, mut table, mut tables) = (Vec::new(), Table::new(&COLUMNS), Vec::new());
    for compared in compare_tables(&mut live, &mut scratch, position).await? {
        let agrees = compared.agrees();
        let ComparedTable { name, replayed, live } = compared;
        table.row([
            name.to_owned(),
            grouped(replayed.rows),
            grouped(live.rows),
            if agrees { "agrees" } else { "differs" }.to_owned(),
            short(&replayed),
            short(&live),
        ]);
        let side = |checksum: &Checksum| json!({"rows": checksum.rows, "checksum": hex(&checksum.digest)});
        tables.push(json!({"name": name, "agree": agrees, "replayed": side(&replayed), "live": side(&live)}));
        if !agrees {
            different.push(name);
        }
    }
    if !is_json {
        out.table(&table, true)?;
    }
    let snapshots = snapshots::compare(&mut live)
        .await
        .map_err(|error| format!("cannot compare the snapshots with the log: {}", chain(&error)))?;
    let snapshots::SnapshotComparison { matching, differing, unused, examples } = &snapshots;
    let streams = examples.iter().map(|stream| (stream.category.as_str(), stream.id));
    if is_json {
        let streams: Vec<_> = streams.map(|(category, id)| json!({"category": category, "id": id})).collect();
        let snapshots = json!({"agree": matching, "differ": differing, "unused": unused, "different": streams});
        out.line(json!({"position": position, "tables": tables, "snapshots": snapshots}))?;
    } else {
        out.line(format_args!("snapshots: {matching} agree, {differing} differ, {unused} unused"))?;
        for (category, id) in streams {
            out.line(format_args!("the snapshot of {category} {id} differs"))?;
        }
    }
    let mut failures = Vec::new();
    if !different.is_empty() {
        let tables = different.join(", ");
        failures.push(format!("the live tables differ from the log: {tables}. Run `fulexo rebuild` to rebuild them"));
    }
    if snapshots.differing > 0 {
        failures.push(
            "snapshots differ from the log, so commands decide on wrong state. Delete these rows of log.snapshot; the \
             service creates them again"
                .to_owned(),
        );
    }
    if failures.is_empty() {
        if is_json {
            return Ok(());
        }
        return out.line("the live tables agree with the log at this position");
    }
    Err(Failure::Failed(failures.join("; ")))
}

/// Resolves the moment of an argument.
pub(super) async fn resolve(argument: &str, as_of: AsOf, pool: &PgPool) -> Result<Moment, Failure> {
    as_of.resolve(pool, clock::now()).await.map_err(|error| {
        let text = format!("{argument} {error}");
        match error {
            AsOfError::BeyondEnd(_) => Failure::Misused(text),
            AsOfError::Feed(_) => Failure::Failed(text),
        }
    })
}

/// Waits until every read model has applied the position.
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
                "the read model {name} has not applied position {position}. Start a node with `fulexo serve`, which \
                 updates read models"
            )))
        }
    }
}

/// Returns the name of a read model that has not applied the position.
async fn behind(pool: &PgPool, position: i64) -> Result<Option<String>, sqlx::Error> {
    sqlx::query_scalar!("select name from projection.checkpoint where position <= $1 order by name limit 1", position)
        .fetch_optional(pool)
        .await
}

/// Opens a connection of its own, without the timeouts of requests.
pub(super) async fn own_connection(pool: &PgPool) -> Result<PgConnection, sqlx::Error> {
    let options: PgConnectOptions = pool.connect_options().as_ref().clone();
    let mut connection = PgConnection::connect_with(&options).await?;
    sqlx::query("set statement_timeout = 0").execute(&mut connection).await?;
    sqlx::query("set idle_in_transaction_session_timeout = 0").execute(&mut connection).await?;
    Ok(connection)
}

/// Returns the beginning of a digest.
fn short(checksum: &Checksum) -> String {
    hex(checksum.digest.get(..8).unwrap_or_default())
}
