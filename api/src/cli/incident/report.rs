//! The incident of a report of a verb of operations.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use chrono::{DateTime, NaiveTime, Utc};
use fulexo_commands::{IncidentCause, NewIncident};
use fulexo_domain::incident::{IncidentLinks, IncidentSeverity, MAX_LINKS};
use fulexo_domain::permission::Permission;
use fulexo_domain::values::{AccountId, FindingRule, IncidentText};
use fulexo_ops::finding::{Finding, Severity};
use fulexo_ops::report::{CheckResult, Report};
use serde_json::Value;

use crate::cli::failure::Failure;

/// The most bytes of a report that are read.
const MAX_REPORT: u64 = 16 << 20;

/// The incident that a report asks for.
pub struct ReportedIncident {
    pub cause: IncidentCause,
    severity: IncidentSeverity,
    links: IncidentLinks,
    summary: IncidentText,
}

impl ReportedIncident {
    /// Returns what is to be opened.
    pub fn with_owner(self, owner: Option<AccountId>) -> (IncidentCause, NewIncident) {
        let Self { cause, severity, links, summary } = self;
        (cause, NewIncident { severity, owner, links, summary })
    }

    /// Judges a report. `None` if nothing was found that was not accepted.
    pub fn of(report: &Report) -> Result<Option<Self>, Failure> {
        let mut findings: Vec<&Finding> = report.findings().filter(|finding| finding.accepted.is_none()).collect();
        findings.sort_by_key(|finding| Reverse(finding.severity));
        let Some(worst) = findings.first() else { return Ok(None) };
        let severity = match worst.severity {
            Severity::Low => IncidentSeverity::Low,
            Severity::Medium => IncidentSeverity::Medium,
            Severity::High => IncidentSeverity::High,
            Severity::Critical => IncidentSeverity::Critical,
        };
        let mut rules = BTreeSet::new();
        for rule in findings.iter().filter_map(|finding| FindingRule::parse(&finding.rule).ok()) {
            if rules.len() < MAX_LINKS {
                rules.insert(rule);
            }
        }
        let head = format!("{} of {}: {} findings", report.verb, report.target, findings.len());
        let lines: Vec<String> = findings.iter().map(|finding| line(finding)).collect();
        let summary = IncidentText::of_lines(&head, lines.iter().map(String::as_str), 0)
            .map_err(|error| Failure::Misused(format!("the text of the report {error}")))?;
        let links = IncidentLinks { findings: rules, ..IncidentLinks::default() };
        Ok(Some(Self { cause: cause(report, &findings), severity, links, summary }))
    }
}

fn line(finding: &Finding) -> String {
    let Finding { rule, title, severity, subject, evidence, .. } = finding;
    format!("{} {rule} {subject}: {title} ({evidence})", severity.as_str())
}

/// Names a report by its verb, its target, its day, and what was found: the same faults have one incident a day.
fn cause(report: &Report, findings: &[&Finding]) -> IncidentCause {
    let day: DateTime<Utc> = report.began_at.date_naive().and_time(NaiveTime::MIN).and_utc();
    let faults: BTreeSet<(&str, &str)> =
        findings.iter().map(|finding| (finding.rule.as_ref(), finding.subject.as_str())).collect();
    let of_report = ["report", &report.verb, &report.target];
    let name = of_report.into_iter().chain(faults.into_iter().flat_map(<[&str; 2]>::from)).map(str::to_owned).collect();
    IncidentCause { name, began_at: day, permission: Permission::IncidentsManage }
}

/// Says that a report asks for no incident, and what it did not see.
pub fn nothing_to_open(report: &Report) -> String {
    let is_unchecked = |result: &CheckResult| matches!(result, CheckResult::NotChecked { .. });
    match report.checks.iter().filter(|check| is_unchecked(&check.result)).count() {
        0 => "the report has no findings: no incident is opened".to_owned(),
        unchecked => format!("the report has no findings, and {unchecked} checks were not made: no incident is opened"),
    }
}

