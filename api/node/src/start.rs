//! The composition root: puts the service together, starts its tasks, and stops them in order.
//!
//! ```text
//! HTTP -> commands -> log (sequencer) --commit--> gate, doorbell
//!                                                   |
//!      queries <- read models <- runners <- follower <- log
//! ```
//! A verb that changes something and ends appends and follows the log, and leaves the rest to nodes: it neither copies the
//! log nor applies it to read models, and sends no mail.
//!
//! Shutdown: HTTP first, so that nothing new comes in; then the commands whose clients have left (`tasks`); then the
//! sequencer, which commits what waits; then followers and runners; then the node's place among the others; then the pools.

pub mod listening;
mod log_side;
mod read_side;
pub mod replayed;

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use fulexo_commands::access_token::{KeyRing, TokenSettings};
use fulexo_commands::context::{Context, RequestOrigin};
use fulexo_commands::log::QUEUE;
use fulexo_commands::log::relay::{self, CopyKey};
use fulexo_commands::password_hash::PasswordHasher;
use fulexo_commands::vault::{Vault, VaultError};
use fulexo_commands::{CommandQuotas, Commands, FreshnessCheck, NodeQueues, Retention, WriteSide};
use fulexo_database::chain;
use fulexo_domain::event::Actor;
use fulexo_domain::policy::{ActivePolicy, Policy};
use fulexo_domain::values::RoleName;
use fulexo_projections::access;
use fulexo_projections::gate::{Gate, LEASE};
use fulexo_projections::tree::Integrator;
use futures_util::future::BoxFuture;
use poem::{Endpoint, Response};
use sqlx::PgPool;
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use self::listening::{Listen, Listening};
use self::log_side::LogSide;
use self::read_side::{Copy, ReadSide};
use crate::checkpoints::CheckpointPublisher;
use crate::config::{Config, Environment, FeedSource, LogSignerConfig, SignerConfig};
use crate::cosigning::CosignatureCollector;
use crate::database::Pools;
use crate::doorbell::Doorbell;
use crate::http::MAX_IN_FLIGHT;
use crate::http::listener::Reserved;
use crate::http::listener_options::ListenerOptions;
use crate::http::request_id::RequestId;
use crate::keys::NodeKeys;
use crate::limits::{Counts, Limits};
use crate::log_size::LogSize;
use crate::mail::Transport;
use crate::mail::worker::Worker;
use crate::refusals::record_ended_refusals;
use crate::signer::{LogSigner, Signer};
use crate::start_error::{StartError, failed};
use crate::state::App;
use crate::streams::{CopyRecords, EventStreams, MAX_EXPORTS, MAX_EXPORTS_OF_CALLER, MAX_OWN_EXPORTS, StreamPlaces};
use crate::tasks::CommandTasks;
use crate::token_cache::TokenCache;
use crate::{clock, nats, schema};

/// The pause between two sweeps of what has served its time.
const SWEEP: Duration = Duration::from_secs(60);
/// The most commands at a time that still run after their answers were given.
const BEHIND_ANSWERS: usize = 256;

// The log takes what a command has counted: one command waits for one append at a time, and the queue holds more
// appends than there are commands.
const _: () = assert!(2 * (MAX_IN_FLIGHT + BEHIND_ANSWERS) < QUEUE);

/// A service that runs.
pub struct RunningNode {
    /// The port that it listens on.
    pub port: u16,
    /// `https` or `http`: what is spoken there.
    pub scheme: &'static str,
    /// The port that redirects to it, if any.
    pub http_port: Option<u16>,
    core: Core,
    stop_http: watch::Sender<bool>,
    http: JoinSet<()>,
}

/// The service but for its listener: what a verb needs that changes something and ends.
pub struct Core {
    /// The state that request handlers, and verbs, work with.
    pub app: Arc<App>,
    pools: Pools,
    stop_sequencer: oneshot::Sender<()>,
    sequencer: JoinHandle<()>,
    followers: JoinSet<()>,
    /// The work of a node other than answering, until it is begun. A verb that ends begins none of it.
    upkeep: Vec<BoxFuture<'static, ()>>,
    /// The id under which this process copies the log, if it does.
    relays_as: Option<Uuid>,
}

