//! `fulexo audit replay`: an exported trail on the auditor's own machine, verified, replayed and asked, without the service, its
//! database or its keys.

mod build;
mod load;
mod private;
mod record;

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use fulexo_node::auditor::AuditorToken;
use fulexo_node::config::Environment;
use fulexo_node::start::listening::reserve_port;
use fulexo_node::start::replayed::ReplayedNode;
use fulexo_projections::as_of::AsOf;
use fulexo_projections::trail::FaultKind;
use serde_json::json;
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use zeroize::Zeroizing;

use self::build::{build, is_whole, publish};
use self::private::PrivateDatabase;
use self::record::{ReplayRecord, Trail, TrailIdentity};
use super::source::LogSource;
use super::trust::{Trust, TrustArgs, TrustedCheckpoint, file};
use super::verify::{Unverified, verify};
use crate::cli::failure::Failure;
use crate::cli::output::Output;
use crate::cli::postgres_variables;
use crate::cli::process::{StopSignals, block_on, start_logging};
use crate::cli::progress::grouped;
use crate::cli::table::{Table, TableColumn};
use crate::faces;

/// The time between two looks whether the private PostgreSQL still runs.
const LOOK: Duration = Duration::from_secs(1);

#[derive(Args)]
pub struct AuditReplayArgs {
    /// Replay the copy of the log in this directory, which `fulexo audit export` has written.
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// Replay up to this event: its position, or a time (RFC 3339) [default: the last event of the copy].
    #[arg(long, value_name = "WHEN")]
    until: Option<AsOf>,
    #[command(flatten)]
    trust: TrustArgs,
    /// Verify that the log begins as this older checkpoint says, which you have kept.
    #[arg(long, value_name = "FILE")]
    since: Option<PathBuf>,
    /// Listen on this port of 127.0.0.1; 0 lets the system choose.
    #[arg(long, default_value_t = 8080)]
    port: u16,
    /// Keep the database in this directory, for the next run [default: a temporary one, which is removed at the end].
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Print the URL, the token and the checksums as JSON, for programs.
    #[arg(long)]
    json: bool,
}

impl AuditReplayArgs {
    pub fn run(self) -> Result<(), Failure> {
        postgres_variables::leave()?;
        start_logging(Environment::Development, "warn,sqlx=error");
        let given = self.trust.given()?;
        let since = self.since.as_deref().map(file).transpose()?;
        if !self.directory.is_dir() {
            return Err(Failure::Failed(format!("{} is not a directory", self.directory.display())));
        }
        block_on(async {
            let mut stop = StopSignals::listen()?;
            // First of all: a port that is taken is the mistake made most often.
            let reserved = reserve_port((Ipv4Addr::LOCALHOST, self.port).into())?;
            let source = LogSource::Directory(self.directory.clone());
            let trust = Trust::of(given, &source).await?;
            let began = Instant::now();
            let trusted = tokio::select! {
                () = stop.received() => return Err(interrupted()),
                verified = verify(&source, &trust, since.as_deref()) => verified.map_err(unverified)?.0,
            };
            let mut out = Output::new();
            if !self.json {
                let (size, seconds) = (grouped(trusted.checkpoint.size), began.elapsed().as_secs_f64());
                out.line(format_args!("verified {size} events of {} in {seconds:.1} s", trusted.checkpoint.origin))?;
                if !trusted.witnesses.is_empty() {
                    out.line(format_args!("cosigned by {}", trusted.witnesses.join(", ")))?;
                }
            }
            let trail = Trail { source, trusted, log_key: trust.log_key().map(ToString::to_string), until: self.until };
            // A stop is heard meanwhile, and heeded as soon as there is a server to end.
            let kept = self.data_dir.clone();
            let database = spawn_blocking(move || PrivateDatabase::start(kept.as_deref()));
            let database = database.await.map_err(|error| error.to_string())??;
            let outcome = async {
                let began = Instant::now();
                let (record, is_kept) = tokio::select! {
                    () = stop.received() => return Err(interrupted()),
                    replayed = replayed(&database, &trail) => replayed?,
                };
                let token = AuditorToken::draw().map_err(|error| error.to_string())?;
                let text = Zeroizing::new(token.text().to_owned());
                let header = database.store_header(&text)?;
                let node = ReplayedNode::start(&database.auditor_url(), reserved, token, faces::endpoint).await?;
                let served = ServedReplay {
                    record: &record,
                    trusted: &trail.trusted,
                    is_kept,
                    key_from_log: trust.is_from_log,
                    seconds: began.elapsed().as_secs_f64(),
                    url: format!("http://127.0.0.1:{}", node.port),
                    token: text,
                    header: header.display().to_string(),
                };
                served.print(&mut out, self.json)?;
                let ended = tokio::select! {
                    () = stop.received() => Ok(()),
                    () = ended(&database) => Err(Failure::Failed("the private PostgreSQL has ended".to_owned())),
                };
                node.stop().await;
                ended
            }
            .await;
            // It takes a moment to stop.
            let removed = spawn_blocking(move || drop(database)).await;
            outcome.and(removed.map_err(|error| Failure::Failed(error.to_string())))
        })
    }
}

