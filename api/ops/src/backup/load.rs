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
/// that the backup names. Returns the parts that were left out, with the reason.
///
/// # Errors
/// [`BackupError`]; the database is then worth nothing.
pub async fn load(
    backup: &OpenedBackup,
    identities: &Arc<Vec<Identity>>,
    superuser_url: &str,
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
    let mut left_out = Vec::new();
    for record in backup.manifest.parts.clone() {
        let (url, opened, identities) = (ClientUrl::parse(superuser_url)?, backup.clone(), Arc::clone(identities));
        let (part, major) = (record.part, backup.dump_major());
        let restored = spawn_blocking(move || -> Result<(), UnreadPart> {
            let program = find_program("pg_restore", major).map_err(UnreadPart::Failed)?;
            let mut command = url.command(&program.path);
            command.arg("--exit-on-error");
            feed_part(&opened, &record, &identities, "pg_restore", &mut command)
        });
        match restored.await.map_err(|_| BackupError::Task)? {
            Ok(()) => {}
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
