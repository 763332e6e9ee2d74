//! `fulexo audit verify`: a whole log, from its leaves to its signature.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use fulexo_projections::trail::{FaultKind, TrailFault, TrailRow, TrailVerifier};
use fulexo_tlog::bundle::entries;
use fulexo_tlog::checkpoint::Checkpoint;
use fulexo_tlog::growing_tiles::HashTile;
use fulexo_tlog::policy::TrustPolicy;
use fulexo_tlog::tile::{Tile, TileKind, levels, tiles};
use futures_util::{StreamExt, stream};
use serde_json::json;
use sqlx::PgPool;

use super::source::{CONNECTIONS, LogSource, SourceArgs};
use super::trust::{Trust, TrustArgs, TrustedCheckpoint, file};
use crate::cli::failure::Failure;
use crate::cli::output::Output;
use crate::cli::process::block_on;
use crate::cli::progress::{Progress, grouped};

/// The bundles that are read ahead, each with its tile of hashes.
const AHEAD: usize = 8;
/// The same of a database. Each takes a connection while nobody asks for it: the tiles above need one more, or they wait for ever.
const AHEAD_OF_DATABASE: usize = CONNECTIONS as usize - 1;

#[derive(Args)]
pub struct VerifyArgs {
    #[command(flatten)]
    source: SourceArgs,
    #[command(flatten)]
    trust: TrustArgs,
    /// Verify that the log begins as this older checkpoint says, which you have kept.
    #[arg(long, value_name = "FILE")]
    since: Option<PathBuf>,
    /// Print the result as JSON, for programs.
    #[arg(long)]
    json: bool,
}

/// The reason why a log is not verified.
pub enum Unverified {
    /// It has a fault.
    Fault(TrailFault),
    /// It was not read.
    Unread(Failure),
}

impl From<TrailFault> for Unverified {
    fn from(fault: TrailFault) -> Self {
        Self::Fault(fault)
    }
}

impl From<Failure> for Unverified {
    fn from(failure: Failure) -> Self {
        Self::Unread(failure)
    }
}

impl From<Unverified> for Failure {
    fn from(unverified: Unverified) -> Self {
        match unverified {
            Unverified::Fault(fault) => Self::Failed(format!("the log is not verified: {fault}")),
            Unverified::Unread(failure) => failure,
        }
    }
}

impl VerifyArgs {
    pub fn run(self) -> Result<(), Failure> {
        let given = self.trust.given()?;
        let since = self.since.as_deref().map(file).transpose()?;
        block_on(async {
            let source = self.source.open().await?;
            let trust = Trust::of(given, &source).await?;
            let began = Instant::now();
            let mut out = Output::new();
            let verified = verify(&source, &trust, since.as_deref()).await;
            match verified {
                Ok((trusted, since)) => {
                    let seconds = began.elapsed().as_secs_f64();
                    let TrustedCheckpoint { checkpoint, witnesses, .. } = trusted;
                    let since = since.map(|since| since.size);
                    if self.json {
                        return out.line(json!({
                            "verified": true, "origin": checkpoint.origin.as_str(), "size": checkpoint.size,
                            "root": checkpoint.root.to_string(), "key_from_log": trust.is_from_log, "witnesses": witnesses, "since": since,
                            "seconds": seconds,
                        }));
                    }
                    let (size, origin) = (grouped(checkpoint.size), &checkpoint.origin);
                    out.line(format_args!("verified {size} events of {origin} in {seconds:.1} s"))?;
                    if let Some(since) = since {
                        let since = grouped(since);
                        out.line(format_args!("the first {since} are those of the older checkpoint"))?;
                    }
                    if !witnesses.is_empty() {
                        out.line(format_args!("cosigned by {}", witnesses.join(", ")))?;
                    }
                    out.line(format_args!("root {}", checkpoint.root))
                }
                Err(unverified) => {
                    if let Unverified::Fault(fault) = &unverified
                        && self.json
                    {
                        let (position, kind) = (fault.position, fault.kind.as_str());
                        let fault = json!({"position": position, "kind": kind, "detail": fault.detail});
                        out.line(json!({"verified": false, "fault": fault}))?;
                    }
                    Err(unverified.into())
                }
            }
        })
    }
}

