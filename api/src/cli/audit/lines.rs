//! `fulexo audit export --format`: events as lines, for auditors and for systems that collect events.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use clap::Args;
use clap::builder::PossibleValuesParser;
use fulexo_database::chain;
use fulexo_domain::leaf;
use fulexo_domain::values::parse_timestamp;
use fulexo_node::log_size::log_size;
use fulexo_projections::export::ocsf::OcsfVersion;
use fulexo_projections::export::{ExportFormat, ExportRange, ExportReader, ExportWindow};
use fulexo_projections::read_models::audit::{AuditEntry, AuditFilter};
use fulexo_tlog::bundle::entries;
use fulexo_tlog::tile::{FULL_WIDTH, Tile, TileKind, hashes};
use futures_util::future::try_join_all;

use super::source::LogSource;
use super::trust::Trust;
use crate::cli::failure::Failure;
use crate::cli::output::{Output, note};
use crate::cli::process::parsed;
use crate::cli::progress::{Progress, grouped};

/// The bundles that are read at a time.
const AHEAD: u64 = 8;
/// The least length of what is written at a time, in bytes.
const CHUNK: usize = 256 * 1_024;
/// The end of a file in which its last line is looked for, in bytes: several times the longest line.
const TAIL: u64 = 1 << 20;

#[derive(Args)]
pub struct LinesArgs {
    /// Write events as lines instead of a copy: as the API lists them, in OCSF, or their exact leaves.
    #[arg(long, value_name = "FORMAT", value_parser = PossibleValuesParser::new(ExportFormat::NAMES))]
    format: Option<String>,
    /// Write this version of OCSF [default: 1.8.0].
    #[arg(long, value_name = "VERSION", requires = "format")]
    #[arg(value_parser = PossibleValuesParser::new(OcsfVersion::ALL.map(OcsfVersion::as_str)))]
    ocsf_version: Option<String>,
    /// Begin after this position.
    #[arg(long, value_name = "POSITION", requires = "format")]
    after: Option<u64>,
    /// Begin with the first event recorded at or after this time (RFC 3339).
    #[arg(long = "from", value_name = "TIME", requires = "format", value_parser = parsed(parse_timestamp))]
    since: Option<DateTime<Utc>>,
    /// End with the last event recorded before this time (RFC 3339).
    #[arg(long = "to", value_name = "TIME", requires = "format", value_parser = parsed(parse_timestamp))]
    before: Option<DateTime<Utc>>,
    /// Write to this new file instead of standard output.
    #[arg(long, value_name = "FILE", requires = "format")]
    out: Option<PathBuf>,
    /// Continue the file behind its last whole line, or begin it if it is not there. Not for leaves, which do not say their
    /// position.
    #[arg(long, requires = "out", conflicts_with_all = ["after", "since"])]
    resume: bool,
}

impl LinesArgs {
    /// The format, if one is given.
    pub fn format(&self) -> Result<Option<ExportFormat>, Failure> {
        let version = self.ocsf_version.as_deref().and_then(OcsfVersion::find);
        let format = self.format.as_deref().and_then(|name| ExportFormat::find(name, version.unwrap_or_default()));
        match format {
            Some(ExportFormat::Ndjson | ExportFormat::Leaves) if version.is_some() => {
                Err(Failure::Misused("--ocsf-version: is for --format ocsf alone".to_owned()))
            }
            Some(ExportFormat::Leaves) if self.resume => {
                Err(Failure::Misused("--resume: leaves do not say their position: use --after".to_owned()))
            }
            format => Ok(format),
        }
    }

    /// `true` if a file of these lines can be continued.
    fn can_resume(&self, format: ExportFormat) -> bool {
        self.out.is_some() && format != ExportFormat::Leaves
    }

    /// Writes the lines. What is on standard error is not part of them.
    pub async fn run(&self, format: ExportFormat, source: LogSource, trust: Option<Trust>) -> Result<(), Failure> {
        let mut sink = match &self.out {
            Some(path) if self.resume => LineSink::resume(path, format)?,
            path => LineSink::open(path.as_ref())?,
        };
        let window = ExportWindow { after: sink.last.or(self.after), from: self.since, to: self.before };
        let resumed = sink.last;
        let (mut events, range) = EventPages::open(source, trust, window).await?;
        let mut progress = Progress::new("export".to_owned(), 0);
        let written = write(&mut events, format, range, &mut sink, &mut progress).await;
        drop(progress);
        match (written, sink.last) {
            (Ok(()), last) => {
                sink.finish()?;
                let count = range.map_or(0, ExportRange::count);
                match (range, last) {
                    (Some(range), Some(last)) if resumed != Some(last) => {
                        note(format_args!("wrote {} events, positions {} to {last}", grouped(count), range.first));
                    }
                    _ if resumed.is_some() => note("there are no events after those in the file"),
                    _ => note("there are no such events"),
                }
                Ok(())
            }
            (Err(error), Some(last)) => {
                sink.cut();
                let with = if self.can_resume(format) { "--resume, or with " } else { "" };
                Err(error.with(&format!("the lines end with position {last}: continue with {with}--after {last}")))
            }
            (Err(error), None) => {
                sink.cut();
                Err(error.with("no event was written"))
            }
        }
    }
}

