//! The judgement of a scan: the checks that follow from a dependency list, an advisory database and exceptions.

use std::borrow::Cow;
use std::env::consts::{ARCH, OS};

use chrono::{DateTime, Utc};
use rustsec::Advisory;
use rustsec::advisory::{self, Informational};
use serde_json::json;

use super::advisories::AdvisoryDatabase;
use super::dependency_list::{DependencyKind, DependencyList, ListedPackage};
use super::exceptions::ExceptionList;
use super::service_table;
use crate::finding::{Finding, Severity};
use crate::report::{Check, Report};

/// The claim of the check of the dependencies.
const DEPENDENCIES: &str = "the program's dependencies have no known vulnerability";
/// The longest title of an advisory that is shown, in characters.
const TITLE_BOUND: usize = 200;

/// Adds the checks of the program's dependencies to a report. Without a database the second argument is the reason.
pub fn judge_dependencies(
    report: &mut Report,
    list: &DependencyList,
    database: Result<&AdvisoryDatabase, &str>,
    exceptions: &mut ExceptionList,
    now: DateTime<Utc>,
) {
    let built = list.packages.iter().filter(|it| it.kind == DependencyKind::Build).count();
    let size =
        format!("{} packages, {built} of them only for its build, by {}", list.packages.len(), list.origin.as_str());
    report.checks.push(Check::passed("scan.list", "the program's dependencies are known", size));
    let facts = json!({"origin": list.origin.as_str(), "packages": list.packages.len(), "build_only": built});
    report.facts.insert("list".to_owned(), facts);
    report.facts.insert("yanked".to_owned(), "not judged: that needs the registry".into());

    let database = match database {
        Ok(database) => database,
        Err(reason) => {
            report.checks.push(Check::not_checked("scan.database", "the advisory database is current", reason));
            report.checks.push(Check::not_checked(
                "scan.dependencies",
                DEPENDENCIES,
                "without a database nothing is known",
            ));
            return;
        }
    };
    let date = &database.date;
    let day = date.at.date_naive();
    let facts = json!({"advisories": database.count, "date": date.at, "dated_by": date.origin.as_str()});
    report.facts.insert("database".to_owned(), facts);
    let objection = date.objection(now);
    report.checks.push(match &objection {
        None => Check::passed(
            "scan.database",
            "the advisory database is current",
            format!("{} advisories, of {day} by {}", database.count, date.origin.as_str()),
        ),
        Some(reason) => Check::not_checked("scan.database", "the advisory database is current", reason.as_str()),
    });

    let mut findings = Vec::new();
    for (package, advisory) in matches(list, database) {
        let id = advisory.id();
        // An exception may also name the advisory as others do, such as CVE-2026-1.
        let named = std::iter::once(id).chain(&advisory.metadata.aliases).find(|it| exceptions.has(it.as_str()));
        findings.push(exceptions.apply(named.unwrap_or(id).as_str(), now, finding(package, advisory)));
    }
    report.checks.push(if objection.is_some() && findings.is_empty() {
        let reason = format!("no advisory up to {day} matches, and later ones are not known");
        Check::not_checked("scan.dependencies", DEPENDENCIES, reason)
    } else {
        Check::of("scan.dependencies", DEPENDENCIES, "whether a release was yanked is not judged offline", findings)
    });
}

/// Adds the check of the exceptions, after all others. `services` are those whose version was judged.
pub fn judge_exceptions(
    report: &mut Report,
    exceptions: &ExceptionList,
    has_database: bool,
    services: &[&str],
    now: DateTime<Utc>,
) {
    if exceptions.is_empty() {
        return;
    }
    let was_judged = |id: &str| {
        if service_table::is_service(id) { services.contains(&id) } else { has_database }
    };
    let title = "each exception is still needed";
    let detail = match exceptions.len() {
        1 => "1 exception".to_owned(),
        count => format!("{count} exceptions"),
    };
    let faults = exceptions.faults(now, was_judged);
    report.checks.push(if faults.is_empty() && !has_database {
        Check::not_checked("scan.exceptions", title, format!("{detail}; without a database nothing is known"))
    } else {
        Check::of("scan.exceptions", title, detail, faults)
    });
}

/// Returns each package with each advisory that concerns it.
fn matches<'a>(
    list: &'a DependencyList,
    database: &'a AdvisoryDatabase,
) -> impl Iterator<Item = (&'a ListedPackage, &'a Advisory)> {
    let packages = list.packages.iter().filter(|package| package.source == "crates.io");
    packages.flat_map(|package| {
        let advisories = database.by_package.get(&package.name).into_iter().flatten();
        advisories.filter(|advisory| concerns(advisory, package)).map(move |advisory| (package, advisory))
    })
}

fn concerns(advisory: &Advisory, package: &ListedPackage) -> bool {
    let is_ours = |platforms: &[String], own: &str| platforms.is_empty() || platforms.iter().any(|it| it == own);
    let affected = advisory.affected.as_ref();
    let is_foreign = advisory.metadata.source.as_ref().is_some_and(|source| !source.is_default_registry());
    !is_foreign
        && affected.is_none_or(|it| is_ours(&it.os, OS) && is_ours(&it.arch, ARCH))
        && advisory.versions.is_vulnerable(&package.version)
}

fn finding(package: &ListedPackage, advisory: &Advisory) -> Finding {
    let id = advisory.id();
    let ListedPackage { name, version, .. } = package;
    let title: String = advisory.title().chars().take(TITLE_BOUND).collect();
    let mut evidence = vec![format!("{} of {}", kind(advisory), advisory.date().as_str())];
    if !advisory.metadata.aliases.is_empty() {
        let aliases: Vec<_> = advisory.metadata.aliases.iter().take(8).map(advisory::Id::as_str).collect();
        evidence.push(format!("also {}", aliases.join(", ")));
    }
    if package.kind == DependencyKind::Build {
        evidence.push("the package helped to build the program and is not a part of it".to_owned());
    }
    let patched: Vec<_> = advisory.versions.patched().iter().take(8).map(|it| format!("`{it}`")).collect();
    let remedy = if patched.is_empty() {
        format!(
            "No release of {name} mends it. Judge whether the fault can be reached; accept it with that reason, or replace {name}."
        )
    } else {
        format!("Install a release of Fulexo that is built with {name} {}.", patched.join(" or "))
    };
    Finding {
        rule: Cow::Owned(id.as_str().to_owned()),
        title: Cow::Owned(title),
        severity: severity(advisory),
        subject: format!("{name} {version}"),
        evidence: evidence.join("; "),
        remedy: Cow::Owned(remedy),
        reference: Cow::Owned(id.url().unwrap_or_else(|| id.as_str().to_owned())),
        accepted: None,
    }
}

fn kind(advisory: &Advisory) -> &str {
    match &advisory.metadata.informational {
        None => "vulnerability",
        Some(Informational::Unmaintained) => "no longer maintained",
        Some(Informational::Unsound) => "unsound",
        Some(other) => other.as_str(),
    }
}

/// Returns the severity: that of the score, if there is one. A vulnerability without a score may be as bad as any.
fn severity(advisory: &Advisory) -> Severity {
    match (&advisory.metadata.informational, advisory.severity()) {
        (Some(Informational::Unsound), _) => Severity::Medium,
        (Some(_), _) | (None, Some(advisory::Severity::None | advisory::Severity::Low)) => Severity::Low,
        (None, Some(advisory::Severity::Medium)) => Severity::Medium,
        (None, Some(advisory::Severity::High) | None) => Severity::High,
        (None, Some(advisory::Severity::Critical)) => Severity::Critical,
    }
}
