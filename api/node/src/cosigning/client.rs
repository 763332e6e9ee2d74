//! The client of a witness (C2SP tlog-witness): add-checkpoint, and the monitoring call where the witness says that the log has
//! another history.

use std::time::Duration;

use fulexo_projections::tree::{TreeError, TreeReader};
use fulexo_tlog::checkpoint::Checkpoint;
use fulexo_tlog::hash::TreeHash;
use fulexo_tlog::key::{VerifierKey, verify};
use fulexo_tlog::note::{KeyName, MAX_NOTE, MAX_SIGNATURES, Note, SignatureLine};
use fulexo_tlog::submission::{ExtensionProof, Submission, origin_hash};
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode};
use sqlx::PgPool;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::outbound::OutboundClient;

/// The time that a witness has for an answer.
const ANSWER_TIME: Duration = Duration::from_secs(10);
/// The number of times that one round asks a witness: a second time once it has said what it cosigned last.
const ATTEMPTS: u32 = 2;

/// The reason why a witness has not cosigned a checkpoint.
#[derive(Debug, thiserror::Error)]
pub enum CosigningError {
    /// There is no answer.
    #[error("the witness does not respond: {0}")]
    NoAnswer(String),
    /// The answer is not one of a witness.
    #[error("the witness answers {0}")]
    Answer(StatusCode),
    /// The witness does not know the log.
    #[error("the witness does not know this log: give it the log's key")]
    UnknownLog,
    /// The witness has another key for the log.
    #[error("the witness does not accept the log's signature: give it the log's key")]
    UnknownKey,
    /// The cosignature is missing or wrong.
    #[error("the witness's answer has no valid cosignature of its key")]
    BadCosignature,
    /// The witness has cosigned a larger tree than there is now.
    #[error("the witness has cosigned a tree of {0} events, which this log does not have: the log was rolled back")]
    RolledBack(u64),
    /// The witness has cosigned another tree, which it shows.
    #[error("the witness has cosigned {0} other events of this log, and shows the checkpoint")]
    OtherTree(u64),
    /// The witness says that it has cosigned another tree, and shows none that it has cosigned.
    #[error("the witness says that it has cosigned other events of this log, and shows no checkpoint")]
    NothingShown,
    /// The witness says that it has cosigned another tree, and shows one that this log has.
    #[error("the witness refuses a proof, but shows a checkpoint that this log agrees with")]
    Unfounded,
    /// The tree is shorter than the checkpoint.
    #[error("the log has fewer events than the published checkpoint")]
    Shorter,
    /// Another node was faster.
    #[error("the witness has cosigned a newer checkpoint meanwhile")]
    Overtaken,
    /// The tree cannot be read.
    #[error("the tree cannot be read")]
    Tree(#[from] TreeError),
}

impl From<sqlx::Error> for CosigningError {
    fn from(error: sqlx::Error) -> Self {
        Self::Tree(error.into())
    }
}

impl CosigningError {
    /// `true` if the witness shows that the log has another history than it had.
    pub const fn is_contradiction(&self) -> bool {
        matches!(self, Self::RolledBack(_) | Self::OtherTree(_) | Self::NothingShown)
    }
}

/// The client of one witness.
pub struct WitnessClient {
    http: OutboundClient,
    prefix: String,
    /// The keys that the policy has for it, with their places in the policy.
    pub keys: Vec<(usize, VerifierKey)>,
}

/// A checkpoint that is submitted.
pub struct CheckpointToCosign {
    checkpoint: Checkpoint,
    /// With the log's signatures alone.
    note: Note,
    pool: PgPool,
    /// Proofs are read one after another: a round takes one connection from the rest of the node.
    reading: Semaphore,
}

impl CheckpointToCosign {
    /// Creates it, with a note that has the log's signatures alone.
    pub const fn new(checkpoint: Checkpoint, note: Note, pool: PgPool) -> Self {
        Self { checkpoint, note, pool, reading: Semaphore::const_new(1) }
    }

    /// The proof that the checkpoint extends the one of this size.
    async fn extension(&self, old_size: u64) -> Result<ExtensionProof, CosigningError> {
        // Never closed.
        let _reading = self.reading.acquire().await;
        let mut connection = self.pool.acquire().await?;
        let mut tree = TreeReader::open(&mut connection).await?;
        if old_size > tree.size() {
            return Err(CosigningError::RolledBack(old_size));
        }
        if old_size > self.checkpoint.size {
            return Err(CosigningError::Overtaken);
        }
        let hashes = tree.consistency(old_size, self.checkpoint.size).await?;
        Ok(ExtensionProof { old_size, hashes: hashes.ok_or(CosigningError::Shorter)? })
    }

    /// The root of the tree at this size; `None` if the tree is smaller.
    async fn root(&self, size: u64) -> Result<Option<TreeHash>, CosigningError> {
        let _reading = self.reading.acquire().await;
        let mut connection = self.pool.acquire().await?;
        let mut tree = TreeReader::open(&mut connection).await?;
        Ok(tree.root(size).await?)
    }
}

impl WitnessClient {
    /// Creates the client of the witness at this prefix.
    pub fn new(http: OutboundClient, prefix: &str) -> Self {
        Self { http, prefix: prefix.trim_end_matches('/').to_owned(), keys: Vec::new() }
    }

