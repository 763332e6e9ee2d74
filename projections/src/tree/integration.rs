//! Adds to the tree what the log has committed: every leaf in its place, with a hash that is computed here and not believed.

use std::time::Duration;

use fulexo_database::{begin, chain};
use fulexo_tlog::growing_tiles::{GrowingTiles, HashTile};
use fulexo_tlog::hash::TreeHash;
use fulexo_tlog::tile::{FULL_WIDTH, Tile, TileKind, hashes};
use futures_util::TryStreamExt;
use sqlx::{PgConnection, PgPool, PgTransaction};
use tokio::sync::watch;
use tokio::task::coop::consume_budget;
use tokio::time::{sleep, timeout};

use super::reader::TreeError;
use crate::feed::FeedError;
use crate::to_i64;

/// The number of hashes of a full tile.
const FULL: u64 = FULL_WIDTH as u64;
/// The most leaves that one transaction adds.
const BATCH: u64 = 4_096;
/// The interval at which the tree looks for leaves that nothing announced.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// The pause after a batch that was not full: a tree that grows with each commit would take a transaction of its own for it, and
/// a checkpoint is due once a second.
const COLLECTING_TIME: Duration = Duration::from_millis(50);
/// The interval at which a node looks again while another one does the work.
const ELSEWHERE_INTERVAL: Duration = Duration::from_millis(100);
/// The longest pause after failures; pauses double up to it.
const MAX_PAUSE: Duration = Duration::from_secs(10);

/// The state of the tree, as this node knows it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TreeState {
    /// Every leaf below this position is in the tree.
    pub size: u64,
    /// The reason for which the tree has stopped, if it has.
    pub stopped_because: Option<String>,
}

