//! The leaves of a verified copy, brought into the empty log of a private database, and what gates requests with them.
//!
//! The copy is read a second time here. It may have changed since it was verified: so all leaves are hashed again, and must lead
//! to the root that was signed.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use fulexo_database::{begin_on, chain};
use fulexo_domain::event::{Event, RecordedEvent};
use fulexo_domain::leaf::{self, LeafError, LeafOutline};
use fulexo_projections::access;
use fulexo_projections::as_of::{AsOf, AsOfError};
use fulexo_tlog::bundle::entries;
use fulexo_tlog::hash::TreeHash;
use fulexo_tlog::tile::{TileKind, tiles};
use fulexo_tlog::tree::GrowingTree;
use futures_util::{StreamExt, stream};
use sqlx::PgConnection;
use uuid::Uuid;

use super::record::Trail;
use crate::cli::failure::Failure;
use crate::cli::progress::Progress;

/// The bundles that are read ahead.
const AHEAD: usize = 8;
/// The most events of a batch, and about the most bytes of their leaves.
const BATCH: (usize, usize) = (4_000, 8 << 20);

/// A loaded log.
pub struct LoadedLog {
    /// The number of events, up to the moment that was asked for.
    pub events: u64,
    /// The root over them.
    pub root: TreeHash,
}

/// Events on their way into the log.
#[derive(Default)]
struct LoadBatch {
    events: Vec<Arc<RecordedEvent>>,
    leaves: Vec<Vec<u8>>,
    bytes: usize,
}

/// Loads the events up to the moment that was asked for. The log must be empty.
///
/// # Errors
/// If the copy has changed since it was verified, has an event that this program does not know, or ends before that moment; and if
/// the database fails.
pub async fn load(trail: &Trail, connection: &mut PgConnection) -> Result<LoadedLog, Failure> {
    let checkpoint = &trail.trusted.checkpoint;
    let size = checkpoint.size;
    if let Some(AsOf::Position(position)) = trail.until
        && position >= size
    {
        return Err(Failure::Misused(format!("--until {}", AsOfError::BeyondEnd(size))));
    }
    let changed = || Failure::Failed("the copy has changed since it was verified: run again".to_owned());
    let reads = tiles(TileKind::Entries, size).map(|bundle| {
        let source = trail.source.clone();
        async move { (bundle, source.tile(bundle).await) }
    });
    let mut reads = stream::iter(reads).buffered(AHEAD);
    let mut progress = Progress::new("load".to_owned(), 0);
    let (mut tree, mut batch, mut loaded) = (GrowingTree::default(), LoadBatch::default(), None);
    while let Some((bundle, content)) = reads.next().await {
        let content = content?.ok_or_else(changed)?;
        for leaf in entries(&content, bundle.width).map_err(|_| changed())? {
            let position = tree.size();
            if loaded.is_none() && is_over(trail.until, position, leaf) {
                loaded = Some(LoadedLog { events: position, root: tree.root() });
            }
            if loaded.is_none() {
                let event = leaf::decode(position, leaf).map_err(|error| unread(leaf, &error))?;
                batch.push(event, leaf);
            }
            tree.push(TreeHash::of_leaf(leaf));
        }
        if batch.is_full() {
            batch.write(connection).await?;
        }
        progress.show(tree.size(), size);
    }
    batch.write(connection).await?;
    if tree.size() == size && tree.root() == checkpoint.root {
        Ok(loaded.unwrap_or(LoadedLog { events: size, root: checkpoint.root }))
    } else {
        Err(changed())
    }
}

/// `true` for the first event that is not asked for, which this program need not know. Times in a verified log never decrease.
fn is_over(until: Option<AsOf>, position: u64, leaf: &[u8]) -> bool {
    match until {
        None => false,
        Some(AsOf::Position(last)) => position > last,
        Some(AsOf::Time(time)) => LeafOutline::read(leaf).is_some_and(|outline| outline.time > time),
    }
}

/// The refusal of an event that this program cannot read.
fn unread(leaf: &[u8], error: &LeafError) -> Failure {
    match error {
        LeafError::UnknownType { position } => {
            let raw = leaf::read(*position, leaf).ok();
            let (name, version) = raw.map_or(("unknown", 0), |raw| (raw.r#type, raw.schema_version));
            Failure::Failed(format!(
                "this program does not know the event at position {position}: its type is {name}, its schema version \
                 {version}. Replay the trail with a newer fulexo"
            ))
        }
        LeafError::Unfit(_) | LeafError::Unreadable { .. } => Failure::Failed(chain(error).to_string()),
    }
}

impl LoadBatch {
    fn push(&mut self, event: RecordedEvent, leaf: &[u8]) {
        self.bytes += leaf.len();
        self.events.push(Arc::new(event));
        self.leaves.push(leaf.to_vec());
    }

    fn is_full(&self) -> bool {
        self.events.len() >= BATCH.0 || self.bytes >= BATCH.1
    }

    /// Writes the batch at the end of the log, and empties it.
    async fn write(&mut self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        let Self { events, leaves, bytes: _ } = std::mem::take(self);
        let (Some(first), Some(last)) = (events.first(), events.last()) else { return Ok(()) };
        let (first, after, last_time) = (to_i64(first.position), to_i64(last.position + 1), last.recorded_at);
        let streams: Vec<Uuid> = events.iter().map(|event| event.stream.id).collect();
        let categories: Vec<&str> = events.iter().map(|event| event.stream.category.as_str()).collect();
        let versions: Vec<i64> = events.iter().map(|event| to_i64(event.version)).collect();
        let mut transaction = begin_on(connection).await?;
        extend(&mut transaction, after).await?;
        // The log is append-only here, too: only this role may insert.
        sqlx::query!("set local role fulexo_sequencer").execute(&mut *transaction).await?;
        sqlx::query!(
            "insert into log.event (position, stream_id, category, version, leaf, leaf_hash)
             select $1 + u.n - 1, u.stream_id, u.category, u.version, u.leaf, sha256('\\x00'::bytea || u.leaf)
             from unnest($2::uuid[], $3::text[], $4::bigint[], $5::bytea[])
                 with ordinality u (stream_id, category, version, leaf, n)",
            first,
            &streams,
            categories.as_slice() as _,
            &versions,
            &leaves
        )
        .execute(&mut *transaction)
        .await?;
        move_head(&mut transaction, after, last_time).await?;
        sqlx::query!("reset role").execute(&mut *transaction).await?;
        // Nobody has a session here. What gates a request with one is not asked, and would take most of the time.
        let gating: Vec<Arc<RecordedEvent>> = events
            .into_iter()
            .filter(|recorded| access::concerns(&recorded.event) && !matches!(recorded.event, Event::Session(_)))
            .collect();
        access::apply(&mut transaction, &gating).await?;
        transaction.commit().await
    }
}

async fn move_head(connection: &mut PgConnection, size: i64, last_time: DateTime<Utc>) -> Result<(), sqlx::Error> {
    sqlx::query!("update log.head set position = $1, recorded_at = $2 where id = 1", size, last_time)
        .execute(connection)
        .await?;
    Ok(())
}

/// Makes partitions while there is room in the last one for as many events again.
async fn extend(connection: &mut PgConnection, size: i64) -> Result<(), sqlx::Error> {
    const OFTEN: i64 = 1_000_000;
    let batch = i64::try_from(BATCH.0).unwrap_or(i64::MAX);
    if size % OFTEN <= batch {
        sqlx::query_scalar!("select log.extend()").fetch_one(connection).await?;
    }
    Ok(())
}

fn to_i64(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
