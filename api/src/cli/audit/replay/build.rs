//! A database with a replayed trail: the schema, the log, the tree over it, the read models, and a role that may read them.
//!
//! An earlier replay in it is dropped first: one that was interrupted is never continued, and never served.

use std::collections::BTreeMap;

use fulexo_database::chain;
use fulexo_domain::jetstream::hex;
use fulexo_node::clock;
use fulexo_node::database::{connect, reason};
use fulexo_node::schema;
use fulexo_projections::feed;
use fulexo_projections::read_models::Projection;
use fulexo_projections::rebuild::{RebuildOptions, RebuildProgress, rebuild};
use fulexo_projections::replay::{ReadModelTable, live_checksum};
use fulexo_projections::status::statuses;
use fulexo_projections::tree::{Integrator, PublishingTurn, TreeReader};
use sqlx::{AssertSqlSafe, Connection, PgConnection, PgPool};
use tokio::sync::watch;

use super::load::{LoadedLog, load};
use super::private::{AUDITOR, DATABASE, PrivateDatabase};
use super::record::{ReplayRecord, TableContent, Trail, TrailIdentity};
use crate::cli::audit::trust::TrustedCheckpoint;
use crate::cli::failure::Failure;
use crate::cli::output::note;
use crate::cli::progress::Progress;
use crate::cli::rebuild::program;

/// One connection for the reader of the log, and some for every projection.
const CONNECTIONS: u32 = 10;
/// The database that every server has.
const MAINTENANCE: &str = "postgres";

/// Replays a trail into a new database.
pub async fn build(
    database: &PrivateDatabase,
    trail: &Trail,
    identity: TrailIdentity,
) -> Result<ReplayRecord, Failure> {
    let mut server = PgConnection::connect(&database.superuser_url(MAINTENANCE)).await?;
    for statement in [
        format!("drop database if exists {DATABASE} with (force)"),
        format!("create database {DATABASE}"),
        // Of its owner alone, and of the auditor, who may connect to it.
        format!("revoke all on database {DATABASE} from public"),
    ] {
        sqlx::query(AssertSqlSafe(statement)).execute(&mut server).await?;
    }
    let url = database.superuser_url(DATABASE);
    // The superuser is what the application's role is elsewhere.
    schema::migrate(&url, MAINTENANCE).await?;
    let mut connection = PgConnection::connect(&url).await?;
    let loaded = load(trail, &mut connection).await?;
    sqlx::query!("analyze").execute(&mut connection).await?;
    let pool = connect(&url, CONNECTIONS).await?;
    let (_head, head) = watch::channel(loaded.events);
    let (integrator, _) = Integrator::new(pool.clone(), head);
    integrator.catch_up().await.map_err(|error| format!("cannot build the tree: {}", chain(&error)))?;
    project(&pool, loaded.events).await?;
    let tables = contents(&mut connection, &loaded).await?;
    // From here on everything is on disk.
    sqlx::query!("checkpoint").execute(&mut connection).await?;
    pool.close().await;
    Ok(ReplayRecord { trail: identity, events: loaded.events, root: loaded.root.to_string(), tables })
}

/// Publishes the checkpoint in the database, if the log in it has all events that the checkpoint covers. It may be signed anew
/// although the log is the same.
pub async fn publish(database: &PrivateDatabase, trail: &Trail, events: u64) -> Result<(), Failure> {
    let TrustedCheckpoint { checkpoint, note, .. } = &trail.trusted;
    let Some(key) = trail.log_key.clone().filter(|_| events == checkpoint.size) else { return Ok(()) };
    let pool = connect(&database.superuser_url(DATABASE), 1).await?;
    if let Some(turn) = PublishingTurn::take(&pool).await? {
        turn.publish(checkpoint.size, note.to_string(), key, clock::now()).await?;
    }
    pool.close().await;
    Ok(())
}

