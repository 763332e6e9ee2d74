//! Liveness, readiness and metrics of a node.

use std::time::Duration;

use chrono::TimeDelta;
use fulexo_commands::log::relay::RelayState;
use fulexo_node::caller::app;
use fulexo_node::checkpoints::CheckpointState;
use fulexo_node::clock;
use fulexo_node::cosigning::CosigningState;
use fulexo_node::http::Problem;
use fulexo_node::http::problem::Code;
use fulexo_node::keys::KeyAge;
use fulexo_node::state::App;
use fulexo_node::timestamp::Timestamp;
use fulexo_projections::nodes::NodeStatus;
use fulexo_projections::read_models::Projection;
use fulexo_projections::tree::{TreeState, WitnessStatus};
use poem::Request;
use poem_openapi::payload::{Json, PlainText};
use poem_openapi::{ApiResponse, Enum, Object, OpenApi};

use super::metrics::{NodeMetrics, exposition};
use super::tag::Tag;

pub struct Health;

/// The time after which events that wait for a checkpoint are late: one is due each second.
const PATIENCE: TimeDelta = TimeDelta::seconds(10);

/// The liveness of a node.
#[derive(Object)]
struct Liveness {
    status: HealthStatus,
}

/// The state of a component: `ok`, `degraded` (works, but more slowly or with a lag), `failed`, or `off` (not configured).
#[derive(Enum, Clone, Copy, PartialEq, Eq)]
#[oai(rename_all = "snake_case")]
enum HealthStatus {
    /// The component works.
    Ok,
    /// The component works, but more slowly or with a lag.
    Degraded,
    /// The component does not work.
    Failed,
    /// The component is not configured.
    Off,
}

/// The readiness of a node.
#[derive(Object)]
struct Readiness {
    status: HealthStatus,
    dependencies: Vec<Dependency>,
    /// The number of events in the log.
    log_size: u64,
    projections: Vec<ProjectionHealth>,
    gate: GateHealth,
    /// The relay, which copies the log to NATS. Absent if it is not configured.
    #[oai(skip_serializing_if_is_none)]
    relay: Option<RelayHealth>,
    tree: TreeHealth,
    checkpoint: CheckpointHealth,
    /// The state of the cosignatures of witnesses. Absent if no witnesses are asked.
    #[oai(skip_serializing_if_is_none)]
    anchor: Option<AnchorHealth>,
    /// The keys in use, as far as their lives are recorded. A key that is due for replacement changes no status.
    keys: Vec<KeyHealth>,
    /// The last backups, as far as the log records them. Their age changes no status.
    backups: BackupHealth,
    /// The nodes of this database. A node that is not `ok` has stopped, or makes no decisions from memory.
    nodes: Vec<NodeHealth>,
}

/// The state of the relay.
#[derive(Object)]
struct RelayHealth {
    status: HealthStatus,
    /// `true` if this node runs the relay. One node does at a time, and only this node reports `position` and `lag`.
    here: bool,
    /// The name of the stream in JetStream.
    stream: Option<String>,
    /// The number of copied events. Every event below this position is in JetStream.
    position: Option<u64>,
    /// The number of events that are not copied yet.
    lag: Option<u64>,
    /// `true` if an error interrupts the relay, which keeps trying. The node's log has the cause.
    stopped: bool,
}

impl RelayHealth {
    fn of(state: &RelayState, size: u64) -> Self {
        let stopped = state.stopped_because.is_some();
        let position = state.is_here.then_some(state.position);
        Self {
            status: if stopped { HealthStatus::Degraded } else { HealthStatus::Ok },
            here: state.is_here,
            stream: state.stream.clone(),
            position,
            lag: position.map(|position| size.saturating_sub(position)),
            stopped,
        }
    }
}

/// The state of the tree over the log.
#[derive(Object)]
struct TreeHealth {
    status: HealthStatus,
    /// The number of events in the tree.
    size: u64,
    /// The number of events that are not in the tree yet.
    lag: u64,
    /// `true` if the tree has stopped at an event that is missing, or does not have the hash on record. The node's log has the
    /// cause.
    stopped: bool,
}

impl TreeHealth {
    fn of(state: &TreeState, size: u64) -> Self {
        let stopped = state.stopped_because.is_some();
        Self {
            status: if stopped { HealthStatus::Failed } else { HealthStatus::Ok },
            size: state.size,
            lag: size.saturating_sub(state.size),
            stopped,
        }
    }
}