/// Verifies everything. Returns the checkpoint, and the older one that the log was compared with.
pub async fn verify(
    source: &LogSource,
    trust: &Trust,
    since: Option<&[u8]>,
) -> Result<(TrustedCheckpoint, Option<Checkpoint>), Unverified> {
    let trusted = trust.verify(&source.checkpoint(trust.has_policy()).await?)?;
    let checkpoint = &trusted.checkpoint;
    let size = checkpoint.size;
    let since = match since {
        Some(note) => Some(trust.verify(note)?.checkpoint),
        None => None,
    };
    if let Some(since) = &since
        && (since.size > size || since.origin != checkpoint.origin)
    {
        let detail = format!("the log has {size} events, but the older checkpoint covers {}", since.size);
        return Err(TrailFault::of(FaultKind::History, detail).into());
    }
    if let LogSource::Directory(path) = source {
        own_policy(path, trust)?;
        if let Some(other) = unexpected(path, size)?.first() {
            let other = other.strip_prefix(path).unwrap_or(other).display().to_string();
            let detail = format!("{other} belongs to no log of {size} events");
            return Err(TrailFault::of(FaultKind::Unexpected, detail).into());
        }
    }
    let mut verification = Verification { source, verifier: TrailVerifier::default(), since: since.as_ref() };
    verification.compare_since()?;
    let mut progress = Progress::new("verify".to_owned(), 0);
    let verified = verification.leaves(size, &mut progress).await;
    drop(progress);
    verified?;
    for unfinished in verification.verifier.unfinished().collect::<Vec<_>>() {
        let content = source.tile(unfinished.tile).await?;
        compare(&unfinished, content.as_deref())?;
    }
    if verification.verifier.root() != checkpoint.root {
        let detail = "the events lead to another root than the one that was signed";
        return Err(TrailFault::of(FaultKind::Root, detail).into());
    }
    Ok((trusted, since))
}

struct Verification<'a> {
    source: &'a LogSource,
    verifier: TrailVerifier,
    since: Option<&'a Checkpoint>,
}

/// A bundle, and the tile of its hashes, as they were read.
struct ReadBundle {
    bundle: Tile,
    leaves: BundleContent,
    hashes: Option<Vec<u8>>,
}

enum BundleContent {
    Bytes(Vec<u8>),
    Rows(Vec<TrailRow>),
}

impl Verification<'_> {
    async fn leaves(&mut self, size: u64, progress: &mut Progress) -> Result<(), Unverified> {
        let source = self.source;
        let reads = tiles(TileKind::Entries, size).map(|bundle| read(source.clone(), bundle));
        let ahead = if matches!(source, LogSource::Database(_)) { AHEAD_OF_DATABASE } else { AHEAD };
        let mut reads = stream::iter(reads).buffered(ahead);
        while let Some(bundle) = reads.next().await {
            let ReadBundle { bundle, leaves, hashes } = bundle?;
            let mut complete = Vec::new();
            match leaves {
                BundleContent::Bytes(bytes) => {
                    let first = bundle.positions().start;
                    let leaves = entries(&bytes, bundle.width)
                        .map_err(|error| TrailFault::at(first, FaultKind::Bundle, format!("{bundle}: {error}")))?;
                    for leaf in leaves {
                        self.verifier.push(leaf, |tile| complete.push(tile))?;
                        self.compare_since()?;
                    }
                }
                BundleContent::Rows(rows) => {
                    let mut rows = rows.iter();
                    for position in bundle.positions() {
                        let missing = || TrailFault::at(position, FaultKind::Missing, "the event is missing");
                        let row = rows.next().ok_or_else(missing)?;
                        row.is_at(position)?;
                        let leaf = self.verifier.push(&row.leaf, |tile| complete.push(tile))?;
                        row.agrees_with(&leaf)?;
                        self.compare_since()?;
                    }
                }
            }
            for tile in complete {
                match tile.tile.kind {
                    TileKind::Hashes(0) => compare(&tile, hashes.as_deref())?,
                    _ => compare(&tile, self.source.tile(tile.tile).await?.as_deref())?,
                }
            }
            progress.show(self.verifier.size(), size);
        }
        Ok(())
    }

    /// Compares with the older checkpoint, where the log has its size.
    fn compare_since(&self) -> Result<(), TrailFault> {
        match self.since {
            Some(since) if since.size == self.verifier.size() && since.root != self.verifier.root() => {
                let detail = format!("the first {} events are not those of the older checkpoint", since.size);
                Err(TrailFault::of(FaultKind::History, detail))
            }
            _ => Ok(()),
        }
    }
}