impl Core {
    /// Starts everything that appending takes, and following what was appended.
    ///
    /// # Errors
    /// [`StartError`], in words for the operator.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let pools = Pools::connect(&config.database_url, config.database_connections).await?;
        schema::check(&pools.work).await.map_err(StartError)?;
        let first_policy = first_policy(&config);
        let node_name: Arc<str> = config.node_name.into();
        let nats = match &config.nats_url {
            Some(url) => Some(
                nats::connect(url, config.nats_credentials.as_deref().map(String::as_str)).await.map_err(StartError)?,
            ),
            None => None,
        };

        // The parts that decide: secrets, keys, the policy.
        let vault = Vault::open(pools.work.clone(), config.encryption_keys)
            .await
            .map_err(|error| failed("the vault", &error))?;
        let settings =
            TokenSettings { issuer: config.issuer, audience: config.audience, lifetime: config.access_lifetime };
        let keys = KeyRing::new(config.signing_keys, settings).map_err(|error| failed("the signing keys", &error))?;
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let hasher = PasswordHasher::start(threads, config.bcrypt_cost)
            .map_err(|error| StartError(chain(&error).to_string()))?;
        let policy = Arc::new(ActivePolicy::new(first_policy.clone()));

        // The log, and the gate that judges by it.
        let gate = Gate::open(&pools.vital, config.access_lifetime, Arc::clone(&policy), clock::now())
            .await
            .map(Arc::new)
            .map_err(|error| failed("the access gate", &error))?;
        let log_side = LogSide::start(&pools, gate, Arc::clone(&node_name), Doorbell::new(nats.clone())).await?;

        // The parts that follow the log: its copy, read models.
        let copy = nats.map(|client| Copy {
            client,
            key: CopyKey::of(&vault),
            replicas: config.nats_replicas,
            is_read: config.feed == FeedSource::JetStream,
        });
        let read_side = ReadSide::new(&pools.behind, &log_side.head, Arc::clone(&node_name), copy);

        // The tree over the log, and its signatures.
        let signer = config.signer.map(open_signer).transpose()?;
        let (integrator, tree) = Integrator::new(pools.behind.clone(), log_side.head.clone());
        let (signs, of_log) = (signer.is_some(), signer.clone());
        let (publisher, checkpoint) = CheckpointPublisher::new(pools.behind.clone(), tree.clone(), signer.clone());
        let (collector, cosigning) = match config.cosigning {
            Some(config) => {
                let collector = CosignatureCollector::new(pools.behind.clone(), signer, config);
                let (collector, states) = collector.map_err(|error| failed("the client of witnesses", &error))?;
                (Some(collector), Some(states))
            }
            None => (None, None),
        };

        // The parts that change the log: commands, and what they count, mail and owe.
        let LogSide { log, gate, doorbell, nodes, head, stop_sequencer, sequencer, followers } = log_side;
        let ReadSide { progress, relay, relays_as, feed, tasks: mut upkeep } = read_side;
        let is_current: FreshnessCheck = {
            let gate = Arc::clone(&gate);
            Arc::new(move || gate.holds_lease())
        };
        let counts = config.rate_limits.map(|quotas| Arc::new(Counts::new(quotas)));
        let commands = Arc::new(Commands::new(WriteSide {
            pool: pools.work.clone(),
            log,
            vault,
            hasher,
            keys,
            first_policy: first_policy.clone(),
            policy,
            is_current,
            epoch: gate.epoch(),
            commit_heartbeat: nodes.commit_heartbeat(),
            sends_mail: config.mail.is_some(),
            quotas: counts.clone().map(|counts| counts as Arc<dyn CommandQuotas>),
            queues: NodeQueues::default(),
        }));
        let limits = counts.map(|counts| Arc::new(Limits::new(counts, Arc::clone(&commands))));
        let keys = NodeKeys::new(
            config.key_sources,
            config.key_epoch,
            Arc::clone(&commands),
            Arc::clone(&nodes),
            pools.behind.clone(),
        );
        keys.begin().await.map_err(|error| failed("the lives of keys", &error))?;
        keys.refresh().await.map_err(|error| failed("the vault", &error))?;
        let keys = Arc::new(keys);
        upkeep.push(Box::pin(Arc::clone(&keys).run()));
        upkeep.push(Box::pin(integrator.run()));
        upkeep.push(Box::pin(publisher.run()));
        if let Some(collector) = collector {
            upkeep.push(Box::pin(collector.run()));
        }
        if signs {
            upkeep.push(Box::pin(record_ended_refusals(pools.behind.clone(), Arc::clone(&commands), by_the_service)));
        }
        upkeep.push(Box::pin(sweep(pools.behind.clone(), config.anonymous_retention)));
        upkeep.push(Box::pin(Arc::clone(&commands).record_session_ends(by_the_service)));
        upkeep.push(Box::pin(Arc::clone(&commands).carry_out_erasures(by_the_service)));
        if let Some(mail) = config.mail {
            let transport = Transport::new(&mail).map_err(StartError)?;
            let worker = Worker { commands: Arc::clone(&commands), transport, public_url: mail.public_url };
            upkeep.push(Box::pin(worker.run()));
        }
        if let Some(limits) = &limits {
            upkeep.push(Box::pin(Arc::clone(limits).run()));
        }

