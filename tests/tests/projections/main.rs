//! The views of readers, and the gate of requests, are derived from the log: every time with the same result, and not
//! at all past an event that cannot be applied.

#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]

mod behind;
mod counts;
mod cut_off;
mod gate;
mod judged;
mod metrics;
mod plans;
mod poison;
mod rebuilt;
mod replayed;
mod tree;
mod versions;

use fulexo_projections::read_models::Projection;
use fulexo_projections::rebuild::{RebuildError, RebuildOptions, RebuildReport, rebuild};
use fulexo_tests::{Client, Database, Node, caught_up, eventually, log_size};
use hyper::Method;
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};

async fn superuser(database: &Database) -> PgConnection {
    PgConnection::connect(&database.superuser_url()).await.unwrap()
}

/// Rebuilds one view, as this program.
async fn rebuilt(database: &Database, projection: Projection) -> Result<RebuildReport, RebuildError> {
    let options = RebuildOptions { program: "the tests".to_owned(), restart: false };
    let mut outcomes = rebuild(&database.pool().await, &[projection], &options, |_, _| {}).await?;
    outcomes.pop().unwrap().1
}

/// Revokes the role that the path names.
async fn revoke(admin: &Client, path: &str) -> u16 {
    let reason = json!({"reason": "r"}).to_string();
    admin.send(Method::DELETE, path, Some("application/json"), &reason).await.status
}

/// Returns a node's health; the node must be ready.
async fn health(node: &Node) -> Value {
    let answer = node.anonymous().get("/health/ready").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json
}
