//! A node that answers from a database in which a trail was replayed: it reads, and does nothing else.
//!
//! The write side has no sequencer, no keys and no sealed data, and the database's role may not write. The log does not grow, so
//! nothing is followed: no lease, no runners, no other nodes.

use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use fulexo_commands::access_token::{KeyRing, SigningKey, TokenSettings};
use fulexo_commands::log::{EventLog, LogHooks};
use fulexo_commands::password_hash::PasswordHasher;
use fulexo_commands::vault::Vault;
use fulexo_commands::vault::crypto::random_bytes;
use fulexo_commands::{Commands, NodeQueues, WriteSide};
use fulexo_database::chain;
use fulexo_domain::jetstream::hex;
use fulexo_domain::policy::{ActivePolicy, Policy};
use fulexo_projections::access;
use fulexo_projections::gate::Gate;
use fulexo_projections::nodes::NodeRegistry;
use fulexo_projections::runner::{ProgressPoller, ProjectionProgress};
use fulexo_projections::tree::{PublishedCheckpoint, TreeReader, TreeState};
use poem::{Endpoint, Response};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use zeroize::Zeroizing;

use super::listening::{Listen, Listening};
use crate::auditor::{AuditorToken, door_before};
use crate::checkpoints::CheckpointState;
use crate::clock;
use crate::config::KeySources;
use crate::database::{LEAST_CONNECTIONS, Pools};
use crate::doorbell::Doorbell;
use crate::http::listener::Reserved;
use crate::http::listener_options::ListenerOptions;
use crate::keys::NodeKeys;
use crate::log_size::LogSize;
use crate::start_error::{StartError, failed};
use crate::state::App;
use crate::streams::{CopyRecords, EventStreams, MAX_EXPORTS, MAX_EXPORTS_OF_CALLER, StreamPlaces};
use crate::tasks::CommandTasks;
use crate::token_cache::TokenCache;

/// The name of the node in health, and the issuer of tokens that nobody gets.
const NAME: &str = "replay";

/// A node over a replayed trail that runs.
pub struct ReplayedNode {
    /// The port that it listens on, on 127.0.0.1.
    pub port: u16,
    app: Arc<App>,
    pools: Pools,
    follower: JoinSet<()>,
    stop_http: watch::Sender<bool>,
    http: JoinSet<()>,
    /// The receivers of these are asked as long as the node runs.
    _unchanging: (watch::Sender<u64>, watch::Sender<TreeState>, watch::Sender<CheckpointState>),
}

impl ReplayedNode {
    /// Starts it, and returns once requests are accepted. They are answered by `faces` behind the edge and the door, which asks
    /// for the token. `database_url` is that of a role that can only read.
    ///
    /// # Errors
    /// [`StartError`], in words for the auditor.
    pub async fn start<F, E>(
        database_url: &str,
        reserved: Reserved,
        token: AuditorToken,
        faces: F,
    ) -> Result<Self, StartError>
    where
        F: FnOnce(Arc<App>, bool) -> Result<E, StartError>,
        E: Endpoint<Output = Response> + 'static,
    {
        let pools = Pools::connect(database_url, LEAST_CONNECTIONS).await?;
        let policy = Arc::new(ActivePolicy::new(Policy::default()));
        let gate = Gate::open(&pools.vital, TimeDelta::hours(1), Arc::clone(&policy), clock::now())
            .await
            .map(Arc::new)
            .map_err(|error| failed("the access gate", &error))?;
        let nodes = Arc::new(NodeRegistry::new(pools.vital.clone(), NAME.into(), Arc::clone(&gate)));
        let (head, known_head) = watch::channel(gate.applied());
        let progress = ProjectionProgress::default();
        let mut follower = JoinSet::new();
        follower.spawn(ProgressPoller::new(pools.behind.clone(), known_head.clone(), progress.clone()).run());
        let (tree, known_tree) = watch::channel(tree(&pools).await.map_err(|error| failed("the tree", &error))?);
        let (published, _) =
            PublishedCheckpoint::read(&pools.behind).await.map_err(|error| failed("the checkpoint", &error))?;
        let (checkpoint, known_checkpoint) = watch::channel(CheckpointState { published, waiting_since: None });

        let commands = commands(&pools, policy, &gate, &nodes)?;
        let keys = NodeKeys::new(
            KeySources::none(),
            TimeDelta::days(30),
            Arc::clone(&commands),
            Arc::clone(&nodes),
            pools.behind.clone(),
        );
        let app = Arc::new(App {
            node_name: NAME.into(),
            commands,
            nodes,
            keys: Arc::new(keys),
            signer: None,
            pool: pools.reads.clone(),
            judging: pools.judging.clone(),
            log_size: LogSize::new(pools.judging.clone()),
            public_reads: Semaphore::new(1),
            past: Semaphore::new(1),
            exports: StreamPlaces::new(MAX_EXPORTS_OF_CALLER, MAX_EXPORTS),
            copies: CopyRecords::default(),
            // Nobody has data of their own here.
            own_exports: StreamPlaces::new(0, 0),
            gate,
            progress,
            head: known_head,
            tokens: TokenCache::default(),
            doorbell: Doorbell::new(None),
            relay: None,
            tree: known_tree,
            checkpoint: known_checkpoint,
            cosigning: None,
            feed: None,
            registration: false,
            penetration_test_token: None,
            first_policy: Policy::default(),
            previews: Semaphore::new(1),
            limits: None,
            streams: EventStreams::default(),
            tasks: CommandTasks::default(),
            behind_answers: Arc::new(Semaphore::new(1)),
        });
        let guarded = |app, has_front_page| Ok(door_before(faces(app, has_front_page)?, token));
        let Listening { port, scheme: _, http_port: _, stop_http, http } =
            Listening::on(Listen::on_loopback(reserved), &app, guarded).await?;
        let _unchanging = (head, tree, checkpoint);
        Ok(Self { port, app, pools, follower, stop_http, http, _unchanging })
    }

