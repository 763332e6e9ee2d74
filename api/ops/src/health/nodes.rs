//! The nodes as the registry has them: leases, positions, those that died or hang, and versions.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use super::area::HealthArea;
use super::observations::{DATABASE, HealthObservations, SERVICE, counted, spoken};
use super::probes::database::{StoredNode, StoredState};
use crate::audit::audit_check::{AuditCheck, AuditFindings};
use crate::finding::{Rule, Severity};

const DOWN: Rule = Rule {
    id: "nodes.down",
    title: "the node has died, or hangs",
    severity: Severity::High,
    remedy: "Look at the process and its log on that machine, and start it again. Its row is gone an hour after it died.",
    reference: "docs/runbooks/node-down.md",
};
const NONE: Rule = Rule {
    id: "nodes.none",
    title: "no node holds a lease",
    severity: Severity::Critical,
    remedy: "Start a node. If nodes run, they cannot write to the database: read their logs.",
    reference: "docs/runbooks/node-down.md",
};
const BEHIND: Rule = Rule {
    id: "nodes.behind",
    title: "the node has a lease and does not follow the log",
    severity: Severity::High,
    remedy: "Read the node's log for the cause.",
    reference: "docs/runbooks/node-without-lease.md",
};
const VERSIONS: Rule = Rule {
    id: "nodes.versions",
    title: "the nodes run different versions",
    severity: Severity::Low,
    remedy: "Finish the update, or roll it back.",
    reference: "docs/production.md#run-several-nodes",
};

/// The check.
pub const CHECK: AuditCheck = AuditCheck {
    id: "nodes",
    title: "every node holds a lease and follows the log",
    rules: &[DOWN, NONE, BEHIND, VERSIONS],
};

/// The seconds after which a lease that was not renewed is over, with a margin for clocks that drift.
const LEASE: f64 = 2.1;
/// The number of events that a node may lag: it applies some thousands a second.
const MOST_LAG: u64 = 10_000;

pub(super) fn check(observations: &HealthObservations) -> HealthArea {
    let mut findings = AuditFindings::default();
    let versions: BTreeSet<&str> =
        observations.services.iter().filter_map(|service| service.version.as_deref()).collect();
    if versions.len() > 1 {
        let versions: Vec<&str> = versions.iter().copied().collect();
        findings.push(&VERSIONS, "service", versions.join(", "));
    }
    let area = match observations.state() {
        Ok(state) => registered(state, findings),
        Err(_) => reported(observations, findings),
    };
    area.fact("versions", json!(versions))
}

fn registered(state: &StoredState, mut findings: AuditFindings) -> HealthArea {
    let (mut living, mut restarted) = (0, 0);
    let names: BTreeSet<&str> = living_names(state);
    for node in &state.nodes {
        if holds_lease(node) {
            living += 1;
            let lag = state.head.position.saturating_sub(node.applied);
            if lag > MOST_LAG {
                findings.push(&BEHIND, node.name.as_str(), format!("{} behind the log", counted(lag, "event")));
            }
        } else if names.contains(node.name.as_str()) {
            // It died, and another process has its name since.
            restarted += 1;
        } else {
            findings.push(&DOWN, node.name.as_str(), last_sign(node));
        }
    }
    if living == 0 {
        findings.push(&NONE, "service", format!("{} in the registry", counted(state.nodes.len() as u64, "node")));
    }
    let facts: Vec<_> = state.nodes.iter().map(|node| shown(node, state.head.position)).collect();
    let again = if restarted > 0 { format!(", {restarted} restarted after a crash") } else { String::new() };
    let with = if living == 1 { "holds a lease" } else { "hold a lease" };
    HealthArea::of(&CHECK, findings, format!("{living} of {} {with}{again}", state.nodes.len() - restarted))
        .from(DATABASE)
        .fact("nodes", facts)
}

/// Returns the names of the nodes that hold a lease.
pub(super) fn living_names(state: &StoredState) -> BTreeSet<&str> {
    state.nodes.iter().filter(|node| holds_lease(node)).map(|node| node.name.as_str()).collect()
}

/// A sign that is from the future is older than a clock that was set back.
fn holds_lease(node: &StoredNode) -> bool {
    node.silent.abs() < LEASE
}

