//! The log as a transparency log (C2SP tlog-tiles): its signed checkpoint, its tiles, and proofs. Public, but for the entries.

use std::time::Duration;

use fulexo_commands::EventCopy;
use fulexo_domain::audit::{CopyFilter, CopyForm};
use fulexo_domain::permission::Permission;
use fulexo_node::answer::query_failed;
use fulexo_node::caller::{BearerOrKey, app};
use fulexo_node::http::Problem;
use fulexo_node::http::cached::{is_known, tag_of};
use fulexo_node::http::files::{compressed, takes_gzip};
use fulexo_node::http::problem::FieldError;
use fulexo_node::state::App;
use fulexo_projections::tree::{TreeError, TreeReader};
use fulexo_tlog::checkpoint::Checkpoint;
use fulexo_tlog::entry_proof::EntryProof;
use fulexo_tlog::note::Note;
use fulexo_tlog::tile::{Tile, TileKind};
use poem::http::Uri;
use poem::{Endpoint, IntoEndpoint, IntoResponse, Request, Response};
use poem_openapi::param::{Path, Query};
use poem_openapi::payload::{Binary, Json, PlainText};
use poem_openapi::{ApiResponse, Object, OpenApi};
use tokio::task::spawn_blocking;

use super::tag::Tag;

pub struct TransparencyLog;

/// The age at which a checkpoint, or a proof in one, is worth asking for again.
const NEWEST: &str = "public, max-age=1";
/// A tile never changes.
const PUBLIC_TILE: &str = "public, max-age=31536000, immutable";
/// Entries never change either, and are for those who may read them.
const ENTRIES: &str = "private, max-age=31536000, immutable";
/// The least bundle, in bytes, that is compressed.
const WORTH_IT: usize = 1_024;
/// The path below which tiles are.
const TILES: &str = "/v1/audit/log/tile/";

/// A signed note, a proof that ends with one, or a key.
#[derive(ApiResponse)]
enum NoteResponse {
    /// The text.
    #[oai(status = 200, content_type = "text/plain; charset=utf-8")]
    Whole(
        PlainText<String>,
        /// The entity tag of this text.
        #[oai(header = "ETag")]
        String,
        /// The time for which caches may keep it.
        #[oai(header = "Cache-Control")]
        String,
    ),
    /// `If-None-Match` has the entity tag of the text.
    #[oai(status = 304)]
    Unchanged(
        /// The entity tag of this text.
        #[oai(header = "ETag")]
        String,
        /// The time for which caches may keep it.
        #[oai(header = "Cache-Control")]
        String,
    ),
}

/// A tile or an entry bundle.
#[derive(ApiResponse)]
enum TileResponse {
    /// The content: hashes of 32 bytes each, or entries, each behind its length in two bytes.
    #[oai(status = 200)]
    Whole(
        Binary<Vec<u8>>,
        /// The entity tag of this content.
        #[oai(header = "ETag")]
        String,
        /// The time for which caches may keep it.
        #[oai(header = "Cache-Control")]
        String,
        /// `gzip`, if the request accepts it and the content gains by it.
        #[oai(header = "Content-Encoding")]
        Option<String>,
        /// The request headers that select the content.
        #[oai(header = "Vary")]
        Option<String>,
    ),
    /// `If-None-Match` has the entity tag of the content.
    #[oai(status = 304)]
    Unchanged(
        /// The entity tag of this content.
        #[oai(header = "ETag")]
        String,
        /// The time for which caches may keep it.
        #[oai(header = "Cache-Control")]
        String,
        /// The request headers that select the content.
        #[oai(header = "Vary")]
        Option<String>,
    ),
}

/// A proof that a tree begins with all leaves of a smaller one (RFC 6962, section 2.1.2).
#[derive(Object)]
struct ConsistencyProof {
    /// The size of the smaller tree.
    from: u64,
    /// The size of the larger tree.
    to: u64,
    /// The root of the smaller tree, in base64.
    from_root: String,
    /// The root of the larger tree, in base64.
    to_root: String,
    /// The hashes of the proof, each in base64. None if the sizes are equal, or `from` is 0.
    hashes: Vec<String>,
}

