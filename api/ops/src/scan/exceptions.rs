//! Exceptions from the scan: findings that somebody has judged and accepted, each with the reason. The project's own are those
//! of `deny.toml`, which cargo-deny reads, too; an operator may give others in the same form.

use std::collections::BTreeMap;

use chrono::{DateTime, NaiveDate, Utc};
use toml::{Table, Value};

use crate::finding::{Finding, Rule, Severity};

/// The project's own file.
const EMBEDDED: &str = include_str!("../../../../deny.toml");
/// The most exceptions of a file.
const EXCEPTIONS_BOUND: usize = 1_000;
/// The longest reason, in characters.
const REASON_BOUND: usize = 2_000;

const UNUSED: Rule = Rule {
    id: "scan.exception_unused",
    title: "exception that matches nothing",
    severity: Severity::Low,
    remedy: "Remove it from the file of exceptions.",
    reference: "docs/vulnerabilities.md",
};
const EXPIRED: Rule = Rule {
    id: "scan.exception_expired",
    title: "exception that has expired",
    severity: Severity::Low,
    remedy: "Judge the finding again: mend it, or give the exception another date.",
    reference: "docs/vulnerabilities.md",
};

/// The exceptions of a scan.
#[derive(Debug)]
pub struct ExceptionList {
    by_id: BTreeMap<String, AcceptedRisk>,
}

/// The reason for which a finding is accepted.
#[derive(Debug)]
struct AcceptedRisk {
    reason: String,
    /// The last day on which the exception holds.
    expires: Option<NaiveDate>,
    is_used: bool,
}

impl ExceptionList {
    /// Returns the project's own exceptions.
    ///
    /// # Errors
    /// As [`Self::parse`]; a test sees to it that there is none.
    pub fn embedded() -> Result<Self, String> {
        Self::parse(EMBEDDED)
    }

    /// Parses a file in the form of cargo-deny's: `ignore` in the table `advisories`, a list of `{ id, reason }`. An
    /// exception may have `expires`, a date, which cargo-deny does not know. Other tables are ignored.
    ///
    /// # Errors
    /// A text for the operator: no such list, an exception without a reason, an unknown member, an id that occurs twice.
    pub fn parse(text: &str) -> Result<Self, String> {
        let file: Table = text.parse().map_err(|error: toml::de::Error| format!("is not TOML: {}", error.message()))?;
        let ignored = file.get("advisories").and_then(|it| it.get("ignore"));
        let Some(Value::Array(entries)) = ignored else {
            return Err("has no list `ignore` in a table `[advisories]`".to_owned());
        };
        if entries.len() > EXCEPTIONS_BOUND {
            return Err(format!("has more than {EXCEPTIONS_BOUND} exceptions"));
        }
        let mut by_id = BTreeMap::new();
        for entry in entries {
            let (id, risk) = parse_entry(entry)?;
            if by_id.insert(id.clone(), risk).is_some() {
                return Err(format!("has two exceptions for {id}"));
            }
        }
        Ok(Self { by_id })
    }

    /// `true` if there is an exception for this id.
    #[must_use]
    pub fn has(&self, id: &str) -> bool {
        self.by_id.contains_key(id)
    }

    /// Marks a finding as accepted if there is an exception for this id, and notes that the exception is used.
    #[must_use]
    pub fn apply(&mut self, id: &str, now: DateTime<Utc>, finding: Finding) -> Finding {
        let Some(risk) = self.by_id.get_mut(id) else { return finding };
        risk.is_used = true;
        if risk.is_expired(now) {
            return finding;
        }
        Finding { accepted: Some(risk.reason.clone()), ..finding }
    }

    /// Returns a finding for each exception that matched nothing, or that has expired. An exception from an id of which
    /// `was_judged` says `false` is left out.
    pub fn faults(&self, now: DateTime<Utc>, was_judged: impl Fn(&str) -> bool) -> Vec<Finding> {
        let faults = self.by_id.iter().filter_map(|(id, risk)| match (risk.is_used, risk.expires) {
            (false, _) if was_judged(id) => Some(UNUSED.finding(id, format!("Its reason was: {}", risk.reason))),
            (true, Some(day)) if risk.is_expired(now) => Some(EXPIRED.finding(id, format!("It held until {day}"))),
            (false | true, Some(_) | None) => None,
        });
        faults.collect()
    }

    /// Returns the number of exceptions.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// `true` if there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }
}

