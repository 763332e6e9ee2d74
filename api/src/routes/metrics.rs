//! What a node tells Prometheus, in its text format 0.0.4: figures of the log, of the read models and of the gate. No
//! label has more values than the program has names for; none says anything about a person.

use std::fmt::Write;

use fulexo_commands::log::relay::RelayState;
use fulexo_projections::feed::FeedCounts;
use fulexo_projections::read_models::Projection;
use fulexo_projections::runner::ProjectionState;

/// As of one moment, as one node knows it.
pub struct Figures {
    /// `None` when Postgres does not answer.
    pub log_size: Option<u64>,
    /// The log as far as this node knows it.
    pub head: u64,
    /// `None` when NATS is not configured.
    pub nats: Option<bool>,
    pub projections: Vec<(Projection, ProjectionState)>,
    pub gate_applied: u64,
    pub gate_holds_lease: bool,
    /// The copy of the log in NATS, where this node takes part in it.
    pub relay: Option<RelayState>,
    /// What came of the feed from JetStream, where projections read it.
    pub feed: Option<FeedCounts>,
}

/// The text that is scraped.
pub fn exposition(figures: &Figures) -> String {
    let mut text = String::new();
    let size = figures.log_size.unwrap_or(figures.head);
    let build = [(format!("{{version=\"{}\"}}", env!("CARGO_PKG_VERSION")), 1)];
    family(&mut text, "fulexo_build_info", "The version that runs.", &build);
    let one = |value: u64| [(String::new(), value)];
    family(&mut text, "fulexo_postgres_up", "Whether Postgres answers.", &one(figures.log_size.is_some().into()));
    if let Some(is_connected) = figures.nats {
        family(&mut text, "fulexo_nats_up", "Whether this node is connected to NATS.", &one(is_connected.into()));
    }
    family(&mut text, "fulexo_log_size", "Events in the log.", &one(size));
    let each = |value: &dyn Fn(&ProjectionState) -> u64| -> Vec<(String, u64)> {
        let label = |projection: Projection| format!("{{projection=\"{}\"}}", projection.as_str());
        figures.projections.iter().map(|(projection, state)| (label(*projection), value(state))).collect()
    };
    family(
        &mut text,
        "fulexo_projection_position",
        "Every event below it is visible in the read model.",
        &each(&|state| state.position),
    );
    family(
        &mut text,
        "fulexo_projection_lag",
        "Events in the log that are not visible in the read model yet.",
        &each(&|state| size.saturating_sub(state.position)),
    );
    family(
        &mut text,
        "fulexo_projection_stopped",
        "Whether something that the read model cannot apply has stopped it.",
        &each(&|state| state.stopped_because.is_some().into()),
    );
    family(
        &mut text,
        "fulexo_projection_version",
        "The version of the read model that is live.",
        &each(&|state| state.version.into()),
    );
    family(&mut text, "fulexo_gate_applied", "Every event below it is known to the gate.", &one(figures.gate_applied));
    family(
        &mut text,
        "fulexo_gate_holds_lease",
        "Whether this node judges requests from memory.",
        &one(figures.gate_holds_lease.into()),
    );
    if let Some(relay) = &figures.relay {
        let stopped = relay.stopped_because.is_some();
        family(
            &mut text,
            "fulexo_relay_stopped",
            "Whether something keeps the log from being copied.",
            &one(stopped.into()),
        );
        if relay.is_here {
            let lag = size.saturating_sub(relay.position);
            family(&mut text, "fulexo_relay_position", "Every event below it is in JetStream.", &one(relay.position));
            family(&mut text, "fulexo_relay_lag", "Events in the log that are not in JetStream yet.", &one(lag));
        }
    }
    if let Some(feed) = &figures.feed {
        family(
            &mut text,
            "fulexo_feed_reads_total",
            "Reads of read models that JetStream answered; all others read Postgres.",
            &one(feed.window_reads),
        );
        family(
            &mut text,
            "fulexo_feed_rejected_messages_total",
            "Messages in the copy of the log that were not believed: no node sent them, or not for their place.",
            &one(feed.rejected),
        );
    }
    text
}

/// A counter, if its name ends as those do, or a gauge, with its samples.
fn family(text: &mut String, name: &str, help: &str, samples: &[(String, u64)]) {
    let kind = if name.ends_with("_total") { "counter" } else { "gauge" };
    // Nothing that is written to a String fails.
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    for (labels, value) in samples {
        let _ = writeln!(text, "{name}{labels} {value}");
    }
}
