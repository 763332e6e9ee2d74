//! The statements that the sequencer sends to Postgres, and the decoding of their answers. The sequencer decides the
//! order.

use std::collections::HashMap;

use fulexo_database::DatabaseFailure;
use fulexo_domain::event::Stream;
use sqlx::PgConnection;
use uuid::Uuid;

use super::batch::{BatchPlan, LockRequest, LockedState, to_i64};

/// The expected versions of streams, in the form that `log.try_append` takes.
#[derive(Default)]
pub struct ExpectedVersions {
    pub categories: Vec<&'static str>,
    pub streams: Vec<Uuid>,
    pub versions: Vec<i64>,
}

impl ExpectedVersions {
    /// Collects the expected versions of these streams.
    pub fn of(versions: &HashMap<Stream, u64>) -> Self {
        let mut expected_versions = Self::default();
        for (stream, version) in versions {
            expected_versions.categories.push(stream.category.as_str());
            expected_versions.streams.push(stream.id);
            expected_versions.versions.push(to_i64(*version));
        }
        expected_versions
    }
}

pub async fn lock(connection: &mut PgConnection, lock_request: &LockRequest) -> Result<LockedState, sqlx::Error> {
    let row = sqlx::query!(
        r#"select head_recorded_at as "recorded_at!", versions as "versions!",
                  command_hashes as "command_hashes: Vec<Option<Vec<u8>>>",
                  command_results as "command_results: Vec<Option<String>>",
                  key_holders as "key_holders: Vec<Option<uuid::Uuid>>"
           from log.lock($1, $2, $3, $4, $5)"#,
        &lock_request.categories as &[&str],
        &lock_request.streams,
        &lock_request.commands,
        &lock_request.scopes as &[&str],
        &lock_request.keys
    )
    .fetch_one(connection)
    .await?;

    let categories = fulexo_domain::event::Category::ALL;
    let streams = lock_request.categories.iter().zip(&lock_request.streams).filter_map(|(name, id)| {
        let category = *categories.iter().find(|category| category.as_str() == *name)?;
        Some(Stream { category, id: *id })
    });
    let hashes = row.command_hashes.unwrap_or_default();
    let results = row.command_results.unwrap_or_default();
    let commands = lock_request.commands.iter().zip(hashes.into_iter().zip(results));
    let holders = row.key_holders.unwrap_or_default();
    let keys = lock_request.scopes.iter().zip(&lock_request.keys).zip(holders);
    Ok(LockedState {
        recorded_at: row.recorded_at,
        versions: streams.zip(row.versions.into_iter().map(i64::unsigned_abs)).collect(),
        commands: commands.filter_map(|(id, (hash, result))| Some((id.clone(), (hash?, result?)))).collect(),
        keys: keys.filter_map(|((scope, key), holder)| Some(((*scope, key.clone()), holder?))).collect(),
    })
}

pub async fn try_append(
    connection: &mut PgConnection,
    expected_versions: &ExpectedVersions,
    plan: &BatchPlan,
) -> Result<Option<u64>, sqlx::Error> {
    let first = sqlx::query_scalar!(
        "select log.try_append($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19,
                               $20, $21, $22, $23, $24, $25)",
        &expected_versions.categories as &[&str],
        &expected_versions.streams,
        &expected_versions.versions,
        plan.first_time,
        plan.last_time,
        &plan.categories as &[&str],
        &plan.streams,
        &plan.stream_versions,
        &plan.leaves,
        &plan.hashes,
        &plan.sealed.events,
        &plan.sealed.ordinals,
        &plan.sealed.subjects as &[Option<Uuid>],
        &plan.sealed.periods as &[Option<chrono::NaiveDate>],
        &plan.sealed.nonces,
        &plan.sealed.ciphertexts,
        &plan.claimed_scopes as &[&str],
        &plan.claimed_keys,
        &plan.claimed_by,
        &plan.command_ids,
        &plan.command_hashes,
        &plan.command_results,
        &plan.command_accounts as &[Option<Uuid>],
        &plan.sealed.ip_digests as &[Option<Vec<u8>>],
        &plan.sealed.email_digests as &[Option<Vec<u8>>]
    )
    .fetch_one(connection)
    .await?;
    Ok(first.map(i64::unsigned_abs))
}

/// Returns the position of the batch's first event if the batch was committed: its leaf is then in the log. A batch
/// without events only stores commands, whose state the lock has just shown.
pub async fn where_committed(connection: &mut PgConnection, plan: &BatchPlan) -> Result<Option<u64>, sqlx::Error> {
    let first = (plan.categories.first(), plan.streams.first(), plan.stream_versions.first(), plan.leaves.first());
    let (Some(category), Some(stream), Some(version), Some(leaf)) = first else { return Ok(None) };
    let found = sqlx::query_scalar!(
        "select position from log.event where stream_id = $1 and category = $2 and version = $3 and leaf = $4",
        stream,
        category,
        version,
        leaf
    )
    .fetch_optional(connection)
    .await?;
    Ok(found.map(i64::unsigned_abs))
}

/// `true` if the database refused: the same append would be refused again. `false` if it can be tried again on another
/// connection.
pub fn is_rejection(error: &sqlx::Error) -> bool {
    match DatabaseFailure::of(error) {
        DatabaseFailure::Constraint(_)
        | DatabaseFailure::LockTimeout
        | DatabaseFailure::InsufficientPrivilege
        | DatabaseFailure::UndefinedTable
        | DatabaseFailure::Refused => true,
        DatabaseFailure::NoConnection
        | DatabaseFailure::Unavailable
        | DatabaseFailure::Cancelled
        | DatabaseFailure::Conflict
        | DatabaseFailure::Driver => false,
    }
}
