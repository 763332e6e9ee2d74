//! The evidence of the log itself in an audit: whether it is as it was signed, begins as the last audit saw it, and leads to the read
//! models.

use std::collections::BTreeMap;

use fulexo_database::chain;
use fulexo_node::clock;
use fulexo_node::database::connect;
use fulexo_ops::audit::audit_check::AuditFindings;
use fulexo_ops::audit::log::{self, SigningState};
use fulexo_ops::audit::read_models;
use fulexo_ops::report::{Check, Report};
use fulexo_projections::as_of::AsOf;
use fulexo_projections::replay::{ReadModelTable, live_checksum};
use fulexo_projections::snapshots;
use fulexo_projections::trail::TrailFault;
use serde_json::{Value, json};
use sqlx::PgConnection;

use crate::cli::audit::source::{CONNECTIONS, LogSource};
use crate::cli::audit::trust::{Trust, TrustedCheckpoint};
use crate::cli::audit::verify::{Unverified, verify};
use crate::cli::failure::Failure;
use crate::cli::replay::{own_connection, replay, resolve, seen};

/// Returns the checkpoint that an audit kept in its report.
pub fn checkpoint(report: &Report) -> Option<String> {
    report.facts.get("log")?.get("checkpoint")?.as_str().map(str::to_owned)
}

/// Verifies the whole log, and that it begins as the older checkpoint says. Keeps the checkpoint among the facts.
pub async fn log(
    url: &str,
    connection: &mut PgConnection,
    trust: Option<Trust>,
    since: Option<String>,
    facts: &mut BTreeMap<String, Value>,
) -> Check {
    let SigningState { mut findings, size, is_signed } = match log::signed(connection, clock::now()).await {
        Ok(signed) => signed,
        Err(error) => return log::CHECK.unchecked(chain(&error).to_string()),
    };
    if !is_signed {
        // Without this an attacker who removes the signature removes the comparison, too.
        if since.is_some() {
            findings.push(
                &log::OLD_CHECKPOINT,
                "checkpoint",
                "the last audit saw a signed log, and nothing is signed now",
            );
        }
        facts.insert("log".to_owned(), json!({"size": size}));
        return log::CHECK.with(findings, "");
    }
    match verified(url, trust, since, &mut findings).await {
        Ok((trusted, since)) => {
            let TrustedCheckpoint { note, checkpoint, witnesses } = trusted;
            facts.insert(
                "log".to_owned(),
                json!({
                    "size": checkpoint.size, "root": checkpoint.root.to_string(), "checkpoint": note.to_string(),
                    "witnesses": witnesses, "since": since,
                }),
            );
            let since =
                since.map_or_else(String::new, |since| format!(", the first {since} as the last audit saw them"));
            log::CHECK.with(findings, format!("{} events{since}", checkpoint.size))
        }
        Err(Unverified::Fault(fault)) => {
            let TrailFault { kind, position, detail } = fault;
            let place = position.map_or_else(|| "log".to_owned(), |position| format!("event {position}"));
            findings.push(&log::FAULT, format!("{place} {}", kind.as_str()), detail);
            log::CHECK.with(findings, "")
        }
        Err(Unverified::Unread(failure)) if findings.is_empty() => log::CHECK.unchecked(told(failure)),
        // What is known already is worth more than what is not.
        Err(Unverified::Unread(_)) => log::CHECK.with(findings, ""),
    }
}

async fn verified(
    url: &str,
    trust: Option<Trust>,
    since: Option<String>,
    findings: &mut AuditFindings,
) -> Result<(TrustedCheckpoint, Option<u64>), Unverified> {
    let source = LogSource::Database(connect(url, CONNECTIONS).await.map_err(Failure::from)?);
    let trust = Trust::of(trust, &source).await?;
    if trust.is_from_log {
        findings.push(&log::OWN_KEY, "checkpoint", "neither --key nor --policy was given");
    }
    let since = since.filter(|since| match trust.verify(since.as_bytes()) {
        Ok(_) => true,
        Err(fault) => {
            findings.push(&log::OLD_CHECKPOINT, "checkpoint", fault.detail);
            false
        }
    });
    let (trusted, since) = verify(&source, &trust, since.as_deref().map(str::as_bytes)).await?;
    Ok((trusted, since.map(|since| since.size)))
}

/// Replays the log, and compares the read models and the snapshots with it.
pub async fn read_models(url: &str) -> Check {
    match differing(url).await {
        Ok((findings, events)) => read_models::CHECK.with(findings, format!("{events} events replayed")),
        Err(failure) => read_models::CHECK.unchecked(told(failure)),
    }
}

async fn differing(url: &str) -> Result<(AuditFindings, u64), Failure> {
    let pool = connect(url, 4).await?;
    let moment = resolve("--replay", AsOf::Time(clock::now()), &pool).await?;
    seen(&pool, moment.position).await?;
    let events = moment.last().map_or(0, |last| last + 1);
    let mut scratch = replay(&pool, events).await?;
    let (mut live, mut findings) = (own_connection(&pool).await?, AuditFindings::default());
    for table in ReadModelTable::ALL {
        let replayed = scratch.checksum(table, moment.position).await?;
        let kept = live_checksum(&mut live, table, moment.position).await?;
        if replayed != kept {
            let evidence = format!("{} rows, and the log leads to {}", kept.rows, replayed.rows);
            findings.push(&read_models::DIFFERS, format!("table {}", table.as_str()), evidence);
        }
    }
    let snapshots = snapshots::compare(&mut live)
        .await
        .map_err(|error| format!("cannot compare the snapshots with the log: {}", chain(&error)))?;
    if snapshots.differing > 0 {
        findings.push(&read_models::DIFFERS, "snapshots", format!("{} differ from the log", snapshots.differing));
    }
    Ok((findings, events))
}

/// Returns the words of a failure.
pub fn told(failure: Failure) -> String {
    match failure {
        Failure::Failed(text) | Failure::Misused(text) | Failure::Unchecked(Some(text)) => text,
        Failure::Misconfigured(errors) => errors.to_string(),
        Failure::Findings | Failure::Unchecked(None) => String::new(),
    }
}
