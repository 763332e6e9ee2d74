//! A backup: one moment of the database, read in one snapshot, dumped, encrypted, described and signed.
//!
//! ```text
//! lock, remains removed -> snapshot -> state read -> database.age -> keys.age -> manifest -> named
//! ```

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use fulexo_domain::jetstream::hex;
use fulexo_tlog::key::SignerKey;
use sha2::{Digest, Sha256};
use sqlx::{Connection, PgConnection};
use tokio::task::spawn_blocking;

use super::client_url::ClientUrl;
use super::error::BackupError;
use super::manifest::{BackupManifest, PartKind, PartRecord};
use super::name::BackupName;
use super::part::write_part;
use super::programs::{ClientProgram, find_program};
use super::state::{KEY_TABLES, read_state};
use super::target::{BackupTarget, TargetLock};
use crate::age::Recipient;
use crate::clock;

/// The most roles of a server that are noted.
const MAX_ROLES: i64 = 1_000;

/// A backup that is asked for.
pub struct CreateRequest {
    /// The URL of the database, as the owner of its tables.
    pub url: String,
    /// Those who can decrypt the database.
    pub recipients: Vec<Recipient>,
    /// Those who can decrypt the wrapped keys.
    pub key_recipients: Vec<Recipient>,
    /// The key that signs manifests, and nothing else.
    pub signing_key: SignerKey,
    /// The version of Fulexo.
    pub program: &'static str,
    /// The length of the pieces that are uploaded to a bucket, in bytes; `None` for what the database asks for.
    pub piece: Option<u64>,
}

/// The progress: a part, and the bytes that `pg_dump` has written of it.
#[derive(Clone, Copy, Debug)]
pub struct WrittenBytes {
    /// The part.
    pub part: PartKind,
    /// The bytes so far.
    pub bytes: u64,
}

/// A finished backup.
#[derive(Debug)]
pub struct CreatedBackup {
    /// Its name.
    pub name: BackupName,
    /// Its path, or its name in a bucket.
    pub path: PathBuf,
    /// Its manifest.
    pub manifest: BackupManifest,
    /// The SHA-256 of its manifest, in hexadecimal.
    pub(super) manifest_sha256: String,
}

/// The parts of a database that do not change while it is dumped.
struct ExportedSnapshot {
    connection: PgConnection,
    snapshot: String,
    postgres: u32,
}

/// Creates a backup. After an error there is none, and its remains are removed as far as possible.
///
/// # Errors
/// [`BackupError`].
pub async fn create(
    target: &BackupTarget,
    lock: &TargetLock,
    request: CreateRequest,
    progress: impl Fn(WrittenBytes) + Send + Sync + 'static,
) -> Result<CreatedBackup, BackupError> {
    let began_at = clock::now();
    let url = ClientUrl::parse(&request.url)?;
    let ExportedSnapshot { mut connection, snapshot, postgres } = snapshot(&request.url).await?;
    let pg_dump = find_program("pg_dump", postgres / 10_000)?;
    let database = read_state(&mut connection).await?;
    let (checkpoint, log_key): (Option<String>, Option<String>) =
        sqlx::query_as("select note, vkey from tree.checkpoint").fetch_one(&mut connection).await?;
    let anchored: Option<String> =
        sqlx::query_scalar("select note from tree.anchor").fetch_one(&mut connection).await?;
    let roles = roles(&mut connection).await?;
    let name = BackupName::new(began_at, database.log.position);
    // The dump of it is compressed, and shorter.
    let estimate: i64 =
        sqlx::query_scalar("select pg_database_size(current_database())").fetch_one(&mut connection).await?;
    let unfinished = lock.begin(name)?;

    let (url, pg_dump, progress) = (Arc::new(url), Arc::new(pg_dump), Arc::new(progress));
    let mut parts = Vec::new();
    for (part, recipients) in [(PartKind::Database, &request.recipients), (PartKind::Keys, &request.key_recipients)] {
        let (url, pg_dump, progress) = (Arc::clone(&url), Arc::clone(&pg_dump), Arc::clone(&progress));
        let new = unfinished.create_part(part, estimate.unsigned_abs(), request.piece)?;
        let (path, recipients, snapshot) = (target.path(name).join(part.file()), recipients.clone(), snapshot.clone());
        let dumped = spawn_blocking(move || -> Result<PartRecord, BackupError> {
            let mut command = dump_command(&url, &pg_dump, &snapshot, part);
            write_part(new, &path, part, &recipients, &mut command, |bytes| progress(WrittenBytes { part, bytes }))
        });
        parts.push(dumped.await.map_err(|_| BackupError::Task)??);
    }
    // The snapshot has lived until now, or the two parts are not of one moment.
    sqlx::query("commit").execute(&mut connection).await?;
    // Nothing is left to read.
    let _ = connection.close().await;

    let manifest = BackupManifest {
        format: BackupManifest::FORMAT,
        name: name.to_string(),
        began_at,
        ended_at: clock::now(),
        host: host(),
        program: request.program.to_owned(),
        postgres,
        pg_dump: pg_dump.version.clone(),
        database,
        checkpoint,
        anchored,
        log_key,
        roles,
        parts,
    };
    let bytes = manifest.to_bytes()?;
    let lengths: Vec<_> = manifest.parts.iter().map(|record| (record.part, record.length)).collect();
    unfinished.finish(&lengths, &BackupManifest::sign(name, &bytes, &request.signing_key)?, &bytes)?;
    let manifest_sha256 = hex(&Sha256::digest(&bytes));
    Ok(CreatedBackup { name, path: target.path(name), manifest, manifest_sha256 })
}

