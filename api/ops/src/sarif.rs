//! A report as SARIF 2.1.0 (OASIS), the form that code hosts and dashboards of findings read.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::finding::{Finding, Severity};
use crate::report::{CheckResult, Report};

/// Returns the report as one run. What could not be checked is a notification of its invocation (section 3.20.21).
#[must_use]
pub fn to_sarif(report: &Report, version: &str) -> Value {
    let mut rules: BTreeMap<&str, &Finding> = BTreeMap::new();
    for finding in report.findings() {
        rules.entry(&finding.rule).or_insert(finding);
    }
    let index: BTreeMap<&str, usize> = rules.keys().enumerate().map(|(index, rule)| (*rule, index)).collect();
    let results: Vec<_> = report.findings().map(|finding| result(finding, index.get(&*finding.rule))).collect();
    let unchecked: Vec<_> = report
        .checks
        .iter()
        .filter_map(|check| match &check.result {
            CheckResult::NotChecked { reason } => Some((check, reason)),
            CheckResult::Passed { .. } | CheckResult::Found { .. } => None,
        })
        .map(|(check, reason)| {
            json!({
                "descriptor": {"id": check.id},
                "level": "warning",
                "message": {"text": format!("{} was not checked: {reason}", check.title)},
            })
        })
        .collect();
    json!({
        "$schema": "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": {"driver": {
                "name": format!("fulexo {}", report.verb),
                "semanticVersion": version,
                "rules": rules.values().map(|finding| rule(finding)).collect::<Vec<_>>(),
            }},
            "invocations": [{
                "executionSuccessful": unchecked.is_empty(),
                "startTimeUtc": report.began_at.to_rfc3339_opts(chrono::SecondsFormat::Millis, true),
                "endTimeUtc": report.ended_at.to_rfc3339_opts(chrono::SecondsFormat::Millis, true),
                "toolExecutionNotifications": unchecked,
            }],
            "results": results,
        }],
    })
}

fn rule(finding: &Finding) -> Value {
    json!({
        "id": finding.rule,
        "shortDescription": {"text": finding.title},
        "help": {"text": format!("{}\n{}", finding.remedy, finding.reference)},
        "defaultConfiguration": {"level": level(finding.severity)},
        "properties": {"security-severity": score(finding.severity)},
    })
}

fn result(finding: &Finding, index: Option<&usize>) -> Value {
    let fingerprint = Sha256::digest(format!("{}\n{}", finding.rule, finding.subject));
    let fingerprint: String = fingerprint.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    let text = format!("{}: {}. {}", finding.subject, finding.evidence, finding.remedy);
    let mut result = json!({
        "ruleId": finding.rule,
        "ruleIndex": index,
        "level": level(finding.severity),
        "message": {"text": text},
        "locations": [{"logicalLocations": [{"fullyQualifiedName": finding.subject}]}],
        "partialFingerprints": {"ruleAndSubject/v1": fingerprint},
    });
    if let (Some(reason), Some(members)) = (&finding.accepted, result.as_object_mut()) {
        let suppression = json!({"kind": "external", "status": "accepted", "justification": reason});
        members.insert("suppressions".to_owned(), json!([suppression]));
    }
    result
}

/// Returns the level (section 3.27.10).
const fn level(severity: Severity) -> &'static str {
    match severity {
        Severity::Low => "note",
        Severity::Medium => "warning",
        Severity::High | Severity::Critical => "error",
    }
}

/// Returns a score within the range that code hosts map to the severity's name.
const fn score(severity: Severity) -> &'static str {
    match severity {
        Severity::Low => "3.0",
        Severity::Medium => "5.5",
        Severity::High => "8.0",
        Severity::Critical => "9.5",
    }
}
