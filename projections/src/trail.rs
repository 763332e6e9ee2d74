//! The verification of a whole log from its leaves alone: their form, the continuity of their streams, their times, and the
//! tree over them.

use std::collections::HashMap;
use std::fmt::{self, Display, Formatter};
use std::ops::Range;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Utc};
use foldhash::fast::RandomState;
use fulexo_domain::event::Category;
use fulexo_domain::leaf::{LeafOutline, is_canonical_json};
use fulexo_tlog::growing_tiles::{GrowingTiles, HashTile};
use fulexo_tlog::hash::TreeHash;
use fulexo_tlog::note::{KeyName, SignatureLine};
use sha2::{Digest, Sha256};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::to_i64;

/// A fault of a log, the first one that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrailFault {
    /// The kind of the fault.
    pub kind: FaultKind,
    /// The position of the event, where the fault is one of an event.
    pub position: Option<u64>,
    /// The finding, in words.
    pub detail: String,
}

/// The kind of a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    /// The checkpoint is not a signed note of this log.
    Checkpoint,
    /// No trusted key has signed the checkpoint, or too few have.
    Signature,
    /// A file is missing that a log of this size has.
    Missing,
    /// A file is there that a log of this size does not have.
    Unexpected,
    /// An entry bundle is not in its form.
    Bundle,
    /// A leaf is not an event in canonical form.
    Leaf,
    /// The columns of an event differ from its leaf.
    Row,
    /// Sealed data differ from the digest in the leaf.
    Sealed,
    /// A stream does not continue where it was.
    Stream,
    /// An event was recorded before the one that precedes it.
    Time,
    /// A tile has other hashes than the leaves.
    Tile,
    /// The root is not the one that was signed.
    Root,
    /// The log does not begin as an earlier checkpoint says.
    History,
}

impl FaultKind {
    /// The name in output for programs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Checkpoint => "checkpoint",
            Self::Signature => "signature",
            Self::Missing => "missing",
            Self::Unexpected => "unexpected",
            Self::Bundle => "bundle",
            Self::Leaf => "leaf",
            Self::Row => "row",
            Self::Sealed => "sealed",
            Self::Stream => "stream",
            Self::Time => "time",
            Self::Tile => "tile",
            Self::Root => "root",
            Self::History => "history",
        }
    }
}

impl TrailFault {
    /// A fault of the log as a whole, or of a file.
    #[must_use]
    pub fn of(kind: FaultKind, detail: impl Into<String>) -> Self {
        Self { kind, position: None, detail: detail.into() }
    }

    /// A fault of an event.
    #[must_use]
    pub fn at(position: u64, kind: FaultKind, detail: impl Into<String>) -> Self {
        Self { kind, position: Some(position), detail: detail.into() }
    }
}

impl Display for TrailFault {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.position {
            Some(position) => write!(f, "position {position}: {} ({})", self.detail, self.kind.as_str()),
            None => write!(f, "{} ({})", self.detail, self.kind.as_str()),
        }
    }
}

impl std::error::Error for TrailFault {}

/// Takes the leaves of a log in order. It holds a number per stream, and the unfinished tiles.
#[derive(Default)]
pub struct TrailVerifier {
    tiles: GrowingTiles,
    versions: HashMap<(Category, Uuid), u64, RandomState>,
    last_time: Option<DateTime<Utc>>,
}

impl TrailVerifier {
    /// The number of leaves so far.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.tiles.size()
    }

    /// The root over the leaves so far.
    #[must_use]
    pub fn root(&self) -> TreeHash {
        self.tiles.root()
    }

    /// The unfinished tiles over the leaves so far.
    pub fn unfinished(&self) -> impl Iterator<Item = HashTile> {
        self.tiles.unfinished()
    }

    /// Verifies the next leaf, and hands on the tiles that it completes.
    ///
    /// # Errors
    /// [`TrailFault`], after which the verifier takes no more leaves of this log.
    pub fn push<'a>(&mut self, leaf: &'a [u8], complete: impl FnMut(HashTile)) -> Result<LeafOutline<'a>, TrailFault> {
        let position = self.size();
        let fault = |kind, detail: String| Err(TrailFault::at(position, kind, detail));
        let Some(outline) = LeafOutline::read(leaf) else {
            let is_canonical = is_canonical_json(leaf);
            let detail = match (is_canonical, type_of(leaf)) {
                (false, _) => "the leaf is not in canonical form".to_owned(),
                (true, None) => "the leaf is not an event".to_owned(),
                (true, Some(name)) => format!("the leaf is not an event that this program knows: its type is {name}"),
            };
            return fault(FaultKind::Leaf, detail);
        };
        let LeafOutline { category, stream, version, time, .. } = outline;
        if self.last_time.is_some_and(|last| time < last) {
            return fault(FaultKind::Time, "the event was recorded before the one that precedes it".to_owned());
        }
        self.last_time = Some(time);
        let last = self.versions.entry((category, stream)).or_default();
        if last.checked_add(1) != Some(version) {
            let detail = format!("the stream {stream} continues with version {version} after {last}");
            return fault(FaultKind::Stream, detail);
        }
        *last = version;
        self.tiles.push(TreeHash::of_leaf(leaf), complete);
        Ok(outline)
    }
}

