//! The rounds in which the witnesses of the policy are asked to cosign the published checkpoint. One node at a time has a round;
//! every node follows what they found.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use fulexo_database::{begin, chain};
use fulexo_projections::tree::{AnchoredCheckpoint, PublishedCheckpoint, WitnessStatus};
use fulexo_tlog::checkpoint::Checkpoint;
use fulexo_tlog::key::{VerifiedSignature, verify};
use fulexo_tlog::note::{Note, SignatureLine};
use fulexo_tlog::policy::TrustPolicy;
use sqlx::PgPool;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::client::{CheckpointToCosign, CosigningError, WitnessClient};
use crate::clock;
use crate::config::CosigningConfig;
use crate::outbound::{OutboundClient, OutboundError};
use crate::signer::{Signer, SignerError};

/// The time between two looks at whether a round is due, and at what other nodes have found.
const LOOK: Duration = Duration::from_secs(1);
/// The age at which a cosignature is asked for again although nothing is new.
const MAX_AGE: TimeDelta = TimeDelta::minutes(10);

/// The reason why no round was held.
#[derive(Debug, thiserror::Error)]
enum RoundError {
    #[error("the database failed")]
    Database(#[from] sqlx::Error),
    #[error("the signer does not respond")]
    Signer(#[from] SignerError),
    #[error("the published checkpoint is not one of this log")]
    NotOurs,
    #[error("the policy is one of another log: none of its log lines has a key of this one")]
    OtherPolicy,
}

/// The cosignatures of the log, as this node knows them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CosigningState {
    /// `true` once this node has looked at what others have found.
    pub is_known: bool,
    /// The newest checkpoint that satisfies the policy.
    pub anchored: Option<AnchoredCheckpoint>,
    /// Each witness of the policy, in its order.
    pub witnesses: Vec<WitnessStatus>,
    /// The time since which the published checkpoint is newer than the anchored one; `None` if it is not.
    pub waiting_since: Option<DateTime<Utc>>,
    /// The least time between two rounds.
    pub interval: Duration,
}

/// Collects cosignatures, where this node has a signer, and follows what others collect.
pub struct CosignatureCollector {
    pool: PgPool,
    signer: Option<Signer>,
    policy: Arc<TrustPolicy>,
    interval: Duration,
    clients: Vec<Arc<WitnessClient>>,
    state: watch::Sender<CosigningState>,
    /// The checkpoint that was judged last, and the judgement.
    judged: Option<(AnchoredCheckpoint, bool)>,
}

impl CosignatureCollector {
    /// Creates it. The returned receiver shows the anchored checkpoint and the witnesses.
    ///
    /// # Errors
    /// [`OutboundError`] if the machine has no root certificates.
    pub fn new(
        pool: PgPool,
        signer: Option<Signer>,
        config: CosigningConfig,
    ) -> Result<(Self, watch::Receiver<CosigningState>), OutboundError> {
        let CosigningConfig { policy, interval } = config;
        let http = OutboundClient::new()?;
        // A witness with several keys gives all of its cosignatures in one answer.
        let mut clients: BTreeMap<String, WitnessClient> = BTreeMap::new();
        for (place, witness) in policy.witnesses.iter().enumerate() {
            let prefix = witness.url.clone().unwrap_or_default();
            let client = clients.entry(prefix).or_insert_with_key(|prefix| WitnessClient::new(http.clone(), prefix));
            client.keys.push((place, witness.key.clone()));
        }
        let interval = interval.to_std().unwrap_or(LOOK);
        let (state, states) = watch::channel(CosigningState { interval, ..CosigningState::default() });
        let clients = clients.into_values().map(Arc::new).collect();
        Ok((Self { pool, signer, policy: Arc::new(policy), interval, clients, state, judged: None }, states))
    }

    /// Runs until cancelled.
    pub async fn run(mut self) {
        let mut reported = String::new();
        loop {
            match self.step().await {
                Ok(()) => reported.clear(),
                Err(error) => {
                    let because = chain(&error).to_string();
                    // Once, and not each second.
                    if because != reported {
                        tracing::error!(error = because, "the witnesses are not asked; trying again");
                        reported = because;
                    }
                }
            }
            sleep(LOOK).await;
        }
    }

    /// Holds a round if one is due.
    async fn step(&mut self) -> Result<(), RoundError> {
        let (published, _) = PublishedCheckpoint::read(&self.pool).await?;
        self.follow(published.size).await?;
        let Some(signer) = self.signer.clone() else { return Ok(()) };
        let Some(note) = published.note.filter(|_| !self.is_settled(published.size)) else { return Ok(()) };
        if AnchoredCheckpoint::take_round(&self.pool, self.interval).await? {
            self.hold_round(&signer, &note).await?;
            self.follow(published.size).await?;
        }
        Ok(())
    }