#[OpenApi(prefix_path = "/v1/audit/log", tag = "Tag::Audit")]
impl TransparencyLog {
    /// Get the signed checkpoint
    ///
    /// Returns the newest checkpoint of the log: a signed note (C2SP tlog-checkpoint) with the number of events and the root of
    /// the tree over them. A new one is signed at most once a second while events are appended, and every ten minutes while
    /// none are. If witnesses are asked to cosign it, this is the newest one that enough of them have cosigned, with their
    /// cosignatures (C2SP tlog-cosignature); health has the size of both.
    ///
    /// Answers 404 if no checkpoint is signed.
    #[oai(path = "/checkpoint", method = "get", operation_id = "get_log_checkpoint")]
    async fn checkpoint(&self, request: &Request) -> Result<NoteResponse, Problem> {
        let app = app(request)?;
        // Not a larger one first and then the anchored one.
        if app.cosigning.as_ref().is_some_and(|cosigning| !cosigning.borrow().is_known) {
            return Err(Problem::unavailable(Duration::from_secs(1)));
        }
        let note = anchored(app).or_else(|| signed(app)).ok_or_else(Problem::not_found)?;
        Ok(NoteResponse::answer(request, note))
    }

    /// Get the public key of the log
    ///
    /// Returns the key that signs checkpoints, as a vkey (C2SP signed-note). Whoever verifies the log should have it from
    /// elsewhere, since who keeps a log could show another key with another log.
    ///
    /// Answers 404 if no checkpoint is signed.
    #[oai(path = "/log.vkey", method = "get", operation_id = "get_log_key")]
    async fn key(&self, request: &Request) -> Result<NoteResponse, Problem> {
        let vkey = app(request)?.checkpoint.borrow().published.vkey.clone();
        Ok(NoteResponse::answer(request, vkey.ok_or_else(Problem::not_found)?))
    }

    /// Get a tile of hashes
    ///
    /// Returns up to 256 hashes of the tree (C2SP tlog-tiles): `tile/0/000` has the first 256 leaf hashes,
    /// `tile/0/x001/234.p/5` the first five of tile 1,234. Tiles never change. Slashes of the index may be percent-encoded.
    ///
    /// Answers 404 for a tile that the published checkpoint does not cover.
    #[oai(path = "/tile/:level/:index", method = "get", operation_id = "get_log_tile")]
    async fn tile(
        &self,
        request: &Request,
        /// The level, from 0: a hash at level L is the root over 256^L leaves.
        level: Path<String>,
        /// The index of the tile, in groups of three digits, all but the last with `x`; `.p/W` for the first W hashes.
        index: Path<String>,
    ) -> Result<TileResponse, Problem> {
        let app = app(request)?;
        let tile = published_tile(app, &level.0, &index.0)?;
        let _few = app.read_in_public().await?;
        let content = read_tile(app, tile).await?;
        Ok(TileResponse::answer(request, content, PUBLIC_TILE))
    }

    /// Get an entry bundle
    ///
    /// Needs the permission `audit.read`. Returns up to 256 leaves of the log (C2SP tlog-tiles), each behind its length in two
    /// bytes, big-endian: `tile/entries/000` has the first 256 events. Bundles never change. Slashes of the index may be
    /// percent-encoded.
    ///
    /// Whoever reads bundles is recorded once an hour at each node, by the event `audit.exported`.
    ///
    /// Answers 404 for a bundle that the published checkpoint does not cover.
    #[oai(path = "/tile/entries/:index", method = "get", operation_id = "get_log_entries")]
    async fn entries(
        &self,
        request: &Request,
        caller: BearerOrKey,
        /// The index of the bundle, in groups of three digits, all but the last with `x`; `.p/W` for the first W entries.
        index: Path<String>,
    ) -> Result<TileResponse, Problem> {
        caller.0.require(Permission::AuditRead)?;
        let app = app(request)?;
        let bundle = published_tile(app, "entries", &index.0)?;
        // The hashes of its leaves stand for them: a client that has the bundle does not make the log be read.
        let hashes = read_tile(app, Tile { kind: TileKind::Hashes(0), ..bundle }).await?;
        let gzip = takes_gzip(request.headers());
        let tag = tag_of(&hashes);
        let tag = if gzip { format!("{}-gzip\"", tag.trim_end_matches('"')) } else { tag };
        let vary = Some("accept-encoding".to_owned());
        if is_known(request, &tag) {
            return Ok(TileResponse::Unchanged(tag, ENTRIES.to_owned(), vary));
        }
        let (form, filter) = (CopyForm::Entries, CopyFilter::default());
        app.record_copy(request, &caller.0, EventCopy { form, first: 0, last: None, filter }).await?;
        let _few = app.look_back().await?;
        let content = read_tile(app, bundle).await?;
        let (content, coding) = if gzip { coded(content).await? } else { (content, None) };
        Ok(TileResponse::Whole(Binary(content), tag, ENTRIES.to_owned(), coding, vary))
    }

