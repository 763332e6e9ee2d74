//! The copies of a log that tell of the events that a restore loses: the database that is replaced, the copy in NATS, an export.

use std::path::Path;
use std::time::Duration;

use fulexo_commands::log::relay::{CopyKey, CopyReadError, CopyReader};
use fulexo_commands::vault::Vault;
use fulexo_database::chain;
use fulexo_node::config::Config;
use fulexo_node::database::{connect, reason};
use fulexo_node::nats;
use fulexo_ops::backup::root_at;
use fulexo_ops::restore::LostEvents;
use fulexo_tlog::bundle::entries;
use fulexo_tlog::tile::{FULL_WIDTH, TileKind};
use futures_util::TryStreamExt;
use sqlx::{Connection, PgConnection};
use tokio::time::timeout;
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::cli::audit::source::LogSource;
use crate::cli::audit::trust::Trust;
use crate::cli::failure::Failure;
use crate::cli::text_file::read_text;

/// The length of the longest token, in bytes.
const MAX_TOKEN: u64 = 64 << 10;
/// The time that NATS may take until its first answer.
const NATS_TIME: Duration = Duration::from_secs(15);

/// The result of reading a copy.
#[derive(Debug)]
pub enum CopyResult {
    /// It begins as the restored log does. The number of its events.
    Read(u64),
    /// Its events are others.
    Different(String),
    /// It was not read, or not to its end.
    Unread(String),
}

/// The reason why a copy was not read to its end.
struct UnreadCopy(String);

impl From<CopyReadError> for UnreadCopy {
    fn from(error: CopyReadError) -> Self {
        Self(chain(&error).to_string())
    }
}

impl From<std::io::Error> for UnreadCopy {
    fn from(error: std::io::Error) -> Self {
        Self(error.to_string())
    }
}

impl From<sqlx::Error> for UnreadCopy {
    fn from(error: sqlx::Error) -> Self {
        Self(reason(&error))
    }
}

impl From<fulexo_ops::backup::BackupError> for UnreadCopy {
    fn from(error: fulexo_ops::backup::BackupError) -> Self {
        Self(error.to_string())
    }
}

impl From<Failure> for UnreadCopy {
    fn from(failure: Failure) -> Self {
        Self(failure.text())
    }
}

/// Reads a file with a token.
pub fn read_token(path: impl AsRef<Path>) -> Result<Zeroizing<String>, Failure> {
    Ok(Zeroizing::new(read_text(path.as_ref(), MAX_TOKEN)?.trim().to_owned()))
}

/// Reads the events behind those that are known from another database.
pub async fn read_database(lost: &mut LostEvents, restored: &mut PgConnection, url: &str) -> CopyResult {
    result(from_database(lost, restored, url).await)
}

/// Reads the events behind those that are known from the place that an argument names.
pub async fn read_place(
    lost: &mut LostEvents,
    restored: &mut PgConnection,
    place: &str,
    token: Option<Zeroizing<String>>,
    restored_url: &str,
    trust: Option<Trust>,
) -> CopyResult {
    if place.starts_with("postgres://") || place.starts_with("postgresql://") {
        return read_database(lost, restored, place).await;
    }
    let source = if place.starts_with("http://") || place.starts_with("https://") {
        LogSource::http(place, token)
    } else if Path::new(place).is_dir() {
        Ok(LogSource::Directory(place.into()))
    } else {
        Err(Failure::Misused(format!("--copy: {place} is neither a URL nor a directory")))
    };
    match source {
        Ok(source) => result(from_source(lost, restored, &source, restored_url, trust).await),
        Err(failure) => CopyResult::Unread(failure.text()),
    }
}

/// Reads the events behind those that are known from the copy in NATS; `None` if none is configured, or there is none of this
/// history.
pub async fn read_nats(lost: &mut LostEvents, config: Config, epoch: Uuid) -> Option<CopyResult> {
    let urls = config.nats_url.clone()?;
    let read = async {
        let pool = connect(&config.database_url, 1).await.map_err(|error| UnreadCopy(error.0))?;
        let vault = Vault::open(pool, config.encryption_keys).await;
        let vault = vault.map_err(|error| UnreadCopy(chain(&error).to_string()))?;
        let credentials = config.nats_credentials.as_deref().map(String::as_str);
        let client = nats::connect(&urls, credentials).await.map_err(UnreadCopy)?;
        let found = timeout(NATS_TIME, CopyReader::find(client, CopyKey::of(&vault), epoch));
        let found = found.await.map_err(|_| UnreadCopy("NATS does not answer".to_owned()))??;
        let Some(copy) = found else { return Ok(None) };
        from_nats(lost, &copy).await.map(Some)
    };
    match read.await {
        Ok(Some(read)) => Some(read),
        Ok(None) => None,
        Err(UnreadCopy(because)) => Some(CopyResult::Unread(because)),
    }
}

fn result(read: Result<CopyResult, UnreadCopy>) -> CopyResult {
    read.unwrap_or_else(|UnreadCopy(because)| CopyResult::Unread(because))
}

