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

mod listening;
mod log_size;

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use fulexo_commands::access_token::KeyRing;
use fulexo_commands::context::{Context, Origin};
use fulexo_commands::log::relay::{self, CopyKey, Relay, RelayOptions, RelayState};
use fulexo_commands::log::{EventLog, Hooks, QUEUE};
use fulexo_commands::password_hash::PasswordHasher;
use fulexo_commands::vault::Vault;
use fulexo_commands::{Budget, Commands, IsCurrent, Retention};
use fulexo_domain::event::Actor;
use fulexo_domain::policy::{InForce, Policy};
use fulexo_domain::values::RoleName;
use fulexo_projections::feed::{Feed, JetStreamFeed, Listener as FeedListener, PostgresFeed};
use fulexo_projections::follower::Follower;
use fulexo_projections::gate::{Gate, LEASE};
use fulexo_projections::nodes::Nodes;
use fulexo_projections::read_models::Projection;
use fulexo_projections::runner::{Lookout, Progress, Runner};
use fulexo_projections::{access, feed};
use futures_util::future::BoxFuture;
use sqlx::PgPool;
use tokio::sync::{Semaphore, SemaphorePermit, oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};
use uuid::Uuid;

pub use self::listening::reserve_port;
use self::listening::{Listen, Listening};
pub use self::log_size::LogSize;
use crate::clock;
use crate::config::{Config, Environment, FeedSource};
use crate::database::Pools;
pub use crate::database::{connect, reason};
use crate::doorbell::Doorbell;
use crate::http::listener::{ListenerOptions, Reserved};
use crate::http::{MAX_IN_FLIGHT, Problem, RequestId};
use crate::limits::{Counts, Limits};
use crate::mail::Transport;
use crate::mail::worker::Worker;
use crate::nats;
use crate::tasks::CommandTasks;
use crate::token_cache::TokenCache;

/// Between two sweeps of what has served its time.
const SWEEP: Duration = Duration::from_secs(60);
/// Tries to end this node's turn to copy the log before it stops; each waits five seconds for a connection.
const TRIES_TO_END_TURN: usize = 3;
/// Commands at a time that go on behind answers that were given already.
const BEHIND_ANSWERS: usize = 256;

// What a command has counted, the log takes: one command waits for one append at a time, and the queue holds as many as there
// are commands, and some.
const _: () = assert!(2 * (MAX_IN_FLIGHT + BEHIND_ANSWERS) < QUEUE);

/// What request handlers work with.
pub struct App {
    /// What this node is called among others.
    pub node_name: Arc<str>,
    /// Who else is there, and how far.
    pub nodes: Arc<Nodes>,
    /// The write side.
    pub commands: Arc<Commands>,
    /// The read side's database: what is asked about read models, and may be slow.
    pub pool: PgPool,
    /// The tables that judge a caller, and nothing slower.
    pub judging: PgPool,
    /// The length of the log, for answers about health.
    pub log_size: LogSize,
    /// Questions about the past at once: some of them read a good part of a table.
    past: Semaphore,
    /// Judges requests.
    pub gate: Arc<Gate>,
    /// How far the read models are.
    pub progress: Progress,
    /// How long the log is, as far as this node knows.
    pub head: watch::Receiver<u64>,
    /// Tokens verified before.
    pub tokens: TokenCache,
    /// The connection between nodes.
    pub doorbell: Doorbell,
    /// How the copy of the log in JetStream is getting on, where one is made.
    pub relay: Option<watch::Receiver<RelayState>>,
    /// The feed from JetStream, where projections read it.
    pub feed: Option<Arc<JetStreamFeed>>,
    /// Whether anybody may register.
    pub registration: bool,
    /// The policy in force until an event says otherwise.
    pub first_policy: Policy,
    /// One preview of a policy at a time: it reads a good part of the log.
    pub previews: Semaphore,
    /// How many requests are let in, if that is limited.
    pub limits: Option<Arc<Limits>>,
    /// The tasks that commands run in.
    pub tasks: CommandTasks,
    /// Leave for commands that go on behind answers that were given already.
    pub behind_answers: Arc<Semaphore>,
}

/// A service that runs.
pub struct Running {
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
    /// What request handlers, and verbs, work with.
    pub app: Arc<App>,
    pools: Pools,
    stop_sequencer: oneshot::Sender<()>,
    sequencer: JoinHandle<()>,
    followers: JoinSet<()>,
    /// What a node does beside answering, until it is begun. A verb that ends begins none of it.
    upkeep: Vec<BoxFuture<'static, ()>>,
    /// As whom this process copies the log, where it does.
    relays_as: Option<Uuid>,
}

/// Why the service does not start; the text says what to do.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct StartError(pub String);

impl App {
    /// Leave to ask about the past, or about all of the present: few do at once, so that there are connections left for
    /// those who ask for less.
    ///
    /// # Errors
    /// 503 when others are at it for too long.
    pub async fn look_back(&self) -> Result<SemaphorePermit<'_>, Problem> {
        let overloaded = || Problem::overloaded(Duration::from_secs(2));
        timeout(Duration::from_secs(2), self.past.acquire()).await.map_err(|_| overloaded())?.map_err(|_| overloaded())
    }
}