    /// Get the proof of an event
    ///
    /// Returns the proof that a published checkpoint covers the event at this position, in a form that is verified offline
    /// (C2SP tlog-proof): hashes, and the checkpoint. Whoever has the event's leaf can verify it. The checkpoint is the newest one
    /// that enough witnesses have cosigned, or, if it does not cover the event yet, the newest one that is signed.
    ///
    /// Answers 404 if the published checkpoint does not cover the position.
    #[oai(path = "/proof/:position", method = "get", operation_id = "get_log_proof")]
    async fn proof(&self, request: &Request, position: Path<u64>) -> Result<NoteResponse, Problem> {
        let app = app(request)?;
        let _few = app.read_in_public().await?;
        Ok(NoteResponse::answer(request, proof_of(app, position.0, None).await?.to_string()))
    }

    /// Get a consistency proof
    ///
    /// Returns the proof that the tree of `to` events begins with all events of the tree of `from`: nothing before it was
    /// changed or removed. Verify it with the roots of two checkpoints that you have, not with those in the answer.
    ///
    /// Answers 404 for a size that the published checkpoint does not cover.
    #[oai(path = "/consistency", method = "get", operation_id = "get_log_consistency")]
    async fn consistency(
        &self,
        request: &Request,
        /// The size of the smaller tree.
        from: Query<u64>,
        /// The size of the larger tree. The default is the size of the published checkpoint.
        to: Query<Option<u64>>,
    ) -> Result<Json<ConsistencyProof>, Problem> {
        let app = app(request)?;
        let (_, checkpoint) = published(app, from.0.max(to.0.unwrap_or_default()))?;
        let (from, to) = (from.0, to.0.unwrap_or(checkpoint.size));
        if to > checkpoint.size || from > checkpoint.size {
            return Err(Problem::not_found());
        }
        if from > to {
            return Err(Problem::invalid_input(vec![FieldError::new("/from", "must not be greater than to")]));
        }
        let _few = app.read_in_public().await?;
        let proof = with_tree(app, async |tree| {
            Ok(match (tree.consistency(from, to).await?, tree.root(from).await?, tree.root(to).await?) {
                (Some(hashes), Some(from_root), Some(to_root)) => Some((hashes, from_root, to_root)),
                _ => None,
            })
        });
        let (hashes, from_root, to_root) = proof.await?.ok_or_else(Problem::not_found)?;
        Ok(Json(ConsistencyProof {
            from,
            to,
            from_root: from_root.to_string(),
            to_root: to_root.to_string(),
            hashes: hashes.iter().map(ToString::to_string).collect(),
        }))
    }
}

/// The proof of the event at this position, with its leaf if that is given.
///
/// # Errors
/// 404 if the published checkpoint does not cover the position.
pub async fn proof_of(app: &App, position: u64, leaf: Option<Vec<u8>>) -> Result<EntryProof, Problem> {
    let (note, checkpoint) = published(app, position.saturating_add(1))?;
    let hashes = with_tree(app, async |tree| tree.inclusion(position, checkpoint.size).await).await?;
    let hashes = hashes.ok_or_else(Problem::not_found)?;
    Ok(EntryProof { extra: leaf, index: position, hashes, checkpoint: note })
}

impl NoteResponse {
    fn answer(request: &Request, text: String) -> Self {
        let tag = tag_of(text.as_bytes());
        match is_known(request, &tag) {
            true => Self::Unchanged(tag, NEWEST.to_owned()),
            false => Self::Whole(PlainText(text), tag, NEWEST.to_owned()),
        }
    }
}

impl TileResponse {
    /// Hashes do not compress.
    fn answer(request: &Request, content: Vec<u8>, control: &str) -> Self {
        let tag = tag_of(&content);
        match is_known(request, &tag) {
            true => Self::Unchanged(tag, control.to_owned(), None),
            false => Self::Whole(Binary(content), tag, control.to_owned(), None, None),
        }
    }
}

/// The newest checkpoint that enough witnesses have cosigned.
fn anchored(app: &App) -> Option<String> {
    app.cosigning.as_ref()?.borrow().anchored.as_ref().map(|anchored| anchored.note.clone())
}

