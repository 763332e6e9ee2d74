//! The report of a verb: what was checked, with what result, and the verdict over all of it.
//!
//! It names what was tried and what could not be, not only what was found: silence is never a clean bill.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::finding::{Finding, Severity};

/// The report of one run of a verb.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Report {
    /// The verb, such as `check-ssl`.
    pub verb: String,
    /// The thing that was checked, such as `example.com:443`.
    pub target: String,
    /// The time at which the run began.
    pub began_at: DateTime<Utc>,
    /// The time at which it ended.
    pub ended_at: DateTime<Utc>,
    /// The checks, in the order in which they were made.
    pub checks: Vec<Check>,
    /// Observations that are no judgement, by name: versions, positions, dates.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub facts: BTreeMap<String, Value>,
}

/// One check and its result.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Check {
    /// A permanent name, unique in the report.
    pub id: String,
    /// The claim that was tested, in a few words.
    pub title: String,
    /// The result.
    #[serde(flatten)]
    pub result: CheckResult,
}

/// The result of a check.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(tag = "result", rename_all = "snake_case")]
pub enum CheckResult {
    /// Nothing was found.
    Passed {
        /// The observation, in a few words.
        detail: String,
    },
    /// Something was found. Not empty.
    Found {
        /// The findings.
        findings: Vec<Finding>,
    },
    /// The check could not be made.
    NotChecked {
        /// The reason, and what would help.
        reason: String,
    },
}

/// The verdict over a report.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// Everything was checked, and nothing was found: exit status 0.
    Clean,
    /// Something was found: exit status 1.
    Findings,
    /// Nothing was found, but something could not be checked: exit status 3.
    Incomplete,
}

impl Verdict {
    /// Returns the name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Clean => "clean",
            Self::Findings => "findings",
            Self::Incomplete => "incomplete",
        }
    }
}

/// The differences between a report and the one before.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Comparison {
    /// Findings that the earlier report does not have.
    pub new: Vec<Finding>,
    /// Findings of the earlier report that are gone.
    pub mended: Vec<Finding>,
    /// Findings of both, as the later report has them.
    pub left: Vec<Finding>,
}

impl Check {
    /// A check that found nothing.
    #[must_use]
    pub fn passed(id: impl Into<String>, title: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { id: id.into(), title: title.into(), result: CheckResult::Passed { detail: detail.into() } }
    }

    /// A check with its findings; one that found nothing has passed.
    #[must_use]
    pub fn of(
        id: impl Into<String>,
        title: impl Into<String>,
        detail: impl Into<String>,
        findings: Vec<Finding>,
    ) -> Self {
        if findings.is_empty() {
            return Self::passed(id, title, detail);
        }
        Self { id: id.into(), title: title.into(), result: CheckResult::Found { findings } }
    }

    /// A check that could not be made.
    #[must_use]
    pub fn not_checked(id: impl Into<String>, title: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { id: id.into(), title: title.into(), result: CheckResult::NotChecked { reason: reason.into() } }
    }

    /// Returns the findings, those that were accepted included.
    #[must_use]
    pub fn findings(&self) -> &[Finding] {
        match &self.result {
            CheckResult::Found { findings } => findings,
            CheckResult::Passed { .. } | CheckResult::NotChecked { .. } => &[],
        }
    }
}

impl Report {
    /// Begins a report without checks.
    #[must_use]
    pub fn begin(verb: &str, target: impl Into<String>, now: DateTime<Utc>) -> Self {
        Self {
            verb: verb.to_owned(),
            target: target.into(),
            began_at: now,
            ended_at: now,
            checks: Vec::new(),
            facts: BTreeMap::new(),
        }
    }

    /// Returns all findings, those that were accepted included.
    pub fn findings(&self) -> impl Iterator<Item = &Finding> {
        self.checks.iter().flat_map(Check::findings)
    }

    /// Counts the findings of a severity that were not accepted.
    #[must_use]
    pub fn count(&self, severity: Severity) -> usize {
        self.findings().filter(|finding| finding.accepted.is_none() && finding.severity == severity).count()
    }

