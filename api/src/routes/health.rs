//! Whether the service works, and the public halves of its keys.

use std::time::Duration;

use fulexo_projections::nodes::NodeStatus;
use fulexo_projections::projection::Projection;
use poem::Request;
use poem_openapi::payload::Json;
use poem_openapi::{Enum, Object, OpenApi};
use tokio::time::timeout;

use super::Tag;
use crate::app::log_size;
use crate::caller::app;
use crate::http::Problem;

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
    /// The nodes on this database; one that is not `ok` judges nothing from memory, or is gone.
    nodes: Vec<NodeHealth>,
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
    /// Every position below it is visible.
    position: u64,
    /// Events in the log that are not visible yet.
    lag: u64,
    /// Whether an event that it cannot apply has stopped it; the reason is in the service's log.
    stopped: bool,
}

#[derive(Object)]
struct KeySet {
    keys: Vec<PublicKey>,
}

/// RFC 7517, section 4.
#[derive(Object)]
struct PublicKey {
    kty: String,
    #[oai(rename = "use")]
    usage: String,
    alg: String,
    kid: String,
    n: String,
    e: String,
}

impl NodeHealth {
    fn of(node: NodeStatus) -> Self {
        let status = if node.is_up { Status::Ok } else { Status::Degraded };
        Self { name: node.name.to_string(), status }
    }
}

#[OpenApi(tag = "Tag::Service")]
impl Health {
    /// The process runs.
    #[oai(path = "/health/live", method = "get", operation_id = "get_liveness")]
    async fn live(&self) -> Result<Json<Alive>, Problem> {
        Ok(Json(Alive { status: Status::Ok }))
    }

    /// Requests can be served: each dependency, and each read model with its lag. 503 when they cannot.
    #[oai(path = "/health/ready", method = "get", operation_id = "get_readiness")]
    async fn ready(&self, request: &Request) -> Result<Json<Readiness>, Problem> {
        let app = app(request)?;
        let Ok(Ok(size)) = timeout(Duration::from_secs(2), log_size(&app.pool)).await else {
            return Err(Problem::unavailable(Duration::from_secs(1)).with_detail("Postgres does not answer."));
        };
        if app.gate.is_replaced() {
            let detail = "The log was replaced by another history under this node: restart it.";
            return Err(Problem::unavailable(Duration::from_secs(5)).with_code("log_replaced").with_detail(detail));
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
                    position: state.position,
                    lag: size.saturating_sub(state.position),
                    stopped,
                }
            })
            .collect();
        let is_degraded = nats == Status::Degraded || projections.iter().any(|projection| projection.stopped);
        let dependency = |name: &str, status| Dependency { name: name.to_owned(), status };
        Ok(Json(Readiness {
            status: if is_degraded { Status::Degraded } else { Status::Ok },
            dependencies: vec![dependency("postgres", Status::Ok), dependency("nats", nats)],
            log_size: size,
            projections,
            nodes: app.nodes.list().into_iter().map(NodeHealth::of).collect(),
        }))
    }

    /// The public keys of access tokens (RFC 7517); empty where tokens are signed with HS256.
    #[oai(path = "/.well-known/jwks.json", method = "get", operation_id = "get_jwks")]
    async fn jwks(&self, request: &Request) -> Result<Json<KeySet>, Problem> {
        let keys = app(request)?.commands.keys().jwks().into_iter().map(|key| PublicKey {
            kty: key.kty.to_owned(),
            usage: key.r#use.to_owned(),
            alg: key.alg.to_owned(),
            kid: key.kid,
            n: key.n,
            e: key.e,
        });
        Ok(Json(KeySet { keys: keys.collect() }))
    }
}