/// The reason why a leaf is not added.
#[derive(Debug, thiserror::Error)]
pub enum IntegrationError {
    /// The log cannot be read.
    #[error(transparent)]
    Feed(#[from] FeedError),
    /// The tree cannot be read.
    #[error(transparent)]
    Tree(#[from] TreeError),
}

impl From<sqlx::Error> for IntegrationError {
    fn from(error: sqlx::Error) -> Self {
        Self::Feed(FeedError::Database(error))
    }
}

/// Keeps the tree up to date with the log.
pub struct Integrator {
    pool: PgPool,
    head: watch::Receiver<u64>,
    state: watch::Sender<TreeState>,
    /// The unfinished tiles after the last batch that this node added.
    known: Option<GrowingTiles>,
}

enum IntegrationStep {
    /// Leaves were added, as many as one batch takes, and there are more.
    Full,
    /// Leaves were added.
    Added,
    /// There is nothing new.
    Idle,
    /// Another node does the work.
    Elsewhere,
}

impl Integrator {
    /// Creates it. `head` is the length of the log. The returned receiver shows the progress of the tree.
    #[must_use]
    pub fn new(pool: PgPool, head: watch::Receiver<u64>) -> (Self, watch::Receiver<TreeState>) {
        let (state, states) = watch::channel(TreeState::default());
        (Self { pool, head, state, known: None }, states)
    }

    /// Runs until cancelled. A batch is added as a whole or not at all.
    pub async fn run(mut self) {
        let mut pause = ELSEWHERE_INTERVAL;
        loop {
            let wait = match self.step().await {
                Ok(IntegrationStep::Full) => None,
                Ok(IntegrationStep::Added) => {
                    sleep(COLLECTING_TIME).await;
                    None
                }
                Ok(IntegrationStep::Idle) => Some(POLL_INTERVAL),
                Ok(IntegrationStep::Elsewhere) => Some(ELSEWHERE_INTERVAL),
                Err(error) => {
                    self.known = None;
                    self.report_failure(&error).await;
                    sleep(pause).await;
                    pause = (pause * 2).min(MAX_PAUSE);
                    continue;
                }
            };
            pause = ELSEWHERE_INTERVAL;
            if let Some(wait) = wait
                && let Ok(Err(_)) = timeout(wait, self.head.changed()).await
            {
                return;
            }
        }
    }

    /// Adds all leaves of a log that does not grow, and returns their number.
    ///
    /// # Errors
    /// [`IntegrationError`].
    pub async fn catch_up(mut self) -> Result<u64, IntegrationError> {
        loop {
            match self.step().await? {
                IntegrationStep::Full | IntegrationStep::Added => {}
                IntegrationStep::Idle => return Ok(self.state.borrow().size),
                IntegrationStep::Elsewhere => sleep(ELSEWHERE_INTERVAL).await,
            }
        }
    }

    async fn step(&mut self) -> Result<IntegrationStep, IntegrationError> {
        let mut transaction = begin(&self.pool).await?;
        // SKIP LOCKED rather than an advisory lock: the row is free the moment its holder dies. The commit does not wait for the
        // disk: the log has the leaves, and the commit of a checkpoint over them waits for this one, too.
        let held = sqlx::query!(
            "select t.size, t.stopped_because, h.position as head, set_config('synchronous_commit', 'off', true)
             from tree.head t, log.head h for update of t skip locked"
        )
        .fetch_optional(&mut *transaction)
        .await?;
        let Some(row) = held else {
            drop(transaction);
            self.observe().await?;
            return Ok(IntegrationStep::Elsewhere);
        };
        let (size, head) = (row.size.unsigned_abs(), row.head.unsigned_abs());
        if head <= size {
            self.publish(TreeState { size, stopped_because: row.stopped_because });
            return Ok(IntegrationStep::Idle);
        }
        let mut tiles = match self.known.take().filter(|known| known.size() == size) {
            Some(known) => known,
            None => resume(&mut transaction, size).await?,
        };
        let mut complete = Vec::new();
        let end = head.min(size + BATCH);
        for leaf in read(&mut transaction, size..end).await? {
            tiles.push(leaf, |tile| complete.push(tile));
        }
        write(transaction, &tiles, complete).await?;
        self.publish(TreeState { size: tiles.size(), stopped_because: None });
        self.known = Some(tiles);
        Ok(if end < head { IntegrationStep::Full } else { IntegrationStep::Added })
    }

    /// Reads the progress of the node that does the work.
    async fn observe(&self) -> Result<(), sqlx::Error> {
        let row = sqlx::query!("select size, stopped_because from tree.head").fetch_one(&self.pool).await?;
        self.publish(TreeState { size: row.size.unsigned_abs(), stopped_because: row.stopped_because });
        Ok(())
    }

    async fn report_failure(&self, error: &IntegrationError) {
        let because = chain(error).to_string();
        tracing::error!(error = because, "the tree has stopped; trying again");
        let is_transient = match error {
            IntegrationError::Feed(error) => error.is_transient(),
            IntegrationError::Tree(TreeError::Database(_)) => true,
            IntegrationError::Tree(TreeError::Damaged(_)) => false,
        };
        let size = self.state.borrow().size;
        self.publish(TreeState { size, stopped_because: Some(because.clone()) });
        // Other nodes must see an error that does not heal by itself.
        if !is_transient
            && let Err(error) =
                sqlx::query!("update tree.head set stopped_because = $1", because).execute(&self.pool).await
        {
            tracing::warn!(error = %chain(&error), "the error could not be recorded in the tree's head");
        }
    }

    fn publish(&self, state: TreeState) {
        self.state.send_if_modified(|known| {
            let differs = *known != state;
            *known = state;
            differs
        });
    }
}

/// Reads the unfinished tiles of the tree at this size.
async fn resume(connection: &mut PgConnection, size: u64) -> Result<GrowingTiles, IntegrationError> {
    let mut unfinished = Vec::new();
    // Leaves of an unfinished tile are hashed again, like new ones.
    let kind = TileKind::Hashes(0);
    if let Some(tile) = kind.tile(size / FULL, size) {
        unfinished.push(HashTile { tile, hashes: read(connection, tile.positions()).await? });
    }
    for level in 1.. {
        let kind = TileKind::Hashes(level);
        let count = kind.count(size);
        if count == 0 {
            break;
        }
        let Some(tile) = kind.tile(count / FULL, size) else { continue };
        let content = sqlx::query_scalar!(
            "select hashes from tree.tile where level = $1 and index = $2",
            i16::from(level),
            to_i64(tile.index)
        )
        .fetch_optional(&mut *connection)
        .await?;
        let hashes = content.as_deref().and_then(hashes).ok_or(TreeError::Damaged(tile))?;
        unfinished.push(HashTile { tile, hashes });
    }
    let last = Tile { kind, index: size / FULL, width: 1 };
    Ok(GrowingTiles::resume(size, unfinished).ok_or(TreeError::Damaged(last))?)
}

/// Reads leaves and hashes them.
async fn read(
    connection: &mut PgConnection,
    positions: std::ops::Range<u64>,
) -> Result<Vec<TreeHash>, IntegrationError> {
    let mut rows = sqlx::query!(
        "select position, leaf, leaf_hash from log.event where position >= $1 and position < $2",
        to_i64(positions.start),
        to_i64(positions.end)
    )
    .fetch(connection);
    // One leaf at a time: a batch of the longest ones would take a quarter of a gigabyte.
    let mut hashed = Vec::new();
    while let Some(row) = rows.try_next().await? {
        let hash = TreeHash::of_leaf(&row.leaf);
        hashed.push((row.position.unsigned_abs(), hash, hash.0 == row.leaf_hash.as_slice()));
        // The driver does not yield while the socket has data.
        consume_budget().await;
    }
    // The rows arrive almost in order.
    hashed.sort_unstable_by_key(|(position, _, _)| *position);
    let expected = usize::try_from(positions.end - positions.start).unwrap_or(usize::MAX);
    let mut leaves = Vec::with_capacity(hashed.len());
    for ((found, hash, is_recorded), position) in hashed.into_iter().zip(positions.clone()) {
        if found != position {
            return Err(FeedError::Gap { position }.into());
        }
        if !is_recorded {
            return Err(FeedError::WrongHash { position }.into());
        }
        leaves.push(hash);
    }
    // The log's head counted these events, so a missing one was lost.
    if leaves.len() == expected {
        Ok(leaves)
    } else {
        Err(FeedError::Gap { position: positions.start + leaves.len() as u64 }.into())
    }
}

/// Writes the tiles that have changed, and the tree's new size.
async fn write(
    mut transaction: PgTransaction<'_>,
    tiles: &GrowingTiles,
    complete: Vec<HashTile>,
) -> Result<(), sqlx::Error> {
    let is_changed = !complete.is_empty();
    // Unfinished tiles above level 0 change when one below is complete.
    let unfinished = tiles.unfinished().filter(|unfinished| is_changed && unfinished.tile.kind != TileKind::Hashes(0));
    let (mut levels, mut indexes, mut contents) = (Vec::new(), Vec::new(), Vec::new());
    for tile in complete.into_iter().chain(unfinished) {
        let TileKind::Hashes(level) = tile.tile.kind else { continue };
        levels.push(i16::from(level));
        indexes.push(to_i64(tile.tile.index));
        contents.push(tile.content());
    }
    if !levels.is_empty() {
        sqlx::query!(
            "insert into tree.tile (level, index, hashes) select * from unnest($1::smallint[], $2::bigint[], $3::bytea[])
             on conflict (level, index) do update set hashes = excluded.hashes",
            &levels,
            &indexes,
            &contents
        )
        .execute(&mut *transaction)
        .await?;
    }
    sqlx::query!("update tree.head set size = $1, stopped_because = null", to_i64(tiles.size()))
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await
}
