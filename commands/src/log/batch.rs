//! The plan of a batch, computed without I/O from the state that the log's lock showed or, for an optimistic append,
//! from the expected versions.

use std::collections::HashMap;
use std::sync::Arc;

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use fulexo_domain::event::{RecordedEvent, Stream};
use fulexo_domain::leaf;
use uuid::Uuid;

use super::append::{AppendError, AppendOutcome, AppendRequest, ExpectedVersion, Receipt};
use crate::vault::write::VaultWrite;

/// The streams, commands and unique values that a batch depends on, in the form that `log.lock` takes.
#[derive(Default)]
pub struct LockRequest {
    pub categories: Vec<&'static str>,
    pub streams: Vec<Uuid>,
    pub commands: Vec<Vec<u8>>,
    pub scopes: Vec<&'static str>,
    pub keys: Vec<Vec<u8>>,
}

/// The state that `log.lock` returned.
#[derive(Default)]
pub struct LockedState {
    pub recorded_at: DateTime<Utc>,
    pub versions: HashMap<Stream, u64>,
    /// The request hashes and results of commands committed earlier, by command id.
    pub commands: HashMap<Vec<u8>, (Vec<u8>, String)>,
    /// The holders of unique values claimed earlier.
    pub keys: HashMap<(&'static str, Vec<u8>), Uuid>,
}

/// The batch in the form that `log.try_append` takes, and the outcome of each request.
#[derive(Default)]
pub struct BatchPlan {
    pub categories: Vec<&'static str>,
    pub streams: Vec<Uuid>,
    pub stream_versions: Vec<i64>,
    pub leaves: Vec<Vec<u8>>,
    pub hashes: Vec<Vec<u8>>,
    pub sealed: SealedColumns,
    pub claimed_scopes: Vec<&'static str>,
    pub claimed_keys: Vec<Vec<u8>>,
    pub claimed_by: Vec<Uuid>,
    pub command_ids: Vec<Vec<u8>>,
    pub command_hashes: Vec<Vec<u8>>,
    pub command_results: Vec<String>,
    pub command_accounts: Vec<Option<Uuid>>,
    /// `true` if an accepted request writes to the vault.
    has_secrets: bool,
    /// The time of the first event; of the batch if it has no events.
    pub first_time: DateTime<Utc>,
    /// The time of the last event.
    pub last_time: DateTime<Utc>,
    /// The versions of the streams after the batch.
    pub versions: HashMap<Stream, u64>,
    placed: Vec<PlannedEvent>,
    outcomes: Vec<RequestOutcome>,
}

/// An event with its stream version and time. Its position is not known yet.
struct PlannedEvent {
    request: usize,
    event: usize,
    version: u64,
    time: DateTime<Utc>,
}

enum RequestOutcome {
    /// The request is accepted; this many of the planned events are its own.
    Accepted(usize),
    Refused(Result<AppendOutcome, AppendError>),
}

/// The columns of `log.sealed`.
#[derive(Default)]
pub struct SealedColumns {
    /// Indexes into `leaves`.
    pub events: Vec<i32>,
    pub ordinals: Vec<i16>,
    pub subjects: Vec<Option<Uuid>>,
    pub periods: Vec<Option<NaiveDate>>,
    pub nonces: Vec<Vec<u8>>,
    pub ciphertexts: Vec<Vec<u8>>,
    pub ip_digests: Vec<Option<Vec<u8>>>,
    pub email_digests: Vec<Option<Vec<u8>>>,
}

impl LockRequest {
    pub fn of<'a>(requests: impl Iterator<Item = &'a AppendRequest>) -> Self {
        let mut lock_request = Self::default();
        let mut streams: HashMap<Stream, ()> = HashMap::new();
        for request in requests {
            let written = request.events.iter().map(|event| event.draft().stream);
            for stream in request.expected.iter().map(|(stream, _)| *stream).chain(written) {
                if streams.insert(stream, ()).is_none() {
                    lock_request.categories.push(stream.category.as_str());
                    lock_request.streams.push(stream.id);
                }
            }
            lock_request.commands.extend(request.command.iter().map(|command| command.id.to_vec()));
            lock_request.scopes.extend(request.claims.iter().map(|claim| claim.scope));
            lock_request.keys.extend(request.claims.iter().map(|claim| claim.hash.to_vec()));
        }
        lock_request
    }
}

