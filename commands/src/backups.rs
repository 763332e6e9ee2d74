//! The record of backups: taken, verified, restored. Reads and writes no backup, and needs no key: a machine that backs up has none.

use fulexo_domain::Aggregate;
use fulexo_domain::backup::{Backup, BackupCommand, BackupEvent, BackupState};
use fulexo_domain::event::{Category, Stream};
use fulexo_domain::policy::Policy;
use sqlx::PgPool;

use crate::context::Context;
use crate::error::CommandError;
use crate::log::{AppendError, AppendOutcome, EventLog, ExpectedVersion};
use crate::log_store::StoreError;
use crate::unit_of_work::UnitOfWork;

/// The attempts to record something, if others record something of the same backup.
const TRIES: usize = 5;

/// Records what happened to a backup. Returns the position of the event; `None` if it was recorded before.
///
/// # Errors
/// [`CommandError::Internal`] if the parts or the rungs are not in their order.
pub async fn record_backup(
    pool: &PgPool,
    log: &EventLog,
    context: &Context,
    command: BackupCommand,
) -> Result<Option<u64>, CommandError> {
    let policy = sqlx::query_scalar!("select policy from access.policy").fetch_optional(pool).await?;
    let policy: Policy = policy.map(|text| serde_json::from_str(&text)).transpose()?.unwrap_or_default();
    let stream = Stream { category: Category::Backup, id: command.stream() };
    for _ in 0..TRIES {
        let history = log.load(stream).await?;
        let version = u64::try_from(history.len()).unwrap_or(u64::MAX);
        let mut state = BackupState::default();
        for recorded in history {
            let event = BackupEvent::try_from(recorded.event).map_err(StoreError::ForeignEvent);
            state = Backup::apply_event(state, event.map_err(CommandError::internal)?);
        }
        let events = Backup::handle_command(&state, command.clone()).map_err(CommandError::internal)?;
        if events.is_empty() {
            return Ok(None);
        }
        let mut unit = UnitOfWork::new(context, policy.version);
        unit.expect(stream.category, stream.id, ExpectedVersion::Exact(version));
        unit.record(stream.id, None, events)?;
        match log.append(unit.into_request()).await {
            Ok(AppendOutcome::New(receipt)) => return Ok(receipt.position),
            Ok(AppendOutcome::Duplicate { .. }) => return Ok(None),
            Err(AppendError::Conflict { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(CommandError::Conflict)
}
