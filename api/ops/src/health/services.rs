//! The nodes by their URLs: whether each one answers, is ready, and judges from memory.

use serde_json::json;

use super::area::HealthArea;
use super::observations::{HealthObservations, SERVICE, milliseconds};
use super::probes::service::ServiceFault;
use crate::audit::audit_check::{AuditCheck, AuditFindings};
use crate::finding::{Rule, Severity};

const DOWN: Rule = Rule {
    id: "service.down",
    title: "no answer from the service",
    severity: Severity::Critical,
    remedy: "Look at the process and its log on that machine: `systemctl status fulexo`. Start it again.",
    reference: "docs/runbooks/node-down.md",
};
const NOT_READY: Rule = Rule {
    id: "service.not_ready",
    title: "the service says that it cannot serve",
    severity: Severity::Critical,
    remedy: "Mend what the answer names: it is ready again by itself.",
    reference: "docs/runbooks/postgresql-down.md",
};
const REPLACED: Rule = Rule {
    id: "service.log_replaced",
    title: "the log was replaced while the node ran",
    severity: Severity::Critical,
    remedy: "Restart the node. If nobody restored the database, find out who replaced it first.",
    reference: "docs/runbooks/log-replaced.md",
};
const STRANGE: Rule = Rule {
    id: "service.strange",
    title: "the answer is not one of Fulexo",
    severity: Severity::High,
    remedy: "Compare the URL with FULEXO_PORT and with the routes of the proxy.",
    reference: "docs/monitoring.md#check-everything-at-once",
};
const NO_LEASE: Rule = Rule {
    id: "service.no_lease",
    title: "the node has no lease, and asks the database about each request",
    severity: Severity::High,
    remedy: "Read the node's log for the cause: it cannot follow the log, or cannot renew its lease.",
    reference: "docs/runbooks/node-without-lease.md",
};

/// The check.
pub const CHECK: AuditCheck = AuditCheck {
    id: "service",
    title: "the service answers and is ready",
    rules: &[DOWN, NOT_READY, REPLACED, STRANGE, NO_LEASE],
};

pub(super) fn check(observations: &HealthObservations) -> HealthArea {
    let services = &observations.services;
    if services.is_empty() {
        return HealthArea::unchecked(&CHECK, "no URL of a node is known: give --url, or the variables of a node");
    }
    let (mut findings, mut facts, mut ready) = (AuditFindings::default(), Vec::new(), 0);
    for service in services {
        let label = service.label.as_str();
        match &service.readiness {
            Ok(readiness) => {
                ready += 1;
                if readiness.gate.stopped {
                    findings.push(&NO_LEASE, label, "/health/ready says that the gate has stopped");
                }
            }
            Err(ServiceFault::Down(reason)) => findings.push(&DOWN, label, reason.as_str()),
            Err(ServiceFault::NotReady { code, .. }) if code == "log_replaced" => {
                findings.push(&REPLACED, label, "/health/ready answers 503 log_replaced");
            }
            Err(ServiceFault::NotReady { code, detail }) => {
                let detail: String = detail.chars().take(200).collect();
                findings.push(&NOT_READY, label, format!("503 {code}: {detail}"));
            }
            Err(ServiceFault::Strange(reason)) => findings.push(&STRANGE, label, reason.as_str()),
        }
        facts.push(json!({
            "url": label, "ready": service.ready().is_some(), "version": service.version,
            "milliseconds": u64::try_from(service.took.as_millis()).unwrap_or(u64::MAX),
        }));
    }
    let slowest = services.iter().map(|service| service.took).max().unwrap_or_default();
    let summary = format!("{ready} of {} ready, in {}", services.len(), milliseconds(slowest));
    HealthArea::of(&CHECK, findings, summary).from(SERVICE).fact("urls", facts)
}
