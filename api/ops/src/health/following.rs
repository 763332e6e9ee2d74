//! The followers of the log: the read models, the tree and the relay, each with its lag.

use serde_json::json;

use super::area::HealthArea;
use super::observations::{DATABASE, HealthObservations, SERVICE, counted, spoken};
use super::probes::database::StoredState;
use crate::audit::audit_check::{AuditCheck, AuditFindings};
use crate::finding::{Rule, Severity};

const READ_MODEL_STOPPED: Rule = Rule {
    id: "read_models.stopped",
    title: "the read model has stopped at an event that it cannot apply",
    severity: Severity::High,
    remedy: "Read a node's log for the cause. Update the nodes, or run `fulexo rebuild` for this read model.",
    reference: "docs/runbooks/read-model-stopped.md",
};
const READ_MODEL_LAG: Rule = Rule {
    id: "read_models.lag",
    title: "the read model is behind the log",
    severity: Severity::Medium,
    remedy: "Look at the load of the database and of the nodes. If the lag does not shrink, read a node's log.",
    reference: "docs/runbooks/read-model-lag.md",
};
const TREE_STOPPED: Rule = Rule {
    id: "tree.stopped",
    title: "the tree over the log has stopped at an event that is missing or was altered",
    severity: Severity::Critical,
    remedy: "Preserve the database as evidence, and run `fulexo audit verify`, which names the position.",
    reference: "docs/runbooks/tree-stopped.md",
};
const TREE_LAG: Rule = Rule {
    id: "tree.lag",
    title: "the tree is behind the log",
    severity: Severity::High,
    remedy: "Read the nodes' logs: some node has to integrate the events.",
    reference: "docs/runbooks/tree-stopped.md",
};
const RELAY_STOPPED: Rule = Rule {
    id: "relay.stopped",
    title: "the copy of the log in NATS has stopped",
    severity: Severity::Medium,
    remedy: "Read the log of the node that copies for the cause.",
    reference: "docs/runbooks/relay-stopped.md",
};
const RELAY_LAG: Rule = Rule {
    id: "relay.lag",
    title: "the copy of the log in NATS is behind",
    severity: Severity::Medium,
    remedy: "Look at NATS and its disk, and read the log of the node that copies.",
    reference: "docs/runbooks/relay-stopped.md",
};

/// The check of the read models.
pub const READ_MODELS: AuditCheck = AuditCheck {
    id: "read_models",
    title: "the read models follow the log",
    rules: &[READ_MODEL_STOPPED, READ_MODEL_LAG],
};
/// The check of the tree.
pub const TREE: AuditCheck =
    AuditCheck { id: "tree", title: "the tree over the log follows it", rules: &[TREE_STOPPED, TREE_LAG] };
/// The check of the relay.
pub const RELAY: AuditCheck =
    AuditCheck { id: "relay", title: "the log is copied to NATS", rules: &[RELAY_STOPPED, RELAY_LAG] };

/// The number of events from which on a lag is one, however young they are.
const MOST_LAG: u64 = 10_000;
/// The seconds for which an event may wait.
pub(super) const PATIENCE: f64 = 10.0;
/// The seconds for which an event may wait for its copy.
const RELAY_PATIENCE: f64 = 60.0;

/// A lag: the number of events, and how long the first of them has waited, if that is known.
#[derive(Clone, Copy)]
pub(super) struct Lag {
    pub events: u64,
    pub waits: Option<f64>,
}

impl Lag {
    /// The lag of what has this name among the waits.
    pub fn stored(state: &StoredState, name: &str, position: u64) -> Self {
        Self { events: state.head.position.saturating_sub(position), waits: state.waits.get(name).copied() }
    }

    pub fn is_late(self, patience: f64) -> bool {
        self.events > 0 && (self.events > MOST_LAG || self.waits.is_some_and(|waits| waits > patience))
    }

    pub fn shown(self) -> String {
        let events = counted(self.events, "event");
        match self.waits.filter(|_| self.events > 0) {
            Some(waits) => format!("{events} behind, the first since {}", spoken(waits)),
            None => format!("{events} behind"),
        }
    }
}