impl Core {
    /// Starts what it takes to append, and to know what was appended.
    ///
    /// # Errors
    /// [`StartError`], in words for the operator.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let pools = Pools::connect(&config.database_url, config.database_connections).await?;
        let (pool, vital, behind) = (pools.work.clone(), pools.vital.clone(), pools.behind.clone());
        crate::schema::check(&pool).await.map_err(StartError)?;
        let first_policy = first_policy(&config);
        let policy = Arc::new(InForce::new(first_policy.clone()));

        let vault =
            Vault::open(pool.clone(), config.encryption_keys).await.map_err(|error| failed("the vault", &error))?;
        let keys = KeyRing::new(config.signing_keys, config.issuer, config.audience, config.access_lifetime)
            .map_err(|error| failed("the signing keys", &error))?;
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let hasher = PasswordHasher::start(threads, config.bcrypt_cost).map_err(StartError)?;
        let gate = Gate::open(&vital, config.access_lifetime, Arc::clone(&policy), clock::now())
            .await
            .map(Arc::new)
            .map_err(|error| failed("the access gate", &error))?;
        let nats = match &config.nats_url {
            Some(url) => Some(
                nats::connect(url, config.nats_credentials.as_deref().map(String::as_str)).await.map_err(StartError)?,
            ),
            None => None,
        };
        let doorbell = Doorbell::new(nats.clone());
        let copy_key = CopyKey::of(&vault);
        let (head, known_head) = watch::channel(gate.applied());

        let (log, sequencer) = EventLog::new(pool.clone(), hooks(&gate, &doorbell, &head));
        let sequencer = sequencer.on(vital.clone());
        let progress = Progress::default();
        let node_name: Arc<str> = config.node_name.into();
        let nodes = Arc::new(Nodes::new(vital.clone(), Arc::clone(&node_name), Arc::clone(&gate)));
        let mut follower = Follower::new(vital.clone(), Arc::clone(&gate), Arc::clone(&nodes), doorbell.rung(), head);
        // The gate is current before the first request.
        follower.begin().await.map_err(|error| failed("the log", &error))?;
        let (stop_sequencer, stopped) = oneshot::channel();
        let sequencer = tokio::spawn(sequencer.run(stopped));
        let mut followers = JoinSet::new();
        followers.spawn(follower.run());
        followers.spawn(Arc::clone(&nodes).run(doorbell.rung()));
        followers.spawn(doorbell.clone().run());

        let mut upkeep: Vec<BoxFuture<'static, ()>> = vec![Box::pin(sweep(behind.clone()))];
        let relays_as = (nats.is_some() && config.nats_replicas > 0).then(|| RequestId::draw().0);
        let relay = nats.clone().zip(relays_as).map(|(client, holder)| {
            let options = RelayOptions { client, key: copy_key.clone(), replicas: config.nats_replicas, holder };
            let (relay, state) = Relay::new(behind.clone(), options, known_head.clone());
            upkeep.push(Box::pin(relay.run()));
            state
        });
        let from_nats = nats.filter(|_| config.feed == FeedSource::JetStream).map(|client| {
            let feed = Arc::new(JetStreamFeed::default());
            let is_genuine =
                move |epoch, position, leaf: &[u8], mac: &[u8]| copy_key.is_genuine(epoch, position, leaf, mac);
            let listener = FeedListener::new(Arc::clone(&feed), behind.clone(), client, Arc::new(is_genuine));
            upkeep.push(Box::pin(listener.run()));
            feed
        });
        let feed: Arc<dyn Feed> = match &from_nats {
            Some(feed) => Arc::clone(feed) as _,
            None => Arc::new(PostgresFeed),
        };
        upkeep.push(Box::pin(Lookout::new(behind.clone(), known_head.clone(), progress.clone()).run()));
        for projection in Projection::ALL {
            let (head, progress) = (known_head.clone(), progress.clone());
            let (feed, node) = (Arc::clone(&feed), Arc::clone(&node_name));
            upkeep.push(Box::pin(Runner::new(projection, behind.clone(), head, progress, feed, node).run()));
        }

