//! The restore of a backup into a new database.

use std::sync::Arc;

use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio::task::spawn_blocking;

use super::client_url::ClientUrl;
use super::error::BackupError;
use super::manifest::PartKind;
use super::opened::OpenedBackup;
use super::part::{UnreadPart, feed_part};
use super::programs::find_program;

use crate::age::Identity;

/// Restores the parts that the identities open into an empty database of a server of its own, as the superuser. Makes the roles
/// that the backup names. Returns the parts that were left out, with the reason. `read` is told the bytes so far; after the last
/// one the server builds indexes.
///
/// # Errors
/// [`BackupError`]; the database is then worth nothing.
pub async fn load(
    backup: &OpenedBackup,
    identities: &Arc<Vec<Identity>>,
    superuser_url: &str,
    read: impl FnMut(u64) + Send + 'static,
) -> Result<Vec<(PartKind, String)>, BackupError> {
    let mut connection = PgConnection::connect(superuser_url).await?;
    for role in &backup.manifest.roles {
        let known: bool = sqlx::query_scalar("select exists (select from pg_roles where rolname = $1)")
            .bind(role)
            .fetch_one(&mut connection)
            .await?;
        if !known {
            let statement = format!("create role \"{}\" nologin", role.replace('"', "\"\""));
            sqlx::query(AssertSqlSafe(statement)).execute(&mut connection).await?;
        }
    }
    let _ = connection.close().await;
    let (url, backup, identities) = (ClientUrl::parse(superuser_url)?, backup.clone(), Arc::clone(identities));
    let loaded = spawn_blocking(move || load_parts(&backup, &identities, &url, read));
    loaded.await.map_err(|_| BackupError::Task)?
}

fn load_parts(
    backup: &OpenedBackup,
    identities: &[Identity],
    url: &ClientUrl,
    mut read: impl FnMut(u64),
) -> Result<Vec<(PartKind, String)>, BackupError> {
    let (mut bytes, mut left_out) = (0, Vec::new());
    let program = find_program("pg_restore", backup.dump_major())?;
    for record in &backup.manifest.parts {
        let part = record.part;
        let mut command = url.command(&program.path);
        command.arg("--exit-on-error");
        match feed_part(backup, record, identities, "pg_restore", &mut command, |so_far| read(bytes + so_far)) {
            Ok(()) => bytes += record.length,
            Err(UnreadPart::NotOurs(reason)) if part == PartKind::Keys => left_out.push((part, reason)),
            Err(UnreadPart::Damaged(reason)) if part == PartKind::Keys && backup.is_removed(part) => {
                left_out.push((part, reason));
            }
            Err(UnreadPart::NotOurs(reason) | UnreadPart::Damaged(reason)) => return Err(BackupError::Crypto(reason)),
            Err(UnreadPart::Failed(error)) => return Err(error),
        }
    }
    Ok(left_out)
}
