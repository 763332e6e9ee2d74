//! The publication of checkpoints: at most one a second while the tree grows, and one every ten minutes while it does not, so
//! that a reader can tell a quiet log from one that is kept from it.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use fulexo_database::chain;
use fulexo_domain::checkpoint::CheckpointRefusal;
use fulexo_projections::trail::unknown_signature;
use fulexo_projections::tree::{PublishedCheckpoint, PublishingTurn, TreeError, TreeReader, TreeState};
use fulexo_tlog::checkpoint::Checkpoint;
use fulexo_tlog::extension::ExtensionError;
use fulexo_tlog::key::VerifierKey;
use fulexo_tlog::note::Note;
use fulexo_tlog::submission::ExtensionProof;
use sqlx::PgPool;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::clock;
use crate::signer::{Signer, SignerError, SigningRequest};

/// The least time between two checkpoints, and between two looks at what other nodes have published.
const INTERVAL: Duration = Duration::from_secs(1);
/// The age at which a checkpoint is signed again although nothing is new.
const MAX_AGE: TimeDelta = TimeDelta::minutes(10);

/// The reason why there is no newer checkpoint.
#[derive(Debug, thiserror::Error)]
enum PublishingError {
    #[error("the database failed")]
    Database(#[from] sqlx::Error),
    #[error("the tree cannot be read")]
    Tree(#[from] TreeError),
    #[error(
        "the log has {size} events, but the signer has signed a tree of {signed}: events were lost, or an old database was restored"
    )]
    Shorter { size: u64, signed: u64 },
    #[error("the log has other events than those that were signed")]
    Different,
    #[error("another process has signed a checkpoint meanwhile")]
    Overtaken,
    #[error("the signer has no key")]
    Unsigned,
    #[error("the signer does not sign")]
    Signer(#[source] SignerError),
}

impl From<SignerError> for PublishingError {
    fn from(error: SignerError) -> Self {
        match error {
            SignerError::Extension(ExtensionError::Inconsistent) => Self::Different,
            SignerError::Extension(ExtensionError::NotLast { .. }) => Self::Overtaken,
            other => Self::Signer(other),
        }
    }
}

impl PublishingError {
    /// The reason if the tree is refused, or cannot be signed, and every node has to know.
    const fn refusal(&self) -> Option<CheckpointRefusal> {
        match self {
            Self::Shorter { .. } => Some(CheckpointRefusal::Shorter),
            Self::Different => Some(CheckpointRefusal::Different),
            Self::Signer(SignerError::OtherLog) => Some(CheckpointRefusal::OtherLog),
            Self::Signer(SignerError::Memory(_)) => Some(CheckpointRefusal::Memory),
            Self::Signer(_) | Self::Database(_) | Self::Tree(_) | Self::Overtaken | Self::Unsigned => None,
        }
    }
}

/// The published checkpoint, as this node knows it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckpointState {
    /// The checkpoint.
    pub published: PublishedCheckpoint,
    /// The time since which leaves wait for the next one; `None` if none do.
    pub waiting_since: Option<DateTime<Utc>>,
}

impl CheckpointState {
    /// Learns of the checkpoint that is published now, and of the size that the tree has.
    fn learn(&mut self, published: PublishedCheckpoint, tree_size: u64, now: DateTime<Utc>) -> bool {
        let is_newer = published.size != self.published.size;
        let since = self.waiting_since.filter(|_| !is_newer).unwrap_or(now);
        let known = Self { waiting_since: (tree_size != published.size).then_some(since), published };
        let differs = *self != known;
        *self = known;
        differs
    }
}

/// Publishes checkpoints, where this node has a signer, and follows what others publish.
pub struct CheckpointPublisher {
    pool: PgPool,
    tree: watch::Receiver<TreeState>,
    signer: Option<Signer>,
    state: watch::Sender<CheckpointState>,
    /// `true` once the signer has signed what the database had when this process, or an older state of it, began.
    is_verified: bool,
}

impl CheckpointPublisher {
    /// Creates it. The returned receiver shows the published checkpoint.
    pub fn new(
        pool: PgPool,
        tree: watch::Receiver<TreeState>,
        signer: Option<Signer>,
    ) -> (Self, watch::Receiver<CheckpointState>) {
        let (state, states) = watch::channel(CheckpointState::default());
        (Self { pool, tree, signer, state, is_verified: false }, states)
    }

    /// Runs until cancelled.
    pub async fn run(mut self) {
        let mut reported = String::new();
        loop {
            self.tree.borrow_and_update();
            let wait = match self.step().await {
                Ok(wait) => {
                    reported.clear();
                    wait
                }
                Err(error) => {
                    let because = chain(&error).to_string();
                    // Once, and not each second.
                    if because != reported {
                        tracing::error!(error = because, "no checkpoint is published; trying again");
                        reported = because;
                    }
                    Some(INTERVAL)
                }
            };
            match wait {
                Some(wait) => sleep(wait).await,
                None => {
                    if let Ok(Err(_)) = timeout(INTERVAL, self.tree.changed()).await {
                        return;
                    }
                }
            }
        }
    }

