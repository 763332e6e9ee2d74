//! The anchored checkpoint and the witnesses.

use fulexo_tlog::key::{SignatureError, VerifierKey, verify};
use fulexo_tlog::note::Note;
use serde_json::json;

use super::area::HealthArea;
use super::checkpoint::LogTrust;
use super::following::Lag;
use super::observations::{DATABASE, HealthObservations, SERVICE, counted};
use super::probes::database::StoredState;
use crate::audit::audit_check::{AuditCheck, AuditFindings};
use crate::finding::{Rule, Severity};

const CONTRADICTED: Rule = Rule {
    id: "anchor.contradicted",
    title: "a witness contradicts the log: it was rolled back or rewritten",
    severity: Severity::Critical,
    remedy: "Preserve the database, the signer's memory and the witness's last checkpoint as evidence.",
    reference: "docs/runbooks/witness-contradicts.md",
};
const WITNESS_FAILED: Rule = Rule {
    id: "anchor.witness_failed",
    title: "the witness did not cosign when it was asked last",
    severity: Severity::Low,
    remedy: "Ask its operator. The log of a node has the cause.",
    reference: "docs/runbooks/witness-failed.md",
};
const LATE: Rule = Rule {
    id: "anchor.late",
    title: "too few witnesses have cosigned a newer checkpoint",
    severity: Severity::Medium,
    remedy: "Ask the operators of the witnesses that fail. The service goes on meanwhile.",
    reference: "docs/runbooks/witness-failed.md",
};
const UNTRUSTED: Rule = Rule {
    id: "anchor.untrusted",
    title: "the anchored checkpoint lacks the cosignatures that the policy asks for",
    severity: Severity::Critical,
    remedy: "Compare the policy with that of the nodes. If they are the same, find out who changed the database.",
    reference: "docs/runbooks/witness-contradicts.md",
};

/// The check.
pub const CHECK: AuditCheck = AuditCheck {
    id: "anchor",
    title: "enough witnesses cosign, and none contradicts",
    rules: &[CONTRADICTED, WITNESS_FAILED, LATE, UNTRUSTED],
};

/// The seconds for which events may wait for witnesses, beyond the interval in which these are asked.
const PATIENCE: f64 = 900.0;

pub(super) fn check(observations: &HealthObservations, trust: &LogTrust) -> HealthArea {
    match observations.state() {
        Ok(state) => stored(observations, state, trust),
        Err(_) => reported(observations),
    }
}

fn stored(observations: &HealthObservations, state: &StoredState, trust: &LogTrust) -> HealthArea {
    let mut findings = AuditFindings::default();
    let is_of_policy = |name: &str| match &trust.policy {
        Some(policy) => policy.witnesses.iter().any(|witness| witness.name == name),
        None => true,
    };
    let witnesses: Vec<_> = state.witnesses.iter().filter(|witness| is_of_policy(&witness.name)).collect();
    if witnesses.is_empty() && state.anchor.note.is_none() && trust.policy.is_none() {
        return HealthArea::of(&CHECK, findings, "off: no witness is asked").from(DATABASE);
    }
    for witness in &witnesses {
        let Some(failure) = &witness.failure else { continue };
        let rule = if witness.is_contradiction { &CONTRADICTED } else { &WITNESS_FAILED };
        findings.push(rule, witness.name.as_str(), failure.as_str());
    }
    let lag = Lag::stored(state, "anchor", state.anchor.size);
    let says_late = observations.ready().iter().any(|(_, readiness)| {
        readiness.anchor.as_ref().is_some_and(|anchor| anchor.status == "degraded" && anchor.lag > 0)
    });
    if says_late || lag.waits.is_some_and(|waits| waits > PATIENCE) {
        findings.push(&LATE, "anchor", lag.shown());
    }
    if let Some(problem) = &trust.problem {
        return HealthArea::unless_found(&CHECK, findings, problem.as_str());
    }
    if let Some(note) = &state.anchor.note
        && let Err(reason) = cosigned(note, state.checkpoint.vkey.as_deref(), trust)
    {
        findings.push(&UNTRUSTED, "anchor", reason);
    }
    let failing = witnesses.iter().filter(|witness| witness.failure.is_some()).count();
    let summary = format!(
        "{}, {} of {} witnesses cosign, {}",
        counted(state.anchor.size, "event"),
        witnesses.len() - failing,
        witnesses.len(),
        lag.shown()
    );
    let facts: Vec<_> = witnesses
        .iter()
        .map(|it| json!({"name": it.name, "fails": it.failure, "contradicts": it.is_contradiction}))
        .collect();
    HealthArea::of(&CHECK, findings, summary)
        .from(DATABASE)
        .fact("size", state.anchor.size)
        .fact("witnesses", facts)
        .fact("policy", trust.policy.is_some())
}

/// Verifies that the log has signed the note, and as many witnesses have as the policy asks for.
fn cosigned(note: &str, own: Option<&str>, trust: &LogTrust) -> Result<(), String> {
    let (note, _) = trust.verify(note, own)?;
    let Some(policy) = &trust.policy else { return Ok(()) };
    let keys: Vec<VerifierKey> = policy.witnesses.iter().map(|witness| witness.key.clone()).collect();
    let cosigned: Vec<usize> = of(&note, &keys)?;
    if policy.is_satisfied(|place| cosigned.contains(&place)) {
        return Ok(());
    }
    Err(format!("{} of {} witnesses have cosigned it", cosigned.len(), keys.len()))
}

fn of(note: &Note, keys: &[VerifierKey]) -> Result<Vec<usize>, String> {
    match verify(note, keys) {
        Ok(signed) => Ok(signed.into_iter().map(|signature| signature.key).collect()),
        Err(SignatureError::Unknown) => Ok(Vec::new()),
        Err(error @ SignatureError::Wrong) => Err(error.to_string()),
    }
}

fn reported(observations: &HealthObservations) -> HealthArea {
    let ready = observations.ready();
    if ready.is_empty() {
        return HealthArea::unchecked(&CHECK, observations.silence());
    }
    let Some((_, anchor)) = ready.iter().find_map(|(label, it)| Some((label, it.anchor.as_ref()?))) else {
        return HealthArea::of(&CHECK, AuditFindings::default(), "off: no witness is asked").from(SERVICE);
    };
    let mut findings = AuditFindings::default();
    for witness in &anchor.witnesses {
        match witness.status.as_str() {
            "failed" => findings.push(&CONTRADICTED, witness.name.as_str(), "/health/ready says so"),
            "degraded" => findings.push(&WITNESS_FAILED, witness.name.as_str(), "/health/ready says so"),
            _ => {}
        }
    }
    let lag = Lag { events: anchor.lag, waits: None };
    if anchor.status == "degraded" {
        findings.push(&LATE, "anchor", lag.shown());
    }
    HealthArea::of(&CHECK, findings, format!("{}, {}", counted(anchor.size, "event"), lag.shown()))
        .from(SERVICE)
        .fact("size", anchor.size)
}