/// Begins the transaction whose moment the backup has.
async fn snapshot(url: &str) -> Result<ExportedSnapshot, BackupError> {
    let mut connection = PgConnection::connect(url).await?;
    for statement in [
        "set statement_timeout = 0",
        "set idle_in_transaction_session_timeout = 0",
        "set tcp_keepalives_idle = 60",
        "begin isolation level repeatable read read only",
    ] {
        sqlx::query(statement).execute(&mut connection).await?;
    }
    let (snapshot, postgres): (String, i32) =
        sqlx::query_as("select pg_export_snapshot(), current_setting('server_version_num')::integer")
            .fetch_one(&mut connection)
            .await?;
    Ok(ExportedSnapshot { connection, snapshot, postgres: postgres.unsigned_abs() })
}

/// Reads the roles that own something in this database, or that may do something there.
async fn roles(connection: &mut PgConnection) -> Result<Vec<String>, BackupError> {
    let roles = "select distinct r.rolname::text from pg_roles r
                 where r.oid in (select d.refobjid from pg_shdepend d
                                 where d.refclassid = 'pg_authid'::regclass
                                   and d.dbid = (select oid from pg_database where datname = current_database()))
                    or r.oid in (select c.relowner from pg_class c join pg_namespace n on n.oid = c.relnamespace
                                 where n.nspname !~ '^pg_' and n.nspname <> 'information_schema')
                 order by 1 limit $1";
    Ok(sqlx::query_scalar(roles).bind(MAX_ROLES).fetch_all(connection).await?)
}

fn dump_command(url: &ClientUrl, pg_dump: &ClientProgram, snapshot: &str, part: PartKind) -> Command {
    let mut command = url.command(&pg_dump.path);
    command.args(["--format=custom", "--lock-wait-timeout=60000", "--no-unlogged-table-data"]);
    command.arg(format!("--snapshot={snapshot}"));
    match part {
        PartKind::Database => {
            // The nodes that run now are not those of a restored database.
            command.arg("--exclude-table-data=projection.node");
            command.args(KEY_TABLES.map(|table| format!("--exclude-table-data=vault.{table}")));
        }
        PartKind::Keys => {
            command.arg("--data-only");
            command.args(KEY_TABLES.map(|table| format!("--table=vault.{table}")));
        }
    }
    command
}

/// Returns the name of this machine.
fn host() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().to_owned()
}
