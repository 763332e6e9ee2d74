//! The privileges, owners, functions and triggers of the schema, compared with those of a database that was just migrated.
//! What is more than that, and what is missing, is drift: nobody reviewed it.

use std::collections::BTreeSet;

use sqlx::{FromRow, PgConnection};

use super::audit_check::{AuditCheck, AuditFindings};
use crate::finding::{Rule, Severity};
use crate::report::Check;

const EXTRA: Rule = Rule {
    id: "database_grants.extra",
    title: "a role has a privilege that the migrations do not give",
    severity: Severity::High,
    remedy: "Revoke it as the owner, or accept it with a reason.",
    reference: "CONTRIBUTING.md#a-migration",
};
const MISSING: Rule = Rule {
    id: "database_grants.missing",
    title: "a role lacks a privilege that the migrations give",
    severity: Severity::Medium,
    remedy: "Grant it as the owner; the files in migrations/ have the statement.",
    reference: "CONTRIBUTING.md#a-migration",
};
const DEFINITION: Rule = Rule {
    id: "database_grants.definition",
    title: "an owner, a function or a trigger is not that of the migrations",
    severity: Severity::Critical,
    remedy: "Find out who changed it and when. Restore the definition from the files in migrations/ as the owner.",
    reference: "docs/invariants.md",
};

/// The check.
pub const CHECK: AuditCheck = AuditCheck {
    id: "database_grants",
    title: "privileges, owners, functions and triggers are those of the migrations",
    rules: &[EXTRA, MISSING, DEFINITION],
};

/// The state after all migrations, a line each, below the number of the last migration.
const EXPECTED: &str = include_str!("expected_privileges.txt");
/// Tables whose number or presence varies, by the prefix of their names, and the name that stands for all of them.
const VARYING: [(&str, &str); 3] =
    [("log.event_", "log.event_*"), ("read_next.", "read_next.*"), ("read_previous.", "read_previous.*")];

/// The catalog's account of everything in our schemas: the table that a line is about, if any, and the line.
const CATALOG: &str = include_str!("privileges.sql");

#[derive(FromRow)]
struct CatalogLine {
    relation: Option<String>,
    line: String,
}

/// Makes the check, as any role.
pub async fn check(connection: &mut PgConnection) -> Check {
    let migration = match migration(connection).await {
        Ok(migration) => migration,
        Err(error) => return CHECK.asked(Err(error)),
    };
    let mut lines = EXPECTED.lines();
    let known = lines.next().and_then(|line| line.strip_prefix("migration "));
    if known != Some(migration.to_string().as_str()) {
        let known = known.unwrap_or_default();
        return CHECK.unchecked(format!(
            "the database is at migration {migration}, and this program knows the privileges of migration {known}. Run the \
             audit of the release that migrated the database"
        ));
    }
    let expected: Vec<&str> = lines.collect();
    CHECK.asked(catalog(connection).await.map(|actual| compare(&expected, &actual)))
}

/// Returns the lines of a database that was just migrated, as the expected ones are kept.
///
/// # Errors
/// [`sqlx::Error`].
pub async fn expected_lines(connection: &mut PgConnection) -> Result<String, sqlx::Error> {
    let migration = migration(connection).await?;
    let actual = catalog(connection).await?;
    let mut lines: BTreeSet<String> = actual.iter().map(CatalogLine::pattern).collect();
    // Read models under construction, and those that a rollback restores, have the privileges of the live ones.
    for (_, table) in VARYING.into_iter().filter(|(prefix, _)| prefix.starts_with("read_")) {
        lines.insert(format!("owner of table {table}: the owner"));
        for privilege in ["SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE"] {
            lines.insert(format!("grant {privilege} on table {table} to fulexo_app"));
        }
    }
    let lines: Vec<String> = lines.into_iter().collect();
    Ok(format!("migration {migration}\n{}\n", lines.join("\n")))
}

async fn migration(connection: &mut PgConnection) -> Result<i64, sqlx::Error> {
    let migration = "select coalesce(max(version), 0) from public._sqlx_migrations where success";
    sqlx::query_scalar(migration).fetch_one(connection).await
}

async fn catalog(connection: &mut PgConnection) -> Result<Vec<CatalogLine>, sqlx::Error> {
    sqlx::query_as(CATALOG).fetch_all(connection).await
}

