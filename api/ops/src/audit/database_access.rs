//! The lines of pg_hba.conf, which say whom the database server lets in. Only a superuser sees them, unless somebody else may.

use fulexo_database::DatabaseFailure;
use sqlx::{FromRow, PgConnection};

use super::audit_check::{AuditCheck, AuditFindings};
use crate::finding::{Rule, Severity};
use crate::report::Check;

const REFERENCE: &str = "docs/security-audit.md#the-database-server";

const TRUST: Rule = Rule {
    id: "database_access.trust",
    title: "the database server lets roles in without a password",
    severity: Severity::Critical,
    remedy: "Replace the method by scram-sha-256 in pg_hba.conf, and reload the server.",
    reference: REFERENCE,
};
const WEAK: Rule = Rule {
    id: "database_access.weak",
    title: "a method of authentication of the database server is weak",
    severity: Severity::Medium,
    remedy: "Replace the method by scram-sha-256 in pg_hba.conf, and reload the server.",
    reference: REFERENCE,
};
const PLAIN: Rule = Rule {
    id: "database_access.plain",
    title: "the database server accepts unencrypted connections from a network",
    severity: Severity::Low,
    remedy: "Write hostssl instead of host in pg_hba.conf, and reload the server.",
    reference: REFERENCE,
};

/// The check.
pub const CHECK: AuditCheck = AuditCheck {
    id: "database_access",
    title: "the database server asks everybody for a password",
    rules: &[TRUST, WEAK, PLAIN],
};

#[derive(FromRow)]
struct HbaLine {
    line: i32,
    kind: Option<String>,
    method: Option<String>,
    address: Option<String>,
    is_loopback: bool,
}

/// The lines; more than a thousand would be no configuration that anybody could review.
const LINES: &str = "
    select line_number as line, type as kind, auth_method as method, address,
           coalesce(type = 'local' or address in ('127.0.0.1', '::1', 'localhost', 'samehost'), false) as is_loopback
    from pg_hba_file_rules where error is null order by line_number limit 1000";

/// Makes the check, as the owner if there is one, else as the application.
pub async fn check(connection: &mut PgConnection) -> Check {
    let lines: Vec<HbaLine> = match sqlx::query_as(LINES).fetch_all(connection).await {
        Ok(lines) => lines,
        Err(error) if DatabaseFailure::of(&error) == DatabaseFailure::InsufficientPrivilege => {
            return CHECK.unchecked(
                "the role may not read pg_hba_file_rules. As a superuser, grant select on pg_hba_file_rules and execute on \
                 function pg_hba_file_rules() to the owner role, and set DATABASE_OWNER_URL",
            );
        }
        Err(error) => return CHECK.asked(Err(error)),
    };
    let count = lines.len();
    CHECK.with(judge(lines), format!("{count} lines"))
}

fn judge(lines: Vec<HbaLine>) -> AuditFindings {
    let mut findings = AuditFindings::default();
    for HbaLine { line, kind, method, address, is_loopback } in lines {
        let (kind, method) = (kind.unwrap_or_default(), method.unwrap_or_default());
        let subject = format!("line {line}");
        let evidence = [kind.as_str(), address.as_deref().unwrap_or_default(), method.as_str()].join(" ");
        match method.as_str() {
            "trust" => {
                let severity = if is_loopback { Severity::High } else { Severity::Critical };
                findings.add(&TRUST, TRUST.finding(subject, evidence).with_severity(severity));
            }
            "password" | "md5" | "ident" if !(method == "ident" && kind == "local") => {
                findings.push(&WEAK, subject, evidence);
            }
            "reject" => {}
            _ if matches!(kind.as_str(), "host" | "hostnossl") && !is_loopback => {
                findings.push(&PLAIN, subject, evidence);
            }
            _ => {}
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(kind: &str, address: Option<&str>, method: &str) -> Vec<(String, Severity)> {
        let is_loopback = kind == "local" || address == Some("127.0.0.1");
        let address = address.map(str::to_owned);
        let line = HbaLine { line: 1, kind: Some(kind.into()), method: Some(method.into()), address, is_loopback };
        let check = CHECK.with(judge(vec![line]), "");
        check.findings().iter().map(|it| (it.rule.to_string(), it.severity)).collect()
    }

    #[test]
    fn trust_is_worst_from_a_network_and_a_password_over_tls_is_sound() {
        assert_eq!(found("host", Some("10.0.0.0"), "trust"), [(TRUST.id.to_owned(), Severity::Critical)]);
        assert_eq!(found("local", None, "trust"), [(TRUST.id.to_owned(), Severity::High)]);
        assert_eq!(found("hostssl", Some("10.0.0.0"), "md5"), [(WEAK.id.to_owned(), Severity::Medium)]);
        assert_eq!(found("host", Some("10.0.0.0"), "scram-sha-256"), [(PLAIN.id.to_owned(), Severity::Low)]);
        for (kind, address, method) in [
            ("hostssl", Some("10.0.0.0"), "scram-sha-256"),
            ("host", Some("127.0.0.1"), "scram-sha-256"),
            ("local", None, "peer"),
            ("host", Some("10.0.0.0"), "reject"),
        ] {
            assert_eq!(found(kind, address, method), [], "{kind} {method}");
        }
    }
}
