//! `fulexo backup prune`, and the retention that `fulexo backup create` takes, too.

use std::path::PathBuf;

use chrono::TimeDelta;
use clap::Args;
use fulexo_node::config;
use fulexo_ops::backup::{BackupRetention, BackupTarget, RemovedBackups, prune};
use fulexo_ops::clock;
use serde_json::{Value, json};

use super::address::target_dir;
use super::failed::unchecked;
use crate::cli::failure::Failure;
use crate::cli::output::Output;

/// The most days of a retention.
const MAX_DAYS: i64 = 36_500;

#[derive(Args)]
pub struct RetentionArgs {
    /// Keep this many backups, and remove older ones.
    #[arg(long, value_name = "N")]
    keep: Option<usize>,
    /// Keep backups that are not older than this many days, and remove older ones. With --keep only those that neither keeps.
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(i64).range(1..=MAX_DAYS))]
    keep_days: Option<i64>,
    /// Keep wrapped keys for this many days, at most a key epoch (FULEXO_KEY_EPOCH) [default: a key epoch].
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(i64).range(1..=MAX_DAYS))]
    keep_keys_days: Option<i64>,
}

impl RetentionArgs {
    /// The retention, if any of the options is given.
    pub fn given(&self) -> Result<Option<BackupRetention>, Failure> {
        if self.keep.is_none() && self.keep_days.is_none() && self.keep_keys_days.is_none() {
            return Ok(None);
        }
        let epoch = config::key_epoch()?;
        let keys = self.keep_keys_days.map_or(epoch, TimeDelta::days);
        if keys > epoch {
            let days = epoch.num_days();
            let text = format!(
                "--keep-keys-days: a key epoch is {days} days: a key that is kept for longer opens what was erased"
            );
            return Err(Failure::Misused(text));
        }
        Ok(Some(BackupRetention { count: self.keep, age: self.keep_days.map(TimeDelta::days), keys: Some(keys) }))
    }
}

#[derive(Args)]
pub struct PruneArgs {
    /// Remove backups from this directory, or this bucket (`s3://BUCKET/PREFIX`) [default: FULEXO_BACKUP_TO].
    #[arg(long, value_name = "PLACE")]
    from: Option<PathBuf>,
    #[command(flatten)]
    retention: RetentionArgs,
    /// Print the result as JSON, for programs.
    #[arg(long)]
    json: bool,
}

impl PruneArgs {
    pub fn run(self) -> Result<(), Failure> {
        let missing = || Failure::Misused("--keep, --keep-days or --keep-keys-days is missing".to_owned());
        let retention = self.retention.given()?.ok_or_else(missing)?;
        let target = BackupTarget::open(&target_dir(self.from, "--from")?).map_err(unchecked)?;
        let lock = target.lock().map_err(unchecked)?;
        lock.clear_remains().map_err(unchecked)?;
        let removed = prune(&target, &lock, retention, clock::now()).map_err(unchecked)?;
        let mut out = Output::new();
        if self.json {
            return out.line(removed_json(&removed));
        }
        if removed == RemovedBackups::default() {
            return out.line("everything is kept");
        }
        removed_lines(&removed, &mut out)
    }
}

pub fn removed_json(removed: &RemovedBackups) -> Value {
    let names = |names: &[_]| names.iter().map(ToString::to_string).collect::<Vec<String>>();
    json!({"backups": names(&removed.backups), "keys": names(&removed.keys)})
}

pub fn removed_lines(removed: &RemovedBackups, out: &mut Output) -> Result<(), Failure> {
    for name in &removed.backups {
        out.line(format_args!("removed {name}"))?;
    }
    for name in &removed.keys {
        out.line(format_args!("removed the wrapped keys of {name}: nothing personal in it can be opened"))?;
    }
    Ok(())
}
