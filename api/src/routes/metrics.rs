//! The metrics of a node in Prometheus' text format 0.0.4: the log, the read models, the gate, the relay, the feed, the tree,
//! its checkpoint and the witnesses. Labels have a closed set of values and hold no personal data.

use std::fmt::Write;

use chrono::{DateTime, Utc};
use fulexo_commands::log::relay::RelayState;
use fulexo_node::cosigning::CosigningState;
use fulexo_node::keys::KeyAge;
use fulexo_projections::feed::FeedCounts;
use fulexo_projections::read_models::Projection;
use fulexo_projections::read_models::backups::BackupTimes;
use fulexo_projections::runner::ProjectionState;
use fulexo_projections::tree::{PublishedCheckpoint, TreeState, WitnessStatus};

/// The state of one node at one moment.
pub struct NodeMetrics {
    /// The number of events in the log. `None` if PostgreSQL does not respond.
    pub log_size: Option<u64>,
    /// The number of events in the log that this node knows of.
    pub head: u64,
    /// `true` if the node is connected to NATS. `None` if NATS is not configured.
    pub nats: Option<bool>,
    pub projections: Vec<(Projection, ProjectionState)>,
    pub gate_applied: u64,
    pub gate_holds_lease: bool,
    /// The state of the relay. `None` if it is not configured.
    pub relay: Option<RelayState>,
    pub tree: TreeState,
    pub checkpoint: PublishedCheckpoint,
    /// The cosignatures of witnesses. `None` if no witnesses are asked.
    pub cosigning: Option<CosigningState>,
    /// The number of open event streams.
    pub streams: u64,
    /// The number of events that streams have been sent.
    pub streamed_events: u64,
    /// The counts of the JetStream feed. `None` if projections read PostgreSQL.
    pub feed: Option<FeedCounts>,
    /// The keys in use.
    pub keys: Vec<KeyAge>,
    /// The times of the last backups. `None` if they cannot be read.
    pub backups: Option<BackupTimes>,
}

/// Writes the metrics of the witnesses, whose names are those of the operator's policy.
fn witnesses(text: &mut String, cosigning: &CosigningState) {
    let seconds = |at: Option<DateTime<Utc>>| at.and_then(|at| u64::try_from(at.timestamp()).ok()).unwrap_or_default();
    let anchored = cosigning.anchored.as_ref();
    let one = |value: u64| [(String::new(), value)];
    family(
        text,
        "fulexo_anchored_size",
        "Events that the newest checkpoint covers that enough witnesses have cosigned.",
        &one(anchored.map_or(0, |anchored| anchored.size)),
    );
    family(
        text,
        "fulexo_anchored_timestamp_seconds",
        "The time at which enough witnesses had cosigned it, in seconds since 1970. 0 if there is none.",
        &one(seconds(anchored.map(|anchored| anchored.anchored_at))),
    );
    let each = |value: &dyn Fn(&WitnessStatus) -> u64| -> Vec<(String, u64)> {
        let label = |name: &str| name.replace('\\', "\\\\").replace('"', "\\\"");
        let witnesses = cosigning.witnesses.iter();
        witnesses.map(|witness| (format!("{{witness=\"{}\"}}", label(&witness.name)), value(witness))).collect()
    };
    family(
        text,
        "fulexo_witness_size",
        "Events that the checkpoint covers that the witness cosigned last.",
        &each(&|witness| witness.size),
    );
    family(
        text,
        "fulexo_witness_timestamp_seconds",
        "The time at which the witness cosigned last, in seconds since 1970. 0 if it never has.",
        &each(&|witness| seconds(witness.cosigned_at)),
    );
    family(
        text,
        "fulexo_witness_failed",
        "1 if the witness did not cosign when it was asked last.",
        &each(&|witness| witness.failure.is_some().into()),
    );
    family(
        text,
        "fulexo_witness_contradicts",
        "1 if the witness has cosigned a larger tree than there is now, or another one.",
        &each(&|witness| witness.is_contradiction.into()),
    );
}

/// Writes the metrics of backups.
fn backups(text: &mut String, times: &BackupTimes) {
    let seconds = |at: Option<DateTime<Utc>>| at.and_then(|at| u64::try_from(at.timestamp()).ok()).unwrap_or_default();
    family(
        text,
        "fulexo_backup_taken_timestamp_seconds",
        "The time at which the last backup was recorded, in seconds since 1970. 0 if there is none.",
        &[(String::new(), seconds(times.taken))],
    );
    family(
        text,
        "fulexo_backup_verified_timestamp_seconds",
        "The time at which a backup was last restored and verified without findings, in seconds since 1970. 0 if there is none.",
        &[(String::new(), seconds(times.verified))],
    );
}

/// Writes the metrics of keys.
fn keys(text: &mut String, keys: &[KeyAge]) {
    let each = |value: &dyn Fn(&KeyAge) -> u64| -> Vec<(String, u64)> {
        keys.iter().map(|key| (format!("{{kind=\"{}\"}}", key.kind.as_str()), value(key))).collect()
    };
    family(text, "fulexo_key_age_seconds", "Seconds since the key in use came into use.", &each(&|key| key.age));
    family(
        text,
        "fulexo_key_due",
        "1 if the key has been in use for longer than an epoch.",
        &each(&|key| key.is_due.into()),
    );
    family(text, "fulexo_keys_leaving", "Replaced keys that are not destroyed yet.", &each(&|key| key.leaving));
}

