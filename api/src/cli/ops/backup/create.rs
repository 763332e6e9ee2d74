//! `fulexo backup create`.

use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use clap::Args;
use fulexo_domain::backup::{BackupCommand, BackupPlace};
use fulexo_node::config::owner_database_url;
use fulexo_ops::backup::{BackupTarget, CreateRequest, CreatedBackup, RemovedBackups, WrittenBytes, create, prune};
use fulexo_ops::clock;
use serde_json::json;

use super::address::{piece_length, target_dir};
use super::failed::unchecked;
use super::places::{key_recipients, recipients, signing_key};
use super::prune::{RetentionArgs, removed_json, removed_lines};
use super::record::{record, service_url};
use crate::cli::failure::Failure;
use crate::cli::output::{Output, note};
use crate::cli::process::block_on;
use crate::cli::progress::grouped;

/// The time between two lines of progress.
const LINE: Duration = Duration::from_secs(5);

#[derive(Args)]
pub struct CreateArgs {
    /// Back up everything. This is the only kind of backup, and the default: the option is for scripts that say it.
    #[arg(long)]
    full: bool,
    /// Write the backup into this directory, or this bucket (`s3://BUCKET/PREFIX`) [default: FULEXO_BACKUP_TO].
    #[arg(long, value_name = "PLACE")]
    to: Option<PathBuf>,
    /// Encrypt for the recipients in this file, one per line [default: FULEXO_BACKUP_RECIPIENTS_FILE].
    #[arg(long, value_name = "FILE")]
    recipients: Option<PathBuf>,
    /// Encrypt the wrapped keys for the recipients in this file [default: FULEXO_BACKUP_KEY_RECIPIENTS_FILE, else the recipients of
    /// the rest].
    #[arg(long, value_name = "FILE")]
    key_recipients: Option<PathBuf>,
    /// Sign the manifest with the key in this file [default: FULEXO_BACKUP_SIGNING_KEY_FILE].
    #[arg(long, value_name = "FILE")]
    signing_key: Option<PathBuf>,
    #[command(flatten)]
    retention: RetentionArgs,
    /// Print the result as JSON, for programs.
    #[arg(long)]
    json: bool,
}

impl CreateArgs {
    pub fn run(self) -> Result<(), Failure> {
        // There is one kind of backup.
        let _ = self.full;
        let (url, service) = (owner_database_url()?, service_url()?);
        let (address, piece) = (target_dir(self.to, "--to")?, piece_length()?);
        let recipients = recipients(self.recipients)?;
        let key_recipients = key_recipients(self.key_recipients)?.unwrap_or_else(|| recipients.clone());
        let signing_key = signing_key(self.signing_key)?;
        let retention = self.retention.given()?;
        let program = env!("CARGO_PKG_VERSION");
        let request = CreateRequest { url, recipients, key_recipients, signing_key, program, piece };
        block_on(async {
            let began = Instant::now();
            let target = BackupTarget::open(&address).map_err(unchecked)?;
            let lock = target.lock().map_err(unchecked)?;
            match lock.clear_remains().map_err(unchecked)? {
                0 => {}
                cleared => note(format_args!("removed the remains of {cleared} interrupted backups")),
            }
            let created = create(&target, &lock, request, progress()).await.map_err(unchecked)?;
            // Before anything is removed: what follows from the record is the backup's.
            let is_recorded = match service {
                Some(url) => record_taken(&url, &created, target.kind()).await.map(|()| true)?,
                None => false,
            };
            let removed = match retention {
                None => RemovedBackups::default(),
                Some(retention) => prune(&target, &lock, retention, clock::now()).map_err(|error| {
                    let text =
                        format!("the backup {} is whole, but older ones were not removed: {error}", created.name);
                    Failure::Unchecked(Some(text))
                })?,
            };
            print(&created, &removed, began.elapsed(), is_recorded, self.json)
        })
    }
}

/// Returns a progress that writes a line every few seconds.
fn progress() -> impl Fn(WrittenBytes) + Send + Sync + 'static {
    let said = Mutex::new(Instant::now());
    move |written: WrittenBytes| {
        if let Ok(mut said) = said.try_lock()
            && said.elapsed() >= LINE
        {
            *said = Instant::now();
            note(format_args!("backup  {} bytes of {}", grouped(written.bytes), written.part.file()));
        }
    }
}

/// Records the backup in the log of the service.
async fn record_taken(url: &str, created: &CreatedBackup, place: BackupPlace) -> Result<(), Failure> {
    let failed = |reason: String| {
        Failure::Unchecked(Some(format!(
            "the backup {} is whole, and the log does not know of it: {reason}",
            created.name
        )))
    };
    let read = created.content().and_then(|content| Ok((content, created.parts()?)));
    let (backup, parts) = read.map_err(|error| failed(format!("the manifest {}", error.0)))?;
    let epoch = Some(backup.epoch);
    let recorded = record(url, epoch, BackupCommand::Take { backup, parts, place }).await;
    recorded.map_err(|failure| failed(failure.text()))
}

fn print(
    created: &CreatedBackup,
    removed: &RemovedBackups,
    took: Duration,
    is_recorded: bool,
    is_json: bool,
) -> Result<(), Failure> {
    if !is_recorded {
        note("the log does not know of the backup: DATABASE_URL is not set");
    }
    let manifest = &created.manifest;
    let log = &manifest.database.log;
    if log.size != log.position {
        let (size, position) = (log.size, log.position);
        note(format_args!("the log has {size} events, and its head says {position}: run `fulexo audit verify`"));
    }
    let bytes = manifest.length();
    let mut out = Output::new();
    if is_json {
        return out.line(json!({
            "backup": created.name.to_string(), "path": created.path.display().to_string(), "position": log.position,
            "root": log.root, "bytes": bytes, "seconds": took.as_secs_f64(), "recorded": is_recorded, "removed": removed_json(removed),
        }));
    }
    let (events, bytes, seconds) = (grouped(log.position), grouped(bytes), took.as_secs_f64());
    out.line(format_args!("wrote {}: {events} events, {bytes} bytes, in {seconds:.1} s", created.path.display()))?;
    removed_lines(removed, &mut out)
}