/// The state of the published checkpoint.
#[derive(Object)]
struct CheckpointHealth {
    /// `off` if no checkpoint was ever signed; `degraded` if there is no newer one although events wait for it.
    status: HealthStatus,
    /// The number of events that it covers.
    size: u64,
    /// The number of events that no checkpoint covers yet.
    lag: u64,
    /// The time at which it was published. `null` if no checkpoint was ever signed.
    published_at: Option<Timestamp>,
    /// `true` if the signer refuses the tree as it is: events that it has signed are missing, or others than they were. The
    /// node's log has the cause.
    refused: bool,
}

impl CheckpointHealth {
    fn of(state: &CheckpointState, size: u64) -> Self {
        let CheckpointState { published, waiting_since } = state;
        let refused = published.refused_because.is_some();
        let is_late = waiting_since.is_some_and(|since| clock::now() - since > PATIENCE);
        Self {
            status: match (refused, published.published_at) {
                (true, _) => HealthStatus::Failed,
                (false, Some(_)) if is_late => HealthStatus::Degraded,
                (false, Some(_)) => HealthStatus::Ok,
                (false, None) => HealthStatus::Off,
            },
            size: published.size,
            lag: size.saturating_sub(published.size),
            published_at: published.published_at.map(Timestamp::from),
            refused,
        }
    }
}

/// The state of the newest checkpoint that enough witnesses have cosigned.
#[derive(Object)]
struct AnchorHealth {
    /// `degraded` if too few witnesses have cosigned a newer checkpoint in time; `failed` if a witness contradicts the log.
    status: HealthStatus,
    /// The number of events that it covers.
    size: u64,
    /// The number of events that it does not cover yet.
    lag: u64,
    /// The time at which enough witnesses had cosigned it. `null` before the first one.
    anchored_at: Option<Timestamp>,
    /// The witnesses of the policy, in its order.
    witnesses: Vec<WitnessHealth>,
}

/// The state of a witness.
#[derive(Object)]
struct WitnessHealth {
    /// The name in the policy.
    name: String,
    /// `degraded` if it did not cosign when it was asked last; the node's log has the cause. `failed` if it has cosigned a larger
    /// tree than there is now, or another one: the log was rolled back or rewritten. `off` if it was not asked yet.
    status: HealthStatus,
    /// The number of events that the checkpoint covers that it cosigned last.
    size: u64,
    /// The time of its last cosignature. `null` before the first one.
    cosigned_at: Option<Timestamp>,
}

impl AnchorHealth {
    fn of(state: &CosigningState, size: u64) -> Self {
        let witnesses: Vec<_> = state.witnesses.iter().map(WitnessHealth::of).collect();
        let patience = PATIENCE + TimeDelta::from_std(state.interval).unwrap_or_default();
        let is_late = state.waiting_since.is_some_and(|since| clock::now() - since > patience);
        let is_contradicted = witnesses.iter().any(|witness| witness.status == HealthStatus::Failed);
        let covered = state.anchored.as_ref().map_or(0, |anchored| anchored.size);
        Self {
            status: match (is_contradicted, is_late) {
                (true, _) => HealthStatus::Failed,
                (false, true) => HealthStatus::Degraded,
                (false, false) => HealthStatus::Ok,
            },
            size: covered,
            lag: size.saturating_sub(covered),
            anchored_at: state.anchored.as_ref().map(|anchored| anchored.anchored_at.into()),
            witnesses,
        }
    }
}

impl WitnessHealth {
    fn of(witness: &WitnessStatus) -> Self {
        Self {
            name: witness.name.clone(),
            status: match (witness.is_contradiction, &witness.failure, witness.cosigned_at) {
                (true, ..) => HealthStatus::Failed,
                (false, Some(_), _) => HealthStatus::Degraded,
                (false, None, Some(_)) => HealthStatus::Ok,
                (false, None, None) => HealthStatus::Off,
            },
            size: witness.size,
            cosigned_at: witness.cosigned_at.map(Timestamp::from),
        }
    }
}