async fn write(
    events: &mut EventPages,
    format: ExportFormat,
    range: Option<ExportRange>,
    sink: &mut LineSink,
    progress: &mut Progress,
) -> Result<(), Failure> {
    let Some(range) = range else { return Ok(()) };
    let (mut lines, mut done) = (Vec::new(), None);
    let ended = append(events, format, range, (&mut lines, &mut done), sink, progress).await;
    // Also before an event that cannot be written: its lines are sound.
    sink.write(&mut lines, done)?;
    ended
}

async fn append(
    events: &mut EventPages,
    format: ExportFormat,
    range: ExportRange,
    (lines, done): (&mut Vec<u8>, &mut Option<u64>),
    sink: &mut LineSink,
    progress: &mut Progress,
) -> Result<(), Failure> {
    while let Some(page) = events.next().await? {
        for entry in page {
            let position = entry.position.unsigned_abs();
            format.append_line(&entry, lines).map_err(|error| Failure::Failed(chain(&error).to_string()))?;
            *done = Some(position);
            if lines.len() >= CHUNK {
                sink.write(lines, *done)?;
            }
            progress.show(position - range.first + 1, range.count());
        }
    }
    Ok(())
}

/// The place that lines are written to.
struct LineSink {
    file: Option<File>,
    out: Output,
    bytes: u64,
    /// The position of the last event written.
    last: Option<u64>,
}

impl LineSink {
    fn open(path: Option<&PathBuf>) -> Result<Self, Failure> {
        let create = |path: &PathBuf| {
            let file = OpenOptions::new().write(true).create_new(true).open(path);
            file.map_err(|error| Failure::Failed(format!("cannot create {}: {error}", path.display())))
        };
        Ok(Self { file: path.map(create).transpose()?, out: Output::new(), bytes: 0, last: None })
    }

    /// Opens a file behind its last whole line, or makes it.
    fn resume(path: &Path, format: ExportFormat) -> Result<Self, Failure> {
        let name = path.display();
        let cannot = |error: io::Error| Failure::Failed(format!("cannot continue {name}: {error}"));
        let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        let mut file = opened.map_err(cannot)?;
        // Until the process ends: two that write at once would have their lines twice.
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(Failure::Failed(format!("another export writes {name}"))),
            Err(TryLockError::Error(error)) => return Err(cannot(error)),
        }
        let length = file.metadata().map_err(cannot)?.len();
        if length == 0 {
            return Ok(Self { file: Some(file), out: Output::new(), bytes: 0, last: None });
        }
        let mut tail = Vec::new();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL))).map_err(cannot)?;
        file.read_to_end(&mut tail).map_err(cannot)?;
        // What is behind the last line break was being written when the process ended.
        let whole = tail.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let rest = (tail.len() - whole) as u64;
        let line = tail.get(..whole).and_then(|lines| lines.trim_ascii_end().rsplit(|byte| *byte == b'\n').next());
        let last = line.and_then(|line| format.position_of(line)).ok_or_else(|| {
            let format = format.as_str();
            Failure::Failed(format!("{name} does not end like an export in the format {format}: it is left as it is"))
        })?;
        file.set_len(length - rest).map_err(cannot)?;
        file.seek(SeekFrom::End(0)).map_err(cannot)?;
        Ok(Self { file: Some(file), out: Output::new(), bytes: length - rest, last: Some(last) })
    }

    fn write(&mut self, lines: &mut Vec<u8>, last: Option<u64>) -> Result<(), Failure> {
        match &mut self.file {
            Some(file) => {
                file.write_all(lines).map_err(|error| Failure::Failed(format!("cannot write the file: {error}")))?;
            }
            None => self.out.bytes(lines)?,
        }
        if self.out.is_closed() {
            return Err(Failure::Failed("the reader of standard output has closed it".to_owned()));
        }
        self.bytes += lines.len() as u64;
        self.last = last.or(self.last);
        lines.clear();
        Ok(())
    }

    fn finish(self) -> Result<(), Failure> {
        let Some(file) = self.file else { return Ok(()) };
        file.sync_all().map_err(|error| Failure::Failed(format!("cannot write the file: {error}")))
    }

    /// Leaves whole lines alone in the file.
    fn cut(&mut self) {
        if let Some(file) = &self.file {
            let _ = file.set_len(self.bytes);
        }
    }
}

/// The events, by pages of the database or by bundles of anything else that keeps the log.
enum EventPages {
    Rows(ExportReader),
    Bundles { source: LogSource, size: u64, next: u64, last: u64, ready: VecDeque<Vec<AuditEntry>> },
}