        let is_current: IsCurrent = {
            let gate = Arc::clone(&gate);
            Arc::new(move || gate.holds_lease())
        };
        let first = first_policy.clone();
        let commands = Commands::new(pool, log, vault, hasher, keys, first, policy, is_current, gate.epoch());
        let counts = config.rate_limits.map(|quotas| Arc::new(Counts::new(quotas)));
        let budget = counts.clone().map(|counts| counts as Arc<dyn Budget>);
        let commands = commands.with_pulse(nodes.pulse()).with_mail(config.mail.is_some()).with_budget(budget);
        let commands = Arc::new(commands);
        upkeep.push(Box::pin(Arc::clone(&commands).record_session_ends(by_the_service)));
        if let Some(mail) = config.mail {
            let transport = Transport::new(&mail).map_err(StartError)?;
            let worker = Worker { commands: Arc::clone(&commands), transport, public_url: mail.public_url };
            upkeep.push(Box::pin(worker.run()));
        }
        let limits = counts.map(|counts| Arc::new(Limits::new(counts, Arc::clone(&commands))));
        if let Some(limits) = &limits {
            upkeep.push(Box::pin(Arc::clone(limits).run()));
        }
        let app = Arc::new(App {
            node_name,
            nodes,
            commands,
            pool: pools.reads.clone(),
            judging: pools.judging.clone(),
            log_size: LogSize::new(pools.judging.clone()),
            past: Semaphore::new(usize::try_from(pools.readers / 2).unwrap_or(1)),
            gate,
            progress,
            head: known_head,
            tokens: TokenCache::default(),
            doorbell,
            relay,
            feed: from_nats,
            registration: config.registration,
            first_policy,
            previews: Semaphore::new(1),
            limits,
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
            let Some(holder) = self.relays_as else { return Ok(()) };
            // Connections of tasks that were ended just now come back in a moment, on a busy machine in several.
            for _ in 1..TRIES_TO_END_TURN {
                match relay::give_up(&self.pools.behind, holder).await {
                    Ok(()) => return Ok(()),
                    Err(error) => tracing::debug!(%error, "the turn to copy the log is not ended yet; trying again"),
                }
            }
            relay::give_up(&self.pools.behind, holder).await
        };
        let (left, ended) = tokio::join!(self.app.nodes.leave(), end_turn);
        if let Err(error) = left {
            tracing::warn!(%error, "this node could not take leave: others will take it for dead");
        }
        if let Err(error) = ended {
            tracing::warn!(%error, "this node could not end its turn to copy the log: it runs out");
        }
        self.pools.close().await;
    }
}

impl Running {
    /// Starts everything, and returns once requests are accepted.
    ///
    /// # Errors
    /// [`StartError`], in words for the operator.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        Self::start_on(config, None).await
    }

    /// The same where the port is reserved already.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start_on(mut config: Config, reserved: Option<Reserved>) -> Result<Self, StartError> {
        // First of all: a port that is taken is the mistake made most often.
        let listen = Listen::take(&mut config, reserved)?;
        let mut core = Core::start(config).await?;
        let listening = match core.join().await {
            Ok(()) => Listening::on(listen, &core.app).await,
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

    /// What its handlers work with.
    #[must_use]
    pub const fn app(&self) -> &Arc<App> {
        &self.core.app
    }

    /// Stops in order; returns when all has ended.
    pub async fn stop(mut self) {
        tracing::info!("stopping: requests first");
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

/// The security document's figures, as far as the configuration does not say otherwise. In force until the policy is
/// changed.
fn first_policy(config: &Config) -> Policy {
    let mut policy = Policy::default();
    policy.sessions.idle_lifetime = config.refresh_lifetime;
    policy.sessions.absolute_lifetime = policy.sessions.absolute_lifetime.max(config.refresh_lifetime);
    if config.environment == Environment::Production {
        let roles = ["admin", "auditor"].into_iter().filter_map(|role| RoleName::parse(role).ok());
        policy.second_factor.required_for = roles.collect();
    }
    policy
}

/// What the log does beside appending: derive what gates requests, tell this node, tell the others.
fn hooks(gate: &Arc<Gate>, doorbell: &Doorbell, head: &watch::Sender<u64>) -> Hooks {
    let (gate, doorbell, head) = (Arc::clone(gate), doorbell.clone(), head.clone());
    Hooks {
        gate: access::apply,
        gates: access::concerns,
        on_commit: Arc::new(move |events| {
            gate.observe(events);
            if let Some(last) = events.last() {
                head.send_if_modified(|head| {
                    let moved = last.position >= *head;
                    *head = (*head).max(last.position + 1);
                    moved
                });
                doorbell.ring();
            }
        }),
        clock: clock::now,
    }
}

/// The context of acts that the service does on its own.
fn by_the_service() -> Context {
    Context {
        actor: Actor::System,
        correlation: RequestId::draw().0,
        now: clock::now(),
        origin: Origin::default(),
        idempotency_key: None,
    }
}

async fn sweep(pool: PgPool) {
    let retention = Retention::new(pool.clone());
    loop {
        match retention.sweep(clock::now()).await {
            Ok(swept) if swept.more => continue,
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "what has served its time could not be swept away"),
        }
        if let Err(error) = access::sweep(&pool, clock::now()).await {
            tracing::warn!(%error, "sessions past their end could not be swept away");
        }
        sleep(SWEEP).await;
    }
}

fn failed(what: &str, error: &dyn std::error::Error) -> StartError {
    StartError(format!("{what} cannot be opened: {error}"))
}

/// The number of events, from the log itself.
///
/// # Errors
/// The database.
pub async fn log_size(pool: &PgPool) -> Result<u64, sqlx::Error> {
    feed::size(&mut *pool.acquire().await?).await
}
