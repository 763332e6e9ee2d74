//! PostgreSQL: whether it answers, as a primary, with connections to spare, and without a transaction that never ends.

use serde_json::json;

use super::area::HealthArea;
use super::observations::{DATABASE, HealthObservations, SERVICE, milliseconds, spoken};
use super::probes::database::{DatabaseView, OpenDatabase, StoredLoad};
use crate::audit::audit_check::{AuditCheck, AuditFindings};
use crate::finding::{Rule, Severity};

const DOWN: Rule = Rule {
    id: "postgres.down",
    title: "PostgreSQL does not answer",
    severity: Severity::Critical,
    remedy: "Look at the server, its disk and its log, and start it again: nodes continue by themselves.",
    reference: "docs/runbooks/postgresql-down.md",
};
const STANDBY: Rule = Rule {
    id: "postgres.standby",
    title: "the URL leads to a standby",
    severity: Severity::Critical,
    remedy: "Lead DATABASE_URL to the primary: nodes refuse to start at a standby, and cannot write there.",
    reference: "docs/scale-out.md#replicate-postgresql",
};
const CONNECTIONS: Rule = Rule {
    id: "postgres.connections",
    title: "hardly any connection is free",
    severity: Severity::High,
    remedy: "Find who holds them in pg_stat_activity; raise max_connections, or lower FULEXO_DATABASE_CONNECTIONS.",
    reference: "docs/runbooks/postgresql-down.md",
};
const LONG_TRANSACTION: Rule = Rule {
    id: "postgres.long_transaction",
    title: "a transaction has been open for long, and keeps what is deleted on the disk",
    severity: Severity::Medium,
    remedy: "Find it in pg_stat_activity by xact_start, and end it with pg_terminate_backend.",
    reference: "docs/runbooks/disk-full.md",
};

/// The check.
pub const CHECK: AuditCheck = AuditCheck {
    id: "postgres",
    title: "PostgreSQL answers, and has room",
    rules: &[DOWN, STANDBY, CONNECTIONS, LONG_TRANSACTION],
};

/// The share of connections, in percent, from which on hardly any is free.
const MOST_SESSIONS: u64 = 90;
/// The seconds from which on a transaction is a long one.
const LONG: f64 = 900.0;

pub(super) fn check(observations: &HealthObservations) -> HealthArea {
    let mut findings = AuditFindings::default();
    match &observations.database {
        DatabaseView::Open(open) => opened(open, findings),
        DatabaseView::Down(reason) => {
            findings.push(&DOWN, "database", reason.as_str());
            HealthArea::of(&CHECK, findings, "no answer").from(DATABASE)
        }
        DatabaseView::Refused(reason) => {
            HealthArea::unchecked(&CHECK, format!("PostgreSQL answers, and refuses the connection: {reason}"))
        }
        DatabaseView::NotGiven if observations.ready().is_empty() => {
            HealthArea::unchecked(&CHECK, observations.silence())
        }
        DatabaseView::NotGiven => HealthArea::of(&CHECK, findings, "answers the nodes").from(SERVICE),
    }
}

fn opened(open: &OpenDatabase, mut findings: AuditFindings) -> HealthArea {
    if open.is_standby {
        findings.push(&STANDBY, "database", "pg_is_in_recovery() is true");
    }
    let latency = milliseconds(open.latency);
    let load = match &open.state {
        Ok(state) => &state.load,
        Err(reason) => return HealthArea::unless_found(&CHECK, findings, reason.as_str()),
    };
    judge(load, &mut findings);
    let free = load.most_sessions.saturating_sub(load.sessions);
    let size = load.bytes / (1 << 20);
    let summary = format!("version {}, {latency}, {free} connections free, {size} MiB", open.version);
    // The free space of the server's disk is nowhere in SQL.
    HealthArea::of(&CHECK, findings, summary)
        .from(DATABASE)
        .fact("version", open.version.as_str())
        .fact("milliseconds", u64::try_from(open.latency.as_millis()).unwrap_or(u64::MAX))
        .fact("is_standby", open.is_standby)
        .fact("sessions", load.sessions)
        .fact("most_sessions", load.most_sessions)
        .fact("database_bytes", load.bytes)
        .fact("free_disk_bytes", json!(null))
        .fact("longest_transaction_seconds", json!(load.longest_transaction))
        .fact("sees_transactions_of_all_roles", load.sees_all_sessions)
}

fn judge(load: &StoredLoad, findings: &mut AuditFindings) {
    if load.sessions.saturating_mul(100) >= load.most_sessions.saturating_mul(MOST_SESSIONS) {
        findings.push(&CONNECTIONS, "database", format!("{} of {} are taken", load.sessions, load.most_sessions));
    }
    let longest = load.longest_transaction.unwrap_or_default();
    if longest > LONG {
        findings.push(&LONG_TRANSACTION, "database", format!("it began {} ago", spoken(longest)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(sessions: u64, longest_transaction: Option<f64>) -> Vec<String> {
        let mut findings = AuditFindings::default();
        let load = StoredLoad { sessions, most_sessions: 100, longest_transaction, sees_all_sessions: true, bytes: 0 };
        judge(&load, &mut findings);
        CHECK.with(findings, "").findings().iter().map(|finding| finding.rule.to_string()).collect()
    }

    #[test]
    fn connections_that_are_nearly_all_taken_and_a_transaction_without_end_are_found() {
        assert_eq!(rules(89, Some(900.0)), [""; 0]);
        assert_eq!(rules(89, None), [""; 0]);
        assert_eq!(rules(90, None), ["postgres.connections"]);
        assert_eq!(rules(1, Some(901.0)), ["postgres.long_transaction"]);
    }
}
