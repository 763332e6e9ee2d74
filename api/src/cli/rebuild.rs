//! `fulexo rebuild`: rebuilds read models from the log, and rolls back to their previous versions.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use fulexo_database::chain;
use fulexo_domain::jetstream::hex;
use fulexo_node::database::connect;
use fulexo_node::log_size::log_size;
use fulexo_projections::read_models::Projection;
use fulexo_projections::rebuild::{RebuildError, RebuildOptions, RebuildProgress, RebuildReport, rebuild, roll_back};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use sqlx::PgPool;

use super::failure::Failure;
use super::output::{Output, note};
use super::process::{StopSignals, block_on};
use super::progress::{Progress, grouped};
use super::target::Target;

/// One connection for the reader of the log, and some for every projection.
const CONNECTIONS: u32 = 10;
const WAITING: &str = "waiting for a transaction that locks the live tables";

#[derive(Args)]
pub struct RebuildArgs {
    /// Rebuild these read models.
    #[arg(value_name = "READ_MODEL", value_parser = read_model())]
    projections: Vec<Projection>,
    /// Rebuild all read models in one pass over the log.
    #[arg(long, conflicts_with = "projections")]
    all: bool,
    /// Start from the beginning, even if an interrupted rebuild could be resumed.
    #[arg(long, conflicts_with = "rollback")]
    restart: bool,
    /// Restore the version of this read model that was live before its last rebuild.
    #[arg(long, value_name = "READ_MODEL", value_parser = read_model(), conflicts_with_all = ["projections", "all"])]
    rollback: Option<Projection>,
    /// Print each result as JSON on a line, for programs.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

impl RebuildArgs {
    pub fn run(self) -> Result<(), Failure> {
        if self.projections.is_empty() && !self.all && self.rollback.is_none() {
            let names = Projection::ALL.map(Projection::as_str).join(", ");
            return Err(Failure::Misused(format!("no read model is named. Name one or more of {names}, or use --all")));
        }
        let url = self.target.database_url()?;
        block_on(async {
            let pool = connect(&url, CONNECTIONS).await?;
            if let Some(projection) = self.rollback {
                return bring_back(&pool, projection, self.json).await;
            }
            let mut projections = if self.all { Projection::ALL.to_vec() } else { self.projections.clone() };
            projections.sort_unstable_by_key(|projection| projection.as_str());
            projections.dedup();
            let options = RebuildOptions { program: program()?, restart: self.restart };
            let mut stop = StopSignals::listen()?;
            tokio::select! {
                () = stop.received() => {
                    Err(Failure::Failed("interrupted; the next `fulexo rebuild` resumes from here".into()))
                }
                done = build(&pool, &projections, &options, self.json) => done,
            }
        })
    }
}

/// Returns a parser of read models by name. Help and completions list the names.
fn read_model() -> impl TypedValueParser<Value = Projection> {
    PossibleValuesParser::new(Projection::ALL.map(Projection::as_str)).try_map(|name| name.parse::<Projection>())
}

async fn build(
    pool: &PgPool,
    projections: &[Projection],
    options: &RebuildOptions,
    is_json: bool,
) -> Result<(), Failure> {
    let size = log_size(pool).await?;
    let mut progress: Option<Progress> = None;
    let mut positions: BTreeMap<&str, u64> = BTreeMap::new();
    let outcomes = rebuild(pool, projections, options, |projection, news| {
        let name = projection.as_str();
        let slowest = |positions: &BTreeMap<&str, u64>| positions.values().copied().min().unwrap_or_default();
        match news {
            RebuildProgress::Started { version, position, discarded } => {
                note(format_args!("{name}: {}", begun(version, position, discarded, options.restart)));
                positions.insert(name, position);
            }
            RebuildProgress::Advanced { position } => {
                let progress = progress.get_or_insert_with(|| Progress::new(label(projections), slowest(&positions)));
                positions.insert(name, position);
                let done = slowest(&positions);
                progress.show(done, size.max(done));
            }
            RebuildProgress::Comparing => say(&mut progress, &format!("{name}: comparing with the live version")),
            RebuildProgress::Indexing => say(&mut progress, &format!("{name}: creating indexes")),
            RebuildProgress::WaitingForReaders => say(&mut progress, &format!("{name}: {WAITING}")),
        }
    })
    .await;
    drop(progress);
    let outcomes = outcomes.map_err(|error| failed(&error))?;
    let (mut out, mut failures) = (Output::new(), Vec::new());
    for (projection, outcome) in outcomes {
        match outcome {
            Ok(rebuilt) => {
                if is_json {
                    out.line(as_json(&rebuilt))?;
                }
                match report(&rebuilt) {
                    Ok(said) if !is_json => out.line(said)?,
                    Ok(_) => {}
                    Err(difference) => failures.push(difference),
                }
            }
            Err(error) => failures.push(format!("{}: {}", projection.as_str(), chain(&error))),
        }
    }
    if failures.is_empty() { Ok(()) } else { Err(Failure::Failed(failures.join("\nfulexo: "))) }
}

/// Returns the label of the progress bar.
fn label(projections: &[Projection]) -> String {
    match projections {
        [one] => one.as_str().to_owned(),
        several => format!("{} read models", several.len()),
    }
}

fn say(progress: &mut Option<Progress>, text: &str) {
    match progress {
        Some(progress) => progress.say(text),
        None => note(text),
    }
}

fn begun(version: u32, position: u64, discarded: bool, restart: bool) -> String {
    match (position, discarded, restart) {
        (1.., ..) => format!("resuming version {version} from position {}", grouped(position)),
        (0, true, false) => {
            format!("building version {version}; the unfinished build of another program was discarded")
        }
        (0, ..) => format!("building version {version}"),
    }
}

fn as_json(rebuilt: &RebuildReport) -> Value {
    let RebuildReport { projection, version, events, comparison } = rebuilt;
    json!({
        "name": projection.as_str(),
        "version": version,
        "events": events,
        "position": comparison.position,
        "differing": comparison.differing,
        "examples": comparison.examples,
    })
}

/// Reports the result of a rebuild. A difference between the log and the previous version is an error.
fn report(rebuilt: &RebuildReport) -> Result<String, String> {
    let RebuildReport { projection, version, events, comparison } = rebuilt;
    let name = projection.as_str();
    let live = format!("{name}: version {version} is live, built from {} events", grouped(*events));
    if comparison.is_same() {
        return Ok(format!("{live}; the previous version agrees at position {}", grouped(comparison.position)));
    }
    let differ = match comparison.differing {
        1 => "1 row differs".to_owned(),
        differing => format!("{} rows differ", grouped(differing)),
    };
    let mut text = format!(
        "{live}, but it differs from the previous version: {differ} at position {}",
        grouped(comparison.position)
    );
    if !comparison.examples.is_empty() {
        let _ = write!(text, ", for example {}", comparison.examples.join(", "));
    }
    let _ = write!(text, ". To restore the previous version, run `fulexo rebuild --rollback {name}`");
    Err(text)
}

fn failed(error: &RebuildError) -> Failure {
    let kept = match error {
        RebuildError::Feed(_) | RebuildError::TablesBusy(_) => {
            "; the live tables are unchanged, and the next run resumes from here"
        }
        RebuildError::AlreadyRunning(_) | RebuildError::NoPreviousVersion(_) | RebuildError::CheckpointMoved(_) => "",
    };
    Failure::Failed(format!("{}{kept}", chain(error)))
}

async fn bring_back(pool: &PgPool, projection: Projection, is_json: bool) -> Result<(), Failure> {
    let tell = |projection: Projection, news| {
        if news == RebuildProgress::WaitingForReaders {
            note(format_args!("{}: {WAITING}", projection.as_str()));
        }
    };
    let done = roll_back(pool, projection, tell).await.map_err(|error| failed(&error))?;
    if is_json {
        let name = projection.as_str();
        let document =
            json!({"name": name, "version": done.version, "position": done.position, "kept": done.kept_version});
        return Output::new().line(document);
    }
    Output::new().line(format_args!(
        "{}: version {} is live again, at position {}; version {} is kept",
        projection.as_str(),
        done.version,
        grouped(done.position),
        done.kept_version
    ))
}

/// Returns the version and the digest of this program: a rebuild is resumed only by the program that started it.
pub(super) fn program() -> Result<String, Failure> {
    // The running file, even if another file has replaced it.
    let mut file = std::fs::File::open("/proc/self/exe")
        .map_err(|error| Failure::Failed(format!("cannot read this program's own file: {error}")))?;
    let mut digest = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        let read = std::io::Read::read(&mut file, &mut buffer)
            .map_err(|error| Failure::Failed(format!("cannot read this program's own file: {error}")))?;
        match buffer.get(..read) {
            None | Some([]) => break,
            Some(bytes) => digest.update(bytes),
        }
    }
    let digest = digest.finalize();
    Ok(format!("{} {}", env!("CARGO_PKG_VERSION"), hex(digest.get(..12).unwrap_or_default())))
}