    /// Has a checkpoint cosigned. `known` is the size of the checkpoint that the witness cosigned last, as far as is known here.
    /// Returns the verified cosignatures, at least one, with the places of their keys.
    ///
    /// # Errors
    /// [`CosigningError`].
    pub async fn cosign(
        &self,
        submitted: &CheckpointToCosign,
        known: u64,
    ) -> Result<Vec<(usize, SignatureLine)>, CosigningError> {
        let note = &submitted.note;
        let mut old_size = known;
        for _ in 0..ATTEMPTS {
            let extension = submitted.extension(old_size).await?;
            let body = Submission { extension, checkpoint: note.clone() }.to_string();
            let (status, body) = self.request(Method::POST, "add-checkpoint", body).await?;
            match status {
                StatusCode::OK => return self.cosignatures(note.text(), &body),
                StatusCode::CONFLICT => match size(&body) {
                    Some(size) if size != old_size => old_size = size,
                    _ => return Err(CosigningError::Answer(status)),
                },
                StatusCode::UNPROCESSABLE_ENTITY => return Err(self.contradiction(submitted).await?),
                StatusCode::NOT_FOUND => return Err(CosigningError::UnknownLog),
                StatusCode::FORBIDDEN => return Err(CosigningError::UnknownKey),
                other => return Err(CosigningError::Answer(other)),
            }
        }
        Err(CosigningError::Overtaken)
    }

    /// Compares the tree with the checkpoint that the witness shows to monitors, and has cosigned. A 422 alone may be a fault of
    /// the witness; another tree under its signature is evidence.
    async fn contradiction(&self, submitted: &CheckpointToCosign) -> Result<CosigningError, CosigningError> {
        let path = format!("{}/checkpoint", origin_hash(&submitted.checkpoint.origin));
        let shown = match self.request(Method::GET, &path, String::new()).await {
            Ok((StatusCode::OK, body)) => self.cosigned(&body, &submitted.checkpoint.origin),
            _ => None,
        };
        let Some(shown) = shown else { return Ok(CosigningError::NothingShown) };
        Ok(match submitted.root(shown.size).await? {
            None => CosigningError::RolledBack(shown.size),
            Some(root) if root == shown.root => CosigningError::Unfounded,
            Some(_) => CosigningError::OtherTree(shown.size),
        })
    }

    /// The checkpoint of a note, if it is one of this log that a key of the witness has cosigned.
    fn cosigned(&self, note: &[u8], origin: &KeyName) -> Option<Checkpoint> {
        let note = Note::parse(note).ok()?;
        let keys: Vec<_> = self.keys.iter().map(|(_, key)| key.clone()).collect();
        verify(&note, &keys).ok()?;
        Checkpoint::parse(note.text()).ok().filter(|checkpoint| checkpoint.origin == *origin)
    }

    async fn request(&self, method: Method, path: &str, body: String) -> Result<(StatusCode, Bytes), CosigningError> {
        let no_answer = |error: &dyn std::fmt::Display| CosigningError::NoAnswer(error.to_string());
        let uri = format!("{}/{path}", self.prefix);
        let request = Request::builder().method(method).uri(uri).header("content-type", "text/plain");
        let request = request.body(Full::new(Bytes::from(body))).map_err(|error| no_answer(&error))?;
        match timeout(ANSWER_TIME, self.http.send(request, MAX_NOTE)).await {
            Ok(Ok(answer)) => Ok((answer.status, answer.body)),
            Ok(Err(error)) => Err(no_answer(&error)),
            Err(_) => Err(no_answer(&format_args!("no answer within {} seconds", ANSWER_TIME.as_secs()))),
        }
    }

    /// The cosignatures of an answer, verified; others are ignored.
    fn cosignatures(&self, text: &str, body: &[u8]) -> Result<Vec<(usize, SignatureLine)>, CosigningError> {
        let lines = std::str::from_utf8(body).ok().and_then(|body| {
            body.strip_suffix('\n')?
                .split('\n')
                .take(MAX_SIGNATURES)
                .map(SignatureLine::parse)
                .collect::<Option<Vec<_>>>()
        });
        let lines = lines.ok_or(CosigningError::BadCosignature)?;
        let mut cosignatures = Vec::new();
        for (place, key) in &self.keys {
            let Some(line) = lines.iter().find(|line| key.is_of(line)) else { continue };
            let note = Note::new(text.to_owned(), line.clone());
            verify(&note, std::slice::from_ref(key)).map_err(|_| CosigningError::BadCosignature)?;
            cosignatures.push((*place, line.clone()));
        }
        if cosignatures.is_empty() { Err(CosigningError::BadCosignature) } else { Ok(cosignatures) }
    }
}

/// The size in the answer to a conflict.
fn size(body: &[u8]) -> Option<u64> {
    let digits = std::str::from_utf8(body).ok()?.trim_end_matches('\n');
    digits.bytes().all(|digit| digit.is_ascii_digit()).then(|| digits.parse().ok())?
}
