//! The keys: due to be replaced, or replaced and not destroyed. Reads no key.

use std::collections::BTreeMap;

use chrono::TimeDelta;
use serde_json::json;

use super::area::HealthArea;
use super::observations::{DATABASE, HealthObservations, SERVICE, counted, spoken};
use crate::audit::audit_check::{AuditCheck, AuditFindings};
use crate::finding::{Rule, Severity};

const DUE: Rule = Rule {
    id: "keys.due",
    title: "the key is due to be replaced",
    severity: Severity::Medium,
    remedy: "Run `fulexo keys rotate` for it. Until then backups keep what was erased.",
    reference: "docs/runbooks/key-due.md",
};
const LEAVING: Rule = Rule {
    id: "keys.leaving",
    title: "a rotation was begun and not finished",
    severity: Severity::Medium,
    remedy: "Run `fulexo keys list`, and then the rotation again: it continues where it was.",
    reference: "docs/runbooks/keys-leaving.md",
};

/// The check.
pub const CHECK: AuditCheck = AuditCheck { id: "keys", title: "keys are replaced in time", rules: &[DUE, LEAVING] };

/// The seconds in which a replaced key is destroyed.
const OVERLAP: f64 = 2.0 * 86_400.0;
/// The same for a key of the log: both sign for as long as verifiers need.
const LOG_OVERLAP: f64 = 31.0 * 86_400.0;
/// The epochs for which a key of the log may be in use: everybody who verifies has to learn of the next one.
const LOG_EPOCHS: f64 = 12.0;

pub(super) fn check(observations: &HealthObservations, epoch: TimeDelta) -> HealthArea {
    let mut findings = AuditFindings::default();
    let Ok(state) = observations.state() else { return reported(observations) };
    let epoch = epoch.as_seconds_f64();
    let mut ages: BTreeMap<&str, f64> = BTreeMap::new();
    for key in &state.keys {
        let subject = format!("{} key {}", key.kind, key.id);
        let is_of_log = key.kind == "log";
        match (key.replaced, key.in_use) {
            (Some(replaced), _) if replaced > if is_of_log { LOG_OVERLAP } else { OVERLAP } => {
                findings.push(&LEAVING, subject, format!("replaced {} ago, and not destroyed", spoken(replaced)));
            }
            (Some(_), _) | (None, None) => {}
            (None, Some(in_use)) => {
                let most = if is_of_log { epoch * LOG_EPOCHS } else { epoch };
                if in_use > most {
                    let evidence = format!("in use for {}, of at most {}", spoken(in_use), spoken(most));
                    findings.push(&DUE, subject, evidence);
                }
                ages.insert(&key.kind, in_use);
            }
        }
    }
    let oldest = ages.values().copied().fold(0.0, f64::max);
    let leaving = state.keys.iter().filter(|key| key.replaced.is_some()).count();
    let summary =
        format!("{} in use, the oldest for {}, {leaving} leaving", counted(ages.len() as u64, "key"), spoken(oldest));
    HealthArea::of(&CHECK, findings, summary).from(DATABASE).fact("age_seconds", json!(ages)).fact("leaving", leaving)
}

fn reported(observations: &HealthObservations) -> HealthArea {
    let ready = observations.ready();
    let Some((_, readiness)) = ready.first() else {
        return HealthArea::unchecked(&CHECK, observations.silence());
    };
    let mut findings = AuditFindings::default();
    for key in &readiness.keys {
        // That one is judged by twelve epochs, and the node goes by one.
        if key.due && key.kind != "log" {
            findings.push(&DUE, format!("{} key", key.kind), format!("in use for {}", spoken(key.age as f64)));
        }
    }
    let leaving: u64 = readiness.keys.iter().map(|key| key.leaving).sum();
    let oldest = readiness.keys.iter().map(|key| key.age).max().unwrap_or_default();
    let keys = counted(readiness.keys.len() as u64, "key");
    HealthArea::of(
        &CHECK,
        findings,
        format!("{keys} in use, the oldest for {}, {leaving} leaving", spoken(oldest as f64)),
    )
    .from(SERVICE)
    .fact("leaving", leaving)
}