async fn read(source: LogSource, bundle: Tile) -> Result<ReadBundle, Unverified> {
    let of_hashes = Tile { kind: TileKind::Hashes(0), ..bundle };
    let (leaves, hashes) = match &source {
        LogSource::Database(pool) => (BundleContent::Rows(rows(pool, bundle).await?), source.tile(of_hashes).await?),
        _ => {
            let (leaves, hashes) = tokio::join!(source.tile(bundle), source.tile(of_hashes));
            let missing = || TrailFault::of(FaultKind::Missing, format!("{bundle} is missing"));
            (BundleContent::Bytes(leaves?.ok_or_else(missing)?), hashes?)
        }
    };
    Ok(ReadBundle { bundle, leaves, hashes })
}

async fn rows(pool: &PgPool, bundle: Tile) -> Result<Vec<TrailRow>, Failure> {
    let mut connection = pool.acquire().await?;
    Ok(TrailRow::read(&mut connection, bundle.positions()).await?)
}

fn compare(expected: &HashTile, content: Option<&[u8]>) -> Result<(), TrailFault> {
    let tile = expected.tile;
    match content {
        None => Err(TrailFault::of(FaultKind::Missing, format!("{tile} is missing"))),
        Some(content) if *content == *expected.content() => Ok(()),
        Some(_) => Err(TrailFault::of(FaultKind::Tile, format!("{tile} has other hashes than the events"))),
    }
}

/// The paths of all tiles and bundles of a log of this size.
pub fn paths(size: u64) -> impl Iterator<Item = Tile> {
    levels(size).chain([TileKind::Entries]).flat_map(move |kind| tiles(kind, size))
}

/// Verifies that the policy of a copy, if it has one, trusts the log.
fn own_policy(directory: &Path, trust: &Trust) -> Result<(), Unverified> {
    let Ok(bytes) = std::fs::read(directory.join("policy")) else { return Ok(()) };
    let fault = |detail: String| Unverified::Fault(TrailFault::of(FaultKind::Checkpoint, detail));
    let policy = TrustPolicy::parse(&bytes).map_err(|error| fault(error.to_string()))?;
    if trust.logs().iter().any(|key| policy.logs.contains(key)) {
        Ok(())
    } else {
        Err(fault("the policy of the copy trusts another log".to_owned()))
    }
}

/// The files below `tile/` that a log of this size does not have.
pub fn unexpected(directory: &Path, size: u64) -> Result<Vec<PathBuf>, Failure> {
    let expected: BTreeSet<PathBuf> = paths(size).map(|tile| directory.join(tile.to_string())).collect();
    let (mut found, mut directories) = (Vec::new(), vec![directory.join("tile")]);
    while let Some(inner) = directories.pop() {
        let unread = |error: std::io::Error| Failure::Failed(format!("cannot read {}: {error}", inner.display()));
        let entries = match std::fs::read_dir(&inner) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(unread(error)),
        };
        for entry in entries {
            let entry = entry.map_err(unread)?;
            let path = entry.path();
            if entry.file_type().map_err(unread)?.is_dir() {
                directories.push(path);
            } else if !expected.contains(&path) {
                found.push(path);
            }
        }
    }
    Ok(found)
}
