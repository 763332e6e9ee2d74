//! NATS: whether each configured server answers these credentials. The service works without it, more slowly.

use serde_json::json;

use super::area::HealthArea;
use super::observations::{HealthObservations, SERVICE, milliseconds};
use super::probes::nats_servers::ObservedNats;
use super::probes::service::ReadinessReport;
use crate::audit::audit_check::{AuditCheck, AuditFindings};
use crate::finding::{Rule, Severity};

const DOWN: Rule = Rule {
    id: "nats.down",
    title: "NATS does not answer",
    severity: Severity::Medium,
    remedy: "Start the server, and compare NATS_URL and NATS_CREDS with its users. The service works meanwhile, more slowly.",
    reference: "docs/runbooks/nats-down.md",
};
const DISCONNECTED: Rule = Rule {
    id: "nats.disconnected",
    title: "the node is not connected to NATS",
    severity: Severity::Medium,
    remedy: "Read the node's log for the cause.",
    reference: "docs/runbooks/nats-down.md",
};

/// The check.
pub const CHECK: AuditCheck =
    AuditCheck { id: "nats", title: "NATS answers, and the nodes are connected", rules: &[DOWN, DISCONNECTED] };

pub(super) fn check(observations: &HealthObservations) -> HealthArea {
    let mut findings = AuditFindings::default();
    let status = |readiness: &ReadinessReport| {
        let nats = readiness.dependencies.iter().find(|dependency| dependency.name == "nats");
        nats.map(|nats| nats.status.clone())
    };
    let said: Vec<(&str, Option<String>)> =
        observations.ready().into_iter().map(|(label, readiness)| (label, status(readiness))).collect();
    for (label, status) in &said {
        if !matches!(status.as_deref(), Some("ok" | "off") | None) {
            findings.push(&DISCONNECTED, *label, "/health/ready says so");
        }
    }
    let servers = match &observations.nats {
        Some(Ok(servers)) => servers,
        Some(Err(reason)) => return HealthArea::unless_found(&CHECK, findings, reason.as_str()),
        None if said.is_empty() => {
            return HealthArea::unchecked(&CHECK, "NATS_URL is not set, and no node is ready that could tell");
        }
        None => {
            let is_off = said.iter().all(|(_, status)| status.as_deref() == Some("off"));
            let summary = if is_off { "off" } else { "as the nodes say" };
            return HealthArea::of(&CHECK, findings, summary).from(SERVICE);
        }
    };
    let mut facts = Vec::new();
    for ObservedNats { server, answer } in servers {
        if let Err(reason) = answer {
            findings.push(&DOWN, server.as_str(), reason.as_str());
        }
        let took = answer.as_ref().ok().map(|took| u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
        facts.push(json!({"server": server, "milliseconds": took}));
    }
    let slowest = servers.iter().filter_map(|server| server.answer.as_ref().ok()).max();
    let answering = servers.iter().filter(|server| server.answer.is_ok()).count();
    let took = slowest.map_or_else(String::new, |took| format!(", in {}", milliseconds(*took)));
    HealthArea::of(&CHECK, findings, format!("{answering} of {} answer{took}", servers.len()))
        .from(if said.is_empty() { "NATS" } else { "NATS and service" })
        .fact("servers", facts)
}