    /// Stops in order; returns when all has ended.
    pub async fn stop(mut self) {
        self.app.streams.close();
        self.stop_http.send_replace(true);
        while self.http.join_next().await.is_some() {}
        self.app.tasks.ended(ListenerOptions::default().shutdown_grace.min(Duration::from_secs(1))).await;
        self.follower.shutdown().await;
        self.pools.close().await;
    }
}

/// The tree as it is, and stays.
async fn tree(pools: &Pools) -> Result<TreeState, sqlx::Error> {
    let mut connection = pools.behind.acquire().await?;
    let size = TreeReader::open(&mut connection).await?.size();
    Ok(TreeState { size, stopped_because: None })
}

/// The write side, of which queries ask a few things. It can append nothing: its sequencer is dropped here.
fn commands(
    pools: &Pools,
    policy: Arc<ActivePolicy>,
    gate: &Arc<Gate>,
    nodes: &NodeRegistry,
) -> Result<Arc<Commands>, StartError> {
    let hooks =
        LogHooks { gate: access::apply, gates: access::concerns, on_commit: Arc::new(|_| ()), clock: clock::now };
    let (log, _sequencer) = EventLog::new(pools.work.clone(), hooks);
    let vault = Vault::without_keys(pools.work.clone()).map_err(|error| failed("the vault", &error))?;
    // A key that is forgotten with the process: nobody has, or gets, a token that it has signed.
    let secret = random_bytes::<32>().map(|bytes| Zeroizing::new(hex(&bytes)));
    let secret = secret.map_err(|error| failed("the signing keys", &error))?;
    let settings =
        TokenSettings { issuer: NAME.to_owned(), audience: NAME.to_owned(), lifetime: TimeDelta::minutes(1) };
    let keys = SigningKey::hs256(&secret).and_then(|key| KeyRing::new(vec![key], settings));
    let keys = keys.map_err(|error| failed("the signing keys", &error))?;
    // The cheapest: there is no password to hash.
    let hasher = PasswordHasher::start(1, 4).map_err(|error| StartError(chain(&error).to_string()))?;
    Ok(Arc::new(Commands::new(WriteSide {
        pool: pools.work.clone(),
        log,
        vault,
        hasher,
        keys,
        first_policy: Policy::default(),
        policy,
        is_current: Arc::new(|| false),
        epoch: gate.epoch(),
        commit_heartbeat: nodes.commit_heartbeat(),
        sends_mail: false,
        quotas: None,
        queues: NodeQueues::default(),
    })))
}
