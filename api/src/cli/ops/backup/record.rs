//! The record of backups in the log of the service, by its database alone: no node has to run, and no key is needed.

use std::sync::Arc;

use fulexo_commands::log::{EventLog, LogHooks};
use fulexo_database::chain;
use fulexo_domain::backup::BackupCommand;
use fulexo_domain::values::Epoch;
use fulexo_node::clock;
use fulexo_node::config::database_url;
use fulexo_node::database::connect;
use fulexo_projections::access;
use tokio::sync::oneshot;
use uuid::Uuid;

use crate::cli::failure::Failure;
use crate::cli::process::operator;

/// Returns the URL of the service's database, if one is set.
pub fn service_url() -> Result<Option<String>, Failure> {
    match std::env::var("DATABASE_URL") {
        Ok(url) if !url.is_empty() => Ok(Some(database_url()?)),
        Ok(_) | Err(_) => Ok(None),
    }
}

/// Appends an event of a backup. With an epoch the log has to be of it.
pub async fn record(url: &str, of: Option<Epoch>, command: BackupCommand) -> Result<(), Failure> {
    let pool = connect(url, 2).await?;
    let epoch: Uuid = sqlx::query_scalar("select epoch from log.head").fetch_one(&pool).await?;
    if of.is_some_and(|of| of != Epoch::from(epoch)) {
        return Err(Failure::Failed("DATABASE_URL leads to another log than the backup is of".to_owned()));
    }
    // Nodes look for new events by themselves.
    let hooks =
        LogHooks { gate: access::apply, gates: access::concerns, on_commit: Arc::new(|_| {}), clock: clock::now };
    let (log, sequencer) = EventLog::new(pool.clone(), hooks);
    let (stop, stopped) = oneshot::channel();
    let sequencer = tokio::spawn(sequencer.run(stopped));
    let recorded = fulexo_commands::record_backup(&pool, &log, &operator(), command).await;
    // It has answered, and has nothing left to do.
    let _ = stop.send(());
    let _ = sequencer.await;
    pool.close().await;
    recorded.map(drop).map_err(|error| Failure::Failed(chain(&error).to_string()))
}