fn last_sign(node: &StoredNode) -> String {
    if node.silent < 0.0 {
        return format!("its last sign is {} in the future: the database's clock was set back", spoken(-node.silent));
    }
    format!("its last sign was {} ago", spoken(node.silent))
}

fn shown(node: &StoredNode, size: u64) -> serde_json::Value {
    json!({
        "name": node.name, "holds_lease": holds_lease(node), "silent_seconds": (node.silent * 10.0).round() / 10.0,
        "applied": node.applied, "lag": size.saturating_sub(node.applied), "renewals": node.renewals,
    })
}

fn reported(observations: &HealthObservations, mut findings: AuditFindings) -> HealthArea {
    let ready = observations.ready();
    if ready.is_empty() {
        return HealthArea::unless_found(&CHECK, findings, observations.silence());
    }
    // A node is as its own peers see it; it holds a lease if any of them says so.
    let mut nodes: BTreeMap<&str, bool> = BTreeMap::new();
    for node in ready.iter().flat_map(|(_, readiness)| &readiness.nodes) {
        *nodes.entry(node.name.as_str()).or_default() |= node.status == "ok";
    }
    for (name, _) in nodes.iter().filter(|(_, is_up)| !**is_up) {
        findings.push(&DOWN, *name, "/health/ready says that it has no lease");
    }
    let living = nodes.values().filter(|is_up| **is_up).count();
    if living == 0 {
        findings.push(&NONE, "service", "/health/ready lists none with a lease");
    }
    let facts: Vec<_> = nodes.iter().map(|(name, is_up)| json!({"name": name, "holds_lease": is_up})).collect();
    let with = if living == 1 { "holds a lease" } else { "hold a lease" };
    HealthArea::of(&CHECK, findings, format!("{living} of {} {with}", nodes.len())).from(SERVICE).fact("nodes", facts)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rules and subjects for a log of 20,000 events and these nodes: name, seconds since the last sign, position.
    fn found(nodes: &[(&str, f64, u64)]) -> Vec<String> {
        let nodes: Vec<_> = nodes
            .iter()
            .map(|(name, silent, applied)| json!({"name": name, "silent": silent, "applied": applied, "renewals": 1}))
            .collect();
        let state = json!({
            "head": {"position": 20_000, "age": 1}, "nodes": nodes, "read_models": [],
            "relay": {"is_used": false, "has_turn": false, "position": 0, "stopped_because": null},
            "tree": {"size": 0, "stopped_because": null},
            "checkpoint": {"size": 0, "note": null, "vkey": null, "refused_because": null},
            "anchor": {"size": 0, "note": null}, "witnesses": [], "waits": {}, "keys": [], "lockdown": null,
            "incidents": {},
            "load": {"sessions": 1, "most_sessions": 9, "longest_transaction": null, "sees_all_sessions": true, "bytes": 1},
        });
        let state: StoredState = serde_json::from_value(state).unwrap();
        let area = registered(&state, AuditFindings::default());
        area.check.findings().iter().map(|it| format!("{} {}", it.rule, it.subject)).collect()
    }

    #[test]
    fn a_node_is_down_once_its_lease_is_over_unless_another_process_has_its_name() {
        let (well, dead) = (("a", 0.4, 20_000), ("b", 2.2, 20_000));
        assert_eq!(found(&[well]), [""; 0]);
        assert_eq!(found(&[well, dead]), ["nodes.down b"]);
        assert_eq!(found(&[("a", 30.0, 1), well]), [""; 0], "it was restarted");
        assert_eq!(found(&[dead]), ["nodes.down b", "nodes.none service"]);
        assert_eq!(found(&[]), ["nodes.none service"]);
    }

    #[test]
    fn a_node_that_does_not_follow_and_one_that_died_before_the_clock_was_set_back_are_found() {
        assert_eq!(found(&[("a", 0.4, 9_999)]), ["nodes.behind a"]);
        assert_eq!(found(&[("a", 0.4, 10_000)]), [""; 0]);
        assert_eq!(found(&[("a", 0.4, 20_000), ("b", -3_000.0, 20_000)]), ["nodes.down b"]);
    }
}
