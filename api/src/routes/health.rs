//! Whether the service works, and its figures.

use std::time::Duration;

use fulexo_commands::log::relay::RelayState;
use fulexo_node::caller::app;
use fulexo_node::http::Problem;
use fulexo_node::http::problem::Code;
use fulexo_projections::nodes::NodeStatus;
use fulexo_projections::read_models::Projection;
use poem::Request;
use poem_openapi::payload::{Json, PlainText};
use poem_openapi::{ApiResponse, Enum, Object, OpenApi};

use super::metrics::{Figures, exposition};
use super::tag::Tag;

pub struct Health;

#[derive(Object)]
struct Alive {
    status: Status,
}

#[derive(Enum, Clone, Copy, PartialEq, Eq)]
#[oai(rename_all = "snake_case")]
enum Status {
    /// It works.
    Ok,
    /// It works with less: slower, or behind.
    Degraded,
    /// It does not work.
    Failed,
    /// It is not configured.
    Off,
}

#[derive(Object)]
struct Readiness {
    status: Status,
    dependencies: Vec<Dependency>,
    /// The number of events in the log.
    log_size: u64,
    projections: Vec<ProjectionHealth>,
    gate: GateHealth,
    /// The copy of the log in NATS, where one is kept.
    relay: Option<RelayHealth>,
    /// The nodes on this database; one that is not `ok` judges nothing from memory, or is gone.
    nodes: Vec<NodeHealth>,
}

#[derive(Object)]
struct RelayHealth {
    status: Status,
    /// Whether it is this node that copies. One does at a time, and it alone says how far: what others know of it is late.
    here: bool,
    /// The stream in JetStream.
    stream: Option<String>,
    /// Every position below it is copied.
    position: Option<u64>,
    /// Events in the log that are not copied yet.
    lag: Option<u64>,
    /// Whether something keeps it from going on; the reason is in the service's log. It is tried again.
    stopped: bool,
}

impl RelayHealth {
    fn of(state: &RelayState, size: u64) -> Self {
        let stopped = state.stopped_because.is_some();
        let position = state.is_here.then_some(state.position);
        Self {
            status: if stopped { Status::Degraded } else { Status::Ok },
            here: state.is_here,
            stream: state.stream.clone(),
            position,
            lag: position.map(|position| size.saturating_sub(position)),
            stopped,
        }
    }
}

#[derive(Object)]
struct NodeHealth {
    name: String,
    status: Status,
}

#[derive(Object)]
struct Dependency {
    name: String,
    status: Status,
}

#[derive(Object)]
struct ProjectionHealth {
    name: String,
    status: Status,
    /// Which version of the read model is live: each rebuild makes another one.
    version: u32,
    /// The node that applied the last batch; null before the first.
    owner: Option<String>,
    /// Every position below it is visible.
    position: u64,
    /// Events in the log that are not visible yet.
    lag: u64,
    /// Whether an event that it cannot apply has stopped it; the reason is in the service's log.
    stopped: bool,
}

/// What judges requests on this node.
#[derive(Object)]
struct GateHealth {
    status: Status,
    /// Every position below it is known to it.
    applied: u64,
    /// Events in the log that are not known to it yet.
    lag: u64,
    /// Whether this node cannot follow the log: its lease has run out, and each request is judged by the database. The
    /// reason is in the service's log.
    stopped: bool,
}

#[derive(ApiResponse)]
enum Scraped {
    /// Prometheus text format.
    #[oai(status = 200, content_type = "text/plain; version=0.0.4; charset=utf-8")]
    Ok(PlainText<String>),
}

impl NodeHealth {
    fn of(node: NodeStatus) -> Self {
        let status = if node.is_up { Status::Ok } else { Status::Degraded };
        Self { name: node.name.to_string(), status }
    }
}

#[OpenApi(tag = "Tag::Service")]
impl Health {
    /// Check that the process runs
    ///
    /// Asks nothing else: a node that is not ready is alive.
    #[oai(path = "/health/live", method = "get", operation_id = "get_liveness")]
    async fn live(&self) -> Result<Json<Alive>, Problem> {
        Ok(Json(Alive { status: Status::Ok }))
    }

    /// Check that requests can be served
    ///
    /// Names each dependency, and each read model with its lag. 503 when they cannot.
    #[oai(path = "/health/ready", method = "get", operation_id = "get_readiness")]
    async fn ready(&self, request: &Request) -> Result<Json<Readiness>, Problem> {
        let app = app(request)?;
        let Some(size) = app.log_size.get().await else {
            return Err(Problem::unavailable(Duration::from_secs(1)).with_detail("Postgres does not answer."));
        };
        // What this node has appended since it knows.
        let size = size.max(*app.head.borrow());
        if app.gate.is_replaced() {
            let detail = "The log was replaced by another history under this node: restart it.";
            return Err(Problem::unavailable(Duration::from_secs(5)).with_code(Code::LOG_REPLACED).with_detail(detail));
        }
        // The service works without NATS; nodes then look for news instead of being told.
        let nats = match app.doorbell.is_connected() {
            None => Status::Off,
            Some(true) => Status::Ok,
            Some(false) => Status::Degraded,
        };
        let projections: Vec<_> = Projection::ALL
            .into_iter()
            .map(|projection| {
                let state = app.progress.of(projection);
                let stopped = state.stopped_because.is_some();
                ProjectionHealth {
                    name: projection.as_str().to_owned(),
                    status: if stopped { Status::Failed } else { Status::Ok },
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
            status: if gate_stopped { Status::Degraded } else { Status::Ok },
            applied,
            lag: size.saturating_sub(applied),
            stopped: gate_stopped,
        };
        let views_stopped = projections.iter().any(|projection| projection.stopped);
        let relay = app.relay.as_ref().map(|state| RelayHealth::of(&state.borrow(), size));
        let relay_stopped = relay.as_ref().is_some_and(|relay| relay.stopped);
        let is_degraded = nats == Status::Degraded || views_stopped || gate_stopped || relay_stopped;
        let dependency = |name: &str, status| Dependency { name: name.to_owned(), status };
        Ok(Json(Readiness {
            status: if is_degraded { Status::Degraded } else { Status::Ok },
            dependencies: vec![dependency("postgres", Status::Ok), dependency("nats", nats)],
            log_size: size,
            projections,
            gate,
            relay,
            nodes: app.nodes.list().into_iter().map(NodeHealth::of).collect(),
        }))
    }

    /// Get this node's figures for Prometheus
    ///
    /// The log's size, each read model's position, lag and version, the gate, in Prometheus' text format.
    #[oai(path = "/metrics", method = "get", operation_id = "get_metrics")]
    async fn metrics(&self, request: &Request) -> Result<Scraped, Problem> {
        let app = app(request)?;
        let (size, head) = (app.log_size.get().await, *app.head.borrow());
        let figures = Figures {
            log_size: size.map(|size| size.max(head)),
            head,
            nats: app.doorbell.is_connected(),
            projections: Projection::ALL.map(|projection| (projection, app.progress.of(projection))).to_vec(),
            gate_applied: app.gate.applied(),
            gate_holds_lease: app.gate.holds_lease(),
            relay: app.relay.as_ref().map(|state| state.borrow().clone()),
            feed: app.feed.as_ref().map(|feed| feed.counts()),
        };
        Ok(Scraped::Ok(PlainText(exposition(&figures))))
    }
}