        let app = Arc::new(App {
            node_name,
            nodes,
            commands,
            keys,
            signer: of_log,
            pool: pools.reads.clone(),
            judging: pools.judging.clone(),
            log_size: LogSize::new(pools.judging.clone()),
            public_reads: Semaphore::new(usize::try_from(pools.readers / 2).unwrap_or(1).max(1)),
            past: Semaphore::new(usize::try_from(pools.readers / 2).unwrap_or(1)),
            exports: StreamPlaces::new(MAX_EXPORTS_OF_CALLER, MAX_EXPORTS),
            copies: CopyRecords::default(),
            own_exports: StreamPlaces::new(1, MAX_OWN_EXPORTS),
            gate,
            progress,
            head,
            tokens: TokenCache::default(),
            doorbell,
            relay,
            tree,
            checkpoint,
            cosigning,
            feed,
            registration: config.registration,
            penetration_test_token: config.penetration_test_token,
            first_policy,
            previews: Semaphore::new(1),
            limits,
            streams: EventStreams::default(),
            tasks: CommandTasks::default(),
            behind_answers: Arc::new(Semaphore::new(BEHIND_ANSWERS)),
        });
        Ok(Self { app, pools, stop_sequencer, sequencer, followers, upkeep, relays_as })
    }

    /// Takes part among the nodes, in their work, too, before requests come in. One that cannot keep up may begin all the
    /// same: it asks the database.
    async fn join(&mut self) -> Result<(), StartError> {
        self.pools.open().await;
        for work in self.upkeep.drain(..) {
            self.followers.spawn(work);
        }
        self.app.nodes.join().await.map_err(|error| failed("the registry of nodes", &error))?;
        // A key may have come into use since this node read it, by a rotation that did not see this node yet.
        let lacking = self.app.keys.refresh().await.map_err(|error| failed("the vault", &error))?;
        if let Some(id) = lacking.into_iter().next() {
            return Err(failed("the vault", &VaultError::MissingKey(id)));
        }
        self.app.doorbell.ring_here();
        let leased = async {
            while !self.app.gate.holds_lease() {
                sleep(Duration::from_millis(2)).await;
            }
        };
        if timeout(LEASE, leased).await.is_err() {
            tracing::warn!("this node is not current yet: requests are judged by the database");
        }
        Ok(())
    }

    /// Stops in order; returns when all has ended.
    pub async fn stop(mut self) {
        if let Some(limits) = &self.app.limits {
            limits.record(DateTime::<Utc>::MAX_UTC).await;
        }
        let _ = self.stop_sequencer.send(());
        let _ = self.sequencer.await;
        // Read models catch up from their checkpoints: nothing is lost by stopping them here.
        self.followers.shutdown().await;
        let end_turn = async {
            match self.relays_as {
                Some(holder) => relay::release_lease(&self.pools.behind, holder).await,
                None => Ok(()),
            }
        };
        let (left, ended) = tokio::join!(self.app.nodes.leave(), end_turn);
        if let Err(error) = left {
            tracing::warn!(error = %chain(&error), "this node could not take leave: others will take it for dead");
        }
        if let Err(error) = ended {
            tracing::warn!(error = %chain(&error), "this node could not end its turn to copy the log: it runs out");
        }
        self.pools.close().await;
    }
}

