//! The read side of a node: the copy of the log in JetStream, the feed that read models take their events from, and the
//! tasks that apply them. The tasks are made here and begun when the node takes part.

use std::sync::Arc;

use async_nats::Client;
use fulexo_commands::log::relay::{CopyKey, LogRelay, RelayOptions, RelayState};
use fulexo_projections::feed::{Feed, FeedListener, JetStreamFeed, PostgresFeed};
use fulexo_projections::read_models::Projection;
use fulexo_projections::runner::{ProgressPoller, ProjectionProgress, Runner};
use futures_util::future::BoxFuture;
use sqlx::PgPool;
use tokio::sync::watch;
use uuid::Uuid;

use crate::http::request_id::RequestId;

/// The copy of the log in JetStream, where there is NATS.
pub(super) struct Copy {
    pub client: Client,
    pub key: CopyKey,
    /// Servers that keep the copy; with none, this node makes no copy.
    pub replicas: u32,
    /// `true` if read models take their events from the copy.
    pub is_read: bool,
}

/// Read models, and what they follow.
pub(super) struct ReadSide {
    pub progress: ProjectionProgress,
    /// The state of the copy, where this node makes one.
    pub relay: Option<watch::Receiver<RelayState>>,
    /// The holder under which this process copies the log, where it does.
    pub relays_as: Option<Uuid>,
    /// The feed from JetStream, where read models follow it.
    pub feed: Option<Arc<JetStreamFeed>>,
    pub tasks: Vec<BoxFuture<'static, ()>>,
}

impl ReadSide {
    /// Makes the tasks, which run on connections of `pool` as the log grows to `head`.
    pub fn new(pool: &PgPool, head: &watch::Receiver<u64>, node_name: Arc<str>, copy: Option<Copy>) -> Self {
        let mut tasks: Vec<BoxFuture<'static, ()>> = Vec::new();
        let (mut relay, mut relays_as, mut from_copy) = (None, None, None);
        if let Some(Copy { client, key, replicas, is_read }) = copy {
            if replicas > 0 {
                let holder = RequestId::draw().0;
                let options = RelayOptions { client: client.clone(), key: key.clone(), replicas, holder };
                let (task, state) = LogRelay::new(pool.clone(), options, head.clone());
                tasks.push(Box::pin(task.run()));
                (relay, relays_as) = (Some(state), Some(holder));
            }
            if is_read {
                let feed = Arc::new(JetStreamFeed::default());
                let is_genuine =
                    move |epoch, position, leaf: &[u8], mac: &[u8]| key.is_genuine(epoch, position, leaf, mac);
                let listener = FeedListener::new(Arc::clone(&feed), pool.clone(), client, Arc::new(is_genuine));
                tasks.push(Box::pin(listener.run()));
                from_copy = Some(feed);
            }
        }
        let feed: Arc<dyn Feed> = match &from_copy {
            Some(feed) => Arc::clone(feed) as _,
            None => Arc::new(PostgresFeed),
        };
        let progress = ProjectionProgress::default();
        tasks.push(Box::pin(ProgressPoller::new(pool.clone(), head.clone(), progress.clone()).run()));
        for projection in Projection::ALL {
            let (head, progress, feed) = (head.clone(), progress.clone(), Arc::clone(&feed));
            let runner = Runner::new(projection, pool.clone(), head, progress, feed, Arc::clone(&node_name));
            tasks.push(Box::pin(runner.run()));
        }
        Self { progress, relay, relays_as, feed: from_copy, tasks }
    }
}
