//! The state of a node that request handlers and verbs work with. `start.rs` makes it.

use std::sync::Arc;
use std::time::Duration;

use fulexo_commands::Commands;
use fulexo_commands::log::relay::RelayState;
use fulexo_domain::policy::Policy;
use fulexo_domain::values::AccountId;
use fulexo_projections::feed::JetStreamFeed;
use fulexo_projections::gate::Gate;
use fulexo_projections::nodes::NodeRegistry;
use fulexo_projections::runner::ProjectionProgress;
use fulexo_projections::tree::TreeState;
use sqlx::PgPool;
use tokio::sync::{Semaphore, SemaphorePermit, watch};
use tokio::time::timeout;
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::checkpoints::CheckpointState;
use crate::cosigning::CosigningState;
use crate::doorbell::Doorbell;
use crate::http::problem::Problem;
use crate::keys::NodeKeys;
use crate::limits::Limits;
use crate::log_size::LogSize;
use crate::signer::Signer;
use crate::streams::{CopyRecords, EventStreams, NoPlace, StreamPlace, StreamPlaces};
use crate::tasks::CommandTasks;
use crate::token_cache::TokenCache;

/// The time after which it is worth asking for an export again.
const RETRY_EXPORT: Duration = Duration::from_secs(10);

/// The state that request handlers work with.
pub struct App {
    /// The name of this node among others.
    pub node_name: Arc<str>,
    /// The other nodes, and their progress.
    pub nodes: Arc<NodeRegistry>,
    /// The write side.
    pub commands: Arc<Commands>,
    /// The keys of this node, and their lives.
    pub keys: Arc<NodeKeys>,
    /// The signer of the log, if this node has one.
    pub signer: Option<Signer>,
    /// The read side's database: what is asked about read models, and may be slow.
    pub pool: PgPool,
    /// The tables that judge a caller, and nothing slower.
    pub judging: PgPool,
    /// The length of the log, for answers about health.
    pub log_size: LogSize,
    /// Reads for callers whom nobody knows, at once: others keep connections.
    pub(crate) public_reads: Semaphore,
    /// Questions about the past at once: some of them read a good part of a table.
    pub(crate) past: Semaphore,
    /// Exports of the audit trail under way.
    pub exports: StreamPlaces,
    /// The copies of events that go on, as far as the log says so.
    pub copies: CopyRecords,
    /// The exports of people's own data.
    pub own_exports: StreamPlaces,
    /// Judges requests.
    pub gate: Arc<Gate>,
    /// The progress of the read models.
    pub progress: ProjectionProgress,
    /// The length of the log, as far as this node knows.
    pub head: watch::Receiver<u64>,
    /// Tokens verified before.
    pub tokens: TokenCache,
    /// The connection between nodes.
    pub doorbell: Doorbell,
    /// The state of the copy of the log in JetStream, if one is made.
    pub relay: Option<watch::Receiver<RelayState>>,
    /// The progress of the tree over the log.
    pub tree: watch::Receiver<TreeState>,
    /// The published checkpoint.
    pub checkpoint: watch::Receiver<CheckpointState>,
    /// The cosignatures of the witnesses, if there are any.
    pub cosigning: Option<watch::Receiver<CosigningState>>,
    /// The feed from JetStream, where projections read it.
    pub feed: Option<Arc<JetStreamFeed>>,
    /// `true` if anybody may register.
    pub registration: bool,
    /// The token by whose digest this node consents to a penetration test, if it does.
    pub penetration_test_token: Option<Zeroizing<String>>,
    /// The policy in force until an event says otherwise.
    pub first_policy: Policy,
    /// One preview of a policy at a time: it reads a good part of the log.
    pub previews: Semaphore,
    /// The limits on requests, if there are any.
    pub limits: Option<Arc<Limits>>,
    /// The open event streams.
    pub streams: EventStreams,
    /// The tasks that commands run in.
    pub tasks: CommandTasks,
    /// Permits for commands that still run after their answers were given.
    pub behind_answers: Arc<Semaphore>,
}

impl App {
    /// A permit to ask about the past, or about all of the present: few do at once, so that there are connections left
    /// for those who ask for less.
    ///
    /// # Errors
    /// 503 if others hold all permits for too long.
    pub async fn look_back(&self) -> Result<SemaphorePermit<'_>, Problem> {
        place(&self.past).await
    }

    /// The same for work in pieces that has begun, which waits as long as it takes. `None` while the node stops.
    pub async fn turn_to_look_back(&self) -> Option<SemaphorePermit<'_>> {
        self.past.acquire().await.ok()
    }

    /// A place for an export of the audit trail, for this account or API key.
    ///
    /// # Errors
    /// 429 if the caller has as many exports under way as one may have; 503 if the node has.
    pub fn export(&self, caller: Uuid) -> Result<StreamPlace, Problem> {
        take(&self.exports, caller)
    }

    /// A place for an export of a person's own data.
    ///
    /// # Errors
    /// 429 if the person has as many under way as one may have; 503 if the node has.
    pub fn own_export(&self, account: AccountId) -> Result<StreamPlace, Problem> {
        take(&self.own_exports, account.0)
    }

    /// A permit to read for a caller whom nobody knows.
    ///
    /// # Errors
    /// 503 if others hold all permits for too long.
    pub async fn read_in_public(&self) -> Result<SemaphorePermit<'_>, Problem> {
        place(&self.public_reads).await
    }
}

fn take(places: &StreamPlaces, caller: Uuid) -> Result<StreamPlace, Problem> {
    places.take(caller).map_err(|bound| match bound {
        NoPlace::OfCaller => Problem::rate_limited(RETRY_EXPORT).with_detail(
            "You have as many exports under way as you may have at a time. Wait until one has ended, or end it.",
        ),
        NoPlace::OfNode => Problem::overloaded(RETRY_EXPORT),
    })
}

async fn place(places: &Semaphore) -> Result<SemaphorePermit<'_>, Problem> {
    let overloaded = || Problem::overloaded(Duration::from_secs(2));
    timeout(Duration::from_secs(2), places.acquire()).await.map_err(|_| overloaded())?.map_err(|_| overloaded())
}