/// Builds the read models.
async fn project(pool: &PgPool, events: u64) -> Result<(), Failure> {
    let options = RebuildOptions { program: program()?, restart: true };
    let mut progress = Progress::new("replay".to_owned(), 0);
    let mut positions: BTreeMap<&str, u64> = Projection::ALL.map(|projection| (projection.as_str(), 0)).into();
    let outcomes = rebuild(pool, &Projection::ALL, &options, |projection, news| {
        if let RebuildProgress::Advanced { position } = news {
            positions.insert(projection.as_str(), position);
            progress.show(positions.values().copied().min().unwrap_or_default(), events);
        }
    })
    .await;
    let failed = |error| Failure::Failed(format!("cannot replay the log: {}", chain(&error)));
    for (_, outcome) in outcomes.map_err(failed)? {
        outcome.map_err(failed)?;
    }
    Ok(())
}

/// The tables as of the last event.
async fn contents(connection: &mut PgConnection, loaded: &LoadedLog) -> Result<Vec<TableContent>, Failure> {
    let last = i64::try_from(loaded.events).unwrap_or(i64::MAX) - 1;
    let mut tables = Vec::new();
    for table in ReadModelTable::ALL {
        let checksum = live_checksum(connection, table, last).await?;
        let (name, digest) = (table.as_str().to_owned(), hex(&checksum.digest));
        tables.push(TableContent { name, rows: checksum.rows, checksum: digest });
    }
    Ok(tables)
}

/// Lets the auditor in, and looks through the auditor's eyes whether the replay is all that its record says: the log, the tree over
/// it, and every read model.
pub async fn is_whole(database: &PrivateDatabase, record: &ReplayRecord) -> Result<bool, Failure> {
    let mut server = PgConnection::connect(&database.superuser_url(MAINTENANCE)).await?;
    let is_there =
        sqlx::query_scalar!(r#"select exists (select from pg_database where datname = $1) as "is!""#, DATABASE)
            .fetch_one(&mut server)
            .await?;
    if !is_there {
        return Ok(false);
    }
    admit_auditor(database, &mut server).await?;
    let pool = connect(&database.auditor_url(), 2).await?;
    let looked = look(&pool, record).await;
    pool.close().await;
    match looked {
        Ok(is_whole) => Ok(is_whole),
        // What cannot be read is not whole.
        Err(error) => {
            note(format_args!("the replay in the data directory cannot be read: {}", reason(&error)));
            Ok(false)
        }
    }
}

async fn look(pool: &PgPool, record: &ReplayRecord) -> Result<bool, sqlx::Error> {
    let read_models = statuses(pool).await?;
    let mut connection = pool.acquire().await?;
    let size = feed::size(&mut connection).await?;
    let mut tree = TreeReader::open(&mut connection).await?;
    // A tree that is damaged is another one.
    let root = if size == tree.size() { tree.root(size).await.ok().flatten() } else { None };
    let is_same = size == record.events && root.is_some_and(|root| root.to_string() == record.root);
    Ok(is_same && read_models.iter().all(|status| status.position == size && status.stopped_because.is_none()))
}

/// Gives the auditor's role the password of this run, and the right to read. Any other it never had.
async fn admit_auditor(database: &PrivateDatabase, server: &mut PgConnection) -> Result<(), Failure> {
    let is_known = sqlx::query_scalar!(r#"select exists (select from pg_roles where rolname = $1) as "is!""#, AUDITOR)
        .fetch_one(&mut *server)
        .await?;
    let verb = if is_known { "alter" } else { "create" };
    let password = database.auditor_password();
    for statement in [
        // DDL takes no parameters. The names are constants, and the password is hexadecimal.
        format!("{verb} role {AUDITOR} login nosuperuser nocreatedb nocreaterole password '{password}'"),
        format!("alter role {AUDITOR} set default_transaction_read_only = on"),
        format!("grant connect on database {DATABASE} to {AUDITOR}"),
    ] {
        sqlx::query(AssertSqlSafe(statement)).execute(&mut *server).await?;
    }
    let mut connection = PgConnection::connect(&database.superuser_url(DATABASE)).await?;
    for right in ["usage on schema", "select on all tables in schema"] {
        let statement = format!("grant {right} log, vault, access, read, projection, tree, public to {AUDITOR}");
        sqlx::query(AssertSqlSafe(statement)).execute(&mut connection).await?;
    }
    Ok(())
}