    /// `true` if this size is anchored, and every witness has cosigned it lately.
    fn is_settled(&self, size: u64) -> bool {
        let (now, state) = (clock::now(), self.state.borrow());
        let is_anchored = state.anchored.as_ref().is_some_and(|anchored| anchored.size == size);
        is_anchored && state.witnesses.iter().all(|witness| has_cosigned(witness, size, now))
    }

    /// The cosignatures that the anchored checkpoint has, if it is this one, by their places in the policy.
    fn known(&self, note: &Note) -> BTreeMap<usize, SignatureLine> {
        let state = self.state.borrow();
        let anchored = state.anchored.as_ref().and_then(|anchored| Note::parse(anchored.note.as_bytes()).ok());
        let Some(anchored) = anchored.filter(|anchored| anchored.text() == note.text()) else { return BTreeMap::new() };
        let witnesses = self.policy.witnesses.iter().enumerate();
        let known = witnesses.filter_map(|(place, witness)| {
            let line = anchored.signatures().iter().find(|line| witness.key.is_of(line))?;
            Some((place, line.clone()))
        });
        known.collect()
    }

    /// Learns what this and other nodes have found.
    async fn follow(&mut self, published: u64) -> Result<(), RoundError> {
        let (anchored, found) = AnchoredCheckpoint::read(&self.pool).await?;
        // The database is not believed: whoever can change it has no witness's key.
        let anchored = anchored.filter(|anchored| self.satisfies(anchored));
        let mut found: BTreeMap<String, WitnessStatus> =
            found.into_iter().map(|witness| (witness.name.clone(), witness)).collect();
        let witnesses = self.policy.witnesses.iter().map(|witness| {
            found.remove(&witness.name).unwrap_or_else(|| WitnessStatus {
                name: witness.name.clone(),
                size: 0,
                cosigned_at: None,
                failure: None,
                is_contradiction: false,
            })
        });
        let witnesses = witnesses.collect();
        let is_waiting = anchored.as_ref().is_none_or(|anchored| anchored.size != published);
        let now = clock::now();
        self.state.send_if_modified(|known| {
            let is_newer = anchored.as_ref().map(|new| new.size) != known.anchored.as_ref().map(|known| known.size);
            let since = known.waiting_since.filter(|_| !is_newer).unwrap_or(now);
            let waiting_since = is_waiting.then_some(since);
            let next = CosigningState { is_known: true, anchored, witnesses, waiting_since, interval: known.interval };
            let differs = *known != next;
            *known = next;
            differs
        });
        Ok(())
    }

    /// `true` if it is a checkpoint of this log, of the size that it is said to have, which enough witnesses have cosigned.
    fn satisfies(&mut self, anchored: &AnchoredCheckpoint) -> bool {
        if let Some((_, judgement)) = self.judged.as_ref().filter(|(judged, _)| judged == anchored) {
            return *judgement;
        }
        let judgement = judge(&self.policy, anchored).is_some_and(|cosigned| {
            self.policy.is_satisfied(|place| cosigned.iter().any(|signature| signature.key == place))
        });
        self.judged = Some((anchored.clone(), judgement));
        judgement
    }

