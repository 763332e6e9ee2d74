//! Logging in, from the outside: what is refused and how, what is counted, what a token is worth, and what is left
//! of a person in the database.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]

mod lockout;
mod origin;
mod passwords;
mod privacy;
mod refresh;
mod roles;
mod step_up;
mod tokens;
mod uniform;

use fulexo_tests::{Answer, Client, Database, Node};
use serde_json::{Value, json};
use sqlx::PgPool;

/// Tries to log in.
async fn log_in(client: &Client, email: &str, password: &str) -> Answer {
    client.post("/v1/auth/login", json!({"email": email, "password": password})).await
}

/// How many events the log holds.
async fn log_size(node: &Node) -> u64 {
    node.app().commands.log().size().await.unwrap()
}

/// The database as nobody should see it.
async fn superuser(database: &Database) -> PgPool {
    PgPool::connect(&database.superuser_url()).await.unwrap()
}

/// Every event of the log, in order.
async fn leaves(database: &Database) -> Vec<Value> {
    let leaves: Vec<Vec<u8>> = sqlx::query_scalar("select leaf from log.event order by position")
        .fetch_all(&superuser(database).await)
        .await
        .unwrap();
    leaves.iter().map(|leaf| serde_json::from_slice(leaf).unwrap()).collect()
}