/// The type that a leaf names, if it reads like one.
fn type_of(leaf: &[u8]) -> Option<String> {
    let leaf: serde_json::Value = serde_json::from_slice(leaf).ok()?;
    let name = leaf.get("type")?.as_str()?;
    let is_word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'_');
    (name.len() <= 100 && name.bytes().all(is_word)).then(|| name.to_owned())
}

/// A signature by nobody, for the last line of a checkpoint with this root. Readers have to ignore it: those that do not would
/// fail at the first witness that they do not know.
#[must_use]
pub fn unknown_signature(root: TreeHash) -> Option<SignatureLine> {
    let digest: [u8; 32] = Sha256::digest(root.0).into();
    let [a, b, c, d, ..] = digest;
    let name = KeyName::parse("nobody.invalid")?;
    Some(SignatureLine { name, key_id: u32::from_be_bytes([a, b, c, d]), signature: digest.to_vec() })
}

/// An event as the database has it.
pub struct TrailRow {
    position: u64,
    category: String,
    stream: Uuid,
    version: u64,
    /// The leaf.
    pub leaf: Vec<u8>,
    leaf_hash: Vec<u8>,
    /// Nonce and ciphertext of what is sealed alongside it, as far as it is not erased.
    sealed: Vec<Vec<u8>>,
}

impl TrailRow {
    /// Reads the events at these positions, in order; missing ones are missing.
    ///
    /// # Errors
    /// [`sqlx::Error`].
    pub async fn read(connection: &mut PgConnection, positions: Range<u64>) -> Result<Vec<Self>, sqlx::Error> {
        let (from, to) = (to_i64(positions.start), to_i64(positions.end));
        let rows = sqlx::query!(
            "select position, stream_id, category, version, leaf, leaf_hash from log.event
             where position >= $1 and position < $2 order by position",
            from,
            to
        )
        .fetch_all(&mut *connection)
        .await?;
        let mut sealed: HashMap<i64, Vec<Vec<u8>>> = HashMap::new();
        let found = sqlx::query!(
            "select position, nonce || ciphertext as \"sealed!\" from log.sealed where position >= $1 and position < $2",
            from,
            to
        )
        .fetch_all(&mut *connection)
        .await?;
        for row in found {
            sealed.entry(row.position).or_default().push(row.sealed);
        }
        let read = rows.into_iter().map(|row| Self {
            position: row.position.unsigned_abs(),
            category: row.category,
            stream: row.stream_id,
            version: row.version.unsigned_abs(),
            leaf: row.leaf,
            leaf_hash: row.leaf_hash,
            sealed: sealed.remove(&row.position).unwrap_or_default(),
        });
        Ok(read.collect())
    }

    /// Verifies that the row is the one at this position.
    ///
    /// # Errors
    /// [`TrailFault`].
    pub fn is_at(&self, position: u64) -> Result<(), TrailFault> {
        if self.position == position {
            Ok(())
        } else {
            Err(TrailFault::at(position, FaultKind::Missing, "the event is missing"))
        }
    }

    /// Verifies the row against its leaf, which is verified already.
    ///
    /// # Errors
    /// [`TrailFault`].
    pub fn agrees_with(&self, leaf: &LeafOutline<'_>) -> Result<(), TrailFault> {
        let fault = |kind, detail: &str| Err(TrailFault::at(self.position, kind, detail));
        if TreeHash::of_leaf(&self.leaf).0 != *self.leaf_hash {
            return fault(FaultKind::Row, "the hash on record is not the leaf's");
        }
        if leaf.category.as_str() != self.category || leaf.stream != self.stream || leaf.version != self.version {
            return fault(FaultKind::Row, "the columns name another stream or version than the leaf");
        }
        if self.sealed.is_empty() {
            return Ok(());
        }
        let known = leaf.sealed();
        let is_known = |sealed: &Vec<u8>| {
            let digest = URL_SAFE_NO_PAD.encode(Sha256::digest(sealed));
            known.iter().any(|known| known.digest == digest)
        };
        if self.sealed.iter().all(is_known) {
            Ok(())
        } else {
            fault(FaultKind::Sealed, "sealed data differ from the digest in the leaf")
        }
    }
}
