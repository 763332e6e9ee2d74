//! A check of the audit, and the bounded list of its findings.

use std::collections::BTreeMap;

use fulexo_database::chain;

use crate::finding::{Finding, Rule};
use crate::report::Check;

/// The findings that a rule lists by subject. Those that follow are counted in one more finding.
const LISTED: usize = 20;

/// A check of the audit: its name, its claim, and the rules that it judges by.
#[derive(Clone, Copy, Debug)]
pub struct AuditCheck {
    /// The permanent name, without a dot.
    pub id: &'static str,
    /// The claim that is tested.
    pub title: &'static str,
    /// The rules, each with the name of the check before its dot.
    pub rules: &'static [Rule],
}

impl AuditCheck {
    /// Returns the check with its findings, or passed with a detail.
    #[must_use]
    pub fn with(&self, findings: AuditFindings, detail: impl Into<String>) -> Check {
        Check::of(self.id, self.title, detail, findings.finish())
    }

    /// Returns the check with its findings and a detail, or not checked if the database did not answer.
    #[must_use]
    pub fn asked(&self, answer: Result<(AuditFindings, String), sqlx::Error>) -> Check {
        match answer {
            Ok((findings, detail)) => self.with(findings, detail),
            Err(error) => self.unchecked(chain(&error).to_string()),
        }
    }

    /// Returns the check as one that could not be made.
    #[must_use]
    pub fn unchecked(&self, reason: impl Into<String>) -> Check {
        Check::not_checked(self.id, self.title, reason)
    }
}

/// Findings in the order in which they were made, at most twenty of each rule.
#[derive(Default)]
pub struct AuditFindings {
    listed: Vec<Finding>,
    counts: BTreeMap<&'static str, (Rule, usize)>,
}

impl AuditFindings {
    /// Adds a finding. Neither argument may contain a secret or personal data.
    pub fn push(&mut self, rule: &Rule, subject: impl Into<String>, evidence: impl Into<String>) {
        self.add(rule, rule.finding(subject, evidence));
    }

    /// Adds a finding of a rule that differs from the others of it.
    pub fn add(&mut self, rule: &Rule, finding: Finding) {
        let (_, count) = self.counts.entry(rule.id).or_insert((*rule, 0));
        *count += 1;
        if *count <= LISTED {
            self.listed.push(finding);
        }
    }

    /// `true` if there is no finding.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.listed.is_empty()
    }

    /// Returns the findings; those that are not listed are one finding per rule, with their number.
    fn finish(mut self) -> Vec<Finding> {
        for (rule, count) in self.counts.into_values() {
            if let Some(more) = count.checked_sub(LISTED).filter(|more| *more > 0) {
                self.listed.push(rule.finding("others", format!("{more} more, which are not listed")));
            }
        }
        self.listed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::Severity;

    const RULE: Rule = Rule { id: "a.b", title: "t", severity: Severity::Low, remedy: "Mend it.", reference: "docs" };
    const CHECK: AuditCheck = AuditCheck { id: "a", title: "t", rules: &[RULE] };

    #[test]
    fn a_million_findings_are_twenty_and_a_number() {
        let mut findings = AuditFindings::default();
        for number in 0..1_000_000 {
            findings.push(&RULE, number.to_string(), "e");
        }
        let check = CHECK.with(findings, "");
        let found = check.findings();
        assert_eq!((found.len(), found[19].subject.as_str(), found[20].subject.as_str()), (21, "19", "others"));
        assert_eq!(found[20].evidence, "999980 more, which are not listed");
    }
}
