//! The published checkpoint: refused or late, signed by whom, and of the same tree as the database has.

use std::collections::BTreeSet;

use fulexo_tlog::checkpoint::Checkpoint;
use fulexo_tlog::key::{VerifierKey, verify};
use fulexo_tlog::note::Note;
use fulexo_tlog::policy::TrustPolicy;

use super::area::HealthArea;
use super::following::{Lag, PATIENCE};
use super::observations::{DATABASE, HealthObservations, SERVICE, counted};
use super::probes::database::StoredState;
use super::probes::root::RootFault;
use crate::audit::audit_check::{AuditCheck, AuditFindings};
use crate::finding::{Rule, Severity};

const REFUSED: Rule = Rule {
    id: "checkpoint.refused",
    title: "the signer refuses the log: events are missing, or others than they were",
    severity: Severity::Critical,
    remedy: "Preserve the database and the signer's memory as evidence, and find out who changed the database.",
    reference: "docs/runbooks/checkpoint-refused.md",
};
const LATE: Rule = Rule {
    id: "checkpoint.late",
    title: "events wait for a checkpoint",
    severity: Severity::High,
    remedy: "Look at `fulexo signer` and its socket, and read a node's log.",
    reference: "docs/runbooks/checkpoint-late.md",
};
const UNTRUSTED: Rule = Rule {
    id: "checkpoint.untrusted",
    title: "no trusted key has signed the published checkpoint",
    severity: Severity::Critical,
    remedy: "Find out whose key signs. If the log's key was replaced, give the new one with --key, too.",
    reference: "docs/production.md#verify-the-log",
};
const MISSING: Rule = Rule {
    id: "checkpoint.missing",
    title: "there is no checkpoint, although a key of the log was given",
    severity: Severity::Critical,
    remedy: "Set FULEXO_SIGNER_SOCKET on a node. If the log was signed before, find out who removed the checkpoint.",
    reference: "docs/production.md#sign-the-log",
};
const ANOTHER_TREE: Rule = Rule {
    id: "checkpoint.another_tree",
    title: "the published checkpoint is of another tree than the database has",
    severity: Severity::Critical,
    remedy: "Preserve the database and the checkpoint as evidence, and run `fulexo audit verify`.",
    reference: "docs/runbooks/checkpoint-refused.md",
};

/// The check.
pub const CHECK: AuditCheck = AuditCheck {
    id: "checkpoint",
    title: "the published checkpoint is signed, recent, and of the tree in the database",
    rules: &[REFUSED, LATE, UNTRUSTED, MISSING, ANOTHER_TREE],
};

/// The keys that are trusted.
#[derive(Default)]
pub struct LogTrust {
    /// The keys of the log. Without any, the one that the log names itself is believed.
    pub logs: Vec<VerifierKey>,
    /// The witnesses, and how many of them have to cosign.
    pub policy: Option<TrustPolicy>,
    /// The reason for which the keys that were meant cannot be had: then no checkpoint is verified.
    pub problem: Option<String>,
}

impl LogTrust {
    /// Verifies that a key of the log has signed this note, and reads the checkpoint in it. `own` is the key that the log names
    /// itself.
    pub(super) fn verify(&self, note: &str, own: Option<&str>) -> Result<(Note, Checkpoint), String> {
        let note = Note::parse(note.as_bytes()).map_err(|error| error.to_string())?;
        let checkpoint = Checkpoint::parse(note.text()).map_err(|error| error.to_string())?;
        let own: Vec<VerifierKey> = own.and_then(|key| VerifierKey::parse(key).ok()).into_iter().collect();
        let keys = if self.logs.is_empty() { &own } else { &self.logs };
        let signed = verify(&note, keys).map_err(|error| error.to_string())?;
        let mut signers = signed.iter().filter_map(|signature| keys.get(signature.key));
        if !signers.any(|key| *key.name() == checkpoint.origin) {
            return Err(format!("it is of the log {}, and no key of that name signed it", checkpoint.origin));
        }
        Ok((note, checkpoint))
    }
}

/// Returns every checkpoint that was seen, with the place where.
pub(super) fn published(observations: &HealthObservations) -> Vec<(&str, &str)> {
    let stored = observations.state().ok().and_then(|state| state.checkpoint.note.as_deref());
    let served = observations.services.iter().filter_map(|it| Some((it.label.as_str(), it.checkpoint.as_deref()?)));
    stored.map(|note| (DATABASE, note)).into_iter().chain(served).collect()
}