impl CatalogLine {
    /// The name that stands for the table, if such tables vary.
    fn stands_for(&self) -> Option<(&str, &'static str)> {
        let relation = self.relation.as_deref()?;
        let (_, pattern) = VARYING.into_iter().find(|(prefix, _)| relation.starts_with(prefix))?;
        Some((relation, pattern))
    }

    fn pattern(&self) -> String {
        match self.stands_for() {
            Some((relation, pattern)) => self.line.replace(relation, pattern),
            None => self.line.clone(),
        }
    }
}

fn compare(expected: &[&str], actual: &[CatalogLine]) -> (AuditFindings, String) {
    let varying: BTreeSet<(&str, &str)> = actual.iter().filter_map(CatalogLine::stands_for).collect();
    let wanted: BTreeSet<String> = expected
        .iter()
        .flat_map(|line| match VARYING.into_iter().find(|(_, pattern)| line.contains(pattern)) {
            Some((_, pattern)) => varying
                .iter()
                .filter(|(_, of)| *of == pattern)
                .map(|(relation, _)| line.replace(pattern, relation))
                .collect::<Vec<_>>(),
            None => vec![(*line).to_owned()],
        })
        .collect();
    let present: BTreeSet<&str> = actual.iter().map(|line| line.line.as_str()).collect();
    let mut findings = AuditFindings::default();
    for line in present.iter().filter(|line| !wanted.contains(**line)) {
        match line.strip_prefix("grant ") {
            Some(grant) => {
                let finding = EXTRA.finding(grant, "it is granted, and no migration grants it");
                // Whoever may change the log has only its triggers to fear.
                let changes = !grant.starts_with("SELECT ") && grant.contains(" on table log.event");
                let severity = if changes { Severity::Critical } else { EXTRA.severity };
                findings.add(&EXTRA, finding.with_severity(severity));
            }
            None => findings.push(&DEFINITION, *line, "no migration makes it so"),
        }
    }
    for line in wanted.iter().filter(|line| !present.contains(line.as_str())) {
        match line.strip_prefix("grant ") {
            Some(grant) => findings.push(&MISSING, grant, "a migration grants it, and it is not granted"),
            None => findings.push(&DEFINITION, line.as_str(), "a migration makes it so, and it is not so"),
        }
    }
    (findings, format!("{} facts compared", present.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(relation: Option<&str>, line: &str) -> CatalogLine {
        CatalogLine { relation: relation.map(str::to_owned), line: line.to_owned() }
    }

    fn subjects(expected: &[&str], actual: &[CatalogLine]) -> Vec<(String, String)> {
        let check = CHECK.with(compare(expected, actual).0, "");
        check.findings().iter().map(|it| (it.rule.to_string(), it.subject.clone())).collect()
    }

    #[test]
    fn drift_is_found_in_both_directions_and_in_each_partition() {
        let expected =
            ["grant SELECT on table log.event_* to fulexo_app", "trigger append_only on log.event_*: enabled A"];
        let first = || {
            let names = expected.map(|line| line.replace('*', "0"));
            Vec::from(names.map(|text| line(Some("log.event_0"), &text)))
        };
        assert!(subjects(&expected, &first()).is_empty());
        let second = "grant SELECT on table log.event_1 to fulexo_app";
        let mut unguarded = first();
        unguarded.push(line(Some("log.event_1"), second));
        let missing = ("database_grants.definition".to_owned(), "trigger append_only on log.event_1: enabled A".into());
        assert_eq!(subjects(&expected, &unguarded), [missing]);
        let mut granted = first();
        granted.push(line(Some("log.event_0"), "grant UPDATE on table log.event_0 to fulexo_app"));
        let check = CHECK.with(compare(&expected, &granted).0, "");
        let [found] = check.findings() else { panic!("{check:?}") };
        assert_eq!((&*found.rule, found.severity), ("database_grants.extra", Severity::Critical));
    }

    #[test]
    fn a_read_model_under_construction_is_expected_and_none_is_not_missed() {
        let expected = ["grant INSERT on table read_next.* to fulexo_app"];
        assert!(subjects(&expected, &[]).is_empty());
        let build = line(Some("read_next.account"), "grant INSERT on table read_next.account to fulexo_app");
        assert!(subjects(&expected, &[build]).is_empty());
    }
}
