//! `fulexo rebuild`: read models made again from the log, and brought back from before that.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use fulexo_domain::copy::hex;
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

/// One for the reader, some for as many projections as there may be.
const CONNECTIONS: u32 = 10;
const WAITING: &str = "a transaction holds the live tables; waiting for its end";

#[derive(Args)]
pub struct Rebuild {
    /// Their names.
    #[arg(value_name = "READ_MODEL", value_parser = read_model())]
    projections: Vec<Projection>,
    /// All of them, reading the log once.
    #[arg(long, conflicts_with = "projections")]
    all: bool,
    /// Begin anew, even where an interrupted rebuild could be resumed.
    #[arg(long, conflicts_with = "rollback")]
    restart: bool,
    /// Bring back the version that was live before the last rebuild of this one.
    #[arg(long, value_name = "READ_MODEL", value_parser = read_model(), conflicts_with_all = ["projections", "all"])]
    rollback: Option<Projection>,
    /// Print each result as JSON, on a line, for programs.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

impl Rebuild {
    pub fn run(self) -> Result<(), Failure> {
        if self.projections.is_empty() && !self.all && self.rollback.is_none() {
            let names = Projection::ALL.map(Projection::as_str).join(", ");
            return Err(Failure::Misused(format!("name read models, or give --all for all of them: {names}")));
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
                    Err(Failure::Failed("interrupted; nothing was lost: the next `fulexo rebuild` goes on from here".into()))
                }
                done = build(&pool, &projections, &options, self.json) => done,
            }
        })
    }
}

/// By name; help and completions list the names.
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
                let progress = progress.get_or_insert_with(|| Progress::new(what(projections), slowest(&positions)));
                positions.insert(name, position);
                let done = slowest(&positions);
                progress.show(done, size.max(done));
            }
            RebuildProgress::Comparing => say(&mut progress, &format!("{name}: comparing it with the live version")),
            RebuildProgress::Indexing => say(&mut progress, &format!("{name}: making its indexes")),
            RebuildProgress::WaitingForReaders => say(&mut progress, &format!("{name}: {WAITING}")),
        }
    })
    .await;
    if let Some(progress) = &mut progress {
        progress.end();
    }
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
            Err(error) => failures.push(format!("{}: {error}", projection.as_str())),
        }
    }
    if failures.is_empty() { Ok(()) } else { Err(Failure::Failed(failures.join("\nfulexo: "))) }
}

/// What a bar is about, in few words.
fn what(projections: &[Projection]) -> String {
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
        (1.., ..) => format!("building version {version} goes on from position {}", grouped(position)),
        (0, true, false) => {
            format!("building version {version}; what another program had built of it was discarded")
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

/// What a rebuild came to; an error where the log said something else than the view did.
fn report(rebuilt: &RebuildReport) -> Result<String, String> {
    let RebuildReport { projection, version, events, comparison } = rebuilt;
    let name = projection.as_str();
    let live = format!("{name}: version {version} is live, made of {} events", grouped(*events));
    if comparison.is_same() {
        return Ok(format!("{live}; the version before said the same at position {}", grouped(comparison.position)));
    }
    let differ = match comparison.differing {
        1 => "1 row differs".to_owned(),
        differing => format!("{} rows differ", grouped(differing)),
    };
    let mut text = format!(
        "{live}, but the version before said something else: {differ} at position {}",
        grouped(comparison.position)
    );
    if !comparison.examples.is_empty() {
        let _ = write!(text, ", such as {}", comparison.examples.join(", "));
    }
    let _ = write!(text, ". The log's word stands; `fulexo rebuild --rollback {name}` brings the version before back");
    Err(text)
}

fn failed(error: &RebuildError) -> Failure {
    let kept = match error {
        RebuildError::Feed(_) | RebuildError::TablesBusy(_) => {
            "; nothing was switched, and the next run goes on from here"
        }
        RebuildError::AlreadyRunning(_) | RebuildError::NoPreviousVersion(_) | RebuildError::CheckpointMoved(_) => "",
    };
    Failure::Failed(format!("{error}{kept}"))
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
        let document = json!({"name": name, "version": done.version, "position": done.position, "kept": done.from});
        return Output::new().line(document);
    }
    Output::new().line(format_args!(
        "{}: version {} is live again, at position {}; version {} is kept",
        projection.as_str(),
        done.version,
        grouped(done.position),
        done.from
    ))
}

/// Which program this is, to the last bit: a build that is half of one and half of another would be neither's.
fn program() -> Result<String, Failure> {
    // The file that runs, even where another has taken its name.
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
