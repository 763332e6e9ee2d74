//! Restores: over newer events, after an erasure, with and without copies of the log, interrupted.

mod erasures;
mod interrupted;
mod lost;
mod point_in_time;
mod signer;

use std::collections::BTreeMap;
use std::sync::Arc;

use fulexo_tests::{Database, Node, Program, superuser};
use serde_json::Value;
use sqlx::{AssertSqlSafe, PgPool};
use tokio::task::block_in_place;

use super::backup::Ground;

/// A database, its backups, and the variables of those who restore it.
pub struct Restoring {
    pub database: Arc<Database>,
    pub ground: Ground,
    pub env: BTreeMap<String, String>,
}

impl Restoring {
    pub fn of(database: &Arc<Database>) -> Self {
        Self::with(database, database.env())
    }

    /// With the variables of a node.
    fn with(database: &Arc<Database>, mut env: BTreeMap<String, String>) -> Self {
        let ground = Ground::new(database);
        env.extend(ground.env.clone());
        env.insert("DATABASE_SUPERUSER_URL".to_owned(), database.superuser_url());
        Self { database: Arc::clone(database), ground, env }
    }

    /// Restores the newest backup; returns the exit code and the report.
    fn restore(&self, arguments: &[&str]) -> (i32, Value) {
        let identities = ["main", "keys"].map(|name| self.ground.file(name));
        let mut all = vec!["restore", "latest", "--signed-by", &self.ground.signed_by];
        all.extend(identities.iter().flat_map(|identity| ["--identity", identity]));
        all.extend(arguments);
        super::reported(&all, &self.env)
    }

    /// The same as a process that runs.
    fn start(&self, arguments: &[&str]) -> Program {
        let identities = ["main", "keys"].map(|name| self.ground.file(name));
        let mut all = vec!["restore", "latest", "--json", "--signed-by", &self.ground.signed_by];
        all.extend(identities.iter().flat_map(|identity| ["--identity", identity]));
        all.extend(arguments);
        block_in_place(|| Program::start(&all, &self.env))
    }

    /// Starts a node on whatever has the name of the database now.
    pub async fn node(&self) -> Node {
        Node::with(&self.database, self.env.clone()).await
    }

    /// The epoch, the number of events and the hash of all of them.
    async fn log(&self) -> (uuid::Uuid, i64, Option<String>) {
        let pool = superuser(&self.database).await;
        let log = sqlx::query_as(
            "select h.epoch, h.position,
                    (select encode(sha256(string_agg(e.leaf_hash, '' order by e.position)), 'hex') from log.event e)
             from log.head h",
        );
        let log = log.fetch_one(&pool).await.unwrap();
        pool.close().await;
        log
    }

    /// The databases whose names begin with that of this one, but for this one.
    async fn others(&self) -> Vec<String> {
        let server = server().await;
        let others = sqlx::query_scalar(
            "select datname::text from pg_database where datname like $1 || '\\_%' and datname !~ ($1 || '_[0-9]+$') order by 1",
        );
        others.bind(&self.database.name).fetch_all(&server).await.unwrap()
    }

    /// Removes the database, as a broken disk does.
    async fn drop_database(&self) {
        let statement = format!("drop database {} with (force)", self.database.name);
        sqlx::query(AssertSqlSafe(statement)).execute(&server().await).await.unwrap();
    }
}

async fn server() -> PgPool {
    superuser(&Database { name: "postgres".to_owned() }).await
}

/// Returns the result of a check of a report.
#[track_caller]
fn result<'a>(report: &'a Value, id: &str) -> &'a str {
    let checks = report["checks"].as_array().unwrap();
    let check = checks.iter().find(|check| check["id"] == id).unwrap_or_else(|| panic!("{id}: {report:#}"));
    check["result"].as_str().unwrap()
}
