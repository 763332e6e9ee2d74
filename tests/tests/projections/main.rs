//! What readers see, and what gates a request, is derived from the log: again with the same result, and not at all
//! past an event that cannot be applied.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]

mod behind;
mod cut_off;
mod gate;
mod metrics;
mod poison;
mod rebuilt;
mod replayed;
mod versions;

use fulexo_domain::event::{Actor, Event, Stream};
use fulexo_domain::leaf::{Draft, Prepared};
use fulexo_projections::projection::Projection;
use fulexo_projections::rebuild::{Options, RebuildError, Rebuilt, rebuild};
use fulexo_tests::{Client, Database, Node, eventually, log_size, operator};
use hyper::Method;
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

async fn superuser(database: &Database) -> PgConnection {
    PgConnection::connect(&database.superuser_url()).await.unwrap()
}

/// Until every view has seen everything that the log holds now.
async fn caught_up(node: &Node, reader: &Client) {
    let reader = reader.seeing(log_size(node).await - 1);
    for path in ["/v1/accounts", "/v1/sessions", "/v1/grants", "/v1/security/metrics", "/v1/audit/events"] {
        let answer = reader.get(path).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
}

/// Rebuilds one view, as this program.
async fn rebuilt(database: &Database, projection: Projection) -> Result<Rebuilt, RebuildError> {
    let options = Options { program: "the tests".to_owned(), restart: false };
    let mut outcomes = rebuild(&database.pool().await, &[projection], &options, |_, _| {}).await?;
    outcomes.pop().unwrap().1
}

/// Takes the role away that the path names.
async fn revoke(admin: &Client, path: &str) -> u16 {
    let reason = json!({"reason": "r"}).to_string();
    admin.send(Method::DELETE, path, Some("application/json"), &reason).await.status
}

/// A draft of an event about a stream of its own.
fn draft(event: impl Into<Event>, stream: Uuid) -> Prepared {
    let (event, id) = (event.into(), operator().new_id());
    let draft = Draft {
        id,
        stream: Stream { category: event.category(), id: stream },
        subject: Some(stream),
        actor: Actor::System,
        correlation: id,
        causation: None,
        policy_version: 1,
        event,
        sealed: Vec::new(),
    };
    draft.prepare().unwrap()
}

/// What a node says of its health, being ready.
async fn health(node: &Node) -> Value {
    let answer = node.anonymous().get("/health/ready").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json
}
