//! Restores the version that was live before.

use sqlx::PgPool;
use tokio::sync::mpsc;

use super::report::{RebuildError, RebuildProgress};
use super::shadow_version::{ShadowKind, ShadowVersion};
use crate::read_models::Projection;

/// A completed rollback.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RollbackReport {
    /// The version that is now live.
    pub version: u32,
    /// The version that was live, and is kept.
    pub kept_version: u32,
    /// Every event below this position is visible in the version that is now live.
    pub position: u64,
}

/// Restores the version that was live before the last switch. It first catches up with the live version, so that no
/// reader goes back in the log, and the runner continues from there.
///
/// # Errors [`RebuildError`]; then nothing was switched.
pub async fn roll_back(
    pool: &PgPool,
    projection: Projection,
    mut report: impl FnMut(Projection, RebuildProgress),
) -> Result<RollbackReport, RebuildError> {
    let (progress, mut receiver) = mpsc::channel(1);
    let work = switch_back(pool, projection, progress);
    tokio::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => return done,
            Some((projection, progress)) = receiver.recv() => report(projection, progress),
        }
    }
}

async fn switch_back(
    pool: &PgPool,
    projection: Projection,
    progress: mpsc::Sender<(Projection, RebuildProgress)>,
) -> Result<RollbackReport, RebuildError> {
    let name = projection.as_str();
    let mut previous = ShadowVersion::open(pool, projection, ShadowKind::Previous).await?;
    let row = sqlx::query!(
        r#"select p.position, p.version, c.version as live from projection.previous p
           join projection.checkpoint c on c.name = p.name where p.name = $1"#,
        name
    )
    .fetch_optional(previous.connection().await?)
    .await?
    .ok_or(RebuildError::NoPreviousVersion(projection))?;
    previous.resume_at(row.position.unsigned_abs());
    let live = previous.live().await?;
    previous.advance(live).await?;
    let position = previous.switch(&progress).await?;
    previous.close().await;
    Ok(RollbackReport { version: row.version.unsigned_abs(), kept_version: row.live.unsigned_abs(), position })
}
