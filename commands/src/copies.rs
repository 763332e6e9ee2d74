//! Copies of events: each is an event before anything of it is given away, and its holder is counted, so that a person who is
//! erased learns who may have theirs.

use fulexo_domain::audit::{AuditTrailEvent, CopyFilter, CopyForm};

use crate::context::Context;
use crate::error::CommandError;
use crate::execute::{self, CommandOutcome};
use crate::vault::write::VaultWrite;
use crate::write_side::WriteSide;

/// A copy of events that its holder is about to take.
#[derive(Debug, Clone)]
pub struct EventCopy {
    /// The form of the copy.
    pub form: CopyForm,
    /// The position of the first event.
    pub first: u64,
    /// The position of the last event; `None` if the copy goes on as the log grows.
    pub last: Option<u64>,
    /// The filter.
    pub filter: CopyFilter,
}

/// Records a copy. One of a person's own data concerns the person; its holder is not counted.
pub(crate) async fn record(
    side: &WriteSide,
    context: &Context,
    copy: EventCopy,
) -> Result<CommandOutcome<()>, CommandError> {
    let EventCopy { form, first, last, filter } = copy;
    let subject = if form.is_of_others() { None } else { context.account() };
    execute::run_once(&side.log, None, async {
        execute::decide(side, None, async || {
            let mut unit = side.unit_of_work(context);
            let event = AuditTrailEvent::Exported { form, first, last, filter: filter.clone() };
            unit.record(context.new_id(), subject, [event])?;
            if form.is_of_others() {
                unit.vault(VaultWrite::CountCopy { by: context.actor, last, at: context.now });
            }
            Ok((unit, ()))
        })
        .await
    })
    .await
}