pub(super) fn read_models(observations: &HealthObservations) -> HealthArea {
    let mut findings = AuditFindings::default();
    let (mut facts, mut worst, source) = (Vec::new(), Lag { events: 0, waits: None }, observations.state());
    let mut judge = |name: &str, lag: Lag, stopped: Option<String>, version: u64| {
        facts.push(json!({"name": name, "version": version, "lag": lag.events, "stopped": stopped.is_some()}));
        if lag.events > worst.events {
            worst = lag;
        }
        match stopped {
            Some(evidence) => findings.push(&READ_MODEL_STOPPED, name, evidence),
            None if lag.is_late(PATIENCE) => findings.push(&READ_MODEL_LAG, name, lag.shown()),
            None => {}
        }
    };
    match &source {
        Ok(state) => {
            for model in &state.read_models {
                let stopped = model.stopped_because.as_ref();
                let stopped = stopped.map(|because| format!("at position {}: {because}", model.position));
                let lag = Lag::stored(state, &format!("read_model {}", model.name), model.position);
                judge(&model.name, lag, stopped, model.version);
            }
        }
        Err(_) => {
            let ready = observations.ready();
            let Some((_, readiness)) = ready.iter().max_by_key(|(_, readiness)| readiness.log_size) else {
                return HealthArea::unchecked(&READ_MODELS, observations.silence());
            };
            for model in &readiness.projections {
                let stopped = model.stopped.then(|| format!("/health/ready says so, at position {}", model.position));
                judge(&model.name, Lag { events: model.lag, waits: None }, stopped, model.version);
            }
        }
    }
    let summary = format!("{}, at most {}", counted(facts.len() as u64, "read model"), worst.shown());
    let source = if source.is_ok() { DATABASE } else { SERVICE };
    HealthArea::of(&READ_MODELS, findings, summary).from(source).fact("read_models", facts)
}

pub(super) fn tree(observations: &HealthObservations) -> HealthArea {
    let mut findings = AuditFindings::default();
    let (size, lag, stopped, source) = match observations.state() {
        Ok(state) => {
            let size = state.tree.size;
            (size, Lag::stored(state, "tree", size), state.tree.stopped_because.clone(), DATABASE)
        }
        Err(_) => {
            let ready = observations.ready();
            let Some((_, readiness)) = ready.iter().max_by_key(|(_, readiness)| readiness.log_size) else {
                return HealthArea::unchecked(&TREE, observations.silence());
            };
            let tree = &readiness.tree;
            let stopped = tree.stopped.then(|| "/health/ready says so".to_owned());
            (tree.size, Lag { events: tree.lag, waits: None }, stopped, SERVICE)
        }
    };
    match stopped {
        Some(evidence) => findings.push(&TREE_STOPPED, "tree", evidence),
        None if lag.is_late(PATIENCE) => findings.push(&TREE_LAG, "tree", lag.shown()),
        None => {}
    }
    HealthArea::of(&TREE, findings, format!("{}, {}", counted(size, "event"), lag.shown()))
        .from(source)
        .fact("size", size)
        .fact("lag", lag.events)
}

pub(super) fn relay(observations: &HealthObservations) -> HealthArea {
    let mut findings = AuditFindings::default();
    let ready = observations.ready();
    let (lag, stopped, source) = match observations.state() {
        Ok(state) if !state.relay.is_used => {
            return HealthArea::of(&RELAY, findings, "off: no node has ever copied the log").from(DATABASE);
        }
        Ok(state) => {
            let lag = Lag::stored(state, "relay", state.relay.position);
            let nobody = || (!state.relay.has_turn && lag.events > 0).then(|| "no node has the turn".to_owned());
            let late = lag.is_late(RELAY_PATIENCE);
            let stopped = state.relay.stopped_because.clone().or_else(|| nobody().filter(|_| late));
            (Some(lag), stopped, DATABASE)
        }
        Err(_) if ready.is_empty() => return HealthArea::unchecked(&RELAY, observations.silence()),
        Err(_) => {
            let relays: Vec<_> = ready.iter().filter_map(|(_, readiness)| readiness.relay.as_ref()).collect();
            if relays.is_empty() {
                return HealthArea::of(&RELAY, findings, "off").from(SERVICE);
            }
            let lag = relays.iter().filter_map(|relay| relay.lag).max();
            let stopped = relays.iter().any(|relay| relay.stopped).then(|| "/health/ready says so".to_owned());
            // Only the node that copies knows the lag.
            (lag.map(|events| Lag { events, waits: None }), stopped, SERVICE)
        }
    };
    let shown = lag.map_or_else(|| "another node copies, which was not asked".to_owned(), Lag::shown);
    match stopped {
        Some(evidence) => findings.push(&RELAY_STOPPED, "relay", format!("{evidence}; {shown}")),
        None if lag.is_some_and(|lag| lag.is_late(RELAY_PATIENCE)) => {
            findings.push(&RELAY_LAG, "relay", shown.as_str());
        }
        None => {}
    }
    let area = HealthArea::of(&RELAY, findings, shown).from(source);
    area.fact("lag", json!(lag.map(|lag| lag.events)))
}