fn different(size: u64) -> CopyResult {
    CopyResult::Different(format!("its first {size} events are not those of the restored log"))
}

/// `true` if the known events begin with these; `None` if that cannot be told.
async fn is_beginning(
    lost: &LostEvents,
    restored: &mut PgConnection,
    size: u64,
    root: fulexo_tlog::hash::TreeHash,
) -> Result<Option<bool>, UnreadCopy> {
    Ok(if size == lost.next() {
        Some(root == lost.root())
    } else if size <= lost.restored() {
        Some(root == root_at(restored, size).await?)
    } else {
        lost.root_at(size).map(|known| known == root)
    })
}

async fn from_database(
    lost: &mut LostEvents,
    restored: &mut PgConnection,
    url: &str,
) -> Result<CopyResult, UnreadCopy> {
    let mut connection = PgConnection::connect(url).await?;
    let position: i64 = sqlx::query_scalar("select position from log.head").fetch_one(&mut connection).await?;
    let (position, known) = (position.unsigned_abs(), lost.next());
    let common = position.min(known);
    let root = root_at(&mut connection, common).await?;
    if is_beginning(lost, restored, common, root).await? == Some(false) {
        return Ok(different(common));
    }
    let mut rows = sqlx::query_as::<_, (i64, Vec<u8>)>(
        "select position, leaf from log.event where position >= $1 order by position",
    )
    .bind(i64::try_from(known).unwrap_or(i64::MAX))
    .fetch(&mut connection);
    while let Some((position, leaf)) = rows.try_next().await? {
        if position.unsigned_abs() != lost.next() {
            return Ok(CopyResult::Unread(format!("it has no event at position {}", lost.next())));
        }
        lost.push(&leaf)?;
    }
    Ok(CopyResult::Read(position))
}

async fn from_source(
    lost: &mut LostEvents,
    restored: &mut PgConnection,
    source: &LogSource,
    restored_url: &str,
    trust: Option<Trust>,
) -> Result<CopyResult, UnreadCopy> {
    let damaged = |what: &str| UnreadCopy(format!("{what} is missing, or damaged"));
    // Whoever can read the log can write a copy that begins with it, and goes on with erasures that never were.
    let own = LogSource::Database(connect(restored_url, 1).await.map_err(|error| UnreadCopy(error.0))?);
    let trust = Trust::of(trust, &own).await?;
    let signed = trust.verify(&source.checkpoint(trust.has_policy()).await?);
    let checkpoint = match signed {
        Ok(signed) => signed.checkpoint,
        Err(fault) => {
            return Ok(CopyResult::Different(format!(
                "its checkpoint is not to be believed: {fault}. Give --key if the log has changed its key since"
            )));
        }
    };
    let (size, known) = (checkpoint.size, lost.next());
    if size <= known {
        return Ok(match is_beginning(lost, restored, size, checkpoint.root).await? {
            Some(false) => different(size),
            Some(true) | None => CopyResult::Read(size),
        });
    }
    // What its tiles say of the events that are known, and below what its checkpoint says of the whole.
    let roots = source.roots(std::slice::from_ref(&(0..known)), size).await?;
    if roots.ok_or_else(|| damaged("a tile"))?.first() != Some(&lost.root()) {
        return Ok(different(known));
    }
    for number in known / u64::from(FULL_WIDTH).. {
        let Some(bundle) = TileKind::Entries.tile(number, size) else { break };
        let content = source.tile(bundle).await?.ok_or_else(|| damaged("a bundle of entries"))?;
        let leaves = entries(&content, bundle.width).map_err(|_| damaged("a bundle of entries"))?;
        for (position, leaf) in (bundle.positions().start..).zip(leaves) {
            if position == lost.next() {
                lost.push(leaf)?;
            }
        }
    }
    if lost.next() != size || lost.root() != checkpoint.root {
        return Ok(CopyResult::Different(format!("its {size} events are not those of its checkpoint")));
    }
    Ok(CopyResult::Read(size))
}

async fn from_nats(lost: &mut LostEvents, copy: &CopyReader) -> Result<CopyResult, UnreadCopy> {
    // The last event that is known is read as well, and says whether this is the same history.
    let known = lost.next();
    let from = known.saturating_sub(1).min(copy.size());
    if copy.size() < known {
        return Ok(CopyResult::Read(copy.size()));
    }
    if copy.first() > from {
        return Ok(CopyResult::Unread(format!("it has lost the events before position {}", copy.first())));
    }
    let mut is_different = false;
    copy.read(from, |position, leaf| {
        if position < known {
            is_different = lost.last() != Some(fulexo_tlog::hash::TreeHash::of_leaf(leaf));
        }
        if is_different || position < known {
            return Ok(());
        }
        lost.push(leaf).map_err(UnreadCopy::from)
    })
    .await?;
    Ok(if is_different { different(known) } else { CopyResult::Read(copy.size()) })
}