/// The newest checkpoint that is signed.
fn signed(app: &App) -> Option<String> {
    app.checkpoint.borrow().published.note.clone()
}

/// The anchored checkpoint if it covers so many events, else the newest one.
///
/// # Errors
/// 404 before the first one.
fn published(app: &App, events: u64) -> Result<(Note, Checkpoint), Problem> {
    let covering = anchored(app).filter(|_| app.anchored_size().is_some_and(|size| size >= events));
    let text = covering.or_else(|| signed(app)).ok_or_else(Problem::not_found)?;
    let note = Note::parse(text.as_bytes()).map_err(Problem::internal)?;
    let checkpoint = Checkpoint::parse(note.text()).map_err(Problem::internal)?;
    Ok((note, checkpoint))
}

/// The tile at this path, if the published checkpoint covers it.
///
/// # Errors
/// 404 otherwise.
fn published_tile(app: &App, level: &str, index: &str) -> Result<Tile, Problem> {
    let size = app.checkpoint.borrow().published.size;
    let tile = Tile::parse(&format!("tile/{level}/{index}"));
    tile.filter(|tile| tile.exists_at(size)).ok_or_else(Problem::not_found)
}

async fn read_tile(app: &App, tile: Tile) -> Result<Vec<u8>, Problem> {
    with_tree(app, async |tree| tree.tile(tile).await).await?.ok_or_else(Problem::not_found)
}

/// Reads from the tree.
///
/// # Errors
/// 503 if the database does not respond, 500 if the tree is damaged.
async fn with_tree<T>(
    app: &App,
    read: impl AsyncFnOnce(&mut TreeReader<'_>) -> Result<T, TreeError>,
) -> Result<T, Problem> {
    let mut connection = app.pool.acquire().await.map_err(query_failed)?;
    let mut tree = TreeReader::open(&mut connection).await.map_err(query_failed)?;
    read(&mut tree).await.map_err(|error| match error {
        TreeError::Database(error) => query_failed(error),
        damaged @ TreeError::Damaged(_) => Problem::internal(damaged),
    })
}

/// The content, compressed where it gains by it, and its coding.
async fn coded(content: Vec<u8>) -> Result<(Vec<u8>, Option<String>), Problem> {
    if content.len() < WORTH_IT {
        return Ok((content, None));
    }
    // Of the longest leaves a bundle has 16 MiB, whose compression must not keep other requests waiting.
    let coded = spawn_blocking(move || match compressed(&content) {
        Some(gzip) => (gzip.to_vec(), Some("gzip".to_owned())),
        None => (content, None),
    });
    coded.await.map_err(Problem::internal)
}

/// Hands the paths of tiles, whose indexes have several segments, to `app` with an index of one: `x001/234.p/5` as
/// `x001%2F234.p%2F5`.
pub fn tiles_before<A>(app: A) -> impl Endpoint<Output = Response>
where
    A: IntoEndpoint,
    A::Endpoint: 'static,
{
    TilePaths { app: app.into_endpoint() }
}

struct TilePaths<E> {
    app: E,
}

impl<E: Endpoint> Endpoint for TilePaths<E> {
    type Output = Response;

    async fn call(&self, mut request: Request) -> poem::Result<Response> {
        if let Some(uri) = with_one_segment(request.uri()) {
            *request.uri_mut() = uri;
        }
        self.app.call(request).await.map(IntoResponse::into_response)
    }
}

fn with_one_segment(uri: &Uri) -> Option<Uri> {
    let (level, index) = uri.path().strip_prefix(TILES)?.split_once('/')?;
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let path = format!("{TILES}{level}/{}{query}", index.replace('/', "%2F"));
    index.contains('/').then(|| path.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_of_several_segments_becomes_one() {
        let joined = |path: &str| with_one_segment(&path.parse().unwrap()).map(|uri| uri.to_string());
        let becomes = |path: &str, index: &str| assert_eq!(joined(path), Some(format!("{TILES}{index}")), "{path}");
        becomes("/v1/audit/log/tile/0/x001/234.p/5", "0/x001%2F234.p%2F5");
        becomes("/v1/audit/log/tile/entries/x001/234?a=b", "entries/x001%2F234?a=b");
        becomes("/v1/audit/log/tile/0/000/", "0/000%2F");
        for path in ["/v1/audit/log/tile/0/000", "/v1/audit/log/tile/0", "/v1/audit/log/checkpoint", "/v1/a/b/c"] {
            assert_eq!(joined(path), None, "{path}");
        }
    }
}
