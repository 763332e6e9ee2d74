//! The database as the check meets it: the connection, its clock, and the state of the service in one JSON object. Reads only,
//! and gives up in time.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use fulexo_database::{DatabaseFailure, chain};
use serde::Deserialize;
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, PgConnection, Row};
use tokio::time::timeout;

use super::clock_reading::ClockReading;
use crate::clock::now;

/// The statement that reads the state. It is not checked when this is built: a database of another version is an answer, too.
const STATE: &str = include_str!("state.sql");

/// The database, as far as it answered.
pub enum DatabaseView {
    /// No URL was given.
    NotGiven,
    /// It does not answer, or only that it cannot serve.
    Down(String),
    /// It answers, and lets nobody in with this URL.
    Refused(String),
    /// It answers.
    Open(Box<OpenDatabase>),
}

/// A database that answers.
pub struct OpenDatabase {
    /// The connection, until the state is read.
    connection: Option<PgConnection>,
    /// The time of a question and its answer.
    pub latency: Duration,
    /// The clock of the server.
    pub clock: ClockReading,
    /// `true` if it is a standby.
    pub is_standby: bool,
    /// The version, such as `15.14`.
    pub version: String,
    /// The state, or the reason for which it was not read.
    pub state: Result<StoredState, String>,
}

/// The state of the service in its database.
#[derive(Deserialize)]
pub struct StoredState {
    pub head: StoredHead,
    pub nodes: Vec<StoredNode>,
    pub read_models: Vec<StoredReadModel>,
    pub relay: StoredRelay,
    pub tree: StoredTree,
    pub checkpoint: StoredCheckpoint,
    pub anchor: StoredAnchor,
    pub witnesses: Vec<StoredWitness>,
    /// The seconds for which the first event has waited that is not covered, by the name of what lags.
    pub waits: BTreeMap<String, f64>,
    pub keys: Vec<StoredKey>,
    pub lockdown: Option<StoredLockdown>,
    /// The number of open incidents by severity.
    pub incidents: BTreeMap<String, u64>,
    pub load: StoredLoad,
}

/// The end of the log.
#[derive(Deserialize)]
pub struct StoredHead {
    pub position: u64,
    /// The seconds since the newest event, by the database's clock.
    pub age: f64,
}

/// A row of the registry of nodes.
#[derive(Deserialize)]
pub struct StoredNode {
    pub name: String,
    pub applied: u64,
    pub renewals: u64,
    /// The seconds since it renewed its registration.
    pub silent: f64,
}

/// A read model and its checkpoint.
#[derive(Deserialize)]
pub struct StoredReadModel {
    pub name: String,
    pub version: u64,
    pub position: u64,
    pub stopped_because: Option<String>,
}

/// The relay.
#[derive(Deserialize)]
pub struct StoredRelay {
    /// `true` if a node has ever had a turn.
    pub is_used: bool,
    pub has_turn: bool,
    pub position: u64,
    pub stopped_because: Option<String>,
}

/// The tree over the log.
#[derive(Deserialize)]
pub struct StoredTree {
    pub size: u64,
    pub stopped_because: Option<String>,
}

/// The published checkpoint.
#[derive(Deserialize)]
pub struct StoredCheckpoint {
    pub size: u64,
    pub note: Option<String>,
    pub vkey: Option<String>,
    pub refused_because: Option<String>,
}

/// The anchored checkpoint.
#[derive(Deserialize)]
pub struct StoredAnchor {
    pub size: u64,
    pub note: Option<String>,
}

/// A witness, as the last round found it.
#[derive(Deserialize)]
pub struct StoredWitness {
    pub name: String,
    pub failure: Option<String>,
    pub is_contradiction: bool,
}

/// A key that is not destroyed.
#[derive(Deserialize)]
pub struct StoredKey {
    pub kind: String,
    pub id: String,
    /// The seconds since it came into use.
    pub in_use: Option<f64>,
    /// The seconds since another one came into use.
    pub replaced: Option<f64>,
}

/// A lockdown in force.
#[derive(Deserialize)]
pub struct StoredLockdown {
    pub scope: String,
    /// The seconds since it was imposed.
    pub age: f64,
}

/// The load of the server.
#[derive(Deserialize)]
pub struct StoredLoad {
    pub sessions: u64,
    pub most_sessions: u64,
    /// The seconds since the longest transaction began.
    pub longest_transaction: Option<f64>,
    /// `true` if that is of all roles, and not only of this one.
    pub sees_all_sessions: bool,
    pub bytes: u64,
}

