//! The two sources of facts, compared: a node that says something else than the database uses another one, or hangs, or lies.

use super::area::HealthArea;
use super::following::PATIENCE;
use super::nodes::living_names;
use super::observations::{HealthObservations, counted};
use super::probes::database::StoredState;
use super::probes::service::ReadinessReport;
use crate::audit::audit_check::{AuditCheck, AuditFindings};
use crate::finding::{Rule, Severity};

const DISAGREE: Rule = Rule {
    id: "sources.disagree",
    title: "the service and the database say different things",
    severity: Severity::High,
    remedy: "Compare DATABASE_URL with that of the node. If they are the same, the database lost events, or the node hangs.",
    reference: "docs/runbooks/database-restored.md",
};

/// The check.
pub const CHECK: AuditCheck =
    AuditCheck { id: "sources", title: "the service and the database agree", rules: &[DISAGREE] };

pub(super) fn check(observations: &HealthObservations) -> HealthArea {
    let (state, ready) = match (observations.state(), observations.ready()) {
        (Ok(state), ready) if !ready.is_empty() => (state, ready),
        (Ok(_), _) => return HealthArea::unchecked(&CHECK, "no node is ready, whose word could be compared"),
        (Err(reason), _) => return HealthArea::unchecked(&CHECK, reason),
    };
    let mut findings = AuditFindings::default();
    for (label, readiness) in &ready {
        for difference in differences(readiness, state) {
            findings.push(&DISAGREE, *label, difference);
        }
    }
    HealthArea::of(&CHECK, findings, format!("{} compared with the database", counted(ready.len() as u64, "node")))
        .from("database and service")
}

/// Compares what a node said with what the database said after it: positions only grow.
fn differences(readiness: &ReadinessReport, state: &StoredState) -> Vec<String> {
    let mut differences = Vec::new();
    let mut ahead = |what: &str, service: u64, database: u64| {
        if service > database {
            differences.push(format!("{what}: the service has {service} events, and the database {database}"));
        }
    };
    ahead("log", readiness.log_size, state.head.position);
    ahead("tree", readiness.tree.size, state.tree.size);
    ahead("checkpoint", readiness.checkpoint.size, state.checkpoint.size);
    for model in &readiness.projections {
        let stored = state.read_models.iter().find(|stored| stored.name == model.name);
        // A version that is newer begins where it was built.
        if let Some(stored) = stored.filter(|stored| stored.version == model.version) {
            ahead(&format!("read model {}", model.name), model.position, stored.position);
        }
    }
    if readiness.log_size < state.head.position && state.head.age > PATIENCE {
        differences.push(format!(
            "log: the service has {} events, and the database {} since more than {PATIENCE} seconds",
            readiness.log_size, state.head.position
        ));
    }
    let living = living_names(state);
    let mut listed = readiness.nodes.iter().filter(|node| node.status == "ok").peekable();
    if listed.peek().is_some() && !listed.any(|node| living.contains(node.name.as_str())) {
        differences.push("nodes: none that the service lists holds a lease in the database".to_owned());
    }
    if readiness.tree.stopped != state.tree.stopped_because.is_some() {
        let says = |stopped| if stopped { "it has stopped" } else { "it follows the log" };
        let (service, database) = (says(readiness.tree.stopped), says(!readiness.tree.stopped));
        differences.push(format!("tree: the service says that {service}, and the database that {database}"));
    }
    differences
}
