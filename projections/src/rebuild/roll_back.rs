//! The version that was live before, live again.

use sqlx::PgPool;
use tokio::sync::mpsc;

use super::beside::{Beside, Kind};
use super::report::{News, RebuildError};
use crate::read_models::Projection;

/// What a roll back came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RolledBack {
    /// The version that is live now.
    pub version: u32,
    /// The version that was, and is kept.
    pub from: u32,
    /// Every event below it is visible in the version that is live now.
    pub position: u64,
}

/// Brings back the version that was live before the last switch. It first catches up with the live one, so that no
/// reader is taken back in the log, and the runner goes on from where it then is.
///
/// # Errors
/// [`RebuildError`]; then nothing was switched.
pub async fn roll_back(
    pool: &PgPool,
    projection: Projection,
    mut tell: impl FnMut(Projection, News),
) -> Result<RolledBack, RebuildError> {
    let (news, mut heard) = mpsc::channel(1);
    let work = bring_back(pool, projection, news);
    tokio::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => return done,
            Some((projection, news)) = heard.recv() => tell(projection, news),
        }
    }
}

async fn bring_back(
    pool: &PgPool,
    projection: Projection,
    news: mpsc::Sender<(Projection, News)>,
) -> Result<RolledBack, RebuildError> {
    let name = projection.as_str();
    let mut previous = Beside::open(pool, projection, Kind::Previous).await?;
    let kept = sqlx::query!(
        r#"select p.position, p.version, c.version as live from projection.previous p
           join projection.checkpoint c on c.name = p.name where p.name = $1"#,
        name
    )
    .fetch_optional(previous.connection().await?)
    .await?
    .ok_or(RebuildError::NothingKept(projection))?;
    previous.goes_on_at(kept.position.unsigned_abs());
    let live = previous.live().await?;
    previous.advance(live).await?;
    let position = previous.switch(&news).await?;
    previous.close().await;
    Ok(RolledBack { version: kept.version.unsigned_abs(), from: kept.live.unsigned_abs(), position })
}