/// Returns the metrics as Prometheus scrapes them.
pub fn exposition(metrics: &NodeMetrics) -> String {
    let mut text = String::new();
    let size = metrics.log_size.unwrap_or(metrics.head);
    let build = [(format!("{{version=\"{}\"}}", env!("CARGO_PKG_VERSION")), 1)];
    family(&mut text, "fulexo_build_info", "The version of the running program.", &build);
    let one = |value: u64| [(String::new(), value)];
    family(&mut text, "fulexo_postgres_up", "1 if PostgreSQL responds.", &one(metrics.log_size.is_some().into()));
    if let Some(is_connected) = metrics.nats {
        family(&mut text, "fulexo_nats_up", "1 if this node is connected to NATS.", &one(is_connected.into()));
    }
    family(&mut text, "fulexo_log_size", "Events in the log.", &one(size));
    let each = |value: &dyn Fn(&ProjectionState) -> u64| -> Vec<(String, u64)> {
        let label = |projection: Projection| format!("{{projection=\"{}\"}}", projection.as_str());
        metrics.projections.iter().map(|(projection, state)| (label(*projection), value(state))).collect()
    };
    family(
        &mut text,
        "fulexo_projection_position",
        "The checkpoint of the read model: every event below it is visible.",
        &each(&|state| state.position),
    );
    family(
        &mut text,
        "fulexo_projection_lag",
        "Events of the log that are not visible in the read model yet.",
        &each(&|state| size.saturating_sub(state.position)),
    );
    family(
        &mut text,
        "fulexo_projection_stopped",
        "1 if the projection has stopped at an event that it cannot apply.",
        &each(&|state| state.stopped_because.is_some().into()),
    );
    family(
        &mut text,
        "fulexo_projection_version",
        "The live version of the read model.",
        &each(&|state| state.version.into()),
    );
    family(
        &mut text,
        "fulexo_gate_applied",
        "The position of the gate: every event below it is applied.",
        &one(metrics.gate_applied),
    );
    family(
        &mut text,
        "fulexo_gate_holds_lease",
        "1 if this node holds its lease and authorises requests from memory.",
        &one(metrics.gate_holds_lease.into()),
    );
    if let Some(relay) = &metrics.relay {
        let stopped = relay.stopped_because.is_some();
        family(&mut text, "fulexo_relay_stopped", "1 if an error interrupts the relay.", &one(stopped.into()));
        if relay.is_here {
            let lag = size.saturating_sub(relay.position);
            family(
                &mut text,
                "fulexo_relay_position",
                "The position of the relay: every event below it is in JetStream.",
                &one(relay.position),
            );
            family(&mut text, "fulexo_relay_lag", "Events of the log that are not in JetStream yet.", &one(lag));
        }
    }
    family(&mut text, "fulexo_tree_size", "Events in the tree over the log.", &one(metrics.tree.size));
    family(
        &mut text,
        "fulexo_tree_stopped",
        "1 if the tree has stopped at an event that is missing, or does not have the hash on record.",
        &one(metrics.tree.stopped_because.is_some().into()),
    );
    family(
        &mut text,
        "fulexo_checkpoint_size",
        "Events that the published checkpoint covers.",
        &one(metrics.checkpoint.size),
    );
    let published_at = metrics.checkpoint.published_at.map(|at| u64::try_from(at.timestamp()).unwrap_or_default());
    family(
        &mut text,
        "fulexo_checkpoint_timestamp_seconds",
        "The time at which the checkpoint was published, in seconds since 1970. 0 if there is none.",
        &one(published_at.unwrap_or_default()),
    );
    family(
        &mut text,
        "fulexo_checkpoint_refused",
        "1 if the signer refuses the tree as it is.",
        &one(metrics.checkpoint.refused_because.is_some().into()),
    );
    family(&mut text, "fulexo_streams", "Open streams of the audit trail.", &one(metrics.streams));
    family(
        &mut text,
        "fulexo_streamed_events_total",
        "Events that streams of the audit trail have been sent.",
        &one(metrics.streamed_events),
    );
    keys(&mut text, &metrics.keys);
    if let Some(times) = &metrics.backups {
        backups(&mut text, times);
    }
    if let Some(cosigning) = &metrics.cosigning {
        witnesses(&mut text, cosigning);
    }
    if let Some(feed) = &metrics.feed {
        family(
            &mut text,
            "fulexo_feed_reads_total",
            "Reads by projections that JetStream answered. All others read PostgreSQL.",
            &one(feed.window_reads),
        );
        family(
            &mut text,
            "fulexo_feed_rejected_messages_total",
            "Messages in JetStream that were rejected: not sent by a node, or not for their position.",
            &one(feed.rejected),
        );
    }
    text
}

/// Writes a family of samples: a counter if its name ends in `_total`, otherwise a gauge.
fn family(text: &mut String, name: &str, help: &str, samples: &[(String, u64)]) {
    let kind = if name.ends_with("_total") { "counter" } else { "gauge" };
    // Writing to a String cannot fail.
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    for (labels, value) in samples {
        let _ = writeln!(text, "{name}{labels} {value}");
    }
}