/// The last backups. Both times are `null` if there is none, or if it was not recorded.
#[derive(Object)]
struct BackupHealth {
    /// The time at which the last backup was recorded.
    taken_at: Option<Timestamp>,
    /// The time at which a backup was last restored and verified without findings.
    verified_at: Option<Timestamp>,
}

/// A key in use. The key itself is nowhere in an answer.
#[derive(Object)]
struct KeyHealth {
    /// The purpose: `encryption` wraps the keys of the vault, `signing` signs access tokens, `log` signs the log's checkpoints.
    kind: String,
    /// The number of seconds since it came into use.
    age: u64,
    /// `true` if it has been in use for longer than an epoch: rotate it.
    due: bool,
    /// The number of replaced keys of this purpose that are not destroyed yet.
    leaving: u64,
}

impl KeyHealth {
    fn of(age: KeyAge) -> Self {
        let KeyAge { kind, age, is_due, leaving } = age;
        Self { kind: kind.as_str().to_owned(), age, due: is_due, leaving }
    }
}

/// The state of a node.
#[derive(Object)]
struct NodeHealth {
    name: String,
    status: HealthStatus,
}

/// The state of a dependency.
#[derive(Object)]
struct Dependency {
    name: String,
    status: HealthStatus,
}

/// The state of a read model.
#[derive(Object)]
struct ProjectionHealth {
    name: String,
    status: HealthStatus,
    /// The live version of the read model. Each rebuild creates a new version.
    version: u32,
    /// The node that applied the last batch. `null` before the first batch.
    owner: Option<String>,
    /// The checkpoint. Every event below this position is visible.
    position: u64,
    /// The number of events that are not visible yet.
    lag: u64,
    /// `true` if the projection has stopped at an event that it cannot apply. The node's log has the cause.
    stopped: bool,
}

/// The gate, which authorises the requests of this node from memory.
#[derive(Object)]
struct GateHealth {
    status: HealthStatus,
    /// The number of applied events. Every event below this position is applied.
    applied: u64,
    /// The number of events that are not applied yet.
    lag: u64,
    /// `true` if this node cannot follow the log: its lease has expired, and each request asks the database. The node's log
    /// has the cause.
    stopped: bool,
}

#[derive(ApiResponse)]
enum MetricsResponse {
    /// The metrics, in Prometheus' text format.
    #[oai(status = 200, content_type = "text/plain; version=0.0.4; charset=utf-8")]
    Ok(PlainText<String>),
}

impl NodeHealth {
    fn of(node: NodeStatus) -> Self {
        let status = if node.is_up { HealthStatus::Ok } else { HealthStatus::Degraded };
        Self { name: node.name.to_string(), status }
    }
}

/// # Errors
/// 503 if the log was replaced while this node ran.
pub fn unless_replaced(app: &App) -> Result<(), Problem> {
    if !app.gate.is_replaced() {
        return Ok(());
    }
    let detail = "The log was replaced while this node ran, for example by a restore from a backup. Restart the node.";
    Err(Problem::unavailable(Duration::from_secs(5)).with_code(Code::LOG_REPLACED).with_detail(detail))
}

#[OpenApi(tag = "Tag::Service")]
impl Health {
    /// Check liveness
    ///
    /// Returns 200 while the process runs. Checks no dependency: a node that is not ready is alive.
    #[oai(path = "/health/live", method = "get", operation_id = "get_liveness")]
    async fn live(&self) -> Result<Json<Liveness>, Problem> {
        Ok(Json(Liveness { status: HealthStatus::Ok }))
    }

