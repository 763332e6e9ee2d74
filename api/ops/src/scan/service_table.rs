//! The table of known releases of PostgreSQL, NATS and nginx, and the judgement of a version by it.
//!
//! A table that has aged still knows what is too old; it no longer says that something is new enough.

use std::fmt;

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use serde::Deserialize;

use super::exceptions::ExceptionList;
use crate::finding::{Rule, Severity};
use crate::report::Check;

const TABLE: &str = include_str!("services.toml");
/// The age from which the table is stale. PostgreSQL and nginx release about every quarter.
const STALE_AFTER: TimeDelta = TimeDelta::days(180);

const UNSUPPORTED: Rule = Rule {
    id: "scan.service_unsupported",
    title: "release without support",
    severity: Severity::High,
    remedy: "Update to a supported branch. If your distribution mends this one itself, accept that with this reason.",
    reference: "docs/vulnerabilities.md",
};
const OUTDATED: Rule = Rule {
    id: "scan.service_outdated",
    title: "older than the newest release of its branch",
    severity: Severity::Medium,
    remedy: "Update within the branch. If your distribution mends this one itself, accept that with this reason.",
    reference: "docs/vulnerabilities.md",
};

/// A service whose version is judged.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ScannedService {
    /// PostgreSQL.
    Postgresql,
    /// The NATS server.
    Nats,
    /// nginx.
    Nginx,
}

impl ScannedService {
    /// Returns the name, by which an exception names it, too.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Postgresql => "postgresql",
            Self::Nats => "nats",
            Self::Nginx => "nginx",
        }
    }

    /// Returns the number of a version's parts that name its branch.
    const fn branch_parts(self) -> usize {
        match self {
            Self::Postgresql => 1,
            Self::Nats | Self::Nginx => 2,
        }
    }
}

/// `true` if an exception of this id speaks of a service.
#[must_use]
pub fn is_service(id: &str) -> bool {
    [ScannedService::Postgresql, ScannedService::Nats, ScannedService::Nginx].iter().any(|it| it.as_str() == id)
}

/// The numbers of a release. Whatever follows them is dropped.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct ReleaseNumber(Vec<u32>);

impl ReleaseNumber {
    /// Parses the numbers at the beginning of a text: `15.20` of `15.20 (Debian)`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let text = text.get(..end)?.trim_end_matches('.');
        let numbers: Result<Vec<_>, _> = text.split('.').take(4).map(str::parse).collect();
        numbers.ok().map(Self)
    }

    /// Returns the release of PostgreSQL that its server's number means: 150020 is 15.20.
    #[must_use]
    pub fn of_postgresql(number: u32) -> Self {
        Self(vec![number / 10_000, number % 10_000])
    }

    fn branch(&self, parts: usize) -> Self {
        Self(self.0.iter().take(parts).copied().collect())
    }
}

impl fmt::Display for ReleaseNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<_> = self.0.iter().map(u32::to_string).collect();
        f.write_str(&parts.join("."))
    }
}