    /// Publishes a checkpoint if one is due. Returns the time until the next look; `None` if a new leaf may shorten it.
    async fn step(&mut self) -> Result<Option<Duration>, PublishingError> {
        let (published, tree_size) = PublishedCheckpoint::read(&self.pool).await?;
        // An older one is published again: somebody has put an old state of the database in place of the one before.
        self.is_verified &= published.size >= self.state.borrow().published.size;
        let is_new = tree_size != published.size || published.refused_because.is_some() || !self.is_verified;
        let wait = due_in(published.published_at, is_new, clock::now());
        self.show(published, tree_size);
        let Some(signer) = self.signer.as_ref() else { return Ok(None) };
        match wait {
            Some(Duration::ZERO) => {}
            Some(wait) => return Ok(Some(wait)),
            None => return Ok(None),
        }
        let Some(mut turn) = PublishingTurn::take(&self.pool).await? else { return Ok(Some(INTERVAL / 10)) };
        match sign(&mut turn, signer).await {
            Ok((size, note, key)) => {
                let now = clock::now();
                self.is_verified = true;
                self.show(turn.publish(size, note.to_string(), key.to_string(), now).await?, size);
                Ok(Some(INTERVAL))
            }
            Err(error) => {
                if let Some(refusal) = error.refusal() {
                    let because = chain(&error).to_string();
                    self.show(turn.refuse(because, refusal, clock::now()).await?, tree_size);
                }
                Err(error)
            }
        }
    }

    fn show(&self, published: PublishedCheckpoint, tree_size: u64) {
        self.state.send_if_modified(|known| known.learn(published, tree_size, clock::now()));
    }
}

/// The time until the next checkpoint is due; `None` if that depends on new leaves.
fn due_in(published_at: Option<DateTime<Utc>>, is_new: bool, now: DateTime<Utc>) -> Option<Duration> {
    let Some(published_at) = published_at else { return Some(Duration::ZERO) };
    // A clock that was set back does not stop checkpoints.
    let age = (now - published_at).abs();
    match is_new {
        true => Some(INTERVAL.saturating_sub(age.to_std().unwrap_or(INTERVAL))),
        false => (age >= MAX_AGE).then_some(Duration::ZERO),
    }
}

/// Has the tree signed as it is.
async fn sign(turn: &mut PublishingTurn, signer: &Signer) -> Result<(u64, Note, VerifierKey), PublishingError> {
    let published = turn.published.note.as_ref().and_then(|note| Note::parse(note.as_bytes()).ok());
    let log = signer.log().await?;
    let Some(key) = log.keys.into_iter().next() else { return Err(PublishingError::Unsigned) };
    // A signer without a memory may believe its own signature; one of a log with another name begins anew.
    let believed = || Checkpoint::parse(published.as_ref()?.text()).ok().filter(|last| last.origin == *key.name());
    let last = log.last.or_else(believed);
    let signed = last.map_or(0, |last| last.size);
    let mut reader = TreeReader::open(turn.connection()).await?;
    let size = reader.size();
    let shorter = PublishingError::Shorter { size, signed };
    let Some(proof) = reader.consistency(signed, size).await? else { return Err(shorter) };
    let Some(root) = reader.root(size).await? else { return Err(shorter) };
    let extension = ExtensionProof { old_size: signed, hashes: proof };
    let checkpoint = Checkpoint { origin: key.name().clone(), size, root };
    let request = SigningRequest { extension, checkpoint: checkpoint.clone(), published };
    let mut lines = signer.sign(request).await?.into_iter();
    let Some(first) = lines.next() else { return Err(PublishingError::Unsigned) };
    let mut note = Note::new(checkpoint.to_string(), first);
    lines.chain(unknown_signature(root)).for_each(|line| note.add(line));
    Ok((size, note, key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_is_due_once_a_second_while_the_tree_grows_and_every_ten_minutes_while_not() {
        let now = clock::now();
        let due = |is_new: bool, ago: TimeDelta| due_in(Some(now - ago), is_new, now);
        assert_eq!(due_in(None, false, now), Some(Duration::ZERO));
        assert_eq!(due(true, TimeDelta::milliseconds(300)), Some(Duration::from_millis(700)));
        assert_eq!(due(true, TimeDelta::seconds(1)), Some(Duration::ZERO));
        assert_eq!(due(false, TimeDelta::seconds(599)), None);
        assert_eq!(due(false, TimeDelta::minutes(10)), Some(Duration::ZERO));
        // Clocks that were set back.
        assert_eq!(due(true, TimeDelta::hours(-1)), Some(Duration::ZERO));
        assert_eq!(due(false, TimeDelta::hours(-1)), Some(Duration::ZERO));
    }
}
