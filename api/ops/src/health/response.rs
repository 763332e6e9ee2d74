//! The response to an attack: a lockdown in force, and the incidents that are open. Both are in the database alone.

use serde_json::json;

use super::area::HealthArea;
use super::observations::{DATABASE, HealthObservations, counted, spoken};
use crate::audit::audit_check::{AuditCheck, AuditFindings};
use crate::finding::{Rule, Severity};

const IN_FORCE: Rule = Rule {
    id: "lockdown.in_force",
    title: "a lockdown refuses people",
    severity: Severity::High,
    remedy: "Once the incident is contained, lift it: `fulexo lockdown off --reason …`.",
    reference: "docs/runbooks/contain.md",
};

/// The check of the lockdown.
pub const LOCKDOWN: AuditCheck = AuditCheck { id: "lockdown", title: "no lockdown is in force", rules: &[IN_FORCE] };
/// The check of the incidents. That some are open is said, and is no finding: people know, and it may last.
pub const INCIDENTS: AuditCheck = AuditCheck { id: "incidents", title: "incidents", rules: &[] };

pub(super) fn lockdown(observations: &HealthObservations) -> HealthArea {
    let mut findings = AuditFindings::default();
    match observations.state() {
        Ok(state) => {
            let lockdown = state.lockdown.as_ref();
            let summary =
                lockdown.map_or_else(|| "none".to_owned(), |it| format!("{} since {}", it.scope, spoken(it.age)));
            if let Some(lockdown) = lockdown {
                let evidence = format!("scope `{}`, since {}", lockdown.scope, spoken(lockdown.age));
                findings.push(&IN_FORCE, "lockdown", evidence);
            }
            let scope = json!(lockdown.map(|lockdown| &lockdown.scope));
            HealthArea::of(&LOCKDOWN, findings, summary).from(DATABASE).fact("scope", scope)
        }
        Err(reason) => HealthArea::unchecked(&LOCKDOWN, reason),
    }
}

pub(super) fn incidents(observations: &HealthObservations) -> HealthArea {
    match observations.state() {
        Ok(state) => {
            let open: u64 = state.incidents.values().sum();
            let severities = ["critical", "high", "medium", "low"];
            let each: Vec<String> = severities
                .into_iter()
                .filter_map(|severity| Some(format!("{} {severity}", state.incidents.get(severity)?)))
                .collect();
            let summary = match open {
                0 => "none open".to_owned(),
                _ => format!("{} open: {}", counted(open, "incident"), each.join(", ")),
            };
            HealthArea::of(&INCIDENTS, AuditFindings::default(), summary)
                .from(DATABASE)
                .fact("open", json!(state.incidents))
        }
        Err(reason) => HealthArea::unchecked(&INCIDENTS, reason),
    }
}