impl BatchPlan {
    /// Plans the requests in order. Each sees the effects of those before it.
    pub fn of<'a>(
        requests: impl Iterator<Item = &'a AppendRequest>,
        mut locked: LockedState,
        now: DateTime<Utc>,
    ) -> Self {
        // Never earlier than the previous event, even if the clocks of nodes differ.
        let mut time = leaf::to_micros(now).max(locked.recorded_at);
        let mut plan = Self { first_time: time, last_time: time, ..Self::default() };
        for (index, request) in requests.enumerate() {
            let outcome = match refusal(request, &locked) {
                Some(answer) => RequestOutcome::Refused(answer),
                None => RequestOutcome::Accepted(plan.accept(index, request, &mut locked, &mut time)),
            };
            plan.outcomes.push(outcome);
        }
        plan.versions = locked.versions;
        plan
    }

    /// Returns `true` if there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.leaves.is_empty() && self.command_ids.is_empty() && self.claimed_keys.is_empty() && !self.has_secrets
    }

    /// Returns `true` if every request is accepted.
    pub fn accepts_all(&self) -> bool {
        self.outcomes.iter().all(|outcome| matches!(outcome, RequestOutcome::Accepted(_)))
    }

    /// Returns the vault writes of the accepted requests.
    pub fn vault<'a>(&self, requests: impl Iterator<Item = &'a AppendRequest>) -> Vec<&'a VaultWrite> {
        let accepted =
            requests.zip(&self.outcomes).filter(|(_, outcome)| matches!(outcome, RequestOutcome::Accepted(_)));
        accepted.flat_map(|(request, _)| &request.vault).collect()
    }

    /// Returns the events as recorded, given the position of the first.
    pub fn events<'a>(
        &self,
        requests: impl Iterator<Item = &'a AppendRequest>,
        first_position: u64,
    ) -> Vec<Arc<RecordedEvent>> {
        let requests: Vec<&AppendRequest> = requests.collect();
        let recorded = |(placed, position): (&PlannedEvent, u64)| {
            let prepared = requests.get(placed.request)?.events.get(placed.event)?;
            Some(Arc::new(prepared.recorded_event(position, placed.time, placed.version)))
        };
        self.placed.iter().zip(first_position..).filter_map(recorded).collect()
    }

    /// Returns the outcome of each request, once the batch is committed.
    pub fn answers(self, events: &[Arc<RecordedEvent>]) -> Vec<Result<AppendOutcome, AppendError>> {
        let mut rest = events;
        let mut answers = Vec::with_capacity(self.outcomes.len());
        for outcome in self.outcomes {
            answers.push(match outcome {
                RequestOutcome::Refused(answer) => answer,
                RequestOutcome::Accepted(count) => {
                    let (own, others) = rest.split_at_checked(count).unwrap_or((rest, &[]));
                    rest = others;
                    let position = own.last().map(|event| event.position);
                    Ok(AppendOutcome::New(Receipt { events: own.to_vec(), position }))
                }
            });
        }
        answers
    }

    fn accept(
        &mut self,
        index: usize,
        request: &AppendRequest,
        locked: &mut LockedState,
        time: &mut DateTime<Utc>,
    ) -> usize {
        let first = self.leaves.len();
        self.has_secrets |= !request.vault.is_empty();
        for (event, prepared) in request.events.iter().enumerate() {
            let stream = prepared.draft().stream;
            let version = locked.versions.entry(stream).or_default();
            *version += 1;
            let bytes = prepared.leaf(*time, *version);
            self.categories.push(stream.category.as_str());
            self.streams.push(stream.id);
            self.stream_versions.push(to_i64(*version));
            self.hashes.push(leaf::hash(&bytes).to_vec());
            self.leaves.push(bytes);
            self.placed.push(PlannedEvent { request: index, event, version: *version, time: *time });
            self.last_time = *time;
            *time += TimeDelta::microseconds(1);
        }
        for (ordinal, (event, row)) in request.sealed.iter().enumerate() {
            self.sealed.events.push(i32::try_from(first + event).unwrap_or(i32::MAX));
            self.sealed.ordinals.push(i16::try_from(ordinal).unwrap_or(i16::MAX));
            self.sealed.subjects.push(row.subject_id);
            self.sealed.periods.push(row.period);
            self.sealed.nonces.push(row.sealed.nonce.to_vec());
            self.sealed.ciphertexts.push(row.sealed.ciphertext.clone());
            self.sealed.ip_digests.push(row.addresses.ip.map(|digest| digest.0.to_vec()));
            self.sealed.email_digests.push(row.addresses.email.map(|digest| digest.0.to_vec()));
        }
        for claim in &request.claims {
            locked.keys.insert((claim.scope, claim.hash.to_vec()), claim.holder);
            self.claimed_scopes.push(claim.scope);
            self.claimed_keys.push(claim.hash.to_vec());
            self.claimed_by.push(claim.holder);
        }
        if let Some(command) = &request.command {
            let known = (command.request_hash.to_vec(), command.result.clone());
            locked.commands.insert(command.id.to_vec(), known);
            self.command_ids.push(command.id.to_vec());
            self.command_hashes.push(command.request_hash.to_vec());
            self.command_results.push(command.result.clone());
            self.command_accounts.push(command.account);
        }
        request.events.len()
    }
}

/// Returns the outcome of a request that appends nothing, or `None` if it may append. The command is checked first: a
/// repeated request would otherwise conflict with its own events.
fn refusal(request: &AppendRequest, locked: &LockedState) -> Option<Result<AppendOutcome, AppendError>> {
    if let Some(command) = &request.command
        && let Some((hash, result)) = locked.commands.get(command.id.as_slice())
    {
        return Some(if *hash == command.request_hash {
            Ok(AppendOutcome::Duplicate { result: result.clone() })
        } else {
            Err(AppendError::IdempotencyKeyReused)
        });
    }
    for (stream, expected) in &request.expected {
        let actual = locked.versions.get(stream).copied().unwrap_or(0);
        let required = match expected {
            ExpectedVersion::New => 0,
            ExpectedVersion::Exact(version) => *version,
            ExpectedVersion::Any => actual,
        };
        if actual != required {
            return Some(Err(AppendError::Conflict { stream: *stream, actual }));
        }
    }
    let taken = request.claims.iter().find(|claim| locked.keys.contains_key(&(claim.scope, claim.hash.to_vec())));
    taken.map(|claim| Err(AppendError::KeyTaken { scope: claim.scope }))
}

pub fn to_i64(position: u64) -> i64 {
    i64::try_from(position).unwrap_or(i64::MAX)
}