    /// Check readiness
    ///
    /// Returns the state of each dependency, of each read model with its lag, of the gate, the relay, the
    /// tree, its checkpoint, the witnesses, the keys and the nodes.
    ///
    /// Answers 503 if this node cannot serve requests.
    #[oai(path = "/health/ready", method = "get", operation_id = "get_readiness")]
    async fn ready(&self, request: &Request) -> Result<Json<Readiness>, Problem> {
        let app = app(request)?;
        let Some(answer) = app.log_size.answer().await else {
            return Err(Problem::unavailable(Duration::from_secs(1)).with_detail("PostgreSQL does not respond."));
        };
        let (size, backups) = (answer.size, answer.backups.unwrap_or_default());
        // This node may have appended events since the last look.
        let size = size.max(*app.head.borrow());
        unless_replaced(app)?;
        // The service works without NATS: nodes then poll for new events.
        let nats = match app.doorbell.is_connected() {
            None => HealthStatus::Off,
            Some(true) => HealthStatus::Ok,
            Some(false) => HealthStatus::Degraded,
        };
        let projections: Vec<_> = Projection::ALL
            .into_iter()
            .map(|projection| {
                let state = app.progress.of(projection);
                let stopped = state.stopped_because.is_some();
                ProjectionHealth {
                    name: projection.as_str().to_owned(),
                    status: if stopped { HealthStatus::Failed } else { HealthStatus::Ok },
                    version: state.version,
                    owner: state.owner,
                    position: state.position,
                    lag: size.saturating_sub(state.position),
                    stopped,
                }
            })
            .collect();
        let applied = app.gate.applied();
        let gate_stopped = !app.gate.holds_lease();
        let gate = GateHealth {
            status: if gate_stopped { HealthStatus::Degraded } else { HealthStatus::Ok },
            applied,
            lag: size.saturating_sub(applied),
            stopped: gate_stopped,
        };
        let views_stopped = projections.iter().any(|projection| projection.stopped);
        let relay = app.relay.as_ref().map(|state| RelayHealth::of(&state.borrow(), size));
        let relay_stopped = relay.as_ref().is_some_and(|relay| relay.stopped);
        let tree = TreeHealth::of(&app.tree.borrow(), size);
        let checkpoint = CheckpointHealth::of(&app.checkpoint.borrow(), size);
        let anchor = app.cosigning.as_ref().map(|state| AnchorHealth::of(&state.borrow(), size));
        let is_late = |status: HealthStatus| [HealthStatus::Failed, HealthStatus::Degraded].contains(&status);
        let trail_stopped =
            tree.stopped || is_late(checkpoint.status) || anchor.as_ref().is_some_and(|anchor| is_late(anchor.status));
        let is_degraded =
            trail_stopped || nats == HealthStatus::Degraded || views_stopped || gate_stopped || relay_stopped;
        let dependency = |name: &str, status| Dependency { name: name.to_owned(), status };
        Ok(Json(Readiness {
            status: if is_degraded { HealthStatus::Degraded } else { HealthStatus::Ok },
            dependencies: vec![dependency("postgres", HealthStatus::Ok), dependency("nats", nats)],
            log_size: size,
            projections,
            gate,
            relay,
            tree,
            checkpoint,
            anchor,
            keys: app.keys.ages().into_iter().map(KeyHealth::of).collect(),
            backups: BackupHealth {
                taken_at: backups.taken.map(Timestamp::from),
                verified_at: backups.verified.map(Timestamp::from),
            },
            nodes: app.nodes.list().into_iter().map(NodeHealth::of).collect(),
        }))
    }

    /// Get node metrics for Prometheus
    ///
    /// Returns this node's metrics in Prometheus' text format: the size of the log, the position, lag and version of each read
    /// model, the gate, the relay, the tree, its checkpoint, the witnesses, the ages of keys and the times of backups.
    #[oai(path = "/metrics", method = "get", operation_id = "get_metrics")]
    async fn metrics(&self, request: &Request) -> Result<MetricsResponse, Problem> {
        let app = app(request)?;
        let (answer, head) = (app.log_size.answer().await, *app.head.borrow());
        let size = answer.map(|answer| answer.size);
        let metrics = NodeMetrics {
            log_size: size.map(|size| size.max(head)),
            head,
            nats: app.doorbell.is_connected(),
            projections: Projection::ALL.map(|projection| (projection, app.progress.of(projection))).to_vec(),
            gate_applied: app.gate.applied(),
            gate_holds_lease: app.gate.holds_lease(),
            relay: app.relay.as_ref().map(|state| state.borrow().clone()),
            tree: app.tree.borrow().clone(),
            checkpoint: app.checkpoint.borrow().published.clone(),
            cosigning: app.cosigning.as_ref().map(|state| state.borrow().clone()),
            streams: app.streams.places.taken() as u64,
            streamed_events: app.streams.sent(),
            feed: app.feed.as_ref().map(|feed| feed.counts()),
            keys: app.keys.ages(),
            backups: answer.and_then(|answer| answer.backups),
        };
        Ok(MetricsResponse::Ok(PlainText(exposition(&metrics))))
    }
}
