//! The record of the service's keys: a key takes the place of another, a key was destroyed. Nobody's keys are read here.

use fulexo_domain::Aggregate;
use fulexo_domain::event::{Category, Stream};
use fulexo_domain::key::{KeyCommand, KeyCustody, KeyCustodyState, KeyEvent, KeyLabel, KeyPurpose};
use uuid::Uuid;

use crate::context::Context;
use crate::error::CommandError;
use crate::execute::{self, CommandOutcome};
use crate::log::ExpectedVersion;
use crate::log_store::StoreError;
use crate::vault::write::VaultWrite;
use crate::write_side::WriteSide;

/// The single stream of keys.
const STREAM: Stream = Stream { category: Category::Key, id: Uuid::nil() };

/// Puts a key in the place of another, everywhere at once.
pub(crate) async fn record_rotation(
    side: &WriteSide,
    context: &Context,
    kind: KeyPurpose,
    from: &KeyLabel,
    to: &KeyLabel,
) -> Result<CommandOutcome<()>, CommandError> {
    let command = KeyCommand::Rotate { kind, from: from.clone(), to: to.clone() };
    record(side, context, command, || VaultWrite::ReplaceKey { kind, from: from.clone(), to: to.clone() }).await
}

/// Records that a key was destroyed.
pub(crate) async fn record_destruction(
    side: &WriteSide,
    context: &Context,
    kind: KeyPurpose,
    id: &KeyLabel,
) -> Result<CommandOutcome<()>, CommandError> {
    let command = KeyCommand::Destroy { kind, id: id.clone() };
    record(side, context, command, || VaultWrite::DestroyKey { kind, id: id.clone() }).await
}

async fn record(
    side: &WriteSide,
    context: &Context,
    command: KeyCommand,
    write: impl Fn() -> VaultWrite,
) -> Result<CommandOutcome<()>, CommandError> {
    execute::run_once(&side.log, None, async {
        execute::decide(side, None, async || {
            let history = side.log.load(STREAM).await?;
            let version = u64::try_from(history.len()).unwrap_or(u64::MAX);
            let mut state = KeyCustodyState::default();
            for recorded in history {
                let event = KeyEvent::try_from(recorded.event).map_err(StoreError::ForeignEvent);
                state = KeyCustody::apply_event(state, event.map_err(CommandError::internal)?);
            }
            // The caller has looked: what the record refuses contradicts the database.
            let events = KeyCustody::handle_command(&state, command.clone()).map_err(CommandError::internal)?;
            let mut unit = side.unit_of_work(context);
            unit.expect(STREAM.category, STREAM.id, ExpectedVersion::Exact(version));
            unit.vault(write());
            unit.record(STREAM.id, None, events)?;
            Ok((unit, ()))
        })
        .await
    })
    .await
}