    /// Asks every witness at once. The checkpoint is anchored as soon as enough have answered; the others still count.
    async fn hold_round(&self, signer: &Signer, published: &str) -> Result<(), RoundError> {
        let log = signer.log().await?;
        if !self.policy.logs.iter().any(|key| log.keys.contains(key)) {
            return Err(RoundError::OtherPolicy);
        }
        let note = Note::parse(published.as_bytes()).map_err(|_| RoundError::NotOurs)?;
        let checkpoint = Checkpoint::parse(note.text()).map_err(|_| RoundError::NotOurs)?;
        verify(&note, &log.keys).map_err(|_| RoundError::NotOurs)?;
        let mut signed = note.signatures().iter().filter(|line| log.keys.iter().any(|key| key.is_of(line))).cloned();
        let mut submitted = Note::new(note.text().to_owned(), signed.next().ok_or(RoundError::NotOurs)?);
        signed.for_each(|line| submitted.add(line));
        let size = checkpoint.size;
        let submitted = Arc::new(CheckpointToCosign::new(checkpoint, submitted, self.pool.clone()));

        let mut sizes = log.witnesses;
        let mut statuses = self.state.borrow().witnesses.clone();
        // Each in a task of its own: one that holds a connection goes on while this waits for another one.
        let mut asked = JoinSet::new();
        let (mut cosigned, now) = (self.known(&note), clock::now());
        let is_fresh = |place: &usize| {
            cosigned.contains_key(place) && statuses.get(*place).is_some_and(|status| has_cosigned(status, size, now))
        };
        for client in self.clients.iter().filter(|client| !client.keys.iter().all(|(place, _)| is_fresh(place))) {
            let names = client.keys.iter().filter_map(|(place, _)| self.policy.witnesses.get(*place));
            // Whichever of its keys was used last.
            let known = names.filter_map(|witness| sizes.get(&witness.name)).max().copied().unwrap_or_default();
            let (client, submitted) = (Arc::clone(client), Arc::clone(&submitted));
            asked.spawn(async move {
                let answer = client.cosign(&submitted, known).await;
                (client, answer)
            });
        }
        // What is anchored already is replaced once all have answered.
        let (mut is_anchored, mut has_more) = (!cosigned.is_empty(), false);
        let mut found = Vec::new();
        while let Some(asked) = asked.join_next().await {
            // One that panicked has said so in the log; the next round asks again.
            let Ok((client, answer)) = asked else { continue };
            let (lines, failure) = match answer {
                Ok(lines) => (BTreeMap::from_iter(lines), None),
                // Another node has seen to it.
                Err(CosigningError::Overtaken) => continue,
                Err(error) => (BTreeMap::new(), Some(error)),
            };
            for (place, _) in &client.keys {
                let Some(status) = statuses.get_mut(*place) else { continue };
                if lines.contains_key(place) {
                    sizes.insert(status.name.clone(), size);
                    *status = WitnessStatus {
                        name: status.name.clone(),
                        size,
                        cosigned_at: Some(clock::now()),
                        failure: None,
                        is_contradiction: false,
                    };
                } else {
                    fail(status, failure.as_ref().unwrap_or(&CosigningError::BadCosignature));
                }
                found.push(status.clone());
            }
            has_more |= !lines.is_empty();
            cosigned.extend(lines);
            if !is_anchored && self.policy.is_satisfied(|place| cosigned.contains_key(&place)) {
                self.anchor(&note, size, &cosigned).await?;
                (is_anchored, has_more) = (true, false);
            }
        }
        if is_anchored && has_more {
            self.anchor(&note, size, &cosigned).await?;
        }
        let mut transaction = begin(&self.pool).await?;
        for status in &found {
            status.write(&mut transaction).await?;
        }
        transaction.commit().await?;
        sizes.retain(|name, _| self.policy.witnesses.iter().any(|witness| witness.name == *name));
        Ok(signer.remember(sizes).await?)
    }

    async fn anchor(
        &self,
        note: &Note,
        size: u64,
        cosigned: &BTreeMap<usize, SignatureLine>,
    ) -> Result<(), RoundError> {
        let mut note = note.clone();
        cosigned.values().for_each(|line| note.add(line.clone()));
        let anchored = AnchoredCheckpoint { size, note: note.to_string(), anchored_at: clock::now() };
        let is_invalid = self.state.borrow().anchored.is_none();
        Ok(anchored.publish(&self.pool, is_invalid).await?)
    }
}

/// Verifies the signatures of a checkpoint; returns those of witnesses. `None` if it is not one of this log.
fn judge(policy: &TrustPolicy, anchored: &AnchoredCheckpoint) -> Option<Vec<VerifiedSignature>> {
    let note = Note::parse(anchored.note.as_bytes()).ok()?;
    let checkpoint = Checkpoint::parse(note.text()).ok().filter(|checkpoint| checkpoint.size == anchored.size)?;
    let signed = verify(&note, &policy.logs).ok()?;
    let is_own = |signature: &VerifiedSignature| {
        policy.logs.get(signature.key).is_some_and(|key| *key.name() == checkpoint.origin)
    };
    let keys: Vec<_> = policy.witnesses.iter().map(|witness| witness.key.clone()).collect();
    signed.iter().any(is_own).then(|| verify(&note, &keys).unwrap_or_default())
}

/// `true` if the witness has cosigned this size lately, and has not failed since.
fn has_cosigned(witness: &WitnessStatus, size: u64, now: DateTime<Utc>) -> bool {
    let is_fresh = witness.cosigned_at.is_some_and(|at| (now - at).abs() < MAX_AGE);
    witness.size == size && witness.failure.is_none() && is_fresh
}

/// Records that a witness has not cosigned, and says so in the log if it is news.
fn fail(status: &mut WitnessStatus, error: &CosigningError) {
    let because = chain(error).to_string();
    let is_contradiction = error.is_contradiction();
    if status.failure.as_ref() != Some(&because) {
        let witness = status.name.as_str();
        if is_contradiction {
            tracing::error!(witness, error = because, "a witness contradicts the log");
        } else {
            tracing::warn!(witness, error = because, "a witness has not cosigned");
        }
    }
    status.is_contradiction = is_contradiction;
    status.failure = Some(because);
}