    /// Judges the whole: findings weigh more than what could not be checked. A report without checks is incomplete.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        let is_unchecked = |check: &Check| matches!(check.result, CheckResult::NotChecked { .. });
        if self.findings().any(|finding| finding.accepted.is_none()) {
            Verdict::Findings
        } else if self.checks.is_empty() || self.checks.iter().any(is_unchecked) {
            Verdict::Incomplete
        } else {
            Verdict::Clean
        }
    }

    /// Compares the report with an earlier one of the same verb. Findings of a check that could not be made this time are
    /// left out: they are neither there nor mended.
    #[must_use]
    pub fn compared_with(&self, earlier: &Self) -> Comparison {
        let name = |finding: &Finding| (finding.rule.to_string(), finding.subject.clone());
        let here: BTreeMap<_, _> = self.findings().map(|finding| (name(finding), finding)).collect();
        let before: BTreeMap<_, _> = earlier.findings().map(|finding| (name(finding), finding)).collect();
        let was_made = |id: &str| {
            self.checks.iter().any(|check| check.id == id && !matches!(check.result, CheckResult::NotChecked { .. }))
        };
        let gone = earlier.checks.iter().filter(|check| was_made(&check.id)).flat_map(Check::findings);
        let (left, new) = here.iter().partition::<Vec<_>, _>(|(name, _)| before.contains_key(*name));
        Comparison {
            new: new.into_iter().map(|(_, finding)| (*finding).clone()).collect(),
            mended: gone.filter(|finding| !here.contains_key(&name(finding))).cloned().collect(),
            left: left.into_iter().map(|(_, finding)| (*finding).clone()).collect(),
        }
    }

    /// Returns the report as JSON, with its verdict.
    #[must_use]
    pub fn to_json(&self) -> Value {
        // Only strings as keys, and no value that JSON has no form for.
        let mut json = serde_json::to_value(self).unwrap_or_default();
        if let Some(members) = json.as_object_mut() {
            members.insert("verdict".to_owned(), self.verdict().as_str().into());
        }
        json
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::Rule;

    const RULE: Rule =
        Rule { id: "tls.expired", title: "expired", severity: Severity::High, remedy: "renew", reference: "RFC 5280" };

    fn report(checks: Vec<Check>) -> Report {
        Report { checks, ..Report::begin("check-ssl", "localhost", DateTime::UNIX_EPOCH) }
    }

    fn found(id: &str, subjects: &[&str]) -> Check {
        Check::of(id, "t", "", subjects.iter().map(|subject| RULE.finding(*subject, "e")).collect())
    }

    #[test]
    fn a_finding_weighs_more_than_what_was_not_checked_and_that_more_than_nothing() {
        let passed = || Check::passed("a", "t", "");
        let unchecked = || Check::not_checked("b", "t", "r");
        let verdict = |checks| report(checks).verdict();
        assert_eq!(verdict(vec![]), Verdict::Incomplete, "silence is not clean");
        assert_eq!(verdict(vec![passed()]), Verdict::Clean);
        assert_eq!(verdict(vec![passed(), unchecked()]), Verdict::Incomplete);
        assert_eq!(verdict(vec![passed(), unchecked(), found("c", &["x"])]), Verdict::Findings);
    }

    #[test]
    fn an_accepted_finding_is_in_the_report_and_does_not_count() {
        let accepted = Finding { accepted: Some("no XML is parsed".to_owned()), ..RULE.finding("x", "e") };
        let report = report(vec![Check::of("a", "t", "", vec![accepted])]);
        assert_eq!((report.verdict(), report.findings().count()), (Verdict::Clean, 1));
    }

    #[test]
    fn a_finding_is_new_left_or_mended_and_neither_if_its_check_was_not_made() {
        let earlier = report(vec![found("a", &["gone", "left"]), found("b", &["unknown"])]);
        let later = report(vec![found("a", &["left", "new"]), Check::not_checked("b", "t", "r")]);
        let comparison = later.compared_with(&earlier);
        let subjects = |findings: &[Finding]| findings.iter().map(|it| it.subject.clone()).collect::<Vec<_>>();
        assert_eq!(subjects(&comparison.new), ["new"]);
        assert_eq!(subjects(&comparison.left), ["left"]);
        assert_eq!(subjects(&comparison.mended), ["gone"]);
    }

    #[test]
    fn a_report_is_read_again_from_its_json() {
        let written = report(vec![found("a", &["x"]), Check::passed("b", "t", "d"), Check::not_checked("c", "t", "r")]);
        let read: Report = serde_json::from_value(written.to_json()).unwrap();
        assert_eq!(read.to_json(), written.to_json());
        assert_eq!(written.to_json()["verdict"], "findings");
    }
}
