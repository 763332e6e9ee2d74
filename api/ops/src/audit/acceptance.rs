//! Findings that an operator accepts: each with a reason, and for as long as the operator says. They stay in the report.

use chrono::{DateTime, NaiveDate, NaiveTime, Utc};
use serde::Deserialize;

use super::audit_check::{AuditCheck, AuditFindings};
use crate::finding::{Rule, Severity};
use crate::report::{Check, CheckResult, Report};

const REFERENCE: &str = "docs/security-audit.md#accept-a-finding";

const UNUSED: Rule = Rule {
    id: "acceptance.unused",
    title: "an accepted finding was not found",
    severity: Severity::Low,
    remedy: "Remove the entry from the file of --accept: it would hide the fault should it come back.",
    reference: REFERENCE,
};
const EXPIRED: Rule = Rule {
    id: "acceptance.expired",
    title: "the time for which a finding was accepted is over",
    severity: Severity::Low,
    remedy: "Mend the fault, or accept it again with a new date.",
    reference: REFERENCE,
};

/// The check.
pub const CHECK: AuditCheck = AuditCheck {
    id: "acceptance",
    title: "every accepted finding is still there, and still accepted",
    rules: &[UNUSED, EXPIRED],
};

/// The length of the longest file, in bytes.
pub const MAX_FILE: u64 = 1 << 20;

/// A finding that is accepted.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Acceptance {
    rule: String,
    subject: String,
    reason: String,
    /// The end of the last day for which it is accepted.
    #[serde(default)]
    until: Option<NaiveDate>,
}

/// Reads the entries of a file: a JSON list of `rule`, `subject`, `reason` and, if it ends, `until`. The rules are those of
/// `checks`.
///
/// # Errors
/// The problem, for the operator.
pub fn parse(text: &str, checks: &[AuditCheck]) -> Result<Vec<Acceptance>, String> {
    let entries: Vec<Acceptance> = serde_json::from_str(text).map_err(|error| error.to_string())?;
    for Acceptance { rule, subject, reason, .. } in &entries {
        if !checks.iter().flat_map(|check| check.rules).any(|known| known.id == rule) {
            return Err(format!("{rule:?} is not a rule of the audit; docs/security-audit.md lists them"));
        }
        if rule.starts_with("acceptance.") {
            return Err(format!("{rule} cannot be accepted"));
        }
        if subject.trim().is_empty() || reason.trim().is_empty() {
            return Err(format!("the entry of {rule} lacks its subject or its reason"));
        }
    }
    Ok(entries)
}

impl Acceptance {
    fn is_over(&self, now: DateTime<Utc>) -> bool {
        self.until.is_some_and(|until| until < now.date_naive())
    }

    fn name(&self) -> String {
        format!("{} {}", self.rule, self.subject)
    }
}

/// Accepts findings of a report, and adds the check of the entries.
pub fn apply(entries: &[Acceptance], report: &mut Report, now: DateTime<Utc>) {
    let mut findings = AuditFindings::default();
    for entry in entries {
        let mut is_found = false;
        for check in &mut report.checks {
            let CheckResult::Found { findings } = &mut check.result else { continue };
            for finding in findings.iter_mut().filter(|it| it.rule == entry.rule && it.subject == entry.subject) {
                is_found = true;
                if !entry.is_over(now) {
                    finding.accepted = Some(entry.reason.clone());
                }
            }
        }
        if is_found && entry.is_over(now) {
            let until =
                entry.until.map_or(String::new(), |until| until.and_time(NaiveTime::MIN).format("%F").to_string());
            findings.push(&EXPIRED, entry.name(), format!("accepted until {until}"));
        }
        // What was not looked for may well be there.
        if !is_found && was_made(report, &entry.rule) {
            findings.push(&UNUSED, entry.name(), "the audit did not find it");
        }
    }
    report.checks.push(made(entries.len(), findings));
}

fn made(entries: usize, findings: AuditFindings) -> Check {
    CHECK.with(findings, format!("{entries} entries"))
}

fn was_made(report: &Report, rule: &str) -> bool {
    // A rule is named after its check.
    let area = rule.split('.').next().unwrap_or_default();
    report.checks.iter().any(|check| check.id == area && !matches!(check.result, CheckResult::NotChecked { .. }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::{api_keys, policy};
    use crate::report::Verdict;

    const CHECKS: [AuditCheck; 3] = [api_keys::CHECK, policy::CHECK, CHECK];

    fn report() -> Report {
        let rule = policy::CHECK.rules[0];
        let found = Check::of("policy", "t", "", vec![rule.finding("policy", "e")]);
        let checks = vec![found, Check::not_checked("api_keys", "t", "r"), Check::passed("roles", "t", "d")];
        Report { checks, ..Report::begin("security-audit", "x", DateTime::UNIX_EPOCH) }
    }

    fn applied(text: &str, now: DateTime<Utc>) -> (Verdict, Vec<String>) {
        let mut report = report();
        apply(&parse(text, &CHECKS).unwrap(), &mut report, now);
        let open = report.findings().filter(|it| it.accepted.is_none());
        (report.verdict(), open.map(|it| format!("{} {}", it.rule, it.subject)).collect())
    }

    #[test]
    fn an_acceptance_holds_to_the_end_of_its_last_day_and_is_found_when_it_is_of_no_use() {
        let day = |text: &str| format!("{text}T23:59:59Z").parse::<DateTime<Utc>>().unwrap();
        let entry = r#"[{"rule": "policy.no_lockout", "subject": "policy", "reason": "why", "until": "2026-06-30"}]"#;
        assert_eq!(applied(entry, day("2026-06-30")), (Verdict::Incomplete, vec![]));
        let over = applied(entry, day("2026-07-01")).1;
        assert_eq!(over, ["policy.no_lockout policy", "acceptance.expired policy.no_lockout policy"]);
        let other = r#"[{"rule": "policy.no_lockout", "subject": "other", "reason": "why"}]"#;
        let unused = applied(other, day("2026-06-30")).1;
        assert_eq!(unused, ["policy.no_lockout policy", "acceptance.unused policy.no_lockout other"]);
        let rule = api_keys::CHECK.rules[0].id;
        let unmade = format!(r#"[{{"rule": "{rule}", "subject": "x", "reason": "why"}}]"#);
        assert_eq!(applied(&unmade, day("2026-06-30")).1, ["policy.no_lockout policy"], "that check was not made");
    }

    #[test]
    fn a_file_that_says_something_else_is_refused() {
        for text in [
            "{}",
            r#"[{"rule": "policy.unheard_of", "subject": "x", "reason": "y"}]"#,
            r#"[{"rule": "acceptance.unused", "subject": "x", "reason": "y"}]"#,
            r#"[{"rule": "policy.no_lockout", "subject": "policy", "reason": " "}]"#,
            r#"[{"rule": "policy.no_lockout", "subject": "policy", "reason": "y", "for": "ever"}]"#,
            r#"[{"rule": "policy.no_lockout", "subject": "policy", "reason": "y", "until": "tomorrow"}]"#,
        ] {
            assert!(parse(text, &CHECKS).is_err(), "{text}");
        }
    }
}