/// The table.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceTable {
    postgresql: KnownReleases,
    nats: KnownReleases,
    nginx: KnownReleases,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct KnownReleases {
    as_of: NaiveDate,
    branches: Vec<ReleaseBranch>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ReleaseBranch {
    name: String,
    newest: String,
    until: Option<NaiveDate>,
}

/// A version and where it was seen.
#[derive(Debug)]
pub struct ServiceVersion {
    /// The service.
    pub service: ScannedService,
    /// The name of the check.
    pub id: String,
    /// The place: a host and a port, without credentials.
    pub place: String,
    /// The version, or the reason for which it is not known.
    pub version: Result<ReleaseNumber, String>,
}

impl ServiceTable {
    /// Returns the table of this program.
    ///
    /// # Errors
    /// If it cannot be read; a test sees to it that it can.
    pub fn embedded() -> Result<Self, String> {
        toml::from_str(TABLE).map_err(|error| format!("the table of releases: {}", error.message()))
    }

    /// Judges a version.
    #[must_use]
    pub fn judge(&self, asked: ServiceVersion, exceptions: &mut ExceptionList, now: DateTime<Utc>) -> Check {
        let ServiceVersion { service, id, place, version } = asked;
        let name = service.as_str();
        let title = format!("{name} at {place} is a current release");
        let version = match version {
            Ok(version) => version,
            Err(reason) => return Check::not_checked(id, title, reason),
        };
        let known = match service {
            ScannedService::Postgresql => &self.postgresql,
            ScannedService::Nats => &self.nats,
            ScannedService::Nginx => &self.nginx,
        };
        let (as_of, today) = (known.as_of, now.date_naive());
        let branch = version.branch(service.branch_parts());
        let found = known.branches.iter().find(|it| ReleaseNumber::parse(&it.name).as_ref() == Some(&branch));
        let newest_branch = known.branches.iter().filter_map(|it| ReleaseNumber::parse(&it.name)).max();
        let table = format!("as known on {as_of}");
        let finding = match found {
            None if newest_branch.is_some_and(|newest| branch > newest) => {
                let reason = format!("{version} is of a branch that the table of {as_of} does not know");
                return Check::not_checked(id, title, reason);
            }
            None => {
                UNSUPPORTED.finding(format!("{name} {version}"), format!("{place}: {branch} has no support, {table}"))
            }
            Some(ReleaseBranch { until: Some(until), .. }) if today > *until => UNSUPPORTED
                .finding(format!("{name} {version}"), format!("{place}: support of {branch} ended on {until}")),
            Some(ReleaseBranch { newest, .. })
                if ReleaseNumber::parse(newest).is_some_and(|newest| version < newest) =>
            {
                OUTDATED
                    .finding(format!("{name} {version}"), format!("{place}: the newest release is {newest}, {table}"))
            }
            Some(_) if today - as_of > STALE_AFTER => {
                let reason = format!("{version}; the table of {as_of} is stale. Install a newer release of Fulexo");
                return Check::not_checked(id, title, reason);
            }
            Some(_) => return Check::passed(id, title, format!("{version}, {table}")),
        };
        Check::of(id, title, "", vec![exceptions.apply(name, now, finding)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::CheckResult;

    fn judged(service: ScannedService, version: &str, today: &str) -> String {
        let asked = ServiceVersion {
            service,
            id: "scan.it".to_owned(),
            place: "localhost".to_owned(),
            version: ReleaseNumber::parse(version).ok_or_else(|| "none".to_owned()),
        };
        let mut none = ExceptionList::parse("[advisories]\nignore = []").unwrap();
        let now = format!("{today}T00:00:00Z").parse().unwrap();
        match ServiceTable::embedded().unwrap().judge(asked, &mut none, now).result {
            CheckResult::Passed { .. } => "passed".to_owned(),
            CheckResult::NotChecked { reason } => reason,
            CheckResult::Found { findings } => format!("{} {}", findings[0].rule, findings[0].evidence),
        }
    }

    #[test]
    fn a_release_is_current_outdated_unsupported_unknown_or_judged_by_a_stale_table() {
        let postgresql = |version, today| judged(ScannedService::Postgresql, version, today);
        assert_eq!(postgresql("15.20", "2026-12-01"), "passed");
        assert_eq!(postgresql("15.21 (Debian 15.21-1)", "2026-12-01"), "passed", "newer than the table knows");
        assert!(postgresql("15.9", "2026-12-01").starts_with("scan.service_outdated"), "by number, not by text");
        assert!(postgresql("13.22", "2026-12-01").starts_with("scan.service_unsupported"));
        assert!(postgresql("14.25", "2026-12-01").contains("ended on 2026-11-12"));
        assert!(postgresql("19.0", "2026-12-01").contains("does not know"));
        assert!(postgresql("15.20", "2027-06-01").contains("is stale"));
        assert!(postgresql("15.9", "2027-06-01").starts_with("scan.service_outdated"), "stale, and yet known");
        assert!(postgresql("devel", "2026-12-01").contains("none"));
        assert!(judged(ScannedService::Nats, "2.9.10", "2026-12-01").starts_with("scan.service_unsupported"));
        assert_eq!(judged(ScannedService::Nats, "2.15.1", "2026-12-01"), "passed");
        assert!(judged(ScannedService::Nginx, "1.22.1", "2026-12-01").starts_with("scan.service_unsupported"));
    }

    #[test]
    fn every_branch_of_the_table_has_a_release_of_its_own() {
        let table = ServiceTable::embedded().unwrap();
        for (service, known) in [
            (ScannedService::Postgresql, &table.postgresql),
            (ScannedService::Nats, &table.nats),
            (ScannedService::Nginx, &table.nginx),
        ] {
            assert!(is_service(service.as_str()) && !known.branches.is_empty());
            for branch in &known.branches {
                let newest = ReleaseNumber::parse(&branch.newest).unwrap();
                assert_eq!(newest.branch(service.branch_parts()).to_string(), branch.name);
            }
        }
    }

    #[test]
    fn the_number_of_a_server_is_its_release() {
        assert_eq!(ReleaseNumber::of_postgresql(150_020).to_string(), "15.20");
        assert_eq!(ReleaseNumber::parse("99999999999.1"), None);
        assert_eq!(ReleaseNumber::parse(""), None);
    }
}
