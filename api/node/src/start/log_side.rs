//! The log side of a node: appends, the gate that judges by what was appended, and the tasks that keep both current.

use std::sync::Arc;

use fulexo_commands::log::{EventLog, LogHooks};
use fulexo_projections::access;
use fulexo_projections::follower::Follower;
use fulexo_projections::gate::Gate;
use fulexo_projections::nodes::NodeRegistry;
use tokio::sync::{oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};

use crate::clock;
use crate::database::Pools;
use crate::doorbell::Doorbell;
use crate::start_error::{StartError, failed};

/// The log, and what depends on its last event.
pub(super) struct LogSide {
    pub log: EventLog,
    pub gate: Arc<Gate>,
    pub doorbell: Doorbell,
    pub nodes: Arc<NodeRegistry>,
    /// The length of the log, as far as this node knows.
    pub head: watch::Receiver<u64>,
    pub stop_sequencer: oneshot::Sender<()>,
    pub sequencer: JoinHandle<()>,
    pub followers: JoinSet<()>,
}

impl LogSide {
    /// Starts the sequencer, the follower, the registry of nodes and the doorbell. The gate is current when it returns.
    ///
    /// # Errors
    /// [`StartError`] when the log cannot be read.
    pub async fn start(
        pools: &Pools,
        gate: Arc<Gate>,
        node_name: Arc<str>,
        doorbell: Doorbell,
    ) -> Result<Self, StartError> {
        let (head, known_head) = watch::channel(gate.applied());
        let (log, sequencer) = EventLog::new(pools.work.clone(), hooks(&gate, &doorbell, &head));
        let sequencer = sequencer.on(pools.vital.clone());
        let nodes = Arc::new(NodeRegistry::new(pools.vital.clone(), node_name, Arc::clone(&gate)));
        let mut follower =
            Follower::new(pools.vital.clone(), Arc::clone(&gate), Arc::clone(&nodes), doorbell.rung(), head);
        follower.catch_up_to_head().await.map_err(|error| failed("the log", &error))?;
        let (stop_sequencer, stopped) = oneshot::channel();
        let sequencer = tokio::spawn(sequencer.run(stopped));
        let mut followers = JoinSet::new();
        followers.spawn(follower.run());
        followers.spawn(Arc::clone(&nodes).run(doorbell.rung()));
        followers.spawn(doorbell.clone().run());
        Ok(Self { log, gate, doorbell, nodes, head: known_head, stop_sequencer, sequencer, followers })
    }
}

/// Returns the work of the log other than appending: derive what gates requests, tell this node, tell the others.
fn hooks(gate: &Arc<Gate>, doorbell: &Doorbell, head: &watch::Sender<u64>) -> LogHooks {
    let (gate, doorbell, head) = (Arc::clone(gate), doorbell.clone(), head.clone());
    LogHooks {
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