impl DatabaseView {
    /// Connects, and asks for what every database can tell.
    pub async fn open(url: Option<&str>, patience: Duration) -> Self {
        let Some(url) = url else { return Self::NotGiven };
        let milliseconds = patience.as_millis().to_string();
        let options = match PgConnectOptions::from_str(url) {
            Ok(options) => options.application_name("fulexo health-check").options([
                ("default_transaction_read_only", "on"),
                ("lock_timeout", "200ms"),
                // To compile the statement takes longer than to run it.
                ("jit", "off"),
                ("statement_timeout", milliseconds.as_str()),
            ]),
            // The text of the error may repeat the URL.
            Err(_) => return Self::Refused("its URL is not one of PostgreSQL".to_owned()),
        };
        match timeout(patience, greet(&options)).await {
            Ok(Ok(open)) => Self::Open(Box::new(open)),
            Ok(Err(error)) => match DatabaseFailure::of(&error) {
                DatabaseFailure::Unavailable | DatabaseFailure::NoConnection | DatabaseFailure::Cancelled => {
                    Self::Down(chain(&error).to_string())
                }
                DatabaseFailure::Conflict
                | DatabaseFailure::LockTimeout
                | DatabaseFailure::Constraint(_)
                | DatabaseFailure::InsufficientPrivilege
                | DatabaseFailure::UndefinedTable
                | DatabaseFailure::Refused
                | DatabaseFailure::Driver => Self::Refused(chain(&error).to_string()),
            },
            Err(_) => Self::Down(format!("no answer within {:.1} seconds", patience.as_secs_f32())),
        }
    }

    /// Reads the state; returns the connection, for questions about the tree.
    pub async fn read(&mut self, patience: Duration) -> Option<PgConnection> {
        let Self::Open(open) = self else { return None };
        let mut connection = open.connection.take()?;
        let state = sqlx::query_scalar::<_, String>(STATE).fetch_one(&mut connection);
        open.state = match timeout(patience, state).await {
            Ok(Ok(state)) => serde_json::from_str(&state).map_err(|error| format!("its state cannot be read: {error}")),
            Ok(Err(error)) => Err(match DatabaseFailure::of(&error) {
                DatabaseFailure::UndefinedTable => {
                    "the database has not the schema of this version: run `fulexo migrate`".to_owned()
                }
                DatabaseFailure::InsufficientPrivilege => {
                    "the role of the database's URL may not read the service's tables".to_owned()
                }
                DatabaseFailure::LockTimeout => {
                    "somebody holds a lock on the service's tables, which is not waited for".to_owned()
                }
                DatabaseFailure::NoConnection
                | DatabaseFailure::Unavailable
                | DatabaseFailure::Cancelled
                | DatabaseFailure::Conflict
                | DatabaseFailure::Constraint(_)
                | DatabaseFailure::Refused
                | DatabaseFailure::Driver => chain(&error).to_string(),
            }),
            Err(_) => Err(silent(patience)),
        };
        open.state.is_ok().then_some(connection)
    }

    /// Returns the state, or the reason for which there is none.
    pub fn state(&self) -> Result<&StoredState, String> {
        match self {
            Self::NotGiven => Err("DATABASE_URL is not set".to_owned()),
            Self::Down(reason) => Err(format!("PostgreSQL is down: {reason}")),
            Self::Refused(reason) => Err(format!("PostgreSQL refuses: {reason}")),
            Self::Open(open) => open.state.as_ref().map_err(Clone::clone),
        }
    }
}

fn silent(patience: Duration) -> String {
    format!("PostgreSQL did not answer within {:.1} seconds", patience.as_secs_f32())
}

async fn greet(options: &PgConnectOptions) -> Result<OpenDatabase, sqlx::Error> {
    let mut connection = PgConnection::connect_with(options).await?;
    let (asked, began) = (now(), Instant::now());
    // Asked plainly: one round trip.
    let row = sqlx::raw_sql("select clock_timestamp(), pg_is_in_recovery(), current_setting('server_version')")
        .fetch_one(&mut connection)
        .await?;
    let latency = began.elapsed();
    let shown: DateTime<Utc> = row.try_get(0)?;
    let version: String = row.try_get(2)?;
    Ok(OpenDatabase {
        connection: Some(connection),
        latency,
        clock: ClockReading::new(asked, latency, shown, Duration::ZERO),
        is_standby: row.try_get(1)?,
        version: version.split(' ').next().unwrap_or_default().to_owned(),
        state: Err(String::new()),
    })
}