impl EventPages {
    async fn open(
        source: LogSource,
        trust: Option<Trust>,
        window: ExportWindow,
    ) -> Result<(Self, Option<ExportRange>), Failure> {
        let unread = |error: fulexo_projections::feed::FeedError| Failure::Failed(chain(&error).to_string());
        if let LogSource::Database(pool) = &source {
            let end = log_size(pool).await?.checked_sub(1);
            let range = ExportRange::of(pool, window, end).await.map_err(unread)?;
            return Ok((Self::Rows(ExportReader::new(pool.clone(), range, AuditFilter::default())), range));
        }
        let trust = Trust::of(trust, &source).await?;
        let refused = |fault| Failure::Failed(format!("the log is not verified: {fault}"));
        let size = trust.verify(&source.checkpoint(trust.has_policy()).await?).map_err(refused)?.checkpoint.size;
        let range = bundled_range(&source, size, window).await?;
        // Without a range nothing is left to read.
        let ExportRange { first: next, last } = range.unwrap_or(ExportRange { first: 1, last: 0 });
        Ok((Self::Bundles { source, size, next, last, ready: VecDeque::new() }, range))
    }

    async fn next(&mut self) -> Result<Option<Vec<AuditEntry>>, Failure> {
        match self {
            Self::Rows(reader) => reader.next().await.map_err(|error| Failure::Failed(chain(&error).to_string())),
            Self::Bundles { source, size, next, last, ready } => {
                if ready.is_empty() && *next <= *last {
                    let first = *next / u64::from(FULL_WIDTH);
                    let end = (first + AHEAD).min(*last / u64::from(FULL_WIDTH) + 1);
                    let reads = (first..end).map(|index| bundle(source, *size, index));
                    for mut entries in try_join_all(reads).await? {
                        entries.retain(|entry| (*next..=*last).contains(&entry.position.unsigned_abs()));
                        ready.push_back(entries);
                    }
                    *next = end * u64::from(FULL_WIDTH);
                }
                Ok(ready.pop_front())
            }
        }
    }
}

/// The events of a bundle, with the hashes that the tree has for them.
async fn bundle(source: &LogSource, size: u64, index: u64) -> Result<Vec<AuditEntry>, Failure> {
    let damaged = || Failure::Failed(format!("bundle {index} is missing, or damaged: run `fulexo audit verify`"));
    let bundle = TileKind::Entries.tile(index, size).ok_or_else(damaged)?;
    let of_hashes = Tile { kind: TileKind::Hashes(0), ..bundle };
    let (content, tile) = (source.tile(bundle).await?, source.tile(of_hashes).await?);
    let (content, tile) = (content.ok_or_else(damaged)?, tile.ok_or_else(damaged)?);
    let leaves = entries(&content, bundle.width).map_err(|_| damaged())?;
    let hashes = hashes(&tile).filter(|hashes| hashes.len() >= leaves.len()).ok_or_else(damaged)?;
    let entries = bundle.positions().zip(leaves).zip(hashes).map(|((position, leaf), hash)| AuditEntry {
        position: i64::try_from(position).unwrap_or(i64::MAX),
        leaf: leaf.to_vec(),
        leaf_hash: hash.0.to_vec(),
    });
    Ok(entries.collect())
}

/// The positions of a window in a log of bundles.
async fn bundled_range(source: &LogSource, size: u64, window: ExportWindow) -> Result<Option<ExportRange>, Failure> {
    let ExportWindow { after, from, to } = window;
    let mut first = after.map_or(0, |after| after.saturating_add(1));
    if let Some(from) = from {
        first = first.max(first_position(source, size, |time| time >= from).await?);
    }
    let end = match to {
        Some(to) => first_position(source, size, |time| time >= to).await?,
        None => size,
    };
    Ok(end.checked_sub(1).filter(|last| first <= *last).map(|last| ExportRange { first, last }))
}

/// The first position whose time is wanted, as all later ones must be; the size if there is none.
async fn first_position(
    source: &LogSource,
    size: u64,
    is_wanted: impl Fn(DateTime<Utc>) -> bool,
) -> Result<u64, Failure> {
    let (mut least, mut most) = (0, size);
    while least < most {
        let middle = u64::midpoint(least, most);
        let read = bundle(source, size, middle / u64::from(FULL_WIDTH)).await?;
        let entry = read.iter().find(|entry| entry.position.unsigned_abs() == middle);
        let entry = entry.ok_or_else(|| Failure::Failed(format!("event {middle} is missing from the log")))?;
        let event = leaf::read(middle, &entry.leaf).map_err(|error| Failure::Failed(chain(&error).to_string()))?;
        if is_wanted(event.time) { most = middle } else { least = middle + 1 }
    }
    Ok(least)
}
