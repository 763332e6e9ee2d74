//! Observations past the API: of the log, of the tables, and repeated until a condition holds.

use std::time::Duration;

use serde_json::Value;
use sqlx::{AssertSqlSafe, PgPool};
use tokio::time::{sleep, timeout};

use crate::client::Client;
use crate::cluster::Database;
use crate::node::Node;

/// Returns the number of events in the log.
pub async fn log_size(node: &Node) -> u64 {
    node.app().commands.log().size().await.unwrap()
}

/// Returns a pool of the superuser, which sees what no program should see.
pub async fn superuser(database: &Database) -> PgPool {
    PgPool::connect(&database.superuser_url()).await.unwrap()
}

/// Waits until a checkpoint covers the whole log; returns it, and the public key of the log.
pub async fn signed(database: &Database) -> (String, String) {
    let pool = superuser(database).await;
    eventually("the log is signed", async || {
        let signed = "select c.size = h.position from tree.checkpoint c, log.head h";
        sqlx::query_scalar(signed).fetch_one(&pool).await.unwrap()
    })
    .await;
    let signed = sqlx::query_as("select note, vkey from tree.checkpoint").fetch_one(&pool).await.unwrap();
    pool.close().await;
    signed
}

/// Returns every event of the log, in order.
pub async fn leaves(database: &Database) -> Vec<Value> {
    let leaves: Vec<Vec<u8>> = sqlx::query_scalar("select leaf from log.event order by position")
        .fetch_all(&superuser(database).await)
        .await
        .unwrap();
    leaves.iter().map(|leaf| serde_json::from_slice(leaf).unwrap()).collect()
}

/// Looks repeatedly, for at most two minutes: another node takes a while to act, a cluster elects its leader, and a
/// view that stopped tries again after at most ten seconds.
pub async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let looking = async {
        while !holds().await {
            sleep(Duration::from_millis(20)).await;
        }
    };
    assert!(timeout(Duration::from_secs(120), looking).await.is_ok(), "never: {what}");
}

/// Waits until every view that this reader may see has seen everything that the log holds now.
pub async fn caught_up(node: &Node, reader: &Client) {
    let reader = reader.seeing(log_size(node).await - 1);
    for path in ["/v1/accounts", "/v1/sessions", "/v1/grants", "/v1/security/metrics", "/v1/audit/events"] {
        let answer = reader.get(path).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
}

/// Returns the same caller at another node.
#[must_use]
pub fn there(node: &Node, client: &Client) -> Client {
    Client { url: node.url.clone(), ..client.clone() }
}

/// All values in a column, as bytes: text as text, `bytea` as it is.
pub struct Column {
    /// `schema.table.column`.
    pub name: String,
    /// The values that are not null.
    pub values: Vec<Vec<u8>>,
}

/// Returns every column of every table of ours.
pub async fn columns(pool: &PgPool) -> Vec<Column> {
    let names: Vec<(String, String, String, String)> = sqlx::query_as(
        "select table_schema::text, table_name::text, column_name::text, data_type::text
         from information_schema.columns where table_schema not in ('pg_catalog', 'information_schema')",
    )
    .fetch_all(pool)
    .await
    .unwrap();
    let mut columns = Vec::new();
    for (schema, table, column, data_type) in names {
        let value = if data_type == "bytea" {
            format!("\"{column}\"")
        } else {
            format!("convert_to(\"{column}\"::text, 'UTF8')")
        };
        let statement = format!("select {value} from \"{schema}\".\"{table}\" where \"{column}\" is not null");
        let values = sqlx::query_scalar(AssertSqlSafe(statement)).fetch_all(pool).await.unwrap();
        columns.push(Column { name: format!("{schema}.{table}.{column}"), values });
    }
    columns
}
