//! The record of backups: taken, verified, restored. Reads and writes no backup.

use fulexo_domain::Aggregate;
use fulexo_domain::backup::{Backup, BackupCommand, BackupEvent, BackupState};
use fulexo_domain::event::{Category, Stream};

use crate::context::Context;
use crate::error::CommandError;
use crate::execute::{self, CommandOutcome};
use crate::log::ExpectedVersion;
use crate::log_store::StoreError;
use crate::write_side::WriteSide;

/// Records what happened to a backup.
pub(crate) async fn record(
    side: &WriteSide,
    context: &Context,
    command: BackupCommand,
) -> Result<CommandOutcome<()>, CommandError> {
    let stream = Stream { category: Category::Backup, id: command.stream() };
    execute::run_once(&side.log, None, async {
        execute::decide(side, None, async || {
            let history = side.log.load(stream).await?;
            let version = u64::try_from(history.len()).unwrap_or(u64::MAX);
            let mut state = BackupState::default();
            for recorded in history {
                let event = BackupEvent::try_from(recorded.event).map_err(StoreError::ForeignEvent);
                state = Backup::apply_event(state, event.map_err(CommandError::internal)?);
            }
            let events = Backup::handle_command(&state, command.clone()).map_err(CommandError::internal)?;
            let mut unit = side.unit_of_work(context);
            unit.expect(stream.category, stream.id, ExpectedVersion::Exact(version));
            unit.record(stream.id, None, events)?;
            Ok((unit, ()))
        })
        .await
    })
    .await
}