fn unverified(unverified: Unverified) -> Failure {
    let may_grow = matches!(
        &unverified,
        Unverified::Fault(fault) if matches!(fault.kind, FaultKind::Missing | FaultKind::Unexpected)
    );
    let failure = Failure::from(unverified);
    if may_grow { failure.with("if an export is extending the copy, wait until it has ended") } else { failure }
}

fn interrupted() -> Failure {
    Failure::Failed("interrupted; nothing was served, and the next run begins anew".to_owned())
}

async fn ended(database: &PrivateDatabase) {
    while database.is_running() {
        sleep(LOOK).await;
    }
}

/// Returns the record of the replay: of the one that the directory has, if it is whole and of this trail, else of a new one.
async fn replayed(database: &PrivateDatabase, trail: &Trail) -> Result<(ReplayRecord, bool), Failure> {
    let identity = TrailIdentity::of(trail)?;
    if let Some(record) = database.record().filter(|record| record.trail == identity)
        && is_whole(database, &record).await?
    {
        publish(database, trail, record.events).await?;
        return Ok((record, true));
    }
    database.forget_record()?;
    let record = build(database, trail, identity).await?;
    if !is_whole(database, &record).await? {
        return Err(Failure::Failed("the replay is not the trail that was verified".to_owned()));
    }
    publish(database, trail, record.events).await?;
    database.store_record(&record)?;
    Ok((record, false))
}

/// A replay that is served.
struct ServedReplay<'a> {
    record: &'a ReplayRecord,
    trusted: &'a TrustedCheckpoint,
    /// `true` if an earlier run has built it.
    is_kept: bool,
    key_from_log: bool,
    seconds: f64,
    url: String,
    token: Zeroizing<String>,
    /// The file with the header that has the token.
    header: String,
}

const COLUMNS: [TableColumn; 3] =
    [TableColumn::Text("table"), TableColumn::Number("rows"), TableColumn::Elastic("checksum")];

impl ServedReplay<'_> {
    fn print(&self, out: &mut Output, is_json: bool) -> Result<(), Failure> {
        let ReplayRecord { events, tables, .. } = self.record;
        let checkpoint = &self.trusted.checkpoint;
        if is_json {
            return out.line(json!({
                "listening_on": self.url, "token": *self.token, "header_file": self.header,
                "origin": checkpoint.origin.as_str(), "size": checkpoint.size, "key_from_log": self.key_from_log,
                "witnesses": self.trusted.witnesses, "events": events, "position": events.checked_sub(1),
                "kept": self.is_kept, "seconds": self.seconds, "tables": tables,
            }));
        }
        let (count, seconds) = (grouped(*events), self.seconds);
        let last = events.checked_sub(1).map(|last| format!(", up to position {last}")).unwrap_or_default();
        if self.is_kept {
            out.line(format_args!("an earlier run has replayed {count} events{last}"))?;
        } else {
            out.line(format_args!("replayed {count} events{last}, in {seconds:.1} s"))?;
        }
        let mut table = Table::new(&COLUMNS);
        for of in tables {
            table.row([of.name.clone(), grouped(of.rows), of.checksum.clone()]);
        }
        out.table(&table, true)?;
        out.line(format_args!("\nlistening on {}", self.url))?;
        out.line(format_args!("token {}", *self.token))?;
        out.line("\nAsk it, for example:")?;
        out.line(format_args!("  curl -H @{} '{}/v1/audit/events?limit=5'", self.header, self.url))?;
        out.line("\nPress Ctrl-C to stop.")
    }
}
