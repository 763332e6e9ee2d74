//! An area of the service's health: a check, and the facts behind it.

use serde_json::{Map, Value};

use crate::audit::audit_check::{AuditCheck, AuditFindings};
use crate::report::Check;

/// Facts by name.
pub(super) type HealthFacts = Map<String, Value>;

/// A check with its facts.
pub(super) struct HealthArea {
    pub check: Check,
    pub facts: HealthFacts,
}

impl HealthArea {
    /// An area that was checked, with its state in a few words.
    pub fn of(check: &AuditCheck, findings: AuditFindings, summary: impl Into<String>) -> Self {
        let summary = summary.into();
        let facts = HealthFacts::from_iter([("summary".to_owned(), summary.clone().into())]);
        Self { check: check.with(findings, summary), facts }
    }

    /// An area whose check was made elsewhere.
    pub fn with(check: Check, summary: &str) -> Self {
        Self { check, facts: HealthFacts::from_iter([("summary".to_owned(), summary.into())]) }
    }

    /// An area that could not be checked.
    pub fn unchecked(check: &AuditCheck, reason: impl Into<String>) -> Self {
        Self { check: check.unchecked(reason), facts: HealthFacts::new() }
    }

    /// Findings weigh more than what could not be checked, which is said only if there are none.
    pub fn unless_found(check: &AuditCheck, findings: AuditFindings, reason: impl Into<String>) -> Self {
        let reason = reason.into();
        if findings.is_empty() {
            return Self::unchecked(check, reason);
        }
        Self::of(check, findings, reason.as_str()).fact("not_checked", reason)
    }

    /// The same area with one more fact. It may contain neither a secret nor personal data.
    pub fn fact(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.facts.insert(name.to_owned(), value.into());
        self
    }

    /// The same area with the source of its facts.
    pub fn from(self, source: &str) -> Self {
        self.fact("source", source)
    }
}
