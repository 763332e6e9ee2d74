//! The log as its signer and its witnesses see it. Whether the whole log verifies is for the command line, which has the
//! verifier; its findings have the rules of this check.

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::PgConnection;

use super::audit_check::{AuditCheck, AuditFindings};
use crate::finding::{Rule, Severity};

const REFERENCE: &str = "docs/production.md#sign-the-log";

/// The log has a fault.
pub const FAULT: Rule = Rule {
    id: "log.fault",
    title: "the log is not what was signed",
    severity: Severity::Critical,
    remedy: "Stop writing to the database, preserve it and the signer's memory as evidence, and compare with a copy of the log \
             or a backup: `fulexo audit verify` names the position.",
    reference: "docs/production.md#verify-the-log",
};
/// Nothing signs the log.
pub const UNSIGNED: Rule = Rule {
    id: "log.unsigned",
    title: "nothing signs the log, so whoever owns the database can rewrite it",
    severity: Severity::Medium,
    remedy: "Run `fulexo signer`, and set FULEXO_SIGNER_SOCKET.",
    reference: REFERENCE,
};
/// The key that verified comes from the database itself.
pub const OWN_KEY: Rule = Rule {
    id: "log.own_key",
    title: "the log was verified with the key that the database itself names",
    severity: Severity::Low,
    remedy: "Give the log's public key with --key, or a policy with --policy: whoever rewrites the database writes its key, too.",
    reference: "docs/production.md#verify-the-log",
};
/// The checkpoint of the last audit is signed by a key that is not trusted any more.
pub const OLD_CHECKPOINT: Rule = Rule {
    id: "log.old_checkpoint",
    title: "the log was not compared with the checkpoint of the last audit",
    severity: Severity::High,
    remedy: "If the log's key was replaced, give the old one, too: --key OLD --key NEW. Otherwise find out whose key signs.",
    reference: "docs/production.md#verify-the-log",
};
const REFUSED: Rule = Rule {
    id: "log.refused",
    title: "the signer refuses to sign the log",
    severity: Severity::Critical,
    remedy: "Preserve the database and the signer's memory: events were changed or lost.",
    reference: "docs/runbooks/checkpoint-refused.md",
};
const CONTRADICTED: Rule = Rule {
    id: "log.contradicted",
    title: "a witness has seen another log",
    severity: Severity::Critical,
    remedy: "Preserve the database, the signer's memory and the witness's last checkpoint.",
    reference: "docs/runbooks/witness-contradicts.md",
};
const UNSIGNED_TAIL: Rule = Rule {
    id: "log.unsigned_tail",
    title: "the newest events wait for a signature",
    severity: Severity::Medium,
    remedy: "Start the signer and a node; `/health/ready` says why events wait.",
    reference: REFERENCE,
};

/// The check.
pub const CHECK: AuditCheck = AuditCheck {
    id: "log",
    title: "the whole log is what was signed, and begins as the last audit saw it",
    rules: &[FAULT, UNSIGNED, OWN_KEY, OLD_CHECKPOINT, REFUSED, CONTRADICTED, UNSIGNED_TAIL],
};

/// The time for which events may wait for a signature.
const LATE: TimeDelta = TimeDelta::minutes(10);

/// The log as its signer sees it.
pub struct SigningState {
    /// The findings so far.
    pub findings: AuditFindings,
    /// The number of events.
    pub size: i64,
    /// `true` if there is a signed checkpoint.
    pub is_signed: bool,
}

/// Reads what the signer and the witnesses say.
///
/// # Errors
/// [`sqlx::Error`].
pub async fn signed(connection: &mut PgConnection, now: DateTime<Utc>) -> Result<SigningState, sqlx::Error> {
    let row = sqlx::query!(
        r#"select h.position, c.size, c.note is not null as "is_signed!", c.refused_because,
                  coalesce((select a.recorded_at from read.audit a where a.position = c.size), h.recorded_at)
                      as "waits_since!"
           from log.head h cross join tree.checkpoint c"#
    )
    .fetch_one(&mut *connection)
    .await?;
    let witnesses = sqlx::query_scalar!("select name from tree.witness where is_contradiction order by name limit 32")
        .fetch_all(connection)
        .await?;
    let mut findings = AuditFindings::default();
    if let Some(because) = row.refused_because {
        findings.push(&REFUSED, "checkpoint", because);
    }
    for witness in witnesses {
        findings.push(
            &CONTRADICTED,
            format!("witness {witness}"),
            "it has cosigned a tree that this log does not have",
        );
    }
    if !row.is_signed {
        findings.push(&UNSIGNED, "checkpoint", "the database has no signed checkpoint");
    } else if row.size < row.position && now.signed_duration_since(row.waits_since) > LATE {
        let evidence =
            format!("{} events, the first of {}", row.position - row.size, row.waits_since.format("%F %T UTC"));
        findings.push(&UNSIGNED_TAIL, "checkpoint", evidence);
    }
    Ok(SigningState { findings, size: row.position, is_signed: row.is_signed })
}
