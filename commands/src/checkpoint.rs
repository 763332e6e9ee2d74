//! The record of a signer that had refused the log, and signs again.

use chrono::{DateTime, Utc};
use fulexo_domain::checkpoint::{CheckpointEvent, CheckpointRefusal};
use uuid::Uuid;

use crate::context::Context;
use crate::error::CommandError;
use crate::execute;
use crate::idempotency::IdempotencyKey;
use crate::write_side::WriteSide;

/// Records that the signer signs again, once for these times, whoever repeats it within a day.
pub(crate) async fn record_ended_refusal(
    side: &WriteSide,
    context: &Context,
    reason: CheckpointRefusal,
    started_at: DateTime<Utc>,
    ended_at: DateTime<Utc>,
) -> Result<(), CommandError> {
    let key = format!("checkpoint.refusal_ended {} {}", started_at.timestamp_micros(), ended_at.timestamp_micros());
    let context = Context { idempotency_key: Some(key), ..context.clone() };
    let idempotency = IdempotencyKey::of(&side.vault, &context, "record_ended_refusal", &[]);
    let done = execute::run_once(&side.log, idempotency.as_ref(), async {
        execute::decide(side, idempotency.as_ref(), async || {
            let mut unit = side.unit_of_work(&context);
            unit.record(Uuid::nil(), None, [CheckpointEvent::RefusalEnded { reason, started_at, ended_at }])?;
            Ok((unit, ()))
        })
        .await
    });
    done.await.map(|_| ())
}
