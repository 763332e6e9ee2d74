//! The places that a log is read from: a service or a static copy over HTTP, a directory, or the database.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use fulexo_database::chain;
use fulexo_node::database::{connect, reason};
use fulexo_node::outbound::OutboundClient;
use fulexo_projections::tree::{AnchoredCheckpoint, PublishedCheckpoint, TreeError, TreeReader};
use fulexo_tlog::hash::TreeHash;
use fulexo_tlog::note::MAX_NOTE;
use fulexo_tlog::tile::Tile;
use fulexo_tlog::tree::{Subtree, subtrees};
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::{Request, StatusCode};
use sqlx::PgPool;
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use zeroize::Zeroizing;

use crate::cli::failure::Failure;
use crate::cli::target::Target;

/// The path of the log of a service.
const LOG: &str = "/v1/audit/log";
/// The length of the longest bundle, in bytes: 256 leaves of the longest kind.
const MAX_BUNDLE: usize = 256 * (2 + 65_535);
/// The connections to a database that is a source.
pub const CONNECTIONS: u32 = 4;
/// The attempts at a request that a quota refuses, or that gets no answer.
const ATTEMPTS: u32 = 8;
/// The longest wait for a quota.
const MAX_WAIT: Duration = Duration::from_secs(120);

#[derive(Args)]
pub struct SourceArgs {
    /// Read the log from here: the URL of a service or of a static copy, the URL of a PostgreSQL database, or a directory
    /// [default: the database of DATABASE_URL].
    #[arg(value_name = "TARGET")]
    from: Option<String>,
    /// Read entries over HTTP with the access token, or the API key, in this file. It needs the permission audit.read.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    #[command(flatten)]
    database: Target,
}

/// A log as its keeper shows it.
#[derive(Clone)]
pub enum LogSource {
    Http { client: Box<OutboundClient>, prefix: String, token: Option<Zeroizing<String>> },
    Directory(PathBuf),
    Database(PgPool),
}

impl SourceArgs {
    /// The same with the target that another argument has.
    pub fn with_target(self, target: Option<PathBuf>) -> Result<Self, Failure> {
        match target.map(PathBuf::into_os_string) {
            None => Ok(self),
            Some(_) if self.from.is_some() => Err(Failure::Misused("DIRECTORY: is not for --format".to_owned())),
            Some(target) => {
                let target = target.into_string().map_err(|_| Failure::Misused("TARGET: is not UTF-8".to_owned()))?;
                Ok(Self { from: Some(target), ..self })
            }
        }
    }

    pub async fn open(&self) -> Result<LogSource, Failure> {
        let url = match &self.from {
            Some(url) if url.starts_with("postgres://") || url.starts_with("postgresql://") => url.clone(),
            Some(url) if url.starts_with("http://") || url.starts_with("https://") => {
                let token = match &self.token_file {
                    Some(path) => {
                        let text = std::fs::read_to_string(path);
                        let text = text.map_err(|error| format!("cannot read {}: {error}", path.display()))?;
                        Some(Zeroizing::new(text.trim().to_owned()))
                    }
                    None => None,
                };
                return LogSource::http(url, token);
            }
            Some(directory) if Path::new(directory).is_dir() => {
                return Ok(LogSource::Directory(PathBuf::from(directory)));
            }
            Some(other) => {
                return Err(Failure::Misused(format!("TARGET: {other} is neither a URL nor a directory")));
            }
            None => self.database.database_url()?,
        };
        Ok(LogSource::Database(connect(&url, CONNECTIONS).await?))
    }
}

impl LogSource {
    /// The log of a service, or a static copy of one.
    pub fn http(url: &str, token: Option<Zeroizing<String>>) -> Result<Self, Failure> {
        let prefix = url.trim_end_matches('/');
        let has_path = prefix.split_once("://").is_some_and(|(_, rest)| rest.contains('/'));
        let prefix = if has_path { prefix.to_owned() } else { format!("{prefix}{LOG}") };
        let client = Box::new(OutboundClient::new().map_err(|error| error.to_string())?);
        Ok(Self::Http { client, prefix, token })
    }

    /// The signed checkpoint; if it has to be cosigned, the newest one that enough witnesses have cosigned.
    pub async fn checkpoint(&self, is_cosigned: bool) -> Result<Vec<u8>, Failure> {
        let none = || Failure::Failed("the log has no checkpoint: nothing signs it".to_owned());
        match self {
            Self::Http { .. } => self.fetch("checkpoint", MAX_NOTE).await?.ok_or_else(none),
            Self::Directory(path) => self.file(path.join("checkpoint")).await?.ok_or_else(none),
            Self::Database(pool) => {
                let cannot = |error: sqlx::Error| format!("cannot read the checkpoint: {}", reason(&error));
                if let (Some(anchored), _) = AnchoredCheckpoint::read(pool).await.map_err(cannot)?
                    && is_cosigned
                {
                    return Ok(anchored.note.into_bytes());
                }
                let (published, _) = PublishedCheckpoint::read(pool).await.map_err(cannot)?;
                published.note.map(String::into_bytes).ok_or_else(none)
            }
        }
    }