/// Returns the sizes of these checkpoints, for which the database has to have a root.
pub(super) fn sizes(observations: &HealthObservations) -> BTreeSet<u64> {
    let anchored = observations.state().ok().and_then(|state| state.anchor.note.as_deref());
    let notes = published(observations).into_iter().map(|(_, note)| note).chain(anchored);
    let size = |note: &str| Some(Checkpoint::parse(Note::parse(note.as_bytes()).ok()?.text()).ok()?.size);
    notes.filter_map(size).take(8).collect()
}

pub(super) fn check(observations: &HealthObservations, trust: &LogTrust) -> HealthArea {
    let mut findings = AuditFindings::default();
    let state = observations.state();
    let ready = observations.ready();
    if state.is_err() && ready.is_empty() {
        return HealthArea::unchecked(&CHECK, observations.silence());
    }
    let lag = match &state {
        Ok(state) => Some(stored(state, &mut findings)),
        Err(_) => {
            for (label, readiness) in &ready {
                if readiness.checkpoint.refused {
                    findings.push(&REFUSED, *label, "/health/ready says so");
                } else if readiness.checkpoint.status == "degraded" {
                    let lag = Lag { events: readiness.checkpoint.lag, waits: None };
                    findings.push(&LATE, *label, lag.shown());
                }
            }
            ready.iter().map(|(_, it)| Lag { events: it.checkpoint.lag, waits: None }).max_by_key(|lag| lag.events)
        }
    };
    let own = state.as_ref().ok().and_then(|state| state.checkpoint.vkey.as_deref());
    let notes = published(observations);
    let source = if state.is_ok() { DATABASE } else { SERVICE };
    if notes.is_empty() {
        if trust.logs.is_empty() {
            return HealthArea::of(&CHECK, findings, "off: nothing signs the log").from(source);
        }
        findings.push(&MISSING, "log", "neither the database nor a node has one");
        return HealthArea::of(&CHECK, findings, "none").from(source);
    }
    if let Some(problem) = &trust.problem {
        return HealthArea::unless_found(&CHECK, findings, problem.as_str());
    }
    let is_given = !trust.logs.is_empty();
    if !is_given && own.is_none() {
        let reason = "the key of the log is not known: give --key or --policy";
        return HealthArea::unless_found(&CHECK, findings, reason);
    }
    let (mut size, mut compared) = (0, 0);
    for (place, note) in &notes {
        match trust.verify(note, own) {
            Ok((_, checkpoint)) => {
                size = size.max(checkpoint.size);
                compared += usize::from(agrees(observations, &checkpoint, place, &mut findings));
            }
            Err(reason) => findings.push(&UNTRUSTED, *place, reason),
        }
    }
    let key = if is_given { "by a given key" } else { "by the log's own key" };
    let tree = match (compared == notes.len(), state.is_ok()) {
        (true, _) => ", equal to the tree",
        (false, true) => ", not compared with the tree",
        (false, false) => ", not compared: no database",
    };
    let behind = lag.map_or_else(String::new, |lag| format!(", {}", lag.shown()));
    HealthArea::of(&CHECK, findings, format!("{}, signed {key}{tree}{behind}", counted(size, "event")))
        .from(if state.is_ok() && !ready.is_empty() { "database and service" } else { source })
        .fact("size", size)
        .fact("compared_with_the_tree", compared == notes.len())
        .fact("key", if is_given { "given" } else { "the log's own" })
}

fn stored(state: &StoredState, findings: &mut AuditFindings) -> Lag {
    let lag = Lag::stored(state, "checkpoint", state.checkpoint.size);
    if let Some(because) = &state.checkpoint.refused_because {
        findings.push(&REFUSED, "checkpoint", because.as_str());
    } else if state.checkpoint.note.is_some() && lag.is_late(PATIENCE) {
        findings.push(&LATE, "checkpoint", lag.shown());
    }
    lag
}

/// Compares a checkpoint with the root that the database has at its size; returns `true` if that was possible.
pub(super) fn agrees(
    observations: &HealthObservations,
    checkpoint: &Checkpoint,
    place: &str,
    findings: &mut AuditFindings,
) -> bool {
    let Ok(state) = observations.state() else { return false };
    if checkpoint.size > state.head.position {
        let evidence = format!("it is of {} events, and the log has {}", checkpoint.size, state.head.position);
        findings.push(&ANOTHER_TREE, place, evidence);
        return true;
    }
    match observations.roots.iter().find(|(size, _)| *size == checkpoint.size) {
        Some((size, Ok(root))) => {
            if *root != checkpoint.root {
                findings.push(&ANOTHER_TREE, place, format!("of the first {size} events"));
            }
            true
        }
        Some((_, Err(RootFault::Damaged(tile)))) => {
            findings.push(&ANOTHER_TREE, place, format!("{tile} of the tree is missing or damaged"));
            true
        }
        Some((_, Err(RootFault::Unread))) | None => false,
    }
}