/// Reads a report, and no more of a file than one may have. No error quotes it.
pub fn read_report(path: &Path) -> Result<Report, Failure> {
    let mut bytes = Vec::new();
    let read = if path == Path::new("-") {
        io::stdin().lock().take(MAX_REPORT + 1).read_to_end(&mut bytes)
    } else {
        File::open(path).and_then(|file| file.take(MAX_REPORT + 1).read_to_end(&mut bytes))
    };
    let path = path.display();
    read.map_err(|error| Failure::Misused(format!("cannot read the report from {path}: {error}")))?;
    let misused = |fault: &str| Failure::Misused(format!("{path} {fault}. Give what the verb prints with --json"));
    if u64::try_from(bytes.len()).is_ok_and(|length| length > MAX_REPORT) {
        return Err(misused("has more than 16 MiB"));
    }
    let value: Value = serde_json::from_slice(&bytes).map_err(|_| misused("is not JSON"))?;
    if value.get("runs").is_some() {
        return Err(misused("is SARIF"));
    }
    serde_json::from_value(value).map_err(|_| misused("is not a report of a verb of operations"))
}

#[cfg(test)]
mod tests {
    use fulexo_ops::finding::Rule;
    use fulexo_ops::report::Check;

    use super::*;

    const RULE: Rule =
        Rule { id: "tls.expired", title: "expired", severity: Severity::High, remedy: "renew", reference: "RFC 5280" };

    fn report(subjects: &[&str], began_at: &str) -> Report {
        let findings = subjects.iter().map(|subject| RULE.finding(*subject, began_at)).collect();
        let begun = Report::begin("check-ssl", "localhost", began_at.parse().unwrap());
        Report { checks: vec![Check::of("a", "t", "", findings)], ..begun }
    }

    fn of(report: &Report) -> ReportedIncident {
        ReportedIncident::of(report).unwrap_or_else(|_| panic!("refused")).unwrap()
    }

    fn name(subjects: &[&str], began_at: &str) -> (Vec<String>, DateTime<Utc>) {
        let IncidentCause { name, began_at, .. } = of(&report(subjects, began_at)).cause;
        (name, began_at)
    }

    #[test]
    fn the_same_faults_of_one_day_are_one_cause_and_others_or_another_day_are_another() {
        let first = name(&["a", "b"], "2026-12-01T03:00:00Z");
        assert_eq!(first, name(&["b", "a", "a"], "2026-12-01T23:59:59Z"));
        assert_ne!(first, name(&["a", "b"], "2026-12-02T00:00:00Z"));
        assert_ne!(first, name(&["a"], "2026-12-01T03:00:00Z"));
    }

    #[test]
    fn the_worst_finding_that_is_not_accepted_gives_the_severity_and_stands_first() {
        let mut mixed = report(&["x"], "2026-12-01T03:00:00Z");
        let accepted = Finding { accepted: Some("known".to_owned()), ..RULE.finding("y", "e") };
        let findings = vec![
            accepted.with_severity(Severity::Critical),
            RULE.finding("z", "e").with_severity(Severity::Low),
            Finding { rule: "No Rule".into(), ..RULE.finding("w", "e").with_severity(Severity::Medium) },
        ];
        mixed.checks.insert(0, Check::of("b", "t", "", findings));
        let of_mixed = of(&mixed);
        assert_eq!(of_mixed.severity, IncidentSeverity::High);
        assert_eq!(of_mixed.links.findings, BTreeSet::from([FindingRule::parse("tls.expired").unwrap()]));
        let words: Vec<&str> = of_mixed.summary.as_str().lines().filter_map(|line| line.split(' ').next()).collect();
        assert_eq!(words, ["check-ssl", "high", "medium", "low"]);
        assert!(of_mixed.summary.as_str().starts_with("check-ssl of localhost: 3 findings\n"));
    }

    #[test]
    fn a_report_of_the_worst_size_has_a_hundred_rules_and_a_text_that_fits() {
        let mut long = report(&[], "2026-12-01T03:00:00Z");
        let rule = |n: usize| Finding { rule: format!("rule.n{n}").into(), ..RULE.finding("☕".repeat(1_000), "e") };
        long.checks.push(Check::of("b", "t", "", (0..10_000).map(rule).collect()));
        let of_long = of(&long);
        assert_eq!(of_long.links.findings.len(), MAX_LINKS);
        assert!(of_long.summary.as_str().ends_with(" more are left out"));
    }
}
