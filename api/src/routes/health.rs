//! Whether the service works, and the public halves of its keys.

use std::time::Duration;

use fulexo_projections::projection::Projection;
use poem::Request;
use poem_openapi::payload::Json;
use poem_openapi::{ApiResponse, Enum, Object, OpenApi};
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
    log_size: Option<u64>,
    projections: Vec<ProjectionHealth>,
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

#[derive(ApiResponse)]
enum ReadinessAnswer {
    /// Requests are served.
    #[oai(status = 200)]
    Ready(Json<Readiness>),
    /// They are not.
    #[oai(status = 503)]
    NotReady(Json<Readiness>),
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

#[OpenApi(tag = "Tag::Service")]
impl Health {
    /// The process runs.
    #[oai(path = "/health/live", method = "get", operation_id = "get_liveness")]
    async fn live(&self) -> Result<Json<Alive>, Problem> {
        Ok(Json(Alive { status: Status::Ok }))
    }

    /// Requests can be served: each dependency, and each read model with its lag.
    #[oai(path = "/health/ready", method = "get", operation_id = "get_readiness")]
    async fn ready(&self, request: &Request) -> Result<ReadinessAnswer, Problem> {
        let app = app(request)?;
        let size = timeout(Duration::from_secs(2), log_size(&app.pool)).await.ok().and_then(Result::ok);
        let postgres = if size.is_some() { Status::Ok } else { Status::Failed };
        // The service works without NATS; nodes then look for news instead of being told.
        let nats = match app.doorbell.is_connected() {
            None => Status::Off,
            Some(true) => Status::Ok,
            Some(false) => Status::Degraded,
        };
        let end = size.unwrap_or_else(|| *app.head.borrow());
        let projections: Vec<_> = Projection::ALL
            .into_iter()
            .map(|projection| {
                let state = app.progress.of(projection);
                let stopped = state.stopped_because.is_some();
                ProjectionHealth {
                    name: projection.as_str().to_owned(),
                    status: if stopped { Status::Failed } else { Status::Ok },
                    position: state.position,
                    lag: end.saturating_sub(state.position),
                    stopped,
                }
            })
            .collect();
        let is_degraded = nats == Status::Degraded || projections.iter().any(|projection| projection.stopped);
        let status = match (postgres, is_degraded) {
            (Status::Failed, _) => Status::Failed,
            (_, true) => Status::Degraded,
            (_, false) => Status::Ok,
        };
        let dependency = |name: &str, status| Dependency { name: name.to_owned(), status };
        let readiness = Json(Readiness {
            status,
            dependencies: vec![dependency("postgres", postgres), dependency("nats", nats)],
            log_size: size,
            projections,
        });
        Ok(if status == Status::Failed {
            ReadinessAnswer::NotReady(readiness)
        } else {
            ReadinessAnswer::Ready(readiness)
        })
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
