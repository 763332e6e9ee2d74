//! The record, in the log itself, of a signer that had refused the log and signs again.

use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use fulexo_commands::Commands;
use fulexo_commands::context::Context;
use fulexo_database::chain;
use fulexo_projections::tree::EndedRefusal;
use sqlx::PgPool;
use tokio::time::sleep;

use crate::clock;

/// The time between two looks.
const LOOK: Duration = Duration::from_secs(2);
/// The time for which the signer signs again before the log tells of it: a disk that comes and goes makes one event, not many.
const SETTLING: TimeDelta = TimeDelta::seconds(10);

/// Records each refusal that has ended, until cancelled.
pub async fn record_ended_refusals(pool: PgPool, commands: Arc<Commands>, by_the_service: fn() -> Context) {
    loop {
        if let Err(error) = record(&pool, &commands, by_the_service).await {
            tracing::warn!(error = %chain(&*error), "the end of a refusal is not recorded; trying again");
        }
        sleep(LOOK).await;
    }
}

/// The event is in the log before the refusal is forgotten, and is not recorded twice.
async fn record(
    pool: &PgPool,
    commands: &Commands,
    by_the_service: fn() -> Context,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    if let Some(ended) = EndedRefusal::read(pool, clock::now() - SETTLING).await? {
        let EndedRefusal { reason, started_at, ended_at } = ended;
        commands.record_ended_refusal(&by_the_service(), reason, started_at, ended_at).await?;
        ended.forget(pool).await?;
    }
    Ok(())
}