impl RunningNode {
    /// Starts everything, and returns once requests are accepted. They are answered by `faces`, behind the edge; these are
    /// made of the node's state, and of whether `/` leads to the documentation.
    ///
    /// # Errors
    /// [`StartError`], in words for the operator.
    pub async fn start<F, E>(config: Config, faces: F) -> Result<Self, StartError>
    where
        F: FnOnce(Arc<App>, bool) -> Result<E, StartError>,
        E: Endpoint<Output = Response> + 'static,
    {
        Self::start_on(config, None, faces).await
    }

    /// The same where the port is reserved already.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start_on<F, E>(mut config: Config, reserved: Option<Reserved>, faces: F) -> Result<Self, StartError>
    where
        F: FnOnce(Arc<App>, bool) -> Result<E, StartError>,
        E: Endpoint<Output = Response> + 'static,
    {
        // First of all: a port that is taken is the mistake made most often.
        let listen = Listen::take(&mut config, reserved)?;
        let mut core = Core::start(config).await?;
        let listening = match core.join().await {
            Ok(()) => Listening::on(listen, &core.app, faces).await,
            Err(error) => Err(error),
        };
        match listening {
            Ok(Listening { port, scheme, http_port, stop_http, http }) => {
                Ok(Self { port, scheme, http_port, core, stop_http, http })
            }
            Err(error) => {
                core.stop().await;
                Err(error)
            }
        }
    }

    /// Returns the state that its handlers work with.
    #[must_use]
    pub const fn app(&self) -> &Arc<App> {
        &self.core.app
    }

    /// Stops in order; returns when all has ended.
    pub async fn stop(mut self) {
        tracing::info!("stopping: requests first");
        // These do not end by themselves.
        self.core.app.streams.close();
        self.stop_http.send_replace(true);
        while self.http.join_next().await.is_some() {}
        // Commands whose clients have left: what they have begun they record before the log is closed.
        let left = self.core.app.tasks.ended(ListenerOptions::default().shutdown_grace).await;
        if left > 0 {
            tracing::error!(left, "commands did not end within the grace period: what they began may be left undone");
        }
        self.core.stop().await;
        tracing::info!("stopped");
    }
}

/// Opens the signer that a configuration names.
///
/// # Errors
/// [`StartError`], in words for the operator.
pub fn open_signer(config: SignerConfig) -> Result<Signer, StartError> {
    Ok(match config {
        SignerConfig::Here(LogSignerConfig { keys, file, memory }) => {
            let opened = LogSigner::open(keys, memory).map_err(|error| failed("the signer", &error))?;
            Signer::Here(Arc::new(opened.following(file)))
        }
        SignerConfig::Socket(path) => Signer::Socket(path),
    })
}

/// The security document's figures, as far as the configuration does not say otherwise. In force until the policy is
/// changed.
fn first_policy(config: &Config) -> Policy {
    let mut policy = Policy::default();
    policy.sessions.idle_timeout = config.refresh_lifetime;
    policy.sessions.absolute_timeout = policy.sessions.absolute_timeout.max(config.refresh_lifetime);
    if config.environment == Environment::Production {
        let roles = ["admin", "auditor"].into_iter().filter_map(|role| RoleName::parse(role).ok());
        policy.second_factor.required_for = roles.collect();
    }
    policy
}

/// The context of acts that the service does on its own.
fn by_the_service() -> Context {
    Context {
        actor: Actor::System,
        correlation: RequestId::draw().0,
        now: clock::now(),
        origin: RequestOrigin::default(),
        idempotency_key: None,
    }
}

async fn sweep(pool: PgPool, anonymous_retention: TimeDelta) {
    let retention = Retention::new(pool.clone(), anonymous_retention);
    loop {
        match retention.sweep(clock::now()).await {
            Ok(swept) if swept.more => continue,
            Ok(_) => {}
            Err(error) => tracing::warn!(error = %chain(&error), "what has served its time could not be swept away"),
        }
        if let Err(error) = access::sweep(&pool, clock::now()).await {
            tracing::warn!(error = %chain(&error), "sessions past their end could not be swept away");
        }
        sleep(SWEEP).await;
    }
}