    /// The public key that the log names as its own.
    pub async fn key(&self) -> Result<Option<Vec<u8>>, Failure> {
        match self {
            Self::Http { .. } => self.fetch("log.vkey", MAX_NOTE).await,
            Self::Directory(path) => self.file(path.join("log.vkey")).await,
            Self::Database(pool) => {
                let (published, _) = PublishedCheckpoint::read(pool)
                    .await
                    .map_err(|error| format!("cannot read the checkpoint: {}", reason(&error)))?;
                Ok(published.vkey.map(String::into_bytes))
            }
        }
    }

    /// A tile or a bundle; `None` if there is none, or none that is whole.
    pub async fn tile(&self, tile: Tile) -> Result<Option<Vec<u8>>, Failure> {
        match self {
            Self::Http { .. } => self.fetch(&tile.to_string(), MAX_BUNDLE).await,
            Self::Directory(path) => self.file(path.join(tile.to_string())).await,
            Self::Database(pool) => {
                let mut connection = pool.acquire().await?;
                let mut reader = TreeReader::open(&mut connection).await?;
                match reader.tile(tile).await {
                    Ok(content) => Ok(content),
                    // A fault of the log, which whoever verifies it names by its place, and no failure to read it.
                    Err(TreeError::Damaged(_)) => Ok(None),
                    Err(error @ TreeError::Database(_)) => {
                        Err(Failure::Failed(format!("cannot read {tile}: {}", chain(&error))))
                    }
                }
            }
        }
    }

    /// The roots over ranges of leaves of a tree of this size; `None` if a tile is missing or damaged.
    pub async fn roots(&self, ranges: &[std::ops::Range<u64>], size: u64) -> Result<Option<Vec<TreeHash>>, Failure> {
        let mut roots = Vec::with_capacity(ranges.len());
        for range in ranges {
            let mut hashes = Vec::new();
            for subtree in subtrees(range.clone()) {
                let Some(hash) = self.hash(subtree, size).await? else { return Ok(None) };
                hashes.push(hash);
            }
            // From the right: the largest subtree comes first.
            let joined = hashes.into_iter().rev().reduce(|right, left| TreeHash::of_node(&left, &right));
            roots.push(joined.unwrap_or_else(TreeHash::of_empty_tree));
        }
        Ok(Some(roots))
    }

    async fn hash(&self, subtree: Subtree, size: u64) -> Result<Option<TreeHash>, Failure> {
        let tile = Tile::of_subtree(subtree);
        // As wide as the tree has it: a static copy has no other.
        let Some(tile) = tile.kind.tile(tile.index, size) else { return Ok(None) };
        let content = self.tile(tile).await?;
        Ok(content.and_then(|content| Tile::hash_in(&content, subtree)))
    }

    async fn file(&self, path: PathBuf) -> Result<Option<Vec<u8>>, Failure> {
        let read = spawn_blocking(move || match read_file(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Failure::Failed(format!("cannot read {}: {error}", path.display()))),
        });
        read.await.map_err(|error| Failure::Failed(error.to_string()))?
    }

    async fn fetch(&self, path: &str, most: usize) -> Result<Option<Vec<u8>>, Failure> {
        let Self::Http { client, prefix, token } = self else { return Ok(None) };
        let url = format!("{prefix}/{path}");
        let mut reason = String::new();
        for attempt in 0..ATTEMPTS {
            let mut request = Request::get(&url);
            // Everything else is public, and a token is nothing to show around.
            if let Some(token) = token.as_ref().filter(|_| path.starts_with("tile/entries/")) {
                request = request.header("authorization", format!("Bearer {}", **token));
            }
            let request = request.body(Full::new(Bytes::new()));
            let request = request.map_err(|_| Failure::Misused(format!("{prefix} is not a URL")))?;
            let mut wait = Duration::from_millis(100) * 2_u32.pow(attempt);
            match client.send(request, most).await {
                Ok(answer) if answer.status == StatusCode::OK => return Ok(Some(answer.body.to_vec())),
                Ok(answer) if answer.status == StatusCode::NOT_FOUND => return Ok(None),
                Ok(answer)
                    if answer.status == StatusCode::TOO_MANY_REQUESTS
                        || answer.status == StatusCode::SERVICE_UNAVAILABLE =>
                {
                    let after = answer.headers.get("retry-after").and_then(|after| after.to_str().ok()?.parse().ok());
                    wait = after.map_or(wait, Duration::from_secs).min(MAX_WAIT);
                    reason = answer.status.to_string();
                }
                Ok(answer) if [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN].contains(&answer.status) => {
                    return Err(Failure::Failed(format!(
                        "{url}: {}. Entries need --token-file with a token or an API key that may read the audit trail",
                        answer.status
                    )));
                }
                Ok(answer) => return Err(Failure::Failed(format!("{url}: {}", answer.status))),
                Err(error) => reason = error.to_string(),
            }
            sleep(wait).await;
        }
        Err(Failure::Failed(format!("{url}: {reason}")))
    }
}

/// Reads a file of a copy, which may be anybody's: no longer than any file of a log is, and no device or pipe.
fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    // Before it is opened: a pipe would be waited for.
    if !std::fs::metadata(path)?.is_file() {
        return Err(io::Error::new(ErrorKind::InvalidInput, "it is not a file"));
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_BUNDLE as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > MAX_BUNDLE {
        return Err(io::Error::new(ErrorKind::FileTooLarge, "it is longer than any file of a log"));
    }
    Ok(bytes)
}
