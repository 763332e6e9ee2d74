//! The findings of every check: the fault, its subject, the evidence, the remedy, and where that is written.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

/// The harm that a finding can do, from least to most.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// A weaker setting than it could be.
    Low,
    /// A weakness that needs another one to do harm.
    Medium,
    /// A weakness that does harm by itself.
    High,
    /// Harm is done or about to be done: act now.
    Critical,
}

impl Severity {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Low, Self::Medium, Self::High, Self::Critical];

    /// Returns the name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::Critical => "critical",
        }
    }
}

/// A fault that a check knows: the constant part of its findings.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// A permanent name, such as `tls.expired`: area, dot, fault.
    pub id: &'static str,
    /// The fault, as a short sentence without a full stop.
    pub title: &'static str,
    /// The severity.
    pub severity: Severity,
    /// The steps that mend it.
    pub remedy: &'static str,
    /// The standard and its section, or the page of the documentation.
    pub reference: &'static str,
}

impl Rule {
    /// Returns a finding of this rule. Neither argument may contain a secret or personal data.
    #[must_use]
    pub fn finding(&self, subject: impl Into<String>, evidence: impl Into<String>) -> Finding {
        Finding {
            rule: self.id.into(),
            title: self.title.into(),
            severity: self.severity,
            subject: subject.into(),
            evidence: evidence.into(),
            remedy: self.remedy.into(),
            reference: self.reference.into(),
            accepted: None,
        }
    }
}

/// A fault that was found.
///
/// Rule and subject together name it: two reports that have the same pair speak of the same fault.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Finding {
    /// The permanent name of the fault.
    pub rule: Cow<'static, str>,
    /// The fault, as a short sentence without a full stop.
    pub title: Cow<'static, str>,
    /// The severity.
    pub severity: Severity,
    /// The thing that has the fault: a host, a header, a role, a file.
    pub subject: String,
    /// The observation that shows it.
    pub evidence: String,
    /// The steps that mend it.
    pub remedy: Cow<'static, str>,
    /// The standard and its section, or the page of the documentation.
    pub reference: Cow<'static, str>,
    /// The reason for which the operator has accepted it. An accepted finding is shown, and does not count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accepted: Option<String>,
}

impl Finding {
    /// Returns the same finding with another remedy, for this case alone.
    #[must_use]
    pub fn with_remedy(self, remedy: impl Into<String>) -> Self {
        Self { remedy: Cow::Owned(remedy.into()), ..self }
    }

    /// Returns the same finding with another severity, for this case alone.
    #[must_use]
    pub fn with_severity(self, severity: Severity) -> Self {
        Self { severity, ..self }
    }
}
