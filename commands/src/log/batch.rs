//! What a batch comes to, decided under the log's lock: pure, from what the lock showed.

use std::collections::HashMap;
use std::sync::Arc;

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use fulexo_domain::event::{Recorded, Stream};
use fulexo_domain::leaf;
use uuid::Uuid;

use super::{AppendError, AppendRequest, Appended, Expected, Receipt};
use crate::vault::write::VaultWrite;

/// What the batch depends on, in the form that `log.lock` takes.
#[derive(Default)]
pub struct Wanted {
    pub categories: Vec<&'static str>,
    pub streams: Vec<Uuid>,
    pub commands: Vec<Vec<u8>>,
    pub scopes: Vec<&'static str>,
    pub keys: Vec<Vec<u8>>,
}

/// What the lock showed.
pub struct Seen {
    pub position: u64,
    pub recorded_at: DateTime<Utc>,
    pub versions: HashMap<Stream, u64>,
    /// Request hash and result of commands known before.
    pub commands: HashMap<Vec<u8>, (Vec<u8>, String)>,
    /// Holders of keys taken before.
    pub keys: HashMap<(&'static str, Vec<u8>), Uuid>,
}

/// The batch in the form that `log.append` takes, and the answer to each request once it is committed.
#[derive(Default)]
pub struct Plan {
    pub first_position: u64,
    pub events: Vec<Arc<Recorded>>,
    pub leaves: Vec<Vec<u8>>,
    pub hashes: Vec<Vec<u8>>,
    pub sealed: SealedColumns,
    pub claimed_scopes: Vec<&'static str>,
    pub claimed_keys: Vec<Vec<u8>>,
    pub claimed_by: Vec<Uuid>,
    pub command_ids: Vec<Vec<u8>>,
    pub command_hashes: Vec<Vec<u8>>,
    pub command_results: Vec<String>,
    pub answers: Vec<Result<Appended, AppendError>>,
}

/// The columns of `log.sealed`.
#[derive(Default)]
pub struct SealedColumns {
    pub positions: Vec<i64>,
    pub ordinals: Vec<i16>,
    pub subjects: Vec<Option<Uuid>>,
    pub periods: Vec<Option<NaiveDate>>,
    pub nonces: Vec<Vec<u8>>,
    pub ciphertexts: Vec<Vec<u8>>,
}

impl Wanted {
    pub fn of<'a>(requests: impl Iterator<Item = &'a AppendRequest>) -> Self {
        let mut wanted = Self::default();
        let mut streams: HashMap<Stream, ()> = HashMap::new();
        for request in requests {
            let written = request.events.iter().map(|event| event.draft().stream);
            for stream in request.expected.iter().map(|(stream, _)| *stream).chain(written) {
                if streams.insert(stream, ()).is_none() {
                    wanted.categories.push(stream.category.as_str());
                    wanted.streams.push(stream.id);
                }
            }
            wanted.commands.extend(request.command.iter().map(|command| command.id.to_vec()));
            wanted.scopes.extend(request.claims.iter().map(|claim| claim.scope));
            wanted.keys.extend(request.claims.iter().map(|claim| claim.hash.to_vec()));
        }
        wanted
    }
}

impl Plan {
    /// Goes through the requests in order, each seeing what those before it did.
    pub fn of<'a>(
        requests: impl Iterator<Item = &'a AppendRequest>,
        mut seen: Seen,
        now: DateTime<Utc>,
    ) -> (Self, Vec<&'a VaultWrite>) {
        let mut plan = Self { first_position: seen.position, ..Self::default() };
        let mut vault = Vec::new();
        // Never earlier than the event before it, whatever the clocks of the nodes say.
        let mut time = leaf::to_micros(now).max(seen.recorded_at);
        for request in requests {
            let answer = match refusal(request, &seen) {
                Some(answer) => answer,
                None => {
                    vault.extend(&request.vault);
                    Ok(Appended::New(plan.accept(request, &mut seen, &mut time)))
                }
            };
            plan.answers.push(answer);
        }
        (plan, vault)
    }

    pub fn is_empty(&self) -> bool {
        self.events.is_empty() && self.command_ids.is_empty()
    }

    fn accept(&mut self, request: &AppendRequest, seen: &mut Seen, time: &mut DateTime<Utc>) -> Receipt {
        let first = seen.position;
        let mut events = Vec::with_capacity(request.events.len());
        for prepared in &request.events {
            let version = seen.versions.entry(prepared.draft().stream).or_default();
            *version += 1;
            let bytes = prepared.leaf(*time, *version);
            let recorded = Arc::new(prepared.recorded(seen.position, *time, *version));
            self.hashes.push(leaf::hash(&bytes).to_vec());
            self.leaves.push(bytes);
            self.events.push(Arc::clone(&recorded));
            events.push(recorded);
            seen.position += 1;
            *time += TimeDelta::microseconds(1);
        }
        for (ordinal, (index, row)) in request.sealed.iter().enumerate() {
            self.sealed.positions.push(to_i64(first + *index as u64));
            self.sealed.ordinals.push(i16::try_from(ordinal).unwrap_or(i16::MAX));
            self.sealed.subjects.push(row.subject_id);
            self.sealed.periods.push(row.period);
            self.sealed.nonces.push(row.sealed.nonce.to_vec());
            self.sealed.ciphertexts.push(row.sealed.ciphertext.clone());
        }
        for claim in &request.claims {
            seen.keys.insert((claim.scope, claim.hash.to_vec()), claim.holder);
            self.claimed_scopes.push(claim.scope);
            self.claimed_keys.push(claim.hash.to_vec());
            self.claimed_by.push(claim.holder);
        }
        if let Some(command) = &request.command {
            let known = (command.request_hash.to_vec(), command.result.clone());
            seen.commands.insert(command.id.to_vec(), known);
            self.command_ids.push(command.id.to_vec());
            self.command_hashes.push(command.request_hash.to_vec());
            self.command_results.push(command.result.clone());
        }
        Receipt { position: events.last().map(|event| event.position), events }
    }
}

/// The answer to a request that appends nothing; `None` when it may append. The command comes first: a request
/// that succeeded before would now conflict with itself.
fn refusal(request: &AppendRequest, seen: &Seen) -> Option<Result<Appended, AppendError>> {
    if let Some(command) = &request.command
        && let Some((hash, result)) = seen.commands.get(command.id.as_slice())
    {
        return Some(if *hash == command.request_hash {
            Ok(Appended::Duplicate { result: result.clone() })
        } else {
            Err(AppendError::CommandReused)
        });
    }
    for (stream, expected) in &request.expected {
        let actual = seen.versions.get(stream).copied().unwrap_or(0);
        let wanted = match expected {
            Expected::New => 0,
            Expected::Exact(version) => *version,
            Expected::Any => actual,
        };
        if actual != wanted {
            return Some(Err(AppendError::Conflict { stream: *stream, actual }));
        }
    }
    let taken = request.claims.iter().find(|claim| seen.keys.contains_key(&(claim.scope, claim.hash.to_vec())));
    taken.map(|claim| Err(AppendError::KeyTaken { scope: claim.scope }))
}

pub fn to_i64(position: u64) -> i64 {
    i64::try_from(position).unwrap_or(i64::MAX)
}