impl AcceptedRisk {
    fn is_expired(&self, now: DateTime<Utc>) -> bool {
        self.expires.is_some_and(|day| now.date_naive() > day)
    }
}

fn parse_entry(entry: &Value) -> Result<(String, AcceptedRisk), String> {
    let members = match entry {
        Value::Table(members) => members,
        Value::String(id) => return Err(format!("has an exception without a reason: {id}")),
        _ => return Err("has an exception that is not `{ id, reason }`".to_owned()),
    };
    let text = |name: &str| members.get(name).and_then(Value::as_str).map(str::trim).filter(|it| !it.is_empty());
    let id = text("id").ok_or("has an exception without an `id`")?.to_owned();
    let reason = text("reason").ok_or_else(|| format!("has an exception without a reason: {id}"))?.to_owned();
    if reason.chars().count() > REASON_BOUND {
        return Err(format!("has a reason of more than {REASON_BOUND} characters: {id}"));
    }
    if let Some(other) = members.keys().find(|name| !["id", "reason", "expires"].contains(&name.as_str())) {
        return Err(format!("has an exception with an unknown member `{other}`: {id}"));
    }
    let expires = match members.get("expires") {
        None => None,
        Some(value) => {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            let day = NaiveDate::parse_from_str(&text, "%Y-%m-%d");
            Some(day.map_err(|_| format!("has an exception whose `expires` is not a date such as 2027-01-31: {id}"))?)
        }
    };
    Ok((id, AcceptedRisk { reason, expires, is_used: false }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FINDING: Rule = Rule { id: "x", title: "x", severity: Severity::High, remedy: "x", reference: "x" };

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    fn list(entries: &str) -> Result<ExceptionList, String> {
        ExceptionList::parse(&format!("[advisories]\nignore = [{entries}]\n"))
    }

    #[test]
    fn the_projects_own_exceptions_are_those_of_cargo_deny() {
        let file: Table = EMBEDDED.parse().unwrap();
        let theirs: Vec<_> =
            file["advisories"]["ignore"].as_array().unwrap().iter().map(|it| it["id"].as_str().unwrap()).collect();
        let ours = ExceptionList::embedded().unwrap();
        assert_eq!(ours.by_id.keys().collect::<Vec<_>>(), theirs);
    }

    #[test]
    fn an_exception_holds_through_its_last_day_and_is_then_a_finding_itself() {
        let mut exceptions = list(r#"{ id = "A", reason = "r", expires = 2026-12-01 }"#).unwrap();
        let last = at("2026-12-01T23:59:59Z");
        assert_eq!(exceptions.apply("A", last, FINDING.finding("s", "e")).accepted.as_deref(), Some("r"));
        assert_eq!(exceptions.faults(last, |_| true), []);
        let next = at("2026-12-02T00:00:00Z");
        assert_eq!(exceptions.apply("A", next, FINDING.finding("s", "e")).accepted, None);
        assert_eq!(exceptions.faults(next, |_| true)[0].rule, "scan.exception_expired");
    }

    #[test]
    fn an_exception_that_matches_nothing_is_a_finding_unless_it_was_not_judged() {
        let exceptions = list(r#"{ id = "A", reason = "r" }"#).unwrap();
        let now = at("2026-12-01T00:00:00Z");
        assert_eq!(exceptions.faults(now, |_| true)[0].rule, "scan.exception_unused");
        assert_eq!(exceptions.faults(now, |_| false), []);
    }

    #[test]
    fn an_exception_without_a_reason_and_a_file_of_another_kind_are_refused() {
        for (entries, reason) in [
            (r#""A""#, "without a reason: A"),
            (r#"{ id = "A" }"#, "without a reason: A"),
            (r#"{ id = "A", reason = " " }"#, "without a reason: A"),
            (r#"{ reason = "r" }"#, "without an `id`"),
            (r#"{ id = "A", reason = "r", until = "2027-01-01" }"#, "unknown member `until`"),
            (r#"{ id = "A", reason = "r", expires = "soon" }"#, "not a date"),
            (r#"{ id = "A", reason = "r" }, { id = "A", reason = "s" }"#, "two exceptions for A"),
            ("1", "not `{ id, reason }`"),
        ] {
            let refused = list(entries).unwrap_err();
            assert!(refused.contains(reason), "{entries}: {refused}");
        }
        assert!(ExceptionList::parse("[advisory]\nignore = []").unwrap_err().contains("no list"));
        assert!(ExceptionList::parse("[").unwrap_err().contains("not TOML"));
    }
}
