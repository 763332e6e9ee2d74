//! The rungs that need the restored database: the log, and the read models.

use std::path::PathBuf;

use fulexo_node::database::connect;
use fulexo_ops::backup::{OpenedBackup, RUNGS, root_at};
use fulexo_ops::finding::{Rule, Severity};
use fulexo_ops::report::Check;
use fulexo_tlog::checkpoint::Checkpoint;
use fulexo_tlog::hash::TreeHash;
use fulexo_tlog::proof::{consistency_ranges, verify_consistency};

use crate::cli::audit::source::{CONNECTIONS, LogSource};
use crate::cli::audit::trust::{Trust, file};
use crate::cli::audit::verify::{Unverified, verify};
use crate::cli::failure::Failure;
use crate::cli::replay;

const LOG: Rule = Rule {
    id: "backup.log",
    title: "the log in the backup is not the one that was signed",
    severity: Severity::Critical,
    remedy: "Keep the backup as evidence, and restore one whose log is verified.",
    reference: "docs/backups.md",
};
const READ_MODELS: Rule = Rule {
    id: "backup.read_models",
    title: "a read model in the backup differs from the log",
    severity: Severity::High,
    remedy: "Run `fulexo rebuild` at the service, and after a restore of this backup.",
    reference: "docs/backups.md",
};

/// A checkpoint that somebody else has kept.
pub enum OutsideCheckpoint {
    File(PathBuf),
    Url(Box<LogSource>),
}

impl OutsideCheckpoint {
    /// Reads the argument.
    pub fn of(text: &str) -> Result<Self, Failure> {
        if text.starts_with("http://") || text.starts_with("https://") {
            return Ok(Self::Url(Box::new(LogSource::http(text, None)?)));
        }
        Ok(Self::File(PathBuf::from(text)))
    }

    /// Reads the checkpoint; if it has to be cosigned, the newest one that enough witnesses have cosigned.
    pub async fn read(&self, is_cosigned: bool) -> Result<Vec<u8>, Failure> {
        match self {
            Self::File(path) => file(path),
            Self::Url(source) => source.checkpoint(is_cosigned).await,
        }
    }
}

/// Verifies the whole log, and that it is the one of which the checkpoint tells.
pub async fn verify_log(
    backup: &OpenedBackup,
    url: &str,
    trust: Option<Trust>,
    outside: Option<OutsideCheckpoint>,
) -> Check {
    let (id, title) = RUNGS[4];
    let fault = |reason: String| Check::of(id, title, "", vec![LOG.finding(backup.name.to_string(), reason)]);
    match compare_log(backup, url, trust, outside).await {
        Ok(detail) => Check::passed(id, title, detail),
        Err(Unverified::Fault(reason)) => fault(reason.to_string()),
        Err(Unverified::Unread(failure)) => Check::not_checked(id, title, failure.text()),
    }
}

async fn compare_log(
    backup: &OpenedBackup,
    url: &str,
    trust: Option<Trust>,
    outside: Option<OutsideCheckpoint>,
) -> Result<String, Unverified> {
    use fulexo_projections::trail::{FaultKind, TrailFault};
    let unread = |text: String| Unverified::Unread(Failure::Failed(text));
    let pool = connect(url, CONNECTIONS).await.map_err(|error| unread(error.0))?;
    let restored = LogSource::Database(pool.clone());
    if backup.manifest.checkpoint.is_none() {
        return Err(unread("the log was not signed. See docs/production.md, sign the log".to_owned()));
    }
    let trust = Trust::of(trust, &restored).await?;
    let (signed, _) = verify(&restored, &trust, None).await?;
    let Some(outside) = outside else {
        let text = "it agrees with its own checkpoint, and no other is given: give --checkpoint".to_owned();
        return Err(unread(text));
    };
    let kept = trust.verify(&outside.read(trust.has_policy()).await?)?.checkpoint;
    let history = |text: String| Unverified::Fault(TrailFault::of(FaultKind::History, text));
    if kept.origin != signed.checkpoint.origin {
        return Err(history(format!("the checkpoint is of the log {}", kept.origin)));
    }
    let log = &backup.manifest.database.log;
    if kept.size <= log.size {
        let mut connection = pool.acquire().await.map_err(|error| unread(error.to_string()))?;
        let root = root_at(&mut connection, kept.size).await.map_err(|error| unread(error.to_string()))?;
        if root != kept.root {
            return Err(history(format!("the first {} events are not those of the checkpoint", kept.size)));
        }
        return Ok(format!("{} events, of which the checkpoint covers {}", log.size, kept.size));
    }
    let OutsideCheckpoint::Url(source) = outside else {
        let text = format!(
            "the checkpoint covers {} events, and the backup has {}: give one from before the backup, or the URL of the service",
            kept.size, log.size
        );
        return Err(unread(text));
    };
    let root = TreeHash::parse(&log.root).ok_or_else(|| unread("the manifest has no root".to_owned()))?;
    is_consistent(&source, log.size, root, &kept).await?.map_err(history)?;
    Ok(format!("{} events, with which the {} of the service begin", log.size, kept.size))
}

/// Proves, with the tiles of the other place, that its tree begins with ours. The proof needs no trust in the place.
async fn is_consistent(
    source: &LogSource,
    size: u64,
    root: TreeHash,
    kept: &Checkpoint,
) -> Result<Result<(), String>, Failure> {
    let Some(ranges) = consistency_ranges(size, kept.size) else { return Ok(Ok(())) };
    let missing = || Failure::Failed("a tile of the other log is missing or damaged".to_owned());
    let hashes = source.roots(&ranges, kept.size).await?.ok_or_else(missing)?;
    Ok(verify_consistency(size, root, kept.size, kept.root, &hashes)
        .map_err(|error| format!("the log of the checkpoint does not begin with the {size} events: {error}")))
}

/// Replays the log, and compares the result with the restored read models.
pub async fn verify_read_models(backup: &OpenedBackup, url: &str) -> Result<Check, Failure> {
    let (id, title) = RUNGS[5];
    let pool = connect(url, 4).await?;
    // The position that every read model has applied.
    let applied = backup.manifest.database.projections.values().copied().min().unwrap_or_default();
    let events = backup.manifest.database.log.position;
    let Some(position) = applied.checked_sub(1).filter(|position| *position >= 0) else {
        return Ok(match events {
            0 => Check::passed(id, title, "the log is empty"),
            _ => Check::not_checked(id, title, "a read model had applied no event: start a node, and back up again"),
        });
    };
    let mut scratch = replay::replay(&pool, applied.unsigned_abs()).await?;
    let mut live = replay::own_connection(&pool).await?;
    let tables = replay::compare_tables(&mut live, &mut scratch, position).await?;
    let differing = tables.iter().filter(|table| !table.agrees());
    let findings = differing
        .map(|table| {
            let evidence = format!("a replay up to position {position} leads to other rows");
            READ_MODELS.finding(format!("{}/read.{}", backup.name, table.name), evidence)
        })
        .collect();
    Ok(Check::of(id, title, format!("{} tables after {applied} of {events} events", tables.len()), findings))
}
